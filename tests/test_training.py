import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock, Timeout
from torch import nn

from btxrd.data.loader import make_datasets, make_loader
from btxrd.models import (
    BTXRDClassifier,
    create_model,
    features_and_logits,
    load_checkpoint,
    model_from_checkpoint,
    predict_logits,
    to_input,
)
from btxrd.params import RunParams, TrainingParams
from btxrd.report.figures import history_figure
from btxrd.session import StopRequested, StopWithStudy
from btxrd.training import cam_loss, parameter_groups, seed_everything, warmup_cosine

SMALL = {
    "experiment": "test",
    "model": {"backbone": "test_resnet", "pretrained": False},
    "data": {"image_size": 64},
    "training": {"epochs": 3, "warmup_epochs": 1, "lr": 1e-3},
}


@pytest.fixture(scope="module")
def train(cache, split, fit_network, tmp_path_factory):
    """Train the small network; returns the outcome, the run's folder and the test logits."""

    def train_one(study_dir=None, on_epoch=(), model=SMALL["model"], **training):
        study_dir = str(study_dir or tmp_path_factory.mktemp("study"))
        values = {"study_dir": study_dir, "model": model, "training": SMALL["training"] | training}
        run = RunParams.parse({**SMALL, **values}, "test")
        seed_everything(run.seed)
        datasets = make_datasets(cache, split, run.data, run.seed, masks=run.needs_masks)
        network = create_model(run.model_dump())
        balanced = {"train": not run.weighs_classes}
        loaders = {
            part: make_loader(samples, 32, 42, part == "train", balanced=balanced.get(part, False))
            for part, samples in datasets.items()
        }
        result = fit_network(network, loaders, run, on_epoch)
        return result, run.run_dir, predict_logits(network, loaders["test"])

    return train_one


@pytest.fixture(scope="module")
def whole(train):
    return train()


def test_the_history_has_a_row_an_epoch_with_every_metric_and_so_has_the_speed(whole):
    result, run_dir, _ = whole
    history = pd.read_csv(run_dir / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3]
    for part in ("train", "val"):
        assert (history[f"{part}_loss"] > 0).all()
        assert (history[f"{part}_top2"] >= history[f"{part}_top1"]).all()
        assert history[f"{part}_recall_Malignant"].between(0, 1).all()
    assert history["lr"][0] < history["lr"][1] > history["lr"][2]
    assert "train_cam_loss" not in history
    speed = pd.read_csv(run_dir / "seconds.csv")
    assert speed.columns.tolist() == ["epoch", "seconds", "images_per_second", "waiting"]
    assert speed["epoch"].tolist() == [1, 2, 3] == result.speed["epoch"].tolist()
    assert (speed[["seconds", "images_per_second"]] > 0).all(axis=None)
    assert speed["waiting"].between(0, 1).all()


def test_the_checkpoint_is_the_best_epoch(whole):
    result, run_dir, _ = whole
    checkpoint = load_checkpoint(run_dir / "model.pt")
    assert checkpoint["epoch"] == result.best["epoch"]
    assert checkpoint["val_loss"] == pytest.approx(result.history["val_loss"].min())
    assert checkpoint["config"]["data"]["contrast"] == "clahe"


@pytest.mark.parametrize(
    "recipe", [{}, {"model": SMALL["model"] | {"flip_at_test": True}}, {"ema": 0.9}]
)
def test_training_validates_what_prediction_does(train, cache, split, recipe):
    result, run_dir, _ = train(**recipe)
    checkpoint = load_checkpoint(run_dir / "model.pt")
    assert checkpoint["normalization"]["mean"] == [0.5, 0.5, 0.5]
    samples = make_datasets(cache, split, RunParams.parse(SMALL, "test").data, 42)["val"]
    logits = predict_logits(model_from_checkpoint(checkpoint), make_loader(samples, 32, 42, False))
    loss = nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(samples.labels))
    assert loss.item() == pytest.approx(result.history["val_loss"].min())


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"cam_weight": 0.5},
        {"ema": 0.9, "layer_decay": 0.8, "sampling": "balanced"},
        {"ema": 0.9, "model": SMALL["model"] | {"frozen_stages": 2}},
    ],
)
def test_an_interrupted_training_goes_on_to_the_same_end(train, die_at, tmp_path, recipe):
    _, run_dir, expected = train(tmp_path, **recipe)
    whole = run_dir.rename(tmp_path / "whole")
    for epoch in (1, 2):
        with pytest.raises(die_at.Killed):
            train(tmp_path, [die_at(epoch)], **recipe)
    result, _, logits = train(tmp_path, **recipe)
    np.testing.assert_array_equal(logits, expected)
    for name in ("history.csv", "model.pt"):
        assert (run_dir / name).read_bytes() == (whole / name).read_bytes()
    assert len(result.speed) == 3


