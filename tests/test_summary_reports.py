"""How operating points, calibration and subgroups are laid out for reading."""

import numpy as np
import pandas as pd
import pytest

from btxrd.evaluation.calibration import calibration_summary
from btxrd.evaluation.operating_points import operating_points
from btxrd.evaluation.subgroups import subgroup_table
from btxrd.evaluation.summary import (
    calibration_report,
    operating_point_report,
    subgroup_report,
)
from btxrd.predictions import predictions_frame


@pytest.fixture
def frame() -> pd.DataFrame:
    labels = np.repeat([0, 1, 2], 40)
    rows = pd.DataFrame({"image_id": [f"i{i}" for i in range(120)], "label": labels})
    rows = rows.assign(part="test", center=1, group=rows["image_id"])
    logits = 2 * np.eye(3)[labels] + np.random.default_rng(1).normal(size=(120, 3))
    return predictions_frame(rows, logits)


def test_operating_points_have_a_column_a_target_with_units_and_intervals(frame):
    points = operating_points(frame, frame, prevalences=[0.01], replicates=50)
    report = operating_point_report(points)
    assert report.columns[0] == "Sensitivity ≥ 90% (40 malignant in val, 40 in test)"
    column = report.iloc[:, 0]
    assert float(column["Sensitivity on val"]) >= 0.9
    assert column["PPV at 1.0% malignant"].count("–") == 1
    assert list(report.index)[2:4] == ["Sensitivity on test", "Specificity on test"]


def test_calibration_shows_before_and_after(frame):
    summary = calibration_summary(frame, frame, replicates=50)
    report = calibration_report(summary)
    assert list(report.index)[4:6] == [
        "Malignant (40 of 120), before",
        "Malignant (40 of 120), after",
    ]
    assert report["Brier"].str.fullmatch(r"0\.\d{3} \(0\.\d{3}–0\.\d{3}\)").all()
    assert (summary["brier_after_low"] < summary["brier_after"]).all()
    assert (summary["brier_after"] < summary["brier_after_high"]).all()


def test_a_group_that_is_too_small_says_so(frame):
    kind = pd.DataFrame({"image_id": frame["image_id"], "age_band": ["old"] * 117 + ["young"] * 3})
    report = subgroup_report(subgroup_table(frame, kind, replicates=20)).set_index("Group")
    assert (report.loc["young", ["Malignant AUC", "Accuracy"]] == "too small").all()
    assert "(" in report.loc["old", "Accuracy"]
    assert report.loc["young", "Attribute"] == "age band"
