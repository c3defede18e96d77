"""The file `predictions.csv`, from which every metric, interval and figure is computed.

That of a pool of folds also has a column `fold`, the fold whose network predicted a row: each image
is tested by one fold, and each fold keeps the val on which its thresholds are chosen.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from btxrd import CLASS_NAMES
from btxrd.files import read_csv, write_csv

__all__ = [
    "COLUMNS",
    "LOGIT_COLUMNS",
    "MALIGNANT",
    "PARTS",
    "PROBABILITY_COLUMNS",
    "Floats",
    "check_predictions",
    "fold_pairs",
    "labels",
    "predictions_frame",
    "probabilities",
    "read_predictions",
    "write_predictions",
]

Floats = NDArray[np.float64]

SUM_TOLERANCE = 1e-4
"""The probabilities of one image may differ from 1 in sum by this."""

MALIGNANT = CLASS_NAMES.index("Malignant")
"""The label of the malignant class."""

PARTS = ("val", "test")
"""The parts of a split that a run predicts."""

ROW_COLUMNS = ("image_id", "part", "center", "group", "label")
TEXTS = ROW_COLUMNS[:-1]
LOGIT_COLUMNS = tuple(f"logit_{name}" for name in CLASS_NAMES)
PROBABILITY_COLUMNS = tuple(f"p_{name}" for name in CLASS_NAMES)

COLUMNS = (*ROW_COLUMNS, *LOGIT_COLUMNS, *PROBABILITY_COLUMNS)
"""The columns of `predictions.csv`, in order."""


def predictions_frame(rows: pd.DataFrame, logits: ArrayLike) -> pd.DataFrame:
    """Return images with a model's logits and the probabilities, their softmax in float64.

    Args:
        rows: one row an image, with the columns `ROW_COLUMNS`: `part` is "val" or "test", `label`
            0, 1 or 2; other columns but `fold` are dropped.
        logits: (n, 3) finite floats, in the order of `rows` and of `btxrd.CLASS_NAMES`.

    Returns:
        A frame as `read_predictions` returns it.

    Raises:
        ValueError: shapes disagree, a column is missing, or a value is not allowed.
    """
    array = np.asarray(logits, dtype=np.float64)
    if array.shape != (len(rows), len(CLASS_NAMES)):
        raise ValueError(
            f"logits must have shape ({len(rows)}, {len(CLASS_NAMES)}), found {array.shape}"
        )
    _require_columns(rows, ROW_COLUMNS, "rows")
    frame = rows[list(ROW_COLUMNS)].reset_index(drop=True).astype(dict.fromkeys(TEXTS, str))
    frame[list(LOGIT_COLUMNS)] = array
    frame[list(PROBABILITY_COLUMNS)] = softmax(array, axis=1)
    if "fold" in rows:
        frame["fold"] = rows["fold"].to_numpy()
    return _checked(frame, "predictions")


def write_predictions(path: str | Path, frame: pd.DataFrame) -> None:
    """Write the frame of `predictions_frame` as CSV, atomically and with every digit.

    Raises:
        ValueError: the frame is not one that `read_predictions` would take back.
    """
    write_csv(path, _checked(frame, str(path)))


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read and check a `predictions.csv`.

    Returns:
        A frame with the columns `COLUMNS`, one row an image and part: `image_id`, `part`,
        `center` and `group` are text, `label` int64, logits and probabilities float64 as written.
        Of a pool of folds also `fold`; there an image may stand in the val of several.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: names the file and what is wrong in it.
    """
    try:
        frame = read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV table of predictions: {error}") from error
    return _checked(frame, str(path)).astype({"label": np.int64})


def fold_pairs(
    val: pd.DataFrame, test: pd.DataFrame
) -> list[tuple[pd.DataFrame, NDArray[np.bool_]]]:
    """Pair the val of each fold with its test rows: what is chosen there counts for them alone.

    Returns:
        For each fold its rows of `val` and a mask, (n,) booleans, of its rows of `test`. One pair,
        of all rows, where the predictions are not those of several folds.
    """
    if "fold" not in test:
        return [(val, np.full(len(test), True))]
    return [
        (val[val["fold"] == fold], (test["fold"] == fold).to_numpy())
        for fold in sorted(test["fold"].unique())
    ]


