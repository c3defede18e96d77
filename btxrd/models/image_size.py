"""The image sizes that a backbone takes, and the argument by which timm is told of another."""

import timm
import torch
from timm.layers import PatchEmbed

__all__ = ["size_arguments"]


def size_arguments(backbone: str, size: int) -> dict[str, int]:
    """Return the arguments of `timm.create_model` for square images of `size` pixels.

    Networks of convolutions take any size as they are; others are built for one, which timm calls
    `img_size`. A size other than the published one is tried out on a network without numbers.

    Args:
        backbone: a name that timm knows.

    Raises:
        ValueError: the backbone does not take the size, or cuts it into patches that leave a rest;
            says timm's reason and the published size.

    >>> size_arguments("efficientnet_b0", 300), size_arguments("vit_small_patch14_dinov2", 224)
    ({}, {'img_size': 224})
    """
    published = timm.get_pretrained_cfg(backbone)
    if published.input_size[1:] == (size, size):
        return {}
    arguments = {"img_size": size} if published.fixed_input_size else {}
    try:
        with torch.device("meta"):
            network = timm.create_model(backbone, **arguments).eval()
            network(torch.zeros(1, 3, size, size))
        for patches in (m for m in network.modules() if isinstance(m, PatchEmbed)):
            if size % patches.patch_size[0]:
                raise ValueError(f"its patches are {patches.patch_size[0]} pixels wide")
    except Exception as error:  # each network says in its own way that its shapes do not fit
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"data.image_size: {backbone} takes no images of {size} pixels ({reason}); the "
            f"published size is {published.input_size[-1]}"
        ) from error
    return arguments
