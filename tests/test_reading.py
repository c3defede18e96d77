"""One image in many containers: what each must look like, or that it is refused in one line.

What is right is computed here, with pydicom's, tifffile's and Pillow's own functions or from the
drawn pixels themselves, and never with our reader. Nothing here is a real radiograph.
"""

import shutil
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from btxrd.data import Preprocessing, open_cache
from btxrd.data.greyscale import ends_of
from btxrd.data.radiograph import is_dicom

HEIGHT, WIDTH = 60, 40
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
GREY = (40 + 3 * ROWS + (20 * np.sin(COLUMNS / 3)).astype(int)).clip(0, 255).astype(np.uint8)
"""A drawing that no turn or flip leaves as it is."""
DEEP = (400 + 12 * GREY.astype(np.uint16)).astype(np.uint16)
"""The same in 12 bits, between 400 and 3460."""

WHOLE = Preprocessing(64)


def seen(path: Path) -> np.ndarray:
    """Return what is seen of a file, at its full size: float64 (height, width)."""
    radiograph = WHOLE.decode(path)
    assert radiograph.pixels.dtype == np.uint8
    assert radiograph.pixels.shape == (radiograph.height, radiograph.width)
    return radiograph.pixels.astype(np.float64)


def applied(path: Path) -> str:
    return WHOLE.decode(path).applied


