"""Whether a probability means what it says: reliability, temperature scaling, abstaining.

Bins hold equally many images each (as nearly as they divide), so that no point of a reliability
diagram rests on a handful. Outcomes are one-vs-rest for each class; "top label" is whether the
predicted class is right, with the highest probability as confidence.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from scipy.stats import binomtest

from btxrd import CLASS_NAMES
from btxrd.evaluation.intervals import Bootstrap
from btxrd.evaluation.metrics import cumulative_weights, ratio
from btxrd.predictions import LOGIT_COLUMNS, labels, predictions_frame, probabilities

__all__ = [
    "TEMPERATURE_BOUNDS",
    "TOP_LABEL",
    "apply_temperature",
    "calibration_outcomes",
    "calibration_summary",
    "expected_calibration_error",
    "fit_temperature",
    "reliability_table",
    "reliability_tables",
    "selective_prediction",
]

TOP_LABEL = "top label"
"""Name of the outcome "the predicted class is right", beside the names of the classes."""

TEMPERATURE_BOUNDS = (0.01, 100.0)
"""Temperatures searched. A val set without an error has no best one and ends at the lower."""

BINS = 10

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


def fit_temperature(val: pd.DataFrame) -> float:
    """Find the one number by which logits are to be divided so that probabilities fit val.

    Temperature scaling (Guo et al. 2017): the temperature of least negative log likelihood on
    val. Above 1 the model was too sure of itself. It changes no predicted class.

    Args:
        val: rows of `predictions.csv`, as `read_predictions` returns them.

    Returns:
        The temperature, within `TEMPERATURE_BOUNDS`.

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
    logits, truth = _logits(val), labels(val)
    of_truth = logits[np.arange(len(truth)), truth]

    def loss(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float(np.mean(logsumexp(logits * inverse, axis=1) - of_truth * inverse))

    bounds = tuple(np.log(TEMPERATURE_BOUNDS))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-7})
    return float(np.exp(found.x))


def _logits(frame: pd.DataFrame) -> Floats:
    return frame[list(LOGIT_COLUMNS)].to_numpy(np.float64)


