"""The cluster bootstrap: what it draws, and the intervals it gives."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from btxrd.evaluation.intervals import (
    bootstrap_curves,
    bootstrap_metrics,
    bootstrap_weights,
    format_interval,
)

SIZES = (90, 60, 12)


@pytest.fixture
def case():
    """Labels, probabilities and groups of 1 to 3 images of one class."""
    rng = np.random.default_rng(5)
    y = np.repeat([0, 1, 2], SIZES)
    logits = rng.normal(size=(len(y), 3))
    logits[np.arange(len(y)), y] += 1
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    groups = np.array([f"{label}-{i // 3}" for i, label in enumerate(y)])
    return y, p, groups


def test_singleton_groups_are_the_stratified_bootstrap(case):
    y, _, _ = case
    weights = bootstrap_weights(y, None, 4000, seed=0)
    assert weights.shape == (4000, len(y))
    for label, size in enumerate(SIZES):
        drawn = weights[:, y == label]
        assert (drawn.sum(axis=1) == size).all()
        # A multiplicity is binomial: size draws of chance 1/size.
        assert drawn.mean() == pytest.approx(1)
        assert drawn.var() == pytest.approx(1 - 1 / size, rel=0.03)
    np.testing.assert_array_equal(weights, bootstrap_weights(y, np.arange(len(y)), 4000, seed=0))


def test_images_of_a_group_are_drawn_together(case):
    y, _, groups = case
    weights = bootstrap_weights(y, groups, 200, seed=0)
    for group in np.unique(groups):
        members = weights[:, groups == group]
        assert (members == members[:, :1]).all()
    firsts = np.unique(groups, return_index=True)[1]
    malignant = firsts[y[firsts] == 2]
    assert (weights[:, malignant].sum(axis=1) == len(malignant)).all()


def test_no_class_vanishes():
    y = np.array([0] * 50 + [1] * 50 + [2, 2])
    weights = bootstrap_weights(y, np.arange(len(y)), 2000, seed=3)
    for label in range(3):
        assert (weights[:, y == label].sum(axis=1) > 0).all()


def test_a_mixed_group_belongs_to_its_most_severe_class():
    y = np.array([0, 2, 0, 1, 2])
    groups = ["mixed", "mixed", "normal", "benign", "malignant"]
    weights = bootstrap_weights(y, groups, 500, seed=1)
    assert (weights[:, 2] == 1).all()
    assert (weights[:, 3] == 1).all()
    assert (weights[:, 1] + weights[:, 4] == 2).all()
    assert len(np.unique(weights[:, 0])) == 3


def test_the_seed_decides(case):
    y, p, groups = case
    first = bootstrap_metrics(y, p, groups, replicates=50, seed=1)
    assert first.equals(bootstrap_metrics(y, p, groups, replicates=50, seed=1))
    assert not first.equals(bootstrap_metrics(y, p, groups, replicates=50, seed=2))


def test_the_order_of_images_does_not_matter(case):
    y, _, groups = case
    order = np.random.default_rng(0).permutation(len(y))
    shuffled = bootstrap_weights(y[order], groups[order], 20, seed=1)
    np.testing.assert_array_equal(shuffled, bootstrap_weights(y, groups, 20, seed=1)[:, order])


def test_intervals_are_those_of_a_plain_loop(case):
    y, p, groups = case
    table = bootstrap_metrics(y, p, groups, replicates=150, level=0.9, seed=7)
    loops = {"accuracy": [], "auc/Malignant": []}
    for weight in bootstrap_weights(y, groups, 150, seed=7):
        loops["accuracy"].append(accuracy_score(y, p.argmax(axis=1), sample_weight=weight))
        loops["auc/Malignant"].append(roc_auc_score(y == 2, p[:, 2], sample_weight=weight))
    for name, values in loops.items():
        expected = np.percentile(values, [5, 95])
        np.testing.assert_allclose(table.loc[name, ["low", "high"]], expected, rtol=1e-12)
    assert table.loc["accuracy", "estimate"] == accuracy_score(y, p.argmax(axis=1))


def test_intervals_hold_their_estimate(case):
    table = bootstrap_metrics(*case, replicates=300)
    assert (table["low"] <= table["estimate"]).all()
    assert (table["estimate"] <= table["high"]).all()
    assert table.index.name == "metric"


def test_groups_widen_the_interval(case):
    y, p, _ = case
    twice = np.repeat(np.arange(len(y)), 2)  # every image twice: half the information
    apart = bootstrap_metrics(y[twice], p[twice], replicates=500)
    together = bootstrap_metrics(y[twice], p[twice], twice, replicates=500)
    width = (together["high"] - together["low"]) / (apart["high"] - apart["low"])
    assert width["accuracy"] == pytest.approx(np.sqrt(2), rel=0.15)


def test_an_absent_class_has_no_interval(case):
    y, p, groups = case
    kept = y < 2
    table = bootstrap_metrics(y[kept], p[kept], groups[kept], replicates=30)
    assert table.loc["auc/Malignant"].isna().all()
    assert table.loc["auc/Benign"].notna().all()


def test_undefined_replicates_are_left_out():
    # Benign occurs in one group only, together with a malignant view.
    y = np.array([0, 0, 1, 2, 2])
    p = np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1], [0, 0.1, 0.9], [0, 0.1, 0.9]])
    table = bootstrap_metrics(y, p, ["a", "b", "c", "c", "d"], replicates=100)
    assert table.loc["sensitivity/Benign"].tolist() == [1, 1, 1]


def test_curve_bands_enclose_the_curve(case):
    y, p, groups = case
    bands = bootstrap_curves(y, p, groups, replicates=200)
    assert (bands["low"] <= bands["high"]).all()
    assert bands[["low", "high"]].stack().between(0, 1).all()
    roc = bands[(bands["curve"] == "roc") & (bands["class_name"] == "Normal")]
    assert roc["low"].is_monotonic_increasing
    assert roc["high"].iloc[-1] == 1
    pr = bands[(bands["curve"] == "pr") & (bands["class_name"] == "Malignant")]
    last = pr.iloc[-1]  # recall 1: precision is at least the prevalence
    assert last["low"] >= (y == 2).mean() * 0.8


def test_curve_bands_skip_an_absent_class(case):
    y, p, _ = case
    bands = bootstrap_curves(y[y < 2], p[y < 2], replicates=20)
    assert set(bands["class_name"]) == {"Normal", "Benign"}
    assert bootstrap_curves(y[y < 1], p[y < 1], replicates=20).empty


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": ["a"]}, "one a label"),
        ({"groups": ["a", None, "b"]}, "1 of 3 images have no group"),
        ({"replicates": 0}, "1 or more"),
        ({"level": 95}, "such as 0.95"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_metrics([0, 1, 2], np.eye(3), **options)


def test_format_interval():
    assert format_interval(0.8124, 0.76, 0.861) == "0.812 (0.760–0.861)"
    assert format_interval(np.nan, np.nan, np.nan) == "–"