def between(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """Return the grey, 0 to 255, of values that are shown from black to white."""
    return 255 * ((values.astype(float) - black) / (white - black)).clip(0, 1)


def stretched(values: np.ndarray) -> np.ndarray:
    """Return the grey of values without a window; so few pixels have no outliers."""
    return between(values, values.min(), values.max())


def assert_same(found: np.ndarray, expected: np.ndarray, by: float = 1.0) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= by


# --- orientation ------------------------------------------------------------------------------

METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What Pillow does to right an image of each orientation."""
BACK = METHODS | {6: METHODS[8], 8: METHODS[6]}


def stored(orientation: int, pixels: np.ndarray = GREY) -> np.ndarray:
    """Return how a file of an orientation keeps pixels, so that it shows them as they are."""
    turned = Image.fromarray(pixels).transpose(BACK[orientation])
    assert np.array_equal(np.asarray(turned.transpose(METHODS[orientation])), pixels)
    return np.ascontiguousarray(turned)


def exif(orientation: int, kind: str, order: str = "<") -> bytes:
    """Return an EXIF block whose orientation is of a type: B a byte, H a short, I a long."""
    code = {"B": 1, "H": 3, "I": 4}[kind]
    start = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + kind, orientation).ljust(4, b"\0")
    entry = struct.pack(f"{order}IHHHI", 8, 1, 0x112, code, 1) + value
    return b"Exif\0\0" + start + entry + struct.pack(f"{order}I", 0)


def xmp(orientation: int, form: str = ' tiff:Orientation="{}"/>') -> bytes:
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
        'syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/"'
        f"{form.format(orientation)}</rdf:RDF></x:xmpmeta>"
    )
    return packet.encode()


def text_of(name: str, content: str) -> PngInfo:
    info = PngInfo()
    info.add_itxt(name, content)
    return info


def profile(block: bytes, kind: str = "exif") -> PngInfo:
    """Return the text in which ImageMagick keeps EXIF or XMP in a PNG, 72 digits a line."""
    digits = block.hex()
    lines = "\n".join(digits[start : start + 72] for start in range(0, len(digits), 72))
    info = PngInfo()
    info.add_text(f"Raw profile type {kind}", f"\n{kind}\n{len(block):8d}\n{lines}\n", zip=True)
    return info


def tiff(kind: str, **options: Any) -> Callable[[Path, int], None]:
    def write(path: Path, orientation: int) -> None:
        tags = [(274, kind, 1, orientation, True)]
        tifffile.imwrite(path, stored(orientation), extratags=tags, **options)

    return write


def save(ending: str, **how: Callable[[int], Any]) -> Callable[[Path, int], None]:
    def write(path: Path, orientation: int) -> None:
        options = {name: make(orientation) for name, make in how.items()}
        quality = {"jpeg": {"quality": 100}, "webp": {"lossless": True}}.get(ending, {})
        Image.fromarray(stored(orientation)).save(path, ending, **quality, **options)

    return write


SHORT, BYTE = (lambda n: exif(n, "H")), (lambda n: exif(n, "B"))
ELEMENT = "><tiff:Orientation>{}</tiff:Orientation></rdf:Description>"

PLACES: dict[str, Callable[[Path, int], None]] = {
    "JPEG, EXIF": save("jpeg", exif=SHORT),
    "JPEG, EXIF, big endian": save("jpeg", exif=lambda n: exif(n, "H", ">")),
    "JPEG, EXIF of type BYTE": save("jpeg", exif=BYTE),
    "JPEG, EXIF of type LONG": save("jpeg", exif=lambda n: exif(n, "I")),
    "JPEG, EXIF before XMP": save("jpeg", exif=SHORT, xmp=lambda n: xmp(9 - n)),
    "JPEG, XMP": save("jpeg", xmp=xmp),
    "JPEG, XMP, an element": save("jpeg", xmp=lambda n: xmp(n, ELEMENT)),
    "JPEG, XMP, other quotes": save("jpeg", xmp=lambda n: xmp(n, " tiff:Orientation = '{}'/>")),
    "PNG, EXIF": save("png", exif=SHORT),
    "PNG, EXIF of type BYTE": save("png", exif=BYTE),
    "PNG, EXIF in a text": save("png", pnginfo=lambda n: profile(SHORT(n))),
    "PNG, EXIF in a text APP1": save("png", pnginfo=lambda n: profile(SHORT(n), "APP1")),
    "PNG, XMP in a text": save("png", pnginfo=lambda n: profile(xmp(n), "xmp")),
    "PNG, XMP": save("png", pnginfo=lambda n: text_of("XML:com.adobe.xmp", xmp(n).decode())),
    "WebP, EXIF": save("webp", exif=SHORT),
    "WebP, XMP": save("webp", xmp=xmp),
    "TIFF": tiff("H"),
    "TIFF, type BYTE": tiff("B"),
    "TIFF, compressed": tiff("H", compression="zlib"),
    "TIFF, compressed, type BYTE": tiff("B", compression="zlib"),
    "TIFF, big endian": tiff("H", byteorder=">"),
    "TIFF, XMP": lambda path, n: tifffile.imwrite(
        path, stored(n), extratags=[(700, "B", len(xmp(n)), xmp(n), True)]
    ),
}


@pytest.mark.parametrize("orientation", METHODS)
@pytest.mark.parametrize("place", PLACES)
def test_an_image_is_shown_the_right_way_up(tmp_path, place, orientation):
    PLACES[place](tmp_path / "turned", orientation)
    assert_same(seen(tmp_path / "turned"), GREY, by=3)
    assert f"orientation {orientation}" in applied(tmp_path / "turned")


@pytest.mark.parametrize(
    "block", [*(exif(number, "H") for number in (0, 1, 9, 300)), b"Exif\0\0no such block"]
)
def test_an_orientation_that_there_is_not_turns_nothing(tmp_path, block):
    Image.fromarray(GREY).save(tmp_path / "a.jpeg", quality=100, exif=block)
    assert_same(seen(tmp_path / "a.jpeg"), GREY, by=3)
    assert applied(tmp_path / "a.jpeg") == ""


def test_a_deep_tiff_is_turned_as_well(tmp_path):
    deep = np.ascontiguousarray(np.rot90(DEEP))
    tifffile.imwrite(tmp_path / "a.tif", deep, extratags=[(274, "H", 1, 6, True)])
    assert_same(seen(tmp_path / "a.tif"), stretched(DEEP))


# --- TIFF and PNG -----------------------------------------------------------------------------

NOT_READ = {
    *(("float64", end, o) for end in ("minisblack", "miniswhite") for o in "<>"),
    *((dtype, "miniswhite", o) for dtype in ("int8", "int16", "uint32", "int32") for o in "<>"),
    ("uint16", "miniswhite", ">"),
    ("uint32", "minisblack", ">"),
}
"""Kinds of TIFF that Pillow does not open."""
TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_tiff_of_any_numbers_is_read_rightly_or_refused(tmp_path, dtype, photometric, byteorder):
    """The greatest numbers too: where a reader takes one type for another, they show it."""
    values = GREY.astype(np.float64)
    if not dtype.startswith("float"):
        limits = np.iinfo(dtype)
        values = limits.min + values / 255 * (limits.max - limits.min)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values.astype(dtype), photometric=photometric, byteorder=byteorder)
    kept = tifffile.imread(path).astype(np.float64)
    expected = kept if dtype == "uint8" else stretched(kept)
    if photometric == "miniswhite":
        expected = 255 - expected
    if (dtype, photometric, byteorder) in NOT_READ:
        with pytest.raises(ValueError, match=r"a\.tif is not a readable image"):
            seen(path)
    else:
        assert_same(seen(path), expected)
        assert ("inverted" in applied(path)) == (photometric == "miniswhite" and dtype != "uint8")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK"])
def test_a_png_or_tiff_of_any_colours_is_the_same_image(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(GREY).convert(mode).save(path)
    assert_same(seen(path), GREY)


def test_a_deep_png_is_shown_from_its_least_to_its_greatest_value(tmp_path):
    Image.fromarray(DEEP).save(tmp_path / "a.png")
    assert_same(seen(tmp_path / "a.png"), stretched(DEEP))


def test_what_is_transparent_is_black(tmp_path):
    opacity = np.where(COLUMNS < 10, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([GREY] * 3 + [opacity])).save(tmp_path / "a.png")
    assert_same(seen(tmp_path / "a.png"), np.where(COLUMNS < 10, 0, GREY))
    assert "transparent" in applied(tmp_path / "a.png")


@pytest.mark.parametrize(("across", "down"), [(100, 50), (50, 100)])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_pixels_that_are_not_square_are_made_square(tmp_path, name, across, down):
    """Fifty pixels an inch downwards are twice as high as a hundred across are wide."""
    pixels = GREY[::2] if across > down else GREY[:, ::2]
    Image.fromarray(pixels).save(tmp_path / name, dpi=(across, down))
    assert_same(seen(tmp_path / name), GREY, by=12)


# --- DICOM ------------------------------------------------------------------------------------

Tags = dict[str, Any]


def dicom(path: Path, pixels: np.ndarray = DEEP, bits: int = 12, **tags: Any) -> Path:
    """Write a digital radiograph, or something that claims to be one."""
    dataset, meta = Dataset(), FileMetaDataset()
    dataset.file_meta = meta
    meta.TransferSyntaxUID = tags.pop("syntax", ExplicitVRLittleEndian)
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    order = ">" if meta.TransferSyntaxUID == ExplicitVRBigEndian else "<"
    dataset.add_new("PixelData", "OW", pixels.astype(f"{order}{pixels.dtype.kind}2").tobytes())
    for name, value in tags.items():
        if isinstance(value, tuple):
            dataset.add_new(name, *value)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def sequence(**tags: Any) -> list[Dataset]:
    item = Dataset()
    for name, value in tags.items():
        setattr(item, name, value)
    return [item]


def table(
    entries: np.ndarray, first: int = 0, declared: int = 12, vr: str = "US", count: int = 0
) -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", vr, [count or len(entries), first, declared])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return [item]


def _without_meta(path: Path) -> None:
    """Write a data set alone, as of the time before files had a header."""
    written = dcmread(dicom(path, syntax=ImplicitVRLittleEndian))
    del written.file_meta
    pydicom.dcmwrite(path, written, implicit_vr=True, little_endian=True)


def framed(value: int, dtype: str = "uint16") -> np.ndarray:
    pixels = DEEP.astype(dtype)
    pixels[:, :4] = pixels[:, -4:] = value
    return pixels


def voi(entries: np.ndarray | None = None, **how: Any) -> Tags:
    return {"VOILUTSequence": table(RAMP if entries is None else entries, **how)}


def padding(value: int, **tags: Any) -> Tags:
    return {"PixelPaddingValue": value, **tags}


def rescaled(slope: int | None, intercept: int) -> Tags:
    return {"RescaleSlope": slope, "RescaleIntercept": intercept}


def window(center: Any, width: Any) -> Tags:
    return {"WindowCenter": center, "WindowWidth": width}


IN_FRAME = np.full(DEEP.shape, False)
IN_FRAME[:, :4] = IN_FRAME[:, -4:] = True
BODY = np.where(IN_FRAME, 0, between(DEEP, DEEP[:, 4:-4].min(), DEEP[:, 4:-4].max()))
INVERTED_BODY = np.where(IN_FRAME, 0, 255 - BODY)
WHITE, BLACK = framed(65535), framed(-32768, "int16")
RAMP = np.arange(4096)
BENT = np.rint(4095 * np.sqrt(RAMP / 4095)).astype(int)
EVEN = DEEP / 4095 * 255
SHOWN = window(2048, 2000)
WINDOWED = between(DEEP, 2047.5 - 999.5, 2047.5 + 999.5)
SIGMOID = 255 / (1 + np.exp(-4 * (DEEP.astype(float) - 2048) / 2000))
MONOCHROME1 = {"PhotometricInterpretation": "MONOCHROME1"}
SIGNED = rescaled(1, -2048)
IMPLICIT = {"syntax": ImplicitVRLittleEndian}
FRAME = sequence(
    FrameVOILUTSequence=sequence(**window(0, 2000)),
    PixelValueTransformationSequence=sequence(**SIGNED),
)

READ: dict[str, tuple[Tags, np.ndarray] | tuple[Tags, np.ndarray, np.ndarray]] = {
    "no window": ({}, stretched(DEEP)),
    "8 bits as they are": ({"bits": 8}, GREY, GREY.astype(np.uint16)),
    "big endian": ({"syntax": ExplicitVRBigEndian}, stretched(DEEP)),
    "padding above": (padding(65535, bits=16), BODY, WHITE),
    "padding above, of bits not stored": (padding(65535), BODY, WHITE),
    "padding below": (padding(("SS", -32768), bits=16), BODY, BLACK),
    "padding below, without its sign": (padding(("US", 32768), bits=16), BODY, BLACK),
    "padding below, implicit": (padding(("SS", -32768), bits=16) | IMPLICIT, BODY, BLACK),
    "padding in a range": (padding(3900, PixelPaddingRangeLimit=4095), BODY, framed(4000)),
    "padding in a range, down": (padding(4095, PixelPaddingRangeLimit=3900), BODY, framed(4000)),
    "padding, inverted": (padding(65535, bits=16) | MONOCHROME1, INVERTED_BODY, WHITE),
    "padding and a window": (padding(4095) | SHOWN, np.where(IN_FRAME, 0, WINDOWED), framed(4095)),
    "padding that is nowhere": (padding(4095), stretched(DEEP)),
    "padding and a rescale": (padding(0) | rescaled(2, -7), BODY, framed(0)),
    "VOI LUT": (voi(), EVEN),
    "VOI LUT that says 16 bits": (voi(declared=16), EVEN),
    "VOI LUT of 10 bits that says 16": (voi(RAMP // 4, declared=16), EVEN),
    "VOI LUT below 0": (SIGNED | voi(first=-2048, vr="SS"), EVEN),
    "VOI LUT below 0, implicit": (SIGNED | voi(first=-2048, vr="SS") | IMPLICIT, EVEN),
    "VOI LUT shorter than the values": (voi(RAMP[:2000], first=1000), between(DEEP, 1000, 2999)),
    "VOI LUT that is no line": (voi(BENT), 255 * np.sqrt(DEEP / 4095)),
    "modality LUT of 12 bits": ({"ModalityLUTSequence": table(4095 - RAMP)}, 255 - stretched(DEEP)),
    "modality LUT and a window": (SHOWN | {"ModalityLUTSequence": table(RAMP)}, WINDOWED),
    "window": (SHOWN, WINDOWED),
    "window, exact": (SHOWN | {"VOILUTFunction": "LINEAR_EXACT"}, between(DEEP, 1048, 3048)),
    "window, sigmoid": (SHOWN | {"VOILUTFunction": "SIGMOID"}, SIGMOID),
    "window, wide": (window(4096, 8192), DEEP / 8191 * 255),
    "window, of a rescale": (
        rescaled(2, -1000) | window(3096, 4001),
        between(DEEP, 1047.75, 3047.75),
    ),
    "window, the first of two": (window([2048, 100], [2000, 50]), WINDOWED),
    "window that is empty": (window(None, None), stretched(DEEP)),
    "window, inverted": (SHOWN | MONOCHROME1, 255 - WINDOWED),
    "window, negative slope": (
        rescaled(-1, 4095) | SHOWN,
        between(4095 - DEEP.astype(int), 1048, 3047),
    ),
    "rescale, inverted": (SIGNED | MONOCHROME1, 255 - stretched(DEEP)),
    "enhanced, shared": (
        {
            "SharedFunctionalGroupsSequence": sequence(FrameVOILUTSequence=sequence(**SHOWN)),
            "NumberOfFrames": 1,
        },
        WINDOWED,
    ),
    "enhanced, of the frame": (
        {
            "SharedFunctionalGroupsSequence": sequence(
                FrameVOILUTSequence=sequence(**window(1, 9))
            ),
            "PerFrameFunctionalGroupsSequence": FRAME,
            "NumberOfFrames": 1,
        },
        WINDOWED,
    ),
}


@pytest.mark.parametrize("case", READ)
def test_a_dicom_image_is_shown_as_it_says(tmp_path, case):
    tags, expected, *pixels = READ[case]
    path = dicom(tmp_path / "any.name", *pixels, **tags)
    assert_same(seen(path), expected)
    assert WHOLE.decode(path).mode == tags.get("PhotometricInterpretation", "MONOCHROME2")


IN_A_GROUP = sequence(PixelMeasuresSequence=sequence(PixelSpacing=[0.4, 0.2]))


@pytest.mark.parametrize(
    ("pixels", "tags"),
    [
        (GREY[::2], {"PixelAspectRatio": [2, 1]}),
        (GREY[::2], {"PixelSpacing": [0.4, 0.2]}),
        (GREY[::2], {"SharedFunctionalGroupsSequence": IN_A_GROUP}),
        (GREY[:, ::2], {"ImagerPixelSpacing": [0.2, 0.4]}),
        (GREY[:, ::2], {"PixelAspectRatio": ["1", "2"]}),
        (GREY, {"PixelSpacing": [0.2, 0.2]}),
        (GREY, {"PixelSpacing": [0, 0]}),
    ],
)
def test_a_dicom_images_pixels_are_made_square(tmp_path, pixels, tags):
    path = dicom(tmp_path / "a", pixels.astype(np.uint16), bits=8, **tags)
    assert_same(seen(path), GREY, by=12)


def test_a_dicom_file_without_its_preamble_is_read(tmp_path):
    content = dicom(tmp_path / "a", **SHOWN).read_bytes()
    (tmp_path / "bare").write_bytes(content[132:])
    assert_same(seen(tmp_path / "bare"), WINDOWED)


def single_grey_images() -> list[Path]:
    """Return pydicom's own test files that hold one grey image which pydicom decodes."""
    found = []
    for path in sorted(Path(pydicom.data.__file__).with_name("test_files").rglob("*.dcm")):
        with suppress(Exception):
            dataset = dcmread(path)
            if dataset.pixel_array.ndim == 2 and "MONOCHROME" in dataset.PhotometricInterpretation:
                found.append(path)
    return found


@pytest.mark.filterwarnings("ignore")
def test_pydicoms_own_files_look_as_pydicom_shows_them():
    paths = single_grey_images()
    assert len(paths) > 15
    for path in paths:
        dataset = dcmread(path)
        shown = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
        expected = -shown if dataset.PhotometricInterpretation == "MONOCHROME1" else shown
        found = Preprocessing(max(shown.shape)).decode(path).pixels
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] >= 0.997, path.name


