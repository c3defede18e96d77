"""The page that people read: an executed notebook as one self-contained HTML file."""

from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from btxrd.files import atomic_path

__all__ = ["write_html"]

TEMPLATES = Path(__file__).with_name("templates")


def write_html(notebook: str | Path, html: str | Path) -> None:
    """Convert an executed notebook to one self-contained page, its code folded away.

    The page's title is the notebook's first heading.
    """
    content = nbformat.read(notebook, as_version=4)
    _describe_figures(content)
    exporter = HTMLExporter(
        template_name="report",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    body, _ = exporter.from_notebook_node(content, {"metadata": {"name": _title(content)}})
    with atomic_path(html) as temporary:
        temporary.write_text(body)


def _describe_figures(content: nbformat.NotebookNode) -> None:
    """Give every figure the heading above it as its alternative text."""
    heading = _title(content)
    for cell in content.cells:
        if cell.cell_type == "markdown":
            headings = [line for line in cell.source.splitlines() if line.startswith("#")]
            heading = headings[-1].lstrip("# ") if headings else heading
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.metadata["image/png"] = {"alt": f"Figure: {heading}"}


def _title(content: nbformat.NotebookNode) -> str:
    for cell in content.cells:
        for line in cell.source.splitlines():
            if cell.cell_type == "markdown" and line.startswith("# "):
                return line.removeprefix("# ")
    return "btxrd"
