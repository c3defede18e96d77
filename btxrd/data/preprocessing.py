"""The one preprocessing of every stage: decode in grayscale, CLAHE, fit into a square."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

import cv2
import numpy as np
from PIL import ExifTags, Image

from btxrd.data.dicom import is_dicom, read_dicom

__all__ = ["Geometry", "Preprocessing", "Radiograph", "displayed_size"]

CLAHE_CLIP_LIMIT = 2.0
CLAHE_TILES = (8, 8)

REDUCED_DECODING = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
"""OpenCV's JPEG decoding at 1/n of the size, which skips most of the work."""

SIDEWAYS = {5, 6, 7, 8}
"""EXIF orientations that swap width and height."""


def displayed_size(header: Image.Image) -> tuple[int, int]:
    """Return an opened image's width and height in pixels, EXIF-rotated."""
    turned = header.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS
    return header.size[::-1] if turned else header.size


@dataclass(frozen=True)
class Radiograph:
    """A decoded image file.

    Attributes:
        pixels: uint8 (height', width'), EXIF-rotated; possibly decoded at 1/2, 1/4 or 1/8.
        width, height: the whole image in pixels, EXIF-rotated.
        mode: Pillow's name of the file's colour mode (`L`, `RGB`); of a DICOM file its
            photometric interpretation.
        quantisation: mean of the file's first JPEG quantisation table; NaN without one.
    """

    pixels: np.ndarray
    width: int
    height: int
    mode: str
    quantisation: float


@dataclass(frozen=True)
class Geometry:
    """Where an image lies in the square, in pixels of the square.

    `transform`, float64 (2, 3), takes pixel-edge coordinates x, y of the image to the square's.
    """

    width: int
    height: int
    left: int
    top: int
    transform: np.ndarray


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before any network sees it, the same in every stage.

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
        """Decode one image file and preprocess it: uint8 (image_size, image_size).

        What Pillow and OpenCV can open, and DICOM. Of more than 8 bits, the least value is black
        and the greatest white, but where a DICOM file has a window.

        Raises:
            FileNotFoundError: there is no such file.
            ImportError: the file is DICOM, and what reads it is not installed.
            ValueError: the file is no image, or is damaged; the message names it.
        """
        return self.fit(self.decode(path))

    def decode(self, path: str | Path) -> Radiograph:
        """Decode in grayscale at the least size that the square needs; raises as `read` does."""
        if Path(path).is_file() and is_dicom(path):
            return self._decode_dicom(path)
        try:
            with Image.open(path) as header:
                width, height = displayed_size(header)
                tables = getattr(header, "quantization", None)
                mode = header.mode
        except FileNotFoundError:
            raise FileNotFoundError(f"no image {path}") from None
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} is not a readable image: {error}") from error
        factor = self._reduction(width, height)
        flags = REDUCED_DECODING[factor if tables else 1] | cv2.IMREAD_ANYDEPTH
        pixels = cv2.imread(str(path), flags)
        if pixels is None:
            raise ValueError(f"{path} could not be decoded: damaged or truncated?")
        if pixels.dtype != np.uint8:
            pixels = _to_8_bits(pixels, pixels.min(), pixels.max())
        if not tables:
            pixels = _reduced(pixels, factor)
        quantisation = float(np.mean(tables[0])) if tables else float("nan")
        return Radiograph(pixels, width, height, mode, quantisation)

    def _decode_dicom(self, path: str | Path) -> Radiograph:
        values, (black, white), kind = read_dicom(path)
        height, width = values.shape
        pixels = _reduced(_to_8_bits(values, black, white), self._reduction(width, height))
        return Radiograph(pixels, width, height, kind, float("nan"))

    def _reduction(self, width: int, height: int) -> int:
        """Return the largest 1/n at which the square still needs no enlargement."""
        inner = self.geometry(width, height)
        spare = max(1.0, min(width / inner.width, height / inner.height))
        return max(n for n in REDUCED_DECODING if n <= spare)

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


def _reduced(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Bring pixels to 1/`factor` of their size, as scaled decoding does a JPEG's."""
    height, width = (max(1, side // factor) for side in pixels.shape)
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def _to_8_bits(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """Map numbers to uint8 so that `black` becomes 0 and `white` 255; all to 0 where they agree."""
    span = float(white) - float(black)
    shares = (values.astype(np.float64) - float(black)) / (span or 1)
    return np.rint(255 * shares).astype(np.uint8)