def test_it_is_read_like_a_png_of_the_same_pixels(tmp_path):
    """Also where both are decoded at a fraction of their size."""
    noise = np.random.default_rng(0).integers(0, 256, (500, 700)).astype(np.uint8)
    pixels = cv2.GaussianBlur(noise, (0, 0), 5)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    dicom(tmp_path / "a.dcm", pixels.astype(np.uint16), bits=8, WindowCenter=128, WindowWidth=256)
    png, read = (Preprocessing(64).read(tmp_path / name) for name in ("a.png", "a.dcm"))
    np.testing.assert_array_equal(png, read)


@pytest.mark.parametrize(
    ("name", "mean"), [("SC_rgb_jpeg_gdcm.dcm", 127.7), ("JPEGLSNearLossless_08.dcm", 55.6)]
)
def test_compressed_and_colour_images_are_read(name, mean):
    path = get_testdata_file(name, download=False)
    assert Preprocessing(64).decode(path).pixels.mean() == pytest.approx(mean, abs=1)


def test_other_files_are_not_dicom(tmp_path):
    (tmp_path / "short.dcm").write_bytes(b"DICM")
    assert not is_dicom(tmp_path / "short.dcm")
    assert not is_dicom(__file__)
    with pytest.raises(FileNotFoundError):
        is_dicom(tmp_path / "gone.dcm")


