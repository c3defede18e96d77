"""A checkpoint on other people's radiographs: what is read, refused, warned of and written."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydicom.data import get_testdata_file

from btxrd import CLASS_NAMES
from btxrd.data.cache import image_digests
from btxrd.evaluation import Bootstrap, summary
from btxrd.evaluation.summary import parts_of
from btxrd.files import read_json, write_csv, write_json
from btxrd.models import load_checkpoint
from btxrd.params import EvaluateParams, RunParams
from btxrd.predictions import probabilities, read_predictions, write_predictions
from btxrd.runner.external import evaluate_checkpoints
from btxrd.runner.notebooks import execute_notebook
from btxrd.runner.predict import predict
from btxrd.runner.verify import verify

ROWS = range(20, 50)
"""Rows of the phantom's table that are evaluated; no two of these images are the same file."""


@pytest.fixture
def make_run(tmp_path, table, cache_dir, predicted, saved_network):
    """Make a run's folder with an untrained network that tells images apart; return its model."""

    def make(seed: int = 42, seen: slice = slice(50, 60), val_seed: int = 0) -> Path:
        config = {"model": {"backbone": "resnet10t", "pretrained": False}}
        config |= {"data": {"image_size": 64}, "experiment": "E1", "seed": seed}
        params = RunParams.parse(config, "test")
        model = tmp_path / "runs" / f"seed-{seed}" / "model.pt"
        saved_network(model, params.model_dump(), seed)
        write_json(model.with_name("training.json"), {"parameters": params.model_dump()})
        val = predicted((9, 9, 9), seed, part="val")
        val["image_id"] += f" of {val_seed}"
        write_predictions(model.with_name("predictions.csv"), val)
        digests = image_digests(table, cache_dir).iloc[seen].rename("digest").reset_index()
        parts = np.where(np.arange(len(digests)) % 2, "val", "train")
        write_csv(model.with_name("seen.csv"), digests.assign(part=parts))
        return model

    return make


@pytest.fixture
def listing(tmp_path, table):
    """Write some of the phantom's images into a CSV, with changes; return its path."""

    def write(name: str = "cases", **columns) -> Path:
        rows = table.iloc[ROWS][["path", "label"]].reset_index(drop=True).assign(**columns)
        write_csv(tmp_path / f"{name}.csv", rows)
        return tmp_path / f"{name}.csv"

    return write


@pytest.fixture
def evaluate(tmp_path, cache_dir, monkeypatch):
    """Evaluate without the notebook; return the folder, and the lines that were told."""

    def run(data: Path, *checkpoints: Path, **options) -> tuple[Path, list[str]]:
        monkeypatch.setattr("btxrd.runner.external.execute_notebook", lambda *_: None)
        lines: list[str] = []
        options = {"cache_dir": cache_dir, "tell": lines.append} | options
        page = evaluate_checkpoints(data, checkpoints, reports_dir=tmp_path / "out", **options)
        return page.parent, lines

    return run


def test_the_numbers_of_an_evaluation_are_verified(evaluate, listing, make_run):
    folder, _ = evaluate(listing(), make_run())
    given, predictions = EvaluateParams(run_dir=""), read_predictions(folder / "predictions.csv")
    written = summary.evaluate(predictions, Bootstrap(), given.prevalences)
    for name, content in written.items():
        (write_json if name.endswith("json") else write_csv)(folder / name, content)
    assert verify(folder) == []
    metrics = read_json(folder / "metrics.json")
    metrics["test"]["accuracy"] += 0.01
    write_json(folder / "metrics.json", metrics)
    (problem,) = verify(folder)
    assert "metrics.json: test accuracy" in problem
    (folder / "predictions.csv").unlink()
    (problem,) = verify(folder)
    assert "predictions.csv" in problem


