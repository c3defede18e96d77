"""The cluster bootstrap: what it draws, and the intervals it gives."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta, binomtest
from scipy.stats import t as student
from sklearn.metrics import (
    accuracy_score,
    precision_recall_curve,
    precision_score,
    roc_auc_score,
    roc_curve,
)

from btxrd import CLASS_NAMES
from btxrd.evaluation.calibration import reliability_tables, selective_prediction
from btxrd.evaluation.curves import bootstrap_curves
from btxrd.evaluation.differences import compare_experiments, generalisation_gap, seed_summary
from btxrd.evaluation.intervals import Bootstrap, Sample, bootstrap_metrics
from btxrd.evaluation.localisation import localisation_table
from btxrd.evaluation.subgroups import subgroup_table
from btxrd.evaluation.summary import evaluate, interval_table
from btxrd.predictions import labels, probabilities

SIZES = (90, 60, 12)


@pytest.fixture(scope="module")
def case(predicted):
    """Labels, probabilities and groups of 3 images of one class."""
    frame = predicted(SIZES, seed=5, skill=1.0, views=3)
    return labels(frame), probabilities(frame), frame["group"].to_numpy()


def test_singleton_groups_are_the_stratified_bootstrap(case):
    y, _, _ = case
    weights = Bootstrap(4000).weights(y)
    assert weights.shape == (4001, len(y))
    assert (weights[0] == 1).all()
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


def test_a_mixed_group_belongs_to_its_most_severe_class():
    groups = ["mixed", "mixed", "normal", "benign", "malignant"]
    weights = Bootstrap(500, seed=1).weights([0, 2, 0, 1, 2], groups)
    assert (weights[:, [2, 3]] == 1).all()
    assert (weights[:, 1] + weights[:, 4] == 2).all()
    assert len(np.unique(weights[:, 0])) == 3


def test_the_seed_decides_and_derived_draws_are_others(case):
    y, _, groups = case
    own = Bootstrap(30, 0.8, seed=1)
    others = [Bootstrap(30, 0.8, seed=2), own.derived(0), own.derived(1)]
    first, again, *rest = (b.weights(y, groups) for b in (own, Bootstrap(30, seed=1), *others))
    assert np.array_equal(first, again)
    assert not any(np.array_equal(a, b) for a, b in combinations([first, *rest], 2))
    assert own.derived(1) == own.derived(1)
    assert (own.derived(1).replicates, own.derived(1).level) == (30, 0.8)


def test_the_order_of_images_does_not_matter(case):
    y, _, groups = case
    order = np.random.default_rng(0).permutation(len(y))
    shuffled = Bootstrap(20, seed=1).weights(y[order], groups[order])
    np.testing.assert_array_equal(shuffled, Bootstrap(20, seed=1).weights(y, groups)[:, order])


def test_intervals_are_those_of_a_plain_loop(case, korn_graubard):
    y, p, groups = case
    bootstrap = Bootstrap(150, 0.9, seed=7)
    table = bootstrap_metrics(y, p, groups, bootstrap)
    called = p.argmax(axis=1)
    loops = {"accuracy": [], "precision/Malignant": [], "auc/Malignant": []}
    for weight in bootstrap.weights(y, groups)[1:]:
        loops["accuracy"].append(accuracy_score(y, called, sample_weight=weight))
        found = precision_score(y == 2, called == 2, sample_weight=weight)
        loops["precision/Malignant"].append(found)
        loops["auc/Malignant"].append(roc_auc_score(y == 2, p[:, 2], sample_weight=weight))
    assert table.loc["accuracy", "estimate"] == accuracy_score(y, called)
    for name, chosen in {"accuracy": y >= 0, "precision/Malignant": called == 2}.items():
        estimate, *ends = table.loc[name]
        size = chosen.sum(), len(np.unique(groups[chosen]))
        assert size[1] < size[0]
        assert ends == pytest.approx(korn_graubard(loops[name], estimate, *size, 0.9), rel=1e-9)
    expected = np.percentile(loops["auc/Malignant"], [5, 95])
    np.testing.assert_allclose(table.loc["auc/Malignant", ["low", "high"]], expected, rtol=1e-12)


@pytest.mark.parametrize("hits", [0, 1, 7, 19, 20])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_of_independent_images_a_proportion_has_the_exact_interval(hits, level):
    """Clopper and Pearson's, where no image tells anything of another."""
    replicates = np.full(1000, hits / 20)
    if 0 < hits < 20:
        # Less than the binomial variance: a design effect of 1.
        replicates += np.resize([-0.01, 0.01], 1000)
    found = Bootstrap(999, level).proportion(np.r_[hits / 20, replicates], Sample(20, 20))
    exact = binomtest(hits, 20).proportion_ci(level, method="exact")
    assert found == pytest.approx((hits / 20, exact.low, exact.high), rel=1e-9)


