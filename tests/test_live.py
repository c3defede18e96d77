"""The bar that follows a training in a notebook."""

import pytest

from btxrd.params import RunParams
from btxrd.report.live import TrainingView
from btxrd.session import SESSION_VARIABLE

ROW = {"epoch": 1, "train_loss": 1.0, "val_loss": 0.9, "val_top1": 0.5, "seconds": 60.0}


@pytest.fixture
def run(tmp_path) -> RunParams:
    return RunParams(experiment="seen", study_dir=str(tmp_path), training={"epochs": 3})


def test_the_bar_moves_within_an_epoch_and_says_the_losses(run):
    view = TrainingView(run)
    view.step(5, 20)
    assert (view.bar.n, view.bar.total) == (5, 60)
    view(ROW | {"images_per_second": 41.6, "waiting": 0.031})
    assert view.bar.n == 20
    assert "images/s=42, waiting=3%" in str(view.bar)
    assert "epoch=1/3, train_loss=1.000, val_loss=0.900, val_top1=0.500" in str(view.bar)
    view.step(10, 20)
    assert view.bar.n == 30
    view.close()


def test_a_training_that_goes_on_begins_where_it_was(run):
    run.run_dir.mkdir(parents=True)
    (run.run_dir / "history.csv").write_text("val_loss\n0.9\n0.8\n")
    view = TrainingView(run)
    assert (view.bar.n, view.bar.total) == (2, 3)
    view.step(1, 20)
    assert (view.bar.initial, view.bar.n) == (40, 41)
    view.close()


def test_the_kernels_of_a_study_show_nothing(run, monkeypatch, capsys):
    monkeypatch.setenv(SESSION_VARIABLE, "a study's")
    view = TrainingView(run)
    view.step(5, 20)
    view(ROW)
    view.close()
    assert capsys.readouterr().err == ""
