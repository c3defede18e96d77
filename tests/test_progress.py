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
    sessions = [{"slots": 1}]
    plan = {"parameters": study.model_dump(), "owner": "ann on host", "sessions": sessions}
    write_json(study.study_dir / STUDY_FILE, plan)
    return study


def test_a_runs_state_is_in_its_files(training):
    first, second = map(run_state, training.runs())
    assert (first.state, first.epoch, first.epochs, first.val_loss) == ("training", 2, 10, 0.5)
    assert (first.epoch_seconds, first.other_seconds) == (10, None)
    assert (second.state, second.epoch, second.val_loss) == ("waiting", 0, None)


def test_a_probe_goes_by_its_penalties(training):
    penalties = {"mode": "probe", "C": [0.01, 0.1, 1]}
    probe = training.model_copy(update={"overrides": {"training": penalties}})
    assert str(run_state(probe.runs()[0])) == "training, C 2/3, val loss 0.500"


def test_a_probe_says_how_far_its_features_are_and_counts_them_once(study):
    probe = study.model_copy(update={"overrides": {"training": {"mode": "probe"}}})
    run = probe.runs()[0]
    write_json(run.run_dir / RUN_FILE, {"status": "running", "stage": "03_train"})
    write_json(run.run_dir / FEATURES_FILE, {"share": 0.4, "seconds": 50})
    assert str(run_state(run)).endswith(", features 40%")
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


def test_status_says_who_runs_the_study_and_how_long_still(training):
    with FileLock(training.study_dir / LOCK_FILE):
        lines, _ = study_status(training.study_dir)
    assert lines[0].endswith("training, epoch 2/10, val loss 0.500")
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


def test_lines_come_with_changes_only(training):
    runs = training.runs()
    out = io.StringIO()
    with StudyProgress(runs, Console(file=out)) as progress:
        progress.say("2 of 2 runs to do")
        progress.update([runs[0]], [runs[1]], slots=1)
        progress.update([runs[0]], [runs[1]], slots=1)
        write_json(runs[0].run_dir / RUN_FILE, {"status": "finished"})
        progress.update([], [runs[1]], slots=1)
    lines = out.getvalue().splitlines()
    assert lines[0].endswith("2 of 2 runs to do")
    assert len(lines) == 2
    assert "stratified · seed 42: finished  [1/2 runs, at most about" in lines[1]


def shown(progress: StudyProgress, width: int) -> list[str]:
    paper = Console(file=io.StringIO(), width=width)
    paper.print(progress.view.get_renderable())
    return paper.file.getvalue().splitlines()


def test_the_live_view_has_a_row_a_run_and_the_time_left(training):
    runs = training.runs()
    with StudyProgress(runs, Console(file=io.StringIO())) as progress:
        progress.update([runs[0]], [runs[1]], slots=1)
        first, second, whole, *_ = shown(progress, width=80)
    assert all(word in first for word in ("2/10", "training", "val loss 0.500", "80 s"))
    assert "waiting" in second
    assert "at most about 3 min left" in whole
    assert "0/2" in whole


def test_a_failure_is_told_above_the_live_view(training):
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    runs = training.runs()
    with StudyProgress(runs, console) as progress:
        progress.update([runs[0]], [runs[1]], slots=1)
        write_json(runs[0].run_dir / RUN_FILE, {"status": "failed", "error": "died [so]"})
        progress.update([], [runs[1]], slots=1)
    assert f"{runs[0].name}: failed: died [so]" in console.file.getvalue()


def test_the_view_of_a_large_study_shows_what_is_under_way(study):
    study = study.model_copy(update={"seeds": list(range(MOST_LINES))})
    runs = study.runs()
    write_json(runs[3].run_dir / RUN_FILE, {"status": "running", "stage": "05_gradcam"})
    with StudyProgress(runs, Console(file=io.StringIO())) as progress:
        progress.update([runs[3]], [run for run in runs if run != runs[3]], slots=1)
        text = "\n".join(shown(progress, width=120))
    assert "seed 3" in text
    assert "Grad-CAM" in text
    assert "seed 4" not in text
    assert f"0/{len(runs)}" in text


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
