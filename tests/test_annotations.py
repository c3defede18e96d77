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


FULL = ("rectangle", [[0, 0], [60, 40]])


@pytest.mark.parametrize("wide", [FULL[1], [[12, 8], [58, 39]]], ids=["held", "nearly"])
def test_a_wide_rectangle_round_a_polygon_is_no_lesion_of_its_own(tmp_path, wide):
    annotation = read_annotation(labelme(tmp_path, ("rectangle", wide), TRIANGLE))
    assert [lesion.shape_type for lesion in annotation.lesions()] == ["polygon"]
    np.testing.assert_array_equal(annotation.mask(), lesion_mask(labelme(tmp_path, TRIANGLE)))


def test_a_polygon_can_have_a_box_and_a_wide_rectangle(tmp_path):
    lesions = read_annotation(labelme(tmp_path, FULL, ITS_BOX, TRIANGLE, ELSEWHERE)).lesions()
    assert [lesion.points for lesion in lesions] == [
        [tuple(point) for point in points] for _, points in (TRIANGLE, ELSEWHERE)
    ]


def star(radius=15.0, turn=0.0):
    """Corners of a shape with dents, anticlockwise, in the middle of the image."""
    angles = turn + np.linspace(0, 2 * np.pi, 20, endpoint=False)
    radii = radius * np.where(np.arange(20) % 2, 0.7, 1.0)
    return np.stack([30 + radii * np.cos(angles), 20 + radii * np.sin(angles)], axis=1)


ONCE = star()
SECOND_LAPS = {
    "the same": ONCE,
    "closed between": np.concatenate([ONCE[:1], ONCE]),
    "begun elsewhere": np.roll(ONCE, 7, axis=0),
    "jittered": star(14.6, turn=0.03),
    "twice more": np.concatenate([ONCE, ONCE]),
}


@pytest.mark.parametrize("lap", SECOND_LAPS)
@pytest.mark.parametrize("turn", [1, -1], ids=["anticlockwise", "clockwise"])
def test_a_polygon_walked_more_than_once_is_its_area(tmp_path, lap, turn):
    once = lesion_mask(labelme(tmp_path, ("polygon", ONCE.tolist())))
    points = np.concatenate([ONCE, SECOND_LAPS[lap]])[::turn]
    mask = lesion_mask(labelme(tmp_path, ("polygon", points.tolist())))
    differ = np.count_nonzero(mask != once)
    assert differ <= (0 if lap in ("the same", "twice more") else 0.1 * once.sum())


def test_a_hole_that_a_bridge_leads_to_stays_one(tmp_path):
    outer = [[10, 5], [50, 5], [50, 35], [10, 35], [10, 5]]
    hole = [[20, 12], [20, 28], [40, 28], [40, 12], [20, 12]]
    mask = lesion_mask(labelme(tmp_path, ("polygon", outer + hole)))
    assert not mask[14:26, 22:38].any()
    assert mask[6:10, 11:49].all()


def test_two_loops_of_one_outline_are_both_of_its_area(tmp_path):
    eight = ("polygon", [[5, 5], [45, 35], [45, 5], [5, 30]])
    assert lesion_mask(labelme(tmp_path, eight))[18, [8, 40]].all()


def test_two_lesions_each_with_both_shapes(tmp_path):
    other = [[x + 25, y + 5] for x, y in TRIANGLE[1]]
    other_box = [[33, 13], [58, 37]]
    path = labelme(tmp_path, ITS_BOX, TRIANGLE, ("rectangle", other_box), ("polygon", other))
    assert len(read_annotation(path).lesions()) == 2
    assert lesion_mask(path)[33, 53] == 0


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
