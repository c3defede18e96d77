"""Grad-CAM in batches, against the library's own way, image by image, in the same run.

Run with `OMP_NUM_THREADS=2 pytest tests/benchmarks/test_bench_gradcam.py -s -o addopts=`.

Both ways take the same images, network and classes, on the CPU, and give maps of the same size.
The time is wall-clock time of the best round: others on the machine can only slow one.
"""

import time

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from btxrd.evaluation.gradcam import class_activation_maps, normalise_maps
from btxrd.models import BTXRDClassifier, to_input

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
    naive = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        expected = one_by_one(model, images, targets)
        naive.append(time.perf_counter() - start)
    maps = benchmark.pedantic(
        class_activation_maps,
        (model, images, targets),
        {"to_input": to_input},
        rounds=ROUNDS,
        warmup_rounds=1,
    )
    seconds = benchmark.stats.stats.min
    ratio = min(naive) / seconds
    figures = {"ms_an_image": seconds, "one_by_one_ms": min(naive)}
    benchmark.extra_info |= {name: round(1e3 * s / IMAGES, 1) for name, s in figures.items()}
    benchmark.extra_info["ratio"] = round(ratio, 2)
    print(f"\n{benchmark.name}: {benchmark.extra_info}")
    np.testing.assert_allclose(normalise_maps(maps), expected, atol=0.02)
    assert ratio >= 3
