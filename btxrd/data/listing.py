"""A CSV that lists radiographs and their labels: anybody's data, in any image format."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from btxrd import CLASS_NAMES
from btxrd.data.table import (
    CELL_RULES,
    REGION_COLUMNS,
    SUBTYPE_COLUMNS,
    VIEW_COLUMNS,
    listed,
    read_cells,
)

__all__ = ["LISTING_COLUMNS", "read_listing"]

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


def read_listing(source: str | Path) -> pd.DataFrame:
    """Read a CSV of images and labels.

    Args:
        source: has the columns `path` (relative ones count from the CSV's folder) and `label` (a
            name or number of `CLASS_NAMES`), and may have: `group` (the patient or study; each
            image is its own by default), `center`, `age` in years, `gender` (M or F), and the
            release's columns of region, view and subtype (0 or 1).

    Returns:
        One row an image in the file's order: `image_id` (the path as it is written), `path`,
        `label` (int64), `group` and `center` (str), and the others that the file has; columns that
        are not read stand there too, untouched.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: names the file and every row that cannot be used, and what would be right.
    """
    source = Path(source)
    if not source.is_file():
        raise FileNotFoundError(f"there is no {source}")
    try:
        cells = read_cells(source, TEXTS)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    missing = [column for column in REQUIRED if column not in cells]
    if missing or cells.empty:
        what = f"no column {listed(missing)}" if missing else "no rows"
        raise ValueError(f"{source} has {what}; a listing has `path,label` and a row an image")
    faults = [f"{source} row {row}: {what}" for row, what in _faults(cells, source.parent)]
    if faults:
        more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
        raise ValueError("\n".join([*faults[:MOST_FAULTS], *more]))
    return _as_table(cells, source)


def _faults(cells: pd.DataFrame, folder: Path) -> Iterator[tuple[int, str]]:
    ruled = [column for column in RULED if column in cells]
    repeated = cells["path"].duplicated(keep=False)
    for row, cell in cells.to_dict("index").items():
        if cell["path"] is None:
            yield row, "path is empty"
        elif not (folder / cell["path"]).is_file():
            yield row, f"there is no file {folder / cell['path']}"
        elif repeated[row]:
            yield row, f"{cell['path']} stands in several rows"
        if _label(cell["label"]) is None:
            found = "empty" if cell["label"] is None else f"{cell['label']!r:.40}"
            yield row, f"label is {found}, not {listed(CLASS_NAMES)} or 0 to {len(CLASS_NAMES) - 1}"
        for column in ruled:
            words, is_right = CELL_RULES[column]
            if cell[column] is not None and not is_right(cell[column]):
                yield row, f"{column} is {cell[column]!r:.40}, not {words}"


def _label(cell: Any) -> int | None:
    return LABELS.get(str(cell).strip().lower())


def _as_table(cells: pd.DataFrame, source: Path) -> pd.DataFrame:
    table = cells.reset_index(drop=True)
    alone = pd.Series([f"row {row}" for row in cells.index])
    table = table.assign(
        image_id=table["path"],
        path=[str(source.parent / path) for path in table["path"]],
        label=table["label"].map(_label).astype("int64"),
        group=table.get("group", alone).where(lambda group: group.notna(), alone),
        center=table.get("center", pd.Series(source.stem, table.index)).fillna("not said"),
    )
    if "age" in table:
        table["age"] = table["age"].astype("float64")
    for family in FLAGS:
        if set(family) & set(table):
            flags = table.reindex(columns=list(family)).astype("float64").fillna(0)
            table[list(family)] = flags.astype("int64")
    return table
