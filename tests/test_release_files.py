"""Which images are the release's files: the real ones where they stand beside the clone."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

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
from btxrd.runner.cli import main


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


def check(*words: object) -> Result:
    return CliRunner().invoke(main, ["check", *map(str, words)])


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


def test_a_few_altered_images_are_a_warning_each(sample):
    before = check(sample)
    assert (before.exit_code, before.stdout.splitlines()[-1]) == (0, "0 errors, 0 warnings")
    changed = sorted((sample / "images").iterdir())[2]
    changed.write_bytes(changed.read_bytes() + b"\0")
    findings = release_findings(release_files(sample))
    assert findings[["severity", "subject", "image_id", "check"]].to_numpy().tolist() == [
        ["warning", f"images/{changed.name}", changed.name, "image-altered"]
    ]
    after = check(sample)
    assert (after.exit_code, after.stdout.splitlines()[-1]) == (1, "0 errors, 1 warnings")
    assert f"other bytes: {changed.name}" in after.stdout.splitlines()


def test_another_edition_of_the_release_is_said_without_a_warning(look_alike):
    assert release_findings(release_files(look_alike)).empty
    outcome = check(look_alike)
    assert (outcome.exit_code, outcome.stdout.splitlines()[-1]) == (0, "0 errors, 0 warnings")
    assert "120 have other bytes" in outcome.stdout


def test_at_most_twenty_images_of_a_state_are_named(look_alike, tmp_path):
    lines = check(look_alike, "--files", tmp_path / "files.csv").stdout.splitlines()
    (other,) = [line for line in lines if line.startswith("other bytes: ")]
    assert other.count("IMG") == 20
    assert other.endswith(" and 100 more")
    (missing,) = [line for line in lines if line.startswith("missing: ")]
    assert missing.endswith(" and 3,606 more")
    written = pd.read_csv(tmp_path / "files.csv")
    assert written.columns.tolist() == ["image", "file", "state"]
    assert written["state"].value_counts().to_dict() == {MISSING: 3626, ALTERED: 120}


def test_many_warnings_are_cut_short_and_counted(monkeypatch, look_alike):
    names = [f"IMG{number:06d}.jpeg" for number in range(1, 101)]
    files = pd.DataFrame({"image": [name[:9] for name in names], "file": names, "state": RELEASED})
    files.loc[:29, "state"] = ALTERED
    monkeypatch.setattr("btxrd.data.release_files.release_files", lambda *_, **__: files)
    lines = check(look_alike).stdout.splitlines()
    assert sum(line.startswith("warning: images/IMG") for line in lines) == 20
    assert "and 10 more such images" in lines
    assert lines[-1] == "0 errors, 30 warnings"


@pytest.mark.parametrize("wrapper", ["", "BTXRD"])
def test_drawn_data_are_compared_with_nothing(phantom, tmp_path, wrapper):
    root = shutil.copytree(phantom, tmp_path / "data" / wrapper) and tmp_path / "data"
    files = release_files(root)
    assert files.empty
    assert release_findings(files).empty
    assert [*release_lines(files)] == [line for line in release_lines(files) if "drawn" in line]
    outcome = check(root)
    assert (outcome.exit_code, outcome.stdout.splitlines()[-1]) == (0, "0 errors, 0 warnings")
    assert "drawn" in outcome.stdout


def test_fetch_says_which_images_are_as_released(sample, monkeypatch):
    changed = sorted((sample / "images").iterdir())[2]
    changed.write_bytes(b"resized")
    monkeypatch.setattr("btxrd.runner.fetch.fetch", lambda root, _: root)
    lines = CliRunner().invoke(main, ["fetch", str(sample)]).stdout.splitlines()
    assert any("11 are as released, 1 have other bytes" in line for line in lines)
    assert f"other bytes: {changed.name}" in lines
