"""Thresholds on the malignant probability, chosen on val and judged on test.

An image is called malignant where `p_Malignant` reaches a threshold. An operating point fixes that
threshold by the sensitivity that it must have on val.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from btxrd.evaluation.intervals import Bootstrap, Sample
from btxrd.evaluation.metrics import ratio
from btxrd.predictions import MALIGNANT, Floats, fold_pairs, labels

__all__ = ["operating_points"]

Booleans = NDArray[np.bool_]


def operating_points(
    val: pd.DataFrame,
    test: pd.DataFrame,
    bootstrap: Bootstrap,
    targets: Sequence[float] = (0.90, 0.95),
    prevalences: Sequence[float] = (),
) -> pd.DataFrame:
    """Choose a threshold on val for each wanted sensitivity, and apply it to test as it stands.

    It is the highest that reaches the target. In a pool each fold has its own.

    Sensitivity and specificity have two intervals. The first holds the threshold fixed: how good
    is this very threshold? In the second each replicate also draws val and chooses the threshold
    anew: how good is a threshold chosen in this way? It is never the narrower. The folds of a
    pool draw their val apart, though an image may be in the val of one and the test of another;
    that errs on the wide side.

    PPV and NPV at another prevalence follow by Bayes' theorem (Altman and Bland 1994), which
    assumes that sensitivity and specificity do not change with it. Their ends follow from both low
    ends and from both high ends, which errs on the wide side.

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
    """
    pairs = fold_pairs(val, test)
    drawn = [
        _malignant_scores(rows, bootstrap.derived(fold)) for fold, (rows, _) in enumerate(pairs)
    ]
    malignant, scores = labels(test) == MALIGNANT, test["p_Malignant"].to_numpy(np.float64)
    lacking = {
        "val" if len(pairs) == 1 else "the val of a fold": not all(len(own) for own, _ in drawn),
        "test": not malignant.any(),
    }
    notes = [f"no malignant image in {part}" for part, lacks in lacking.items() if lacks]
    if notes:
        weights = np.full((1 + bootstrap.replicates, len(test)), np.nan)
    else:
        weights = bootstrap.weights(labels(test), test["group"])
    rows = []
    for target in targets:
        cuts = np.stack([_thresholds(*fold, target) for fold in drawn], axis=1)  # (1 + R, folds)
        called = np.full(weights.shape, False)
        for (_, own), chosen in zip(pairs, cuts.T, strict=True):
            called[:, own] = scores[own] >= chosen[:, None]
        found = np.concatenate([own >= cut for (own, _), cut in zip(drawn, cuts[0], strict=True)])
        row = {"target": target, "val_malignant_n": len(found), "threshold": cuts[0].mean()}
        if len(pairs) > 1:
            row |= {"threshold_min": cuts[0].min(), "threshold_max": cuts[0].max()}
        row["val_sensitivity"] = found.mean() if len(found) else np.nan
        row |= {"test_n": len(test), "test_malignant_n": malignant.sum()}
        row |= _figures(test, called, weights, bootstrap, prevalences)
        rows.append(row | {"note": "; ".join(notes)})
    return pd.DataFrame(rows)


def _malignant_scores(val: pd.DataFrame, bootstrap: Bootstrap) -> tuple[Floats, Floats]:
    """Return the scores of the m malignant images, (m,) descending, and their weights (1 + R, m).

    The weights are those that a bootstrap of all of val draws.
    """
    malignant = np.flatnonzero(labels(val) == MALIGNANT)
    scores = val["p_Malignant"].to_numpy(np.float64)
    ranked = malignant[np.argsort(-scores[malignant])]
    if len(ranked) == 0:
        return scores[ranked], np.ones((1 + bootstrap.replicates, 0))
    return scores[ranked], bootstrap.weights(labels(val), val["group"])[:, ranked]


def _thresholds(scores: Floats, weights: Floats, target: float) -> Floats:
    """Return the highest threshold that reaches `target` in each draw: (1 + R,)."""
    if len(scores) == 0:
        return np.full(len(weights), np.nan)
    reached = weights.cumsum(axis=1)
    # 0.95 × 20 is a little more than 19 in floating point.
    needed = target * reached[:, -1:] - 1e-9
    return scores[(reached >= needed).argmax(axis=1)]


def _figures(
    test: pd.DataFrame,
    called: Booleans,
    weights: Floats,
    bootstrap: Bootstrap,
    prevalences: Sequence[float],
) -> dict[str, Any]:
    """Return all estimates on test with their ends; `called` and `weights` are (1 + R, n).

    The images are called malignant first at the chosen thresholds, then at each replicate's.
    """
    malignant, fixed = labels(test) == MALIGNANT, called[0]
    # Each rate: its hits, among the images that it is a share of.
    rates = {
        "sensitivity": (fixed, malignant),
        "specificity": (~fixed, ~malignant),
        "ppv": (malignant, fixed),
        "npv": (~malignant, ~fixed),
    }
    figures = {}
    for name, (hits, images) in rates.items():
        shares = ratio(weights @ (hits & images), weights @ images)
        sample = Sample.of(images, test["group"])
        figures |= bootstrap.columns(name, shares, f"{name}_", sample)
        if name in ("sensitivity", "specificity"):
            own, right = weights[:, images], called[:, images] == malignant[images]
            anew = ratio(np.einsum("rn,rn->r", own, right), own.sum(axis=1))
            _, low, high = bootstrap.proportion(anew, sample)
            figures[f"{name}_low_anew"] = np.fmin(low, figures[f"{name}_low"])
            figures[f"{name}_high_anew"] = np.fmax(high, figures[f"{name}_high"])
    for share in prevalences:
        figures |= _predictive_values(figures, share)
    return figures


def _predictive_values(figures: Mapping[str, float], share: float) -> dict[str, float]:
    """Return PPV and NPV, with their ends, where `share` of the images are malignant."""
    values = {}
    for end in ("", "_low", "_high"):
        sensitivity, specificity = figures[f"sensitivity{end}"], figures[f"specificity{end}"]
        found, missed = sensitivity * share, (1 - sensitivity) * share
        alarmed, cleared = (1 - specificity) * (1 - share), specificity * (1 - share)
        for name, right, wrong in (("ppv", found, alarmed), ("npv", cleared, missed)):
            value = float(ratio(right, right + wrong))
            # An estimate that is NaN has no ends.
            values[f"{name}@{share:g}{end}"] = value + 0 * values.get(f"{name}@{share:g}", value)
    return values
