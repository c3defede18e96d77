"""The page that people read: an executed notebook as one self-contained HTML file.

Markdown cells are the project's own and may hold HTML; Markdown outputs are put together from
names (`btxrd.report.names`), and HTML in them is text. What a cell shows as HTML is taken as it is.
The first use of a term of `btxrd.report.glossary` is explained where it stands, and at the end.

Which other pages its study has, it learns from the study's `runs.js` when it is opened.
"""

from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
from jinja2 import pass_context
from mistune import BlockState, import_plugin
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from btxrd.files import atomic_path
from btxrd.report.fragments import TEMPLATES
from btxrd.report.glossary import GLOSSARY
from btxrd.report.links import place_in_study

__all__ = ["write_html"]

SCHEMES = ("", "http", "https")
"""Schemes of the addresses that links may lead to."""
PLUGINS = [import_plugin(name) for name in (*MarkdownWithMath.DEFAULT_PLUGINS, "abbr")]


class _Prose(IPythonRenderer):
    """Renders a piece of a page's Markdown, without links that run scripts.

    Attributes:
        headings: level, id and HTML of each heading of the page so far; it adds its own.
        terms: the terms of the glossary that the page has explained so far; it adds its own.
    """

    def __init__(
        self, headings: list[tuple[int, str, str]], terms: list[str], html_is_text: bool
    ) -> None:
        super().__init__(escape=html_is_text)
        self.headings, self.terms, self.explains = headings, terms, True

    def render_token(self, token: dict[str, Any], state: BlockState) -> str:
        # In headings and links, terms stay as they are.
        before, self.explains = self.explains, token["type"] not in ("heading", "link")
        self.explains &= before
        html = super().render_token(token, state)
        self.explains = before
        return html

    def sanitize_url(self, url: str) -> str:
        return url if urlsplit(url).scheme in SCHEMES else "#"

    def heading(self, text: str, level: int, **_: Any) -> str:
        place = text.replace(" ", "-")
        self.headings.append((level, place, text))
        return f'<h{level} id="{escape(place)}">{text}</h{level}>\n'

    def abbr(self, text: str, title: str) -> str:
        if text in self.terms or not self.explains:
            return text
        self.terms.append(text)
        about = f'data-about="{escape(title)}" aria-describedby="term-{text.replace(" ", "-")}"'
        return f'<dfn class="term" tabindex="0" {about}>{text}</dfn>'

    def block_mermaidjs(self, code: str) -> str:
        # The diagram's code would go into the page as it is.
        return self.block_code(code)


class _Exporter(HTMLExporter):
    """Lays out the cells of one notebook."""

    def __init__(self) -> None:
        super().__init__(
            template_name="report",
            extra_template_basedirs=[str(TEMPLATES)],
            exclude_input_prompt=True,
            exclude_output_prompt=True,
        )
        self.headings: list[tuple[int, str, str]] = []
        self.terms: list[str] = []

    def default_filters(self) -> Iterator[tuple[str, Callable[..., str]]]:
        yield from super().default_filters()
        yield "output2html", lambda source: self.prose(source, html_is_text=True)

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        return self.prose(source, html_is_text=False)

    def prose(self, source: str, html_is_text: bool) -> str:
        """Return a piece of Markdown as HTML; pieces are read from the page's top to its end."""
        state = BlockState()
        state.env = {"ref_links": {}, "ref_abbrs": GLOSSARY}
        renderer = _Prose(self.headings, self.terms, html_is_text)
        html, _ = MarkdownWithMath(renderer, plugins=PLUGINS).parse(source, state)
        return html


def write_html(notebook: str | Path, html: str | Path) -> None:
    """Convert an executed notebook to one self-contained page, its code behind a switch.

    The page's title is the notebook's first heading.
    """
    content = nbformat.read(notebook, as_version=4)
    exporter = _Exporter()
    cells, _ = exporter.from_notebook_node(content)
    prose = (cell.source for cell in content.cells if cell.cell_type == "markdown")
    lines = (line for source in prose for line in source.splitlines())
    titles = (line.removeprefix("# ") for line in lines if line.startswith("# "))
    page = exporter.environment.get_template("page.html.j2").render(
        title=next(titles, "btxrd"),
        cells=cells,
        headings=exporter.headings,
        terms={term: GLOSSARY[term] for term in sorted(exporter.terms, key=str.lower)},
        study=place_in_study(html),
    )
    with atomic_path(html) as temporary:
        temporary.write_text(page)
