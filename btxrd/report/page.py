"""The page that people read: an executed notebook as one self-contained HTML file.

A figure says what it shows by the metadata of its output, which becomes the alternative text of
PNG and SVG alike: `display(figure, metadata={"alt": "Macro AUC of E1: 0.81 (0.76–0.86), …"})`, or,
from a formatter, `{"image/svg+xml": {"alt": …}}`. Where it says nothing, the heading above it
stands for it.

Prose, which is what Markdown cells and Markdown outputs say, is read by `btxrd.report.prose`:
headings in order, terms explained. Markdown cells are the project's own and may hold HTML; outputs
are put together from names (`btxrd.report.names`), and HTML in them is text. What a cell shows as
HTML is taken as it is.

A page stands in its study's folder or below it, and links to the study's other pages relatively;
which runs there are it learns from the study's `runs.js` when it is opened. Without that file, or
in no study at all, it has no such links.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from btxrd.files import atomic_path
from btxrd.report.fragments import TEMPLATES
from btxrd.report.links import place_in_study
from btxrd.report.prose import Prose

__all__ = ["write_html"]

FIGURES = ("image/png", "image/svg+xml", "image/jpeg")


class _Exporter(HTMLExporter):
    """Lays out the cells of one notebook, and keeps what it has read of their prose."""

    def __init__(self) -> None:
        super().__init__(
            template_name="report",
            extra_template_basedirs=[str(TEMPLATES)],
            exclude_input_prompt=True,
            exclude_output_prompt=True,
        )
        self.prose = Prose()

    def default_filters(self) -> Iterator[tuple[str, Callable[..., str]]]:
        """Return nbconvert's filters, and what reads a Markdown output."""
        yield from super().default_filters()
        yield "output2html", self.output2html

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        return self.prose.read(super().markdown2html(context, source))

    def output2html(self, source: str) -> str:
        return self.prose.read(MarkdownWithMath(_TextOnly(escape=True)).render(source))


class _TextOnly(IPythonRenderer):
    """Renders Markdown; HTML in it is shown as it is written."""

    def block_mermaidjs(self, code: str) -> str:
        # The diagram's code would go into the page as it is.
        return self.block_code(code)


def write_html(notebook: str | Path, html: str | Path) -> None:
    """Convert an executed notebook to one self-contained page, its code behind a switch.

    The page's title is the notebook's first heading.
    """
    content = nbformat.read(notebook, as_version=4)
    _describe_figures(content)
    exporter = _Exporter()
    cells, _ = exporter.from_notebook_node(content)
    page = exporter.environment.get_template("page.html.j2").render(
        title=_title(content),
        cells=cells,
        prose=exporter.prose,
        study=place_in_study(html),
    )
    with atomic_path(html) as temporary:
        temporary.write_text(page)


def _describe_figures(content: nbformat.NotebookNode) -> None:
    """Give every figure an alternative text: its own, or the heading above it."""
    heading = _title(content)
    for cell in content.cells:
        if cell.cell_type == "markdown":
            headings = [line for line in cell.source.splitlines() if line.startswith("#")]
            heading = headings[-1].lstrip("# ") if headings else heading
        for output in cell.get("outputs", []):
            for kind in set(FIGURES) & set(output.get("data", {})):
                given = output.metadata.get(kind, {})
                alt = given.get("alt") or output.metadata.get("alt") or f"Figure: {heading}"
                output.metadata[kind] = given | {"alt": alt}


def _title(content: nbformat.NotebookNode) -> str:
    for cell in content.cells:
        for line in cell.source.splitlines():
            if cell.cell_type == "markdown" and line.startswith("# "):
                return line.removeprefix("# ")
    return "btxrd"
