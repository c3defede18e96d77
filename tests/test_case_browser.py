"""cases.html and its pictures: what the page holds is what the files and the table say."""

import json
import re
from urllib.parse import unquote

import cv2
import numpy as np
import pandas as pd
import pytest

from btxrd import CLASS_NAMES, RESEARCH_ONLY
from btxrd.data import make_split
from btxrd.data.audit import findings_table
from btxrd.data.release import Release
from btxrd.data.table import SITE_COLUMNS
from btxrd.evaluation.pools import write_pool
from btxrd.evaluation.subgroups import subgroup_attributes
from btxrd.extras.pages.case_browser import FINER, lesion_outline, write_cases
from btxrd.extras.pages.cases import case_table
from btxrd.files import read_json, write_csv, write_json
from btxrd.params import ResultParams, RunParams
from btxrd.predictions import PARTS, predictions_frame, read_predictions, write_predictions
from btxrd.report.links import case_links
from btxrd.session import NOTEBOOK_VARIABLE


@pytest.fixture
def release(table, cache):
    return Release(table, cache, findings_table([]))


@pytest.fixture
def study(tmp_path, table, duplicates):
    """A study's folder with its splits."""
    for strategy in ("stratified", "center_cv"):
        split = make_split(table, strategy, duplicates=duplicates)
        write_csv(tmp_path / "splits" / f"{strategy}.csv", split)
    write_csv(tmp_path / "splits" / "duplicates.csv", duplicates)
    return tmp_path


@pytest.fixture
def make_run(study, phantom, table):
    """Make a run's folder from its split, with logits that know nothing."""

    def make(split="stratified", fold=None, seed=42):
        places = {"study_dir": str(study), "dataset_root": str(phantom)}
        run = RunParams(experiment="E1", split=split, fold=fold, seed=seed, **places)
        rows = pd.read_csv(study / "splits" / f"{split}.csv")
        if fold is not None:
            rows = rows[rows["fold"] == fold].drop(columns="fold")
        rows = rows[rows["part"].isin(PARTS)]
        rows["center"] = rows["image_id"].map(table.set_index("image_id")["center"])
        logits = np.random.default_rng(seed).normal(size=(len(rows), 3))
        write_predictions(run.run_dir / "predictions.csv", predictions_frame(rows, logits))
        facts = {"parameters": run.model_dump(), "device": "cpu", "seconds": 1.0}
        write_json(run.run_dir / "training.json", facts)
        return run.run_dir

    return make


@pytest.fixture
def written(release):
    """Write a folder's page as notebook 04 does; return what its script reads, and its text."""

    def write(folder):
        training = read_json(folder / "training.json")
        run = ResultParams.parse(training["parameters"], "test")
        predictions = read_predictions(folder / "predictions.csv")
        write_cases(folder, run, training, predictions, release)
        page = (folder / "cases.html").read_text()
        return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]), page

    return write


def test_the_page_holds_what_the_files_and_the_table_say(make_run, written, table, cache):
    folder = make_run()
    data, page = written(folder)
    shown = pd.DataFrame(data["cases"])
    expected = case_table(read_predictions(folder / "predictions.csv"))
    # In the table's order, whatever that of the predictions is.
    expected = table[["image_id"]].merge(expected)
    for column in ("image_id", "true", "predicted", "outcome", "confidence", "group"):
        assert shown[column].tolist() == expected[column].tolist()
    numbers = [*expected.filter(regex="^(p|calibrated)_"), "loss", "temperature"]
    np.testing.assert_allclose(shown[numbers], expected[numbers], atol=1e-9)
    index = cache.index.set_index("image_id")
    attributes = subgroup_attributes(table, index["lesion_area"]).loc[shown["image_id"]]
    for column in attributes:
        assert shown[column].tolist() == attributes[column].tolist()
    rows = table.set_index("image_id").loc[shown["image_id"]]
    assert shown["age"].tolist() == rows["age"].tolist()
    sites = [", ".join(c for c in SITE_COLUMNS if row[c]) or "none" for _, row in rows.iterrows()]
    assert shown["sites"].tolist() == sites
    assert [bool(outline) for outline in shown["outline"]] == (rows["label"] > 0).tolist()
    assert RESEARCH_ONLY in page
    assert "phantom BTXRD: 120 drawn images" in page


def test_relatives_have_pictures_in_whatever_part_they_are(make_run, written, study, cache):
    folder = make_run()
    data, _ = written(folder)
    parts = pd.read_csv(study / "splits" / "stratified.csv").set_index("image_id")
    found = set()
    for one in data["cases"]:
        for other in one["relatives"]:
            known = parts.loc[other["relative"]]
            assert parts.loc[one["image_id"], "group"] == known["group"]
            assert other["part"] == known["part"]
            assert other["class"] == CLASS_NAMES[known["label"]]
            assert other["trained"] == (known["part"] == "train")
            found.add(other["row"])
        trained = any(other["trained"] for other in one["relatives"])
        assert one["in_training"] == ("yes" if trained else "no")
    shown = {one["row"] for one in data["cases"]}
    assert found - shown
    pictures = (folder / unquote(data["pictures"])).resolve()
    assert pictures == study / "pictures" / cache.key
    assert {file.name for file in pictures.iterdir()} == {f"{row}.jpeg" for row in shown | found}


