"""The threshold explorer: what each threshold on the malignant probability costs, to play with.

One self-contained piece of HTML for JupyterLab and for the page. Every number is computed before:
the browser only looks up.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML
from numpy.typing import ArrayLike

from btxrd.evaluation.intervals import Bootstrap
from btxrd.extras.pages import TEMPLATES
from btxrd.report.fragments import render
from btxrd.report.tables import format_interval, title_of

__all__ = ["threshold_explorer"]

START = 0.5
"""The threshold that is shown first where none was chosen on val."""
FLOOR = -0.25
"""How far down the decision curve is drawn, as a multiple of the highest net benefit."""

COUNTS = ("tp", "fp", "fn", "tn")


def threshold_explorer(table: pd.DataFrame, points: pd.DataFrame, bootstrap: Bootstrap) -> HTML:
    """Show a table of thresholds with sliders: confusion matrix, rates, curves.

    Until it is moved, and where scripts do not run, it shows the first threshold that was chosen
    on val; of a pool, whose folds have their own, the one nearest to their mean.

    Args:
        table: what `threshold_table` returns.
        points: what `operating_points` returns for the same images.
        bootstrap: what made the intervals of both.

    Returns:
        The explorer, of at most 150 kB; a sentence where no image is malignant, or every one.
    """
    tp, fp, fn, tn = table.loc[0, list(COUNTS)].astype(int)
    malignant, n = tp + fn, tp + fp + fn + tn
    if malignant in (0, n):
        which = "every one" if malignant else "none"
        return HTML(
            f"<p>No threshold can be weighed: {which} of {n:,} test images is malignant.</p>"
        )
    chosen = points.dropna(subset=["threshold", "sensitivity"])
    folds = "threshold_min" in points
    first = chosen["threshold"].iloc[0] if len(chosen) else START
    start = int((table["threshold"] - first).abs().argmin())
    data = {
        "threshold": [f"{cut:.3f}" for cut in table["threshold"]],
        **{name: [f"{count:,}" for count in table[name]] for name in COUNTS},
        **{name: _texts(table, name) for name in ("sensitivity", "specificity")},
        "prevalences": list(_prevalences(table, malignant / n)),
        "floor": FLOOR,
    }
    own = next(entry for entry in data["prevalences"] if entry["own"])
    values = {
        "data": data,
        "own": own,
        "start": start,
        "place": partial(_place, table, malignant / n),
        "roc": _line([0, *table["specificity"], 1], [1, *table["sensitivity"], 0]),
        "chosen": [] if folds else _chosen(table, chosen),
        "folds": chosen.to_dict("records") if folds else [],
        "malignant": malignant,
        "others": n - malignant,
        "level": bootstrap.name,
        "rates": {name: title_of(name) for name in ("sensitivity", "specificity", "ppv", "npv")},
    }
    return HTML(render("explorer.html", beside=TEMPLATES, **values))


def _chosen(table: pd.DataFrame, points: pd.DataFrame) -> dict[int, str]:
    """Return row of the table → the sensitivities that it was chosen for on val."""
    rows = np.searchsorted(table["threshold"], points["threshold"])
    targets = points["target"].groupby(rows, sort=False).apply(list)
    return {row: " and ".join(f"≥ {_percent(t)}" for t in found) for row, found in targets.items()}


def _prevalences(table: pd.DataFrame, own: float) -> Iterator[dict[str, Any]]:
    """Yield all that changes with the share of malignant images, for each share, ascending."""
    suffixes = [name.removeprefix("alarms") for name in table if name.startswith("alarms")]
    shares = {suffix: float(suffix[1:]) if suffix else own for suffix in suffixes}
    cuts = table["threshold"]
    for suffix, share in sorted(shares.items(), key=lambda pair: pair[1]):
        net = f"net_benefit{suffix}"
        heights = table[[net, f"{net}_low", f"{net}_high", f"treat_all{suffix}"]] / share
        # What lies far below the floor needs no exact place.
        benefit, low, high, treat_all = heights.clip(lower=-9).to_numpy().T
        yield {
            "share": share,
            "own": not suffix,
            "title": _percent(share),
            "ticks": [f"{part * share:.2g}" for part in (100, 50)],
            "ppv": _texts(table, f"ppv{suffix}"),
            "npv": _texts(table, f"npv{suffix}"),
            "alarms": [f"{100 * alarms:.1f}" for alarms in table[f"alarms{suffix}"]],
            "net_benefit": _texts(100 * table, net, signed=True),
            "lines": {
                "pr": _steps(table["sensitivity"], table[f"ppv{suffix}"], share),
                "band": _line([*cuts, *cuts[::-1]], [*low, *high[::-1]]),
                "all": _line([0, *cuts], [1, *treat_all]),
                "model": _line(cuts, benefit),
            },
        }


def _percent(share: float) -> str:
    return f"{100 * share:.3g}\N{NO-BREAK SPACE}%"


def _texts(table: pd.DataFrame, name: str, signed: bool = False) -> list[str]:
    """Write a column with its ends, as tables do."""
    rows = table[[name, f"{name}_low", f"{name}_high"]].itertuples(index=False)
    return [format_interval(*row, signed=signed) for row in rows]


def _line(x: ArrayLike, y: ArrayLike) -> str:
    """Draw a line as SVG does, in thousandths of the panel; without the points that are NaN."""
    places = 1000 * np.column_stack([x, y]).astype(np.float64)
    known = places[~np.isnan(places).any(axis=1)]
    return "M" + "L".join(f"{a:.0f} {b:.0f}" for a, b in known) if len(known) else ""


def _steps(recall: pd.Series, precision: pd.Series, share: float) -> str:
    """Draw precision at the highest threshold that reaches each recall; `recall` descends."""
    called = precision.notna()
    right, top = [0, *recall[called][::-1], 1], [*precision[called][::-1], share]
    return _line(np.repeat(right, 2)[1:-1], np.repeat(top, 2))


def _place(table: pd.DataFrame, own: float, x: str, y: str, row: int) -> str:
    """Draw a dot as SVG does: a line without length."""
    at = table.loc[row]
    height = np.maximum(at[y] / own, FLOOR) if y == "net_benefit" else at[y]
    line = _line([at[x]], [height])
    return line and f"{line}h0"
