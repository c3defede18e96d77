"""The classifier and its factory: sizes, target layers, weights, and no network."""

import math
import socket
import time

import huggingface_hub.constants
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import btxrd.models
from btxrd import NORMALIZATION
from btxrd.models import (
    BTXRDClassifier,
    compute_class_weights,
    create_model,
    get_device,
    to_input,
)
from btxrd.models.classifier import size_arguments


def model_section(backbone="resnet18", **changes):
    """A configuration of which only the section `model` concerns the factory."""
    section = {"backbone": backbone, "num_classes": 3, "pretrained": False, "dropout": 0.2}
    return {"model": section | changes, "data": {"image_size": 64}, "training": {"lr": 3e-4}}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and an empty hub cache; returns the cache's folder."""

    def refuse(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return cache


@pytest.fixture(scope="module")
def imagenet_resnet18():
    """The state of a ResNet-18 with timm's own 1000-class head."""
    return timm.create_model("resnet18", pretrained=False).state_dict()


def test_every_name_of_the_specification_is_exported():
    names = "BTXRDClassifier EarlyStopping compute_class_weights create_model get_device"
    assert {*names.split(), "load_checkpoint", "save_checkpoint"} <= set(btxrd.models.__all__)
    assert all(hasattr(btxrd.models, name) for name in btxrd.models.__all__)


@pytest.mark.parametrize(
    ("config", "parameters", "features"),
    [
        (model_section("efficientnet_b0"), 4_011_391, 1280),
        (model_section("efficientnet_b3"), 10.70e6, 1536),
        (model_section("resnet50", attn_layer="cbam"), 26.03e6, 2048),
    ],
    ids=["b0", "b3", "resnet50+cbam"],
)
def test_sizes(config, parameters, features):
    classifier = create_model(config)
    counted = sum(parameter.numel() for parameter in classifier.parameters())
    assert counted == pytest.approx(parameters, abs=0 if features == 1280 else 5e3)
    assert classifier.num_features == features
    assert classifier.num_classes == 3
    assert classifier.normalization == NORMALIZATION
    assert all(parameter.requires_grad for parameter in classifier.parameters())


def test_forward_gives_logits():
    torch.manual_seed(0)
    classifier = BTXRDClassifier("efficientnet_b0", pretrained=False).eval()
    logits = classifier(torch.randn(4, 3, 64, 64))
    assert logits.shape == (4, 3)
    assert not torch.allclose(logits.sum(dim=1), torch.ones(4), atol=0.05)
    assert (logits < 0).any()


def test_dropout_and_keyword_arguments_reach_timm():
    assert create_model(model_section(dropout=0.3)).model.drop_rate == 0.3
    classifier = BTXRDClassifier("resnet18", pretrained=False, in_chans=1)
    assert classifier(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    ("backbone", "size", "grid"),
    [("vit_small_patch14_dinov2", 224, (16, 16)), ("test_vit", 64, (4, 4))],
)
def test_a_network_is_built_for_the_image_size(backbone, size, grid):
    config = model_section(backbone) | {"data": {"image_size": size}}
    classifier = create_model(config).eval()
    assert classifier.model.patch_embed.grid_size == grid
    assert classifier(torch.zeros(1, 3, size, size)).shape == (1, 3)


@pytest.mark.parametrize(
    ("backbone", "size", "published"),
    [
        ("vit_small_patch14_dinov2", 225, 518),
        ("swin_tiny_patch4_window7_224", 225, 224),
        ("maxvit_nano_rw_256", 240, 256),
        ("efficientformer_l1", 256, 224),
        ("nest_tiny", 225, 224),
        ("inception_v3", 64, 299),
        ("hrnet_w18_small", 240, 224),
    ],
)
def test_a_size_that_cannot_be_is_refused_in_a_line(backbone, size, published):
    words = f"data.image_size: {backbone} takes no images of {size} pixels .* {published}$"
    with pytest.raises(ValueError, match=words) as caught:
        create_model(model_section(backbone) | {"data": {"image_size": size}})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backbone", ["efficientnet_b3", "test_vit"])
def test_another_size_draws_no_random_number(backbone):
    state = torch.get_rng_state()
    size_arguments(backbone, 96)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("data", [{}, {"data": None}, {"data": {"contrast": "clahe"}}])
def test_without_an_image_size_it_is_the_published_one(data):
    classifier = create_model({"model": model_section("test_vit")["model"]} | data)
    assert classifier.model.patch_embed.img_size == (160, 160)


def test_weights_are_fitted_to_another_size(tmp_path):
    weights = str(tmp_path / "weights.pth")
    torch.save(timm.create_model("test_vit").state_dict(), weights)
    classifier = create_model(model_section("test_vit", weights=weights))
    assert classifier.model.pos_embed.shape == (1, 1 + 4 * 4, 64)


def test_weights_that_cannot_be_fitted_to_another_size_are_refused(tmp_path):
    weights = str(tmp_path / "weights.pth")
    torch.save(timm.create_model("gmlp_ti16_224").state_dict(), weights)
    with pytest.raises(ValueError, match=r"model\.weights: .*of other shapes are blocks\.0"):
        create_model(model_section("gmlp_ti16_224", weights=weights))


def test_the_normalisation_is_the_backbones():
    half = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    assert BTXRDClassifier("tf_efficientnet_lite0", pretrained=False).normalization == half


def test_the_target_layer_is_a_head_norm_or_a_last_block():
    efficientnet = BTXRDClassifier("efficientnet_b0", pretrained=False)
    assert efficientnet.gradcam_target_layer is efficientnet.model.bn2
    resnet = create_model(model_section("resnet50", attn_layer="cbam"))
    assert resnet.gradcam_target_layer is resnet.model.layer4[-1]
    assert type(resnet.gradcam_target_layer).__name__ == "Bottleneck"


def test_the_target_layer_elsewhere_is_the_last_conv_or_norm():
    classifier = BTXRDClassifier("resnet18", pretrained=False)
    block, last = classifier.model.layer4[-1], nn.Conv2d(4, 4, 1)
    assert hasattr(block, "bn2")
    classifier.model = block
    assert classifier.gradcam_target_layer is not block
    classifier.model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(last, nn.ReLU()))
    assert classifier.gradcam_target_layer is last
    classifier.model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(AttributeError, match="gradcam_target_layer"):
        _ = classifier.gradcam_target_layer


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (model_section("EfficientNetB0"), "'EfficientNetB0'.*efficientnet_b0"),
        ({"training": {}}, "`model`"),
        (model_section("efficientnet_b0", attn_layer="cbam"), r"model\.attn_layer.*cbam"),
        (model_section(attn_layer="nonsense"), r"model\.attn_layer.*nonsense"),
        (model_section(frozen_stages=5), r"model\.frozen_stages: resnet18 has 5 stages.*got 5"),
    ],
)
def test_what_cannot_be_built_is_refused_by_its_key(config, words):
    with pytest.raises(ValueError, match=words):
        create_model(config)
    create_model(model_section(frozen_stages=4))