def test_pictures_are_what_the_network_saw_and_are_written_once(make_run, written, cache):
    folder = make_run()
    data, page = written(folder)
    pictures = sorted((folder / data["pictures"]).resolve().iterdir())
    for one in data["cases"][:5]:
        seen = cache.images[cache.rows([one["image_id"]])[0]].astype(float)
        file = pictures[0].with_name(f"{one['row']}.jpeg")
        assert np.abs(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) - seen).mean() < 4
    kept, lost = pictures[0], pictures[1]
    kept.write_bytes(b"not written again")
    lost.unlink()
    assert written(folder)[1] == page
    assert kept.read_bytes() == b"not written again"
    assert lost.is_file()
    # Another run of the study needs no others.
    other, _ = written(make_run(seed=1))
    assert (folder.with_name("seed-1") / other["pictures"]).resolve() == kept.parent
    assert sorted(kept.parent.iterdir()) == pictures


@pytest.mark.parametrize(
    ("split", "folds", "seeds", "place", "expected"),
    [
        ("stratified", (None,), (42,), "seed-42", ["seed-42"]),
        ("center_cv", (2,), (42,), "fold-2/seed-42", ["fold-2/seed-42"]),
        ("stratified", (None,), (1, 2), "ensemble", ["seed-1"]),
        ("center_cv", (1, 3), (42,), "pooled/seed-42", ["fold-1/seed-42", "fold-3/seed-42"]),
        ("center_cv", (1, 3), (1, 2), "pooled/ensemble", ["fold-1/seed-1", "fold-3/seed-1"]),
    ],
)
def test_heat_maps_are_the_runs_own_or_of_each_fold_the_first_seeds(
    make_run, written, study, split, folds, seeds, place, expected
):
    runs = [make_run(split, fold, seed) for fold in folds for seed in seeds]
    folder = study / "runs" / "E1" / split / place
    if len(runs) > 1:
        write_pool(folder, runs)
    data, page = written(folder)
    found = [(folder / unquote(file)).resolve() for file in data["heatmaps"]]
    assert found == [study / "runs" / "E1" / split / run / "heatmaps.js" for run in expected]
    assert all(f'<script src="{file}">' in page for file in data["heatmaps"])
    if len(folds) > 1:
        assert {one["fold"] for one in data["cases"]} == set(folds)
        assert len({one["temperature"] for one in data["cases"]}) == len(folds)


def test_outside_a_study_pictures_are_beside_the_page_and_there_are_no_heat_maps(
    make_run, written, tmp_path, cache
):
    folder = make_run("center_cv", 2).rename(tmp_path / "cases")
    data, page = written(folder)
    assert (folder / data["pictures"]).resolve() == folder / "pictures" / cache.key
    assert data["heatmaps"] == []
    assert "heatmaps.js" not in page
    assert "index.html" not in page
    # What is known of relatives is then what the predictions say: all are test images.
    assert {other["part"] for one in data["cases"] for other in one["relatives"]} == {"test"}
    assert 'name="in_training"' not in page


def test_a_name_is_text_and_no_markup(make_run, written):
    folder = make_run()
    training = read_json(folder / "training.json")
    training |= {"name": "</script><b>E1", "warnings": ["5 < 6 & so on"]}
    write_json(folder / "training.json", training)
    _, page = written(folder)
    assert "&lt;/script&gt;&lt;b&gt;E1" in page
    assert "5 &lt; 6 &amp; so on" in page
    assert "</script><b>" not in page


def drawn(path, side):
    """Fill the polygons of an outline, holes left out: {0, 1} (side, side)."""
    polygons = [
        np.array([point.split(",") for point in part.rstrip("Z").split(" ")], np.int32)
        for part in path.split("M")[1:]
    ]
    fine = cv2.fillPoly(np.zeros((FINER * side, FINER * side), np.uint8), polygons, 255)
    return cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA) > 127


@pytest.mark.parametrize("side", [64, 224])
def test_an_outline_encloses_the_mask_in_all_its_parts_without_its_holes(side):
    mask = np.zeros((side, side), np.uint8)
    cv2.circle(mask, (side // 3, side // 3), side // 5, 1, -1)
    cv2.circle(mask, (side // 3, side // 3), side // 10, 0, -1)
    mask[side // 2 :, -side // 6 :] = 1  # reaches the corner of the image
    path = lesion_outline(mask)
    assert path.count("M") == path.count("Z") == 3
    found = drawn(path, side)
    assert (found & (mask > 0)).sum() / (found | (mask > 0)).sum() > 0.93
    assert len(path) < 1300


def test_every_mask_of_the_phantom_is_outlined(cache):
    for mask in cache.masks[:60]:
        missed = np.count_nonzero(drawn(lesion_outline(mask), len(mask)) ^ mask.astype(bool))
        assert missed <= 0.15 * mask.sum()


def test_links_name_the_cases_once_there_is_a_page_of_them(tmp_path, monkeypatch):
    monkeypatch.setenv(NOTEBOOK_VARIABLE, str(tmp_path))
    names = ["IMG000001.jpeg", "a b/c#?.png"]
    assert case_links(tmp_path, names) == "IMG000001, c#?"
    (tmp_path / "cases.html").touch()
    assert case_links(tmp_path, names) == (
        "Open [IMG000001](cases.html#IMG000001.jpeg) · [c#?](cases.html#a%20b/c%23%3F.png) · "
        "[all cases](cases.html)"
    )
    same = case_links(tmp_path, ["a/x.png", "b/x.png"])
    assert "[x](cases.html#a/x.png) · [x](cases.html#b/x.png)" in same
