"""The page of a notebook: what stands in it, wherever it is."""

import base64

import nbformat
import pytest
from bs4 import BeautifulSoup

from btxrd.files import write_json
from btxrd.report.page import write_html
from btxrd.stages import COMPARE, RUNS_SCRIPT, STUDY_FILE, STUDY_STAGES

PNG = base64.b64encode(b"pixels").decode()
SVG = "<svg xmlns='http://www.w3.org/2000/svg'></svg>"


@pytest.fixture
def made(tmp_path):
    """Make the page of a notebook with some Markdown, and a cell with these outputs after it."""

    def make(*outputs, markdown="# Title\n\n## A figure", at="a.html"):
        display = [nbformat.v4.new_output("display_data", **output) for output in outputs]
        cells = [
            nbformat.v4.new_markdown_cell(markdown),
            nbformat.v4.new_code_cell("draw()", outputs=display),
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
        write_html(tmp_path / "a.ipynb", tmp_path / at)
        return BeautifulSoup((tmp_path / at).read_text(), "html.parser")

    return make


@pytest.mark.parametrize(("kind", "data"), [("image/jpeg", PNG), ("image/svg+xml", SVG)])
def test_a_figure_says_what_it_shows(made, kind, data):
    page = made({"data": {kind: data}, "metadata": {kind: {"alt": 'says "so" & more'}}})
    assert [image["alt"] for image in page.find_all("img")] == ['says "so" & more']


def test_a_page_outside_a_study_links_to_no_other(made):
    page = made()
    assert page.title.text == "Title"
    assert [link["href"] for link in page.find_all("a")] == ["#main", "#A-figure"]
    assert page.find("script", src=True) is None


@pytest.mark.parametrize(
    ("at", "up"), [("eda.html", ""), ("runs/E/center/seed-1/x.html", "../../../../")]
)
def test_a_page_in_a_study_links_to_it_relatively(made, tmp_path, at, up):
    write_json(tmp_path / STUDY_FILE, {})
    (tmp_path / at).parent.mkdir(parents=True, exist_ok=True)
    page = made(at=at)
    links = [link["href"] for link in page.select("nav .study a")]
    assert links[0] == f"{up}{COMPARE.page}"
    assert sorted(links) == sorted(up + stage.page for stage in STUDY_STAGES.values())
    assert page.find("script", src=True)["src"] == up + RUNS_SCRIPT
    assert [link["href"] for link in page.select("[aria-current]")] == [at] * (up == "")


def test_terms_are_explained_once_in_prose_and_at_the_end(made):
    markdown = "# The macro AUC\n\n`net benefit`, [temperature](#x), patient groups, patient group."
    page = made({"data": {"text/html": "<p>specificity</p>"}}, markdown=markdown)
    assert [term.text for term in page.find_all("dfn")] == ["patient group"]
    assert [term.text for term in page.select("dl dt")] == ["patient group"]
    assert page.find(id=page.dfn["aria-describedby"]).text == page.dfn["data-about"]


def test_headings_are_listed(made):
    page = made(markdown="# One\n\n## Two `a < b`\n\n### Three\n\n#### Four")
    links = {link["href"]: link.text for link in page.select(".contents a")}
    assert list(links.values()) == ["Two a < b", "Three"]
    assert all(page.find(id=place[1:]) for place in links)


def test_a_fold_keeps_its_paragraphs(made):
    markdown = "# Title\n\n<details><summary>More</summary>\n\nOne.\n\n**Two.**\n\n</details>"
    fold = made(markdown=markdown).main.find("details")
    assert [text.get_text() for text in fold.find_all("p")] == ["One.", "Two."]


@pytest.mark.parametrize(
    "html",
    [
        "<b id=c>1</b>",
        "<script>document.title = 1</script>",
        "a <img src=x onerror=alert(1)> b",
        "```mermaid\n<b id=c>1</b>\n```",
    ],
)
def test_html_in_an_output_is_text_and_in_a_cell_is_not(made, html):
    page = made({"data": {"text/markdown": html}}, markdown="# Title\n\n<b id=own>Own</b>")
    output = page.select_one(".output_markdown")
    assert output.select("b, script, img") == []
    assert html.removeprefix("```mermaid\n").removesuffix("\n```") in output.get_text()
    assert page.find(id="own").text == "Own"


@pytest.mark.parametrize(
    ("address", "is_link"),
    [
        ("javascript:alert(1)", False),
        ("JavaScript&#58;alert(1)", False),
        ("data:text/html,x", False),
        ("https://example.org", True),
        ("cases.html#a%3Ab", True),
    ],
)
def test_only_a_page_is_linked_to(made, address, is_link):
    page = made({"data": {"text/markdown": f"[words]({address})"}}, markdown=f"[words]({address})")
    links = [link["href"] for link in page.main.find_all("a", string="words")]
    assert links == [address if is_link else "#"] * 2
