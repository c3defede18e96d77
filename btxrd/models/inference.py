"""Logits from preprocessed pixels: normalisation, mixed precision, the logits of a loader."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from btxrd import NORMALIZATION
from btxrd.models.attention import stage_maps
from btxrd.models.classifier import BTXRDClassifier
from btxrd.models.memory import keeping_memory

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
    """Return a network's input, float32 (B, 3, S, S), channels-last, of pixels, uint8 (B, S, S).

    The normalisation is the channel `mean` and `std` of pixels in [0, 1], three numbers each.
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
    """Return a network's input on its device: `to_input` of uint8 images, or `stage_maps`."""
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
    """Return the logits, (B, C), by which a network in eval mode predicts from `network_inputs`.

    With its `flip_at_test` they are the mean of those of the images and of their mirror images.
    """
    logits = network(inputs)
    return (logits + network(inputs.flip(-1))) / 2 if network.flip_at_test else logits


@keeping_memory()
def predict_logits(
    network: BTXRDClassifier, loader: Iterable[Sequence[torch.Tensor]]
) -> np.ndarray:
    """Return the logits, float32 (n, C), of every sample in the loader's order.

    The batches begin with images, uint8 (B, S, S), or a list of their `stage_maps`. The network is
    put into eval mode and channels-last layout, and computes where it is.
    """
    # Outside inference mode: a parameter whose layout changes inside can never be trained again.
    network.to(memory_format=torch.channels_last).eval()
    with torch.inference_mode(), autocast(next(network.parameters()).device):
        batches = [
            logits_of(network, network_inputs(network, given)).float().cpu() for given, *_ in loader
        ]
    return torch.cat(batches).numpy()


def linear_head(network: BTXRDClassifier) -> nn.Linear:
    """Return the one linear layer that a network ends in; a ValueError where it has none."""
    head = network.model.get_classifier()
    if not isinstance(head, nn.Linear):
        name = network.model.pretrained_cfg["architecture"]
        raise ValueError(f"{name} does not end in one linear layer, so it has no linear head")
    return head


@torch.inference_mode()
def head_inputs(network: BTXRDClassifier, images: torch.Tensor) -> np.ndarray:
    """Return the features that a head reads, computed in eval mode in single precision.

    Of images, uint8 (B, S, S), for a linear head, float32 (B, D), with the network's `flip_at_test`
    their mean over each image and its mirror image. For a head with attention float16 (B, D): the
    `stage_maps`, one after the other, each place by place. Any other head is a ValueError.
    """
    inputs = network_inputs(network, images)
    if network.attention is not None:
        stages = stage_maps(network.model, inputs)
        flat = [maps.permute(0, 2, 3, 1).flatten(1) for maps in stages]
        return torch.cat(flat, dim=1).half().cpu().numpy()
    read: list[torch.Tensor] = []
    with linear_head(network).register_forward_pre_hook(lambda _, given: read.append(given[0])):
        logits_of(network, inputs)
    return torch.stack(read).mean(dim=0).cpu().numpy()
