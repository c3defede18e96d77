"""Class activation maps in batches, and how well they point at the lesion.

Maps are *raw*: rectified, at the scale the method gives them. The grad-cam package scales every
map to [0, 1] on its own, which is right for a picture and wrong for an energy, so only its hooks
and its weighting of the channels are used here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_grad_cam import EigenCAM, GradCAM, GradCAMPlusPlus, HiResCAM
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from btxrd.models.classifier import BTXRDClassifier

__all__ = [
    "METHODS",
    "cam_mask_iou",
    "class_activation_maps",
    "energy_inside",
    "normalise_maps",
    "pointing_game",
]

METHODS: dict[str, type[BaseCAM]] = {
    "gradcam": GradCAM,
    "hirescam": HiResCAM,
    "gradcam++": GradCAMPlusPlus,
    "eigencam": EigenCAM,
}
"""The methods by name: Selvaraju et al. 2017; Draelos and Carin 2020 (arXiv:2011.08891);
Chattopadhay et al. 2018 (arXiv:1710.11063); Muhammad and Yeasin 2020 (arXiv:2008.00299), which
looks at no class, and the sign of whose principal component is arbitrary."""


def class_activation_maps(
    model: BTXRDClassifier,
    images: np.ndarray,
    targets: np.ndarray | None = None,
    method: str = "gradcam",
    batch_size: int = 16,
    device: torch.device | str | None = None,
    *,
    to_input: Callable[[torch.Tensor], torch.Tensor],
) -> np.ndarray:
    """Return one raw class activation map an image, in one pass of the model over each batch.

    Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization" (ICCV), and the other sources named at `METHODS`. The map is made at the
    resolution of `model.gradcam_target_layer`, rectified, and resized bilinearly to the image.
    No gradient reaches the parameters.

    Args:
        model: the classifier; it is put into eval mode.
        images: uint8 (N, S, S), preprocessed; an array or a slice of a memmap.
        targets: class index for each image, (N,); None takes each image's predicted class.
        method: a key of `METHODS`.
        batch_size: images a pass; at 224 px on a CPU, 32 take a third more time an image than 16,
            because the activations no longer fit its caches.
        device: where to compute; the model is moved there. None: where the model is.
        to_input: normalisation, the same as in training: uint8 (B, S, S) on the device to
            float32 (B, 3, S, S).

    Returns:
        float32 (N, S, S), each at least 0.

    Raises:
        ValueError: an unknown method; images, targets or batch size of the wrong form; or a
            target layer whose activations have no spatial extent.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if images.dtype != np.uint8 or images.ndim != 3:
        raise ValueError(f"images must be uint8 (N, S, S), not {images.dtype} {images.shape}")
    targets = None if targets is None else _checked_targets(targets, len(images), model)
    device = torch.device(device or next(model.parameters()).device)
    model.to(device).eval()
    maps = np.empty(images.shape, dtype=np.float32)
    with _parameters_frozen(model), _hooked(METHODS[method], model) as cam:
        for start in range(0, len(images), batch_size):
            batch = slice(start, start + batch_size)
            pixels = torch.from_numpy(np.array(images[batch])).to(device)
            chosen = None if targets is None else targets[batch]
            raw = torch.from_numpy(_raw_maps(cam, to_input(pixels), chosen)).to(device)
            size = images.shape[1:]
            resized = F.interpolate(raw[:, None], size, mode="bilinear", align_corners=False)
            maps[batch] = resized[:, 0].cpu().numpy()
    return maps


def _checked_targets(targets: np.ndarray, count: int, model: BTXRDClassifier) -> np.ndarray:
    targets = np.asarray(targets, dtype=np.int64)
    if targets.shape != (count,):
        raise ValueError(f"targets must be of shape ({count},), not {targets.shape}")
    if np.any((targets < 0) | (targets >= model.num_classes)):
        raise ValueError(f"targets must lie in 0 … {model.num_classes - 1}")
    return targets


@contextmanager
def _parameters_frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter collect a gradient inside the block: maps need none."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def _hooked(method: type[BaseCAM], model: BTXRDClassifier) -> Iterator[BaseCAM]:
    """Hold the library's hooks inside the block.

    Not the library's own `with`, which swallows an IndexError. A hook put in before the library's
    makes the layer's output the start of the graph, so that backward runs through the head only.
    """
    layer = model.gradcam_target_layer
    start = layer.register_forward_hook(lambda _, __, output: output.detach().requires_grad_())
    cam = method(model=model, target_layers=[layer])
    try:
        yield cam
    finally:
        cam.activations_and_grads.release()
        start.remove()


