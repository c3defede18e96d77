import pandas as pd
import pytest

from btxrd.data import read_table
from btxrd.data.table import RELEASE_COLUMNS


@pytest.fixture
def release(tmp_path, table) -> pd.DataFrame:
    return table[list(RELEASE_COLUMNS)].head(20).copy()


def read(tmp_path, frame: pd.DataFrame) -> pd.DataFrame:
    frame.to_csv(tmp_path / "dataset.csv", index=False)
    return read_table(tmp_path)


def test_the_release_has_37_columns(table):
    assert len(RELEASE_COLUMNS) == 37
    assert list(table.columns) == [*RELEASE_COLUMNS, "label", "path"]


def test_malignant_wins_over_benign(tmp_path, release):
    release["malignant"], release["benign"] = [1, 1, 0, 0] * 5, [1, 0, 1, 0] * 5
    assert read(tmp_path, release)["label"].tolist() == [2, 2, 1, 0] * 5


def test_the_archive_may_be_wrapped_in_its_folder(tmp_path, release):
    (tmp_path / "BTXRD").mkdir()
    table = read(tmp_path / "BTXRD", release)
    assert read_table(tmp_path).equals(table)
    assert table["path"][0] == str(tmp_path / "BTXRD" / "images" / release["image_id"][0])


def test_a_file_with_the_other_ending_is_found(tmp_path, release):
    (tmp_path / "images").mkdir()
    name = release["image_id"][0].replace(".jpeg", ".jpg")
    (tmp_path / "images" / name).touch()
    assert read(tmp_path, release)["path"][0].endswith(name)


def test_no_table(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dataset\.xlsx or dataset\.csv"):
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: t.drop(columns="hip bone"), r"dataset\.csv: it lacks.*hip bone"),
        (lambda t: t.assign(age=t["age"].where(t.index != 3)), r"dataset\.csv row 5: age is empty"),
        (lambda t: pd.concat([t, t.head(1)]), "row 2: IMG000001 stands in rows 2, 22"),
        (lambda t: t.assign(femur=2), "row 2: femur is 2, not 0 or 1"),
    ],
)
def test_a_damaged_table_is_refused_with_what_is_wrong(tmp_path, release, damage, words):
    with pytest.raises(ValueError, match=words):
        read(tmp_path, damage(release))


def test_the_real_table_has_the_published_counts(real_table):
    counts = pd.crosstab(*(read_table(real_table)[c] for c in ("center", "label")))
    assert counts.to_numpy().tolist() == [[1593, 1110, 235], [259, 214, 76], [27, 201, 31]]
