"""Calibration of the probabilities: reliability, temperature scaling, abstaining.

Bins hold equally many images each (as nearly as they divide), so that no point of a reliability
diagram rests on a handful. An outcome, (n,) booleans with n ≥ 1, says whether what was predicted
with a confidence, (n,) in [0, 1], happened: each class against the rest, and `TOP_LABEL`.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from btxrd import CLASS_NAMES
from btxrd.evaluation.intervals import Bootstrap, Sample
from btxrd.evaluation.metrics import cumulative_weights, ratio
from btxrd.predictions import (
    LOGIT_COLUMNS,
    Floats,
    fold_pairs,
    labels,
    predictions_frame,
    probabilities,
)

__all__ = [
    "TEMPERATURE_BOUNDS",
    "TOP_LABEL",
    "apply_temperature",
    "calibration_outcomes",
    "calibration_summary",
    "fit_temperature",
    "fitted_temperatures",
    "reliability_tables",
    "selective_prediction",
    "squared_calibration_error",
]

TOP_LABEL = "top label"
"""Name of the outcome "the predicted class is right", beside the names of the classes."""

TEMPERATURE_BOUNDS = (0.01, 100.0)
"""Temperatures searched. A val set without an error has no best one and ends at the lower."""

BINS = 10

Booleans = NDArray[np.bool_]


def fit_temperature(val: pd.DataFrame) -> float:
    """Return the number by which logits are to be divided so that probabilities fit val.

    It is the temperature (Guo et al. 2017) of least negative log likelihood, within
    `TEMPERATURE_BOUNDS`. Above 1 the model was too sure of itself.

    Raises:
        ValueError: `val` is empty.

    >>> rows = pd.DataFrame({"image_id": list("abcd"), "part": "val", "center": 1,
    ...                      "group": list("abcd"), "label": [0, 0, 0, 1]})
    >>> sure = predictions_frame(rows, [[4, 0, -99]] * 4)  # right in 3 of 4: odds of 3
    >>> round(fit_temperature(sure), 3)  # 4 / ln 3
    3.641
    """
    if val.empty:
        raise ValueError("a temperature needs one val prediction or more, found none")
    logits, truth = val[list(LOGIT_COLUMNS)].to_numpy(np.float64), labels(val)
    of_truth = logits[np.arange(len(truth)), truth]

    def loss(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float(np.mean(logsumexp(logits * inverse, axis=1) - of_truth * inverse))

    bounds = tuple(np.log(TEMPERATURE_BOUNDS))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-7})
    return float(np.exp(found.x))


def fitted_temperatures(val: pd.DataFrame, test: pd.DataFrame) -> Floats:
    """Return the temperature of each test image, (n,): `fit_temperature` of its fold's val."""
    temperatures = np.empty(len(test))
    for rows, own in fold_pairs(val, test):
        temperatures[own] = fit_temperature(rows)
    return temperatures


def apply_temperature(frame: pd.DataFrame, temperature: ArrayLike) -> pd.DataFrame:
    """Divide logits by a temperature above 0, or by (n,) of each image; the index stays."""
    logits = frame[list(LOGIT_COLUMNS)].to_numpy() / np.reshape(temperature, (-1, 1))
    return predictions_frame(frame, logits).set_axis(frame.index)


def calibration_outcomes(frame: pd.DataFrame) -> dict[str, tuple[Booleans, Floats]]:
    """Return each class's name and `TOP_LABEL` → its outcomes and confidences, (n,) each."""
    truth, chances = labels(frame), probabilities(frame)
    by_class = {name: (truth == c, chances[:, c]) for c, name in enumerate(CLASS_NAMES)}
    return by_class | {TOP_LABEL: (truth == chances.argmax(axis=1), chances.max(axis=1))}


def squared_calibration_error(
    outcome: Booleans, confidence: Floats, weights: Floats | None = None, bins: int = BINS
) -> Floats:
    """Average how far the observed share lies from the mean confidence, squared, over bins.

    The bins hold equally many images (Nguyen and O'Connor 2015). Chance alone keeps the average
    above 0, the more so the smaller the bins: `calibration_summary` takes that off.

    Args:
        weights: (R, n) whole numbers ≥ 0, how often each image counts; once each by default.
        bins: no more are used than there are images.

    Returns:
        (R,) floats in [0, 1]; NaN where no image counts.

    >>> outcome, chances = np.array([True, False, True, True]), np.array([0.5, 0.5, 0.8, 1])
    >>> squared_calibration_error(outcome, chances, bins=2).round(3)  # half of (1 - 0.9)²
    array([0.005])
    """
    counts = np.ones((1, len(confidence))) if weights is None else np.asarray(weights, float)
    order = np.argsort(confidence, kind="stable")
    errors = np.empty(len(counts))
    for row, count in enumerate(counts[:, order]):
        n, confident, observed = _bin_sums(outcome[order], confidence[order], count, bins)
        errors[row] = ratio((observed - confident) ** 2, n).sum()
    return ratio(errors, counts.sum(axis=1))


