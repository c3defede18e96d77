"""The audit of a data set: what is damaged or contradictory in it and stops or distorts a study.

What makes a table or an annotation unusable stands in `table` and `annotations`.
"""

import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from btxrd.data.annotations import inspect_annotation
from btxrd.data.radiograph import JPEG, read_header
from btxrd.data.table import (
    CLASS_COLUMNS,
    FLAG_COLUMNS,
    REGION_COLUMNS,
    SITE_COLUMNS,
    SUBTYPE_COLUMNS,
    VIEW_COLUMNS,
    inspect_table,
    is_image_name,
    listed,
    other_ending,
    table_file,
)

__all__ = [
    "CHECKS",
    "Finding",
    "audit",
    "exit_status",
    "finding",
    "findings_table",
    "unusable_images",
]

_FETCH = "Copy the file again from the release's archive."
_LAYOUT = "Unpack the archive again: table, images/ and Annotations/ stand side by side."
_CLASSES = "Correct the row's class and subtype columns, or remove the row."
_COMPARE = "Compare the row with its image; nothing is set aside."

_ERRORS = {
    "table-missing": ("There is neither dataset.xlsx nor dataset.csv", _LAYOUT),
    "table-unreadable": ("It is no table", "Save it as .xlsx, or as a .csv in UTF-8 with commas."),
    "table-empty": ("It is an empty table", _FETCH),
    "column-missing": ("It is not the release's table", _FETCH),
    "images-folder-missing": ("There are no images, so none was checked", _LAYOUT),
    "cell": ("A cell is wrong", "Correct it in the table, or remove the row."),
    "id-duplicate": ("An image has several rows", "Keep the right row and remove the others."),
    "class": ("Its tumor, benign and malignant contradict each other", _CLASSES),
    "subtype-without-tumor": ("It has a subtype without a tumour", _CLASSES),
    "subtype-against-class": ("Its subtype is of the other class", _CLASSES),
    "image-missing": ("A row names this image, and there is no such file", _FETCH),
    "image-unreadable": ("It is no image", _FETCH),
    "image-undecodable": ("It cannot be decoded", _FETCH),
    "image-not-jpeg": ("It is no JPEG", "Convert it to JPEG."),
    "image-truncated": ("It ends before its last line: the end marker FF D9 is missing", _FETCH),
    "annotation-invalid": ("It is no LabelMe annotation of a lesion",
                           "Correct it in LabelMe, or delete it to go without a lesion mask."),
    "annotation-size": ("It is drawn on another size than its image's", _FETCH),
}  # fmt: skip
_WARNINGS = {
    "annotations-folder-missing": ("No tumour has an annotation, so none a lesion mask", _LAYOUT),
    "subtype-count": ("It has not exactly one subtype", _COMPARE),
    "region-count": ("It has not exactly one region", _COMPARE),
    "view-count": ("It has not exactly one view", _COMPARE),
    "region-against-site": ("A bone or joint is of another region", _COMPARE),
    "image-mode": ("It is not grayscale or RGB", "Look at it: it is read in grayscale."),
    "image-altered": ("It has other bytes than the release's: resized or saved again",
                      "Fetch it again to have what was released; nothing is set aside."),
    "annotation-missing": ("Its image shows a tumour, and there is no such file",
                           "Fetch it, or go without a lesion mask."),
    "annotation-of-normal": ("It outlines a lesion, yet its row has no tumour", _COMPARE),
    "annotation-empty": ("It outlines no lesion", "Outline the lesion, or go without mask."),
}  # fmt: skip
CHECKS = _ERRORS | _WARNINGS
"""Every check: its key → its sentence, and the remedy."""

BENIGN_SUBTYPES, MALIGNANT_SUBTYPES = SUBTYPE_COLUMNS[:7], SUBTYPE_COLUMNS[7:]
REGIONS_OF_SITE = {
    **dict.fromkeys(SITE_COLUMNS, ("upper limb",)),
    **dict.fromkeys(("foot", "tibia", "fibula", "ankle-joint", "knee-joint"), ("lower limb",)),
    **dict.fromkeys(("femur", "hip bone", "hip-joint"), ("lower limb", "pelvis")),
}
"""The regions in which a site may lie: readers differ on what surrounds the hip."""

JPEG_END = b"\xff\xd9"
TAIL_BYTES = 4096


class Finding(NamedTuple):
    """One row of the table of findings."""

    severity: str
    subject: str
    image_id: str | None
    check: str
    what: str
    remedy: str


