"""Calibration: known temperatures recovered, sums exact, and agreement with scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from btxrd.evaluation import Bootstrap
from btxrd.evaluation.calibration import (
    TEMPERATURE_BOUNDS,
    TOP_LABEL,
    apply_temperature,
    calibration_outcomes,
    calibration_summary,
    fit_temperature,
    fitted_temperatures,
    reliability_tables,
    selective_prediction,
    squared_calibration_error,
)
from btxrd.predictions import (
    COLUMNS,
    predictions_frame,
    probabilities,
    read_predictions,
    write_predictions,
)

OUTCOMES = ["Normal", "Benign", "Malignant", TOP_LABEL]


def calibrated(n, seed, factor=1.0):
    """Predictions whose labels were drawn from softmax(logits / factor)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(n, 3))
    y = (rng.random((n, 1)) > softmax(logits, axis=1).cumsum(axis=1)).sum(axis=1)
    rows = pd.DataFrame({"image_id": [f"i{i}" for i in range(n)], "label": np.minimum(y, 2)})
    rows = rows.assign(part="test", center=1, group=[f"g{i // 2}" for i in range(n)])
    return predictions_frame(rows, logits * factor)


@pytest.fixture(scope="module")
def sample():
    """Outcomes and badly calibrated probabilities."""
    rng = np.random.default_rng(3)
    chances = rng.random(203)
    return rng.random(203) < chances**2, chances


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_recovered(factor):
    assert fit_temperature(calibrated(20_000, 0, factor=factor)) == pytest.approx(factor, rel=0.03)


def test_the_temperature_is_the_best_of_a_grid():
    val = calibrated(300, 1, factor=2.0)
    best = fit_temperature(val)
    losses = [
        log_loss(val["label"], probabilities(apply_temperature(val, t)), labels=[0, 1, 2])
        for t in (best, *np.geomspace(0.1, 10, 61))
    ]
    assert losses[0] <= min(losses) + 1e-12
    # Without an error on val, any lower temperature would be better.
    rows = calibrated(3, 0).assign(label=[0, 1, 2])
    assert TEMPERATURE_BOUNDS[0] <= fit_temperature(predictions_frame(rows, np.eye(3) * 4)) < 0.2


def test_scaled_predictions_stay_valid(tmp_path):
    frame = calibrated(50, 2, factor=3.0).iloc[10:40]
    scaled = apply_temperature(frame, 3.0)
    assert tuple(scaled) == COLUMNS
    assert scaled.index.equals(frame.index)
    expected = softmax(frame.filter(like="logit_").to_numpy() / 3, axis=1)
    np.testing.assert_allclose(probabilities(scaled), expected, rtol=1e-12)
    assert (probabilities(scaled).argmax(1) == probabilities(frame).argmax(1)).all()
    write_predictions(tmp_path / "predictions.csv", scaled)
    assert len(read_predictions(tmp_path / "predictions.csv")) == 30
    pd.testing.assert_frame_equal(apply_temperature(frame, 1.0), frame)


def test_nothing_to_fit_is_refused():
    with pytest.raises(ValueError, match="found none"):
        fit_temperature(calibrated(3, 0).head(0))


def error_by_definition(outcome, chances, times, bins):
    """Repeat the images, split them into bins of equally many, and average the gaps."""
    repeated = np.repeat(np.argsort(chances, kind="stable"), times[np.argsort(chances)])
    parts = np.array_split(repeated, min(bins, len(repeated)))
    gaps = [len(part) * (outcome[part].mean() - chances[part].mean()) ** 2 for part in parts]
    return sum(gaps) / len(repeated)


@pytest.mark.parametrize("bins", [1, 7, 10, 203, 500])
def test_calibration_error_is_its_definition(sample, bins):
    outcome, chances = sample
    weights = np.random.default_rng(bins).integers(0, 4, (20, len(chances)))
    weights[0], weights[1], weights[2] = 1, 0, 3
    weights[1, 17] = 1  # a single image
    expected = [error_by_definition(outcome, chances, times, bins) for times in weights]
    found = squared_calibration_error(outcome, chances, weights, bins)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(squared_calibration_error(outcome, chances, bins=bins), found[:1])
    assert np.isnan(squared_calibration_error(outcome, chances, np.zeros((1, 203)), bins)).all()


