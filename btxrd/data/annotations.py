"""LabelMe annotations and the lesion masks that follow from them."""

import codecs
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

__all__ = [
    "Annotation",
    "Shape",
    "annotation_file",
    "inspect_annotation",
    "read_annotation",
]

SAME_LESION_IOU = 0.3
"""A rectangle and a polygon whose bounding boxes overlap this much outline one lesion.

The release's rectangles enclose their polygons with a few pixels to spare: the least IoU in the
12 published examples is 0.74, between different lesions it is near 0.
"""

HELD = 0.8
"""A rectangle holds a polygon if this share of the polygon's bounding box lies within it."""

TOLERANCE = 2.0
"""Pixels by which a point may leave the image before its annotation is refused."""

LEAST_AREA = 1e-3
"""The least area of a polygon in square pixels."""

SUPERSAMPLING = 4
SUBPIXEL_BITS = 4

Pixels = Annotated[int, Field(gt=0, lt=2**31)]
Coordinate = Annotated[float, Field(gt=-(2**31), lt=2**31)]


class Shape(BaseModel):
    """One outline as LabelMe writes it: a polygon, or a rectangle by two opposite corners.

    `label` is the lesion's subtype; `points` are x, y in pixels.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    label: str
    shape_type: Literal["polygon", "rectangle"]
    points: list[tuple[Coordinate, Coordinate]]

    @model_validator(mode="after")
    def _is_an_outline(self) -> Self:
        if self.shape_type == "rectangle":
            if len(self.points) != 2:
                raise ValueError(f"a rectangle of {len(self.points)} points, not of two corners")
        elif len(self.points) < 3:
            raise ValueError(f"a polygon of {len(self.points)} points, not of at least three")
        elif cv2.contourArea((self.outline - self.points[0]).astype(np.float32)) < LEAST_AREA:
            raise ValueError("a polygon that encloses no area")
        return self

    @property
    def outline(self) -> np.ndarray:
        """float64 (points, 2): x, y in pixels; the four corners of a rectangle."""
        if self.shape_type == "polygon":
            return np.array(self.points)
        (left, top), (right, bottom) = np.min(self.points, axis=0), np.max(self.points, axis=0)
        return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


class Annotation(BaseModel):
    """The lesions of one radiograph, as LabelMe writes them: what a valid annotation is.

    `width` and `height` are the image's in pixels; a lesion can have a rectangle and a polygon.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    width: Pixels = Field(alias="imageWidth")
    height: Pixels = Field(alias="imageHeight")
    shapes: list[Shape]

    @model_validator(mode="after")
    def _lies_in_the_image(self) -> Self:
        size = self.width, self.height
        outlines = [shape.outline for shape in self.shapes]
        overhangs = [np.max([-points, points - size], initial=0) for points in outlines]
        far = [(number, by) for number, by in enumerate(overhangs) if by > TOLERANCE]
        if far:
            where = ", ".join(f"shape {number} by {by:.1f} px" for number, by in far)
            raise ValueError(f"points leave the {self.width} × {self.height} px image: {where}")
        return self

    def lesions(self) -> list[Shape]:
        """Return one shape a lesion: its polygon, or its rectangle where it has no polygon.

        A polygon and a rectangle of enough overlap belong together, the pairs of the greatest
        overlap first and each shape in one pair. A rectangle in no pair that holds a polygon is
        its box, too.
        """
        polygons = [shape for shape in self.shapes if shape.shape_type == "polygon"]
        rectangles = [shape for shape in self.shapes if shape.shape_type == "rectangle"]
        free = np.array([[_box_iou(b.outline, p.outline) for p in polygons] for b in rectangles])
        paired = set()
        while free.size and free.max() >= SAME_LESION_IOU:
            rectangle, polygon = np.unravel_index(free.argmax(), free.shape)
            free[rectangle], free[:, polygon] = 0, 0
            paired.add(rectangle)
        return polygons + [
            box
            for number, box in enumerate(rectangles)
            if number not in paired and not any(_holds(box.outline, p.outline) for p in polygons)
        ]

    def mask(
        self, size: tuple[int, int] | None = None, transform: np.ndarray | None = None
    ) -> np.ndarray:
        """Rasterise the union of the lesions: uint8 {0, 1}, (height, width).

        Args:
            size: width and height in pixels; the image's own by default.
            transform: float (2, 3), from the image's pixel-edge coordinates to the mask's.
        """
        width, height = size or (self.width, self.height)
        transform = np.eye(2, 3) if transform is None else transform
        mask = np.zeros((height, width), np.uint8)
        for lesion in self.lesions():
            _fill(mask, lesion.outline @ transform[:, :2].T + transform[:, 2])
        return mask