def test_predictions_are_those_of_predict_with_the_runs_validation(evaluate, listing, make_run):
    model = make_run()
    data = listing(group=[f"p{i // 2}" for i in range(30)], center=["Ulm", "Bern"] * 15)
    folder, lines = evaluate(data, model)
    assert lines == []
    predictions = read_predictions(folder / "predictions.csv")
    test = predictions[predictions["part"] == "test"]
    rows = pd.read_csv(data)
    np.testing.assert_allclose(
        probabilities(test), probabilities(predict(rows["path"], model)), atol=1e-6
    )
    assert test["image_id"].tolist() == rows["path"].tolist()
    for column in ("label", "group", "center"):
        assert test[column].tolist() == rows[column].tolist()
    own = read_predictions(model.with_name("predictions.csv"))
    np.testing.assert_array_equal(probabilities(predictions[:27]), probabilities(own))
    assert set(parts_of(predictions)) == {"val", "test", "test, center Bern", "test, center Ulm"}


def test_what_was_applied_to_see_an_image_is_said(evaluate, listing, tmp_path, make_run):
    shutil.copy(get_testdata_file("MR_small.dcm", download=False), tmp_path / "a.dcm")
    data = listing()
    write_csv(data, pd.concat([pd.read_csv(data), pd.DataFrame({"path": ["a.dcm"], "label": 0})]))
    _, lines = evaluate(data, make_run())
    assert any("a.dcm (window 600/1600)" in line for line in lines)


def test_a_network_that_gives_no_numbers_is_named(evaluate, listing, make_run):
    model = make_run()
    contents = load_checkpoint(model)
    next(iter(contents["model_state_dict"].values()))[0] = np.nan
    torch.save(contents, model)
    with pytest.raises(ValueError, match=r"model\.pt gives no numbers for "):
        evaluate(listing(), model)


def test_every_row_that_cannot_be_used_is_a_line_that_names_it(evaluate, listing, make_run):
    data = listing()
    rows = pd.read_csv(data, dtype=str).assign(age="40", gender="F")
    rows.loc[2, "label"] = "Sarcoma"
    rows.loc[4, "path"] = "gone.png"
    rows.loc[6, "path"] = rows.loc[7, "path"]
    rows.loc[[6, 7], "label"] = ["Benign", "2"]
    rows.loc[9, ["age", "gender", "label"]] = ["old", "x", ""]
    write_csv(data, rows)
    with pytest.raises(ValueError, match=r"cases\.csv row 4") as caught:
        evaluate(data, make_run())
    facts = [
        *("row 4: label is 'Sarcoma'", f"row 6: there is no file {data.parent / 'gone.png'}"),
        f"row 9: {rows.loc[7, 'path']} is Malignant",
        *("row 11: label is empty", "row 11: age is 'old'", "row 11: gender is 'x'"),
    ]
    for line, fact in zip(str(caught.value).splitlines(), facts, strict=True):
        assert line.startswith(f"{data} {fact}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("path;label\na;1\n", "separated by something other than commas"),
        ("file,label\na,1\n", "has no column path"),
        ("path,label\n", "has no rows"),
        (f"path,label\n{__file__},1\n", "is not a readable image"),
    ],
)
def test_a_csv_that_is_no_listing_is_one_line(evaluate, tmp_path, make_run, content, words):
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(ValueError, match=words) as caught:
        evaluate(tmp_path / "bad.csv", make_run())
    assert "bad.csv" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_images_that_the_checkpoint_has_seen_are_named(evaluate, listing, table, make_run):
    model = make_run(seen=slice(46, 60))
    folder, lines = evaluate(listing(group="one patient"), model)
    train, val = (table["path"].iloc[places].tolist() for places in ([46, 48], [47, 49]))
    for line, part, names in zip(lines, ("training", "validation"), (train, val), strict=True):
        assert line.startswith(f"2 of 30 images were in the {part} set of a checkpoint (")
        assert f"({', '.join(names)})" in line
        assert "leaks.csv" in line
    assert json.loads((folder / "training.json").read_text())["warnings"] == lines
    leaks = pd.read_csv(folder / "leaks.csv")
    assert leaks["image_id"].tolist() == table["path"].iloc[46:50].tolist()
    assert leaks["part"].tolist() == ["train", "val"] * 2