def test_images_of_a_group_that_agree_count_as_one():
    """30 images in 10 groups, all of a group right or wrong: all but the interval of 10."""
    right = np.repeat([1, 1, 1, 1, 1, 1, 1, 0, 0, 0], 3)
    weights = Bootstrap(20_000).weights(np.full(30, 2), np.repeat(np.arange(10), 3))
    estimate, low, high = Bootstrap().proportion(weights @ right / 30, Sample(30, 10))
    n = 30 * 9 / 29 * (student.ppf(0.025, 29) / student.ppf(0.025, 9)) ** 2
    assert estimate == 0.7
    assert low == pytest.approx(beta.ppf(0.025, 0.7 * n, 0.3 * n + 1), abs=0.01)
    assert high == pytest.approx(beta.ppf(0.975, 0.7 * n + 1, 0.3 * n), abs=0.01)
    # Where all are right, there is nothing to see how far they agree.
    found = Bootstrap().proportion(np.ones(2001), Sample(30, 10))
    assert found == pytest.approx((1, *binomtest(10, 10).proportion_ci(method="exact")))


def test_a_proportion_of_nothing_has_no_interval():
    values = np.full((100, 2), np.nan)
    values[:, 1] = np.resize([0.4, 0.6], 100)
    sample = Sample(np.array([0, 10]), np.array([0, 10]))
    found = np.stack(Bootstrap(99).proportion(values, sample))
    assert np.isnan(found).tolist() == [[True, False]] * 3
    undefined = np.r_[values, np.full((20, 2), np.nan)]  # replicates that are left out
    np.testing.assert_array_equal(np.stack(Bootstrap().proportion(undefined, sample)), found)


def test_samples_count_images_and_their_groups():
    rng = np.random.default_rng(0)
    groups, scores = rng.integers(8, size=40), rng.integers(12, size=40)
    cuts = np.unique(scores)[::-1]
    members = scores[:, None] >= cuts
    of, above = Sample.of(members, groups), Sample.above(scores, groups)
    for place, cut in enumerate(cuts):
        chosen = scores >= cut
        for sample in (of, above):
            assert sample.images[place] == chosen.sum()
            assert sample.groups[place] == len(set(groups[chosen]))
    assert Sample.of(members, None).groups.tolist() == of.images.tolist()


def test_what_does_not_vary_has_no_interval(case):
    y, _, groups = case
    sure = np.eye(3)[y] * 0.8 + 0.2 / 3
    table = bootstrap_metrics(y, sure, groups, Bootstrap(50))
    flat = table.index[table["low"].isna()]
    assert set(flat) >= {"macro_auc", "auc/Malignant", "balanced_accuracy", "f1/Benign"}
    assert not {name.partition("/")[0] for name in flat} & {"accuracy", "sensitivity", "npv"}
    assert (table["high"] - table["low"]).drop(flat).min() > 0.01
    assert (table.loc[flat, "high"].isna() & table.loc[flat, "estimate"].notna()).all()


def test_intervals_hold_their_estimate_where_there_is_one(case):
    table = bootstrap_metrics(*case, Bootstrap(300))
    assert (table["low"] <= table["estimate"]).all()
    assert (table["estimate"] <= table["high"]).all()
    assert table.index.name == "metric"
    without = case[0] < 2
    table = bootstrap_metrics(*(of[without] for of in case), Bootstrap(30))
    assert table.loc["auc/Malignant"].isna().all()
    assert table.loc["auc/Benign"].notna().all()


def test_undefined_replicates_are_left_out():
    # Benign occurs in one group only, together with a malignant view.
    y = np.array([0, 0, 1, 2, 2])
    p = np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1], [0, 0.1, 0.9], [0, 0.1, 0.9]])
    table = bootstrap_metrics(y, p, ["a", "b", "c", "c", "d"], Bootstrap(100))
    assert table.loc["sensitivity/Benign"].tolist() == pytest.approx([1, 0.025, 1])
    values = np.array([[5, 5], [np.nan, np.nan], [2, np.nan], [4, np.nan]])
    estimate, low, high = Bootstrap(3, level=0.5).estimate(values)
    assert estimate.tolist() == [5, 5]
    np.testing.assert_array_equal([low, high], [[2.5, np.nan], [3.5, np.nan]])


