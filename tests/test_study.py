"""The runner: a grid with failures, what it leaves behind, and what it does not do twice."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from distributed import Client
from filelock import FileLock

from btxrd.evaluation.comparison import COMPARISON_COLUMNS
from btxrd.files import file_digest, read_json, write_json
from btxrd.params import ParameterError, StudyParams
from btxrd.runner.pages import data_licence
from btxrd.runner.study import StudyInUseError, run_study, select
from btxrd.stages import LOCK_FILE, RUN_FILE, STUDY_FILE, STUDY_STAGES, run_stages

STAGES = run_stages("finetune")


@pytest.fixture(scope="module")
def error_of(btxrd):
    """Run a command that fails; return what it says, in a line."""

    def run(*words: object) -> str:
        outcome = btxrd(*words)
        assert outcome.exit_code in (1, 2)
        assert "Traceback" not in outcome.output
        return " ".join(outcome.output.split())

    return run


@pytest.fixture(scope="module")
def study(phantom, cache_dir, tmp_path_factory) -> StudyParams:
    """Two experiments of the grid. EfficientNets have no place for CBAM, so E1 fails."""
    values = {
        "name": "small",
        "dataset_root": str(phantom),
        "cache_dir": str(cache_dir),
        "reports_dir": str(tmp_path_factory.mktemp("reports")),
        "splits": ["center", "stratified"],
        "experiments": ["E1_b0_baseline", "E4_resnet50_cbam"],
        "overrides": {
            "model": {"pretrained": False, "attn_layer": "cbam"},
            "data": {"image_size": 64},
            "training": {"epochs": 1, "warmup_epochs": 0, "lr": 1e-3},
        },
        "experiment_overrides": {"E4_resnet50_cbam": {"model": {"backbone": "resnet10t"}}},
        "replicates": 50,
        "level": 0.9,
    }
    return StudyParams.parse(values, "test")


@pytest.fixture(scope="module")
def result(study):
    return run_study(study, jobs=2)


@pytest.fixture
def study_file(study, tmp_path) -> Path:
    """The study's parameters as a file, for another folder of reports."""
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study.model_dump() | {"reports_dir": str(tmp_path)}))
    return path


def test_one_failure_does_not_stop_the_others_and_is_in_the_report(study, result):
    statuses = {name: record["status"] for name, record in result.records.items()}
    assert [name for name in statuses if statuses[name] == "failed"] == list(result.failed)
    assert {name.split(" ")[0] for name in result.failed} == {"E1_b0_baseline"}
    assert sorted(statuses.values()) == ["failed", "failed", "finished", "finished"]
    folder = study.study_dir / "runs" / "E1_b0_baseline" / "center" / "seed-42"
    assert "model.attn_layer" in read_json(folder / RUN_FILE)["error"]
    assert "Traceback" in (folder / "error.txt").read_text()
    assert "model.attn_layer" in (folder / "03_train.html").read_text()
    page = result.report.read_text()
    assert "runs/E1_b0_baseline/center/seed-42/error.txt" in page
    assert "2 of 4 runs finished" in page


def test_status_is_read_from_the_files_which_nobody_touched(study, result, btxrd):
    output = btxrd("status", study.study_dir).output.splitlines()
    assert output[0].startswith("E1_b0_baseline · center · seed 42: failed: ")
    assert output[-2:] == [
        "2 of 4 runs finished, 2 failed",
        "nobody runs this study now; the same command goes on from here",
    ]
    assert btxrd("verify", study.study_dir).exit_code == 0


def test_two_studies_in_one_folder_the_second_refuses_and_names_the_first(study, result):
    with FileLock(study.study_dir / LOCK_FILE), pytest.raises(StudyInUseError, match="process"):
        run_study(study)


RUN = "runs/E4_resnet50_cbam/center/seed-42"
IN_TABLE = r"(?<=[,\n]0\.)\d"


@pytest.mark.parametrize(
    ("name", "digit", "told"),
    [
        (f"{RUN}/metrics.json", r'(?<="accuracy": 0\.)\d', "accuracy"),
        (f"{RUN}/predictions.csv", IN_TABLE, "not the file"),
        (f"{RUN}/operating_points.csv", IN_TABLE, "target [0]"),
        ("comparison.csv", IN_TABLE, "Stratified Accuracy"),
        ("splits/center.csv", r"\d(?=\D*\Z)", "run.json: the hash"),
        ("gaps.csv", None, "copy/gaps.csv: missing"),
        ("study.json", None, "copy/study.json: missing"),
        (f"{RUN}/calibration.csv", None, f"copy/{RUN}/calibration.csv: missing"),
    ],
)
def test_one_edited_digit_or_a_file_that_is_gone_is_noticed(
    study, result, tmp_path, error_of, name, digit, told
):
    file = shutil.copytree(study.study_dir, tmp_path / "copy") / name
    text = file.read_text()
    file.unlink()
    if digit:
        edited, n = re.subn(digit, lambda found: str((int(found[0]) + 1) % 10), text, count=1)
        assert n == 1
        file.write_text(edited)
    assert told in error_of("verify", tmp_path / "copy")


