"""`predictions.csv`: the one file from which every metric, interval and figure is computed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from btxrd import CLASS_NAMES
from btxrd.evaluation.metrics import check_predictions
from btxrd.files import atomic_path

__all__ = [
    "COLUMNS",
    "PARTS",
    "labels",
    "predictions_frame",
    "probabilities",
    "read_predictions",
    "write_predictions",
]

PARTS = ("val", "test")
"""The parts of a split that a run predicts."""

ROW_COLUMNS = ("image_id", "part", "center", "group", "label")
LOGIT_COLUMNS = tuple(f"logit_{name}" for name in CLASS_NAMES)
PROBABILITY_COLUMNS = tuple(f"p_{name}" for name in CLASS_NAMES)

COLUMNS = (*ROW_COLUMNS, *LOGIT_COLUMNS, *PROBABILITY_COLUMNS)
"""The columns of `predictions.csv`, in order."""


def predictions_frame(rows: pd.DataFrame, logits: ArrayLike) -> pd.DataFrame:
    """Join images with a model's logits for them, and the probabilities.

    Args:
        rows: one row an image, with `image_id`, `part` ("val" or "test"), `center`, `group` and
            `label` (0, 1, 2); other columns are dropped.
        logits: (n, 3) finite floats, in the order of `rows` and of `btxrd.CLASS_NAMES`.

    Returns:
        A frame with the columns `COLUMNS`; the probabilities are the softmax in float64.

    Raises:
        ValueError: shapes disagree, a column is missing, or a value is not allowed.

    >>> rows = pd.DataFrame({"image_id": ["IMG000001"], "part": ["test"], "center": [1],
    ...                      "group": ["g1"], "label": [2]})
    >>> predictions_frame(rows, [[0.0, 0.0, 0.0]])["p_Malignant"].round(3).tolist()
    [0.333]
    """
    array = np.asarray(logits, dtype=np.float64)
    if array.shape != (len(rows), len(CLASS_NAMES)):
        raise ValueError(
            f"logits must have shape ({len(rows)}, {len(CLASS_NAMES)}), found {array.shape}"
        )
    _check_columns(rows, ROW_COLUMNS, "rows")
    shares = np.exp(array - array.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    frame = rows[list(ROW_COLUMNS)].reset_index(drop=True)
    frame[list(LOGIT_COLUMNS)] = array
    frame[list(PROBABILITY_COLUMNS)] = shares
    _check_values(frame, "predictions")
    return frame


def write_predictions(path: str | Path, frame: pd.DataFrame) -> None:
    """Write the frame of `predictions_frame` as CSV, atomically and with every digit.

    Raises:
        ValueError: the frame is not one that `read_predictions` would take back.
    """
    _check_columns(frame, COLUMNS, str(path))
    _check_values(frame, str(path))
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, columns=list(COLUMNS))


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read and check a `predictions.csv`.

    Returns:
        A frame with the columns `COLUMNS`, one row an image and part: `image_id`, `part` and
        `group` are strings, `label` int64, logits and probabilities float64 as written.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: names the file and what is wrong in it: no table, a column missing, an
            unknown part, an image twice in a part, a label out of range, probabilities that
            are missing or do not sum to 1 within 1e-4.
    """
    text_columns = {"image_id": str, "part": str, "group": str}
    try:
        frame = pd.read_csv(path, dtype=text_columns)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV table of predictions: {error}") from error
    _check_columns(frame, COLUMNS, str(path))
    _check_values(frame, str(path))
    return frame[list(COLUMNS)].astype({"label": np.int64})


def labels(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Return the true labels of a predictions frame: (n,) int64."""
    return frame["label"].to_numpy(np.int64)


def probabilities(
    frame: pd.DataFrame, class_names: Sequence[str] = CLASS_NAMES
) -> NDArray[np.float64]:
    """Return the probabilities of a predictions frame: (n, C) float64, in the order of the names.

    >>> frame = pd.DataFrame({"p_Normal": [0.5], "p_Benign": [0.3], "p_Malignant": [0.2]})
    >>> probabilities(frame)
    array([[0.5, 0.3, 0.2]])
    """
    return frame[[f"p_{name}" for name in class_names]].to_numpy(np.float64)


def _check_columns(frame: pd.DataFrame, expected: Sequence[str], source: str) -> None:
    missing = [column for column in expected if column not in frame.columns]
    if missing:
        raise ValueError(
            f"{source}: columns missing: {', '.join(missing)}; expected {', '.join(expected)}"
        )


def _check_values(frame: pd.DataFrame, source: str) -> None:
    if frame.empty:
        raise ValueError(f"{source}: no predictions, expected one row an image")
    empty = [column for column in COLUMNS if frame[column].isna().any()]
    if empty:
        raise ValueError(f"{source}: empty or NaN values in {', '.join(empty)}; none may be")
    unknown = sorted(set(frame["part"]) - set(PARTS))
    if unknown:
        raise ValueError(f"{source}: unknown part {unknown[0]!r}; allowed: {', '.join(PARTS)}")
    repeated = frame.duplicated(["image_id", "part"])
    if repeated.any():
        image_id, part = frame.loc[repeated, ["image_id", "part"]].iloc[0]
        raise ValueError(f"{source}: {image_id} stands more than once in part {part!r}")
    for column in (*LOGIT_COLUMNS, *PROBABILITY_COLUMNS, "label"):
        if not pd.api.types.is_numeric_dtype(frame[column]):
            raise ValueError(f"{source}: {column} must be numbers, found {frame[column].iloc[0]!r}")
    if not np.isfinite(frame[list(LOGIT_COLUMNS)].to_numpy(np.float64)).all():
        raise ValueError(f"{source}: logits must be finite")
    try:
        check_predictions(frame["label"], probabilities(frame))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