def test_several_checkpoints_are_an_ensemble(evaluate, listing, make_run):
    models = [make_run(seed) for seed in (1, 2)]
    folder, lines = evaluate(listing(group="one patient"), *models)
    assert "E1 · stratified · seed 1" in lines[0]
    predictions = read_predictions(folder / "predictions.csv")
    paths = pd.read_csv(listing())["path"]
    for part, members in (
        ("test", [predict(paths, model) for model in models]),
        ("val", [read_predictions(model.with_name("predictions.csv")) for model in models]),
    ):
        mean = np.mean([probabilities(member) for member in members], axis=0)
        found = probabilities(predictions[predictions["part"] == part])
        np.testing.assert_allclose(found, mean, atol=1e-6)
    other = make_run(3, val_seed=3)
    folder, lines = evaluate(listing(group="one patient"), models[0], other, name="other")
    assert "validated on different images" in lines[0]
    assert set(read_predictions(folder / "predictions.csv")["part"]) == {"test"}


@pytest.mark.parametrize("left", ["nothing", "another run"])
def test_a_checkpoint_without_its_run_has_no_thresholds(
    evaluate, listing, make_run, tmp_path, left
):
    model = make_run()
    if left == "nothing":
        model = Path(shutil.copy(model, tmp_path / "model.pt"))
    else:
        shutil.copy(make_run(7).with_name("training.json"), model.parent)
    folder, lines = evaluate(listing(group="one patient"), model)
    no_run, unknown = lines
    assert no_run.startswith("Thresholds and temperature are not available")
    assert f"beside {model}" in no_run
    assert str(model) in unknown
    assert "seen.csv" in unknown
    assert set(read_predictions(folder / "predictions.csv")["part"]) == {"test"}


def test_what_is_not_read_or_not_known_of_a_listing_is_said(evaluate, listing, make_run):
    _, lines = evaluate(listing(patient="p", age=np.r_[np.nan, np.arange(29)]), make_run())
    assert "name them in the column group" in lines[0]
    assert lines[1:] == ["Columns that are not read: patient."]


def test_names_and_groups_that_look_like_numbers_or_nothing_are_text(
    evaluate, tmp_path, table, make_run
):
    names = ["000001", "1e5", "NA", "None", "True", "7", "nan", "8.50"]
    groups = ["P1", " P1", "NA", "None", "007", "7", "1e5", "100000"]
    rows = table.iloc[ROWS[: len(names)]]
    for name, path in zip(names, rows["path"], strict=True):
        shutil.copy(path, tmp_path / name)
    labels = rows["label"].map(dict(enumerate(CLASS_NAMES))).where(rows["label"] != 1, "benign ")
    columns = {"Path": names, " label": labels, "Group": groups, "center": groups}
    pd.DataFrame(columns).to_csv(tmp_path / "CASES.CSV", index=False)
    folder, lines = evaluate(tmp_path / "CASES.CSV", make_run())
    test = read_predictions(folder / "predictions.csv").query("part == 'test'")
    assert test["image_id"].tolist() == names
    assert test["group"].tolist() == test["center"].tolist() == [g.strip() for g in groups]
    assert test["label"].tolist() == rows["label"].tolist()
    assert lines == []


def test_what_a_listing_says_twice_is_told(evaluate, listing, make_run):
    data = listing(group="one patient")
    rows = pd.read_csv(data)
    again = rows.iloc[[4]].assign(path=shutil.copy(rows["path"][4], data.parent), group="another")
    write_csv(data, pd.concat([rows, again]))
    folder, lines = evaluate(data, make_run())
    same, joined = lines
    assert "6 (not 32)" in same
    assert "one patient and another" in joined
    assert read_json(folder / "training.json")["notes"] == lines
    assert "another" not in set(read_predictions(folder / "predictions.csv")["group"])


