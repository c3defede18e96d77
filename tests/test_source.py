"""The digest of the code that a run's numbers depend on."""

import json

import pytest

from btxrd.study import source
from btxrd.study.notebooks import NotebookError
from btxrd.study.source import code_digest, modules_of

STAGES = ("03_train", "04_evaluate", "05_gradcam")


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A small clone: notebook 03 imports a, a imports b, nothing imports c."""
    files = {
        "btxrd/__init__.py": "",
        "btxrd/a.py": "from btxrd.b import f\n",
        "btxrd/b.py": 'def f(x):\n    """Add one."""\n    return x + 1\n',
        "btxrd/c.py": "x = 1\n",
        "btxrd/study/__init__.py": "",
        "btxrd/study/show.py": "width = 1\n",
    }
    cells = ["from btxrd.a import f\nfrom btxrd.study.show import width", "%time f(1)"]
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "notebooks").mkdir()
    write(tmp_path, cells)
    monkeypatch.setattr(source, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(source, "NOTEBOOKS", tmp_path / "notebooks")
    return tmp_path


def write(clone, cells, prose="# Title"):
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
    notebook["cells"].append({"cell_type": "markdown", "id": "m", "metadata": {}, "source": prose})
    for number, text in enumerate(cells):
        cell = {"cell_type": "code", "id": f"c{number}", "metadata": {}, "source": text}
        notebook["cells"].append(cell | {"outputs": [], "execution_count": None})
    (clone / "notebooks" / "03_train.ipynb").write_text(json.dumps(notebook))


def digest(**options):
    source._notebook.cache_clear()
    source._module.cache_clear()
    return code_digest("03_train", **options)


@pytest.mark.parametrize(
    ("file", "text", "changes"),
    [
        ("btxrd/b.py", 'def f(x):\n    """Add one."""\n    return x + 2\n', True),
        (
            "btxrd/b.py",
            'def f( x ):\n    """Another sentence."""\n    return x + 1  # why\n',
            False,
        ),
        ("btxrd/c.py", "x = 2\n", False),
        ("btxrd/study/show.py", "width = 2\n", False),
    ],
)
def test_what_changes_the_digest_is_code_that_is_imported(clone, file, text, changes):
    before = digest()
    (clone / file).write_text(text)
    assert (digest() != before) == changes


def test_what_only_shows_counts_where_pages_are_asked_for(clone):
    before = digest(pages=True)
    (clone / "btxrd/study/show.py").write_text("width = 2\n")
    assert digest(pages=True) != before


def test_cells_count_and_prose_does_not(clone):
    cells = ["from btxrd.a import f\nfrom btxrd.study.show import width", "%time f(1)"]
    before = digest()
    write(clone, cells, prose="# Another title")
    assert digest() == before
    write(clone, [*cells, "f(2)"])
    assert digest() != before


@pytest.mark.parametrize("text", ["{", '{"nbformat": 4, "nbformat_minor": 5, "cells": [{}]}'])
def test_a_damaged_notebook_is_named(clone, text):
    (clone / "notebooks" / "03_train.ipynb").write_text(text)
    with pytest.raises(NotebookError, match=r"03_train\.ipynb is damaged.*git checkout"):
        digest()


def test_a_cell_that_is_no_python_is_named(clone):
    write(clone, ["def ("])
    with pytest.raises(NotebookError, match=r"03_train\.ipynb is damaged: a cell"):
        digest()


def test_numbers_come_from_these_modules():
    """Whoever adds a module decides here whether it can change a run's numbers."""
    deciding = {stage: modules_of(stage, source.NO_NUMBERS) for stage in STAGES}
    everything = {stage: modules_of(stage) for stage in STAGES}
    assert {"btxrd.training", "btxrd.data.loader", "btxrd.models.classifier"} <= set(
        deciding["03_train"]
    )
    assert "btxrd.evaluation.calibration" in deciding["04_evaluate"]
    assert "btxrd.evaluation.calibration" not in deciding["03_train"]
    assert "btxrd.training" not in deciding["04_evaluate"]
    left_out = {name for names in everything.values() for name in names} - {
        name for names in deciding.values() for name in names
    }
    assert left_out == {
        "btxrd.data.audit",
        "btxrd.data.splits",
        "btxrd.data.table",
        "btxrd.report.decision_figures",
        "btxrd.report.figures",
        "btxrd.files",
        "btxrd.params",
        "btxrd.phantom",
        "btxrd.phantom.anatomy",
        "btxrd.phantom.drawing",
        "btxrd.phantom.layout",
        "btxrd.phantom.plan",
        "btxrd.provenance",
        "btxrd.example",
        "btxrd.report.live",
        "btxrd.study.notebooks",
        "btxrd.session",
    }
