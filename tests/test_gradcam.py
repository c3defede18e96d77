"""Class activation maps against plain autograd and the library, and untrained copies."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from btxrd.evaluation.gradcam import (
    METHODS,
    coarse_maps,
    fold_norms,
    randomised_copy,
    upsampled,
)
from btxrd.evaluation.localisation import normalise_maps
from btxrd.models import BTXRDClassifier, to_input
from btxrd.models.attention import stage_maps

SIZE = 64


def maps_of(model, images, targets=None, *options) -> np.ndarray:
    """The maps, as large as the images, of the first class where no other is asked for."""
    targets = [0] * len(images) if targets is None else targets
    return upsampled(coarse_maps(model, images, targets, *options)["network"], images.shape[1])


def classifier(backbone, **options):
    """A network whose norms have seen data, so that the activations are not all zero."""
    torch.manual_seed(0)
    network = BTXRDClassifier(backbone, pretrained=False, **options).train()
    for _ in range(3):
        network(torch.randn(8, 3, SIZE, SIZE))
    return network.eval()


@pytest.fixture(scope="module", params=["efficientnet_b0", "resnet18"])
def model(request):
    return classifier(request.param)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE), dtype=np.uint8)


def plain_gradcam(model, image, target):
    """Grad-CAM of one image from its definition (Selvaraju et al. 2017, equations 1 and 2)."""
    kept: list[torch.Tensor] = []
    hook = model.gradcam_target_layer.register_forward_hook(lambda *call: kept.append(call[2]))
    logits = model(to_input(torch.from_numpy(image)[None]))
    hook.remove()
    (gradient,) = torch.autograd.grad(logits[0, target], kept[0])
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    small = (weights * kept[0]).sum(dim=1, keepdim=True).relu()
    return F.interpolate(small, (SIZE, SIZE), mode="bilinear")[0, 0].detach().numpy()


TARGETS = np.array([0, 1, 2, 1, 0])


def test_gradcam_is_its_definition(model, images):
    found = coarse_maps(model, images, TARGETS, batch_size=2)
    assert list(found) == ["network"]
    small = found["network"]
    assert (small.dtype, small.shape) == (np.float32, (5, 2, 2))
    maps = upsampled(small, SIZE)
    assert (maps.dtype, maps.shape) == (np.float32, images.shape)
    assert maps.min() >= 0
    assert maps.max() > 0
    np.testing.assert_allclose(maps[:, [[0], [-1]], [0, -1]], small, rtol=1e-3, atol=1e-6)
    for found, image, target in zip(maps, images, TARGETS, strict=True):
        np.testing.assert_allclose(found, plain_gradcam(model, image, target), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_scaled_maps_are_the_librarys(model, images, method):
    maps = maps_of(model, images, TARGETS, method)
    with METHODS[method](model=model, target_layers=[model.gradcam_target_layer]) as cam:
        chosen = [ClassifierOutputTarget(target) for target in TARGETS]
        expected = cam(to_input(torch.from_numpy(images)), chosen)
    model.zero_grad()
    assert maps.min() >= 0
    np.testing.assert_allclose(normalise_maps(maps), expected, atol=2e-3)


@pytest.fixture(scope="module")
def attentive():
    return classifier("resnet18", attention="mask_guided")


@pytest.mark.parametrize("count", [0, 1, 5])
def test_attention_is_that_of_the_network_in_batches(attentive, images, count):
    found = coarse_maps(attentive, images[:count], TARGETS[:count], batch_size=2)
    assert list(found) == ["network", "attention"]
    attention = found["attention"]
    assert attention.dtype == np.float32
    assert attention.shape == ((count, 4, 4) if count else (0, 1, 1))
    if count:
        stages = stage_maps(attentive.model, to_input(torch.from_numpy(images[:count])))
        expected = attentive.attention(stages)[1].sigmoid().detach().numpy()
        np.testing.assert_allclose(attention, expected, atol=1e-4)
        assert np.ptp(attention) > 0.01


@pytest.mark.parametrize(("stride", "stage"), [(None, 2), (16, 1)])
def test_with_attention_too_gradcam_is_its_definition(attentive, images, stride, stage):
    found = coarse_maps(attentive, images, TARGETS, batch_size=2, stride=stride)["network"]
    stages = stage_maps(attentive.model, to_input(torch.from_numpy(images)))
    if stride:
        stages[2] = attentive.model.layer4(stages[1])
    logits, _ = attentive.attention(stages)
    (gradient,) = torch.autograd.grad(logits[range(5), TARGETS].sum(), stages[stage])
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    expected = (weights * stages[stage]).sum(dim=1).relu().detach().numpy()
    assert expected.max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.max())


def test_both_maps_take_one_forward_pass_of_each_image(attentive, images, monkeypatch):
    passed = []

    def counted(model, inputs):
        passed.append(len(inputs))
        return stage_maps(model, inputs)

    monkeypatch.setattr("btxrd.models.features.stage_maps", counted)
    monkeypatch.setattr("btxrd.models.classifier.stage_maps", counted)
    coarse_maps(attentive, images, TARGETS, batch_size=2)
    assert passed == [2, 2, 1]


def test_a_network_that_predicts_from_mirror_images_too_is_explained_so(images):
    network = classifier("resnet18", attention="mask_guided")
    plain, mirrored = (coarse_maps(network, one, [0] * 5) for one in (images, images[..., ::-1]))
    network.flip_at_test = True
    both = coarse_maps(network, images, [0] * 5)
    assert len(both) == 2
    for source, found in both.items():
        back = mirrored[source][..., ::-1]
        assert not np.allclose(plain[source], back)
        np.testing.assert_allclose(found, (plain[source] + back) / 2, atol=1e-6)


def test_the_model_is_left_as_it_was(model, images):
    first = next(model.parameters())
    first.requires_grad_(False)
    maps_of(model, images[:2])
    assert not first.requires_grad
    first.requires_grad_(True)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_slice_of_a_memmap_serves_where_gradients_are_off(model, images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    cache = np.load(tmp_path / "images.npy", mmap_mode="r")
    with torch.no_grad():
        found = maps_of(model, cache[1:4], [0, 1, 2])
    expected = maps_of(model, images[1:4], [0, 1, 2])
    np.testing.assert_array_equal(found, expected)
    assert maps_of(model, images[:0], []).shape == (0, SIZE, SIZE)


def test_no_weight_is_kept(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = torch.randn(4, 3, SIZE, SIZE)
    drawn = randomised_copy(model, inputs, seed=1)
    assert not drawn.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    weights = dict(drawn.named_parameters())
    for name, value in model.named_parameters():
        if value.ndim > 1:
            assert not torch.isclose(weights[name], value, rtol=1e-4).float().mean() > 0.01, name


def test_the_seed_alone_decides_the_weights(model):
    inputs = torch.randn(4, 3, SIZE, SIZE)
    state = torch.get_rng_state()
    first, second, other = (randomised_copy(model, inputs, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first(inputs), second(inputs))
    assert not torch.equal(first(inputs), other(inputs))


def test_maps_of_randomised_weights_are_not_empty(model):
    images = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE), dtype=np.uint8)
    drawn = randomised_copy(model, to_input(torch.from_numpy(images)))
    maps = np.concatenate([maps_of(drawn, images, [c] * 8) for c in range(3)])
    assert np.isfinite(maps).all()
    assert (maps.max(axis=(1, 2)) > maps.min(axis=(1, 2))).mean() > 0.5


def test_parameters_that_no_module_can_reset_are_drawn_too():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.full((4,), 7.0))
            self.place = nn.Parameter(torch.linspace(-1, 1, 1000))

        def forward(self, images):
            return images

    own = Scaled()
    drawn = randomised_copy(own, torch.zeros(2, 3, 8, 8))
    assert torch.equal(drawn.scale, own.scale)  # all equal: there is nothing to draw
    assert not torch.isclose(drawn.place, own.place).all()
    assert drawn.place.std().item() == pytest.approx(own.place.std().item(), rel=0.1)


@pytest.mark.parametrize(
    ("backbone", "options", "norms"),
    [
        ("efficientnet_b0", {}, 0),
        ("resnet10t", {}, 1),  # that of a deep stem stands elsewhere than its convolution
        ("resnet26", {"block_args": {"attn_layer": "cbam"}}, 0),
        ("mobilenetv3_small_050", {}, 34),
    ],
)
def test_folded_norms_compute_the_same(backbone, options, norms):
    network = classifier(backbone, **options)
    before = copy.deepcopy(network.state_dict())
    folded = fold_norms(network)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == norms
    images = torch.randn(2, 3, 64, 64)
    features = [model.model.forward_features(images) for model in (network, folded)]
    torch.testing.assert_close(*features, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
