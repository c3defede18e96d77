import numpy as np
import pandas as pd
import pytest

from btxrd.evaluation.runs import (
    COMPARISON_COLUMNS,
    collect_runs,
    comparison_table,
    recommend,
    recommendation_sentence,
    run_line,
    run_table,
    success_table,
    validation_table,
)
from btxrd.files import write_csv, write_json

LEAKAGE = pd.DataFrame({"strategy": ["stratified"], "part": ["test"], "sibling_share": [0.6]})
SHORTCUTS = pd.DataFrame(
    {
        "shortcut": ["metadata", "metadata", "sites", "file"],
        "sees": ["age", "age", "sites", "the file"],
        "split": ["image", "grouped", "grouped", "grouped"],
        "n": 60,
        "macro_auc": [0.9, 0.55, 0.95, 0.61],
        "low": 0.5,
        "high": 0.97,
    }
)
GAPS = pd.DataFrame(
    {"experiment": ["tied_on_val"], "metric": ["macro_auc"], "difference": [0.2], "low": [0.1]}
).assign(high=0.3)


def intervals(accuracy: float, auc: float, sensitivity: float) -> dict:
    values = {"accuracy": accuracy, "macro_auc": auc, "sensitivity/Malignant": sensitivity}
    return {name: [value, value - 0.1, value + 0.1] for name, value in values.items()}


def add_run(study, experiment, split, test, val, **record) -> None:
    folder = study / "runs" / experiment / split / "seed-42"
    parameters = {
        "model": {"backbone": "efficientnet_b0", "attn_layer": None},
        "data": {"image_size": 96, "annotations": "none"},
    }
    write_json(folder / "run.json", {"status": "finished", "parameters": parameters, **record})
    parts = {"test": test, "val": val}
    metrics = {part: {"n": 60, "intervals": intervals(*values)} for part, values in parts.items()}
    write_json(folder / "metrics.json", metrics)
    cams = pd.DataFrame({"label": [0, 1, 2], "iou": [np.nan, 0.1, 0.3]})
    write_csv(folder / "gradcam.csv", cams)


@pytest.fixture
def study(tmp_path):
    add_run(tmp_path, "best_on_test", "stratified", (0.99, 0.99, 0.99), (0.70, 0.8, 0.9))
    add_run(tmp_path, "best_on_val", "stratified", (0.60, 0.70, 0.50), (0.80, 0.8, 0.5))
    add_run(tmp_path, "tied_on_val", "stratified", (0.65, 0.75, 0.60), (0.80, 0.8, 0.6))
    add_run(tmp_path, "tied_on_val", "center", (0.40, 0.55, 0.30), (0.75, 0.8, 0.6))
    broken = tmp_path / "runs" / "broken" / "stratified" / "seed-42"
    write_json(broken / "run.json", {"status": "failed", "error": "the kernel died"})
    write_json(tmp_path / "runs" / "x" / "center" / "seed-42.old-20260101" / "run.json", {})
    return tmp_path


def test_the_first_ten_columns_are_the_specifications(study):
    table = comparison_table(collect_runs(study))
    assert tuple(table.columns[:10]) == COMPARISON_COLUMNS
    assert list(COMPARISON_COLUMNS[4:7]) == [
        "Stratified Accuracy",
        "Stratified Macro AUC",
        "Stratified Malignant Sensitivity",
    ]
    row = table.set_index("Experiment ID").loc["tied_on_val"]
    assert row["Center-Holdout Macro AUC"] == 0.55
    assert row["Stratified Grad-CAM Mean IoU"] == pytest.approx(0.2)
    assert (row["Stratified Accuracy Low"], row["Stratified Accuracy High"]) == (0.55, 0.75)


def test_failed_runs_are_rows_with_their_error(study):
    table = comparison_table(collect_runs(study)).set_index("Experiment ID")
    assert table.loc["broken", "Errors"] == "stratified: the kernel died"
    assert "x" not in table.index


def test_the_recommendation_is_read_on_validation(study):
    table = comparison_table(collect_runs(study))
    assert recommend(table) == "tied_on_val"
    assert recommend(table[table["Experiment ID"] != "tied_on_val"]) == "best_on_val"
    assert recommend(table[table["Experiment ID"] == "broken"]) is None


def test_the_sentence_is_computed_from_the_runs(study):
    runs = collect_runs(study)
    sentence = recommendation_sentence("tied_on_val", runs, LEAKAGE, SHORTCUTS, GAPS)
    for words in (
        "(the file) reaches a macro AUC of 0.610",
        "+0.200 (+0.100 to +0.300), told",
        "tied_on_val",
        "0.750 (0.650–0.850)",
        "0.550 (0.450–0.650)",
        "60%",
        "(0.800)",
    ):
        assert words in sentence
    assert "No experiment" in recommendation_sentence(None, runs, LEAKAGE, SHORTCUTS, GAPS)


def test_every_run_has_a_line_with_links_or_its_error(study):
    lines = {(run.experiment, run.split): run_line(run) for run in collect_runs(study)}
    broken = lines[("broken", "stratified")]
    assert "the kernel died ([error.txt](runs/broken/stratified/seed-42/error.txt))" in broken
    assert "(runs/tied_on_val/center/seed-42/05_gradcam.html)" in lines[("tied_on_val", "center")]


def test_leakage_and_shortcuts_stand_beside_the_runs(study):
    table = run_table(collect_runs(study), LEAKAGE, SHORTCUTS).set_index(["Experiment", "Split"])
    assert len(table) == 5 + 3
    assert table.loc[("tied_on_val", "stratified"), "Sibling in train"] == "60%"
    assert table.loc[("tied_on_val", "center"), "Sibling in train"] == "–"
    assert table.loc[("no lesion: metadata", "by study"), "Macro AUC"] == "0.550 (0.500–0.970)"


def test_validation_figures_have_intervals(study):
    table = validation_table(collect_runs(study)).set_index(["Experiment", "Split"])
    assert len(table) == 4
    assert table.loc[("tied_on_val", "center"), "Accuracy"] == "0.750 (0.650–0.850)"


def test_seeds_are_averaged(study):
    source = study / "runs" / "best_on_val" / "stratified" / "seed-42"
    other = source.with_name("seed-7")
    other.mkdir()
    metrics = {"test": {"n": 60, "intervals": intervals(0.8, 0.8, 0.8)}}
    write_json(other / "metrics.json", metrics)
    write_json(other / "run.json", {"status": "finished"})
    row = comparison_table(collect_runs(study)).set_index("Experiment ID").loc["best_on_val"]
    assert row["Stratified Accuracy"] == pytest.approx(0.7)
    assert row["Seeds"] == 2


def test_success_criteria_are_checked(study):
    table = comparison_table(collect_runs(study)).set_index("Experiment ID")
    assert success_table(table.loc["best_on_test"])["Met"].tolist() == ["yes", "no", "yes", "yes"]
    assert success_table(table.loc["tied_on_val"])["Met"].tolist() == ["no", "no", "no", "yes"]
