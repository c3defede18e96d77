"""The head that lesion masks guide: its loss, what it learns, its checkpoint, who has none."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from btxrd.data.loader import make_datasets, make_loader
from btxrd.extras import probe
from btxrd.models import (
    BTXRDClassifier,
    create_model,
    features_and_logits,
    load_checkpoint,
    model_from_checkpoint,
    predict_logits,
    to_input,
)
from btxrd.models.attention import attention_loss, stage_maps, stage_shapes
from btxrd.params import RunParams
from btxrd.training import seed_everything

GUIDED = {"backbone": "test_resnet", "pretrained": False, "attention": "mask_guided"}
FAMILIES = ("convnext_atto", "mobilenetv3_small_050", "regnety_002", "resnet18", "vgg11")


def network_of(backbone, **arguments):
    torch.manual_seed(0)
    return BTXRDClassifier(backbone, pretrained=False, attention="mask_guided", **arguments)


def make_run(folder, mode="probe", annotations="none", **training):
    values = {
        "experiment": "guided",
        "cache_dir": str(folder / "cache"),
        "study_dir": str(folder / "study"),
        "model": GUIDED,
        "data": {"image_size": 64, "annotations": annotations},
        "training": {"mode": mode, "epochs": 3, "warmup_epochs": 1, "lr": 1e-3} | training,
    }
    return RunParams.parse(values, "test")


@pytest.fixture
def train(cache, split, fit_network):
    """Train a network as the notebooks do; returns the outcome, network, features and data."""

    def train_one(run, on_epoch=()):
        seed_everything(run.seed)
        datasets = make_datasets(cache, split, run.data, run.seed, masks=True, augment=False)
        network = create_model(run.model_dump())
        loaders = {p: make_loader(d, 32, run.seed, p == "train") for p, d in datasets.items()}
        features = None
        if run.training.mode == "probe":
            features = probe.open_features(network, datasets, run)
            loaders = probe.feature_loaders(features, datasets, run)
        result = fit_network(network, loaders, run, on_epoch)
        return result, network, features, datasets

    return train_one


def drawn(side, place, size=64):
    """A mask of one square."""
    mask = torch.zeros(1, size, size, dtype=torch.uint8)
    mask[0, place[0] : place[0] + side, place[1] : place[1] + side] = 1
    return mask


@pytest.mark.parametrize(
    ("mask", "label", "hot"),
    [
        (drawn(32, (0, 32)), 1, np.s_[:, :2, 2:]),
        (drawn(3, (20, 50)), 2, np.s_[:, 1, 3]),  # smaller than a place
        (drawn(17, (0, 0)), 2, np.s_[:, 0, 0]),  # its last row and column hardly reach the next
        (drawn(0, (0, 0)), 0, None),
    ],
)
def test_only_a_map_of_the_lesion_has_no_loss(mask, label, hot):
    perfect = torch.full((1, 4, 4), -20.0)
    if hot is not None:
        perfect[hot] = 20
    labels = torch.tensor([label])
    assert attention_loss(perfect, labels, mask).item() < 1e-3
    assert attention_loss(-perfect, labels, mask).item() > 1
    assert attention_loss(torch.zeros(1, 4, 4), labels, mask).item() > 0.5


def test_a_tumour_without_a_mask_teaches_nothing():
    labels, masks = torch.tensor([0, 1, 2, 1]), torch.cat([drawn(n, (0, 0)) for n in (0, 0, 9, 0)])
    attention = torch.zeros(4, 4, 4, requires_grad=True)
    losses = attention_loss(attention, labels, masks)
    losses.sum().backward()
    assert len(losses) == 2
    assert attention.grad.flatten(1).any(dim=1).tolist() == [True, False, True, False]
    assert len(attention_loss(attention[1:2], labels[1:2], masks[1:2])) == 0


def test_the_picked_features_are_those_where_attention_is():
    head = network_of("test_resnet").attention.eval()
    stages = [torch.zeros(1, 48, 8, 8), torch.zeros(1, 192, 4, 4), torch.zeros(1, 96, 2, 2)]
    stages[2][0, 0, 0, 1] = 4
    head.places = nn.Module()
    head.places.forward = lambda _: torch.tensor([[[[-9.0, -9, 9, 9]] * 2 + [[-9.0] * 4] * 2]])
    head.classifier = nn.Identity()
    (read,), (attention,) = head(stages)
    assert attention.shape == (4, 4)
    assert read[0].item() == 1
    assert read[96].item() == pytest.approx(4, abs=0.01)
    assert read[-1].item() == pytest.approx(1, abs=1e-3)


def test_a_bright_square_is_found_after_a_few_steps():
    network = network_of("test_resnet", drop_rate=0.0)
    random = np.random.default_rng(0)
    places = random.integers(0, 4, (48, 2)) * 16
    masks = torch.cat([drawn(16, place) for place in places])
    labels = torch.tensor(random.integers(0, 3, 48))
    masks[labels == 0] = 0
    noise = torch.from_numpy(random.integers(0, 60, masks.shape, dtype=np.uint8))
    inputs = to_input(noise + 150 * masks, network.normalization)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(25):
        _, attention = network.attention(stage_maps(network.model, inputs[:36]))
        optimizer.zero_grad()
        attention_loss(attention, labels[:36], masks[:36]).mean().backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        _, attention = network.attention(stage_maps(network.model, inputs[36:]))
    tumours = labels[36:] > 0
    peaks = attention[tumours].flatten(1).argmax(dim=1)
    squares = places[36:][tumours.numpy()] // 16
    assert peaks.tolist() == (squares[:, 0] * 4 + squares[:, 1]).tolist()
    assert attention[~tumours].amax() < attention[tumours].amax(dim=(1, 2)).min()


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("probe", {}),
        ("probe", {"ema": 0.9, "layer_decay": 0.9, "sampling": "balanced"}),
        ("finetune", {}),
        ("finetune", {"ema": 0.9, "layer_decay": 0.9}),
    ],
)
def test_only_a_fine_tuned_backbone_changes_and_the_checkpoint_is_an_ordinary_one(
    train, tmp_path, mode, options
):
    run = make_run(tmp_path, mode, **options)
    result, network, features, datasets = train(run)
    seed_everything(run.seed)
    before, after = create_model(run.model_dump()).state_dict(), network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "attention.places.2.weight" in moved
    assert any(name.startswith("model.") for name in moved) is (mode == "finetune")
    assert (result.history["train_attention_loss"] > 0).all()

    checkpoint = load_checkpoint(run.run_dir / "model.pt")
    assert len(checkpoint) == 9
    assert checkpoint["config"] == run.model_dump()
    rebuilt = model_from_checkpoint(checkpoint)
    logits = predict_logits(rebuilt, make_loader(datasets["val"], 32, 0, shuffle=False))
    loss = nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(datasets["val"].labels))
    assert loss.item() == pytest.approx(result.history["val_loss"].min(), abs=1e-3)
    if mode == "probe":
        from_kept = probe.head_logits(rebuilt, features["val"])
        np.testing.assert_allclose(from_kept, logits, atol=0.02)
        batches = probe.feature_loaders(features, datasets, run)["train"]
        served = np.bincount(torch.cat([labels for _, labels, *_ in batches]))
        assert (np.ptp(served) <= 1) is not run.weighs_classes


@pytest.mark.parametrize("annotations", ["none", "roi_dim"])
def test_kept_features_are_the_stages_of_each_sample(cache, split, tmp_path, annotations):
    run, network = make_run(tmp_path, annotations=annotations), network_of("test_resnet")
    datasets = make_datasets(cache, split, run.data, run.seed, masks=True, augment=False)
    features = probe.open_features(network, datasets, run)
    loaders = probe.feature_loaders(features, datasets, run)
    for part in ("train", "val"):
        images = make_loader(datasets[part], run.training.batch_size, run.seed, part == "train")
        pairs = zip(images, loaders[part], strict=True)
        for (pixels, labels, *masks), (stages, same_labels, *same_masks) in pairs:
            expected = stage_maps(network.model, to_input(pixels, network.normalization))
            for found, maps in zip(stages, expected, strict=True):
                torch.testing.assert_close(found, maps.detach(), atol=2e-2, rtol=2e-3)
            assert torch.equal(labels, same_labels)
            assert all(torch.equal(*pair) for pair in zip(masks, same_masks, strict=True))


def test_an_interrupted_training_goes_on_to_the_same_end(train, die_at, tmp_path):
    expected = train(make_run(tmp_path / "whole"))[0].history
    run = make_run(tmp_path / "halves")
    with pytest.raises(die_at.Killed):
        train(run, [die_at(1)])
    pd.testing.assert_frame_equal(train(run)[0].history, expected)


@pytest.mark.parametrize("backbone", FAMILIES)
def test_the_last_map_is_what_grad_cam_reads(backbone):
    network, images = network_of(backbone).eval(), torch.randn(2, 3, 64, 64)
    features, logits = features_and_logits(network, images)
    shapes = stage_shapes(network.model, 64)
    assert features.shape[1:] == shapes[-1]
    assert [shape[1] for shape in shapes] == [8, 4, 2]
    torch.testing.assert_close(logits, network(images))
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), features)
    assert gradient.abs().amax() > 0


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "levit_128s", "coat_tiny"])
def test_a_backbone_without_maps_of_several_strides_is_refused_in_a_line(backbone):
    with pytest.raises(ValueError, match=rf"model\.attention: {backbone} has no .* 8, 16, 32") as e:
        network_of(backbone)(torch.zeros(1, 3, 224, 224))
    assert "\n" not in str(e.value)
