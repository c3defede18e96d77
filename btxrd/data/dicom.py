"""Radiographs as hospitals keep them: DICOM, read with pydicom, an optional extra."""

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from scipy.special import expit

from btxrd.data.greyscale import SQUARE, Greyscale
from btxrd.files import in_a_line

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["read_dicom"]

SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
"""The attributes of a pixel's height and width."""


def read_dicom(path: str | Path) -> Greyscale:
    """Read a DICOM image and what of it is shown black and white.

    Rescale or modality LUT, then VOI LUT or window, as DICOM PS3.3 C.11 says; of several windows
    the first. Those of an enhanced image are taken from its functional groups. A VOI LUT gives as
    many bits as its greatest entry has: what its descriptor says is often their storage.

    Raises:
        ImportError: pydicom is missing, or what decompresses the file; says what to install.
        ValueError: the file holds no single image, or is damaged, or what its values mean is not
            known; names it.
    """
    try:
        import pydicom
        from pydicom.pixels import get_decoder
    except ImportError as error:
        message = f"{path} is DICOM: pip install 'btxrd[dicom]' to read it ({error})"
        raise ImportError(message) from error
    try:
        dataset = _flattened(pydicom.dcmread(path, force=True))
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        if syntax is None:
            raise ValueError("it does not say how its pixels are stored (no transfer syntax)")
        if not syntax.is_compressed or get_decoder(syntax).is_available:
            return _greyscale(dataset)
    except Exception as error:  # whatever a damaged or foreign file provokes
        reason = in_a_line(error)
        if isinstance(error, RuntimeError):  # what pydicom raises where no decoder succeeds
            reason = f"its pixels, {dataset.BitsStored} bits as {syntax.name}, cannot be decoded"
        raise ValueError(f"{path} is no readable DICOM image: {reason:.120}") from error
    raise ImportError(f"{path} is compressed as {syntax.name}: pip install 'btxrd[dicom]'")


def _flattened(dataset: "Dataset") -> "Dataset":
    """Bring what an enhanced image keeps in functional groups to where other images have it."""
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for macro in (dataset.get(groups) or [{}])[0]:
            if macro.VR == "SQ" and len(macro.value) == 1:
                dataset.update({element.tag: element for element in macro.value[0]})
    return dataset


def _greyscale(dataset: "Dataset") -> Greyscale:
    if "PixelData" not in dataset:
        raise ValueError("it holds no pixels")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ValueError(f"it holds {frames} frames, one is expected")
    kind, stored, ratio = dataset.PhotometricInterpretation, dataset.pixel_array, _ratio(dataset)
    if stored.ndim == 3:
        grey = cv2.cvtColor(stored, cv2.COLOR_RGB2GRAY)
        return Greyscale(grey, (0, 2**dataset.BitsStored - 1), pixel_ratio=ratio, kind=kind)
    if not kind.startswith("MONOCHROME"):
        raise ValueError(f"{kind} is not read; MONOCHROME1, MONOCHROME2, RGB and YBR are")
    inverted = kind == "MONOCHROME1"
    if not inverted and dataset.get("PresentationLUTShape") == "INVERSE":
        raise ValueError("MONOCHROME2 and PresentationLUTShape INVERSE contradict each other")
    values, ends, applied = _meant(stored, dataset)
    if inverted:
        applied = [*applied, "MONOCHROME1 inverted"]
    padding = _padding(stored, dataset)
    return Greyscale(values, ends, inverted, padding, ratio, kind, tuple(applied))


Ends = tuple[float, float]
"""The values shown black and white."""


def _meant(stored: np.ndarray, dataset: "Dataset") -> tuple[np.ndarray, Ends | None, list[str]]:
    """Return what stored values mean, what of it is shown black and white, and what was applied."""
    bits = int(dataset.BitsStored)
    least = -(2 ** (bits - 1)) if dataset.PixelRepresentation else 0
    # Values of 8 bits are shown as they are.
    values, ends, applied = stored, (least, least + 2**bits - 1) if bits <= 8 else None, []
    if dataset.get("ModalityLUTSequence"):
        values, ends = _looked_up(stored, dataset, "ModalityLUTSequence")[0], None
        applied = ["modality LUT"]
    elif (scale := _rescale(dataset)) != (1, 0):
        slope, intercept = scale
        values, ends = stored * slope + intercept, None
        applied = [f"rescale {slope:g}/{intercept:g}"]
    if dataset.get("VOILUTSequence"):
        return *_looked_up(values, dataset, "VOILUTSequence"), [*applied, "VOI LUT"]
    center, width = (_number(dataset, name) for name in ("WindowCenter", "WindowWidth"))
    if center is None or width is None:
        return values, ends, applied
    return *_windowed(values, center, width, dataset), [*applied, f"window {center:g}/{width:g}"]


