"""The house: which module may import which, and what is written in one place only."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import btxrd
from btxrd.stages import STAGES
from btxrd.strategies import SPLITS

PACKAGE = Path(btxrd.__file__).parent
ROOT = PACKAGE.parent

CORE = (
    ("btxrd",),
    ("files",),
    ("strategies",),
    ("params",),
    ("stages",),
    ("session",),
    ("provenance",),
    ("predictions",),
    ("data",),
    ("models",),
    ("training",),
    ("evaluation",),
    ("report",),
)
"""The rooms of the core from the lowest up. Each may import itself and those below its rank."""
EXTRAS = (("extras",), ("extras.phantom", "extras.probe", "extras.pages"), ("extras.example",))
"""Behind doors of their own: nothing in the core imports them."""
RUNNER = (("runner",),)
"""What the `btxrd` command runs; no notebook imports it."""

RANK = {room: rank for rank, rooms in enumerate(CORE + EXTRAS + RUNNER) for room in rooms}

FRAGMENTS = (
    *("As", "At", "For", "From", "How", "In", "Of", "On"),
    *("Than", "That", "Where", "Whether", "Which", "Who", "What", "With"),
)
"""The first words of docstrings that go on with the name above them, as if it were the subject."""

WIDTH = {
    "01_eda": 5_100,
    "02_splits": 4_300,
    "03_train": 6_140,
    "03_probe": 6_440,
    "04_evaluate": 7_000,
    "05_gradcam": 6_800,
    "06_compare": 4_600,
}
"""Notebook → how many lines of the package its imports may pull in, all the way down."""
CORE_LINES, ALL_LINES, TEMPLATE_LINES = 10_360, 14_570, 1_050
"""What may stand in the core and in the package (Python), and in templates, scripts and styles."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def code_cells(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


IMPORTS = (ast.Import, ast.ImportFrom)
FILES = {module_name(path): path for path in PACKAGE.rglob("*.py")}
MODULES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}
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
    """Return a module's room: in the extras, each has its own."""
    first, *others = name.split(".")[1:] or [name]
    return ".".join([first, *others[:1]]) if first == "extras" else first


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines())


def pulled_in(tree: ast.Module) -> set[str]:
    """The modules that Python reads for the imports at the top of a module, all the way down."""
    found: set[str] = set()
    waiting = [tree]
    while waiting:
        top = ast.Module([n for n in waiting.pop().body if isinstance(n, IMPORTS)], [])
        for module, part in imported(top):
            parts = f"{module}.{part}".split(".") if part else module.split(".")
            names = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
            new = names & set(MODULES) - found
            waiting += [MODULES[name] for name in new]
            found |= new
    return found


def test_every_room_has_its_rank():
    assert {room_of(name) for name in MODULES} - set(RANK) == set()


def test_what_is_imported_exists():
    assert {other for name in MODULES for other in modules_imported(name)} - set(MODULES) == set()


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_what_a_notebook_imports_exists(notebook):
    lacking = [
        f"{module}.{name}"
        for module, name in imported(NOTEBOOKS[notebook])
        if not (f"{module}.{name}" in MODULES or hasattr(import_module(module), name))
    ]
    assert lacking == []


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


def test_notebooks_know_nothing_of_the_runner():
    known = [
        f"{name} imports {module}.{part}"
        for name, tree in NOTEBOOKS.items()
        for module, part in imported(tree)
        if "runner" in (part, *module.split("."))
    ]
    assert known == []


@pytest.mark.parametrize("notebook", WIDTH)
def test_a_notebook_pulls_in_no_more_than_it_shows(notebook):
    lines = {name: lines_of(FILES[name]) for name in pulled_in(NOTEBOOKS[f"{notebook}.ipynb"])}
    assert sum(lines.values()) <= WIDTH[notebook], lines


def test_every_notebook_has_a_width():
    assert {f"{name}.ipynb" for name in WIDTH} == set(NOTEBOOKS)


def test_the_package_stays_small():
    outside = ("extras", "runner")
    core = [name for name in FILES if room_of(name).split(".")[0] not in outside]
    templates = [p for p in PACKAGE.rglob("*") if p.suffix in (".j2", ".html", ".js", ".css")]
    assert sum(lines_of(FILES[name]) for name in core) <= CORE_LINES
    assert sum(map(lines_of, FILES.values())) <= ALL_LINES
    assert sum(map(lines_of, templates)) <= TEMPLATE_LINES


def test_tables_with_identifiers_are_read_in_one_place():
    readers = [
        name
        for name, tree in (MODULES | NOTEBOOKS).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "pd.read_csv"
    ]
    assert sorted(readers) == ["btxrd.data.table", "btxrd.files"]


def texts(tree: ast.AST) -> Iterator[ast.Constant]:
    """Every string of a module but its docstrings."""
    nodes = list(ast.walk(tree))
    prose = {node.value for node in nodes if isinstance(node, ast.Expr)}
    found = (n for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str))
    yield from (node for node in found if node not in prose)


def test_stages_are_named_in_their_table_only():
    named = [
        f"{name}, line {text.lineno}: {text.value!r}"
        for name, tree in MODULES.items()
        for text in texts(tree)
        if any(stage in text.value for stage in STAGES)
    ]
    assert [found for found in named if not found.startswith("btxrd.stages,")] == []


def test_splits_are_named_in_their_table_only():
    """`center` is a column too, `random` a word of torch's; where splits are dealt, all are."""
    names = set(SPLITS) - {"center", "random"}
    titles = {split.title for split in SPLITS.values()}
    named = [
        f"{name}, line {text.lineno}: {text.value!r}"
        for name, tree in MODULES.items()
        if name not in ("btxrd.strategies", "btxrd.data.splits")
        for text in texts(tree)
        if names & set(re.findall(r"\w+", text.value)) or any(t in text.value for t in titles)
    ]
    assert [found for found in named if not found.startswith("btxrd.params,")] == []
    assert sum(found.startswith("btxrd.params,") for found in named) == 1


def test_docstrings_can_be_read_alone():
    fragments = [
        f"{name}, line {node.lineno}: {node.value.value.splitlines()[0]}"
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str) and node.value.value.split()[0] in FRAGMENTS
    ]
    assert fragments == []


def test_what_evaluates_needs_no_torch_and_draws_nothing():
    imports, *_ = code_cells(ROOT / "notebooks" / "04_evaluate.ipynb")
    code = f"""import sys, btxrd.evaluation
assert not {{"torch", "matplotlib"}} & set(sys.modules)
{imports}
assert "torch" not in sys.modules"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
