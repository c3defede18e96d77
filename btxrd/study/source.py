"""The code that a notebook's results depend on, as a digest: when it changes, they are stale."""

import ast
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from IPython.core.inputtransformer2 import TransformerManager

from btxrd.files import PROJECT_ROOT
from btxrd.study.notebooks import NOTEBOOKS, NotebookError, read_notebook

__all__ = ["code_digest", "modules_of"]

NO_NUMBERS = (
    "btxrd.cli",
    "btxrd.data.audit",
    "btxrd.data.fetch",
    "btxrd.data.splits",
    "btxrd.data.table",
    "btxrd.evaluation.decision_figures",
    "btxrd.evaluation.figures",
    "btxrd.files",
    "btxrd.params",
    "btxrd.phantom",
    "btxrd.provenance",
    "btxrd.study",
)
"""What cannot change a run's numbers, or does so only through what its hash holds already: the
parameters, the data and the split."""


def code_digest(notebook: str, pages: bool = False) -> str:
    """Return 16 hex digits of a notebook's code and of all of `btxrd` that it imports.

    Comments, docstrings, prose and layout do not count.

    Args:
        notebook: its name without the ending.
        pages: whether code counts that only shows results.

    Raises:
        NotebookError: the notebook is missing or damaged.
    """
    modules = modules_of(notebook, leave_out=() if pages else NO_NUMBERS)
    sources = [_notebook(notebook).code, *(_module(name).code for name in modules)]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()[:16]


def modules_of(notebook: str, leave_out: Sequence[str] = ()) -> list[str]:
    """Return the modules of `btxrd` that a notebook imports, and those that they import, sorted.

    A package counts where something is imported from it by name, not where one of its modules is.

    Args:
        notebook: its name without the ending.
        leave_out: modules and packages that do not count, nor does what only they import;
            `x.y` is also `x.y_z`.

    >>> "btxrd.training" in modules_of("03_train"), "btxrd.training" in modules_of("01_eda")
    (True, False)
    """
    found: set[str] = set()
    new = _notebook(notebook).imports
    while new := {name for name in new if not _is_in(name, leave_out)} - found:
        found |= new
        new = {name for module in new for name in _module(module).imports}
    return sorted(found)


def _is_in(module: str, names: Sequence[str]) -> bool:
    return any(module == name or module.startswith((f"{name}.", f"{name}_")) for name in names)


class _Source(NamedTuple):
    """Code in one layout, without comments and docstrings; the modules of btxrd it imports."""

    code: str
    imports: frozenset[str]


@cache
def _notebook(name: str) -> _Source:
    """Read the code cells of a notebook but the parameters, which a run's hash holds."""
    path = NOTEBOOKS / f"{name}.ipynb"
    as_python = TransformerManager().transform_cell
    cells = [
        as_python(cell.source)
        for cell in read_notebook(path).cells
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
    ]
    try:
        return _source("\n".join(cells))
    except SyntaxError as error:
        raise NotebookError(f"{path} is damaged: a cell is no valid Python ({error})", "") from None


@cache
def _module(name: str) -> _Source:
    return _source(_file(name).read_text())


def _file(module: str) -> Path | None:
    path = PROJECT_ROOT.joinpath(*module.split("."))
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _source(text: str) -> _Source:
    """Parse a source.

    >>> _source("from btxrd.files import write_json; x = (1)  # why")
    _Source(code='from btxrd.files import write_json\\nx = 1', imports=frozenset({'btxrd.files'}))
    """
    tree = ast.parse(text)
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "btxrd":
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    imports = frozenset(name for name in names if _file(name) is not None)
    return _Source(ast.unparse(tree), imports)
