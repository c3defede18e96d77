"""Comparisons: each statistic against a plain computation or a simulation of what it promises."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from btxrd.evaluation import Bootstrap, bootstrap_metrics
from btxrd.evaluation.comparisons import (
    EXPERIMENT_KEYS,
    METRICS,
    check_comparable,
    compare_experiments,
    ensemble_predictions,
    generalisation_gap,
    holm,
    seed_summary,
)
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
    frames = {"first": first, "second": second}
    return compare_experiments(frames, bootstrap, metrics=metrics)


def correct(frame):
    return (probabilities(frame).argmax(axis=1) == labels(frame)).astype(float)


def variance_of_mean(values, y):
    """Variance of the mean of independent images in fixed class counts: the textbook's."""
    return sum(values[y == c].var() * (y == c).sum() for c in np.unique(y)) / len(y) ** 2


# Paired differences


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
    half = 1.96 * np.sqrt(variance_of_mean(gains, labels(poor)))
    assert row["difference"] == pytest.approx(gains.mean())
    assert row["low"] == pytest.approx(gains.mean() - half, abs=half / 10)
    assert row["high"] == pytest.approx(gains.mean() + half, abs=half / 10)


def test_pairing_narrows_the_interval(poor):
    nudged = probabilities(poor) + np.random.default_rng(3).uniform(0, 0.05, size=(len(poor), 3))
    twin = predictions_frame(poor, np.log(nudged))
    together = paired(poor, twin, Bootstrap(300), ["macro_auc"]).iloc[0]
    apart = generalisation_gap(twin, poor, Bootstrap(300), ["macro_auc"]).iloc[0]
    assert together["difference"] == pytest.approx(apart["difference"])
    assert together["high"] - together["low"] < (apart["high"] - apart["low"]) / 3


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
    assert (same["p"] == 1).all()
    assert (same[["difference", "low", "high"]] == 0).all(axis=None)


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
        (lambda f: pd.concat([f, f[:1]]), "test-0000 stands more than once in second"),
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


@pytest.mark.parametrize(
    "compare",
    [paired, generalisation_gap, lambda a, b, *options: seed_summary({1: a, 2: b}, *options)],
)
def test_unknown_metrics_and_mixed_parts_are_refused(poor, compare):
    with pytest.raises(ValueError, match="unknown metric 'acuracy'; allowed: accuracy, "):
        compare(poor, poor, Bootstrap(9), ["acuracy"])
    mixed = poor.assign(part=poor["part"].mask(poor.index < 9, "val"))
    with pytest.raises(ValueError, match="val and test are mixed"):
        compare(mixed, mixed, Bootstrap(9))


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


def test_holm_passes_nan_over():
    p = [np.nan, 0.01, 0.04, np.nan, 0.03]
    np.testing.assert_allclose(holm(p), [np.nan, 0.03, 0.06, np.nan, 0.06])
    assert np.isnan(holm([np.nan, np.nan])).all()
    assert holm([]).shape == (0,)


def test_holm_refuses_what_is_no_p_value():
    with pytest.raises(ValueError, match=r"in \[0, 1\], found 1.5"):
        holm([0.1, 1.5])


# Experiments


def test_every_pair_of_experiments(experiments):
    bootstrap = Bootstrap(200)
    table = compare_experiments(experiments, bootstrap)
    parts = []
    for names in combinations(experiments, 2):
        alone = paired(*(experiments[name] for name in names), bootstrap)
        parts.append(alone.assign(first_experiment=names[0], second_experiment=names[1]))
    expected = pd.concat(parts, ignore_index=True)
    expected["p_holm"] = holm_by_definition(expected["p"].tolist())
    pd.testing.assert_frame_equal(table, expected)
    assert table["metric"].tolist() == [*METRICS] * 3


def test_a_single_experiment_has_no_pairs(poor):
    assert compare_experiments({"E1": poor}, BOOTSTRAP).empty
    with pytest.raises(ValueError, match="no predictions"):
        compare_experiments({}, BOOTSTRAP)


# Test sets


def test_generalisation_gap_is_the_textbooks(predicted):
    inside = predicted(LARGE, seed=1, skill=1.4, views=1)
    outside = predicted((300, 500, 100), seed=2, skill=1, views=1)
    row = generalisation_gap(inside, outside, BOOTSTRAP, ["accuracy"]).iloc[0]
    gap = correct(inside).mean() - correct(outside).mean()
    variances = [variance_of_mean(correct(frame), labels(frame)) for frame in (inside, outside)]
    half = 1.96 * np.sqrt(sum(variances))
    assert row["inside"] == pytest.approx(correct(inside).mean())
    assert row["outside"] == pytest.approx(correct(outside).mean())
    assert row["difference"] == pytest.approx(gap)
    assert row["low"] == pytest.approx(gap - half, abs=half / 10)
    assert row["high"] == pytest.approx(gap + half, abs=half / 10)


