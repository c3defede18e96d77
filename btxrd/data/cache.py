"""The image cache: every image decoded once, its lesion mask beside it, shared by all stages."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import imagehash
import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image
from tqdm.auto import tqdm

from btxrd.data.annotations import annotation_file, read_annotation
from btxrd.data.preprocessing import Preprocessing
from btxrd.data.radiograph import Radiograph
from btxrd.files import (
    atomic_path,
    clear_scratch,
    digest,
    file_digest,
    read_csv,
    read_json,
    write_json,
)

__all__ = ["ImageCache", "data_fingerprint", "file_digests", "image_digests", "open_cache"]

LAYOUT = 3
"""The version of the cached arrays: raise it where their meaning changes."""

HASHED = Preprocessing(224)
"""The preprocessing whose decoded pixels are hashed, whatever size the cache holds."""


@dataclass(frozen=True)
class ImageCache:
    """Preprocessed images and masks of a data set, memory-mapped.

    Attributes:
        images: uint8 (N, S, S), read-only.
        masks: uint8 {0, 1} (N, S, S), read-only; all zero where there is no annotation.
        index: one row an image, in the arrays' order: image_id, width, height (pixels of the
            file), lesion_area (share of the image in [0, 1]), phash (uint64; the same in caches
            of every size), the file's digest, bytes, mode and quantisation, what was `applied`
            to see it, and `error`, the reason why an image could not be decoded (its pixels are
            zero then), NaN for the others.
        key: 16 hex digits of the files' contents and the settings.
    """

    images: np.ndarray
    masks: np.ndarray
    index: pd.DataFrame
    key: str

    def rows(self, image_ids: Iterable[str]) -> np.ndarray:
        """Return the rows (int64) of these images.

        Raises:
            KeyError: names the images that the cache does not hold.
        """
        positions = pd.Index(self.index["image_id"]).get_indexer(list(image_ids))
        if (positions < 0).any():
            missing = np.asarray(list(image_ids))[positions < 0]
            raise KeyError(f"not in the image cache: {missing[:5].tolist()}")
        return positions


def open_cache(
    table: pd.DataFrame, preprocessing: Preprocessing, cache_dir: str | Path, progress: bool = True
) -> ImageCache:
    """Open the cache of a table's images; build it first where there is none.

    The key covers the contents of every image and annotation, so a changed file is noticed. One
    process builds, others wait for it. A file that cannot be read gets an `error` in the index.
    """
    cache_dir = Path(cache_dir)
    cache_dir.mkdir(parents=True, exist_ok=True)
    digests = file_digests(table, cache_dir)
    ids, contents = table["image_id"].tolist(), list(digests.values())
    key = digest([LAYOUT, preprocessing.settings(), ids, contents])
    folder = cache_dir / key
    with FileLock(cache_dir / f"{key}.lock"):
        if not folder.is_dir():
            clear_scratch(cache_dir, key)
            with atomic_path(folder) as temporary:
                _build(table, digests, preprocessing, temporary, progress)
    return ImageCache(
        images=np.load(folder / "images.npy", mmap_mode="r"),
        masks=np.load(folder / "masks.npy", mmap_mode="r"),
        index=read_csv(folder / "index.csv", phash="uint64"),
        key=key,
    )


def data_fingerprint(table: pd.DataFrame, cache_dir: str | Path) -> str:
    """Return 16 hex digits of a data set: its table and every image and annotation."""
    digests = list(file_digests(table, cache_dir).values())
    return digest([table.drop(columns="path").to_csv(index=False), digests])


def file_digests(table: pd.DataFrame, cache_dir: str | Path) -> dict[str, str | None]:
    """Return the digest of every image, then of every annotation, by path; None without a file.

    A file is read again only if its size or time changed since `cache_dir` remembers it.
    """
    memo_file = Path(cache_dir) / "file-digests.json"
    memo = read_json(memo_file)
    known = dict(memo)
    paths = [Path(path) for path in table["path"]]
    digests: dict[str, str | None] = {}
    for path in [*paths, *map(annotation_file, paths)]:
        digests[str(path)] = None
        if path.is_file():
            name, status = str(path.resolve()), path.stat()
            stamp = [status.st_size, status.st_mtime_ns]
            if memo.get(name, [None])[0] != stamp:
                memo[name] = [stamp, file_digest(path)]
            digests[str(path)] = memo[name][1]
    if memo != known:
        write_json(memo_file, memo)
    return digests


def image_digests(table: pd.DataFrame, cache_dir: str | Path) -> pd.Series:
    """Return the digest of each image's file, by image_id."""
    digests = file_digests(table, cache_dir)
    return pd.Series([digests[path] for path in table["path"]], index=table["image_id"])


def _build(
    table: pd.DataFrame,
    digests: dict[str, str | None],
    preprocessing: Preprocessing,
    folder: Path,
    progress: bool,
) -> None:
    folder.mkdir()
    shape = (len(table), preprocessing.image_size, preprocessing.image_size)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    masks = np.lib.format.open_memmap(folder / "masks.npy", "w+", np.uint8, shape)
    cache_one = partial(_cache_one, preprocessing=preprocessing)
    bar = {"total": len(table), "desc": "image cache", "unit": "image", "disable": not progress}
    rows, cv2_threads = [], cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        # Threads suffice: decoding, CLAHE and resizing release the interpreter's lock.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for image, mask, facts in tqdm(pool.map(cache_one, table["path"]), **bar):
                images[len(rows)], masks[len(rows)] = image, mask
                rows.append(facts)
    finally:
        cv2.setNumThreads(cv2_threads)
    images.flush()
    masks.flush()
    index = pd.DataFrame(rows)
    index.insert(0, "image_id", table["image_id"].to_numpy())
    index["digest"] = table["path"].map(digests).to_numpy()
    index.to_csv(folder / "index.csv", index=False)


def _cache_one(
    path: str, preprocessing: Preprocessing
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Return an image's pixels, its lesion mask and its row of the index."""
    path, nothing = Path(path), np.zeros((preprocessing.image_size,) * 2, np.uint8)
    mask, lesion_area = nothing, 0.0
    try:
        radiograph = preprocessing.decode(path)
        if annotation_file(path).is_file():
            annotation = read_annotation(annotation_file(path))
            inner = preprocessing.geometry(annotation.width, annotation.height)
            mask = annotation.mask(mask.shape, inner.transform)
            lesion_area = float(mask.sum()) / (inner.width * inner.height)
        facts = {
            "width": radiograph.width,
            "height": radiograph.height,
            "lesion_area": lesion_area,
            "phash": _perceptual_hash(path, radiograph, preprocessing),
            "bytes": path.stat().st_size,
            "mode": radiograph.mode,
            "quantisation": radiograph.quantisation,
            "applied": radiograph.applied,
            "error": None,
        }
        return preprocessing.fit(radiograph), mask, facts
    except (OSError, ValueError, cv2.error) as error:
        return nothing, nothing, {"phash": 0, "error": str(error)}


def _perceptual_hash(path: Path, decoded: Radiograph, preprocessing: Preprocessing) -> int:
    """Return the 64-bit pHash; decodes again where `HASHED` reduces the image to another size."""
    size = decoded.width, decoded.height
    if preprocessing.reduction(*size) != HASHED.reduction(*size):
        decoded = HASHED.decode(path)
    return int(str(imagehash.phash(Image.fromarray(decoded.pixels))), 16)
