"""Comparisons of predictions: of experiments, of test sets and of seeds, and how sure they are.

Two experiments are compared on the same images, so both are weighted by the same bootstrap
replicates: what makes an image hard for both cancels out of the difference.
"""

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

from btxrd import CLASS_NAMES
from btxrd.evaluation.intervals import bootstrap_weights, percentile_interval
from btxrd.evaluation.metrics import metric_table
from btxrd.predictions import labels, predictions_frame, probabilities

__all__ = [
    "EXPERIMENT_KEYS",
    "METRICS",
    "check_comparable",
    "compare_experiments",
    "delong_test",
    "differing_parameters",
    "ensemble_predictions",
    "generalisation_gap",
    "holm",
    "paired_differences",
    "seed_summary",
]

METRICS = ("macro_auc", "accuracy", "sensitivity/Malignant", "balanced_accuracy")
"""What is compared unless told otherwise; names as in `btxrd.evaluation.metrics.metric_table`."""

EXPERIMENT_KEYS = (
    "experiment",
    "model",
    "data.annotations",
    "data.dim_factor",
    "data.image_size",
    "training.batch_size",
    "training.cam_weight",
)
"""The parameters in which two experiments of the grid may differ and still be compared."""

PLACES = ("cache_dir", "study_dir", "training.workers")
"""Parameters that cannot change a run's numbers."""

MALIGNANT_AUC = "auc/Malignant"

DIFFERENCE_COLUMNS = ("metric", "first", "second", "difference", "low", "high", "p")

PAIR_COLUMNS = (
    "first_experiment",
    "second_experiment",
    *DIFFERENCE_COLUMNS,
    "p_holm",
    "delong_p",
)

Floats = NDArray[np.float64]


def paired_differences(
    first: pd.DataFrame,
    second: pd.DataFrame,
    metrics: Sequence[str] = METRICS,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 42,
) -> pd.DataFrame:
    """Compare two sets of predictions of the same images.

    The paired cluster bootstrap: both are weighted by the same `bootstrap_weights`. The interval
    is the percentile interval of the replicated differences; p is two-sided, twice the smaller
    share of replicates on one side of 0 (the level whose interval just reaches 0, Efron and
    Tibshirani 1993, section 15.4), with one added to count and number (Davison and Hinkley 1997,
    equation 4.11). It is never below 2 / (replicates + 1). Replicates in which a metric is
    undefined are left out.

    Args:
        first, second: as `read_predictions` returns them, one part only; any order of rows.
        metrics: names as in `metric_table`.
        replicates: how many bootstrap replicates, 1 or more.
        level: coverage of the intervals, between 0 and 1.
        seed: seed of the draws.

    Returns:
        One row a metric, in order: `metric`, the values `first` and `second`, `difference`
        (second - first), its interval `low`, `high`, and `p`; all but `metric` float64, NaN where
        undefined.

    Raises:
        ValueError: names an image that only one side has, or whose part, group or label differs;
            or a frame holds several parts, a metric is unknown, or `level` is not between 0 and 1.

    >>> rows = pd.DataFrame({"image_id": ["a", "b", "c"], "part": "test", "center": 1,
    ...                      "group": ["a", "b", "c"], "label": [0, 1, 2]})
    >>> right, wrong = (predictions_frame(rows, np.eye(3)[order]) for order in ([0, 1, 2], [1] * 3))
    >>> table = paired_differences(wrong, right, ["accuracy"], replicates=99)
    >>> table.set_index("metric").loc["accuracy"].round(2).tolist()
    [0.33, 1.0, 0.67, 0.67, 0.67, 0.02]
    """
    aligned = _align({"first": first, "second": second})
    weights = _weights(aligned["first"], replicates, seed)
    before, after = (_values(frame, weights, metrics) for frame in aligned.values())
    return _difference_table(before, after, level)


