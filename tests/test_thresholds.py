"""The table of thresholds against the operating points, plain loops and counts by hand."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from btxrd.evaluation import Bootstrap
from btxrd.evaluation.operating_points import operating_points
from btxrd.extras.pages.thresholds import PREVALENCES, threshold_table

SIZES = (90, 60, 20)
FEW = Bootstrap(20)


@pytest.fixture(scope="module")
def val(predicted):
    return predicted(SIZES, seed=1, part="val")


@pytest.fixture(scope="module")
def test(predicted):
    return predicted(SIZES, seed=2)


def tabulated(val, test, bootstrap=FEW, prevalences=()):
    return threshold_table(test, operating_points(val, test, bootstrap), bootstrap, prevalences)


@pytest.fixture(scope="module")
def thresholds(val, test):
    return tabulated(val, test, prevalences=[0.03])


@pytest.mark.parametrize("targets", [[0.9], [0.5, 0.9, 0.95]])
def test_the_row_of_a_chosen_threshold_is_that_operating_point(val, test, targets):
    """To the last digit, however many are computed at once."""
    points = operating_points(val, test, FEW, targets, [0.01, 0.03])
    table = threshold_table(test, points, FEW, [0.03])
    shared = [name for name in points if name in table]
    assert {"sensitivity_low", "npv_high", "ppv@0.01", "npv@0.03_low"} < set(shared)
    rows = table.set_index("threshold", drop=False).loc[points["threshold"], shared]
    assert rows.reset_index(drop=True).equals(points[shared])


def test_a_threshold_counts_as_scikit_learn_does(test, thresholds):
    truth = test["label"] == 2
    for row in thresholds.itertuples():
        called = test["p_Malignant"] >= row.threshold
        (tn, fp), (fn, tp) = confusion_matrix(truth, called, labels=[False, True])
        assert (row.tp, row.fp, row.fn, row.tn) == (tp, fp, fn, tn)
        assert row.alarms == pytest.approx(called.mean())
        odds = row.threshold / (1 - row.threshold)
        assert row.net_benefit == pytest.approx((tp - odds * fp) / len(test))
        assert row.treat_all == pytest.approx((truth.sum() - odds * (~truth).sum()) / len(test))
        # Where every image is called, or none, nothing varies.
        low, high = row.net_benefit_low, row.net_benefit_high
        assert low <= row.net_benefit <= high or (np.isnan(low) and len(set(called)) == 1)


def test_net_benefit_varies_as_in_a_plain_loop(val, test):
    bootstrap = Bootstrap(50, 0.9)
    table = tabulated(val, test, bootstrap)
    row = table.iloc[len(table) // 2]
    odds = row["threshold"] / (1 - row["threshold"])
    worth = (test["p_Malignant"] >= row["threshold"]) * np.where(test["label"] == 2, 1, -odds)
    weights = bootstrap.weights(test["label"], test["group"])[1:]
    expected = np.quantile([np.average(worth, weights=w) for w in weights], [0.05, 0.95])
    assert row[["net_benefit_low", "net_benefit_high"]].tolist() == pytest.approx(expected)


def test_a_table_has_thresholds_where_scores_are_and_where_none_is(val, test, thresholds):
    cuts = thresholds["threshold"]
    assert cuts.is_monotonic_increasing
    assert cuts.between(0, 1, inclusive="neither").all()
    assert 60 < len(cuts) <= 200
    assert cuts.round(3).is_unique
    assert set(operating_points(val, test, FEW)["threshold"]) < set(cuts)
    assert cuts.diff().max() <= 0.05 + 1e-9
    # Of 20 malignant images, no step loses more than two.
    assert thresholds["sensitivity"].diff().abs().max() <= 2 / 20
    assert 0.5 in tabulated(val.head(0), test)["threshold"].tolist()


def test_at_another_prevalence_a_threshold_weighs_as_bayes_does(test):
    """At the prevalence of the test set itself, all is as it was counted."""
    own = 20 / 170
    table = tabulated(test, test, prevalences=[own])
    for name in ("ppv", "npv", "alarms", "net_benefit", "treat_all"):
        np.testing.assert_allclose(table[f"{name}@{own:g}"], table[name], atol=1e-9)
        assert all(f"{name}@{share:g}" in table for share in PREVALENCES)
    rare = table["net_benefit@0.001"]
    assert (table["net_benefit@0.001_low"] <= rare).all()
    assert (rare <= table["net_benefit@0.001_high"]).all()


def test_images_with_a_score_equal_to_the_threshold_are_called(test):
    rounded = test.assign(p_Malignant=test["p_Malignant"].round(1))
    at_half = tabulated(rounded, rounded).set_index("threshold").loc[0.5]
    assert at_half["tp"] + at_half["fp"] == (rounded["p_Malignant"] >= 0.5).sum()
    assert (rounded["p_Malignant"] == 0.5).any()


def test_all_folds_of_a_pool_have_the_same_thresholds_in_a_table(predicted):
    vals, tests = (
        pd.concat([predicted(SIZES, seed + fold, part=part, fold=fold) for fold in (1, 2)])
        for seed, part in enumerate(("val", "test"))
    )
    points = operating_points(vals, tests, FEW)
    table = threshold_table(tests, points, FEW)
    assert not table["threshold"].isin(points["threshold"]).any()
    assert (table["tp"] + table["fn"] == 40).all()


@pytest.mark.parametrize(
    ("sizes", "lacking", "there"),
    [((20, 10, 0), "sensitivity", "specificity"), ((0, 0, 30), "specificity", "sensitivity")],
)
def test_a_table_of_one_kind_of_image_has_no_rate_of_the_other(
    val, predicted, sizes, lacking, there
):
    table = tabulated(val, predicted(sizes))
    assert table[[lacking, "ppv@0.01", "net_benefit@0.01"]].isna().all(axis=None)
    assert table[there].notna().all()
    assert (table["net_benefit"] <= max(0, table["treat_all"].max())).all()
