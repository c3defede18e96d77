"""Plan of the phantom: its patients and images in row order, with the release's traps.

Planted: ordered ids, sites on tumours only, small malignant images in center 1, several views a
patient in consecutive rows, exact and near-duplicates, one pair of equal images with two labels.
"""

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from btxrd.data.table import VIEW_COLUMNS
from btxrd.extras.phantom.anatomy import REGIONS

__all__ = ["CENTERS", "SUBTYPES", "Center", "Record", "plan_records"]

Cell = tuple[int, int]
"""Center, and class: 0 Normal, 1 Benign, 2 Malignant."""

Span = tuple[float, float]
"""Lowest and highest value of a uniform draw."""

RELEASE: dict[Cell, int] = {
    (1, 1): 1110, (1, 2): 235,
    (2, 1): 214, (2, 2): 76,
    (3, 1): 201, (3, 2): 31,
    (1, 0): 1593, (2, 0): 259, (3, 0): 27,
}  # fmt: skip
"""The release's images by center and class, in the order of its rows; a center's tumours mixed."""


class Center(NamedTuple):
    """A center's exports.

    `width` is in pixels of the release, `rough` a factor on all by which its exposures differ from
    each other and from a good one, `quality` the JPEG's, `colour` the share of images with three
    channels.
    """

    width: Span
    rough: float
    quality: int
    colour: float


CENTERS = {
    1: Center((1300, 2500), rough=1, quality=92, colour=0.08),
    2: Center((500, 1500), rough=2, quality=84, colour=0.6),
    3: Center((400, 1100), rough=3, quality=72, colour=0.8),
}
SMALL: Span = (400, 800)
"""Width in pixels of malignant images from center 1."""


class Subtype(NamedTuple):
    """A tumour's class, its images in the release, and what its patients have in common.

    `ages` are lowest, usual and highest; `distance` is from the joint in units, 0 in the joint
    itself; `look` names how it is drawn.
    """

    label: int
    images: int
    ages: tuple[float, float, float]
    distance: Span
    look: str


SUBTYPES = {
    "osteochondroma": Subtype(1, 754, (9, 30, 70), (17, 32), "exostosis"),
    "multiple osteochondromas": Subtype(1, 263, (6, 12, 45), (17, 32), "exostosis"),
    "simple bone cyst": Subtype(1, 206, (5, 15, 65), (17, 32), "cyst"),
    "giant cell tumor": Subtype(1, 93, (14, 30, 65), (7, 9), "cyst"),
    "osteofibroma": Subtype(1, 44, (5, 18, 55), (28, 34), "cyst"),
    "synovial osteochondroma": Subtype(1, 51, (25, 60, 78), (0, 0), "exostosis"),
    "other bt": Subtype(1, 115, (8, 30, 65), (17, 32), "cyst"),
    "osteosarcoma": Subtype(2, 297, (8, 17, 60), (15, 19), "sunburst"),
    "other mt": Subtype(2, 45, (8, 45, 80), (17, 32), "moth-eaten"),
}


@dataclass(frozen=True)
class Record:
    """One image.

    `lesions` gives for each bone with a lesion its distance from the joint, in units; `size` is
    (width, height) in pixels. Bones and lesions are drawn with `patient_seed`, position, exposure
    and marks with `seed`. `source` is the image that this one duplicates, `kind` how: exact,
    near, or conflict (near, with another label).
    """

    patient_seed: tuple[int, ...]
    center: int
    label: int
    age: int
    gender: str
    region: str
    left: bool
    subtype: str | None
    lesions: dict[str, float]
    view: str = "frontal"
    size: tuple[int, int] = (0, 0)
    seed: tuple[int, ...] = ()
    source: "Record | None" = None
    kind: str = ""