def test_a_finished_run_has_its_files_and_its_provenance(study, result):
    folder = study.study_dir / "runs" / "E4_resnet50_cbam" / "stratified" / "seed-42"
    stages = run_stages("finetune")
    left = [name for stage in stages for name in stage.files]
    assert all((folder / name).is_file() for name in left)
    record = read_json(folder / RUN_FILE)
    assert record["status"] == "finished"
    assert set(record["files"]) == {name for stage in stages for name in stage.writes}
    assert record["split"] == file_digest(study.study_dir / "splits" / "stratified.csv")
    assert record["training"]["device"]
    assert record["packages"]["torch"]
    assert set(record["stage_seconds"]) == {stage.name for stage in stages}
    made = read_json(study.study_dir / STUDY_FILE)["made"]
    given = [made[name]["parameters"] for name in ("01_eda", "06_compare")]
    for settings in (*record["settings"].values(), *given):
        assert (settings["replicates"], settings["level"]) == (50, 0.9)


def test_the_comparison_has_its_columns_in_order(study, result):
    table = pd.read_csv(study.study_dir / "comparison.csv")
    assert tuple(table.columns[:10]) == COMPARISON_COLUMNS
    assert table["Experiment ID"].tolist() == list(study.experiments)
    assert table["Backbone"].tolist() == ["efficientnet_b0+cbam", "resnet10t+cbam"]
    assert table["Stratified Macro AUC"].isna().tolist() == [True, False]
    for stage in STUDY_STAGES.values():
        assert all((study.study_dir / name).is_file() for name in stage.files)
        assert "Not for clinical use" in (study.study_dir / stage.page).read_text()


def test_reports_need_nothing_from_elsewhere(study, result):
    for page in study.study_dir.rglob("*.html"):
        text = page.read_text()
        for name in re.findall(r' src="([^"]*)', text):
            assert name.startswith("data:") or (page.parent / name).is_file(), page
        assert "<link" not in text


def test_what_is_handed_on_says_whose_the_images_are(study, result, tmp_path):
    assert data_licence(study.study_dir).startswith("The images are phantoms")
    write_json(tmp_path / STUDY_FILE, {"parameters": {"dataset_root": "data/BTXRD"}})
    assert "CC BY-NC-ND 4.0" in data_licence(tmp_path)


def test_a_folder_without_a_study_is_named(tmp_path, error_of):
    for command in ("report", "status"):
        assert f"no study in {tmp_path}" in error_of(command, tmp_path)


def test_a_finished_run_is_not_run_again(study, result):
    before = {name: one["ended"] for name, one in result.records.items() if name.startswith("E4")}
    again = run_study(select(study, only=["E4_resnet50_cbam"]), jobs=1)
    assert {name: record["ended"] for name, record in again.records.items()} == before


def test_a_study_is_reduced_by_name_only(study):
    assert select(study, splits=["center"]).splits == ["center"]
    assert select(study, seeds=[42]).seeds == [42]
    for asked, words in (({"seeds": [7]}, r"seeds \[7\]"), ({"only": ["E9"]}, r"experiments.*E9")):
        with pytest.raises(ParameterError, match=words):
            select(study, **asked)


def test_a_study_of_failures_alone_has_a_report_and_a_status(study_file, monkeypatch, here, btxrd):
    monkeypatch.setattr("btxrd.runner.study.Cluster", here)
    outcome = btxrd("study", study_file, "--only", "E1_b0_baseline", "--splits", "center")
    assert outcome.exit_code == 1
    report = study_file.with_name("small") / "index.html"
    last = outcome.output.strip().splitlines()[-3:]
    assert last[0] == f"report: {report}"
    assert last[1].startswith("FAILED E1_b0_baseline · center · seed 42: ")
    assert last[2].endswith("runs/E1_b0_baseline/center/seed-42/error.txt")
    assert "0 of 1 runs finished" in report.read_text()
    assert "model.attn_layer" in report.read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scheduler", "tcp://127.0.0.1:9"], "no Dask scheduler answers at tcp://127.0.0.1:9"),
        (["--scheduler", "tcp://127.0.0.1:9", "--resources", "GPU"], "not NAME=NUMBER"),
        (["--resources", "GPU=1"], "give --scheduler"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_one_clear_error(
    study_file, monkeypatch, error_of, options, words
):
    monkeypatch.setattr(
        "btxrd.runner.cluster.Client", lambda address, timeout: Client(address, timeout=0.5)
    )
    assert words in error_of("study", study_file, *options)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name: x", "dataset_root: missing"),
        ("nam: x", "did you mean name?"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_wrong_study_file_is_one_clear_error(tmp_path, error_of, content, words):
    (tmp_path / "study.yaml").write_text(content)
    assert words in error_of("study", tmp_path / "study.yaml")


def test_the_phantom_command(tmp_path, btxrd, error_of):
    assert btxrd("phantom", tmp_path / "p", "--images", 80).exit_code == 0
    assert len(list((tmp_path / "p" / "images").iterdir())) == 80
    assert "exists" in error_of("phantom", tmp_path / "p")


def test_the_check_command_lists_findings_and_ends_with_their_severity(phantom, tmp_path, btxrd):
    clean = btxrd("check", phantom)
    assert clean.exit_code == 0
    release, result = clean.stdout.splitlines()
    assert "no release to compare" in release
    assert result == "0 errors, 0 warnings"
    (tmp_path / "images").mkdir()
    broken = btxrd("check", tmp_path)
    assert broken.exit_code == 2
    assert "error: " in broken.stdout
    assert btxrd("check", tmp_path / "nowhere").exit_code == 1


def test_the_fetch_command_says_in_one_line_what_is_wrong(tmp_path, monkeypatch, error_of):
    monkeypatch.setattr("btxrd.runner.fetch.time.sleep", lambda _: None)
    url = "http://127.0.0.1:9/BTXRD.zip"
    assert "cannot reach 127.0.0.1" in error_of("fetch", tmp_path / "x", "--url", url)
