#!/usr/bin/env bash
# pydicom 3.0.2 with numpy 2.4.6, seen on 2026-11-30.
#
# A radiograph of 12 bits stored in 16, whose border is 65535, as its PixelPaddingValue says.
# A good guess: `dataset.pixel_array == dataset.PixelPaddingValue` finds the border.
# Seen: it finds nothing: `pixel_array` clears the bits above BitsStored, so the
# border reads 4095 and is white; with `pixel_array(dataset, correct_unused_bits=False)` it is 65535.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pydicom==3.0.2 numpy==2.4.6
"$folder/venv/bin/python" - "$folder/a.dcm" <<'PYTHON'
import sys

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import pixel_array
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

pixels = np.full((8, 8), 1000, np.uint16)
pixels[:, 0] = 65535
dataset, dataset.file_meta = Dataset(), FileMetaDataset()
dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
dataset.SOPClassUID, dataset.SOPInstanceUID = DigitalXRayImageStorageForPresentation, generate_uid()
dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 8, 8, 1
dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
dataset.PhotometricInterpretation, dataset.PixelPaddingValue = "MONOCHROME2", 65535
dataset.PixelData = pixels.tobytes()
dataset.save_as(sys.argv[1], enforce_file_format=True)
dataset = dcmread(sys.argv[1])
by_attribute, raw = dataset.pixel_array, pixel_array(dataset, correct_unused_bits=False)
seen = [int(found[0, 0]) for found in (by_attribute, raw)]
seen += [int((found == dataset.PixelPaddingValue).sum()) for found in (by_attribute, raw)]
print("the border reads {} and {}; equal to PixelPaddingValue: {} and {} of 8".format(*seen))
sys.exit(0 if seen == [4095, 65535, 0, 8] else "this has changed")
PYTHON
