"""Tables in a browser: sorted, filtered, copied, printed."""

import io

import numpy as np
import pandas as pd
import pytest

from btxrd.report.tables import as_table, use_tables

ROWS = 15
FRAME = pd.DataFrame(
    {
        "experiment": [f"E{place}" for place in range(ROWS)],
        "macro_auc": np.random.default_rng(1).permutation(np.linspace(0.5, 0.99, ROWS)),
        "n": np.random.default_rng(2).permutation(np.arange(ROWS) * 150),
        "p": [0.0001, 0.2, float("nan")] * 5,
        "sibling_share": np.random.default_rng(3).permutation(np.linspace(0.04, 1, ROWS)),
        "note": ["100 % & _more_, | or", None, 'a "b"'] * 5,
    }
)
FRAME = FRAME.assign(
    macro_auc_low=FRAME["macro_auc"] - 0.1,
    macro_auc_high=FRAME["macro_auc"] + 0.01,
    macro_auc_sd=0.012,
    difference=FRAME["macro_auc"] - 0.7,
    low=-0.3,
    high=[0.4] * (ROWS - 1) + [float("nan")],
)
READY = "() => !document.querySelector('.btxrd-table:not(:has(.dt-container, .none))')"
TEXTS = "table => [...table.rows].map(row => [...row.cells].map(cell => cell.textContent))"


def texts(table):
    """What a table shows: head, then rows."""
    head, *rows = table.evaluate(TEXTS)
    return pd.DataFrame(rows, columns=head)


def numbers(column):
    """The number that each cell of a column begins with, read without the package."""
    found = column.str.extract(r"^(<?) ?([+-]?[\d,]*\.?\d+)")
    return found[1].str.replace(",", "").astype(float) - (found[0] == "<") * 1e-9


@pytest.fixture
def page_of(open_page, tmp_path, monkeypatch):
    """Open a page of one table; what it copies is in `copied`."""

    def opened(table, **options):
        shown = []
        monkeypatch.setattr("btxrd.report.tables.display", shown.append)
        use_tables()
        file = tmp_path / "page.html"
        head = "<!DOCTYPE html><html lang=en><meta charset=utf-8><title>Table</title>"
        file.write_text(f"{head}<body>{shown[0].data}{table.to_html()}")
        page = open_page(file, **options)
        page.wait_for_function(READY)
        copies = "document.addEventListener('copy', (event) => copied.push(event.target.value))"
        page.evaluate(f"window.copied = []; {copies}")
        return page

    return opened


def copied(page, form):
    page.get_by_role("button", name=form).click()
    page.wait_for_function("copied.length")
    return page.evaluate("copied.pop()").replace("\r", "")


def test_numbers_of_every_kind_of_page_are_sorted_as_pandas_sorts_them(small_study, open_page):
    sorted_columns = 0
    places = "*.html", "runs/*/stratified/*/*.html", "runs/*/*/pooled/*/*.html"
    for file in (file for place in places for file in sorted(small_study.glob(place))):
        page = open_page(file)
        page.wait_for_function(READY)
        for table in page.query_selector_all(".btxrd-table:has(.dt-container) table"):
            sorted_columns += sorts_as_pandas(table)
        page.context.close()
    assert sorted_columns > 60


def sorts_as_pandas(table):
    """Click on every head of numbers twice; return how many there are."""
    given = texts(table)
    heads = table.query_selector_all("th.number")
    for head in heads:
        column = given.columns[head.evaluate("head => head.cellIndex")]
        for ascending, name in ((True, "ascending"), (False, "descending")):
            click(head, name)
            found, expected = texts(table), numbers(given[column]).sort_values(ascending=ascending)
            np.testing.assert_array_equal(numbers(found[column]), expected)
            assert sorted(found.to_numpy().tolist()) == sorted(given.to_numpy().tolist())
        click(head, None)
        pd.testing.assert_frame_equal(texts(table), given)
    return len(heads)


def click(head, sorts):
    head.dispatch_event("click")
    page = head.owner_frame().page
    page.wait_for_function("([head, sorts]) => head.ariaSort == sorts", arg=[head, sorts])


def test_every_kind_of_number_is_sorted(page_of):
    page = page_of(as_table(FRAME, signed=True))
    assert sorts_as_pandas(page.query_selector("table")) == 5


def test_what_is_shown_is_copied_and_reads_back_equal(page_of):
    table = as_table(FRAME, best={"macro_auc": "max"})
    page = page_of(table)
    read = pd.read_csv(io.StringIO(copied(page, "CSV")), dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(read, table.data, check_dtype=False)
    page.get_by_role("searchbox").fill("E1")
    page.get_by_text(f"6 of {ROWS} rows").wait_for()
    page.locator("th", has_text="Experiment").click(click_count=2)
    page.locator("th[aria-sort=descending]").wait_for()
    read = pd.read_csv(io.StringIO(copied(page, "CSV")))
    assert read["Experiment"].tolist() == ["E14", "E13", "E12", "E11", "E10", "E1"]


def test_a_paper_gets_its_table(page_of):
    frame = pd.DataFrame({"a|b": ["x_1 & 5 %", "–"], "n": [1200, 7], "low": 0.1, "high": 0.3})
    page = page_of(as_table(frame.assign(mean=0.2, mean_sd=0.1)))
    assert copied(page, "Markdown").splitlines() == [
        "| A\\|b | n | Mean |",
        "| --- | --- | --- |",
        "| x_1 & 5 % | 1,200 | 0.200 (0.100–0.300) ± 0.100 |",
        "| – | 7 | 0.200 (0.100–0.300) ± 0.100 |",
    ]
    assert copied(page, "LaTeX").splitlines() == [
        "\\begin{tabular}{lrr}",
        "\\toprule",
        "A|b & n & Mean \\\\",
        "\\midrule",
        "x\\_1 \\& 5 \\% & 1,200 & 0.200 (0.100--0.300) $\\pm$ 0.100 \\\\",
        "-- & 7 & 0.200 (0.100--0.300) $\\pm$ 0.100 \\\\",
        "\\bottomrule",
        "\\end{tabular}",
    ]
    assert page.get_by_role("searchbox").count() == 0  # a short table has no filter


@pytest.mark.parametrize("width", [1400, 800, 390])
def test_numbers_do_not_break_and_wide_tables_scroll_in_their_frame(page_of, width):
    page = page_of(as_table(FRAME, signed=True), width=width)
    lines = "cell => [...cell.children].map(part => part.getClientRects().length)"
    for cell in page.query_selector_all("td.number"):
        assert set(cell.evaluate(lines)) <= {1}
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    frame = page.query_selector(".frame")
    assert frame.evaluate("frame => frame.scrollWidth > frame.clientWidth") == (width == 390)


def test_a_table_that_a_notebook_shows_later_is_taken_too(page_of):
    table = as_table(FRAME)
    page = page_of(table)
    added = "html => document.body.insertAdjacentHTML('beforeend', html)"
    page.evaluate(added, table.to_html())
    page.wait_for_function("document.querySelectorAll('.dt-container').length == 2")


def test_on_paper_a_table_is_plain(page_of):
    page = page_of(as_table(FRAME), width=1000)
    page.emulate_media(media="print")
    assert not page.get_by_role("button", name="CSV").is_visible()
    frame = page.query_selector(".frame")
    assert frame.evaluate("frame => frame.scrollWidth <= frame.clientWidth")
