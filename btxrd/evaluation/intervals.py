"""How sure a figure is: one cluster bootstrap, from which every interval comes.

Views of one patient are not independent, so whole study groups are drawn, not images; and they
are drawn within each class, so that no replicate is without malignant images: the cluster
bootstrap of Field and Welsh (2007), stratified as in Efron and Tibshirani (1993, section 8).
Intervals are percentile intervals (ibid., section 13.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from btxrd import CLASS_NAMES
from btxrd.evaluation.metrics import METRIC_NAMES, cumulative_weights, metric_table
from btxrd.predictions import check_predictions

__all__ = ["Bootstrap", "bootstrap_curves", "bootstrap_metrics"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bootstrap:
    """What draws, and what turns replicates into an interval.

    Attributes:
        replicates: R, 1 or more.
        level: coverage of the intervals, above 0 and below 1.
        seed: equal seeds give equal weights; the order of the images does not matter.

    Raises:
        ValueError: `replicates` or `level` is out of range.
    """

    replicates: int = 2000
    level: float = 0.95
    seed: int = 42

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if self.replicates < 1:
            raise ValueError(f"replicates must be 1 or more, found {self.replicates}")
        if not 0 < self.level < 1:
            raise ValueError(f"level must lie between 0 and 1, such as 0.95, found {self.level}")

    @property
    def name(self) -> str:
        """The level as reports write it."""
        return f"{100 * self.level:g} %"

    def weights(self, y_true: ArrayLike, groups: ArrayLike | None = None) -> Floats:
        """Draw replicates as image weights: how often each image's group was drawn.

        Within each stratum as many groups are drawn, with replacement, as it has; a group's
        stratum is its most severe class. A stratum of a single group does not vary, so an
        interval that rests on it alone is too narrow.

        Args:
            y_true: (n,) integer labels, the more severe the higher.
            groups: (n,) group names or numbers; None puts each image into its own.

        Returns:
            (1 + R, n) float64 whole numbers ≥ 0, equal within each group: first every image
            once, then the replicates.

        Raises:
            ValueError: shapes disagree, or a group is missing.

        >>> Bootstrap(replicates=1).weights([0, 0, 1], ["a", "a", "b"])
        array([[1., 1., 1.],
               [1., 1., 1.]])
        """
        labels = np.asarray(y_true)
        codes = _group_codes(groups, len(labels))
        strata = np.full(codes.max() + 1, labels.min())
        np.maximum.at(strata, codes, labels)
        rng = np.random.default_rng(self.seed)
        multiplicity = np.ones((1 + self.replicates, len(strata)))
        for stratum in np.unique(strata):
            members = np.flatnonzero(strata == stratum)
            multiplicity[1:, members] = _multiplicities(rng, self.replicates, len(members))
        return multiplicity[:, codes]

    def shares(self, trainings: int, number: int = 0) -> Floats:
        """Draw replicates of trainings (seeds), as the share of each in their mean.

        One fewer than there are is drawn, with replacement, so that the mean of a replicate has
        the variance s²/S, and not (S - 1)/S of it (Rao and Wu 1988). One training does not vary.
        Together with `weights` it is the pigeonhole bootstrap (Owen 2007), which errs on the wide
        side.

        Args:
            trainings: S, how many.
            number: draws of different numbers are independent.

        Returns:
            (1 + R, S) float64 ≥ 0 whose rows sum to 1: first equal shares, then the replicates.
        """
        equal = np.full(trainings, 1 / trainings)
        draws = max(1, trainings - 1)
        rng = np.random.default_rng([self.seed, number + 1])
        return np.vstack([equal, rng.multinomial(draws, equal, self.replicates) / draws])

    def estimate(self, values: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the estimate and the low and high end of its interval; NaN where undefined.

        Args:
            values: (1 + R, …) the statistic for each row of `weights`. Replicates in which it is
                NaN are left out.

        >>> Bootstrap(replicates=2, level=0.5).estimate(np.array([0.4, 0.0, 1.0]))
        (np.float64(0.4), np.float64(0.25), np.float64(0.75))
        """
        ends = [(1 - self.level) / 2, (1 + self.level) / 2]
        drawn = np.asarray(values[1:], dtype=np.float64)
        missing = np.isnan(drawn)
        nothing = missing.all(axis=0)
        if missing.any():
            low, high = np.nanquantile(np.where(nothing, 0, drawn), ends, axis=0)
        else:
            low, high = np.quantile(drawn, ends, axis=0)
        return values[0], np.where(nothing, np.nan, low)[()], np.where(nothing, np.nan, high)[()]

    def columns(self, name: str, values: Floats, prefix: str = "") -> dict[str, Floats]:
        """Return what `estimate` does as columns of a table: `name` and its (prefixed) ends."""
        ends = (name, f"{prefix}low", f"{prefix}high")
        return dict(zip(ends, self.estimate(values), strict=True))

    def derived(self, number: int) -> "Bootstrap":
        """Return a bootstrap whose draws are independent of this one's and of other numbers'."""
        seed = np.random.SeedSequence(self.seed).generate_state(number + 1)[number]
        return Bootstrap(self.replicates, self.level, int(seed))


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
    groups: ArrayLike | None,
    bootstrap: Bootstrap,
    names: Sequence[str] = METRIC_NAMES,
) -> pd.DataFrame:
    """Estimate scalar metrics with their intervals.

    Arguments and errors as in `metric_table` and `Bootstrap.weights`.

    Returns:
        A frame indexed by `metric` with the float columns `estimate`, `low`, `high`.
    """
    labels, scores = check_predictions(y_true, probabilities)
    table = metric_table(labels, scores, bootstrap.weights(labels, groups), names)
    columns = bootstrap.columns("estimate", np.stack(list(table.values()), axis=1))
    return pd.DataFrame(columns, index=pd.Index(list(table), name="metric"))


def bootstrap_curves(
    y_true: ArrayLike, probabilities: ArrayLike, groups: ArrayLike | None, bootstrap: Bootstrap
) -> pd.DataFrame:
    """Give the ROC and the precision-recall curve of each class a pointwise band.

    The ROC curve is read at fixed false-positive rates (vertical averaging, Fawcett 2006);
    precision at fixed recalls, in steps (Davis and Goadrich 2006). Arguments and errors as in
    `bootstrap_metrics`.

    Returns:
        A frame with the columns `curve` ("roc" or "pr"), `class_name`, `x` (1 - specificity, or
        recall), `low`, `high` (sensitivity, or precision), 101 rows a curve and class; a class
        without both positives and negatives has none.
    """
    labels, scores = check_predictions(y_true, probabilities)
    weights = bootstrap.weights(labels, groups)
    grid = np.linspace(0, 1, 101)
    bands = [pd.DataFrame(columns=["curve", "class_name", "x", "low", "high"])]
    for c, name in enumerate(CLASS_NAMES):
        positive = labels == c
        if positive.all() or not positive.any():
            continue
        above, everyone = cumulative_weights(positive, scores[:, c], weights)
        for curve, read in (("roc", _sensitivity_at), ("pr", _precision_at)):
            values = np.stack([read(*row, grid) for row in zip(above, everyone, strict=True)])
            _, low, high = bootstrap.estimate(values)
            band = {"curve": curve, "class_name": name, "x": grid, "low": low, "high": high}
            bands.append(pd.DataFrame(band))
    return pd.concat(bands[1:] or bands, ignore_index=True)


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
