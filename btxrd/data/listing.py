"""A table that lists radiographs and their labels: anybody's data, in any image format."""

import unicodedata
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd

from btxrd import CLASS_NAMES
from btxrd.data.audit import findings_table
from btxrd.data.cache import file_digests, open_cache
from btxrd.data.preprocessing import Preprocessing
from btxrd.data.release import Release, open_release
from btxrd.data.table import (
    CELL_RULES,
    REGION_COLUMNS,
    SUBTYPE_COLUMNS,
    VIEW_COLUMNS,
    listed,
    read_cells,
)

__all__ = ["LISTING_COLUMNS", "open_images", "read_listing"]

REQUIRED = ("path", "label")
TEXTS = (*REQUIRED, "group", "center", "gender")
FLAGS = (REGION_COLUMNS, VIEW_COLUMNS, SUBTYPE_COLUMNS)
RULED = ("age", "gender", *(column for family in FLAGS for column in family))

LISTING_COLUMNS = (*REQUIRED, "group", "center", *RULED)
"""The columns that are read; all but the first two may be missing, and their cells empty."""

LABELS = {str(number): number for number in range(len(CLASS_NAMES))} | {
    name.lower(): number for number, name in enumerate(CLASS_NAMES)
}

MOST_FAULTS = 20


def open_images(source: str | Path, preprocessing: Preprocessing, cache_dir: str | Path) -> Release:
    """Open a data set in the release's layout as `open_release` does, or else a listing.

    Of a CSV or Excel table, which `read_listing` reads, nothing is set aside: its owner can mend
    it.

    Raises:
        FileNotFoundError: there is neither.
        ImportError: an image is DICOM, and what reads it is not installed.
        ValueError: as `open_release` and `read_listing` do; or names the images of the listing that
            cannot be decoded, and why.
    """
    if Path(source).is_dir():
        return open_release(source, preprocessing, cache_dir)
    table, notes = read_listing(source, cache_dir)
    cache = open_cache(table, preprocessing, cache_dir)
    broken = cache.index["error"].dropna()
    if len(broken):
        raise ValueError("\n".join(f"{source} lists what is no image: {why}" for why in broken))
    return Release(table, cache, findings_table([]), notes)


