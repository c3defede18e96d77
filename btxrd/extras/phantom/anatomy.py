"""Anatomy of the phantom: the bones of each body region, and where in them a lesion can sit.

Lengths are in *units*: the long side of a region's frame is about 100, x to the right, y down.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["TEMPLATES", "Bone", "Site", "Template", "posed"]

STEPS = np.linspace(0, 1, 61)
STIFF = (np.inf, 0.0)
DISTANCES = {"epiphysis": 7, "metaphysis": 17, "shaft": 32}
"""How far from the joint lesions sit in a long bone, in units."""


@dataclass(frozen=True)
class Bone:
    """A tube from `start` to `end` with rounded ends.

    `widths` are half-widths at even steps from start to end; `level` is its brightness.
    """

    start: Sequence[float]
    end: Sequence[float]
    widths: tuple[float, ...]
    level: float = 1.0

    @property
    def length(self) -> float:
        """Distance from end to end in units."""
        return float(np.linalg.norm(np.subtract(self.end, self.start)))

    @property
    def along(self) -> np.ndarray:
        """Unit vector (2,) from `start` to `end`."""
        return np.subtract(self.end, self.start) / self.length

    @property
    def across(self) -> np.ndarray:
        """Unit vector (2,) at right angles to `along`."""
        x, y = self.along
        return np.array([-y, x])

    def at(self, fraction: float | np.ndarray) -> np.ndarray:
        """Point or points (…, 2) on the axis."""
        return self.start + np.multiply.outer(fraction, np.subtract(self.end, self.start))

    def half_width(self, fraction: float | np.ndarray) -> np.ndarray:
        """Half-width at a fraction of the length, as if the ends were not rounded."""
        return np.interp(fraction, np.linspace(0, 1, len(self.widths)), self.widths)

    @property
    def outline(self) -> np.ndarray:
        """Closed polygon (122, 2) in units."""
        smoothing = np.hanning(11) / np.hanning(11).sum()
        width = np.pad(self.half_width(STEPS), 5, mode="edge")
        width = np.convolve(width, smoothing, mode="valid")
        for inward, end in ((STEPS, self.widths[0]), (1 - STEPS, self.widths[-1])):
            cap = min(0.45 * end / self.length, 0.5)
            width = width * np.sqrt(1 - np.clip(1 - inward / cap, 0, 1) ** 2)
        side = width[:, None] * self.across
        axis = self.at(STEPS)
        return np.concatenate([axis + side, (axis - side)[::-1]])


@dataclass(frozen=True)
class Site:
    """A place for a lesion: the table's site column, a bone, the fraction of its length.

    `kind` is shaft, metaphysis, epiphysis or joint.
    """

    column: str
    bone: str
    fraction: float
    kind: str


@dataclass(frozen=True)
class Template:
    """A body region as a frontal view frames it.

    `weight` is its share of all patients, `box` the frame's width and height, `flesh` the depth
    of soft tissue around the bones. What lies below the first number of `hinge` bends by up to
    the second, in degrees, in a lateral view. `joint` is its site column; `ends` says which long
    bones meet there, with their start (0) or end (1).
    """

    region: str
    weight: float
    box: tuple[float, float]
    flesh: float
    hinge: tuple[float, float]
    bones: dict[str, Bone]
    joint: str
    ends: dict[str, int]
    others: tuple[Site, ...] = ()

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where lesions sit: in the long bones as far from the joint as is usual, and `others`."""
        first, end = next(iter(self.ends.items()))
        return (
            Site(self.joint, first, end, "joint"),
            *(
                Site(bone, bone, abs(end - distance / self.bones[bone].length), kind)
                for kind, distance in DISTANCES.items()
                for bone, end in self.ends.items()
            ),
            *self.others,
        )


def _ray(
    name: str, x: float, y: float, degrees: float, lengths: Sequence[float]
) -> dict[str, Bone]:
    """Bones of a finger or toe by name, end to end from (x, y); 0 degrees points up."""
    step = np.array([np.sin(np.radians(degrees)), -np.cos(np.radians(degrees))])
    point, bones = np.array([x, y]), {}
    for joint, length in enumerate(lengths):
        width = 2.5 - 0.3 * joint
        widths = (width + 0.4, width - 0.5, width - 0.6, width + 0.3)
        bones[f"{name}.{joint}"] = Bone(point, point + step * length, widths, 0.75)
        point = point + step * (length + 1)
    return bones


def _half_pelvis(name: str, toward: float) -> dict[str, Bone]:
    """Hip bone and proximal femur on the side `toward` (-1 or 1), their names after `name`."""
    x = 50 + toward * 35
    return {
        f"{name}ilium": Bone((x - toward * 4, 4), (x - toward * 15, 44), (9, 13, 12, 7, 7), 0.7),
        f"{name}pubis": Bone((x - toward * 14, 42), (x - toward * 33, 54), (4, 3), 0.65),
        f"{name}ischium": Bone((x - toward * 14, 44), (x - toward * 23, 66), (4.5, 3.6), 0.65),
        f"{name}neck": Bone((x - toward * 14, 39), (x, 54), (6, 6.4, 4.4, 4.6, 5.6), 0.8),
        f"{name}femur": Bone((x, 44), (x, 157), (6.6, 6.4, 5.2, 5, 5, 5, 5)),
    }


