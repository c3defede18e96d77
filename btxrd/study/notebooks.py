"""Run one notebook with papermill and convert it to a page that reads as a report."""

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from btxrd.files import PROJECT_ROOT, atomic_path

__all__ = ["NOTEBOOKS", "NotebookError", "execute_notebook", "write_html"]

NOTEBOOKS = PROJECT_ROOT / "notebooks"
TEMPLATES = Path(__file__).with_name("templates")


class NotebookError(RuntimeError):
    """A notebook stopped before its end; the message is one line, `details` the traceback."""

    def __init__(self, message: str, details: str) -> None:
        super().__init__(message)
        self.details = details


def execute_notebook(
    name: str, output: str | Path, parameters: dict[str, Any], html: str | Path | None = None
) -> None:
    """Run `notebooks/<name>.ipynb` in a kernel of its own.

    The executed copy is kept and converted also when a cell fails, so that the traceback can be
    read where it happened.

    Args:
        name: the notebook's name without its ending.
        output: where the executed copy goes.
        parameters: what papermill injects.
        html: where the page goes; beside `output` by default.

    Raises:
        NotebookError: a cell raised, or the kernel died.
    """
    logging.getLogger("papermill").setLevel(logging.ERROR)
    output = Path(output)
    failure = None
    with atomic_path(output) as temporary, tempfile.TemporaryDirectory(prefix="btxrd-") as sockets:
        try:
            papermill.execute_notebook(
                NOTEBOOKS / f"{name}.ipynb",
                temporary,
                parameters,
                progress_bar=False,
                cwd=NOTEBOOKS,
                kernel_name="python3",
                config=_kernel_config(sockets),
            )
        except PapermillExecutionError as error:
            last_line = str(error.evalue).strip().splitlines()[:6]
            message = f"{error.ename}: {' '.join(line.strip() for line in last_line)}"
            failure = NotebookError(message, "\n".join(error.traceback))
        except DeadKernelError as error:
            message = f"the kernel of {name} died (killed, or out of memory?)"
            failure = NotebookError(message, repr(error))
    write_html(output, html or output.with_suffix(".html"))
    if failure is not None:
        raise failure


def _kernel_config(folder: str) -> Config:
    """Let the kernel talk through sockets in a folder of its own.

    Kernels that start together cannot take each other's TCP port then, and nobody else on the
    machine can talk to them.
    """
    if os.name != "posix":
        return Config()
    return Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})


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
        embed_images=True,
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
