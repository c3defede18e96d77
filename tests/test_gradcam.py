"""Class activation maps against plain autograd and the library, and the scores of maps."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from btxrd.evaluation.gradcam import (
    METHODS,
    cam_mask_iou,
    class_activation_maps,
    energy_inside,
    normalise_maps,
    pointing_game,
)
from btxrd.models import BTXRDClassifier

SIZE = 64


def to_input(pixels: torch.Tensor) -> torch.Tensor:
    """A stand-in for the study's normalisation."""
    return (pixels[:, None].float() / 255 - 0.45).div(0.22).expand(-1, 3, -1, -1)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: for such small images more only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["efficientnet_b0", "resnet18"])
def model(request: pytest.FixtureRequest) -> BTXRDClassifier:
    torch.manual_seed(0)
    classifier = BTXRDClassifier(request.param, pretrained=False).train()
    for _ in range(3):  # norms that have seen data, so that the activations are not all zero
        classifier(torch.randn(8, 3, SIZE, SIZE))
    return classifier.eval()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE), dtype=np.uint8)


def plain_gradcam(model: BTXRDClassifier, image: np.ndarray, target: int) -> np.ndarray:
    """Grad-CAM of one image from its definition (Selvaraju et al. 2017, equations 1 and 2)."""
    kept: list[torch.Tensor] = []
    hook = model.gradcam_target_layer.register_forward_hook(lambda *call: kept.append(call[2]))
    logits = model(to_input(torch.from_numpy(image)[None]))
    hook.remove()
    (gradient,) = torch.autograd.grad(logits[0, target], kept[0])
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    small = (weights * kept[0]).sum(dim=1, keepdim=True).relu()
    return F.interpolate(small, (SIZE, SIZE), mode="bilinear")[0, 0].detach().numpy()