def plan_records(n_images: int, seed: int, scale: float) -> dict[str, Record]:
    """Return all images by name: center-1 tumours, other tumours, center-1 normals, the rest."""
    rng, numbers = np.random.default_rng([seed, 0]), itertools.count()
    total = sum(RELEASE.values())
    counts = {cell: max(2, round(images * n_images / total)) for cell, images in RELEASE.items()}
    counts[1, 0] += n_images - sum(counts.values())
    copies: list[tuple[str, Cell, Cell]] = [("conflict", (1, 0), (1, 1))]
    for index in range(max(2, round(n_images / 180))):
        copies.append(("exact", (1, index % 2), (1, index % 2)))
        copies.append(("near", (1 + index % 2, 0), (1, 0)))
    groups: dict[Cell, list[list[Record]]] = {cell: [] for cell in RELEASE}
    for cell, count in (Counter(counts) - Counter(cell for _, cell, _ in copies)).items():
        while count:
            group = _plan_group((seed, 1, next(numbers)), cell, scale)[:count]
            groups[cell].append(group)
            count -= len(group)
    originals = {cell: list(itertools.chain(*found)) for cell, found in groups.items()}
    for kind, cell, origin in copies:
        source = originals[origin].pop(rng.integers(len(originals[origin])))
        copy = replace(source, center=cell[0], source=source, kind=kind)
        if kind == "conflict":
            copy = replace(copy, label=cell[1], subtype=None, lesions={})
        groups[cell].append([copy])
    records: list[Record] = []
    for _, cells in itertools.groupby(RELEASE, key=lambda cell: (cell[0], cell[1] > 0)):
        mixed = [group for cell in cells for group in groups[cell]]
        for index in rng.permutation(len(mixed)):
            records += mixed[index]
    first_jpg = n_images - max(1, round(n_images / 139))
    endings = ["jpeg"] * first_jpg + ["jpg"] * (n_images - first_jpg)
    names = [f"IMG{number:06d}.{ending}" for number, ending in enumerate(endings, start=1)]
    return dict(zip(names, records, strict=True))


def _plan_group(seed: tuple[int, ...], cell: Cell, scale: float) -> list[Record]:
    """Return one to four images of a patient; each view comes once before any comes again."""
    rng = np.random.default_rng([*seed, 0])
    shares = [region.weight for region in REGIONS.values()]
    region = str(rng.choice(list(REGIONS), p=shares))
    subtype, age, lesions = None, rng.normal(38, 20), {}
    if cell[1]:
        images = {name: one.images for name, one in SUBTYPES.items() if one.label == cell[1]}
        shares = np.array(list(images.values())) / sum(images.values())
        subtype = str(rng.choice(list(images), p=shares))
        age = rng.triangular(*SUBTYPES[subtype].ages)
        multiple = subtype == "multiple osteochondromas"
        count = rng.integers(2, 4) if multiple else 1 + (rng.uniform() < 0.12)
        bones = rng.permutation(list(REGIONS[region].ends))[:count].tolist()
        lesions = {bone: rng.uniform(*SUBTYPES[subtype].distance) for bone in bones}
    views = rng.choice(VIEW_COLUMNS, 3, replace=False, p=(0.72, 0.24, 0.04)).tolist() * 2
    n_views = rng.choice([1, 2, 3, 4], p=(0.5, 0.32, 0.1, 0.08))
    first = Record(
        patient_seed=seed,
        center=cell[0],
        label=cell[1],
        age=int(np.clip(age, 1, 88)),
        gender="M" if rng.uniform() < 0.56 else "F",
        region=region,
        left=bool(rng.uniform() < 0.5),
        subtype=subtype,
        lesions=lesions,
    )
    span, box = SMALL if cell == (1, 2) else CENTERS[cell[0]].width, REGIONS[region].box
    widths = scale * rng.uniform(*span, n_views)
    return [
        replace(
            first,
            view=view,
            size=(max(48, round(width)), max(48, round(width * box[1] / box[0]))),
            seed=(*seed, index),
        )
        for index, (view, width) in enumerate(zip(views, widths, strict=False), start=1)
    ]
