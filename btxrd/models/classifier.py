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
from timm.layers import BatchNormAct2d, PatchEmbed
from timm.models import ResNet, group_parameters
from torch import nn

from btxrd import CLASS_NAMES
from btxrd.files import project_path
from btxrd.models.attention import MaskGuidedHead, stage_maps
from btxrd.models.weights import body, published_weights, read_weights, unfetched

__all__ = [
    "BTXRDClassifier",
    "compute_class_weights",
    "create_model",
    "get_device",
    "size_arguments",
]

ONEDNN_BLOCK = 16
"""The most channels that a convolution of oneDNN takes at once, on any processor."""


class BTXRDClassifier(nn.Module):
    """A timm backbone with a head that returns logits: linear, or guided by lesion masks.

    Args:
        backbone: a name that timm knows, with or without a tag of its pretrained weights.
        pretrained: start from the `published_weights`; a `pretrained_cfg_overlay` among `kwargs`
            names others.
        drop_rate: dropout probability before the head, in [0, 1).
        flip_at_test: predict with the mean over an image and its mirror image, as
            `btxrd.models.inference.logits_of` does; `forward` does not.
        frozen_stages: number of timm's stages, the stem first, that keep their weights and the
            statistics of their batch norms when the network is trained.
        normalization: channel `mean` and `std` of pixels in [0, 1], three numbers each; by default
            those that the backbone's weights were published for.
        kwargs: of `timm.create_model`.

    Attributes:
        model: the timm model; without a head of its own where there is attention.
        attention: the `MaskGuidedHead`, or None.
        num_features: width of the pooled features (1280 for efficientnet_b0).
        weights: the source of the first weights, in a few words; of a file its name and digest.
        weights_note: one line on how much was taken of such a file; empty without one.

    Raises:
        ValueError: timm knows no such backbone; close names are suggested. Or its feature maps do
            not serve attention, or it has no more stages than are to be frozen.
        RuntimeError: the pretrained weights could not be fetched, or none were published.
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
        normalization: dict[str, list[float]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        _require_known(backbone)
        self.weights, self.weights_note = "drawn at random", ""
        self.flip_at_test = flip_at_test
        if pretrained and not kwargs.get("pretrained_cfg_overlay"):
            kwargs["pretrained_cfg_overlay"], self.weights = published_weights(backbone)
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
        if normalization is None:
            normalization = resolve_model_data_config(self.model)
        self.normalization = {key: list(normalization[key]) for key in ("mean", "std")}
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

    def load_body(self, path: Path) -> None:
        """Load the weights of a local file, as `read_weights` takes it, into all but the head."""
        with torch.device("meta"):
            published = timm.create_model(self.model.pretrained_cfg["architecture"])
        added = body(self.model).keys() - body(published).keys()
        state, self.weights, self.weights_note = read_weights(path, self.model, added)
        self.model.load_state_dict(state, strict=False)

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
        """The layer whose output is the last feature map of a convolutional network, for hooks.

        It is the head norm `model.bn2` of an EfficientNet, `model.layer4[-1]` of a ResNet, else the
        last convolution or norm in the order of registration; without any, `AttributeError`.
        `features_and_logits` knows the map of every backbone.
        """
        if isinstance(getattr(self.model, "bn2", None), BatchNormAct2d):
            return self.model.bn2
        if isinstance(self.model, ResNet):
            return self.model.layer4[-1]
        for layer in reversed(list(self.model.modules())):
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
                return layer
        raise AttributeError("no convolution or norm")  # nn.Module puts its own words here


def _start_undecided(head: nn.Module) -> None:
    """Let a new linear head begin with nearly equal logits."""
    # timm draws an EfficientNet's head from ±1/√classes, which suits the 1,000 of ImageNet: with
    # three classes the first losses would be several times ln 3.
    if isinstance(head, nn.Linear):
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)


def _subsample_first(model: nn.Module) -> None:
    """Skip places before a strided 1 × 1 convolution of few channels, not within it."""
    # The result is the same. The backward pass of oneDNN in channels-last layout writes past its
    # buffer otherwise and ends the process (torch 2.14.1,
    # https://github.com/uxlfoundation/oneDNN/issues/6035). FastViT, MobileOne and RepVGG begin so.
    for conv in model.modules():
        if not (isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1) and conv.groups == 1):
            continue
        if conv.stride != (1, 1) and conv.in_channels < ONEDNN_BLOCK:
            rows, columns = (slice(None, None, step) for step in conv.stride)
            conv.register_forward_pre_hook(lambda _, x, at=(..., rows, columns): x[0][at])
            conv.stride = (1, 1)


def _freeze(model: nn.Module, stages: int) -> list[nn.Module]:
    """Freeze the weights of a network's first stages; return the layers that have them."""
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


