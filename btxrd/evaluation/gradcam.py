"""Class activation maps in batches, of a network and of its untrained copy.

Maps are *raw*: rectified, at the scale the method gives them. The grad-cam package scales each to
[0, 1], which is wrong for an energy, and hooks a layer, where the last feature map of some networks
is no layer's output: only its weighting of the channels is used here.
"""

import copy
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, HiResCAM
from pytorch_grad_cam.base_cam import BaseCAM
from timm.models import EfficientNet, ResNet
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_eval

from btxrd.models import BTXRDClassifier, features_and_logits
from btxrd.models.inference import network_inputs
from btxrd.models.memory import keeping_memory

__all__ = [
    "METHODS",
    "coarse_maps",
    "fold_norms",
    "randomised_copy",
    "upsampled",
]

METHODS: dict[str, type[BaseCAM]] = {
    "gradcam": GradCAM,
    "hirescam": HiResCAM,
    "gradcam++": GradCAMPlusPlus,
}
"""The methods by name: Selvaraju et al. 2017; Draelos and Carin 2020; Chattopadhay et al. 2018."""


@keeping_memory()
@torch.enable_grad()
def coarse_maps(
    model: BTXRDClassifier,
    images: np.ndarray,
    targets: ArrayLike,
    method: str = "gradcam",
    batch_size: int = 16,
    stride: int | None = None,
) -> dict[str, np.ndarray]:
    """Return raw maps of each image by their source: float32 (N, h, w) ≥ 0; (0, 1, 1) of none.

    Class activation maps are those of the `network`. A model with attention has a second source,
    `attention`: where it sees a lesion, whatever the class, in [0, 1]. Both come from one forward
    pass of a copy of the model in eval mode with its batch norms folded away. Where the model
    predicts with the mean over an image and its mirror image (`flip_at_test`), a map is the mean of
    both, too. The errors are those of `features_and_logits`, whose feature map is explained.

    Args:
        images: uint8 (N, S, S), preprocessed; an array or a slice of a memmap.
        targets: class index for each image, (N,).
        method: a key of `METHODS`.
        batch_size: images a pass; more than 16 no longer fit the caches of a CPU.
        stride: in pixels, of a finer feature map than the last one.
    """
    folded, targets = fold_norms(model).requires_grad_(False), np.array(targets, dtype=np.int64)
    cam = METHODS[method](folded, target_layers=[])  # nothing to hook: the features are given
    sources, places = ["network"], []
    if folded.attention is not None:
        sources.append("attention")
        folded.attention.register_forward_hook(lambda *call: places.append(call[2][1]))

    def explain(inputs: torch.Tensor, batch: slice) -> list[np.ndarray]:
        features, logits = features_and_logits(folded, inputs, stride)
        score = logits[np.arange(len(inputs)), targets[batch]].sum()
        (gradients,) = torch.autograd.grad(score, features)
        arrays = (tensor.detach().float().cpu().numpy() for tensor in (features, gradients))
        maps = cam.get_cam_image(inputs, None, targets[batch], *arrays, eigen_smooth=False)
        attention = [places.pop().detach().sigmoid().cpu().numpy()] if places else []
        return [np.maximum(maps, 0).astype(np.float32), *attention]

    batches = []
    for start in range(0, len(images), batch_size):
        batch = slice(start, start + batch_size)
        inputs = network_inputs(folded, torch.from_numpy(np.array(images[batch])))
        maps = explain(inputs, batch)
        if folded.flip_at_test:
            mirrored = explain(inputs.flip(-1), batch)
            maps = [(a + b[..., ::-1]) / 2 for a, b in zip(maps, mirrored, strict=True)]
        batches.append(maps)
    none = [np.empty((0, 1, 1), np.float32)]
    of_sources = zip(*batches, strict=True) if batches else [none] * len(sources)
    return {name: np.concatenate(maps) for name, maps in zip(sources, of_sources, strict=True)}


def upsampled(maps: np.ndarray, side: int) -> np.ndarray:
    """Resize maps, float32 (N, h, w), bilinearly to squares: float32 (N, side, side)."""
    if not len(maps):
        return np.empty((0, side, side), np.float32)
    coarse = torch.from_numpy(maps)[:, None]
    return F.interpolate(coarse, (side, side), mode="bilinear")[:, 0].numpy()


def fold_norms(network: BTXRDClassifier) -> BTXRDClassifier:
    """Return a copy for eval mode whose convolutions also do the work of their batch norms.

    It computes the same, but for the last digits, in a third less of a CPU's time. Families other
    than EfficientNets and ResNets need not run in the order of their names and are only copied.
    """
    training = network.training
    # LeViT keeps what it computed in eval mode, which cannot be copied, until it trains again.
    folded = copy.deepcopy(network.train()).eval()
    network.train(training)
    if not isinstance(folded.model, EfficientNet | ResNet):
        return folded
    for module in list(folded.modules()):
        for (place, conv), (behind, norm) in pairwise(module.named_children()):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, place, fuse_conv_bn_eval(conv, norm))
                # A norm of timm's also activates.
                setattr(module, behind, getattr(norm, "act", nn.Identity()))
    return folded


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
