"""The release's table: one row an image, 37 columns, and the label that follows from them."""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from btxrd.files import in_a_line

__all__ = [
    "CELL_RULES",
    "CLASS_COLUMNS",
    "FLAG_COLUMNS",
    "REGION_COLUMNS",
    "RELEASE_COLUMNS",
    "SITE_COLUMNS",
    "SUBTYPE_COLUMNS",
    "VIEW_COLUMNS",
    "Fault",
    "inspect_table",
    "is_image_name",
    "listed",
    "one_hot_name",
    "other_ending",
    "read_cells",
    "read_table",
    "table_file",
]

SITE_COLUMNS = (
    "hand", "ulna", "radius", "humerus", "foot", "tibia", "fibula", "femur", "hip bone",
    "ankle-joint", "knee-joint", "hip-joint", "wrist-joint", "elbow-joint", "shoulder-joint",
)  # fmt: skip
"""Bones and joints. Only tumour rows set any of them: never a feature of a model."""

CLASS_COLUMNS = ("tumor", "benign", "malignant")

SUBTYPE_COLUMNS = (
    "osteochondroma", "multiple osteochondromas", "simple bone cyst", "giant cell tumor",
    "osteofibroma", "synovial osteochondroma", "other bt", "osteosarcoma", "other mt",
)  # fmt: skip
REGION_COLUMNS = ("upper limb", "lower limb", "pelvis")
VIEW_COLUMNS = ("frontal", "lateral", "oblique")

FLAG_COLUMNS = SITE_COLUMNS + CLASS_COLUMNS + SUBTYPE_COLUMNS + REGION_COLUMNS + VIEW_COLUMNS
RELEASE_COLUMNS = ("image_id", "center", "age", "gender", *FLAG_COLUMNS)
"""The release's 37 columns in its order."""


GRID: dict[str, Any] = {
    "header": None,
    "dtype": object,
    "keep_default_na": False,
    "na_values": [""],
}
"""The options with which pandas reads a table's cells as they are written, header included."""

IMAGE_NAME = re.compile(r"[\w-][\w.-]{0,200}\.jpe?g", re.ASCII)


def is_image_name(cell: Any) -> bool:
    """Return whether a cell is the plain name of a .jpeg or .jpg file, without folder or blank."""
    return isinstance(cell, str) and IMAGE_NAME.fullmatch(cell) is not None


CELL_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "image_id": ("a name like IMG000001.jpeg", is_image_name),
    "center": ("1, 2 or 3", lambda cell: cell in (1, 2, 3)),
    "age": ("a number from 0 to 120", lambda cell: isinstance(cell, Real) and 0 <= cell <= 120),
    "gender": ("M or F", lambda cell: cell in ("M", "F")),
    **dict.fromkeys(FLAG_COLUMNS, ("0 or 1", lambda cell: cell in (0, 1))),
}
"""The rule for the cells of each column, in words and as a test."""


class Fault(NamedTuple):
    """A fault that makes a table, or a row of it, unusable: the audit's check, and it in words.

    `row` is as the file counts its rows, None for the whole table.
    """

    check: str
    what: str
    row: int | None = None
    image_id: str | None = None


def read_table(root: str | Path, set_aside: Collection[str] = ()) -> pd.DataFrame:
    """Read the table of a data set in the release's layout.

    Args:
        root: the folder that holds `dataset.xlsx` (or `dataset.csv`), `images/` and
            `Annotations/`; a `BTXRD/` folder inside it, as the archive unpacks, is found too.
        set_aside: ids of images whose rows are left out before rows are checked.

    Returns:
        One row an image in the release's order: its 37 columns, then `label` (int64: 0 Normal,
        1 Benign, 2 Malignant) and `path` (str, the image's file; where only a file with the other
        of the endings .jpeg and .jpg exists, that one). Whether the file exists is not checked.

    Raises:
        FileNotFoundError: no table under `root`.
        ValueError: names the file, the row and the first fault that `inspect_table` finds.
    """
    source = table_file(root)
    if not source.is_file():
        raise FileNotFoundError(
            f"no dataset.xlsx or dataset.csv in {source.parent}; is it the BTXRD folder?"
        )
    cells, faults = inspect_table(source, set_aside)
    if faults:
        row = "" if faults[0].row is None else f" row {faults[0].row}"
        raise ValueError(f"{source}{row}: {faults[0].what}")
    table = cells[list(RELEASE_COLUMNS)].reset_index(drop=True).infer_objects()
    table = table.astype(dict.fromkeys(("center", *FLAG_COLUMNS), "int64"))
    labels = np.select([table["malignant"] == 1, table["benign"] == 1], [2, 1], 0)
    images = source.parent / "images"
    return table.assign(
        label=labels.astype("int64"),
        path=[str(_image_file(images / image_id)) for image_id in table["image_id"]],
    )


def table_file(root: str | Path) -> Path:
    """Return where a data set's table is, or should be, in `root` or in a `BTXRD/` in it."""
    folders = [Path(root), Path(root) / "BTXRD"]
    tables = [folder / name for folder in folders for name in ("dataset.xlsx", "dataset.csv")]
    found = [table for table in tables if table.is_file()]
    return found[0] if found else folders[folders[1].is_dir()] / "dataset.xlsx"


