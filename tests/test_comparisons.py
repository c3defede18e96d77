"""Comparisons: each statistic against a plain computation or a simulation of what it promises."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest
from sklearn.metrics import accuracy_score, roc_auc_score

from btxrd.evaluation.comparisons import (
    EXPERIMENT_KEYS,
    METRICS,
    check_comparable,
    compare_experiments,
    delong_test,
    differing_parameters,
    ensemble_predictions,
    generalisation_gap,
    holm,
    paired_differences,
    seed_summary,
)
from btxrd.evaluation.intervals import bootstrap_metrics, bootstrap_weights
from btxrd.params import RunParams
from btxrd.predictions import (
    labels,
    predictions_frame,
    probabilities,
    read_predictions,
    write_predictions,
)

SIZES = (90, 60, 24)


def image_rows(sizes=SIZES, views=2):
    """Images in study groups of `views` images of one class."""
    y = np.repeat([0, 1, 2], sizes)
    return pd.DataFrame(
        {
            "image_id": [f"IMG{i:06d}" for i in range(len(y))],
            "part": "test",
            "center": 1,
            "group": [f"{label}-{i // views}" for i, label in enumerate(y)],
            "label": y,
        }
    )


def predict(rows, seed, shift=1.0):
    logits = np.random.default_rng(seed).normal(size=(len(rows), 3))
    logits[np.arange(len(rows)), rows["label"]] += shift
    return predictions_frame(rows, logits)


@pytest.fixture
def rows():
    return image_rows()


@pytest.fixture
def poor(rows):
    return predict(rows, seed=1, shift=0.8)


@pytest.fixture
def good(rows):
    return predict(rows, seed=2, shift=1.4)


def correct(frame):
    return (probabilities(frame).argmax(axis=1) == labels(frame)).astype(float)


def variance_of_mean(values, y):
    """Variance of the mean of independent images in fixed class counts: the textbook's."""
    return sum(values[y == c].var() * (y == c).sum() for c in np.unique(y)) / len(y) ** 2


# Paired differences


def test_paired_differences_are_those_of_a_plain_loop(poor, good):
    table = paired_differences(poor, good, ["accuracy", "auc/Malignant"], 150, 0.9, seed=7)
    y, p, q = labels(poor), probabilities(poor), probabilities(good)
    accuracy, auc = [], []
    for weight in bootstrap_weights(y, poor["group"], 150, seed=7):
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


def test_interval_of_an_accuracy_difference_is_the_textbooks():
    rows = image_rows((900, 600, 240), views=1)
    poor, good = predict(rows, 1, 0.8), predict(rows, 2, 1.2)
    row = paired_differences(poor, good, ["accuracy"]).iloc[0]
    gains = correct(good) - correct(poor)
    half = 1.96 * np.sqrt(variance_of_mean(gains, rows["label"].to_numpy()))
    assert row["difference"] == pytest.approx(gains.mean())
    assert row["low"] == pytest.approx(gains.mean() - half, abs=half / 10)
    assert row["high"] == pytest.approx(gains.mean() + half, abs=half / 10)


def test_pairing_narrows_the_interval(poor, rows):
    nudged = probabilities(poor) + np.random.default_rng(3).uniform(0, 0.05, size=(len(rows), 3))
    twin = predictions_frame(rows, np.log(nudged))
    paired = paired_differences(poor, twin, ["macro_auc"], 300).iloc[0]
    unpaired = generalisation_gap(twin, poor, ["macro_auc"], 300).iloc[0]
    assert paired["difference"] == pytest.approx(unpaired["difference"])
    assert paired["high"] - paired["low"] < (unpaired["high"] - unpaired["low"]) / 3


def test_order_of_rows_does_not_matter(poor, good):
    expected = paired_differences(poor, good, replicates=50)
    shuffled = paired_differences(
        poor.sample(frac=1, random_state=1), good.sample(frac=1, random_state=2), replicates=50
    )
    pd.testing.assert_frame_equal(shuffled, expected, rtol=1e-12)


def test_the_other_way_round_is_the_mirror_image(poor, good):
    there, back = paired_differences(poor, good), paired_differences(good, poor)
    np.testing.assert_allclose(back[["low", "high"]], -there[["high", "low"]])
    np.testing.assert_allclose(back["difference"], -there["difference"])
    assert back["p"].tolist() == there["p"].tolist()


def test_p_has_a_floor_and_a_cap(rows, poor):
    perfect = predictions_frame(rows, 9 * np.eye(3)[rows["label"]])
    assert (paired_differences(poor, perfect, replicates=99)["p"] == 2 / 100).all()
    same = paired_differences(poor, poor, replicates=99)
    assert (same["p"] == 1).all()
    assert (same[["difference", "low", "high"]] == 0).all(axis=None)


