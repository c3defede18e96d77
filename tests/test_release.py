import shutil
from pathlib import Path

import pandas as pd
import pytest

from btxrd.data import Preprocessing, open_release, read_table, release
from btxrd.data.release import usable_table


@pytest.fixture
def damaged(phantom, tmp_path) -> Path:
    """A copy of the phantom with one truncated image, and one cut out in the middle."""
    root = tmp_path / "data"
    shutil.copytree(phantom, root)
    truncated = root / "images" / "IMG000003.jpeg"
    truncated.write_bytes(truncated.read_bytes()[:2000])
    return root


def open_small(root: Path):
    return open_release(root, Preprocessing(64), root.parent / "cache", progress=False)


def test_a_clean_data_set_is_taken_whole(phantom, table):
    release = open_small(phantom)
    assert release.table.equals(table)
    assert release.findings.empty


def test_bad_rows_are_set_aside_and_named_also_where_only_decoding_finds_them(damaged):
    path = damaged / "images" / "IMG000005.jpeg"
    content = path.read_bytes()
    # A JPEG's beginning and end, and rubbish between them.
    path.write_bytes(content[:160] + b"\x11" * 400 + content[-40:])
    release = open_small(damaged)
    bad = ["IMG000003.jpeg", "IMG000005.jpeg"]
    assert set(read_table(damaged)["image_id"]) - set(release.table["image_id"]) == set(bad)
    assert release.table.index.tolist() == list(range(118))
    assert set(release.findings["severity"]) == {"error"}
    checks = release.findings.set_index("image_id")["check"]
    assert checks[bad].tolist() == ["image-truncated", "image-undecodable"]


def test_a_study_refuses_when_more_than_two_percent_are_bad(damaged):
    for number in range(10, 13):
        (damaged / "images" / f"IMG{number:06d}.jpeg").unlink()
    with pytest.raises(ValueError, match=r"4 of 120 images.*at most 2%.*btxrd check"):
        open_small(damaged)


def test_a_release_of_bad_rows_only_is_not_called_empty(damaged):
    for path in (damaged / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="120 of 120 images"):
        open_small(damaged)


def test_nothing_is_inspected_again_until_a_file_changes(phantom, tmp_path, monkeypatch):
    root = tmp_path / "data"
    shutil.copytree(phantom, root)
    first = usable_table(root, tmp_path / "cache")
    monkeypatch.setattr(release, "audit", lambda root: pytest.fail("inspected again"))
    again = usable_table(root, tmp_path / "cache")
    for before, after in zip(first, again, strict=True):
        pd.testing.assert_frame_equal(before, after)
    (root / "images" / "IMG000003.jpeg").touch()
    with pytest.raises(pytest.fail.Exception, match="inspected again"):
        usable_table(root, tmp_path / "cache")
