"""One way to lay any frame out for reading: values with intervals, counts, titles."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from btxrd.evaluation.intervals import NO_INTERVAL

__all__ = ["TITLES", "as_table", "format_interval", "title_of"]

TITLES = {
    "accuracy": "Accuracy",
    "attention_iou": "Attention mean IoU",
    "auc": "AUC",
    "auc/Malignant": "Malignant AUC",
    "average_precision": "Average precision",
    "balanced_accuracy": "Balanced accuracy",
    "brier": "Brier score (0 to 2)",
    "calibration_error": "Calibration error (RMS)",
    "duplicate_share": "Duplicate in train",
    "energy": "Energy in lesion",
    "f1": "F1",
    "image_id": "Image",
    "iou": "IoU at 0.5",
    "iou_best": "IoU at val's best",
    "log_loss": "Log loss (nats)",
    "macro_auc": "Macro AUC",
    "macro_f1": "Macro F1",
    "malignant_as_normal": "Malignant called Normal",
    "malignant_n": "Malignant",
    "mean_iou": "Grad-CAM mean IoU",
    "n": "n",
    "npv": "NPV",
    "p": "p",
    "p_holm": "p, Holm",
    "p_Benign": "p(Benign)",
    "p_Malignant": "p(Malignant)",
    "p_Normal": "p(Normal)",
    "pointing": "Peak in lesion",
    "ppv": "PPV",
    "precision": "Precision (PPV)",
    "quadratic_kappa": "Quadratic kappa",
    "sensitivity/Malignant": "Malignant sensitivity",
    "sees": "The baseline sees",
    "sibling_share": "Sibling in train",
    "val_malignant_n": "Malignant in val",
    "test_malignant_n": "Malignant in test",
    "threshold": "Threshold, chosen on val",
    "threshold_max": "Highest of a fold",
    "threshold_min": "Lowest of a fold",
    "val_sensitivity": "Sensitivity on val",
}
"""What reports call the columns and metrics; other names are written with spaces."""

P_VALUES = ("p", "p_holm")
DIGITS = range(3, 13)
"""Decimals of an estimate and its interval: as few as tell its ends apart."""
NO_ENDS = "(–)"
"""Stands for an interval that is not there."""
METRIC_COLUMNS = ("metric", "score")
"""Columns that hold names of metrics, which are written as their titles."""
LONG = 40
"""Columns with longer texts wrap."""


def title_of(name: Any) -> str:
    """Return what reports call a column or metric.

    >>> title_of("macro_auc"), title_of("with_sibling"), title_of("ppv@0.01")
    ('Macro AUC', 'With sibling', 'PPV at 1.0% malignant')
    """
    text = str(name)
    kind, _, prevalence = text.partition("@")
    if prevalence:
        return f"{title_of(kind)} at {float(prevalence):.1%} malignant"
    return TITLES.get(text) or (text[:1].upper() + text[1:]).replace("_", " ")


def format_interval(estimate: float, low: float, high: float, signed: bool = False) -> str:
    """Write an estimate with its interval; a difference with its sign.

    >>> format_interval(0.812, 0.7601, 0.8612), format_interval(0.1, -0.02, 0.22, signed=True)
    ('0.812 (0.760–0.861)', '+0.100 (-0.020 to +0.220)')
    >>> format_interval(0.99982, 0.99961, 0.99994)
    '0.9998 (0.9996–0.9999)'
    """
    if pd.isna(estimate):
        return "–"
    sign = "+" if signed else ""
    if pd.isna(low) or pd.isna(high):
        return f"{estimate:{sign}.3f} {NO_ENDS}"
    forms = [f"{sign}.{digits}f" for digits in DIGITS]
    form = next((form for form in forms if f"{low:{form}}" != f"{high:{form}}"), forms[-1])
    return f"{estimate:{form}} ({low:{form}}{' to ' if signed else '–'}{high:{form}})"


def as_table(
    frame: pd.DataFrame,
    across: str | None = None,
    turned: str | None = None,
    titles: Mapping[str, str] | None = None,
    signed: bool = False,
    missing: str = "–",
    caption: str | None = None,
    no_interval: str = NO_INTERVAL,
) -> Styler:
    """Lay a frame out for reading, without its index.

    `x` with `x_low` and `x_high`, and `estimate` with `low` and `high`, become one cell: value
    (interval); with `x_sd` also its spread, in a line below: ± sd. Counts get separators, shares
    per cent, p values their usual form; names of metrics their titles, in the head and in the
    cells. Where a value has no interval, the caption says why.

    Args:
        across: a column whose values become columns of their own, which hold `estimate`.
        turned: a column whose values become the head; the other columns become the rows.
        titles: of columns or values, before `TITLES`.
        signed: write values with their sign.
        missing: what stands for NaN.
        no_interval: why a value has none.

    >>> frame = pd.DataFrame({"metric": ["macro_auc", "accuracy"], "estimate": [0.8, 0.7],
    ...                       "low": [0.7, 0.6], "high": [0.9, 0.8], "n": [1200, 1200]})
    >>> as_table(frame, titles={"estimate": "Test"}).data
          Metric                 Test      n
    0  Macro AUC  0.800 (0.700–0.900)  1,200
    1   Accuracy  0.700 (0.600–0.800)  1,200
    """
    given = titles or {}
    named = {**TITLES, **given}
    ends = {name: (f"{name}_low", f"{name}_high") for name in frame if f"{name}_low" in frame}
    if "low" in frame:
        value = next(name for name in ("mean", "estimate", "difference") if name in frame)
        ends[value] = ("low", "high")
    spreads = {name: f"{name}_sd" for name in ends if f"{name}_sd" in frame}
    hidden = {end for pair in ends.values() for end in pair} | set(spreads.values())
    cells = pd.DataFrame(index=frame.index)
    for name in frame:
        if name in ends:
            rows = frame[[name, *ends[name]]].itertuples(index=False)
            texts = [format_interval(*row, signed=signed) for row in rows]
            if name in spreads:
                found = zip(texts, frame[spreads[name]], strict=True)
                texts = [text if pd.isna(sd) else f"{text}\n± {sd:.3f}" for text, sd in found]
            cells[name] = [missing if text == "–" else text for text in texts]
        elif name not in hidden:
            known = named if name in METRIC_COLUMNS else given
            cells[name] = [_cell(value, name, known, missing) for value in frame[name]]
    if across is not None:
        order = list(dict.fromkeys(cells[across]))
        keys = [name for name in cells if name not in (across, "estimate")]
        wide = cells.pivot_table("estimate", keys, across, aggfunc="first", sort=False)
        cells = wide.reindex(columns=order).fillna(missing).reset_index()
    if turned is not None:
        cells = cells.set_index(turned).T.rename_axis("").reset_index()
    titled = {name: named.get(name) or title_of(name) for name in cells}
    if turned is not None:
        first = cells.columns[0]
        cells[first] = [named.get(name) or title_of(name) for name in cells[first]]
    cells = cells.rename(columns=titled).rename_axis(columns=None).reset_index(drop=True)
    if any(NO_ENDS in cell for name in cells for cell in cells[name]):
        lacking = f"{NO_ENDS}: no interval, because {no_interval}"
        caption = lacking if caption is None else f"{caption}. {lacking}"
    in_two_lines = [titled[name] for name in spreads if name in titled]
    long = [name for name in cells if max(map(len, cells[name]), default=0) > LONG]
    wrapped = {"white-space": "normal", "min-width": "6rem"}
    styler = cells.style.hide(axis="index").set_properties(long, **wrapped)
    styler = styler.set_properties(in_two_lines, **{"white-space": "pre"})
    return styler if caption is None else styler.set_caption(caption)


def _cell(value: Any, column: str, titles: Mapping[str, str], missing: str) -> str:
    if isinstance(value, str):
        return titles.get(value, value)
    if pd.isna(value):
        return missing
    if pd.api.types.is_bool(value):
        return "yes" if value else "no"
    if column in P_VALUES:
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    if column.endswith("_share") or column == "target":
        return f"{value:.0%}"
    if pd.api.types.is_float(value):
        return f"{value:.3f}"
    return f"{value:,}"
