"""The threshold on the malignant probability: chosen on val, judged on test, worth its alarms?

Whoever uses a classifier to find malignant tumours calls an image malignant where `p_Malignant`
reaches a threshold. An operating point fixes that threshold by the sensitivity it must have; the
table of thresholds says what each costs, and whether calling so does more good than harm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from btxrd.evaluation.intervals import Bootstrap, Sample
from btxrd.evaluation.metrics import ratio
from btxrd.predictions import MALIGNANT, fold_pairs, labels

__all__ = ["PREVALENCES", "operating_points", "threshold_table"]

PREVALENCES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of malignant images for which a table of thresholds says what they cost."""

QUANTILES = np.linspace(0, 1, 32)
"""Those of the malignant images' scores, and of the others', are thresholds of a table."""
STEPS = np.arange(1, 20) / 20
"""Further thresholds, so that a table has them where no score lies."""

RATES = ("sensitivity", "specificity", "ppv", "npv")
ENDS = ("", "_low", "_high")

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
    fixed = _rates(_counts(test, called[:1].T, weights), called[:1].T, test, bootstrap)
    malignant = labels(test) == MALIGNANT
    members = {"sensitivity": malignant, "specificity": ~malignant}
    figures = {}
    for name in RATES:
        figures |= {f"{name}{end}": fixed[f"{name}{end}"][0] for end in ENDS}
        if name in members:
            images = members[name]
            own, right = weights[:, images], called[:, images] == malignant[images]
            anew = ratio(np.einsum("rn,rn->r", own, right), own.sum(axis=1))
            _, low, high = bootstrap.proportion(anew, Sample.of(images, test["group"]))
            figures[f"{name}_low_anew"] = np.fmin(low, figures[f"{name}_low"])
            figures[f"{name}_high_anew"] = np.fmax(high, figures[f"{name}_high"])
    for share in prevalences:
        figures |= {name: value[()] for name, value in _predictive_values(figures, share).items()}
    return figures


def _counts(test: pd.DataFrame, called: NDArray[np.bool_], weights: Floats) -> dict[str, Floats]:
    """Count images by truth and call, for T ways of calling them.

    Args:
        called: (n, T).
        weights: (1 + R, n) whole numbers, so that no order of summing changes a count.

    Returns:
        `tp`, `fp`, `fn` and `tn`: (1 + R, T) each.
    """
    counts = {}
    malignant = labels(test) == MALIGNANT
    for (yes, no), images in {("tp", "fn"): malignant, ("fp", "tn"): ~malignant}.items():
        own = weights[:, images]
        counts[yes] = own @ called[images].astype(np.float64)
        counts[no] = own.sum(axis=1, keepdims=True) - counts[yes]
    return counts


def _rates(
    counts: dict[str, Floats], called: NDArray[np.bool_], test: pd.DataFrame, bootstrap: Bootstrap
) -> dict[str, Floats]:
    """Return each of `RATES` with its ends, (T,) each, from what `_counts` returns."""
    malignant = np.broadcast_to(labels(test)[:, None] == MALIGNANT, called.shape)
    # Hits, misses, and of which images the rate is.
    members = {
        "sensitivity": ("tp", "fn", malignant),
        "specificity": ("tn", "fp", ~malignant),
        "ppv": ("tp", "fp", called),
        "npv": ("tn", "fn", ~called),
    }
    rates = {}
    for name, (hits, misses, images) in members.items():
        values = ratio(counts[hits], counts[hits] + counts[misses])
        sample = Sample.of(images, test["group"])
        # One by one: the sum of many columns at once differs from that of one in its last digit.
        each = zip(values.T, sample.images, sample.groups, strict=True)
        ends = [bootstrap.proportion(column, Sample(*of)) for column, *of in each]
        rates |= {f"{name}{end}": x for end, x in zip(ENDS, np.transpose(ends), strict=True)}
    return rates


def _predictive_values(rates: Mapping[str, Floats], share: float) -> dict[str, Floats]:
    """Return PPV and NPV, with their ends, where `share` of the images are malignant."""
    values: dict[str, Floats] = {}
    for end in ENDS:
        sensitivity, specificity = rates[f"sensitivity{end}"], rates[f"specificity{end}"]
        found, missed = sensitivity * share, (1 - sensitivity) * share
        alarmed, cleared = (1 - specificity) * (1 - share), specificity * (1 - share)
        for name, right, wrong in (("ppv", found, alarmed), ("npv", cleared, missed)):
            value = ratio(right, right + wrong)
            # What is NaN has no ends.
            values[f"{name}@{share:g}{end}"] = value + 0 * values.get(f"{name}@{share:g}", value)
    return values


