"""The one preprocessing of every stage: decode in grayscale, CLAHE, fit into a square."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

import cv2
import numpy as np

from btxrd.data.radiograph import REDUCTIONS, Radiograph, read_radiograph

__all__ = ["Geometry", "Preprocessing"]

CLAHE_CLIP_LIMIT = 2.0
CLAHE_TILES = (8, 8)


@dataclass(frozen=True)
class Geometry:
    """The place of an image in the square, in pixels of the square.

    `transform`, float64 (2, 3), takes pixel-edge coordinates x, y of the image to the square's.
    """

    width: int
    height: int
    left: int
    top: int
    transform: np.ndarray


@dataclass(frozen=True)
class Preprocessing:
    """The settings by which every stage prepares an image for a network.

    Attributes:
        image_size: side of the square in pixels.
        contrast: `clahe` (Zuiderveld 1994; clip limit 2, 8 × 8 tiles) or `none`.
        resize: `letterbox` keeps the aspect ratio and pads with black, `stretch` does neither.

    >>> Preprocessing(224).geometry(100, 200).transform.tolist()
    [[1.12, 0.0, 56.0], [0.0, 1.12, 0.0]]
    """

    image_size: int = 224
    contrast: Literal["clahe", "none"] = "clahe"
    resize: Literal["letterbox", "stretch"] = "letterbox"

    @classmethod
    def from_config(cls, config: dict) -> Self:
        """Build from a checkpoint's `config`, whose section `data` records the preprocessing."""
        data = config["data"]
        return cls(data["image_size"], data["contrast"], data["resize"])

    def settings(self) -> dict:
        """Return everything that decides the pixels, for the cache's key."""
        return {**asdict(self), "clip_limit": CLAHE_CLIP_LIMIT, "tiles": list(CLAHE_TILES)}

    def geometry(self, width: int, height: int) -> Geometry:
        """Return where an image of `width` × `height` pixels lies in the square."""
        inner_width = inner_height = side = self.image_size
        if self.resize == "letterbox":
            scale = side / max(width, height)
            inner_width = max(1, round(width * scale))
            inner_height = max(1, round(height * scale))
        left, top = (side - inner_width) // 2, (side - inner_height) // 2
        transform = np.array([[inner_width / width, 0, left], [0, inner_height / height, top]])
        return Geometry(inner_width, inner_height, left, top, transform)

    def read(self, path: str | Path) -> np.ndarray:
        """Decode and fit an image file: uint8 (image_size, image_size). Raises as `decode` does."""
        return self.fit(self.decode(path))

    def decode(self, path: str | Path) -> Radiograph:
        """Decode at the least size that the square needs; raises as `read_radiograph` does."""
        return read_radiograph(path, self.reduction)

    def reduction(self, width: int, height: int) -> int:
        """Return the largest n so that 1/n of an image is no smaller than its place in the square.

        >>> Preprocessing(224).reduction(1000, 500), Preprocessing(224).reduction(200, 100)
        (4, 1)
        """
        inner = self.geometry(width, height)
        spare = max(1.0, min(width / inner.width, height / inner.height))
        return max(n for n in REDUCTIONS if n <= spare)

    def fit(self, radiograph: Radiograph) -> np.ndarray:
        """Equalise the contrast and fit into the square: uint8 (image_size, image_size)."""
        pixels = radiograph.pixels
        if self.contrast == "clahe":
            pixels = cv2.createCLAHE(CLAHE_CLIP_LIMIT, CLAHE_TILES).apply(pixels)
        # From the header's size: scaled decoding rounds odd ones.
        inner = self.geometry(radiograph.width, radiograph.height)
        method = cv2.INTER_AREA if inner.width <= pixels.shape[1] else cv2.INTER_LINEAR
        square = np.zeros((self.image_size, self.image_size), np.uint8)
        rows = slice(inner.top, inner.top + inner.height)
        columns = slice(inner.left, inner.left + inner.width)
        square[rows, columns] = cv2.resize(pixels, (inner.width, inner.height), None, 0, 0, method)
        return square
