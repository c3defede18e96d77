"""A whole study of the probe on the real radiographs, where they stand beside the clone."""

import pytest

from btxrd.evaluation.runs import collect_runs
from btxrd.params import StudyParams
from btxrd.runner.study import run_study

pytestmark = pytest.mark.real

LEAST = {"stratified": 0.81, "grouped": 0.82, "center": 0.61}
"""Macro AUC on test that a network with trained weights has to reach: split → bound."""


@pytest.fixture(scope="module")
def runs(real_images, tmp_path_factory):
    """The runs by split."""
    folder = tmp_path_factory.mktemp("real")
    values = {
        "name": "real",
        "dataset_root": str(real_images),
        "cache_dir": str(folder / "cache"),
        "reports_dir": str(folder),
        "splits": list(LEAST),
        "experiments": ["E0_lite0_probe"],
        "overrides": {"data": {"resize": "stretch"}},
    }
    study = StudyParams.parse(values, "test")
    assert run_study(study).failed == {}
    return {run.split: run for run in collect_runs(study.study_dir)}


@pytest.mark.parametrize("split", LEAST)
def test_frozen_features_know_radiographs(runs, split):
    assert runs[split].interval("macro_auc")[0] >= LEAST[split]
    assert runs[split].interval("macro_auc", "val")[0] >= LEAST[split] - 0.03


def test_every_run_measures_its_heat_maps(runs):
    assert all(0 < run.mean_of_maps("iou") < 1 for run in runs.values())
