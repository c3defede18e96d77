"""Labels to review: contradicted ones first, then those that networks least believe."""

import numpy as np
import pandas as pd
import pytest

from btxrd import CLASS_NAMES
from btxrd.data import read_table
from btxrd.data.splits import conflicting_pairs
from btxrd.evaluation.review import REVIEW_COLUMNS, labels_to_review
from btxrd.predictions import LOGIT_COLUMNS, labels, predictions_frame

NONE = pd.DataFrame(columns=["image_a", "class_a", "image_b", "class_b", "distance"])
FEW = 5


@pytest.fixture
def pool(predicted):
    """Make five folds of a network of some skill, each with its val."""

    def make(skill=2.5, sizes=(50, 40, 12)):
        parts = []
        for fold in range(1, FEW + 1):
            for part in ("val", "test"):
                frame = predicted(sizes, [fold, len(part)], skill, part, fold=fold)
                frame["image_id"] = f"{fold}-" + frame["image_id"]
                parts.append(frame)
        return pd.concat(parts, ignore_index=True)

    return make


def test_planted_errors_come_first(pool):
    """Of 5 % wrong labels many stand among the first 20; by chance one would."""
    frame = pool()
    test = frame.index[frame["part"] == "test"]
    planted = np.random.default_rng(0).choice(test, len(test) // 20, replace=False)
    frame.loc[planted, "label"] = (frame.loc[planted, "label"] + 1) % 3
    first = labels_to_review(frame, NONE).head(20)
    precision = first["image_id"].isin(frame.loc[planted, "image_id"]).mean()
    assert precision > 0.5


def test_a_label_is_doubted_where_another_is_more_probable(pool):
    frame = pool()
    review = labels_to_review(frame, NONE).set_index("image_id")
    assert list(review.reset_index()) == list(REVIEW_COLUMNS)
    test = frame[frame["part"] == "test"].set_index("image_id")
    called = test[list(LOGIT_COLUMNS)].to_numpy().argmax(axis=1)
    assert set(review.index) == set(test.index[called != test["label"]])
    names = dict(enumerate(CLASS_NAMES))
    pd.testing.assert_series_equal(
        review["label"], test.loc[review.index, "label"].map(names), check_dtype=False
    )
    assert (review["label"] != review["most_probable"]).all()
    assert review["margin"].is_monotonic_increasing
    assert review["margin"].between(0, 0.5, inclusive="left").all()
    assert (review["self_confidence"] < 0.5).all()
    assert (review["fold"] == test.loc[review.index, "fold"]).all()


def test_each_fold_is_calibrated_by_its_own_val(pool):
    """A fold whose logits are ten times too large is no surer of a wrong label than the others."""
    frame = pool()
    own = frame["fold"] == 2
    loud = frame[list(LOGIT_COLUMNS)].where(~own, 10 * frame[list(LOGIT_COLUMNS)])
    plain, scaled = (labels_to_review(f, NONE) for f in (frame, predictions_frame(frame, loud)))
    assert scaled["image_id"].tolist() == plain["image_id"].tolist()
    np.testing.assert_allclose(scaled["self_confidence"], plain["self_confidence"], rtol=1e-4)


def test_contradicted_labels_come_first_whether_tested_or_not(pool):
    frame = pool()
    tested = frame[frame["part"] == "test"].set_index("image_id")
    right = tested.index[tested[list(LOGIT_COLUMNS)].to_numpy().argmax(axis=1) == labels(tested)]
    name = CLASS_NAMES[tested.loc[right[0], "label"]]
    pairs = [("x", "Benign", "y", "Malignant", 0), (right[0], name, "x", "Benign", 2)]
    review = labels_to_review(frame, pd.DataFrame(pairs, columns=NONE.columns))
    assert review["image_id"].tolist()[:3] == ["x", "y", right[0]]
    assert review["conflicts_with"].tolist()[:3] == [f"y {right[0]}", "x", "x"]
    assert review["label"].tolist()[:3] == ["Benign", "Malignant", name]
    assert review[["self_confidence", "fold"]].isna().all(axis=1).tolist()[:3] == [
        True,
        True,
        False,
    ]
    assert review["conflicts_with"].isna()[3:].all()
    assert review["image_id"].is_unique


def test_the_contradictions_of_the_real_table_are_in_it(real_table, pool):
    table, duplicates = read_table(real_table), pd.read_csv(real_table / "duplicates.csv")
    conflicts = conflicting_pairs(table, duplicates)
    first = labels_to_review(pool(), conflicts).head(6).set_index("image_id")["conflicts_with"]
    for a, b in ((591, 3456), (707, 3346), (453, 3703)):
        names = [f"IMG{number:06d}.jpeg" for number in (a, b)]
        assert first[names].tolist() == names[::-1]
