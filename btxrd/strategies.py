"""The one table of splits: the ways in which images are dealt into train, val and test.

A further split is a row here, and a way of dealing in `btxrd.data.splits`. No other module names
one, unless as a default.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["ANSWERS", "OTHER_CENTERS", "PLANNED", "SPLITS", "Split"]


@dataclass(frozen=True)
class Split:
    """One split of the images.

    Attributes:
        name: its name in parameters, files and folders.
        title: its name in tables and figures.
        about: how it deals the images.
        keeps_apart: what is never in two of its parts: the protocol of its figures.
        folds: the numbers of its folds, where it has several; in a split by center those of the
            centers that are tested.
        may_answer: the answer may be read from it; of two such splits the later one in `SPLITS` is
            the more honest.
        away: the split whose test centers are unknown to the network, with which this one is
            compared; None for none.
        bounds: what the study set out to exceed on its test images: metric → value.
    """

    name: str
    title: str
    about: str
    keeps_apart: Literal["image", "group", "center"]
    folds: tuple[int, ...] = ()
    may_answer: bool = False
    away: str | None = None
    bounds: Mapping[str, float] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The file that notebook 02 writes of it, in the study's folder."""
        return f"splits/{self.name}.csv"


_ROWS = (
    Split(
        "stratified",
        "Stratified",
        "70/15/15 by image, identical files together (the published baseline's split)",
        keeps_apart="image",
        may_answer=True,
        away="center",
        bounds={"accuracy": 0.75, "sensitivity/Malignant": 0.70, "mean_iou": 0.15},
    ),
    Split(
        "grouped",
        "Grouped",
        "70/15/15 with whole patient groups, so that no patient is in two parts",
        keeps_apart="group",
        may_answer=True,
        away="center",
    ),
    Split(
        "grouped_cv",
        "Grouped CV",
        "whole patient groups in five folds: each the test once, the next one val",
        keeps_apart="group",
        folds=(1, 2, 3, 4, 5),
        may_answer=True,
        away="center_cv",
    ),
    Split(
        "center",
        "Center-Holdout",
        "center holdout: center 1 in 85/15 train and val, centers 2 and 3 are the test",
        keeps_apart="center",
        bounds={"accuracy": 0.55},
    ),
    Split(
        "center_cv",
        "Center CV",
        "each center the test once; 15 % of the others, by patient group, are val",
        keeps_apart="center",
        folds=(1, 2, 3),
    ),
    Split(
        "random",
        "Random (leaks)",
        "80/20 by image, the 20 % val and test at once (the paper's way: leaks)",
        keeps_apart="image",
    ),
)

SPLITS = {split.name: split for split in _ROWS}
"""Name of each split → its row, in the order in which tables and figures show them."""

ANSWERS = tuple(name for name in reversed(SPLITS) if SPLITS[name].may_answer)
"""The splits that the answer may be read from, the most honest one first."""
OTHER_CENTERS = tuple(name for name in reversed(SPLITS) if SPLITS[name].keeps_apart == "center")
"""The splits that test in centers not trained in, the one that tests more images first."""
PLANNED = tuple(name for name, split in SPLITS.items() if split.bounds)
"""The splits that the study was planned for: `comparison.csv` begins with their figures."""
