import numpy as np
import pandas as pd
import pytest
import torch

from btxrd.data.loader import make_datasets, make_loader
from btxrd.models import compute_class_weights, create_model, load_checkpoint
from btxrd.params import RunParams
from btxrd.training import fit, predict_logits, seed_everything

CPU = torch.device("cpu")
SMALL = {
    "experiment": "test",
    "model": {"backbone": "resnet10t", "pretrained": False},
    "data": {"image_size": 64},
    "training": {"epochs": 3, "warmup_epochs": 1, "lr": 1e-3},
}


class Killed(Exception):
    """Stands for the end of the process in the middle of a training."""


@pytest.fixture(scope="module")
def train(cache, split, tmp_path_factory):
    """Train the small network; returns the outcome and its folder."""

    def run(run_dir=None, on_epoch=lambda row: None, **training):
        run_dir = run_dir or tmp_path_factory.mktemp("run")
        params = RunParams.parse({**SMALL, "training": SMALL["training"] | training}, "test")
        seed_everything(params.seed)
        datasets = make_datasets(cache, split, params.data, params.seed)
        loaders = {p: make_loader(d, 32, 42, p == "train") for p, d in datasets.items()}
        config = params.model_dump()
        model = create_model(config)
        weights = compute_class_weights(datasets["train"].labels)
        arguments = (params.training, weights, run_dir, config, CPU, on_epoch)
        result = fit(model, loaders["train"], loaders["val"], *arguments)
        return result, run_dir, predict_logits(model, loaders["test"], CPU)

    return run


@pytest.fixture(scope="module")
def whole(train):
    return train()


def test_the_history_has_a_row_an_epoch_with_every_metric(whole):
    history = pd.read_csv(whole[1] / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3]
    for part in ("train", "val"):
        assert (history[f"{part}_loss"] > 0).all()
        assert (history[f"{part}_top2"] >= history[f"{part}_top1"]).all()
        assert history[f"{part}_recall_Malignant"].between(0, 1).all()
    assert history["lr"][0] < history["lr"][1] > history["lr"][2]


def test_the_checkpoint_is_the_best_epoch(whole):
    result, run_dir, _ = whole
    checkpoint = load_checkpoint(run_dir / "model.pt")
    assert checkpoint["epoch"] == result.best_epoch
    assert checkpoint["val_loss"] == pytest.approx(result.history["val_loss"].min())
    assert checkpoint["config"]["data"]["contrast"] == "clahe"


def test_the_same_seed_gives_the_same_numbers(whole, train):
    np.testing.assert_array_equal(whole[2], train()[2])


def test_an_interrupted_training_goes_on_to_the_same_end(whole, train, tmp_path):
    def die_at(epoch):
        def on_epoch(row):
            if row["epoch"] == epoch:
                raise Killed

        return on_epoch

    for epoch in (1, 2):
        with pytest.raises(Killed):
            train(tmp_path, die_at(epoch))
    result, _, logits = train(tmp_path)
    np.testing.assert_array_equal(logits, whole[2])
    drop = ["seconds"]
    pd.testing.assert_frame_equal(
        result.history.drop(columns=drop), whole[0].history.drop(columns=drop)
    )


def test_a_folder_of_other_parameters_is_not_taken_up(whole, train):
    with pytest.raises(ValueError, match=r"last\.pt belongs to other parameters"):
        train(whole[1], lr=5e-4)


def test_a_damaged_state_is_named(train, tmp_path):
    (tmp_path / "last.pt").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"last\.pt is damaged"):
        train(tmp_path)


def test_a_diverging_loss_stops_at_once_and_says_where(train):
    with pytest.raises(
        FloatingPointError, match=r"epoch 1, step \d.*lower training\.lr than 1e\+30"
    ):
        train(lr=1e30, warmup_epochs=0)


def test_early_stopping_ends_a_training(train):
    result, _, _ = train(epochs=30, patience=1, lr=0.05)
    assert len(result.history) < 30
    assert result.best_epoch == len(result.history) - 1
