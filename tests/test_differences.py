"""Comparisons: each statistic against a plain computation or a simulation of what it promises."""

from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, roc_auc_score

from btxrd.evaluation.differences import (
    EXPERIMENT_KEYS,
    METRICS,
    check_comparable,
    compare_experiments,
    differing,
    ensemble_predictions,
    generalisation_gap,
    holm,
    seed_summary,
)
from btxrd.evaluation.intervals import Bootstrap, bootstrap_metrics
from btxrd.params import RunParams
from btxrd.predictions import (
    labels,
    predictions_frame,
    probabilities,
    read_predictions,
    write_predictions,
)

SIZES = (90, 60, 24)
LARGE = (900, 600, 240)
BOOTSTRAP = Bootstrap()


@pytest.fixture
def poor(predicted):
    return predicted(SIZES, seed=1, skill=0.8)


@pytest.fixture
def good(predicted):
    return predicted(SIZES, seed=2, skill=1.4)


@pytest.fixture
def experiments(poor, good, predicted):
    return {"E1": poor, "E2": good, "E3": predicted(SIZES, seed=3, skill=1.0)}


def paired(first, second, bootstrap=BOOTSTRAP, metrics=METRICS):
    """The rows of one pair."""
    trainings = {"first": [first], "second": [second]}
    return compare_experiments(trainings, bootstrap, metrics=metrics)


def gap(inside, outside, *options):
    return generalisation_gap([inside], [outside], *options)


def check_textbook(row, difference, variance):
    """Check a difference and its interval, from a variance and the normal distribution."""
    half = 1.96 * np.sqrt(variance)
    assert row["difference"] == pytest.approx(difference)
    ends = [difference - half, difference + half]
    assert row[["low", "high"]].tolist() == pytest.approx(ends, abs=half / 10)


def correct(frame):
    return (probabilities(frame).argmax(axis=1) == labels(frame)).astype(float)


def variance_of_mean(values, y):
    """Variance of the mean of independent images in fixed class counts: the textbook's."""
    return sum(values[y == c].var() * (y == c).sum() for c in np.unique(y)) / len(y) ** 2


def test_paired_differences_are_those_of_a_plain_loop(poor, good):
    bootstrap = Bootstrap(150, 0.9, seed=7)
    table = paired(poor, good, bootstrap, ["accuracy", "auc/Malignant"])
    y, p, q = labels(poor), probabilities(poor), probabilities(good)
    accuracy, auc = [], []
    for weight in bootstrap.weights(y, poor["group"])[1:]:
        drawn = np.repeat(np.arange(len(y)), weight.astype(int))
        accuracy.append(correct(good)[drawn].mean() - correct(poor)[drawn].mean())
        auc.append(np.subtract(*(roc_auc_score(y[drawn] == 2, s[drawn, 2]) for s in (q, p))))
    for row, loop in zip(table.itertuples(), (accuracy, auc), strict=True):
        assert (row.low, row.high) == pytest.approx(np.percentile(loop, [5, 95]))
        below, above = np.mean(np.array(loop) <= 0), np.mean(np.array(loop) >= 0)
        assert row.p == pytest.approx(2 * (150 * min(below, above) + 1) / 151)
    assert table.loc[0, "first"] == accuracy_score(y, p.argmax(axis=1))
    assert table.loc[1, "second"] == pytest.approx(roc_auc_score(y == 2, q[:, 2]))
    assert table["difference"].tolist() == (table["second"] - table["first"]).tolist()
    assert table["metric"].tolist() == ["accuracy", "auc/Malignant"]


def test_interval_of_an_accuracy_difference_is_the_textbooks(predicted):
    poor, good = predicted(LARGE, 1, 0.8, views=1), predicted(LARGE, 2, 1.2, views=1)
    row = paired(poor, good, metrics=["accuracy"]).iloc[0]
    gains = correct(good) - correct(poor)
    check_textbook(row, gains.mean(), variance_of_mean(gains, labels(poor)))


def test_order_of_rows_does_not_matter(poor, good):
    shuffled = (frame.sample(frac=1, random_state=i) for i, frame in enumerate((poor, good)))
    expected = paired(poor, good, Bootstrap(50))
    pd.testing.assert_frame_equal(paired(*shuffled, Bootstrap(50)), expected, rtol=1e-12)


