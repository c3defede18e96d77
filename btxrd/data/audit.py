"""The audit of a data set: everything that is damaged or contradictory in it, as one table."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import ExifTags, Image
from tqdm.auto import tqdm

from btxrd.data.annotations import read_annotation
from btxrd.data.preprocessing import SIDEWAYS
from btxrd.data.table import (
    FLAG_COLUMNS,
    REGION_COLUMNS,
    RELEASE_COLUMNS,
    SITE_COLUMNS,
    SUBTYPE_COLUMNS,
    VIEW_COLUMNS,
)

__all__ = ["CHECKS", "audit", "exit_status", "unusable_images"]

_FETCH = "Copy the file again from the release's archive."
_LAYOUT = "Unpack the archive again: table, images/ and Annotations/ stand side by side."
_CELLS = "Correct the cell in the table, or remove the row."
_CLASSES = "Correct the row's class and subtype columns, or remove the row."
_OUTLINE = "Correct the shape in LabelMe, or delete the annotation to go without a lesion mask."
_HARMLESS = "Nothing needs doing; remove the file to silence this."
_COMPARE = "Compare the row with its image; nothing is set aside."

# Check: what it looks for, what to do.
_ERRORS = {
    "table-missing": ("no dataset.xlsx or dataset.csv", _LAYOUT),
    "table-unreadable": ("a table that cannot be parsed", _FETCH),
    "table-empty": ("a table without rows", _FETCH),
    "column-missing": ("a column of the release's 37 that is not there", _FETCH),
    "images-folder-missing": ("no images/ folder, or none in it", _LAYOUT),
    "cell-missing": ("an empty cell", _CELLS),
    "cell-type": ("text where a number belongs", _CELLS),
    "id-malformed": ("an image_id that is no name of a .jpeg or .jpg file", _CELLS),
    "id-duplicate": ("an image_id in several rows", "Keep the right row and remove the others."),
    "center-range": ("a center other than 1, 2 and 3", _CELLS),
    "age-range": ("an age outside 0 to 120", _CELLS),
    "gender-value": ("a gender other than M and F", _CELLS),
    "flag-value": ("a flag other than 0 and 1", _CELLS),
    "class-both": ("benign and malignant at once", _CLASSES),
    "class-neither": ("a tumour neither benign nor malignant", _CLASSES),
    "class-without-tumor": ("benign or malignant without tumor", _CLASSES),
    "subtype-without-tumor": ("a subtype without tumor", _CLASSES),
    "subtype-against-class": ("a benign subtype on a malignant row or the reverse", _CLASSES),
    "image-missing": ("an image that a row names and that is not there", _FETCH),
    "image-empty": ("an image of zero bytes", _FETCH),
    "image-unreadable": ("an image whose header cannot be read", _FETCH),
    "image-not-jpeg": ("another format under a JPEG's name", "Convert it to JPEG."),
    "image-truncated": ("a JPEG without its end marker", _FETCH),
    "annotation-unreadable": ("an annotation that is not JSON", _FETCH),
    "annotation-layout": ("JSON that lacks what LabelMe writes", _FETCH),
    "annotation-size": ("an annotation of another size than its image", _FETCH),
    "shape-type": ("a shape other than rectangle and polygon", _OUTLINE),
    "polygon-points": ("a polygon of fewer than three points", _OUTLINE),
    "rectangle-points": ("a rectangle of other than two points", _OUTLINE),
    "polygon-area": ("a polygon without area", _OUTLINE),
    "point-outside": ("a point more than 2 px outside the image", _OUTLINE),
}  # fmt: skip
_WARNINGS = {
    "column-unknown": ("a column that the release does not have", "It is not read; remove it."),
    "annotations-folder-missing": ("no Annotations/ folder, or none in it", _LAYOUT),
    "subtype-missing": ("a tumour without subtype", _COMPARE),
    "subtype-several": ("more than one subtype", _COMPARE),
    "region-missing": ("no region", _COMPARE),
    "region-several": ("more than one region", _COMPARE),
    "region-against-site": ("a bone or joint of another region", _COMPARE),
    "site-of-normal": ("a bone or joint on a row without tumour", _COMPARE),
    "view-missing": ("no view", _COMPARE),
    "view-several": ("more than one view", _COMPARE),
    "image-extension": ("a file that ends in the other of .jpeg and .jpg", "Nothing: it is read."),
    "image-trailing-bytes": ("data after a JPEG's end", "Nothing: it is not read."),
    "image-mode": ("colours other than grayscale and RGB", "Look at it: it is read in grayscale."),
    "image-without-row": ("an image that no row names", _HARMLESS),
    "annotation-missing": ("a tumour without annotation", "Fetch it, or go without a lesion mask."),
    "annotation-without-row": ("an annotation that no row names", _HARMLESS),
    "annotation-of-normal": ("an annotation of a row without tumour", _COMPARE),
    "annotation-empty": ("an annotation without shapes", "Outline the lesion, or go without mask."),
    "label-against-subtype": ("a label other than the row's subtype", _COMPARE),
    "point-over-edge": ("a point up to 2 px outside the image", "Nothing: the mask ends there."),
    "rectangle-area": ("a rectangle without area", "Delete the shape in LabelMe."),
    "rectangle-without-polygon": ("a lesion with a box only", "Nothing: its box is its mask."),
    "polygon-without-rectangle": ("a lesion without box", "Nothing: its polygon is its mask."),
    "stray-file": ("a lock file, a nested folder or another stray", _HARMLESS),
}  # fmt: skip
_CATALOGUE = _ERRORS | _WARNINGS

CHECKS = {check: looks_for for check, (looks_for, _) in _CATALOGUE.items()}
"""Every check's key and what it looks for."""

