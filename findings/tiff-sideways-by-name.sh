#!/usr/bin/env bash
# Pillow 13.0.0 with tifffile 2026.3.3 and numpy 2.4.6, seen on 2026-11-30.
#
# An uncompressed TIFF whose orientation (tag 274) is 5 to 8 and which is not square.
# A good guess: `Image.open` gives the same upright image whether it is handed a name or an open
# file, and the size before loading is the size after it.
# Seen: from an open file, the image is right. By name, the file is mapped into memory with the size
# that the image will have once it is turned, so its rows are cut at the wrong places; then that is
# turned, and the size changes back to the stored one. Compressed, the same file is right both ways.
# Output, of 40 rows of 60: "by name, None: (40, 60) -> (60, 40), right: False", the others True.
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

pixels = np.arange(40 * 60, dtype=np.uint8).reshape(40, 60)
upright = np.rot90(pixels, -1)  # what orientation 6 asks for
seen = {}
for compression in (None, "zlib"):
    tags = [(274, "H", 1, 6, True)]
    tifffile.imwrite(sys.argv[1], pixels, extratags=tags, compression=compression)
    with open(sys.argv[1], "rb") as file:
        for way, source in (("by name", sys.argv[1]), ("by handle", file)):
            image = Image.open(source)
            before = image.size
            found = np.asarray(image)
            seen[way, compression] = found.shape == upright.shape and bool((found == upright).all())
            print(f"{way}, {compression}: {before} -> {image.size}, right: {seen[way, compression]}")
expected = {("by name", None): False, ("by handle", None): True,
            ("by name", "zlib"): True, ("by handle", "zlib"): True}
sys.exit(0 if seen == expected else "this has changed")
PYTHON