def test_the_other_way_round_is_the_mirror_image(poor, good):
    there, back = paired(poor, good), paired(good, poor)
    np.testing.assert_allclose(back[["low", "high"]], -there[["high", "low"]])
    np.testing.assert_allclose(back["difference"], -there["difference"])
    assert back["p"].tolist() == there["p"].tolist()


def test_p_has_a_floor_and_a_cap(poor):
    perfect = predictions_frame(poor, 9 * np.eye(3)[poor["label"]])
    assert (paired(poor, perfect, Bootstrap(99))["p"] == 2 / 100).all()
    same = paired(poor, poor, Bootstrap(99))
    assert (same[["difference", "p"]] == [0, 1]).all(axis=None)
    assert same[["low", "high"]].isna().all(axis=None)


def test_a_difference_that_does_not_vary_has_no_p(poor):
    """From a single group of each class there is nothing to draw."""
    poor = poor.assign(group=poor["label"].astype(str))
    perfect = predictions_frame(poor, 9 * np.eye(3)[poor["label"]])
    table = paired(poor, perfect, Bootstrap(99), ["accuracy"])
    assert (table["difference"] > 0).all()
    assert table[["low", "high", "p", "p_holm"]].isna().all(axis=None)


def test_equal_models_are_seldom_called_different(predicted):
    """200 pairs of models of one quality: 5 % of the p values are below 0.05, give or take."""
    p = []
    for i in range(200):
        pair = (predicted((40, 30, 20), seed, 1.0, views=1) for seed in (2 * i, 2 * i + 1))
        p.append(paired(*pair, Bootstrap(100), ["macro_auc"])["p"].iloc[0])
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.10
    assert 0.4 <= np.mean(np.array(p) < 0.5) <= 0.6


def test_an_absent_class_leaves_nan(poor, good):
    kept = poor["label"] < 2
    table = paired(poor[kept], good[kept], Bootstrap(20)).set_index("metric")
    assert table.loc[["macro_auc", "sensitivity/Malignant"], "first":].isna().all(axis=None)
    assert table.loc[["accuracy", "balanced_accuracy"]].notna().all(axis=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[1:], "test-0000 is in first but not in second"),
        (
            lambda f: f.assign(label=f["label"].replace(2, 1)),
            "the label of test-0150 differs: 2 in first and 1 in second",
        ),
        (
            lambda f: f.assign(group=f["group"].replace("1-50", "x")),
            "the group of test-0100 differs: 1-50 in first and x in second",
        ),
        (
            lambda f: f.assign(part=f["part"].mask(f.index == 3, "val")),
            "the part of test-0003 differs: test in first and val in second",
        ),
    ],
)
def test_other_images_are_refused_by_name(poor, good, change, message):
    with pytest.raises(ValueError, match=message):
        paired(poor, change(good))


def test_an_image_of_the_second_side_alone_is_named(poor, good):
    with pytest.raises(ValueError, match="test-0000 is in second but not in first"):
        paired(poor[1:], good)


# Holm


def holm_by_definition(p_values):
    """Adjusted p: the smallest family-wise level at which the sequential procedure rejects it."""
    adjusted = []
    for p in p_values:
        steps = [
            sum(other >= smaller for other in p_values) * smaller
            for smaller in p_values
            if smaller <= p
        ]
        adjusted.append(min(1, max(steps)))
    return adjusted


def test_holm_follows_the_definition():
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 24):
        p = rng.uniform(size=size) ** 3
        np.testing.assert_allclose(holm(p), holm_by_definition(p))
    ties = [0.02, 0.01, 0.02, 0.5, 0.01]
    np.testing.assert_allclose(holm(ties), holm_by_definition(ties))
    assert np.isnan(holm([np.nan, np.nan])).all()
    assert holm([]).shape == (0,)


def test_every_pair_of_experiments(experiments):
    bootstrap = Bootstrap(200)
    table = compare_experiments({name: [f] for name, f in experiments.items()}, bootstrap)
    parts = []
    for names in combinations(experiments, 2):
        alone = paired(*(experiments[name] for name in names), bootstrap)
        parts.append(alone.assign(first_experiment=names[0], second_experiment=names[1]))
    expected = pd.concat(parts, ignore_index=True)
    expected["p_holm"] = holm_by_definition(expected["p"].tolist())
    pd.testing.assert_frame_equal(table, expected)
    assert table["metric"].tolist() == [*METRICS] * 3


