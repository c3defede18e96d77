"""One run: which stages are run, what is kept, and what a fault leaves behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from btxrd.files import read_json, write_csv, write_json
from btxrd.params import RunParams, StudyParams
from btxrd.report import page
from btxrd.runner import notebooks, warm
from btxrd.runner.run import RunTask, execute_run, kernel_environment, note_failure, note_waiting
from btxrd.session import StopRequested
from btxrd.stages import RUN_FILE, RUN_STAGES, STUDY_FILE, TRAIN, run_stages

STAGES = [stage.name for stage in run_stages("finetune")]
NOTEBOOK = notebooks.NOTEBOOKS / "03_train.ipynb"
PARAMETERS = nbformat.v4.new_code_cell("", metadata={"tags": ["parameters"]})
INTERVALS = {"replicates": 20, "level": 0.9}
SETTINGS = {
    "04_evaluate": {**INTERVALS, "prevalences": [0.05]},
    "05_gradcam": {**INTERVALS, "method": "gradcam", "normals": 5, "gallery": 1},
}


@pytest.fixture
def task(phantom, cache_dir, split, tmp_path) -> RunTask:
    """A run in a study of its own, whose split is there already."""
    params = {
        "experiment": "one",
        "dataset_root": str(phantom),
        "cache_dir": str(cache_dir),
        "study_dir": str(tmp_path),
        "model": {"backbone": "resnet10t", "pretrained": False},
        "data": {"image_size": 64},
        "training": {"epochs": 1, "warmup_epochs": 0, "lr": 1e-3},
    }
    write_csv(tmp_path / "splits" / "stratified.csv", split)
    return RunTask(RunParams.parse(params, "test"), SETTINGS, "x", dict.fromkeys(RUN_STAGES, "c"))


def record_of(task: RunTask) -> dict:
    return read_json(task.run_dir / RUN_FILE)


def rewrite(task: RunTask, **facts) -> None:
    """Let the run's file say something else."""
    write_json(task.run_dir / RUN_FILE, record_of(task) | facts)


def with_settings(task: RunTask, stage: str, **settings) -> RunTask:
    return replace(task, settings=task.settings | {stage: task.settings[stage] | settings})


def with_params(task: RunTask, **sections) -> RunTask:
    values = task.params.model_dump()
    for name, section in sections.items():
        values[name] = values[name] | section if isinstance(section, dict) else section
    return replace(task, params=RunParams.parse(values, "test"))


@pytest.fixture
def stages(monkeypatch) -> list[str]:
    """The stages that were run, by something that only leaves files."""
    done = []

    def leave_files(stage, folder, parameters, environment):
        done.append(stage.name)
        for name in stage.files:
            (folder / name).write_text(f"{len(done)}")

    monkeypatch.setattr("btxrd.runner.run.execute_notebook", leave_files)
    return done


def error_of_failed(task: RunTask) -> str:
    """Run a run that fails; return what its record says of it."""
    record = execute_run(task)
    assert record["status"] == "failed"
    return record["error"]


def asides(task: RunTask) -> list[Path]:
    return sorted(task.run_dir.parent.glob("seed-42.old-*"))


def test_a_finished_run_is_not_run_again(task, stages):
    first = execute_run(task)
    assert (first["status"], stages) == ("finished", STAGES)
    assert execute_run(task)["ended"] == first["ended"]
    assert len(stages) == 3


@pytest.mark.parametrize(
    ("gone", "done", "run_again"),
    [
        ("error.txt", STAGES[:2], ["05_gradcam"]),
        ("model.pt", STAGES, ["03_train"]),
        ("04_evaluate.html", STAGES, ["04_evaluate"]),
    ],
)
def test_only_stages_that_are_not_done_or_whose_files_are_gone_are_done_again(
    task, stages, gone, done, run_again
):
    execute_run(task)
    rewrite(task, status="running", stage_seconds=dict.fromkeys(done, 1.0))
    (task.run_dir / gone).unlink(missing_ok=True)
    assert execute_run(task)["status"] == "finished"
    assert stages == [*STAGES, *run_again]
    assert asides(task) == []