def apply_temperature(frame: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """Divide the logits of predictions by a temperature, and recompute the probabilities.

    Returns:
        A frame with the columns of `predictions.csv` and the index of `frame`.

    Raises:
        ValueError: the temperature is not finite or not above 0.

    >>> rows = pd.DataFrame({"image_id": ["a"], "part": "val", "center": 1, "group": "a",
    ...                      "label": [0]})
    >>> frame = predictions_frame(rows, [[np.log(16), 0, 0]])
    >>> apply_temperature(frame, 2)["p_Normal"].round(3).tolist()
    [0.667]
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be finite and above 0, found {temperature}")
    return predictions_frame(frame, _logits(frame) / temperature).set_axis(frame.index)


def expected_calibration_error(
    outcome: ArrayLike, confidence: ArrayLike, weights: ArrayLike | None = None, bins: int = BINS
) -> Floats:
    """Average how far the observed share lies from the mean confidence, over bins of equal mass.

    The expected calibration error of Naeini et al. (2015) with bins of equally many images
    (Nguyen and O'Connor 2015). Chance alone keeps it above 0, the more so the smaller the bins.

    Args:
        outcome: (n,) booleans, n ≥ 1: whether what was predicted happened.
        confidence: (n,) probabilities given to it.
        weights: (R, n) whole numbers ≥ 0, how often each image counts; once each by default. Each
            row has its own bins.
        bins: how many, 1 or more; no more than images are used.

    Returns:
        (R,) floats in [0, 1].

    Raises:
        ValueError: shapes disagree, a value is out of range, or `bins` is below 1.

    >>> expected_calibration_error([True, False, True, True], [0.5, 0.5, 0.9, 0.9], bins=2)
    array([0.05])
    """
    happened, chances = _check_outcomes(outcome, confidence)
    counts = np.ones((1, len(chances))) if weights is None else np.asarray(weights, float)
    order = np.argsort(chances, kind="stable")
    errors = np.empty(len(counts))
    for row, count in enumerate(counts[:, order]):
        mass, confident, observed = _bin_sums(happened[order], chances[order], count, bins)
        errors[row] = np.abs(observed - confident).sum() / mass.sum()
    return errors


def _bin_sums(
    happened: Booleans, chances: Floats, count: Floats, bins: int
) -> tuple[Floats, Floats, Floats]:
    """Images, sum of their chances and of their outcomes in each bin; images in ascending order.

    The bins are those of `np.array_split` over the images repeated `count` times: cumulative sums
    are linear within an image, so they are read off at the bins' edges.
    """
    if bins < 1:
        raise ValueError(f"bins must be 1 or more, found {bins}")
    reached = np.concatenate([[0], np.cumsum(count)])
    total = int(reached[-1])
    parts = min(bins, total)
    sizes = np.full(parts, total // parts)
    sizes[: total % parts] += 1
    edges = np.concatenate([[0], np.cumsum(sizes)])
    sums = [
        np.diff(np.interp(edges, reached, np.concatenate([[0], np.cumsum(count * values)])))
        for values in (chances, happened)
    ]
    return sizes.astype(float), *sums


def reliability_table(
    outcome: ArrayLike, confidence: ArrayLike, bootstrap: Bootstrap, bins: int = BINS
) -> pd.DataFrame:
    """Tabulate the points of a reliability diagram, in bins of equally many images.

    Args:
        outcome: (n,) booleans, n ≥ 1: whether what was predicted happened.
        confidence: (n,) probabilities given to it.
        bootstrap: its level is that of the intervals.
        bins: how many, 1 or more; no more than images are used.

    Returns:
        One row a bin, by confidence: `n` images, mean `confidence`, `observed` share, and its
        Wilson interval `low`, `high` (Wilson 1927), which takes images as independent.

    Raises:
        ValueError: as `expected_calibration_error`.

    >>> reliability_table([False, True, True], [0.2, 0.4, 0.9], Bootstrap(), bins=2).round(2)
       n  confidence  observed   low  high
    0  2         0.3       0.5  0.09  0.91
    1  1         0.9       1.0  0.21  1.00
    """
    happened, chances = _check_outcomes(outcome, confidence)
    order = np.argsort(chances, kind="stable")
    n, confident, hits = _bin_sums(happened[order], chances[order], np.ones(len(order)), bins)
    intervals = [
        binomtest(round(k), int(size)).proportion_ci(bootstrap.level, method="wilson")
        for k, size in zip(hits, n, strict=True)
    ]
    return pd.DataFrame(
        {"n": n.astype(int), "confidence": confident / n, "observed": hits / n}
        | {"low": [i.low for i in intervals], "high": [i.high for i in intervals]}
    )


def _check_outcomes(outcome: ArrayLike, confidence: ArrayLike) -> tuple[Booleans, Floats]:
    happened, chances = np.asarray(outcome), np.asarray(confidence, dtype=np.float64)
    if happened.ndim != 1 or len(happened) == 0 or chances.shape != happened.shape:
        raise ValueError(
            "outcome and confidence must both have shape (n,) with n ≥ 1, found "
            f"{happened.shape} and {chances.shape}"
        )
    if not np.isin(happened, (0, 1)).all():
        raise ValueError(f"outcome must be True or False, found dtype {happened.dtype}")
    if not ((chances >= 0) & (chances <= 1)).all():
        raise ValueError("confidence must lie in [0, 1] and not be NaN")
    return happened.astype(bool), chances


def calibration_outcomes(frame: pd.DataFrame) -> dict[str, tuple[Booleans, Floats]]:
    """List what predictions claim, and whether it is so.

    Returns:
        Each class's name and `TOP_LABEL` → (n,) outcomes and (n,) confidences.

    >>> rows = pd.DataFrame({"image_id": ["a"], "part": "val", "center": 1, "group": "a",
    ...                      "label": [2]})
    >>> calibration_outcomes(predictions_frame(rows, [[0, 0, 0]]))["top label"]
    (array([False]), array([0.33333333]))
    """
    truth, chances = labels(frame), probabilities(frame)
    by_class = {name: (truth == c, chances[:, c]) for c, name in enumerate(CLASS_NAMES)}
    return by_class | {TOP_LABEL: (truth == chances.argmax(axis=1), chances.max(axis=1))}


def reliability_tables(frame: pd.DataFrame, bootstrap: Bootstrap) -> dict[str, pd.DataFrame]:
    """Tabulate the reliability diagram of each class and of the top label.

    Returns:
        Name of the outcome, as in `calibration_outcomes` → its `reliability_table`.

    >>> rows = pd.DataFrame({"image_id": ["a"], "part": "val", "center": 1, "group": "a",
    ...                      "label": [2]})
    >>> list(reliability_tables(predictions_frame(rows, [[0, 0, 0]]), Bootstrap()))
    ['Normal', 'Benign', 'Malignant', 'top label']
    """
    return {
        name: reliability_table(*outcome, bootstrap)
        for name, outcome in calibration_outcomes(frame).items()
    }


def calibration_summary(
    val: pd.DataFrame, test: pd.DataFrame, bootstrap: Bootstrap, bins: int = BINS
) -> pd.DataFrame:
    """Describe the calibration on test, before and after temperature scaling fitted on val.

    Args:
        val, test: rows of `predictions.csv`, as `read_predictions` returns them.
        bootstrap: of the intervals on test, the temperature held fixed.
        bins: as in `expected_calibration_error`.

    Returns:
        Two rows an outcome (the classes, then `TOP_LABEL`): `outcome`, `n` images, `positive`
        ones of them, `temperature`, `when` (before or after it), `ece` and `brier` (one-vs-rest,
        Brier 1950, in [0, 1]), each followed by `<name>_low` and `<name>_high`.

    Raises:
        ValueError: `val` or `test` is empty, or `bins` is below 1.

    >>> rows = pd.DataFrame({"image_id": list("abcd"), "part": "val", "center": 1,
    ...                      "group": list("abcd"), "label": [0, 0, 0, 1]})
    >>> sure = predictions_frame(rows, [[4, 0, -99]] * 4)
    >>> table = calibration_summary(sure, sure, Bootstrap(9), bins=1)
    >>> table.set_index(["outcome", "when"]).loc["top label", "ece"].round(2).abs().tolist()
    [0.23, 0.0]
    """
    temperature = fit_temperature(val)
    weights = bootstrap.weights(labels(test), test["group"])
    outcomes = {
        "before": calibration_outcomes(test),
        "after": calibration_outcomes(apply_temperature(test, temperature)),
    }
    rows = []
    for name in outcomes["before"]:
        for when, described in outcomes.items():
            happened, chances = described[name]
            values = {
                "ece": expected_calibration_error(happened, chances, weights, bins),
                "brier": weights @ (chances - happened) ** 2 / weights.sum(axis=1),
            }
            row = {"outcome": name, "n": len(happened), "positive": int(happened.sum())}
            row |= {"temperature": temperature, "when": when}
            for quantity, replicated in values.items():
                ends = (quantity, f"{quantity}_low", f"{quantity}_high")
                row |= dict(zip(ends, bootstrap.estimate(replicated), strict=True))
            rows.append(row)
    return pd.DataFrame(rows)


def selective_prediction(frame: pd.DataFrame, bootstrap: Bootstrap) -> pd.DataFrame:
    """Trace the accuracy on the images that remain when the least confident are left to others.

    The risk-coverage curve of El-Yaniv and Wiener (2010) with the highest probability as
    confidence (Geifman and El-Yaniv 2017), as accuracy.

    Args:
        frame: rows of one part of `predictions.csv`.
        bootstrap: of the pointwise intervals.

    Returns:
        One row a distinct confidence, from the highest down: `coverage`, the share of images
        with at least the confidence `threshold`; `n` of them; `accuracy` among these, with `low`,
        `high`, which have no width where all of them are right, however few they are. The last
        row is the accuracy of all images.

    Raises:
        ValueError: `frame` is empty.

    >>> rows = pd.DataFrame({"image_id": ["a", "b"], "part": "test", "center": 1,
    ...                      "group": ["a", "b"], "label": [0, 1]})
    >>> frame = predictions_frame(rows, [[3, 0, 0], [1, 0, 0]])
    >>> selective_prediction(frame, Bootstrap(9))[["coverage", "accuracy"]].to_numpy().tolist()
    [[0.5, 1.0], [1.0, 0.5]]
    """
    if frame.empty:
        raise ValueError("selective prediction needs one prediction or more, found none")
    correct, confidence = calibration_outcomes(frame)[TOP_LABEL]
    weights = bootstrap.weights(labels(frame), frame["group"])
    right, kept = cumulative_weights(correct, confidence, weights)
    accuracy, low, high = bootstrap.estimate(ratio(right, kept))
    return pd.DataFrame(
        {
            "coverage": kept[0] / len(frame),
            "n": kept[0].astype(int),
            "accuracy": accuracy,
            "low": low,
            "high": high,
            "threshold": np.unique(confidence)[::-1],
        }
    )
