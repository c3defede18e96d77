"""The last feature map of timm's families, in every layout, and what is said where none is."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from btxrd.evaluation.gradcam import coarse_maps, upsampled
from btxrd.models import (
    BTXRDClassifier,
    FeatureMapError,
    create_model,
    features_and_logits,
    to_input,
)

QUICK = """
    convnext_atto fastvit_t8 levit_128s mobilenetv3_small_050 swin_tiny_patch4_window7_224
    vit_tiny_patch16_224 xcit_nano_12_p16_224
"""
"""Networks of each layout of features, and of each way to make logits of them."""

OTHERS = """
    beit_base_patch16_224 caformer_s18 coatnet_nano_rw_224 convnext_tiny deit_tiny_patch16_224
    densenet121 edgenext_xx_small efficientformer_l1 efficientnetv2_rw_t eva02_tiny_patch14_224
    hrnet_w18_small inception_v3 maxvit_nano_rw_256 mobilevit_xxs nextvit_small poolformer_s12
    pvt_v2_b0 regnety_002 repvit_m0_9 resnet18 swinv2_cr_tiny_224 tiny_vit_5m_224 vgg11
    vit_small_patch14_dinov2
"""

SMALL = {"img_size": 64}
OBLONG = {**SMALL, "patch_size": (8, 16), "global_pool": "avg"}
TWO_TOKENS = "deit_tiny_distilled_patch16_224"
PLANTED = {
    "NCHW": ("resnet18", {}, "layer4", (2, 2), (1, 0), np.s_[:, :, 1, 0]),
    "NHWC": ("swin_tiny_patch4_window7_224", SMALL, "norm", (2, 2), (1, 0), np.s_[:, 1, 0]),
    "a class token": ("test_vit", SMALL, "blocks.5.norm1", (4, 4), (3, 1), np.s_[:, 1 + 13]),
    "two of them": (TWO_TOKENS, SMALL, "blocks.11.norm1", (4, 4), (3, 1), np.s_[:, 2 + 13]),
    "not square": ("test_vit", OBLONG, "norm", (8, 4), (7, 1), np.s_[:, 1 + 29]),
}
"""Layout → backbone, its arguments, the layer of the features, their grid for images of 64 pixels,
a place in the grid, and where that is in the layer's output."""


def network_of(backbone, **arguments):
    torch.manual_seed(0)
    return BTXRDClassifier(backbone, pretrained=False, **arguments).eval()


def maps_of(network: BTXRDClassifier, images: np.ndarray, target: int) -> np.ndarray:
    coarse = coarse_maps(network, images, [target] * len(images))["network"]
    return upsampled(coarse, images.shape[1])


@pytest.mark.parametrize(
    "backbone", [*QUICK.split(), *(pytest.param(n, marks=pytest.mark.long) for n in OTHERS.split())]
)
def test_a_family_trains_a_step_and_has_maps(backbone):
    torch.manual_seed(0)
    model, data = {"backbone": backbone, "pretrained": False}, {"image_size": 224}
    network = create_model({"model": model, "data": data}).to(memory_format=torch.channels_last)
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224), dtype=np.uint8)
    inputs, labels = to_input(torch.from_numpy(images), network.normalization), [0, 2]
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    nn.functional.cross_entropy(network(inputs), torch.tensor(labels)).backward()
    optimizer.step()
    assert all(weight.isfinite().all() for weight in network.parameters())
    assert any(not weight.equal(before[name]) for name, weight in network.named_parameters())

    features, logits = features_and_logits(network.eval(), inputs)
    assert (features.ndim, len(features)) == (4, 2)
    torch.testing.assert_close(logits, network(inputs), atol=1e-4, rtol=1e-4)
    maps = np.stack([maps_of(network, images, target) for target in range(3)])
    assert maps.shape == (3, 2, 224, 224)
    assert np.isfinite(maps).all()
    spans = maps.max(axis=(2, 3)) - maps.min(axis=(2, 3))
    assert (spans.max(axis=0) > 0).all()  # the map of a class that nothing speaks for is empty


