"""Which images are shown: the right ones, in the stated order."""

import numpy as np
import pandas as pd
import pytest

from btxrd.evaluation.cases import gallery_cases, ranked_cases
from btxrd.predictions import predictions_frame


@pytest.fixture
def predictions():
    scores = np.array([[8, 1, 1], [5, 1, 4], [2, 1, 7], [6, 1, 3], [1, 1, 8], [3, 1, 6]]) / 10
    rows = pd.DataFrame({"image_id": list("abcdef"), "part": "test", "center": 1, "group": 0})
    return predictions_frame(rows.assign(label=[2, 2, 2, 0, 0, 2]), np.log(scores))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("true positive", "cf"), ("false positive", "e"), ("false negative", "ab")],
)
def test_cases_of_a_class_come_in_the_stated_order(predictions, kind, expected):
    assert "".join(ranked_cases(predictions, "Malignant", kind)["image_id"]) == expected


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