def test_equal_models_are_seldom_called_different():
    """200 pairs of models of one quality: 5 % of the p values are below 0.05, give or take."""
    rows = image_rows((40, 30, 20), views=1)
    p = [
        paired_differences(
            predict(rows, 2 * i), predict(rows, 2 * i + 1), ["macro_auc"], replicates=100
        )["p"].iloc[0]
        for i in range(200)
    ]
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.10
    assert 0.4 <= np.mean(np.array(p) < 0.5) <= 0.6


def test_an_absent_class_leaves_nan(poor, good):
    kept = poor["label"] < 2
    table = paired_differences(poor[kept], good[kept], replicates=20).set_index("metric")
    undefined = table.loc[["macro_auc", "sensitivity/Malignant"]]
    assert undefined.isna().all(axis=None)
    assert table.loc[["accuracy", "balanced_accuracy"]].notna().all(axis=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[1:], "IMG000000 is in first but not in second"),
        (lambda f: pd.concat([f, f[:1]]), "IMG000000 stands more than once in second"),
        (
            lambda f: f.assign(label=f["label"].replace(2, 1)),
            "the label of IMG000150 differs: 2 in first and 1 in second",
        ),
        (
            lambda f: f.assign(group=f["group"].replace("1-50", "x")),
            "the group of IMG000100 differs: 1-50 in first and x in second",
        ),
        (
            lambda f: f.assign(part=f["part"].mask(f.index == 3, "val")),
            "the part of IMG000003 differs: test in first and val in second",
        ),
    ],
)
def test_other_images_are_refused_by_name(poor, good, change, message):
    with pytest.raises(ValueError, match=message):
        paired_differences(poor, change(good))


def test_an_image_of_the_second_side_alone_is_named(poor, good):
    with pytest.raises(ValueError, match="IMG000000 is in second but not in first"):
        paired_differences(poor[1:], good)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["acuracy"]}, "unknown metric 'acuracy'; allowed: accuracy, "),
        ({"level": 95}, "such as 0.95"),
        ({"replicates": 0}, "1 or more"),
    ],
)
def test_bad_options_are_refused(poor, good, options, message):
    with pytest.raises(ValueError, match=message):
        paired_differences(poor, good, **options)


def test_mixed_parts_are_refused(poor):
    mixed = poor.assign(part=poor["part"].mask(poor.index < 9, "val"))
    for compare in (paired_differences, generalisation_gap):
        with pytest.raises(ValueError, match="val and test are mixed"):
            compare(mixed, mixed)


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


def test_holm_rejects_as_the_sequential_procedure_does():
    p = np.array([0.001, 0.011, 0.02, 0.03, 0.2])
    rejected = []
    for k, value in enumerate(np.sort(p)):
        if value > 0.05 / (len(p) - k):
            break
        rejected.append(value)
    assert p[holm(p) <= 0.05].tolist() == rejected == [0.001, 0.011]


def test_holm_passes_nan_over():
    p = [np.nan, 0.01, 0.04, np.nan, 0.03]
    np.testing.assert_allclose(holm(p), [np.nan, 0.03, 0.06, np.nan, 0.06])
    assert np.isnan(holm([np.nan, np.nan])).all()
    assert holm([]).shape == (0,)


def test_holm_refuses_what_is_no_p_value():
    with pytest.raises(ValueError, match=r"in \[0, 1\], found 1.5"):
        holm([0.1, 1.5])
    with pytest.raises(ValueError, match=r"shape \(m,\)"):
        holm([[0.1]])


# DeLong


def delong_by_structural_components(positive, first, second):
    """The paper's definition, with every pair of images compared."""
    v10, v01 = [], []
    for scores in (first, second):
        x, y = scores[positive], scores[~positive]
        psi = (x[:, None] > y) + 0.5 * (x[:, None] == y)
        v10.append(psi.mean(axis=1))
        v01.append(psi.mean(axis=0))
    covariance = np.cov(v10) / positive.sum() + np.cov(v01) / (~positive).sum()
    aucs = np.mean(v10, axis=1)
    contrast = np.array([-1, 1])
    return *aucs, contrast @ aucs / np.sqrt(contrast @ covariance @ contrast)


@pytest.mark.parametrize("ties", [False, True])
def test_delong_is_the_papers(ties):
    rng = np.random.default_rng(4)
    positive = rng.permutation(np.repeat([True, False], [30, 70]))
    shared = rng.normal(size=100) + positive
    first, second = (shared + rng.normal(size=100) for _ in range(2))
    if ties:
        first, second = first.round(), second.round()
    result = delong_test(positive, first, second)
    expected = delong_by_structural_components(positive, first, second)
    assert result[:3] == pytest.approx(expected, rel=1e-10)
    assert result[0] == pytest.approx(roc_auc_score(positive, first))
    assert result[1] == pytest.approx(roc_auc_score(positive, second))
    mirrored = delong_test(positive, second, first)
    assert mirrored[2:] == (pytest.approx(-result[2]), pytest.approx(result[3]))


