"""Plan of the phantom: its patients and images in row order, with the release's traps.

Planted: ordered ids, sites on tumours only, small malignant images in center 1, several views a
patient in consecutive rows, exact and near-duplicates, one pair of equal images with two labels.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from btxrd.data.table import VIEW_COLUMNS
from btxrd.extras.phantom.anatomy import TEMPLATES, Site

__all__ = ["Patient", "Record", "plan_records"]

Cell = tuple[int, int]
"""Center, and class: 0 Normal, 1 Benign, 2 Malignant."""

RELEASE: dict[Cell, int] = {
    (1, 0): 1593, (1, 1): 1110, (1, 2): 235,
    (2, 0): 259, (2, 1): 214, (2, 2): 76,
    (3, 0): 27, (3, 1): 201, (3, 2): 31,
}  # fmt: skip
"""The release's images by center and class."""

RELEASE_IMAGES, RELEASE_JPG, RELEASE_EXACT, RELEASE_NEAR = 3746, 27, 21, 20

BLOCKS: tuple[tuple[Cell, ...], ...] = (
    ((1, 1), (1, 2)), ((2, 1), (2, 2)), ((3, 1), (3, 2)), ((1, 0),), ((2, 0),), ((3, 0),),
)  # fmt: skip
"""Cells in the order of the release's rows; those of one block stand mixed."""

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


@dataclass
class Record:
    """One image, `size` (width, height) in pixels.

    Views of a patient are drawn from the same `anatomy_seed` (bones, lesion) and each from its
    own `view_seed` (position, exposure, marks). `source` is the image that this one duplicates,
    `kind` how: exact, near, or conflict (near, with another label).
    """

    patient: Patient
    view: str
    size: tuple[int, int]
    anatomy_seed: tuple[int, ...]
    view_seed: tuple[int, ...]
    source: "Record | None" = None
    kind: str = ""
    image_id: str = ""


def plan_records(n_images: int, seed: int, scale: float) -> list[Record]:
    """Plan all images in row order: center-1 tumours, other tumours, center-1 normals, the rest."""
    rng = np.random.default_rng([seed, 0])
    counts = _apportion(RELEASE, n_images, least=2)
    copies = _planted_copies(n_images)
    for _, cell, _ in copies:
        counts[cell] -= 1
    numbers = itertools.count()
    studies: dict[Cell, list[list[Record]]] = {
        cell: [
            _plan_views(patient, n_views, seed, scale, rng)
            for patient, n_views in _plan_patients(cell, count, numbers, rng)
        ]
        for cell, count in counts.items()
    }
    originals = {cell: list(itertools.chain(*found)) for cell, found in studies.items()}
    for kind, cell, origin in copies:
        source = originals[origin].pop(rng.integers(len(originals[origin])))
        studies[cell].append([_copied(source, kind, cell)])
    records: list[Record] = []
    for block in BLOCKS:
        mixed = [study for cell in block for study in studies[cell]]
        for index in rng.permutation(len(mixed)):
            records += mixed[index]
    first_jpg = n_images - max(1, round(n_images * RELEASE_JPG / RELEASE_IMAGES))
    for index, record in enumerate(records):
        record.image_id = f"IMG{index + 1:06d}.{'jpg' if index >= first_jpg else 'jpeg'}"
    return records


def _apportion(weights: dict[Any, int], total: int, least: int = 0) -> dict[Any, int]:
    """Whole numbers in proportion to the weights, by largest remainder, each at least `least`."""
    shares = {key: weight * total / sum(weights.values()) for key, weight in weights.items()}
    counts = {key: int(share) for key, share in shares.items()}
    by_remainder = sorted(shares, key=lambda key: counts[key] - shares[key])
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    while min(counts.values()) < least:
        counts[max(counts, key=counts.__getitem__)] -= 1
        counts[min(counts, key=counts.__getitem__)] += 1
    return counts