def test_a_folder_in_the_releases_layout_has_its_patient_groups(
    evaluate, phantom, table, duplicates, make_run
):
    from btxrd.data import patient_groups

    folder, lines = evaluate(phantom, make_run())
    test = read_predictions(folder / "predictions.csv").query("part == 'test'")
    assert test["image_id"].tolist() == table["image_id"].tolist()
    assert test["group"].tolist() == patient_groups(table, duplicates).astype(str).tolist()
    assert len(lines) == 2
    assert lines[0].startswith("5 of 120 images were in the training set")


def test_another_evaluation_is_not_overwritten(evaluate, listing, make_run, tmp_path):
    first, second = make_run(1), make_run(2)
    folder, _ = evaluate(listing(), first)
    assert evaluate(listing(), first)[0] == folder
    with pytest.raises(ValueError, match=r"out/cases holds .* give another --name"):
        evaluate(listing(), second)
    assert evaluate(listing(), second, name="again")[0] == tmp_path / "out" / "again"
    odd = listing("x<b id=c>1 *a*?")
    assert evaluate(odd, first)[0] == tmp_path / "out" / "x_b_id_c_1__a__"
    with pytest.raises(ValueError, match="no name of a folder"):
        evaluate(listing(), first, name="../elsewhere")


@pytest.fixture
def command(tmp_path, monkeypatch, btxrd):
    """Run the command with its folders elsewhere, and few replicates."""

    def execute(stage, folder, parameters):
        execute_notebook(stage, folder, parameters | {"replicates": 50})

    monkeypatch.setattr("btxrd.files.PROJECT_ROOT", tmp_path)
    monkeypatch.setattr("btxrd.runner.external.execute_notebook", execute)

    return partial(btxrd, "evaluate")


def test_the_page_warns_on_top_and_has_no_thresholds_without_a_run(
    command, listing, make_run, tmp_path
):
    model = make_run(seen=slice(45, 60))
    data = listing(center=["Ulm", "Bern"] * 15, age=30, frontal=1)
    result = command(data, "--checkpoint", model)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("were in the training set") == 1
    page = Path(re.fullmatch(r"report: (.+)\n", result.stdout)[1])
    text = page.read_text()
    assert text.index("3 of 30 images were in the training set") < text.index('id="The-numbers"')
    assert "E1 · stratified · seed 42</strong> on the images that" in text
    assert "After temperature scaling" in text
    metrics = json.loads((page.parent / "metrics.json").read_text())
    assert set(metrics) == {"val", "test", "test, center Bern", "test, center Ulm"}
    assert pd.read_csv(page.parent / "operating_points.csv")["threshold"].notna().all()
    alone = shutil.copy(model, tmp_path / "alone.pt")
    rows = pd.read_csv(data).query("label > 0")
    write_csv(tmp_path / "tumours.csv", rows[["path", "label"]])
    result = command(tmp_path / "tumours.csv", "--checkpoint", alone, model)
    assert result.exit_code == 0, result.stderr
    page = Path(result.stdout.removeprefix("report: ").strip())
    assert "mean of 2 checkpoints" in page.read_text()
    assert "are not available: no run that made it stands beside" in page.read_text()
    assert pd.read_csv(page.parent / "operating_points.csv")["threshold"].isna().all()
    assert set(pd.read_csv(page.parent / "calibration.csv")["when"]) == {"before"}


def test_wrong_data_are_a_line_without_a_traceback(command, listing, make_run, tmp_path):
    data = listing(label="Sarcoma")
    result = command(data, "--checkpoint", make_run())
    assert result.exit_code == 1
    assert "cases.csv row 2: label is 'Sarcoma'" in result.stderr
    assert "Traceback" not in result.output
    assert command(tmp_path, "--checkpoint", make_run()).exit_code == 1
    assert command(tmp_path / "gone.csv", "--checkpoint", make_run()).exit_code == 2
