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
from btxrd.data.preprocessing import Preprocessing
from btxrd.data.radiograph import is_dicom, read_header
from btxrd.data.table import listed
from btxrd.files import atomic_path, digest, file_name, in_a_line
from btxrd.models import (
    BTXRDClassifier,
    get_device,
    load_checkpoint,
    model_from_checkpoint,
    predict_logits,
)
from btxrd.predictions import PROBABILITY_COLUMNS

__all__ = ["BATCH_SIZE", "COLUMNS", "Classifier", "heat_map_file", "load_classifier", "predict"]

COLUMNS = ("file", "predicted", *PROBABILITY_COLUMNS, "applied", "error")
"""The columns of `predict`, in order."""

IMAGE_SUFFIXES = {".bmp", ".dcm", ".dicom", ".jpeg", ".jpg", ".png", ".tif", ".tiff"}
"""Endings of images in a folder, where DICOM and images without an ending are taken too; a file
that is named itself may end in anything."""
BATCH_SIZE = 32
"""Images that a network sees at a time."""


@dataclass(frozen=True)
class Classifier:
    """A checkpoint ready for use: the network, how its input is made, and its parameters."""

    network: BTXRDClassifier
    preprocessing: Preprocessing
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
    read = partial(_read, preprocessing=classifier.preprocessing)
    files = list(_expanded(paths, tell))
    table: list[dict[str, Any]] = []
    unmapped: list[str] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), BATCH_SIZE):
            rows = list(pool.map(read, files[start : start + BATCH_SIZE]))
            table += rows
            readable = [row for row in rows if "error" not in row]
            if readable:
                _classify(classifier, readable)
            classified = [row for row in readable if "predicted" in row]
            if classified and gradcam_dir is not None:
                unmapped += _write_heat_maps(classifier, classified, gradcam_dir)
            for row in readable:
                del row["pixels"]
    if unmapped:
        tell(f"{len(unmapped)} of {len(table)} images have no heat map: {unmapped[0]}")
    return pd.DataFrame(table, columns=list(COLUMNS))


def heat_map_file(gradcam_dir: str | Path, image: str | Path) -> Path:
    """Return where an image's heat map goes: its name, and a digest of its folder and name.

    The digest keeps images of the same name in different folders apart.

    >>> heat_map_file("maps", "/a/IMG1.jpeg").name == heat_map_file("maps", "/b/IMG1.jpeg").name
    False
    """
    image = Path(image)
    return Path(gradcam_dir) / f"{file_name(image.stem)}-{digest(str(image.resolve()))}.png"


def load_classifier(path: str | Path) -> Classifier:
    """Build a checkpoint's classifier, on the CPU and in eval mode; raises as `predict` does."""
    checkpoint = load_checkpoint(path)
    try:
        if tuple(checkpoint["class_names"]) != CLASS_NAMES:
            raise ValueError(f"its classes are {checkpoint['class_names']}")
        return Classifier(
            model_from_checkpoint(checkpoint),
            Preprocessing.from_config(checkpoint["config"]),
            checkpoint["config"],
        )
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        message = f"{path} is no usable checkpoint of btxrd: {in_a_line(error)}"
        raise ValueError(message) from error


def _expanded(paths: Iterable[str | Path], tell: Callable[[str], None]) -> Iterator[Path]:
    """Yield files, and folders in which no image is, each once; tell what is passed over."""
    seen = set()
    for path in map(Path, paths):
        found = [path]
        if path.is_dir():
            # A DICOMDIR is the table of contents of a folder of DICOM.
            shown = [f for f in sorted(path.rglob("*")) if f.is_file() and f.name != "DICOMDIR"]
            inside = {f: _is_image(f) for f in shown if not f.name.startswith(".")}
            others = [str(file.relative_to(path)) for file, good in inside.items() if not good]
            if others:
                tell(f"not images by name or content, of {path}: {listed(others)}")
            found = [file for file, good in inside.items() if good] or [path]
        for file in found:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def _is_image(file: Path) -> bool:
    if file.suffix.lower() in IMAGE_SUFFIXES:
        return True
    try:
        return is_dicom(file) or (not file.suffix and read_header(file) is not None)
    except (OSError, ValueError):
        return False


def _read(path: Path, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return a file's row: its `pixels` uint8 (S, S) and what was applied, or an `error`."""
    row = {"file": str(path)}
    if path.is_dir():
        return row | {"error": f"no image in the folder {path}"}
    try:
        radiograph = preprocessing.decode(path)
        return row | {"applied": radiograph.applied, "pixels": preprocessing.fit(radiograph)}
    except (ImportError, OSError, ValueError, cv2.error) as error:
        return row | {"error": str(error)}


def _classify(classifier: Classifier, rows: list[dict[str, Any]]) -> None:
    """Add to each row its class and probabilities, or an error."""
    images = torch.from_numpy(np.stack([row["pixels"] for row in rows]))
    logits = predict_logits(classifier.network, [(images,)])
    probabilities = torch.softmax(torch.from_numpy(logits).double(), dim=1).numpy()
    for row, numbers, shares in zip(rows, logits, probabilities, strict=True):
        if np.isfinite(numbers).all():
            row["predicted"] = CLASS_NAMES[shares.argmax()]
            row.update(zip(PROBABILITY_COLUMNS, shares, strict=True))
        else:
            row["error"] = f"the network gives no numbers for {row['file']}: is it damaged?"


def _write_heat_maps(
    classifier: Classifier, rows: list[dict[str, Any]], folder: str | Path
) -> list[str]:
    """Return for each map that cannot be had why: no reason is worth the classification."""
    # The grad-cam package takes a second to import, and only heat maps need it.
    from btxrd.evaluation.gradcam import coarse_maps, upsampled
    from btxrd.evaluation.localisation import normalise_maps

    try:
        found = coarse_maps(
            classifier.network,
            np.stack([row["pixels"] for row in rows]),
            [CLASS_NAMES.index(row["predicted"]) for row in rows],
            batch_size=len(rows),
        )
    except Exception as error:
        return [in_a_line(error)] * len(rows)
    reasons, maps = [], normalise_maps(upsampled(found["network"], len(rows[0]["pixels"])))
    for row, heat in zip(rows, maps, strict=True):
        colours = cv2.applyColorMap(np.rint(255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)
        opacity = 0.6 * heat[..., None]
        overlay = np.rint(opacity * colours + (1 - opacity) * row["pixels"][..., None])
        try:
            with atomic_path(heat_map_file(folder, row["file"])) as temporary:
                data = cv2.imencode(".png", overlay.astype(np.uint8))[1]
                temporary.write_bytes(data.tobytes())
        except OSError as error:
            reasons.append(in_a_line(error))
    return reasons
