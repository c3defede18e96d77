"""The study's pictures. Each function takes data and returns a matplotlib Figure.

Call `use_style` once in a notebook. Figures are at most 10 inches (1000 px) wide, the width of
the report's column, and are handed back closed: a notebook shows one where it is a cell's last
expression, and nothing piles up in pyplot. A `title` stands before the number of images;
`bootstrap` says the level of the intervals.

A notebook shows drawings as SVG, whose text stays text, and pictures as JPEG with twice the pixels.
Their alternative text goes with them, in the metadata of the output: what `describe` has given
them, else their titles. Classes differ in line and marker as well as in colour.
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
from sklearn.metrics import ConfusionMatrixDisplay, precision_recall_curve, roc_curve

from btxrd import CLASS_NAMES
from btxrd.evaluation.curves import bootstrap_curves
from btxrd.evaluation.intervals import Bootstrap
from btxrd.predictions import labels, probabilities
from btxrd.report.tables import format_interval, title_of

__all__ = [
    "CLASS_PALETTE",
    "class_counts_figure",
    "confusion_matrix_figure",
    "describe",
    "gallery_figure",
    "history_figure",
    "metric_interval_figure",
    "roc_pr_figure",
    "score_interval_figure",
    "use_style",
]

CLASS_PALETTE = {"Normal": "#8A929A", "Benign": "#2C7FB8", "Malignant": "#D55E00"}
"""Grey, blue, vermilion: apart for colour-blind readers too, and malignant stands out."""

CLASS_LINES = {"Normal": "-.", "Benign": "--", "Malignant": "-"}
CLASS_HATCHES = {"Normal": None, "Benign": "//", "Malignant": None}
CLASS_MARKERS = {"Normal": "o", "Benign": "s", "Malignant": "^"}
"""How the classes differ in grey print."""

WIDTH = 10.0
"""Inches; 1000 px at the 100 dpi of `use_style`."""

REFERENCE_LINE = {"color": "0.35", "linestyle": ":", "linewidth": 1.5, "zorder": 1.5}
MASK_COLOUR = "#00E5FF"
HEAT_MAP = "inferno"
SMALL = 10
"""The smallest type, in points."""
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
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette=list(CLASS_PALETTE.values()),
        rc={
            "figure.dpi": 100,
            "savefig.dpi": 100,
            "font.size": 11,
            "axes.titlesize": 12,
            # Names are text: between two dollar signs, too.
            "text.parse_math": False,
            # No ticks stand above: there is no need to look for them, which takes long.
            "axes.titley": 1.0,
            "axes.labelsize": 11,
            "xtick.labelsize": SMALL,
            "ytick.labelsize": SMALL,
            "legend.fontsize": SMALL,
            "legend.title_fontsize": SMALL,
            "figure.titlesize": 13,
            "axes.edgecolor": "0.3",
            "grid.color": "0.88",
            "svg.fonttype": "none",
            # Equal figures have equal names in their SVG, so that pages can be reproduced.
            "svg.hashsalt": "btxrd",
        },
    )


def describe(figure: Figure, text: str) -> Figure:
    """Give a figure its alternative text: what it shows, with estimate and interval.

    >>> describe(Figure(), "Test set, n = 60. Malignant: AUC 0.950 (0.900–0.990).").get_label()
    'Test set, n = 60. Malignant: AUC 0.950 (0.900–0.990).'
    """
    figure.set_label(textwrap.shorten(text, LONGEST, placeholder=" …"))
    return figure


def _as_drawing(figure: Figure) -> tuple[str, dict[str, Any]] | None:
    """Return a figure as SVG with its metadata; None of pictures."""
    if _shows_pictures(figure):
        return None
    _write_powers_as_text(figure)
    svg = print_figure(figure, "svg", bbox_inches=_box(figure), metadata={"Date": None})
    return svg, {"alt": _alternative(figure)}


def _as_picture(figure: Figure) -> tuple[str, dict[str, Any]] | None:
    """Return a figure with pictures as JPEG in base64, with its metadata; None of drawings."""
    if not _shows_pictures(figure):
        return None
    _write_powers_as_text(figure)
    pixels = {"dpi": 2 * figure.dpi, "pil_kwargs": {"quality": 85}}
    jpeg = print_figure(figure, "jpeg", bbox_inches=_box(figure), base64=True, **pixels)
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


def _box(figure: Figure) -> str | None:
    """Cut off what is empty, unless a layout engine has filled the figure: it takes a drawing."""
    return "tight" if figure.get_layout_engine() is None else None


def _alternative(figure: Figure) -> str:
    titles = [figure.get_suptitle(), *(axis.get_title() for axis in figure.axes)]
    return figure.get_label() or " ".join(f"{title}." for title in titles if title)


def panels(rows: int, columns: int, size: tuple[float, float], **kwargs: Any) -> Any:
    """Return a figure that pyplot has already let go of, and its (rows, columns) axes."""
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, layout="constrained", **kwargs
    )
    plt.close(figure)
    return figure, axes


def image_count(n: int) -> str:
    return f"n = {n:,} image{'' if n == 1 else 's'}"


def confusion_matrix_figure(metrics: dict[str, Any], title: str = "Confusion matrix") -> Figure:
    """Draw the confusion matrix as counts and as shares of each true class, side by side.

    Args:
        metrics: what `classification_metrics` returns, or its JSON read back.
    """
    names = list(metrics["per_class"])
    counts = np.array(metrics["confusion_matrix"]["counts"], dtype=float)
    shares = np.array(metrics["confusion_matrix"]["row_normalised"], dtype=float)
    figure, axes = panels(1, 2, (WIDTH, 4.6))
    halves = (("Counts", counts, ",.0f"), ("Share of the true class", shares, ".1%"))
    for axis, (heading, values, number_format) in zip(axes[0], halves, strict=True):
        ConfusionMatrixDisplay(values, display_labels=names).plot(
            ax=axis,
            cmap="Blues",
            values_format=number_format,
            colorbar=False,
            text_kw={"size": 13},
            im_kw={"interpolation": "none"},
        )
        axis.set(title=heading, xlabel="Predicted class", ylabel="True class")
        axis.grid(visible=False)
        axis.set_yticks(
            range(len(names)),
            [f"{name}\n(n = {n:,.0f})" for name, n in zip(names, counts.sum(1), strict=True)],
        )
    figure.suptitle(f"{title} ({image_count(metrics['n'])})")
    called = [
        f"{sum(row):,.0f} {name}: "
        + ", ".join(f"{n:,.0f} {other}" for n, other in zip(row, names, strict=True))
        for name, row in zip(names, counts, strict=True)
    ]
    return describe(
        figure, f"{figure.get_suptitle()}, true class and what it was called. {'; '.join(called)}."
    )


def roc_pr_figure(
    test: pd.DataFrame,
    intervals: Mapping[str, Sequence[float]],
    bootstrap: Bootstrap,
    title: str = "One-vs-rest curves",
) -> Figure:
    """Draw ROC and precision-recall curves of each class with bootstrap bands.

    Args:
        test: rows of one part of `predictions.csv`.
        intervals: flat metric name → estimate, low and high, for the legend; of the same images.
    """
    y_true, scores = labels(test), probabilities(test)
    bands = bootstrap_curves(y_true, scores, test["group"], bootstrap)
    figure, axes = panels(1, 2, (WIDTH, 6.3))
    roc, pr = axes[0]
    said = []
    for c, (name, colour) in enumerate(CLASS_PALETTE.items()):
        positive = y_true == c
        if positive.all() or not positive.any():
            continue
        auc, precision = (
            format_interval(*intervals[f"{metric}/{name}"])
            for metric in ("auc", "average_precision")
        )
        said.append(f"{name}, n = {positive.sum():,}: AUC {auc}, AP {precision}.")
        fpr, tpr, _ = roc_curve(positive, scores[:, c])
        style = {"color": colour, "linestyle": CLASS_LINES[name], "linewidth": 2}
        size = f"n = {positive.sum():,}"
        roc.plot(fpr, tpr, label=f"{name}: AUC {auc}, {size}", **style)
        steps = _precision_recall_steps(positive, scores[:, c])
        label = f"{name}: AP {precision}, {size}"
        pr.plot(*steps, label=label, drawstyle="steps-pre", **style)
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
    figure.suptitle(f"{title}, {bootstrap.name} bootstrap bands ({image_count(len(test))})")
    return describe(figure, " ".join([f"{figure.get_suptitle()}.", *reversed(said)]))


def _precision_recall_steps(
    positive: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the recalls, ascending, and precision at the highest threshold that reaches each."""
    precision, recall, _ = precision_recall_curve(positive, scores)
    recall, first = np.unique(recall[::-1], return_index=True)
    precision = precision[::-1][first]
    precision[0] = precision[1]  # scikit-learn's point at recall 0 belongs to no threshold
    return recall, precision


