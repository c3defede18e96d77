"""The answer at a glance: its numbers are those of the tables, and what is missing is said."""

import re
from html import unescape

import numpy as np
import pandas as pd
import pytest

from btxrd.evaluation import Bootstrap
from btxrd.evaluation.localisation import localisation_table
from btxrd.files import project_path
from btxrd.report.scorecard import scorecard
from btxrd.stages import PUBLISHED_FILE

METRICS = ("accuracy", "macro_auc", "sensitivity/Malignant", "balanced_accuracy")
VALUES = {"stratified": 0.9, "grouped": 0.8, "grouped_cv": 0.79, "center": 0.7, "center_cv": 0.69}


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


def shortcuts(by_image=0.6, by_study=0.55):
    rows = [
        ("file", "the file", "image", by_image),
        ("file", "the file", "group", by_study),
        ("border", "the border", "image", 0.5),
        ("border", "the border", "group", 0.5),
        ("sites", "the sites", "image", 0.99),
        ("sites", "the sites", "group", 0.99),
    ]
    table = pd.DataFrame(rows, columns=["shortcut", "sees", "split", "estimate"])
    return table.assign(low=table["estimate"] - 0.05, high=table["estimate"] + 0.05)


def maps(network=0.9, chance=0.1, center=0.3):
    """Scores of 40 heat maps, of which such shares peak in the lesion."""
    shares = {"pointing": network, "pointing_center": center}
    hits = {name: (np.arange(40) < 40 * share).astype(float) for name, share in shares.items()}
    scores = pd.DataFrame(hits).assign(iou_chance=chance, pointing_chance=chance)
    scores = scores.assign(label=1, group=np.arange(40))
    return localisation_table(scores, Bootstrap(200))


LEAKAGE = pd.DataFrame(
    [("stratified", 0.63), ("grouped", 0.0), ("grouped_cv", 0.0)],
    columns=["strategy", "sibling_share"],
).assign(part="test")
GAPS = pd.DataFrame(
    {"experiment": ["E1"], "metric": "macro_auc", "difference": 0.2, "low": 0.1, "high": 0.3}
).assign(inside_split="stratified", outside_split="center")
PUBLISHED = pd.read_csv(project_path(PUBLISHED_FILE))
NOTHING = pd.DataFrame()


def card(best="E1", split="stratified", splits=("stratified", "center"), **others):
    facts = {
        "figures": figures(*splits),
        "gaps": GAPS,
        "leakage": LEAKAGE,
        "shortcuts": shortcuts(),
        "maps": maps(),
        "published": PUBLISHED,
    }
    return scorecard(best, split, Bootstrap(level=0.9), **facts | others)


def text_of(html):
    visible = re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(visible).replace("\u2060", "").split())


