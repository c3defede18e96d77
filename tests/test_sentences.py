"""What the reports say in words, and that the figures in it are computed."""

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from btxrd import RESEARCH_ONLY, __version__
from btxrd.evaluation.runs import RunResult
from btxrd.params import ResultParams
from btxrd.report.provenance import provenance_note
from btxrd.report.sentences import (
    leakage_finding,
    one_seed_note,
    pool_note,
    recommendation,
    review_links,
    review_note,
    run_line,
    runs_list,
    runs_note,
)

RUNS = [
    RunResult(
        experiment="E1",
        split=split,
        seed=42,
        status="finished",
        error=None,
        parameters={},
        metrics={"test": {"n": 75}},
        gradcam=None,
        training={"epochs": 9, "seconds": 61.4, "device": "cpu"},
        pages={"training": "03_train.html", "evaluation": "04_evaluate.html"},
    )
    for split in ("stratified", "center")
]
POOL = replace(RUNS[0], split="grouped_cv", fold="pooled")
FAILED = replace(RUNS[0], status="failed", error="the kernel died", metrics={})


def assert_says(text, *words):
    assert [said for said in words if said not in text] == []


@pytest.fixture
def shown():
    """Read Markdown as the page of a notebook does."""

    def show(markdown):
        html = MarkdownWithMath(IPythonRenderer(escape=True)).render(markdown)
        return BeautifulSoup(html, "html.parser")

    return show


@pytest.fixture
def figures():
    """One experiment on two splits, as in `figures.csv`."""
    rows = [
        ("E1", split, part, value, value - 0.1, value + 0.1)
        for split, value in (("stratified", 0.75), ("grouped", 0.7))
        for part in ("val", "test")
    ]
    ends = ["accuracy", "accuracy_low", "accuracy_high"]
    return pd.DataFrame(rows, columns=["experiment", "split", "part", *ends])


def test_the_recommendation_is_computed_from_the_figures(figures):
    text = recommendation("E1", "grouped", "E1", figures)
    assert_says(
        text, "**E1**", "of `grouped` (0.700)", "0.700 (0.600–0.800)", "`stratified`, gives"
    )
    # The rule set before the study may name another experiment, or none.
    assert "gives **E2**." in recommendation("E1", "grouped", "E2", figures)
    for split, planned in (("grouped", None), ("stratified", "E1")):
        assert "rule" not in recommendation("E1", split, planned, figures)
    assert recommendation(None, None, None, figures) == ""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A study's folder, from which links count, with some files that they lead to."""
    for run in (*RUNS, POOL):
        (tmp_path / run.path).mkdir(parents=True)
        for name in ("03_train.html", "04_evaluate.html", "error.txt", "cases.html"):
            (tmp_path / run.path / name).touch()
    (tmp_path / "eda.html").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_run_has_a_line_with_its_error_and_links_to_its_pages(folder):
    lines = runs_list(RUNS, folder).splitlines()
    assert lines[0] == "Of all runs: the [data](eda.html) and the splits."  # not made yet
    assert lines[3] == (
        "- **E1**, center, seed 42: finished (9 epochs, 61 s, cpu) · "
        "[training](runs/E1/center/seed-42/03_train.html) · "
        "[evaluation](runs/E1/center/seed-42/04_evaluate.html)"
    )
    facts = {"best_C": 0.002, "epochs": 0, "seconds": 4.2, "device": "cpu"}
    assert "finished (a probe, C = 0.002, 4 s, cpu) ·" in run_line(
        replace(RUNS[1], training=facts), folder
    )
    broken = run_line(FAILED, folder)
    assert ": failed (9 epochs, 61 s, cpu). the kernel died ([error.txt](runs/E1/" in broken
    assert broken.endswith("[evaluation](runs/E1/stratified/seed-42/04_evaluate.html)")


