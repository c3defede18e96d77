"""What makes which stage stale: its notebook, its rooms, its packages; nothing else."""

import ast
import json
import shutil
from pathlib import Path

import pytest

from btxrd.files import PROJECT_ROOT
from btxrd.runner import code_digest as digests
from btxrd.runner import notebooks
from btxrd.runner.code_digest import code_digest
from btxrd.runner.notebooks import NotebookError
from btxrd.stages import PROBE, STAGES

STALE = {
    "__init__": "123p456",
    "strategies": "26",
    "data": "123p456",
    "models": "3p5",
    "training": "3p",
    "extras/probe": "p",
    "predictions": "3p456",
    "evaluation": "1456",
    "report": "126",
}
"""Room → the stages whose numbers, or pages for the study, its code can change.

Each is said by its notebook's digit; p is the notebook 03 of probes.
"""

NO_NUMBERS = {
    "files",
    "params",
    "stages",
    "session",
    "provenance",
    "report",
    "extras/example",
    "extras/pages",
    "extras/phantom",
    "runner",
}
"""What changes no run's numbers, or does so only through what its hash holds already."""


def rooms() -> list[str]:
    package = PROJECT_ROOT / "btxrd"
    entries = [*package.iterdir(), *(package / "extras").glob("[!_]*")]
    names = (path.relative_to(package).with_suffix("").as_posix() for path in entries)
    return sorted(set(names) - {"__pycache__", "extras"})


def room_of(module: str) -> str:
    first, *others = module.split(".")[1:]
    return "/".join([first, *others[:1]]) if first == "extras" else first


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    for folder in ("btxrd", "notebooks"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT_ROOT / folder, tmp_path / folder, ignore=ignore)
    monkeypatch.setattr(digests, "PACKAGE", tmp_path / "btxrd")
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "notebooks")
    return tmp_path


@pytest.fixture
def stale(clone):
    """Say which stages are not what they were when the test began."""
    before = {name: code_digest(stage) for name, stage in STAGES.items()}
    named = {stage: "p" if stage == PROBE else name[1] for name, stage in STAGES.items()}
    return lambda: "".join(n for s, n in named.items() if code_digest(s) != before[s.name])


def test_every_room_is_known():
    """A new room must be named here, with the stages that it can change, or as changing none."""
    assert set(rooms()) <= STALE.keys() | NO_NUMBERS
    assert {room for stage in STAGES.values() for room in stage.rooms} <= STALE.keys()


@pytest.mark.parametrize("room", rooms())
def test_one_line_in_a_room_makes_its_stages_stale(clone, stale, room):
    room_path = clone / "btxrd" / room
    *_, module = sorted(room_path.rglob("*.py")) or [room_path.with_suffix(".py")]
    module.write_text(f"{module.read_text()}\nchanged = 1\n")
    assert stale() == STALE.get(room, "")


def test_comments_and_docstrings_make_nothing_stale(clone, stale):
    for module in (clone / "btxrd").rglob("*.py"):
        text = module.read_text().replace(" # ", " # Indeed: ").replace('."""', '. Indeed."""')
        module.write_text(f"{text}\n# The end.\n")
    assert stale() == ""


@pytest.mark.parametrize(
    ("package", "stages"),
    [("torch", "3p5"), ("scikit-learn", "12p456"), ("pillow", "123p5"), ("albumentations", "3")],
)
def test_another_version_of_a_package_makes_its_stages_stale(stale, monkeypatch, package, stages):
    versions = digests.package_versions() | {package: "0.0"}
    monkeypatch.setattr(digests, "package_versions", lambda: versions)
    assert stale() == stages


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_a_notebook_imports_numbers_only_from_its_rooms(stage):
    cells = notebooks.read_notebook(notebooks.notebook_file(stage))
    code = (cell["source"] for cell in cells if cell["cell_type"] == "code")
    (cell,) = (source for source in code if "import " in source)
    nodes = [node for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.ImportFrom)]
    imported = {room_of(node.module) for node in nodes if node.module.startswith("btxrd.")}
    assert imported <= {*stage.rooms, *NO_NUMBERS}


@pytest.mark.parametrize(
    ("kind", "tags", "stages"),
    [("markdown", [], ""), ("code", ["parameters"], ""), ("code", [], "3")],
)
def test_a_notebooks_code_counts_but_not_its_prose_or_defaults(clone, stale, kind, tags, stages):
    path = clone / "notebooks" / "03_train.ipynb"
    notebook = json.loads(path.read_text())
    wanted = [cell for cell in notebook["cells"] if cell["cell_type"] == kind]
    cell = next(cell for cell in wanted if cell["metadata"].get("tags", []) == tags)
    cell["source"] += ["\nchanged = 1"]
    path.write_text(json.dumps(notebook))
    assert stale() == stages


CELL = '{"cells": [{"cell_type": "code", "metadata": {}, "source": ["def ("]}]}'


@pytest.mark.parametrize("text", ["{", '{"cells": [{}]}', CELL])
def test_a_notebook_that_is_damaged_or_no_python_is_named(clone, text):
    (clone / "notebooks" / "03_train.ipynb").write_text(text)
    with pytest.raises(NotebookError, match=r"03_train\.ipynb is damaged"):
        code_digest(STAGES["03_train"])
