"""One way to lay any frame out for reading: values with intervals, counts, titles.

A table is whole without a script. After `use_tables`, once a notebook, its readers also sort,
filter and copy it, in JupyterLab and in the page, without a network: with DataTables
(https://datatables.net), as the package itables brings it.
"""

import gzip
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd
from IPython.display import HTML, display
from itables.utils import find_package_file

from btxrd.report.fragments import render

__all__ = ["TITLES", "Table", "as_table", "format_interval", "percent", "title_of", "use_tables"]

TITLES = {
    "attention_iou": "Attention mean IoU",
    "auc": "AUC",
    "auc/Malignant": "Malignant AUC",
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
"""Titles of columns and metrics in reports; other names are written with spaces."""

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
    return " ".join(_written(estimate, low, high, signed)).rstrip()


def _written(estimate: float, low: float, high: float, signed: bool) -> tuple[str, str]:
    """Write an estimate and, in brackets, its interval."""
    if pd.isna(estimate):
        return "–", ""
    sign = "+" if signed else ""
    if pd.isna(low) or pd.isna(high):
        return f"{estimate:{sign}.3f}", NO_ENDS
    forms = [f"{sign}.{digits}f" for digits in DIGITS]
    form = next((form for form in forms if f"{low:{form}}" != f"{high:{form}}"), forms[-1])
    return f"{estimate:{form}}", f"({low:{form}}{' to ' if signed else '–'}{high:{form}})"


def percent(level: float) -> str:
    """Return the name of a level of intervals.

    >>> percent(0.95)
    '95 %'
    """
    return f"{100 * level:g} %"


def use_tables() -> None:
    """Let tables be sorted, filtered and copied: show what does it, once a notebook (0.25 MB)."""
    library = gzip.compress(find_package_file("html", "dt_bundle.js").read_bytes(), mtime=0)
    display(HTML(render("use_tables.html.j2", library=b64encode(library).decode())))


@dataclass(frozen=True)
class Cell:
    """A value as it is shown, and as it is sorted.

    `interval` stands in brackets behind it, `spread` (± sd) in a line below. Its column is sorted
    by `key`: None, last, where there is no value. `mark` says how it stands to its rivals.
    """

    text: str
    interval: str = ""
    spread: str = ""
    key: float | str | None = None
    mark: Literal["", "best", "close"] = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.text, self.interval, self.spread) if part)


@dataclass(frozen=True, repr=False)
class Table:
    """A table to read, as notebooks display it: a column of `Cell` a title; the text above it."""

    cells: pd.DataFrame
    caption: str | None

    @property
    def data(self) -> pd.DataFrame:
        """The texts of the cells."""
        return self.cells.map(str)

    def _repr_html_(self) -> str:
        """Return the table as HTML that reads and prints well by itself."""
        kinds = [_kind(self.cells[name]) for name in self.cells]
        return render(
            "table.html.j2",
            caption=self.caption,
            head=list(zip(self.cells, kinds, strict=True)),
            rows=[list(zip(row, kinds, strict=True)) for row in self.cells.to_numpy()],
        )

    to_html = _repr_html_

    def __repr__(self) -> str:
        """Return the texts as pandas prints them."""
        return repr(self.data)


def _kind(cells: pd.Series) -> str:
    """Return the class of a column in HTML: number, text or, where it wraps, text long."""
    keys = [cell.key for cell in cells if cell.key is not None]
    if keys and all(isinstance(key, float) for key in keys):
        return "number"
    return "text long" if any(len(cell.text) > LONG for cell in cells) else "text"