def create_model(
    config: dict[str, Any], normalization: dict[str, list[float]] | None = None
) -> BTXRDClassifier:
    """Build the classifier that `config["model"]` describes, for images of `data.image_size`.

    Its keys are those of `btxrd.params.ModelParams`. `attn_layer` puts attention such as `cbam`
    into every block of a ResNet. `weights` is a local file, relative to the project's root; it is
    loaded by `load_body` whatever `pretrained` says, and the hub is never asked. Without a
    `data.image_size` the backbone takes images of its published size.

    Raises:
        ValueError: an `attn_layer` or `data.image_size` that the backbone does not take; and, like
            FileNotFoundError and RuntimeError, as `BTXRDClassifier` and `read_weights`.
    """
    if "model" not in config:
        raise ValueError("the configuration has no section `model`")
    section = {key: value for key, value in config["model"].items() if value is not None}
    same = ("backbone", "num_classes", "pretrained", "flip_at_test", "attention", "frozen_stages")
    arguments = {key: section[key] for key in same if key in section}
    arguments["normalization"] = normalization
    if "dropout" in section:
        arguments["drop_rate"] = section["dropout"]
    size = (config.get("data") or {}).get("image_size")
    if size is not None:
        _require_known(section["backbone"])
        arguments |= size_arguments(section["backbone"], size)
    if "attn_layer" in section:
        arguments["block_args"] = {"attn_layer": section["attn_layer"]}
    if "weights" in section:
        arguments["pretrained"] = False
    try:
        classifier = BTXRDClassifier(**arguments)
    except (AssertionError, TypeError) as error:
        if "attn_layer" not in section:
            raise
        raise ValueError(
            f"model.attn_layer: {section['backbone']} does not take "
            f"{section['attn_layer']!r} ({error})"
        ) from error
    except RuntimeError as error:
        if "img_size" not in arguments or "size mismatch" not in str(error):
            raise
        backbone, size = section["backbone"], arguments["img_size"]
        published = timm.get_pretrained_cfg(backbone).input_size[-1]
        raise ValueError(
            f"data.image_size: these weights fit no {backbone} for {size} pixels; try {published}"
        ) from error
    if "weights" in section:
        classifier.load_body(project_path(section["weights"]))
    return classifier


def _require_known(backbone: str) -> None:
    if timm.is_model(backbone):
        return
    close = difflib.get_close_matches(backbone.lower(), timm.list_models(), n=3)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    raise ValueError(f"timm knows no backbone {backbone!r}{hint}")


def size_arguments(backbone: str, size: int) -> dict[str, int]:
    """Return the arguments of `timm.create_model` for square images of `size` pixels.

    Networks of convolutions take any size as they are; others are built for one, which timm calls
    `img_size`. A size other than the published one is tried out on a network without numbers.

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


def compute_class_weights(
    labels: Sequence[int] | np.ndarray | torch.Tensor, num_classes: int = 3
) -> torch.Tensor:
    """Return a weight for each class, `n / (num_classes · count)`, as float32 (num_classes,).

    This is the "balanced" heuristic of (King and Zeng 2001); the mean over the samples is 1.

    Raises:
        ValueError: a class has no sample; names it.

    >>> compute_class_weights([0] * 1315 + [1] * 1066 + [2] * 240)
    tensor([0.6644, 0.8196, 3.6403])
    """
    counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=num_classes)
    if not counts.all():
        names = CLASS_NAMES if num_classes == len(CLASS_NAMES) else map(str, range(num_classes))
        missing = [name for name, count in zip(names, counts, strict=True) if count == 0]
        raise ValueError(f"no sample of class {', '.join(missing)}: it cannot be weighted")
    return torch.as_tensor(len(labels) / (num_classes * counts), dtype=torch.float32)


def get_device(name: str = "auto") -> torch.device:
    """Return the device called `name`, as torch knows it; "auto" takes CUDA, else MPS, else CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
