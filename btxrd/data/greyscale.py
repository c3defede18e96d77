"""The 8 bits of grey that are shown of the numbers that a file stores."""

from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["Greyscale", "ends_of", "require_contrast", "shown_in_8_bits"]

MIDDLE, NEARLY_ALL = 0.005, 0.001
"""Shares of the values that lie beyond either end of their middle, and of nearly all of them."""
ONE_LEVEL = 0.99
"""The share of equal pixels from which on there is nothing to see."""
SQUARE = 0.02
"""The height of a square pixel may differ from its width by this share of it."""


@dataclass(frozen=True)
class Greyscale:
    """A grey image as its file stores it, and what its numbers mean.

    Attributes:
        values: real numbers of any dtype (height, width).
        ends: the values that are shown black and white, as are those beyond them; None where the
            file does not say.
        inverted: whether it is the other way round.
        padding: bool (height, width), what is no part of the image; None without any.
        pixel_ratio: the height of a pixel by its width.
        kind: what the file calls its colours.
        applied: what has been done to the stored numbers, in words.
    """

    values: np.ndarray
    ends: tuple[float, float] | None
    inverted: bool = False
    padding: np.ndarray | None = None
    pixel_ratio: float = 1.0
    kind: str = ""
    applied: tuple[str, ...] = ()


def ends_of(values: np.ndarray) -> tuple[float, float]:
    """Return the values to show black and white where a file does not say.

    They are the least and the greatest of the real `values`, (n,), when 0.1 % are left out at
    either end, so that a few hot or dead pixels decide nothing. Where such an end is still further
    from the middle 99 % than these are from each other, as with a line of dead pixels, the middle's
    end counts.


    >>> ends_of(np.append(np.arange(1000, 3000), 65535))
    (1002.0, 2998.0)
    """
    last = len(values) - 1
    places = [int(MIDDLE * last), int(NEARLY_ALL * last)]
    places += [last - place for place in places]
    middle_low, low, middle_high, high = np.partition(values, places)[places].tolist()
    span = middle_high - middle_low
    black = low if middle_low - low <= span else middle_low
    white = high if high - middle_high <= span else middle_high
    return float(black), float(white)


def shown_in_8_bits(image: Greyscale) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return an image as it is shown, uint8 (height, width), and all that was applied, in words.

    Where the file does not say what is black and white, `ends_of` does. Padding is black. Pixels
    that are not square are made square: the image then is higher, or wider, than what is stored.

    Raises:
        ValueError: there is nothing to see: values that are no numbers, or one grey level; or the
            pixels have an impossible shape. The message does not name the file.
    """
    values, padding, applied = image.values, image.padding, image.applied
    if values.dtype.kind == "f" and (bad := np.count_nonzero(~np.isfinite(values))):
        raise ValueError(f"{bad} of its {values.size} pixels are NaN or infinite")
    inside = values.ravel() if padding is None else values[~padding]
    if not inside.size:
        raise ValueError("all of its pixels are padding")
    ends = image.ends
    if ends is None:
        ends = ends_of(inside)
        applied = (*applied, f"shown from {ends[0]:g} to {ends[1]:g}")
    pixels = _mapped(values, *(ends[::-1] if image.inverted else ends), image.inverted)
    if padding is not None:
        pixels[padding] = 0
        applied = (*applied, f"padding ({padding.mean():.1%}) left out")
    require_contrast(pixels, padding)
    if abs(image.pixel_ratio - 1) > SQUARE:
        pixels = _with_square_pixels(pixels, image.pixel_ratio)
        applied = (*applied, f"pixels {image.pixel_ratio:g} times as high as wide made square")
    return pixels, applied


def _mapped(values: np.ndarray, black: float, white: float, inverted: bool) -> np.ndarray:
    """Return uint8: 0 for `black` and what lies beyond it, 255 for `white` and beyond."""
    if values.dtype == np.uint8 and (black, white) == (0, 255):
        return values.copy()
    if black == white:
        return np.where((values > black) != inverted, 255, 0).astype(np.uint8)
    shares = (values.astype(np.float64) - black) / (white - black)
    return np.rint(255 * shares.clip(0, 1)).astype(np.uint8)


def require_contrast(pixels: np.ndarray, padding: np.ndarray | None = None) -> None:
    """Refuse an image, uint8 (height, width), that shows nothing; its padding does not count.

    Raises:
        ValueError: 99 % of its pixels have one grey level; does not name the file.
    """
    inside = None if padding is None else (~padding).astype(np.uint8)
    levels = cv2.calcHist([pixels], [0], inside, [256], [0, 256])
    share = levels.max() / levels.sum()
    if share >= ONE_LEVEL:
        level = int(levels.argmax())
        raise ValueError(f"there is nothing to see: {share:.1%} of it is one grey level, {level}")


def _with_square_pixels(pixels: np.ndarray, ratio: float) -> np.ndarray:
    if not 0.1 <= ratio <= 10:
        raise ValueError(f"its pixels are said to be {ratio:g} times as high as wide")
    height, width = pixels.shape
    size = (width, round(height * ratio)) if ratio > 1 else (round(width / ratio), height)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