def compare_experiments(
    frames: Mapping[str, pd.DataFrame],
    metrics: Sequence[str] = METRICS,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 42,
) -> pd.DataFrame:
    """Compare every pair of experiments on one split.

    Each pair has the rows of `paired_differences` and one more, `auc/Malignant`, that carries
    DeLong's p. The family of Holm's adjustment is all pairs × `metrics`: the additional row is
    not in it (its `p_holm` is NaN), unless `metrics` names it.

    DeLong's test takes the images as independent. Where studies have several views its p is too
    small, and the bootstrap's is the one to quote.

    Args:
        frames: experiment → predictions of the same images, one part only.
        metrics, replicates, level, seed: as in `paired_differences`.

    Returns:
        One row a pair and metric: `first_experiment`, `second_experiment`, the columns of
        `paired_differences`, `p_holm`, `delong_p` (NaN but in the rows `auc/Malignant`). No rows
        where there is a single experiment.

    Raises:
        ValueError: as `paired_differences`, or there are no frames.

    >>> rows = pd.DataFrame({"image_id": ["a", "b", "c"], "part": "test", "center": 1,
    ...                      "group": ["a", "b", "c"], "label": [0, 1, 2]})
    >>> runs = {name: predictions_frame(rows, np.eye(3) * size)
    ...         for name, size in (("E1", 1), ("E2", 2))}
    >>> table = compare_experiments(runs, ["accuracy"], replicates=99)
    >>> table[["first_experiment", "second_experiment", "metric", "p", "p_holm"]].values.tolist()
    [['E1', 'E2', 'accuracy', 1.0, 1.0], ['E1', 'E2', 'auc/Malignant', 1.0, nan]]
    """
    aligned = _align(frames)
    reference = next(iter(aligned.values()))
    weights = _weights(reference, replicates, seed)
    reported = list(dict.fromkeys((*metrics, MALIGNANT_AUC)))
    values = {name: _values(frame, weights, reported) for name, frame in aligned.items()}
    malignant = labels(reference) == CLASS_NAMES.index("Malignant")
    scores = {name: frame["p_Malignant"] for name, frame in aligned.items()}
    tables = []
    for first, second in combinations(aligned, 2):
        table = _difference_table(values[first], values[second], level)
        p = delong_test(malignant, scores[first], scores[second])[3]
        table["delong_p"] = np.where(table["metric"] == MALIGNANT_AUC, p, np.nan)
        tables.append(table.assign(first_experiment=first, second_experiment=second))
    if not tables:
        return pd.DataFrame(columns=list(PAIR_COLUMNS))
    table = pd.concat(tables, ignore_index=True)
    table["p_holm"] = holm(table["p"].where(table["metric"].isin(metrics)))
    return table[list(PAIR_COLUMNS)]


def generalisation_gap(
    inside: pd.DataFrame,
    outside: pd.DataFrame,
    metrics: Sequence[str] = METRICS,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 42,
) -> pd.DataFrame:
    """Compare an experiment's figures on two different test sets.

    Each set has a cluster bootstrap of its own; the interval is the percentile interval of the
    differences of independent replicates. Images that are in both sets are drawn independently
    all the same: as models tend to err on the same images, the interval is then too wide rather
    than too narrow.

    Args:
        inside, outside: as `read_predictions` returns them, one part each.
        metrics, replicates, level: as in `paired_differences`.
        seed: the seeds of the two bootstraps are derived from it.

    Returns:
        One row a metric, in order: `metric`, the values `inside` and `outside`, `difference`
        (inside - outside: what is lost outside) and its interval `low`, `high`; float64, NaN
        where undefined.

    Raises:
        ValueError: a frame holds several parts, a metric is unknown, or `level` is not between 0
            and 1.

    >>> rows = pd.DataFrame({"image_id": ["a", "b", "c"], "part": "test", "center": 1,
    ...                      "group": ["a", "b", "c"], "label": [0, 1, 2]})
    >>> right, wrong = (predictions_frame(rows, np.eye(3)[order]) for order in ([0, 1, 2], [1] * 3))
    >>> table = generalisation_gap(right, wrong, ["accuracy"], replicates=99)
    >>> table.set_index("metric").loc["accuracy"].round(2).tolist()
    [1.0, 0.33, 0.67, 0.67, 0.67]
    """
    seeds = np.random.SeedSequence(seed).generate_state(2).tolist()
    own, foreign = (
        _values(frame, _weights(frame, replicates, derived), metrics)
        for frame, derived in zip((inside, outside), seeds, strict=True)
    )
    table = _difference_table(foreign, own, level)
    table = table.rename(columns={"first": "outside", "second": "inside"})
    return table[["metric", "inside", "outside", "difference", "low", "high"]]


