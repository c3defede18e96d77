"""The threshold explorer: what it looks up is what the tables say."""

import json
import re

import pandas as pd
import pytest

from btxrd.evaluation import Bootstrap
from btxrd.evaluation.operating_points import operating_points
from btxrd.extras.pages.explorer import threshold_explorer
from btxrd.extras.pages.thresholds import threshold_table
from btxrd.report.tables import format_interval

SIZES = (60, 50, 20)
FEW = Bootstrap(20, 0.9)


def explore(val, test, targets=(0.9, 0.95)):
    points = operating_points(val, test, FEW, targets, [0.01])
    return points, threshold_explorer(threshold_table(test, points, FEW), points, FEW).data


def looked_up(html):
    return json.loads(re.search(r'<script type="application/json">(.+?)</script>', html)[1])


def words(html):
    return " ".join(re.sub("<[^>]+>", "", html).split())


@pytest.fixture(scope="module")
def explored(predicted):
    return explore(predicted(SIZES, 1, part="val"), predicted(SIZES, 2))


def test_a_chosen_threshold_shows_its_operating_point(explored):
    points, html = explored
    data = looked_up(html)
    rows = [int(row) for row in re.findall(r'<button type="button" data-threshold="(\d+)"', html)]
    at = next(entry for entry in data["prevalences"] if entry["share"] == 0.01)
    own = next(entry for entry in data["prevalences"] if entry["own"])
    for row, (_, point) in zip(rows, points.iterrows(), strict=True):
        assert data["threshold"][row] == f"{point['threshold']:.3f}"
        shown = {name: data[name][row] for name in ("sensitivity", "specificity")}
        shown |= {name: own[name][row] for name in ("ppv", "npv")}
        shown |= {f"{name}@0.01": at[name][row] for name in ("ppv", "npv")}
        for name, text in shown.items():
            assert text == format_interval(*point[[name, f"{name}_low", f"{name}_high"]])
        assert int(data["tp"][row]) == round(20 * point["sensitivity"])


def test_without_scripts_the_first_chosen_point_stands_there(explored):
    points, html = explored
    point, text = points.iloc[0], words(html)
    assert f"Threshold on p(Malignant): {point['threshold']:.3f}" in text
    for name in ("sensitivity", "specificity", "ppv", "npv"):
        assert format_interval(*point[[name, f"{name}_low", f"{name}_high"]]) in text
    assert f"{20 * point['sensitivity']:.0f} of 20 malignant images are found" in text
    assert "130 test images" in text
    assert "90 % intervals" in text
    assert "the one to use is chosen on validation, not on these test images" in text


def test_it_is_one_small_piece_that_needs_nothing_else(explored):
    html = explored[1]
    assert len(html.encode()) <= 150_000
    assert re.findall(r"(?:src|href|url|@import|https?:)[=(:]", html) == []
    assert html.count("<section") == html.count("</section>") == 1
    assert " id=" not in html


@pytest.mark.parametrize(
    ("sizes", "says"),
    [((20, 10, 0), "none of 30 test images"), ((0, 0, 30), "every one of 30 test images")],
)
def test_a_sentence_says_why_nothing_can_be_weighed(predicted, sizes, says):
    _, html = explore(predicted(SIZES, part="val"), predicted(sizes))
    assert words(html) == f"No threshold can be weighed: {says} is malignant."


def test_without_a_val_it_starts_in_the_middle_and_marks_nothing(predicted):
    _, html = explore(predicted(SIZES, part="val").head(0), predicted(SIZES))
    assert "Threshold on p(Malignant): 0.500" in words(html)
    assert "There is none here." in words(html)
    assert "data-threshold" not in html.split("<script>")[0]
    assert 'class="mark"' not in html


def test_a_pool_marks_what_its_folds_chose_and_shows_a_common_threshold(predicted):
    val, test = (
        pd.concat([predicted(SIZES, seed + fold, part=part, fold=fold) for fold in (1, 2)])
        for seed, part in enumerate(("val", "test"))
    )
    points, html = explore(val, test)
    assert "Each fold has its own" in words(html)
    panel = html.split("</figure>")[0]
    marks = re.findall(r'class="mark"\s+d="M([\d.]+) ([\d.]+)h0"', panel)
    expected = (1000 * points[["specificity", "sensitivity"]]).round().to_numpy().tolist()
    assert [[float(x), float(y)] for x, y in marks] == expected
    shown = float(re.search(r"Threshold on p\(Malignant\): ([\d.]+)", words(html))[1])
    assert shown == pytest.approx(points["threshold"][0], abs=0.05)


def test_one_threshold_for_two_targets_is_one_button(predicted):
    val, test = predicted((20, 20, 4), 1, part="val"), predicted(SIZES)
    points, html = explore(val, test)
    assert len(set(points["threshold"])) == 1
    assert re.findall(r"≥ 90\s% and ≥ 95\s%: ([\d.]+)", html) == [f"{points['threshold'][0]:.3f}"]


@pytest.mark.parametrize("sizes", [SIZES, (1, 0, 1)])
def test_what_does_not_vary_is_not_drawn(predicted, sizes):
    """Of a perfect model and of two images too, each line is one that browsers can draw."""
    _, html = explore(predicted(SIZES, 1, 99, part="val"), predicted(sizes, 2, 99))
    lines = [line for entry in looked_up(html)["prevalences"] for line in entry["lines"].values()]
    lines += re.findall(r' d="([^"]*)"', html)
    assert all(re.fullmatch(r"|M-?[\d.]+ -?[\d.]+[\sMLHVh\d. -]*", line) for line in lines)
    assert not re.search(r"\bnan\b", html, re.IGNORECASE)
