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
from btxrd.evaluation.intervals import bootstrap_weights, percentile_interval
from btxrd.evaluation.metrics import ratio, cumulative_weights
from btxrd.predictions import (
    LOGIT_COLUMNS,
    labels,
    predictions_frame,
    probabilities,
)

__all__ = [
    "TEMPERATURE_BOUNDS",
    "TOP_LABEL",
    "apply_temperature",
    "brier_decomposition",
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

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


def fit_temperature(val: pd.DataFrame) -> float:
    """Find the one number by which logits are to be divided so that probabilities fit val.

    Temperature scaling (Guo et al. 2017, Proc. Mach. Learn. Res. 70:1321): the temperature of
    least negative log likelihood on val. Above 1 the model was too sure of itself. It changes
    no predicted class, and so no accuracy.

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

    Args:
        frame: rows of `predictions.csv`, as `read_predictions` returns them.
        temperature: as `fit_temperature` returns it; finite and above 0.

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


def expected_calibration_error(outcome: ArrayLike, confidence: ArrayLike, bins: int = 10) -> float:
    """Average how far the observed share lies from the mean confidence, over bins of equal mass.

    The expected calibration error of Naeini et al. (2015, Proc. AAAI 29:2901) with bins of
    equally many images (Nguyen and O'Connor 2015, Proc. EMNLP, p. 1587). Chance alone keeps it
    above 0, the more so the fewer images a bin holds.

    Args:
        outcome: (n,) booleans, n ≥ 1: whether what was predicted happened.
        confidence: (n,) probabilities given to it.
        bins: how many, 1 or more; no more than images are used.

    Returns:
        A float in [0, 1].

    Raises:
        ValueError: shapes disagree, a value is out of range, or `bins` is below 1.

    >>> round(expected_calibration_error([True, False, True, True], [0.5, 0.5, 0.9, 0.9], 2), 3)
    0.05
    """
    happened, chances = _check_outcomes(outcome, confidence)
    count, confident, observed = _bin_means(happened, chances, bins)
    return float(np.average(np.abs(observed - confident), weights=count))


def reliability_table(outcome: ArrayLike, confidence: ArrayLike, bins: int = 10) -> pd.DataFrame:
    """Tabulate the points of a reliability diagram, in bins of equally many images.

    Args:
        outcome: (n,) booleans, n ≥ 1: whether what was predicted happened.
        confidence: (n,) probabilities given to it.
        bins: how many, 1 or more; no more than images are used.

    Returns:
        One row a bin, by confidence: `n` images, mean `confidence`, `observed` share, and its
        95 % Wilson interval `low`, `high` (Wilson 1927), which takes images as independent.

    Raises:
        ValueError: as `expected_calibration_error`.

    >>> reliability_table([False, True, True], [0.2, 0.4, 0.9], bins=2).round(2)
       n  confidence  observed   low  high
    0  2         0.3       0.5  0.09  0.91
    1  1         0.9       1.0  0.21  1.00
    """
    happened, chances = _check_outcomes(outcome, confidence)
    count, confident, observed = _bin_means(happened, chances, bins)
    intervals = [
        binomtest(hits, n).proportion_ci(0.95, method="wilson")
        for hits, n in zip(np.rint(observed * count).astype(int), count, strict=True)
    ]
    return pd.DataFrame(
        {"n": count, "confidence": confident, "observed": observed}
        | {"low": [i.low for i in intervals], "high": [i.high for i in intervals]}
    )


def brier_decomposition(
    outcome: ArrayLike, probability: ArrayLike, bins: int = 10
) -> dict[str, float]:
    """Split the Brier score of a yes-or-no outcome into what calibration and ranking cost.

    Murphy (1973, J. Appl. Meteorol. 12:595) for probabilities in bins, with the variance and
    covariance within bins of Stephenson et al. (2008, Weather Forecast. 23:752), so that
    reliability - resolution + uncertainty + within_bin is the Brier score exactly.

    Args:
        outcome: (n,) booleans, n ≥ 1.
        probability: (n,) probabilities given to it.
        bins: how many, of equally many images; no more than images are used.

    Returns:
        `brier` (the mean squared error, in [0, 1]), `reliability` (lower is better),
        `resolution` (higher is better), `uncertainty` (of the outcome itself) and `within_bin`
        (variance of the probabilities within bins, less twice their covariance with the outcome).

    Raises:
        ValueError: as `expected_calibration_error`.

    >>> parts = brier_decomposition([False, True, True, True], [0.2, 0.2, 0.8, 0.8], bins=2)
    >>> {name: round(value, 4) for name, value in parts.items()}
    {'brier': 0.19, 'reliability': 0.065, 'resolution': 0.0625, 'uncertainty': 0.1875,
     'within_bin': 0.0}
    """
    happened, chances = _check_outcomes(outcome, probability)
    share = happened.mean()
    within = 0.0
    for members in _bins(chances, bins):
        spread = chances[members] - chances[members].mean()
        within += np.sum(spread**2 - 2 * spread * (happened[members] - happened[members].mean()))
    count, confident, observed = _bin_means(happened, chances, bins)
    return {
        "brier": float(np.mean((chances - happened) ** 2)),
        "reliability": float(np.average((confident - observed) ** 2, weights=count)),
        "resolution": float(np.average((observed - share) ** 2, weights=count)),
        "uncertainty": float(share * (1 - share)),
        "within_bin": float(within / len(chances)),
    }


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


def _bins(chances: Floats, bins: int) -> list[NDArray[np.int64]]:
    """Positions of the images of each bin, from the least confident up."""
    if bins < 1:
        raise ValueError(f"bins must be 1 or more, found {bins}")
    return np.array_split(np.argsort(chances, kind="stable"), min(bins, len(chances)))


def _bin_means(
    happened: Booleans, chances: Floats, bins: int
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Images, mean confidence and observed share of each bin."""
    members = _bins(chances, bins)
    count = np.array([len(rows) for rows in members])
    return (
        count,
        np.array([chances[rows].mean() for rows in members]),
        np.array([happened[rows].mean() for rows in members]),
    )


def calibration_outcomes(frame: pd.DataFrame) -> dict[str, tuple[Booleans, Floats]]:
    """List what predictions claim, and whether it is so.

    Args:
        frame: rows of `predictions.csv`.

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


def reliability_tables(frame: pd.DataFrame, bins: int = 10) -> dict[str, pd.DataFrame]:
    """Tabulate the reliability diagram of each class and of the top label.

    Args:
        frame: rows of `predictions.csv`.
        bins: as in `reliability_table`.

    Returns:
        Name of the outcome, as in `calibration_outcomes` → its `reliability_table`.

    Raises:
        ValueError: as `reliability_table`.

    >>> rows = pd.DataFrame({"image_id": ["a"], "part": "val", "center": 1, "group": "a",
    ...                      "label": [2]})
    >>> list(reliability_tables(predictions_frame(rows, [[0, 0, 0]])))
    ['Normal', 'Benign', 'Malignant', 'top label']
    """
    return {
        name: reliability_table(*outcome, bins)
        for name, outcome in calibration_outcomes(frame).items()
    }


def calibration_summary(
    val: pd.DataFrame,
    test: pd.DataFrame,
    bins: int = 10,
    replicates: int = 500,
    level: float = 0.95,
    seed: int = 42,
) -> pd.DataFrame:
    """Describe the calibration on test, before and after temperature scaling fitted on val.

    Args:
        val, test: rows of `predictions.csv`, as `read_predictions` returns them.
        bins: as in `expected_calibration_error`.
        replicates, level, seed: of the cluster bootstrap on test, the temperature held fixed. The
            ECE of a replicate has the replicate's own bins; repeated images push it up a little.

    Returns:
        A frame indexed by `outcome` (the classes, then `TOP_LABEL`): `n` images, `positive` ones
        of them, `temperature`, then `ece_before`, `ece_after` and likewise `brier`,
        `reliability`, `resolution`, `uncertainty` and `within_bin` of `brier_decomposition`.
        The Brier scores are one-vs-rest, in [0, 1].

    Raises:
        ValueError: `val` or `test` is empty, or `bins` is below 1.

    >>> rows = pd.DataFrame({"image_id": list("abcd"), "part": "val", "center": 1,
    ...                      "group": list("abcd"), "label": [0, 0, 0, 1]})
    >>> sure = predictions_frame(rows, [[4, 0, -99]] * 4)
    >>> table = calibration_summary(sure, sure, bins=1)
    >>> table.loc["top label", ["ece_before", "ece_after"]].round(2).abs().tolist()
    [0.23, 0.0]
    """
    temperature = fit_temperature(val)
    before = calibration_outcomes(test)
    after = calibration_outcomes(apply_temperature(test, temperature))
    drawn = [
        np.repeat(np.arange(len(test)), row.astype(int))
        for row in bootstrap_weights(labels(test), test["group"], replicates, seed)
    ]
    rows = {}
    for name, (outcome, confidence) in before.items():
        rows[name] = {
            "n": len(outcome),
            "positive": int(outcome.sum()),
            "temperature": temperature,
        }
        described = (
            _calibration(outcome, confidence, bins),
            _calibration(*after[name], bins),
        )
        for quantity in described[0]:
            rows[name][f"{quantity}_before"] = described[0][quantity]
            rows[name][f"{quantity}_after"] = described[1][quantity]
        for when, pair in (("before", (outcome, confidence)), ("after", after[name])):
            rows[name] |= _intervals(*pair, drawn, bins, level, when)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("outcome")


def _intervals(
    outcome: Booleans,
    confidence: Floats,
    drawn: list[NDArray[np.int64]],
    bins: int,
    level: float,
    when: str,
) -> dict[str, float]:
    errors = [expected_calibration_error(outcome[rows], confidence[rows], bins) for rows in drawn]
    squares = (confidence - outcome) ** 2
    replicated = {"ece": errors, "brier": [squares[rows].mean() for rows in drawn]}
    found = {}
    for quantity, values in replicated.items():
        low, high = percentile_interval(np.array(values), level)
        found |= {f"{quantity}_{when}_low": low, f"{quantity}_{when}_high": high}
    return found


def _calibration(outcome: Booleans, confidence: Floats, bins: int) -> dict[str, float]:
    error = expected_calibration_error(outcome, confidence, bins)
    return {"ece": error} | brier_decomposition(outcome, confidence, bins)


def selective_prediction(
    frame: pd.DataFrame, replicates: int = 1000, level: float = 0.95, seed: int = 42
) -> pd.DataFrame:
    """Trace the accuracy on the images that remain when the least confident are left to others.

    The risk-coverage curve of El-Yaniv and Wiener (2010, J. Mach. Learn. Res. 11:1605) with the
    highest probability as confidence (Geifman and El-Yaniv 2017), as accuracy.

    Args:
        frame: rows of one part of `predictions.csv`.
        replicates, level, seed: of the cluster bootstrap.

    Returns:
        One row a distinct confidence, from the highest down: `coverage`, the share of images
        with at least the confidence `threshold`; `n` of them; `accuracy` among these, with its
        pointwise interval `low`, `high`, which has no width where all of them are right, however
        few they are. The last row is the accuracy of all images.

    Raises:
        ValueError: `frame` is empty, or `replicates` or `level` is out of range.

    >>> rows = pd.DataFrame({"image_id": ["a", "b"], "part": "test", "center": 1,
    ...                      "group": ["a", "b"], "label": [0, 1]})
    >>> table = selective_prediction(predictions_frame(rows, [[3, 0, 0], [1, 0, 0]]))
    >>> table[["coverage", "accuracy"]].to_numpy().tolist()
    [[0.5, 1.0], [1.0, 0.5]]
    """
    if frame.empty:
        raise ValueError("selective prediction needs one prediction or more, found none")
    correct, confidence = calibration_outcomes(frame)[TOP_LABEL]
    weights = bootstrap_weights(labels(frame), frame["group"], replicates, seed)
    with_everyone = np.vstack([np.ones(len(frame)), weights])
    right, kept = cumulative_weights(correct, confidence, with_everyone)
    accuracy, replicated = ratio(right[0], kept[0]), ratio(right[1:], kept[1:])
    intervals = np.array([percentile_interval(values, level) for values in replicated.T])
    return pd.DataFrame(
        {
            "coverage": kept[0] / len(frame),
            "n": kept[0].astype(int),
            "accuracy": accuracy,
            "low": intervals[:, 0],
            "high": intervals[:, 1],
            "threshold": np.unique(confidence)[::-1],
        }
    )
