"""The threshold explorer: the cost of each threshold on the malignant probability, with sliders.

It is one self-contained piece of HTML, for JupyterLab and for the page. Counts, rates and their
intervals are computed here; its script shows them, and what follows at another prevalence.
"""

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
from IPython.display import HTML
from numpy.typing import ArrayLike

from btxrd.evaluation.intervals import Bootstrap, Sample
from btxrd.evaluation.metrics import ratio
from btxrd.extras.pages import TEMPLATES
from btxrd.predictions import MALIGNANT, labels
from btxrd.report.fragments import render

__all__ = ["threshold_explorer", "threshold_table"]

PREVALENCES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of malignant images that the second slider stops at."""

QUANTILES = np.linspace(0, 1, 32)
"""Those of the malignant images' scores, and of the others', are thresholds of the table."""
STEPS = np.arange(1, 20) / 20
"""Further thresholds, so that the table has some where no score lies."""

START = 0.5
"""The threshold that is shown first where none was chosen on val."""

PANELS = (
    ("roc", "ROC", "1 - specificity", "Sensitivity"),
    ("pr", "Precision–recall", "Recall (sensitivity)", "Precision (PPV)"),
    ("decision", "Decision curve", "Threshold", "Net benefit, share of the most"),
)
"""Name, title and the titles of both axes of each curve."""

SHOWN = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "alarms": "Alarms in 100 images",
    "benefit": "Net benefit in 100 images",
}
"""The figures beside the confusion matrix: name → title."""


def threshold_explorer(
    test: pd.DataFrame,
    points: pd.DataFrame,
    bootstrap: Bootstrap,
    prevalences: Sequence[float] = (),
) -> HTML:
    """Show what thresholds cost on test: confusion matrix, rates and curves, with two sliders.

    The first threshold shown is the first that was chosen on val; of a pool, whose folds have
    their own, the one nearest to their mean.

    Args:
        test: predictions, as `read_predictions` returns them.
        points, bootstrap: `operating_points` of the same images, and what made its intervals.
        prevalences: shares of malignant images, between 0 and 1, beside `PREVALENCES`.

    Returns:
        The explorer, of at most 150 kB; a sentence where no image is malignant, or every one.
    """
    malignant, n = int((labels(test) == MALIGNANT).sum()), len(test)
    if malignant in (0, n):
        which = "every one" if malignant else "none"
        return HTML(
            f"<p>No threshold can be weighed: {which} of {n:,} test images is malignant.</p>"
        )
    chosen = points.dropna(subset=["threshold", "sensitivity"])
    is_pool = "threshold_min" in points
    targets = {}
    if not is_pool:
        targets = chosen.groupby("threshold", sort=False)["target"].agg(_named).to_dict()
    table = threshold_table(test, list(targets), bootstrap)
    rows = np.searchsorted(table["threshold"], list(targets)).tolist()
    first = chosen["threshold"].iloc[0] if len(chosen) else START
    own = malignant / n
    data = {
        "rows": json.loads(table.to_json(orient="records")),
        "start": int((table["threshold"] - first).abs().argmin()),
        "chosen": list(zip(rows, targets.values(), strict=True)),
        "prevalences": sorted({*PREVALENCES, *prevalences, own}),
        "own": own,
        "malignant": malignant,
        "others": n - malignant,
    }
    values = {"is_pool": is_pool, "level": bootstrap.name, "panels": PANELS, "rates": SHOWN}
    return HTML(render("explorer.html", beside=TEMPLATES, data=data, **values))


def _named(targets: pd.Series) -> str:
    """Write the sensitivities that a threshold was chosen for."""
    return " and ".join(f"≥ {100 * target:.3g}\N{NO-BREAK SPACE}%" for target in targets)


def threshold_table(test: pd.DataFrame, chosen: ArrayLike, bootstrap: Bootstrap) -> pd.DataFrame:
    """Compute what each of some hundred thresholds costs on test, in a pool the same for all folds.

    Args:
        test: predictions, with malignant images and others.
        chosen: thresholds that the table must have.

    Returns:
        A row a threshold, ascending: those of `chosen`, quantiles of the scores, and steps of 0.05.
        `threshold`; the counts `tp` and `fp`; `sensitivity`, `specificity`, `ppv` and `npv`, each a
        tuple of the estimate and the two ends of its interval, NaN where no image is called so.
    """
    malignant, scores = labels(test) == MALIGNANT, test["p_Malignant"].to_numpy(np.float64)
    found = [np.quantile(scores[images], QUANTILES) for images in (malignant, ~malignant)]
    grid = np.concatenate([STEPS, *found]).round(3)
    # Thresholds that read like a chosen one give way to it.
    grid = grid[(grid > 0) & (grid < 1) & ~np.isin(grid, np.round(chosen, 3))]
    cuts = np.unique([*grid, *chosen])
    called = scores[:, None] >= cuts  # (n, T)
    of_truth = np.broadcast_to(malignant[:, None], called.shape)
    weights = bootstrap.weights(labels(test), test["group"])  # (1 + R, n)
    table = {
        "threshold": cuts,
        "tp": (called & of_truth).sum(axis=0),
        "fp": (called & ~of_truth).sum(axis=0),
    }
    # Each rate: which images count as hits, among which images.
    rates = {
        "sensitivity": (called, of_truth),
        "specificity": (~called, ~of_truth),
        "ppv": (of_truth, called),
        "npv": (~of_truth, ~called),
    }
    for name, (hits, images) in rates.items():
        shares = ratio(weights @ (hits & images), weights @ images)
        ends = bootstrap.proportion(shares, Sample.of(images, test["group"]))
        table[name] = list(zip(*ends, strict=True))
    return pd.DataFrame(table)
