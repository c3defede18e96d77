"""Names that somebody else gave: Markdown shows them as they are written."""

import pytest
from bs4 import BeautifulSoup
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from btxrd.report.names import as_text

NAMES = (
    *("x<b id=c>1.png", "<!-- a", "<https://x.org>", "&amp;", "&lt;b&gt;", "&#60;b&#62;", "AT&T;"),
    *("*P*_1_", "_a_ b", "__a__", "a_b__c", "E1_b0-base.v2", "~~a~~", "a*b*c", "* * *", "x_", "_"),
    *("$a$", "$$a$$", "a$$b", r"\$", r"\(x\)", r"\[x\]", r"\\(x\\)", r"\begin{x}y\end{x}"),
    *("[x](y)", "![a](attachment:b)", "[a]: b", "[^1]", "](z)", "]", "[ ] a"),
    *("`a`", "``a`", "`", "```mermaid", "    code", "~~~"),
    *("# h", "1. a", "12) a", "1234567. a", "- a", "+ a", "> a", ": a", "---", "==="),
    *("https://x.org/a", "HTTP://x.org", "www.x.org", "a@b.org", "javascript:alert(1)"),
    *("\\", "a\\", r"\&amp;", r"\*a*", "a|b", "\"q\" 'r'", "@@0@@", "c#?", "a\n\n# b", "a\t b"),
)
PLACES = ("{}", "**{}**", "- {}", "> **{}**", "[{}](z)", "a {} b", "on {}, {} and {}.")
MARKS = ("**", "- ", "> ", "[", "](z)")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("html_is_text", [True, False])
def test_a_name_is_shown_as_it_is_written(place, html_is_text):
    expected = place
    for mark in MARKS:
        expected = expected.replace(mark, "")
    allowed = {"p", "strong", "ul", "li", "blockquote", *(["a"] if "](z)" in place else [])}
    for name in NAMES:
        source = place.replace("{}", as_text(name))
        html = MarkdownWithMath(IPythonRenderer(escape=html_is_text)).render(source)
        page = BeautifulSoup(html, "html.parser")
        assert page.get_text().strip() == expected.replace("{}", " ".join(name.split()))
        assert {element.name for element in page.find_all()} <= allowed, name
