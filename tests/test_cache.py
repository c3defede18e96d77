import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image

from btxrd.data import Preprocessing, open_cache, read_annotation, read_table
from btxrd.data.annotations import annotation_file
from btxrd.data.cache import data_fingerprint


@pytest.fixture
def few(phantom, table, tmp_path) -> pd.DataFrame:
    """Ten images in a folder of their own, so that a test may damage them."""
    chosen = table.head(10)
    for path in map(Path, chosen["path"]):
        for source in (path, annotation_file(path)):
            target = tmp_path / "data" / source.relative_to(phantom)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    chosen.drop(columns=["label", "path"]).to_csv(tmp_path / "data" / "dataset.csv", index=False)
    return read_table(tmp_path / "data")


def build(table: pd.DataFrame, tmp_path):
    return open_cache(table, Preprocessing(48), tmp_path / "cache", progress=False)


def test_the_cache_holds_what_preprocessing_gives_and_masks_of_tumours_only(cache, table):
    for row in (0, 57, len(table) - 1):
        expected = Preprocessing(64).read(table["path"][row])
        np.testing.assert_array_equal(cache.images[row], expected)
    assert cache.images.shape == cache.masks.shape == (len(table), 64, 64)
    has_mask = cache.masks.any(axis=(1, 2))
    np.testing.assert_array_equal(has_mask, table["label"] > 0)
    np.testing.assert_array_equal(cache.index["lesion_area"] > 0, has_mask)


def test_the_index_tells_the_files_properties(cache, table):
    row = cache.index.iloc[3]
    with Image.open(table["path"][3]) as image:
        assert (row["width"], row["height"], row["mode"]) == (*image.size, image.mode)
    annotation = read_annotation(annotation_file(table["path"][3]))
    full = annotation.mask().mean()
    assert row["lesion_area"] == pytest.approx(full, rel=0.25)


def test_rows_follow_the_names(cache, table):
    ids = table["image_id"].iloc[[5, 2]]
    assert cache.rows(ids).tolist() == [5, 2]
    with pytest.raises(KeyError, match="IMG999999"):
        cache.rows(["IMG999999.jpeg"])


def test_names_that_look_like_numbers_or_nothing_are_found_again(few, tmp_path):
    names = ["000001", "1", "1e5", "NA", "None", "nan", "True", "7.0", "7", "-"]
    build(few.assign(image_id=names), tmp_path)
    assert build(few.assign(image_id=names), tmp_path).rows(names).tolist() == list(range(10))
    assert build(few.head(1).assign(image_id="000001"), tmp_path).rows(["000001"]).tolist() == [0]


def test_the_index_has_the_digests_as_text(few, tmp_path, monkeypatch):
    numbers = [f"{place:016d}" for place in range(20)]
    digests = iter(numbers)
    monkeypatch.setattr("btxrd.data.cache.file_digest", lambda _: next(digests))
    assert build(few, tmp_path).index["digest"].tolist() == numbers[:10]


@pytest.mark.parametrize(("width", "height"), [(1500, 2000), (2000, 700)])
def test_the_hashes_do_not_depend_on_the_size_of_the_cache(few, tmp_path, width, height):
    """Of full-size images, of which each size decodes another fraction."""
    random = np.random.default_rng(1)
    for path in few["path"]:
        pixels = random.integers(0, 256, (40, 30), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(path, quality=90)
    settings = [Preprocessing(size) for size in (64, 224, 384, 900)]
    settings += [Preprocessing(384, resize="stretch"), Preprocessing(384, contrast="none")]
    assert len({one.reduction(width, height) for one in settings}) > 2
    caches = [open_cache(few, one, tmp_path / "cache", progress=False) for one in settings]
    hashes = [cache.index["phash"].tolist() for cache in caches]
    assert len(set(hashes[0])) == len(few)
    assert all(found == hashes[0] for found in hashes)


def test_a_changed_file_is_noticed(few, tmp_path):
    first = build(few, tmp_path)
    assert build(few, tmp_path).key == first.key
    pixels = np.add.outer(np.arange(99), np.arange(77)).astype(np.uint8)
    Image.fromarray(pixels).save(few["path"][4])
    second = build(few, tmp_path)
    assert second.key != first.key
    assert second.index["width"][4] == 77


def test_the_fingerprint_covers_table_and_annotations(few, tmp_path):
    first = data_fingerprint(few, tmp_path)
    assert data_fingerprint(few.assign(age=5), tmp_path) != first
    annotation_file(few["path"][0]).write_text("{}")
    assert data_fingerprint(few, tmp_path) != first


def test_a_broken_image_is_an_entry_and_not_the_end(few, tmp_path):
    Path(few["path"][7]).write_bytes(b"broken")
    cache = build(few, tmp_path)
    errors = cache.index.set_index("image_id")["error"].dropna()
    assert errors.index.tolist() == [few["image_id"][7]]
    assert few["image_id"][7] in errors.iloc[0]
    assert not cache.images[7].any()
    assert cache.images[8].any()


def test_a_build_that_dies_leaves_no_cache(few, tmp_path, monkeypatch):
    def die(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Preprocessing, "decode", die)
    with pytest.raises(KeyboardInterrupt):
        build(few, tmp_path)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    monkeypatch.undo()
    assert build(few, tmp_path).images[0].any()


def test_builders_at_the_same_time_do_not_harm_each_other(few, tmp_path):
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        keys = [found.result() for found in [pool.submit(_key, few, tmp_path) for _ in range(3)]]
    assert len(set(keys)) == 1
    cache = build(few, tmp_path)
    assert cache.key == keys[0]
    np.testing.assert_array_equal(cache.images[2], Preprocessing(48).read(few["path"][2]))


def _key(table: pd.DataFrame, folder: Path) -> str:
    return build(table, folder).key


@pytest.mark.parametrize("size", [(301, 187), (90, 805)])
def test_a_mask_lies_on_its_lesion_in_an_exif_rotated_file(few, tmp_path, size):
    """A white lesion on black, drawn upright, stored on its side; the annotation is upright."""
    width, height = size
    box = [width // 5, height // 4, width // 2, height // 2]
    upright = Image.new("L", size)
    upright.paste(255, box)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = Path(few["path"][0])
    upright.transpose(Image.Transpose.ROTATE_90).save(path, "JPEG", exif=exif, quality=100)
    left, top, right, bottom = box
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    content = json.loads(annotation_file(path).read_text())
    content |= {"imageWidth": width, "imageHeight": height}
    content["shapes"] = [
        {"label": content["shapes"][0]["label"], "points": corners, "shape_type": "polygon"}
    ]
    annotation_file(path).write_text(json.dumps(content))
    plain = Preprocessing(64, contrast="none")
    cache = open_cache(few, plain, tmp_path / "cache", progress=False)
    scale = plain.geometry(width, height).transform
    expected = np.array([[left, top], [right, bottom]]) @ scale[:, :2].T + scale[:, 2]
    for found in (cache.masks[0] == 1, cache.images[0] > 127):
        rows, columns = np.nonzero(found)
        edges = [[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]]
        np.testing.assert_allclose(edges, expected, atol=1)
