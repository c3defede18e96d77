"""The near-duplicate search against comparing hashes one by one."""

import time

import imagehash
import numpy as np
import pandas as pd

from btxrd.data import near_duplicates

IMAGES = 40_000
NAIVE_IMAGES = 400


def test_near_duplicates_of_40000_images(benchmark):
    random = np.random.default_rng(1)
    hashes = random.integers(0, 2**63, IMAGES, dtype=np.uint64)
    names = pd.Series(np.arange(IMAGES).astype(str))
    benchmark.pedantic(near_duplicates, (names, hashes, names), rounds=2)

    few = [imagehash.hex_to_hash(f"{value:016x}") for value in hashes[:NAIVE_IMAGES]]
    started = time.perf_counter()
    found = [a - b for i, a in enumerate(few) for b in few[i + 1 :]]
    naive = (time.perf_counter() - started) * (IMAGES / NAIVE_IMAGES) ** 2

    ratio = naive / benchmark.stats["min"]
    benchmark.extra_info["ratio_to_one_by_one"] = ratio
    print(f"{benchmark.stats['min']:.1f} s, {ratio:.0f} times the one-by-one way")
    assert len(found) == NAIVE_IMAGES * (NAIVE_IMAGES - 1) / 2
    assert benchmark.stats["min"] < 30
    assert ratio >= 100
