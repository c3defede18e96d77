"""Grad-CAM, its network and its best threshold, each against the usual way in the same run.

Run with `OMP_NUM_THREADS=2 pytest tests/benchmarks/test_bench_gradcam.py -s -o addopts=`.

Both ways of Grad-CAM, in batches and the library's own, image by image, take the same images,
network and classes, on the CPU, and give maps of the same size. Its time is wall-clock time of the
best round: others on the machine can only slow one.
"""

import time

import cv2
import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from straightforward import best_seconds, noted

from btxrd.evaluation.gradcam import coarse_maps, fold_norms, upsampled
from btxrd.evaluation.localisation import THRESHOLDS, best_threshold, cam_mask_iou, normalise_maps
from btxrd.models import BTXRDClassifier, features_and_logits, to_input
from btxrd.models.attention import stage_maps

IMAGES, SIDE, ROUNDS = 32, 224, 5


def one_by_one(model: BTXRDClassifier, images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """As the library's README does it."""
    maps = []
    for image, target in zip(images, targets, strict=True):
        with GradCAM(model=model, target_layers=[model.gradcam_target_layer]) as cam:
            pixels = to_input(torch.from_numpy(image)[None])
            maps.append(cam(pixels, [ClassifierOutputTarget(target)])[0])
    return np.stack(maps)


def test_batches_are_three_times_as_fast_as_one_by_one(benchmark):
    torch.manual_seed(0)
    model = BTXRDClassifier("efficientnet_b0", pretrained=False).eval()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, SIDE, SIDE), dtype=np.uint8)
    targets = rng.integers(0, 3, IMAGES)
    naive, expected = best_seconds(time.perf_counter, one_by_one, model, images, targets)
    maps = benchmark.pedantic(
        lambda *args: upsampled(coarse_maps(*args)["network"], SIDE),
        (model, images, targets),
        rounds=ROUNDS,
        warmup_rounds=1,
    )
    seconds = benchmark.stats.stats.min
    ratio = naive / seconds
    figures = {"ms_an_image": seconds, "one_by_one_ms": naive}
    milliseconds = {name: round(1e3 * s / IMAGES, 1) for name, s in figures.items()}
    noted(benchmark, **milliseconds, ratio=round(ratio, 2))
    np.testing.assert_allclose(normalise_maps(maps), expected, atol=0.02)
    assert ratio >= 3


def in_separate_passes(
    model: BTXRDClassifier, images: np.ndarray, targets: np.ndarray
) -> dict[str, np.ndarray]:
    """One forward pass for the class activation map and another for the attention."""
    folded, found = fold_norms(model).requires_grad_(False), {"network": [], "attention": []}
    for start in range(0, len(images), 16):
        batch = slice(start, start + 16)
        inputs = to_input(torch.from_numpy(images[batch]), model.normalization)
        maps, attention = [], []
        for turned in (inputs, inputs.flip(-1)):
            features, logits = features_and_logits(folded, turned)
            score = logits[np.arange(len(turned)), targets[batch]].sum()
            (gradients,) = torch.autograd.grad(score, features)
            weights = gradients.mean(dim=(2, 3), keepdim=True)
            maps.append((weights * features).sum(dim=1).relu().detach())
            with torch.inference_mode():
                _, places = folded.attention(stage_maps(folded.model, turned))
                attention.append(places.sigmoid())
        for source, (plain, mirrored) in (("network", maps), ("attention", attention)):
            found[source].append(((plain + mirrored.flip(-1)) / 2).numpy())
    return {source: np.concatenate(batches) for source, batches in found.items()}


@pytest.mark.benchmark(timer=time.process_time)
def test_both_maps_take_little_more_than_half_of_separate_passes(benchmark):
    """The network is that of experiment E8."""
    torch.manual_seed(0)
    model = BTXRDClassifier(
        "tf_efficientnet_lite0", pretrained=False, attention="mask_guided", flip_at_test=True
    ).eval()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, SIDE, SIDE), dtype=np.uint8)
    targets = rng.integers(0, 3, IMAGES)
    naive, expected = best_seconds(
        time.process_time, in_separate_passes, model, images, targets, rounds=3
    )
    maps = benchmark.pedantic(coarse_maps, (model, images, targets), rounds=3, warmup_rounds=1)
    ratio = round(naive / benchmark.stats.stats.min, 2)
    noted(benchmark, ratio=ratio)
    assert set(maps) == set(expected)
    for source, found in maps.items():
        scale = expected[source].max()
        assert scale > 0
        np.testing.assert_allclose(found, expected[source], atol=1e-4 * scale)
    assert ratio >= 1.7


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize(("backbone", "least"), [("efficientnet_b0", 1.2), ("resnet50", 1.05)])
def test_folded_norms_cost_nothing(benchmark, backbone, least):
    """An EfficientNet has more norms for what it computes."""
    torch.manual_seed(0)
    model = BTXRDClassifier(backbone, pretrained=False).eval()
    images = torch.randn(16, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        naive, _ = best_seconds(time.process_time, model, images)
        benchmark.pedantic(fold_norms(model), (images,), rounds=ROUNDS, warmup_rounds=1)
    ratio = round(naive / benchmark.stats.stats.min, 2)
    noted(benchmark, ratio=ratio)
    assert ratio >= least


@pytest.mark.benchmark(timer=time.process_time)
def test_the_best_threshold_takes_less_than_half_of_trying_each(benchmark):
    """All thresholds are counted in one look at each map, not by an IoU for each."""
    rng = np.random.default_rng(0)
    coarse = rng.random((100, 7, 7), dtype=np.float32)
    maps = np.stack([cv2.resize(one, (SIDE, SIDE)) for one in coarse])
    masks = np.zeros(maps.shape, np.uint8)
    masks[:, 60:100, 80:150] = 1
    start = time.process_time()
    overlaps = [cam_mask_iou(maps, masks, threshold).mean() for threshold in THRESHOLDS]
    naive = time.process_time() - start
    found = benchmark.pedantic(best_threshold, (maps, masks), rounds=5, warmup_rounds=1)
    ratio = round(naive / benchmark.stats.stats.min, 1)
    noted(benchmark, ratio=ratio)
    assert found == THRESHOLDS[np.argmax(overlaps)]
    assert ratio >= 2
