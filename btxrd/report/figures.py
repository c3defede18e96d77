"""The figures of the notebooks. Each function takes data and returns a matplotlib Figure.

Call `use_style` once in a notebook. Figures are at most 10 inches (1000 px) wide, the width of
the report's column, and are handed back closed: a notebook shows one where it is a cell's last
expression, and nothing piles up in pyplot. A `title` stands before the number of images; `level`
is that of the intervals in the table.

A notebook shows drawings as SVG, whose text stays text, and pictures as JPEG with twice the pixels.
Their titles and legends, in the metadata of the output, are their alternative text. Classes differ
in line and marker as well as in colour.
"""

import textwrap
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from IPython.core.pylabtools import print_figure, select_figure_formats
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, LogFormatterMathtext, MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from btxrd.report.tables import percent, title_of

__all__ = [
    "CLASS_PALETTE",
    "gallery_figure",
    "history_figure",
    "metric_interval_figure",
    "use_style",
]

CLASS_PALETTE = {"Normal": "#8A929A", "Benign": "#2C7FB8", "Malignant": "#D55E00"}
"""Grey, blue, vermilion: apart for colour-blind readers too, and malignant stands out."""
CLASS_LINES = {"Normal": "-.", "Benign": "--", "Malignant": "-"}
CLASS_MARKERS = {"Normal": "o", "Benign": "s", "Malignant": "^"}

WIDTH = 10.0
"""Inches; 1000 px at matplotlib's 100 dpi."""
REFERENCE_LINE = {"color": "0.35", "linestyle": ":", "linewidth": 1.5, "zorder": 1.5}
MASK_COLOUR = "#00E5FF"
HEAT_MAP = "inferno"
SMALL = 10
"""The smallest type, in points, of numbers at bars and of titles of images."""
LONGEST = 300
"""Characters of an alternative text: a screen reader reads it in one go."""
MATRIX = 32
"""Images with fewer rows are matrices of numbers, which are drawings."""


def use_style() -> None:
    """Set the study's look for all figures of this process, and how its notebook shows them."""
    if shell := get_ipython():
        # Importing it sets up its own formats, once; those of before are then ours to replace.
        import_module("matplotlib_inline.backend_inline")

        select_figure_formats(shell, ())
        formatters = shell.display_formatter.formatters
        formatters["image/svg+xml"].for_type(Figure, _as_drawing)
        formatters["image/jpeg"].for_type(Figure, _as_picture)
    looks = {
        # Names are text: between two dollar signs, too.
        "text.parse_math": False,
        # No ticks stand above: there is no need to look for them, which takes long.
        "axes.titley": 1.0,
        "svg.fonttype": "none",
        # Equal figures have equal names in their SVG, so that pages can be reproduced.
        "svg.hashsalt": "btxrd",
    }
    colours = list(CLASS_PALETTE.values())
    sns.set_theme(style="whitegrid", palette=colours, font_scale=0.92, rc=looks)


def _as_drawing(figure: Figure) -> tuple[str, dict[str, Any]] | None:
    """Return a figure as SVG with its metadata; None of pictures."""
    if _shows_pictures(figure):
        return None
    _write_powers_as_text(figure)
    svg = print_figure(figure, "svg", bbox_inches=None, metadata={"Date": None})
    return svg, {"alt": _alternative(figure)}


def _as_picture(figure: Figure) -> tuple[str, dict[str, Any]] | None:
    """Return a figure with pictures as JPEG in base64, with its metadata; None of drawings."""
    if not _shows_pictures(figure):
        return None
    _write_powers_as_text(figure)
    pixels = {"dpi": 2 * figure.dpi, "pil_kwargs": {"quality": 85}}
    jpeg = print_figure(figure, "jpeg", bbox_inches=None, base64=True, **pixels)
    width = round(figure.get_figwidth() * figure.dpi)
    return jpeg, {"alt": _alternative(figure), "width": width}


def _write_powers_as_text(figure: Figure) -> None:
    """Label logarithmic axes with text, such as 1e-04: by default, their labels are math."""
    for axis in figure.axes:
        for side in (axis.xaxis, axis.yaxis):
            if isinstance(side.get_major_formatter(), LogFormatterMathtext):
                side.set_major_formatter(LogFormatter())
                side.set_minor_formatter(LogFormatter())


def _shows_pictures(figure: Figure) -> bool:
    shapes = [image.get_size() for axis in figure.axes for image in axis.images]
    return any(rows > MATRIX for rows, _ in shapes)


