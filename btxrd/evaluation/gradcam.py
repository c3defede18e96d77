"""Class activation maps in batches, of a network and of its untrained copy.

Maps are *raw*: rectified, at the scale the method gives them. The grad-cam package scales each to
[0, 1], which is wrong for an energy, and hooks a layer, where the last feature map of some networks
is no layer's output: only its weighting of the channels is used here.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, HiResCAM
from pytorch_grad_cam.base_cam import BaseCAM
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from btxrd.models import BTXRDClassifier, features_and_logits
from btxrd.models.attention import stage_maps
from btxrd.models.folding import fold_norms
from btxrd.models.inference import network_inputs

__all__ = [
    "METHODS",
    "attention_maps",
    "coarse_maps",
    "randomised_copy",
    "upsampled",
]

METHODS: dict[str, type[BaseCAM]] = {
    "gradcam": GradCAM,
    "hirescam": HiResCAM,
    "gradcam++": GradCAMPlusPlus,
}
"""The methods by name: Selvaraju et al. 2017; Draelos and Carin 2020; Chattopadhay et al. 2018."""


@torch.enable_grad()
def coarse_maps(
    model: BTXRDClassifier,
    images: np.ndarray,
    targets: ArrayLike,
    method: str = "gradcam",
    batch_size: int = 16,
    stride: int | None = None,
) -> np.ndarray:
    """Return one raw class activation map an image: float32 (N, h, w) ≥ 0; (0, 1, 1) of none.

    The map is that of `features_and_logits`, whose errors it raises, of a copy of the model in eval
    mode with its batch norms folded away. Where the model predicts with the mean over an image and
    its mirror image (`flip_at_test`), the map is the mean of both, too.

    Args:
        images: uint8 (N, S, S), preprocessed; an array or a slice of a memmap.
        targets: class index for each image, (N,).
        method: a key of `METHODS`.
        batch_size: images a pass; more than 16 no longer fit the caches of a CPU.
        stride: in pixels, of a finer feature map than the last one.
    """
    folded, targets = fold_norms(model).requires_grad_(False), np.array(targets, dtype=np.int64)
    cam = METHODS[method](folded, target_layers=[])  # nothing to hook: the features are given

    def explain(inputs: torch.Tensor, batch: slice) -> np.ndarray:
        features, logits = features_and_logits(folded, inputs, stride)
        score = logits[np.arange(len(inputs)), targets[batch]].sum()
        (gradients,) = torch.autograd.grad(score, features)
        arrays = (tensor.detach().float().cpu().numpy() for tensor in (features, gradients))
        maps = cam.get_cam_image(inputs, None, targets[batch], *arrays, eigen_smooth=False)
        return np.maximum(maps, 0).astype(np.float32)

    return _in_batches(explain, folded, images, batch_size)


@torch.inference_mode()
def attention_maps(model: BTXRDClassifier, images: np.ndarray, batch_size: int = 16) -> np.ndarray:
    """Return where a model with attention sees a lesion, whatever the class: float32 (N, h, w).

    Values lie in [0, 1]. Arguments and mirror images are as in `coarse_maps`.
    """
    folded = fold_norms(model)

    def explain(inputs: torch.Tensor, _: slice) -> np.ndarray:
        _, attention = folded.attention(stage_maps(folded.model, inputs))
        return attention.sigmoid().cpu().numpy()

    return _in_batches(explain, folded, images, batch_size)


def _in_batches(
    explain: Callable[[torch.Tensor, slice], np.ndarray],
    model: BTXRDClassifier,
    images: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    """Return the maps of all images: each from the inputs, of a slice, that the model sees."""
    maps = []
    for start in range(0, len(images), batch_size):
        batch = slice(start, start + batch_size)
        inputs = network_inputs(model, torch.from_numpy(np.array(images[batch])))
        found = explain(inputs, batch)
        if model.flip_at_test:
            found = (found + explain(inputs.flip(-1), batch)[..., ::-1]) / 2
        maps.append(found)
    return np.concatenate(maps) if maps else np.empty((0, 1, 1), np.float32)


def upsampled(maps: np.ndarray, side: int) -> np.ndarray:
    """Resize maps, float32 (N, h, w), bilinearly to squares: float32 (N, side, side)."""
    if not len(maps):
        return np.empty((0, side, side), np.float32)
    coarse = torch.from_numpy(maps)[:, None]
    return F.interpolate(coarse, (side, side), mode="bilinear")[:, 0].numpy()


def randomised_copy(model: nn.Module, inputs: torch.Tensor, seed: int = 42) -> nn.Module:
    """Return a copy of a network that has learnt nothing, in eval mode: all weights drawn anew.

    That is the model parameter randomisation test of Adebayo et al. (2018), of all layers at once.
    Modules that can `reset_parameters` do so; other parameters are drawn from a normal
    distribution of their own mean and standard deviation. Batch norms take the statistics of
    `inputs`, float (B, 3, S, S), B ≥ 2: with any others, activations fade or burst and the maps are
    empty for that reason. PyTorch's global generator is left as it was.
    """
    device = next(model.parameters()).device
    drawn = copy.deepcopy(model).cpu().eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for module in drawn.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
                continue
            for parameter in module.parameters(recurse=False):
                spread = parameter.std(correction=0).item()
                parameter.normal_(parameter.mean().item(), spread)
    drawn.to(device)
    norms = [module for module in drawn.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over batches, here of one
        norm.train()
    with torch.no_grad():
        drawn(inputs.to(device))
    return drawn.eval()