def seed_summary(
    frames: Mapping[int, pd.DataFrame],
    metrics: Sequence[str] = METRICS,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 42,
) -> pd.DataFrame:
    """Describe the seeds of one experiment on one split.

    Two uncertainties, kept apart: `sd` is how much training again changes a figure on these
    images; `low` and `high` are how much other images would change the mean of these trainings
    (percentile interval of the cluster bootstrap, the same weights for every seed).

    Args:
        frames: seed of the training → predictions of the same images, one part only.
        metrics, replicates, level, seed: as in `paired_differences`.

    Returns:
        One row a metric, in order: `metric`, `seeds` (how many), `mean`, `sd` (of a sample, n - 1;
        NaN for one seed), `low`, `high`; NaN where a seed has no value.

    Raises:
        ValueError: as `paired_differences`, or there are no frames.

    >>> rows = pd.DataFrame({"image_id": ["a", "b", "c"], "part": "test", "center": 1,
    ...                      "group": ["a", "b", "c"], "label": [0, 1, 2]})
    >>> right, wrong = (predictions_frame(rows, np.eye(3)[order]) for order in ([0, 1, 2], [1] * 3))
    >>> table = seed_summary({1: right, 2: wrong}, ["accuracy"], replicates=99)
    >>> table.set_index("metric").loc["accuracy"].round(2).tolist()
    [2.0, 0.67, 0.47, 0.67, 0.67]
    """
    aligned = _align({f"seed {number}": frame for number, frame in frames.items()})
    weights = _weights(next(iter(aligned.values())), replicates, seed)
    values = [_values(frame, weights, metrics) for frame in aligned.values()]
    rows = []
    for metric in metrics:
        by_seed = np.stack([value[metric] for value in values])
        mean = by_seed.mean(axis=0)
        sd = by_seed[:, 0].std(ddof=1) if len(by_seed) > 1 else np.nan
        interval = percentile_interval(mean[1:], level)
        rows.append((metric, len(by_seed), float(mean[0]), float(sd), *interval))
    return pd.DataFrame(rows, columns=["metric", "seeds", "mean", "sd", "low", "high"])


