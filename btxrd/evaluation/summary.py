"""One run's numbers with their intervals, from its predictions alone."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from btxrd.evaluation.calibration import calibration_summary
from btxrd.evaluation.intervals import NO_INTERVAL, Bootstrap, bootstrap_metrics
from btxrd.evaluation.metrics import PER_CLASS, classification_metrics
from btxrd.evaluation.operating_points import operating_points
from btxrd.predictions import fold_pairs, labels, probabilities

__all__ = ["FEW", "HEADLINES", "evaluate", "few_images", "interval_table", "parts_of", "summarise"]

FEW = 30
"""The number of images of a class below which its figures say little.

15 of 30 called right may be a third or two thirds.
"""

HEADLINES = (
    *("accuracy", "macro_auc", "sensitivity/Malignant", "balanced_accuracy", "macro_f1"),
    *("quadratic_kappa", "malignant_as_normal", "brier", "log_loss"),
)
"""The scalars of a whole part, in the order of the tables."""


def evaluate(
    predictions: pd.DataFrame, bootstrap: Bootstrap, prevalences: Sequence[float]
) -> dict[str, Any]:
    """Compute all that notebook 04 writes from predictions alone, and `btxrd verify` checks.

    Returns:
        Name of the file → its content: `metrics.json` as `summarise`, `operating_points.csv` as
        `operating_points` with these prevalences, and `calibration.csv` as `calibration_summary`.
    """
    val, test = (predictions[predictions["part"] == part] for part in ("val", "test"))
    return {
        "metrics.json": summarise(predictions, bootstrap),
        "operating_points.csv": operating_points(val, test, bootstrap, prevalences=prevalences),
        "calibration.csv": calibration_summary(val, test, bootstrap),
    }


def parts_of(predictions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the rows of each part that is reported, by its name.

    These are `val` and `test`; where the test images come from several centers that val (of their
    fold) does not have, each of those too, as `test, center 2`.
    """
    parts = dict(list(predictions.groupby("part", sort=False)))
    centers = {f"test, center {c}": rows for c, rows in parts["test"].groupby("center")}
    if "val" in parts and len(centers) > 1:
        tested = parts["test"]["center"]
        pairs = fold_pairs(parts["val"], parts["test"])
        if not any(tested[own].isin(val["center"]).any() for val, own in pairs):
            parts |= centers
    return parts


def few_images(summary: dict[str, dict[str, Any]]) -> list[str]:
    """Return, for each part of a summary, the classes with fewer than `FEW` images.

    >>> few_images({"test": {"per_class": {"Normal": {"n": 27}, "Benign": {"n": 201}}}})
    ['test: 27 Normal']
    """
    sizes = {
        part: [f"{c['n']} {name}" for name, c in metrics["per_class"].items() if c["n"] < FEW]
        for part, metrics in summary.items()
    }
    return [f"{part}: {', '.join(few)}" for part, few in sizes.items() if few]


def summarise(predictions: pd.DataFrame, bootstrap: Bootstrap) -> dict[str, dict[str, Any]]:
    """Compute every metric of every part, with its interval.

    Returns:
        part → the dict of `classification_metrics`, with `intervals` (flat metric name →
        [estimate, low, high]) and `groups` (their number); its `notes` also say which estimates
        have no interval.
    """
    summary = {}
    for part, frame in parts_of(predictions).items():
        y_true, scores = labels(frame), probabilities(frame)
        table = bootstrap_metrics(y_true, scores, frame["group"], bootstrap)
        metrics = classification_metrics(y_true, scores)
        same = table.index[table["estimate"].notna() & table["low"].isna()]
        if len(same):
            metrics["notes"].append(f"No interval of {', '.join(same)}: {NO_INTERVAL}.")
        summary[part] = metrics | {
            "groups": int(frame["group"].nunique()),
            "intervals": {str(name): row.tolist() for name, row in table.iterrows()},
        }
    return summary


def interval_table(summary: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Return a summary (of `summarise`, or `metrics.json` read back) as rows of a table.

    There is a row for each part and each of `HEADLINES`, whose `class` is empty, then for each
    class and each of `PER_CLASS`: `part`, `n` images (of the class, where there is one), `groups`,
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