@pytest.mark.parametrize(
    ("backbone", "arguments", "layer", "grid", "place", "at"), PLANTED.values(), ids=PLANTED
)
def test_a_map_peaks_where_the_features_are_hot(backbone, arguments, layer, grid, place, at):
    network, dark = network_of(backbone, **arguments), np.zeros((1, 64, 64), np.uint8)
    peaks = []
    for sign in (1, -1):

        def plant(_, __, output, sign=sign):
            planted = torch.zeros_like(output)
            planted[at] = sign * torch.linspace(1, 2, planted[at].shape[-1])
            return planted

        with network.model.get_submodule(layer).register_forward_hook(plant):
            heat = maps_of(network, dark, 0)[0]
        if heat.any():  # a map is empty where all that is hot speaks against the class
            peaks.append(np.unravel_index(heat.argmax(), heat.shape) // (64 // np.array(grid)))
    assert peaks
    assert all(tuple(peak) == place for peak in peaks)


@pytest.mark.parametrize("attention", [None, "mask_guided"])
@pytest.mark.parametrize(
    ("backbone", "layer"),
    [
        ("efficientnet_b0", "blocks.4"),
        ("resnet18", "layer3"),
        ("convnext_atto", "stages.2"),
        ("swin_tiny_patch4_window7_224", "layers.2"),
    ],
)
def test_a_finer_map_is_the_output_of_its_stage(backbone, layer, attention):
    network, images = network_of(backbone, attention=attention), torch.randn(2, 3, 224, 224)
    kept: list[torch.Tensor] = []
    network.model.get_submodule(layer).register_forward_hook(lambda *call: kept.append(call[2]))
    features, logits = features_and_logits(network, images, stride=16)
    assert features.shape[2:] == (14, 14)
    last = kept[0].permute(0, 3, 1, 2) if "swin" in backbone else kept[0]
    assert torch.equal(features, last)
    torch.testing.assert_close(logits, network(images), atol=1e-5, rtol=1e-4)
    assert torch.autograd.grad(logits[:, 0].sum(), features)[0].abs().max() > 0


@pytest.mark.parametrize("backbone", ["coat_tiny", "levit_128s", "vit_tiny_patch16_224"])
def test_a_network_without_finer_maps_says_so(backbone):
    with pytest.raises(FeatureMapError, match="has no finer feature map, of stride 16"):
        features_and_logits(network_of(backbone), torch.randn(1, 3, 224, 224), stride=16)


@pytest.mark.parametrize("backbone", ["efficientnet_b0", "resnet18"])
def test_the_map_is_the_target_layers_output(backbone):
    network, images = network_of(backbone), torch.randn(2, 3, 64, 64)
    kept: list[torch.Tensor] = []
    network.gradcam_target_layer.register_forward_hook(lambda *call: kept.append(call[2]))
    features, logits = features_and_logits(network, images)
    assert torch.equal(features, kept[0])
    assert torch.equal(logits, network(images))


def test_backward_ends_at_the_map_where_nothing_before_it_wants_a_gradient():
    network, images = network_of("test_vit", img_size=64), torch.randn(2, 3, 64, 64)
    for frozen in (False, True):
        features, logits = features_and_logits(network.requires_grad_(not frozen), images)
        assert features.is_leaf is frozen
        assert torch.autograd.grad(logits[:, 0].sum(), features)[0].abs().amin(dim=1).min() > 0


def test_a_head_that_works_in_place_leaves_the_map_as_it_is():
    network = network_of("resnet18").requires_grad_(False)
    network.model.global_pool = nn.Sequential(nn.Hardtanh(0, 1e-6, inplace=True), nn.Flatten())
    network.model.fc = nn.Linear(512 * 4, 3)
    features, _ = features_and_logits(network, torch.randn(2, 3, 64, 64))
    assert features.max() > 1e-3


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        ("efficientvit_m0", "EfficientVitMsra has a single place for images of 64 × 64 pixels"),
        ("efficientvim_m1", "the head of EfficientViM reads several feature maps"),
        ("coat_tiny", "CoaT classifies from a class token, and where"),
    ],
)
def test_a_network_without_a_map_says_so_in_one_sentence(backbone, words):
    config = {"model": {"backbone": backbone, "pretrained": False}, "data": {"image_size": 64}}
    network = create_model(config).eval()
    with pytest.raises(FeatureMapError, match=words) as caught:
        maps_of(network, np.zeros((2, 64, 64), np.uint8), 0)
    assert "\n" not in str(caught.value)


def test_a_network_whose_strides_are_rewritten_gives_the_same_logits():
    network = network_of("fastvit_t8")
    plain = timm.create_model("fastvit_t8", num_classes=3)
    plain.load_state_dict(network.model.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert plain.stem[0].conv_scale.conv.stride != network.model.stem[0].conv_scale.conv.stride
    torch.testing.assert_close(network(images), plain.eval()(images))
