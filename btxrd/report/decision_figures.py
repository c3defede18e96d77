"""The figures of calibration, abstaining and subgroups: what a probability is good for.

In the style of `btxrd.report.figures`; call its `use_style` once in a notebook. Each takes the
table of its name from `btxrd.evaluation`; `level` is that of the intervals in it.
"""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from btxrd.report.figures import (
    CLASS_PALETTE,
    REFERENCE_LINE,
    WIDTH,
    image_count,
    metric_interval_figure,
    panels,
)
from btxrd.report.tables import percent, title_of

__all__ = ["reliability_figure", "selective_figure", "subgroup_figure"]

NEUTRAL = "0.15"
"""Colour of what belongs to no class."""


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

    Groups too small for the metric are counted in the title and not drawn, unless all are.

    Args:
        table: what `subgroup_table` returns; its first row is of all images.

    Raises:
        KeyError: the table has no such metric.
    """
    title, values = title_of(metric), table[metric]
    attributes = table["attribute"].str.replace("_", " ").str.capitalize()
    names = attributes + ": " + table["value"]
    names.iloc[0] = attributes.iloc[0]
    sizes = [
        f" ({n:,},\N{NO-BREAK SPACE}{malignant:,})"
        for n, malignant in zip(table["n"], table["malignant_n"], strict=True)
    ]
    rows = pd.DataFrame(
        {
            "label": names + sizes,
            "estimate": values,
            "low": table[f"{metric}_low"],
            "high": table[f"{metric}_high"],
            "n": table["n"],
        }
    )
    estimable = rows[values.notna()]
    heading = f"{title}, by subgroup (in brackets: images, malignant)"
    if len(estimable) < len(rows):
        heading += f";\n{len(rows) - len(estimable)} of {len(rows)} rows too small for it"
    drawn = rows if estimable.empty else estimable
    return metric_interval_figure(
        drawn, level, title, references={title: values.iloc[0]}, title=heading
    )
