"""Anatomy of the phantom: three body regions, their bones, and where these meet in a joint.

Lengths are in *units*: the long side of a region's frame is about 100, x to the right, y down.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["REGIONS", "Bone", "Region"]


@dataclass(frozen=True)
class Bone:
    """A tube from `start` to `end` with rounded ends.

    `widths` are half-widths at even steps from start to end; `level` is its brightness.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    widths: tuple[float, ...]
    level: float = 1.0

    @property
    def axes(self) -> np.ndarray:
        """Unit vectors along the bone, from start to end, and across it (2, 2)."""
        x, y = np.subtract(self.end, self.start) / self.length
        return np.array([(x, y), (-y, x)])

    @property
    def length(self) -> float:
        """Distance from end to end in units."""
        return float(np.linalg.norm(np.subtract(self.end, self.start)))

    def half_width(self, fraction: float | np.ndarray) -> np.ndarray:
        """Return the half-width at a fraction of the length, as if the ends were not rounded."""
        return np.interp(fraction, np.linspace(0, 1, len(self.widths)), self.widths)

    def outline(self) -> np.ndarray:
        """Return a closed polygon (122, 2) in units."""
        steps = np.linspace(0, 1, 61)
        width = self.half_width(steps)
        for inward, end in ((steps, self.widths[0]), (1 - steps, self.widths[-1])):
            cap = min(0.45 * end / self.length, 0.5)
            width = width * np.sqrt(1 - np.clip(1 - inward / cap, 0, 1) ** 2)
        along, across = self.axes
        middle, side = self.start + np.outer(steps * self.length, along), np.outer(width, across)
        return np.concatenate([middle + side, (middle - side)[::-1]])


@dataclass(frozen=True)
class Region:
    """A body region as a frontal view frames it.

    `weight` is its share of all patients, `box` the frame's width and height, `flesh` the depth
    of soft tissue around the bones. Lesions sit near `joint`, a site column, in the bones that
    `ends` names with the end (0 start, 1 end) by which they meet there.
    """

    weight: float
    box: tuple[float, float]
    flesh: float
    bones: dict[str, Bone]
    joint: str
    ends: dict[str, int]


def _hip(name: str, toward: int) -> dict[str, Bone]:
    """Return the bones of the hip on the side `toward` (-1 or 1), their names after `name`."""
    x = 50 + toward * 35
    return {
        f"{name}hip bone": Bone((x - toward * 4, 4), (x - toward * 15, 44), (9, 13, 12, 7, 7), 0.7),
        f"{name}pubis": Bone((x - toward * 14, 42), (x - toward * 33, 54), (4, 3), 0.65),
        f"{name}ischium": Bone((x - toward * 14, 44), (x - toward * 23, 66), (4.5, 3.6), 0.65),
        f"{name}neck": Bone((x - toward * 14, 39), (x, 54), (6, 6.4, 4.4, 4.6, 5.6), 0.8),
        f"{name}femur": Bone((x, 44), (x, 157), (6.6, 6.4, 5.2, 5, 5, 5, 5)),
    }


REGIONS = {
    "lower limb": Region(0.62, (76, 100), 12, {
        "fibula": Bone((52, 58), (50.5, 114), (3.4, 3.6, 2.3, 2.1, 2.1, 2.1), 0.8),
        "patella": Bone((36, 36), (36, 47), (6, 6.6, 5), 0.35),
        "femur": Bone((38, -12), (38, 50), (6.2, 6.2, 6.3, 6.8, 9, 13, 13)),
        "tibia": Bone((38, 52), (38, 114), (13, 12.6, 8.6, 6.4, 5.8, 5.6, 5.4)),
    }, "knee-joint", {"femur": 1, "tibia": 0, "fibula": 0}),
    "upper limb": Region(0.28, (60, 100), 7, {
        "humerus": Bone((30, -30), (30, 26), (5, 5, 4.8, 5.4, 8.6, 9.4)),
        "radius": Bone((36.5, 28.5), (38, 112), (3.9, 3.2, 3, 3.2, 3.2, 3.2)),
        "ulna": Bone((26, 22), (25, 112), (4.6, 4.2, 3.2, 2.9, 2.7, 2.5)),
    }, "elbow-joint", {"humerus": 1, "radius": 0, "ulna": 0}),
    "pelvis": Region(0.10, (100, 84), 12, {
        "sacrum": Bone((50, 2), (50, 46), (12, 11, 8, 3), 0.6),
        **_hip("other ", -1),
        **_hip("", 1),
    }, "hip-joint", {"femur": 0, "hip bone": 1}),
}  # fmt: skip
"""The body regions by their column of the table; drawn alike for every class and center."""
