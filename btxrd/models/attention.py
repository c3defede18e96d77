"""Attention that the lesion masks teach: where the tumour is helps to say what it is.

A small head gives each place of an image a probability of being lesion, from feature maps of three
strides, and the classifier reads the features there beside those of the whole image. That a
network's attention is supervised by masks is from (Li et al. 2018, "Tell Me Where to Look"); that a
branch's attention weighs the features of the classifier, from (Fukui et al. 2019, "Attention Branch
Network").
"""

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["MaskGuidedHead", "attention_loss", "stage_maps", "stage_shapes"]

STRIDES = (8, 16, 32)
"""Of the feature maps that are read, in pixels. The attention has the resolution of the second."""

WIDTH = 96
"""Channels of the attention's convolutions."""

POSITIVE_WEIGHT = 3.0
"""How much more a place of a lesion counts than another: lesions are small."""


class MaskGuidedHead(nn.Module):
    """A classifier that reads the mean features, those that its attention picks, and its peak.

    Args:
        model: a timm model, whose feature maps `stage_maps` returns; it is not kept.
        num_classes: of the logits.
        drop_rate: dropout probability before the linear classifier, in [0, 1).

    Raises:
        ValueError: the model has no feature maps of the strides 8, 16 and 32.
    """

    def __init__(self, model: nn.Module, num_classes: int, drop_rate: float) -> None:
        super().__init__()
        finer = [model.feature_info[index]["num_chs"] for index in _finer_stages(model)]
        self.projections = nn.ModuleList(
            nn.Conv2d(channels, WIDTH, 1, bias=False) for channels in (*finer, model.num_features)
        )
        self.places = nn.Sequential(
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
            nn.Conv2d(WIDTH, 1, 1),
        )
        self.dropout = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(2 * model.num_features + 1, num_classes)

    def forward(self, stages: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Map what `stage_maps` returns to logits of the classes and of the attention.

        Returns:
            Float (B, num_classes), and float (B, h, w), whose sigmoid is the attention.
        """
        last, size = stages[-1], stages[1].shape[2:]
        # To project each map and add is to join the resized maps and project, at less cost; so is
        # to project the smaller one of a map and the resized map.
        fine, middle, coarse = self.projections
        joined = fine(_resized(stages[0], size)) + middle(stages[1]) + _resized(coarse(last), size)
        places = self.places(joined)
        attention = places.sigmoid()
        weights = _resized(attention, last.shape[2:])
        picked = torch.einsum("bxhw,bchw->bc", weights, last)
        picked = picked / weights.sum(dim=(2, 3)).clamp_min(1e-6)
        read = [last.mean(dim=(2, 3)), picked, attention.amax(dim=(2, 3))]
        return self.classifier(self.dropout(torch.cat(read, dim=1))), places[:, 0]


def stage_maps(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Return a timm model's feature maps of the strides 8 and 16, and its last one.

    Args:
        images: normalised, float (B, 3, H, W).

    Returns:
        Three tensors, float (B, C, h, w), each with its own C, h and w.

    Raises:
        ValueError: the model has no such maps.
    """
    last, finer = model.forward_intermediates(
        images, indices=_finer_stages(model), output_fmt="NCHW"
    )
    if not isinstance(last, torch.Tensor):
        raise _without_maps(model)
    if getattr(model, "output_fmt", "NCHW") == "NHWC":
        last = last.permute(0, 3, 1, 2)
    return [*finer, last]


@torch.inference_mode()
def stage_shapes(model: nn.Module, size: int) -> list[torch.Size]:
    """Return the C, h and w of each of a model's `stage_maps`, for images of `size` pixels.

    Args:
        model: in eval mode: it is tried out.
    """
    images = torch.zeros(1, 3, size, size, device=next(model.parameters()).device)
    return [maps.shape[1:] for maps in stage_maps(model, images)]


def _finer_stages(model: nn.Module) -> list[int]:
    """Return the numbers of the stages that the strides 8 and 16 end with."""
    strides = [stage["reduction"] for stage in model.feature_info]
    if not (set(STRIDES) <= set(strides) and hasattr(model, "forward_intermediates")):
        raise _without_maps(model)
    return [len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES[:-1]]


def _without_maps(model: nn.Module) -> ValueError:
    name, strides = model.pretrained_cfg["architecture"], ", ".join(map(str, STRIDES))
    return ValueError(
        f"model.attention: {name} has no feature maps of the strides {strides}, which attention "
        "is made of"
    )


def _resized(maps: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Bring maps (B, C, h, w) to another size: down by averaging, up bilinearly."""
    if maps.shape[2:] == size:
        return maps
    return F.interpolate(maps, size, mode="area" if maps.shape[2] > size[0] else "bilinear")


def attention_loss(
    attention: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor
) -> torch.Tensor:
    """Return how far attention is from the lesion masks, an image that teaches it: float32 (T,).

    Binary cross-entropy, in which places of the lesion count three times, and 1 - Dice. Tumours
    with a mask and normal images, whose lesion is empty, teach; tumours without a mask do not. A
    place is of the lesion where it holds at least half as much of it as the fullest one, so that a
    lesion smaller than a place is one place.

    Args:
        attention: float (B, h, w), logits.
        labels: int64 (B,), 0 is normal.
        masks: uint8 {0, 1} (B, S, S).

    >>> masks = torch.zeros(2, 4, 4, dtype=torch.uint8)
    >>> masks[1, :2, :2] = 1
    >>> perfect = torch.tensor([[[-20.0, -20.0], [-20.0, -20.0]], [[20.0, -20.0], [-20.0, -20.0]]])
    >>> attention_loss(perfect, torch.tensor([0, 2]), masks).round(decimals=3)
    tensor([0., 0.])
    """
    teaching = masks.bool().flatten(1).any(dim=1) | (labels == 0)
    attention, masks = attention[teaching].float(), masks[teaching]
    held = F.interpolate(masks[:, None].float(), attention.shape[1:], mode="area")[:, 0]
    fullest = held.amax(dim=(1, 2), keepdim=True)
    lesions = ((held > 0) & (held >= fullest / 2)).float()
    entropy = F.binary_cross_entropy_with_logits(
        attention,
        lesions,
        reduction="none",
        pos_weight=torch.tensor(POSITIVE_WEIGHT, device=attention.device),
    ).mean(dim=(1, 2))
    shares = attention.sigmoid()
    common = (shares * lesions).sum(dim=(1, 2))
    dice = (2 * common + 1) / (shares.sum(dim=(1, 2)) + lesions.sum(dim=(1, 2)) + 1)
    return entropy + 1 - dice