def test_calibrated_probabilities_have_a_small_error():
    true, sure = (calibration_outcomes(calibrated(20_000, 5, f))["Malignant"] for f in (1, 4))
    assert squared_calibration_error(*true) < 0.01**2 < 0.05**2 < squared_calibration_error(*sure)


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_the_shares_of_a_reliability_table_are_proportions(level, korn_graubard):
    frame, bootstrap = calibrated(203, 3), Bootstrap(200, level)
    groups, weights = frame["group"], bootstrap.weights(frame["label"], frame["group"])
    tables = reliability_tables(frame, bootstrap)
    assert list(tables) == OUTCOMES
    assert all(len(table) == 10 for table in tables.values())
    table, (outcome, chances) = tables["Benign"], calibration_outcomes(frame)["Benign"]
    assert table["n"].tolist() == [21] * 3 + [20] * 7
    assert table["confidence"].is_monotonic_increasing
    assert np.average(table["observed"], weights=table["n"]) == pytest.approx(outcome.mean())
    assert np.average(table["confidence"], weights=table["n"]) == pytest.approx(chances.mean())
    for row, images in zip(
        table.itertuples(), np.array_split(np.argsort(chances), 10), strict=True
    ):
        assert row.observed == outcome[images].mean()
        replicates = [
            np.average(outcome[images], weights=weight[images])
            for weight in weights[1:]
            if weight[images].any()
        ]
        size = row.n, len(np.unique(groups[images]))
        expected = korn_graubard(replicates, row.observed, *size, level)
        assert (row.low, row.high) == pytest.approx(expected)


def test_summary_before_and_after():
    val, test = (calibrated(4000, seed, 3.0) for seed in (0, 1))
    table = calibration_summary(val, test, Bootstrap(50))
    assert table["outcome"].tolist() == np.repeat(OUTCOMES, 2).tolist()
    assert table["when"].tolist() == ["before", "after"] * 4
    assert table["temperature"].tolist() == pytest.approx([3] * 8, rel=0.06)
    before, after = (table[table["when"] == w].set_index("outcome") for w in ("before", "after"))
    errors = [rows["calibration_error"] for rows in (before, after)]
    assert (errors[1] < errors[0] / 2).all()
    assert (after["brier"] < before["brier"]).all()
    for frame, rows in ((test, before), (apply_temperature(test, fit_temperature(val)), after)):
        for name, (outcome, chances) in calibration_outcomes(frame).items():
            row = rows.loc[name]
            plain = np.sqrt(squared_calibration_error(outcome, chances)[0])
            assert plain - 0.03 < row["calibration_error"] < plain
            assert row["brier"] == pytest.approx(brier_score_loss(outcome, chances))
            assert (row["n"], row["positive"]) == (4000, outcome.sum())


def test_summary_intervals_are_those_of_a_plain_loop():
    val, test, bootstrap = calibrated(200, 0), calibrated(150, 1), Bootstrap(60, 0.9, seed=7)
    row = calibration_summary(val, test, bootstrap).set_index(["outcome", "when"]).loc
    outcome, chances = calibration_outcomes(test)["Malignant"]
    weights = bootstrap.weights(test["label"], test["group"])[1:].astype(int)
    brier = [brier_score_loss(outcome, chances, sample_weight=times) for times in weights]
    error = [error_by_definition(outcome, chances, times, 10) for times in weights]
    found = row["Malignant", "before"]
    plain = error_by_definition(outcome, chances, np.ones(150, int), 10)
    bias = np.mean(error) - plain
    assert found["calibration_error"] == pytest.approx(np.sqrt(max(plain - bias, 0)))
    error = np.sqrt(np.maximum(np.array(error) - 2 * bias, 0))
    for name, values in (("brier", brier), ("calibration_error", error)):
        ends = found[[f"{name}_low", f"{name}_high"]].astype(float)
        np.testing.assert_allclose(ends, np.percentile(values, [5, 95]))