def test_the_two_sets_are_drawn_independently(good):
    row = generalisation_gap(good, good, Bootstrap(seed=1), ["accuracy"]).iloc[0]
    table = bootstrap_metrics(labels(good), probabilities(good), good["group"], BOOTSTRAP)
    single = table.loc["accuracy"]
    width = (row["high"] - row["low"]) / (single["high"] - single["low"])
    assert row["difference"] == 0
    assert width == pytest.approx(np.sqrt(2), rel=0.1)
    first, again, other = (generalisation_gap(good, good, Bootstrap(50, seed=s)) for s in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


# Parameters


def test_grid_parameters_may_differ_between_experiments():
    first = RunParams(experiment="E1", cache_dir="here").model_dump()
    second = RunParams.parse(
        {
            "experiment": "E4",
            "cache_dir": "there",
            "study_dir": "elsewhere",
            "model": {"backbone": "resnet50", "attn_layer": "cbam", "dropout": 0.3},
            "data": {"annotations": "roi_dim", "image_size": 300},
            "training": {"batch_size": 16, "workers": 4},
        },
        "the test",
    ).model_dump()
    check_comparable(first, second, EXPERIMENT_KEYS)
    found = r"not comparable: experiment is 'E1' and 'E4', training\.batch_size is 32 and 16; only"
    with pytest.raises(ValueError, match=found):
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
    second = first.model_copy(update={section or key: changed})
    with pytest.raises(ValueError, match=f"not comparable: {found}; only experiment, model, "):
        check_comparable(first.model_dump(), second.model_dump(), EXPERIMENT_KEYS)
    if key in ("split", "seed"):
        check_comparable(first.model_dump(), second.model_dump(), [key])


def test_absent_parameters_differ():
    first, second = {"a": None, "b": {"c": 1}}, {"b": {"c": 1, "d": 2}, "bc": 3}
    with pytest.raises(ValueError, match="a is None and missing, bc is missing and 3; only b may"):
        check_comparable(first, second, ["b"])
    with pytest.raises(
        ValueError, match=r"a is None and missing, b\.d is missing and 2; only bc may"
    ):
        check_comparable(first, second, ["bc"])


# Seeds


@pytest.fixture
def seeds(predicted):
    return {seed: predicted(SIZES, seed, skill=1.0) for seed in (42, 43, 44)}


def test_seed_summary_is_that_of_a_plain_loop(seeds):
    bootstrap = Bootstrap(150, seed=7)
    table = seed_summary(seeds, bootstrap, ["accuracy", "auc/Malignant"])
    frame = seeds[42]
    y = labels(frame)
    weights = bootstrap.weights(y, frame["group"])[1:]
    loop = [np.mean([np.average(correct(f), weights=w) for f in seeds.values()]) for w in weights]
    row = table.iloc[0]
    accuracies = [correct(f).mean() for f in seeds.values()]
    assert (row["seeds"], row["mean"]) == (3, pytest.approx(np.mean(accuracies)))
    assert row["sd"] == pytest.approx(pd.Series(accuracies).std())
    assert (row["low"], row["high"]) == pytest.approx(np.percentile(loop, [2.5, 97.5]))
    aucs = [roc_auc_score(y == 2, f["p_Malignant"]) for f in seeds.values()]
    assert table.loc[1, "mean"] == pytest.approx(np.mean(aucs))


def test_one_seed_has_its_own_interval_and_no_sd(good):
    table = seed_summary({42: good}, Bootstrap(100)).set_index("metric")
    assert table["sd"].isna().all()
    y, p = labels(good), probabilities(good)
    alone = bootstrap_metrics(y, p, good["group"], Bootstrap(100)).loc[list(METRICS)]
    np.testing.assert_allclose(table[["mean", "low", "high"]], alone)


def test_the_ensembles_figures_are_those_of_its_predictions(seeds):
    table = seed_summary(seeds, Bootstrap(100)).set_index("metric")
    ensemble = ensemble_predictions(list(seeds.values()))
    alone = bootstrap_metrics(
        labels(ensemble), probabilities(ensemble), ensemble["group"], Bootstrap(100)
    )
    ends = table[["ensemble", "ensemble_low", "ensemble_high"]]
    np.testing.assert_allclose(ends, alone.loc[list(METRICS)])


def test_seeds_of_other_images_are_refused(seeds):
    with pytest.raises(ValueError, match="test-0173 is in seed 42 but not in seed 44"):
        seed_summary(seeds | {44: seeds[44][:-1]}, BOOTSTRAP)
    with pytest.raises(ValueError, match="no predictions"):
        seed_summary({}, BOOTSTRAP)


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
    with pytest.raises(ValueError, match="no predictions"):
        ensemble_predictions([])
