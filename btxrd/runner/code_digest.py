"""The code that a stage's numbers depend on, as a digest: when it changes, they are stale."""

import ast
from functools import cache
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager

from btxrd.files import PROJECT_ROOT, digest
from btxrd.provenance import package_versions
from btxrd.runner.notebooks import NotebookError, notebook_file, read_notebook
from btxrd.stages import Stage

__all__ = ["code_digest"]

PACKAGE = PROJECT_ROOT / "btxrd"


def code_digest(stage: Stage) -> str:
    """Return 16 hex digits of a stage's notebook, its rooms' code and its packages' versions.

    Comments, docstrings, prose, layout and the notebook's default parameters do not count.

    Raises:
        NotebookError: the notebook is missing or damaged.
        FileNotFoundError: the package has no room of that name.
    """
    versions = package_versions()
    return digest(
        {
            "notebook": _notebook_code(notebook_file(stage)),
            # The package's own __init__ names the classes: no stage is without it.
            "rooms": [_room_code(PACKAGE / room) for room in ("__init__", *stage.rooms)],
            "packages": {name: versions[name] for name in stage.packages},
        }
    )


def _room_code(room: Path) -> list[str]:
    """Return the code of a module, or of each module of a package, in the order of their paths."""
    files = sorted(room.rglob("*.py")) or [room.with_suffix(".py")]
    return [_normalised(file.read_text()) for file in files]


def _notebook_code(file: Path) -> str:
    as_python = TransformerManager().transform_cell
    cells = [
        as_python(cell["source"])
        for cell in read_notebook(file)
        if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", [])
    ]
    try:
        return _normalised("\n".join(cells))
    except SyntaxError as error:
        raise NotebookError(f"{file} is damaged: a cell is no valid Python ({error})", "") from None


class _WithoutText(ast.NodeTransformer):
    """Drops strings that stand alone: docstrings of whatever they stand in or under."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else node


@cache
def _normalised(text: str) -> str:
    """Return code in one layout, without comments and docstrings.

    >>> _normalised("'Say why.'; x = ( 1 )  # what it was")
    'x = 1'
    """
    return ast.unparse(_WithoutText().visit(ast.parse(text)))
