"""Differences between predictions: of experiments, of test sets and of seeds, and how sure.

Two experiments are compared on the same images, so both are weighted by the same bootstrap
replicates: what makes an image hard for both cancels out of the difference. Every frame holds
one part of its predictions; images may stand in any order. An image that only one side has, or
whose part, group or label differs, mixed parts and unknown metrics are a ValueError.
"""

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from btxrd.evaluation.intervals import Bootstrap
from btxrd.evaluation.metrics import metric_table
from btxrd.predictions import labels, predictions_frame, probabilities

__all__ = [
    "EXPERIMENT_KEYS",
    "METRICS",
    "check_comparable",
    "compare_experiments",
    "ensemble_predictions",
    "generalisation_gap",
    "holm",
    "seed_summary",
]

METRICS = ("macro_auc", "accuracy", "sensitivity/Malignant", "balanced_accuracy")
"""What is compared; names as in `btxrd.evaluation.metrics.metric_table`."""

EXPERIMENT_KEYS = (
    "experiment",
    "model",
    "data.annotations",
    "data.dim_factor",
    "data.image_size",
    "training.batch_size",
    "training.cam_weight",
    "training.mode",
    "training.C",
)
"""The parameters in which two experiments of the grid may differ and still be compared."""

PLACES = ("cache_dir", "study_dir", "training.workers")
"""Parameters that cannot change a run's numbers."""

Floats = NDArray[np.float64]