TOLERANCE = 2.0
"""Pixels by which a point may leave the image before its annotation is refused."""

IMAGE_NAME = re.compile(r"[\w-][\w.-]{0,200}\.jpe?g", re.ASCII)
BENIGN_SUBTYPES = set(SUBTYPE_COLUMNS[:7])
REGIONS_OF_SITE = {
    **dict.fromkeys(SITE_COLUMNS, ("upper limb",)),
    **dict.fromkeys(("foot", "tibia", "fibula", "ankle-joint", "knee-joint"), ("lower limb",)),
    **dict.fromkeys(("femur", "hip bone", "hip-joint"), ("lower limb", "pelvis")),
}
"""Where a site may lie: what surrounds the hip is lower limb to some readers, pelvis to others."""

JPEG_END = b"\xff\xd9"
START_OF_SCAN = 0xDA
TAIL_BYTES = 4096


class Finding(NamedTuple):
    """One row of the table of findings."""

    severity: str
    subject: str
    image_id: str | None
    check: str
    what: str
    remedy: str


class Row(NamedTuple):
    """One row of the data set's table; an empty cell is None, an image_id that is no text too."""

    subject: str
    image_id: str | None
    cells: dict[str, Any]

    def flags(self) -> set[str] | None:
        """Return the flag columns that are set; None where any is neither 0 nor 1."""
        if not all(_is_flag(self.cells.get(column)) for column in FLAG_COLUMNS):
            return None
        return {column for column in FLAG_COLUMNS if self.cells[column] == 1}


