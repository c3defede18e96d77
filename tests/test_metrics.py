"""Metrics against scikit-learn, to 1e-12."""

import json
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from btxrd import CLASS_NAMES
from btxrd.evaluation.metrics import (
    METRIC_NAMES,
    PER_CLASS,
    classification_metrics,
    metric_table,
    proportion_members,
)
from btxrd.predictions import labels, probabilities

LABELS = range(3)
EXACT = {"rel": 1e-12, "abs": 1e-12, "nan_ok": True}


def flattened(result):
    """Give the scalars of `classification_metrics` the names that they have in a table."""
    flat = {name: value for name, value in result.items() if isinstance(value, float)}
    return flat | {
        f"{metric}/{name}": result["per_class"][name][metric]
        for name in CLASS_NAMES
        for metric in PER_CLASS
    }


def random_case(seed, n=200, classes=(0, 1, 2), digits=None):
    rng = np.random.default_rng(seed)
    y = rng.choice(classes, n, p=rng.dirichlet(np.full(len(classes), 5.0)))
    logits = rng.normal(size=(n, 3))
    logits[np.arange(n), y] += 1
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if digits is not None:  # coarse probabilities tie, within a class and between classes
        p = np.round(p, digits) + 10.0**-digits
        p /= p.sum(axis=1, keepdims=True)
        p = p[rng.integers(n, size=n)]
    return y, p


def sklearn_metrics(y, p, weights=None):
    """The same figures from scikit-learn, NaN where a class leaves them undefined."""
    predicted = p.argmax(axis=1)
    w = {"sample_weight": weights}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "accuracy": sk.accuracy_score(y, predicted, **w),
            "balanced_accuracy": sk.balanced_accuracy_score(y, predicted, **w),
            "macro_f1": sk.f1_score(
                y, predicted, labels=LABELS, average="macro", zero_division=np.nan, **w
            ),
            "quadratic_kappa": sk.cohen_kappa_score(
                y, predicted, labels=LABELS, weights="quadratic", **w
            ),
            "brier": sk.brier_score_loss(y, p, labels=LABELS, scale_by_half=False, **w),
            "log_loss": sk.log_loss(y, p, labels=LABELS, **w),
        }
        for c, name in enumerate(CLASS_NAMES):
            truth, guess, ranks = y == c, predicted == c, p[:, c]
            one = {"zero_division": np.nan, **w}
            both = 0 < truth.sum() < len(y)
            expected |= {
                f"auc/{name}": sk.roc_auc_score(truth, ranks, **w) if both else np.nan,
                f"average_precision/{name}": sk.average_precision_score(truth, ranks, **w)
                if truth.any()
                else np.nan,
                f"sensitivity/{name}": sk.recall_score(truth, guess, **one),
                f"specificity/{name}": sk.recall_score(~truth, ~guess, **one),
                f"precision/{name}": sk.precision_score(truth, guess, **one),
                f"npv/{name}": sk.precision_score(~truth, ~guess, **one),
                f"f1/{name}": sk.f1_score(truth, guess, **one),
            }
    expected["macro_auc"] = np.mean([expected[f"auc/{name}"] for name in CLASS_NAMES])
    malignant = y == 2
    shares = (predicted == 0)[malignant]
    by = None if weights is None else weights[malignant]
    expected["malignant_as_normal"] = np.average(shares, weights=by) if len(shares) else np.nan
    return expected


@pytest.mark.parametrize("digits", [None, 1])
@pytest.mark.parametrize("classes", [(0, 1, 2), (0, 1), (1, 2), (2,)])
@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_scikit_learn(seed, classes, digits):
    y, p = random_case(seed, classes=classes, digits=digits)
    result = classification_metrics(y, p)
    assert flattened(result) == pytest.approx(sklearn_metrics(y, p), **EXACT)
    assert result["n"] == len(y)
    counts = sk.confusion_matrix(y, p.argmax(axis=1), labels=LABELS)
    assert result["confusion_matrix"]["counts"] == counts.tolist()


