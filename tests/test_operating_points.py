"""Operating points and decision curves, against plain loops and counts by hand."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from btxrd.evaluation.intervals import bootstrap_weights
from btxrd.evaluation.operating_points import decision_curve, operating_points
from btxrd.predictions import predictions_frame

SIZES = (90, 60, 20)


def predictions(seed, part="test", sizes=SIZES):
    """Predictions of a useful model, in groups of 2 images of one class."""
    rng = np.random.default_rng(seed)
    y = np.repeat([0, 1, 2], sizes)
    logits = rng.normal(size=(len(y), 3))
    logits[np.arange(len(y)), y] += 1.5
    rows = pd.DataFrame(
        {
            "image_id": [f"{part}-{i}" for i in range(len(y))],
            "part": part,
            "center": 1,
            "group": [f"{label}-{i // 2}" for i, label in enumerate(y)],
            "label": y,
        }
    )
    return predictions_frame(rows, logits)


@pytest.fixture(scope="module")
def val():
    return predictions(1, "val")


@pytest.fixture(scope="module")
def test():
    return predictions(2)


@pytest.mark.parametrize("target", [0.05, 0.5, 0.9, 0.95, 1.0])
def test_the_threshold_is_the_highest_that_reaches_the_target(val, test, target):
    point = operating_points(val, test, [target], replicates=20).loc[0]
    malignant = val["label"] == 2
    reaching = [
        score
        for score in val["p_Malignant"]
        if recall_score(malignant, val["p_Malignant"] >= score) >= target
    ]
    assert point["threshold"] == max(reaching)
    assert point["val_sensitivity"] >= target
    above = val["p_Malignant"] > point["threshold"]
    assert recall_score(malignant, above) < target


def test_test_is_judged_as_scikit_learn_judges_it(val, test):
    table = operating_points(val, test, replicates=20)
    assert table["target"].tolist() == [0.9, 0.95]
    for point in table.itertuples():
        truth, called = test["label"] == 2, test["p_Malignant"] >= point.threshold
        assert point.sensitivity == pytest.approx(recall_score(truth, called))
        assert point.specificity == pytest.approx(recall_score(~truth, ~called))
        assert point.ppv == pytest.approx(precision_score(truth, called))
        assert point.npv == pytest.approx(precision_score(~truth, ~called))
        assert (point.val_malignant_n, point.test_malignant_n, point.test_n) == (20, 20, 170)
        assert point.note == ""


def test_intervals_are_those_of_a_plain_loop(val, test):
    point = operating_points(val, test, [0.9], [0.1], replicates=150, level=0.9, seed=7).loc[0]
    truth, called = test["label"] == 2, test["p_Malignant"] >= point["threshold"]
    values = []
    for weight in bootstrap_weights(test["label"], test["group"], 150, seed=7):
        (tn, fp), (fn, tp) = confusion_matrix(truth, called, sample_weight=weight)
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        bayes = 0.1 * sensitivity / (0.1 * sensitivity + 0.9 * (1 - specificity))
        values.append((sensitivity, specificity, tp / (tp + fp), tn / (tn + fn), bayes))
    names = ["sensitivity", "specificity", "ppv", "npv", "ppv@0.1"]
    expected = np.percentile(values, [5, 95], axis=0)
    low, high = (point[[f"{name}_{end}" for name in names]] for end in ("low", "high"))
    np.testing.assert_allclose([low.astype(float), high.astype(float)], expected, rtol=1e-12)


def test_at_the_test_sets_own_prevalence_bayes_changes_nothing(val, test):
    share = 20 / 170
    point = operating_points(val, test, [0.9], [share, 0.5], replicates=20).loc[0]
    own = f"{share:g}"
    assert point[f"ppv@{own}"] == pytest.approx(point["ppv"])
    assert point[f"npv@{own}"] == pytest.approx(point["npv"])
    assert point["ppv@0.5"] > point["ppv"]
    assert point["npv@0.5"] < point["npv"]


@pytest.mark.parametrize(
    ("val_sizes", "test_sizes", "note"),
    [
        ((20, 10, 0), SIZES, "no malignant image in val"),
        (SIZES, (20, 10, 0), "no malignant image in test"),
        ((9, 0, 0), (0, 9, 0), "no malignant image in val; no malignant image in test"),
    ],
)
def test_parts_without_malignant_images_have_a_note(val_sizes, test_sizes, note):
    val, test = predictions(1, "val", val_sizes), predictions(2, "test", test_sizes)
    table = operating_points(val, test, prevalences=[0.02], replicates=20)
    assert (table["note"] == note).all()
    assert table.filter(regex="^(sens|spec|ppv|npv)").isna().all(axis=None)
    assert table["threshold"].isna().all() == ("val" in note)
    assert table["val_malignant_n"].tolist() == [val_sizes[2]] * 2


def test_an_empty_test_has_a_note(val, test):
    table = operating_points(val, test.head(0))
    assert table["note"].tolist() == ["no malignant image in test"] * 2


def test_a_test_of_malignant_images_alone_has_no_specificity(val):
    point = operating_points(val, predictions(3, sizes=(0, 0, 30)), [0.9], replicates=20).loc[0]
    assert np.isnan(point["specificity"])
    assert 0 < point["sensitivity"] <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": [90]}, "targets must lie above 0 and at most 1, found 90"),
        ({"prevalences": [0.1, 1]}, "prevalences must lie above 0 and below 1, found 1"),
        ({"level": 95}, "such as 0.95"),
        ({"replicates": 0}, "1 or more"),
    ],
)
def test_bad_options_are_refused(val, test, options, message):
    with pytest.raises(ValueError, match=message):
        operating_points(val, test, **options)


def test_net_benefit_is_that_of_a_plain_loop(test):
    curve = decision_curve(test, [0.05, 0.3, 0.8], replicates=50)
    truth, n = test["label"] == 2, len(test)
    for row in curve.itertuples():
        odds = row.threshold / (1 - row.threshold)
        called = test["p_Malignant"] >= row.threshold
        model = ((called & truth).sum() - odds * (called & ~truth).sum()) / n
        assert row.model == pytest.approx(model)
        assert row.treat_all == pytest.approx((truth.sum() - odds * (~truth).sum()) / n)
        assert row.low <= row.model <= row.high
    assert (curve["treat_none"] == 0).all()


def test_decision_curve_of_the_default_thresholds(test):
    curve = decision_curve(test, replicates=20)
    assert curve["threshold"].tolist() == pytest.approx(np.linspace(0.01, 0.99, 99))
    assert list(curve) == ["threshold", "model", "low", "high", "treat_all", "treat_none"]
    prevalence = 20 / 170
    at_prevalence = decision_curve(test, [prevalence], replicates=20)
    assert at_prevalence["treat_all"].tolist() == pytest.approx([0])


def test_decision_curve_without_malignant_images_cannot_gain():
    curve = decision_curve(predictions(1, sizes=(20, 10, 0)), replicates=20)
    assert (curve["model"] <= 0).all()
    assert curve.notna().all(axis=None)


def test_decision_curve_refuses_bad_input(test):
    with pytest.raises(ValueError, match="thresholds must lie above 0 and below 1"):
        decision_curve(test, [0.5, 1.0])
    with pytest.raises(ValueError, match="found none"):
        decision_curve(test.head(0))
