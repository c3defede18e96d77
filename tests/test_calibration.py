"""Calibration: known temperatures recovered, sums exact, and agreement with scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from btxrd.evaluation.calibration import (
    TEMPERATURE_BOUNDS,
    TOP_LABEL,
    apply_temperature,
    brier_decomposition,
    calibration_outcomes,
    calibration_summary,
    expected_calibration_error,
    fit_temperature,
    reliability_table,
    reliability_tables,
    selective_prediction,
)
from btxrd.evaluation.intervals import bootstrap_weights
from btxrd.predictions import (
    COLUMNS,
    predictions_frame,
    probabilities,
    read_predictions,
    write_predictions,
)


def calibrated(n, seed, part="test", factor=1.0):
    """Predictions whose labels were drawn from softmax(logits / factor)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(n, 3))
    chances = softmax(logits, axis=1)
    y = (rng.random((n, 1)) > chances.cumsum(axis=1)).sum(axis=1)
    rows = pd.DataFrame(
        {
            "image_id": [f"{part}-{i}" for i in range(n)],
            "part": part,
            "center": 1,
            "group": [f"g{i // 2}" for i in range(n)],
            "label": np.minimum(y, 2),
        }
    )
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


def test_a_val_set_without_error_stays_within_the_bounds():
    rows = calibrated(3, 0).assign(label=[0, 1, 2])
    temperature = fit_temperature(predictions_frame(rows, np.eye(3) * 4))
    assert TEMPERATURE_BOUNDS[0] <= temperature < 0.2


def test_scaled_predictions_stay_valid(tmp_path):
    frame = calibrated(50, 2, factor=3.0).iloc[10:40]
    scaled = apply_temperature(frame, 3.0)
    assert tuple(scaled) == COLUMNS
    assert scaled.index.equals(frame.index)
    np.testing.assert_allclose(
        probabilities(scaled),
        softmax(frame.filter(like="logit_").to_numpy() / 3, axis=1),
        rtol=1e-12,
    )
    assert (probabilities(scaled).argmax(1) == probabilities(frame).argmax(1)).all()
    write_predictions(tmp_path / "predictions.csv", scaled)
    assert len(read_predictions(tmp_path / "predictions.csv")) == 30
    pd.testing.assert_frame_equal(apply_temperature(frame, 1.0), frame)


@pytest.mark.parametrize("temperature", [0, -1, np.inf, np.nan])
def test_bad_temperatures_are_refused(temperature):
    with pytest.raises(ValueError, match="finite and above 0"):
        apply_temperature(calibrated(3, 0), temperature)


def test_nothing_to_fit_is_refused():
    nothing = calibrated(3, 0).head(0)
    with pytest.raises(ValueError, match="found none"):
        fit_temperature(nothing)
    with pytest.raises(ValueError, match="found none"):
        selective_prediction(nothing)


def test_calibration_error_is_that_of_a_plain_loop(sample):
    outcome, chances = sample
    order = np.argsort(chances)
    error = 0
    for k in range(7):  # 203 = 7 × 29
        rows = order[29 * k : 29 * (k + 1)]
        error += abs(outcome[rows].mean() - chances[rows].mean()) / 7
    assert expected_calibration_error(outcome, chances, bins=7) == pytest.approx(error)


def test_calibrated_probabilities_have_a_small_error():
    outcome, chances = calibration_outcomes(calibrated(20_000, 5))["Malignant"]
    assert expected_calibration_error(outcome, chances) < 0.01
    outcome, chances = calibration_outcomes(calibrated(20_000, 5, factor=4.0))["Malignant"]
    assert expected_calibration_error(outcome, chances) > 0.05


def test_the_mean_is_the_error_of_one_bin(sample):
    outcome, chances = sample
    expected = abs(outcome.mean() - chances.mean())
    assert expected_calibration_error(outcome, chances, bins=1) == pytest.approx(expected)
    assert expected_calibration_error([True], [0.7], bins=10) == pytest.approx(0.3)


def test_reliability_table_has_wilson_intervals(sample):
    outcome, chances = sample
    table = reliability_table(outcome, chances, bins=10)
    assert table["n"].tolist() == [21] * 3 + [20] * 7
    assert table["confidence"].is_monotonic_increasing
    assert np.average(table["observed"], weights=table["n"]) == pytest.approx(outcome.mean())
    assert np.average(table["confidence"], weights=table["n"]) == pytest.approx(chances.mean())
    z = 1.959963984540054
    n, p = table["n"], table["observed"]
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    np.testing.assert_allclose(table["low"], centre - half, atol=1e-12)
    np.testing.assert_allclose(table["high"], centre + half, atol=1e-12)


