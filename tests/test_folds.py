"""A study of several folds and seeds: what is put together, what is refused, what is checked.

The notebooks are stood in for by what they leave, so that a study takes seconds.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from distributed import KilledWorker

from btxrd.data import make_split
from btxrd.evaluation import Bootstrap
from btxrd.evaluation.comparison import compare_runs
from btxrd.evaluation.pools import POOL_FILES
from btxrd.evaluation.summary import evaluate
from btxrd.files import project_path, read_json, write_csv, write_json
from btxrd.params import RunParams, StudyParams
from btxrd.predictions import PARTS, read_predictions, write_predictions
from btxrd.runner.progress import study_status
from btxrd.runner.run import execute_run
from btxrd.runner.study import run_study
from btxrd.runner.verify import verify
from btxrd.stages import COMPARE, EVALUATE, GRADCAM, RUN_FILE, SPLITS, TRAIN

FINDINGS = pd.DataFrame(columns=["severity", "subject", "what", "image_id"])
POOLS = ("pooled/seed-1", "pooled/seed-2", "pooled/ensemble")


def study_in(folder: Path, phantom: Path, cache_dir: Path) -> StudyParams:
    values = {
        "name": "folds",
        "dataset_root": str(phantom),
        "cache_dir": str(cache_dir),
        "reports_dir": str(folder),
        "splits": ["center_cv"],
        "seeds": [1, 2],
        "experiments": ["E1_b0_baseline"],
        "replicates": 20,
        "prevalences": [0.05],
    }
    return StudyParams.parse(values, "test")


class Notebooks:
    """In the place of papermill: leaves what a notebook would, and fails where it is told to."""

    def __init__(self, table: pd.DataFrame, predicted) -> None:
        self.table, self.predicted = table, predicted
        self.done: list[str] = []
        self.failing: set[str] = set()

    def __call__(self, stage, folder, parameters, environment):
        folder = project_path(folder)
        for name in stage.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("left\n")
        if stage == SPLITS:
            split = make_split(self.table, "center_cv")
            write_csv(folder / "splits" / "center_cv.csv", split)
        elif stage == TRAIN:
            self.train(RunParams.parse(parameters, "test"))
        elif stage == EVALUATE:
            found = read_predictions(folder / "predictions.csv")
            self.write(folder, evaluate(found, Bootstrap(20), [0.05]))
        elif stage == GRADCAM:
            maps = pd.DataFrame({"image_id": [folder.parts[-2]], "label": 1, "iou": 0.5})
            write_csv(folder / "gradcam.csv", maps)
        elif stage == COMPARE:
            self.write(folder, compare_runs(folder, Bootstrap(20)))
        else:
            write_csv(folder / "findings.csv", FINDINGS)
        self.done.append(f"{stage.title} {'/'.join(folder.parts[-2:])}")

    def train(self, run: RunParams) -> None:
        if f"fold-{run.fold}/seed-{run.seed}" in self.failing:
            raise RuntimeError("the network would not learn")
        frames = [
            self.predicted((9, 8, 7), [run.fold, run.seed], part=part, center=run.fold)
            for part in PARTS
        ]
        frame = pd.concat(frames, ignore_index=True)
        frame["image_id"] = f"{run.fold}-" + frame["image_id"]
        write_predictions(run.run_dir / "predictions.csv", frame)
        facts = {"parameters": run.model_dump(), "device": "cpu", "seconds": 1.0, "epochs": 1}
        write_json(run.run_dir / "training.json", facts)

    @staticmethod
    def write(folder, contents) -> None:
        for name, content in contents.items():
            (write_json if name.endswith("json") else write_csv)(folder / name, content)


@pytest.fixture(scope="module")
def notebooks(table, predicted, here) -> Iterator[Notebooks]:
    standing_in = Notebooks(table, predicted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("btxrd.runner.study.Cluster", here)
        for module in ("run", "study"):
            patch.setattr(f"btxrd.runner.{module}.execute_notebook", standing_in)
        yield standing_in


@pytest.fixture
def study(tmp_path, phantom, cache_dir, notebooks) -> StudyParams:
    notebooks.failing = set()
    notebooks.done.clear()
    return study_in(tmp_path, phantom, cache_dir)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, phantom, cache_dir, notebooks) -> StudyParams:
    study = study_in(tmp_path_factory.mktemp("reports"), phantom, cache_dir)
    assert not run_study(study).failed
    return study


def folder_of(study, name):
    return study.study_dir / "runs" / "E1_b0_baseline" / "center_cv" / name


def evaluated(notebooks) -> list[str]:
    """Which runs and pools were evaluated since one asked last."""
    done = [name.split(" ")[1] for name in notebooks.done if name.startswith(EVALUATE.title)]
    notebooks.done.clear()
    return done


def test_folds_are_runs_and_their_pools_follow(finished, notebooks):
    study = finished
    assert evaluated(notebooks) == [
        *(f"fold-{fold}/seed-{seed}" for seed in (1, 2) for fold in (1, 2, 3)),
        *POOLS,
    ]
    for name in POOLS:
        pool = read_predictions(folder_of(study, name) / "predictions.csv")
        tested = pool[pool["part"] == "test"]
        assert tested["image_id"].is_unique
        assert tested.groupby("fold").size().tolist() == [24] * 3
        record = read_json(folder_of(study, name) / RUN_FILE)
        assert record["status"] == "finished"
        # An ensemble has no heat maps of its own.
        lacks = {"gradcam.csv"} if "ensemble" in name else set()
        assert set(record["files"]) == {*EVALUATE.writes, *POOL_FILES} - lacks
    assert verify(study.study_dir) == []
    lines, _ = study_status(study.study_dir)
    assert lines[-4:] == [
        "E1_b0_baseline · center_cv · pooled · ensemble: finished",
        "6 of 6 runs finished, 0 failed",
        "3 of 3 pools made of them",
        "nobody runs this study now",
    ]
    assert not run_study(study).failed
    assert notebooks.done == []


def test_a_pool_that_lacks_a_fold_is_not_made_and_that_is_said(study, notebooks):
    notebooks.failing = {"fold-2/seed-2"}
    result = run_study(study)
    assert [name.partition(" · ")[2] for name in result.failed] == [
        "center_cv · fold 2 · seed 2",
        "center_cv · pooled · seed 2",
        "center_cv · pooled · ensemble",
    ]
    error = "not made: of its 3 runs, E1_b0_baseline · center_cv · fold 2 · seed 2 did not finish"
    assert result.failed["E1_b0_baseline · center_cv · pooled · seed 2"]["error"] == error
    assert evaluated(notebooks)[-1] == POOLS[0]
    assert "1 of 3 pools made of them" in study_status(study.study_dir)[0]
    comparison = pd.read_csv(study.study_dir / "comparison.csv")
    assert f"center_cv, pooled, seed 2: {error}" in comparison.loc[0, "Errors"]
    assert verify(study.study_dir) == []
    # Where the fold is mended, it is run, and the pools that lacked it are made.
    notebooks.failing = set()
    assert not run_study(study).failed
    assert evaluated(notebooks) == ["fold-2/seed-2", *POOLS[1:]]


def test_a_pool_of_what_is_no_longer_there_is_moved_aside(study, notebooks):
    run_study(study)
    shutil.rmtree(folder_of(study, "fold-3/seed-1"))
    notebooks.failing = {"fold-3/seed-1"}
    assert len(run_study(study).failed) == 3
    for name in (POOLS[0], POOLS[2]):
        assert not (folder_of(study, name) / "predictions.csv").exists()
        (aside,) = folder_of(study, "pooled").glob(f"{name.partition('/')[2]}.old-*")
        assert (aside / "metrics.json").is_file()
    run_study(study)
    assert len(list(folder_of(study, "pooled").glob("*.old-*"))) == 2


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KilledWorker("run", None, 3), "its worker process died 4 times"),
        (RuntimeError("no room\non the worker"), "its worker gave up: RuntimeError: no room"),
    ],
)
def test_a_run_whose_worker_cannot_go_on_fails_alone(study, notebooks, monkeypatch, error, told):
    def give_up(task, *arguments):
        if (task.params.fold, task.params.seed) == (1, 1):
            raise error
        return execute_run(task, *arguments)

    monkeypatch.setattr("btxrd.runner.study.execute_run", give_up)
    failed = list(run_study(study).failed.values())
    assert failed[0]["error"].startswith(told)
    assert all(record["error"].startswith("not made") for record in failed[1:])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fold-1/seed-1", ["fold-1/seed-1/predictions.csv", "pooled/seed-1/predictions.csv"]),
        ("pooled/seed-1", ["pooled/seed-1/predictions.csv: missing, or not", "files of its runs"]),
    ],
)
def test_an_edited_fold_or_pool_is_noticed(finished, tmp_path, btxrd, name, told):
    shutil.copytree(finished.study_dir, tmp_path / "copy")
    path = tmp_path / "copy" / "runs" / "E1_b0_baseline" / "center_cv" / name / "predictions.csv"
    frame = read_predictions(path)
    columns = [c for c in frame if c.startswith(("p_", "logit_"))]
    frame.loc[0, columns] = frame.loc[1, columns]
    write_predictions(path, frame)
    outcome = btxrd("verify", tmp_path / "copy")
    assert outcome.exit_code == 1
    for words in told:
        assert words in outcome.output


@pytest.mark.parametrize("name", ["PUBLISHED_FILE", "CLAIM_FILE"])
def test_what_the_clone_lays_beside_is_read_again_where_it_changes(
    name, study, notebooks, monkeypatch
):
    beside = study.study_dir / "beside.csv"
    monkeypatch.setattr(f"btxrd.runner.study.{name}", str(beside))
    run_study(study)
    for line, redone in (("source", True), ("source", False), ("other", True)):
        beside.write_text(line)
        notebooks.done.clear()
        run_study(study)
        assert [done.split()[0] for done in notebooks.done] == ["comparison"] * redone
