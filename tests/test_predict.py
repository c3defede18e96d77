"""Prediction from files: the numbers of the study, bad files, heat maps, the command."""

import json
import re
import shutil
import sys
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from pydicom.data import get_testdata_file
from scipy.special import softmax

from btxrd import CLASS_NAMES, NORMALIZATION, RESEARCH_ONLY
from btxrd.data import Preprocessing
from btxrd.data.loader import RadiographDataset, make_loader
from btxrd.models import load_checkpoint, predict_logits
from btxrd.predictions import predictions_frame, probabilities
from btxrd.runner.predict import COLUMNS, heat_map_file, predict

CONFIG = {
    "model": {"backbone": "resnet10t", "pretrained": False},
    "data": {"image_size": 64, "contrast": "clahe", "resize": "letterbox"},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tmp_path_factory.mktemp("run") / "model.pt"


@pytest.fixture(scope="module", autouse=True)
def network(saved_network, checkpoint):
    return saved_network(checkpoint, CONFIG)


@pytest.fixture
def command(checkpoint, btxrd):
    def run(*words, checkpoint=checkpoint):
        return btxrd("predict", *words, "--checkpoint", checkpoint)

    return run


@pytest.fixture
def other(checkpoint, tmp_path):
    """Save the checkpoint once more, with something else in it; return its path."""

    def save(**changes):
        torch.save(load_checkpoint(checkpoint) | changes, tmp_path / "other.pt")
        return tmp_path / "other.pt"

    return save


def test_the_probabilities_are_those_of_the_studys_predictions(network, checkpoint, cache, table):
    some = table.iloc[:40]
    dataset = RadiographDataset(cache, np.arange(40), some["label"].to_numpy())
    loader = make_loader(dataset, 16, seed=0, shuffle=False)
    logits = predict_logits(network, loader)
    rows = some[["image_id", "center", "label"]].assign(part="test", group="g")
    expected = probabilities(predictions_frame(rows, logits))
    found = predict(some["path"], checkpoint, device="cpu")
    assert tuple(found.columns) == COLUMNS
    assert found["file"].tolist() == some["path"].tolist()
    np.testing.assert_allclose(probabilities(found), expected, atol=1e-6)
    assert found["predicted"].tolist() == [CLASS_NAMES[k] for k in expected.argmax(axis=1)]
    assert len(set(found["predicted"])) > 1
    assert found["error"].isna().all()


@pytest.mark.parametrize(
    "change",
    [
        {"normalization": NORMALIZATION | {"mean": [0.1, 0.1, 0.1]}},
        {"config": CONFIG | {"data": CONFIG["data"] | {"image_size": 96}}},
    ],
)
def test_the_checkpoints_own_normalisation_and_size_are_used(checkpoint, table, other, change):
    files = table["path"][:4]
    before = probabilities(predict(files, checkpoint))
    assert not np.allclose(probabilities(predict(files, other(**change))), before)


def test_the_checkpoint_says_whether_mirror_images_count(network, table, other):
    file, model = table["path"][0], CONFIG["model"] | {"flip_at_test": True}
    pixels = Preprocessing.from_config(CONFIG).read(file)
    views = torch.from_numpy(np.stack([pixels, pixels[:, ::-1]]))
    image, mirrored = predict_logits(network, [(views,)])
    expected = softmax((image + mirrored) / 2)
    assert not np.allclose(expected, softmax(image), atol=1e-4)
    found = probabilities(predict([file], other(config=CONFIG | {"model": model}), device="cpu"))
    np.testing.assert_allclose(found, [expected], atol=1e-6)


def test_a_bad_file_is_a_row_and_not_the_end(checkpoint, table, tmp_path):
    (tmp_path / "torn.jpeg").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    good = table["path"][0]
    paths = [tmp_path / "torn.jpeg", good, tmp_path / "missing.png", tmp_path / "empty", good]
    found = predict(paths, checkpoint)
    assert found["error"].notna().tolist() == [True, False, True, True]
    assert found["predicted"].isna().tolist() == [True, False, True, True]
    for place, name in {0: "torn.jpeg", 2: "missing.png", 3: "empty"}.items():
        assert name in found["error"][place]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_network_that_gives_no_numbers_gives_no_class(
    checkpoint, table, tmp_path, command, other, number
):
    weights = load_checkpoint(checkpoint)["model_state_dict"]
    next(iter(weights.values()))[0] = number
    nan = other(model_state_dict=weights)
    found = predict(table["path"][:2], nan, tmp_path / "maps", tell=lambda _: None)
    assert found.drop(columns=["file", "applied", "error"]).isna().all(axis=None)
    for path, error in zip(table["path"], found["error"], strict=False):
        assert path in error
    assert not (tmp_path / "maps").exists()
    assert command(table["path"][0], checkpoint=nan).exit_code == 1


def test_dicom_is_classified_and_without_its_reader_a_row_with_its_error(
    checkpoint, table, tmp_path, monkeypatch
):
    shutil.copy(get_testdata_file("MR_small.dcm", download=False), tmp_path / "a.DCM")
    found = predict([table["path"][0], tmp_path], checkpoint)
    assert found["applied"].tolist() == ["", "window 600/1600"]
    assert found["predicted"].notna().all()
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "pip install 'btxrd[dicom]'" in predict([tmp_path], checkpoint)["error"].item()


def test_images_of_a_folder_are_found_whatever_their_names(checkpoint, table, tmp_path):
    """As a PACS exports them: without an ending, or named by numbers with dots; in order."""
    dicom = get_testdata_file("MR_small.dcm", download=False)
    (tmp_path / "a").mkdir()
    for name in ("IM000001", "1.2.840.113", "DICOMDIR"):
        shutil.copy(dicom, tmp_path / name)
    for name in ("photo", "a/1.JPG"):
        shutil.copy(table["path"][0], tmp_path / name)
    for name in ("a/notes.txt", "README", ".hidden"):
        (tmp_path / name).write_text("no image")
    told: list[str] = []
    found = predict([tmp_path], checkpoint, tell=told.append)
    images = ["1.2.840.113", "IM000001", "a/1.JPG", "photo"]
    assert found["file"].tolist() == [str(tmp_path / name) for name in images]
    assert found["error"].isna().all()
    (line,) = told
    assert line.endswith(": README, a/notes.txt")


def test_a_file_that_is_no_checkpoint_is_named_and_torchs_advice_is_not_handed_on(tmp_path):
    torch.save({"model": Path("a")}, tmp_path / "theirs.pt")
    with pytest.raises(ValueError, match=r"theirs\.pt") as caught:
        predict([tmp_path], tmp_path / "theirs.pt")
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_image_has_a_heat_map_of_its_own_under_a_plain_name(checkpoint, table, tmp_path):
    odd = f"x<b>1 *$a$?#%: {'ä' * 100}.jpeg"
    files = [tmp_path / folder / odd for folder in ("a", "b")]
    for file, path in zip(files, table["path"], strict=False):
        file.parent.mkdir()
        shutil.copy(path, file)
        predict([file], checkpoint, tmp_path / "maps")
    maps = [heat_map_file(tmp_path / "maps", file) for file in files]
    assert sorted((tmp_path / "maps").iterdir()) == sorted(maps)
    assert all(re.fullmatch(r"x_b_1_+a_+ä+-[0-9a-f]{16}\.png", file.name) for file in maps)
    first, second = (cv2.imread(str(path)) for path in maps)
    assert first.shape == (64, 64, 3)
    assert not np.array_equal(first, second)
    assert (first.max(axis=2) > first.min(axis=2)).any()


def test_a_heat_map_that_cannot_be_had_costs_no_classification(
    command, table, tmp_path, monkeypatch
):
    expected, maps = command(*table["path"][:2]), tmp_path / "maps"
    maps.mkdir()
    # A folder of that name: the first map cannot be written.
    heat_map_file(maps, table["path"][0]).mkdir()
    told = command(*table["path"][:2], "--gradcam", maps)
    assert (told.exit_code, told.stdout) == (0, expected.stdout)
    assert "\n1 of 2 images have no heat map: " in told.stderr
    assert heat_map_file(maps, table["path"][1]).is_file()

    def refuse(*_, **__):
        raise RuntimeError("its maps have\na single place")

    monkeypatch.setattr("btxrd.evaluation.gradcam.coarse_maps", refuse)
    told = command(*table["path"][:2], "--gradcam", tmp_path / "none")
    assert (told.exit_code, told.stdout) == (0, expected.stdout)
    assert told.stderr.endswith("\n2 of 2 images have no heat map: its maps have a single place\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"class_names": ["cat", "dog"]}, "its classes are"),
        ({"config": {"model": CONFIG["model"]}}, "data"),
        ({"config": {"data": CONFIG["data"]}}, "model.backbone"),
        ({"config": None}, "NoneType"),
        ({"normalization": {}}, "mean"),
        ({"model_state_dict": {}}, "Error"),
    ],
)
def test_a_foreign_checkpoint_is_one_clear_line(other, table, change, words):
    with pytest.raises(ValueError, match=r"other\.pt is no usable checkpoint") as caught:
        predict([table["path"][0]], other(**change))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_writes_csv_and_says_what_it_is_not_for(command, table):
    result = command(*table["path"][:2])
    assert result.exit_code == 0
    assert result.stderr == f"{RESEARCH_ONLY}\n"
    found = pd.read_csv(StringIO(result.stdout))
    assert tuple(found.columns) == COLUMNS
    np.testing.assert_allclose(probabilities(found).sum(axis=1), 1)


def test_the_command_writes_json_with_errors_and_status_1(command, table, tmp_path):
    arguments = (table["path"][0], tmp_path / "missing.png", "--format", "json")
    result = command(*arguments)
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["note"] == RESEARCH_ONLY
    good, bad = document["images"]
    assert tuple(good) == tuple(bad) == COLUMNS
    assert good["error"] is None
    assert bad["predicted"] is bad["p_Normal"] is None
    assert "missing.png" in bad["error"]
    assert command(*arguments, "--output", tmp_path / "out" / "found.json").stdout == ""
    assert json.loads((tmp_path / "out" / "found.json").read_text()) == document


def test_wrong_usage_and_a_damaged_checkpoint_end_the_command(command, btxrd, table, tmp_path):
    image = table["path"][0]
    assert command().exit_code == 2
    assert btxrd("predict", image).exit_code == 2
    assert command(image, checkpoint="missing.pt").exit_code == 2
    (tmp_path / "half.pt").write_bytes(b"half")
    result = command(image, checkpoint=tmp_path / "half.pt")
    assert result.exit_code == 1
    assert "half.pt is damaged" in result.stderr
    assert "Traceback" not in result.output
