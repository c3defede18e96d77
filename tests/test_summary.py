"""One run's numbers: which parts are reported, and that all stands in their tables."""

import json

import numpy as np
import pandas as pd
import pytest

from btxrd.evaluation.calibration import calibration_summary
from btxrd.evaluation.intervals import NO_INTERVAL, Bootstrap, bootstrap_metrics
from btxrd.evaluation.metrics import PER_CLASS, classification_metrics
from btxrd.evaluation.operating_points import operating_points
from btxrd.evaluation.summary import FEW as FEW_IMAGES
from btxrd.evaluation.summary import (
    HEADLINES,
    evaluate,
    few_images,
    interval_table,
    parts_of,
    summarise,
)
from btxrd.predictions import labels, probabilities

FEW = Bootstrap(50, 0.9)


@pytest.fixture
def predictions(predicted):
    return pd.concat([predicted(seed=1, part="val"), predicted(seed=2)], ignore_index=True)


def test_a_run_has_three_files(predictions):
    val, test = (predictions[predictions["part"] == part] for part in ("val", "test"))
    results = evaluate(predictions, FEW, [0.01])
    assert list(results) == ["metrics.json", "operating_points.csv", "calibration.csv"]
    assert results["metrics.json"] == summarise(predictions, FEW)
    pd.testing.assert_frame_equal(
        results["operating_points.csv"], operating_points(val, test, FEW, prevalences=[0.01])
    )
    pd.testing.assert_frame_equal(results["calibration.csv"], calibration_summary(val, test, FEW))


@pytest.mark.parametrize(
    ("val", "test", "parts"),
    [
        ([1, 1], [1, 1], ["val", "test"]),
        ([1, 2], [2, 3], ["val", "test"]),
        ([1, 1], [2, 3], ["val", "test", "test, center 2", "test, center 3"]),
        ([1, 1], [2, 2], ["val", "test"]),
    ],
)
def test_centers_that_val_lacks_are_reported_apart(predictions, val, test, parts):
    split = predictions.assign(center=np.r_[np.resize(val, 130), np.resize(test, 130)])
    cut = parts_of(split)
    assert list(cut) == parts
    assert [len(frame) for frame in cut.values()] == [130, 130, 65, 65][: len(parts)]
    assert next(iter(parts_of(split[split["part"] == "test"]))) == "test"


def test_a_pool_of_centers_reports_each_and_one_of_mixed_folds_none(predicted):
    folds = [
        predicted(seed=fold, center=fold if part == "test" else 4 - fold, part=part, fold=fold)
        for fold in (1, 3)
        for part in ("val", "test")
    ]
    pool = pd.concat(folds, ignore_index=True)
    pool["image_id"] += pool["fold"].astype(str)
    assert list(parts_of(pool)) == ["val", "test", "test, center 1", "test, center 3"]
    # In fold 3, val has the center that is tested there.
    assert list(parts_of(pool.assign(center=pool["center"].mask(pool["part"] == "val", "3")))) == [
        "val",
        "test",
    ]
    # A fold by itself tests one center: that is the whole test set.
    assert list(parts_of(pool[pool["fold"] == 3])) == ["val", "test"]


def test_classes_that_bear_no_figure_are_named(predictions):
    summary = summarise(predictions, FEW)
    assert few_images(summary) == ["val: 20 Malignant", "test: 20 Malignant"]
    assert few_images({"test": {"per_class": {"Normal": {"n": FEW_IMAGES}}}}) == []


def test_the_summary_is_plain_json_of_metrics_and_intervals(predictions):
    summary = summarise(predictions, FEW)
    assert json.loads(json.dumps(summary)) == summary
    for part, frame in predictions.groupby("part"):
        y, p = labels(frame), probabilities(frame)
        expected = bootstrap_metrics(y, p, frame["group"], FEW)
        found = pd.DataFrame(summary[part].pop("intervals"), index=expected.columns).T
        np.testing.assert_array_equal(found, expected)
        assert found.index.tolist() == expected.index.tolist()
        assert summary[part].pop("groups") == frame["group"].nunique()
        assert summary[part] == classification_metrics(y, p)


def test_what_has_no_interval_is_noted(predicted):
    perfect = pd.concat([predicted(seed=1, part="val"), predicted(seed=2, skill=99)])
    summary = summarise(perfect, FEW)
    note = summary["test"]["notes"][-1]
    assert note.startswith("No interval of balanced_accuracy, macro_f1, quadratic_kappa, ")
    assert "auc/Malignant" in note
    assert "accuracy," not in note.removeprefix("No interval of balanced_accuracy,")
    assert note.endswith(f": {NO_INTERVAL}.")
    assert summary["val"]["notes"] == []


def test_the_table_holds_every_headline_and_every_class(predictions):
    summary = summarise(predictions, FEW)
    table = interval_table(json.loads(json.dumps(summary)))
    assert len(table) == 2 * (len(HEADLINES) + 3 * len(PER_CLASS))
    rows = table.set_index(["part", "metric", "class"])
    row = rows.loc[("test", "accuracy", "")]
    assert row[["n", "groups"]].tolist() == [130, 65]
    assert row[["estimate", "low", "high"]].tolist() == summary["test"]["intervals"]["accuracy"]
    row = rows.loc[("val", "auc", "Malignant")]
    assert row["n"] == 20
    assert row["estimate"] == summary["val"]["per_class"]["Malignant"]["auc"]


def test_what_json_knows_no_number_for_is_nan_in_the_table(predictions):
    summary = summarise(predictions[predictions["label"] < 2], FEW)
    summary["test"]["intervals"]["macro_auc"] = [None] * 3
    rows = interval_table(summary).set_index(["part", "metric", "class"])
    assert rows.loc[("test", "macro_auc", ""), ["estimate", "low", "high"]].isna().all()
    assert rows.loc[("val", "auc", "Malignant"), "estimate":"high"].isna().all()
