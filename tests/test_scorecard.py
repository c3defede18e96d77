"""The answer at a glance: its numbers are those of the tables, and what is missing is said."""

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from btxrd.evaluation import Bootstrap
from btxrd.evaluation.localisation import localisation_table
from btxrd.report.scorecard import scorecard

METRICS = ("accuracy", "macro_auc", "sensitivity/Malignant", "balanced_accuracy")
VALUES = {"stratified": 0.9, "grouped_cv": 0.79, "center": 0.7, "center_cv": 0.69}


def figures(*splits, width=0.05, seeds="1"):
    """Rows of `figures.csv`: E1 on each split, its ensemble, and an experiment that failed."""
    rows = []
    for split in splits:
        row = {"part": "test", "experiment": "E1", "split": split, "seeds": seeds, "n": 60}
        for metric in METRICS:
            value = VALUES[split]
            row |= {metric: value, f"{metric}_low": value - width, f"{metric}_high": value + width}
        rows += [row, row | {"seeds": "ensemble", "macro_auc": 0.999}]
        rows.append({"part": "test", "experiment": "E2", "split": split, "seeds": "0"})
    return pd.DataFrame(rows).astype({"n": "Int64"})


def shortcut(auc=0.6):
    return pd.Series({"sees": "the file", "estimate": auc, "low": auc - 0.05, "high": auc + 0.05})


def maps(network=0.9, chance=0.1, center=0.3):
    """Scores of 40 heat maps, of which such shares peak in the lesion."""
    shares = {"pointing": network, "pointing_center": center}
    hits = {name: (np.arange(40) < 40 * share).astype(float) for name, share in shares.items()}
    scores = pd.DataFrame(hits).assign(iou_chance=chance, pointing_chance=chance)
    scores = scores.assign(label=1, group=np.arange(40))
    return localisation_table(scores, Bootstrap(200))


LEAKAGE = pd.DataFrame(
    [("stratified", 0.63), ("grouped_cv", 0.0)], columns=["strategy", "sibling_share"]
).assign(part="test")
GAPS = pd.DataFrame(
    {"experiment": ["E1"], "metric": "macro_auc", "difference": 0.2, "low": 0.1, "high": 0.3}
).assign(inside_split="stratified", outside_split="center")
NOTHING = pd.DataFrame()


def card(best="E1", split="stratified", splits=("stratified", "center"), **others):
    facts = {
        "figures": figures(*splits),
        "gaps": GAPS,
        "leakage": LEAKAGE,
        "shortcut": shortcut(),
        "maps": maps(),
        "centers": ("center_cv", "center"),
    }
    return BeautifulSoup(scorecard(best, split, 0.9, **facts | others), "html.parser")


CASES = {
    "by image": (
        {},
        [
            "Recommended: E1, with a macro AUC of 0.900 (0.850–0.950) on 60 test images",
            "(split stratified). Chosen among 1 experiment on validation images",
            "trained once. In brackets: 90 % intervals.",
            "Not known: 0.900 is an upper bound 63% of the test images have a sibling",
            "Not by those tried The strongest that sees no lesion (the file) has a macro AUC of",
            "More than chance and center prior The heat map peaks inside the lesion in 90%",
            "10% by chance and 30% by betting on the middle.",
            "0.200 lower In centers that it was not trained on its macro AUC is 0.700",
            "The interval of the difference is +0.100 to +0.300.",
        ],
        ["0.999"],
    ),
    "by group, the same images with their center in training and without": (
        {
            "split": "grouped_cv",
            "splits": ("grouped_cv", "center", "center_cv"),
            "gaps": GAPS.assign(inside_split="grouped_cv", outside_split="center_cv"),
        },
        [
            "Yes, as far as a group is a patient 0% of",
            "is 0.690",
            "difference is +0.100 to +0.300.",
        ],
        ["upper bound"],
    ),
    "other images in other centers": (
        {"split": "grouped_cv", "splits": ("grouped_cv", "center")},
        ["0.090 lower"],
        ["interval of the difference"],
    ),
    "a loss that may be none": (
        {"gaps": GAPS.assign(low=-0.1)},
        ["0.200 lower, perhaps by chance", "difference is -0.100 to +0.300."],
        [],
    ),
    "no center": ({"splits": ("stratified",)}, ["hospitals? Not tested"], ["lower"]),
    "no shortcuts": ({"shortcut": None}, ["Could it be a shortcut? Not known"], []),
    "a shortcut as good": ({"shortcut": shortcut(0.92)}, ["Yes: one does as well"], ["lie apart"]),
    "a shortcut nearly as good": (
        {"shortcut": shortcut(0.85)},
        ["Not excluded", "the intervals do not lie apart."],
        [],
    ),
    "no heat maps": ({"maps": NOTHING}, ["Does it look at the lesion? Not known"], []),
    "a network without maps": (
        {"maps": maps().query("source in ['chance', 'center prior']")},
        ["Does it look at the lesion? Not known"],
        [],
    ),
    "maps that point nowhere": (
        {"maps": maps(network=0.0)},
        ["Not more than chance or center prior", "inside the lesion in 0%"],
        [],
    ),
    "maps no better than the middle": ({"maps": maps(center=0.9)}, ["More than chance The"], []),
    "leaks not counted": ({"leakage": LEAKAGE.head(0)}, ["were not counted."], []),
    "phantoms": ({"caution": "Phantoms are drawings."}, ["Phantoms are drawings."], []),
    "several trainings": (
        {"figures": figures("stratified", seeds="3")},
        ["mean of 3 trainings."],
        ["trained once"],
    ),
    "no interval": (
        {"figures": figures("stratified", width=np.nan)},
        ["0.900 (–) on 60 test", "Not excluded"],
        [" nan", "(nan"],
    ),
    "nothing recommended": (
        {"best": None, "split": None, "splits": ("center",), "about": "0 of 2 runs finished."},
        ["No experiment can be recommended:", "0 of 2 runs"],
        ["Macro AUC", "What else"],
    ),
}


@pytest.mark.parametrize(("facts", "words", "unsaid"), CASES.values(), ids=list(CASES))
def test_the_scorecard_says_what_the_tables_hold(facts, words, unsaid):
    found = card(**facts)
    found.find("style").decompose()
    text = " ".join(found.get_text().split())
    assert [said for said in words if said not in text] == []
    assert [said for said in unsaid if said in text] == []


def test_the_answer_has_its_figures_here_and_in_other_centers():
    rows = [[cell.get_text() for cell in row("td")] for row in card().select("tbody tr")]
    assert rows == [
        ["stratified", *["0.900 (0.850–0.950)"] * 3],
        ["center", *["0.700 (0.650–0.750)"] * 3],
    ]


def test_what_is_said_cannot_break_the_page():
    found = card(about="<script>alert(1)</script> in `a<b`")
    assert found.script is None
    assert "<script>alert(1)</script> in `a<b`" in found.get_text()
