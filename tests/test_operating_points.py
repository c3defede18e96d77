"""Operating points and the table of thresholds, against plain loops and counts by hand."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from btxrd.evaluation import Bootstrap
from btxrd.evaluation.operating_points import PREVALENCES, operating_points, threshold_table

SIZES = (90, 60, 20)
FEW = Bootstrap(20)


@pytest.fixture(scope="module")
def val(predicted):
    return predicted(SIZES, seed=1, part="val")


@pytest.fixture(scope="module")
def test(predicted):
    return predicted(SIZES, seed=2)


@pytest.mark.parametrize("target", [0.05, 0.5, 0.9, 0.95, 1.0])
def test_the_threshold_is_the_highest_that_reaches_the_target(val, test, target):
    point = operating_points(val, test, FEW, [target]).loc[0]
    malignant = val["label"] == 2
    reaching = [
        score
        for score in val["p_Malignant"]
        if recall_score(malignant, val["p_Malignant"] >= score) >= target
    ]
    assert point["threshold"] == max(reaching)
    assert point["val_sensitivity"] >= target
    assert recall_score(malignant, val["p_Malignant"] > point["threshold"]) < target


def test_test_is_judged_as_scikit_learn_judges_it(val, test):
    table = operating_points(val, test, FEW)
    assert table["target"].tolist() == [0.9, 0.95]
    for point in table.itertuples():
        truth, called = test["label"] == 2, test["p_Malignant"] >= point.threshold
        assert point.sensitivity == pytest.approx(recall_score(truth, called))
        assert point.specificity == pytest.approx(recall_score(~truth, ~called))
        assert point.ppv == pytest.approx(precision_score(truth, called))
        assert point.npv == pytest.approx(precision_score(~truth, ~called))
        assert (point.val_malignant_n, point.test_malignant_n, point.test_n) == (20, 20, 170)
        assert point.note == ""


def test_intervals_are_those_of_a_plain_loop(val, test, korn_graubard):
    bootstrap = Bootstrap(150, 0.9, seed=7)
    point = operating_points(val, test, bootstrap, [0.9], [0.1]).loc[0]
    truth, called = test["label"] == 2, test["p_Malignant"] >= point["threshold"]
    values = []
    for weight in bootstrap.weights(test["label"], test["group"])[1:]:
        (tn, fp), (fn, tp) = confusion_matrix(truth, called, sample_weight=weight)
        values.append((tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), tn / (tn + fn)))
    members = {"sensitivity": truth, "specificity": ~truth, "ppv": called, "npv": ~called}
    for (name, chosen), replicates in zip(members.items(), np.transpose(values), strict=True):
        size = chosen.sum(), test["group"][chosen].nunique()
        expected = korn_graubard(replicates, point[name], *size, 0.9)
        assert (point[f"{name}_low"], point[f"{name}_high"]) == pytest.approx(expected, rel=1e-9)
    for end in ("", "_low", "_high"):
        sensitivity, specificity = point[f"sensitivity{end}"], point[f"specificity{end}"]
        bayes = 0.1 * sensitivity / (0.1 * sensitivity + 0.9 * (1 - specificity))
        assert point[f"ppv@0.1{end}"] == pytest.approx(bayes)


def test_where_none_is_missed_the_npv_is_not_certain(predicted):
    val, test = (predicted((20, 20, 5), n, skill=99, part=p) for n, p in enumerate(("val", "test")))
    point = operating_points(val, test, FEW, [0.9], [0.01]).loc[0]
    assert point["npv@0.01"] == point["npv@0.01_high"] == 1
    # 5 images of 3 studies: 0.29 of the malignant ones may be all that are found.
    assert point["sensitivity_low"] == pytest.approx(0.025 ** (1 / 3))
    assert 0.98 < point["npv@0.01_low"] < 0.995


def test_the_threshold_is_drawn_anew_as_in_a_plain_loop(val, test, korn_graubard):
    """Val is drawn, its threshold chosen, and test is drawn apart from it."""
    bootstrap = Bootstrap(100, seed=7)
    point = operating_points(val, test, bootstrap, [0.9]).loc[0]
    drawn = (
        bootstrap.derived(0).weights(val["label"], val["group"]),
        bootstrap.weights(test["label"], test["group"]),
    )
    rates = {"sensitivity": [], "specificity": []}
    truth, chosen_on = (frame["label"] == 2 for frame in (test, val))
    for on_val, on_test in zip(*(weights[1:] for weights in drawn), strict=True):
        reaching = [
            score
            for score in val["p_Malignant"][chosen_on]
            if recall_score(chosen_on, val["p_Malignant"] >= score, sample_weight=on_val) >= 0.9
        ]
        called = test["p_Malignant"] >= max(reaching)
        rates["sensitivity"].append(recall_score(truth, called, sample_weight=on_test))
        rates["specificity"].append(recall_score(~truth, ~called, sample_weight=on_test))
    for name, chosen in {"sensitivity": truth, "specificity": ~truth}.items():
        size = chosen.sum(), test["group"][chosen].nunique()
        expected = korn_graubard(rates[name], point[name], *size, 0.95)
        found = point[f"{name}_low_anew"], point[f"{name}_high_anew"]
        assert found == pytest.approx(expected, rel=1e-9)
    assert point["specificity_low_anew"] < point["specificity_low"] - 0.02
    assert point["specificity_high_anew"] > point["specificity_high"] + 0.02


@pytest.mark.parametrize("skill", [1.5, 99])
def test_a_threshold_drawn_anew_never_makes_surer(predicted, skill):
    """Of a perfect model too, which no threshold changes."""
    for seed in range(5):
        val, test = (
            predicted((20, 20, 5), seed + n, skill, part=p) for n, p in enumerate(("val", "test"))
        )
        table = operating_points(val, test, FEW)
        for name in ("sensitivity", "specificity"):
            assert (table[f"{name}_low_anew"] <= table[f"{name}_low"]).all()
            assert (table[f"{name}_high_anew"] >= table[f"{name}_high"]).all()
            assert (table[f"{name}_low"] < table[f"{name}_high"]).all()


def test_at_the_test_sets_own_prevalence_bayes_changes_nothing(val, test):
    share = 20 / 170
    point = operating_points(val, test, FEW, [0.9], [share, 0.5]).loc[0]
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
def test_parts_without_malignant_images_have_a_note(predicted, val_sizes, test_sizes, note):
    val, test = predicted(val_sizes, part="val"), predicted(test_sizes)
    table = operating_points(val, test, FEW, prevalences=[0.02])
    assert (table["note"] == note).all()
    assert table.filter(regex="^(sens|spec|ppv|npv)").isna().all(axis=None)
    assert table["threshold"].isna().all() == ("val" in note)
    assert table["val_malignant_n"].tolist() == [val_sizes[2]] * 2


def test_an_empty_test_has_a_note(val, test):
    table = operating_points(val, test.head(0), FEW)
    assert table["note"].tolist() == ["no malignant image in test"] * 2


def test_a_test_of_malignant_images_alone_has_no_specificity(val, predicted):
    point = operating_points(val, predicted((0, 0, 30)), FEW, [0.9]).loc[0]
    assert np.isnan(point["specificity"])
    assert 0 < point["sensitivity"] <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": [90]}, "targets must lie above 0 and at most 1, found 90"),
        ({"prevalences": [0.1, 1]}, "prevalences must lie above 0 and below 1, found 1"),
    ],
)
def test_bad_options_are_refused(val, test, options, message):
    with pytest.raises(ValueError, match=message):
        operating_points(val, test, FEW, **options)


@pytest.fixture(scope="module")
def points(val, test):
    return operating_points(val, test, FEW, prevalences=[0.03])


@pytest.fixture(scope="module")
def thresholds(test, points):
    return threshold_table(test, points, FEW, [0.03])


def shared_columns(points, thresholds):
    return [name for name in points if name in thresholds]


@pytest.mark.parametrize("targets", [[0.9], [0.5, 0.9, 0.95]])
def test_the_row_of_a_chosen_threshold_is_that_operating_point(val, test, targets):
    """To the last digit, however many are computed at once."""
    points = operating_points(val, test, FEW, targets, [0.01, 0.03])
    table = threshold_table(test, points, FEW, [0.03])
    shared = shared_columns(points, table)
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
    table = threshold_table(test, operating_points(val, test, bootstrap), bootstrap)
    row = table.iloc[len(table) // 2]
    called, odds = (
        test["p_Malignant"] >= row["threshold"],
        row["threshold"] / (1 - row["threshold"]),
    )
    worth = called * np.where(test["label"] == 2, 1, -odds)
    weights = bootstrap.weights(test["label"], test["group"])[1:]
    expected = np.quantile([np.average(worth, weights=w) for w in weights], [0.05, 0.95])
    assert row[["net_benefit_low", "net_benefit_high"]].tolist() == pytest.approx(expected)


def test_a_table_has_thresholds_where_scores_are_and_where_none_is(test, thresholds, points):
    cuts = thresholds["threshold"]
    assert cuts.is_monotonic_increasing
    assert cuts.between(0, 1, inclusive="neither").all()
    assert 60 < len(cuts) <= 200
    assert cuts.round(3).is_unique
    assert set(points["threshold"]) < set(cuts)
    assert cuts.diff().max() <= 0.05 + 1e-9
    found = thresholds["sensitivity"].diff().abs()
    assert found.max() <= 2 / 20  # of 20 malignant images, no step loses more than two


def test_at_another_prevalence_a_threshold_weighs_as_bayes_does(test):
    """At the prevalence of the test set itself, all is as it was counted."""
    own = 20 / 170
    points = operating_points(test, test, FEW)
    table = threshold_table(test, points, FEW, [own])
    for name in ("ppv", "npv", "alarms", "net_benefit", "treat_all"):
        np.testing.assert_allclose(table[f"{name}@{own:g}"], table[name], atol=1e-9)
        assert all(f"{name}@{share:g}" in table for share in PREVALENCES)
    rare = table["net_benefit@0.001"]
    assert (table["net_benefit@0.001_low"] <= rare).all()
    assert (rare <= table["net_benefit@0.001_high"]).all()


def test_images_with_a_score_equal_to_the_threshold_are_called(test):
    rounded = test.assign(p_Malignant=test["p_Malignant"].round(1))
    table = threshold_table(rounded, operating_points(rounded, rounded, FEW), FEW)
    at_half = table.set_index("threshold").loc[0.5]
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
    test = predicted(sizes)
    table = threshold_table(test, operating_points(val, test, FEW), FEW)
    assert table[[lacking, "ppv@0.01", "net_benefit@0.01"]].isna().all(axis=None)
    assert table[there].notna().all()
    assert (table["net_benefit"] <= max(0, table["treat_all"].max())).all()


def test_without_a_val_a_table_has_its_own_thresholds_only(val, test):
    points = operating_points(val.head(0), test, FEW)
    assert 0.5 in threshold_table(test, points, FEW)["threshold"].tolist()


@pytest.mark.parametrize(
    ("images", "prevalences", "message"), [(0, [], "found none"), (9, [1.5], "below 1, found 1.5")]
)
def test_a_table_refuses_bad_input(test, points, images, prevalences, message):
    with pytest.raises(ValueError, match=message):
        threshold_table(test.head(images), points, FEW, prevalences)


def test_each_fold_of_a_pool_has_its_own_thresholds(predicted):
    """Fold by fold, in any order: the pooled counts are the sums of those of the folds."""
    vals = [predicted(SIZES, seed=fold, part="val", fold=fold) for fold in (1, 2)]
    tests = [predicted(SIZES, seed=9 + fold, skill=fold, fold=fold) for fold in (1, 2)]
    tests[1]["image_id"] = "second-" + tests[1]["image_id"]
    alone = [operating_points(*pair, FEW, [0.9]).loc[0] for pair in zip(vals, tests, strict=True)]
    pooled = operating_points(
        pd.concat(vals), pd.concat(tests).sample(frac=1, random_state=0), FEW, [0.9]
    ).loc[0]
    assert [pooled["threshold_min"], pooled["threshold_max"]] == sorted(
        p["threshold"] for p in alone
    )
    for value in ("threshold", "sensitivity", "specificity", "val_sensitivity"):
        # The folds have equally many images of each class.
        assert pooled[value] == pytest.approx(np.mean([point[value] for point in alone]))
    for count in ("test_n", "test_malignant_n", "val_malignant_n"):
        assert pooled[count] == sum(point[count] for point in alone)
    vals[0] = vals[0][vals[0]["label"] < 2]
    lacking = operating_points(pd.concat(vals), pd.concat(tests), FEW, [0.9]).loc[0]
    assert lacking["note"] == "no malignant image in the val of a fold"
    assert np.isnan(lacking["sensitivity"])
