"""A classifier head with attention that is trained on the lesion masks.

From feature maps of three strides the head gives each place of an image a probability of being
lesion, its attention. It classifies from the mean features of the whole image and the mean features
weighted by attention. Li et al. (2018, "Tell Me Where to Look") supervise attention by masks; Fukui
et al. (2019, "Attention Branch Network") weight features by the attention of a branch.
"""

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["MaskGuidedHead", "attention_loss", "stage_maps", "stage_shapes"]

STRIDES = (8, 16, 32)
"""The strides, in pixels, of the feature maps that are read; attention has that of the second."""

WIDTH = 96
"""The channels of the attention's convolutions."""

POSITIVE_WEIGHT = 3.0
"""The weight in the loss of a place of a lesion; others have 1. Lesions are small."""


class MaskGuidedHead(nn.Module):
    """A linear classifier of three things: mean features, attended features, highest attention.

    Args:
        model: a timm model, whose feature maps `stage_maps` returns; it is not kept.
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
        # The sum of projected maps is the projection of the joined maps, and costs less. Each map
        # is projected where it is smallest: before it grows, after it shrinks.
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

    Images are normalised, float (B, 3, H, W); the maps float (B, C, h, w), each with its own C, h
    and w. A ValueError says that the model has no such maps.
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
    """Return C, h and w of each of a model's `stage_maps`, tried out in eval mode."""
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
    """Return maps (B, C, h, w) in another size: averaged to shrink, bilinear to grow."""
    if maps.shape[2:] == size:
        return maps
    return F.interpolate(maps, size, mode="area" if maps.shape[2] > size[0] else "bilinear")


def attention_loss(
    attention: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor
) -> torch.Tensor:
    """Return the loss of attention against the lesion masks, float32 (T,).

    It is the binary cross-entropy, in which places of the lesion count three times, plus 1 - Dice.
    T counts the images that have a target: tumours with a mask, and normal images, whose target is
    empty. A place belongs to the lesion if it holds at least half as much of it as the place that
    holds most, so that a lesion smaller than a place is one place. Attention is float (B, h, w)
    logits, labels int64 (B,), masks uint8 {0, 1} (B, S, S).

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
