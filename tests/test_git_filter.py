"""The filter through which git sees notebooks that were run."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from btxrd.files import PROJECT_ROOT
from btxrd.runner.notebooks import NOTEBOOKS

FILTER = (sys.executable, "-m", "jupyter", "nbconvert", "--config", "notebooks/without_outputs.py")


@pytest.fixture
def run_notebook() -> str:
    """Notebook 02 as JupyterLab saves it after a run."""
    notebook = nbformat.read(NOTEBOOKS / "02_splits.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("stream", text="a result")]
            cell.execution_count = 3
            cell.metadata["execution"] = {"iopub.status.busy": "2026-01-01"}
    notebook.metadata["language_info"] |= {"version": "3.11.1", "file_extension": ".py"}
    return nbformat.writes(notebook)


def test_a_notebook_that_was_run_is_unchanged_to_git(run_notebook):
    shown = subprocess.run(
        [*FILTER, "--stdin", "--stdout"],
        cwd=PROJECT_ROOT,
        input=run_notebook,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == (NOTEBOOKS / "02_splits.ipynb").read_text()
    assert "filter=without-outputs" in Path(PROJECT_ROOT, ".gitattributes").read_text()
    assert "filter.without-outputs.clean" in Path(PROJECT_ROOT, "README.md").read_text()
