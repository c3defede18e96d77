"""The cluster bootstrap, from which every interval comes.

Images of one patient are not independent, so whole groups are drawn, not images; and they are
drawn within each class, so that no replicate is without malignant images: the cluster bootstrap
of Field and Welsh (2007), stratified as in Efron and Tibshirani (1993, section 8).

A proportion has the interval of Korn and Graubard (1998), which has a width at 0 and at 1 too: of
0 in 5, the truth may be 0.4. Other figures have percentile intervals (Efron and Tibshirani 1993,
section 13.3), and none where all replicates are equal, as at perfect separation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, stdtrit

from btxrd.evaluation.metrics import METRIC_NAMES, metric_table, proportion_members, ratio
from btxrd.predictions import Floats

__all__ = ["NO_INTERVAL", "ROUNDING", "Bootstrap", "Sample", "bootstrap_metrics"]

NO_INTERVAL = (
    "the replicates of the bootstrap are equal, as at perfect separation or of a single group"
)
"""The reason why an estimate has no interval."""

ROUNDING = 1e-9
"""Replicates that differ by less are equal."""


@dataclass(frozen=True)
class Sample:
    """The numbers of images that proportions are shares of, and of their groups, (…) each.

    `degrees` are those of freedom of the bootstrap's variance; None for `groups` - 1.
    """

    images: ArrayLike
    groups: ArrayLike
    degrees: ArrayLike | None = None

    @classmethod
    def of(cls, members: ArrayLike, groups: ArrayLike | None) -> "Sample":
        """Count images and their groups, given as in `Bootstrap.weights`.

        `members` are (n,) or (n, m) booleans: which images each of m proportions is of.

        >>> Sample.of([True, True, False, True], ["a", "a", "b", "c"])
        Sample(images=np.int64(3), groups=np.int64(2), degrees=None)
        """
        chosen = np.asarray(members, dtype=bool)
        codes = _group_codes(groups, len(chosen))
        order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[order], np.arange(codes.max(initial=-1) + 1))
        present = np.logical_or.reduceat(chosen[order], starts, axis=0)
        return cls(chosen.sum(axis=0), present.sum(axis=0))

    @classmethod
    def above(cls, scores: ArrayLike, groups: ArrayLike | None) -> "Sample":
        """Count the images at or above each distinct score, from the highest down; (G,) each.

        >>> Sample.above([0.9, 0.5, 0.5, 0.2], ["a", "a", "b", "b"])
        Sample(images=array([1, 3, 4]), groups=array([1, 2, 2]), degrees=None)
        """
        values = np.asarray(scores, dtype=np.float64)
        codes = _group_codes(groups, len(values))
        best = np.full(codes.max() + 1, -np.inf)
        np.maximum.at(best, codes, values)
        cuts = -np.unique(values)[::-1]
        return cls(*(np.searchsorted(np.sort(-of), cuts, side="right") for of in (values, best)))


@dataclass(frozen=True)
class Bootstrap:
    """A bootstrap: it draws replicates, and makes intervals of them.

    Attributes:
        replicates: R, 1 or more.
        level: coverage of the intervals, above 0 and below 1.
        seed: equal seeds give equal weights; the order of the images does not matter.
    """

    replicates: int = 2000
    level: float = 0.95
    seed: int = 42

    @property
    def name(self) -> str:
        """Return the level as reports write it, such as "95 %"."""
        return f"{100 * self.level:g} %"

    def weights(self, y_true: ArrayLike, groups: ArrayLike | None = None) -> Floats:
        """Draw replicates as image weights: how often each image's group was drawn.

        Within each stratum as many groups are drawn, with replacement, as it has; a group's
        stratum is its most severe class. Without `groups` each image is one; with them, an image
        that has none is a ValueError.

        Returns:
            (1 + R, n) float64 whole numbers ≥ 0, equal within each group: first every image
            once, then the replicates.

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
        """Draw replicates of S trainings (seeds), as the share of each in their mean.

        S - 1 of them are drawn, with replacement, so that the mean of a replicate has the
        variance s²/S, and not (S - 1)/S of it (Rao and Wu 1988). One training does not vary.
        Together with `weights` it is the pigeonhole bootstrap (Owen 2007), which errs on the wide
        side. Draws with different `number` are independent.

        Returns:
            (1 + R, S) float64 ≥ 0 whose rows sum to 1: first equal shares, then the replicates.
        """
        equal = np.full(trainings, 1 / trainings)
        draws = max(1, trainings - 1)
        rng = np.random.default_rng([self.seed, number + 1])
        return np.vstack([equal, rng.multinomial(draws, equal, self.replicates) / draws])

    def estimate(
        self, values: Floats, sample: Sample | None = None
    ) -> tuple[Floats, Floats, Floats]:
        """Return the estimate and the low and high end of its interval, (…) each.

        Args:
            values: (1 + R, …) the statistic for each row of `weights`. Replicates in which it is
                NaN are left out.
            sample: of a proportion, as in `proportion`; None where the statistic is none.

        >>> Bootstrap(replicates=2, level=0.5).estimate(np.array([0.4, 0.0, 1.0]))
        (np.float64(0.4), np.float64(0.25), np.float64(0.75))
        """
        if sample is not None:
            return self.proportion(values, sample)
        ends = [(1 - self.level) / 2, (1 + self.level) / 2]
        drawn = np.asarray(values[1:], dtype=np.float64)
        missing = np.isnan(drawn)
        nothing = missing.all(axis=0)
        if missing.any():
            low, high = np.nanquantile(np.where(nothing, 0, drawn), ends, axis=0)
        else:
            low, high = np.quantile(drawn, ends, axis=0)
        nothing |= high - low < ROUNDING
        return values[0], np.where(nothing, np.nan, low)[()], np.where(nothing, np.nan, high)[()]

    def proportion(self, values: Floats, sample: Sample) -> tuple[Floats, Floats, Floats]:
        """Return proportions and the ends of their intervals, which always have a width.

        The method of Korn and Graubard (1998): the exact binomial interval (Clopper and Pearson
        1934) for n_eff images in place of n. n_eff = n / design effect · (t(n - 1) / t(d))², with
        the quantiles of t at `level` and the degrees of freedom d of the variance. The design
        effect is the variance over the replicates as a multiple of that of n independent images
        with the same mean; K groups drawn with replacement have (K - 1) / K of the variance, so
        it is divided by that first. An effect below 1 is taken for chance. Where the replicates do
        not vary (none or all are hit, or there is a single group), n_eff is K. Notebook 04 computes
        one such interval by hand; `tests/benchmarks/test_coverage.py` counts how often they hold.

        Args:
            values: (1 + R, …) in [0, 1], as in `estimate`.
            sample: the images of each, (…) or what broadcasts to it.

        Returns:
            Three (…) float64: the proportion, low, high, all in [0, 1].

        >>> none_of_five = np.zeros(100)
        >>> [round(float(x), 3) for x in Bootstrap(99).proportion(none_of_five, Sample(5, 5))]
        [0.0, 0.0, 0.522]
        """
        share, drawn = np.asarray(values[0]), np.asarray(values[1:])
        images, groups = np.broadcast_arrays(sample.images, sample.groups)
        degrees = groups - 1 if sample.degrees is None else sample.degrees
        defined = ~np.isnan(drawn)
        count = defined.sum(axis=0)
        mean = ratio(np.where(defined, drawn, 0).sum(axis=0), count)
        variance = ratio(np.where(defined, (drawn - mean) ** 2, 0).sum(axis=0), count)
        tail = (1 - self.level) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            effect = variance * groups / (groups - 1) * (images - 1) / (mean * (1 - mean))
            quantiles = stdtrit(np.maximum(images - 1, 1), tail) / stdtrit(degrees, tail)
            effective = images / np.maximum(effect, 1) * quantiles**2
        varies = (variance > ROUNDING**2) & (degrees > 0)
        effective = np.where(varies, effective, groups)
        hits, misses = share * effective, (1 - share) * effective
        low = np.where(share > ROUNDING, betaincinv(hits, misses + 1, tail), 0 * share)
        high = np.where(share < 1 - ROUNDING, betaincinv(hits + 1, misses, 1 - tail), 0 * share + 1)
        return share[()], low[()], high[()]

    def columns(
        self, name: str, values: Floats, prefix: str = "", sample: Sample | None = None
    ) -> dict[str, Floats]:
        """Return the result of `estimate` as columns: `name`, and its ends after the prefix."""
        ends = (name, f"{prefix}low", f"{prefix}high")
        return dict(zip(ends, self.estimate(values, sample), strict=True))

    def derived(self, number: int) -> "Bootstrap":
        """Return a bootstrap whose draws are independent of this one's and of other numbers'."""
        seed = np.random.SeedSequence(self.seed).generate_state(number + 1)[number]
        return Bootstrap(self.replicates, self.level, int(seed))


def _group_codes(groups: ArrayLike | None, n: int) -> NDArray[np.int64]:
    """Number the groups 0 … K-1 in the order of their names."""
    if groups is None:
        return np.arange(n)
    codes = pd.factorize(pd.Series(groups).to_numpy(), sort=True)[0]
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
    """Return scalar metrics, the index `metric`, with the columns `estimate`, `low`, `high`."""
    table = metric_table(y_true, probabilities, bootstrap.weights(y_true, groups), names)
    members = proportion_members(y_true, probabilities)
    shares = [name for name in table if name in members]
    rows = {name: bootstrap.estimate(table[name]) for name in table if name not in members}
    if shares:
        sample = Sample.of(np.stack([members[name] for name in shares], axis=1), groups)
        values = np.stack([table[name] for name in shares], axis=1)
        rows |= zip(shares, np.transpose(bootstrap.proportion(values, sample)), strict=True)
    index = pd.Index(table, name="metric")
    return pd.DataFrame([rows[name] for name in table], index, ["estimate", "low", "high"])
