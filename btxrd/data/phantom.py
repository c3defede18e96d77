"""Phantom BTXRD: drawn radiographs in the exact layout of the release.

What no stage may tell from the real thing by its format: `images/`, `Annotations/` (LabelMe),
`dataset.xlsx` with the 37 columns. The proportions of classes, centers and subtypes, and the
traps of the real data set, are planted: ordered ids, sites on tumours only, small malignant
images in center 1, several views a patient in consecutive rows, duplicates, one conflict.
The true patients stand in `phantom.json`, which no stage of the study reads; tests do.
"""

import itertools
import json
import multiprocessing
import os
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from openpyxl import Workbook
from openpyxl.xml.functions import tostring
from tqdm.auto import tqdm

from btxrd.data.phantom_anatomy import TEMPLATES, Site, View
from btxrd.data.phantom_drawing import draw_view
from btxrd.files import atomic_path, write_json

__all__ = ["PHANTOM_FILE", "is_phantom", "make_phantom"]

PHANTOM_FILE = "phantom.json"
"""The sidecar at a phantom's root: how it was made, its true patients, its planted pairs."""

MINIMUM_IMAGES = 60
VERSION = 1

# Images by (center, class) in the release; classes 0 Normal, 1 Benign, 2 Malignant.
RELEASE = {
    (1, 0): 1593, (1, 1): 1110, (1, 2): 235,
    (2, 0): 259, (2, 1): 214, (2, 2): 76,
    (3, 0): 27, (3, 1): 201, (3, 2): 31,
}  # fmt: skip
RELEASE_JPG, RELEASE_IMAGES = 27, 3746

SITES = (
    "hand", "ulna", "radius", "humerus", "foot", "tibia", "fibula", "femur", "hip bone",
    "ankle-joint", "knee-joint", "hip-joint", "wrist-joint", "elbow-joint", "shoulder-joint",
)  # fmt: skip
REGIONS = ("upper limb", "lower limb", "pelvis")
VIEWS = ("frontal", "lateral", "oblique")
VIEW_CHANCES = (0.72, 0.24, 0.04)


@dataclass(frozen=True)
class Subtype:
    """A tumour's class, its images in the release, typical ages and where in a bone it sits."""

    label: int
    images: int
    ages: tuple[float, float, float]
    kinds: tuple[str, ...]


SUBTYPES = {
    "osteochondroma": Subtype(1, 754, (9, 30, 70), ("metaphysis", "shaft")),
    "multiple osteochondromas": Subtype(1, 263, (6, 12, 45), ("metaphysis", "shaft")),
    "simple bone cyst": Subtype(1, 206, (5, 15, 65), ("metaphysis", "shaft")),
    "giant cell tumor": Subtype(1, 93, (14, 30, 65), ("epiphysis",)),
    "osteofibroma": Subtype(1, 44, (5, 18, 55), ("shaft",)),
    "synovial osteochondroma": Subtype(1, 51, (25, 60, 78), ("joint",)),
    "other bt": Subtype(1, 115, (8, 30, 65), ("metaphysis", "shaft")),
    "osteosarcoma": Subtype(2, 297, (8, 17, 60), ("metaphysis",)),
    "other mt": Subtype(2, 45, (8, 45, 80), ("metaphysis", "shaft")),
}

COLUMNS = (
    "image_id", "center", "age", "gender", *SITES, "tumor", "benign", "malignant", *SUBTYPES,
    *REGIONS, *VIEWS,
)  # fmt: skip


@dataclass(frozen=True)
class Patient:
    """A patient: what the views share. `sites` is empty where there is no tumour."""

    number: int
    center: int
    label: int
    age: int
    male: bool
    template: str
    left: bool
    subtype: str | None
    sites: tuple[Site, ...]