def test_delong_p_is_uniform_where_the_aucs_are_equal():
    rng = np.random.default_rng(6)
    positive = np.repeat([True, False], [50, 150])
    p = []
    for _ in range(1000):
        shared = rng.normal(size=200) + 1.5 * positive
        p.append(delong_test(positive, *(shared + rng.normal(size=(2, 200))))[3])
    assert kstest(p, "uniform").pvalue > 0.01
    assert 0.03 <= np.mean(np.array(p) < 0.05) <= 0.07


def test_delong_without_variance_has_no_p():
    positive = np.array([False, False, False, True, True])
    scores = np.array([0.1, 0.6, 0.3, 0.4, 0.9])
    assert delong_test(positive, scores, scores)[2:] == pytest.approx((np.nan, np.nan), nan_ok=True)
    # Every pair goes from undecided to right: a difference, but no variance.
    decided = delong_test(positive, np.zeros(5), positive.astype(float))
    assert decided == pytest.approx((0.5, 1, np.nan, np.nan), nan_ok=True)
    single = delong_test(np.array([True, False, False]), [3, 1, 2], [1, 3, 2])
    assert single == pytest.approx((1, 0, np.nan, np.nan), nan_ok=True)
    for absent in (True, False):
        assert np.isnan(delong_test(np.full(5, absent), scores, -scores)).all()


@pytest.mark.parametrize(
    ("positive", "scores", "message"),
    [
        ([0, 1, 1], [1, 2, 3], "booleans"),
        ([True, False], [1, 2, 3], r"shape \(2,\), found \(3,\)"),
        ([True, False], [1, np.nan], "finite"),
    ],
)
def test_delong_refuses_bad_input(positive, scores, message):
    with pytest.raises(ValueError, match=message):
        delong_test(positive, scores, scores)


# Experiments


@pytest.fixture
def experiments(rows, poor, good):
    return {"E1": poor, "E2": good, "E3": predict(rows, seed=3)}


def test_every_pair_of_experiments(experiments):
    table = compare_experiments(experiments, replicates=200)
    pairs = [("E1", "E2"), ("E1", "E3"), ("E2", "E3")]
    found = table[["first_experiment", "second_experiment", "metric"]].itertuples(index=False)
    assert [tuple(row) for row in found] == [
        (*pair, metric) for pair in pairs for metric in (*METRICS, "auc/Malignant")
    ]
    for (first, second), rows in table.groupby(["first_experiment", "second_experiment"]):
        reported = (*METRICS, "auc/Malignant")
        alone = paired_differences(experiments[first], experiments[second], reported, 200)
        pd.testing.assert_frame_equal(rows[alone.columns].reset_index(drop=True), alone)


def test_delong_stands_beside_the_family_of_holm(experiments):
    table = compare_experiments(experiments, replicates=200)
    beside = table["metric"] == "auc/Malignant"
    family = table[~beside]
    np.testing.assert_allclose(family["p_holm"], holm_by_definition(family["p"].tolist()))
    assert family["delong_p"].isna().all()
    assert table.loc[beside, "p_holm"].isna().all()
    e1, e2 = experiments["E1"], experiments["E2"]
    expected = delong_test(e1["label"] == 2, e1["p_Malignant"], e2["p_Malignant"])
    assert table.loc[beside, "delong_p"].iloc[0] == expected[3]
    assert table.loc[beside, "difference"].iloc[0] == pytest.approx(expected[1] - expected[0])


def test_malignant_auc_joins_the_family_where_it_is_asked_for(experiments):
    table = compare_experiments(experiments, ["auc/Malignant"], replicates=200)
    assert len(table) == 3
    np.testing.assert_allclose(table["p_holm"], holm(table["p"]))
    assert table["delong_p"].notna().all()


def test_delong_aligns_the_images(experiments):
    expected = compare_experiments(experiments, replicates=20)
    shuffled = {n: f.sample(frac=1, random_state=i) for i, (n, f) in enumerate(experiments.items())}
    pd.testing.assert_frame_equal(compare_experiments(shuffled, replicates=20), expected)


def test_a_single_experiment_has_no_pairs(experiments, poor):
    table = compare_experiments({"E1": poor}, replicates=20)
    assert table.empty
    assert list(table) == list(compare_experiments(experiments, replicates=20))
    with pytest.raises(ValueError, match="no predictions"):
        compare_experiments({})
    with pytest.raises(ValueError, match="IMG000000 is in E1 but not in E2"):
        compare_experiments({"E1": poor, "E2": poor[1:]})


