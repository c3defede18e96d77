"""From preprocessed pixels to logits: normalisation, mixed precision, the logits of a loader."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from btxrd import NORMALIZATION
from btxrd.models.attention import stage_maps
from btxrd.models.classifier import BTXRDClassifier

__all__ = [
    "autocast",
    "head_inputs",
    "linear_head",
    "logits_of",
    "mixed_precision",
    "network_inputs",
    "predict_logits",
    "to_input",
]


def to_input(
    images: torch.Tensor, normalization: Mapping[str, Sequence[float]] = NORMALIZATION
) -> torch.Tensor:
    """Turn preprocessed pixels into a network's input, on the device they are on.

    Args:
        images: uint8 (B, S, S).
        normalization: channel `mean` and `std` of pixels in [0, 1], three numbers each.

    Returns:
        float32 (B, 3, S, S) in channels-last layout.
    """
    mean, std = (
        torch.tensor(normalization[key], device=images.device).view(1, 3, 1, 1)
        for key in ("mean", "std")
    )
    pixels = images.unsqueeze(1).float().div_(255)
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


def network_inputs(
    network: BTXRDClassifier, given: torch.Tensor | list[torch.Tensor]
) -> torch.Tensor | list[torch.Tensor]:
    """Return a network's input on its device: images as `to_input` makes it of them.

    A list, of the `stage_maps` of images, stays as it is.
    """
    device = next(network.parameters()).device
    if isinstance(given, list):
        return [maps.to(device, non_blocking=True) for maps in given]
    return to_input(given.to(device, non_blocking=True), network.normalization)


def mixed_precision(device: torch.device) -> torch.dtype | None:
    """Return the dtype of mixed precision: bfloat16 where the GPU has it; none on a CPU or MPS."""
    if device.type != "cuda":
        return None
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bf16 else torch.float16


def autocast(device: torch.device) -> torch.autocast:
    """Return the context in which a network computes: mixed precision on CUDA, else float32."""
    dtype = mixed_precision(device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def logits_of(network: BTXRDClassifier, inputs: torch.Tensor) -> torch.Tensor:
    """Return the logits, (B, C), that a network predicts with, on its own device.

    With its `flip_at_test` the mean of those of the images and of their mirror images: they are
    still logits, and of a linear head the logits of the mean features.

    Args:
        network: in eval mode.
        inputs: normalised, float (B, 3, S, S).
    """
    logits = network(inputs)
    return (logits + network(inputs.flip(-1))) / 2 if network.flip_at_test else logits


def predict_logits(
    network: BTXRDClassifier,
    loader: Iterable[Sequence[torch.Tensor]],
    normalization: Mapping[str, Sequence[float]] | None = None,
) -> np.ndarray:
    """Return the logits, float32 (n, C), of every sample in the loader's order.

    The batches begin with images, uint8 (B, S, S), which get the network's own `normalization`
    where no other is given. The network is put into eval mode and channels-last layout, and
    computes where it is.
    """
    device = next(network.parameters()).device
    normalization = normalization or network.normalization
    # Outside inference mode: a parameter whose layout changes inside can never be trained again.
    network.to(memory_format=torch.channels_last).eval()
    with torch.inference_mode(), autocast(device):
        batches = [
            logits_of(network, to_input(images.to(device), normalization)).float().cpu()
            for images, *_ in loader
        ]
    return torch.cat(batches).numpy()


def linear_head(network: BTXRDClassifier) -> nn.Linear:
    """Return the one linear layer that a network ends in.

    Raises:
        ValueError: it ends in something else.
    """
    head = network.model.get_classifier()
    if not isinstance(head, nn.Linear):
        name = network.model.pretrained_cfg["architecture"]
        raise ValueError(f"{name} does not end in one linear layer, so it has no linear head")
    return head


@torch.inference_mode()
def head_inputs(network: BTXRDClassifier, images: torch.Tensor) -> np.ndarray:
    """Return the features that a network's head reads, in single precision.

    With the network's `flip_at_test`, their mean over each image and its mirror image.

    Args:
        network: in eval mode; it computes where it is.
        images: uint8 (B, S, S).

    Returns:
        Float32 (B, D): a linear head of these gives the network's logits. Of a head with attention,
        float16 (B, D): the `stage_maps`, one after the other, each place by place.

    Raises:
        ValueError: the network does not end in a linear head, nor in one with attention.
    """
    inputs = to_input(images.to(next(network.parameters()).device), network.normalization)
    if network.attention is not None:
        stages = stage_maps(network.model, inputs)
        flat = [maps.permute(0, 2, 3, 1).flatten(1) for maps in stages]
        return torch.cat(flat, dim=1).half().cpu().numpy()
    read: list[torch.Tensor] = []
    with linear_head(network).register_forward_pre_hook(lambda _, given: read.append(given[0])):
        logits_of(network, inputs)
    return torch.stack(read).mean(dim=0).cpu().numpy()
