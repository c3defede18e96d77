"""Every page of a small study, as a reader opens it: on wide and narrow screens, light and dark."""

import shutil
from pathlib import Path
from urllib.parse import unquote
from zipfile import ZipFile

import pytest
from axe_playwright_python.sync_playwright import Axe
from click.testing import CliRunner

from btxrd.runner.cli import main
from btxrd.stages import (
    CASES_FILE,
    COMPARE,
    EDA,
    EVALUATE,
    GRADCAM,
    PROBE,
    RUNS_SCRIPT,
    SPLITS,
    TRAIN,
)

RUN = "runs/E4_resnet50_cbam/stratified/seed-42"
A4 = 680
"""Pixels: what an A4 page is wide between the margins of the print style."""
WIDER = """[...document.querySelectorAll("main *")]
    .filter((e) => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .map((e) => `${e.tagName}.${e.className}`)"""
LINKS = "[...document.querySelectorAll('a[href]')].map((a) => a.getAttribute('href'))"

PLACES = """[...document.querySelectorAll("[id]")].map((e) => e.id)
    .concat(typeof cases === "undefined" ? [] : cases.map((one) => one.image_id))"""


GRAVE = ("serious", "critical")
HEADINGS = ("heading-order", "page-has-heading-one")


def pages(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.html"))


KINDS = (
    *(EDA.page, SPLITS.page, COMPARE.page),
    *(f"{RUN}/{stage.page}" for stage in (TRAIN, EVALUATE, GRADCAM)),
    f"runs/E0_lite0_probe/stratified/seed-42/{PROBE.page}",
    f"runs/E0_lite0_probe/center_cv/pooled/seed-42/{EVALUATE.page}",
    f"{RUN}/{CASES_FILE}",
)
"""One page of each kind."""


def test_no_page_is_wider_than_its_window_or_its_paper(small_study, open_page):
    for file in pages(small_study):
        page = open_page(file)
        for width in (1400, 800, 390):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, file
        assert page.locator("img:not([alt]), img[alt='']").count() == 0, file
        page.set_viewport_size({"width": A4, "height": 900})
        page.emulate_media(media="print", color_scheme="dark")
        assert not page.get_by_role("navigation").is_visible()
        assert page.evaluate(WIDER) == [], file
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(255, 255, 255)"
        page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
@pytest.mark.parametrize("name", KINDS)
def test_everybody_can_read_it(small_study, open_page, name, width, scheme):
    page = open_page(small_study / name, width, scheme=scheme)
    found = Axe().run(page).response["violations"]
    found = [rule for rule in found if rule["impact"] in GRAVE or rule["id"] in HEADINGS]
    assert [(rule["id"], [n["html"][:200] for n in rule["nodes"][:3]]) for rule in found] == []


def broken_links(folder: Path, open_page) -> list[str]:
    """The links that lead nowhere, followed in the page as its scripts have made it."""
    found, places = {}, {}
    for file in pages(folder):
        page = open_page(file)
        found[file] = page.evaluate(LINKS)
        places[file] = set(page.evaluate(PLACES))
        page.close()
    broken = []
    for file, links in found.items():
        for link in (link for link in links if not link.startswith("http")):
            name, _, place = link.partition("#")
            target = (file.parent / name).resolve() if name else file
            if target.name == CASES_FILE:
                place = unquote(place.partition("?")[0])
            if not target.is_file() or (place and place not in places[target]):
                broken.append(f"{file.relative_to(folder)}: {link}")
    return broken


def test_every_link_leads_somewhere(small_study, open_page):
    assert broken_links(small_study, open_page) == []


def test_a_run_leads_to_its_siblings_to_home_and_to_the_same_page_of_other_runs(
    small_study, open_page
):
    page = open_page(small_study / RUN / GRADCAM.page)
    nav = page.get_by_role("navigation")
    assert nav.locator("[aria-current]").first.inner_text() == GRADCAM.title
    for stage in (COMPARE, EDA, SPLITS, TRAIN, EVALUATE):
        assert nav.get_by_role("link", name=stage.title, exact=True).count() == 1
    nav.get_by_text("all runs").click()
    nav.get_by_role("link", name="center_cv, fold 2, seed 42").first.click()
    assert page.url.endswith(f"E0_lite0_probe/center_cv/fold-2/seed-42/{GRADCAM.page}")
    page.get_by_role("link", name=COMPARE.title, exact=True).click()
    assert page.url.endswith(f"small/{COMPARE.page}")


def test_a_page_alone_has_its_contents_and_no_navigation_that_leads_nowhere(
    small_study, open_page, tmp_path
):
    text = (small_study / RUN / EVALUATE.page).read_text()
    # A browser says on its console that a script is missing: the only thing that is wrong.
    alone = tmp_path / "mailed.html"
    alone.write_text(
        text.replace(f'src="../../../../{RUNS_SCRIPT}"', 'src="data:text/javascript,"')
    )
    page = open_page(alone)
    links = page.evaluate(LINKS.replace("a[href]", "nav a"))
    assert len(links) > 5
    assert {link[0] for link in links} == {"#"}
    page.get_by_role("link", name="Calibration", exact=True).click()
    assert page.url.endswith("#Calibration")


def test_the_contents_are_folded_where_there_is_no_room_beside_the_text(small_study, open_page):
    for width, shown in ((1400, True), (390, False)):
        page = open_page(small_study / COMPARE.page, width)
        link = page.get_by_role("navigation").get_by_role("link", name="The comparison")
        assert link.is_visible() == shown
        if not shown:
            page.get_by_text("Contents and other pages").click()
        assert link.is_visible()


def test_one_switch_shows_all_code(small_study, open_page):
    page = open_page(small_study / RUN / EVALUATE.page)
    code = page.locator(".code")
    assert code.count() > 5
    assert not any(cell.is_visible() for cell in code.all())
    page.get_by_label("show code").check()
    assert all(cell.is_visible() for cell in code.all())
    page.reload()
    assert not code.first.is_visible()


def test_a_term_is_explained_to_the_keyboard_and_at_the_end_of_the_page(small_study, open_page):
    page = open_page(small_study / RUN / EVALUATE.page, 390)
    term = page.locator("dfn", has_text="sensitivity").first
    shown = "(e) => getComputedStyle(e, '::after').content"
    assert term.evaluate(shown) == "none"
    term.focus()
    assert "recognised" in term.evaluate(shown)
    about = term.get_attribute("aria-describedby")
    assert "recognised" in page.locator(f"#{about}").inner_text()
    page.keyboard.press("Escape")
    assert term.evaluate(shown) == "none"


def test_the_first_key_leads_past_the_navigation(small_study, open_page):
    page = open_page(small_study / RUN / EVALUATE.page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


@pytest.fixture
def copied(small_study, tmp_path) -> Path:
    return shutil.copytree(small_study, tmp_path / "small")


def test_pages_are_made_again_from_the_notebooks_and_packed(copied, open_page, tmp_path):
    before = {file: file.read_text() for file in pages(copied)}
    notebooks = list(copied.rglob("*.ipynb"))
    (copied / RUNS_SCRIPT).unlink()
    (copied / RUN / TRAIN.page).unlink()
    outcome = CliRunner().invoke(main, ["report", str(copied), "--zip"])
    assert outcome.exit_code == 0, outcome.output
    assert f"{len(notebooks)} pages in {copied}" in outcome.stdout
    assert "phantoms" in outcome.stderr
    assert {file: file.read_text() for file in pages(copied)} == before
    with ZipFile(tmp_path / "small.zip") as archive:
        archive.extractall(tmp_path / "elsewhere")
    there = tmp_path / "elsewhere" / "small"
    endings = {file.suffix for file in there.rglob("*") if file.is_file()}
    assert not endings & {".ipynb", ".json", ".pt"}
    assert endings >= {".html", ".js", ".jpeg", ".csv", ".txt"}
    assert len(pages(there)) == len(before)
    assert broken_links(there, open_page) == []


def test_pages_are_small_enough_to_open_at_once(small_study):
    sizes = {file: file.stat().st_size / 1e6 for file in pages(small_study)}
    assert max(sizes.values()) <= 8
    assert sizes[small_study / COMPARE.page] <= 3