def _alternative(figure: Figure) -> str:
    """Return the titles and the legends of a figure, in which its numbers stand."""
    titles = [figure.get_suptitle(), *(axis.get_title() for axis in figure.axes)]
    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes)]
    entries = [text.get_text() for legend in legends if legend for text in legend.get_texts()]
    said = ". ".join(text for text in (*titles, *entries) if text)
    return textwrap.shorten(said, LONGEST, placeholder=" …")


def panels(rows: int, columns: int, size: tuple[float, float], **kwargs: Any) -> Any:
    """Return a figure that pyplot has already let go of, and its (rows, columns) axes."""
    layout = {"figsize": size, "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(rows, columns, **layout, **kwargs)
    plt.close(figure)
    return figure, axes


def image_count(n: int) -> str:
    return f"n = {n:,} image{'' if n == 1 else 's'}"


def history_figure(history: pd.DataFrame, title: str = "Training history") -> Figure:
    """Draw loss, top-1 accuracy and per-class recall by epoch, for train and validation.

    Args:
        history: one row an epoch, or of a probe one a C, which is drawn on a logarithmic axis. The
            training loss is weighted, that of an epoch also smoothed, the validation loss neither,
            so the two are not on one scale.
    """
    figure, (axes,) = panels(1, 3, (WIDTH, 4.4))
    loss, accuracy, recall = axes
    step, steps = ("C", "values of C") if "C" in history else ("epoch", "epochs")
    best = history[step].loc[history["val_loss"].idxmin()]
    curves = history.set_index(step)
    every = -(-len(history) // 10)
    for part, dashes, width in (("train", "--", 1.3), ("val", "-", 2.0)):
        style = {"linestyle": dashes, "linewidth": width, "markersize": 4, "markevery": every}
        for axis, quantity in ((loss, "loss"), (accuracy, "top1")):
            axis.plot(curves[f"{part}_{quantity}"], color="0.15", marker="o", **style)
        for name, colour in CLASS_PALETTE.items():
            own = {"color": colour, "marker": CLASS_MARKERS[name], **style}
            label = name if part == "val" else None
            recall.plot(curves[f"{part}_recall_{name}"], label=label, **own)
    loss.set(title="Loss", ylabel="Loss (nats)")
    accuracy.set(title="Top-1 accuracy", ylabel="Top-1 accuracy")
    recall.set(title="Recall by class", ylabel="Recall (sensitivity)")
    for axis in axes:
        axis.axvline(best, **REFERENCE_LINE)
        if step == "C":
            axis.set(xlabel="C (inverse penalty)", xscale="log")
        else:
            axis.set_xlabel("Epoch")
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axis in (accuracy, recall):
        axis.set_ylim(-0.02, 1.02)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    recall.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), frameon=False, ncols=3)
    figure.suptitle(
        f"{title} (n = {len(history)} {steps}; dashed: train, solid: validation;\n"
        f"dotted: lowest validation loss, {step} {best:g})"
    )
    return figure


