"""The front page of a study in a browser: the answer on its first screen, links that lead on."""

import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe

from btxrd.report.tables import format_interval
from btxrd.stages import COMPARE

WINDOW = 1400, 900


@pytest.fixture(scope="module")
def index(small_study):
    return small_study / COMPARE.page


def test_the_answer_is_on_the_first_screen_with_the_numbers_of_the_tables(
    small_study, index, open_page
):
    page = open_page(index, *WINDOW)
    card = page.locator(".scorecard")
    box = card.bounding_box()
    assert box["y"] + box["height"] <= WINDOW[1]
    figures = pd.read_csv(small_study / "figures.csv").query("part == 'test'")
    best, auc = card.locator(".answer strong").all_inner_texts()
    own = figures[figures["experiment"] == best].set_index("split")
    metrics = ("macro_auc", "sensitivity/Malignant", "balanced_accuracy")
    expected = [
        format_interval(*(own.loc[split, f"{metric}{end}"] for end in ("", "_low", "_high")))
        for split in ("stratified", "center_cv")
        for metric in metrics
    ]
    assert card.locator("td.number").all_inner_texts() == expected
    assert auc == expected[0]
    assert card.locator(".caution").inner_text().startswith("This study ran on phantoms")


@pytest.mark.parametrize(("width", "columns"), [(1400, 4), (800, 2), (390, 1)])
def test_doubts_stack_as_the_window_narrows(index, open_page, width, columns):
    page = open_page(index, width)
    boxes = [doubt.bounding_box() for doubt in page.locator(".scorecard li").all()]
    assert len({box["x"] for box in boxes}) == columns
    assert all(box["x"] + box["width"] <= width for box in boxes)


def test_links_of_the_front_page_lead_somewhere(small_study, index, open_page):
    page = open_page(index)
    addresses = page.locator("main a[href]").evaluate_all(
        "links => links.map(a => a.getAttribute('href'))"
    )
    assert len([address for address in addresses if address.endswith("04_evaluate.html")]) > 4
    for address in addresses:
        file, _, place = address.partition("#")
        assert not file or (small_study / file).is_file(), address
        if not file:
            there = "place => document.getElementById(decodeURIComponent(place)) !== null"
            assert page.evaluate(there, place), address


def test_the_front_page_shows_no_radiograph_and_describes_its_figures(index, open_page):
    page = open_page(index)
    pictures = page.locator("main img")
    sources = pictures.evaluate_all("images => images.map(image => image.src.slice(0, 18))")
    assert set(sources) == {"data:image/svg+xml"}
    texts = pictures.evaluate_all("images => images.map(image => image.alt)")
    assert all("intervals (n = " in text for text in texts)
    assert index.stat().st_size < 3e6


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_scorecard_can_be_read_by_everyone(index, open_page, scheme):
    page = open_page(index, scheme=scheme)
    found = Axe().run(page, context=".scorecard").response["violations"]
    assert [(rule["id"], rule["help"]) for rule in found] == []
