import json

import pytest

from btxrd.files import atomic_path, read_yaml, write_json


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


@pytest.mark.parametrize(("text", "word"), [("a: [", "not valid YAML"), ("- a", "list")])
def test_a_wrong_parameter_file_is_named(tmp_path, text, word):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"study.yaml.*{word}"):
        read_yaml(path)
