"""Decision figures: they draw what the tables hold, say n, and leave pyplot as it was."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from btxrd.evaluation.calibration import (
    apply_temperature,
    reliability_tables,
    selective_prediction,
)
from btxrd.evaluation.operating_points import decision_curve, operating_points
from btxrd.evaluation.subgroups import SUBGROUP_METRICS, subgroup_table
from btxrd.predictions import predictions_frame
from btxrd.report.decision_figures import (
    decision_curve_figure,
    reliability_figure,
    selective_figure,
    subgroup_figure,
)


@pytest.fixture(scope="module")
def test():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [60, 50, 10])
    rows = {"image_id": [f"i{i}" for i in range(120)], "part": "test", "center": 1}
    return predictions_frame(
        pd.DataFrame(rows | {"group": [f"g{i}" for i in range(120)], "label": y}),
        rng.normal(size=(120, 3)) + 2 * np.eye(3)[y],
    )


def drawn(figure, n):
    """Draw it, and check what every figure promises."""
    assert isinstance(figure, Figure)
    assert f"n = {n}" in figure.get_suptitle()
    assert figure.get_figwidth() <= 10
    figure.canvas.draw()
    assert plt.get_fignums() == []
    return figure


def legend(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_decision_curve(test):
    curve = decision_curve(test, replicates=20)
    axis = drawn(decision_curve_figure(curve, len(test)), 120).axes[0]
    assert len(legend(axis)) == 3
    np.testing.assert_array_equal(axis.lines[0].get_ydata(), curve["model"])
    points = operating_points(test, test, [0.9, 0.5], replicates=20)
    axis = drawn(decision_curve_figure(curve, len(test), points), 120).axes[0]
    assert legend(axis)[3].startswith("sensitivity ≥ 90 % on val: t = 0.")
    assert len(axis.lines) == 5


def test_decision_curve_without_malignant_images(test):
    benign = test[test["label"] < 2]
    points = operating_points(benign, test, replicates=20)
    axis = drawn(decision_curve_figure(decision_curve(benign), 110, points), 110).axes[0]
    assert len(axis.lines) == 3


def test_reliability(test):
    before, after = reliability_tables(test), reliability_tables(apply_temperature(test, 2.0))
    figure = drawn(reliability_figure(before, after, "E1, test"), 120)
    assert len(figure.axes) == 8
    assert [axis.get_title() for axis in figure.axes[:4]] == [
        "Normal",
        "Benign",
        "Malignant",
        "Top label",
    ]
    np.testing.assert_array_equal(
        figure.axes[7].lines[1].get_ydata(), after["top label"]["observed"]
    )
    with pytest.raises(ValueError, match="same outcomes"):
        reliability_figure(before, {})


def test_selective(test):
    table = selective_prediction(test, replicates=20)
    accuracy, threshold = drawn(selective_figure(table, len(test)), 120).axes
    np.testing.assert_array_equal(accuracy.lines[0].get_ydata(), table["accuracy"])
    assert threshold.get_ylabel() == "Highest probability, at least"


@pytest.mark.parametrize("metric", SUBGROUP_METRICS)
def test_subgroups(test, metric):
    attributes = pd.DataFrame(
        {"age_band": ["0–17"] * 7 + ["18–39"] * 113, "sex": ["male", "female"] * 60},
        index=test["image_id"],
    )
    table = subgroup_table(test, attributes, replicates=20)
    figure = drawn(subgroup_figure(table, metric), "60 to 120 images")
    assert "1 of 5 rows too small" in figure.get_suptitle()
    ticks = [" ".join(text.get_text().split()) for text in figure.axes[0].get_yticklabels()]
    assert ticks[:2] == ["All images (120, 10)", "Age band: 18–39 (113, 10)"]
    small = subgroup_table(test, attributes, smallest=500)
    assert "5 of 5 rows too small" in drawn(subgroup_figure(small, metric), 7).get_suptitle()
    with pytest.raises(ValueError, match="no metric 'kappa'"):
        subgroup_figure(table, "kappa")