def as_table(
    frame: pd.DataFrame,
    across: str | None = None,
    turned: str | None = None,
    titles: Mapping[str, str] | None = None,
    signed: bool = False,
    missing: str = "–",
    caption: str | None = None,
    no_interval: str = "the bootstrap's replicates are all equal",
    best: Mapping[str, Literal["max", "min"]] | None = None,
    within: str | None = None,
) -> Table:
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
        missing: stands for NaN.
        no_interval: why a value has none.
        best: a column of values → which of them is the best one. It is set bold; underlined are
            those that its interval includes or whose interval includes it. The caption says so,
            and that it is no test.
        within: compare only rows that are equal in this column, and none where it is NaN. By
            default all are compared.

    Raises:
        KeyError: `best` or `within` names a column that is not there.

    >>> frame = pd.DataFrame({"metric": ["macro_auc", "accuracy"], "estimate": [0.8, 0.7],
    ...                       "low": [0.7, 0.6], "high": [0.9, 0.8], "n": [1200, 1200]})
    >>> as_table(frame, titles={"estimate": "Test"}).data
          Metric                 Test      n
    0  Macro AUC  0.800 (0.700–0.900)  1,200
    1   Accuracy  0.700 (0.600–0.800)  1,200
    """
    named, ends = {**TITLES, **(titles or {})}, _ends(frame)
    alike = pd.Series(0, frame.index) if within is None else frame[within]
    marks = _marks(frame, ends, best or {}, alike)
    hidden = {end for pair in ends.values() for end in pair} | {f"{name}_sd" for name in ends}
    cells = pd.DataFrame(index=frame.index)
    for name in frame.columns[~frame.columns.isin(hidden)]:
        if name in ends:
            low, high = (frame[end] for end in ends[name])
            spread = frame.get(f"{name}_sd", pd.Series(float("nan"), frame.index))
            rows = zip(frame[name], low, high, spread, strict=True)
            made = [_estimate(*row, signed, missing) for row in rows]
        else:
            made = [_cell(value, name, titles or {}, missing) for value in frame[name]]
        if name in marks:
            made = [replace(cell, mark=m) for cell, m in zip(made, marks[name], strict=True)]
        cells[name] = pd.Series(made, frame.index, dtype=object)
    if across is not None:
        order = list(dict.fromkeys(cells[across]))
        keys = [name for name in cells if name not in (across, "estimate")]
        wide = cells.pivot_table("estimate", keys, across, aggfunc="first", sort=False)
        wide = wide.reindex(columns=order)
        cells = wide.where(wide.notna(), Cell(missing)).reset_index()
    if turned is not None:
        cells = cells.set_index(turned).T.rename_axis("").reset_index()
        first = cells.columns[0]
        cells[first] = [Cell(text, key=text) for text in (_title(c, named) for c in cells[first])]
    cells = cells.rename(columns={name: _title(name, named) for name in cells})
    cells = cells.rename_axis(columns=None).reset_index(drop=True)
    remarks = [] if caption is None else [caption]
    if marks.isin(["best"]).any(axis=None):
        remarks.append(_what_marks_mean(marks, alike))
    if any(cell.interval == NO_ENDS for cell in cells.to_numpy().flat):
        remarks.append(f"{NO_ENDS}: no interval, because {no_interval}")
    return Table(cells, ". ".join(remarks) or None)


def _title(name: str | Cell, named: Mapping[str, str]) -> str:
    """Return the title of a column; a value that became one, such as a center, stays as it is."""
    if isinstance(name, Cell):
        return named.get(name.text) or name.text[:1].upper() + name.text[1:]
    return named.get(name) or title_of(name)


def _ends(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Return column with an interval → the columns of its ends."""
    ends = {name: (f"{name}_low", f"{name}_high") for name in frame if f"{name}_low" in frame}
    if "low" in frame:
        value = next(name for name in ("mean", "estimate", "difference") if name in frame)
        ends[value] = ("low", "high")
    return ends


def _marks(
    frame: pd.DataFrame,
    ends: Mapping[str, tuple[str, str]],
    best: Mapping[str, str],
    within: pd.Series,
) -> pd.DataFrame:
    """Return a column each of `best`: how the values stand to the best that they compare with."""
    marks = pd.DataFrame("", index=frame.index, columns=list(best))
    for name, choice in best.items():
        values = frame[name]
        rivals = values.groupby(within)
        top = rivals.transform(choice).where(rivals.transform("count") > 1)
        if name in ends:
            low, high = (frame[end] for end in ends[name])
            lowest = low.where(values == top).groupby(within).transform("min")
            highest = high.where(values == top).groupby(within).transform("max")
            close = top.between(low, high) | values.between(lowest, highest)
            marks.loc[close, name] = "close"
        marks.loc[values == top, name] = "best"
    return marks


def _what_marks_mean(marks: pd.DataFrame, within: pd.Series) -> str:
    of_each = "" if within.name is None else f" of each {title_of(within.name).lower()}"
    near = "; underlined: not told apart from it here, as one's interval includes the other"
    underlined = near if marks.isin(["close"]).any(axis=None) else ""
    return f"Bold: the best estimate{of_each}{underlined}. This is no test"


def _estimate(value: float, low: float, high: float, sd: float, signed: bool, missing: str) -> Cell:
    if pd.isna(value):
        return Cell(missing)
    text, interval = _written(value, low, high, signed)
    return Cell(text, interval, "" if pd.isna(sd) else f"± {sd:.3f}", float(value))


def _cell(value: Any, column: str, titles: Mapping[str, str], missing: str) -> Cell:
    if isinstance(value, str):
        text = titles.get(value) or (title_of(value) if column in METRIC_COLUMNS else value)
        return Cell(text, key=text)
    if pd.isna(value):
        return Cell(missing)
    if pd.api.types.is_bool(value):
        text = "yes" if value else "no"
        return Cell(text, key=text)
    if column in P_VALUES:
        text = "< 0.001" if value < 0.001 else f"{value:.3f}"
    elif column.endswith("_share") or column == "target":
        text = f"{value:.0%}"
    else:
        text = f"{value:.3f}" if pd.api.types.is_float(value) else f"{value:,}"
    return Cell(text, key=float(value))