@dataclass(frozen=True)
class Record:
    """One image: its id, patient, view and size; `copy_of` names the image it duplicates."""

    image_id: str
    patient: Patient
    view: str
    size: tuple[int, int]
    seeds: tuple[tuple[int, ...], tuple[int, ...]]
    copy_of: str | None = None
    kind: str = ""


def make_phantom(
    root: str | Path,
    n_images: int = 240,
    seed: int = 42,
    scale: float = 0.25,
    workers: int | None = None,
    progress: bool = False,
) -> Path:
    """Draw a phantom of the data set into the new folder `root` and return it.

    Args:
        root: folder to make; it may exist only if it is empty.
        n_images: images in all, at least 60; classes and centers as in the release's table.
        seed: equal arguments give byte-identical files, whatever `workers` (with the same
            versions of numpy and OpenCV).
        scale: image size relative to the release's (mean 1629 x 2129 pixels), in (0, 1].
        workers: processes that draw; None for one a core, 1 to draw in this process. Processes
            are spawned: a script calls this under `if __name__ == "__main__":`.
        progress: show a progress bar.

    Raises:
        FileExistsError: `root` exists and is not an empty folder.
        ValueError: `n_images` is too small, or `seed`, `scale` or `workers` out of range.

    >>> import tempfile
    >>> root = make_phantom(Path(tempfile.mkdtemp()) / "phantom", 60, scale=0.1, workers=1)
    >>> len(list((root / "images").iterdir()))
    60
    """
    _check_arguments(n_images, seed, scale, workers)
    root = Path(root)
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise FileExistsError(f"{root} exists and is not empty; name a new folder or remove it")
    records = _plant_copies(_plan_records(n_images, seed, scale), n_images, seed)
    with atomic_path(root) as folder:
        for name in ("images", "Annotations"):
            (folder / name).mkdir(parents=True)
        _draw_all(folder, records, workers, progress)
        _copy_duplicates(folder, records)
        _write_table(folder / "dataset.xlsx", [_row(record) for record in records])
        write_json(folder / PHANTOM_FILE, _sidecar(records, n_images, seed, scale))
    return root


def is_phantom(root: str | Path) -> bool:
    """Whether the data set at `root` was drawn by `make_phantom`.

    >>> is_phantom("no/such/folder")
    False
    """
    return (Path(root) / PHANTOM_FILE).is_file()


