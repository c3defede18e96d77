"""Every figure of merit of a classifier, for one set of images or for thousands of reweightings.

Labels and probabilities were checked when the predictions were read; only `classification_metrics`
checks them. The predicted class is the one with the highest probability (the first of equals). AUC,
average precision, sensitivity, specificity, PPV, NPV and F1 are one-vs-rest. What a set of images
cannot tell (the AUC of a class it lacks, say) is NaN, never an exception and never a silent zero.

Definitions agree with scikit-learn's, `sample_weight` included; they are computed here because
the bootstrap needs them for 2,000 weight vectors at once.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from btxrd import CLASS_NAMES
from btxrd.predictions import MALIGNANT, Floats, check_predictions

__all__ = [
    "METRIC_NAMES",
    "PER_CLASS",
    "classification_metrics",
    "cumulative_weights",
    "metric_table",
    "proportion_members",
    "ratio",
]

PER_CLASS = ("auc", "average_precision", "sensitivity", "specificity", "precision", "npv", "f1")
"""The one-vs-rest metrics of each class, in the order of every table."""

METRIC_NAMES = (
    *("accuracy", "balanced_accuracy", "macro_f1", "quadratic_kappa", "malignant_as_normal"),
    *(f"{name}/{c}" for name in PER_CLASS[2:] for c in CLASS_NAMES),
    *("brier", "log_loss", "macro_auc"),
    *(f"{name}/{c}" for name in PER_CLASS[:2] for c in CLASS_NAMES),
)
"""Every scalar metric; those of a class have its name after a slash."""

CHUNK_ELEMENTS = 250_000
"""Weights worked on at a time: 2 MB an array and some 13 MB in all, kind to the caches."""

NORMAL = CLASS_NAMES.index("Normal")

Integers = NDArray[np.int64]


def classification_metrics(y_true: ArrayLike, probabilities: ArrayLike) -> dict[str, Any]:
    """Describe how well `probabilities` tell the classes apart, in plain values ready for JSON.

    - `n`, `accuracy`, `balanced_accuracy`, `macro_f1`, `macro_auc` (one-vs-rest mean),
      `quadratic_kappa` (Cohen 1968), `brier` (Brier 1950: summed over the classes, in [0, 2]),
      `log_loss` (natural logarithm) and `malignant_as_normal`, the share of malignant images
      predicted Normal;
    - `per_class[name]`: `n` and each of `PER_CLASS` (`precision` is the PPV);
    - `confusion_matrix`: `counts` and `row_normalised`, rows true, columns predicted;
    - `notes`: one sentence for each thing that is undefined (NaN) on these images.

    Balanced accuracy and macro F1 are means over the classes that have one, as in scikit-learn;
    the macro AUC is defined only where every class has one. Raises as `check_predictions`.
    """
    labels, scores = check_predictions(y_true, probabilities)
    ones = np.ones((1, len(labels)))
    flat = {name: float(value[0]) for name, value in metric_table(labels, scores, ones).items()}
    counts = _confusion_matrices(labels, scores, ones)[0]
    class_counts = np.bincount(labels, minlength=len(CLASS_NAMES))
    return {
        "n": len(labels),
        **{name: value for name, value in flat.items() if "/" not in name},
        "per_class": {
            name: {"n": int(count), **{metric: flat[f"{metric}/{name}"] for metric in PER_CLASS}}
            for name, count in zip(CLASS_NAMES, class_counts, strict=True)
        },
        "confusion_matrix": {
            "counts": counts.astype(int).tolist(),
            "row_normalised": ratio(counts, counts.sum(axis=1, keepdims=True)).tolist(),
        },
        "notes": _notes(flat, counts),
    }


def metric_table(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    weights: ArrayLike,
    names: Sequence[str] = METRIC_NAMES,
) -> dict[str, Floats]:
    """Compute every scalar metric for many weightings of the same images at once.

    Weights are (R, n) floats ≥ 0: an image of weight 2 counts as two equal images. Returns the
    wanted names → (R,) float64; areas under curves take most of the time.

    >>> table = metric_table([0, 1], [[0.9, 0.1, 0], [0.6, 0.4, 0]], [[1, 1], [3, 1]])
    >>> table["accuracy"].tolist()
    [0.5, 0.75]
    """
    labels, scores = np.asarray(y_true), np.asarray(probabilities)
    weights = np.asarray(weights, dtype=np.float64)
    rows = max(1, CHUNK_ELEMENTS // len(labels))
    chunks = [
        _threshold_metrics(_confusion_matrices(labels, scores, chunk))
        | _probability_metrics(labels, scores, chunk)
        | _ranking_metrics(labels, scores, chunk, names)
        for chunk in np.split(weights, range(rows, len(weights), rows))
    ]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in names}


def proportion_members(y_true: ArrayLike, probabilities: ArrayLike) -> dict[str, NDArray[np.bool_]]:
    """Return the images in the denominator of each metric that is a proportion, (n,) booleans.

    >>> proportion_members([0, 1], [[0.9, 0.1, 0], [0.6, 0.4, 0]])["precision/Normal"]
    array([ True,  True])
    """
    labels, predicted = np.asarray(y_true), np.asarray(probabilities).argmax(axis=1)
    members = {"accuracy": np.full(len(labels), True), "malignant_as_normal": labels == MALIGNANT}
    for c, name in enumerate(CLASS_NAMES):
        members |= {
            f"sensitivity/{name}": labels == c,
            f"specificity/{name}": labels != c,
            f"precision/{name}": predicted == c,
            f"npv/{name}": predicted != c,
        }
    return members


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Return quotients, NaN where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    quotient = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=quotient, where=denominator > 0)


def _confusion_matrices(labels: Integers, scores: Floats, weights: Floats) -> Floats:
    """Return (R, C, C) weighted counts: rows true, columns predicted."""
    n_classes = len(CLASS_NAMES)
    cells = np.eye(n_classes**2)[labels * n_classes + scores.argmax(axis=1)]
    return (weights @ cells).reshape(-1, n_classes, n_classes)


def _threshold_metrics(matrices: Floats) -> dict[str, Floats]:
    """Return the metrics of the predicted class, from (R, C, C) confusion matrices."""
    total = matrices.sum(axis=(1, 2))
    actual, predicted = matrices.sum(axis=2), matrices.sum(axis=1)
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    # Sums of cells, not differences of sums: a weight that is not there leaves exactly 0.
    others = 1 - np.eye(len(CLASS_NAMES))
    rejections = np.einsum("ci,rij,cj->rc", others, matrices, others)
    by_class = {
        "sensitivity": ratio(hits, actual),
        "specificity": ratio(rejections, actual @ others),
        "precision": ratio(hits, predicted),
        "npv": ratio(rejections, predicted @ others),
        "f1": ratio(2 * hits, actual + predicted),
    }
    return {
        "accuracy": ratio(hits.sum(axis=1), total),
        "balanced_accuracy": _mean_of_defined(by_class["sensitivity"]),
        "macro_f1": _mean_of_defined(by_class["f1"]),
        "quadratic_kappa": _quadratic_kappa(matrices),
        "malignant_as_normal": ratio(matrices[:, MALIGNANT, NORMAL], actual[:, MALIGNANT]),
        **{
            f"{metric}/{name}": values[:, c]
            for metric, values in by_class.items()
            for c, name in enumerate(CLASS_NAMES)
        },
    }


def _mean_of_defined(values: Floats) -> Floats:
    """Return the mean over the classes of (R, C) values, leaving NaN out."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(axis=1), defined.sum(axis=1))


