"""Which runs of a study are subtracted, and which are refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from btxrd.evaluation.contrasts import (
    difference_report,
    experiment_contrasts,
    gap_contrasts,
    gap_report,
    seed_report,
)

from btxrd.evaluation.comparisons import METRICS
from btxrd.evaluation.runs import collect_runs
from btxrd.files import write_json
from btxrd.params import RunParams
from btxrd.predictions import predictions_frame, write_predictions


def add_run(
    study: Path, experiment: str, split: str, skill: float, seed: int = 42, **training
) -> None:
    params = RunParams(experiment=experiment, split=split, seed=seed, training=training)
    folder = study / "runs" / experiment / split / f"seed-{seed}"
    write_json(folder / "run.json", {"status": "finished", "parameters": params.model_dump()})
    write_json(folder / "metrics.json", {"test": {"n": 90}})
    labels = np.repeat([0, 1, 2], 30)
    rows = pd.DataFrame({"image_id": [f"{split}{i}" for i in range(90)], "label": labels})
    rows = rows.assign(part="test", center=1, group=rows["image_id"])
    random = np.random.default_rng([seed, int(100 * skill)])
    logits = skill * np.eye(3)[labels] + random.normal(size=(90, 3))
    write_predictions(folder / "predictions.csv", predictions_frame(rows, logits))


@pytest.fixture
def study(tmp_path):
    add_run(tmp_path, "good", "stratified", 3.0)
    add_run(tmp_path, "good", "center", 0.5)
    add_run(tmp_path, "poor", "stratified", 0.5)
    add_run(tmp_path, "longer", "stratified", 1.0, epochs=99)
    return tmp_path


def test_experiments_are_compared_pairwise_and_the_better_one_is_found(study):
    contrasts = experiment_contrasts(collect_runs(study), study, replicates=200)
    table = contrasts.table.set_index("metric")
    assert set(table["split"]) == {"stratified"}
    assert len(table) == len(METRICS) + 1
    assert table.loc["macro_auc", "difference"] < -0.2
    assert table.loc["macro_auc", "p_holm"] < 0.05
    report = difference_report(contrasts.table, "good").set_index("Metric")
    assert report.loc["Macro AUC", "Difference"].startswith("+0.")
    assert report.loc["Macro AUC", "good against"] == "poor"


def test_runs_that_differ_in_more_are_refused_and_the_key_is_named(study):
    refused = experiment_contrasts(collect_runs(study), study, replicates=20).refused
    assert len(refused) == 2
    assert all("training.epochs is 50 and 99" in line or "99 and 50" in line for line in refused)


def test_the_gap_is_what_is_lost_in_the_other_center(study):
    contrasts = gap_contrasts(collect_runs(study), study, replicates=200)
    assert set(contrasts.table["experiment"]) == {"good"}
    gap = contrasts.table.set_index("metric").loc["macro_auc"]
    assert 0 < gap["low"] < gap["difference"] < gap["high"]
    assert gap_report(contrasts.table)["Gap"].str.startswith("+").all()


def test_several_seeds_have_their_mean_spread_and_ensemble(study):
    assert seed_report(collect_runs(study), study).empty
    add_run(study, "good", "stratified", 3.0, seed=7)
    report = seed_report(collect_runs(study), study, replicates=50)
    assert report["Seeds"].tolist() == [2] * len(METRICS)
    assert set(report["Experiment"]) == {"good"}


def test_a_study_without_predictions_has_no_differences(tmp_path):
    assert experiment_contrasts([], tmp_path).table.empty
    assert gap_report(gap_contrasts([], tmp_path).table).empty
    assert difference_report(experiment_contrasts([], tmp_path).table, None).empty
