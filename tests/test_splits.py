import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from imagehash import phash
from PIL import Image

from btxrd.data import (
    Preprocessing,
    make_split,
    near_duplicates,
    open_cache,
    patient_groups,
    read_table,
)
from btxrd.data.release_files import release_digests
from btxrd.data.splits import conflicting_pairs, folds_of, leakage_table, read_split
from btxrd.extras.phantom import make_phantom
from btxrd.files import file_digest, write_csv
from btxrd.strategies import SPLITS


def sizes(split: pd.DataFrame) -> dict[str, list[int]]:
    counts = pd.crosstab(split["part"], split["label"])
    return {part: counts.loc[part].tolist() for part in ("train", "val", "test")}


@pytest.fixture(scope="module")
def real(real_table) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table, and the pairs as they were found in the pixels: there distance 0 is identical."""
    pairs = pd.read_csv(real_table / "duplicates.csv")
    return read_table(real_table), pairs.assign(identical=pairs["distance"] == 0)


PUBLISHED = {
    "stratified": {"train": [1315, 1066, 240], "val": [282, 228, 51], "test": [282, 231, 51]},
    "center": {"train": [1355, 944, 200], "val": [238, 166, 35], "test": [286, 415, 107]},
}


@pytest.mark.parametrize("strategy", PUBLISHED)
def test_a_split_is_the_published_one(real, strategy):
    split = make_split(real[0], strategy, duplicates=real[1])
    assert sizes(split) == PUBLISHED[strategy]
    parts = split.set_index("image_id")["part"]
    assert strategy != "stratified" or parts["IMG000707.jpeg"] == parts["IMG003346.jpeg"] == "test"


@pytest.mark.parametrize("strategy", PUBLISHED)
def test_the_published_split_follows_from_the_digests_of_the_release(real, strategy):
    """No pixel is read: the pairs are those files of the release that are the same, 21 of them."""
    table, duplicates = real
    released = release_digests()
    contents = [released[Path(image_id).stem][0] for image_id in table["image_id"]]
    far_apart = np.arange(len(table), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    pairs = near_duplicates(table["image_id"], far_apart, contents)
    assert pairs["identical"].sum() == 21
    identical = pairs[pairs["identical"]]
    split = make_split(table, strategy, duplicates=identical)
    expected = make_split(table, strategy, duplicates=duplicates)
    columns = ["image_id", "part", "label"]
    pd.testing.assert_frame_equal(split[columns], expected[columns])


def test_patient_groups_of_the_real_table(real):
    table, duplicates = real
    runs = patient_groups(table)
    assert runs.nunique() == 1950
    assert patient_groups(table, duplicates).nunique() == 1923
    assert (runs.map(runs.value_counts()) > 1).sum() == 2826


def test_grouped_keeps_groups_whole_shares_even_and_disputed_labels_in_train(real):
    table, duplicates = real
    split = make_split(table, "grouped", duplicates=duplicates)
    assert len(split[["group", "part"]].drop_duplicates()) == split["group"].nunique()
    part_sizes = split["part"].value_counts(normalize=True)
    for part, share in {"train": 0.70, "val": 0.15, "test": 0.15}.items():
        assert part_sizes[part] == pytest.approx(share, abs=0.01)
    shares = pd.crosstab(split["part"], split["label"], normalize="index")
    overall = split["label"].value_counts(normalize=True).sort_index()
    assert (abs(shares - overall) < 0.01).all(axis=None)
    disputed = conflicting_pairs(table, duplicates)
    assert len(disputed) == 3
    parts = split.set_index("image_id")["part"]
    assert set(parts[disputed["image_a"]]) | set(parts[disputed["image_b"]]) == {"train"}


def test_the_folds_of_the_real_table(real):
    split = make_split(real[0], "grouped_cv", duplicates=real[1])
    tested = split[split["part"] == "test"]
    assert (len(tested), (tested["label"] == 2).sum()) == (3733, 342)
    assert tested.groupby("fold").size().between(740, 750).all()
    counts = make_split(real[0], "center_cv", duplicates=real[1]).query("part == 'test'")
    assert pd.crosstab(counts["fold"], counts["label"]).loc[3].tolist() == [27, 201, 31]


def test_leakage_of_the_real_table(real):
    table, duplicates = real
    splits = {name: make_split(table, name, duplicates=duplicates) for name in SPLITS}
    leakage = leakage_table(table, splits, duplicates).set_index(["strategy", "part"])
    assert leakage.loc[("random", "test"), "sibling_share"] == pytest.approx(0.68, abs=0.03)
    assert leakage.loc[("grouped", "test"), ["with_sibling", "with_duplicate"]].tolist() == [0, 0]


@pytest.mark.parametrize("strategy", SPLITS)
def test_every_image_has_its_place(table, duplicates, strategy):
    split = make_split(table, strategy, duplicates=duplicates)
    assert set(split["image_id"]) == set(table["image_id"])
    assert tuple(folds_of(split)) == (SPLITS[strategy].folds or (None,))
    for fold in folds_of(split).values():
        assert list(fold.columns) == ["image_id", "part", "label", "group"]
        assert set(fold["part"]) == {"train", "val", "test"}
        held_out = fold[fold["part"] != "train"]
        assert not set(held_out["image_id"]) & set(fold["image_id"][fold["part"] == "train"])
        assert fold["image_id"].is_unique == (strategy != "random")
    pd.testing.assert_frame_equal(split, make_split(table, strategy, duplicates=duplicates))


@pytest.fixture(scope="module")
def contradictory(table, duplicates) -> tuple[pd.DataFrame, pd.Series]:
    """The table with one label changed beside its exact duplicate; which images are disputed."""
    exact = duplicates[duplicates["identical"]].iloc[0]
    changed = table.assign(
        label=table["label"].mask(table["image_id"] == exact["image_a"], (table["label"] + 1) % 3)
    )
    pairs = conflicting_pairs(changed, duplicates)
    assert exact["image_a"] in set(pairs["image_a"])
    groups = patient_groups(changed, duplicates).set_axis(changed["image_id"])
    return changed, groups.isin(groups[pairs["image_a"]])


@pytest.mark.parametrize("strategy", ["grouped_cv", "center_cv"])
def test_every_image_is_tested_once_by_a_network_that_saw_nothing_of_its_study(
    contradictory, duplicates, strategy
):
    table, disputed = contradictory
    split = make_split(table, strategy, duplicates=duplicates)
    tested = split.loc[split["part"] == "test", "image_id"]
    assert tested.is_unique
    assert set(tested) == set(disputed.index[~disputed])
    centers = table.set_index("image_id")["center"]
    for number, fold in folds_of(split).items():
        assert fold.groupby("group")["part"].nunique().max() == 1
        parts = fold.set_index("image_id")["part"]
        assert set(parts[disputed.reindex(parts.index)]) <= {"train"}
        where = centers[parts.index] == number
        assert strategy == "grouped_cv" or (where == (parts == "test")).all()
    leakage = leakage_table(table, {strategy: split}, duplicates)
    assert (leakage[["with_sibling", "with_duplicate"]] == 0).all(axis=None)
    assert leakage["images"].tolist()[1] == len(tested)


def test_the_val_of_a_fold_is_the_test_of_the_next_one(table):
    folds = folds_of(make_split(table, "grouped_cv"))
    parts = {
        k: {part: set(f["image_id"]) for part, f in rows.groupby("part")}
        for k, rows in folds.items()
    }
    for fold, following in zip(folds, [*list(folds)[1:], 1], strict=True):
        assert parts[fold]["val"] == parts[following]["test"]


def test_a_center_is_held_out_beside_a_validation_of_the_usual_size(crowd):
    table, _, duplicates = crowd
    for center, fold in folds_of(make_split(table, "center_cv", duplicates=duplicates)).items():
        seen = fold[fold["part"] != "test"]
        assert 0.1 < (seen["part"] == "val").mean() < 0.2
        assert len(fold) - len(seen) > 0
        # Only images with a sibling in the test center are left out.
        here = set(table.loc[table["center"] == center, "image_id"])
        left_out = set(table["image_id"]) - set(fold["image_id"])
        groups = patient_groups(table, duplicates).set_axis(table["image_id"])
        assert groups[list(left_out - here)].isin(groups[list(here)]).all()


def test_random_scores_on_what_it_selects_on(table):
    split = make_split(table, "random")
    parts = {part: set(rows["image_id"]) for part, rows in split.groupby("part")}
    assert parts["val"] == parts["test"]


def test_center_tests_on_other_centers(table, duplicates):
    exact = duplicates[duplicates["identical"]]
    tied = set(exact["image_a"]) | set(exact["image_b"])
    split = make_split(table, "center", duplicates=duplicates).merge(table[["image_id", "center"]])
    untied = split[~split["image_id"].isin(tied)]
    assert (untied["part"].eq("test") == untied["center"].ne(1)).all()


def test_exact_duplicates_stay_together(table, duplicates):
    parts = make_split(table, "stratified", duplicates=duplicates).set_index("image_id")["part"]
    assert duplicates["identical"].any()
    for pair in duplicates[duplicates["identical"]].itertuples():
        assert parts[pair.image_a] == parts[pair.image_b]


def test_bytes_and_not_hashes_keep_images_together(table):
    """Of pairs of every other image, in a split that tears them apart when it knows nothing."""
    ids = table["image_id"].to_numpy()
    pairs = pd.DataFrame({"image_a": ids[:-1:2], "image_b": ids[1::2], "distance": 0})
    alone = make_split(table, "stratified")
    as_like = make_split(table, "stratified", duplicates=pairs.assign(identical=False))
    assert as_like["part"].equals(alone["part"])
    pairs = pairs.assign(distance=40, identical=True)
    together = make_split(table, "stratified", duplicates=pairs).set_index("image_id")["part"]
    apart = alone.set_index("image_id")["part"]
    assert (apart[pairs["image_a"]].to_numpy() != apart[pairs["image_b"]].to_numpy()).any()
    assert (together[pairs["image_a"]].to_numpy() == together[pairs["image_b"]].to_numpy()).all()


def test_splits_do_not_depend_on_the_size_that_networks_see(table, cache, cache_dir, duplicates):
    larger = open_cache(table, Preprocessing(384), cache_dir, progress=False)
    assert larger.images.shape != cache.images.shape
    index = larger.index
    pairs = near_duplicates(index["image_id"], index["phash"].to_numpy(), index["digest"])
    pd.testing.assert_frame_equal(pairs, duplicates)
    for strategy in SPLITS:
        split = make_split(table, strategy, duplicates=pairs)
        assert split.equals(make_split(table, strategy, duplicates=duplicates))


@pytest.fixture(scope="module")
def crowd(tmp_path_factory) -> tuple[pd.DataFrame, pd.Series, pd.DataFrame]:
    """A phantom of 400 images: its table, true patients and near-duplicates."""
    root = make_phantom(tmp_path_factory.mktemp("crowd") / "p", 400, scale=0.1, workers=1)
    table = read_table(root)
    patients = json.loads((root / "phantom.json").read_text())["patients"]
    hashes = [phash(Image.open(path)) for path in table["path"]]
    numbers = np.array([int(str(value), 16) for value in hashes], np.uint64)
    digests = [file_digest(path) for path in table["path"]]
    duplicates = near_duplicates(table["image_id"], numbers, digests)
    return table, table["image_id"].map(patients), duplicates


def pairs_within(groups: pd.Series) -> set[tuple[int, int]]:
    members = groups.groupby(groups).groups.values()
    return {pair for rows in members for pair in itertools.combinations(sorted(rows), 2)}


def test_patient_groups_find_the_true_patients(crowd):
    table, patients, duplicates = crowd
    true, found = pairs_within(patients), pairs_within(patient_groups(table, duplicates))
    precision, recall = len(true & found) / len(found), len(true & found) / len(true)
    print(f"surrogate groups: precision {precision:.3f}, recall {recall:.3f}")
    assert precision >= 0.95
    assert recall >= 0.95


def test_what_cannot_be_split_is_said(table):
    with pytest.raises(ValueError, match=r"'centre'.*stratified, grouped, grouped_cv, center"):
        make_split(table, "centre")
    few = pd.concat([table[table["label"] < 2], table[table["label"] == 2].head(1)])
    with pytest.raises(ValueError, match="too few images of a class"):
        make_split(few, "stratified")


def test_near_duplicates_against_a_plain_search():
    random = np.random.default_rng(1)
    hashes = random.integers(0, 2**63, 1500, dtype=np.uint64)
    hashes[1400] = hashes[3] ^ np.uint64(0b101)
    hashes[700] = hashes[699]
    names = pd.Series([f"i{n}" for n in range(1500)])
    digests = names.where(names != "i1300", "i20")
    found = near_duplicates(names, hashes, digests)
    far = int(hashes[20] ^ hashes[1300]).bit_count()
    assert far > 4
    assert set(found.itertuples(index=False, name=None)) == {
        ("i3", "i1400", 2, False),
        ("i20", "i1300", far, True),
        ("i699", "i700", 0, False),
    }


def test_a_fold_is_read_by_its_number_and_what_there_is_not_is_named(table, tmp_path):
    with pytest.raises(FileNotFoundError, match="run notebook 02"):
        read_split(tmp_path, "center_cv", 2)
    split = make_split(table, "center_cv")
    write_csv(tmp_path / "splits" / "center_cv.csv", split)
    pd.testing.assert_frame_equal(read_split(tmp_path, "center_cv", 2), folds_of(split)[2])
    with pytest.raises(ValueError, match=r"center_cv\.csv has no fold 4; it has 1, 2, 3"):
        read_split(tmp_path, "center_cv", 4)