def _quadratic_kappa(matrices: Floats) -> Floats:
    """Return Cohen's kappa with squared distances between labels as disagreement (1968)."""
    steps = np.arange(matrices.shape[1])
    distance = (steps[:, None] - steps) ** 2
    expected = matrices.sum(axis=2)[:, :, None] * matrices.sum(axis=1)[:, None, :]
    observed = (distance * matrices).sum(axis=(1, 2)) * matrices.sum(axis=(1, 2))
    return 1 - ratio(observed, (distance * expected).sum(axis=(1, 2)))


def _probability_metrics(labels: Integers, scores: Floats, weights: Floats) -> dict[str, Floats]:
    """Return Brier score and log loss: weighted means of a loss of each image."""
    truth = np.eye(scores.shape[1])[labels]
    tiny = np.finfo(np.float64).eps
    of_truth = np.clip(scores[np.arange(len(labels)), labels], tiny, 1 - tiny)
    losses = np.stack([((scores - truth) ** 2).sum(axis=1), -np.log(of_truth)], axis=1)
    brier, log_loss = ratio(weights @ losses, weights.sum(axis=1, keepdims=True)).T
    return {"brier": brier, "log_loss": log_loss}


def _ranking_metrics(
    labels: Integers, scores: Floats, weights: Floats, names: Collection[str]
) -> dict[str, Floats]:
    """Return the wanted one-vs-rest AUCs and average precisions, and the mean of the AUCs."""
    aucs = [f"auc/{name}" for name in CLASS_NAMES]
    wanted = {*names, *(aucs if "macro_auc" in names else ())}
    table = {
        f"{metric}/{name}": area(labels == c, scores[:, c], weights)
        for metric, area in (("auc", _auc), ("average_precision", _average_precision))
        for c, name in enumerate(CLASS_NAMES)
        if f"{metric}/{name}" in wanted
    }
    if "macro_auc" in names:
        table["macro_auc"] = np.stack([table[name] for name in aucs], axis=1).mean(axis=1)
    return table


