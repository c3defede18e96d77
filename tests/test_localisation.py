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
def masks():
    """Three lesions of 1/4, 1/16 and 1/64 of an 8 x 8 image, and an image without one."""
    masks = np.zeros((4, 8, 8), dtype=np.uint8)
    masks[0, :4, :4] = masks[1, 2:4, 2:4] = masks[2, 7, 7] = 1
    return masks


@pytest.fixture(scope="module")
def scores(masks):
    """Forty tumours in twenty groups, all but four found by the network, and its references.

    Its attention finds all but two.
    """
    rng = np.random.default_rng(0)
    drawn, place = masks[rng.integers(3, size=40)], np.arange(40)[:, None, None]
    found = [np.where(place % every > 0, drawn, drawn[:, ::-1]) for every in (10, 20)]
    maps = {
        "network": found[0] + 0.6 * rng.random(drawn.shape),
        "attention": found[1] + 0.6 * rng.random(drawn.shape),
        "randomised weights": rng.random(drawn.shape),
        "center prior": np.broadcast_to(center_prior(8), drawn.shape),
    }
    facts = {"group": np.arange(40) // 2, "label": np.arange(40) // 20 + 1}
    thresholds = {source: best_threshold(found, drawn) for source, found in maps.items()}
    return pd.DataFrame(facts).join(reference_scores(maps, drawn, thresholds))


def indexed(table):
    return table.set_index(["source", "reference", "score"])


def square(top, bottom, left, right):
    """An 8 x 8 mask that is 1 in rows and columns [top, bottom) x [left, right)."""
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


def test_energy_uses_the_raw_map_and_the_overlap_the_scaled_one():
    mask = square(0, 4, 0, 8)
    maps = (1.0 + 2.0 * mask)[None]
    assert energy_inside(maps, mask[None]) == pytest.approx([0.75])
    assert energy_inside(normalise_maps(maps), mask[None]) == pytest.approx([1.0])
    rising, everywhere = np.linspace(0, 1, 64).reshape(1, 8, 8), np.ones((1, 8, 8), np.uint8)
    shares = [cam_mask_iou(rising, everywhere, cut)[0] for cut in (0.25, 0.5, 0.75)]
    assert shares == [0.75, 0.5, 0.25]


def test_scores_do_not_depend_on_the_scale_of_the_map():
    generator = np.random.default_rng(0)
    maps = generator.random((6, 8, 8), dtype=np.float32)
    masks = (generator.random((6, 8, 8)) > 0.6).astype(np.uint8)
    for score in (cam_mask_iou, pointing_game, energy_inside):
        np.testing.assert_allclose(score(1e-6 * maps, masks), score(maps, masks), rtol=1e-5)


@pytest.mark.parametrize(("height", "score"), [(3.0, 1), (0.0, 0)])
def test_a_map_that_is_the_mask_scores_one_and_an_empty_one_nothing(masks, height, score):
    scores = localisation_scores(masks * height, masks, threshold=0.9)
    assert list(scores) == list(SCORES)
    assert (scores[:3] == score).all(axis=None)
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
    # Without a lesion, or an image:
    assert best_threshold(maps[3:], masks[3:]) == best_threshold(maps[:0], masks[:0]) == 0.5


def test_the_table_holds_the_means_and_the_paired_leads(scores):
    table = indexed(localisation_table(scores, Bootstrap(300)))
    assert len(table) == len(SCORES) * (len(SOURCES) + 2 * 3)
    for (name, reference, score), row in table.iterrows():
        values = scores[score + SOURCES[name].ending]
        if reference:
            assert (SOURCES[name].is_trained, SOURCES[reference].is_trained) == (True, False)
            values = values - scores[score + SOURCES[reference].ending]
        assert row["estimate"] == pytest.approx(values.mean())
        assert row["low"] <= row["estimate"] <= row["high"]
    leads = table["estimate"].xs(("center prior", "energy"), level=("reference", "score"))
    assert leads["attention"] > leads["network"] > 0
    assert (table[["n", "groups"]] == [40, 20]).all(axis=None)


def test_without_maps_of_the_network_the_references_are_averaged_alone(scores):
    without = scores.filter(regex="group|label|_chance|_center")
    table, whole = localisation_table(without, FEW), localisation_table(scores, FEW)
    assert set(table["source"]) == {"chance", "center prior"}
    assert (table["reference"] == "").all()
    expected = whole[whole["source"].isin(table["source"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(table, expected)


def test_parts_are_averaged_apart(scores):
    table = localisation_table(scores.assign(size=["a", "b"] * 20), FEW, by="size")
    assert list(dict.fromkeys(table["part"])) == ["a", "b"]
    assert (table["n"] == 20).all()
    row = indexed(table[table["part"] == "b"]).loc[("network", "", "iou")]
    assert row["estimate"] == pytest.approx(scores["iou"][1::2].mean())


def test_of_a_single_image_only_a_share_has_an_interval(scores):
    first = scores.assign(size=["a"] + ["b"] * 39)
    table = localisation_table(first, FEW, by="size")
    one = indexed(table[table["part"] == "a"])
    assert (one["n"] == 1).all()
    assert one["estimate"].notna().all()
    shares = [(source, "", "pointing") for source in SOURCES if source != "chance"]
    assert one.drop(shares)["low"].isna().all()
    exact = {0: (0, 0.975), 1: (0.025, 1)}
    for _, row in one.loc[shares].iterrows():
        assert (row["low"], row["high"]) == pytest.approx(exact[row["estimate"]])


def test_the_share_of_hits_is_a_proportion(scores, korn_graubard):
    bootstrap = Bootstrap(200, seed=3)
    table = indexed(localisation_table(scores, bootstrap))
    row = table.loc[("center prior", "", "pointing")]
    weights = bootstrap.weights(scores["label"], scores["group"])[1:]
    replicates = [np.average(scores["pointing_center"], weights=weight) for weight in weights]
    expected = korn_graubard(replicates, scores["pointing_center"].mean(), 40, 20, 0.95)
    assert (row["low"], row["high"]) == pytest.approx(expected)
    expected = np.percentile(
        [np.average(scores["energy"], weights=weight) for weight in weights], [2.5, 97.5]
    )
    assert table.loc[("network", "", "energy"), ["low", "high"]].tolist() == pytest.approx(expected)


def test_a_peak_that_never_hits_leads_by_nothing_sure(scores):
    table = indexed(localisation_table(scores.assign(pointing=0.0), FEW))
    assert table.loc[("network", "", "pointing"), ["low", "high"]].tolist() == pytest.approx(
        [0, binomtest(0, 20).proportion_ci(method="exact").high]
    )
    unsure = set(table.index[table["low"].isna()])
    references = [name for name, source in SOURCES.items() if not source.is_trained]
    assert unsure == {("network", reference, "pointing") for reference in references}


def test_images_without_a_lesion_are_left_out(scores):
    normal = scores.iloc[[0]].assign(**dict.fromkeys(scores.columns[2:], np.nan), label=0, group=99)
    both = pd.concat([scores, normal], ignore_index=True)
    pd.testing.assert_frame_equal(localisation_table(both, FEW), localisation_table(scores, FEW))
    with pytest.raises(ValueError, match="no image has an annotated lesion"):
        localisation_table(normal, FEW)