@pytest.mark.parametrize(
    ("change", "run_again"),
    [
        (lambda task: with_settings(task, "04_evaluate", replicates=30), ["04_evaluate"]),
        (lambda task: with_settings(task, "04_evaluate", level=0.5), ["04_evaluate"]),
        (lambda task: with_settings(task, "04_evaluate", prevalences=[0.5]), ["04_evaluate"]),
        (lambda task: with_settings(task, "05_gradcam", method="hirescam"), ["05_gradcam"]),
        (lambda task: with_settings(task, "05_gradcam", level=0.5), ["05_gradcam"]),
        (lambda task: replace(task, code=task.code | {"04_evaluate": "new"}), ["04_evaluate"]),
        (lambda task: replace(task, code=task.code | {"03_train": "new"}), STAGES),
        (lambda task: replace(task, data="y"), STAGES),
        (lambda task: with_params(task, training={"lr": 2e-3}), STAGES),
        (lambda task: with_params(task, training={"mode": "probe"}), ["03_probe", *STAGES[1:]]),
        (lambda task: other_split(task), STAGES),
    ],
)
def test_what_changed_decides_which_stages_are_run_again(task, stages, change, run_again):
    execute_run(task)
    record = execute_run(change(task))
    assert record["status"] == "finished"
    assert stages == [*STAGES, *run_again]
    (aside,) = asides(task)
    assert all((aside / name).is_file() for stage in task.stages for name in stage.files)
    trained_again = run_again[0] in ("03_train", "03_probe")
    model = (task.run_dir / "model.pt").read_text()
    assert (model != (aside / "model.pt").read_text()) == trained_again


@pytest.mark.parametrize(
    ("change", "goes_on"),
    [
        (lambda task: task, True),
        (lambda task: replace(task, code=task.code | {"04_evaluate": "new"}), True),
        (lambda task: with_settings(task, "05_gradcam", method="hirescam"), True),
        (lambda task: replace(task, code=task.code | {"03_train": "new"}), False),
        (lambda task: with_params(task, training={"lr": 2e-3}), False),
    ],
)
def test_an_interrupted_training_goes_on_whatever_follows_it(task, monkeypatch, change, goes_on):
    found = []

    def stop_in_the_middle(stage, folder, parameters, environment):
        found.append([name for name in TRAIN.resumes if (folder / name).is_file()])
        for name in TRAIN.resumes:
            (folder / name).touch()
        raise StopRequested

    monkeypatch.setattr("btxrd.runner.run.execute_notebook", stop_in_the_middle)
    first = execute_run(task, threads=3)
    again = execute_run(change(task), threads=1)
    assert [first["status"], again["status"]] == ["interrupted"] * 2
    assert found == [[], list(TRAIN.resumes) if goes_on else []]
    assert again["threads"] == (3 if goes_on else 1)
    assert len(asides(task)) == (again["hash"] != first["hash"])


def other_split(task: RunTask) -> RunTask:
    task.split_file.write_text("another split")
    return task


def test_a_studys_choice_of_intervals_reaches_every_run(tmp_path):
    values = {"name": "s", "dataset_root": str(tmp_path), "splits": ["center"]}
    values |= {"experiments": ["E1_b0_baseline"], "replicates": 77, "level": 0.8}
    study = StudyParams.parse(values, "test")
    (task,) = RunTask.plan(study, study.runs(), "x")
    assert task.code.keys() == RUN_STAGES.keys()
    for stage in STAGES[1:]:
        injected = task.stage_parameters(stage)
        assert (injected["replicates"], injected["level"]) == (77, 0.8)
        assert injected["run_dir"] == str(task.run_dir)


def test_folders_moved_aside_in_one_second_do_not_meet(task, stages):
    for data in "abc":
        execute_run(replace(task, data=data))
    assert len(asides(task)) == 2


