from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from btxrd.data import ImageCache, patient_groups, read_table
from btxrd.data.table import RELEASE_COLUMNS
from btxrd.evaluation import Bootstrap
from btxrd.evaluation.shortcuts import SHORTCUTS, shortcut_features, shortcut_table

SIDE = 32
FEW = Bootstrap(20)


def blank_table(labels):
    """Rows that tell nothing: one age, one sex, no flag set."""
    table = pd.DataFrame(0, index=np.arange(len(labels)), columns=list(RELEASE_COLUMNS))
    names = [f"IMG{row:06d}.jpeg" for row in table.index]
    return table.assign(image_id=names, age=40, gender="F", label=labels)


def blank_cache(table):
    """Files that tell nothing, in another order than the table's; noise for pixels."""
    rng = np.random.default_rng(1)
    shape = (len(table), SIDE, SIDE)
    index = pd.DataFrame({"image_id": table["image_id"].to_numpy()[::-1]}).assign(
        width=1000, height=1500, bytes=90_000, mode="L", quantisation=10.0
    )
    images = rng.integers(100, 140, shape).astype(np.uint8)
    return ImageCache(images, np.zeros(shape, np.uint8), index, "0" * 16)


@pytest.fixture
def blank():
    table = blank_table(np.random.default_rng(0).choice(3, 240, p=[0.5, 0.3, 0.2]))
    return table, blank_cache(table)


def auc(result, split="image"):
    return result[result["split"] == split].set_index("shortcut")["estimate"]


def plant(where, table, cache):
    """Make one thing tell the class: in the table, the files or the pixels."""
    labels, backwards = table["label"], table["label"].to_numpy()[::-1]
    if where == "age":
        return table.assign(age=20 + 20 * labels), cache
    if where == "site":
        return table.assign(femur=labels == 1, tibia=labels == 2), cache
    if where == "width":
        return table, replace(cache, index=cache.index.assign(width=1000 - 200 * backwards))
    images = cache.images.copy()
    images[:, 8:24, 8:24] += 40 * backwards[:, None, None].astype(np.uint8)
    return table, replace(cache, images=images)


@pytest.mark.parametrize(
    ("where", "found_by"),
    [
        ("width", ["file"]),
        ("age", ["metadata", "sites"]),
        ("site", ["sites"]),
        ("middle", ["thumbnail"]),
    ],
)
def test_a_planted_shortcut_is_found_by_its_baseline_alone(blank, where, found_by):
    table, cache = plant(where, *blank)
    result = shortcut_table(table, table.index, FEW, cache, folds=2)
    for found in (auc(result), auc(result, "group")):
        assert (found[found_by] > 0.95).all(), found
        assert found.drop(found_by).between(0.35, 0.65).all(), found


def test_a_thin_frame_is_seen_by_the_border(blank):
    table, cache = blank
    images = cache.images.copy()
    images[:, :2] += 30 * table["label"].to_numpy()[::-1, None, None].astype(np.uint8)
    features = shortcut_features(table, replace(cache, images=images))
    plain = shortcut_features(table, cache)
    changed = (features["border"] != plain["border"]).any(axis=0)
    assert changed.tolist() == [True] * 16 + [False] * 44
    result = shortcut_table(table, table.index, FEW, replace(cache, images=images), folds=2)
    assert auc(result)["border"] > 0.95


def test_grouped_folds_remove_what_siblings_leak():
    """Ages that identify a patient and tell nothing of the class."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 6)
    table = blank_table(np.repeat(rng.integers(0, 3, 60), 6))
    table["age"] = np.repeat(rng.permutation(60), 6)
    result = shortcut_table(table, groups, FEW, folds=3)
    assert auc(result, "image")["metadata"] > 0.8
    assert auc(result, "group")["metadata"] < 0.6


def test_features_stand_in_the_order_of_the_table(table, cache):
    features = shortcut_features(table, cache)
    assert list(features) == list(SHORTCUTS)
    assert {len(rows) for rows in features.values()} == {len(table)}
    shuffled = table.sample(frac=1, random_state=0)
    again = shortcut_features(shuffled, cache)
    for name, rows in features.items():
        expected = pd.DataFrame(rows).iloc[shuffled.index.to_numpy()]
        np.testing.assert_array_equal(np.asarray(again[name]), expected)


def test_the_table_alone_tells_metadata_and_fifteen_sites(table):
    features = shortcut_features(table)
    assert {name: rows.shape[1] for name, rows in features.items()} == {"metadata": 8, "sites": 23}


def test_pixels_are_grey_levels_of_the_square(blank):
    table, cache = blank
    flat = replace(cache, images=np.full_like(cache.images, 77))
    features = shortcut_features(table, flat)
    for name, size in {"thumbnail": 64, "border": 60}.items():
        assert features[name].shape == (240, size)
        assert (features[name] == 77).all()


def test_the_phantom_has_all_ten_rows(table, cache, duplicates):
    groups = patient_groups(table, duplicates)
    result = shortcut_table(table, groups, Bootstrap(50), cache, folds=3)
    columns = ["shortcut", "sees", "split", "n", "estimate", "low", "high"]
    assert list(result.columns) == columns
    rows = [(name, split) for name in SHORTCUTS for split in ("image", "group")]
    assert list(zip(result["shortcut"], result["split"], strict=True)) == rows
    assert (result["n"] == len(table)).all()
    assert (result["low"] <= result["estimate"]).all()
    assert (result["estimate"] <= result["high"]).all()
    assert auc(result)["sites"] > auc(result)["metadata"]


def test_equal_seeds_give_equal_tables(table, duplicates):
    groups = patient_groups(table, duplicates)
    first, again, other = (
        shortcut_table(table, groups, FEW, folds=2, seed=seed) for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(first, again)
    assert not first["estimate"].equals(other["estimate"])


def test_rare_classes_get_fewer_folds_and_too_rare_ones_no_figure():
    labels = np.repeat([0, 1, 2], [30, 30, 4])
    table = blank_table(labels).assign(age=10 + labels)
    two_groups = np.r_[np.arange(60), 60, 60, 61, 61]
    result = shortcut_table(table, two_groups, FEW)
    assert result["estimate"].notna().all()
    one_group = np.r_[np.arange(60), 60, 60, 60, 60]
    result = shortcut_table(table, one_group, FEW).set_index("split")
    assert result.loc["image", "estimate"].notna().all()
    assert result.loc["group", ["estimate", "low", "high"]].isna().all(axis=None)
    missing = shortcut_table(table[labels < 2], np.arange(60), FEW)
    assert missing[["estimate", "low", "high"]].isna().all(axis=None)
    assert (missing["n"] == 60).all()


def test_figures_of_the_real_table(real_table):
    table = read_table(real_table)
    groups = patient_groups(table, pd.read_csv(real_table / "duplicates.csv"))
    result = shortcut_table(table, groups, Bootstrap(200))
    assert auc(result)["metadata"] == pytest.approx(0.698, abs=0.03)
    assert auc(result, "group")["metadata"] == pytest.approx(0.594, abs=0.03)
    assert auc(result)["sites"] == pytest.approx(0.963, abs=0.03)
