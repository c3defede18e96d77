"""Bands of the ROC and precision-recall curves."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from btxrd import CLASS_NAMES
from btxrd.evaluation.intervals import Bootstrap, Sample
from btxrd.evaluation.metrics import cumulative_weights
from btxrd.predictions import Floats

__all__ = ["bootstrap_curves"]


def bootstrap_curves(
    y_true: ArrayLike, probabilities: ArrayLike, groups: ArrayLike | None, bootstrap: Bootstrap
) -> pd.DataFrame:
    """Return pointwise bands of the ROC and of the precision-recall curve of each class.

    The ROC curve is read at fixed false-positive rates (vertical averaging, Fawcett 2006);
    precision at fixed recalls, in steps (Davis and Goadrich 2006). Both are proportions.

    Returns:
        `curve` ("roc" or "pr"), `class_name`, `x` (1 - specificity below 1, or recall, in steps of
        0.01), `low`, `high` (sensitivity, or precision); no rows of a class without both positives
        and negatives.
    """
    labels, scores = np.asarray(y_true), np.asarray(probabilities)
    weights = bootstrap.weights(labels, groups)
    grid = np.linspace(0, 1, 101)
    bands = [pd.DataFrame(columns=["curve", "class_name", "x", "low", "high"])]
    for c, name in enumerate(CLASS_NAMES):
        positive = labels == c
        if positive.all() or not positive.any():
            continue
        above, everyone = cumulative_weights(positive, scores[:, c], weights)
        # A precision is a share of the images that are called at its threshold.
        called, reached = Sample.above(scores[:, c], groups), _reached(above[0], grid)
        curves = {
            # Where every image is called, nothing is uncertain.
            "roc": (_sensitivity_at, grid[:-1], Sample.of(positive, groups)),
            "pr": (_precision_at, grid, Sample(called.images[reached], called.groups[reached])),
        }
        for curve, (read, x, sample) in curves.items():
            values = np.stack([read(*row, x) for row in zip(above, everyone, strict=True)])
            _, low, high = bootstrap.proportion(values, sample)
            band = {"curve": curve, "class_name": name, "x": x, "low": low, "high": high}
            bands.append(pd.DataFrame(band))
    return pd.concat(bands[1:] or bands, ignore_index=True)


def _sensitivity_at(above: Floats, everyone: Floats, grid: Floats) -> Floats:
    """Return the sensitivity at each false-positive rate of `grid`."""
    false_alarms = everyone - above
    if above[-1] == 0 or false_alarms[-1] == 0:
        return np.full(len(grid), np.nan)
    return np.interp(grid, np.r_[0, false_alarms / false_alarms[-1]], np.r_[0, above / above[-1]])


def _precision_at(above: Floats, everyone: Floats, grid: Floats) -> Floats:
    """Return the precision at the highest threshold that reaches each recall of `grid`."""
    if above[-1] == 0:
        return np.full(len(grid), np.nan)
    reached = _reached(above, grid)
    return above[reached] / everyone[reached]


def _reached(above: Floats, grid: Floats) -> NDArray[np.int64]:
    """Return the place of the highest threshold that reaches each recall of `grid`."""
    # The first threshold that finds anyone stands for recall 0.
    needed = np.maximum(grid * above[-1] * (1 - 1e-12), np.finfo(np.float64).tiny)
    return np.searchsorted(above, needed)