def history_figure(history: pd.DataFrame, title: str = "Training history") -> Figure:
    """Draw loss, top-1 accuracy and per-class recall by epoch, for train and validation.

    Args:
        history: as `btxrd.training.Fit` holds it: one row an epoch, or of a probe one a C, which is
            drawn on a logarithmic axis. The training loss is weighted, that of an epoch also
            smoothed, the validation loss neither, so the two are not on one scale.
    """
    figure, axes = panels(1, 3, (WIDTH, 4.4))
    step, steps = ("C", "values of C") if "C" in history else ("epoch", "epochs")
    places = history[step]
    best = places.loc[history["val_loss"].idxmin()]
    lines = {"train": ("--", 1.3), "val": ("-", 2.0)}
    marker, every = "o" if len(history) <= 10 else None, -(-len(history) // 10)
    for part, (dashes, width) in lines.items():
        style = {"linestyle": dashes, "linewidth": width, "marker": marker, "markersize": 4}
        for axis, quantity in zip(axes[0], ("loss", "top1"), strict=False):
            axis.plot(places, history[f"{part}_{quantity}"], color="0.15", label=part, **style)
        for name, colour in CLASS_PALETTE.items():
            own = {"color": colour, "marker": CLASS_MARKERS[name], "markevery": every}
            label = name if part == "val" else None
            axes[0, 2].plot(places, history[f"{part}_recall_{name}"], label=label, **style | own)
    labels = ("Loss (nats)", "Top-1 accuracy", "Recall (sensitivity)")
    headings = ("Loss", "Top-1 accuracy", "Recall by class")
    for axis, heading, label in zip(axes[0], headings, labels, strict=True):
        axis.axvline(best, **REFERENCE_LINE)
        axis.set(title=heading, ylabel=label)
        if step == "C":
            axis.set(xlabel="C (inverse penalty)", xscale="log")
        else:
            axis.set_xlabel("Epoch")
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17), "frameon": False}
    axes[0, 2].legend(ncols=3, columnspacing=1, handlelength=1.6, handletextpad=0.4, **place)
    for axis in axes[0, 1:]:
        axis.set_ylim(-0.02, 1.02)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.suptitle(
        f"{title} (n = {len(history)} {steps}; dashed: train, solid: validation;\n"
        f"dotted: lowest validation loss, {step} {best:g})"
    )
    kept = history.loc[history["val_loss"].idxmin()]
    recalls = ", ".join(f"{name} {kept[f'val_recall_{name}']:.3f}" for name in CLASS_NAMES)
    return describe(
        figure,
        f"{title}, {len(history)} {steps}. Lowest validation loss {kept['val_loss']:.3f} at {step} "
        f"{best:g}, training loss {kept['train_loss']:.3f} there; validation accuracy "
        f"{kept['val_top1']:.3f}, recall of {recalls}.",
    )