def test_names_and_errors_stay_as_they_are_in_the_list_of_runs(shown, folder):
    odd = "x<b id=c>1 {a} $b$ [c](d)"
    run = replace(FAILED, error=f"no {odd}\n# file", experiment=odd)
    (folder / FAILED.path.parts[0] / FAILED.experiment).rename(folder / "runs" / odd)
    page = shown(run_line(replace(run, training=RUNS[0].training | {"device": odd}), folder))
    assert f"{odd}, stratified, seed 42: failed (9 epochs, 61 s, {odd})" in page.get_text()
    assert f"no {odd} # file (error.txt) · training" in page.get_text()
    links = [unquote(link["href"]) for link in page.find_all("a")]
    assert links[0] == f"runs/{odd}/stratified/seed-42/error.txt"
    assert [element.name for element in page.find_all()] == ["ul", "li", "strong", "a", "a", "a"]


@pytest.mark.parametrize(
    ("fold", "seed", "words"),
    [(3, 42, "fold 3, seed 42"), ("pooled", 42, "pooled, seed 42"), (None, "ensemble", "ensemble")],
)
def test_folds_and_pools_are_named(fold, seed, words):
    line = run_line(replace(RUNS[0], fold=fold, seed=seed), Path())
    assert f"**E1**, stratified, {words}: finished" in line


def test_only_what_is_evaluated_is_finished():
    by_hand = replace(RUNS[1], status="by hand")
    trained = replace(by_hand, metrics={})
    assert runs_note([*RUNS, by_hand, trained, FAILED]) == "3 of 5 runs finished."
    pools = [replace(run, fold="pooled") for run in (RUNS[0], FAILED)]
    assert runs_note([*RUNS, *pools]) == "2 of 2 runs finished; 1 of 2 pools made of them."


def test_labels_to_review_are_counted_and_linked(folder):
    review = pd.DataFrame({"image_id": ["a", "b", "c"], "conflicts_with": ["b", "a", None]})
    note = review_note(review, POOL, folder)
    assert_says(note, "2 images have", "Of 75 images", "(grouped_cv, pooled, seed 42), 1 carry")
    page, links = POOL.path / "cases.html", review_links(review.tail(2), POOL, folder)
    assert links == f"Their cases: [b]({page}#b) · [c]({page}#c)."
    assert "No label is proposed" in review_note(review.head(0), None, folder)


@pytest.mark.parametrize(("seeds", "alone"), [(["1", "1"], True), (["3", "ensemble"], False)])
def test_one_seed_is_warned_of(seeds, alone):
    assert one_seed_note(pd.DataFrame({"seeds": seeds})).startswith("**One seed:**") == alone


def test_what_a_pool_is_is_said_and_of_a_run_nothing():
    run = {"experiment": "E1", "split": "grouped_cv", "fold": "pooled", "seed": "ensemble"}
    note = pool_note(ResultParams(**run), {"runs": 10})
    assert_says(note, "from 10 runs", "means over the seeds", "each fold's own validation")
    assert "ensemble" not in pool_note(ResultParams(**run | {"seed": 1}), {"runs": 5})
    assert pool_note(ResultParams(**run | {"fold": 2, "seed": 1}), {}) == ""


def test_every_report_says_what_it_is_and_how_it_was_made(phantom):
    note = provenance_note(str(phantom), split_seed=42)
    assert note.startswith(f"> **{RESEARCH_ONLY}**\n")
    assert_says(note, f"- **code:** btxrd {__version__}", "- **split seed:** 42", "numpy ", " UTC")


def test_the_leaks_of_a_validation_that_selection_reads_are_said():
    rows = [("random", "test", 0.7), ("center", "val", 0.744), ("center", "test", 0.01)]
    leakage = pd.DataFrame(rows, columns=["strategy", "part", "sibling_share"])
    text = leakage_finding(leakage)
    assert_says(text, "**random**: 70%", "in `center` 74% of the validation", "1%")
    assert "Validation" not in leakage_finding(leakage.assign(sibling_share=[0.7, 0, 0.01]))