def audit(root: str | Path, progress: bool = False) -> pd.DataFrame:
    """Look for everything that is damaged or contradictory in a data set.

    Images are judged by header and end, not decoded: damage in a file's middle is not noticed.

    Args:
        root: the folder that holds the table, `images/` and `Annotations/`; a `BTXRD/` folder
            inside it is found too.
        progress: show a progress bar.

    Returns:
        One row a finding, errors first, then by subject: severity (`error` or `warning`), subject
        (a file, or a row or column of the table), image_id (str or None), check (a key of
        `CHECKS`), what, remedy. An error without image_id concerns the whole data set, or a row
        that names no image.

    Raises:
        FileNotFoundError: `root` does not exist. Nothing inside it raises.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"there is no {root}")
    folder = _data_folder(root)
    findings = []
    rows = _read_rows(folder, findings)
    for row in rows or []:
        findings += _row_findings(row)
    findings += _duplicates(rows or [])
    findings += _folder_findings(folder, rows, progress)
    findings.sort(key=lambda f: (f.severity, _natural(f.subject), f.check))
    return pd.DataFrame(findings, columns=list(Finding._fields), dtype=object)


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
    errors = findings[findings["severity"] == "error"]
    return set(errors["image_id"].dropna())


def _finding(check: str, subject: str, image_id: str | None, what: str) -> Finding:
    severity = "error" if check in _ERRORS else "warning"
    return Finding(severity, subject, image_id, check, what, _CATALOGUE[check][1])


def _natural(subject: str) -> str:
    return re.sub(r"\d+", lambda number: number[0].zfill(12), subject)


# --- the table -------------------------------------------------------------------------------


def _data_folder(root: Path) -> Path:
    for folder in (root, root / "BTXRD"):
        if (folder / "dataset.xlsx").is_file() or (folder / "dataset.csv").is_file():
            return folder
    return root / "BTXRD" if (root / "BTXRD").is_dir() else root


def _read_rows(folder: Path, findings: list[Finding]) -> list[Row] | None:
    """Return the table's rows, None where no row can be told; add what is wrong to `findings`."""
    sources = (folder / name for name in ("dataset.xlsx", "dataset.csv"))
    source = next((source for source in sources if source.is_file()), None)
    if source is None:
        what = "There is neither a file dataset.xlsx nor a file dataset.csv."
        findings.append(_finding("table-missing", "dataset.xlsx", None, what))
        return None
    try:
        cells = _read_cells(source)
    except Exception as error:  # zip, XML and CSV parsers raise whatever the bytes provoke
        what = f"It cannot be read as a table: {_brief(error)}."
        findings.append(_finding("table-unreadable", source.name, None, what))
        return None
    if cells.empty:
        findings.append(_finding("table-empty", source.name, None, "It has no rows."))
    findings += _column_findings(cells, source.name)
    if "image_id" not in cells.columns:
        return None
    return [
        Row(f"{source.name} row {index + 2}", _text(record["image_id"]), record)
        for index, record in zip(cells.index, cells.to_dict("records"), strict=True)
    ]


def _read_cells(source: Path) -> pd.DataFrame:
    """Read the raw cells as objects: numbers where they are numbers, None where they are empty."""
    if source.suffix == ".xlsx":
        cells = pd.read_excel(source, dtype=object)
    else:
        # Blank lines are kept while counting, so that a row's number is the file's.
        cells = pd.read_csv(source, dtype=str, skip_blank_lines=False).dropna(how="all")
        for column in cells.columns.difference(["image_id", "gender"]):
            numbers = pd.to_numeric(cells[column], errors="coerce").astype(object)
            cells[column] = numbers.where(numbers.notna(), cells[column])
    return cells.astype(object).where(cells.notna(), None)


def _column_findings(cells: pd.DataFrame, source: str) -> Iterator[Finding]:
    for column in RELEASE_COLUMNS:
        if column not in cells.columns:
            what = f"The column {column!r} is missing."
            yield _finding("column-missing", f"{source} column {column}", None, what)
    for column in cells.columns:
        if column not in RELEASE_COLUMNS:
            what = f"The release has no column {str(column)!r}."
            yield _finding("column-unknown", f"{source} column {column}", None, what)


def _row_findings(row: Row) -> list[Finding]:
    """Return what is wrong with a row; its flags are compared only where each is 0 or 1."""
    problems = list(_cell_problems(row.cells))
    flags = row.flags()
    if flags is not None:
        problems += [*_class_problems(flags), *_place_problems(flags)]
    return [_finding(check, row.subject, row.image_id, what) for check, what in problems]