def metric_interval_figure(
    table: pd.DataFrame,
    bootstrap: Bootstrap,
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
        ValueError: a column is missing, or there are no rows.
    """
    needed = ["label", "estimate", "low", "high", *([hue] if hue else [])]
    missing = [column for column in needed if column not in table.columns]
    if missing or table.empty:
        raise ValueError(f"table must have rows and the columns {needed}; lacks {missing}")
    named = table if "metric" in table else table.assign(metric=metric)
    metrics, rows = (_levels(named[column]) for column in ("metric", "label"))
    levels = _levels(named[hue]) if hue else []
    height = 1.6 + len(rows) * max(0.4, 0.24 * len(levels)) + 0.25 * (1 + len(levels) // 3)
    figure, axes = panels(1, len(metrics), (WIDTH, height), sharey=True)
    for axis, name in zip(axes[0], metrics, strict=True):
        _whiskers(axis, named[named["metric"] == name], rows, hue, levels)
        axis.set(xlabel=title_of(name), ylim=(len(rows) - 0.5, -0.5))
        if named["low"].min() >= 0 and named["high"].max() <= 1:
            axis.set_xlim(-0.03, 1.03)
        axis.set_yticks(range(len(rows)), [textwrap.fill(str(row), 28) for row in rows])
        axis.grid(visible=False, axis="y")
        for border in range(1, len(rows)):
            axis.axhline(border - 0.5, color="0.85", linewidth=1, zorder=0)
        if references and name in references:
            axis.axvline(references[name], **REFERENCE_LINE)
    if hue:
        handles, names = axes[0, 0].get_legend_handles_labels()
        place = {"loc": "outside lower center", "ncols": min(3, len(names)), "frameon": False}
        figure.legend(handles, names, title=hue.replace("_", " ").capitalize(), **place)
    heading = title or ", ".join(map(title_of, metrics))
    figure.suptitle(f"{heading}, {bootstrap.name} intervals ({_sizes(named)})")
    said = [_extremes(title_of(name), named[named["metric"] == name], hue) for name in metrics]
    return describe(figure, " ".join([f"{figure.get_suptitle()}.", *said]))


def _levels(column: pd.Series) -> list[Any]:
    """Return the values there are: of a categorical in its order, else in that of the rows."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return list(column.cat.remove_unused_categories().cat.categories)
    return list(dict.fromkeys(column))


def _extremes(metric: str, table: pd.DataFrame, hue: str | None) -> str:
    """Say in words what a panel of a forest plot shows: all of three rows, the ends of more."""
    found = table.dropna(subset="estimate").sort_values("estimate", ascending=False, kind="stable")
    if found.empty:
        return f"{metric}: no estimate."
    named = found["label"].astype(str)
    if hue:
        named = named + ", " + found[hue].astype(str)
    ends = found[["estimate", "low", "high"]].itertuples(index=False)
    texts = [f"{n} {format_interval(*e)}" for n, e in zip(named, ends, strict=True)]
    if len(texts) <= 3:
        return f"{metric}: {'; '.join(texts)}."
    return f"{metric}, {len(texts)} rows: from {texts[-1]} to {texts[0]}."


def _whiskers(
    axis: Axes, table: pd.DataFrame, rows: Sequence[Any], hue: str | None, levels: Sequence[Any]
) -> None:
    """Draw the estimates of one panel, the levels of `hue` below each other within a row."""
    parts = [(level, table[table[hue] == level]) for level in levels] or [(None, table)]
    colours = sns.color_palette("colorblind", len(parts)) if hue else ["0.15"]
    for index, ((level, part), colour) in enumerate(zip(parts, colours, strict=True)):
        offset = (index - (len(parts) - 1) / 2) * 0.7 / len(parts)
        axis.errorbar(
            part["estimate"],
            [rows.index(label) + offset for label in part["label"]],
            xerr=[part["estimate"] - part["low"], part["high"] - part["estimate"]],
            fmt="osD^vPX*"[index % 8],
            color=colour,
            capsize=3,
            label=f"{level} ({_sizes(part)})" if "n" in part else str(level),
        )


def _sizes(table: pd.DataFrame) -> str:
    if "n" not in table:
        return f"n = {len(table):,} estimates"
    low, high = table["n"].min(), table["n"].max()
    return image_count(int(low)) if low == high else f"n = {low:,.0f} to {high:,.0f} images"


def score_interval_figure(
    table: pd.DataFrame, bootstrap: Bootstrap, label: str, title: str, hue: str | None = None
) -> Figure:
    """Draw a `localisation_table` as a forest plot, a panel a score, as far as the scores reach.

    Args:
        label: column that names the rows: `source` or `part`.
        hue: as in `metric_interval_figure`.
    """
    named = table.assign(metric=table["score"], label=table[label])
    figure = metric_interval_figure(named, bootstrap, hue=hue, title=title)
    limit = max(0.1, 1.05 * table[["estimate", "high"]].max(axis=None))
    for axis in figure.axes:
        axis.set_xlim(-0.03 * limit, limit)
    return figure


def class_counts_figure(table: pd.DataFrame, by: str, title: str | None = None) -> Figure:
    """Draw how many images of each class there are, by center, split, region, …

    Args:
        table: one row an image, with `label` (0, 1, 2) and the column `by`.
        by: the column along the x axis; its order of categories is kept, else values are sorted.

    Raises:
        ValueError: a column is missing or a label is none of these.
    """
    missing = [column for column in ("label", by) if column not in table.columns]
    if missing:
        raise ValueError(f"table lacks the columns {', '.join(missing)}")
    names = table["label"].map(dict(enumerate(CLASS_NAMES)))
    if names.isna().any():
        found = table.loc[names.isna(), "label"].iloc[0]
        raise ValueError(f"label must be 0, 1 or 2, not {found!r}")
    counts = pd.crosstab(table[by], names).reindex(columns=list(CLASS_NAMES), fill_value=0)
    category, places = by.replace("_", " ").capitalize(), np.arange(len(counts))
    lying = len(counts) > 6
    room = 28 if lying else 72 // max(1, len(counts))
    ticks = [
        f"{textwrap.fill(str(value), room)}\n(n = {total:,})"
        for value, total in counts.sum(axis=1).items()
    ]
    figure, axes = panels(1, 1, (WIDTH, 1.2 + 0.58 * len(counts) if lying else 4.2))
    axis = axes[0, 0]
    for index, name in enumerate(CLASS_NAMES):
        style = {"color": CLASS_PALETTE[name], "label": name, "hatch": CLASS_HATCHES[name]}
        draw = axis.barh if lying else axis.bar
        bars = draw(places + (index - 1) * 0.27, counts[name], 0.26, edgecolor="white", **style)
        axis.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=SMALL)
    if lying:
        axis.set_yticks(places, ticks)
        axis.set(xlabel="Images", ylabel=category, ylim=(len(counts) - 0.5, -0.5))
        axis.margins(x=0.1)
    else:
        axis.set_xticks(places, ticks)
        axis.set(xlabel=category, ylabel="Images")
        axis.margins(y=0.1)
    axis.grid(visible=False, axis="y" if lying else "x")
    axis.legend(title="Class", loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.suptitle(f"{title or f'Class counts by {category.lower()}'} ({image_count(len(table))})")
    said = [
        f"{value}: {', '.join(f'{n:,} {name}' for name, n in of_each.items())}"
        for value, of_each in counts.iterrows()
    ]
    return describe(figure, f"{figure.get_suptitle()}. {'; '.join(said)}.")


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
        ValueError: the images are not (N, H, W), or titles, masks or maps are not N.
    """
    pictures = np.asarray(images)
    n = len(pictures)
    if n and pictures.ndim != 3:
        raise ValueError(f"images must have shape (N, H, W), found {pictures.shape}")
    for name, values in {"titles": titles, "masks": masks, "heatmaps": heatmaps}.items():
        if values is not None and len(values) != n:
            raise ValueError(f"{name} must be {n}, one an image, found {len(values)}")
    caption = f"{title} ({image_count(n)}{'; outline: lesion mask' if masks is not None else ''})"
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
    for index, axis in enumerate(axes.flat[:n]):
        axis.imshow(pictures[index], cmap="gray", vmin=0, vmax=255)
        axis.set_title(headings[index], fontsize=SMALL)
        if heatmaps is not None:
            heat = np.clip(heatmaps[index], 0, 1)
            axis.imshow(heat, cmap=HEAT_MAP, vmin=0, vmax=1, alpha=0.6 * heat)
        if masks is not None:
            _outline(axis, masks[index] > 0)
    if heatmaps is not None and n:
        bar = figure.colorbar(
            ScalarMappable(cmap=HEAT_MAP), ax=axes, shrink=0.8, aspect=25, pad=0.01
        )
        bar.set_label("Heat map, 0 (clear) to 1")
    figure.suptitle(caption, wrap=True)
    return describe(figure, f"{caption}. {'; '.join(map(str, titles))}.")


def _outline(axis: Axes, mask: NDArray[np.bool_]) -> None:
    """Draw the edge of a mask, dark below light so that it shows on bone and on film."""
    if not mask.any():
        return
    padded = np.pad(mask.astype(float), 1)
    places = np.arange(-1, mask.shape[0] + 1), np.arange(-1, mask.shape[1] + 1)
    lines = axis.contour(
        places[1], places[0], padded, levels=[0.5], colors=[MASK_COLOUR], linewidths=1.6
    )
    lines.set_path_effects([patheffects.withStroke(linewidth=3, foreground="black")])
    axis.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5))
