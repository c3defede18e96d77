"""Radiographs as hospitals keep them: DICOM, read with pydicom, an optional extra."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["is_dicom", "read_dicom"]

PREAMBLE = 128
"""Bytes before the `DICM` by which every DICOM file is told, whatever its name."""


def is_dicom(path: str | Path) -> bool:
    """Say whether a file is DICOM, by its content.

    Raises:
        OSError: it cannot be read; a FileNotFoundError where there is none.
    """
    with Path(path).open("rb") as file:
        return file.read(PREAMBLE + 4)[PREAMBLE:] == b"DICM"


def read_dicom(path: str | Path) -> tuple[np.ndarray, tuple[float, float], str]:
    """Read a DICOM image and what of it is shown black and white.

    Rescale or modality LUT, then VOI LUT or window, as DICOM PS3.3 C.11 says and pydicom does it;
    of several windows the first. Without any, the least and the greatest value are the ends. A
    MONOCHROME1 image is shown inverted, a colour one in grey.

    Returns:
        The values (height, width), numbers of any dtype; those shown black and white; and the
        photometric interpretation.

    Raises:
        ImportError: pydicom is missing, or what decompresses the file; says what to install.
        ValueError: the file holds no single image, or is damaged; names it.
    """
    try:
        import pydicom
        from pydicom.pixels import get_decoder
    except ImportError as error:
        message = f"{path} is DICOM: pip install 'btxrd[dicom]' to read it ({error})"
        raise ImportError(message) from error
    try:
        dataset = pydicom.dcmread(path)
        syntax = dataset.file_meta.TransferSyntaxUID
        if not syntax.is_compressed or get_decoder(syntax).is_available:
            return _shown(dataset)
    except Exception as error:  # whatever a damaged or foreign file provokes
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no readable DICOM image: {reason:.160}") from error
    raise ImportError(f"{path} is compressed as {syntax.name}: pip install 'btxrd[dicom]'")


def _shown(dataset: "Dataset") -> tuple[np.ndarray, tuple[float, float], str]:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    if "PixelData" not in dataset:
        raise ValueError("it holds no pixels")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ValueError(f"it holds {frames} frames, one is expected")
    kind, pixels = dataset.PhotometricInterpretation, dataset.pixel_array
    if pixels.ndim == 3:
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        return grey, (0, np.iinfo(grey.dtype).max), kind
    if not kind.startswith("MONOCHROME"):
        raise ValueError(f"{kind} is not read; MONOCHROME1, MONOCHROME2, RGB and YBR are")
    values = apply_modality_lut(pixels, dataset)
    shown = apply_voi_lut(values, dataset)
    ends = _ends(shown, dataset) if shown is not values else (shown.min(), shown.max())
    return shown, ends[::-1] if kind == "MONOCHROME1" else ends, kind


def _ends(shown: np.ndarray, dataset: "Dataset") -> tuple[Any, Any]:
    """Return the ends of what a VOI LUT or a window can give."""
    from pydicom.pixels import apply_windowing

    if np.issubdtype(shown.dtype, np.integer):
        return 0, 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    return tuple(apply_windowing(np.array([-np.inf, np.inf]), dataset))
