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
from btxrd.report.tables import format_interval

BOOTSTRAP = Bootstrap(20, 0.9)


@pytest.fixture(scope="module")
def test(predicted):
    return predicted((60, 50, 10), skill=2, views=1)


def test_reliability(test, drawn):
    before, after = (
        reliability_tables(frame, BOOTSTRAP) for frame in (test, apply_temperature(test, 2.0))
    )
    stages = {"before": before, "after": after}
    figure = drawn(reliability_figure(stages, BOOTSTRAP, "E1, test"), 120)
    assert figure.get_suptitle().startswith("E1, test, 90 % intervals (")
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
        reliability_figure({"before": before, "after": {}}, BOOTSTRAP, "E1, test")
    assert len(drawn(reliability_figure({"alone": before}, BOOTSTRAP, "E1"), 120).axes) == 4


def test_selective(test, drawn):
    table = selective_prediction(test, BOOTSTRAP)
    figure = drawn(selective_figure(table, len(test), BOOTSTRAP), 120)
    assert ", 90 % band (" in figure.get_suptitle()
    accuracy, threshold = figure.axes
    np.testing.assert_array_equal(accuracy.lines[0].get_ydata(), table["accuracy"])
    assert threshold.get_ylabel() == "Highest probability, at least"


@pytest.mark.parametrize("metric", SUBGROUP_METRICS)
def test_subgroups(test, drawn, metric):
    attributes = pd.DataFrame(
        {"age_band": ["0–17"] * 7 + ["18–39"] * 113, "sex": ["male", "female"] * 60},
        index=test["image_id"],
    )
    table = subgroup_table(test, attributes, BOOTSTRAP)
    figure = drawn(subgroup_figure(table, metric, BOOTSTRAP), "60 to 120 images")
    assert "1 of 5 rows too small for it, 90 % intervals (" in figure.get_suptitle()
    ticks = [" ".join(text.get_text().split()) for text in figure.axes[0].get_yticklabels()]
    assert ticks[:2] == ["All images (120, 10)", "Age band: 18–39 (113, 10)"]
    small = subgroup_table(test.head(7), attributes, BOOTSTRAP)
    figure = drawn(subgroup_figure(small, metric, BOOTSTRAP), "3 to 7 images")
    assert "4 of 4 rows too small" in figure.get_suptitle()
    with pytest.raises(ValueError, match="no metric 'kappa'"):
        subgroup_figure(table, "kappa", BOOTSTRAP)


def test_decision_figures_say_in_words_what_they_show(test):
    curve, selective = decision_curve(test, BOOTSTRAP), selective_prediction(test, BOOTSTRAP)
    reliability = reliability_tables(test, BOOTSTRAP)
    everyone = selective.iloc[-1]
    top = reliability["Malignant"].dropna(subset="observed").iloc[-1]
    at = curve[curve["threshold"].round(6) == 0.1].iloc[0]
    for figure, row, value in (
        (decision_curve_figure(curve, 120, BOOTSTRAP), at, "model"),
        (selective_figure(selective, 120, BOOTSTRAP), everyone, "accuracy"),
        (reliability_figure({"raw": reliability}, BOOTSTRAP, "R"), top, "observed"),
    ):
        text = figure.get_label()
        assert format_interval(*row[[value, "low", "high"]]) in text
        assert "n = 120" in text
        assert len(text) <= 300


def test_many_shares_are_thinned_and_all_images_stay():
    shares = np.arange(1, 2001) / 2000
    rows = {"coverage": shares, "accuracy": 1 - shares / 4, "threshold": 1 - shares / 2}
    table = pd.DataFrame(rows).assign(low=0.5, high=1.0)
    drawn = selective_figure(table, 2000, BOOTSTRAP).axes[0].lines[0]
    assert 400 <= len(drawn.get_xdata()) <= 800
    assert (drawn.get_xdata()[-1], drawn.get_ydata()[-1]) == (1.0, 0.75)