def test_a_run_that_waits_says_so_and_loses_nothing(task, stages):
    note_waiting(task)
    assert record_of(task) == {}
    finished = execute_run(task)
    note_waiting(task)
    assert record_of(task) == finished | {"status": "waiting"}
    assert execute_run(task)["status"] == "finished"
    assert stages == STAGES


def test_a_failure_that_a_run_could_not_note_is_noted_for_it(task):
    task.run_dir.mkdir(parents=True)
    record = note_failure(task, "its worker gave up")
    assert record_of(task)["error"] == record["error"] == "its worker gave up"
    assert (record["status"], record["hash"]) == ("failed", task.hash())
    assert (task.run_dir / "error.txt").read_text() == "its worker gave up\n"


@pytest.mark.parametrize(
    ("study", "words"),
    [({"session": "s", "stopping": True}, "on request"), ({"session": "later"}, "started again")],
)
def test_a_run_stops_where_its_study_does(task, stages, study, words):
    write_json(Path(task.params.study_dir) / STUDY_FILE, study)
    record = execute_run(task, session="s")
    assert record["status"] == "interrupted"
    assert words in record["error"]
    assert stages == []
    assert not (task.run_dir / "error.txt").exists()


def test_a_training_stops_after_its_epoch(task, tmp_path, own_notebook):
    """The kernel looks at the study's file when an epoch is saved."""
    task = with_params(task, training={"epochs": 50})
    write_json(tmp_path / STUDY_FILE, {"session": "s"})
    # The notebook itself asks for the stop, before it trains.
    asked = {"session": "s", "stopping": True}
    own_notebook(
        f"from btxrd.files import write_json\nwrite_json({str(tmp_path / STUDY_FILE)!r}, {asked})",
        follows=nbformat.read(NOTEBOOK, as_version=4).cells,
    )
    record = execute_run(task, session="s")
    assert record["status"] == "interrupted"
    assert len((task.run_dir / "history.csv").read_text().splitlines()) == 2
    assert (task.run_dir / "last.pt").is_file()


def test_a_failing_run_says_why_in_its_record(task):
    task = with_params(task, model={"backbone": "efficientnet_bo"})
    error = error_of_failed(task)
    assert "did you mean efficientnet_b" in error
    assert "\n" not in error
    assert "did you mean efficientnet_b" in (task.run_dir / "error.txt").read_text()
    assert not task.is_finished()


def test_a_damaged_state_fails_the_run_and_is_named(task):
    write_json(task.run_dir / RUN_FILE, task.record(status="failed"))
    for name in ("last.pt", "model.pt"):
        (task.run_dir / name).write_bytes(b"half")
    assert re.search(r"last\.pt is damaged.*delete it to train anew", error_of_failed(task))


@pytest.mark.usefixtures("cache", "new_server")
def test_a_full_disk_fails_the_run_and_leaves_no_half_file(task, no_file_above):
    with no_file_above(4_000_000):
        error = error_of_failed(task)
    assert "no room to write" in error
    assert "model.pt" in error
    assert not list(task.run_dir.rglob(".writing-*"))
    assert not (task.run_dir / "model.pt").exists()
    assert record_of(task)["status"] == "failed"


def test_a_record_comes_back_also_where_it_cannot_be_written(task, monkeypatch):
    def full(*arguments):
        raise OSError(28, "no room to write run.json: No space left on device")

    monkeypatch.setattr("btxrd.runner.run.write_json", full)
    assert "no room to write" in error_of_failed(task)


def test_an_image_that_breaks_under_a_run_fails_it_and_is_named(task, phantom, tmp_path):
    shutil.copytree(phantom, tmp_path / "data")
    image = sorted((tmp_path / "data" / "images").iterdir())[5]
    image.write_bytes(image.read_bytes()[:400])
    task = with_params(task, dataset_root=str(tmp_path / "data"))
    words = f"cannot be used since it was made: {image.name}: set aside"
    assert words in error_of_failed(task)