def test_a_single_experiment_has_no_pairs(poor):
    assert compare_experiments({"E1": [poor]}, BOOTSTRAP).empty


# Test sets


def test_generalisation_gap_is_the_textbooks(predicted):
    inside = predicted(LARGE, seed=1, skill=1.4, views=1)
    outside = predicted((300, 500, 100), seed=2, skill=1, views=1)
    row = gap(inside, outside, BOOTSTRAP, ["accuracy"]).iloc[0]
    means = [correct(frame).mean() for frame in (inside, outside)]
    variances = [variance_of_mean(correct(frame), labels(frame)) for frame in (inside, outside)]
    assert row[["inside", "outside"]].tolist() == pytest.approx(means)
    check_textbook(row, means[0] - means[1], sum(variances))


def test_a_gap_from_the_edge_is_as_unsure_as_the_edge(predicted):
    """5 of 5 found inside, most outside: what is lost may also be nothing, or a half more."""
    inside = predicted((40, 40, 5), seed=1, skill=99, views=1)
    outside = predicted((90, 90, 80), seed=2, skill=2, views=1)
    rows = gap(inside, outside, BOOTSTRAP).set_index("metric")
    assert rows.loc["macro_auc", ["low", "high"]].isna().all()  # perfect separation
    low, high = bootstrap_metrics(
        labels(outside), probabilities(outside), outside["group"], BOOTSTRAP
    ).loc["sensitivity/Malignant", ["low", "high"]]
    row = rows.loc["sensitivity/Malignant"]
    edge = binomtest(5, 5).proportion_ci(method="exact").low
    assert row["inside"] == 1
    assert row["low"] == pytest.approx(
        row["difference"] - np.hypot(1 - edge, high - row["outside"]), abs=1e-9
    )
    assert row["high"] == pytest.approx(row["difference"] + row["outside"] - low, abs=1e-9)