# Test sets


def test_generalisation_gap_is_the_textbooks():
    inside = predict(image_rows((900, 600, 240), views=1), seed=1, shift=1.4)
    outside = predict(image_rows((300, 500, 100), views=1), seed=2, shift=1)
    row = generalisation_gap(inside, outside, ["accuracy"]).iloc[0]
    gap = correct(inside).mean() - correct(outside).mean()
    variances = [variance_of_mean(correct(frame), labels(frame)) for frame in (inside, outside)]
    half = 1.96 * np.sqrt(sum(variances))
    assert row["inside"] == pytest.approx(correct(inside).mean())
    assert row["outside"] == pytest.approx(correct(outside).mean())
    assert row["difference"] == pytest.approx(gap)
    assert row["low"] == pytest.approx(gap - half, abs=half / 10)
    assert row["high"] == pytest.approx(gap + half, abs=half / 10)


def test_the_two_sets_are_drawn_independently(good):
    row = generalisation_gap(good, good, ["accuracy"], seed=1).iloc[0]
    single = bootstrap_metrics(labels(good), probabilities(good), good["group"]).loc["accuracy"]
    width = (row["high"] - row["low"]) / (single["high"] - single["low"])
    assert row["difference"] == 0
    assert width == pytest.approx(np.sqrt(2), rel=0.1)
    again, other = (generalisation_gap(good, good, ["macro_auc"], 50, seed=s) for s in (1, 2))
    assert again.equals(generalisation_gap(good, good, ["macro_auc"], 50, seed=1))
    assert not again.equals(other)


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
    assert differing_parameters(first, second, ["model", "data"]) == [
        "experiment",
        "training.batch_size",
    ]


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
    assert differing_parameters(first, second) == ["a", "b.d", "bc"]
    assert differing_parameters(first, second, ["b"]) == ["a", "bc"]
    with pytest.raises(
        ValueError, match=r"a is None and missing, b\.d is missing and 2; only bc may"
    ):
        check_comparable(first, second, ["bc"])


# Seeds


@pytest.fixture
def seeds(rows):
    return {seed: predict(rows, seed) for seed in (42, 43, 44)}


def test_seed_summary_is_that_of_a_plain_loop(seeds):
    table = seed_summary(seeds, ["accuracy", "auc/Malignant"], replicates=150, seed=7)
    frame = seeds[42]
    y = labels(frame)
    weights = bootstrap_weights(y, frame["group"], 150, seed=7)
    loop = [np.mean([np.average(correct(f), weights=w) for f in seeds.values()]) for w in weights]
    row = table.iloc[0]
    accuracies = [correct(f).mean() for f in seeds.values()]
    assert (row["seeds"], row["mean"]) == (3, pytest.approx(np.mean(accuracies)))
    assert row["sd"] == pytest.approx(pd.Series(accuracies).std())
    assert (row["low"], row["high"]) == pytest.approx(np.percentile(loop, [2.5, 97.5]))
    aucs = [roc_auc_score(y == 2, f["p_Malignant"]) for f in seeds.values()]
    assert table.loc[1, "mean"] == pytest.approx(np.mean(aucs))


def test_one_seed_has_its_own_interval_and_no_sd(good):
    table = seed_summary({42: good}, replicates=100).set_index("metric")
    assert table["sd"].isna().all()
    y, p = labels(good), probabilities(good)
    alone = bootstrap_metrics(y, p, good["group"], replicates=100).loc[list(METRICS)]
    np.testing.assert_allclose(table[["mean", "low", "high"]], alone)


def test_seeds_of_other_images_are_refused(seeds):
    with pytest.raises(ValueError, match="IMG000173 is in seed 42 but not in seed 44"):
        seed_summary(seeds | {44: seeds[44][:-1]})
    with pytest.raises(ValueError, match="no predictions"):
        seed_summary({})


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


def test_ensemble_of_certain_models_stays_finite(rows):
    certain = predictions_frame(rows, 5000 * np.eye(3)[rows["label"]])
    ensemble = ensemble_predictions([certain, certain])
    assert np.isfinite(ensemble.filter(like="logit_")).all(axis=None)
    np.testing.assert_allclose(probabilities(ensemble), probabilities(certain), atol=1e-300)


def test_ensemble_takes_whole_files_of_one_split(seeds):
    whole = [f.assign(part=f["part"].mask(f.index < 50, "val")) for f in seeds.values()]
    assert (ensemble_predictions(whole)["part"] == whole[0]["part"]).all()
    with pytest.raises(ValueError, match="the part of IMG000000 differs: val in predictions 1"):
        ensemble_predictions([whole[0], seeds[43]])
    with pytest.raises(ValueError, match="no predictions"):
        ensemble_predictions([])