def _cell_problems(cells: dict[str, Any]) -> Iterator[tuple[str, str]]:
    cells = {column: cells[column] for column in RELEASE_COLUMNS if column in cells}
    empty = [column for column, cell in cells.items() if cell is None]
    if empty:
        yield "cell-missing", f"{_listed(empty)} is empty."
    cells = {column: cell for column, cell in cells.items() if cell is not None}
    image_id, gender = cells.pop("image_id", None), cells.pop("gender", None)
    if image_id is not None and not _is_image_name(image_id):
        yield "id-malformed", f"image_id is {image_id!r}, not a name like IMG000001.jpeg."
    if gender not in (None, "M", "F"):
        yield "gender-value", f"gender is {gender!r}, not M or F."
    text = {column: cell for column, cell in cells.items() if not isinstance(cell, Real)}
    if text:
        yield "cell-type", f"{_pairs(text)}, not a number."
    numbers = {column: cell for column, cell in cells.items() if column not in text}
    if numbers.get("center", 1) not in (1, 2, 3):
        yield "center-range", f"center is {numbers['center']:g}, not 1, 2 or 3."
    if not 0 <= numbers.get("age", 0) <= 120:
        yield "age-range", f"age is {numbers['age']:g}, not between 0 and 120."
    wrong = {c: numbers[c] for c in FLAG_COLUMNS if c in numbers and not _is_flag(numbers[c])}
    if wrong:
        yield "flag-value", f"{_pairs(wrong)}, not 0 or 1."


def _class_problems(flags: set[str]) -> Iterator[tuple[str, str]]:
    subtypes = [column for column in SUBTYPE_COLUMNS if column in flags]
    classes = flags & {"benign", "malignant"}
    if len(classes) == 2:
        yield "class-both", "benign and malignant are both 1."
    if "tumor" not in flags:
        if classes:
            yield "class-without-tumor", f"tumor is 0, yet {_listed(sorted(classes))} is 1."
        if subtypes:
            yield "subtype-without-tumor", f"tumor is 0, yet {_listed(subtypes)} is 1."
        return
    if not classes:
        yield "class-neither", "tumor is 1, yet benign and malignant are both 0."
    if not subtypes:
        yield "subtype-missing", "tumor is 1, yet every subtype is 0."
    if len(subtypes) > 1:
        yield "subtype-several", f"It has {len(subtypes)} subtypes: {_listed(subtypes)}."
    for name, strange in (("benign", set(subtypes) - BENIGN_SUBTYPES),
                          ("malignant", set(subtypes) & BENIGN_SUBTYPES)):  # fmt: skip
        if classes == {name} and strange:
            yield "subtype-against-class", f"It is {name}, yet {_listed(sorted(strange))} is 1."


def _place_problems(flags: set[str]) -> Iterator[tuple[str, str]]:
    for kind, columns in (("region", REGION_COLUMNS), ("view", VIEW_COLUMNS)):
        named = [column for column in columns if column in flags]
        if not named:
            yield f"{kind}-missing", f"Every {kind} is 0: {_listed(columns)}."
        if len(named) > 1:
            yield f"{kind}-several", f"It has {len(named)} {kind}s: {_listed(named)}."
    sites = [column for column in SITE_COLUMNS if column in flags]
    if sites and "tumor" not in flags:
        yield "site-of-normal", f"tumor is 0, yet {_listed(sites)} is 1."
    regions = flags & set(REGION_COLUMNS)
    strange = [site for site in sites if regions and regions.isdisjoint(REGIONS_OF_SITE[site])]
    if strange:
        yield "region-against-site", f"{_listed(strange)} against {_listed(sorted(regions))}."


def _duplicates(rows: list[Row]) -> Iterator[Finding]:
    """Compare the names without their endings: one annotation serves both endings."""
    namesakes = defaultdict(list)
    for row in rows:
        if row.image_id is not None:
            namesakes[Path(row.image_id).stem].append(row)
    for stem, same in namesakes.items():
        if len(same) > 1:
            numbers = ", ".join(row.subject.rpartition(" ")[2] for row in same)
            for row in same:
                what = f"{stem} stands in rows {numbers}."
                yield _finding("id-duplicate", row.subject, row.image_id, what)


