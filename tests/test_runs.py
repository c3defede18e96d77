"""Runs and pools: what their files say, and in which order they stand."""

import numpy as np
import pandas as pd
import pytest

from btxrd.evaluation.runs import collect_runs
from btxrd.files import write_csv, write_json
from btxrd.params import RunPlace

PLACES = [
    RunPlace("late", "center", 42),
    RunPlace("early", "stratified", 42),
    RunPlace("early", "grouped", 9),
    RunPlace("early", "grouped", 100),
    RunPlace("early", "grouped", "ensemble"),
    RunPlace("early", "grouped_cv", 42, 1),
    RunPlace("early", "grouped_cv", 42, 2),
    RunPlace("early", "grouped_cv", 42, "pooled"),
    RunPlace("unnamed", "stratified", 42),
]
"""In the order in which they are read."""


@pytest.fixture
def study(tmp_path):
    """A study of runs and pools, a folder moved aside, and one of a split that there is not."""
    for place in reversed(PLACES):
        write_json(tmp_path / place.path / "run.json", {"status": "finished"})
    for other in ("center/seed-42.old-20260101", "elsewhere/seed-1", "grouped_cv/fold-1"):
        write_json(tmp_path / "runs" / "x" / other / "run.json", {})
    write_json(tmp_path / "study.json", {"parameters": {"experiments": ["late", "early"]}})
    return tmp_path


def test_runs_stand_in_the_order_of_the_study(study):
    runs = collect_runs(study)
    found = [RunPlace(run.experiment, run.split, run.seed, run.fold) for run in runs]
    assert found == PLACES
    assert [run.is_whole for run in runs[5:8]] == [False, False, True]
    assert [run.is_pool for run in runs[4:8]] == [True, False, False, True]


def test_a_run_is_what_its_files_say(study):
    folder = study / PLACES[0].path
    write_json(folder / "run.json", {"status": "failed", "error": "the kernel died"})
    write_json(folder / "metrics.json", {"test": {"intervals": {"accuracy": [0.5, None, 0.6]}}})
    (folder / "03_train.html").touch()
    (folder / "run.html").touch()
    failed, finished, *_ = collect_runs(study)
    assert (failed.status, failed.error, failed.is_evaluated) == (
        "failed",
        "the kernel died",
        False,
    )
    assert failed.pages == {"training": "03_train.html"}
    assert failed.interval("accuracy") == pytest.approx((0.5, np.nan, 0.6), nan_ok=True)
    assert np.isnan(finished.interval("accuracy")).all()
    assert (finished.pages, finished.gradcam) == ({}, None)


def test_heat_maps_are_averaged_over_tumours(study):
    maps = pd.DataFrame({"label": [0, 1, 2], "iou": [np.nan, 0.1, 0.3]})
    write_csv(study / PLACES[0].path / "gradcam.csv", maps)
    run, without, *_ = collect_runs(study)
    assert run.mean_of_maps("iou") == pytest.approx(0.2)
    assert np.isnan([run.mean_of_maps("iou_attention"), without.mean_of_maps("iou")]).all()
