"""The table of thresholds on the malignant probability that the explorer shows."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from btxrd.evaluation.intervals import Bootstrap
from btxrd.evaluation.metrics import ratio
from btxrd.evaluation.operating_points import ENDS, call_counts, call_rates, predictive_values
from btxrd.predictions import MALIGNANT, labels

__all__ = ["PREVALENCES", "threshold_table"]

PREVALENCES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of malignant images that the slider of the prevalence stops at."""

QUANTILES = np.linspace(0, 1, 32)
"""Those of the malignant images' scores, and of the others', are thresholds of the table."""
STEPS = np.arange(1, 20) / 20
"""Further thresholds, so that the table has some where no score lies."""


def threshold_table(
    test: pd.DataFrame,
    points: pd.DataFrame,
    bootstrap: Bootstrap,
    prevalences: Sequence[float] = (),
) -> pd.DataFrame:
    """Compute what each of some hundred thresholds costs on test, the same for all folds of a pool.

    Where the threshold is one of `points`, the columns that both tables have are equal.

    Net benefit (Vickers and Elkin 2006) is TP/n - FP/n · t/(1 - t), in malignant images found an
    image: to act from a probability of t on is to accept (1 - t)/t false alarms for each. At
    another prevalence it follows from sensitivity and specificity, as PPV and NPV do, and its
    ends from both low and both high ends.

    Args:
        test: one prediction or more.
        points: the result of `operating_points` for the same test and bootstrap.
        prevalences: shares of malignant images, between 0 and 1, beside `PREVALENCES`.

    Returns:
        A row a threshold, ascending: those of `points` (but for the means over folds), quantiles
        of the scores, and steps of 0.05. `threshold`; the counts `tp`, `fp`, `fn`, `tn`;
        `sensitivity`, `specificity`, `ppv`, `npv` and `net_benefit`, each with its ends;
        `alarms`, the share of images called malignant; `treat_all`, the net benefit of calling
        all so. The figures from `ppv` on also as `<name>@<prevalence>`. Without malignant images
        there is no sensitivity, without others no specificity, nor what follows from them.
    """
    cuts = _grid(test, () if "threshold_min" in points else points["threshold"].dropna())
    called = test["p_Malignant"].to_numpy(np.float64)[:, None] >= cuts
    counts = call_counts(test, called, bootstrap.weights(labels(test), test["group"]))
    harm, share = ratio(cuts, 1 - cuts), (labels(test) == MALIGNANT).mean()
    benefit = (counts["tp"] - harm * counts["fp"]) / sum(counts.values())
    table = {"threshold": cuts}
    table |= {name: count[0].astype(np.int64) for name, count in counts.items()}
    table |= call_rates(counts, called, test, bootstrap)
    table |= {"alarms": called.mean(axis=0)}
    table |= bootstrap.columns("net_benefit", benefit, "net_benefit_")
    table |= {"treat_all": share - harm * (1 - share)}
    for other in sorted({*PREVALENCES, *prevalences}):
        table |= predictive_values(table, other)
        for end in ENDS:
            found = table[f"sensitivity{end}"] * other
            alarmed = (1 - table[f"specificity{end}"]) * (1 - other)
            table[f"net_benefit@{other:g}{end}"] = found - harm * alarmed
            if not end:
                table[f"alarms@{other:g}"] = found + alarmed
        table[f"treat_all@{other:g}"] = other - harm * (1 - other)
    return pd.DataFrame(table)


def _grid(test: pd.DataFrame, chosen: Sequence[float]) -> NDArray[np.float64]:
    """Return the thresholds of a table; those that read like a chosen one give way to it."""
    malignant, scores = labels(test) == MALIGNANT, test["p_Malignant"].to_numpy(np.float64)
    parts = [scores[images] for images in (malignant, ~malignant) if images.any()]
    found = [np.quantile(part, QUANTILES) for part in parts]
    grid = np.concatenate([STEPS, *found]).round(3)
    kept = (grid > 0) & (grid < 1) & ~np.isin(grid, np.round(chosen, 3))
    return np.unique([*grid[kept], *chosen])
