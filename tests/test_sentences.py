"""What the reports say in words, and that the figures in it are computed."""

import textwrap
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from btxrd import RESEARCH_ONLY, __version__
from btxrd.data.table import SUBTYPE_COLUMNS, VIEW_COLUMNS
from btxrd.evaluation import Bootstrap
from btxrd.evaluation.localisation import SCORES, SOURCES, localisation_table
from btxrd.evaluation.runs import COMPARED, RunResult
from btxrd.params import ResultParams
from btxrd.predictions import predictions_frame
from btxrd.report.sentences import (
    case_titles,
    first_weights,
    leakage_finding,
    localisation_finding,
    not_subtracted,
    pool_note,
    provenance_note,
    recommendation,
    review_links,
    review_note,
    run_line,
    runs_list,
    runs_note,
    seeds_note,
)

LEAKAGE = pd.DataFrame(
    {
        "strategy": ["stratified", "grouped", "grouped_cv"],
        "part": "test",
        "sibling_share": [0.6, 0, 0],
    }
)
SHORTCUTS = pd.DataFrame(
    {
        "shortcut": ["metadata", "metadata", "sites", "file"],
        "sees": ["age", "age", "sites", "the file"],
        "split": ["image", "group", "group", "group"],
        "estimate": [0.9, 0.55, 0.95, 0.61],
    }
)


def result(split, value, status="finished", error=None):
    intervals = {name: [value, value - 0.1, value + 0.1] for name in COMPARED}
    return RunResult(
        path=Path("runs/E1") / split / "seed-42",
        experiment="E1",
        split=split,
        fold=None,
        seed=42,
        status=status,
        error=error,
        parameters={},
        metrics={part: {"intervals": intervals} for part in ("val", "test")},
        gradcam=None,
        training={"epochs": 9, "seconds": 61.4, "device": "cpu"},
        pages={"training": "03_train.html", "evaluation": "04_evaluate.html"},
    )


RUNS = [result("stratified", 0.75), result("center", 0.55)]


def compared(stratified=0.75, center=0.55, **others):
    row = {"Experiment ID": "E1", "Stratified Val Accuracy": stratified, "Stratified Val Rank": 1}
    figures = {"Stratified": stratified, "Center-Holdout": center, **others}
    row |= {f"{split} Val Accuracy": value for split, value in figures.items()}
    for split, value in figures.items():
        for title in COMPARED.values():
            ends = {"": value, " Low": value - 0.1, " High": value + 0.1}
            row |= {f"{split} {title}{end}": found for end, found in ends.items()}
    return pd.DataFrame([row])


def test_the_first_weights_of_the_answer_are_named_where_they_are_known():
    comparison = pd.DataFrame({"Experiment ID": ["E1", "E2"], "Weights": [None, "own.pth (x)"]})
    assert first_weights("E2", comparison) == " First weights of E2: own.pth (x)."
    assert first_weights("E1", comparison) == first_weights(None, comparison) == ""


@pytest.fixture
def shown():
    """Read Markdown as the page of a notebook does."""

    def show(markdown: str) -> BeautifulSoup:
        html = MarkdownWithMath(IPythonRenderer(escape=True)).render(markdown)
        return BeautifulSoup(html, "html.parser")

    return show


def test_the_recommendation_is_computed_from_the_comparison():
    sentence = recommendation("E1", "stratified", compared(), LEAKAGE, SHORTCUTS)
    for words in (
        "**E1** has the highest accuracy on the *validation* images of the split `stratified` "
        "(0.750)",
        "On its test images its accuracy is 0.750 (0.650–0.850).",
        "*Sites* reach a macro AUC of 0.950 by study, but are no shortcut",
    ):
        assert words in sentence
    assert sentence.count("`stratified`") == 1
    blind = SHORTCUTS[SHORTCUTS["shortcut"] != "sites"]
    assert "Not counted" not in recommendation("E1", "stratified", compared(), LEAKAGE, blind)
    assert recommendation(None, None, compared(), LEAKAGE, SHORTCUTS) == ""


