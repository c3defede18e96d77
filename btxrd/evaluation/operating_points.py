"""The threshold on the malignant probability: chosen on val, judged on test, worth its alarms?

Whoever uses a classifier to find malignant tumours calls an image malignant where `p_Malignant`
reaches a threshold. An operating point fixes that threshold by the sensitivity it must have; a
decision curve shows at which thresholds calling so does more good than harm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from btxrd.evaluation.intervals import Bootstrap, Sample
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
    val and applied to its test.

    Sensitivity and specificity have two intervals. The first holds the threshold fixed: how good
    is this very threshold? In the second each replicate also draws val and chooses the threshold
    anew: how good is a threshold chosen in this way? It is never the narrower. The folds of a
    pool draw their val apart, though an image may be in the val of one and the test of another;
    that errs on the wide side.

    PPV and NPV at another prevalence follow by Bayes' theorem (Altman and Bland 1994), which
    assumes that sensitivity and specificity do not change with it. Their ends are those that
    follow from both low ends and from both high ends, which errs on the wide side, and has a width
    where no tumour is missed.

    Args:
        targets: wanted sensitivities for malignant, above 0 and up to 1.
        prevalences: shares of malignant images, between 0 and 1, for further PPV and NPV.

    Returns:
        One row a target: `target`, `val_malignant_n`, `threshold` (in a pool the mean over its
        folds, with `threshold_min` and `threshold_max`), `val_sensitivity`, `test_n`,
        `test_malignant_n`, and for test `sensitivity`, `specificity`, `ppv`, `npv` and
        `ppv@<prevalence>`, `npv@<prevalence>`, each with its ends, the first two also with
        `<name>_low_anew` and `<name>_high_anew`; `note` says why a row lacks values: without
        malignant images, val has no threshold and test no figures.

    Raises:
        ValueError: a target or a prevalence is out of range.
    """
    _refuse_outside(targets, "targets", closed=True)
    _refuse_outside(prevalences, "prevalences")
    folds = [
        _Fold.of(chosen_on, own, bootstrap.derived(number))
        for number, (chosen_on, own) in enumerate(fold_pairs(val, test))
    ]
    notes = _notes(folds, test)
    if notes:
        weights = np.full((1 + bootstrap.replicates, len(test)), np.nan)
    else:
        weights = bootstrap.weights(labels(test), test["group"])
    rows = []
    for target in targets:
        cuts = np.stack([fold.thresholds(target) for fold in folds], axis=1)
        thresholds = cuts[0]
        found = np.concatenate([f.scores >= t for f, t in zip(folds, thresholds, strict=True)])
        row = {"target": target, "val_malignant_n": len(found), "threshold": thresholds.mean()}
        if len(folds) > 1:
            row |= {"threshold_min": thresholds.min(), "threshold_max": thresholds.max()}
        row["val_sensitivity"] = found.mean() if len(found) else np.nan
        row |= {"test_n": len(test), "test_malignant_n": int((labels(test) == MALIGNANT).sum())}
        row |= _figures(test, _called(test, folds, cuts), weights, bootstrap, prevalences)
        rows.append(row | {"note": "; ".join(notes)})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Fold:
    """One fold: its test images, and the m malignant images of its val with how they are drawn.

    Attributes:
        own: (n,) booleans, which test images are its own.
        scores: (m,) the malignant probabilities, descending.
        weights: (1 + R, m) as `Bootstrap.weights` draws them.
    """

    own: NDArray[np.bool_]
    scores: Floats
    weights: Floats

    @classmethod
    def of(cls, val: pd.DataFrame, own: NDArray[np.bool_], bootstrap: Bootstrap) -> "_Fold":
        malignant = np.flatnonzero(labels(val) == MALIGNANT)
        scores = val["p_Malignant"].to_numpy(np.float64)
        ranked = malignant[np.argsort(-scores[malignant])]
        if len(ranked) == 0:
            return cls(own, scores[ranked], np.ones((1 + bootstrap.replicates, 0)))
        weights = bootstrap.weights(labels(val), val["group"])
        return cls(own, scores[ranked], weights[:, ranked])

    def thresholds(self, target: float) -> Floats:
        """Highest threshold that reaches `target` in each draw: (1 + R,); NaN without images."""
        if len(self.scores) == 0:
            return np.full(len(self.weights), np.nan)
        reached = self.weights.cumsum(axis=1)
        # 0.95 × 20 is a little more than 19 in floating point.
        needed = target * reached[:, -1:] - 1e-9
        return self.scores[(reached >= needed).argmax(axis=1)]


def _notes(folds: Sequence[_Fold], test: pd.DataFrame) -> list[str]:
    """Say which part has no malignant image."""
    lacking = {
        "val" if len(folds) == 1 else "the val of a fold": not all(len(f.scores) for f in folds),
        "test": not (labels(test) == MALIGNANT).any(),
    }
    return [f"no malignant image in {part}" for part, lacks in lacking.items() if lacks]


def _called(test: pd.DataFrame, folds: Sequence[_Fold], cuts: Floats) -> NDArray[np.bool_]:
    """Return which images are called malignant by the (1 + R, folds) thresholds: (1 + R, n)."""
    scores = test["p_Malignant"].to_numpy(np.float64)
    called = np.full((len(cuts), len(test)), False)
    for fold, chosen in zip(folds, cuts.T, strict=True):
        called[:, fold.own] = scores[fold.own] >= chosen[:, None]
    return called


def _figures(
    test: pd.DataFrame,
    called: NDArray[np.bool_],
    weights: Floats,
    bootstrap: Bootstrap,
    prevalences: Sequence[float],
) -> dict[str, Any]:
    """Return what is estimated on test, with its ends; `called` and `weights` are (1 + R, n)."""
    malignant, positive = labels(test) == MALIGNANT, called[0]
    # Of which images each is the share that is called right.
    members = {"sensitivity": malignant, "specificity": ~malignant}
    members |= {"ppv": positive, "npv": ~positive}
    figures = {}
    for name, images in members.items():
        own, sample = weights[:, images], Sample.of(images, test["group"])
        right = called[:, images] == malignant[images]
        fixed = ratio(own @ right[0], own.sum(axis=1))
        figures |= bootstrap.columns(name, fixed, f"{name}_", sample)
        if name in ("sensitivity", "specificity"):
            anew = ratio(np.einsum("rn,rn->r", own, right), own.sum(axis=1))
            _, low, high = bootstrap.proportion(anew, sample)
            figures[f"{name}_low_anew"] = np.fmin(low, figures[f"{name}_low"])
            figures[f"{name}_high_anew"] = np.fmax(high, figures[f"{name}_high"])
    for share, end in product(prevalences, ("", "_low", "_high")):
        sensitivity, specificity = figures[f"sensitivity{end}"], figures[f"specificity{end}"]
        found, missed = sensitivity * share, (1 - sensitivity) * share
        alarmed, cleared = (1 - specificity) * (1 - share), specificity * (1 - share)
        figures[f"ppv@{share:g}{end}"] = ratio(found, found + alarmed)[()]
        figures[f"npv@{share:g}{end}"] = ratio(cleared, missed + cleared)[()]
    return figures


def _refuse_outside(values: ArrayLike, name: str, closed: bool = False) -> None:
    array = np.asarray(values, dtype=np.float64)
    wrong = ~((array > 0) & ((array <= 1) if closed else (array < 1)))
    if wrong.any():
        limit = "above 0 and at most 1" if closed else "above 0 and below 1"
        raise ValueError(f"{name} must lie {limit}, found {array[wrong][0]}")


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
