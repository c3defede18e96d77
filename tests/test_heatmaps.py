"""heatmaps.js: the script hands over each map as a picture."""

import numpy as np
import pytest

from btxrd.extras.pages.heatmaps import OPACITY, write_heatmaps

MAPS = np.array([[[0, 1, 2], [3, 4, 5]], [[0, 0, 0], [0, 0, 0]]], np.float32)


def test_a_map_is_the_more_opaque_the_hotter_within_itself(tmp_path, read_heatmaps):
    path = tmp_path / "heatmaps.js"
    sources = {"network": MAPS, "attention": 7 + MAPS[:, :1] * 1e-3}
    write_heatmaps(path, ["a.jpeg", "b/ä.png"], sources, run="E1", why="")
    maps = read_heatmaps(path)
    assert list(maps) == ["network", "attention"]
    assert list(maps["network"]) == ["a.jpeg", "b/ä.png"]
    opacity = maps["network"]["a.jpeg"][..., 3]
    np.testing.assert_allclose(opacity, 255 * OPACITY * MAPS[0] / 5, atol=1)
    assert not maps["network"]["b/ä.png"][..., 3].any()  # an empty map hides nothing
    np.testing.assert_allclose(maps["attention"]["a.jpeg"][0, :, 3], [0, 76, 153], atol=1)


def test_as_many_maps_as_images_are_written_or_nothing(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        write_heatmaps(tmp_path / "heatmaps.js", ["a", "b"], {"network": MAPS[:1]})
    assert not (tmp_path / "heatmaps.js").exists()


def test_a_network_without_maps_says_why(tmp_path, read_heatmaps):
    write_heatmaps(tmp_path / "heatmaps.js", ["a.jpeg"], {}, why="a single place")
    assert read_heatmaps(tmp_path / "heatmaps.js") == {}
    assert "a single place" in (tmp_path / "heatmaps.js").read_text()
