"""How any frame is laid out for reading."""

import re

import numpy as np
import pandas as pd
import pytest

from btxrd.files import project_path, read_csv
from btxrd.report.tables import as_table, format_interval, title_of, use_tables
from btxrd.stages import CLAIM_FILE, PUBLISHED_FILE

NAN = float("nan")
LONG = pd.DataFrame(
    {
        "metric": ["macro_auc", "accuracy"] * 2,
        "part": ["val", "val", "test", "test"],
        "estimate": [0.9, 0.8, 0.7, NAN],
        "low": [0.8, 0.7, 0.6, NAN],
        "high": [1.0, 0.9, 0.8, NAN],
    }
)


def cells(*args, **options):
    """The table as text: head, then rows."""
    table = as_table(*args, **options).data
    return [list(table), *table.to_numpy().tolist()]


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ((0.8124, 0.76, 0.861), {}, "0.812 (0.760–0.861)"),
        ((-0.1, -0.2, 0.0), {"signed": True}, "-0.100 (-0.200 to +0.000)"),
        ((0.5, NAN, 0.7), {"signed": True}, "+0.500 (–)"),
        ((1.0, 0.99991, 1.0), {}, "1.0000 (0.9999–1.0000)"),
        ((NAN, NAN, NAN), {}, "–"),
    ],
)
def test_intervals_are_written_with_their_estimate(values, options, expected):
    assert format_interval(*values, **options) == expected


@pytest.mark.parametrize("value", ["estimate", "difference", "mean"])
def test_a_value_and_its_ends_are_one_cell(value):
    frame = LONG.rename(columns={"estimate": value})[["metric", value, "low", "high"]]
    head, *rows = cells(frame)
    assert head == ["Metric", value.capitalize()]
    assert rows[0] == ["Macro AUC", "0.900 (0.800–1.000)"]
    assert rows[3] == ["Accuracy", "–"]


def test_a_spread_over_seeds_stands_behind_the_interval():
    frame = pd.DataFrame({"accuracy": [0.8, 0.7], "accuracy_low": 0.6, "accuracy_high": 0.9})
    head, *rows = cells(frame.assign(accuracy_sd=[0.0123, NAN]))
    assert head == ["Accuracy"]
    assert rows == [["0.800 (0.600–0.900) ± 0.012"], ["0.700 (0.600–0.900)"]]


def test_a_column_goes_across():
    expected = [
        ["Metric", "Val", "Test"],
        ["Macro AUC", "0.900 (0.800–1.000)", "0.700 (0.600–0.800)"],
        ["Accuracy", "0.800 (0.700–0.900)", "–"],
    ]
    assert cells(LONG, across="part") == expected
    lacking = cells(LONG[:3], across="part", missing="too small", titles={"val": "On val"})
    assert lacking[0] == ["Metric", "On val", "Test"]
    assert lacking[2] == ["Accuracy", "0.800 (0.700–0.900)", "too small"]
    assert cells(LONG, across="metric") == [
        ["Part", "Macro AUC", "Accuracy"],
        ["val", "0.900 (0.800–1.000)", "0.800 (0.700–0.900)"],
        ["test", "0.700 (0.600–0.800)", "–"],
    ]


def test_a_table_is_turned():
    frame = pd.DataFrame({"target": ["low", "high"], "test_n": [1000, 20], "ppv@0.01": [0.5, NAN]})
    assert cells(frame, turned="target") == [
        ["", "Low", "High"],
        ["Test n", "1,000", "20"],
        ["PPV at 1.0% malignant", "0.500", "–"],
    ]


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("n", 12345, "12,345"),
        ("n", np.int64(1000), "1,000"),
        ("sibling_share", 0.613, "61%"),
        ("target", 0.9, "90%"),
        ("p", 0.0004, "< 0.001"),
        ("p", 0.001, "0.001"),
        ("p_holm", 0.25, "0.250"),
        ("threshold", np.float64(0.12345), "0.123"),
        ("met", True, "yes"),
        ("met", np.False_, "no"),
        ("note", None, "–"),
        ("n", pd.NA, "–"),
        ("threshold", NAN, "–"),
        ("accuracy", "accuracy", "accuracy"),  # a text, not the name of a metric
        ("score", "iou", "IoU at 0.5"),
        ("metric", "specificity", "Specificity"),
    ],
)
def test_every_kind_of_value_has_its_form(column, value, expected):
    frame = pd.DataFrame({column: pd.Series([value], dtype=object)})
    assert cells(frame) == [[title_of(column)], [expected]]


def test_titles_given_come_before_the_common_ones():
    titles = {"macro_auc": "AUC of all", "val": "Validation", "part": "Images of"}
    head, first, *_ = cells(LONG, titles=titles)
    assert head == ["Metric", "Images of", "Estimate"]
    assert first == ["AUC of all", "Validation", "0.900 (0.800–1.000)"]


def test_the_page_has_a_caption_and_no_index():
    html = as_table(LONG, caption="What was found").to_html()
    assert "What was found</figcaption>" in html
    assert html.count("<th ") == len(LONG.columns) - 2
    long = pd.DataFrame({"what": ["a remark " * 9], "n": [1]})
    assert as_table(long).to_html().count('<td class="text long"') == 1