@pytest.mark.parametrize(
    ("split", "title", "words"),
    [
        ("grouped_cv", "Grouped CV", "validation images are test images of another fold"),
        ("grouped", "Grouped", "its accuracy is 0.700 (0.600–0.800)"),
    ],
)
def test_the_answer_from_an_honest_split_has_the_stratified_one_beside_it(split, title, words):
    table = compared(**{title: 0.7})
    sentence = recommendation("E1", split, table, LEAKAGE, SHORTCUTS)
    for expected in (
        words,
        f"validation* images of the split `{split}` (0.700)",
        "On the split `stratified`: macro AUC **0.750 (0.650–0.850)**",
        "60% of the `stratified` test images have a sibling in train, so these figures are an",
        "gives the same.",
    ):
        assert expected in sentence
    # The rule set before the study may name another; without a stratified run it names none.
    other = table.assign(**{"Experiment ID": "E2", "Stratified Val Rank": 1})
    table = pd.concat([table.assign(**{"Stratified Val Rank": 2}), other], ignore_index=True)
    assert "gives **E2**." in recommendation("E1", split, table, LEAKAGE, SHORTCUTS)
    table = compared(stratified=np.nan, **{title: 0.7}).drop(columns="Stratified Val Rank")
    alone = recommendation("E1", split, table, LEAKAGE, SHORTCUTS)
    assert "stratified" not in alone


def test_every_run_has_a_line_with_its_error_and_links_to_its_pages():
    assert run_line(RUNS[1]) == (
        "- **E1**, center, seed 42: finished (9 epochs, 61 s, cpu) · "
        "[training](runs/E1/center/seed-42/03_train.html) · "
        "[evaluation](runs/E1/center/seed-42/04_evaluate.html)"
    )
    facts = {"best_C": 0.002, "epochs": 0, "seconds": 4.2, "device": "cpu"}
    assert "finished (a probe, C = 0.002, 4 s, cpu) ·" in run_line(replace(RUNS[1], training=facts))
    broken = run_line(result("stratified", np.nan, "failed", "the kernel died"))
    assert ": failed (9 epochs, 61 s, cpu). the kernel died ([error.txt](runs/E1/" in broken
    assert broken.endswith("[evaluation](runs/E1/stratified/seed-42/04_evaluate.html)")


def test_every_run_stands_under_what_all_were_made_of():
    lines = runs_list(RUNS).splitlines()
    assert lines[0] == "Of all runs: the [data](eda.html) and the [splits](splits.html)."
    assert lines[2:] == [run_line(run) for run in RUNS]


def test_names_and_errors_stay_as_they_are_in_the_list_of_runs(shown):
    odd = "x<b id=c>1 {a} $b$ [c](d)"
    run = replace(result("center", np.nan, "failed", f"no {odd}\n# file"), experiment=odd)
    run = replace(run, path=Path("runs", odd), training=RUNS[0].training | {"device": odd})
    page = shown(run_line(run))
    assert f"{odd}, center, seed 42: failed (9 epochs, 61 s, {odd})" in page.get_text()
    assert f"no {odd} # file (error.txt) · training" in page.get_text()
    links = [unquote(link["href"]) for link in page.find_all("a")]
    assert links[0] == f"runs/{odd}/error.txt"
    assert [element.name for element in page.find_all()] == ["ul", "li", "strong", "a", "a", "a"]


@pytest.mark.parametrize(
    ("fold", "seed", "words"),
    [(3, 42, "fold 3, seed 42"), ("pooled", 42, "pooled, seed 42"), (None, "ensemble", "ensemble")],
)
def test_folds_and_pools_are_named(fold, seed, words):
    line = run_line(replace(RUNS[0], fold=fold, seed=seed))
    assert f"**E1**, stratified, {words}: finished" in line