@pytest.fixture
def own_notebook(tmp_path, monkeypatch):
    """Put something else in the place of notebook 03."""
    path = tmp_path / "notebooks" / "03_train.ipynb"
    path.parent.mkdir()
    monkeypatch.setattr(notebooks, "NOTEBOOKS", path.parent)

    def put(source: str, follows: Sequence[nbformat.NotebookNode] = (PARAMETERS,)) -> None:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source), *follows])
        spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook.metadata["kernelspec"] = spec
        nbformat.write(notebook, path)

    return put


@pytest.fixture
def new_server(monkeypatch) -> None:
    """Let the next kernel come from a new process: that of before has an older code."""
    changed = (*warm.code_stamp(), ("btxrd/new.py", time.monotonic_ns()))
    monkeypatch.setattr(warm, "code_stamp", lambda: changed)


@pytest.fixture
def told(own_notebook, tmp_path):
    """Run a notebook 03 that writes down what an expression of it is; return that text."""

    def tell(expression: str, source: str = "", environment=None) -> str:
        write = f"open({str(tmp_path / 'told')!r}, 'w').write(str({expression}))"
        own_notebook(f"import os\n{source}\n{write}")
        notebooks.execute_notebook(TRAIN, tmp_path, {}, environment)
        return (tmp_path / "told").read_text()

    return tell


@pytest.mark.parametrize(
    ("killed", "words"),
    [([7, 7], "kernel of 03_train died"), ([7, 8], "because this machine ran out of memory")],
)
def test_a_killed_kernel_is_a_failed_run(task, own_notebook, monkeypatch, killed, words):
    """papermill records such a notebook as completed; its word is not taken for it."""
    own_notebook(f"import os\nos.kill(os.getpid(), {int(signal.SIGKILL)})")
    counts = iter(killed)
    monkeypatch.setattr(notebooks, "_killed_for_memory", lambda: next(counts))
    assert words in error_of_failed(task)
    assert (task.run_dir / "03_train.ipynb").exists()


def test_kernels_fork_from_one_process_until_the_code_changes(told, request):
    first = told("os.getppid()")
    assert told("os.getppid()") == first != str(os.getpid())
    request.getfixturevalue("new_server")
    assert told("os.getppid()") != first


def test_a_forked_kernel_has_its_own_environment_and_threads(told):
    names = "[os.environ['OMP_NUM_THREADS'], os.environ['BTXRD_SESSION'], torch.get_num_threads()]"
    assert told(names, "import torch", kernel_environment(2, "mine")) == "['2', 'mine', 2]"


def test_kernels_end_with_the_process_that_forked_them(own_notebook, told, tmp_path):
    own_notebook("import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(60)")
    with pytest.raises(notebooks.NotebookError, match="kernel of 03_train died"):
        notebooks.execute_notebook(TRAIN, tmp_path, {})
    assert int(told("os.getppid()")) > 0


def test_what_a_killed_worker_left_of_its_kernel_is_removed(told):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left, used = (
        Path(tempfile.mkdtemp(prefix=f"btxrd-kernel-{pid}-")) for pid in (gone.pid, os.getpid())
    )
    (left / "kernel.json").touch()
    file = told("get_connection_file()", "from ipykernel import get_connection_file")
    assert not left.exists()
    used.rmdir()
    assert Path(file).parent.name.startswith(f"btxrd-kernel-{os.getpid()}-")
    assert not Path(file).parent.exists()


def test_a_page_that_cannot_be_made_does_not_hide_why_the_notebook_failed(
    task, own_notebook, monkeypatch
):
    own_notebook("1 / 0")
    monkeypatch.setattr(page, "write_html", lambda *arguments: json.loads("{"))
    assert error_of_failed(task).startswith("ZeroDivisionError")


@pytest.mark.usefixtures("own_notebook")
@pytest.mark.parametrize(("text", "words"), [("", "is missing"), ('{"cells": [', "is damaged")])
def test_a_notebook_that_cannot_be_read_fails_the_run_and_is_named(task, text, words):
    if text:
        (notebooks.NOTEBOOKS / "03_train.ipynb").write_text(text)
    assert f"03_train.ipynb {words}" in error_of_failed(task)