COMPARED = pd.DataFrame(
    {
        "experiment": ["E1", "E2", "E3", "E1", "E2", "no lesion"],
        "split": ["grouped", "grouped", "grouped", "center", "center", None],
        "macro_auc": [0.90, 0.85, 0.70, 0.60, NAN, 0.95],
        "macro_auc_low": [0.84, 0.80, 0.60, 0.50, NAN, 0.90],
        "macro_auc_high": [0.95, 0.89, 0.80, 0.70, NAN, 0.99],
        "brier": [0.3, 0.2, 0.2, 0.4, 0.5, 0.1],
    }
)


@pytest.mark.parametrize(
    ("column", "choice", "within", "expected"),
    [
        ("macro_auc", "max", None, ["close", "", "", "", "", "best"]),
        ("macro_auc", "max", "split", ["best", "close", "", "", "", ""]),
        ("brier", "min", "split", ["", "best", "best", "best", "", ""]),
    ],
)
def test_the_best_is_marked_among_those_that_it_compares_with(column, choice, within, expected):
    table = as_table(COMPARED, best={column: choice}, within=within)
    assert [cell.mark for cell in table.cells[title_of(column)]] == expected
    html = table.to_html()
    assert html.count("<strong>") == expected.count("best")
    assert html.count("<u>") == expected.count("close")
    of_each = "" if within is None else " of each split"
    assert table.caption.startswith(f"Bold: the best estimate{of_each}")
    assert ("underlined" in table.caption) == ("close" in expected)
    pd.testing.assert_frame_equal(table.data, as_table(COMPARED).data)


def test_marks_go_where_their_values_go():
    table = as_table(LONG[:3], across="part", best={"estimate": "max"}, within="metric")
    marks = table.cells.map(lambda cell: cell.mark)
    assert marks.to_numpy().tolist() == [["", "best", ""], ["", "", ""]]
    with pytest.raises(KeyError, match="auc"):
        as_table(LONG, best={"auc": "max"})


def test_cells_carry_what_they_are_sorted_by():
    frame = pd.DataFrame({"p": [0.0004, 0.2, NAN], "note": ["a & b", None, "1"], "n": [1200, 9, 1]})
    frame = frame.assign(auc=0.8124, auc_low=0.7, auc_high=0.9)
    html = as_table(frame).to_html()
    rows = [row.split("</tr>")[0] for row in html.split("<tr>")[2:]]
    assert [re.findall('data-order="(.*?)"', row) for row in rows] == [
        ["0.0004", "a &amp; b", "1200.0", "0.8124"],
        ["0.2", "", "9.0", "0.8124"],
        ["", "1", "1.0", "0.8124"],
    ]
    assert '<th scope="col" class="number">n</th>' in html


def test_the_library_is_displayed_and_comes_without_a_network(monkeypatch):
    shown = []
    monkeypatch.setattr("btxrd.report.tables.display", shown.append)
    use_tables()
    (html,) = (output.data for output in shown)
    assert "https:" not in html
    assert len(html) < 300_000


def test_the_caption_says_why_a_value_has_no_interval():
    frame = LONG.assign(low=NAN)
    for caption, begins in ((None, "(–): no interval"), ("Test", "Test. (–): no interval")):
        assert as_table(frame, caption=caption).caption.startswith(begins)
    own = as_table(frame, no_interval="the source gives none")
    assert own.caption == "(–): no interval, because the source gives none"
    assert as_table(LONG).caption is None
    assert as_table(LONG.assign(estimate=NAN)).caption is None


def test_a_frame_without_rows_is_a_head():
    assert cells(LONG.head(0)) == [["Metric", "Part", "Estimate"]]
    assert cells(LONG.head(0), across="part") == [["Metric"]]
    empty = as_table(pd.DataFrame(columns=["image_id", "note"]))
    assert list(empty.data) == ["Image", "Note"]
    assert '<td class="none" colspan="2">none</td>' in empty.to_html()


def test_every_published_result_says_how_it_came_about_and_what_differs():
    published = pd.read_csv(project_path(PUBLISHED_FILE), dtype={"n": "Int64"})
    assert published.columns[-1] == "what_differs"
    said = published[["source", "protocol", "leak", "what_differs"]]
    assert said.notna().all(axis=None)
    figures = published.select_dtypes("float")
    assert (figures.isna() | ((figures > 0) & (figures < 1))).all(axis=None)
    for metric in ("macro_auc", "sensitivity/Malignant"):
        low, high = (published[f"{metric}_{end}"] for end in ("low", "high"))
        given = low.notna()
        assert given.any()
        assert published[metric][given].between(low[given], high[given]).all()
    head, *rows = cells(published)
    assert head[-1] == "What differs"
    written = {row[head.index("Source")]: row[head.index("Malignant sensitivity")] for row in rows}
    assert written["OsteoNeuralNetwork, DenseNet-121"] == "0.633 (0.490–0.776)"
    assert written["AugYolo, YOLO"] == "0.703 (–)"


def test_the_checklist_is_answered_item_by_item():
    claim = read_csv(project_path(CLAIM_FILE))
    assert list(claim) == ["item", "topic", "where"]
    assert claim.notna().all(axis=None)
    assert claim["item"].is_monotonic_increasing
    assert claim["item"].is_unique
    assert claim["item"].between(1, 44).all()


def test_a_value_that_becomes_a_title_stays_as_it_is():
    centers = ["test, center *P*_1_", "test, center a@b"]
    frame = pd.DataFrame({"metric": "accuracy", "part": centers, "estimate": [0.5, 0.6]})
    heads = list(as_table(frame, across="part").data)
    assert heads == ["Metric", "Test, center *P*_1_", "Test, center a@b"]