def _is_flag(cell: Any) -> bool:
    return isinstance(cell, Real) and cell in (0, 1)


def _is_image_name(cell: Any) -> bool:
    return isinstance(cell, str) and IMAGE_NAME.fullmatch(cell) is not None


def _text(cell: Any) -> str | None:
    return cell if isinstance(cell, str) else None


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _pairs(cells: dict[str, Any]) -> str:
    return _listed([f"{column} is {cell!r}" for column, cell in cells.items()])


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160].rstrip(".")


# --- the files -------------------------------------------------------------------------------


def _folder_findings(folder: Path, rows: list[Row] | None, progress: bool) -> list[Finding]:
    """Return what is wrong with the files: those of the rows, or all where there are no rows."""
    images, findings = _listing(folder, "images", (".jpeg", ".jpg"))
    annotations, strays = _listing(folder, "Annotations", (".json",))
    findings += strays
    findings += _lock_files(folder)
    flags = {row.image_id: row.flags() for row in rows or [] if _is_image_name(row.image_id)}
    if not images:
        what = "There are no images, so no image was checked."
        findings.append(_finding("images-folder-missing", "images", None, what))
    if not annotations and any(named and "tumor" in named for named in flags.values()):
        what = "There are no annotations, so no tumour has a lesion mask."
        findings.append(_finding("annotations-folder-missing", "Annotations", None, what))
    if rows is None:
        flags = dict.fromkeys(sorted(images))
    else:
        findings += _unnamed(set(flags), images, annotations)
    check = partial(_file_findings, folder=folder, images=images, annotations=annotations)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(check, flags, flags.values())
        bar = tqdm(done, "audit", total=len(flags), unit="image", disable=not progress)
        return findings + [finding for found in bar for finding in found]


def _listing(folder: Path, name: str, endings: tuple[str, ...]) -> tuple[set[str], list[Finding]]:
    """Return the names in a folder that end as its files do, and findings about the others."""
    try:
        names = {path.name for path in (folder / name).iterdir()}
    except OSError:
        return set(), []
    kept = {file for file in names if file.endswith(endings) and not file.startswith(".")}
    what = f"It is no {endings[0]} file, yet it stands in {name}/."
    return kept, [_finding("stray-file", f"{name}/{file}", None, what) for file in names - kept]


def _lock_files(folder: Path) -> Iterator[Finding]:
    locks = folder.glob("~$*") if folder.is_dir() else ()
    for path in locks:
        what = "It is the lock file of a spreadsheet program."
        yield _finding("stray-file", path.name, None, what)


def _unnamed(ids: set[str], images: set[str], annotations: set[str]) -> Iterator[Finding]:
    stems = {Path(image_id).stem for image_id in ids}
    for name in images - ids:
        if _other_ending(name) not in ids or _other_ending(name) in images:
            what = "No row of the table names this image."
            yield _finding("image-without-row", f"images/{name}", None, what)
    for name in annotations:
        if Path(name).stem not in stems:
            what = "No row of the table names this annotation's image."
            yield _finding("annotation-without-row", f"Annotations/{name}", None, what)


def _other_ending(name: str) -> str:
    return name[:-4] + ".jpeg" if name.endswith(".jpg") else name[:-5] + ".jpg"


def _file_findings(
    image_id: str,
    flags: set[str] | None,
    folder: Path,
    images: set[str],
    annotations: set[str],
) -> list[Finding]:
    """Return what is wrong with the files of one image; `flags` is None where they are unknown."""
    findings = []
    size = None
    name = image_id
    if image_id not in images and _other_ending(image_id) in images:
        name = _other_ending(image_id)
        what = f"The table calls it {image_id}."
        findings.append(_finding("image-extension", f"images/{name}", image_id, what))
    if name in images:
        size, problems = _inspect_image(folder / "images" / name)
        findings += [_finding(check, f"images/{name}", image_id, what) for check, what in problems]
    elif images:
        what = "A row names this image, and there is no such file."
        findings.append(_finding("image-missing", f"images/{name}", image_id, what))
    file = f"{Path(image_id).stem}.json"
    if file in annotations:
        problems = list(_annotation_problems(folder / "Annotations" / file, size, flags))
    elif annotations and flags and "tumor" in flags:
        problems = [("annotation-missing", "Its image shows a tumour, and there is no such file.")]
    else:
        problems = []
    findings += [_finding(check, f"Annotations/{file}", image_id, what) for check, what in problems]
    return findings