def test_the_two_sets_are_drawn_independently(good):
    row = gap(good, good, Bootstrap(seed=1), ["accuracy"]).iloc[0]
    table = bootstrap_metrics(labels(good), probabilities(good), good["group"], BOOTSTRAP)
    single = table.loc["accuracy"]
    width = (row["high"] - row["low"]) / (single["high"] - single["low"])
    assert row["difference"] == 0
    assert width == pytest.approx(np.sqrt(2), rel=0.1)
    first, again, other = (gap(good, good, Bootstrap(50, seed=s)) for s in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


def test_grid_parameters_may_differ_between_experiments():
    first = RunParams(experiment="E1", cache_dir="here").model_dump()
    second = RunParams.parse(
        {
            "experiment": "E4",
            "cache_dir": "there",
            "study_dir": "elsewhere",
            "model": {"backbone": "resnet50", "attn_layer": "cbam", "dropout": 0.3},
            "data": {"annotations": "roi_dim", "image_size": 300, "source_jitter": True},
            "training": {"batch_size": 16, "workers": 4, "ema": 0.99, "sampling": "balanced"},
        },
        "the test",
    ).model_dump()
    check_comparable(first, second, EXPERIMENT_KEYS)
    with pytest.raises(ValueError, match=r"experiment is 'E1' and 'E4'.*batch_size is 32 and 16"):
        check_comparable(first, second, ["model", "data"])


@pytest.mark.parametrize(
    ("section", "key", "value", "found"),
    [
        ("training", "lr", 0.1, "training.lr is 0.0003 and 0.1"),
        ("data", "contrast", "none", "data.contrast is 'clahe' and 'none'"),
        (None, "split", "center", "split is 'stratified' and 'center'"),
        (None, "seed", 7, "seed is 42 and 7"),
        (None, "dataset_root", "data/BTXRD", "dataset_root is 'data/phantom' and 'data/BTXRD'"),
    ],
)
def test_other_differences_are_named(section, key, value, found):
    first = RunParams(experiment="E1")
    changed = value if section is None else getattr(first, section).model_copy(update={key: value})
    both = first.model_dump(), first.model_copy(update={section or key: changed}).model_dump()
    assert differing(*both, EXPERIMENT_KEYS) == found
    assert differing(*both, [f"{section}.{key}" if section else key]) == ""


def test_absent_parameters_differ():
    first, second = {"a": None, "b": {"c": 1}}, {"b": {"c": 1, "d": 2}, "bc": 3}
    assert differing(first, second, ["b"]) == "a is None and missing, bc is missing and 3"
    assert differing(first, second, ["bc"]) == "a is None and missing, b.d is missing and 2"


@pytest.fixture
def seeds(predicted):
    return {seed: predicted(SIZES, seed, skill=1.0) for seed in (42, 43, 44)}


def test_the_figures_of_several_trainings_are_those_of_a_plain_loop(seeds, korn_graubard):
    """Patient groups and trainings are drawn in each replicate, two of three trainings."""
    bootstrap = Bootstrap(150, seed=7)
    table = seed_summary(list(seeds.values()), bootstrap, ["accuracy", "auc/Malignant"])
    y = labels(seeds[42])
    weights = bootstrap.weights(y, seeds[42]["group"])[1:]
    shares = bootstrap.shares(3)[1:]
    loop = [
        sum(
            s * np.average(correct(f), weights=w)
            for f, s in zip(seeds.values(), share, strict=True)
        )
        for w, share in zip(weights, shares, strict=True)
    ]
    row = table.iloc[0]
    accuracies = [correct(f).mean() for f in seeds.values()]
    assert (row["seeds"], row["mean"]) == (3, pytest.approx(np.mean(accuracies)))
    assert row["sd"] == pytest.approx(pd.Series(accuracies).std())
    # Satterthwaite's degrees of freedom: of images for each mean of the three, and of trainings.
    means = [
        np.average(np.mean([correct(f) for f in seeds.values()], 0), weights=w) for w in weights
    ]
    within, between = np.var(means), np.var(accuracies, ddof=1) / 3
    groups = seeds[42]["group"].nunique()
    degrees = (within + between) ** 2 / (within**2 / (groups - 1) + between**2 / 2)
    assert degrees < groups - 1
    expected = korn_graubard(loop, row["mean"], len(y), groups, 0.95, degrees)
    assert (row["low"], row["high"]) == pytest.approx(expected)
    aucs = [roc_auc_score(y == 2, f["p_Malignant"]) for f in seeds.values()]
    assert table.loc[1, "mean"] == pytest.approx(np.mean(aucs))


def test_the_variance_over_images_and_trainings_is_that_of_all_draws(predicted):
    """By hand: the law of total variance over each of the 9 ways to draw 2 of 3 trainings."""
    frames = [predicted(SIZES, seed, skill=1.0, views=1) for seed in (1, 2, 3)]
    hits, y = np.stack([correct(frame) for frame in frames]), labels(frames[0])
    drawn = [hits[list(pair)].mean(axis=0) for pair in product(range(3), repeat=2)]
    over_images = np.mean([variance_of_mean(values, y) for values in drawn])
    over_trainings = np.var([values.mean() for values in drawn])
    bootstrap = Bootstrap(20_000)
    drawn = bootstrap.shares(3) * (bootstrap.weights(y) @ hits.T / len(y))
    variance = drawn[1:].sum(axis=1).var()
    assert variance == pytest.approx(over_images + over_trainings, rel=0.05)
    # Drawing one fewer than there are gives trainings the variance of a mean of them.
    assert over_trainings == pytest.approx(hits.mean(axis=1).var(ddof=1) / 3)


def test_a_difference_is_of_all_trainings_drawn_apart(seeds, predicted):
    bootstrap = Bootstrap(150)
    first, second = list(seeds.values()), [predicted(SIZES, s, skill=1.4) for s in (1, 2)]
    row = compare_experiments({"a": first, "b": second}, bootstrap, ["accuracy"]).iloc[0]
    weights = bootstrap.weights(labels(first[0]), first[0]["group"])
    means = []
    for number, frames in enumerate((first, second)):
        accuracy = np.stack([weights @ correct(f) / weights.sum(axis=1) for f in frames], axis=1)
        means.append((accuracy * bootstrap.shares(len(frames), number)).sum(axis=1))
    difference = means[1] - means[0]
    assert row["difference"] == pytest.approx(difference[0])
    assert row["first"] == pytest.approx(np.mean([correct(f).mean() for f in first]))
    assert (row["low"], row["high"]) == pytest.approx(np.percentile(difference[1:], [2.5, 97.5]))
    same = compare_experiments({"a": first, "b": first}, bootstrap, ["accuracy"]).iloc[0]
    assert same["low"] < 0 == same["difference"] < same["high"]


def test_one_seed_has_its_own_interval_and_no_sd(good):
    table = seed_summary([good], Bootstrap(100)).set_index("metric")
    assert table["sd"].isna().all()
    y, p = labels(good), probabilities(good)
    alone = bootstrap_metrics(y, p, good["group"], Bootstrap(100)).loc[list(METRICS)]
    np.testing.assert_allclose(table[["mean", "low", "high"]], alone)


def test_seeds_of_other_images_are_refused(seeds):
    with pytest.raises(ValueError, match="test-0173 is in training 1 but not in training 3"):
        seed_summary([seeds[42], seeds[43], seeds[44][:-1]], BOOTSTRAP)


def test_an_image_may_stand_in_the_val_of_several_folds(seeds):
    folds = [pd.concat([f.assign(fold=1), f.assign(fold=2)]) for f in seeds.values()]
    table = seed_summary(folds, Bootstrap(20), ["accuracy"])
    assert table.loc[0, "mean"] == pytest.approx(np.mean([correct(f).mean() for f in folds]))
    with pytest.raises(ValueError, match=r"test-0000 \(fold 1\) is in training 2 but not in"):
        seed_summary([folds[0][1:], folds[1]], BOOTSTRAP)


def test_ensemble_is_the_mean_of_the_probabilities(seeds, tmp_path):
    frames = [f.sample(frac=1, random_state=seed) for seed, f in seeds.items()]
    ensemble = ensemble_predictions(frames)
    write_predictions(tmp_path / "predictions.csv", ensemble)
    back = read_predictions(tmp_path / "predictions.csv").set_index("image_id")
    assert back.index.tolist() == frames[0]["image_id"].tolist()
    by_image = [f.set_index("image_id").loc[back.index] for f in frames]
    expected = np.mean([probabilities(f) for f in by_image], axis=0)
    np.testing.assert_allclose(probabilities(back), expected, rtol=1e-12)
    assert labels(back).tolist() == labels(by_image[0]).tolist()


def test_ensemble_of_certain_models_stays_finite(poor):
    certain = predictions_frame(poor, 5000 * np.eye(3)[poor["label"]])
    ensemble = ensemble_predictions([certain, certain])
    assert np.isfinite(ensemble.filter(like="logit_")).all(axis=None)
    np.testing.assert_allclose(probabilities(ensemble), probabilities(certain), atol=1e-300)


def test_ensemble_takes_whole_files_of_one_split(seeds):
    whole = [f.assign(part=f["part"].mask(f.index < 50, "val")) for f in seeds.values()]
    assert (ensemble_predictions(whole)["part"] == whole[0]["part"]).all()
    with pytest.raises(ValueError, match="the part of test-0000 differs: val in predictions 1"):
        ensemble_predictions([whole[0], seeds[43]])


def test_the_interval_covers_other_images_and_other_trainings(predicted):
    """Where trainings differ a lot, the interval of one alone misses too often."""
    rng, bootstrap = np.random.default_rng(0), Bootstrap(99)
    truth = np.mean([correct(predicted((999,) * 3, 0, s)).mean() for s in rng.normal(1, 0.2, 99)])
    covered = {1: [], 5: []}
    for study in range(40):
        frames = [
            predicted((50,) * 3, [study, number], skill, views=1)
            for number, skill in enumerate(rng.normal(1, 0.2, 5))
        ]
        for trainings, found in covered.items():
            row = seed_summary(frames[:trainings], bootstrap, ["accuracy"]).iloc[0]
            found.append(row["low"] <= truth <= row["high"])
    assert np.mean(covered[1]) < 0.85 < 0.9 <= np.mean(covered[5])
