"""Checkpoints: a trained model and all that is needed to use it or train it on, in one file."""

import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from btxrd import CLASS_NAMES
from btxrd.files import atomic_path
from btxrd.models.classifier import BTXRDClassifier, create_model

__all__ = [
    "load_checkpoint",
    "load_tensors",
    "model_from_checkpoint",
    "save_checkpoint",
    "save_tensors",
]

KEYS = (
    "epoch", "model_state_dict", "optimizer_state_dict", "scheduler_state_dict", "val_loss",
    "config", "class_names", "normalization", "class_weights",
)  # fmt: skip


def save_checkpoint(
    model: BTXRDClassifier,
    optimizer: Optimizer | None,
    scheduler: LRScheduler | None,
    epoch: int,
    val_loss: float,
    config: dict[str, Any],
    class_weights: Sequence[float] | torch.Tensor,
    filepath: str | Path,
) -> None:
    """Write one file with the nine keys of a checkpoint, whole or not at all.

    Args:
        optimizer, scheduler: None where none was used; so is their state then.
        epoch: epochs trained so far.
        config: the parameters, of plain types, as `RunParams.model_dump` returns them.
        filepath: the final name; parent folders are made.

    Raises:
        OSError: there is no room for the file.
    """
    checkpoint = {
        "epoch": int(epoch),
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": None if optimizer is None else optimizer.state_dict(),
        "scheduler_state_dict": None if scheduler is None else scheduler.state_dict(),
        "val_loss": float(val_loss),
        # With strings of its own: shared ones would be stored once, and the file's bytes would
        # tell whether the training had been interrupted.
        "config": pickle.loads(pickle.dumps(config)),
        "class_names": list(CLASS_NAMES),
        "normalization": model.normalization,
        "class_weights": [float(weight) for weight in class_weights],
    }
    save_tensors(filepath, checkpoint)


def save_tensors(filepath: str | Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values, atomically; `OSError` where there is no room for them."""
    # Python opens the file: torch's own writer does not say why it failed.
    with atomic_path(filepath) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load_tensors(
    filepath: str | Path, keys: Iterable[str], device: str | torch.device = "cpu"
) -> dict[str, Any]:
    """Return what `save_tensors` wrote; a stranger's file runs no code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, foreign, holds more than data, or lacks some of `keys`.
    """
    filepath = Path(filepath)
    if not filepath.is_file():
        raise FileNotFoundError(f"there is no checkpoint {filepath}")
    try:
        content = torch.load(filepath, map_location=device, weights_only=True)
    except Exception as error:  # a pickle of garbage can raise anything
        # The words of torch advise to load it all the same, and let it run code.
        raise ValueError(
            f"{filepath} is damaged or no checkpoint: it is no file of tensors and plain values "
            f"[{type(error).__name__}]"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{filepath} is no checkpoint: it holds a {type(content).__name__}")
    missing = [key for key in keys if key not in content]
    if missing:
        raise ValueError(f"{filepath} is no checkpoint: it lacks {', '.join(missing)}")
    return content


def load_checkpoint(filepath: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Return what `save_checkpoint` wrote, on `device`; raises as `load_tensors` does."""
    return load_tensors(filepath, KEYS, device)


def model_from_checkpoint(checkpoint: dict[str, Any]) -> BTXRDClassifier:
    """Build the trained classifier, with its normalisation, on the CPU and in eval mode.

    Raises:
        ValueError: the checkpoint's configuration describes no model.
        RuntimeError: the stored weights do not fit the model that the configuration describes.
    """
    section = checkpoint["config"].get("model") or {}
    if "backbone" not in section:
        raise ValueError("the checkpoint's config names no model.backbone")
    plain = {**section, "pretrained": False, "weights": None}
    classifier = create_model(checkpoint["config"] | {"model": plain}, checkpoint["normalization"])
    classifier.load_state_dict(checkpoint["model_state_dict"])
    return classifier.eval()