def _planted_copies(n_images: int) -> list[tuple[str, Cell, Cell]]:
    """Kind of every duplicate, the cell that it stands in and the one that its source is from."""
    n_exact, n_near = (
        max(2, round(n_images * count / RELEASE_IMAGES)) for count in (RELEASE_EXACT, RELEASE_NEAR)
    )
    return [
        ("conflict", (1, 0), (1, 1)),
        *(("exact", (1, index % 2), (1, index % 2)) for index in range(n_exact)),
        *(("near", (1 + index % 2, 0), (1, 0)) for index in range(n_near)),
    ]


def _copied(source: Record, kind: str, cell: Cell) -> Record:
    """A copy that stands under another center and, where labels conflict, as a normal image."""
    patient = replace(source.patient, center=cell[0])
    if kind == "conflict":
        patient = replace(patient, label=cell[1], subtype=None, sites=())
    return replace(source, patient=patient, source=source, kind=kind)


def _plan_views(
    patient: Patient, count: int, seed: int, scale: float, rng: np.random.Generator
) -> list[Record]:
    """A patient's images; each view comes once before any comes again."""
    views = rng.choice(VIEW_COLUMNS, 3, replace=False, p=VIEW_CHANCES).tolist() * 2
    anatomy_seed = (seed, 1, patient.number)
    return [
        Record(
            patient, view, _image_size(patient, scale, rng), anatomy_seed, (*anatomy_seed, index)
        )
        for index, view in enumerate(views[:count], start=1)
    ]


def _plan_patients(
    cell: Cell, count: int, numbers: Iterator[int], rng: np.random.Generator
) -> Iterator[tuple[Patient, int]]:
    """Patients of one center and class and how many images each has, `count` in all."""
    weights = {name: one.images for name, one in SUBTYPES.items() if one.label == cell[1]}
    for subtype, left in (_apportion(weights, count) if weights else {None: count}).items():
        while left:
            n_views = min(left, int(rng.choice(4, p=(0.5, 0.32, 0.1, 0.08))) + 1)
            left -= n_views
            yield _plan_patient(next(numbers), *cell, subtype, rng), n_views


def _plan_patient(
    number: int, center: int, label: int, subtype: str | None, rng: np.random.Generator
) -> Patient:
    weights = np.array([template.weight for template in TEMPLATES.values()])
    template = list(TEMPLATES)[rng.choice(len(weights), p=weights / weights.sum())]
    age = rng.triangular(*SUBTYPES[subtype].ages) if subtype else rng.normal(38, 20)
    return Patient(
        number,
        center,
        label,
        age=int(np.clip(age, 1, 88)),
        male=bool(rng.uniform() < 0.56),
        template=template,
        left=bool(rng.uniform() < 0.5),
        subtype=subtype,
        sites=_plan_sites(template, subtype, rng) if subtype else (),
    )


def _plan_sites(template: str, subtype: str, rng: np.random.Generator) -> tuple[Site, ...]:
    """The sites of a patient's lesions: mostly one, two or three where they are multiple."""
    sites = TEMPLATES[template].sites
    fitting = [site for site in sites if site.kind in SUBTYPES[subtype].kinds]
    fitting = fitting or [site for site in sites if site.kind != "joint"]
    multiple = subtype == "multiple osteochondromas"
    n_lesions = int(rng.integers(2, 4)) if multiple else 1 + int(rng.uniform() < 0.12)
    return tuple(fitting[index] for index in rng.permutation(len(fitting))[:n_lesions])


def _image_size(patient: Patient, scale: float, rng: np.random.Generator) -> tuple[int, int]:
    """(width, height) in pixels: small where center 1 exported its malignant images small."""
    box = TEMPLATES[patient.template].box
    low, high = {1: (1300, 2500), 2: (500, 1500), 3: (400, 1100)}[patient.center]
    if patient.center == 1 and patient.label == 2:
        low, high = 400, 800
    width = rng.uniform(low, high)
    height = np.clip(width * box[1] / box[0] * rng.uniform(0.94, 1.06), 311, 4881)
    return max(48, round(width * scale)), max(48, round(height * scale))