def inspect_table(
    source: Path, set_aside: Collection[str] = ()
) -> tuple[pd.DataFrame, list[Fault]]:
    """Return a table's cells, as `read_cells` does, or none, and all that makes it unusable.

    The faults of the whole table stand first.
    """
    try:
        cells = read_cells(source, texts=("image_id", "gender"))
    except ValueError as error:
        return pd.DataFrame(), [Fault("table-unreadable", str(error))]
    faults = []
    missing = [column for column in RELEASE_COLUMNS if column not in cells.columns]
    if missing:
        what = f"it lacks columns of the release's 37: {listed(missing)}"
        faults.append(Fault("column-missing", what))
    if cells.empty:
        faults.append(Fault("table-empty", "it has no rows"))
    if "image_id" in cells.columns:
        cells = cells[~cells["image_id"].isin(set_aside)]
    ids = cells.get("image_id", pd.Series(dtype=object))
    ids = ids[[isinstance(cell, str) for cell in ids]]
    return cells, [*faults, *_cell_faults(cells, ids), *_duplicates(ids)]


def read_cells(source: Path, texts: Sequence[str], names: Collection[str] = ()) -> pd.DataFrame:
    """Read the cells of an .xlsx or .csv table.

    Args:
        texts: the columns in which a number of a .csv stays text.
        names: of columns that are found whatever the case of their letters in the file.

    Returns:
        The cells as they stand in the file, None for empty ones (`NA` and the like are text),
        indexed by the file's row numbers; the columns' names without blanks round them.

    Raises:
        ValueError: it is no such table; says why, without the file's name.
    """
    is_csv = source.suffix.lower() == ".csv"
    try:
        grid = _read_csv(source) if is_csv else pd.read_excel(source, **GRID)
    except Exception as error:  # zip, XML and CSV parsers raise whatever the bytes provoke
        raise ValueError(f"it cannot be read: {in_a_line(error)}") from error
    grid.index += 1
    cells = grid.iloc[1:].set_axis(_column_names(grid, names), axis=1)
    if is_csv:
        cells = cells.dropna(how="all")
        for column in cells.columns.difference(list(texts)):
            # Each cell by itself: one of text leaves the other cells of its column numbers.
            number = pd.to_numeric(cells[column], errors="coerce").notna()
            cells.loc[number, column] = pd.to_numeric(cells.loc[number, column]).astype(object)
    return cells.astype(object).where(cells.notna(), None)


def _read_csv(source: Path) -> pd.DataFrame:
    with source.open(encoding="utf-8-sig") as file:
        header = file.readline().strip()
    if header and "," not in header:
        raise ValueError(f"its columns are separated by something other than commas: {header:.40}")
    # Blank lines are kept while counting, so that a row's number is the file's.
    return pd.read_csv(source, skip_blank_lines=False, encoding="utf-8-sig", **GRID)


def _column_names(grid: pd.DataFrame, names: Collection[str]) -> list[str]:
    """Return the names in the first row of a table; ValueError where two are the same."""
    known = {name.lower(): name for name in names}
    found: dict[str, str] = {}
    for place, cell in enumerate(grid.head(1).to_numpy().ravel(), start=1):
        written = f"column {place}" if pd.isna(cell) else str(cell)
        name = known.get(written.strip().lower(), written.strip())
        if name in found:
            raise ValueError(f"two of its columns are {name}: {found[name]!r} and {written!r}")
        found[name] = written
    return list(found)


def _cell_faults(cells: pd.DataFrame, ids: pd.Series) -> Iterator[Fault]:
    columns = [column for column in RELEASE_COLUMNS if column in cells.columns]
    good = pd.DataFrame({c: cells[c].map(CELL_RULES[c][1]) for c in columns}, dtype=bool)
    for row in good.index[~good.all(axis=1)]:
        wrong = []
        for column, cell in cells.loc[row, good.columns[~good.loc[row]]].items():
            found = "empty" if cell is None else f"{cell!r:.40}, not {CELL_RULES[column][0]}"
            wrong.append(f"{column} is {found}")
        yield Fault("cell", listed(wrong), row, ids.get(row))


def _duplicates(ids: pd.Series) -> Iterator[Fault]:
    """Yield the rows of one image: either ending names the same one, with one annotation."""
    stems = ids.map(lambda name: Path(name).stem)
    for row in stems.index[stems.duplicated(keep=False)]:
        rows = listed([*map(str, stems.index[stems == stems[row]])])
        yield Fault("id-duplicate", f"{stems[row]} stands in rows {rows}", row, ids[row])


def listed(names: Sequence[str]) -> str:
    """Return names in a line, at most six of them.

    >>> listed("abcdefgh")
    'a, b, c, d, e, f and 2 more'
    """
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def other_ending(name: str) -> str:
    """Return an image's name with the other of the endings .jpeg and .jpg.

    >>> other_ending("IMG000001.jpeg")
    'IMG000001.jpg'
    """
    path = Path(name)
    return str(path.with_suffix(".jpg" if path.suffix == ".jpeg" else ".jpeg"))


def _image_file(path: Path) -> Path:
    other = path.with_name(other_ending(path.name))
    return other if other.is_file() and not path.is_file() else path


def one_hot_name(table: pd.DataFrame, columns: tuple[str, ...], none: str = "none") -> pd.Series:
    """Return, for every row, the first of `columns` that is set, or `none`.

    >>> frame = pd.DataFrame({"frontal": [1, 0, 0], "lateral": [0, 1, 0]})
    >>> one_hot_name(frame, ("frontal", "lateral")).tolist()
    ['frontal', 'lateral', 'none']
    """
    flags = table[list(columns)].to_numpy() == 1
    names = np.array([*columns, none], dtype=object)
    return pd.Series(names[np.where(flags.any(1), flags.argmax(1), len(columns))], table.index)
