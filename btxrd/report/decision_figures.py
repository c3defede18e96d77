"""The pictures of what a probability is good for: calibration, abstaining, subgroups.

In the style of `btxrd.report.figures`; call its `use_style` once in a notebook. Each takes the
table of its name from `btxrd.evaluation`; `n` is the number of images behind it, `bootstrap` says
the level of the band or intervals.
"""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from btxrd.evaluation.intervals import Bootstrap
from btxrd.evaluation.subgroups import EVERYONE
from btxrd.report.figures import (
    CLASS_PALETTE,
    REFERENCE_LINE,
    WIDTH,
    describe,
    image_count,
    metric_interval_figure,
    panels,
)
from btxrd.report.tables import format_interval, title_of

__all__ = ["reliability_figure", "selective_figure", "subgroup_figure"]

NEUTRAL = "0.15"
"""Colour of what belongs to no class."""

NO_BREAK = "\N{NO-BREAK SPACE}"


def reliability_figure(
    stages: Mapping[str, Mapping[str, pd.DataFrame]], bootstrap: Bootstrap, title: str
) -> Figure:
    """Draw reliability diagrams, one row a stage and one column an outcome.

    Args:
        stages: name of each, such as before and after temperature scaling → `reliability_tables`.

    Raises:
        ValueError: the outcomes of the stages differ, or there are none.
    """
    outcomes = [list(tables) for tables in stages.values()]
    if not any(outcomes) or any(names != outcomes[0] for names in outcomes):
        raise ValueError(f"the stages must have the same outcomes, found {outcomes}")
    columns, height = len(outcomes[0]), 1 + 9 * len(stages) / len(outcomes[0])
    figure, axes = panels(len(stages), columns, (WIDTH, height), sharex=True, sharey=True)
    for row, (stage, tables) in zip(axes, stages.items(), strict=True):
        for axis, (name, table) in zip(row, tables.items(), strict=True):
            _reliability(axis, table, CLASS_PALETTE.get(name, NEUTRAL))
        row[0].set_ylabel(f"{stage}\nObserved share")
    for axis, name in zip(axes[0], outcomes[0], strict=True):
        axis.set_title(name[:1].upper() + name[1:])
    for axis in axes[-1]:
        axis.set_xlabel("Mean probability")
    images = int(next(iter(tables.values()))["n"].sum())
    figure.suptitle(
        f"{title}, {bootstrap.name} intervals ({image_count(images)} a panel; dotted: calibrated)"
    )
    name = "Malignant" if "Malignant" in outcomes[0] else outcomes[0][0]
    said = [f"{stage} {_highest_bin(tables[name])}" for stage, tables in stages.items()]
    return describe(
        figure, f"{figure.get_suptitle()}. {name}, highest probabilities: {'; '.join(said)}."
    )


def _highest_bin(table: pd.DataFrame) -> str:
    top = table.dropna(subset="observed").iloc[-1]
    observed = format_interval(top["observed"], top["low"], top["high"])
    return f"mean {top['confidence']:.3f}, observed {observed}"


def _reliability(axis: Axes, table: pd.DataFrame, colour: str) -> None:
    axis.plot([0, 1], [0, 1], **REFERENCE_LINE)
    observed = table["observed"]
    axis.errorbar(
        table["confidence"],
        observed,
        yerr=[observed - table["low"], table["high"] - observed],
        fmt="o-",
        color=colour,
        markersize=4,
        linewidth=1.2,
        elinewidth=1.2,
        capsize=2,
    )
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(MultipleLocator(0.5))


def selective_figure(table: pd.DataFrame, n: int, bootstrap: Bootstrap) -> Figure:
    """Draw accuracy and confidence threshold against the share of images that is answered.

    Of many images, some 400 shares are drawn: more would look the same.
    """
    everyone = table.iloc[-1]
    half = table.iloc[(table["coverage"] - 0.5).abs().argmin()]
    # From the last row on, which is all images.
    table = table.iloc[:: -max(1, len(table) // 400)][::-1]
    figure, axes = panels(1, 2, (WIDTH, 4.4), sharex=True)
    accuracy, threshold = axes[0]
    band = {"color": NEUTRAL, "alpha": 0.15, "linewidth": 0}
    accuracy.fill_between(table["coverage"], table["low"], table["high"], **band)
    accuracy.plot(table["coverage"], table["accuracy"], color=NEUTRAL, linewidth=2)
    accuracy.axhline(everyone["accuracy"], **REFERENCE_LINE)
    accuracy.annotate(
        "all images", (0, everyone["accuracy"]), (4, -4), textcoords="offset points", va="top"
    )
    threshold.plot(table["coverage"], table["threshold"], color=NEUTRAL, linewidth=2)
    accuracy.set(title="Accuracy on the images answered", ylabel="Accuracy")
    threshold.set(title="Confidence that it takes", ylabel="Highest probability, at least")
    threshold.set_ylim(1 / 3 - 0.02, 1.02)
    lowest = min(table["low"].min(), table["accuracy"].min())
    accuracy.set_ylim(max(0, lowest - 0.05), 1.02)
    for axis in axes[0]:
        axis.set(xlabel="Coverage (images answered)", xlim=(0, 1))
        axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    figure.suptitle(f"Selective prediction by confidence, {bootstrap.name} band ({image_count(n)})")
    said = [
        f"{format_interval(row['accuracy'], row['low'], row['high'])} on {whom}"
        for row, whom in ((everyone, "all images"), (half, "the surest half"))
    ]
    return describe(figure, f"{figure.get_suptitle()}. Accuracy {', '.join(said)}.")


def subgroup_figure(table: pd.DataFrame, metric: str, bootstrap: Bootstrap) -> Figure:
    """Draw a forest plot of one of `SUBGROUP_METRICS` by subgroup; the dotted line is all images.

    Groups too small for the metric are counted in the title and not drawn, unless all are.

    Raises:
        ValueError: the table has no such metric, or no rows.
    """
    if metric not in table.columns:
        raise ValueError(f"table has no metric {metric!r}; its columns: {', '.join(table.columns)}")
    everyone = table["attribute"] == EVERYONE
    named = table["attribute"].str.replace("_", " ").str.capitalize() + ": " + table["value"]
    sizes = [
        f" ({n:,},{NO_BREAK}{malignant:,})"
        for n, malignant in zip(table["n"], table["malignant_n"], strict=True)
    ]
    title = title_of(metric)
    rows = pd.DataFrame(
        {
            "label": named.mask(everyone, EVERYONE.capitalize()) + sizes,
            "estimate": table[metric],
            "low": table[f"{metric}_low"],
            "high": table[f"{metric}_high"],
            "n": table["n"],
        }
    )
    whole = table.loc[everyone, metric].dropna()
    references = {title: float(whole.iloc[0])} if len(whole) else None
    estimable = rows.dropna(subset="estimate")
    drawn = rows if estimable.empty else estimable
    heading = f"{title}, by subgroup (in brackets: images, malignant)"
    if len(estimable) < len(rows):
        heading += f";\n{len(rows) - len(estimable)} of {len(rows)} rows too small for it"
    return metric_interval_figure(drawn, bootstrap, title, references=references, title=heading)
