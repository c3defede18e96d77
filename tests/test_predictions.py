"""`predictions.csv`: written as specified, read back exactly, refused when broken."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from btxrd.predictions import (
    check_predictions,
    labels,
    predictions_frame,
    probabilities,
    read_predictions,
    write_predictions,
)

HEADER = (
    "image_id,part,center,group,label,logit_Normal,logit_Benign,logit_Malignant,"
    "p_Normal,p_Benign,p_Malignant"
)


@pytest.fixture
def rows():
    return pd.DataFrame(
        {
            "age": [30, 40, 50, 60],
            "image_id": ["IMG000001", "IMG000002", "IMG000003", "IMG000003"],
            "part": ["val", "val", "val", "test"],
            "center": [1, 1, 2, 2],
            "group": ["007", "007", "9", "9"],
            "label": [0, 1, 2, 2],
        },
        index=[5, 6, 7, 8],
    )


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(scale=8, size=(4, 3)).astype(np.float32)


@pytest.fixture
def path(tmp_path, rows, logits):
    path = tmp_path / "run" / "predictions.csv"
    write_predictions(path, predictions_frame(rows, logits))
    return path


def test_columns_and_softmax(rows, logits):
    frame = predictions_frame(rows, logits)
    assert ",".join(frame.columns) == HEADER
    expected = softmax(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(probabilities(frame), expected, rtol=1e-14)
    assert frame.index.tolist() == [0, 1, 2, 3]


def test_huge_logits_do_not_overflow(rows):
    frame = predictions_frame(rows, [[1000.0, 0.0, -1000.0]] * 4)
    assert probabilities(frame)[0].tolist() == [1, 0, 0]


def test_file_gives_back_the_frame(path, rows, logits):
    frame = read_predictions(path)
    written = predictions_frame(rows, logits)
    pd.testing.assert_frame_equal(frame, written, check_dtype=False, check_exact=True)
    assert frame["group"].tolist() == ["007", "007", "9", "9"]
    assert labels(frame).tolist() == [0, 1, 2, 2]
    assert labels(frame).dtype == np.int64
    assert path.read_text().splitlines()[0] == HEADER


@pytest.mark.parametrize("name", ["000001", "1e5", "NA", "None", "True"])
def test_names_of_the_file_are_text(path, rows, logits, name):
    rows = rows.assign(center=name, group=name, image_id=[name, "2", "3", name])
    write_predictions(path, predictions_frame(rows, logits))
    frame = read_predictions(path)
    assert frame["image_id"].tolist() == [name, "2", "3", name]
    assert frame["center"].tolist() == frame["group"].tolist() == [name] * 4


def broken(column, value):
    def change(frame):
        frame[column] = frame[column].astype(object)
        frame.loc[0, column] = value
        return frame

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns=["p_Benign", "group"]), "columns missing: group, p_Benign"),
        (broken("part", "train"), "unknown part 'train'; allowed: val, test"),
        (broken("p_Normal", 0.5), "must sum to 1"),
        (broken("p_Normal", None), "empty or NaN values in p_Normal"),
        (broken("group", ""), "empty or NaN values in group"),
        (broken("label", 3), "labels must be 0 to 2"),
        (broken("label", "Benign"), "label must be numbers"),
        (broken("logit_Benign", np.inf), "logits must be finite"),
        (broken("image_id", "IMG000002"), "IMG000002 stands more than once in part 'val'"),
        (lambda f: f[:0], "no predictions"),
    ],
)
def test_broken_files_are_refused_by_name(path, change, message):
    frame = read_predictions(path)
    frame.loc[0, "p_Normal"] = 1 - frame.loc[0, ["p_Benign", "p_Malignant"]].sum()
    change(frame).to_csv(path, index=False)
    with pytest.raises(ValueError, match=message) as error:
        read_predictions(path)
    assert str(path) in str(error.value)


def test_a_file_without_a_table_is_refused_by_name(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("")
    with pytest.raises(ValueError, match=r"predictions\.csv is not a CSV table"):
        read_predictions(path)
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        read_predictions(tmp_path / "elsewhere.csv")


def test_bad_frames_are_not_written(path, rows, logits):
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"logits must have shape \(4, 3\)"):
        predictions_frame(rows, logits[:3])
    with pytest.raises(ValueError, match="columns missing: center"):
        predictions_frame(rows.drop(columns="center"), logits)
    with pytest.raises(ValueError, match="unknown part"):
        write_predictions(path, predictions_frame(rows, logits).assign(part="train"))
    with pytest.raises(ValueError, match="NaN"):
        predictions_frame(rows, np.full((4, 3), np.nan))
    assert path.read_bytes() == before


GOOD = [[0.8, 0.1, 0.1], [0.1, 0.7, 0.2]]


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        ([0, 3], GOOD, r"labels must be 0 to 2 .* found 3"),
        ([-1, 0], GOOD, r"labels must be 0 to 2 .* found -1"),
        ([0, 0.5], GOOD, "whole numbers"),
        ([0, np.nan], GOOD, "whole numbers"),
        (["a", "b"], GOOD, "whole numbers"),
        ([0], GOOD, r"shape \(1, 3\).*found \(2, 3\)"),
        ([0, 1], [[0.5, 0.5], [0.5, 0.5]], r"shape \(2, 3\)"),
        ([], np.empty((0, 3)), "n ≥ 1"),
        ([[0, 1]], GOOD, r"shape \(n,\)"),
        ([0, 1], [[0.8, 0.1, np.nan], GOOD[1]], "finite: 1 of 2 rows"),
        ([0, 1], [GOOD[0], [2.0, -1.0, 0.0]], "not the logits"),
        ([0, 1], [GOOD[0], [0.5, 0.1, 0.1]], r"sum to 1 .* row 1 is \[0\.5 0\.1 0\.1\]"),
    ],
)
def test_bad_predictions_are_refused(y, p, message):
    with pytest.raises(ValueError, match=message):
        check_predictions(y, p)
