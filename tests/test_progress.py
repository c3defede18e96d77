"""What a study says of itself while it runs, read from its files."""

import io
from dataclasses import replace

import pandas as pd
import pytest
from click.testing import CliRunner
from filelock import FileLock
from rich.console import Console

from btxrd.files import write_csv, write_json
from btxrd.params import StudyParams
from btxrd.runner.cli import main
from btxrd.runner.progress import MOST_LINES, StudyProgress, run_state, seconds_left, study_status
from btxrd.stages import EVALUATE, FEATURES_FILE, LOCK_FILE, RUN_FILE, STUDY_FILE, TRAIN


@pytest.fixture
def study(tmp_path) -> StudyParams:
    values = {
        "name": "s",
        "dataset_root": str(tmp_path),
        "reports_dir": str(tmp_path),
        "splits": ["stratified", "center"],
        "experiments": ["E1_b0_baseline"],
        "overrides": {"training": {"epochs": 10}},
    }
    return StudyParams.parse(values, "test")


@pytest.fixture
def training(study):
    """The first run in its third epoch, of ten seconds each; the second one not begun."""
    run = study.runs()[0]
    write_json(run.run_dir / RUN_FILE, {"status": "running", "stage": "03_train"})
    write_csv(run.run_dir / "history.csv", pd.DataFrame({"epoch": [1, 2], "val_loss": [1.0, 0.5]}))
    write_csv(run.run_dir / "seconds.csv", pd.DataFrame({"epoch": [1, 2], "seconds": [10, 10]}))
    sessions = [{"slots": 1, "owner": "ann on host"}]
    plan = {"parameters": study.model_dump(), "sessions": sessions}
    write_json(study.study_dir / STUDY_FILE, plan)
    return study


def test_a_runs_state_is_in_its_files(training):
    first, second = map(run_state, training.runs())
    assert (first.state, first.epoch, first.epochs, first.val_loss) == ("training", 2, 10, 0.5)
    assert (first.epoch_seconds, first.other_seconds) == (10, None)
    assert (second.state, second.epoch, second.val_loss) == ("waiting", 0, None)


def test_a_probe_goes_by_its_penalties_and_counts_its_features_once(study):
    penalties = {"mode": "probe", "C": [0.01, 0.1, 1]}
    run = study.model_copy(update={"overrides": {"training": penalties}}).runs()[0]
    write_json(run.run_dir / RUN_FILE, {"status": "running", "stage": "03_train"})
    write_json(run.run_dir / FEATURES_FILE, {"share": 0.4, "seconds": 50})
    assert str(run_state(run)).endswith(", C 0/3, features 40%")
    write_csv(run.run_dir / "history.csv", pd.DataFrame({"C": [0.1], "val_loss": [0.5]}))
    assert str(run_state(run)).endswith(", C 1/3, val loss 0.500")
    write_json(run.run_dir / RUN_FILE, {"status": "finished", "stage_seconds": {"03_train": 90}})
    write_csv(run.run_dir / "seconds.csv", pd.DataFrame({"C": [0.1], "seconds": [10]}))
    assert run_state(run).other_seconds == 30


def test_time_left_counts_the_epochs_to_come_and_what_finished_runs_took_besides(training):
    first, second = map(run_state, training.runs())
    assert seconds_left([second], 1) is None
    assert seconds_left([first, second], 1) == 8 * 10 + 10 * 10
    assert seconds_left([first, second], 2) == 100
    finished = replace(first, state="finished", epoch=10, other_seconds=30.0)
    assert seconds_left([finished, second], 1) == 10 * 10 + 30
    assert seconds_left([finished, replace(finished, state="failed")], 1) == 0


def test_the_line_of_a_training_says_how_fast_it_was_and_how_long_it_waited(training):
    run = training.runs()[0]
    speed = {"epoch": [1, 2], "seconds": [10, 10], "images_per_second": [30, 41.6]}
    write_csv(run.run_dir / "seconds.csv", pd.DataFrame(speed | {"waiting": [0.5, 0.031]}))
    assert "val loss 0.500, 42 images/s (3% waiting), at most" in str(run_state(run))


def test_status_says_who_runs_the_study_and_how_long_still(training):
    with FileLock(training.study_dir / LOCK_FILE):
        lines, _ = study_status(training.study_dir)
    assert lines[0].endswith("training, epoch 2/10, val loss 0.500, at most about 80 s left")
    assert lines[1].endswith("waiting")
    assert lines[-1] == "run by ann on host, at most about 3 min left"


def test_status_of_a_killed_study_says_that_nobody_runs_it(training):
    lines, _ = study_status(training.study_dir)
    assert lines[0].endswith("interrupted, epoch 2/10, val loss 0.500")
    assert lines[-1] == "nobody runs this study now; the same command goes on from here"


@pytest.mark.parametrize(("status", "code"), [("running", 0), ("finished", 0), ("failed", 1)])
def test_the_exit_status_says_whether_a_run_failed(training, status, code):
    write_json(training.runs()[0].run_dir / RUN_FILE, {"status": status, "error": "died"})
    result = CliRunner().invoke(main, ["status", str(training.study_dir)])
    assert result.exit_code == code
    assert f"of 2 runs finished, {code} failed" in result.stdout


@pytest.mark.parametrize(
    ("terminal", "record", "told"),
    [
        (False, {"status": "finished"}, "finished  [1/2 runs, at most about"),
        (True, {"status": "finished"}, None),
        (True, {"status": "failed", "error": "died [so]"}, "failed: died [so]"),
    ],
)
def test_changes_are_told_in_lines_and_above_a_live_view_failures(training, terminal, record, told):
    out, runs = io.StringIO(), training.runs()
    console = Console(file=out, force_terminal=terminal, width=200)
    with StudyProgress(runs, console) as progress:
        for _ in range(2):
            progress.update(slots=1)
        write_json(runs[0].run_dir / RUN_FILE, record)
        progress.update(slots=1)
    lines = [line for line in out.getvalue().splitlines() if f" {runs[0].name}: " in line]
    assert len(lines) == (told is not None)
    assert (told or "") in "".join(lines)


@pytest.mark.parametrize("seeds", [1, MOST_LINES])
def test_the_live_view_shows_the_runs_and_the_time_left(training, seeds):
    """Of a large study, those under way."""
    runs = training.model_copy(update={"seeds": [42, *range(1, seeds)]}).runs()
    with StudyProgress(runs, Console(file=io.StringIO())) as progress:
        progress.update(slots=1)
        *lines, summary = progress.lines().plain.splitlines()
    assert lines[0] == f"{runs[0].name}: {run_state(runs[0])}"
    assert [line.rpartition(": ")[2] for line in lines[1:]] == ["waiting"] * (seeds == 1)
    assert summary.startswith(f"0/{len(runs)} runs, at most about")


def test_status_of_notebooks_run_by_hand(tmp_path):
    with pytest.raises(FileNotFoundError, match="no study"):
        study_status(tmp_path)
    folder = tmp_path / "runs" / "mine" / "center" / "seed-1"
    folder.mkdir(parents=True)
    (folder / "history.csv").write_text("val_loss\n0.9\n0.7\n")
    expected = ("training not finished", "training", "training and evaluation")
    for made, name in zip(
        expected, ("history.csv", TRAIN.writes[-1], EVALUATE.writes[-1]), strict=True
    ):
        (folder / name).touch()
        lines, failed = study_status(tmp_path)
        assert (lines[0], failed) == (f"mine · center · seed-1: {made}, val loss 0.700", 0)
    assert "by hand" in lines[-1]
