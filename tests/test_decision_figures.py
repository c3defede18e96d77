"""Decision figures: they draw what the tables hold, say n, and leave pyplot as it was."""

import numpy as np
import pandas as pd
import pytest

from btxrd.evaluation import Bootstrap
from btxrd.evaluation.calibration import (
    apply_temperature,
    reliability_tables,
    selective_prediction,
)
from btxrd.evaluation.subgroups import SUBGROUP_METRICS, subgroup_table
from btxrd.report.decision_figures import (
    reliability_figure,
    selective_figure,
    subgroup_figure,
)

BOOTSTRAP = Bootstrap(20, 0.9)


@pytest.fixture(scope="module")
def test(predicted):
    return predicted((60, 50, 10), skill=2, views=1)


def test_reliability(test, drawn):
    before, after = (
        reliability_tables(frame, BOOTSTRAP) for frame in (test, apply_temperature(test, 2.0))
    )
    figure = drawn(reliability_figure({"before": before, "after": after}, 0.9, "E1, test"), 120)
    assert figure.get_suptitle().startswith("E1, test, 90 % intervals (")
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["Normal", "Benign", "Malignant", "Top label", *[""] * 4]
    observed = figure.axes[7].lines[1].get_ydata()
    np.testing.assert_array_equal(observed, after["top label"]["observed"])
    assert len(drawn(reliability_figure({"alone": before}, 0.9, "E1"), 120).axes) == 4


def test_selective(test, drawn):
    table = selective_prediction(test, BOOTSTRAP)
    figure = drawn(selective_figure(table, len(test), 0.9), 120)
    assert ", 90 % band (" in figure.get_suptitle()
    accuracy, threshold = figure.axes
    np.testing.assert_array_equal(accuracy.lines[0].get_ydata(), table["accuracy"])
    assert threshold.get_ylabel() == "Highest probability, at least"


def test_many_shares_are_thinned_and_all_images_stay():
    shares = np.arange(1, 2001) / 2000
    rows = {"coverage": shares, "accuracy": 1 - shares / 4, "threshold": 1 - shares / 2}
    table = pd.DataFrame(rows).assign(low=0.5, high=1.0)
    drawn = selective_figure(table, 2000, 0.95).axes[0].lines[0]
    assert 400 <= len(drawn.get_xdata()) <= 800
    assert (drawn.get_xdata()[-1], drawn.get_ydata()[-1]) == (1.0, 0.75)


@pytest.mark.parametrize("metric", SUBGROUP_METRICS)
def test_subgroups(test, drawn, metric):
    attributes = pd.DataFrame(
        {"age_band": ["0–17"] * 7 + ["18–39"] * 113, "sex": ["male", "female"] * 60},
        index=test["image_id"],
    )
    table = subgroup_table(test, attributes, BOOTSTRAP)
    figure = drawn(subgroup_figure(table, metric, 0.9), "60 to 120 images")
    assert "1 of 5 rows too small for it, 90 % intervals (" in figure.get_suptitle()
    ticks = [" ".join(text.get_text().split()) for text in figure.axes[0].get_yticklabels()]
    assert ticks[:2] == ["All images (120, 10)", "Age band: 18–39 (113, 10)"]
    small = subgroup_table(test.head(7), attributes, BOOTSTRAP)
    figure = drawn(subgroup_figure(small, metric, 0.9), "3 to 7 images")
    assert "4 of 4 rows too small" in figure.get_suptitle()