def test_without_pydicom_a_line_says_what_to_install_and_nothing_is_cached(tmp_path, monkeypatch):
    path = dicom(tmp_path / "a.dcm")
    rows = pd.DataFrame({"image_id": ["a.dcm"], "label": 0, "path": str(path)})
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pydicom", None)
        with pytest.raises(ImportError, match=r"a\.dcm is DICOM: pip install 'btxrd\[dicom\]'"):
            open_cache(rows, Preprocessing(64), tmp_path / "cache", progress=False)
    cache = open_cache(rows, Preprocessing(64), tmp_path / "cache", progress=False)
    assert cache.index["error"].isna().all()


def test_without_a_decoder_a_line_says_what_to_install(monkeypatch):
    from pydicom.pixels.common import CoderBase

    monkeypatch.setattr(CoderBase, "is_available", False)
    with pytest.raises(ImportError, match=r"compressed as JPEG Lossless.* 'btxrd\[dicom\]'"):
        Preprocessing(64).read(get_testdata_file("SC_rgb_jpeg_gdcm.dcm", download=False))


# --- nothing, or nothing certain, to see ------------------------------------------------------


def test_a_few_pixels_decide_nothing():
    values = np.linspace(1000, 3000, 100_000)
    for odd in (65535, -32768):
        for share in (0, 0.0001, 0.0009, 0.004):
            some = values.copy()
            some[: int(share * len(some))] = odd
            black, white = ends_of(some)
            assert (black, white) == pytest.approx((1000, 3000), abs=30)


