"""The prose of a page: its headings in order, its contents, and terms explained on first use."""

import re
from dataclasses import dataclass, field
from html import escape
from urllib.parse import urlsplit

from bs4 import BeautifulSoup, Tag

from btxrd.report.glossary import GLOSSARY, SPELLINGS

__all__ = ["Heading", "Prose"]

HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
SCHEMES = ("", "http", "https")
"""Of addresses that links may lead to; none leads to a place of the study."""
UNEXPLAINED = (*HEADINGS, "a", "button", "code", "dfn", "pre", "script", "style", "summary", "svg")
"""In these elements a term stays as it is."""
SPELT = {term: SPELLINGS.get(term, term).replace(" ", r"[\s-]") for term in GLOSSARY}
TERM = re.compile(rf"\b(?:{'|'.join(f'({spelt})' for spelt in SPELT.values())})\b", re.IGNORECASE)
"""A term; the group that matched says which."""


@dataclass(frozen=True)
class Heading:
    """A heading of a page: its level from 1 to 6, where it is (the element's id), and its text."""

    level: int
    place: str
    text: str


@dataclass
class Prose:
    """Reads a page's prose piece by piece, from its top to its end.

    Attributes:
        headings: all so far.
        terms: term of the glossary → explanation, of those so far, in the order of their first use.

    >>> prose = Prose()
    >>> prose.read("<h1 id='a'>Title</h1>"), prose.read("<h3 id='b'>Skips a level</h3>")
    ('<h1 id="a">Title</h1>', '<h2 id="b">Skips a level</h2>')
    >>> prose.read("<p>The net benefit, and net benefit again</p>")
    '<p>The <dfn aria-describedby="term-net-benefit" class="term" data-about="..."
    tabindex="0">net benefit</dfn>, and net benefit again</p>'
    >>> list(prose.terms)
    ['net benefit']
    """

    headings: list[Heading] = field(default_factory=list)
    terms: dict[str, str] = field(default_factory=dict)

    def read(self, html: str) -> str:
        """Return a piece of HTML with its headings in order and its new terms explained.

        A page has one heading of the first level, no level is skipped, no id is given twice, and no
        sign stands for it: the contents link to it. A link that would run a script is text.
        """
        soup = BeautifulSoup(html, "html.parser")
        for link in soup.find_all("a", href=True):
            if urlsplit(link["href"]).scheme not in SCHEMES:
                link.unwrap()
        for sign in soup.find_all("a", class_="anchor-link"):
            sign.decompose()
        for heading in soup.find_all(HEADINGS):
            self._order(heading)
        for text in soup.find_all(string=TERM):
            if text.find_parent(UNEXPLAINED) is None:
                explained = TERM.sub(self._explain, escape(text, quote=False))
                text.replace_with(BeautifulSoup(explained, "html.parser"))
        return str(soup)

    def _order(self, heading: Tag) -> None:
        last = self.headings[-1].level if self.headings else 0
        level = min(max(int(heading.name[1]), 2 if last else 1), last + 1)
        place, known = heading.get("id", "heading"), {known.place for known in self.headings}
        if place in known:
            place = next(new for n in range(2, 999) if (new := f"{place}-{n}") not in known)
        heading.name, heading["id"] = f"h{level}", place
        self.headings.append(Heading(level, place, heading.get_text()))

    def _explain(self, found: re.Match[str]) -> str:
        term = list(SPELT)[found.lastindex - 1]
        if term in self.terms:
            return found[0]
        about = self.terms[term] = GLOSSARY[term]
        place = f"term-{term.replace(' ', '-')}"
        about = f'data-about="{escape(about)}" aria-describedby="{place}"'
        return f'<dfn class="term" tabindex="0" {about}>{found[0]}</dfn>'