def _rescale(dataset: "Dataset") -> tuple[float, float]:
    """Return slope and intercept, of which an image may lack either."""
    found = []
    for name, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        number = _number(dataset, name) if name in dataset else default
        if number is None or (number == 0 and default == 1):
            raise ValueError(f"its {name} is {'empty' if number is None else 0}")
        found.append(number)
    return found[0], found[1]


def _number(dataset: "Dataset", name: str) -> float | None:
    """Return a number, the first of several; None where it is missing or empty."""
    element = dataset.get(name)
    several = hasattr(element, "__len__") and not isinstance(element, str)
    first = (element[0] if len(element) else None) if several else element
    return None if first in (None, "") else float(first)


def _looked_up(values: np.ndarray, dataset: "Dataset", name: str) -> tuple[np.ndarray, Ends]:
    """Return the entries of a look-up table for values, and the ends of what it can give."""
    item = dataset[name].value[0]
    count, first, _ = item.LUTDescriptor
    count = count or 2**16
    entries = item.LUTData
    if isinstance(entries, bytes):
        width = 1 if len(entries) in (count, count + 1) else 2
        order = "<" if dataset.original_encoding[1] else ">"
        entries = np.frombuffer(entries, f"{order}u{width}")
    entries = np.atleast_1d(entries)[:count].astype(np.int64)
    if len(entries) < count:
        raise ValueError(f"its {name} holds {len(entries)} entries and declares {count}")
    # Whether the first value has a sign depends on what the table is for, and is often recorded
    # wrongly: the table of which most lies among the values is the one that is meant.
    low, high = float(values.min()), float(values.max())
    candidates = first, first - 2**16, first + 2**16
    first = max(candidates, key=lambda start: min(high, start + count - 1) - max(low, start))
    places = np.clip(np.rint(values).astype(np.int64) - first, 0, count - 1)
    return entries[places], (0, int(entries.max()))


def _windowed(
    values: np.ndarray, center: float, width: float, dataset: "Dataset"
) -> tuple[np.ndarray, Ends]:
    shape = dataset.get("VOILUTFunction") or "LINEAR"
    if width <= 0 or (shape == "LINEAR" and width < 1):
        raise ValueError(f"its WindowWidth is {width:g}: nothing is to be seen through that")
    if shape == "SIGMOID":
        return expit(4 * (values - center) / width), (0, 1)
    if shape == "LINEAR":
        center, width = center - 0.5, width - 1
    elif shape != "LINEAR_EXACT":
        raise ValueError(f"its VOILUTFunction is {shape}, not LINEAR, LINEAR_EXACT or SIGMOID")
    return values, (center - width / 2, center + width / 2)


def _padding(stored: np.ndarray, dataset: "Dataset") -> np.ndarray | None:
    """Return which pixels are declared to be padding, bool; None where none are."""
    from pydicom.pixels import pixel_array

    limits = [_number(dataset, f"PixelPadding{word}") for word in ("Value", "RangeLimit")]
    if limits[0] is None:
        return None
    if not dataset.file_meta.TransferSyntaxUID.is_compressed:
        # A padding value may need bits that are cut off from what is image.
        stored = pixel_array(dataset, correct_unused_bits=False)
    # Its sign may be recorded wrongly: what counts are the bits.
    size = stored.dtype.itemsize
    bits = [int(limit) % 2 ** (8 * size) for limit in limits if limit is not None]
    low, high = np.sort(np.array(bits, f"u{size}").view(stored.dtype.newbyteorder("=")))[[0, -1]]
    padding = (stored >= low) & (stored <= high)
    return padding if padding.any() else None


def _ratio(dataset: "Dataset") -> float:
    """Return the height of a pixel by its width, 1 where it is not said."""
    found = {}
    for name in SPACINGS:
        sides = dataset.get(name)
        if hasattr(sides, "__len__") and len(sides) == 2 and all(side > 0 for side in sides):
            found[name] = float(sides[0]) / float(sides[1])
    if found and max(found.values()) > (1 + SQUARE) * min(found.values()):
        raise ValueError(f"{' and '.join(found)} give its pixels different shapes")
    return next(iter(found.values()), 1.0)