TEMPLATES: dict[str, Template] = {
    "knee": Template("lower limb", 0.50, (76, 100), 12, (51, 38), {
        "fibula": Bone((52, 58), (50.5, 114), (3.4, 3.6, 2.3, 2.1, 2.1, 2.1), 0.8),
        "patella": Bone((36, 36), (36, 47), (6, 6.6, 5), 0.35),
        "femur": Bone((38, -12), (38, 50), (6.2, 6.2, 6.3, 6.8, 9, 13, 13)),
        "tibia": Bone((38, 52), (38, 114), (13, 12.6, 8.6, 6.4, 5.8, 5.6, 5.4)),
    }, "knee-joint", {"femur": 1, "tibia": 0, "fibula": 0}),
    "foot": Template("lower limb", 0.14, (84, 100), 7, (50, 80), {
        "fibula": Bone((29, -20), (30.5, 53), (2.2, 2.2, 2.2, 2.4, 3.6, 3), 0.8),
        "tibia": Bone((42, -20), (42, 46), (5.4, 5.2, 5.2, 6, 8.2, 9)),
        "talus": Bone((33, 53), (51, 53), (5, 5.6, 5), 0.85),
        "calcaneus": Bone((38, 60), (36, 74), (7, 7, 6), 0.6),
        **{f"tarsal {x}": Bone((x, 66), (x, 75), (3.4, 3.4), 0.7) for x in (34, 41, 48)},
        **_ray("toe 0", 32, 78, 189, (18, 6, 4)),
        **_ray("toe 1", 37, 78, 184.5, (18, 6, 4)),
        **_ray("toe 2", 42, 78, 180, (18, 6, 4)),
        **_ray("toe 3", 47, 78, 175.5, (18, 6, 4)),
        **_ray("toe 4", 52, 78, 171, (18, 6, 4)),
    }, "ankle-joint", {"tibia": 1, "fibula": 1}, (Site("foot", "toe 2.0", 0.4, "shaft"),)),
    "pelvis": Template("pelvis", 0.08, (100, 84), 12, STIFF, {
        "sacrum": Bone((50, 2), (50, 46), (12, 11, 8, 3), 0.6),
        **_half_pelvis("other ", -1),
        **_half_pelvis("", 1),
    }, "hip-joint", {"femur": 0}, (Site("hip bone", "ilium", 0.45, "epiphysis"),)),
    "shoulder": Template("upper limb", 0.11, (66, 100), 9, STIFF, {
        **{f"rib {y}": Bone((-12, y), (15, y + 16), (2, 2), 0.35) for y in (24, 38, 52, 66)},
        "scapula": Bone((11, 50), (24, 18), (5, 8, 8, 6), 0.45),
        "clavicle": Bone((-8, 14), (31, 9), (2.6, 2.4, 3), 0.6),
        "humerus": Bone((40, 16), (42, 122), (9.6, 9.8, 7, 5.6, 5.2, 5, 5, 5, 5)),
    }, "shoulder-joint", {"humerus": 0}),
    "forearm": Template("upper limb", 0.08, (60, 100), 7, (21, 60), {
        "humerus": Bone((30, -30), (30, 26), (5, 5, 4.8, 5.4, 8.6, 9.4)),
        "radius": Bone((36.5, 28.5), (38, 112), (3.9, 3.2, 3, 3.2, 3.2, 3.2)),
        "ulna": Bone((26, 22), (25, 112), (4.6, 4.2, 3.2, 2.9, 2.7, 2.5)),
    }, "elbow-joint", {"humerus": 1, "ulna": 0, "radius": 0}),
    "hand": Template("upper limb", 0.09, (70, 100), 4, STIFF, {
        "ulna": Bone((27, 75), (28, 122), (3.2, 3, 2.6, 2.6), 0.9),
        "radius": Bone((40, 74), (38, 122), (6.2, 5.4, 4, 3.7, 3.6), 0.9),
        **{f"carpal {x} {y}": Bone((x, y), (x, y + 5.6), (2.8, 2.8), 0.7)
           for y in (60, 67) for x in (28, 35, 42)},
        **_ray("thumb", 44, 63, 38, (15, 12, 8)),
        **_ray("finger 0", 41, 58, 8, (21, 14, 9, 6)),
        **_ray("finger 1", 36, 58, 0, (22, 14, 9, 6)),
        **_ray("finger 2", 31, 58, -8, (21, 14, 9, 6)),
        **_ray("finger 3", 26, 58, -16, (20, 13, 8, 6)),
    }, "wrist-joint", {"radius": 0, "ulna": 0}, (Site("hand", "finger 1.0", 0.45, "shaft"),)),
}  # fmt: skip
"""The body regions by name; drawn alike for every class and center."""


def posed(template: Template, turn: float, bend: float, girth: float) -> dict[str, Bone]:
    """Bones of a region as a view shows them, by name.

    Args:
        turn: 0 for a frontal view to 1 for a lateral one, where bones overlap and can be bent.
        bend: in [0, 1], how far what lies below the hinge is bent.
        girth: factor on all widths.
    """
    middle = template.box[0] / 2
    height, degrees = template.hinge
    angle = np.radians(-degrees * bend * turn)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    bones = {}
    for name, bone in template.bones.items():
        ends = np.array([bone.start, bone.end], float)
        ends[:, 0] = middle + (ends[:, 0] - middle) * (1 - 0.6 * turn)
        if ends[0, 1] >= height:
            ends = (ends - (middle, height)) @ rotation + (middle, height)
        widths = tuple(width * girth * (1 - 0.15 * turn) for width in bone.widths)
        bones[name] = replace(bone, start=ends[0], end=ends[1], widths=widths)
    return bones
