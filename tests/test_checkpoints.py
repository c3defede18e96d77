"""Checkpoints: the nine keys, whole or not at all, data and never code."""

import os
import pickle

import numpy as np
import pytest
import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from btxrd import CLASS_NAMES, NORMALIZATION
from btxrd.models import (
    BTXRDClassifier,
    create_model,
    load_checkpoint,
    model_from_checkpoint,
    predict_logits,
    save_checkpoint,
)

CONFIG = {
    "model": {
        "backbone": "test_resnet",
        "num_classes": 3,
        "pretrained": True,
        "dropout": 0.2,
        "attn_layer": None,
        "weights": "/nowhere/imagenet.pth",
    },
    "data": {"image_size": 32, "scale": [0.9, 1.1]},
    "training": {"lr": 3e-4, "amp": False},
}
WEIGHTS = torch.tensor([0.5, 1.0, 2.0])


@pytest.fixture(scope="module")
def trained():
    """A small classifier after one step, with the study's optimiser and schedule."""
    torch.manual_seed(0)
    model = BTXRDClassifier("test_resnet", pretrained=False)
    optimizer = AdamW(model.parameters(), lr=3e-4, weight_decay=1e-4)
    warm_up, cosine = LinearLR(optimizer, total_iters=3), CosineAnnealingLR(optimizer, 10)
    scheduler = SequentialLR(optimizer, [warm_up, cosine], milestones=[3])
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    scheduler.step()
    return model, optimizer, scheduler


def save(trained, path, **changes):
    """Write a checkpoint of the fixture, with some arguments changed."""
    model, optimizer, scheduler = trained
    arguments = {"optimizer": optimizer, "scheduler": scheduler, "config": CONFIG} | changes
    save_checkpoint(
        model=model, epoch=4, val_loss=0.75, class_weights=WEIGHTS, filepath=path, **arguments
    )


def test_round_trip(trained, tmp_path):
    model, optimizer, scheduler = trained
    path = tmp_path / "runs" / "E1" / "model.pt"
    save(trained, path)
    checkpoint = load_checkpoint(path)
    assert " ".join(checkpoint) == (
        "epoch model_state_dict optimizer_state_dict scheduler_state_dict val_loss config "
        "class_names normalization class_weights"
    )
    assert (checkpoint["epoch"], checkpoint["val_loss"]) == (4, 0.75)
    assert checkpoint["config"] == CONFIG
    assert checkpoint["class_names"] == list(CLASS_NAMES)
    assert checkpoint["normalization"] == model.normalization != NORMALIZATION
    assert checkpoint["class_weights"] == [0.5, 1.0, 2.0]
    assert checkpoint["scheduler_state_dict"] == scheduler.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(checkpoint["model_state_dict"][name], tensor)
    resumed = AdamW(BTXRDClassifier("test_resnet", pretrained=False).parameters())
    resumed.load_state_dict(checkpoint["optimizer_state_dict"])
    assert torch.equal(
        resumed.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"]
    )
    save(trained, path, scheduler=None, optimizer=None)
    again = load_checkpoint(path)
    assert again["scheduler_state_dict"] is again["optimizer_state_dict"] is None


def test_the_model_is_rebuilt_without_hub_or_weights_file(trained, tmp_path, monkeypatch):
    def ask(_):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("btxrd.models.classifier.published_weights", ask)
    save(trained, tmp_path / "model.pt")
    rebuilt = model_from_checkpoint(load_checkpoint(tmp_path / "model.pt"))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(images), trained[0].eval()(images))
    assert not rebuilt.training


def test_the_model_is_rebuilt_for_its_images_and_with_its_own_normalisation(trained, tmp_path):
    config = CONFIG | {"model": {"backbone": "test_vit", "pretrained": False}}
    model = create_model(config | {"data": {"image_size": 64}})
    save((model, *trained[1:]), tmp_path / "model.pt", config=config | {"data": {"image_size": 64}})
    checkpoint = load_checkpoint(tmp_path / "model.pt")
    rebuilt = model_from_checkpoint(checkpoint)
    images = torch.randint(256, (2, 64, 64), dtype=torch.uint8)
    expected = predict_logits(model, [(images,)])
    np.testing.assert_array_equal(predict_logits(rebuilt, [(images,)]), expected)
    old = model_from_checkpoint(checkpoint | {"normalization": NORMALIZATION})
    assert old.normalization == NORMALIZATION
    assert not np.array_equal(predict_logits(old, [(images,)]), expected)


def test_a_checkpoint_without_a_model_section_builds_nothing():
    with pytest.raises(ValueError, match=r"model\.backbone"):
        model_from_checkpoint({"config": {"training": {}}, "model_state_dict": {}})


@pytest.mark.parametrize("before", [None, b"the last good one"])
def test_a_failed_write_leaves_what_was_there(trained, tmp_path, no_file_above, before):
    path = tmp_path / "model.pt"
    if before is not None:
        path.write_bytes(before)
    with no_file_above(1_000_000), pytest.raises(OSError, match=r"no room to write .*model\.pt"):
        save(trained, path)
    assert (path.read_bytes() if path.exists() else None) == before
    assert list(tmp_path.iterdir()) == ([path] if before else [])


class Malicious:
    """What a stranger could put into a pickle: unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_strangers_checkpoint_runs_no_code(tmp_path):
    path, proof = tmp_path / "model.pt", tmp_path / "proof"
    torch.save({"epoch": 1, "model_state_dict": Malicious(proof)}, path)
    with pytest.raises(ValueError, match=r"model\.pt"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Malicious(proof), protocol=2))
    with pytest.raises(ValueError, match=r"model\.pt"):
        load_checkpoint(path)
    assert not proof.exists()


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 cut off", b"\x80\x02half", b"<html></html>", None]
)
def test_a_damaged_file_is_named(trained, tmp_path, content):
    path = tmp_path / "broken.pt"
    save(trained, path)
    path.write_bytes(path.read_bytes()[:100_000] if content is None else content)
    with pytest.raises(ValueError, match=r"broken\.pt"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        load_checkpoint(tmp_path / "none.pt")


def test_a_foreign_file_names_the_missing_keys(tmp_path):
    path = tmp_path / "foreign.pt"
    torch.save({"epoch": 1, "val_loss": 0.5, "config": {}}, path)
    with pytest.raises(ValueError, match=r"foreign\.pt.*model_state_dict, optimizer_state_dict"):
        load_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"holds a list"):
        load_checkpoint(path)
