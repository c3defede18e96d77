"""A BTXRD release on disk as the study uses it: audited, bad rows set aside, decoded once."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from btxrd.data.audit import audit, finding, findings_table, unusable_images
from btxrd.data.cache import ImageCache, open_cache
from btxrd.data.preprocessing import Preprocessing
from btxrd.data.table import read_table

__all__ = ["Release", "open_release", "usable_table"]

MOST_SET_ASIDE = 0.02
"""A study goes on without bad rows up to this share of all; beyond, something larger is wrong."""


@dataclass(frozen=True)
class Release:
    """What later stages read of a data set in the release's layout.

    `table` holds the usable rows, `cache` at least their images; `findings` are the audit's, and
    the images that could not be decoded.
    """

    table: pd.DataFrame
    cache: ImageCache
    findings: pd.DataFrame


def usable_table(root: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Audit a data set; return its table without the rows that cannot be used, and the findings.

    Raises:
        FileNotFoundError: no data set at `root`.
        ValueError: the table as a whole cannot be read, or more than 2 % of the rows are bad.
    """
    findings = audit(root)
    bad = unusable_images(findings)
    table = read_table(root, set_aside=bad)
    _refuse_too_many(len(bad), len(table) + len(bad), root)
    return table, findings


def open_release(
    root: str | Path, preprocessing: Preprocessing, cache_dir: str | Path, progress: bool = True
) -> Release:
    """Audit a data set, set its bad rows aside and open the image cache of the others.

    Raises as `usable_table` does.
    """
    table, findings = usable_table(root)
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
