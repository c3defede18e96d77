"""Differences between predictions: of experiments, of test sets and of seeds, and how sure.

An experiment is its trainings: one or several that differ in nothing but their seed. Its figure
is the mean over them. Intervals are of images and of trainings: each bootstrap replicate draws
patient groups and, independently, trainings.

Two experiments are compared on the same images, so both are weighted by the same bootstrap
replicates: what makes an image hard for both cancels out of the difference. Trainings of
different experiments have nothing in common, whatever their seeds, and are drawn apart. Every
frame holds one part of its predictions; images may stand in any order. An image that only one
side has, or whose part, group or label differs, is a ValueError.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from btxrd.evaluation.intervals import ROUNDING, Bootstrap, Sample
from btxrd.evaluation.metrics import metric_table, proportion_members, ratio
from btxrd.params import DataParams, TrainingParams
from btxrd.predictions import Floats, labels, predictions_frame, probabilities

__all__ = [
    "EXPERIMENT_KEYS",
    "METRICS",
    "check_comparable",
    "compare_experiments",
    "differing",
    "ensemble_predictions",
    "generalisation_gap",
    "holm",
    "seed_summary",
]

METRICS = ("macro_auc", "accuracy", "sensitivity/Malignant", "balanced_accuracy")
"""The metrics that are compared."""

EXPERIMENT_KEYS = (
    *("experiment", "model"),
    *(
        f"{name}.{key}"
        for name, section in (("data", DataParams), ("training", TrainingParams))
        for key in section.model_fields
        if key not in section.IN_COMMON
    ),
)
"""The parameters in which two experiments of the grid may differ and still be compared."""

PLACES = ("cache_dir", "study_dir", "training.workers")
"""Parameters that cannot change a run's numbers."""


