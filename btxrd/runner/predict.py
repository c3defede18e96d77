"""Classify image files with a checkpoint, preprocessed as its training was."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch

from btxrd import CLASS_NAMES
from btxrd.data.dicom import is_dicom
from btxrd.data.preprocessing import Preprocessing
from btxrd.data.radiograph import read_header
from btxrd.data.table import listed
from btxrd.files import atomic_path, digest, file_name
from btxrd.models import (
    BTXRDClassifier,
    get_device,
    load_checkpoint,
    model_from_checkpoint,
    predict_logits,
    to_input,
)

__all__ = ["BATCH_SIZE", "COLUMNS", "Classifier", "heat_map_file", "load_classifier", "predict"]

PROBABILITIES = tuple(f"p_{name}" for name in CLASS_NAMES)
COLUMNS = ("file", "predicted", *PROBABILITIES, "applied", "error")
"""The columns of `predict`, in order."""

IMAGE_SUFFIXES = {".bmp", ".dcm", ".dicom", ".jpeg", ".jpg", ".png", ".tif", ".tiff"}
"""What counts as an image in a folder, beside DICOM, which a PACS exports under any name, and
images without an ending; a file that is named itself may end in anything."""
INDEX = "DICOMDIR"
"""The table of contents of a folder of DICOM."""

UNREADABLE = (ImportError, OSError, ValueError, cv2.error)
BATCH_SIZE = 32
"""Images that a network sees at a time."""

HEAT_OPACITY = 0.6
"""Of the hottest place."""


@dataclass(frozen=True)
class Classifier:
    """A checkpoint ready for use: the network, how its input is made, and its parameters."""

    network: BTXRDClassifier
    preprocessing: Preprocessing
    normalization: dict[str, list[float]]
    config: dict[str, Any]


def predict(
    paths: Iterable[str | Path],
    checkpoint: str | Path,
    gradcam_dir: str | Path | None = None,
    device: str = "auto",
    tell: Callable[[str], None] = warnings.warn,
) -> pd.DataFrame:
    """Classify images with the checkpoint's own preprocessing and normalisation.

    For the images of a run's data set these are the probabilities of its `predictions.csv`; to
    three decimals where a frozen network has attention, whose features have half precision there.

    Args:
        paths: image files, and folders, whose images are taken at any depth in order of name.
            What is named twice is classified once.
        checkpoint: a `model.pt`.
        gradcam_dir: where to write a PNG an image, under the name that `heat_map_file` says:
            Grad-CAM of the predicted class, scaled to [0, 1] by itself, over the image.
        device: as `get_device` takes it.
        tell: is given a line where files of a folder are passed over, and where heat maps cannot
            be had; the classification stands all the same.

    Returns:
        One row an image with the columns `COLUMNS`: `file` (str, as given or found), `predicted`
        (class name), the probabilities (float64 in [0, 1]), `applied` (what was done to the stored
        pixels to see them, in words, often empty) and `error`. An image that cannot be read or
        classified, or a folder without one, has its reason there and no class; the others have NaN.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the checkpoint is damaged or not one of this project.
    """
    classifier = load_classifier(checkpoint)
    classifier.network.to(get_device(device))
    files = list(_expanded(paths, tell))
    rows: list[dict[str, Any]] = []
    unmapped: list[str] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), BATCH_SIZE):
            batch = files[start : start + BATCH_SIZE]
            decoded = list(pool.map(partial(_read, preprocessing=classifier.preprocessing), batch))
            classified, reasons = _classified(classifier, batch, decoded, gradcam_dir)
            rows += classified
            unmapped += reasons
    if unmapped:
        tell(f"{len(unmapped)} of {len(rows)} images have no heat map: {unmapped[0]}")
    return pd.DataFrame(rows, columns=list(COLUMNS))


def heat_map_file(gradcam_dir: str | Path, image: str | Path) -> Path:
    """Return where an image's heat map goes: its name, and a digest of its folder and name.

    The digest keeps images of the same name in different folders apart.

    >>> heat_map_file("maps", "/a/IMG1.jpeg").name == heat_map_file("maps", "/b/IMG1.jpeg").name
    False
    """
    image = Path(image)
    return Path(gradcam_dir) / f"{file_name(image.stem)}-{digest(str(image.resolve()))}.png"


def load_classifier(path: str | Path) -> Classifier:
    """Build the classifier of a checkpoint, on the CPU and in eval mode.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the checkpoint is damaged or not one of this project.
    """
    checkpoint = load_checkpoint(path)
    try:
        if tuple(checkpoint["class_names"]) != CLASS_NAMES:
            raise ValueError(f"its classes are {checkpoint['class_names']}")
        return Classifier(
            model_from_checkpoint(checkpoint),
            Preprocessing.from_config(checkpoint["config"]),
            {key: checkpoint["normalization"][key] for key in ("mean", "std")},
            checkpoint["config"],
        )
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        message = f"{path} is no usable checkpoint of btxrd: {_in_a_line(error)}"
        raise ValueError(message) from error


def _expanded(paths: Iterable[str | Path], tell: Callable[[str], None]) -> Iterator[Path]:
    """Yield files, and folders in which no image is, each once; tell what is passed over."""
    seen = set()
    for path in map(Path, paths):
        found = [path]
        if path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if _may_be_image(file)]
            images = [file for file in inside if _is_image(file)]
            others = [str(file.relative_to(path)) for file in inside if file not in set(images)]
            if others:
                tell(f"not images by name or content, of {path}: {listed(others)}")
            found = images or found
        for file in found:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def _may_be_image(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".") and file.name != INDEX


def _is_image(file: Path) -> bool:
    if file.suffix.lower() in IMAGE_SUFFIXES:
        return True
    try:
        if is_dicom(file):
            return True
        if not file.suffix:
            read_header(file)
            return True
    except (OSError, ValueError):
        pass
    return False


def _read(path: Path, preprocessing: Preprocessing) -> tuple[np.ndarray, str] | str:
    """Return uint8 (S, S) and what was applied to see it, or why there is none."""
    if path.is_dir():
        return f"no image in the folder {path}"
    try:
        radiograph = preprocessing.decode(path)
        return preprocessing.fit(radiograph), radiograph.applied
    except UNREADABLE as error:
        return str(error)


def _classified(
    classifier: Classifier,
    files: list[Path],
    decoded: list[tuple[np.ndarray, str] | str],
    gradcam_dir: str | Path | None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of `predict`, and for each heat map that cannot be had why."""
    rows: list[dict[str, Any]] = [{"file": str(file)} for file in files]
    readable, images = [], []
    for row, outcome in zip(rows, decoded, strict=True):
        if isinstance(outcome, str):
            row["error"] = outcome
        else:
            pixels, row["applied"] = outcome
            readable.append(row)
            images.append(pixels)
    if not readable:
        return rows, []
    stacked = np.stack(images)
    batches = [(torch.from_numpy(stacked),)]
    logits = predict_logits(classifier.network, batches)
    is_number = np.isfinite(logits).all(axis=1)
    probabilities = torch.softmax(torch.from_numpy(logits).double(), dim=1).numpy()
    predicted = probabilities.argmax(axis=1)
    for row, shares, label, good in zip(readable, probabilities, predicted, is_number, strict=True):
        if good:
            row["predicted"] = CLASS_NAMES[label]
            row.update(zip(PROBABILITIES, shares, strict=True))
        else:
            row["error"] = f"the network gives no numbers for {row['file']}: is it damaged?"
    if gradcam_dir is None:
        return rows, []
    names = [row["file"] for row, good in zip(readable, is_number, strict=True) if good]
    targets = [heat_map_file(gradcam_dir, name) for name in names]
    return rows, _write_heat_maps(classifier, stacked[is_number], predicted[is_number], targets)


def _write_heat_maps(
    classifier: Classifier, images: np.ndarray, predicted: np.ndarray, targets: list[Path]
) -> list[str]:
    """Return for each map that cannot be had why: no reason is worth the classification."""
    # The grad-cam package takes a second to import, and only heat maps need it.
    from btxrd.evaluation.gradcam import class_activation_maps
    from btxrd.evaluation.localisation import normalise_maps

    try:
        maps = class_activation_maps(
            classifier.network,
            images,
            predicted,
            batch_size=len(images),
            to_input=partial(to_input, normalization=classifier.normalization),
        )
    except Exception as error:
        return [_in_a_line(error)] * len(images)
    reasons = []
    for image, heat, target in zip(images, normalise_maps(maps), targets, strict=True):
        colours = cv2.applyColorMap(np.rint(255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)
        opacity = HEAT_OPACITY * heat[..., None]
        overlay = np.rint(opacity * colours + (1 - opacity) * image[..., None]).astype(np.uint8)
        try:
            with atomic_path(target) as temporary:
                temporary.write_bytes(cv2.imencode(".png", overlay)[1].tobytes())
        except OSError as error:
            reasons.append(_in_a_line(error))
    return reasons


def _in_a_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
