"""Layout of the phantom: the files of the release, and a sidecar with the true patients."""

import json
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from openpyxl import Workbook
from tqdm.auto import tqdm

from btxrd.data.table import RELEASE_COLUMNS
from btxrd.extras.phantom.anatomy import REGIONS
from btxrd.extras.phantom.drawing import draw
from btxrd.extras.phantom.plan import CENTERS, Record, plan_records
from btxrd.files import PHANTOM_FILE, atomic_path, write_json

__all__ = ["make_phantom"]

MINIMUM_IMAGES = 60
VERSION = 3


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
        workers: threads that draw; None for some more than there are cores.

    Raises:
        FileExistsError: `root` exists and is not an empty folder.
        ValueError: `n_images` is too small, or `seed`, `scale` or `workers` out of range.

    >>> import tempfile
    >>> root = make_phantom(Path(tempfile.mkdtemp()) / "phantom", 60, scale=0.1)
    >>> len(list((root / "images").iterdir()))
    60
    """
    if n_images < MINIMUM_IMAGES:
        raise ValueError(f"n_images must be at least {MINIMUM_IMAGES}, not {n_images}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    if not 0 < scale <= 1:
        raise ValueError(f"scale must lie in (0, 1], not {scale}")
    root = Path(root)
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise FileExistsError(f"{root} exists and is not empty; name a new folder or remove it")
    records = plan_records(n_images, seed, scale)
    originals = {record.seed: name for name, record in records.items() if record.source is None}
    with atomic_path(root) as folder:
        for name in ("images", "Annotations"):
            (folder / name).mkdir(parents=True)
        with ThreadPoolExecutor(workers) as pool:
            written = pool.map(partial(_write_image, folder), records, records.values())
            list(tqdm(written, "phantom", n_images, unit="image", disable=not progress))
        _write_table(folder / "dataset.xlsx", records)
        patients = {name: f"P{record.patient_seed[-1]:05d}" for name, record in records.items()}
        duplicates = [
            {"image_a": originals[record.seed], "image_b": name, "kind": record.kind}
            for name, record in records.items()
            if record.source
        ]
        facts = {"generator": "btxrd.extras.phantom", "n_images": n_images, "seed": seed}
        facts |= {"scale": scale, "version": VERSION}
        facts |= {"patients": patients, "duplicates": duplicates}
        write_json(folder / PHANTOM_FILE, facts)
    return root


def _write_image(folder: Path, name: str, record: Record) -> None:
    """Write an image and its annotation; a copy is drawn like its source, to the last byte.

    Near copies are then made a little brighter and compressed more.
    """
    drawn = record.source or record
    rng, center = np.random.default_rng(drawn.seed), CENTERS[drawn.center]
    image, outlines = draw(drawn, rng)
    quality = center.quality
    if rng.uniform() < center.colour:
        image = cv2.merge([image] * 3)
    if record.kind in ("near", "conflict"):
        image, quality = cv2.convertScaleAbs(image, alpha=1.01, beta=2), 80
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    (folder / "images" / name).write_bytes(data.tobytes())
    if record.subtype:
        document = json.dumps(_annotation(name, record, outlines), indent=2)
        (folder / "Annotations" / f"{Path(name).stem}.json").write_text(f"{document}\n")


def _annotation(name: str, record: Record, outlines: list[np.ndarray]) -> dict[str, Any]:
    """Return a LabelMe 5.4.1 document: a rectangle and a polygon for every lesion."""
    width, height = record.size
    spare = 0.008 * max(record.size) + 0.5
    document = {"version": "5.4.1", "flags": {}, "shapes": [], "imagePath": name}
    for outline in outlines:
        corners = np.clip([outline.min(0) - spare, outline.max(0) + spare], 0, record.size)
        for points, shape_type in ((corners, "rectangle"), (outline, "polygon")):
            shape = {"label": record.subtype, "points": points.tolist(), "group_id": None}
            shape |= {"description": "", "shape_type": shape_type, "flags": {}, "mask": None}
            document["shapes"].append(shape)
    return document | {"imageData": None, "imageHeight": height, "imageWidth": width}


def _row(name: str, record: Record) -> list[str | int]:
    """Return an image's 37 cells, in the order of the release's columns."""
    flags = {record.region, record.view}
    for bone, distance in record.lesions.items():
        flags.add(bone if distance else REGIONS[record.region].joint)
    if record.subtype:
        flags |= {"tumor", ("", "benign", "malignant")[record.label], record.subtype}
    first = [name, record.center, record.age, record.gender]
    return first + [int(column in flags) for column in RELEASE_COLUMNS[len(first) :]]


def _write_table(path: Path, records: dict[str, Record]) -> None:
    """Write `dataset.xlsx`; no time of writing is left in it, so equal rows give equal bytes."""
    book, dated = Workbook(), BytesIO()
    book.active.append(RELEASE_COLUMNS)
    for name, record in records.items():
        book.active.append(_row(name, record))
    book.save(dated)
    with zipfile.ZipFile(dated) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = re.sub(rb"\d{4}-\d\d-\d\dT[\d:]+Z", b"2025-01-01T00:00:00Z", old.read(name))
            new.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