def test_frozen_stages_keep_their_weights_and_their_statistics(train):
    frozen = {"model": SMALL["model"] | {"frozen_stages": 2}}
    _, run_dir, _ = train(epochs=1, ema=0.9, **frozen)
    seed_everything(42)
    first = create_model(SMALL | frozen).state_dict()
    trained = load_checkpoint(run_dir / "model.pt")["model_state_dict"]
    same = {name for name, tensor in trained.items() if torch.equal(tensor, first[name])}
    stages = ("model.conv1.", "model.bn1.", "model.layer1.")
    assert same == {name for name in trained if name.startswith(stages)}


def test_the_average_of_the_weights_is_kept_beside_them(train):
    _, run_dir, _ = train(epochs=1, ema=0.9)
    last, kept = (torch.load(run_dir / f"{name}.pt") for name in ("last", "model"))
    for name, averaged in kept["model_state_dict"].items():
        assert torch.equal(averaged, last["ema"][f"module.{name}"])
        if "weight" in name or "running" in name:
            assert not torch.equal(averaged, last["model"][name])


def test_an_average_that_forgets_all_is_the_weights_themselves(train, whole):
    forgetful = train(ema=1e-9)[0]
    pd.testing.assert_frame_equal(forgetful.history, whole[0].history)


def test_an_average_stays_nearer_to_the_first_weights_the_slower_it_is(train):
    run = RunParams.parse(SMALL, "test")
    seed_everything(run.seed)
    first = create_model(run.model_dump())
    moved = []
    for decay in (0.0, 0.5, 0.99):
        _, run_dir, _ = train(epochs=1, warmup_epochs=0, lr=0.01, ema=decay)
        kept = load_checkpoint(run_dir / "model.pt")["model_state_dict"]
        steps = [kept[name] - weight for name, weight in first.named_parameters()]
        moved.append(torch.cat([step.flatten() for step in steps]).norm().item())
    assert moved == sorted(moved, reverse=True)


def test_the_rate_falls_from_the_head_to_the_first_layer():
    settings = TrainingParams(lr=1e-3, layer_decay=0.5, weight_decay=0.1)
    model = {"pretrained": False, "attention": "mask_guided", "frozen_stages": 1}
    network = BTXRDClassifier("resnet18", **model)
    groups = torch.optim.AdamW(parameter_groups(network, settings), settings.lr).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in groups)
    rate = {
        name: rates[id(parameter)]
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    }
    assert len(rate) == len(rates)
    assert parameter_groups(network, TrainingParams()) == [{"params": list(network.parameters())}]
    assert rate["attention.classifier.weight"] == settings.lr > rate["model.layer4.0.conv1.weight"]
    assert rate["model.layer4.1.conv1.weight"] == pytest.approx(
        2 * rate["model.layer4.0.conv1.weight"]
    )


def test_every_callback_follows_the_saved_epoch(train, tmp_path):
    saved, seen = [], []

    def look(row):
        history = pd.read_csv(next(tmp_path.rglob("history.csv")))
        saved.append((len(history), history["val_loss"].iloc[-1]))

    train(tmp_path, [look, seen.append], epochs=2)
    assert saved == [(row["epoch"], row["val_loss"]) for row in seen]
    assert [row["epoch"] for row in seen] == [1, 2]
    assert all(row["seconds"] > 0 for row in seen)


def test_a_study_that_is_to_stop_ends_a_training_after_its_epoch(train, tmp_path, monkeypatch):
    monkeypatch.setenv("BTXRD_SESSION", "s")
    (tmp_path / "study.json").write_text('{"session": "s", "stopping": true}')
    with pytest.raises(StopRequested, match="stopped on request"):
        train(tmp_path, [StopWithStudy(tmp_path)])
    assert len(pd.read_csv(next(tmp_path.rglob("history.csv")))) == 1


def test_states_that_cannot_be_taken_up_are_named(train, tmp_path):
    _, run_dir, _ = train(tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"last\.pt belongs to other parameters"):
        train(tmp_path, epochs=1, lr=5e-4)
    torch.save({"weights": torch.zeros(1)}, run_dir / "last.pt")
    with pytest.raises(ValueError, match=r"last\.pt is no checkpoint: it lacks .*; delete it"):
        train(tmp_path)
    (run_dir / "last.pt").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"last\.pt is damaged.*; delete it to train anew"):
        train(tmp_path)


def test_without_its_best_epoch_a_training_starts_anew(train, die_at, whole, tmp_path):
    with pytest.raises(die_at.Killed):
        train(tmp_path, [die_at(1)])
    next(tmp_path.rglob("model.pt")).unlink()
    _, run_dir, logits = train(tmp_path)
    np.testing.assert_array_equal(logits, whole[2])
    assert (run_dir / "model.pt").is_file()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "CUDA is out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate"), "or fewer --jobs"),
        (MemoryError(), "this machine is out of memory"),
    ],
)
def test_out_of_memory_says_where_and_which_batch_size_to_try(train, monkeypatch, error, words):
    calls = iter([None, None, error])

    def step(batch, normalization):
        if (raised := next(calls)) is not None:
            raise raised
        return to_input(batch, normalization)

    monkeypatch.setattr("btxrd.models.inference.to_input", step)
    with pytest.raises(MemoryError) as raised:
        train()
    for fact in (words, "epoch 1, step 3", "training.batch_size 16 instead of 32"):
        assert fact in str(raised.value)


