"""Scores of maps against their references, on maps whose scores are known."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from btxrd.evaluation import Bootstrap
from btxrd.evaluation.localisation import (
    SCORES,
    SOURCES,
    best_threshold,
    cam_mask_iou,
    center_prior,
    chance_scores,
    energy_inside,
    localisation_scores,
    localisation_table,
    normalise_maps,
    pointing_game,
    reference_scores,
)

FEW = Bootstrap(50)


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    """Three lesions of 1/4, 1/16 and 1/64 of an 8 x 8 image, and an image without one."""
    masks = np.zeros((4, 8, 8), dtype=np.uint8)
    masks[0, :4, :4] = masks[1, 2:4, 2:4] = masks[2, 7, 7] = 1
    return masks


@pytest.fixture(scope="module")
def scores(masks: np.ndarray) -> pd.DataFrame:
    """Forty tumours in twenty studies, all but four found by the network, and its references.

    Its attention finds all but two.
    """
    rng = np.random.default_rng(0)
    drawn = masks[rng.integers(3, size=40)]
    looked_at = np.where(np.arange(40)[:, None, None] % 10 > 0, drawn, drawn[:, ::-1])
    maps = {
        "network": looked_at + 0.6 * rng.random(drawn.shape),
        "attention": np.where(np.arange(40)[:, None, None] % 20 > 0, drawn, drawn[:, ::-1])
        + 0.6 * rng.random(drawn.shape),
        "randomised weights": rng.random(drawn.shape),
        "center prior": np.broadcast_to(center_prior(8), drawn.shape),
    }
    facts = {"group": np.arange(40) // 2, "label": np.arange(40) // 20 + 1}
    thresholds = {source: best_threshold(found, drawn) for source, found in maps.items()}
    return pd.DataFrame(facts).join(reference_scores(maps, drawn, thresholds))


def square(*corners) -> np.ndarray:
    """An 8 x 8 mask that is 1 in rows and columns [top, bottom) x [left, right)."""
    top, bottom, left, right = corners
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def test_normalised_maps_span_zero_to_one():
    maps = np.stack([np.zeros((8, 8)), np.full((8, 8), 3.0), square(0, 4, 0, 4) * 5.0 + 1])
    scaled = normalise_maps(maps)
    assert scaled.dtype == np.float32
    assert not scaled[:2].any()
    np.testing.assert_array_equal(scaled[2], square(0, 4, 0, 4))


def test_scores_of_known_maps():
    mask = square(0, 4, 0, 4)
    maps = np.stack([mask, square(0, 4, 2, 6), square(4, 8, 4, 8), mask, 0 * mask]) * 2.0
    masks = np.stack([mask, mask, mask, 0 * mask, mask])
    iou = cam_mask_iou(maps, masks)
    np.testing.assert_allclose(iou, [1, 8 / 24, 0, np.nan, 0])
    energy = energy_inside(maps, masks)
    np.testing.assert_allclose(energy, [1, 0.5, 0, np.nan, np.nan])
    assert pointing_game(maps, masks).tolist() == [True, True, False, False, False]


def test_energy_uses_the_raw_map():
    mask = square(0, 4, 0, 8)
    maps = (1.0 + 2.0 * mask)[None]
    assert energy_inside(maps, mask[None]) == pytest.approx([0.75])
    assert energy_inside(normalise_maps(maps), mask[None]) == pytest.approx([1.0])


def test_scores_do_not_depend_on_the_scale_of_the_map():
    generator = np.random.default_rng(0)
    maps = generator.random((6, 8, 8), dtype=np.float32)
    masks = (generator.random((6, 8, 8)) > 0.6).astype(np.uint8)
    for score in (cam_mask_iou, pointing_game, energy_inside):
        np.testing.assert_allclose(score(1e-6 * maps, masks), score(maps, masks), rtol=1e-5)


def test_a_higher_threshold_leaves_less():
    maps = np.linspace(0, 1, 64).reshape(1, 8, 8)
    masks = np.ones((1, 8, 8), dtype=np.uint8)
    shares = [cam_mask_iou(maps, masks, threshold)[0] for threshold in (0.25, 0.5, 0.75)]
    assert shares == [0.75, 0.5, 0.25]


@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_threshold_out_of_range(threshold):
    with pytest.raises(ValueError, match="threshold must lie"):
        cam_mask_iou(np.zeros((1, 8, 8)), np.zeros((1, 8, 8), np.uint8), threshold)


@pytest.mark.parametrize("score", [cam_mask_iou, pointing_game, energy_inside])
def test_shapes_must_agree(score):
    with pytest.raises(ValueError, match="masks"):
        score(np.zeros((2, 8, 8)), np.zeros((2, 4, 4), np.uint8))


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


@pytest.mark.parametrize("steps", [20, 1000])
@pytest.mark.parametrize("noise", [0.1, 0.8, 3])
def test_the_best_threshold_is_the_one_of_the_highest_mean_iou(masks, noise, steps):
    rng = np.random.default_rng(0)
    # In 20 steps, values lie on the thresholds.
    maps = np.round(steps * (masks + noise * rng.random(masks.shape))) / steps
    candidates = np.arange(1, 20) / 20
    means = [np.nanmean(cam_mask_iou(maps, masks, threshold)) for threshold in candidates]
    assert best_threshold(maps, masks) == candidates[np.argmax(means)]


def test_without_a_lesion_on_val_the_threshold_is_a_half(masks):
    assert best_threshold(np.ones((1, 8, 8)), masks[3:]) == 0.5
    assert best_threshold(np.ones((0, 8, 8)), masks[:0]) == 0.5


def test_the_table_holds_the_means_and_the_paired_leads(scores):
    table = localisation_table(scores, Bootstrap(300)).set_index(["source", "score"])
    assert len(table) == len(SCORES) * (len(SOURCES) + 2 * 3)
    for source, ending in SOURCES.items():
        for score in SCORES:
            row = table.loc[(source, score)]
            assert row["estimate"] == pytest.approx(scores[score + ending].mean())
            assert row["low"] <= row["estimate"] <= row["high"]
    lead = scores["energy"] - scores["energy_center"]
    assert table.loc[("network − center prior", "energy"), "estimate"] == pytest.approx(lead.mean())
    attention, network = (
        table.loc[(f"{trained} − center prior", "energy"), "estimate"]
        for trained in ("attention", "network")
    )
    assert attention > network > 0
    assert "attention − network" not in table.index.get_level_values("source")
    assert (table[["n", "groups"]] == [40, 20]).all(axis=None)


def test_whole_studies_are_drawn(scores):
    def width(frame):
        table = localisation_table(frame.reset_index(drop=True), Bootstrap(500))
        row = table.set_index(["source", "score"]).loc[("network", "energy")]
        return row["high"] - row["low"]

    apart = scores.assign(group=np.arange(40))
    # Every image once more, in the same study: nothing is learnt.
    assert width(pd.concat([apart, apart])) == pytest.approx(width(apart))
    twice = pd.concat([apart, apart.assign(group=np.arange(40, 80))])
    assert width(twice) < 0.85 * width(apart)


def test_without_maps_of_the_network_the_references_are_averaged_alone(scores):
    without = scores.filter(regex="group|label|_chance|_center")
    table, whole = localisation_table(without, FEW), localisation_table(scores, FEW)
    assert set(table["source"]) == {"chance", "center prior"}
    expected = whole[whole["source"].isin(table["source"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(table, expected)


def test_parts_are_averaged_apart(scores):
    table = localisation_table(scores.assign(size=["a", "b"] * 20), FEW, by="size")
    assert list(dict.fromkeys(table["part"])) == ["a", "b"]
    assert (table["n"] == 20).all()
    row = table.set_index(["part", "source", "score"]).loc[("b", "network", "iou")]
    assert row["estimate"] == pytest.approx(scores["iou"][1::2].mean())


def test_of_a_single_image_only_a_share_has_an_interval(scores):
    first = scores.assign(size=["a"] + ["b"] * 39)
    table = localisation_table(first, FEW, by="size")
    one = table[table["part"] == "a"].set_index(["source", "score"])
    assert (one["n"] == 1).all()
    assert one["estimate"].notna().all()
    shares = [(source, "pointing") for source in SOURCES if source != "chance"]
    assert one.drop(shares)["low"].isna().all()
    exact = {0: (0, 0.975), 1: (0.025, 1)}
    for _, row in one.loc[shares].iterrows():
        assert (row["low"], row["high"]) == pytest.approx(exact[row["estimate"]])


def test_the_share_of_hits_is_a_proportion(scores, korn_graubard):
    bootstrap = Bootstrap(200, seed=3)
    table = localisation_table(scores, bootstrap).set_index(["source", "score"])
    row = table.loc[("center prior", "pointing")]
    weights = bootstrap.weights(scores["label"], scores["group"])[1:]
    replicates = [np.average(scores["pointing_center"], weights=weight) for weight in weights]
    expected = korn_graubard(replicates, scores["pointing_center"].mean(), 40, 20, 0.95)
    assert (row["low"], row["high"]) == pytest.approx(expected)
    expected = np.percentile(
        [np.average(scores["energy"], weights=weight) for weight in weights], [2.5, 97.5]
    )
    assert table.loc[("network", "energy"), ["low", "high"]].tolist() == pytest.approx(expected)


def test_a_peak_that_never_hits_leads_by_nothing_sure(scores):
    table = localisation_table(scores.assign(pointing=0.0), FEW).set_index(["source", "score"])
    assert table.loc[("network", "pointing"), ["low", "high"]].tolist() == pytest.approx(
        [0, binomtest(0, 20).proportion_ci(method="exact").high]
    )
    leads = table[table.index.get_level_values("source").str.startswith("network −")]
    assert leads["low"].isna().tolist() == (leads.index.get_level_values(1) == "pointing").tolist()
    others = table[table.index.get_level_values("source").str.startswith("attention −")]
    assert others["low"].notna().all()


def test_images_without_a_lesion_are_left_out(scores):
    normal = scores.iloc[[0]].assign(**dict.fromkeys(scores.columns[2:], np.nan), label=0, group=99)
    both = pd.concat([scores, normal], ignore_index=True)
    pd.testing.assert_frame_equal(localisation_table(both, FEW), localisation_table(scores, FEW))
    with pytest.raises(ValueError, match="no image has an annotated lesion"):
        localisation_table(normal, FEW)
