import json

import pandas as pd
import pytest

from btxrd.files import atomic_path, read_csv, read_yaml, write_csv, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "metrics.json"
    target.write_text("old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_nan_is_written_as_null(tmp_path):
    write_json(tmp_path / "x.json", {"auc": float("nan"), "list": [1, float("nan")]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"auc": None, "list": [1, None]}


NAMES = ["000001", "1e5", "NA", "None", "nan", "True", "", "1234567890123456"]


@pytest.mark.parametrize("name", NAMES)
def test_identifiers_of_a_table_are_read_as_they_were_written(tmp_path, name):
    written = pd.DataFrame({"image_id": [name], "group": [name], "digest": [name], "n": [1]})
    write_csv(tmp_path / "x.csv", written)
    read = read_csv(tmp_path / "x.csv")
    for column in ("image_id", "group", "digest"):
        assert read[column].fillna("").tolist() == [name]
    assert read["n"].dtype == "int64"


def test_a_column_of_a_table_is_read_as_it_is_asked_for(tmp_path):
    (tmp_path / "x.csv").write_text("group,distance\n12,\n12,3\n")
    read = read_csv(tmp_path / "x.csv", group="int64")
    assert read["group"].tolist() == [12, 12]
    assert read["distance"].isna().tolist() == [True, False]


@pytest.mark.parametrize(("text", "word"), [("a: [", "not valid YAML"), ("- a", "list")])
def test_a_wrong_parameter_file_is_named(tmp_path, text, word):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"study.yaml.*{word}"):
        read_yaml(path)
