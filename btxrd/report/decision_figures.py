"""The figures of notebook 04: the classes, calibration, abstaining and subgroups.

In the style of `btxrd.report.figures`; call its `use_style` once in a notebook. Each takes the
table of its name from `btxrd.evaluation`; `level` is that of the intervals in it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter
from sklearn.metrics import ConfusionMatrixDisplay, precision_recall_curve, roc_curve

from btxrd import CLASS_NAMES
from btxrd.predictions import labels, probabilities
from btxrd.report.figures import (
    CLASS_LINES,
    CLASS_PALETTE,
    REFERENCE_LINE,
    WIDTH,
    image_count,
    metric_interval_figure,
    panels,
)
from btxrd.report.tables import format_interval, percent, title_of

__all__ = [
    "confusion_matrix_figure",
    "reliability_figure",
    "roc_pr_figure",
    "selective_figure",
    "subgroup_figure",
]

NEUTRAL = "0.15"
"""Colour of what belongs to no class."""


def confusion_matrix_figure(metrics: dict[str, Any], title: str = "Confusion matrix") -> Figure:
    """Draw `classification_metrics`'s matrix as counts and as shares of each true class."""
    names, matrix = list(metrics["per_class"]), metrics["confusion_matrix"]
    sizes = np.sum(matrix["counts"], axis=1)
    figure, (axes,) = panels(1, 2, (WIDTH, 4.6))
    drawn = (("Counts", "counts", ",.0f"), ("Share of the true class", "row_normalised", ".1%"))
    for axis, (heading, key, form) in zip(axes, drawn, strict=True):
        display = ConfusionMatrixDisplay(np.array(matrix[key], float), display_labels=names)
        display.plot(ax=axis, cmap="Blues", values_format=form, colorbar=False)
        axis.set(title=heading, xlabel="Predicted class", ylabel="True class")
        axis.grid(visible=False)
        ticks = [f"{name}\n(n = {n:,})" for name, n in zip(names, sizes, strict=True)]
        axis.set_yticks(range(len(names)), ticks)
    figure.suptitle(f"{title} ({image_count(metrics['n'])})")
    return figure


def roc_pr_figure(
    test: pd.DataFrame,
    intervals: Mapping[str, Sequence[float]],
    bands: pd.DataFrame,
    level: float,
    title: str = "One-vs-rest curves",
) -> Figure:
    """Draw ROC and precision-recall curves of each class with bootstrap bands.

    Args:
        test: rows of one part of `predictions.csv`; `bootstrap_curves` made `bands` of the same.
        intervals: flat metric name → estimate, low and high, for the legend.
    """
    y_true, scores = labels(test), probabilities(test)
    figure, ((roc, pr),) = panels(1, 2, (WIDTH, 6.3))
    # The class that matters most comes first in the legend, and so in the alternative text.
    for c, name in reversed(list(enumerate(CLASS_NAMES))):
        positive = y_true == c
        if positive.all() or not positive.any():
            continue
        colour, n = CLASS_PALETTE[name], f"n = {positive.sum():,}"
        fpr, tpr, _ = roc_curve(positive, scores[:, c])
        precision, recall, _ = precision_recall_curve(positive, scores[:, c])
        auc = format_interval(*intervals[f"auc/{name}"])
        ap = format_interval(*intervals[f"average_precision/{name}"])
        style = {"color": colour, "linestyle": CLASS_LINES[name], "linewidth": 2}
        roc.plot(fpr, tpr, label=f"{name}: AUC {auc}, {n}", **style)
        pr.plot(recall, precision, label=f"{name}: AP {ap}, {n}", drawstyle="steps-post", **style)
        pr.axhline(positive.mean(), **REFERENCE_LINE | {"color": colour})
        for axis, curve, step in ((roc, "roc", None), (pr, "pr", "pre")):
            band = bands[(bands["curve"] == curve) & (bands["class_name"] == name)]
            shade = {"color": colour, "alpha": 0.18, "linewidth": 0}
            axis.fill_between(band["x"], band["low"], band["high"], step=step, **shade)
    roc.plot([0, 1], [0, 1], label="chance", **REFERENCE_LINE)
    pr.plot([], [], label="prevalence of each class", **REFERENCE_LINE)
    roc.set(title="ROC", xlabel="1 - specificity", ylabel="Sensitivity")
    pr.set(title="Precision-recall", xlabel="Recall (sensitivity)", ylabel="Precision (PPV)")
    for axis in (roc, pr):
        axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False)
    figure.suptitle(f"{title}, {percent(level)} bootstrap bands ({image_count(len(test))})")
    return figure