def _inspect_image(path: Path) -> tuple[tuple[int, int] | None, list[tuple[str, str]]]:
    """Return an image's (width, height) as displayed, None if unreadable, and its problems."""
    try:
        if not path.is_file():
            return None, [("image-unreadable", "It is not a file.")]
        if path.stat().st_size == 0:
            return None, [("image-empty", "It has zero bytes.")]
        with Image.open(path) as header:
            size, mode, kind = header.size, header.mode, header.format
            turned = header.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS
        ending = _ending_problem(path) if kind in ("JPEG", "MPO") else None
    except Exception as error:  # Pillow's parsers raise whatever the bytes provoke
        return None, [("image-unreadable", f"Its header cannot be read: {_brief(error)}.")]
    problems = [ending] if ending else []
    if kind not in ("JPEG", "MPO"):
        problems.append(("image-not-jpeg", f"Its content is {kind}, not JPEG."))
    if mode not in ("L", "RGB"):
        problems.append(("image-mode", f"Its colour mode is {mode}, not L or RGB."))
    return size[::-1] if turned else size, problems


def _ending_problem(path: Path) -> tuple[str, str] | None:
    """Return the problem of a JPEG that does not end with its end marker, padding apart."""
    with path.open("rb") as file:
        file.seek(-min(TAIL_BYTES, path.stat().st_size), os.SEEK_END)
        if file.read().rstrip(b"\0").endswith(JPEG_END):
            return None
    data = path.read_bytes()
    end = data.rfind(JPEG_END, _scan_start(data))
    if end < 0:
        return "image-truncated", "It ends before its last line: the end marker FF D9 is missing."
    extra = data[end + len(JPEG_END) :].strip(b"\0")
    if extra:
        return "image-trailing-bytes", f"{len(extra)} bytes follow the end of the image."
    return None


def _scan_start(data: bytes) -> int:
    """Return where the first scan begins, past the thumbnails that also hold end markers."""
    position = 2
    while data[position : position + 1] == b"\xff":
        marker = data[position + 1 : position + 2]
        if marker == bytes([START_OF_SCAN]):
            return position
        length = int.from_bytes(data[position + 2 : position + 4])
        position += 1 if marker == b"\xff" else 2 + length
    return len(data)


# --- annotations -----------------------------------------------------------------------------


