"""One run's numbers with their intervals, from its predictions alone."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from btxrd.evaluation.calibration import calibration_summary
from btxrd.evaluation.intervals import Bootstrap, bootstrap_metrics
from btxrd.evaluation.metrics import PER_CLASS, classification_metrics
from btxrd.evaluation.operating_points import operating_points
from btxrd.predictions import labels, probabilities

__all__ = ["HEADLINES", "evaluate", "interval_table", "parts_of", "summarise"]

HEADLINES = (
    "accuracy",
    "macro_auc",
    "sensitivity/Malignant",
    "balanced_accuracy",
    "macro_f1",
    "quadratic_kappa",
    "malignant_as_normal",
    "brier",
    "log_loss",
)
"""The scalars of a whole part, in the order of the tables."""


def evaluate(
    predictions: pd.DataFrame, bootstrap: Bootstrap, prevalences: Sequence[float]
) -> dict[str, Any]:
    """Compute all that notebook 04 writes from predictions alone, and `btxrd verify` checks.

    Args:
        prevalences: shares of malignant images for further predictive values.

    Returns:
        Name of the file → its content: `metrics.json` (as `summarise`), `operating_points.csv`
        and `calibration.csv` (frames).
    """
    val, test = (predictions[predictions["part"] == part] for part in ("val", "test"))
    return {
        "metrics.json": summarise(predictions, bootstrap),
        "operating_points.csv": operating_points(val, test, bootstrap, prevalences=prevalences),
        "calibration.csv": calibration_summary(val, test, bootstrap),
    }


def parts_of(predictions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Cut predictions into the parts that are reported.

    These are `val` and `test`; where the test images come from several centers that val does not
    have (the center holdout), each of those too, as `test, center 2`.
    """
    parts = dict(list(predictions.groupby("part", sort=False)))
    test = parts["test"]
    several = len(set(test["center"])) > 1
    if several and "val" in parts and not set(test["center"]) & set(parts["val"]["center"]):
        parts |= {f"test, center {center}": rows for center, rows in test.groupby("center")}
    return parts


def summarise(predictions: pd.DataFrame, bootstrap: Bootstrap) -> dict[str, dict[str, Any]]:
    """Compute every metric of every part, with its interval.

    Returns:
        part → the dict of `classification_metrics`, with `intervals` (flat metric name →
        [estimate, low, high]) and `groups` (the number of study groups).
    """
    summary = {}
    for part, frame in parts_of(predictions).items():
        y_true, scores = labels(frame), probabilities(frame)
        table = bootstrap_metrics(y_true, scores, frame["group"], bootstrap)
        summary[part] = classification_metrics(y_true, scores) | {
            "groups": int(frame["group"].nunique()),
            "intervals": {str(name): row.tolist() for name, row in table.iterrows()},
        }
    return summary


def interval_table(summary: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Lay a summary (of `summarise`, or `metrics.json` read back) out in rows.

    Returns:
        A row for each part and each of `HEADLINES`, whose `class` is empty, then for each class
        and each of `PER_CLASS`: `part`, `n` images (of the class, where there is one), `groups`,
        `metric`, `class`, `estimate`, `low`, `high`.
    """
    rows = []
    for part, metrics in summary.items():
        sizes = {"": metrics["n"]} | {name: c["n"] for name, c in metrics["per_class"].items()}
        named = [(name, "", name) for name in HEADLINES]
        named += [(f"{name}/{c}", c, name) for c in metrics["per_class"] for name in PER_CLASS]
        for flat, of_class, metric in named:
            row = {"part": part, "n": sizes[of_class], "groups": metrics["groups"]}
            row |= {"metric": metric, "class": of_class}
            ends = dict(zip(("estimate", "low", "high"), metrics["intervals"][flat], strict=True))
            rows.append(row | ends)
    return pd.DataFrame(rows).astype({"estimate": float, "low": float, "high": float})