def _check_arguments(n_images: int, seed: int, scale: float, workers: int | None) -> None:
    if n_images < MINIMUM_IMAGES:
        raise ValueError(f"n_images must be at least {MINIMUM_IMAGES}, not {n_images}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    if not 0 < scale <= 1:
        raise ValueError(f"scale must lie in (0, 1], not {scale}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be 1 or more, or None, not {workers}")


# --- planning: who is there, in which row ----------------------------------------------------


def _cell_counts(n_images: int) -> dict[tuple[int, int], int]:
    """Images by (center, class), in the release's proportions, at least 2 each."""
    counts = _apportion({cell: count / RELEASE_IMAGES for cell, count in RELEASE.items()}, n_images)
    for cell in counts:
        while counts[cell] < 2:
            counts[max(counts, key=lambda other: counts[other])] -= 1
            counts[cell] += 1
    return counts


def _apportion(shares: dict[Any, float], total: int) -> dict[Any, int]:
    """Whole numbers that sum to `total`, by largest remainder."""
    counts = {key: int(share * total) for key, share in shares.items()}
    by_remainder = sorted(shares, key=lambda key: counts[key] - shares[key] * total)
    for key in itertools.islice(by_remainder, total - sum(counts.values())):
        counts[key] += 1
    return counts


def _plan_records(n_images: int, seed: int, scale: float) -> list[Record]:
    """All records in row order: center-1 tumours, other tumours, center-1 normals, the rest."""
    rng = np.random.default_rng([seed, 0])
    counts = _cell_counts(n_images)
    numbers = itertools.count()
    blocks = [[(1, 1), (1, 2)], [(2, 1), (2, 2)], [(3, 1), (3, 2)], [(1, 0)], [(2, 0)], [(3, 0)]]
    groups: list[tuple[Patient, list[str]]] = []
    for block in blocks:
        patients = [
            patient
            for cell in block
            for patient in _plan_cell(cell, counts[cell], n_images, rng, numbers)
        ]
        groups += [patients[index] for index in rng.permutation(len(patients))]
    images = [(patient, view) for patient, views in groups for view in views]
    n_jpg = max(1, round(n_images * RELEASE_JPG / RELEASE_IMAGES))
    records = []
    for index, (patient, view) in enumerate(images):
        suffix = "jpg" if index >= n_images - n_jpg else "jpeg"
        records.append(
            Record(
                f"IMG{index + 1:06d}.{suffix}",
                patient,
                view,
                _image_size(patient, scale, rng),
                ((seed, 1, patient.number), (seed, 2, index)),
            )
        )
    return records


def _plan_cell(
    cell: tuple[int, int],
    count: int,
    n_images: int,
    rng: np.random.Generator,
    numbers: Iterator[int],
) -> Iterator[tuple[Patient, list[str]]]:
    """Patients of one center and class with their views, `count` images in all."""
    center, label = cell
    singles = sum(target == cell for _, target, _ in _wanted_copies(n_images))
    names = [name for name, subtype in SUBTYPES.items() if subtype.label == label]
    shares = {name: SUBTYPES[name].images for name in names}
    total = sum(shares.values())
    drawn = _apportion({name: images / total for name, images in shares.items()}, count)
    for subtype, left in drawn.items() if label else [(None, count)]:
        while left:
            n_views = min(left, int(rng.choice(4, p=(0.5, 0.32, 0.1, 0.08))) + 1)
            n_views = 1 if singles > 0 else n_views
            singles -= 1
            left -= n_views
            patient = _plan_patient(next(numbers), center, label, subtype, rng)
            yield patient, _plan_views(n_views, rng)


def _plan_views(n_views: int, rng: np.random.Generator) -> list[str]:
    """Views of one patient, each once before any comes again."""
    views: list[str] = []
    while len(views) < n_views:
        views += rng.choice(VIEWS, 3, replace=False, p=VIEW_CHANCES).tolist()
    return views[:n_views]


def _plan_patient(
    number: int, center: int, label: int, subtype: str | None, rng: np.random.Generator
) -> Patient:
    names = list(TEMPLATES)
    weights = np.array([template.weight for template in TEMPLATES.values()])
    template = names[rng.choice(len(names), p=weights / weights.sum())]
    if subtype is None:
        age = int(np.clip(rng.normal(38, 20), 1, 88))
    else:
        age = int(np.clip(rng.triangular(*SUBTYPES[subtype].ages), 1, 88))
    return Patient(
        number,
        center,
        label,
        age,
        bool(rng.uniform() < 0.56),
        template,
        bool(rng.uniform() < 0.5),
        subtype,
        _plan_sites(template, subtype, rng) if subtype else (),
    )


def _plan_sites(template: str, subtype: str, rng: np.random.Generator) -> tuple[Site, ...]:
    """The sites of a patient's lesions: mostly one, two to three where multiple."""
    sites = TEMPLATES[template].sites
    fitting = [site for site in sites if site.kind in SUBTYPES[subtype].kinds]
    fitting = fitting or [site for site in sites if site.kind != "joint"]
    if subtype == "multiple osteochondromas":
        n_lesions = int(rng.integers(2, 4))
    else:
        n_lesions = 1 + int(rng.uniform() < 0.12)
    chosen = rng.permutation(len(fitting))[:n_lesions]
    return tuple(fitting[index] for index in chosen)


def _image_size(patient: Patient, scale: float, rng: np.random.Generator) -> tuple[int, int]:
    """(width, height) in pixels: small where center 1 exported its malignant images small."""
    box = TEMPLATES[patient.template].box
    aspect = box[0] / box[1] * rng.uniform(0.94, 1.06)
    if patient.center == 1:
        low, high = (400, 800) if patient.label == 2 else (1300, 2500)
    else:
        low, high = (500, 1500) if patient.center == 2 else (400, 1100)
    width = rng.uniform(low, high)
    height = np.clip(width / aspect, 311, 4881)
    return max(48, round(width * scale)), max(48, round(height * scale))


def _plant_copies(records: list[Record], n_images: int, seed: int) -> list[Record]:
    """Turn some patients' only images into copies of others': exact, near, one conflict.

    Copies of equal label belong to the same patient as their source and carry its row, every
    second near one into another center; the conflicting one, a benign image among the normals
    of center 1, keeps its own label.
    """
    rng = np.random.default_rng([seed, 3])
    records = list(records)
    numbers = [record.patient.number for record in records]
    free = set(range(len(records)))
    for kind, target_cell, source_cell in _wanted_copies(n_images):
        in_target, in_source = (
            [index for index in sorted(free) if _cell(records[index]) == cell]
            for cell in (target_cell, source_cell)
        )
        target = int(rng.choice([i for i in in_target if numbers.count(numbers[i]) == 1]))
        several = [i for i in in_source if numbers.count(numbers[i]) > 1]
        source = int(rng.choice(several or [i for i in in_source if i != target]))
        free -= {target, source}
        records[target] = _copied(records[target], records[source], kind)
    return records


def _wanted_copies(n_images: int) -> list[tuple[str, tuple[int, int], tuple[int, int]]]:
    """Kind, (center, class) of the copy and of its source for every planted duplicate."""
    n_exact, n_near = (max(2, round(n_images * share)) for share in (21 / 3746, 20 / 3746))
    wanted = [("conflict", (1, 0), (1, 1))]
    wanted += [("exact", (1, index % 2), (1, index % 2)) for index in range(n_exact)]
    wanted += [("near", (1 + index % 2, 0), (1, 0)) for index in range(n_near)]
    return wanted


def _cell(record: Record) -> tuple[int, int]:
    return record.patient.center, record.patient.label


def _copied(target: Record, source: Record, kind: str) -> Record:
    patient = replace(source.patient, center=target.patient.center)
    if kind == "conflict":
        patient = replace(patient, label=target.patient.label, subtype=None, sites=())
    return replace(
        target,
        patient=patient,
        view=source.view,
        size=source.size,
        copy_of=source.image_id,
        kind=kind,
    )


# --- files -----------------------------------------------------------------------------------


def _draw_all(folder: Path, records: list[Record], workers: int | None, progress: bool) -> None:
    """Draw and write every record that is no copy."""
    jobs = [(folder, record) for record in records if record.copy_of is None]
    workers = workers or os.cpu_count() or 1
    bar = tqdm(total=len(jobs), desc="phantom", unit="image", disable=not progress)
    with bar:
        if workers == 1:
            for job in jobs:
                _draw_record(job)
                bar.update()
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for _ in pool.map(_draw_record, jobs, chunksize=8):
                bar.update()


def _draw_record(job: tuple[Path, Record]) -> None:
    folder, record = job
    patient = record.patient
    view = View(
        patient.template,
        record.view,
        patient.center,
        patient.age,
        patient.left,
        patient.subtype,
        patient.sites,
        record.size,
        *record.seeds,
    )
    image, outlines, quality = draw_view(view)
    if np.random.default_rng([*record.seeds[1], 1]).uniform() < (0.08, 0.6, 0.8)[view.center - 1]:
        image = cv2.merge([image] * 3)
    _write_jpeg(folder / "images" / record.image_id, image, quality)
    if patient.subtype:
        height, width = image.shape[:2]
        annotation = _annotation(record.image_id, patient.subtype, outlines, width, height)
        path = folder / "Annotations" / f"{Path(record.image_id).stem}.json"
        path.write_text(json.dumps(annotation, indent=2) + "\n")


def _write_jpeg(path: Path, image: np.ndarray, quality: int) -> None:
    """Encode an image (height, width) or (height, width, 3), uint8."""
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise OSError(f"{path} could not be encoded as JPEG")
    path.write_bytes(data.tobytes())


def _annotation(
    image_id: str, label: str, outlines: list[np.ndarray], width: int, height: int
) -> dict[str, Any]:
    """A LabelMe 5.4.1 document: a rectangle and a polygon for every lesion."""
    shapes = []
    for outline in outlines:
        spare = 0.008 * max(width, height) + 0.5
        corners = [outline.min(0) - spare, outline.max(0) + spare]
        corners = np.clip(corners, 0, (width, height))
        shapes += [_shape(label, corners, "rectangle"), _shape(label, outline, "polygon")]
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": image_id,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _shape(label: str, points: np.ndarray, shape_type: str) -> dict[str, Any]:
    return {
        "label": label,
        "points": [[float(x), float(y)] for x, y in points],
        "group_id": None,
        "description": "",
        "shape_type": shape_type,
        "flags": {},
        "mask": None,
    }


def _copy_duplicates(folder: Path, records: list[Record]) -> None:
    """Write the copies: exact ones byte for byte, the others re-encoded a little brighter."""
    for record in records:
        if record.copy_of is None:
            continue
        source = folder / "images" / record.copy_of
        target = folder / "images" / record.image_id
        if record.kind == "exact":
            target.write_bytes(source.read_bytes())
        else:
            image = cv2.imread(str(source), cv2.IMREAD_GRAYSCALE)
            _write_jpeg(target, cv2.convertScaleAbs(image, alpha=1.01, beta=2), 80)
        if record.patient.subtype:
            path = folder / "Annotations" / f"{Path(record.copy_of).stem}.json"
            annotation = json.loads(path.read_text()) | {"imagePath": record.image_id}
            path.with_stem(Path(record.image_id).stem).write_text(
                json.dumps(annotation, indent=2) + "\n"
            )


def _row(record: Record) -> list[str | int]:
    """The record's 37 cells, in the order of `COLUMNS`."""
    patient = record.patient
    flags = {site.column for site in patient.sites}
    flags |= {TEMPLATES[patient.template].region, record.view}
    if patient.subtype:
        flags |= {"tumor", ("", "benign", "malignant")[patient.label], patient.subtype}
    first = [record.image_id, patient.center, patient.age, "M" if patient.male else "F"]
    return first + [int(column in flags) for column in COLUMNS[4:]]


def _write_table(path: Path, rows: list[list[str | int]]) -> None:
    """Write `dataset.xlsx`; no time of writing is left in it, so equal rows give equal bytes."""
    book = Workbook()
    for row in (COLUMNS, *rows):
        book.active.append(row)
    rough = path.with_name("rough.xlsx")
    book.save(rough)
    epoch = datetime(2025, 1, 1)
    book.properties.created = book.properties.modified = epoch
    with zipfile.ZipFile(rough) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in sorted(old.namelist()):
            core = name == "docProps/core.xml"
            data = tostring(book.properties.to_tree()) if core else old.read(name)
            member = zipfile.ZipInfo(name, epoch.timetuple()[:6])
            member.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(member, data)
    rough.unlink()


def _sidecar(records: list[Record], n_images: int, seed: int, scale: float) -> dict[str, Any]:
    return {
        "generator": "btxrd.data.phantom",
        "version": VERSION,
        "n_images": n_images,
        "seed": seed,
        "scale": scale,
        "patients": {record.image_id: f"P{record.patient.number:05d}" for record in records},
        "duplicates": [
            {"image_a": record.copy_of, "image_b": record.image_id, "kind": record.kind}
            for record in records
            if record.copy_of
        ],
    }