def _raw_maps(cam: BaseCAM, inputs: torch.Tensor, targets: np.ndarray | None) -> np.ndarray:
    """Return rectified maps, float32 (B, h, w), at the resolution of the target layer."""
    with torch.enable_grad():
        logits = cam.activations_and_grads(inputs)
        if targets is None:
            targets = logits.argmax(dim=1).cpu().numpy()
        chosen = [ClassifierOutputTarget(int(target)) for target in targets]
        sum(target(row) for target, row in zip(chosen, logits, strict=True)).backward()
    activations = cam.activations_and_grads.activations[0].float().numpy()
    gradients = cam.activations_and_grads.gradients[0].float().numpy()
    if activations.ndim != 4 or activations.shape[2:] == (1, 1):
        raise ValueError(
            f"the Grad-CAM layer gives activations of shape {activations.shape}: a map needs "
            "(B, C, h, w) with more than one place"
        )
    maps = cam.get_cam_image(inputs, cam.target_layers[0], chosen, activations, gradients, False)
    return np.maximum(maps, 0).astype(np.float32)


def normalise_maps(maps: np.ndarray) -> np.ndarray:
    """Scale each map to [0, 1] by its own minimum and maximum; a constant map becomes 0.

    Args:
        maps: float (N, S, S).

    Returns:
        float32 (N, S, S).

    >>> normalise_maps(np.array([[[1.0, 2.0], [3.0, 5.0]], [[7.0, 7.0], [7.0, 7.0]]])).tolist()
    [[[0.0, 0.25], [0.5, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]
    """
    lowest = maps.min(axis=(1, 2), keepdims=True)
    span = maps.max(axis=(1, 2), keepdims=True) - lowest
    return ((maps - lowest) / np.where(span > 0, span, 1)).astype(np.float32)


def cam_mask_iou(maps: np.ndarray, masks: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Overlap of the hot part of each map (min-max scaled, at least `threshold`) with the lesion.

    Intersection over union, as in the localisation of Selvaraju et al. 2017 (ICCV), but with the
    mask itself instead of a box round it, and without the choice of the largest segment.

    Args:
        maps: raw or scaled, float (N, S, S).
        masks: lesion masks, uint8 {0, 1} or bool (N, S, S).
        threshold: in (0, 1].

    Returns:
        float64 (N,), in [0, 1]; NaN where the mask is empty; 0 where the map is constant.

    Raises:
        ValueError: the shapes differ, or the threshold is out of range.

    >>> maps = np.array([[[0.0, 1.0], [0.2, 0.8]]])
    >>> cam_mask_iou(maps, np.array([[[0, 1], [0, 0]]]))
    array([0.5])
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], not {threshold}")
    lesion = _lesions(maps, masks)
    hot = normalise_maps(maps) >= threshold
    intersection = (hot & lesion).sum(axis=(1, 2))
    union = (hot | lesion).sum(axis=(1, 2))
    return _share(intersection, union, lesion.any(axis=(1, 2)))


def pointing_game(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Whether the highest point of each map lies inside the lesion.

    Zhang et al. 2018, "Top-Down Neural Attention by Excitation Backprop" (IJCV 126), without
    their margin of 15 pixels. A constant map points nowhere and an empty mask cannot be hit: both
    give False. Of several equal peaks the first in reading order counts.

    Args:
        maps: raw or scaled, float (N, S, S).
        masks: lesion masks, uint8 {0, 1} or bool (N, S, S).

    Returns:
        bool (N,).

    Raises:
        ValueError: the shapes differ.

    >>> maps = np.array([[[0.0, 1.0], [0.2, 0.8]]])
    >>> pointing_game(maps, np.array([[[0, 1], [0, 0]]]))
    array([ True])
    """
    lesion = _lesions(maps, masks)
    size = maps.shape[1] * maps.shape[2]
    peaks = maps.reshape(len(maps), size).argmax(axis=1)
    hit = np.take_along_axis(lesion.reshape(len(maps), size), peaks[:, None], axis=1)[:, 0]
    return hit & (maps.max(axis=(1, 2)) > maps.min(axis=(1, 2)))


def energy_inside(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Share of each raw map's sum that lies inside the lesion.

    The energy-based pointing game of Wang et al. 2020, "Score-CAM: Score-Weighted Visual
    Explanations for Convolutional Neural Networks" (CVPR Workshops), with the mask instead of a
    box round it.

    Args:
        maps: raw, at least 0, float (N, S, S). Min-max scaled maps give another number.
        masks: lesion masks, uint8 {0, 1} or bool (N, S, S).

    Returns:
        float64 (N,), in [0, 1]; NaN where the map or the mask is empty.

    Raises:
        ValueError: the shapes differ.

    >>> maps = np.array([[[0.0, 1.0], [0.0, 3.0]]])
    >>> energy_inside(maps, np.array([[[0, 1], [1, 0]]]))
    array([0.25])
    """
    lesion = _lesions(maps, masks)
    total = maps.sum(axis=(1, 2), dtype=np.float64)
    inside = np.where(lesion, maps, 0).sum(axis=(1, 2), dtype=np.float64)
    return _share(inside, total, lesion.any(axis=(1, 2)) & (total > 0))


def _lesions(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise ValueError(f"maps {maps.shape} and masks {masks.shape} must both be (N, S, S)")
    return masks.astype(bool)


def _share(part: np.ndarray, whole: np.ndarray, defined: np.ndarray) -> np.ndarray:
    shares = np.full(len(part), np.nan)
    return np.divide(part, whole, out=shares, where=defined)
