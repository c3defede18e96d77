"""Which image sizes a backbone takes, and how timm is told of another than the published one."""

import timm
import torch
from timm.layers import PatchEmbed
from torch import nn

__all__ = ["size_arguments"]


def size_arguments(backbone: str, size: int) -> dict[str, int]:
    """Return what `timm.create_model` must be given for square images of `size` pixels.

    Networks of convolutions take any size as they are; others are built for one, which timm calls
    `img_size`. A size other than the published one is tried out, in a fraction of a second.

    Args:
        backbone: a name that timm knows.

    Raises:
        ValueError: the backbone does not take the size, or takes only a part of each image; says
            which sizes near it can be.

    >>> size_arguments("efficientnet_b0", 300), size_arguments("vit_small_patch14_dinov2", 224)
    ({}, {'img_size': 224})
    """
    published = timm.get_pretrained_cfg(backbone)
    if published.input_size[1:] == (size, size):
        return {}
    if not _takes(backbone, size):
        step = _step(backbone)
        near = {size // step * step, -(-size // step) * step, *published.input_size[1:]}
        can = [str(other) for other in sorted(near) if _takes(backbone, other)]
        raise ValueError(
            f"data.image_size: {backbone} takes no images of {size} pixels; try {', '.join(can)}"
        )
    return {"img_size": size} if published.fixed_input_size else {}


def _takes(backbone: str, size: int) -> bool:
    try:
        network = _without_numbers(backbone, size)
        network(torch.zeros(1, 3, size, size, device="meta"))
    except Exception:  # each network says in its own way that its shapes do not fit
        return False
    return size % _patch(network) == 0


def _step(backbone: str) -> int:
    """Return by how many pixels the sizes that a backbone takes are likely to differ."""
    network = _without_numbers(backbone)
    patch = _patch(network)
    return patch if patch > 1 else network.feature_info[-1]["reduction"]


def _without_numbers(backbone: str, size: int | None = None) -> nn.Module:
    """Return a network that computes shapes only; no random number is drawn."""
    fixed = size is not None and timm.get_pretrained_cfg(backbone).fixed_input_size
    with torch.device("meta"):
        return timm.create_model(backbone, **({"img_size": size} if fixed else {})).eval()


def _patch(network: nn.Module) -> int:
    """Return the side of the patches that images are cut into, what remains being dropped; or 1."""
    sides = (m.patch_size[0] for m in network.modules() if isinstance(m, PatchEmbed))
    return next(sides, 1)
