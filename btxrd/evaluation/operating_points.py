"""The threshold on the malignant probability: chosen on val, judged on test, worth its alarms?

Whoever uses a classifier to find malignant tumours calls an image malignant where `p_Malignant`
reaches a threshold. An operating point fixes that threshold by the sensitivity it must have; a
decision curve shows at which thresholds calling so does more good than harm.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from btxrd.evaluation.intervals import Bootstrap
from btxrd.evaluation.metrics import ratio
from btxrd.predictions import MALIGNANT, fold_pairs, labels

__all__ = ["DECISION_THRESHOLDS", "decision_curve", "operating_points"]

DECISION_THRESHOLDS = tuple(np.linspace(0.01, 0.99, 99).round(2).tolist())
"""Threshold probabilities of a decision curve: every whole per cent."""

Floats = NDArray[np.float64]


def operating_points(
    val: pd.DataFrame,
    test: pd.DataFrame,
    bootstrap: Bootstrap,
    targets: Sequence[float] = (0.90, 0.95),
    prevalences: Sequence[float] = (),
) -> pd.DataFrame:
    """Choose a threshold on val for each wanted sensitivity, and apply it to test as it stands.

    The threshold is the highest at which the share of val's malignant images with
    `p_Malignant` ≥ threshold reaches the target. In a pool each fold has its own, chosen on its
    val and applied to its test. Intervals hold it fixed: they lack the
    uncertainty of choosing it. PPV and NPV at another prevalence follow by Bayes' theorem (Altman
    and Bland 1994), which assumes that sensitivity and specificity do not change with it.

    Args:
        targets: wanted sensitivities for malignant, above 0 and up to 1.
        prevalences: shares of malignant images, between 0 and 1, for further PPV and NPV.

    Returns:
        One row a target: `target`, `val_malignant_n`, `threshold` (in a pool the mean over its
        folds, with `threshold_min` and `threshold_max`), `val_sensitivity`, `test_n`,
        `test_malignant_n`, and for test `sensitivity`, `specificity`, `ppv`, `npv` and
        `ppv@<prevalence>`, `npv@<prevalence>`, each with its ends; `note` says why a row lacks
        values: without malignant images, val has no threshold and test no figures.

    Raises:
        ValueError: a target or a prevalence is out of range.
    """
    _refuse_outside(targets, "targets", closed=True)
    _refuse_outside(prevalences, "prevalences")
    pairs, malignant = fold_pairs(val, test), labels(test) == MALIGNANT
    scores = test["p_Malignant"].to_numpy(np.float64)
    # Of each fold: the probabilities of val's malignant images.
    val_scores = [
        rows.loc[labels(rows) == MALIGNANT, "p_Malignant"].to_numpy(np.float64) for rows, _ in pairs
    ]
    lacking = {
        "val" if len(pairs) == 1 else "the val of a fold": not all(map(len, val_scores)),
        "test": not malignant.any(),
    }
    notes = [f"no malignant image in {part}" for part, lacks in lacking.items() if lacks]
    if notes:
        weights = np.full((2, len(test)), np.nan)
    else:
        weights = bootstrap.weights(labels(test), test["group"])
    rows = []
    for target in targets:
        thresholds = [_threshold(chosen_on, target) for chosen_on in val_scores]
        called = np.full(len(test), False)
        for threshold, (_, own) in zip(thresholds, pairs, strict=True):
            called[own] = scores[own] >= threshold
        found = np.concatenate([s >= t for s, t in zip(val_scores, thresholds, strict=True)])
        row = {"target": target, "val_malignant_n": len(found), "threshold": np.mean(thresholds)}
        if len(pairs) > 1:
            row |= {"threshold_min": min(thresholds), "threshold_max": max(thresholds)}
        row |= {
            "val_sensitivity": found.mean() if len(found) else np.nan,
            "test_n": len(test),
            "test_malignant_n": int(malignant.sum()),
        }
        values = _values(malignant, called, weights, prevalences)
        for name, replicated in values.items():
            row |= bootstrap.columns(name, replicated, f"{name}_")
        rows.append(row | {"note": "; ".join(notes)})
    return pd.DataFrame(rows)


def _refuse_outside(values: ArrayLike, name: str, closed: bool = False) -> None:
    array = np.asarray(values, dtype=np.float64)
    wrong = ~((array > 0) & ((array <= 1) if closed else (array < 1)))
    if wrong.any():
        limit = "above 0 and at most 1" if closed else "above 0 and below 1"
        raise ValueError(f"{name} must lie {limit}, found {array[wrong][0]}")


def _threshold(scores: Floats, target: float) -> float:
    """Highest threshold that at least the share `target` of `scores` reaches; NaN for none."""
    if len(scores) == 0:
        return np.nan
    # 0.95 × 20 is a little more than 19 in floating point.
    needed = int(np.ceil(target * len(scores) - 1e-9))
    return float(np.sort(scores)[-needed])


def _values(
    malignant: NDArray[np.bool_],
    called: NDArray[np.bool_],
    weights: Floats,
    prevalences: Sequence[float],
) -> dict[str, Floats]:
    """Value name → (1 + R,), for each of (1 + R, n) weights."""
    cells = (malignant & called, malignant & ~called, ~malignant & called, ~malignant & ~called)
    hits, misses, alarms, rejections = (weights @ cell for cell in cells)
    sensitivity, specificity = ratio(hits, hits + misses), ratio(rejections, alarms + rejections)
    values = {"sensitivity": sensitivity, "specificity": specificity}
    values |= {"ppv": ratio(hits, hits + alarms), "npv": ratio(rejections, misses + rejections)}
    for share in prevalences:
        found, missed = sensitivity * share, (1 - sensitivity) * share
        alarmed, cleared = (1 - specificity) * (1 - share), specificity * (1 - share)
        values[f"ppv@{share:g}"] = ratio(found, found + alarmed)
        values[f"npv@{share:g}"] = ratio(cleared, missed + cleared)
    return values


def decision_curve(test: pd.DataFrame, bootstrap: Bootstrap) -> pd.DataFrame:
    """Weigh malignant images found against false alarms, for every threshold probability.

    Net benefit (Vickers and Elkin 2006): TP/n - FP/n · t/(1 - t), where whoever acts from a
    probability of t on accepts (1 - t)/t false alarms for each malignant image found. It holds
    for a clinic only where the share of malignant images in `test` does.

    Returns:
        A row for each of `DECISION_THRESHOLDS`: `threshold`, the net benefit of calling malignant
        whatever has `p_Malignant` ≥ threshold (`model`, with `low`, `high`), every image
        (`treat_all`) and none (`treat_none`, always 0); in malignant images found an image.

    Raises:
        ValueError: `test` is empty.
    """
    if test.empty:
        raise ValueError("a decision curve needs one prediction or more, found none")
    cuts = np.array(DECISION_THRESHOLDS)
    # What calling an image malignant is worth at each threshold: (n, thresholds).
    worth = np.where((labels(test) == MALIGNANT)[:, None], 1.0, -cuts / (1 - cuts))
    called = test["p_Malignant"].to_numpy(np.float64)[:, None] >= cuts
    weights = bootstrap.weights(labels(test), test["group"])
    benefits = weights @ (worth * called) / weights.sum(axis=1, keepdims=True)
    return pd.DataFrame(
        {"threshold": cuts}
        | bootstrap.columns("model", benefits)
        | {"treat_all": worth.mean(axis=0), "treat_none": 0.0}
    )
