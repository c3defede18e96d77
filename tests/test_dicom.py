"""DICOM: what is black and white, what is refused, and that it is read like any other image."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from btxrd.data import Preprocessing, open_cache
from btxrd.data.dicom import is_dicom

PIXELS = np.add.outer(3 * np.arange(40), 6 * np.arange(24)).astype(np.uint16)
"""0 to 255."""


def save_dicom(path: Path, pixels: np.ndarray, **tags) -> Path:
    """Write a digital radiograph of unsigned 16-bit values, of which 12 bits are used."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = pixels.astype("<u2").tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def voi_lut(values: np.ndarray) -> list[Dataset]:
    item = Dataset()
    item.LUTDescriptor = [len(values), 0, 12]
    item.add_new("LUTData", "US", values.tolist())
    return [item]


def window(center: float, width: float) -> dict:
    return {"WindowCenter": center, "WindowWidth": width}


RESCALE = {"RescaleSlope": 2, "RescaleIntercept": -1000}
LIGHT = 255 * np.sqrt(np.arange(4096) / 4095)


@pytest.mark.parametrize(
    ("stored", "tags", "expected"),
    [
        (16 * PIXELS, window(2048, 4096), PIXELS),
        (4095 - 16 * PIXELS, window(2048, 4096) | {"PhotometricInterpretation": "MONOCHROME1"},
         PIXELS),
        (16 * PIXELS, window([1024, 2048], [2048, 4096]), np.minimum(2 * PIXELS, 255)),
        (16 * PIXELS, window(4096, 8192), PIXELS / 2),
        (16 * PIXELS, RESCALE | window(2 * 2048 - 1000, 2 * 4096), PIXELS),
        (16 * PIXELS, window(2048, 1024) | {"VOILUTFunction": "SIGMOID"},
         255 / (1 + np.exp(-4 * (16.0 * PIXELS - 2048) / 1024))),
        (16 * PIXELS, {"VOILUTSequence": voi_lut(np.rint(4095 * LIGHT / 255).astype(int))},
         LIGHT[16 * PIXELS]),
        (1000 + 2 * PIXELS, {}, PIXELS),
        (1000 + 2 * PIXELS, RESCALE | {"PhotometricInterpretation": "MONOCHROME1"}, 255 - PIXELS),
    ],
    ids=["window", "monochrome1", "first of two windows", "wide window", "rescale", "sigmoid",
         "voi lut", "neither", "neither, monochrome1"],
)  # fmt: skip
def test_what_is_black_and_white(tmp_path, stored, tags, expected):
    path = save_dicom(tmp_path / "any.name", stored, **tags)
    radiograph = Preprocessing(64).decode(path)
    assert radiograph.pixels.dtype == np.uint8
    assert np.abs(radiograph.pixels - expected.astype(float)).max() <= 1.5
    assert (radiograph.width, radiograph.height) == (24, 40)
    assert radiograph.mode == tags.get("PhotometricInterpretation", "MONOCHROME2")


def test_it_is_read_like_a_png_of_the_same_pixels(tmp_path):
    """Also where both are decoded at a fraction of their size."""
    noise = np.random.default_rng(0).integers(0, 256, (500, 700)).astype(np.uint8)
    pixels = cv2.GaussianBlur(noise, (0, 0), 5)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    save_dicom(tmp_path / "a.dcm", pixels, BitsStored=8, HighBit=7, **window(128, 256))
    png, dicom = (Preprocessing(64).read(tmp_path / name) for name in ("a.png", "a.dcm"))
    np.testing.assert_array_equal(png, dicom)


@pytest.mark.parametrize(
    ("name", "mean"), [("SC_rgb_jpeg_gdcm.dcm", 127.7), ("JPEGLSNearLossless_08.dcm", 55.6)]
)
def test_compressed_and_colour_images_are_read(name, mean):
    path = get_testdata_file(name, download=False)
    assert Preprocessing(64).decode(path).pixels.mean() == pytest.approx(mean, abs=1)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"NumberOfFrames": 2, "Rows": 20}, "it holds 2 frames, one is expected"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR is not read"),
        ({"PixelData": b"\0\0"}, "pixel data"),
        ({"Rows": None}, "Rows"),
    ],
)
def test_what_is_no_single_image_is_one_line(tmp_path, tags, words):
    path = save_dicom(tmp_path / "bad.dcm", PIXELS, **tags)
    with pytest.raises(ValueError, match=r"bad\.dcm is no readable DICOM image") as caught:
        Preprocessing(64).read(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_files_are_not_dicom(tmp_path):
    (tmp_path / "short.dcm").write_bytes(b"DICM")
    assert not is_dicom(tmp_path / "short.dcm")
    assert not is_dicom(__file__)
    with pytest.raises(FileNotFoundError):
        is_dicom(tmp_path / "gone.dcm")


def test_without_pydicom_a_line_says_what_to_install_and_nothing_is_cached(
    tmp_path, table, monkeypatch
):
    path = save_dicom(tmp_path / "a.dcm", PIXELS)
    rows = table.head(1).assign(path=str(path))
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
