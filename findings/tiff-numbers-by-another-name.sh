#!/usr/bin/env bash
# Pillow 13.0.0 with tifffile 2026.3.3 and numpy 2.4.6, seen on 2026-11-30.
#
# TIFFs of unsigned 32-bit and of signed 8-bit numbers (SampleFormat 1 and 2).
# A good guess: they are read with their values, or refused, as Pillow refuses most of their
# relatives ("cannot identify image file").
# Seen: both open without a word and have other values: 4,000,000,000 is -294967296 (mode I), -5 is
# 251 (mode L). The bits are kept, so that a view as the right dtype restores them.
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

seen = []
for dtype, value in ((np.uint32, 4_000_000_000), (np.int8, -5)):
    tifffile.imwrite(sys.argv[1], np.full((4, 4), value, dtype))
    with Image.open(sys.argv[1]) as image:
        found = np.asarray(image)
        seen.append((image.mode, int(found[0, 0]), int(found.view(dtype)[0, 0])))
    print(f"{np.dtype(dtype)} {value}: mode {image.mode}, {found[0, 0]}, viewed {seen[-1][2]}")
expected = [("I", -294967296, 4_000_000_000), ("L", 251, -5)]
sys.exit(0 if seen == expected else "this has changed")
PYTHON
