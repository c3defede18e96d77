"""Operating points, against plain loops and counts by hand."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from btxrd.evaluation import Bootstrap
from btxrd.evaluation.operating_points import operating_points

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
    share = 20 / 170
    table = operating_points(val, test, FEW, prevalences=[share, 0.5])
    assert table["target"].tolist() == [0.9, 0.95]
    for _, point in table.iterrows():
        truth, called = test["label"] == 2, test["p_Malignant"] >= point["threshold"]
        expected = {
            "sensitivity": recall_score(truth, called),
            "specificity": recall_score(~truth, ~called),
            "ppv": precision_score(truth, called),
            "npv": precision_score(~truth, ~called),
            "test_n": 170,
            "test_malignant_n": 20,
            "val_malignant_n": 20,
        }
        # At the prevalence of the test set itself, Bayes' theorem changes nothing.
        expected |= {f"{name}@{share:g}": expected[name] for name in ("ppv", "npv")}
        assert point[list(expected)].to_dict() == pytest.approx(expected)
        assert point["ppv@0.5"] > point["ppv"]
        assert point["npv@0.5"] < point["npv"]
        assert point["note"] == ""


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


def test_a_test_of_malignant_images_alone_has_no_specificity(val, predicted):
    point = operating_points(val, predicted((0, 0, 30)), FEW, [0.9]).loc[0]
    assert np.isnan(point["specificity"])
    assert 0 < point["sensitivity"] <= 1


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