def reliability_figure(
    stages: Mapping[str, Mapping[str, pd.DataFrame]], level: float, title: str
) -> Figure:
    """Draw reliability diagrams, one row a stage and one column an outcome.

    Args:
        stages: name of each, such as before and after temperature scaling → `reliability_tables`,
            all of the same outcomes.
    """
    outcomes = list(next(iter(stages.values())))
    size = WIDTH, 1 + 9 * len(stages) / len(outcomes)
    figure, axes = panels(len(stages), len(outcomes), size, sharex=True, sharey=True)
    for row, (stage, tables) in zip(axes, stages.items(), strict=True):
        for axis, (name, table) in zip(row, tables.items(), strict=True):
            axis.plot([0, 1], [0, 1], **REFERENCE_LINE)
            observed = table["observed"]
            axis.errorbar(
                table["confidence"],
                observed,
                yerr=[observed - table["low"], table["high"] - observed],
                fmt="o-",
                color=CLASS_PALETTE.get(name, NEUTRAL),
                markersize=4,
                linewidth=1.2,
                capsize=2,
            )
            axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
            for side in (axis.xaxis, axis.yaxis):
                side.set_major_locator(MultipleLocator(0.5))
        row[0].set_ylabel(f"{stage}\nObserved share")
    for axis, name in zip(axes[0], outcomes, strict=True):
        axis.set_title(name[:1].upper() + name[1:])
    for axis in axes[-1]:
        axis.set_xlabel("Mean probability")
    n = image_count(int(table["n"].sum()))
    figure.suptitle(f"{title}, {percent(level)} intervals ({n} a panel; dotted: calibrated)")
    return figure


def selective_figure(table: pd.DataFrame, n: int, level: float) -> Figure:
    """Draw accuracy and confidence threshold against the share of the `n` images that is answered.

    Of many images, some 400 shares are drawn: more would look the same.
    """
    # From the last row on, which is all images.
    drawn = table.iloc[:: -max(1, len(table) // 400)][::-1]
    figure, (axes,) = panels(1, 2, (WIDTH, 4.4), sharex=True)
    accuracy, threshold = axes
    band = {"color": NEUTRAL, "alpha": 0.15, "linewidth": 0}
    accuracy.fill_between(drawn["coverage"], drawn["low"], drawn["high"], **band)
    accuracy.plot(drawn["coverage"], drawn["accuracy"], color=NEUTRAL, linewidth=2)
    accuracy.axhline(drawn["accuracy"].iloc[-1], label="all images", **REFERENCE_LINE)
    accuracy.legend(loc="lower left")
    threshold.plot(drawn["coverage"], drawn["threshold"], color=NEUTRAL, linewidth=2)
    lowest = drawn[["low", "accuracy"]].min(axis=None)
    accuracy.set(title="Accuracy on the images answered", ylabel="Accuracy")
    accuracy.set_ylim(max(0, lowest - 0.05), 1.02)
    threshold.set(title="Confidence that it takes", ylabel="Highest probability, at least")
    threshold.set_ylim(1 / 3 - 0.02, 1.02)
    for axis in axes:
        axis.set(xlabel="Coverage (images answered)", xlim=(0, 1))
        axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    figure.suptitle(f"Selective prediction by confidence, {percent(level)} band ({image_count(n)})")
    return figure


def subgroup_figure(table: pd.DataFrame, metric: str, level: float) -> Figure:
    """Draw a forest plot of one of `SUBGROUP_METRICS` by subgroup; the dotted line is all images.

    Groups too small for the metric are counted in the title and not drawn, unless all are. The
    first row of `table`, which `subgroup_table` returns, is of all images.
    """
    title, values = title_of(metric), table[metric]
    attributes = table["attribute"].str.replace("_", " ").str.capitalize()
    names = attributes + ": " + table["value"]
    names.iloc[0] = attributes.iloc[0]
    sizes = [
        f" ({n:,},\N{NO-BREAK SPACE}{malignant:,})"
        for n, malignant in zip(table["n"], table["malignant_n"], strict=True)
    ]
    ends = {"low": table[f"{metric}_low"], "high": table[f"{metric}_high"]}
    rows = table[["n"]].assign(label=names + sizes, estimate=values, **ends)
    estimable = rows[values.notna()]
    heading = f"{title}, by subgroup (in brackets: images, malignant)"
    if len(estimable) < len(rows):
        heading += f";\n{len(rows) - len(estimable)} of {len(rows)} rows too small for it"
    drawn = rows if estimable.empty else estimable
    return metric_interval_figure(
        drawn, level, title, references={title: values.iloc[0]}, title=heading
    )