def finding(check: str, subject: str, image_id: str | None = None, detail: str = "") -> Finding:
    """Return a finding of one of the `CHECKS`."""
    says, remedy = CHECKS[check]
    severity = "error" if check in _ERRORS else "warning"
    what = f"{says}: {detail.rstrip('.')}." if detail else f"{says}."
    return Finding(severity, subject, image_id, check, what, remedy)


def findings_table(findings: Iterable[Finding]) -> pd.DataFrame:
    """Return findings as a table, one row a finding, in their order."""
    return pd.DataFrame(findings, columns=list(Finding._fields), dtype=object)


def audit(root: str | Path, progress: bool = False) -> pd.DataFrame:
    """Look for everything that is damaged or contradictory in a data set.

    Images are judged by header and end, not decoded: damage in a file's middle is not noticed.
    Files that no row of the table names are not looked at. `root` is as `read_table` takes it.

    Returns:
        One row a finding, errors first, then by subject: severity (`error` or `warning`), subject
        (a file, or a row of the table), image_id (str or None), check (a key of `CHECKS`), what,
        remedy. An error without image_id concerns the whole data set, or a row without a name.

    Raises:
        FileNotFoundError: `root` does not exist. Nothing inside it raises.
    """
    if not Path(root).exists():
        raise FileNotFoundError(f"there is no {root}")
    source = table_file(root)
    findings, flags = _inspect_rows(source)
    findings += _inspect_files(source.parent, flags, progress)
    findings.sort(key=lambda f: (f.severity, _natural(f.subject), f.check))
    return findings_table(findings)


def exit_status(findings: pd.DataFrame) -> int:
    """Return 0 where nothing was found, 1 where only warnings were, 2 where errors were.

    >>> exit_status(pd.DataFrame({"severity": ["warning", "warning"]}))
    1
    """
    if (findings["severity"] == "error").any():
        return 2
    return 1 if len(findings) else 0


def unusable_images(findings: pd.DataFrame) -> set[str]:
    """Return the image_ids with an error about the image, its annotation or its row."""
    return set(findings["image_id"][findings["severity"] == "error"].dropna())


def _natural(subject: str) -> str:
    return re.sub(r"\d+", lambda number: number[0].zfill(12), subject)


Flags = dict[str, set[str] | None]
"""The flags that are set, by image; None where one of the row's is neither 0 nor 1."""


def _inspect_rows(source: Path) -> tuple[list[Finding], Flags | None]:
    """Return what is wrong with the table, and its flags; None where no row can be told."""
    if not source.is_file():
        return [finding("table-missing", source.name)], None
    cells, faults = inspect_table(source)
    findings = [
        finding(f.check, f"{source.name} row {f.row}" if f.row else source.name, f.image_id, f.what)
        for f in faults
    ]
    if "image_id" not in cells.columns:
        return findings, None
    ids = cells["image_id"][cells["image_id"].map(is_image_name).astype(bool)]
    flags = cells.reindex(columns=FLAG_COLUMNS)
    flags = flags[flags.isin([0, 1]).all(axis=1)].astype(bool)
    named = {row: flags.columns[line].tolist() for row, line in flags.iterrows()}
    for check, (broken, columns) in _contradictions(flags).items():
        for row in flags.index[broken]:
            compared = listed([column for column in named[row] if column in columns]) or "none"
            findings.append(finding(check, f"{source.name} row {row}", ids.get(row), compared))
    return findings, {i: set(named[row]) if row in named else None for row, i in ids.items()}


def _contradictions(flags: pd.DataFrame) -> dict[str, tuple[pd.Series, tuple[str, ...]]]:
    """Return by check which rows (bool) contradict themselves, and the columns it compares."""
    tumor, benign, malignant = (flags[column] for column in CLASS_COLUMNS)
    subtypes, regions, views = (
        flags[list(columns)].sum(axis=1)
        for columns in (SUBTYPE_COLUMNS, REGION_COLUMNS, VIEW_COLUMNS)
    )
    strange = benign & flags[list(MALIGNANT_SUBTYPES)].any(axis=1)
    strange |= malignant & flags[list(BENIGN_SUBTYPES)].any(axis=1)
    elsewhere = pd.DataFrame(
        {s: flags[s] & ~flags[list(REGIONS_OF_SITE[s])].any(axis=1) for s in SITE_COLUMNS}
    ).any(axis=1)
    return {
        "class": ((benign & malignant) | ((benign | malignant) != tumor), CLASS_COLUMNS),
        "subtype-without-tumor": (~tumor & (subtypes > 0), SUBTYPE_COLUMNS),
        "subtype-against-class": ((benign ^ malignant) & strange, CLASS_COLUMNS + SUBTYPE_COLUMNS),
        "subtype-count": (tumor & (subtypes != 1), SUBTYPE_COLUMNS),
        "region-against-site": ((regions > 0) & elsewhere, SITE_COLUMNS + REGION_COLUMNS),
        "region-count": (regions != 1, REGION_COLUMNS),
        "view-count": (views != 1, VIEW_COLUMNS),
    }


