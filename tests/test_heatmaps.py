"""heatmaps.js: maps come back as they were written, and what is no such file says so."""

import numpy as np
import pytest

from btxrd.extras.pages.heatmaps import read_heatmaps, write_heatmaps

MAPS = np.array([[[0, 1, 2], [3, 4, 5]], [[0, 0, 0], [0, 0, 0]]], np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "heatmaps.js"


def test_maps_come_back_by_image_and_source(path):
    sources = {"network": MAPS, "attention": MAPS[:, :1] * 1e-9}
    write_heatmaps(path, ["a.jpeg", "b/ä.png"], sources, run="E1", why="")
    maps = read_heatmaps(path)
    assert list(maps) == ["a.jpeg", "b/ä.png"]
    assert maps["a.jpeg"].dtype == np.uint8
    np.testing.assert_array_equal(maps["a.jpeg"], np.rint(MAPS[0] / 5 * 255))
    assert not maps["b/ä.png"].any()  # an empty map stays empty
    assert read_heatmaps(path, "attention")["a.jpeg"].tolist() == [[0, 128, 255]]


def test_a_network_without_maps_has_none(path):
    write_heatmaps(path, ["a.jpeg"], {}, why="its feature map is a single place")
    assert read_heatmaps(path) == {}
    assert "single place" in path.read_text()


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        (MAPS[:1], r"network: maps must be \(2, h, w\), found \(1, 2, 3\)"),
        (MAPS[0], r"must be \(2, h, w\), found \(2, 3\)"),
        (MAPS - 1, "0 or more everywhere"),
        (MAPS * np.nan, "0 or more everywhere"),
    ],
)
def test_maps_of_the_wrong_form_are_refused(path, maps, words):
    with pytest.raises(ValueError, match=words):
        write_heatmaps(path, ["a", "b"], {"network": maps})
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "alert(1);", "btxrdHeatmaps([1]);", "btxrdHeatmaps({});"])
def test_another_file_is_named(path, text):
    path.write_text(text)
    with pytest.raises(ValueError, match=r"heatmaps\.js holds no heat maps as notebook 05"):
        read_heatmaps(path)


def test_what_is_not_there_is_named(path):
    with pytest.raises(FileNotFoundError, match=r"heatmaps\.js: notebook 05 writes them"):
        read_heatmaps(path)
    write_heatmaps(path, ["a", "b"], {"network": MAPS})
    with pytest.raises(ValueError, match="no maps of 'attention'; it has network"):
        read_heatmaps(path, "attention")
