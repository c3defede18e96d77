#!/usr/bin/env bash
# albumentations 2.0.8 (its last MIT release) with numpy 2.4.6, seen on 2026-11-30.
#
# Three steps in `A.Compose(..., seed=...)`, each with its own probability of a half.
# A good guess: each of the eight combinations of steps comes about equally often.
# Seen: Compose hands every step a generator of the same seed. Steps that draw equally many numbers
# stay in step with each other: all three happen, or none does, in every image of every seed. Steps
# that draw parameters as well drift apart after the first image, but the first one of each seed is
# decided by one draw, so seeding anew for each batch repeats it.
# Output, of 200 seeds and four images each: only "flip, mirror, invert" as FFF and TTT.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet albumentations==2.0.8 numpy==2.4.6
NO_ALBUMENTATIONS_UPDATE=1 "$folder/venv/bin/python" - <<'PYTHON'
import sys
from collections import Counter

import albumentations as A
import numpy as np

image = np.zeros((8, 8), np.uint8)
image[0, 0] = 200  # tells by its place and value which steps happened
combinations = Counter()
for seed in range(200):
    steps = [A.VerticalFlip(p=0.5), A.HorizontalFlip(p=0.5), A.InvertImg(p=0.5)]
    augmentation = A.Compose(steps, seed=seed)
    for _ in range(4):
        found = augmentation(image=image)["image"].astype(int)
        inverted = found.mean() > 128
        row, column = np.argwhere(found == (55 if inverted else 200))[0]
        combinations["".join("TF"[not happened] for happened in (row > 0, column > 0, inverted))] += 1
print("flip, mirror, invert:", dict(combinations))
sys.exit(0 if set(combinations) == {"FFF", "TTT"} else "this has changed")
PYTHON