def test_only_what_is_evaluated_is_finished():
    trained = replace(RUNS[0], status="by hand", metrics={})
    by_hand = replace(RUNS[1], status="by hand")
    failed = replace(RUNS[1], status="failed", metrics={})
    assert runs_note([*RUNS, by_hand, trained, trained, failed]) == (
        "3 of 6 runs finished, 2 trained but not evaluated."
    )
    pools = [replace(run, fold="pooled") for run in (RUNS[0], failed)]
    assert runs_note([*RUNS, *pools]) == "2 of 2 runs finished; 1 of 2 pools made of them."


def test_labels_to_review_are_counted_and_linked():
    review = pd.DataFrame(
        {
            "image_id": ["a", "b", "c"],
            "label": ["Benign", "Normal", "Malignant"],
            "most_probable": [None, None, "Normal"],
            "self_confidence": [np.nan, np.nan, 0.0123],
            "conflicts_with": ["b", "a", None],
        }
    )
    pool = replace(RUNS[0], split="grouped_cv", fold="pooled", metrics={"test": {"n": 75}})
    note = review_note(review, pool)
    for words in (
        "2 images have a duplicate that carries another label",
        "Of 75 images tested by E1 (grouped_cv, pooled, seed 42), 1 carry",
    ):
        assert words in note
    links = review_links(review.tail(2), pool)
    assert links == (
        "Their cases: [b](runs/E1/stratified/seed-42/cases.html#b) · "
        "[c](runs/E1/stratified/seed-42/cases.html#c)."
    )
    assert review_links(review.head(0), pool) == review_links(review, None) == ""
    assert "No label is proposed" in review_note(review.head(0), None)


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        (["1", "1"], "**One seed:** each experiment was trained once"),
        (["3", "2", "ensemble"], "means over up to 3 trainings"),
        ([], "**One seed:**"),
    ],
)
def test_what_intervals_cover_is_said_by_the_number_of_seeds(seeds, words):
    assert words in seeds_note(pd.DataFrame({"seeds": pd.Series(seeds, dtype=str)}))


def test_what_a_pool_is_is_said_and_of_a_run_nothing():
    run = {"experiment": "E1", "split": "grouped_cv", "fold": "pooled", "seed": "ensemble"}
    note = pool_note(ResultParams(**run), {"runs": 10})
    for words in ("from 10 runs", "means over the seeds", "each fold's own validation"):
        assert words in note
    assert "ensemble" not in pool_note(ResultParams(**run | {"seed": 1}), {"runs": 5})
    assert pool_note(ResultParams(**run | {"fold": 2, "seed": 1}), {}) == ""


def test_every_report_says_what_it_is_and_how_it_was_made(phantom):
    note = provenance_note(str(phantom), split_seed=42)
    assert note.startswith(f"> **{RESEARCH_ONLY}**\n")
    for words in (f"- **code:** btxrd {__version__}", "- **split seed:** 42", "numpy ", " UTC"):
        assert words in note


def test_the_leaks_of_a_validation_that_selection_reads_are_said():
    rows = [("random", "test", 0.7), ("center", "val", 0.744), ("center", "test", 0.01)]
    leakage = pd.DataFrame(rows, columns=["strategy", "part", "sibling_share"])
    text = leakage_finding(leakage)
    assert "leakiest test set is that of **random**: 70% of its images" in text
    assert "in the center holdout 74% of the validation images have a sibling in train" in text
    assert "Validation leaks" not in leakage_finding(leakage[:1])


