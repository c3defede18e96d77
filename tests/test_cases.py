import numpy as np
import pandas as pd
import pytest

from btxrd.evaluation.cases import ranked_cases
from btxrd.evaluation.predictions import predictions_frame


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