def ensemble_predictions(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Average the probabilities of several trainings.

    Args:
        frames: as `read_predictions` returns them, of the same images; any parts.

    Returns:
        A frame with the columns of `predictions_frame`, in the order of the first frame. The
        logits are the logarithms of the mean probabilities (at least the smallest positive normal
        float64, so that they are finite), whose softmax gives the probabilities back.

    Raises:
        ValueError: there are no frames; or names an image that not all have, or whose part, group
            or label differs.

    >>> rows = pd.DataFrame({"image_id": ["a"], "part": "test", "center": 1, "group": ["a"],
    ...                      "label": [0]})
    >>> frames = [predictions_frame(rows, [logits]) for logits in ([99, 0, 0], [0, 99, 0])]
    >>> probabilities(ensemble_predictions(frames)).round(3)
    array([[0.5, 0.5, 0. ]])
    """
    aligned = _align({f"predictions {i}": frame for i, frame in enumerate(frames, start=1)})
    mean = np.mean([probabilities(frame) for frame in aligned.values()], axis=0)
    logits = np.log(np.maximum(mean, np.finfo(np.float64).tiny))
    return predictions_frame(next(iter(aligned.values())), logits)


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p values for their number, so that any false rejection has the chance stated.

    The step-down procedure of Holm (1979, Scand. J. Stat. 6:65). A NaN stays NaN and does not
    count in the family.

    Args:
        p_values: (m,) floats in [0, 1], or NaN.

    Returns:
        (m,) float64 adjusted p values, in the order given.

    Raises:
        ValueError: the shape is another, or a value is outside [0, 1].

    >>> holm([0.01, 0.04, np.nan, 0.03])
    array([0.03, 0.06,  nan, 0.06])
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1:
        raise ValueError(f"p_values must have shape (m,), found {p.shape}")
    outside = (p < 0) | (p > 1)
    if outside.any():
        raise ValueError(f"p values must lie in [0, 1], found {p[outside][0]}")
    family = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
    steps = p[family] * np.arange(len(family), 0, -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[family] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def delong_test(
    positive: ArrayLike, scores_first: ArrayLike, scores_second: ArrayLike
) -> tuple[float, float, float, float]:
    """Test whether two scores of the same images have the same AUC.

    The test of DeLong, DeLong and Clarke-Pearson (1988, Biometrics 44:837), by the midranks of
    Sun and Xu (2014, IEEE Signal Process. Lett. 21:1389). It takes the images as independent.

    Args:
        positive: (n,) booleans.
        scores_first, scores_second: (n,) finite floats, higher for positives.

    Returns:
        `auc_first`, `auc_second`, `z` of their difference (second - first) and its two-sided
        `p`. The AUCs are NaN where a class is absent; `z` and `p` are NaN there, where a class has
        a single image, and where the difference has no variance.

    Raises:
        ValueError: shapes disagree, `positive` is not boolean, or a score is not finite.

    >>> positive = np.array([False, False, False, True, True])
    >>> first, second, z, p = delong_test(positive, [1, 2, 5, 3, 4], [1, 2, 3, 4, 5])
    >>> round(first, 3), second, round(z, 3), round(p, 3)
    (0.667, 1.0, 1.0, 0.317)
    """
    truth, scores = np.asarray(positive), (np.asarray(scores_first), np.asarray(scores_second))
    if truth.ndim != 1 or truth.dtype != bool:
        raise ValueError(
            f"positive must be (n,) booleans, found shape {truth.shape} of {truth.dtype}"
        )
    for values in scores:
        if values.shape != truth.shape:
            raise ValueError(f"scores must have shape {truth.shape}, found {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError("scores must be finite")
    m, n = np.count_nonzero(truth), np.count_nonzero(~truth)
    if m == 0 or n == 0:
        return np.nan, np.nan, np.nan, np.nan
    (wins_first, losses_first), (wins_second, losses_second) = (
        _placements(truth, values) for values in scores
    )
    aucs = [float(wins.mean() / n) for wins in (wins_first, wins_second)]
    variance = 0.0
    if m > 1 and n > 1:
        of_positives = np.var(wins_second - wins_first, ddof=1) / n**2
        of_negatives = np.var(losses_second - losses_first, ddof=1) / m**2
        variance = of_positives / m + of_negatives / n
    if variance == 0:
        return *aucs, np.nan, np.nan
    z = float((aucs[1] - aucs[0]) / np.sqrt(variance))
    return *aucs, z, float(2 * norm.sf(abs(z)))


def _placements(positive: NDArray[np.bool_], scores: NDArray[Any]) -> tuple[Floats, Floats]:
    """Count the negatives below each positive, and the positives above each negative.

    Equal scores count a half. The counts are exact, so a variance of 0 is exactly 0.
    """
    ranks = rankdata(scores)
    below = ranks[positive] - rankdata(scores[positive])
    above = np.count_nonzero(positive) - (ranks[~positive] - rankdata(scores[~positive]))
    return below, above


def differing_parameters(
    first: Mapping[str, Any], second: Mapping[str, Any], ignoring: Collection[str] = ()
) -> list[str]:
    """List the parameters in which two runs differ.

    Args:
        first, second: nested parameters, as `RunParams.model_dump` returns them.
        ignoring: dotted keys, or the sections they begin with (`model`), that may differ. The
            cache's and the study's folder and the number of workers always may.

    Returns:
        The dotted keys, in the order of `first`, then those that only `second` has.

    >>> first = {"seed": 1, "model": {"backbone": "resnet50", "dropout": 0.2}}
    >>> second = {"seed": 2, "model": {"backbone": "resnet50", "dropout": 0.5}}
    >>> differing_parameters(first, second), differing_parameters(first, second, ["model"])
    (['seed', 'model.dropout'], ['seed'])
    """
    ignored = tuple(f"{key}." for key in (*ignoring, *PLACES))
    one, other = dict(_flatten(first)), dict(_flatten(second))
    absent = object()
    return [
        key
        for key in dict.fromkeys((*one, *other))
        if one.get(key, absent) != other.get(key, absent) and not f"{key}.".startswith(ignored)
    ]


def check_comparable(
    first: Mapping[str, Any], second: Mapping[str, Any], compared: Collection[str]
) -> None:
    """Refuse to compare two runs that differ in more than what is compared.

    Args:
        first, second: nested parameters, as `RunParams.model_dump` returns them.
        compared: dotted keys, or sections, that may differ: `EXPERIMENT_KEYS` for two experiments,
            `("split",)` for two splits of one, `("seed",)` for two seeds.

    Raises:
        ValueError: names each parameter that differs besides, with both values.

    >>> check_comparable({"split": "center", "seed": 1}, {"split": "random", "seed": 2}, ["split"])
    Traceback (most recent call last):
    ...
    ValueError: not comparable: seed is 1 and 2; only split may differ
    """
    keys = differing_parameters(first, second, compared)
    if keys:
        values = [
            {key: repr(value) for key, value in _flatten(parameters)}
            for parameters in (first, second)
        ]
        found = [
            f"{key} is {' and '.join(value.get(key, 'missing') for value in values)}"
            for key in keys
        ]
        raise ValueError(
            f"not comparable: {', '.join(found)}; only {', '.join(compared)} may differ"
        )


def _flatten(parameters: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in parameters.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{section}{key}.")
        else:
            yield f"{section}{key}", value


def _align(frames: Mapping[Hashable, pd.DataFrame]) -> dict[Hashable, pd.DataFrame]:
    """Put the rows of every frame into the order of the first; refuse frames of other images."""
    if not frames:
        raise ValueError("no predictions given, expected one frame or more")
    for name, frame in frames.items():
        repeated = frame["image_id"].duplicated()
        if repeated.any():
            image_id = frame.loc[repeated, "image_id"].iloc[0]
            raise ValueError(f"{image_id} stands more than once in {name}: give one part")
    source, first = next(iter(frames.items()))
    reference = first.set_index("image_id")
    return {
        name: _matched(reference, frame.set_index("image_id"), (source, name))
        for name, frame in frames.items()
    }


def _matched(
    reference: pd.DataFrame, frame: pd.DataFrame, names: tuple[Hashable, Hashable]
) -> pd.DataFrame:
    """Return `frame` in the order of `reference`; both are indexed by image and called `names`."""
    alone = reference.index.symmetric_difference(frame.index)
    if len(alone):
        there, missing = names if alone[0] in reference.index else names[::-1]
        raise ValueError(f"{alone[0]} is in {there} but not in {missing}: compare the same images")
    frame = frame.loc[reference.index]
    for column in ("part", "group", "label"):
        differs = frame[column] != reference[column]
        if differs.any():
            image_id = differs.idxmax()
            found = " and ".join(
                f"{values.loc[image_id, column]} in {name}"
                for values, name in zip((reference, frame), names, strict=True)
            )
            raise ValueError(f"the {column} of {image_id} differs: {found}")
    return frame.reset_index()


def _weights(frame: pd.DataFrame, replicates: int, seed: int) -> Floats:
    """Return (1 + R, n) weights: every image once, then the bootstrap replicates."""
    parts = frame["part"].unique()
    if len(parts) > 1:
        raise ValueError(f"predictions of {' and '.join(parts)} are mixed: give one part")
    drawn = bootstrap_weights(labels(frame), frame["group"], replicates, seed)
    return np.concatenate([np.ones((1, len(frame))), drawn])


def _values(frame: pd.DataFrame, weights: Floats, metrics: Sequence[str]) -> dict[str, Floats]:
    """Return the values of each metric: metric → (1 + R,)."""
    table = metric_table(labels(frame), probabilities(frame), weights)
    for metric in metrics:
        if metric not in table:
            raise ValueError(f"unknown metric {metric!r}; allowed: {', '.join(table)}")
    return {metric: table[metric] for metric in metrics}


def _difference_table(
    first: dict[str, Floats], second: dict[str, Floats], level: float
) -> pd.DataFrame:
    rows = []
    for metric in first:
        differences = second[metric] - first[metric]
        values = (float(v[0]) for v in (first[metric], second[metric], differences))
        interval = percentile_interval(differences[1:], level)
        rows.append((metric, *values, *interval, _bootstrap_p(differences[1:])))
    return pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS))


def _bootstrap_p(differences: Floats) -> float:
    defined = differences[~np.isnan(differences)]
    if len(defined) == 0:
        return np.nan
    smaller = min(np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
    return min(1.0, 2 * (smaller + 1) / (len(defined) + 1))