def test_gradcam_is_its_definition(model: BTXRDClassifier, images: np.ndarray) -> None:
    targets = np.array([0, 1, 2, 1, 0])
    maps = class_activation_maps(model, images, targets, batch_size=2, to_input=to_input)
    assert (maps.dtype, maps.shape) == (np.float32, images.shape)
    assert maps.min() >= 0
    assert maps.max() > 0
    for found, image, target in zip(maps, images, targets, strict=True):
        np.testing.assert_allclose(found, plain_gradcam(model, image, target), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_scaled_maps_are_the_librarys(
    model: BTXRDClassifier, images: np.ndarray, method: str
) -> None:
    targets = np.array([0, 1, 2, 1, 0])
    maps = class_activation_maps(model, images, targets, method, to_input=to_input)
    with METHODS[method](model=model, target_layers=[model.gradcam_target_layer]) as cam:
        chosen = [ClassifierOutputTarget(target) for target in targets]
        expected = cam(to_input(torch.from_numpy(images)), chosen)
    model.zero_grad()
    assert maps.min() >= 0
    np.testing.assert_allclose(normalise_maps(maps), expected, atol=2e-3)


def test_no_target_means_the_predicted_class(model: BTXRDClassifier, images: np.ndarray) -> None:
    with torch.no_grad():
        predicted = model(to_input(torch.from_numpy(images))).argmax(dim=1).numpy()
    found = class_activation_maps(model, images, to_input=to_input)
    expected = class_activation_maps(model, images, predicted, to_input=to_input)
    np.testing.assert_allclose(found, expected)


def test_one_forward_pass_a_batch(model: BTXRDClassifier, images: np.ndarray) -> None:
    sizes: list[int] = []
    hook = model.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    inner = model.model.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    class_activation_maps(model, images, batch_size=4, to_input=to_input)
    hook.remove()
    inner.remove()
    assert sizes == [4, 4, 1, 1]


def test_the_model_is_left_as_it_was(model: BTXRDClassifier, images: np.ndarray) -> None:
    first = next(model.parameters())
    first.requires_grad_(False)
    class_activation_maps(model, images[:2], to_input=to_input)
    assert not first.requires_grad
    first.requires_grad_(True)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_works_where_gradients_are_off(model: BTXRDClassifier, images: np.ndarray) -> None:
    with torch.no_grad():
        maps = class_activation_maps(model, images[:2], [1, 1], to_input=to_input)
    expected = class_activation_maps(model, images[:2], [1, 1], to_input=to_input)
    np.testing.assert_array_equal(maps, expected)


def test_a_slice_of_a_memmap_serves(
    model: BTXRDClassifier, images: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", images)
    cache = np.load(tmp_path / "images.npy", mmap_mode="r")
    found = class_activation_maps(model, cache[1:4], [0, 1, 2], to_input=to_input)
    expected = class_activation_maps(model, images[1:4], [0, 1, 2], to_input=to_input)
    np.testing.assert_array_equal(found, expected)


def test_no_images_give_no_maps(model: BTXRDClassifier, images: np.ndarray) -> None:
    assert class_activation_maps(model, images[:0], [], to_input=to_input).shape == (0, SIZE, SIZE)


def test_an_index_error_is_not_swallowed(model: BTXRDClassifier, images: np.ndarray) -> None:
    def broken(_: torch.Tensor) -> torch.Tensor:
        raise IndexError("out of range")

    with pytest.raises(IndexError, match="out of range"):
        class_activation_maps(model, images, to_input=broken)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "lime"}, r"lime.*gradcam, hirescam, gradcam\+\+, eigencam"),
        ({"targets": [0, 1]}, r"targets must be of shape \(5,\)"),
        ({"targets": [0, 1, 2, 3, 0]}, r"0 … 2"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_wrong_arguments(
    model: BTXRDClassifier, images: np.ndarray, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        class_activation_maps(model, images, to_input=to_input, **changes)


def test_images_must_be_bytes(model: BTXRDClassifier, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        class_activation_maps(model, images / 255, to_input=to_input)


def test_a_layer_without_extent_is_refused(images: np.ndarray) -> None:
    classifier = BTXRDClassifier("resnet18", pretrained=False)
    classifier.model = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 3)
    )
    with pytest.raises(ValueError, match="more than one place"):
        class_activation_maps(classifier, images, to_input=to_input)


def square(*corners: int) -> np.ndarray:
    """An 8 x 8 mask that is 1 in rows and columns [top, bottom) x [left, right)."""
    top, bottom, left, right = corners
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def test_normalised_maps_span_zero_to_one() -> None:
    maps = np.stack([np.zeros((8, 8)), np.full((8, 8), 3.0), square(0, 4, 0, 4) * 5.0 + 1])
    scaled = normalise_maps(maps)
    assert scaled.dtype == np.float32
    assert not scaled[:2].any()
    np.testing.assert_array_equal(scaled[2], square(0, 4, 0, 4))


def test_scores_of_known_maps() -> None:
    mask = square(0, 4, 0, 4)
    maps = np.stack([mask, square(0, 4, 2, 6), square(4, 8, 4, 8), mask, 0 * mask]) * 2.0
    masks = np.stack([mask, mask, mask, 0 * mask, mask])
    iou = cam_mask_iou(maps, masks)
    np.testing.assert_allclose(iou, [1, 8 / 24, 0, np.nan, 0])
    energy = energy_inside(maps, masks)
    np.testing.assert_allclose(energy, [1, 0.5, 0, np.nan, np.nan])
    assert pointing_game(maps, masks).tolist() == [True, True, False, False, False]


def test_energy_uses_the_raw_map() -> None:
    mask = square(0, 4, 0, 8)
    maps = (1.0 + 2.0 * mask)[None]
    assert energy_inside(maps, mask[None]) == pytest.approx([0.75])
    assert energy_inside(normalise_maps(maps), mask[None]) == pytest.approx([1.0])


def test_scores_do_not_depend_on_the_scale_of_the_map() -> None:
    generator = np.random.default_rng(0)
    maps = generator.random((6, 8, 8), dtype=np.float32)
    masks = (generator.random((6, 8, 8)) > 0.6).astype(np.uint8)
    for score in (cam_mask_iou, pointing_game, energy_inside):
        np.testing.assert_allclose(score(1e-6 * maps, masks), score(maps, masks), rtol=1e-5)


def test_a_higher_threshold_leaves_less() -> None:
    maps = np.linspace(0, 1, 64).reshape(1, 8, 8)
    masks = np.ones((1, 8, 8), dtype=np.uint8)
    shares = [cam_mask_iou(maps, masks, threshold)[0] for threshold in (0.25, 0.5, 0.75)]
    assert shares == [0.75, 0.5, 0.25]


@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_threshold_out_of_range(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        cam_mask_iou(np.zeros((1, 8, 8)), np.zeros((1, 8, 8), np.uint8), threshold)


@pytest.mark.parametrize("score", [cam_mask_iou, pointing_game, energy_inside])
def test_shapes_must_agree(score: object) -> None:
    with pytest.raises(ValueError, match="masks"):
        score(np.zeros((2, 8, 8)), np.zeros((2, 4, 4), np.uint8))