def _annotation_problems(
    path: Path, image_size: tuple[int, int] | None, flags: set[str] | None
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with an annotation file, by itself, with its image and its row."""
    try:
        if not path.is_file():
            raise OSError("it is not a file")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        yield "annotation-unreadable", f"It is not JSON: {_brief(error)}."
        return
    fault = _layout_fault(content)
    if fault:
        yield "annotation-layout", fault
        return
    size = content["imageWidth"], content["imageHeight"]
    if image_size is not None and image_size != size:
        sizes = f"{size[0]} × {size[1]} px, its image {image_size[0]} × {image_size[1]} px"
        yield "annotation-size", f"It is drawn on {sizes}."
    shapes = [(s["shape_type"], s["label"], _points(s["points"])) for s in content["shapes"]]
    wrong = list(_shape_problems(shapes))
    yield from wrong
    yield from _outside_problems(shapes, size)
    yield from _row_against_shapes(shapes, flags)
    if not any(check in _ERRORS for check, _ in wrong):
        yield from _pairing_problems(path, [kind for kind, _, _ in shapes])


def _layout_fault(content: Any) -> str | None:
    """Return what an annotation lacks of LabelMe's layout, None if nothing."""
    if not isinstance(content, dict):
        return "It is not a JSON object."
    for key in ("imageWidth", "imageHeight"):
        if type(content.get(key)) is not int or not 0 < content[key] < 2**31:
            return f"{key} is {str(content.get(key))[:40]!r}, not a number of pixels."
    if not isinstance(content.get("shapes"), list):
        return "shapes is not a list."
    for number, shape in enumerate(content["shapes"], 1):
        if not isinstance(shape, dict):
            return f"Shape {number} is not a JSON object."
        for key in ("label", "shape_type"):
            if not isinstance(shape.get(key), str):
                return f"{key} of shape {number} is missing or not text."
        if _points(shape.get("points")) is None:
            return f"The points of shape {number} are not pairs of numbers."
    return None


def _points(points: Any) -> np.ndarray | None:
    """Return points as a finite float64 array (points, 2), None if they are none."""
    if not isinstance(points, list):
        return None
    try:
        array = np.array(points or np.empty((0, 2)), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return array if array.shape == (len(points), 2) and np.isfinite(array).all() else None


def _shape_problems(shapes: list[tuple[str, str, np.ndarray]]) -> Iterator[tuple[str, str]]:
    for number, (kind, label, points) in enumerate(shapes, 1):
        name = f"Shape {number} ({kind}, {label!r})"
        if kind not in ("polygon", "rectangle"):
            yield "shape-type", f"{name} is neither a polygon nor a rectangle."
        elif kind == "polygon" and len(points) < 3:
            yield "polygon-points", f"{name} has {len(points)} points, not three or more."
        elif kind == "rectangle" and len(points) != 2:
            yield "rectangle-points", f"{name} has {len(points)} points, not two corners."
        elif kind == "polygon" and _area(points) < 1e-6:
            yield "polygon-area", f"{name} encloses no area."
        elif kind == "rectangle" and np.ptp(points, axis=0).min() == 0:
            yield "rectangle-area", f"{name} encloses no area."


def _area(polygon: np.ndarray) -> float:
    x, y = (polygon - polygon[0]).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _outside_problems(
    shapes: list[tuple[str, str, np.ndarray]], size: tuple[int, int]
) -> Iterator[tuple[str, str]]:
    for number, (kind, label, points) in enumerate(shapes, 1):
        beyond = round(float(np.maximum(-points, points - size).max(initial=0)), 1)
        if beyond > 0:
            check = "point-outside" if beyond > TOLERANCE else "point-over-edge"
            where = f"leaves the {size[0]} × {size[1]} px of its image by {beyond} px"
            yield check, f"Shape {number} ({kind}, {label!r}) {where}."


def _row_against_shapes(
    shapes: list[tuple[str, str, np.ndarray]], flags: set[str] | None
) -> Iterator[tuple[str, str]]:
    if flags is not None and "tumor" not in flags:
        yield "annotation-of-normal", "It outlines a lesion, yet its row has no tumour."
    elif not shapes:
        yield "annotation-empty", "It outlines no lesion."
    subtypes = [column for column in SUBTYPE_COLUMNS if column in (flags or ())]
    strange = sorted({label for _, label, _ in shapes} - set(subtypes))
    if subtypes and strange:
        what = f"It is labelled {_listed([*map(repr, strange)])}, its row says {_listed(subtypes)}."
        yield "label-against-subtype", what


def _pairing_problems(path: Path, kinds: list[str]) -> Iterator[tuple[str, str]]:
    """Compare boxes and polygons; `read_annotation` decides which box has no polygon."""
    polygons = kinds.count("polygon")
    boxes_alone = len(read_annotation(path).outlines) - polygons
    polygons_alone = polygons - (kinds.count("rectangle") - boxes_alone)
    if boxes_alone:
        yield "rectangle-without-polygon", f"{boxes_alone} of its rectangles enclose no polygon."
    if polygons_alone:
        yield "polygon-without-rectangle", f"{polygons_alone} of its polygons have no rectangle."