def test_summary_without_val_or_a_class_has_what_is_left():
    val, test = calibrated(200, 0), calibrated(200, 1)
    summary = calibration_summary(val, test[test["label"] < 2], Bootstrap(20))
    assert summary.loc[summary["outcome"] == "Malignant", "positive"].tolist() == [0, 0]
    assert summary.notna().all(axis=None)
    assert (summary["calibration_error_low"] < summary["calibration_error_high"]).all()
    alone, both = (calibration_summary(v, test, Bootstrap(20)) for v in (val.head(0), val))
    assert alone["temperature"].isna().all()
    before = both[both["when"] == "before"].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        alone.drop(columns="temperature"), before.drop(columns="temperature")
    )


@pytest.mark.parametrize("views", [1, 3])
def test_calibrated_models_have_no_calibration_error_on_average(views):
    """And every estimate lies in its interval, which holds 0."""
    rows, plain = [], []
    for seed in range(30):
        frame = calibrated(300, seed).assign(group=np.arange(300) // views)
        rows.append(calibration_summary(frame, frame, Bootstrap(100)).query("when == 'before'"))
        plain += [squared_calibration_error(*o)[0] for o in calibration_outcomes(frame).values()]
    estimate, low, high = (
        pd.concat(rows)[f"calibration_error{end}"] for end in ("", "_low", "_high")
    )
    assert ((low <= estimate) & (estimate <= high)).all()
    assert (low == 0).mean() >= 0.93
    # The square is below 0 as often as above it; chance alone makes more of it.
    assert 0.4 <= (estimate == 0).mean() <= 0.7
    assert estimate.mean() < np.sqrt(np.mean(plain)) / 2


def test_selective_prediction_is_a_plain_loop(korn_graubard):
    frame, bootstrap = calibrated(60, 4), Bootstrap(80, 0.9, seed=7)
    table = selective_prediction(frame, bootstrap)
    chances = probabilities(frame)
    confidence, called = chances.max(axis=1), chances.argmax(axis=1)
    weights = bootstrap.weights(frame["label"], frame["group"])[1:]
    for row in table.iloc[[20, 40, -1]].itertuples():
        kept = confidence >= row.threshold
        assert row.coverage == kept.mean()
        assert row.accuracy == pytest.approx(accuracy_score(frame["label"][kept], called[kept]))
        replicated = [
            accuracy_score(frame["label"][kept], called[kept], sample_weight=weight[kept])
            for weight in weights
        ]
        size = kept.sum(), frame["group"][kept].nunique()
        expected = korn_graubard(replicated, row.accuracy, *size, 0.9)
        assert (row.low, row.high) == pytest.approx(expected)
    assert table["coverage"].iloc[-1] == 1
    assert table["threshold"].is_monotonic_decreasing
    first = table.iloc[0]  # one image
    assert (first["low"], first["high"]) == pytest.approx(
        (0.05, 1) if first["accuracy"] else (0, 0.95)
    )


def test_equal_confidences_are_answered_together():
    rows = calibrated(4, 0)
    frame = predictions_frame(rows, [[1, 0, 0]] * 3 + [[2, 0, 0]])
    assert selective_prediction(frame, Bootstrap(9))["coverage"].tolist() == [0.25, 1]


def test_each_fold_of_a_pool_has_its_own_temperature():
    folds = {1: 0.5, 2: 3.0}
    val, test = (
        pd.concat(
            calibrated(9000, 10 * seed + fold, t).assign(fold=fold) for fold, t in folds.items()
        )
        for seed in (1, 2)
    )
    test = test.assign(image_id=test["image_id"] + test["fold"].astype(str))
    test = test.sample(frac=1, random_state=0)
    temperatures = fitted_temperatures(val, test)
    np.testing.assert_allclose(temperatures, test["fold"].map(folds), rtol=0.05)
    scaled = apply_temperature(test, temperatures)
    for fold, rows in test.groupby("fold"):
        alone = apply_temperature(rows, fit_temperature(val[val["fold"] == fold]))
        pd.testing.assert_frame_equal(scaled.loc[scaled["fold"] == fold], alone)
