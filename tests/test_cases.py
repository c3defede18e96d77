import textwrap

import numpy as np
import pandas as pd
import pytest

from btxrd.data.table import SUBTYPE_COLUMNS, VIEW_COLUMNS
from btxrd.evaluation.cases import case_titles, gallery_cases, ranked_cases
from btxrd.predictions import predictions_frame


@pytest.fixture
def predictions() -> pd.DataFrame:
    scores = np.array([[8, 1, 1], [5, 1, 4], [2, 1, 7], [6, 1, 3], [1, 1, 8], [3, 1, 6]]) / 10
    rows = pd.DataFrame({"image_id": list("abcdef"), "part": "test", "center": 1, "group": 0})
    return predictions_frame(rows.assign(label=[2, 2, 2, 0, 0, 2]), np.log(scores))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("true positive", "cf"), ("false positive", "e"), ("false negative", "ab")],
)
def test_cases_of_a_class_come_in_the_stated_order(predictions, kind, expected):
    assert "".join(ranked_cases(predictions, "Malignant", kind)["image_id"]) == expected


def test_an_unknown_kind_lists_the_known(predictions):
    with pytest.raises(ValueError, match="false negative"):
        ranked_cases(predictions, "Malignant", "negatives")


def test_the_gallery_holds_every_kind_of_every_class(predictions):
    cases = gallery_cases(predictions, 1)
    assert list(zip(cases["class_name"], cases["kind"], cases["image_id"], strict=True)) == [
        ("Normal", "true positive", "d"),
        ("Normal", "false positive", "a"),
        ("Normal", "false negative", "e"),
        ("Malignant", "true positive", "c"),
        ("Malignant", "false positive", "e"),
        ("Malignant", "false negative", "a"),
    ]
    assert predictions.loc[cases.index, "image_id"].tolist() == cases["image_id"].tolist()


def test_titles_say_what_the_case_is(predictions, table):
    cases = gallery_cases(predictions, 1).iloc[[0, 4, 5]]
    rows = table[table["label"] == 2].head(1)
    flags = dict.fromkeys((*SUBTYPE_COLUMNS, *VIEW_COLUMNS), 0) | {"frontal": 1, "age": 34}
    normal = rows.assign(image_id="d", **flags)
    tumour = rows.assign(**flags | {"osteosarcoma": 1})
    facts = pd.concat([tumour.assign(image_id="e"), normal, tumour.assign(image_id="a")])
    titles = [textwrap.wrap(title, 34) for title in case_titles(cases, facts)]
    assert [[line.replace("\N{NO-BREAK SPACE}", " ") for line in title] for title in titles] == [
        ["true positive", "(N 0.60, B 0.10, M 0.30),", "no tumour, 34 y, frontal"],
        ["false positive: is Normal", "(N 0.10, B 0.10, M 0.80),", "osteosarcoma, 34 y, frontal"],
        [
            "false negative: called Normal",
            "(N 0.80, B 0.10, M 0.10),",
            "osteosarcoma, 34 y, frontal",
        ],
    ]


def test_a_case_that_the_table_lacks_is_an_error(predictions, table):
    with pytest.raises(KeyError):
        case_titles(gallery_cases(predictions, 1), table)
