"""The sentences of notebook 05 say what the tables of heat maps hold."""

import textwrap

import numpy as np
import pandas as pd
import pytest

from btxrd.data.table import SUBTYPE_COLUMNS, VIEW_COLUMNS
from btxrd.evaluation import Bootstrap
from btxrd.evaluation.localisation import SCORES, SOURCES, localisation_table
from btxrd.predictions import predictions_frame
from btxrd.report.map_sentences import case_titles, localisation_finding


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
    assert "On 40 annotated test tumours of 20 patient groups: IoU at 0.5 **0.8" in better
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
    text = finding(scores.filter(regex="group|label|_chance|_center"))
    assert "On 40 annotated test tumours of 20 patient groups there are no maps" in text


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
