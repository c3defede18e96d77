"""Layout of the phantom: the files of the release, and a sidecar with the true patients."""

import json
import os
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from openpyxl import Workbook
from tqdm.auto import tqdm

from btxrd.data.table import RELEASE_COLUMNS
from btxrd.extras.phantom.anatomy import TEMPLATES
from btxrd.extras.phantom.drawing import draw
from btxrd.extras.phantom.plan import Record, plan_records
from btxrd.files import PHANTOM_FILE, atomic_path, write_json

__all__ = ["make_phantom"]

MINIMUM_IMAGES = 60
VERSION = 2

COLOUR_CHANCES = {1: 0.08, 2: 0.6, 3: 0.8}
"""How often a center exports its grey images with three channels."""


def make_phantom(
    root: str | Path,
    n_images: int = 240,
    seed: int = 42,
    scale: float = 0.25,
    workers: int | None = None,
    progress: bool = False,
) -> Path:
    """Draw a phantom of the data set into the new (or empty) folder `root` and return it.

    Equal arguments give byte-identical files, whatever `workers` (with the same versions of numpy
    and OpenCV).

    Args:
        n_images: images in all, at least 60; classes and centers as in the release's table.
        scale: image size relative to the release's (mean 1629 x 2129 pixels), in (0, 1].
        workers: threads that draw; None for one a core.

    Raises:
        FileExistsError: `root` exists and is not an empty folder.
        ValueError: `n_images` is too small, or `seed`, `scale` or `workers` out of range.

    >>> import tempfile
    >>> root = make_phantom(Path(tempfile.mkdtemp()) / "phantom", 60, scale=0.1)
    >>> len(list((root / "images").iterdir()))
    60
    """
    _check_arguments(n_images, seed, scale, workers)
    root = Path(root)
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise FileExistsError(f"{root} exists and is not empty; name a new folder or remove it")
    records = plan_records(n_images, seed, scale)
    with atomic_path(root) as folder:
        for name in ("images", "Annotations"):
            (folder / name).mkdir(parents=True)
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            written = pool.map(partial(_write_image, folder), records)
            list(tqdm(written, "phantom", n_images, unit="image", disable=not progress))
        _write_table(folder / "dataset.xlsx", records)
        write_json(folder / PHANTOM_FILE, _sidecar(records, n_images, seed, scale))
    return root


def _check_arguments(n_images: int, seed: int, scale: float, workers: int | None) -> None:
    if n_images < MINIMUM_IMAGES:
        raise ValueError(f"n_images must be at least {MINIMUM_IMAGES}, not {n_images}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    if not 0 < scale <= 1:
        raise ValueError(f"scale must lie in (0, 1], not {scale}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be 1 or more, or None, not {workers}")


def _write_image(folder: Path, record: Record) -> None:
    """Write an image and its annotation; a copy is drawn like its source, to the last byte.

    Near copies are then made a little brighter and compressed more.
    """
    drawn = record.source or record
    rng = np.random.default_rng(drawn.view_seed)
    image, outlines, quality = draw(drawn, rng)
    if rng.uniform() < COLOUR_CHANCES[drawn.patient.center]:
        image = cv2.merge([image] * 3)
    if record.kind in ("near", "conflict"):
        image, quality = cv2.convertScaleAbs(image, alpha=1.01, beta=2), 80
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise OSError(f"{record.image_id} could not be encoded as JPEG")
    (folder / "images" / record.image_id).write_bytes(data.tobytes())
    if record.patient.subtype:
        _write_annotation(folder / "Annotations", record, outlines)


def _write_annotation(folder: Path, record: Record, outlines: list[np.ndarray]) -> None:
    """Write a LabelMe 5.4.1 document: a rectangle and a polygon for every lesion."""
    spare = 0.008 * max(record.size) + 0.5
    shapes = []
    for outline in outlines:
        corners = np.clip([outline.min(0) - spare, outline.max(0) + spare], 0, record.size)
        for points, shape_type in ((corners, "rectangle"), (outline, "polygon")):
            shapes.append(
                {
                    "label": record.patient.subtype,
                    "points": points.tolist(),
                    "group_id": None,
                    "description": "",
                    "shape_type": shape_type,
                    "flags": {},
                    "mask": None,
                }
            )
    width, height = record.size
    document = {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": record.image_id,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    path = folder / f"{Path(record.image_id).stem}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")


def _row(record: Record) -> list[str | int]:
    """The record's 37 cells, in the order of the release's columns."""
    patient = record.patient
    flags = {site.column for site in patient.sites}
    flags |= {TEMPLATES[patient.template].region, record.view}
    if patient.subtype:
        flags |= {"tumor", ("", "benign", "malignant")[patient.label], patient.subtype}
    first = [record.image_id, patient.center, patient.age, "M" if patient.male else "F"]
    return first + [int(column in flags) for column in RELEASE_COLUMNS[len(first) :]]


def _write_table(path: Path, records: list[Record]) -> None:
    """Write `dataset.xlsx`; no time of writing is left in it, so equal rows give equal bytes."""
    book = Workbook()
    for row in (RELEASE_COLUMNS, *map(_row, records)):
        book.active.append(row)
    rough = path.with_name("rough.xlsx")
    book.save(rough)
    with zipfile.ZipFile(rough) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "docProps/core.xml":
                data = re.sub(rb"\d{4}-\d\d-\d\dT[\d:]+Z", b"2025-01-01T00:00:00Z", data)
            member = zipfile.ZipInfo(name)
            member.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(member, data)
    rough.unlink()


def _sidecar(records: list[Record], n_images: int, seed: int, scale: float) -> dict[str, Any]:
    return {
        "generator": "btxrd.extras.phantom",
        "version": VERSION,
        "n_images": n_images,
        "seed": seed,
        "scale": scale,
        "patients": {record.image_id: f"P{record.patient.number:05d}" for record in records},
        "duplicates": [
            {"image_a": record.source.image_id, "image_b": record.image_id, "kind": record.kind}
            for record in records
            if record.source
        ],
    }