@pytest.mark.parametrize("bins", [1, 4, 10, 203, 500])
def test_the_parts_sum_to_the_brier_score(sample, bins):
    parts = brier_decomposition(*sample, bins)
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within_bin"]
    assert total == pytest.approx(parts["brier"], abs=1e-14)
    assert parts["brier"] == pytest.approx(brier_score_loss(*sample))


def test_the_parts_are_murphys_where_bins_hold_one_probability_each():
    rng = np.random.default_rng(0)
    chances = np.repeat([0.1, 0.4, 0.8], 40)
    outcome = rng.random(120) < 0.5
    parts = brier_decomposition(outcome, chances, bins=3)
    observed = outcome.reshape(3, 40).mean(axis=1)
    assert parts["reliability"] == pytest.approx(np.mean((observed - [0.1, 0.4, 0.8]) ** 2))
    assert parts["resolution"] == pytest.approx(np.mean((observed - outcome.mean()) ** 2))
    assert parts["uncertainty"] == pytest.approx(outcome.var())
    assert parts["within_bin"] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    ("outcome", "confidence", "message"),
    [
        ([], [], "n ≥ 1"),
        ([True], [0.1, 0.2], "found \\(1,\\) and \\(2,\\)"),
        ([2], [0.1], "True or False"),
        ([True], [1.1], "\\[0, 1\\]"),
        ([True], [np.nan], "not be NaN"),
    ],
)
def test_bad_outcomes_are_refused(outcome, confidence, message):
    with pytest.raises(ValueError, match=message):
        reliability_table(outcome, confidence)


def test_bins_must_be_some(sample):
    with pytest.raises(ValueError, match="bins must be 1 or more, found 0"):
        expected_calibration_error(*sample, bins=0)


def test_summary_before_and_after():
    val, test = (calibrated(4000, seed, part, 3.0) for seed, part in ((0, "val"), (1, "test")))
    summary = calibration_summary(val, test)
    assert summary.index.tolist() == ["Normal", "Benign", "Malignant", TOP_LABEL]
    assert summary["temperature"].tolist() == pytest.approx([3] * 4, rel=0.06)
    assert (summary["ece_after"] < summary["ece_before"] / 2).all()
    assert (summary["brier_after"] < summary["brier_before"]).all()
    outcome, chances = calibration_outcomes(test)[TOP_LABEL]
    top = summary.loc[TOP_LABEL]
    assert top["ece_before"] == expected_calibration_error(outcome, chances)
    assert top["reliability_before"] == brier_decomposition(outcome, chances)["reliability"]
    assert top["positive"] == outcome.sum()


def test_summary_without_malignant_images():
    test = calibrated(200, 1)
    test = test[test["label"] < 2]
    summary = calibration_summary(calibrated(200, 0, "val"), test)
    assert summary.loc["Malignant", "uncertainty_after"] == 0
    assert summary.notna().all(axis=None)


def test_reliability_tables_cover_every_outcome():
    tables = reliability_tables(calibrated(100, 0), bins=5)
    assert list(tables) == ["Normal", "Benign", "Malignant", TOP_LABEL]
    assert all(table["n"].sum() == 100 for table in tables.values())


def test_selective_prediction_is_a_plain_loop():
    frame = calibrated(60, 4)
    table = selective_prediction(frame, replicates=80, level=0.9, seed=7)
    chances = probabilities(frame)
    confidence, called = chances.max(axis=1), chances.argmax(axis=1)
    weights = bootstrap_weights(frame["label"], frame["group"], 80, seed=7)
    for row in table.iloc[[20, 40, -1]].itertuples():
        kept = confidence >= row.threshold
        assert row.n == kept.sum()
        assert row.coverage == kept.mean()
        assert row.accuracy == pytest.approx(accuracy_score(frame["label"][kept], called[kept]))
        replicated = [
            accuracy_score(frame["label"][kept], called[kept], sample_weight=weight[kept])
            for weight in weights
        ]
        np.testing.assert_allclose([row.low, row.high], np.percentile(replicated, [5, 95]))
    assert table["coverage"].iloc[-1] == 1
    assert table["threshold"].is_monotonic_decreasing


def test_equal_confidences_are_answered_together():
    rows = calibrated(4, 0)
    table = selective_prediction(predictions_frame(rows, [[1, 0, 0]] * 3 + [[2, 0, 0]]))
    assert table["n"].tolist() == [1, 4]
