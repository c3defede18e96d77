"""A table that lists images: what of its cells is the same, what is text, and what is refused."""

import os
from pathlib import Path

import pandas as pd
import pytest

from btxrd.data.listing import read_listing


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three files of different bytes; nothing decodes them here."""
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_text(f"the bytes of {name}")
    return tmp_path


@pytest.fixture
def read(folder):
    """Write the rows of a CSV under its header; return the listing's table and notes."""

    def read(*rows: str, header: str = "path,label", name: str = "cases.csv"):
        (folder / name).write_text("\n".join([header, *rows]) + "\n")
        return read_listing(folder / name, folder / "cache")

    return read


def refused(read, *rows: str, **options) -> list[str]:
    with pytest.raises(ValueError, match=r"cases\.csv") as caught:
        read(*rows, **options)
    return [line.partition("cases.csv")[2].lstrip(": ") for line in str(caught.value).splitlines()]


def other_name(folder: Path, kind: str) -> str:
    """Give `a.png` one more name."""
    match kind:
        case "link":
            (folder / "other.png").symlink_to("a.png")
        case "hard link":
            os.link(folder / "a.png", folder / "other.png")
        case "copy":
            (folder / "other.png").write_bytes((folder / "a.png").read_bytes())
        case "through a folder":
            (folder / "sub").mkdir()
            return "sub/../a.png"
        case "whole":
            return str(folder / "a.png")
        case _:
            return kind
    return "other.png"


@pytest.mark.parametrize(
    "kind",
    ["a.png", "./a.png", " a.png ", "through a folder", "whole", "link", "hard link", "copy"],
)
def test_the_same_image_counts_once_and_is_said_or_has_two_labels_which_is_an_error(
    read, folder, kind
):
    name = other_name(folder, kind)
    table, notes = read("a.png,1", "b.png,0", f"{name},Benign")
    assert table["image_id"].tolist() == ["a.png", "b.png"]
    assert table.index.tolist() == [0, 1]
    assert len(notes) == 1
    assert "2 (not 4)" in notes[0]
    (fault,) = refused(read, "a.png,1", "b.png,0", f"{name},0")
    assert fault.startswith(f"row 4: {name.strip()} is Normal")
    assert fault.endswith("Benign in row 2 (a.png)")


def test_conflicts_are_said_with_all_other_faults(read):
    faults = refused(read, "a.png,1", "a.png,2", "gone.png,x", "c.png,3")
    assert [fault[:6] for fault in faults] == ["row 3:", "row 4:", "row 4:", "row 5:"]


def test_different_images_are_not_joined(read):
    table, notes = read("a.png,1", "b.png,1", "c.png,1")
    assert len(table) == table["group"].nunique() == 3
    assert notes == []


def test_the_groups_of_one_image_are_one_patient(read, folder):
    other_name(folder, "copy")
    table, notes = read(
        "a.png,1,P1,Ulm",
        "other.png,1,P2,Bern",
        "b.png,0,P2,Bern",
        "c.png,0,P3,Bern",
        header="path,label,group,center",
    )
    assert table[["image_id", "group", "center"]].to_numpy().tolist() == [
        ["a.png", "P1", "Ulm"],
        ["b.png", "P1", "Bern"],
        ["c.png", "P3", "Bern"],
    ]
    assert "P1 and P2" in notes[1]


def test_an_image_without_a_group_joins_that_of_its_other_row(read):
    table, notes = read("a.png,1,", "a.png,1,P1", "b.png,1,P1", header="path,label,group")
    assert len(set(table["group"])) == 1
    assert len(notes) == 1


def test_groups_and_centers_are_trimmed_and_only_an_empty_cell_is_empty(read, folder):
    groups = ["P1", "P1 ", "\u00a0P1", "NA", "None", "nan", "007", "7", "1e5", "100000", "", " "]
    for name in groups:
        (folder / f"{name!r}.png").write_text(f"{name!r}")
    rows = [f"{name!r}.png,0,{name},{name}" for name in groups]
    table, _ = read(*rows, header="path,label,group,center")
    known = ["P1", "P1", "P1", "NA", "None", "nan", "007", "7", "1e5", "100000"]
    assert table["group"].tolist() == [*known, "row 12", "row 13"]
    assert table["center"].tolist() == [*known, "not said", "not said"]


def test_an_accent_that_is_written_in_two_ways_is_one_patient(read):
    rows = ["a.png,0,Ren\u00e9", "b.png,0,Rene\u0301"]
    assert len(set(read(*rows, header="path,label,group")[0]["group"])) == 1


def test_a_path_that_looks_like_a_number_or_nothing_is_found(read, folder):
    names = ["000001", "1e5", "NA", "None", "True"]
    for name in names:
        (folder / name).write_text(f"the bytes of {name}")
    table, _ = read(*(f"{name},2" for name in names))
    assert table["image_id"].tolist() == names
    assert table["path"].tolist() == [str(folder / name) for name in names]


def test_headers_may_have_capitals_and_blanks_and_endings_too(read):
    table, _ = read("a.png,1,40,x", header=" Path,LABEL ,Age, My column", name="CASES.CSV")
    assert table[["image_id", "label", "age"]].to_numpy().tolist() == [["a.png", 1, 40]]
    assert table["My column"].tolist() == ["x"]
    assert table["center"].tolist() == ["CASES"]


@pytest.mark.parametrize("header", ["path,label,Path", "path,label, path", "path,label,path"])
def test_two_columns_of_one_name_are_refused_by_name(read, header):
    (fault,) = refused(read, "a.png,1,b.png", header=header)
    assert "path" in fault
    assert repr(header.split(",")[2]) in fault


def test_an_age_of_na_is_an_error_that_names_row_and_cell(read):
    (fault,) = refused(read, "a.png,1,40", "b.png,1,NA", header="path,label,age")
    assert fault.startswith("row 3: age is 'NA'")


@pytest.fixture
def excel(folder):
    def read(**columns):
        pd.DataFrame(columns).to_excel(folder / "cases.xlsx", index=False)
        return read_listing(folder / "cases.xlsx", folder / "cache")

    return read


def test_number_cells_of_excel_are_the_text_that_a_person_sees(excel, folder):
    for name in ("1", "2.5", "000003"):
        (folder / name).write_text(name)
    groups = [7.0, "7", "NA"]
    table, _ = excel(path=[1, 2.5, "000003"], label=[0, 1.0, "Malignant"], group=groups)
    assert table["image_id"].tolist() == ["1", "2.5", "000003"]
    assert table["group"].tolist() == ["7", "7", "NA"]
    assert table["label"].tolist() == [0, 1, 2]


def test_a_number_of_excel_that_names_no_file_says_how_to_keep_its_zeros(excel, folder):
    (folder / "000001").write_text("bytes")
    with pytest.raises(ValueError, match=r"row 2: there is no file .*/1; .*format .* as text"):
        excel(path=[1], label=[0])
    with pytest.raises(ValueError, match=r"there is no file .*/1\.png$"):
        excel(path=["1.png"], label=[0])


def test_an_empty_row_of_excel_is_left_out_and_rows_keep_their_numbers(excel):
    with pytest.raises(ValueError, match="row 4: label is 'x'"):
        excel(path=["a.png", None, "b.png"], label=[0, None, "x"])