def test_curve_bands_enclose_the_curve(case):
    y, p, groups = case
    bands = bootstrap_curves(y, p, groups, Bootstrap(200))
    assert bands["low"].min() >= 0
    assert bands["high"].max() <= 1
    assert (bands["high"] - bands["low"]).min() > 0.001
    for (curve, name), band in bands.groupby(["curve", "class_name"]):
        c = CLASS_NAMES.index(name)
        if curve == "roc":
            rates, curve_of, _ = roc_curve(y == c, p[:, c], drop_intermediate=False)
            value = np.interp(band["x"], rates, curve_of)
            assert band["x"].max() == 0.99
        else:
            # The last point of scikit-learn's belongs to no threshold.
            precision, recall = (v[:-1] for v in precision_recall_curve(y == c, p[:, c])[:2])
            value = [precision[recall >= max(x - 1e-12, 1e-12)][-1] for x in band["x"]]
            assert band["x"].max() == 1
        assert ((band["low"] <= value) & (value <= band["high"])).mean() > 0.98, (curve, name)


def test_curve_bands_skip_an_absent_class(case):
    y, p, _ = case
    bands = bootstrap_curves(y[y < 2], p[y < 2], None, Bootstrap(20))
    assert set(bands["class_name"]) == {"Normal", "Benign"}
    assert bootstrap_curves(y[y < 1], p[y < 1], None, Bootstrap(20)).empty


def test_an_image_without_a_group_is_refused():
    with pytest.raises(ValueError, match="1 of 3 images"):
        bootstrap_metrics([0, 1, 2], np.eye(3), ["a", None, "b"], Bootstrap(9))


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
    "selective prediction": lambda _, test, b: selective_prediction(test, b),
    "subgroups": lambda _, test, b: subgroup_table(test, test.set_index("image_id")[["center"]], b),
    "differences": lambda val, test, b: compare_experiments(
        {"a": [test], "b": [val.assign(image_id=test["image_id"], part="test")]}, b
    ),
    "gap": lambda val, test, b: generalisation_gap([val], [test], b),
    "seeds": lambda _, test, b: seed_summary([test, test], b),
    "localisation": lambda _, test, b: localised(test, b),
    "reliability": lambda _, test, b: pd.concat(reliability_tables(test, b).values()),
}
"""What has bootstrapped intervals: name → its table, from val, test and the bootstrap."""


@pytest.fixture(scope="module")
def both(predicted):
    return predicted(seed=1, part="val"), predicted(seed=2)


def ends(table):
    named = (table.filter(regex=f"(^|_){end}(_anew)?$") for end in ("low", "high"))
    return [columns.to_numpy(float) for columns in named]


@pytest.mark.parametrize("make", DRAWN.values(), ids=DRAWN)
def test_the_level_and_the_number_of_replicates_reach_every_interval(both, make):
    (low, high), (lowest, highest) = (ends(make(*both, Bootstrap(99, p))) for p in (0.2, 0.98))
    both_there = ~np.isnan(low) & ~np.isnan(lowest)
    assert both_there.any()
    assert not (np.isnan(lowest) & ~np.isnan(low)).any()
    assert (lowest <= low)[both_there].all()
    assert (high <= highest)[both_there].all()
    assert (high - low < highest - lowest)[both_there].all()
    assert not np.array_equal(low, ends(make(*both, Bootstrap(60, 0.2)))[0], equal_nan=True)


@pytest.mark.parametrize("make", DRAWN.values(), ids=DRAWN)
@pytest.mark.parametrize("skill", [99, 1.5])
@pytest.mark.parametrize("sizes", [(40, 1, 5), (1, 5, 30), (0, 1, 5), (5, 0, 1), (25, 5, 0)])
def test_no_interval_is_without_a_width(predicted, make, skill, sizes):
    """Of a class with 5 images, all right; of one with 1; of one with none."""
    val, test = predicted(sizes, 1, skill, part="val"), predicted(sizes, 2, skill)
    low, high = ends(make(val, test, Bootstrap(40)))
    assert ((high - low > 1e-6) | (np.isnan(low) & np.isnan(high))).all()


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