@pytest.mark.parametrize("digits", [None, 1])
def test_weighted_table_agrees_with_scikit_learn(digits):
    y, p = random_case(3, digits=digits)
    rng = np.random.default_rng(0)
    weights = np.concatenate([rng.uniform(0.01, 3, (6, len(y))), rng.poisson(1, (6, len(y)))])
    table = metric_table(y, p, weights)
    for row, weight in enumerate(weights):
        got = {name: values[row] for name, values in table.items()}
        assert got == pytest.approx(sklearn_metrics(y, p, weight), **EXACT)


@pytest.mark.parametrize(
    "names", [["macro_auc"], ["auc/Malignant", "accuracy"], ["average_precision/Normal", "brier"]]
)
def test_wanted_metrics_are_those_of_the_whole_table(names):
    y, p = random_case(3, digits=1)
    weights = np.random.default_rng(0).poisson(1, (6, len(y)))
    whole = metric_table(y, p, weights)
    assert tuple(whole) == METRIC_NAMES
    table = metric_table(y, p, weights, names)
    assert list(table) == names
    for name, values in table.items():
        np.testing.assert_array_equal(values, whole[name])


def test_chunks_do_not_change_the_table(monkeypatch):
    y, p = random_case(2)
    weights = np.random.default_rng(2).poisson(1, (7, len(y)))
    whole = metric_table(y, p, weights)
    monkeypatch.setattr("btxrd.evaluation.metrics.CHUNK_ELEMENTS", 2 * len(y))
    for name, values in metric_table(y, p, weights).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-14)


def test_log_loss_is_finite_for_a_certain_error():
    result = classification_metrics([0, 1, 2], np.eye(3)[[1, 1, 2]])
    assert result["log_loss"] == pytest.approx(-np.log(np.finfo(float).eps) / 3)


GUESSES = [[0.6, 0.3, 0.1]] * 3


@pytest.mark.parametrize(
    ("case", "undefined", "reason"),
    [
        (random_case(0, classes=(0, 1)), "auc/Malignant", "Malignant: auc, "),
        (random_case(0, classes=(0, 1)), "sensitivity/Malignant", "no image has this class"),
        (random_case(0, classes=(0, 1)), "macro_auc", "macro_auc"),
        (random_case(0, classes=(0, 1)), "malignant_as_normal", ""),
        (([0, 1, 2], GUESSES), "precision/Malignant", "Malignant: precision undefined"),
        (([0, 1, 2], GUESSES), "npv/Normal", "every image was predicted so"),
        (([0, 0], GUESSES[:2]), "quadratic_kappa", "quadratic_kappa"),
    ],
)
def test_what_is_undefined_is_nan_with_a_note(case, undefined, reason):
    result = classification_metrics(*case)
    assert np.isnan(flattened(result)[undefined])
    assert reason in " ".join(result["notes"])


def test_where_all_is_defined_the_result_is_plain_json_without_notes():
    result = classification_metrics(*random_case(0))
    assert result["notes"] == []
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_what_are_no_predictions_is_refused():
    with pytest.raises(ValueError, match="not the logits"):
        classification_metrics([0], [[2.0, -1.0, 0.0]])


def test_a_proportion_is_of_its_members_alone(predicted):
    """The other images do not change it; of its members it counts some, each once."""
    frame = predicted((30, 20, 10), skill=1.0)
    y, p = labels(frame), probabilities(frame)
    flat = flattened(classification_metrics(y, p))
    members = proportion_members(y, p)
    assert len(members) == 2 + 3 * 4
    for name, chosen in members.items():
        once = chosen[None].astype(float)
        assert metric_table(y, p, once)[name] == flat[name], name
        hits = flat[name] * chosen.sum()
        assert hits == pytest.approx(round(hits)), name
        # One member less changes the share.
        less = np.where(np.arange(len(y)) == chosen.argmax(), 0.0, once)
        assert metric_table(y, p, less)[name] != flat[name], name
