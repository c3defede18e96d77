"""The classifier: a timm backbone with a three-class head, and what training needs around it."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
from huggingface_hub.errors import HfHubHTTPError
from timm.data import resolve_model_data_config
from timm.layers import BatchNormAct2d
from timm.models import ResNet, group_parameters
from torch import nn

from btxrd import CLASS_NAMES
from btxrd.files import project_path
from btxrd.models.attention import MaskGuidedHead, stage_maps
from btxrd.models.image_size import size_arguments
from btxrd.models.weights import body, published_weights, read_weights, unfetched

__all__ = ["BTXRDClassifier", "compute_class_weights", "create_model", "get_device"]

ONEDNN_BLOCK = 16
"""Channels that a convolution of oneDNN takes at once; the most of any processor."""
CONV_OR_NORM = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


class BTXRDClassifier(nn.Module):
    """A timm backbone with a head that returns logits: linear, or guided by lesion masks.

    Args:
        backbone: a name that timm knows, with or without a tag of its pretrained weights.
        pretrained: start from the published weights: of an installed package, of the local hub
            cache or else of the hub; a `pretrained_cfg_overlay` among `kwargs` names others.
        drop_rate: dropout probability before the head, in [0, 1).
        flip_at_test: whether it predicts with the mean over an image and its mirror image, as
            `btxrd.models.inference.logits_of` takes it; `forward` does not.
        attention: `mask_guided`, or none.
        frozen_stages: how many of timm's stages, the stem first, keep their weights and the
            statistics of their batch norms when the network is trained.
        kwargs: of `timm.create_model`.

    Attributes:
        model: the timm model; without a head of its own where there is attention.
        attention: the `MaskGuidedHead`, or None.
        num_features: width of the pooled features (1280 for efficientnet_b0).
        normalization: channel `mean` and `std` that the backbone's weights were published for, of
            pixels in [0, 1], three numbers each; `model_from_checkpoint` takes the checkpoint's.
        weights: which the first weights are, in a few words: the published ones, or those of a
            file, by its name and digest.
        weights_note: what was taken of such a file and what was not; empty without one.
        flip_at_test: as given.

    Raises:
        ValueError: timm knows no such backbone; close names are suggested. Or its feature maps do
            not serve attention, or it has no more stages than are to be frozen.
        RuntimeError: the pretrained weights could not be fetched, or none were published.

    >>> classifier = BTXRDClassifier("resnet18", pretrained=False)
    >>> classifier(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        backbone: str = "efficientnet_b0",
        num_classes: int = 3,
        pretrained: bool = True,
        drop_rate: float = 0.2,
        flip_at_test: bool = False,
        attention: Literal["mask_guided"] | None = None,
        frozen_stages: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        _require_known(backbone)
        self.weights, self.weights_note = "drawn at random", ""
        self.flip_at_test = flip_at_test
        if pretrained and not kwargs.get("pretrained_cfg_overlay"):
            first = published_weights(backbone)
            self.weights = first.name
            kwargs["pretrained_cfg_overlay"] = first.overlay
        try:
            self.model = timm.create_model(
                backbone,
                pretrained=pretrained,
                num_classes=0 if attention else num_classes,
                drop_rate=drop_rate,
                **kwargs,
            )
        except (OSError, HfHubHTTPError) as error:
            raise unfetched(backbone, error) from None
        # It may hold the weights themselves, which the network has by now.
        self.model.pretrained_cfg.pop("state_dict", None)
        self.num_classes = num_classes
        self.num_features: int = self.model.num_features
        published = resolve_model_data_config(self.model)
        self.normalization = {key: list(published[key]) for key in ("mean", "std")}
        self.attention = None
        if attention:
            self.attention = MaskGuidedHead(self.model, num_classes, drop_rate)
        own = self.attention.classifier if self.attention else self.model.get_classifier()
        _start_undecided(own)
        _subsample_first(self.model)
        self._frozen = _freeze(self.model, frozen_stages)

    def train(self, mode: bool = True) -> "BTXRDClassifier":
        """Set the mode, as of any module; what is frozen stays in eval mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, images: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        """Map normalised images, float (B, 3, H, W), to logits, float (B, num_classes).

        A network with attention also takes a list of their `stage_maps`.
        """
        if self.attention is None:
            return self.model(images)
        return self.logits_and_attention(images)[0]

    def logits_and_attention(
        self, images: torch.Tensor | list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map images, or their `stage_maps`, to what the `MaskGuidedHead` returns."""
        stages = images if isinstance(images, list) else stage_maps(self.model, images)
        return self.attention(stages)

    @property
    def gradcam_target_layer(self) -> nn.Module:
        """The layer whose output is the last feature map of a convolutional network.

        For hooks; `features_and_logits` knows the map of every backbone. The head norm `model.bn2`
        of an EfficientNet, `model.layer4[-1]` of a ResNet (whose *blocks* have a `bn2`), else the
        last convolution or norm in the order of registration; without any, `AttributeError`.
        """
        if isinstance(getattr(self.model, "bn2", None), BatchNormAct2d):
            return self.model.bn2
        if isinstance(self.model, ResNet):
            return self.model.layer4[-1]
        for layer in reversed(list(self.model.modules())):
            if isinstance(layer, CONV_OR_NORM):
                return layer
        raise AttributeError("no convolution or norm")  # nn.Module puts its own words here


def _start_undecided(head: nn.Module) -> None:
    """Let a new linear head begin with nearly equal logits.

    timm draws an EfficientNet's head from ±1/√classes, which suits the 1,000 of ImageNet: with
    three, the first losses are several times ln 3.
    """
    if isinstance(head, nn.Linear):
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)


