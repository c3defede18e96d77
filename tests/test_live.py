"""The view that follows a training in a notebook."""

from types import SimpleNamespace

import pytest

from btxrd.params import RunParams
from btxrd.report import live
from btxrd.session import SESSION_VARIABLE

ROW = {"epoch": 1, "train_loss": 1.0, "val_loss": 0.9, "val_top1": 0.5, "seconds": 60.0}


@pytest.fixture
def run(tmp_path) -> RunParams:
    training = {"epochs": 3}
    return RunParams(experiment="seen", study_dir=str(tmp_path), training=training)


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    """What the view has shown, the newest last."""
    texts = []
    handle = SimpleNamespace(update=lambda content: texts.append(getattr(content, "data", "")))
    monkeypatch.setattr(live, "display", lambda *_, **__: handle)
    monkeypatch.setattr(live, "STEP_SECONDS", -1)
    return texts


def test_the_bar_moves_within_an_epoch_and_says_what_is_left(run, shown):
    view = live.TrainingView(run)
    view.step(5, 20)
    assert 'value="0.25" max="3"' in shown[-1]
    assert "step 5/20" in shown[-1]
    view(ROW)
    assert "<b>1/3</b>" in shown[-1]
    assert "60.0 s each · at most 120 s left" in shown[-1]
    view.step(10, 20)
    assert 'value="1.5"' in shown[-1]
    assert "val loss 0.900" in shown[-1]


def test_a_finished_training_says_that_it_is(run, shown):
    run.run_dir.mkdir(parents=True)
    (run.run_dir / "history.csv").write_text("val_loss\n0.9\n0.8\n")
    live.TrainingView(run).close()
    assert "<b>2/3</b> · already trained" in shown[-1]


def test_the_kernels_of_a_study_show_epochs_only(run, shown, monkeypatch):
    monkeypatch.setenv(SESSION_VARIABLE, "a study's")
    view = live.TrainingView(run)
    view.step(5, 20)
    assert not shown
    view(ROW)
    assert len(shown) == 1


def test_a_folder_of_an_odd_name_is_no_markup(tmp_path, shown):
    run = RunParams(experiment="seen", study_dir=str(tmp_path / "x<b id=c>1"))
    live.TrainingView(run).close()
    assert "x&lt;b id=c&gt;1" in shown[-1]