@pytest.mark.usefixtures("offline")
def test_without_network_pretrained_fails_at_once_in_one_line():
    start = time.perf_counter()
    with pytest.raises(RuntimeError, match=r"efficientnet_b0.*`pretrained: false`") as caught:
        BTXRDClassifier("efficientnet_b0")
    assert time.perf_counter() - start < 5
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.usefixtures("offline")
def test_weights_known_by_url_only_fail_in_the_same_way(monkeypatch):
    def fail(*_, **__):
        raise OSError("urlopen error")

    by_url = None, "as timm publishes them"
    monkeypatch.setattr(btxrd.models.classifier, "published_weights", lambda _: by_url)
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(RuntimeError, match="resnet18 could not be fetched"):
        BTXRDClassifier("resnet18")


def test_weights_in_the_hub_cache_need_no_network(offline, imagenet_resnet18):
    folder = offline / "models--timm--resnet18.a1_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    cached = folder / "snapshots" / ("0" * 40) / "model.safetensors"
    safetensors.torch.save_file(imagenet_resnet18, cached)
    classifier = BTXRDClassifier("resnet18")
    assert torch.equal(classifier.model.conv1.weight, imagenet_resnet18["conv1.weight"])


def test_a_weights_file_that_cannot_be_read_is_named_by_its_key(tmp_path):
    weights = tmp_path / "imagenet.pth"
    with pytest.raises(FileNotFoundError, match=r"model\.weights"):
        create_model(model_section(weights=str(weights), pretrained=True))
    weights.write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"model\.weights.*cannot be read"):
        create_model(model_section(weights=str(weights)))


@pytest.mark.parametrize("form", [list, np.asarray, torch.tensor])
def test_class_weights_take_labels_in_any_form(form):
    weights = compute_class_weights(form([0, 0, 1, 2]))
    assert weights.tolist() == pytest.approx([2 / 3, 4 / 3, 4 / 3])
    assert weights.dtype == torch.float32


@pytest.mark.parametrize(
    ("labels", "absent"), [([0, 0, 1], "class Malignant"), ([], "Normal, Benign, Malignant")]
)
def test_class_weights_name_the_class_without_a_sample(labels: list[int], absent: str) -> None:
    with pytest.raises(ValueError, match=absent):
        compute_class_weights(labels)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_device_prefers_cuda_then_mps(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert get_device("auto").type == get_device().type == expected
    assert get_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(RuntimeError):
        get_device("abacus")


@pytest.mark.parametrize("backbone", ["efficientnet_b0", "resnet18"])
def test_an_untrained_network_is_undecided(backbone):
    """timm's own rule gives an EfficientNet of three classes a first loss of several nats."""
    torch.manual_seed(0)
    model = BTXRDClassifier(backbone, pretrained=False)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    loss = torch.nn.functional.cross_entropy(model(torch.randn(8, 3, 64, 64)), labels)
    assert loss.item() == pytest.approx(math.log(3), abs=0.2)


def test_the_networks_input_is_normalised_in_three_equal_channels():
    images = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    values = to_input(images, {"mean": [0.5, 0.5, 0.25], "std": [0.5, 0.25, 0.25]})
    assert values.shape == (1, 3, 1, 2)
    assert values.dtype == torch.float32
    assert values[0, :, 0].tolist() == [[-1, 1], [-2, 2], [-1, 3]]
