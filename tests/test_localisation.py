"""Scores of maps against their references, on maps whose scores are known."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from btxrd.evaluation.gradcam import cam_mask_iou, class_activation_maps
from btxrd.evaluation.localisation import (
    SCORES,
    SOURCES,
    best_threshold,
    center_prior,
    chance_scores,
    localisation_finding,
    localisation_report,
    localisation_scores,
    localisation_table,
    randomised_copy,
    reference_scores,
    size_tertiles,
)
from btxrd.models import BTXRDClassifier

SIZE = 64


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    """Three lesions of 1/4, 1/16 and 1/64 of an 8 x 8 image, and an image without one."""
    masks = np.zeros((4, 8, 8), dtype=np.uint8)
    masks[0, :4, :4] = masks[1, 2:4, 2:4] = masks[2, 7, 7] = 1
    return masks


@pytest.fixture(scope="module")
def scores(masks: np.ndarray) -> pd.DataFrame:
    """Forty tumours in twenty studies, all but four found by the network, and its references."""
    rng = np.random.default_rng(0)
    drawn = masks[rng.integers(3, size=40)]
    looked_at = np.where(np.arange(40)[:, None, None] % 10 > 0, drawn, drawn[:, ::-1])
    maps = {
        "network": looked_at + 0.6 * rng.random(drawn.shape),
        "randomised weights": rng.random(drawn.shape),
        "center prior": np.broadcast_to(center_prior(8), drawn.shape),
    }
    facts = {"group": np.arange(40) // 2, "label": np.arange(40) // 20 + 1}
    thresholds = {source: best_threshold(found, drawn) for source, found in maps.items()}
    return pd.DataFrame(facts).join(reference_scores(maps, drawn, thresholds))


def test_a_map_that_is_the_mask_scores_one(masks):
    scores = localisation_scores(masks * 3.0, masks, threshold=0.9)
    assert list(scores) == list(SCORES)
    assert (scores[:3] == 1).all(axis=None)
    assert scores.iloc[3].isna().all()


def test_an_empty_map_finds_nothing(masks):
    scores = localisation_scores(np.zeros(masks.shape), masks, threshold=0.5)
    assert (scores[:3] == 0).all(axis=None)
    assert scores.iloc[3].isna().all()


def test_chance_is_the_area_and_an_even_map_reaches_it(masks):
    chance = chance_scores(masks)
    for score in SCORES:
        assert chance[score].tolist()[:3] == [1 / 4, 1 / 16, 1 / 64]
    assert chance.iloc[3].isna().all()
    even = localisation_scores(np.ones(masks.shape), masks, threshold=0.5)
    np.testing.assert_allclose(even["energy"], chance["energy"])


def test_random_maps_overlap_no_more_than_chance():
    rng = np.random.default_rng(0)
    masks = np.zeros((200, 32, 32), dtype=np.uint8)
    masks[:, 4:14, 6:20] = 1
    for threshold in (0.05, 0.5, 0.9):
        overlap = cam_mask_iou(rng.random(masks.shape), masks, threshold).mean()
        hot, area = 1 - threshold, masks[0].mean()
        assert overlap == pytest.approx(hot * area / (hot + area - hot * area), abs=0.01)
        assert overlap <= chance_scores(masks)["iou"].mean()


@pytest.mark.parametrize("size", [64, 401])
def test_the_center_prior_is_a_round_gaussian(size):
    bump = center_prior(size)
    assert (bump.dtype, bump.shape) == (np.float32, (size, size))
    np.testing.assert_array_equal(bump, bump.T)
    np.testing.assert_allclose(bump, bump[::-1, ::-1], rtol=1e-6)
    middle = size // 2
    assert bump.max() == bump[middle, middle]
    # One standard deviation, a quarter of the side, from the middle.
    assert bump[middle, size // 4] / bump.max() == pytest.approx(np.exp(-0.5), rel=0.05)


def test_the_best_threshold_is_the_one_of_the_highest_mean_iou(masks):
    rng = np.random.default_rng(0)
    maps = masks + 0.8 * rng.random(masks.shape)
    candidates = [0.2, 0.4, 0.6, 0.8]
    found = best_threshold(maps, masks, candidates)
    means = [np.nanmean(cam_mask_iou(maps, masks, threshold)) for threshold in candidates]
    assert found == candidates[int(np.argmax(means))]
    assert best_threshold(maps, masks) in np.arange(1, 20) / 20


def test_without_a_lesion_on_val_the_threshold_is_a_half(masks):
    assert best_threshold(np.ones((1, 8, 8)), masks[3:]) == 0.5
    assert best_threshold(np.ones((0, 8, 8)), masks[:0]) == 0.5


@pytest.fixture(scope="module", params=["efficientnet_b0", "resnet18"])
def model(request) -> BTXRDClassifier:
    torch.manual_seed(0)
    return BTXRDClassifier(request.param, pretrained=False).eval()


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

    def to_input(pixels: torch.Tensor) -> torch.Tensor:
        return (pixels[:, None].float() / 255 - 0.45).div(0.22).expand(-1, 3, -1, -1)

    drawn = randomised_copy(model, to_input(torch.from_numpy(images)))
    maps = np.concatenate(
        [class_activation_maps(drawn, images, [c] * 8, to_input=to_input) for c in range(3)]
    )
    assert np.isfinite(maps).all()
    assert (maps.max(axis=(1, 2)) > maps.min(axis=(1, 2))).mean() > 0.5


def test_parameters_that_no_module_can_reset_are_drawn_too():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.full((4,), 7.0))
            self.place = nn.Parameter(torch.linspace(-1, 1, 1000))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

    own = Scaled()
    drawn = randomised_copy(own, torch.zeros(2, 3, 8, 8))
    assert torch.equal(drawn.scale, own.scale)  # all equal: there is nothing to draw
    assert not torch.isclose(drawn.place, own.place).all()
    assert drawn.place.std().item() == pytest.approx(own.place.std().item(), rel=0.1)


def test_thirds_by_size():
    sizes = size_tertiles(np.arange(1, 10) / 100)
    assert sizes.cat.codes.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert sizes.cat.categories[0] == "small lesion (< 3.7 %)"
    assert len(size_tertiles([0.1])) == 1


def test_the_table_holds_the_means_and_the_paired_leads(scores):
    table = localisation_table(scores, replicates=300).set_index(["source", "score"])
    assert len(table) == len(SCORES) * (2 * len(SOURCES) - 1)
    for source, ending in SOURCES.items():
        for score in SCORES:
            row = table.loc[(source, score)]
            assert row["estimate"] == pytest.approx(scores[score + ending].mean())
            assert row["low"] <= row["estimate"] <= row["high"]
    lead = scores["energy"] - scores["energy_center"]
    assert table.loc[("network − center prior", "energy"), "estimate"] == pytest.approx(lead.mean())
    assert (table[["n", "groups"]] == [40, 20]).all(axis=None)


def test_whole_studies_are_drawn(scores):
    width = {}
    for name, frame in {"studies": scores, "images": scores.assign(group=np.arange(40))}.items():
        twice = pd.concat([frame, frame])  # every image once more, in the same study
        table = localisation_table(twice.reset_index(drop=True), replicates=500)
        row = table.set_index(["source", "score"]).loc[("network", "energy")]
        width[name] = row["high"] - row["low"]
    plain = localisation_table(scores.assign(group=np.arange(40)), replicates=500)
    row = plain.set_index(["source", "score"]).loc[("network", "energy")]
    assert width["images"] == pytest.approx(row["high"] - row["low"])


def test_parts_are_averaged_apart(scores):
    table = localisation_table(scores.assign(size=["a", "b"] * 20), by="size", replicates=50)
    assert list(dict.fromkeys(table["part"])) == ["a", "b"]
    assert (table["n"] == 20).all()
    row = table.set_index(["part", "source", "score"]).loc[("b", "network", "iou")]
    assert row["estimate"] == pytest.approx(scores["iou"][1::2].mean())


def test_a_single_image_still_has_an_interval(scores):
    first = scores.assign(size=["a"] + ["b"] * 39)
    table = localisation_table(first, by="size", replicates=50)
    one = table[table["part"] == "a"]
    assert (one["n"] == 1).all()
    np.testing.assert_allclose(one[["low", "high"]].T, [one["estimate"]] * 2)


def test_images_without_a_lesion_are_left_out(scores):
    normal = scores.iloc[[0]].assign(**dict.fromkeys(scores.columns[2:], np.nan), label=0, group=99)
    both = pd.concat([scores, normal], ignore_index=True)
    pd.testing.assert_frame_equal(
        localisation_table(both, replicates=50), localisation_table(scores, replicates=50)
    )
    with pytest.raises(ValueError, match="no image has an annotated lesion"):
        localisation_table(normal)


def test_level_out_of_range(scores):
    with pytest.raises(ValueError, match="level"):
        localisation_table(scores, level=95)


def test_the_report_is_laid_out_for_reading(scores):
    table = localisation_table(scores, replicates=50)
    report = localisation_report(table)
    assert list(report.columns) == list(SCORES.values())
    assert list(report.index)[: len(SOURCES)] == list(SOURCES)
    assert report.loc["network", "Energy in lesion"].startswith(f"{scores['energy'].mean():.3f} (")
    parts = localisation_report(localisation_table(scores, by="label", replicates=50))
    assert parts.index[0] == ("1 (n = 20)", "network")


def test_the_finding_calls_the_network_better_and_worse_as_it_is(scores):
    better = localisation_finding(localisation_table(scores, replicates=200))
    assert "On 40 annotated test tumours of 20 studies" in better
    assert "against chance **better** in 4 of 4 scores" in better
    endings = {score: f"{score}_randomised" for score in SCORES}
    swapped = scores.rename(columns=endings | {old: new for new, old in endings.items()})
    worse = localisation_finding(localisation_table(swapped, replicates=200))
    assert "against randomised weights **worse** in 4 of 4 scores" in worse
    same = scores.assign(**{f"{score}_center": scores[score] for score in SCORES})
    finding = localisation_finding(localisation_table(same, replicates=200))
    assert "against center prior **no different** in any of 4 scores" in finding


def test_a_score_that_never_varies_is_not_called(scores):
    missed = scores.assign(pointing=0.0, energy=0.0, iou=0.0, iou_best=0.0)
    finding = localisation_finding(localisation_table(missed, replicates=200))
    assert "worse" not in finding
    assert "against chance **no different**" in finding
