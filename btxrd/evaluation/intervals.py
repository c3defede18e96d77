"""How sure a figure is: bootstrap intervals that know of study groups.

Views of one patient are not independent, so whole study groups are drawn, not images; and they
are drawn within each class, so that no replicate is without malignant images.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from btxrd import CLASS_NAMES
from btxrd.evaluation.metrics import check_predictions, cumulative_weights, metric_table

__all__ = [
    "bootstrap_curves",
    "bootstrap_metrics",
    "bootstrap_weights",
    "format_interval",
    "percentile_interval",
]

Floats = NDArray[np.float64]


def bootstrap_weights(
    y_true: ArrayLike, groups: ArrayLike | None, replicates: int, seed: int
) -> Floats:
    """Draw bootstrap replicates as image weights: how often each image's group was drawn.

    The cluster bootstrap of Field and Welsh (2007, J. R. Stat. Soc. B 69:369), stratified by
    class (Efron and Tibshirani 1993, section 8): within each stratum as many groups are drawn,
    with replacement, as it has. A group's stratum is its most severe class, the highest of its
    labels. Groups of one image each give the ordinary class-stratified bootstrap.

    A class that is the most severe of some group is in every replicate. A stratum of a single
    group does not vary, so an interval that rests on it alone is too narrow.

    Args:
        y_true: (n,) integer labels, the more severe the higher.
        groups: (n,) group names or numbers; None puts each image into its own.
        replicates: R ≥ 1.
        seed: equal seeds give equal weights; the order of the images does not matter.

    Returns:
        (R, n) float64 whole numbers ≥ 0, equal within each group.

    Raises:
        ValueError: shapes disagree, a group is missing, or `replicates` is below 1.

    >>> bootstrap_weights([0, 0, 1], ["a", "a", "b"], replicates=2, seed=1)
    array([[1., 1., 1.],
           [1., 1., 1.]])
    """
    labels = np.asarray(y_true)
    codes = _group_codes(groups, len(labels))
    if replicates < 1:
        raise ValueError(f"replicates must be 1 or more, found {replicates}")
    strata = np.full(codes.max() + 1, labels.min())
    np.maximum.at(strata, codes, labels)
    rng = np.random.default_rng(seed)
    multiplicity = np.empty((replicates, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        multiplicity[:, members] = _multiplicities(rng, replicates, len(members))
    return multiplicity[:, codes]


def _group_codes(groups: ArrayLike | None, n: int) -> NDArray[np.int64]:
    """Number the groups 0 … K-1 in the order of their names."""
    if groups is None:
        return np.arange(n)
    values = pd.Series(groups).to_numpy()
    if values.shape != (n,):
        raise ValueError(f"groups must have shape ({n},), one a label, found {values.shape}")
    codes = pd.factorize(values, sort=True)[0]
    if (codes < 0).any():
        raise ValueError(f"{(codes < 0).sum()} of {n} images have no group")
    return codes.astype(np.int64)


def _multiplicities(rng: np.random.Generator, replicates: int, size: int) -> NDArray[np.int64]:
    """Count how often each of `size` things is drawn in `size` draws, for each replicate."""
    drawn = rng.integers(size, size=(replicates, size))
    cells = drawn + size * np.arange(replicates)[:, None]
    return np.bincount(cells.ravel(), minlength=replicates * size).reshape(replicates, size)


def bootstrap_metrics(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    groups: ArrayLike | None = None,
    class_names: Sequence[str] = CLASS_NAMES,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 42,
) -> pd.DataFrame:
    """Estimate every scalar metric with its percentile bootstrap interval.

    Percentile intervals (Efron and Tibshirani 1993, section 13.3) over the replicates of
    `bootstrap_weights`; replicates in which a metric is undefined are left out of its interval.

    Args:
        y_true: (n,) integer labels, 0 … C-1.
        probabilities: (n, C) floats in [0, 1]; each row sums to 1.
        groups: (n,) study groups; None takes the images as independent.
        class_names: the C names, in the order of the labels.
        replicates: how many bootstrap replicates, 1 or more.
        level: coverage of the intervals, between 0 and 1.
        seed: seed of the draws.

    Returns:
        A frame indexed by `metric` (names as in `btxrd.evaluation.metrics.metric_table`) with
        the float columns `estimate`, `low`, `high`; NaN where a metric is undefined.

    Raises:
        ValueError: the predictions are invalid, a group is missing, or `level` is not
            between 0 and 1.

    >>> table = bootstrap_metrics([0, 1, 2], [[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7]])
    >>> table.loc["accuracy"].tolist()
    [1.0, 1.0, 1.0]
    """
    labels, scores = check_predictions(y_true, probabilities, class_names)
    weights = bootstrap_weights(labels, groups, replicates, seed)
    estimates = metric_table(labels, scores, np.ones((1, len(labels))), class_names)
    replicated = metric_table(labels, scores, weights, class_names)
    rows = {
        name: [float(estimate[0]), *percentile_interval(replicated[name], level)]
        for name, estimate in estimates.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["estimate", "low", "high"])
    return table.rename_axis("metric")


def percentile_interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Return the central interval of replicated values; those that are NaN are left out.

    Args:
        values: (R,) floats.
        level: the share of the values inside, between 0 and 1.

    Raises:
        ValueError: `level` is not between 0 and 1.

    >>> percentile_interval(np.array([0.0, 1.0, np.nan]), 0.5)
    (0.25, 0.75)
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, such as 0.95, found {level}")
    defined = values[~np.isnan(values)]
    if len(defined) == 0:
        return np.nan, np.nan
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_curves(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    groups: ArrayLike | None = None,
    class_names: Sequence[str] = CLASS_NAMES,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 42,
) -> pd.DataFrame:
    """Give the ROC and the precision-recall curve of each class a pointwise bootstrap band.

    The ROC curve is read at fixed false-positive rates (vertical averaging, Fawcett 2006,
    Pattern Recognit. Lett. 27:861); precision at fixed recalls, in steps and not interpolated
    (Davis and Goadrich 2006). Arguments as in `bootstrap_metrics`.

    Returns:
        A frame with the columns `curve` ("roc" or "pr"), `class_name`, `x` (1 - specificity, or
        recall), `low`, `high` (sensitivity, or precision), 101 rows a curve and class; a class
        without both positives and negatives has none.

    Raises:
        ValueError: as `bootstrap_metrics`.

    >>> bands = bootstrap_curves([0, 1], [[0.9, 0.1], [0.2, 0.8]], class_names=["No", "Yes"])
    >>> bands.groupby(["curve", "class_name"]).size().tolist()
    [101, 101, 101, 101]
    """
    labels, scores = check_predictions(y_true, probabilities, class_names)
    weights = bootstrap_weights(labels, groups, replicates, seed)
    grid = np.linspace(0, 1, 101)
    bands = []
    for c, name in enumerate(class_names):
        positive = labels == c
        if positive.all() or not positive.any():
            continue
        above, everyone = cumulative_weights(positive, scores[:, c], weights)
        for curve, read in (("roc", _sensitivity_at), ("pr", _precision_at)):
            values = np.stack([read(*row, grid) for row in zip(above, everyone, strict=True)])
            intervals = np.array([percentile_interval(column, level) for column in values.T])
            bands.append(
                pd.DataFrame(
                    {"curve": curve, "class_name": name, "x": grid}
                    | {"low": intervals[:, 0], "high": intervals[:, 1]}
                )
            )
    columns = ["curve", "class_name", "x", "low", "high"]
    return pd.concat(bands, ignore_index=True) if bands else pd.DataFrame(columns=columns)


def _sensitivity_at(above: Floats, everyone: Floats, grid: Floats) -> Floats:
    """Sensitivity at each false-positive rate of `grid`; NaN where a class has no weight."""
    false_alarms = everyone - above
    if above[-1] == 0 or false_alarms[-1] == 0:
        return np.full(len(grid), np.nan)
    return np.interp(grid, np.r_[0, false_alarms / false_alarms[-1]], np.r_[0, above / above[-1]])


def _precision_at(above: Floats, everyone: Floats, grid: Floats) -> Floats:
    """Precision at the highest threshold that reaches each recall of `grid`."""
    if above[-1] == 0:
        return np.full(len(grid), np.nan)
    # The first threshold that finds anyone stands for recall 0.
    needed = np.maximum(grid * above[-1] * (1 - 1e-12), np.finfo(np.float64).tiny)
    reached = np.searchsorted(above, needed)
    return above[reached] / everyone[reached]


def format_interval(estimate: float, low: float, high: float, digits: int = 3) -> str:
    """Write an estimate with its interval as the reports print it.

    >>> format_interval(0.812, 0.7601, 0.8612)
    '0.812 (0.760–0.861)'
    >>> format_interval(float("nan"), 0.1, 0.2)
    '–'
    >>> format_interval(0.5, float("nan"), float("nan"), digits=2)
    '0.50 (–)'
    """
    if np.isnan(estimate):
        return "–"
    if np.isnan(low) or np.isnan(high):
        return f"{estimate:.{digits}f} (–)"
    return f"{estimate:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"