@pytest.fixture(scope="module")
def scores():
    """Forty tumours in twenty studies: the network is better than every reference."""
    rng = np.random.default_rng(0)
    level = {"": 0.8, "_attention": 0.9, "_chance": 0.3, "_center": 0.4, "_randomised": 0.35}
    found = {
        score + ending: level[ending] + 0.1 * rng.random(40)
        for ending, *_ in SOURCES.values()
        for score in SCORES
    }
    return pd.DataFrame(found).assign(group=np.arange(40) // 2, label=1)


def finding(scores):
    return localisation_finding(localisation_table(scores, Bootstrap(200)))


def test_the_finding_calls_the_network_better_and_worse_as_it_is(scores):
    better = finding(scores.drop(columns=scores.filter(like="_attention").columns))
    assert "On 40 annotated test tumours of 20 studies: IoU at 0.5 **0.8" in better
    assert better.count("**better** in 4 of 4 scores (IoU at 0.5, IoU at val's best, ") == 3
    endings = {score: f"{score}_randomised" for score in SCORES}
    worse = finding(scores.rename(columns=endings | {old: new for new, old in endings.items()}))
    assert "against randomised weights **worse** in 4 of 4 scores" in worse
    same = finding(scores.assign(**{f"{score}_center": scores[score] for score in SCORES}))
    assert "against center prior **no different** in any of 4 scores" in same


def test_the_finding_says_that_attention_was_taught(scores):
    text = finding(scores)
    _, taught = text.split("Its attention was taught the lesion masks of training images: ")
    assert taught.startswith("IoU at 0.5 **0.9")
    assert "the attention is against chance **better** in 4 of 4 scores" in taught
    assert taught.count("**better** in 4 of 4 scores") == 3


def test_a_score_that_never_varies_is_not_called(scores):
    missed = finding(scores.assign(pointing=0.0, energy=0.0, iou=0.0, iou_best=0.0))
    assert "worse" not in missed
    assert "against chance **no different**" in missed


def test_without_maps_of_the_network_the_finding_says_so(scores):
    assert finding(scores.filter(regex="group|label|_chance|_center")) == (
        "On 40 annotated test tumours of 20 studies there are no maps of the network to score."
    )


@pytest.fixture
def cases():
    shares = np.array([[6, 1, 3], [1, 1, 8], [8, 1, 1]]) / 10
    rows = pd.DataFrame({"image_id": list("dea"), "part": "test", "center": 1, "group": 0})
    frame = predictions_frame(rows.assign(label=[0, 0, 2]), np.log(shares))
    kinds = ["true positive", "false positive", "false negative"]
    return frame.assign(predicted=[0, 2, 0], kind=kinds)


def test_titles_say_what_the_case_is(cases, table):
    flags = dict.fromkeys((*SUBTYPE_COLUMNS, *VIEW_COLUMNS), 0) | {"frontal": 1, "age": 34}
    normal = table[table["label"] == 2].head(1).assign(**flags)
    tumour = normal.assign(osteosarcoma=1)
    named = {"e": tumour, "d": normal, "a": tumour}
    facts = pd.concat(rows.assign(image_id=name) for name, rows in named.items())
    titles = [textwrap.wrap(title, 34) for title in case_titles(cases, facts)]
    assert [[line.replace("\N{NO-BREAK SPACE}", " ") for line in title] for title in titles] == [
        ["d: Normal, called Normal", "(N 0.60, B 0.10, M 0.30),", "no tumour, 34 y, frontal"],
        ["e: Normal, called Malignant", "(N 0.10, B 0.10, M 0.80),", "osteosarcoma, 34 y, frontal"],
        [
            "a: Malignant, called Normal",
            "(N 0.80, B 0.10, M 0.10),",
            "osteosarcoma, 34 y, frontal",
        ],
    ]


def test_a_case_that_the_table_lacks_is_an_error(cases, table):
    with pytest.raises(KeyError):
        case_titles(cases, table)


def test_a_reason_not_to_subtract_is_given_once():
    notes = [f"E0 · {split} and E8 · {split}: training.lr is 1 and 2" for split in ("a", "b")]
    table = pd.DataFrame(
        {"split": ["a", "b", "a"], "against": ["E0", "E0", "E1"], "note": [*notes, None]}
    )
    assert not_subtracted(table) == "- Not subtracted: E0 (a, b), because training.lr is 1 and 2."
    assert not_subtracted(table.tail(1)) == not_subtracted(table.assign(note=np.nan)) == ""