def _refuse_outside(values: ArrayLike, name: str, closed: bool = False) -> None:
    array = np.asarray(values, dtype=np.float64)
    wrong = ~((array > 0) & ((array <= 1) if closed else (array < 1)))
    if wrong.any():
        limit = "above 0 and at most 1" if closed else "above 0 and below 1"
        raise ValueError(f"{name} must lie {limit}, found {array[wrong][0]}")


def threshold_table(
    test: pd.DataFrame,
    points: pd.DataFrame,
    bootstrap: Bootstrap,
    prevalences: Sequence[float] = (),
) -> pd.DataFrame:
    """Say what each of some hundred thresholds costs on test; all folds of a pool have the same.

    Where the threshold is one of `points`, the columns that both tables have are equal.

    Net benefit (Vickers and Elkin 2006) is TP/n - FP/n · t/(1 - t), in malignant images found an
    image: whoever acts from a probability of t on accepts (1 - t)/t false alarms for each. At
    another prevalence it follows from sensitivity and specificity, as PPV and NPV do, and its
    ends from both low and both high ends.

    Args:
        points: what `operating_points` returns for the same test and bootstrap.
        prevalences: shares of malignant images, between 0 and 1, beside `PREVALENCES`.

    Returns:
        A row a threshold, ascending: those of `points` (but for the means over folds), quantiles
        of the scores, and steps of 0.05. `threshold`; the counts `tp`, `fp`, `fn`, `tn`;
        `sensitivity`, `specificity`, `ppv`, `npv` and `net_benefit`, each with its ends;
        `alarms`, the share of images called malignant; `treat_all`, the net benefit of calling
        all so. The figures from `ppv` on also as `<name>@<prevalence>`. Without malignant images
        there is no sensitivity, without others no specificity, nor what follows from them.

    Raises:
        ValueError: `test` is empty, or a prevalence is out of range.
    """
    if test.empty:
        raise ValueError("a table of thresholds needs one prediction or more, found none")
    _refuse_outside(prevalences, "prevalences")
    cuts = _grid(test, () if "threshold_min" in points else points["threshold"].dropna())
    called = test["p_Malignant"].to_numpy(np.float64)[:, None] >= cuts
    counts = _counts(test, called, bootstrap.weights(labels(test), test["group"]))
    harm, share = ratio(cuts, 1 - cuts), (labels(test) == MALIGNANT).mean()
    benefit = (counts["tp"] - harm * counts["fp"]) / sum(counts.values())
    table = {"threshold": cuts}
    table |= {name: count[0].astype(np.int64) for name, count in counts.items()}
    table |= _rates(counts, called, test, bootstrap)
    table |= {"alarms": called.mean(axis=0)}
    table |= bootstrap.columns("net_benefit", benefit, "net_benefit_")
    table |= {"treat_all": share - harm * (1 - share)}
    for other in sorted({*PREVALENCES, *prevalences}):
        table |= _predictive_values(table, other)
        for end in ENDS:
            found = table[f"sensitivity{end}"] * other
            alarmed = (1 - table[f"specificity{end}"]) * (1 - other)
            table[f"net_benefit@{other:g}{end}"] = found - harm * alarmed
            if not end:
                table[f"alarms@{other:g}"] = found + alarmed
        table[f"treat_all@{other:g}"] = other - harm * (1 - other)
    return pd.DataFrame(table)


def _grid(test: pd.DataFrame, chosen: Sequence[float]) -> Floats:
    """Return the thresholds of a table; those that read like a chosen one give way to it."""
    malignant, scores = labels(test) == MALIGNANT, test["p_Malignant"].to_numpy(np.float64)
    parts = [scores[images] for images in (malignant, ~malignant) if images.any()]
    found = [np.quantile(part, QUANTILES) for part in parts]
    grid = np.concatenate([STEPS, *found]).round(3)
    kept = (grid > 0) & (grid < 1) & ~np.isin(grid, np.round(chosen, 3))
    return np.unique([*grid[kept], *chosen])
