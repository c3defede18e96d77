"""The last feature map of any backbone, and the logits that are computed from it."""

import torch
from torch import nn

from btxrd.models.attention import stage_maps
from btxrd.models.classifier import BTXRDClassifier

__all__ = ["FeatureMapError", "features_and_logits"]


class FeatureMapError(ValueError):
    """A network has no feature map that its head reads, or one of a single place."""


def features_and_logits(
    network: BTXRDClassifier, images: torch.Tensor, stride: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a feature map of a network, (B, C, h, w), and its logits, (B, num_classes).

    The map is what passes between timm's `forward_features` and `forward_head`, in whatever layout,
    without tokens that stand for no place. A transformer that classifies from its class token reads
    no other token there: its map is the input of its last attention, as the grad-cam package
    advises. The logits depend on the returned map, so `torch.autograd.grad` gives their gradient
    for it. Where all weights before it are frozen, the backward pass ends at the map.

    Args:
        network: in eval mode if its features are tokens: one more image is passed to count them.
        images: normalised, float (B, 3, H, W).
        stride: of the map in pixels, such as 16; the last map of that stride is taken.

    Raises:
        FeatureMapError: the head reads several maps, or none that is known, or the map has a
            single place, or there is none of the stride; in one sentence without a full stop.

    >>> network = BTXRDClassifier("test_vit", pretrained=False, img_size=64)
    >>> features, logits = features_and_logits(network.eval(), torch.zeros(2, 3, 64, 64))
    >>> features.shape, logits.shape
    (torch.Size([2, 64, 4, 4]), torch.Size([2, 3]))
    """
    model = network.model
    if stride is not None:
        features, logits = _at_a_stage(network, images, stride)
    elif network.attention is not None:
        *finer, raw = stage_maps(model, images)
        features, again = _opened(raw, None)
        logits, _ = network.attention([*finer, again])
    elif getattr(model, "global_pool", None) == "token":
        features, logits = _at_the_last_attention(model, images)
    else:
        raw = _the_one(model.forward_features(images), model)
        features, again = _opened(raw, _grid(model, raw, images))
        logits = model.forward_head(again)
    if features.shape[2:].numel() == 1:
        height, width = images.shape[2:]
        raise FeatureMapError(
            f"the last feature map of {type(model).__name__} has a single place for images of "
            f"{height} × {width} pixels"
        )
    return features, logits


def _at_a_stage(
    network: BTXRDClassifier, images: torch.Tensor, stride: int
) -> tuple[torch.Tensor, torch.Tensor]:
    model, found = network.model, []
    none = FeatureMapError(f"{type(model).__name__} has no finer feature map, of stride {stride}")
    *finer, last = model.feature_info
    stages = [stage["module"] for stage in finer if stage["reduction"] == stride]
    if not stages or last["reduction"] <= stride:
        raise none

    def open_up(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        if not (isinstance(output, torch.Tensor) and output.ndim == 4):
            raise none
        features, again = _opened(output, _grid(model, output, images))
        found.append(features)
        return again

    with model.get_submodule(stages[-1]).register_forward_hook(open_up):
        logits = network(images)
    if not found:
        raise none
    return found[0], logits


def _at_the_last_attention(
    model: nn.Module, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    attentions = [module.attn for module in model.modules() if hasattr(module, "attn")]
    if not attentions:
        raise FeatureMapError(
            f"{type(model).__name__} classifies from a class token, and where that reads the "
            "others is not known"
        )
    grid, found = _token_grid(model, images), []

    def open_up(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        features, again = _opened(inputs[0], grid)
        found.append(features)
        return again, *inputs[1:]

    with attentions[-1].register_forward_pre_hook(open_up):
        logits = model(images)
    return found[0], logits


def _opened(raw: torch.Tensor, grid: torch.Size | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features as (B, C, h, w), and a copy in their own layout made from these."""
    # The network goes on with the copy, because its next layer may work in place. Raw features are
    # (B, C, h, w) where there is no grid of h and w; else (B, h, w, C), or tokens, (B, n, C), of
    # which the last h · w stand for places.
    if grid is None:
        features = raw if raw.requires_grad else raw.requires_grad_()
        return features, features.clone()
    tokens = raw.flatten(1, -2)
    others, places = tokens.tensor_split([tokens.shape[1] - grid.numel()], dim=1)
    features = places.transpose(1, 2).unflatten(2, grid)
    if not features.requires_grad:
        features.requires_grad_()
    again = torch.cat([others, features.flatten(2).transpose(1, 2)], dim=1)
    return features, again.view(raw.shape)


def _grid(model: nn.Module, raw: torch.Tensor, images: torch.Tensor) -> torch.Size | None:
    """Return the rows and columns of a layout whose channels come last; None for (B, C, h, w)."""
    if raw.ndim == 3:
        return _token_grid(model, images)
    return raw.shape[1:3] if getattr(model, "output_fmt", "NCHW") == "NHWC" else None


@torch.no_grad()
def _token_grid(model: nn.Module, images: torch.Tensor) -> torch.Size:
    """Return the rows and columns of the places for which a network's tokens stand."""
    raw, (last,) = model.forward_intermediates(images[:1], indices=1, output_fmt="NCHW")
    _the_one(raw, model)
    return last.shape[2:]


def _the_one(features: object, model: nn.Module) -> torch.Tensor:
    if not isinstance(features, torch.Tensor):
        raise FeatureMapError(f"the head of {type(model).__name__} reads several feature maps")
    return features
