#!/usr/bin/env bash
# Pillow 13.0.0 with tifffile 2026.3.3 and numpy 2.4.6, seen on 2026-11-30.
#
# The shape of a TIFF's pixels is one resolution by the other.
# A good guess: the two numbers of `image.info["dpi"]` can be divided by each other, as each can by 2.
# Seen: each is an IFDRational; divided by a plain number it gives one, divided by its own kind it
# raises a TypeError that names the type twice. `float` of each works.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0 tifffile==2026.3.3 numpy==2.4.6
"$folder/venv/bin/python" - "$folder/a.tif" <<'PYTHON'
import sys

import numpy as np
import tifffile
from PIL import Image

tifffile.imwrite(sys.argv[1], np.eye(9, dtype=np.uint8), resolution=(204, 98), resolutionunit=2)
with Image.open(sys.argv[1]) as image:
    across, down = image.info["dpi"]
print("halved:", across / 2, "as floats:", float(across) / float(down))
try:
    print("one by the other:", across / down)
except TypeError as error:
    print("one by the other: TypeError:", error)
    sys.exit(0 if "IFDRational" in str(error) else "this has changed")
sys.exit("this has changed")
PYTHON