def read_listing(source: str | Path, cache_dir: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """Read a CSV or Excel table of images and labels.

    Of rows whose files have the same bytes only the first is read; their groups are joined, because
    the patient is one.

    Args:
        source: has the columns `path` (relative ones count from the table's folder) and `label` (a
            name or number of `CLASS_NAMES`), and may have `group` (the patient; by default each
            image is its own), `center`, `age` in years, `gender` (M or F), and the release's
            columns of region, view and subtype (0 or 1). Capitals in these names do not matter.
            Paths, labels, groups, centers and genders are text without the blanks round it, also
            where Excel holds a number; only an empty cell is empty.
        cache_dir: where digests of files are remembered.

    Returns:
        One row an image in the file's order: `image_id` (the path as it is written), `path`,
        `label` (int64), `group` and `center` (str), and the file's other columns, those that are
        not read untouched. And lines that name the rows left out and the groups joined.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: names the file and every row that cannot be used, and what would be right.
    """
    source = Path(source)
    if not source.is_file():
        raise FileNotFoundError(f"there is no {source}")
    try:
        cells = read_cells(source, TEXTS, LISTING_COLUMNS)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    forms = {column: _trimmed if column == "path" else _name for column in TEXTS}
    texts = {column: cells[column].map(form) for column, form in forms.items() if column in cells}
    rows = cells.assign(**texts).astype(object)
    rows = rows.where(rows.notna(), None).dropna(how="all")
    missing = [column for column in REQUIRED if column not in rows]
    if missing or rows.empty:
        what = f"no column {listed(missing)}" if missing else "no rows"
        raise ValueError(f"{source} has {what}; a listing has `path,label` and a row an image")
    again = _seen_before(rows["path"].dropna(), source.parent, cache_dir)
    found = _faults(rows, source.parent, again, written=cells["path"])
    faults = [f"{source} row {row}: {what}" for row, what in found]
    if len(faults) > MOST_FAULTS:
        faults[MOST_FAULTS:] = [f"and {len(faults) - MOST_FAULTS} more"]
    if faults:
        raise ValueError("\n".join(faults))
    return _as_table(rows, source, again), list(_notes(rows, again))


def _trimmed(cell: Any) -> str | None:
    return None if cell is None else str(cell).strip() or None


def _name(cell: Any) -> str | None:
    """Return a cell's text with each letter and its accent as one character."""
    text = _trimmed(cell)
    return text and unicodedata.normalize("NFC", text)


def _seen_before(paths: pd.Series, folder: Path, cache_dir: str | Path) -> dict[int, int]:
    """Return row → the first row that shows the same image, for all but first rows."""
    files = paths.map(lambda path: str(folder / path))
    contents = files.map(file_digests(files.to_frame("path"), cache_dir)).dropna()
    first = contents.index.to_series().groupby(contents).transform("min")
    return first[first != first.index].to_dict()


def _faults(
    rows: pd.DataFrame, folder: Path, again: Mapping[int, int], written: pd.Series
) -> Iterator[tuple[int, str]]:
    ruled = [column for column in RULED if column in rows]
    labels = {row: LABELS.get((label or "").lower()) for row, label in rows["label"].items()}
    for row, cell in rows.to_dict("index").items():
        first = again.get(row, row)
        if cell["path"] is None:
            yield row, "path is empty"
        elif not (folder / cell["path"]).is_file():
            is_number = isinstance(written[row], Real)
            remedy = "; the cell is a number: format the column as text" if is_number else ""
            yield row, f"there is no file {folder / cell['path']}{remedy}"
        elif None not in (labels[row], labels[first]) and labels[row] != labels[first]:
            here, there = CLASS_NAMES[labels[row]], CLASS_NAMES[labels[first]]
            same = f"the same image is {there} in row {first} ({rows['path'][first]})"
            yield row, f"{cell['path']} is {here}, but {same}"
        if labels[row] is None:
            found = "empty" if cell["label"] is None else f"{cell['label']!r:.40}"
            yield row, f"label is {found}, not {listed(CLASS_NAMES)} or 0 to {len(CLASS_NAMES) - 1}"
        for column in ruled:
            words, is_right = CELL_RULES[column]
            if cell[column] is not None and not is_right(cell[column]):
                yield row, f"{column} is {cell[column]!r:.40}, not {words}"


def _as_table(rows: pd.DataFrame, source: Path, again: Mapping[int, int]) -> pd.DataFrame:
    alone = pd.Series([f"row {row}" for row in rows.index], rows.index)
    center = pd.Series(source.stem, rows.index)
    groups = rows["group"].fillna(alone) if "group" in rows else alone
    for row, first in again.items():
        groups = groups.mask(groups == groups[row], groups[first])
    table = rows.assign(
        image_id=rows["path"],
        path=[str(source.parent / path) for path in rows["path"]],
        label=rows["label"].str.lower().map(LABELS).astype("int64"),
        group=groups,
        center=rows["center"].fillna("not said") if "center" in rows else center,
    )
    table = table.drop(index=list(again)).reset_index(drop=True)
    if "age" in table:
        table["age"] = table["age"].astype("float64")
    for family in FLAGS:
        if set(family) & set(table):
            flags = table.reindex(columns=list(family)).astype("float64").fillna(0)
            table[list(family)] = flags.astype("int64")
    return table


def _notes(rows: pd.DataFrame, again: Mapping[int, int]) -> Iterator[str]:
    if again:
        pairs = listed([f"{first} (not {row})" for row, first in again.items()])
        yield f"Of rows that show the same image only the first is read: {pairs}."
    if "group" in rows:
        groups = rows["group"]
        pairs = dict.fromkeys((groups[first], groups[row]) for row, first in again.items())
        joined = [f"{a} and {b}" for a, b in pairs if a and b and a != b]
        if joined:
            yield f"Groups that share an image count as one patient: {listed(joined)}."
