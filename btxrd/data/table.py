"""The release's table: one row an image, 37 columns, and the label that follows from them."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

__all__ = [
    "REGION_COLUMNS",
    "RELEASE_COLUMNS",
    "SITE_COLUMNS",
    "SUBTYPE_COLUMNS",
    "VIEW_COLUMNS",
    "one_hot_name",
    "read_table",
]

SITE_COLUMNS = (
    "hand",
    "ulna",
    "radius",
    "humerus",
    "foot",
    "tibia",
    "fibula",
    "femur",
    "hip bone",
    "ankle-joint",
    "knee-joint",
    "hip-joint",
    "wrist-joint",
    "elbow-joint",
    "shoulder-joint",
)
"""Bones and joints. Only tumour rows set any of them: never a feature of a model."""

CLASS_COLUMNS = ("tumor", "benign", "malignant")

SUBTYPE_COLUMNS = (
    "osteochondroma",
    "multiple osteochondromas",
    "simple bone cyst",
    "giant cell tumor",
    "osteofibroma",
    "synovial osteochondroma",
    "other bt",
    "osteosarcoma",
    "other mt",
)
REGION_COLUMNS = ("upper limb", "lower limb", "pelvis")
VIEW_COLUMNS = ("frontal", "lateral", "oblique")

FLAG_COLUMNS = SITE_COLUMNS + CLASS_COLUMNS + SUBTYPE_COLUMNS + REGION_COLUMNS + VIEW_COLUMNS
RELEASE_COLUMNS = ("image_id", "center", "age", "gender", *FLAG_COLUMNS)
"""The release's 37 columns in its order."""


def read_table(root: str | Path, set_aside: Collection[str] = ()) -> pd.DataFrame:
    """Read the table of a data set in the release's layout.

    Args:
        root: the folder that holds `dataset.xlsx` (or `dataset.csv`), `images/` and
            `Annotations/`; a `BTXRD/` folder inside it, as the archive unpacks, is found too.
        set_aside: ids of images whose rows are left out before anything is checked.

    Returns:
        One row an image in the release's order: its 37 columns, then `label` (int64: 0 Normal,
        1 Benign, 2 Malignant) and `path` (str, the image's file; where only a file with the other
        of the endings .jpeg and .jpg exists, that one). Whether the file exists is not checked.

    Raises:
        FileNotFoundError: no table under `root`.
        ValueError: names the file and its missing columns, its empty cells or its repeated ids.
    """
    source = _table_file(Path(root))
    reader = pd.read_excel if source.suffix == ".xlsx" else pd.read_csv
    table = reader(source)
    missing = [column for column in RELEASE_COLUMNS if column not in table.columns]
    if missing:
        raise ValueError(f"{source} lacks the columns {missing}; the release has 37 of them")
    table = table[list(RELEASE_COLUMNS)]
    table = table[~table["image_id"].isin(set_aside)].reset_index(drop=True)
    _refuse_bad_cells(table, source)
    table[list(FLAG_COLUMNS)] = table[list(FLAG_COLUMNS)].astype("int64")
    labels = np.select([table["malignant"] == 1, table["benign"] == 1], [2, 1], 0)
    images = source.parent / "images"
    return table.assign(
        label=labels.astype("int64"),
        path=[str(_image_file(images / image_id)) for image_id in table["image_id"]],
    )


def _table_file(root: Path) -> Path:
    for folder in (root, root / "BTXRD"):
        for name in ("dataset.xlsx", "dataset.csv"):
            if (folder / name).is_file():
                return folder / name
    raise FileNotFoundError(f"no dataset.xlsx or dataset.csv in {root}; is it the BTXRD folder?")


def _refuse_bad_cells(table: pd.DataFrame, source: Path) -> None:
    empty = table.columns[table.isna().any()]
    if len(empty):
        rows = (table.index[table[empty].isna().any(axis=1)] + 2).tolist()
        raise ValueError(f"{source} has empty cells in columns {list(empty)}, rows {rows[:5]}")
    repeated = table["image_id"][table["image_id"].duplicated()].unique()
    if len(repeated):
        raise ValueError(f"{source} names these images twice: {list(repeated[:5])}")
    flags = table[list(FLAG_COLUMNS)]
    wrong = flags.columns[~flags.isin([0, 1]).all()]
    if len(wrong):
        raise ValueError(f"{source}: columns {list(wrong)} hold something other than 0 and 1")


def _image_file(path: Path) -> Path:
    other = path.with_suffix(".jpg" if path.suffix == ".jpeg" else ".jpeg")
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