def _fill(mask: np.ndarray, outline: np.ndarray) -> None:
    """Set the pixels of `mask` that a polygon covers by half or more.

    OpenCV's own filling counts every pixel that the outline touches (14 % too many at a radius of
    eight pixels), so it fills a grid four times as fine here. It also leaves out what an outline
    goes round an even number of times; that is filled after it.
    """
    limits = np.array(mask.shape[::-1])
    low = np.clip(np.floor(outline.min(axis=0)).astype(int), 0, limits)
    high = np.clip(np.ceil(outline.max(axis=0)).astype(int), low, limits)
    width, height = high - low
    if width == 0 or height == 0:
        return
    fine = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    # An edge coordinate of 0.5 is the centre of pixel 0, which OpenCV calls 0.
    points = (outline - low) * SUPERSAMPLING - 0.5
    corners = np.rint(points * 2**SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(fine, [corners], 255, shift=SUBPIXEL_BITS)
    winding = _winding(corners / 2**SUBPIXEL_BITS, fine.shape)
    fine[(winding != 0) & (winding % 2 == 0)] = 255
    coverage = cv2.resize(fine, (int(width), int(height)), interpolation=cv2.INTER_AREA)
    mask[low[1] : high[1], low[0] : high[0]] |= coverage >= 128


def _winding(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return how often a closed outline, float (n, 2), goes round each point of a grid: int8."""
    height, width = shape
    turns = np.zeros((height, width + 1), np.int8)
    for (x, y), (next_x, next_y) in zip(points, np.roll(points, -1, axis=0), strict=True):
        low, high = sorted((y, next_y))
        rows = np.arange(max(math.ceil(low), 0), min(math.ceil(high), height))
        if rows.size:
            crossings = x + (rows - y) * ((next_x - x) / (next_y - y))
            columns = np.clip(np.ceil(crossings), 0, width).astype(int)
            turns[rows, columns] += 1 if next_y > y else -1
    return turns.cumsum(axis=1, dtype=np.int8)[:, :width]


def _common_area(first: np.ndarray, second: np.ndarray) -> float:
    inner = np.minimum(first.max(0), second.max(0)) - np.maximum(first.min(0), second.min(0))
    return float(np.prod(np.clip(inner, 0, None)))


def _holds(box: np.ndarray, outline: np.ndarray) -> bool:
    return _common_area(box, outline) >= HELD * np.prod(np.ptp(outline, axis=0))


def _box_iou(first: np.ndarray, second: np.ndarray) -> float:
    intersection = _common_area(first, second)
    union = np.prod(np.ptp(first, axis=0)) + np.prod(np.ptp(second, axis=0)) - intersection
    return float(intersection / union) if union > 0 else 0.0


def annotation_file(image_path: str | Path) -> Path:
    """Return where the annotation of an image stands: `Annotations/` beside its `images/`.

    >>> annotation_file("BTXRD/images/IMG000001.jpeg").as_posix()
    'BTXRD/Annotations/IMG000001.json'
    """
    image_path = Path(image_path)
    return image_path.parent.parent / "Annotations" / f"{image_path.stem}.json"


def read_annotation(path: str | Path) -> Annotation:
    """Read a LabelMe file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: names the file and its first fault.
    """
    annotation, faults = inspect_annotation(path)
    if annotation is None:
        raise ValueError(f"{path} is not a LabelMe annotation: {faults[0]}")
    return annotation


def inspect_annotation(path: str | Path) -> tuple[Annotation | None, list[str]]:
    """Read a LabelMe file; return it, or None where it is unusable, and what is wrong, in words.

    Raises:
        OSError: the file cannot be opened.
    """
    content = Path(path).read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        return Annotation.model_validate_json(content), []
    except ValidationError as error:
        return None, [_in_words(fault) for fault in error.errors()]


def _in_words(fault: Mapping[str, Any]) -> str:
    where = ".".join(map(str, fault["loc"]))
    what = fault["msg"].removeprefix("Value error, ")
    if fault["type"] not in ("json_invalid", "missing", "value_error"):
        what += f"; it is {fault['input']!r:.40}"
    return f"{where}: {what}" if where else what
