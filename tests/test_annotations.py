import json

import numpy as np
import pytest

from btxrd.data import Preprocessing, lesion_mask, read_annotation
from btxrd.data.table import read_table


def labelme(tmp_path, *shapes, size=(60, 40)):
    content = {
        "imageWidth": size[0],
        "imageHeight": size[1],
        "shapes": [
            {"label": "osteosarcoma", "shape_type": kind, "points": points}
            for kind, points in shapes
        ],
    }
    path = tmp_path / "IMG000001.json"
    path.write_text(json.dumps(content))
    return path


TRIANGLE = ("polygon", [[10, 10], [30, 10], [10, 30]])
ITS_BOX = ("rectangle", [[8, 8], [33, 32]])
ELSEWHERE = ("rectangle", [[50, 38], [40, 20]])  # corners in any order


def test_the_mask_is_the_polygon_and_not_its_rectangle(tmp_path):
    mask = lesion_mask(labelme(tmp_path, ITS_BOX, TRIANGLE))
    assert mask.shape == (40, 60)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    assert int(mask.sum()) == pytest.approx(200, rel=0.06)
    assert mask[12, 12] == 1
    assert mask[28, 28] == 0


def test_a_rectangle_serves_only_where_its_lesion_has_no_polygon(tmp_path):
    mask = lesion_mask(labelme(tmp_path, ITS_BOX, TRIANGLE, ELSEWHERE))
    assert mask[28, 28] == 0
    assert mask[21:37, 41:49].all()


def test_two_lesions_each_with_both_shapes(tmp_path):
    other = [[x + 25, y + 5] for x, y in TRIANGLE[1]]
    other_box = [[33, 13], [58, 37]]
    path = labelme(tmp_path, ITS_BOX, TRIANGLE, ("rectangle", other_box), ("polygon", other))
    assert len(read_annotation(path).lesions()) == 2
    assert lesion_mask(path)[33, 53] == 0


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (("circle", [[1, 1], [2, 2]]), "circle"),
        (("polygon", [[1, 1], [2, 2]]), "not of at least three"),
        (("rectangle", [[1, 1]]), "not of two corners"),
    ],
)
def test_a_wrong_shape_is_named_with_its_file(tmp_path, shape, words):
    with pytest.raises(ValueError, match=rf"IMG000001\.json.*{words}"):
        lesion_mask(labelme(tmp_path, shape))


def test_a_file_that_is_no_annotation(tmp_path):
    path = tmp_path / "IMG000001.json"
    path.write_text('{"shapes": []}')
    with pytest.raises(ValueError, match=r"IMG000001\.json is not a LabelMe annotation"):
        lesion_mask(path)


@pytest.mark.parametrize("size", [(455, 809), (277, 821), (3001, 997), (64, 2000)])
@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_a_cached_mask_follows_the_polygon_within_a_pixel(tmp_path, size, resize):
    width, height = size
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    outline = np.stack(
        [width * (0.5 + 0.3 * np.cos(angles)), height * (0.4 + 0.2 * np.sin(angles))], axis=1
    )
    path = labelme(tmp_path, ("polygon", outline.tolist()), size=size)
    geometry = Preprocessing(224, resize=resize).geometry(width, height)
    mask = read_annotation(path).mask((224, 224), geometry.transform)
    rows, columns = np.nonzero(mask)
    mapped = outline @ geometry.transform[:, :2].T + geometry.transform[:, 2]
    for found, expected in ((columns, mapped[:, 0]), (rows, mapped[:, 1])):
        assert abs(found.min() - expected.min()) <= 1
        assert abs(found.max() + 1 - expected.max()) <= 1


def test_the_real_masks_have_the_published_sizes(real_sample):
    table = read_table(real_sample)
    shares = {}
    for path in sorted((real_sample / "Annotations").glob("*.json")):
        mask = lesion_mask(path)
        shares[path.stem] = mask.mean()
        assert len(read_annotation(path).lesions()) == 1
    assert set(shares) == set(table["image_id"][table["label"] > 0].str.removesuffix(".jpeg"))
    assert min(shares.values()) == pytest.approx(0.0005, abs=2e-4)
    assert max(shares.values()) == pytest.approx(0.062, abs=2e-3)