def cumulative_weights(
    positive: NDArray[np.bool_], scores: Floats, weights: Floats
) -> tuple[Floats, Floats]:
    """Return the weight of the positives, and of all images, at or above each distinct score.

    Both are (R, G) for the G distinct scores, from the highest down: the points of the ROC and of
    the precision-recall curve. Arguments are (n,) booleans, (n,) floats, and (R, n) floats ≥ 0.

    >>> positive, scores = np.array([True, False, True]), np.array([0.9, 0.5, 0.5])
    >>> cumulative_weights(positive, scores, np.ones((1, 3)))
    (array([[1., 2.]]), array([[1., 3.]]))
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    everyone = weights[:, order]
    positives = everyone * positive[order]
    if len(starts) < len(order):
        everyone = np.add.reduceat(everyone, starts, axis=1)
        positives = np.add.reduceat(positives, starts, axis=1)
    return positives.cumsum(axis=1), everyone.cumsum(axis=1)


def _auc(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Return the share of pairs of a positive and a negative in order; ties count a half."""
    # Pairs of whole weights are counted without rounding, whatever the order of the images.
    order = np.argsort(scores[~positive], kind="stable")
    negatives = weights[:, ~positive][:, order]
    below = np.concatenate([np.zeros((len(weights), 1)), negatives.cumsum(axis=1)], axis=1)
    least, most = (
        np.searchsorted(scores[~positive][order], scores[positive], side)
        for side in ("left", "right")
    )
    positives = weights[:, positive]
    pairs = np.einsum("rp,rp->r", positives, (below[:, least] + below[:, most]) / 2)
    return ratio(pairs, positives.sum(axis=1) * below[:, -1])


def _average_precision(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Return the mean precision at each distinct score, weighted by the recall gained there."""
    above, everyone = cumulative_weights(positive, scores, weights)
    gained = np.diff(above, axis=1, prepend=0)
    precision = np.divide(above, everyone, out=np.zeros_like(above), where=everyone > 0)
    return ratio(np.einsum("rg,rg->r", gained, precision), weights @ positive)


def _notes(flat: dict[str, float], counts: Floats) -> list[str]:
    """Return a sentence for each thing that is undefined."""
    total, actual, predicted = counts.sum(), counts.sum(axis=1), counts.sum(axis=0)
    notes = []
    for c, name in enumerate(CLASS_NAMES):
        undefined = [metric for metric in PER_CLASS if np.isnan(flat[f"{metric}/{name}"])]
        reasons = {
            "no image has this class": actual[c] == 0,
            "every image has this class": actual[c] == total,
            "no image was predicted so": predicted[c] == 0,
            "every image was predicted so": predicted[c] == total,
        }
        if undefined:
            why = " and ".join(reason for reason, holds in reasons.items() if holds)
            notes.append(f"{name}: {', '.join(undefined)} undefined, because {why}.")
    if np.isnan(flat["macro_auc"]):
        notes.append("macro_auc is undefined, because a class has no AUC.")
    if (actual == 0).any():
        notes.append("balanced_accuracy and macro_f1 are means over the classes that have one.")
    if np.isnan(flat["quadratic_kappa"]):
        notes.append("quadratic_kappa is undefined, because truth and prediction never vary.")
    return notes