def compare_experiments(
    frames: Mapping[str, pd.DataFrame],
    bootstrap: Bootstrap,
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """Compare experiments on the same images, pair by pair.

    p is two-sided, twice the smaller share of replicates on one side of 0 (Efron and Tibshirani
    1993, section 15.4), with one added to count and number; it is never below 2 / (R + 1).

    Returns:
        One row a pair and metric: `first_experiment`, `second_experiment`, `metric`, the values
        `first` and `second`, `difference` (second - first) with `low`, `high` and `p`, and
        `p_holm`, adjusted over all rows.
    """
    aligned = _align(frames)
    weights = _weights(next(iter(aligned.values())), bootstrap)
    values = {name: _values(frame, weights, metrics) for name, frame in aligned.items()}
    rows = []
    for first, second in combinations(aligned, 2):
        for metric in metrics:
            before, after = values[first][metric], values[second][metric]
            row = {"first_experiment": first, "second_experiment": second, "metric": metric}
            row |= {"first": before[0], "second": after[0]}
            row |= bootstrap.columns("difference", after - before)
            rows.append(row | {"p": _bootstrap_p((after - before)[1:])})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"])) if rows else table


def generalisation_gap(
    inside: pd.DataFrame,
    outside: pd.DataFrame,
    bootstrap: Bootstrap,
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """Compare an experiment's figures on two different test sets.

    Each set has a bootstrap of its own. Images that are in both are drawn independently all the
    same: the interval is then too wide rather than too narrow.

    Returns:
        One row a metric: `metric`, the values `inside` and `outside`, `difference` (inside -
        outside: what is lost outside) with `low` and `high`.
    """
    own, foreign = (
        _values(frame, _weights(frame, bootstrap.derived(number)), metrics)
        for number, frame in enumerate((inside, outside))
    )
    return pd.DataFrame(
        {"metric": metric, "inside": own[metric][0], "outside": foreign[metric][0]}
        | bootstrap.columns("difference", own[metric] - foreign[metric])
        for metric in metrics
    )


def seed_summary(
    frames: Mapping[int, pd.DataFrame], bootstrap: Bootstrap, metrics: Sequence[str] = METRICS
) -> pd.DataFrame:
    """Describe the seeds of one experiment on one split.

    Two uncertainties, kept apart: `sd` is how much training again changes a figure on these
    images; `low` and `high` are how much other images would change the mean of these trainings.

    Args:
        frames: seed of the training → its predictions.

    Returns:
        One row a metric: `metric`, `seeds` (how many), `mean` with `low` and `high`, `sd` (of a
        sample, n - 1; NaN for one seed), and `ensemble` with its ends: the same metric of
        `ensemble_predictions`.
    """
    aligned = _align({f"seed {number}": frame for number, frame in frames.items()})
    weights = _weights(next(iter(aligned.values())), bootstrap)
    values = [_values(frame, weights, metrics) for frame in aligned.values()]
    ensemble = _values(ensemble_predictions(list(aligned.values())), weights, metrics)
    rows = []
    for metric in metrics:
        by_seed = np.stack([value[metric] for value in values])
        sd = by_seed[:, 0].std(ddof=1) if len(by_seed) > 1 else np.nan
        row = {"metric": metric, "seeds": len(by_seed)}
        row |= bootstrap.columns("mean", by_seed.mean(axis=0)) | {"sd": sd}
        rows.append(row | bootstrap.columns("ensemble", ensemble[metric], "ensemble_"))
    return pd.DataFrame(rows)


def ensemble_predictions(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Average the probabilities of several trainings, in the order of the first frame.

    The logits are the logarithms of the mean probabilities, at least the smallest positive normal
    float64. The frames may hold several parts.
    """
    aligned = _align({f"predictions {i}": frame for i, frame in enumerate(frames, start=1)})
    mean = np.mean([probabilities(frame) for frame in aligned.values()], axis=0)
    logits = np.log(np.maximum(mean, np.finfo(np.float64).tiny))
    return predictions_frame(next(iter(aligned.values())), logits)


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p values for their number, so that any false rejection has the chance stated.

    The step-down procedure of Holm (1979). A NaN stays NaN and does not count in the family.

    Raises:
        ValueError: a value is outside [0, 1].

    >>> holm([0.01, 0.04, np.nan, 0.03])
    array([0.03, 0.06,  nan, 0.06])
    """
    p = np.asarray(p_values, dtype=np.float64)
    outside = (p < 0) | (p > 1)
    if outside.any():
        raise ValueError(f"p values must lie in [0, 1], found {p[outside][0]}")
    family = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
    steps = p[family] * np.arange(len(family), 0, -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[family] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def check_comparable(
    first: Mapping[str, Any], second: Mapping[str, Any], compared: Collection[str]
) -> None:
    """Refuse to compare two runs that differ in more than what is compared.

    Args:
        first, second: nested parameters, as `RunParams.model_dump` returns them.
        compared: dotted keys, or the sections they begin with, that may differ: `EXPERIMENT_KEYS`
            for two experiments, `("split",)` for two splits of one. `PLACES` always may.

    Raises:
        ValueError: names each parameter that differs besides, with both values.

    >>> check_comparable({"split": "center", "seed": 1}, {"split": "random", "seed": 2}, ["split"])
    Traceback (most recent call last):
    ...
    ValueError: not comparable: seed is 1 and 2; only split may differ
    """
    free = tuple(f"{key}." for key in (*compared, *PLACES))
    one, other = ({k: repr(v) for k, v in _flatten(values)} for values in (first, second))
    found = [
        f"{key} is {one.get(key, 'missing')} and {other.get(key, 'missing')}"
        for key in dict.fromkeys((*one, *other))
        if one.get(key) != other.get(key) and not f"{key}.".startswith(free)
    ]
    if found:
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
    by_image = {name: frame.set_index("image_id") for name, frame in frames.items()}
    source, reference = next(iter(by_image.items()))
    for name, frame in by_image.items():
        alone = reference.index.symmetric_difference(frame.index)
        if len(alone):
            there, missing = (source, name) if alone[0] in reference.index else (name, source)
            found = f"{alone[0]} is in {there} but not in {missing}"
            raise ValueError(f"{found}: compare the same images")
        by_image[name] = ordered = frame.loc[reference.index]
        for column in ("part", "group", "label"):
            differs = ordered[column] != reference[column]
            if differs.any():
                image_id = differs.idxmax()
                own, other = (rows.loc[image_id, column] for rows in (reference, ordered))
                found = f"{own} in {source} and {other} in {name}"
                raise ValueError(f"the {column} of {image_id} differs: {found}")
    return {name: frame.reset_index() for name, frame in by_image.items()}


def _weights(frame: pd.DataFrame, bootstrap: Bootstrap) -> Floats:
    parts = frame["part"].unique()
    if len(parts) > 1:
        raise ValueError(f"predictions of {' and '.join(parts)} are mixed: give one part")
    return bootstrap.weights(labels(frame), frame["group"])


def _values(frame: pd.DataFrame, weights: Floats, metrics: Sequence[str]) -> dict[str, Floats]:
    """Return the values of each metric: metric → (1 + R,)."""
    table = metric_table(labels(frame), probabilities(frame), weights)
    for metric in metrics:
        if metric not in table:
            raise ValueError(f"unknown metric {metric!r}; allowed: {', '.join(table)}")
    return {metric: table[metric] for metric in metrics}


def _bootstrap_p(differences: Floats) -> float:
    defined = differences[~np.isnan(differences)]
    if len(defined) == 0:
        return np.nan
    smaller = min(np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
    return min(1.0, 2 * (smaller + 1) / (len(defined) + 1))
