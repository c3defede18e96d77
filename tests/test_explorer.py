"""The threshold explorer: its script is given what the tables say."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from btxrd.evaluation import Bootstrap
from btxrd.evaluation.operating_points import operating_points
from btxrd.extras.pages.explorer import PREVALENCES, threshold_explorer, threshold_table

SIZES = (60, 50, 20)
FEW = Bootstrap(20, 0.9)
RATES = ("sensitivity", "specificity", "ppv", "npv")


def explore(val, test, targets=(0.9, 0.95)):
    points = operating_points(val, test, FEW, targets)
    return points, threshold_explorer(test, points, FEW, [0.03]).data


def given(html):
    return json.loads(re.search(r'<script type="application/json">(.+?)</script>', html)[1])


def words(html):
    return " ".join(re.sub("<[^>]+>", "", html).split())


@pytest.fixture(scope="module")
def explored(predicted):
    return explore(predicted(SIZES, 1, part="val"), predicted(SIZES, 2))


def test_a_chosen_threshold_has_the_figures_of_its_operating_point(explored):
    points, html = explored
    data = given(html)
    assert [name for _, name in data["chosen"]] == ["≥ 90\xa0%", "≥ 95\xa0%"]
    for (place, _), (_, point) in zip(data["chosen"], points.iterrows(), strict=True):
        row = data["rows"][place]
        assert row["threshold"] == pytest.approx(point["threshold"])
        assert row["tp"] == round(20 * point["sensitivity"])
        for name in RATES:
            ends = point[[name, f"{name}_low", f"{name}_high"]].tolist()
            assert row[name] == pytest.approx(ends, abs=1e-9)
    assert data["start"] == data["chosen"][0][0]
    assert (data["malignant"], data["others"], data["own"]) == (20, 110, pytest.approx(20 / 130))
    assert data["prevalences"] == sorted({*PREVALENCES, 0.03, data["own"]})


def test_a_table_counts_as_scikit_learn_does(predicted):
    """An image whose score equals a threshold is called malignant."""
    test = predicted(SIZES, 2)
    test["p_Malignant"] = test["p_Malignant"].round(1)
    table = threshold_table(test, [], FEW)
    for row in table.itertuples():
        called = test["p_Malignant"] >= row.threshold
        (tn, fp), (fn, tp) = confusion_matrix(test["label"] == 2, called, labels=[False, True])
        assert (row.tp, row.fp, row.sensitivity[0]) == (tp, fp, tp / (tp + fn))
        assert row.specificity[0] == tn / (tn + fp)
        assert row.ppv[0] == pytest.approx(tp / max(1, tp + fp)) or not tp + fp
    cuts = table["threshold"]
    assert cuts.is_monotonic_increasing
    assert {0.05, 0.5, 0.95} < set(cuts.round(3))
    assert cuts.round(3).is_unique
    assert len(cuts) <= 200


def test_no_step_of_a_table_loses_more_than_two_tumours(predicted):
    found = threshold_table(predicted(SIZES, 2), [0.123456], FEW)
    assert 0.123456 in found["threshold"].tolist()
    assert found["tp"].diff().abs().max() <= 2


def test_it_is_one_small_piece_that_needs_nothing_else(explored):
    html = explored[1]
    assert len(html.encode()) <= 150_000
    assert re.findall(r"(?:src|href|url|@import|https?:)[=(:]", html) == []
    assert html.count("<section") == html.count("</section>") == 1
    assert " id=" not in html
    assert "the one to use is chosen on validation, not on these test images" in words(html)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [((20, 10, 0), "none of 30 test images"), ((0, 0, 30), "every one of 30 test images")],
)
def test_a_sentence_says_why_nothing_can_be_weighed(predicted, sizes, says):
    _, html = explore(predicted(SIZES, part="val"), predicted(sizes))
    assert words(html) == f"No threshold can be weighed: {says} is malignant."


def test_without_a_val_it_starts_in_the_middle_and_marks_nothing(predicted):
    data = given(explore(predicted(SIZES, part="val").head(0), predicted(SIZES))[1])
    assert data["rows"][data["start"]]["threshold"] == 0.5
    assert data["chosen"] == []


def test_a_pool_shows_a_common_threshold_near_those_of_its_folds(predicted):
    val, test = (
        pd.concat([predicted(SIZES, seed + fold, part=part, fold=fold) for fold in (1, 2)])
        for seed, part in enumerate(("val", "test"))
    )
    points, html = explore(val, test)
    data = given(html)
    assert "Each fold has its own" in words(html)
    assert data["chosen"] == []
    shown = data["rows"][data["start"]]["threshold"]
    assert shown == pytest.approx(points["threshold"][0], abs=0.05)
    assert data["malignant"] == 40


def test_one_threshold_for_two_targets_is_one_button(predicted):
    val, test = predicted((20, 20, 4), 1, part="val"), predicted(SIZES)
    points, html = explore(val, test)
    assert len(set(points["threshold"])) == 1
    assert re.findall(r"≥ 90\s% and ≥ 95\s%: ([\d.]+)", html) == [f"{points['threshold'][0]:.3f}"]


@pytest.mark.parametrize("sizes", [SIZES, (1, 0, 1)])
def test_where_nothing_varies_there_is_a_number_or_null(predicted, sizes):
    """Of a perfect model and of two images too."""
    test = predicted(sizes, 2, 99)
    rows = given(explore(predicted(SIZES, 1, 99, part="val"), test)[1])["rows"]
    for row in rows:
        assert np.isfinite([*row["sensitivity"], *row["specificity"]]).all()
        for name in ("ppv", "npv"):
            assert row[name] == [None] * 3 or np.isfinite(row[name]).all()