def metric_interval_figure(
    table: pd.DataFrame,
    level: float,
    metric: str = "Estimate",
    hue: str | None = None,
    references: Mapping[str, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a forest plot: one dot with its interval for each row, named on the left.

    Args:
        table: columns `label`, `estimate`, `low`, `high`. Where it has a column `metric`, each
            metric gets its own panel, called by its title; a column `n` gives the images behind
            each estimate. Rows of equal `label` share a line of the plot. NaN estimates are left
            blank. Rows and levels of `hue` stand as they come, those of a categorical in its
            order.
        metric: label of the x axis where there is no column `metric`.
        hue: column whose values get colours and markers of their own, such as "split".
        references: metric → a value to mark with a dotted line, such as a success criterion.

    Raises:
        ValueError: there are no rows.
    """
    if table.empty:
        raise ValueError("the table has no rows, so there is nothing to draw")
    named = table if "metric" in table else table.assign(metric=metric)
    metrics, rows = _levels(named["metric"]), _levels(named["label"])
    levels = _levels(named[hue]) if hue else [None]
    height = 1.6 + len(rows) * max(0.4, 0.24 * len(levels)) + 0.25 * (1 + len(levels) // 3)
    figure, (axes,) = panels(1, len(metrics), (WIDTH, height), sharey=True)
    colours = sns.color_palette("colorblind", len(levels)) if hue else ["0.15"]
    for axis, name in zip(axes, metrics, strict=True):
        panel = named[named["metric"] == name]
        for index, (one, colour) in enumerate(zip(levels, colours, strict=True)):
            part = panel[panel[hue] == one] if hue else panel
            offset = (index - (len(levels) - 1) / 2) * 0.7 / len(levels)
            axis.errorbar(
                part["estimate"],
                [rows.index(label) + offset for label in part["label"]],
                xerr=[part["estimate"] - part["low"], part["high"] - part["estimate"]],
                fmt="osD^vPX*"[index % 8],
                color=colour,
                capsize=3,
                label=f"{one} ({_sizes(part)})" if "n" in part else str(one),
            )
        axis.set(xlabel=title_of(name), ylim=(len(rows) - 0.5, -0.5))
        axis.set_yticks(range(len(rows)), [textwrap.fill(str(row), 28) for row in rows])
        axis.grid(visible=False, axis="y")
        for border in range(1, len(rows)):
            axis.axhline(border - 0.5, color="0.85", linewidth=1, zorder=0)
        if references and name in references:
            axis.axvline(references[name], **REFERENCE_LINE)
    if hue:
        handles, names = axes[0].get_legend_handles_labels()
        place = {"loc": "outside lower center", "ncols": min(3, len(names)), "frameon": False}
        figure.legend(handles, names, title=hue.replace("_", " ").capitalize(), **place)
    heading = title or ", ".join(map(title_of, metrics))
    figure.suptitle(f"{heading}, {percent(level)} intervals ({_sizes(named)})")
    return figure


def _levels(column: pd.Series) -> list[Any]:
    """Return the values there are: of a categorical in its order, else in that of the rows."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return list(column.cat.remove_unused_categories().cat.categories)
    return list(dict.fromkeys(column))


def _sizes(table: pd.DataFrame) -> str:
    if "n" not in table:
        return f"n = {len(table):,} estimates"
    low, high = table["n"].min(), table["n"].max()
    return image_count(int(low)) if low == high else f"n = {low:,.0f} to {high:,.0f} images"


def gallery_figure(
    images: ArrayLike,
    titles: Sequence[str],
    masks: NDArray[Any] | None = None,
    heatmaps: NDArray[Any] | None = None,
    columns: int = 4,
    title: str = "Gallery",
) -> Figure:
    """Draw a grid of radiographs, with the outline of the lesion mask and the heat map over it.

    Args:
        images: (N, H, W) uint8 grey values, such as squares, or two of them side by side.
        titles: N texts, wrapped to the width of an image.
        masks: (N, H, W), more than 0 inside a lesion.
        heatmaps: (N, H, W) floats in [0, 1], drawn the more opaque the hotter.
        columns: images a row; up to 4 stay readable.

    Raises:
        ValueError: there are more or fewer titles than images.
    """
    pictures = np.asarray(images)
    n = len(pictures)
    bar_width = 0 if heatmaps is None else 0.9
    cell = (WIDTH - bar_width) / columns
    headings = [textwrap.fill(text, int(cell * 11.5)) for text in titles]
    lines = max((heading.count("\n") + 1 for heading in headings), default=0)
    columns, rows = min(columns, max(2, n)), -(-n // columns)
    tall = cell * pictures.shape[1] / pictures.shape[2] if n else cell
    height = rows * (tall + 0.17 * lines + 0.1) + 0.5
    figure, axes = panels(max(1, rows), columns, (columns * cell + bar_width, height))
    for axis in axes.flat:
        axis.set_axis_off()
    for index, (heading, axis) in enumerate(zip(headings, axes.flat[:n], strict=True)):
        axis.imshow(pictures[index], cmap="gray", vmin=0, vmax=255)
        axis.set_title(heading, fontsize=SMALL)
        if heatmaps is not None:
            heat = np.clip(heatmaps[index], 0, 1)
            axis.imshow(heat, cmap=HEAT_MAP, vmin=0, vmax=1, alpha=0.6 * heat)
        if masks is not None:
            _outline(axis, masks[index] > 0)
    if heatmaps is not None and n:
        colours = ScalarMappable(cmap=HEAT_MAP)
        bar = figure.colorbar(colours, ax=axes, shrink=0.8, aspect=25, pad=0.01)
        bar.set_label("Heat map, 0 (clear) to 1")
    outlined = "; outline: lesion mask" if masks is not None else ""
    figure.suptitle(f"{title} ({image_count(n)}{outlined})", wrap=True)
    return figure


def _outline(axis: Axes, mask: NDArray[np.bool_]) -> None:
    """Draw the edge of a mask, dark below light so that it shows on bone and on film."""
    if not mask.any():
        return
    height, width = mask.shape
    lines = axis.contour(
        np.pad(mask.astype(float), 1),
        levels=[0.5],
        extent=(-1, width, -1, height),
        colors=[MASK_COLOUR],
        linewidths=1.6,
    )
    lines.set_path_effects([patheffects.withStroke(linewidth=3, foreground="black")])
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
