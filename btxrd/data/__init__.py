"""The data: table, annotations, groups and splits, image cache, loaders.

Other modules are imported by name: `listing` (anybody's data), `audit` and `release_files` (what
is wrong with a data set), `loader` and `augmentation` (they need torch).
"""

from btxrd.data.annotations import read_annotation
from btxrd.data.cache import ImageCache, open_cache
from btxrd.data.preprocessing import Preprocessing
from btxrd.data.release import open_release
from btxrd.data.splits import make_split, near_duplicates, patient_groups
from btxrd.data.table import read_table

__all__ = [
    "ImageCache",
    "Preprocessing",
    "make_split",
    "near_duplicates",
    "open_cache",
    "open_release",
    "patient_groups",
    "read_annotation",
    "read_table",
]
