"""The house: which module may import which, and what is written in one place only."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import btxrd
from btxrd.stages import STAGES

PACKAGE = Path(btxrd.__file__).parent
ROOT = PACKAGE.parent

RANKS = (
    ("btxrd",),
    ("files",),
    ("params",),
    ("stages",),
    ("session",),
    ("provenance",),
    ("predictions",),
    ("data",),
    ("fetch", "phantom", "models"),
    ("training",),
    ("probe",),
    ("evaluation",),
    ("report",),
    ("example", "predict", "study"),
    ("external",),
    ("cli",),
)
"""The rooms from the lowest up. Each may import itself and those below its rank."""

RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def code_cells(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


MODULES = {module_name(path): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
TESTS = {path.name: ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("*.py")}
NOTEBOOKS = {
    path.name: ast.parse("\n".join(code_cells(path)))
    for path in (ROOT / "notebooks").glob("*.ipynb")
}


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Everything in a module, functions included, but what only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from statements(node)


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """What is imported of the package: module, and the name in it (none for the module itself)."""
    for node in statements(tree):
        if isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno} imports relatively"
            found = [(node.module, alias.name) for alias in node.names]
        else:
            continue
        yield from (pair for pair in found if pair[0].split(".")[0] == "btxrd")


def modules_imported(name: str) -> set[str]:
    """The modules that a module imports; of a package, what is taken from it."""
    pairs = imported(MODULES[name])
    return {f"{m}.{part}" if f"{m}.{part}" in MODULES else m for m, part in pairs}


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else name


def test_every_room_has_its_rank():
    assert {room_of(name) for name in MODULES} - set(RANK) == set()


def test_what_is_imported_exists():
    assert {other for name in MODULES for other in modules_imported(name)} - set(MODULES) == set()


def test_there_is_no_circle_of_imports():
    # `prepare` names the circle that it finds.
    TopologicalSorter({name: modules_imported(name) for name in MODULES}).prepare()


@pytest.mark.parametrize("room", RANK)
def test_a_room_imports_only_lower_ones(room):
    upwards = [
        f"{name} imports {other}"
        for name in MODULES
        if room_of(name) == room
        for other in modules_imported(name)
        if room_of(other) != room and RANK[room_of(other)] >= RANK[room]
    ]
    assert sorted(upwards) == []


@pytest.mark.parametrize(
    "sources", [MODULES, TESTS, NOTEBOOKS], ids=["btxrd", "tests", "notebooks"]
)
def test_nothing_private_is_imported(sources):
    private = [
        f"{name} imports {part} of {module}"
        for name, tree in sources.items()
        for module, part in imported(tree)
        if any(word.startswith("_") and word[:2] != "__" for word in (part, *module.split(".")))
    ]
    assert private == []


def test_notebooks_know_nothing_of_the_study():
    known = [
        f"{name} imports {module}.{part}"
        for name, tree in NOTEBOOKS.items()
        for module, part in imported(tree)
        if "study" in (part, *module.split("."))
    ]
    assert known == []


def test_tables_with_identifiers_are_read_in_one_place():
    readers = [
        name
        for name, tree in (MODULES | NOTEBOOKS).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "pd.read_csv"
    ]
    assert sorted(readers) == ["btxrd.data.table", "btxrd.files"]


def test_stages_are_named_in_their_table_only():
    named = []
    for name, tree in MODULES.items():
        nodes = list(ast.walk(tree))
        prose = {node.value for node in nodes if isinstance(node, ast.Expr)}
        texts = [n for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        named += [
            f"{name}, line {text.lineno}: {text.value!r}"
            for text in texts
            if text not in prose and any(stage in text.value for stage in STAGES)
        ]
    assert [found for found in named if not found.startswith("btxrd.stages,")] == []


def test_what_evaluates_needs_no_torch_and_draws_nothing():
    imports, *_ = code_cells(ROOT / "notebooks" / "04_evaluate.ipynb")
    code = f"""import sys, btxrd.evaluation
assert not {{"torch", "matplotlib"}} & set(sys.modules)
{imports}
assert "torch" not in sys.modules"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
