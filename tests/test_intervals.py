"""The cluster bootstrap: what it draws, and the intervals it gives."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from btxrd.evaluation import Bootstrap, bootstrap_metrics, evaluate
from btxrd.evaluation.calibration import reliability_tables, selective_prediction
from btxrd.evaluation.comparisons import compare_experiments, generalisation_gap, seed_summary
from btxrd.evaluation.intervals import bootstrap_curves
from btxrd.evaluation.localisation import localisation_table
from btxrd.evaluation.operating_points import decision_curve
from btxrd.evaluation.subgroups import subgroup_table
from btxrd.evaluation.summary import interval_table
from btxrd.predictions import labels, probabilities

SIZES = (90, 60, 12)


@pytest.fixture(scope="module")
def case(predicted):
    """Labels, probabilities and groups of 3 images of one class."""
    frame = predicted(SIZES, seed=5, skill=1.0, views=3)
    return labels(frame), probabilities(frame), frame["group"].to_numpy()


def test_the_first_row_is_every_image_once(case):
    y, _, groups = case
    weights = Bootstrap(7).weights(y, groups)
    assert weights.shape == (8, len(y))
    assert (weights[0] == 1).all()


def test_singleton_groups_are_the_stratified_bootstrap(case):
    y, _, _ = case
    weights = Bootstrap(4000).weights(y)
    for label, size in enumerate(SIZES):
        drawn = weights[1:, y == label]
        assert (drawn.sum(axis=1) == size).all()
        # A multiplicity is binomial: size draws of chance 1/size.
        assert drawn.mean() == pytest.approx(1)
        assert drawn.var() == pytest.approx(1 - 1 / size, rel=0.03)
    np.testing.assert_array_equal(weights, Bootstrap(4000).weights(y, np.arange(len(y))))


def test_images_of_a_group_are_drawn_together(case):
    y, _, groups = case
    weights = Bootstrap(200).weights(y, groups)
    for group in np.unique(groups):
        members = weights[:, groups == group]
        assert (members == members[:, :1]).all()
    firsts = np.unique(groups, return_index=True)[1]
    malignant = firsts[y[firsts] == 2]
    assert (weights[:, malignant].sum(axis=1) == len(malignant)).all()


def test_no_class_vanishes():
    y = np.array([0] * 50 + [1] * 50 + [2, 2])
    weights = Bootstrap(2000, seed=3).weights(y, np.arange(len(y)))
    for label in range(3):
        assert (weights[:, y == label].sum(axis=1) > 0).all()


def test_a_mixed_group_belongs_to_its_most_severe_class():
    groups = ["mixed", "mixed", "normal", "benign", "malignant"]
    weights = Bootstrap(500, seed=1).weights([0, 2, 0, 1, 2], groups)
    assert (weights[:, [2, 3]] == 1).all()
    assert (weights[:, 1] + weights[:, 4] == 2).all()
    assert len(np.unique(weights[:, 0])) == 3


def test_the_seed_decides(case):
    first, again, other = (bootstrap_metrics(*case, Bootstrap(50, seed=s)) for s in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


def test_derived_draws_are_others_and_repeatable(case):
    y, _, groups = case
    own = Bootstrap(30, 0.8, seed=1)
    draws = [b.weights(y, groups) for b in (own, own.derived(0), own.derived(1))]
    assert not any(np.array_equal(draws[i], draws[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert own.derived(1) == own.derived(1)
    assert (own.derived(1).replicates, own.derived(1).level) == (30, 0.8)


def test_the_order_of_images_does_not_matter(case):
    y, _, groups = case
    order = np.random.default_rng(0).permutation(len(y))
    shuffled = Bootstrap(20, seed=1).weights(y[order], groups[order])
    np.testing.assert_array_equal(shuffled, Bootstrap(20, seed=1).weights(y, groups)[:, order])


def test_intervals_are_those_of_a_plain_loop(case):
    y, p, groups = case
    bootstrap = Bootstrap(150, 0.9, seed=7)
    table = bootstrap_metrics(y, p, groups, bootstrap)
    loops = {"accuracy": [], "auc/Malignant": []}
    for weight in bootstrap.weights(y, groups)[1:]:
        loops["accuracy"].append(accuracy_score(y, p.argmax(axis=1), sample_weight=weight))
        loops["auc/Malignant"].append(roc_auc_score(y == 2, p[:, 2], sample_weight=weight))
    for name, values in loops.items():
        expected = np.percentile(values, [5, 95])
        np.testing.assert_allclose(table.loc[name, ["low", "high"]], expected, rtol=1e-12)
    assert table.loc["accuracy", "estimate"] == accuracy_score(y, p.argmax(axis=1))


def test_intervals_hold_their_estimate(case):
    table = bootstrap_metrics(*case, Bootstrap(300))
    assert (table["low"] <= table["estimate"]).all()
    assert (table["estimate"] <= table["high"]).all()
    assert table.index.name == "metric"


def test_groups_widen_the_interval(case):
    y, p, _ = case
    twice = np.repeat(np.arange(len(y)), 2)  # every image twice: half the information
    apart, together = (
        bootstrap_metrics(y[twice], p[twice], groups, Bootstrap(500)) for groups in (None, twice)
    )
    width = (together["high"] - together["low"]) / (apart["high"] - apart["low"])
    assert width["accuracy"] == pytest.approx(np.sqrt(2), rel=0.15)


def test_an_absent_class_has_no_interval(case):
    y, p, groups = case
    kept = y < 2
    table = bootstrap_metrics(y[kept], p[kept], groups[kept], Bootstrap(30))
    assert table.loc["auc/Malignant"].isna().all()
    assert table.loc["auc/Benign"].notna().all()


def test_undefined_replicates_are_left_out():
    # Benign occurs in one group only, together with a malignant view.
    y = np.array([0, 0, 1, 2, 2])
    p = np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1], [0, 0.1, 0.9], [0, 0.1, 0.9]])
    table = bootstrap_metrics(y, p, ["a", "b", "c", "c", "d"], Bootstrap(100))
    assert table.loc["sensitivity/Benign"].tolist() == [1, 1, 1]
    values = np.array([[5, 5], [np.nan, np.nan], [2, np.nan], [4, np.nan]])
    estimate, low, high = Bootstrap(3, level=0.5).estimate(values)
    assert estimate.tolist() == [5, 5]
    np.testing.assert_array_equal([low, high], [[2.5, np.nan], [3.5, np.nan]])


def test_curve_bands_enclose_the_curve(case):
    bands = bootstrap_curves(*case, Bootstrap(200))
    assert (bands["low"] <= bands["high"]).all()
    assert bands["low"].min() >= 0
    assert bands["high"].max() <= 1
    roc = bands[(bands["curve"] == "roc") & (bands["class_name"] == "Normal")]
    assert roc["low"].is_monotonic_increasing
    assert roc["high"].iloc[-1] == 1
    pr = bands[(bands["curve"] == "pr") & (bands["class_name"] == "Malignant")]
    last = pr.iloc[-1]  # recall 1: precision is at least the prevalence
    assert last["low"] >= (case[0] == 2).mean() * 0.8


def test_curve_bands_skip_an_absent_class(case):
    y, p, _ = case
    bands = bootstrap_curves(y[y < 2], p[y < 2], None, Bootstrap(20))
    assert set(bands["class_name"]) == {"Normal", "Benign"}
    assert bootstrap_curves(y[y < 1], p[y < 1], None, Bootstrap(20)).empty


@pytest.mark.parametrize(
    ("groups", "message"),
    [(["a"], "one a label"), (["a", None, "b"], "1 of 3 images have no group")],
)
def test_bad_groups_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_metrics([0, 1, 2], np.eye(3), groups, Bootstrap(9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replicates": 0}, "replicates must be 1 or more, found 0"),
        ({"level": 95}, "such as 0.95, found 95"),
        ({"level": 0}, "between 0 and 1"),
        ({"level": 1.0}, "between 0 and 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Bootstrap(**options)


def localised(test, bootstrap):
    scores = test[["label", "group"]].assign(iou=test["p_Benign"], iou_chance=test["p_Normal"])
    return localisation_table(scores, bootstrap)


def evaluated(file):
    return lambda val, test, b: evaluate(pd.concat([val, test]), b, [0.01])[file]


DRAWN = {
    "metrics": lambda *args: interval_table(evaluated("metrics.json")(*args)),
    "operating points": evaluated("operating_points.csv"),
    "calibration": evaluated("calibration.csv"),
    "curves": lambda _, t, b: bootstrap_curves(t["label"], probabilities(t), t["group"], b),
    "decision curve": lambda _, test, b: decision_curve(test, b),
    "selective prediction": lambda _, test, b: selective_prediction(test, b),
    "subgroups": lambda _, test, b: subgroup_table(test, test.set_index("image_id")[["center"]], b),
    "differences": lambda val, test, b: compare_experiments(
        {"a": [test], "b": [val.assign(image_id=test["image_id"], part="test")]}, b
    ),
    "gap": lambda val, test, b: generalisation_gap([val], [test], b),
    "seeds": lambda _, test, b: seed_summary([test, test], b),
    "localisation": lambda _, test, b: localised(test, b),
}
"""What has bootstrapped intervals: name → its table, from val, test and the bootstrap."""

WILSON = {"reliability": lambda _, test, b: pd.concat(reliability_tables(test, b).values())}


@pytest.fixture(scope="module")
def both(predicted):
    return predicted(seed=1, part="val"), predicted(seed=2)


def ends(table):
    return [table.filter(regex=f"(^|_){end}$").to_numpy(float) for end in ("low", "high")]


@pytest.mark.parametrize("make", (DRAWN | WILSON).values(), ids=DRAWN | WILSON)
def test_the_level_reaches_every_interval(both, make):
    (low, high), (lowest, highest) = (ends(make(*both, Bootstrap(99, p))) for p in (0.2, 0.98))
    has_width = highest > lowest
    assert has_width.any()
    assert (lowest <= low)[has_width].all()
    assert (high <= highest)[has_width].all()
    assert (high - low < highest - lowest)[has_width].all()
    np.testing.assert_array_equal(low[~has_width], lowest[~has_width])


@pytest.mark.parametrize("make", DRAWN.values(), ids=DRAWN)
def test_the_number_of_replicates_reaches_every_interval(both, make):
    np.testing.assert_array_equal(*ends(make(*both, Bootstrap(1))))


def test_trainings_are_drawn_as_shares_of_their_mean():
    bootstrap = Bootstrap(4000)
    shares = bootstrap.shares(3)
    assert shares.shape == (4001, 3)
    np.testing.assert_allclose(shares[0], 1 / 3)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert set(np.unique(shares[1:])) == {0, 0.5, 1}
    # The variance of the mean of three: s²/3.
    values = np.array([0.1, 0.5, 0.6])
    assert (shares[1:] @ values).var() == pytest.approx(values.var(ddof=1) / 3, rel=0.05)
    assert (bootstrap.shares(1) == 1).all()
    assert not np.array_equal(shares, bootstrap.shares(3, number=1))