def _subsample_first(model: nn.Module) -> None:
    """Let strided 1 × 1 convolutions of few channels skip places before, not within: the same.

    oneDNN's backward pass of them in channels-last layout writes past its buffer and ends the
    process (torch 2.14.1, https://github.com/uxlfoundation/oneDNN/issues/6035). FastViT, MobileOne
    and RepVGG begin with one.
    """
    for conv in model.modules():
        if not (isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1) and conv.groups == 1):
            continue
        if conv.stride != (1, 1) and conv.in_channels < ONEDNN_BLOCK:
            rows, columns = (slice(None, None, step) for step in conv.stride)
            conv.register_forward_pre_hook(lambda _, x, at=(..., rows, columns): x[0][at])
            conv.stride = (1, 1)


def _freeze(model: nn.Module, stages: int) -> list[nn.Module]:
    """Let a network's first stages keep their weights, and return the layers that have them."""
    if not stages:
        return []
    name = model.pretrained_cfg["architecture"]
    if not hasattr(model, "group_matcher"):
        raise ValueError(f"model.frozen_stages: timm knows no stages of {name}")
    stage_of = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    last = max(stage for parameter, stage in stage_of.items() if parameter in body(model))
    if stages > last:
        raise ValueError(
            f"model.frozen_stages: {name} has {last + 1} stages, of which one at least must be "
            f"trained; got {stages}"
        )
    for parameter, weights in model.named_parameters():
        weights.requires_grad_(stage_of[parameter] >= stages)
    owners = {parameter.rpartition(".")[0] for parameter, n in stage_of.items() if n < stages}
    return [model.get_submodule(owner) for owner in sorted(owners)]


def create_model(config: dict[str, Any]) -> BTXRDClassifier:
    """Build the classifier that `config["model"]` describes, for images of `data.image_size`.

    Its keys are those of `btxrd.params.ModelParams`. `attn_layer` puts attention such as `cbam`
    into every block of a ResNet. `weights` is a local file, relative to the project's root, as
    `btxrd.models.weights.read_weights` takes it; it is loaded without its head whatever
    `pretrained` says, and the hub is never asked. Without a `data.image_size` the backbone takes
    images of its published size.

    Raises:
        FileNotFoundError: the file of `model.weights` does not exist.
        ValueError: no section `model`; an unknown backbone; an `attn_layer` that the backbone
            does not take; a `data.image_size` that it does not take, with sizes that it does; a
            `model.weights` that does not hold all of this backbone's, or holds those of another.
        RuntimeError: the pretrained weights could not be fetched.
    """
    section = config.get("model")
    if not isinstance(section, dict):
        raise ValueError("the configuration has no section `model`")
    section = {key: value for key, value in section.items() if value is not None}
    same = ("backbone", "num_classes", "pretrained", "flip_at_test", "attention", "frozen_stages")
    arguments = {key: section[key] for key in same if key in section}
    if "dropout" in section:
        arguments["drop_rate"] = section["dropout"]
    size = (config.get("data") or {}).get("image_size")
    if size is not None and "backbone" in section:
        _require_known(section["backbone"])
        arguments |= size_arguments(section["backbone"], size)
    if "attn_layer" in section:
        arguments["block_args"] = {"attn_layer": section["attn_layer"]}
    if "weights" not in section:
        return _build(section, arguments)
    classifier = _build(section, arguments | {"pretrained": False})
    _fill(classifier, project_path(section["weights"]), arguments.get("img_size"))
    return classifier


