"""The one reader of an image file: JPEG, what else Pillow opens, and DICOM, in 8 bits of grey.

Which way up an image is, which end of its numbers is white and what of it is image are each found
once and applied once. A file that cannot be read rightly is refused.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from btxrd.data.greyscale import Greyscale, require_contrast, shown_in_8_bits
from btxrd.files import in_a_line

__all__ = [
    "JPEG",
    "REDUCTIONS",
    "Header",
    "Radiograph",
    "is_dicom",
    "read_header",
    "read_radiograph",
]

JPEG = ("JPEG", "MPO")
"""Pillow's names of JPEG files, MPO where previews follow the image."""

REDUCED_DECODING = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
"""OpenCV's JPEG decoding at 1/n of the size, which skips most of the work."""

REDUCTIONS = tuple(REDUCED_DECODING)

TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).T,
    8: np.rot90,
}
"""EXIF's orientations → the turn that rights an image; other numbers turn nothing."""
SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap width and height."""

XMP_ORIENTATION = re.compile(r"""tiff:Orientation(?:\s*=\s*["']|\s*>\s*)([1-8])""")
TIFF_WIDTH, TIFF_HEIGHT, TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_FORMAT = 256, 257, 258, 262, 339
WHITE_IS_ZERO = 0

PREAMBLE = 128
"""Bytes before the `DICM` by which a DICOM file is told, whatever its name."""
BARE = (
    *(b"\2\0\0\0UL", b"\2\0\1\0OB", b"\2\0\2\0UI"),
    *(b"\x08\0\5\0", b"\x08\0\x08\0", b"\x08\0\x16\0"),
)
"""The first bytes of a file that lacks them: its meta information, or what identifies it."""


@dataclass(frozen=True)
class Radiograph:
    """A decoded image file, the right way up.

    Attributes:
        pixels: uint8 (height', width'); possibly decoded at 1/2, 1/4 or 1/8.
        width, height: the whole image in square pixels.
        mode: Pillow's name of the colour mode, or DICOM's photometric interpretation.
        quantisation: mean of the file's first JPEG quantisation table; NaN without one.
        applied: what was done to the stored pixels to see them, in words; empty for most.
    """

    pixels: np.ndarray
    width: int
    height: int
    mode: str
    quantisation: float
    applied: str


@dataclass(frozen=True)
class Header:
    """The properties that an image file other than DICOM states before its pixels.

    Attributes:
        format, mode: Pillow's names.
        width, height: in pixels, the right way up.
        orientation: how its pixels are to be turned, 1 to 8 as EXIF counts.
        is_turned: whether the decoder does that already.
        start: where its pixels begin, in bytes; of a JPEG past the previews in its header.
        quantisation: as in `Radiograph`.
    """

    format: str
    mode: str
    width: int
    height: int
    orientation: int
    is_turned: bool
    start: int
    quantisation: float


def read_header(path: str | Path) -> Header:
    """Read what an image file says of itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no image, or is damaged; names it.
    """
    with _named(path), Path(path).open("rb") as file, Image.open(file) as image:
        return _header(image)


def is_dicom(path: str | Path) -> bool:
    """Return whether a file is DICOM, by its content; OSError where it cannot be read."""
    with Path(path).open("rb") as file:
        start = file.read(PREAMBLE + 4)
    return start[PREAMBLE:] == b"DICM" or start.startswith(BARE)


def read_radiograph(path: str | Path, reduction: Callable[[int, int], int]) -> Radiograph:
    """Read an image file: JPEG, what else Pillow opens, or DICOM.

    The orientation may stand in EXIF, in XMP or in a text of a PNG. Numbers of more than 8 bits are
    shown as a DICOM file's window or look-up table says, else as `btxrd.data.greyscale.ends_of`.
    Transparent pixels are black. Pixels become square where a DICOM, TIFF or PNG file says that
    they are not; a JPEG's resolution is not read, nor do LabelMe and viewers read it.

    Args:
        path: the file; its content decides what it is.
        reduction: takes width and height and returns at which 1/n the image is large enough, a
            number of `REDUCTIONS`.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the file is DICOM, and what reads it is not installed.
        ValueError: the file is no single image, is damaged, cannot be read rightly, or shows
            nothing; names it.
    """
    if Path(path).is_file() and is_dicom(path):
        # Few data sets hold any, and what reads them is an optional extra.
        from btxrd.data.dicom import read_dicom

        dicom = read_dicom(path)
        with _named(path):
            return _shown(dicom, 1, reduction)
    with _named(path):
        # By its name, Pillow would map an uncompressed TIFF into memory, and turn it wrongly.
        with Path(path).open("rb") as file, Image.open(file) as image:
            header = _header(image)
            if header.format in JPEG:
                return _decoded(path, header, reduction(header.width, header.height))
            stored = _stored(path, image, header)
        return _shown(stored, 1 if header.is_turned else header.orientation, reduction)


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Name the file in errors: Pillow's decoders raise whatever the bytes provoke."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"no image {path}") from None
    except Exception as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "it is of no known kind" if unknown else in_a_line(error)
        raise ValueError(f"{path} is not a readable image: {reason}") from error


def _header(image: Image.Image) -> Header:
    start, (width, height), said = image.fp.tell(), image.size, None
    with suppress(Exception):  # what damaged EXIF says is not known; the image may be whole
        said = image.getexif().get(ExifTags.Base.Orientation)
    orientation = _orientation(said, image.info)
    is_tiff = image.format == "TIFF"
    if is_tiff:
        width, height = image.tag_v2[TIFF_WIDTH], image.tag_v2[TIFF_HEIGHT]
    if orientation in SIDEWAYS:
        width, height = height, width
    is_turned = is_tiff and isinstance(said, int)
    tables = getattr(image, "quantization", None)
    quality = float(np.mean(tables[0])) if tables else float("nan")
    kind = image.format, image.mode
    return Header(*kind, width, height, orientation, is_turned, start, quality)


def _orientation(said: Any, info: dict[str, Any]) -> int:
    """Return the orientation, 1 to 8, that EXIF said, or else XMP or a text of a PNG."""
    for block in filter(None, [info.get("XML:com.adobe.xmp"), info.get("xmp"), *_profiles(info)]):
        if said is None:
            said = _orientation_in(block.encode() if isinstance(block, str) else block)
    if isinstance(said, bytes):  # EXIF of type BYTE
        said = said[0] if said else 1
    with suppress(TypeError, ValueError):
        return int(said) if int(said) in TURNS else 1
    return 1


def _profiles(info: dict[str, Any]) -> Iterator[bytes]:
    """Yield ImageMagick's texts in a PNG: a name, a length, and EXIF or XMP in hex digits."""
    for name, text in info.items():
        if str(name).startswith("Raw profile type "):
            with suppress(ValueError):
                yield bytes.fromhex("".join(str(text).split()[2:]))


def _orientation_in(block: bytes) -> Any:
    if block.startswith(b"Exif"):
        exif = Image.Exif()
        exif.load(block)
        return exif.get(ExifTags.Base.Orientation)
    found = XMP_ORIENTATION.search(block.decode("utf-8", "replace"))
    return found[1] if found else None


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    return np.ascontiguousarray(TURNS[orientation](pixels)) if orientation in TURNS else pixels


def _words(orientation: int) -> tuple[str, ...]:
    return (f"turned (orientation {orientation})",) if orientation in TURNS else ()


def _decoded(path: str | Path, header: Header, factor: int) -> Radiograph:
    """Decode a JPEG at 1/`factor` of its size."""
    flags = REDUCED_DECODING[factor] | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imread(str(path), flags)
    if pixels is None or pixels.dtype != np.uint8:
        raise ValueError("it could not be decoded: damaged or truncated?")
    pixels = _turned(pixels, header.orientation)
    # Scaled decoding rounds up.
    expected = -(-header.height // factor), -(-header.width // factor)
    if pixels.shape != expected:
        raise ValueError(
            f"its header says {header.width} × {header.height} pixels, and at 1/{factor} of that "
            f"there are {pixels.shape[1]} × {pixels.shape[0]}"
        )
    require_contrast(pixels)
    applied = "; ".join(_words(header.orientation))
    size = header.width, header.height
    return Radiograph(pixels, *size, header.mode, header.quantisation, applied)


def _shown(stored: Greyscale, orientation: int, reduction: Callable[[int, int], int]) -> Radiograph:
    """Turn stored values into pixels, and these, at as small a size as suffices, into the image."""
    pixels, applied = shown_in_8_bits(stored)
    pixels = _turned(pixels, orientation)
    height, width = pixels.shape
    factor = reduction(width, height)
    size = max(1, width // factor), max(1, height // factor)
    pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return Radiograph(pixels, width, height, stored.kind, float("nan"), "; ".join(applied))


def _stored(path: str | Path, image: Image.Image, header: Header) -> Greyscale:
    """Decode what Pillow has opened and is no JPEG; a PNG with OpenCV, which keeps all its bits."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise ValueError(f"it holds {frames} pages or frames, one is expected")
    applied = _words(header.orientation)
    if header.format == "PNG":
        colours = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if colours is None:
            raise ValueError("it could not be decoded: damaged or truncated?")
        values, is_transparent = _grey(colours, cv2.COLOR_BGR2GRAY)
    else:
        values, is_transparent = _grey(_colours(image), cv2.COLOR_RGB2GRAY)
    deep_tiff = header.format == "TIFF" and values.dtype != np.uint8
    inverted = deep_tiff and image.tag_v2.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO
    if inverted:
        applied = (*applied, "white is zero, inverted")
    if is_transparent:
        applied = (*applied, "transparent pixels black")
    ends = (0, 255) if values.dtype == np.uint8 else None
    ratio = _pixel_ratio(image, header)
    return Greyscale(values, ends, inverted, None, ratio, header.mode, applied)


def _pixel_ratio(image: Image.Image, header: Header) -> float:
    """Return the height of a decoded pixel by its width, 1 where it is not said."""
    info = image.info if header.format in ("PNG", "TIFF") else {}
    said = info.get("dpi") or info.get("resolution") or info.get("aspect") or (1, 1)
    across, down = map(float, said)
    if not (across > 0 and down > 0):
        return 1.0
    is_sideways = header.is_turned and header.orientation in SIDEWAYS
    return down / across if is_sideways else across / down


def _colours(image: Image.Image) -> np.ndarray:
    """Decode with Pillow: numbers (height, width), or uint8 (height, width, 3 or 4)."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
    elif any(";16" in str(tile.args) for tile in image.tile):
        raise ValueError("its colours have 16 bits each; save it in grey, or as PNG")
    elif image.mode in ("1", "L"):
        values = np.asarray(image.convert("L"))
    else:
        values = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    if image.format != "TIFF":
        return values
    bits, form = (image.tag_v2.get(tag, (1,))[0] for tag in (TIFF_BITS, TIFF_FORMAT))
    # Pillow knows no such numbers, and calls their bits by another name.
    return values.view({(8, 2): np.int8, (32, 1): np.uint32}.get((bits, form), values.dtype))


def _grey(colours: np.ndarray, conversion: int) -> tuple[np.ndarray, bool]:
    """Return numbers (height, width), and whether some of them stood for what is transparent."""
    if colours.ndim == 2:
        return colours, False
    grey = cv2.cvtColor(np.ascontiguousarray(colours[..., :3]), conversion)
    if colours.shape[2] == 3:
        return grey, False
    opacity = colours[..., 3] / np.iinfo(colours.dtype).max
    return np.rint(grey * opacity).astype(colours.dtype), bool(opacity.min() < 1)