def labels(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Return the true labels of a predictions frame: (n,) int64."""
    return frame["label"].to_numpy(np.int64)


def probabilities(frame: pd.DataFrame) -> Floats:
    """Return the probabilities of a predictions frame: (n, 3) float64."""
    return frame[list(PROBABILITY_COLUMNS)].to_numpy(np.float64)


def check_predictions(
    y_true: ArrayLike, probabilities: ArrayLike
) -> tuple[NDArray[np.int64], Floats]:
    """Return labels (n,) int64 and probabilities (n, 3) float64, or say what is wrong with them.

    Raises:
        ValueError: with what was found and what is expected.

    >>> check_predictions([0, 3], [[1, 0, 0], [0, 1, 0]])
    Traceback (most recent call last):
    ...
    ValueError: labels must be 0 to 2 (Normal, Benign, Malignant), found 3
    """
    labels, scores = np.asarray(y_true), np.asarray(probabilities, dtype=np.float64)
    n_classes = len(CLASS_NAMES)
    if labels.ndim != 1 or len(labels) == 0:
        raise ValueError(f"labels must have shape (n,) with n ≥ 1, found {labels.shape}")
    expected = len(labels), n_classes
    if scores.shape != expected:
        raise ValueError(f"probabilities must have shape {expected}, found {scores.shape}")
    if not np.issubdtype(labels.dtype, np.number) or np.any(labels != np.floor(labels)):
        raise ValueError(f"labels must be whole numbers, found dtype {labels.dtype}")
    strange = labels[(labels < 0) | (labels >= n_classes)]
    if len(strange):
        allowed = f"0 to {n_classes - 1} ({', '.join(CLASS_NAMES)})"
        raise ValueError(f"labels must be {allowed}, found {strange[0]}")
    in_range = ((scores >= 0) & (scores <= 1 + SUM_TOLERANCE)).all(axis=1)
    rules = {
        "be finite": np.isfinite(scores).all(axis=1),
        "lie in [0, 1] (give the softmax, not the logits)": in_range,
        f"sum to 1 within {SUM_TOLERANCE}": np.abs(scores.sum(axis=1) - 1) <= SUM_TOLERANCE,
    }
    for rule, good in rules.items():
        if not good.all():
            bad = f"{(~good).sum()} of {len(good)} rows do not, row {good.argmin()} is"
            raise ValueError(f"probabilities must {rule}: {bad} {scores[good.argmin()]}")
    return labels.astype(np.int64), scores


def _require_columns(frame: pd.DataFrame, expected: Sequence[str], source: str) -> None:
    missing = [column for column in expected if column not in frame.columns]
    if missing:
        raise ValueError(
            f"{source}: columns missing: {', '.join(missing)}; expected {', '.join(expected)}"
        )


def _checked(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return the columns of the file; ValueError where one is missing or a value not allowed."""
    _require_columns(frame, COLUMNS, source)
    frame = frame[[*COLUMNS, *(["fold"] if "fold" in frame else [])]]
    if frame.empty:
        raise ValueError(f"{source}: no predictions, expected one row an image")
    empty = [column for column in frame if frame[column].isna().any()]
    if empty:
        raise ValueError(f"{source}: empty or NaN values in {', '.join(empty)}; none may be")
    unknown = sorted(set(frame["part"]) - set(PARTS))
    if unknown:
        raise ValueError(f"{source}: unknown part {unknown[0]!r}; allowed: {', '.join(PARTS)}")
    repeated = frame.duplicated(["image_id", "part"])
    if "fold" in frame:
        repeated &= (frame["part"] == "test") | frame.duplicated(["image_id", "part", "fold"])
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
    return frame