def _fill(classifier: BTXRDClassifier, path: Path, size: int | None) -> None:
    """Load the weights of a local file into all of a classifier's network but its head.

    `size` is that of its images in pixels, where the network was built for another than it was
    published for.
    """
    network = classifier.model
    backbone = network.pretrained_cfg["architecture"]
    with torch.device("meta"):
        published = timm.create_model(backbone)
    try:
        weights = read_weights(path, network, body(network).keys() - body(published).keys())
    except ValueError as error:
        if size is None:
            raise
        try:
            read_weights(path, published)
        except ValueError:
            raise error from None
        raise _misfit(backbone, size) from error
    network.load_state_dict(weights.state, strict=False)
    classifier.weights, classifier.weights_note = weights.name, weights.note


def _build(section: dict[str, Any], arguments: dict[str, Any]) -> BTXRDClassifier:
    try:
        return BTXRDClassifier(**arguments)
    except (AssertionError, TypeError) as error:
        if "attn_layer" not in section:
            raise
        raise ValueError(
            f"model.attn_layer: {section.get('backbone')} does not take "
            f"{section['attn_layer']!r} ({error})"
        ) from error
    except RuntimeError as error:
        if "img_size" not in arguments or "size mismatch" not in str(error):
            raise
        raise _misfit(section["backbone"], arguments["img_size"]) from error


def _misfit(backbone: str, size: int) -> ValueError:
    """Return the error that names the image size for which a backbone's weights were published."""
    published = timm.get_pretrained_cfg(backbone).input_size[-1]
    return ValueError(
        f"data.image_size: these weights fit no {backbone} for {size} pixels; try {published}"
    )


def _require_known(backbone: str) -> None:
    if timm.is_model(backbone):
        return
    close = difflib.get_close_matches(backbone.lower(), timm.list_models(), n=3)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    raise ValueError(f"timm knows no backbone {backbone!r}{hint}")


def compute_class_weights(
    labels: Sequence[int] | np.ndarray | torch.Tensor, num_classes: int = 3
) -> torch.Tensor:
    """Weigh each class by `n / (num_classes · count)`: float32 CPU tensor (num_classes,).

    The "balanced" heuristic of (King and Zeng 2001); the mean over the samples is 1.

    Raises:
        ValueError: a class has no sample, or a label is outside the range.

    >>> compute_class_weights([0] * 1315 + [1] * 1066 + [2] * 240)
    tensor([0.6644, 0.8196, 3.6403])
    """
    labels = np.asarray(labels, dtype=np.int64)
    if np.any((labels < 0) | (labels >= num_classes)):
        raise ValueError(f"labels must lie in 0 … {num_classes - 1}")
    counts = np.bincount(labels, minlength=num_classes)
    if not counts.all():
        names = CLASS_NAMES if num_classes == len(CLASS_NAMES) else map(str, range(num_classes))
        missing = [name for name, count in zip(names, counts, strict=True) if count == 0]
        raise ValueError(f"no sample of class {', '.join(missing)}: it cannot be weighted")
    return torch.as_tensor(len(labels) / (num_classes * counts), dtype=torch.float32)


def get_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; "auto" takes CUDA, else MPS, else the CPU.

    Raises:
        RuntimeError: torch knows no such device.
    """
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