def compare_experiments(
    trainings: Mapping[str, Sequence[pd.DataFrame]],
    bootstrap: Bootstrap,
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """Compare experiments on the same images, pair by pair.

    p is two-sided, twice the smaller share of replicates on one side of 0 (Efron and Tibshirani
    1993, section 15.4), with one added to count and number; it is never below 2 / (R + 1).
    Replicates that all give the same difference have no interval, and no p unless it is 0.

    Returns:
        One row a pair and metric: `first_experiment`, `second_experiment`, `metric`, the values
        `first` and `second`, `difference` (second - first) with `low`, `high` and `p`, and
        `p_holm`, adjusted over all rows.
    """
    named = {name: _numbered(name, frames) for name, frames in trainings.items()}
    aligned = _align({label: frame for group in named.values() for label, frame in group.items()})
    values = {}
    for number, (name, group) in enumerate(named.items()):
        each = _by_training([aligned[label] for label in group], bootstrap, metrics)
        shares = bootstrap.shares(len(group), number)
        values[name] = {metric: (shares * each[metric]).sum(axis=1) for metric in metrics}
    rows = []
    for first, second in combinations(values, 2):
        for metric in metrics:
            before, after = values[first][metric], values[second][metric]
            row = {"first_experiment": first, "second_experiment": second, "metric": metric}
            row |= {"first": before[0], "second": after[0]}
            row |= bootstrap.columns("difference", after - before)
            rows.append(row | {"p": _bootstrap_p((after - before)[1:])})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"])) if rows else table


def generalisation_gap(
    inside: Sequence[pd.DataFrame],
    outside: Sequence[pd.DataFrame],
    bootstrap: Bootstrap,
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """Compare an experiment's figures on two different test sets, of the trainings of each.

    The interval is put together from those of the two figures, which are independent: their
    distances from the figures are squared and added (Zou and Donner 2008). Of images that are in
    both it is too wide rather than too narrow. Where a figure has no interval, the gap has none.

    Returns:
        One row a metric: `metric`, the values `inside` and `outside`, `difference` (inside -
        outside: what is lost outside) with `low` and `high`.
    """
    own, foreign = (
        seed_summary(frames, bootstrap, metrics).set_index("metric") for frames in (inside, outside)
    )
    lost = own["mean"] - foreign["mean"]
    down = np.hypot(own["mean"] - own["low"], foreign["high"] - foreign["mean"])
    up = np.hypot(own["high"] - own["mean"], foreign["mean"] - foreign["low"])
    columns = {"inside": own["mean"], "outside": foreign["mean"], "difference": lost}
    return pd.DataFrame(columns | {"low": lost - down, "high": lost + up}).reset_index()


def seed_summary(
    trainings: Sequence[pd.DataFrame], bootstrap: Bootstrap, metrics: Sequence[str] = METRICS
) -> pd.DataFrame:
    """Return the mean figures of one experiment's trainings, one row a metric.

    The columns are `metric`, `seeds` (how many), `mean` with `low` and `high`, which cover other
    images and other trainings, and `sd`: how much training again changes the figure on these
    images (of a sample, n - 1; NaN for one seed).
    """
    aligned = list(_align(_numbered("training", trainings)).values())
    shares = bootstrap.shares(len(aligned))
    rows = []
    for metric, values in _by_training(aligned, bootstrap, metrics).items():
        row = {"metric": metric, "seeds": len(aligned)}
        sample = _sample(aligned, metric, values)
        row |= bootstrap.columns("mean", (shares * values).sum(axis=1), sample=sample)
        rows.append(row | {"sd": values[0].std(ddof=1) if len(aligned) > 1 else np.nan})
    return pd.DataFrame(rows)


def _sample(frames: Sequence[pd.DataFrame], metric: str, values: Floats) -> Sample | None:
    """Count what the mean of a proportion over trainings is of; None for another metric."""
    members = [proportion_members(labels(f), probabilities(f)).get(metric) for f in frames]
    if members[0] is None:
        return None
    # Where trainings call different images, the fewest.
    each = Sample.of(np.stack(members, axis=1), frames[0]["group"])
    images, groups = each.images.min(), each.groups.min()
    return Sample(images, groups, _degrees(values, groups))


def _degrees(values: Floats, groups: int) -> float:
    """Return the degrees of freedom of a variance of images and trainings; values (1 + R, S)."""
    # Satterthwaite (1946), and at most those of the groups.
    trainings = values.shape[1]
    if trainings == 1:
        return groups - 1
    within = pd.Series(values[1:].mean(axis=1)).var(ddof=0)
    between = values[0].var(ddof=1) / trainings
    parts = ratio(within**2, groups - 1) + between**2 / (trainings - 1)
    return np.minimum(ratio((within + between) ** 2, parts), groups - 1)


def ensemble_predictions(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Average the probabilities of several trainings, in the order of the first frame."""
    aligned = list(_align(_numbered("predictions", frames)).values())
    mean = np.mean([probabilities(frame) for frame in aligned], axis=0)
    # Logits are logarithms of what is at least the smallest positive normal float64.
    return predictions_frame(aligned[0], np.log(np.maximum(mean, np.finfo(np.float64).tiny)))


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p values for their number, so that any false rejection has the chance stated.

    The step-down procedure of Holm (1979). A NaN stays NaN and does not count in the family.

    >>> holm([0.01, 0.04, np.nan, 0.03])
    array([0.03, 0.06,  nan, 0.06])
    """
    p = np.asarray(p_values, dtype=np.float64)
    family = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
    steps = p[family] * np.arange(len(family), 0, -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[family] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def differing(
    first: Mapping[str, Any], second: Mapping[str, Any], compared: Collection[str]
) -> str:
    """Return the parameters that forbid to compare two runs, with both values; empty for none.

    Args:
        first, second: nested parameters, as `RunParams.model_dump` returns them.
        compared: dotted keys, or the sections they begin with, that may differ: `EXPERIMENT_KEYS`
            for two experiments, `("split",)` for two splits of one. `PLACES` always may.

    >>> differing({"split": "center", "seed": 1}, {"split": "random", "seed": 2}, ["split"])
    'seed is 1 and 2'
    """
    free = tuple(f"{key}." for key in (*compared, *PLACES))
    one, other = ({k: repr(v) for k, v in _flatten(values)} for values in (first, second))
    return ", ".join(
        f"{key} is {one.get(key, 'missing')} and {other.get(key, 'missing')}"
        for key in dict.fromkeys((*one, *other))
        if one.get(key) != other.get(key) and not f"{key}.".startswith(free)
    )


def check_comparable(
    first: Mapping[str, Any], second: Mapping[str, Any], compared: Collection[str]
) -> None:
    """Raise a ValueError that names what two runs are `differing` in; arguments as there."""
    if found := differing(first, second, compared):
        raise ValueError(f"not comparable: {found}; only {', '.join(compared)} may differ")


def _flatten(parameters: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in parameters.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{section}{key}.")
        else:
            yield f"{section}{key}", value


def _align(frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Put the rows of every frame into the order of the first; refuse frames of other images."""
    by_image = {}
    for name, frame in frames.items():
        # In the predictions of a pool an image stands in the val of several folds.
        fold = " (fold " + frame["fold"].astype(str) + ")" if "fold" in frame else ""
        by_image[name] = frame.set_index(pd.Index(frame["image_id"] + fold))
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
    return {name: frame.reset_index(drop=True) for name, frame in by_image.items()}


def _numbered(name: str, frames: Sequence[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Name the trainings of an experiment; a single one by the experiment alone."""
    if len(frames) == 1:
        return {name: frames[0]}
    return {f"{name} {number}": frame for number, frame in enumerate(frames, start=1)}


def _by_training(
    frames: Sequence[pd.DataFrame], bootstrap: Bootstrap, metrics: Sequence[str]
) -> dict[str, Floats]:
    """Return each metric of each of S trainings, on the same draws of images: (1 + R, S)."""
    weights = bootstrap.weights(labels(frames[0]), frames[0]["group"])
    tables = [metric_table(labels(f), probabilities(f), weights, metrics) for f in frames]
    return {metric: np.stack([table[metric] for table in tables], axis=1) for metric in metrics}


def _bootstrap_p(differences: Floats) -> float:
    defined = differences[~np.isnan(differences)]
    if len(defined) == 0 or np.ptp(defined) < ROUNDING < abs(defined[0]):
        return np.nan
    smaller = min(np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
    return min(1.0, 2 * (smaller + 1) / (len(defined) + 1))
