"""One run's numbers with their intervals, from its predictions alone."""

from typing import Any

import pandas as pd

from btxrd import CLASS_NAMES
from btxrd.evaluation.intervals import bootstrap_metrics, format_interval
from btxrd.evaluation.metrics import classification_metrics
from btxrd.predictions import labels, probabilities

__all__ = [
    "HEADLINES",
    "calibration_report",
    "class_table",
    "headline_table",
    "operating_point_report",
    "parts_of",
    "subgroup_report",
    "summarise",
]

HEADLINES = {
    "accuracy": "Accuracy",
    "macro_auc": "Macro AUC",
    "sensitivity/Malignant": "Malignant sensitivity",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "quadratic_kappa": "Quadratic kappa",
    "malignant_as_normal": "Malignant called Normal",
    "brier": "Brier score (0 to 2)",
    "log_loss": "Log loss (nats)",
}
"""The scalars of a whole part and what reports call them."""

CLASS_COLUMNS = {
    "auc": "AUC",
    "average_precision": "Average precision",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Precision (PPV)",
    "npv": "NPV",
    "f1": "F1",
}


def parts_of(predictions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Cut predictions into the parts that are reported.

    Returns:
        `val` and `test`; where the test images come from several centers that val does not have
        (the center holdout), each of those too, as `test, center 2`.
    """
    parts = dict(list(predictions.groupby("part", sort=False)))
    test = parts["test"]
    if "val" in parts and not set(test["center"]) & set(parts["val"]["center"]):
        parts |= {f"test, center {center}": rows for center, rows in test.groupby("center")}
    return parts


def summarise(
    predictions: pd.DataFrame, replicates: int = 2000, level: float = 0.95, seed: int = 42
) -> dict[str, dict[str, Any]]:
    """Compute every metric of every part, with cluster-bootstrap intervals by study group.

    Args:
        predictions: as `read_predictions` returns them.
        replicates, level, seed: of the bootstrap.

    Returns:
        part → the dict of `classification_metrics`, with `intervals` (flat metric name →
        [estimate, low, high]) and `groups` (the number of study groups).
    """
    summary = {}
    for part, frame in parts_of(predictions).items():
        y_true, scores = labels(frame), probabilities(frame)
        table = bootstrap_metrics(
            y_true, scores, frame["group"], replicates=replicates, level=level, seed=seed
        )
        summary[part] = classification_metrics(y_true, scores) | {
            "groups": int(frame["group"].nunique()),
            "intervals": {str(name): row.tolist() for name, row in table.iterrows()},
        }
    return summary


def headline_table(summary: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Lay out a summary for reading: a row a metric, a column a part, value (interval)."""
    return pd.DataFrame(
        {
            f"{part} (n = {metrics['n']}, {metrics['groups']} studies)": {
                title: _interval(metrics, name) for name, title in HEADLINES.items()
            }
            for part, metrics in summary.items()
        }
    )


def class_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """Lay out one part's per-class metrics for reading: a row a class, value (interval)."""
    rows = {
        f"{name} (n = {metrics['per_class'][name]['n']})": {
            title: _interval(metrics, f"{metric}/{name}") for metric, title in CLASS_COLUMNS.items()
        }
        for name in CLASS_NAMES
    }
    return pd.DataFrame(rows).T


def operating_point_report(points: pd.DataFrame) -> pd.DataFrame:
    """Lay out operating points for reading: a column a target, value (interval) on the test set.

    Args:
        points: as `operating_points` returns them.
    """
    names = [name.removesuffix("_low") for name in points if name.endswith("_low")]
    columns = {}
    for _, point in points.iterrows():
        column = {
            "Threshold, chosen on val": f"{point['threshold']:.3f}",
            "Sensitivity on val": f"{point['val_sensitivity']:.3f}",
        }
        for name in names:
            kind, _, prevalence = name.partition("@")
            title = kind.upper() if kind in ("ppv", "npv") else kind.capitalize()
            title += f" at {float(prevalence):.1%} malignant" if prevalence else " on test"
            column[title] = format_interval(*(point[key] for key in _ends(name)))
        malignant = f"{point['val_malignant_n']} malignant in val, {point['test_malignant_n']} in"
        columns[f"Sensitivity ≥ {point['target']:.0%} ({malignant} test)"] = column
    return pd.DataFrame(columns)


def _ends(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"


def calibration_report(calibration: pd.DataFrame) -> pd.DataFrame:
    """Lay out the calibration for reading: two rows an outcome, before and after the temperature.

    Args:
        calibration: as `calibration_summary` returns it.
    """
    rows = {}
    for outcome, row in calibration.iterrows():
        for when in ("before", "after"):
            cells = {
                title: format_interval(*(row[key] for key in _ends(f"{name}_{when}")))
                for name, title in {"ece": "ECE", "brier": "Brier"}.items()
            }
            for name in ("reliability", "resolution", "uncertainty"):
                cells[name.capitalize()] = f"{row[f'{name}_{when}']:.3f}"
            rows[f"{outcome} ({row['positive']:.0f} of {row['n']:.0f}), {when}"] = cells
    return pd.DataFrame(rows).T


def subgroup_report(table: pd.DataFrame) -> pd.DataFrame:
    """Lay out the subgroups for reading: a row a group, value (interval) or `too small`.

    Args:
        table: as `subgroup_table` returns it.
    """
    titles = {
        "auc/Malignant": "Malignant AUC",
        "accuracy": "Accuracy",
        "sensitivity/Malignant": "Malignant sensitivity",
    }
    return pd.DataFrame(
        {
            "Attribute": row["attribute"].replace("_", " "),
            "Group": row["value"],
            "n": row["n"],
            "Malignant": row["malignant_n"],
        }
        | {
            title: "too small"
            if pd.isna(row[name])
            else format_interval(*(row[key] for key in _ends(name)))
            for name, title in titles.items()
        }
        for _, row in table.iterrows()
    )


def _interval(metrics: dict[str, Any], name: str) -> str:
    values = metrics["intervals"].get(name, (None, None, None))
    return format_interval(*(float("nan") if value is None else value for value in values))