def test_a_validation_loss_that_is_no_number_stops_at_once(train, monkeypatch):
    forward = BTXRDClassifier.forward

    def broken(network, images):
        """One image of a validation batch has no number for an answer."""
        logits = forward(network, images)
        return logits if network.training else torch.cat([logits[:1] * torch.nan, logits[1:]])

    monkeypatch.setattr(BTXRDClassifier, "forward", broken)
    with pytest.raises(FloatingPointError, match=r"validation loss after epoch 1 is nan"):
        train()


def test_a_full_disk_leaves_the_last_epoch_to_go_on_from(
    train, die_at, whole, tmp_path, no_file_above
):
    with pytest.raises(die_at.Killed):
        train(tmp_path, [die_at(1)])
    with no_file_above(1_000_000), pytest.raises(OSError, match=r"no room to write .*\.pt"):
        train(tmp_path)
    assert not list(tmp_path.rglob(".writing-*"))
    np.testing.assert_array_equal(train(tmp_path)[2], whole[2])


def test_a_second_training_in_the_same_folder_waits_for_the_first(train, tmp_path):
    def is_locked(row):
        with pytest.raises(Timeout):
            FileLock(next(tmp_path.rglob(".training.lock")), timeout=0).acquire()

    train(tmp_path, [is_locked])


def test_a_diverging_loss_stops_at_once_and_says_where(train):
    with pytest.raises(FloatingPointError, match=r"epoch 1, step \d.*training\.lr .*1e\+30"):
        train(lr=1e30, warmup_epochs=0)


def test_early_stopping_ends_a_training(train):
    result, _, _ = train(epochs=30, patience=1, lr=0.05)
    assert len(result.history) < 30
    assert result.best["epoch"] == len(result.history) - 1


@pytest.mark.parametrize(
    ("warmup", "rates"),
    [
        (0, [1, 0.9045, 0.6545, 0.3455, 0.0955, 0]),
        (2, [0.01, 0.505, 1, 0.75, 0.25, 0]),
        (4, [0.01, 0.505, 1, 0.75, 0.25, 0]),  # half of the steps at most
    ],
)
def test_the_rate_rises_linearly_and_falls_along_a_cosine(warmup, rates):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)
    scheduler = warmup_cosine(optimizer, warmup, 5)
    found = [scheduler.get_last_lr()[0]]
    for _ in range(5):
        optimizer.step()
        scheduler.step()
        found.append(scheduler.get_last_lr()[0])
    assert found == pytest.approx(rates, abs=1e-4)


def test_the_cam_loss_is_the_maps_energy_outside_the_lesion():
    features = torch.tensor([[[[1.0, 3], [0, 0]], [[1, 1], [4, 0]]]]).repeat(3, 1, 1, 1)
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    masks = torch.zeros(3, 8, 8, dtype=torch.uint8)
    masks[:, :4, 4:] = 1
    losses = cam_loss(features, weight, torch.tensor([0, 1, 2]), masks)
    assert losses.tolist() == pytest.approx([1 / 4, 5 / 6, 1])


def test_a_lesion_smaller_than_a_place_of_the_map_can_be_met_in_full():
    features = torch.tensor([[[[0.0, 2.0], [0.0, 0.0]]]])
    masks = torch.zeros(1, 8, 8, dtype=torch.uint8)
    masks[0, 1, 6] = 1
    assert cam_loss(features, torch.ones(3, 1), torch.tensor([0]), masks).item() == 0


@pytest.mark.parametrize("backbone", ["efficientnet_b0", "test_resnet"])
def test_steps_against_the_cam_loss_move_the_maps_into_the_lesions(cache, backbone):
    rows = np.flatnonzero(cache.masks.any(axis=(1, 2)))[:16]
    images, masks = (torch.from_numpy(kept[rows]) for kept in (cache.images, cache.masks))
    labels = torch.arange(16) % 2 + 1
    torch.manual_seed(0)
    network = BTXRDClassifier(backbone, pretrained=False).train()
    optimizer, losses = torch.optim.AdamW(network.parameters(), lr=1e-3), []
    for _ in range(20):
        features, _ = features_and_logits(network, to_input(images, network.normalization))
        loss = cam_loss(features, network.model.get_classifier().weight, labels, masks).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_cam_weight_pulls_the_maps_of_a_training_into_the_lesions(train):
    # So light a weight measures the loss and pulls at nothing.
    free, pulled = (train(epochs=10, warmup_epochs=0, cam_weight=w)[0].history for w in (1e-6, 5))
    assert pulled["train_cam_loss"].between(0, 1).all()
    assert pulled["train_cam_loss"].mean() < 0.9 * free["train_cam_loss"].mean()
    history_figure(pulled)


def test_a_network_without_class_maps_is_refused_before_the_first_epoch(train):
    model = {"backbone": "mobilenetv3_small_050", "pretrained": False}
    with pytest.raises(ValueError, match=r"cam_weight: MobileNetV3 does not end in global average"):
        train(model=model, cam_weight=0.5)