CASES = {
    "by image": (
        {},
        [
            "Recommended: E1 , with a macro AUC of 0.900 (0.850–0.950) on 60 test images",
            "(split stratified ). Chosen among 1 experiment on validation images",
            "trained once. In brackets: 90 % intervals.",
            "best shortcut 0.600 (0.550–0.650) published 0.846 to 0.945 0.4 chance 0.5 1",
            "published 0.608 to 0.843 0 chance 0.33 1",
            "trained 0.700 (0.650–0.750) stratified 0.900 (0.850–0.950) published 0.627",
            "Not known: 0.900 is an upper bound 63% of the test images have a sibling",
            "Not by those tried Of those that see no lesion, the strongest (the file) has",
            "More than chance and center prior The heat map peaks inside the lesion in 90%",
            "10% by chance and 30% by betting on the middle.",
            "0.200 lower In centers that it was not trained on its macro AUC is 0.700",
            "The interval of the difference is +0.100 to +0.300.",
        ],
        ["0.999", "0.990"],
    ),
    "by study": (
        {"split": "grouped", "splits": ("stratified", "grouped", "center")},
        [
            "0.800 (0.750–0.850) on 60 test images, each tested by a network that saw nothing",
            "best shortcut 0.550 (0.500–0.600) published 0.893",
            "published 0.633 0 chance",
            "published 0.749 0 chance",
            "Yes, as far as a study is a patient 0% of",
            "grouped 0.800 (0.750–0.850) published 0.627",
        ],
        ["interval of the difference", "upper bound"],
    ),
    "by study, cross-validated": (
        {"split": "grouped_cv", "splits": ("grouped_cv", "center", "center_cv")},
        ["each tested by a network that saw nothing of its group", "trained 0.690 (0.640–0.740)"],
        [],
    ),
    "the same images, with their center in training and without": (
        {
            "split": "grouped_cv",
            "splits": ("grouped_cv", "center", "center_cv"),
            "gaps": GAPS.assign(inside_split="grouped_cv", outside_split="center_cv"),
        },
        ["The interval of the difference is +0.100 to +0.300."],
        [],
    ),
    "a loss that may be none": (
        {"gaps": GAPS.assign(low=-0.1)},
        ["0.200 lower, perhaps by chance", "difference is -0.100 to +0.300; 0 is in it."],
        [],
    ),
    "no center": (
        {"splits": ("stratified",), "gaps": GAPS.head(0)},
        ["Not tested: it was run on no split that leaves a center out.", "hospitals? Not tested"],
        ["lower"],
    ),
    "no shortcuts": (
        {"shortcuts": shortcuts().head(0)},
        ["Could it be a shortcut? Not known No shortcut was measured."],
        ["best shortcut"],
    ),
    "a shortcut as good": (
        {"shortcuts": shortcuts(by_image=0.92)},
        ["Could it be a shortcut? Yes: one does as well"],
        ["lie apart"],
    ),
    "a shortcut nearly as good": (
        {"shortcuts": shortcuts(by_image=0.85)},
        ["Could it be a shortcut? Not excluded", "the intervals do not lie apart."],
        [],
    ),
    "no heat maps": (
        {"maps": NOTHING},
        ["Does it look at the lesion? Not known There are no heat maps of it."],
        [],
    ),
    "a network without maps": (
        {"maps": maps().query("source in ['chance', 'center prior']")},
        ["Does it look at the lesion? Not known There are no heat maps of it."],
        [],
    ),
    "maps that point nowhere": (
        {"maps": maps(network=0.0)},
        [
            "look at the lesion? Not more than chance or center prior The heat map peaks",
            "inside the lesion in 0%",
        ],
        [],
    ),
    "maps no better than the middle": (
        {"maps": maps(network=0.9, center=0.9)},
        ["Does it look at the lesion? More than chance The heat map"],
        [],
    ),
    "leaks not counted": (
        {"leakage": LEAKAGE.head(0)},
        ["Siblings in training were not counted."],
        [],
    ),
    "phantoms": (
        {"published": PUBLISHED.head(0), "caution": "Phantoms are drawings."},
        ["Phantoms are drawings."],
        ["published"],
    ),
    "several trainings": (
        {"figures": figures("stratified", seeds="3")},
        ["mean of 3 trainings. In brackets"],
        ["trained once"],
    ),
    "no interval": (
        {"figures": figures("stratified", width=np.nan)},
        ["with a macro AUC of 0.900 on 60 test", "Not excluded"],
        [" nan", "(nan"],
    ),
    "nothing recommended": (
        {"best": None, "split": None, "splits": ("center",), "about": "0 of 2 runs finished."},
        ["No experiment can be recommended:", "grouped_cv, grouped, stratified", "0 of 2 runs"],
        ["Macro AUC", "What else"],
    ),
}


@pytest.mark.parametrize(("facts", "words", "unsaid"), CASES.values(), ids=list(CASES))
def test_the_scorecard_says_what_the_tables_hold(facts, words, unsaid):
    text = text_of(card(**facts))
    assert [said for said in words if said not in text] == []
    assert [said for said in unsaid if said in text] == []


def test_marks_stand_where_their_numbers_are():
    first = card().split('<div class="card">')[1]
    assert 'class="interval" x1="75.0%" x2="91.67%"' in first  # of 0.4 to 1
    assert re.findall(r'circle cx="([\d.]+)%"', first)[:2] == ["83.33", "33.33"]
    assert first.count('class="chance" x1="16.67%"') == 3
    low = card(published=PUBLISHED.assign(macro_auc=0.3)).split('<div class="card">')[1]
    assert 'class="chance" x1="50.0%"' in low  # the axis begins at 0 where it has to


def test_what_is_said_cannot_break_the_page():
    html = card(about="<script>alert(1)</script> in `a<b`")
    assert " in `a&lt;b`" in html
    assert "<script" not in html
    assert "&lt;script&gt;" in html