def _bin_sums(
    happened: Booleans, chances: Floats, count: Floats, bins: int
) -> tuple[Floats, Floats, Floats]:
    """Return images, sum of chances and sum of outcomes of each bin; images in ascending order."""
    # The bins are those of `np.array_split` over the images repeated `count` times: cumulative
    # sums are linear within an image, so they are read off at the bins' edges.
    reached = np.concatenate([[0], np.cumsum(count)])
    total = int(reached[-1])
    parts = min(bins, max(1, total))
    sizes = np.full(parts, total // parts)
    sizes[: total % parts] += 1
    edges = np.concatenate([[0], np.cumsum(sizes)])
    sums = [
        np.diff(np.interp(edges, reached, np.concatenate([[0], np.cumsum(count * values)])))
        for values in (chances, happened)
    ]
    return sizes.astype(float), *sums


def _without_bias(squared: Floats) -> Floats:
    """Take the bias off squared calibration errors, (1 + R,), and off their replicates."""
    # The square of an estimated mean is too high by the variance of the estimate. The replicates
    # vary about the estimate as the estimate varies about the truth, so they are too high twice.
    # (The bias of absolute distances is not found so: Kumar et al. 2019.)
    bias = squared[1:].mean() - squared[0]
    return np.concatenate([squared[:1] - bias, squared[1:] - 2 * bias])


def reliability_tables(frame: pd.DataFrame, bootstrap: Bootstrap) -> dict[str, pd.DataFrame]:
    """Return the points of a reliability diagram of each outcome, by its name.

    They have one row a bin, by confidence: `n` images, mean `confidence`, `observed` share with
    `low` and `high`. The bins are those of all images, in the replicates too.
    """
    weights = bootstrap.weights(labels(frame), frame["group"])
    tables = {}
    for name, (happened, chances) in calibration_outcomes(frame).items():
        bins = np.array_split(np.argsort(chances, kind="stable"), min(BINS, len(chances)))
        members = np.stack([np.isin(np.arange(len(chances)), images) for images in bins], axis=1)
        observed = ratio(weights @ (members & happened[:, None]), weights @ members)
        sample = Sample.of(members, frame["group"])
        tables[name] = pd.DataFrame(
            {"n": members.sum(axis=0), "confidence": [chances[images].mean() for images in bins]}
            | bootstrap.columns("observed", observed, sample=sample)
        )
    return tables


def calibration_summary(
    val: pd.DataFrame, test: pd.DataFrame, bootstrap: Bootstrap
) -> pd.DataFrame:
    """Describe the calibration on test, before and after temperature scaling fitted on val.

    The calibration error is the root mean square distance of the observed share from the mean
    confidence over ten bins (Kumar et al. 2019), less what chance alone adds to it: of calibrated
    probabilities its square is 0 on average. A negative square is given as 0.

    Returns:
        Two rows an outcome: `outcome`, `n` images, `positive` ones of them, `temperature` (held
        fixed in the intervals; in a pool the mean over the images), `when` (before or after it),
        `calibration_error` (in [0, 1]) and `brier` (one-vs-rest, Brier 1950, in [0, 1]) with their
        ends. Where `val` is empty, only the rows before, and no temperature.
    """
    weights = bootstrap.weights(labels(test), test["group"])
    temperatures = fitted_temperatures(val, test) if len(val) else np.array([np.nan])
    outcomes = {"before": calibration_outcomes(test)}
    if len(val):
        outcomes["after"] = calibration_outcomes(apply_temperature(test, temperatures))
    rows = []
    for name in outcomes["before"]:
        for when, described in outcomes.items():
            happened, chances = described[name]
            squared = _without_bias(squared_calibration_error(happened, chances, weights))
            error = np.sqrt(np.maximum(squared, 0))
            brier = weights @ (chances - happened) ** 2 / weights.sum(axis=1)
            row = {"outcome": name, "n": len(happened), "positive": int(happened.sum())}
            row |= {"temperature": temperatures.mean(), "when": when}
            row |= bootstrap.columns("calibration_error", error, "calibration_error_")
            rows.append(row | bootstrap.columns("brier", brier, "brier_"))
    return pd.DataFrame(rows)


def selective_prediction(frame: pd.DataFrame, bootstrap: Bootstrap) -> pd.DataFrame:
    """Return the accuracy on the images that remain when the least confident are left to others.

    It is the risk-coverage curve of El-Yaniv and Wiener (2010), with the highest probability as
    confidence (Geifman and El-Yaniv 2017). One row a distinct confidence, from the highest down:
    `coverage`, the share of images with at least the confidence `threshold`; `accuracy` among
    these, with `low` and `high`.
    """
    correct, confidence = calibration_outcomes(frame)[TOP_LABEL]
    weights = bootstrap.weights(labels(frame), frame["group"])
    right, kept = cumulative_weights(correct, confidence, weights)
    sample = Sample.above(confidence, frame["group"])
    return pd.DataFrame(
        {"coverage": kept[0] / len(frame), "threshold": np.unique(confidence)[::-1]}
        | bootstrap.columns("accuracy", ratio(right, kept), sample=sample)
    )
