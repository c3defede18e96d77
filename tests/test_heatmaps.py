"""heatmaps.js: the script hands over the maps as they were written."""

import numpy as np
import pytest

from btxrd.extras.pages.heatmaps import write_heatmaps

MAPS = np.array([[[0, 1, 2], [3, 4, 5]], [[0, 0, 0], [0, 0, 0]]], np.float32)


def test_maps_are_handed_over_by_image_and_source(tmp_path, read_heatmaps):
    path = tmp_path / "heatmaps.js"
    sources = {"network": MAPS, "attention": MAPS[:, :1] * 1e-9}
    write_heatmaps(path, ["a.jpeg", "b/ä.png"], sources, run="E1", why="")
    maps = read_heatmaps(path, "network")
    assert list(maps) == ["a.jpeg", "b/ä.png"]
    np.testing.assert_array_equal(maps["a.jpeg"], np.rint(MAPS[0] / 5 * 255))
    assert not maps["b/ä.png"].any()  # an empty map stays empty
    assert read_heatmaps(path, "attention")["a.jpeg"].tolist() == [[0, 128, 255]]


def test_as_many_maps_as_images_are_written_or_nothing(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        write_heatmaps(tmp_path / "heatmaps.js", ["a", "b"], {"network": MAPS[:1]})
    assert not (tmp_path / "heatmaps.js").exists()


def test_a_network_without_maps_says_why(tmp_path, read_heatmaps):
    write_heatmaps(tmp_path / "heatmaps.js", ["a.jpeg"], {}, why="a single place")
    assert read_heatmaps(tmp_path / "heatmaps.js", "network") == {}
    assert "a single place" in (tmp_path / "heatmaps.js").read_text()
