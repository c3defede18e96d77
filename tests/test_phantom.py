"""The phantom: layout, proportions, planted traps, determinism."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from btxrd.data.table import (
    REGION_COLUMNS,
    RELEASE_COLUMNS,
    SITE_COLUMNS,
    SUBTYPE_COLUMNS,
    VIEW_COLUMNS,
)
from btxrd.extras.phantom import make_phantom
from btxrd.files import PHANTOM_FILE, is_phantom

N_IMAGES = 120
SITES, SUBTYPES = list(SITE_COLUMNS), list(SUBTYPE_COLUMNS)
REGIONS, VIEWS = list(REGION_COLUMNS), list(VIEW_COLUMNS)


@pytest.fixture(scope="module")
def sidecar(phantom: Path) -> dict:
    return json.loads((phantom / PHANTOM_FILE).read_text())


def pairs(sidecar: dict, kind: str) -> list[tuple[str, str]]:
    found = [(p["image_a"], p["image_b"]) for p in sidecar["duplicates"] if p["kind"] == kind]
    assert found
    return found


def gray(root: Path, image_id: str) -> np.ndarray:
    return np.asarray(Image.open(root / "images" / image_id).convert("L"))


def test_layout(phantom, table):
    assert is_phantom(phantom)
    assert not is_phantom(phantom / "images")
    assert sorted(path.name for path in phantom.iterdir()) == [
        "Annotations", "dataset.xlsx", "images", PHANTOM_FILE,
    ]  # fmt: skip
    assert list(pd.read_excel(phantom / "dataset.xlsx")) == list(RELEASE_COLUMNS)
    assert not table.isna().any(axis=None)
    assert (table["label"] == table["benign"] + 2 * table["malignant"]).all()
    assert sorted(path.name for path in (phantom / "images").iterdir()) == list(table["image_id"])
    assert set(table["gender"]) == {"M", "F"}
    assert table["age"].between(1, 88).all()
    assert (table[REGIONS].sum(axis=1) == 1).all()
    assert (table[VIEWS].sum(axis=1) == 1).all()


def test_images_are_gray_jpegs(phantom, table):
    images = [Image.open(phantom / "images" / image_id) for image_id in table["image_id"]]
    assert {image.format for image in images} == {"JPEG"}
    assert {image.mode for image in images} == {"L", "RGB"}
    for image in images:
        pixels = np.asarray(image.convert("RGB"))
        assert np.ptp(pixels, axis=2).max() == 0
        assert pixels.std() > 10


def test_proportions(table):
    counts = table.groupby(["center", "label"]).size()
    release = {(1, 0): 1593, (1, 1): 1110, (1, 2): 235, (2, 0): 259, (2, 1): 214, (2, 2): 76,
               (3, 0): 27, (3, 1): 201, (3, 2): 31}  # fmt: skip
    assert counts.sum() == N_IMAGES
    for cell, images in release.items():
        assert counts[cell] >= 2
        assert counts[cell] == pytest.approx(images / 3746 * N_IMAGES, abs=2.5)
    subtypes = table[SUBTYPES].sum()
    assert subtypes.idxmax() == "osteochondroma"
    assert subtypes["osteosarcoma"] > subtypes["other mt"]


def test_row_order_and_names(table):
    tumour, first = table["tumor"] == 1, table["center"] == 1
    block = np.select([tumour & first, tumour, first], [0, 1, 2], 3)
    assert (np.diff(block) >= 0).all()
    stems = [Path(image_id).stem for image_id in table["image_id"]]
    assert stems == [f"IMG{number:06d}" for number in range(1, N_IMAGES + 1)]
    jpg = table["image_id"].str.endswith(".jpg").to_numpy()
    assert 1 <= jpg.sum() <= 2
    assert jpg[-jpg.sum() :].all()
    assert (table.loc[jpg, "tumor"] == 0).all()


def test_only_tumours_have_sites_and_annotations(phantom, table):
    tumour = table["tumor"] == 1
    assert (table.loc[~tumour, SITES + SUBTYPES].sum(axis=1) == 0).all()
    assert (table.loc[tumour, SITES].sum(axis=1) >= 1).all()
    assert (table.loc[tumour, SUBTYPES].sum(axis=1) == 1).all()
    assert (table["benign"] + table["malignant"] == table["tumor"]).all()
    annotated = {path.stem for path in (phantom / "Annotations").iterdir()}
    assert annotated == {Path(image_id).stem for image_id in table.loc[tumour, "image_id"]}


def test_annotations_outline_the_lesions(phantom, table):
    areas, lesions = [], []
    for row in table[table["tumor"] == 1].to_dict("records"):
        file = phantom / "Annotations" / f"{Path(row['image_id']).stem}.json"
        document = json.loads(file.read_text())
        height, width = gray(phantom, row["image_id"]).shape
        shapes = document.pop("shapes")
        assert document == {
            "version": "5.4.1", "flags": {}, "imagePath": row["image_id"], "imageData": None,
            "imageHeight": height, "imageWidth": width,
        }  # fmt: skip
        assert all(row[shape["label"]] == 1 for shape in shapes)
        for rectangle, polygon in zip(shapes[::2], shapes[1::2], strict=True):
            assert (rectangle["shape_type"], polygon["shape_type"]) == ("rectangle", "polygon")
            points = np.array(polygon["points"])
            low, high = np.sort(rectangle["points"], axis=0)
            assert 10 <= len(points) <= 40
            assert ((low >= 0) & (low <= points.min(0))).all()
            assert ((points.max(0) <= high) & (high <= (width, height))).all()
            areas.append(cv2.contourArea(points.astype(np.float32)) / (width * height))
        lesions.append(len(shapes) // 2)
    assert min(lesions) == 1
    assert max(lesions) >= 2
    assert 0.01 < np.median(areas) < 0.08


def test_patients_stand_together(table, sidecar):
    copies = {pair["image_b"] for pair in sidecar["duplicates"]}
    table = table.assign(patient=table["image_id"].map(sidecar["patients"]))
    originals = table[~table["image_id"].isin(copies)]
    sizes = originals.groupby("patient").size()
    assert set(sizes) == {1, 2, 3, 4}
    shared = ["center", "age", "gender", "label", *SITES, *SUBTYPES, *REGIONS]
    for _, views in originals.groupby("patient"):
        assert (np.diff(views.index) == 1).all()
        assert len(views[shared].drop_duplicates()) == 1


def test_duplicates(phantom, table, sidecar):
    rows = table.drop(columns=["center", "path"]).set_index("image_id")
    for pair in pairs(sidecar, "exact"):
        assert len({(phantom / "images" / name).read_bytes() for name in pair}) == 1
    [conflict] = pairs(sidecar, "conflict")
    assert rows.loc[list(conflict), "label"].tolist() == [1, 0]
    for one, other in [*pairs(sidecar, "near"), conflict]:
        difference = np.abs(gray(phantom, one).astype(int) - gray(phantom, other))
        assert 0 < difference.mean() < 8
    for one, other in pairs(sidecar, "exact") + pairs(sidecar, "near"):
        assert rows.loc[one].equals(rows.loc[other])
        assert sidecar["patients"][one] == sidecar["patients"][other]


def test_malignant_images_of_center_1_are_small(phantom, table):
    widths = table["image_id"].map(lambda image_id: gray(phantom, image_id).shape[1])
    first = table["center"] == 1
    malignant = widths[first & (table["label"] == 2)]
    normal = widths[first & (table["label"] == 0)]
    assert malignant.max() <= 800 * 0.25
    assert normal.median() >= 1300 * 0.25


def test_equal_arguments_give_equal_bytes(tmp_path):
    folders = [
        make_phantom(tmp_path / str(workers), 60, seed=7, scale=0.1, workers=workers)
        for workers in (1, 2)
    ]
    one, other = (
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in folders
    )
    assert one == other
    different = make_phantom(tmp_path / "other seed", 60, seed=8, scale=0.1, workers=1)
    name = Path("images") / "IMG000001.jpeg"
    assert (different / name).read_bytes() != one[name]


def test_a_full_folder_is_left_alone(phantom, tmp_path):
    with pytest.raises(FileExistsError, match="phantom"):
        make_phantom(phantom, N_IMAGES)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert is_phantom(make_phantom(empty, 60, scale=0.1, workers=1))


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_images", 59), ("seed", -1), ("scale", 0.0), ("scale", 1.5), ("workers", 0)],
)
def test_bad_arguments_are_named(tmp_path, name, value):
    with pytest.raises(ValueError, match="at least 60" if name == "n_images" else name):
        make_phantom(tmp_path / "phantom", **{name: value})
    assert not (tmp_path / "phantom").exists()
