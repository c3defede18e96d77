"""The facts of each case: what was predicted, and the images related to it."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from btxrd import CLASS_NAMES
from btxrd.evaluation.calibration import fit_temperature
from btxrd.extras.pages.cases import case_table, relatives
from btxrd.predictions import LOGIT_COLUMNS, probabilities


@pytest.mark.parametrize("folds", [(), (1, 2)])
def test_a_case_is_what_the_predictions_say_of_it(predicted, folds):
    """Of a pool of folds, each is calibrated by its own validation."""
    parts = [
        predicted((9, 8, 7), 10 * (fold or 0) + (part == "val"), 0.5 + (fold or 0), part)
        .assign(**({"fold": fold} if fold else {}))
        .replace({"image_id": "-"}, f"-{fold}-", regex=True)
        for fold in folds or (None,)
        for part in ("val", "test")
    ]
    frame = pd.concat(parts, ignore_index=True)
    test = frame[frame["part"] == "test"].reset_index(drop=True)
    cases = case_table(frame)
    assert cases["image_id"].tolist() == test["image_id"].tolist()
    assert (cases["true"] == test["label"].map(dict(enumerate(CLASS_NAMES)))).all()
    assert (cases["predicted"].cat.codes == probabilities(test).argmax(axis=1)).all()
    assert ((cases["outcome"] == "right") == (cases["true"] == cases["predicted"])).all()
    own = probabilities(test)[np.arange(len(test)), test["label"]]
    np.testing.assert_allclose(cases["loss"], -np.log(own))
    highest = probabilities(test).max(axis=1)
    assert ((cases["confidence"] == "under 50 %") == (highest < 0.5)).all()
    assert ((cases["confidence"] == "90 % and more") == (highest >= 0.9)).all()
    for fold in folds or (None,):
        val, rows = ((f["fold"] == fold) if fold else f["label"] >= 0 for f in (frame, test))
        temperature = fit_temperature(frame[val & (frame["part"] == "val")])
        expected = softmax(test.loc[rows, list(LOGIT_COLUMNS)] / temperature, axis=1)
        np.testing.assert_allclose(cases.loc[rows].filter(like="calibrated_"), expected)
        assert (cases.loc[rows, "temperature"] == temperature).all()
    assert cases["temperature"].nunique() == max(1, len(folds))


def test_without_validation_there_is_no_calibration(predicted):
    cases = case_table(predicted((3, 3, 3)))
    assert cases.filter(like="calibrated_").isna().all(axis=None)


def related(test: str, split: pd.DataFrame, *pairs: tuple[str, str, int], **columns) -> list[tuple]:
    """The relatives of some images, each a letter, in the groups of the split."""
    groups = split.drop_duplicates("image_id").set_index("image_id")["group"]
    frame = pd.DataFrame({"image_id": list(test)}).assign(**columns)
    frame["group"] = frame["image_id"].map(groups).astype(str)
    duplicates = pd.DataFrame(pairs, columns=["image_a", "image_b", "distance"])
    found = relatives(frame, split, duplicates)
    assert found.columns.tolist() == ["image_id", "relative", "part", "distance"]
    return [
        (image, other, part, None if np.isnan(bits) else bits)
        for image, other, part, bits in found.itertuples(index=False)
    ]


def a_split(parts: str, groups: str, **columns) -> pd.DataFrame:
    names = {"r": "train", "v": "val", "t": "test"}
    ids = [chr(ord("a") + place) for place in range(len(parts))]
    split = pd.DataFrame({"image_id": ids, "part": [names[part] for part in parts]})
    return split.assign(group=[int(group) for group in groups], **columns)


def test_relatives_are_siblings_and_duplicates_with_the_part_they_are_in():
    split = a_split("trvtr", "00112")
    found = related("ad", split, ("c", "d", 3), ("a", "e", 0))
    assert sorted(found) == [
        ("a", "b", "train", None),
        ("a", "e", "train", 0),
        ("d", "c", "val", 3),
    ]


def test_the_parts_are_those_of_the_fold_that_tests_the_image():
    first, second = a_split("trr", "000", fold=1), a_split("rt", "00", fold=2)
    found = related("ab", pd.concat([first, second]), ("b", "c", 1), fold=[1, 2])
    assert sorted(found) == [
        ("a", "b", "train", None),
        ("a", "c", "train", None),
        ("b", "a", "train", None),
        ("b", "c", "not used", 1),
    ]


def test_an_image_that_is_val_and_test_is_named_once():
    held_out = a_split("tt", "00")
    split = pd.concat([held_out.assign(part="val"), held_out])
    assert related("a", split) == [("a", "b", "val and test", None)]