@pytest.mark.parametrize(("hot", "base"), [(65535, 0), (0, 20_000)])
def test_a_line_of_dead_pixels_changes_nothing_else(tmp_path, hot, base):
    large = np.kron(DEEP, np.ones((8, 8), np.uint16)) + np.uint16(base)
    lined = large.copy()
    lined[100] = hot
    size = Preprocessing(max(large.shape))
    whole = size.decode(dicom(tmp_path / "whole", large, bits=16)).pixels.astype(int)
    found = size.decode(dicom(tmp_path / "lined", lined, bits=16)).pixels.astype(int)
    others = np.arange(len(large)) != 100
    assert np.abs(found - whole)[others].max() <= 4


def holed(value: float) -> np.ndarray:
    pixels = GREY.astype(np.float32)
    pixels[0, 0] = value
    return pixels


def pages(kind: str) -> Callable[[Path], None]:
    images = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    return lambda path: images[0].save(path, kind, save_all=True, append_images=images[1:])


def colours(path: Path) -> None:
    tifffile.imwrite(path, np.dstack([DEEP] * 3), photometric="rgb")


def compressed_12_bits(path: Path) -> None:
    shutil.copy(get_testdata_file("JPEG-lossy.dcm", download=False), path)


REFUSED: dict[str, tuple[Callable[[Path], Any] | Tags, str]] = {
    "NaN": (lambda path: tifffile.imwrite(path, holed(np.nan)), "NaN"),
    "infinite": (lambda path: tifffile.imwrite(path, holed(np.inf)), "infinite"),
    "pages of a TIFF": (pages("tiff"), "2 pages"),
    "frames of a GIF": (pages("gif"), "2 pages or frames"),
    "frames of a PNG": (pages("png"), "2 pages or frames"),
    "one grey level, JPEG": (lambda path: Image.new("L", (80, 60), 9).save(path, "jpeg"), "level"),
    "one grey level, PNG": (lambda path: Image.new("L", (80, 60)).save(path, "png"), "level, 0"),
    "one grey level, 16 bits": (lambda path: tifffile.imwrite(path, 0 * DEEP + 7), "level"),
    "colours of 16 bits": (colours, "16 bits"),
    "no transfer syntax": (_without_meta, "transfer syntax"),
    "12-bit JPEG in DICOM": (compressed_12_bits, "JPEG Extended"),
    "text": (lambda path: path.write_text("no image"), "no known kind"),
    # Tags of a DICOM file.
    "one grey level, DICOM": ({"pixels": 0 * DEEP + 7}, "level"),
    "window beside": (window(40, 1), "nothing to see"),
    "window above": (window(9999, 9), "nothing to see"),
    "window of width 0": (window(40, 0), "WindowWidth"),
    "slope 0": (rescaled(0, 5), "RescaleSlope"),
    "slope empty": (rescaled(None, 5), "RescaleSlope is empty"),
    "table too short": (voi(RAMP[:90], count=100), "holds 90 entries"),
    "all padding": (padding(0, pixels=0 * DEEP), "padding"),
    "frames": ({"NumberOfFrames": 2, "Rows": HEIGHT // 2}, "2 frames"),
    "two shapes of pixels": (
        {"PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [0.1, 0.1]},
        "ImagerPixelSpacing",
    ),
    "impossible pixels": ({"PixelAspectRatio": [99, 1]}, "99 times"),
    "inverted twice": ({"PresentationLUTShape": "INVERSE"}, "PresentationLUTShape"),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
    "too few pixels": ({"PixelData": b"\0\0"}, "pixel data"),
    "no rows": ({"Rows": None}, "Rows"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_rightly_is_refused_in_one_line(tmp_path, case):
    write, fact = REFUSED[case]
    path = tmp_path / "odd"
    write(path) if callable(write) else dicom(path, **write)
    with pytest.raises(ValueError, match="odd") as caught:
        WHOLE.read(path)
    message = str(caught.value)
    assert str(path) in message
    assert fact in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 160


def test_a_jpeg_whose_pixels_are_not_those_of_its_header_is_refused(tmp_path, monkeypatch):
    Image.fromarray(GREY).save(tmp_path / "a.jpeg")
    monkeypatch.setattr(cv2, "imread", lambda *_: np.ascontiguousarray(GREY.T))
    with pytest.raises(ValueError, match=r"a\.jpeg.*40 × 60.*60 × 40"):
        WHOLE.read(tmp_path / "a.jpeg")
