"""A data set opened for a study: audited, its bad rows set aside, its images decoded once."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from filelock import FileLock

from btxrd.data.audit import audit, finding, findings_table, unusable_images
from btxrd.data.cache import ImageCache, open_cache
from btxrd.data.preprocessing import Preprocessing
from btxrd.data.table import read_table, table_file
from btxrd.files import atomic_path, digest, file_digest, read_csv, write_csv

__all__ = ["Release", "open_release", "usable_table"]

INSPECTORS = ("annotations.py", "audit.py", "table.py")
"""The modules whose code decides what is found."""

MOST_SET_ASIDE = 0.02
"""The share of bad rows up to which a study goes on; beyond, something larger is wrong."""


@dataclass(frozen=True)
class Release:
    """The usable part of a data set, which later stages read.

    `table` holds the usable rows (a listing's with their `group`), `cache` at least their images;
    `findings` are the audit's and of undecodable images; `notes` are those of `read_listing`.
    """

    table: pd.DataFrame
    cache: ImageCache
    findings: pd.DataFrame
    notes: Sequence[str] = ()


def usable_table(root: str | Path, cache_dir: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Audit a data set and read its table without the rows that cannot be used.

    The outcome is kept in `cache_dir` until a file changes its size or time.

    Returns:
        The table, as `read_table` returns it, and the findings, as `audit` returns them.

    Raises:
        FileNotFoundError: no data set at `root`.
        ValueError: the table as a whole cannot be read, or more than 2 % of the rows are bad.
    """
    cache_dir = Path(cache_dir)
    cache_dir.mkdir(parents=True, exist_ok=True)
    kept = cache_dir / f"release-{_stamp(root)}"
    with FileLock(kept.with_suffix(".lock")):
        if not kept.is_dir():
            findings = audit(root)
            bad = unusable_images(findings)
            table = read_table(root, set_aside=bad)
            _refuse_too_many(len(bad), len(table) + len(bad), root)
            with atomic_path(kept) as folder:
                write_csv(folder / "table.csv", table)
                write_csv(folder / "findings.csv", findings)
    table = read_csv(kept / "table.csv", center="int64")
    findings = read_csv(kept / "findings.csv").astype(object)
    return table, findings.where(findings.notna(), None)


def _stamp(root: str | Path) -> str:
    """Return a digest of a data set's names, sizes and times, and of the code that inspects it."""
    folder = table_file(root).parent.resolve()
    files = sorted(
        (entry.path, entry.stat().st_size, entry.stat().st_mtime_ns)
        for place in (folder, folder / "images", folder / "Annotations")
        if place.is_dir()
        for entry in os.scandir(place)
    )
    code = [file_digest(Path(__file__).with_name(name)) for name in INSPECTORS]
    return digest([files, code])


def open_release(
    root: str | Path, preprocessing: Preprocessing, cache_dir: str | Path, progress: bool = True
) -> Release:
    """Audit a data set, set its bad rows aside and open the image cache of the others.

    Raises as `usable_table` does.
    """
    table, findings = usable_table(root, cache_dir)
    cache = open_cache(table, preprocessing, cache_dir, progress)
    broken = cache.index.dropna(subset="error")[["image_id", "error"]]
    late = [
        finding("image-undecodable", f"images/{image_id}", image_id, error)
        for image_id, error in broken.itertuples(index=False)
    ]
    bad = len(unusable_images(findings))
    _refuse_too_many(bad + len(late), bad + len(table), root)
    usable = table[~table["image_id"].isin(broken["image_id"])].reset_index(drop=True)
    return Release(usable, cache, pd.concat([findings, findings_table(late)], ignore_index=True))


def _refuse_too_many(bad: int, images: int, root: str | Path) -> None:
    if bad > MOST_SET_ASIDE * images:
        raise ValueError(
            f"{bad} of {images} images of {root} cannot be used; a study sets aside at most "
            f"{MOST_SET_ASIDE:.0%}: see `btxrd check {root}`"
        )