Problems = list[tuple[str, str]]
"""Checks and what they found."""


def _inspect_files(folder: Path, flags: Flags | None, progress: bool) -> list[Finding]:
    """Return what is wrong with the files: those of the rows, or all where there are no rows."""
    images = _names_in(folder / "images", (".jpeg", ".jpg"))
    annotations = _names_in(folder / "Annotations", (".json",))
    if flags is None:
        flags = dict.fromkeys(sorted(images))
    findings = [] if images else [finding("images-folder-missing", "images")]
    if not annotations and any("tumor" in (named or ()) for named in flags.values()):
        findings.append(finding("annotations-folder-missing", "Annotations"))
    inspect = partial(_inspect_pair, folder=folder, images=images, annotations=annotations)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(inspect, flags, flags.values())
        bar = tqdm(done, "audit", total=len(flags), unit="image", disable=not progress)
        return findings + [found for pair in bar for found in pair]


def _names_in(folder: Path, endings: tuple[str, ...]) -> set[str]:
    if not folder.is_dir():
        return set()
    return {path.name for path in folder.glob("[!.]*") if path.name.endswith(endings)}


def _inspect_pair(
    image_id: str, flags: set[str] | None, folder: Path, images: set[str], annotations: set[str]
) -> list[Finding]:
    """Return what is wrong with an image and its annotation; `flags` is None where unknown."""
    name, file = image_id, f"{Path(image_id).stem}.json"
    size, about_image, about_annotation = None, [], []
    if name not in images and other_ending(name) in images:
        name = other_ending(name)
    if name in images:
        size, about_image = _inspect_image(folder / "images" / name)
    elif images:
        about_image = [("image-missing", "")]
    if file in annotations:
        about_annotation = _inspect_annotation(folder / "Annotations" / file, size, flags)
    elif annotations and flags and "tumor" in flags:
        about_annotation = [("annotation-missing", "")]
    return [
        *(finding(check, f"images/{name}", image_id, what) for check, what in about_image),
        *(finding(check, f"Annotations/{file}", image_id, w) for check, w in about_annotation),
    ]


def _inspect_image(path: Path) -> tuple[tuple[int, int] | None, Problems]:
    """Return an image's (width, height) as displayed, None if unreadable, and its problems."""
    try:
        header = read_header(path)
    except (OSError, ValueError) as error:
        return None, [("image-unreadable", f"{error!s:.160}")]
    problems = []
    if header.format not in JPEG:
        problems.append(("image-not-jpeg", f"it is {header.format}"))
    elif not _has_end(path, header.start):
        problems.append(("image-truncated", ""))
    if header.mode not in ("L", "RGB"):
        problems.append(("image-mode", header.mode))
    return (header.width, header.height), problems


def _has_end(path: Path, start: int) -> bool:
    """Return whether the end marker of a JPEG stands behind `start`, where its pixels begin."""
    with path.open("rb") as file:
        file.seek(-min(TAIL_BYTES, path.stat().st_size), os.SEEK_END)
        if file.read().rstrip(b"\0").endswith(JPEG_END):
            return True
    return path.read_bytes().rfind(JPEG_END, start) >= 0


def _inspect_annotation(
    path: Path, image_size: tuple[int, int] | None, flags: set[str] | None
) -> Problems:
    """Return what is wrong with an annotation by itself, with its image and with its row."""
    try:
        annotation, faults = inspect_annotation(path) if path.is_file() else (None, ["not a file"])
    except OSError as error:
        annotation, faults = None, [str(error)]
    if annotation is None:
        return [("annotation-invalid", listed(faults))]
    problems = []
    if flags is not None and "tumor" not in flags:
        problems.append(("annotation-of-normal", ""))
    elif not any(np.ptp(lesion.outline, axis=0).all() for lesion in annotation.lesions()):
        problems.append(("annotation-empty", ""))
    size = annotation.width, annotation.height
    if image_size is not None and image_size != size:
        sizes = "{} × {} px, its image {} × {} px".format(*size, *image_size)
        problems.append(("annotation-size", sizes))
    return problems
