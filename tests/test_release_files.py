"""Which images are the release's files: the real ones where they stand beside the clone."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from btxrd.data.release_files import (
    ALTERED,
    FOREIGN,
    MISSING,
    RELEASED,
    release_digests,
    release_files,
    release_findings,
    release_lines,
)
from btxrd.data.table import is_image_name


@pytest.fixture
def sample(real_sample, tmp_path) -> Path:
    """The twelve real images, to change."""
    return shutil.copytree(real_sample, tmp_path / "sample")


@pytest.fixture
def look_alike(phantom, tmp_path) -> Path:
    """Drawn images under the names of the release, with nothing that says they are drawn."""
    root = shutil.copytree(phantom, tmp_path / "data")
    (root / "phantom.json").unlink()
    return root


def states(root: Path) -> dict[str, list[str]]:
    files = release_files(root)
    names = files["file"].fillna(files["image"])
    return {state: found.tolist() for state, found in names.groupby(files["state"])}


@pytest.fixture
def check(btxrd):
    """Run `btxrd check`, which must end with a status; return its lines."""

    def run(*words: object, status: int = 0) -> list[str]:
        outcome = btxrd("check", *words)
        assert outcome.exit_code == status
        return outcome.stdout.splitlines()

    return run


def test_the_release_has_3746_images_and_21_pairs_of_equal_ones():
    contents = pd.Series({image: digest for image, (digest, _) in release_digests().items()})
    assert (len(contents), contents.index[-1]) == (3746, "IMG003746")
    assert contents.str.fullmatch("[0-9a-f]{16}").all()
    assert all(is_image_name(f"{image}.jpeg") for image in contents.index)
    assert contents.value_counts().value_counts().to_dict() == {1: 3704, 2: 21}
    assert sum(size for _, size in release_digests().values()) == 896_980_444


def test_every_original_is_known(real_sample):
    originals = sorted(path.name for path in (real_sample / "images").iterdir())
    found = states(real_sample)
    assert found[RELEASED] == originals
    assert len(found[MISSING]) == 3746 - len(originals)
    assert set(found) == {RELEASED, MISSING}
    assert release_findings(release_files(real_sample)).empty


def test_a_digest_of_the_project_is_that_of_the_whole_list(real_table):
    listed = pd.read_csv(real_table / "sha256.csv")
    facts = zip(listed["sha256"].str[:16], listed["bytes"], strict=True)
    images = [Path(name).stem for name in listed["file"]]
    assert release_digests() == dict(zip(images, facts, strict=True))


def test_every_change_has_its_state(sample):
    first, second, third, fourth, *others = sorted((sample / "images").iterdir())
    first.write_bytes(first.read_bytes()[:-1] + b"?")
    second.write_bytes(second.read_bytes() + b"\0")
    third.unlink()
    fourth.rename(fourth.with_suffix(".jpg" if fourth.suffix == ".jpeg" else ".jpeg"))
    shutil.copy(others[0], sample / "images" / "IMG003747.jpeg")
    shutil.copy(others[0], sample / "images" / "._IMG000001.jpeg")
    found = states(sample)
    assert found[ALTERED] == [first.name, second.name]
    assert third.stem in found[MISSING]
    assert found[FOREIGN] == ["IMG003747.jpeg"]
    assert {Path(name).stem for name in found[RELEASED]} == {p.stem for p in (fourth, *others)}


def test_a_few_altered_images_are_a_warning_each(sample, check):
    assert check(sample)[-1] == "0 errors, 0 warnings"
    changed = sorted((sample / "images").iterdir())[2]
    changed.write_bytes(changed.read_bytes() + b"\0")
    findings = release_findings(release_files(sample))
    assert findings[["severity", "subject", "image_id", "check"]].to_numpy().tolist() == [
        ["warning", f"images/{changed.name}", changed.name, "image-altered"]
    ]
    after = check(sample, status=1)
    assert after[-1] == "0 errors, 1 warnings"
    assert f"other bytes: {changed.name}" in after


def test_another_edition_is_said_without_a_warning_and_at_most_twenty_images_of_a_state_are_named(
    look_alike, check, tmp_path
):
    assert release_findings(release_files(look_alike)).empty
    lines = check(look_alike, "--files", tmp_path / "files.csv")
    assert lines[-1] == "0 errors, 0 warnings"
    assert any("120 have other bytes" in line for line in lines)
    (other,) = [line for line in lines if line.startswith("other bytes: ")]
    assert other.count("IMG") == 20
    assert other.endswith(" and 100 more")
    (missing,) = [line for line in lines if line.startswith("missing: ")]
    assert missing.endswith(" and 3,606 more")
    written = pd.read_csv(tmp_path / "files.csv")
    assert written.columns.tolist() == ["image", "file", "state"]
    assert written["state"].value_counts().to_dict() == {MISSING: 3626, ALTERED: 120}


def test_many_warnings_are_cut_short_and_counted(monkeypatch, look_alike, check):
    names = [f"IMG{number:06d}.jpeg" for number in range(1, 101)]
    files = pd.DataFrame({"image": [name[:9] for name in names], "file": names, "state": RELEASED})
    files.loc[:29, "state"] = ALTERED
    monkeypatch.setattr("btxrd.data.release_files.release_files", lambda *_, **__: files)
    lines = check(look_alike, status=1)
    assert sum(line.startswith("warning: images/IMG") for line in lines) == 20
    assert "and 10 more such images" in lines
    assert lines[-1] == "0 errors, 30 warnings"


@pytest.mark.parametrize("wrapper", ["", "BTXRD"])
def test_drawn_data_are_compared_with_nothing(phantom, tmp_path, check, wrapper):
    root = tmp_path / "data"
    shutil.copytree(phantom, root / wrapper)
    files = release_files(root)
    assert files.empty
    assert release_findings(files).empty
    assert [*release_lines(files)] == [line for line in release_lines(files) if "drawn" in line]
    *said, last = check(root)
    assert last == "0 errors, 0 warnings"
    assert "drawn" in "".join(said)


def test_fetch_says_which_images_are_as_released(sample, monkeypatch, btxrd):
    changed = sorted((sample / "images").iterdir())[2]
    changed.write_bytes(b"resized")
    monkeypatch.setattr("btxrd.runner.fetch.fetch", lambda root, _: root)
    lines = btxrd("fetch", sample).stdout.splitlines()
    assert any("11 are as released, 1 have other bytes" in line for line in lines)
    assert f"other bytes: {changed.name}" in lines
