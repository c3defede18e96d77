"""Anatomy of the phantom: the bones and soft tissue of each body region, before they are drawn.

Anatomy is laid out in *units*: the long side of every template's frame is 100 units, x to the
right and y down. A bone is an axis with half-widths along it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["ALONG", "TEMPLATES", "Bone", "Site", "Template", "View", "anatomy_of"]

Array = np.ndarray
Knots = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Site:
    """A place where a lesion can sit: `bone` of the template at the fraction `along` its axis.

    `column` is the table's site column; `kind` is shaft, metaphysis, epiphysis or joint.
    """

    column: str
    bone: str
    along: float
    kind: str


@dataclass(frozen=True)
class Template:
    """One anatomical frame: the region column, how often it is drawn, its box and its sites."""

    region: str
    weight: float
    box: tuple[float, float]
    sites: tuple[Site, ...]


@dataclass(frozen=True)
class View:
    """All that one image is drawn from; equal views give equal pixels.

    `anatomy_seed` is shared by the views of a patient (bones, lesion), `view_seed` is not
    (position, exposure, marks). `size` is (width, height) in pixels.
    """

    template: str
    view: str
    center: int
    age: int
    left: bool
    subtype: str | None
    sites: tuple[Site, ...]
    size: tuple[int, int]
    anatomy_seed: tuple[int, ...]
    view_seed: tuple[int, ...]


def _sites(*rows: tuple[str, str, float, str]) -> tuple[Site, ...]:
    return tuple(Site(*row) for row in rows)


TEMPLATES: dict[str, Template] = {
    "knee": Template(
        "lower limb",
        0.38,
        (76, 100),
        _sites(
            ("femur", "femur", 0.72, "metaphysis"),
            ("tibia", "tibia", 0.24, "metaphysis"),
            ("femur", "femur", 0.50, "shaft"),
            ("tibia", "tibia", 0.45, "shaft"),
            ("femur", "femur", 0.86, "epiphysis"),
            ("tibia", "tibia", 0.11, "epiphysis"),
            ("fibula", "fibula", 0.22, "metaphysis"),
            ("knee-joint", "tibia", 0.0, "joint"),
        ),
    ),
    "leg": Template(
        "lower limb",
        0.11,
        (50, 100),
        _sites(
            ("tibia", "tibia", 0.17, "metaphysis"),
            ("tibia", "tibia", 0.84, "metaphysis"),
            ("tibia", "tibia", 0.45, "shaft"),
            ("fibula", "fibula", 0.30, "shaft"),
            ("tibia", "tibia", 0.08, "epiphysis"),
            ("ankle-joint", "tibia", 1.0, "joint"),
        ),
    ),
    "thigh": Template(
        "lower limb",
        0.08,
        (54, 100),
        _sites(
            ("femur", "femur", 0.16, "metaphysis"),
            ("femur", "femur", 0.38, "shaft"),
            ("femur", "femur", 0.55, "shaft"),
            ("femur", "femur", 0.06, "epiphysis"),
            ("hip-joint", "head", 0.5, "joint"),
        ),
    ),
    "foot": Template(
        "lower limb",
        0.09,
        (84, 100),
        _sites(
            ("tibia", "tibia", 0.74, "metaphysis"),
            ("tibia", "tibia", 0.48, "shaft"),
            ("tibia", "tibia", 0.90, "epiphysis"),
            ("fibula", "fibula", 0.72, "metaphysis"),
            ("foot", "calcaneus", 0.5, "epiphysis"),
            ("foot", "metatarsal 2", 0.5, "shaft"),
            ("ankle-joint", "tibia", 1.0, "joint"),
        ),
    ),
    "pelvis": Template(
        "pelvis",
        0.06,
        (100, 84),
        _sites(
            ("hip bone", "ilium", 0.45, "epiphysis"),
            ("femur", "femur", 0.24, "metaphysis"),
            ("femur", "femur", 0.50, "shaft"),
            ("hip-joint", "head", 0.5, "joint"),
        ),
    ),
    "shoulder": Template(
        "upper limb",
        0.11,
        (66, 100),
        _sites(
            ("humerus", "humerus", 0.22, "metaphysis"),
            ("humerus", "humerus", 0.42, "shaft"),
            ("humerus", "humerus", 0.10, "epiphysis"),
            ("shoulder-joint", "humerus", 0.04, "joint"),
        ),
    ),
    "forearm": Template(
        "upper limb",
        0.08,
        (60, 100),
        _sites(
            ("radius", "radius", 0.22, "metaphysis"),
            ("ulna", "ulna", 0.45, "shaft"),
            ("radius", "radius", 0.55, "shaft"),
            ("humerus", "humerus", 0.70, "metaphysis"),
            ("ulna", "ulna", 0.12, "epiphysis"),
            ("elbow-joint", "humerus", 1.0, "joint"),
        ),
    ),
    "hand": Template(
        "upper limb",
        0.09,
        (70, 100),
        _sites(
            ("radius", "radius", 0.40, "metaphysis"),
            ("hand", "metacarpal 2", 0.45, "shaft"),
            ("hand", "metacarpal 4", 0.50, "shaft"),
            ("radius", "radius", 0.18, "epiphysis"),
            ("ulna", "ulna", 0.45, "metaphysis"),
            ("wrist-joint", "radius", 0.0, "joint"),
        ),
    ),
}
"""The anatomical frames by name; drawn alike for every class and center."""


# --- anatomy ---------------------------------------------------------------------------------

ALONG = np.linspace(0, 1, 101)


@dataclass
class Bone:
    """A bone: axis from `start` to `end` (units), half-widths `left`, `right` at `ALONG`."""

    start: Array
    end: Array
    left: Array
    right: Array
    cortex: float = 0.4
    level: float = 1.0
    physes: tuple[float, ...] = ()
    lobes: list[Array] = field(default_factory=list)

    @property
    def normal(self) -> Array:
        """Unit vector (2,) across the axis, towards `left`."""
        dx, dy = (self.end - self.start) / np.linalg.norm(self.end - self.start)
        return np.array([-dy, dx])

    def at(self, along: float | Array) -> Array:
        """Point or points (…, 2) on the axis."""
        return self.start + np.multiply.outer(np.asarray(along), self.end - self.start)

    @property
    def half_width(self) -> Array:
        """Mean of the two half-widths along the axis, in units."""
        return (self.left + self.right) / 2

    @property
    def outline(self) -> Array:
        """Closed outline (N, 2) in units."""
        axis = self.at(ALONG)
        one = axis + self.left[:, None] * self.normal
        other = axis - self.right[:, None] * self.normal
        return np.concatenate([one, other[::-1]])


def _profile(knots: Knots, caps: tuple[float, float]) -> Array:
    """Half-widths at `ALONG`, smooth between the knots, rounded off over `caps` at the ends."""
    width = np.interp(ALONG, *np.transpose(knots))
    kernel = np.hanning(13) / np.hanning(13).sum()
    width = np.convolve(np.pad(width, 6, mode="edge"), kernel, mode="valid")
    for cap, inward in zip(caps, (ALONG, 1 - ALONG), strict=True):
        if cap:
            width = width * np.sqrt(1 - np.clip(1 - inward / cap, 0, 1) ** 2)
    return width


def _bone(
    start: tuple[float, float],
    end: tuple[float, float],
    knots: Knots,
    caps: tuple[float, float] = (0.0, 0.0),
    skew: float = 0.0,
    **more: float | tuple[float, ...],
) -> Bone:
    width = _profile(knots, caps)
    return Bone(
        np.array(start, float), np.array(end, float), width * (1 + skew), width * (1 - skew), **more
    )


def _oval(
    x: float, y: float, across: float, along: float, tilt: float = 90, level: float = 0.8
) -> Bone:
    """A round bone: half-axes `along` (at `tilt` degrees from the x axis) and `across`."""
    step = along * np.array([np.cos(np.radians(tilt)), np.sin(np.radians(tilt))])
    center = np.array([x, y])
    width = across * np.sqrt(np.clip(1 - (2 * ALONG - 1) ** 2, 0, 1))
    return Bone(center - step, center + step, width, width, cortex=0.14, level=level)


def _turn(bone: Bone, pivot: tuple[float, float], degrees: float) -> Bone:
    """Rotate a bone in place about `pivot`."""
    bone.start, bone.end = _turned(np.stack([bone.start, bone.end]), pivot, degrees)
    return bone


def _turned(points: Array, pivot: tuple[float, float], degrees: float) -> Array:
    """Rotate points (N, 2) about `pivot`."""
    angle = np.radians(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points - pivot) @ matrix.T + pivot


@dataclass
class Anatomy:
    """Bones by name, drawn in order, and the tubes whose union is the soft tissue."""

    bones: dict[str, Bone]
    flesh: list[Bone]


def _knee(turn: float, flex: float) -> Anatomy:
    pivot = (38.0, 51.0)
    femur = _bone(
        (38, -12),
        (38, 50),
        [(0, 6.2), (0.55, 6.4), (0.74, 8.6), (0.88, 13.2 - turn), (1, 13.2 - turn)],
        (0, 0.12),
        skew=0.22 * turn,
        physes=(0.84,),
    )
    femur.lobes = [
        _oval(38 + 6.6 - 1.4 * turn, 45, 6.9 + turn, 6.4 + 1.2 * turn).outline,
        _oval(38 - 6.6 + 4 * turn, 45, 6.9, 6.4).outline,
    ]
    tibia = _bone(
        (38, 52.2),
        (38, 114),
        [(0, 13.2 - 2 * turn), (0.09, 13.4 - 2 * turn), (0.22, 9.6), (0.4, 6.6), (1, 5.4)],
        (0.03, 0),
        physes=(0.13,),
    )
    spines = np.array([(33, 54), (36, 51), (38, 52.4), (40, 51), (43, 54)])
    tibia.lobes = [_turned(spines, pivot, -flex * turn)]
    x = 52 - 7 * turn
    fibula = _bone(
        (x, 60), (x - 1.5, 114), [(0, 3), (0.1, 3.8), (0.25, 2.4), (1, 2.1)], (0.06, 0), level=0.8
    )
    patella = _oval(38 - 17 * turn, 41 + 2 * turn, 6.5 - 2.5 * turn, 7, level=0.35 + 0.3 * turn)
    thigh = _bone((38, -12), (38, 54), [(0, 24), (0.6, 20.5), (1, 18.5)], (0, 0.1))
    calf = _bone((38, 48), (39, 114), [(0, 18.5), (0.4, 18), (1, 16)], (0.1, 0))
    angle = -flex * turn
    lower = [_turn(part, pivot, angle) for part in (tibia, fibula, calf)]
    bones = {"fibula": lower[1], "patella": patella, "femur": femur, "tibia": lower[0]}
    return Anatomy(bones, [thigh, calf, _oval(38 - 5 * turn, 47, 18, 17)])


def _leg(turn: float, flex: float) -> Anatomy:
    femur = _bone((22, -40), (22, 3), [(0, 5), (0.6, 5), (0.85, 10), (1, 10)], (0, 0.15))
    tibia = _bone(
        (22, 5),
        (23, 91),
        [(0, 9.8), (0.06, 10), (0.17, 7), (0.3, 5), (0.78, 4.2), (0.92, 6), (1, 6.6)],
        (0.02, 0.02),
        physes=(0.08, 0.95),
    )
    x = 34.5 - 6 * turn
    fibula = _bone(
        (x, 12), (31 - 4 * turn, 95), [(0, 2.4), (0.06, 3.2), (0.2, 2), (0.85, 2), (0.95, 3.2)],
        (0.05, 0.05), level=0.8,
    )  # fmt: skip
    talus = _oval(23, 97, 5, 7, tilt=0)
    calf = _bone((25, -10), (25, 110), [(0, 15), (0.3, 17), (0.8, 11), (1, 11.5)])
    bones = {"femur": femur, "talus": talus, "fibula": fibula, "tibia": tibia}
    return Anatomy(bones, [_turn(calf, (25, 50), flex * 0.05)])


def _proximal_femur(x: float, y: float, toward: float, size: float) -> dict[str, Bone]:
    """Head, neck with trochanters, and shaft; `toward` is the head's side, -1 or 1."""
    head = (x + 11.5 * toward * size, y - 5.5 * size)
    femur = _bone(
        (x, y),
        (x, y + 110 * size),
        [(0, 7 * size), (0.08, 7.6 * size), (0.2, 5.8 * size), (1, 5.2 * size)],
        (0.04, 0),
    )
    neck = _bone(head, (x + 1.5 * toward, y + 8 * size), [(0, 4.2 * size), (1, 6 * size)])
    femur.lobes = [neck.outline, _oval(*head, 6.3 * size, 6.3 * size).outline]
    return {"femur": femur, "head": _oval(*head, 6.3 * size, 6.3 * size, level=0.5)}


def _thigh(turn: float, flex: float) -> Anatomy:
    parts = _proximal_femur(30 - 2 * turn, 16, -1, 1.0 - 0.05 * turn)
    ilium = _oval(14 + 2 * turn, 2, 10, 12, tilt=60, level=0.55)
    ischium = _bone((12, 12), (8, 34), [(0, 5), (0.6, 3), (1, 4)], (0.2, 0.2), level=0.5)
    flesh = _bone((27, -12), (29, 114), [(0, 26), (0.5, 23), (1, 19)])
    bones = {"ilium": ilium, "ischium": ischium, **parts}
    return Anatomy(bones, [_turn(flesh, (28, 50), flex * 0.05)])


def _foot(turn: float, flex: float) -> Anatomy:
    x = 40 - 6 * turn
    tibia = _bone(
        (x, -20),
        (x, 46),
        [(0, 5.4), (0.5, 5.2), (0.8, 7.6), (1, 9)],
        (0, 0.03),
        physes=(0.89,),
    )
    gap = 11.5 - 8 * turn
    fibula = _bone(
        (x - gap - 1, -20), (x - gap, 53), [(0, 2.2), (0.75, 2.3), (0.9, 3.6), (1, 3)], (0, 0.06),
        level=0.8,
    )  # fmt: skip
    talus = _oval(x + 1, 53.5, 5.5, 9 + turn, tilt=10 * turn, level=0.85)
    calcaneus = _oval(x - 9 * turn, 66, 7.5, 9 + 5 * turn, tilt=15 * turn, level=0.8)
    bones = {"fibula": fibula, "talus": talus, "calcaneus": calcaneus, "tibia": tibia}
    for index in range(3):
        bones[f"tarsal {index}"] = _oval(
            x - 7 + 7 * index + 16 * turn, 71 + (index - 2.5) * 3.5 * turn, 4, 4.6, level=0.7
        )
    for index in range(5):
        fan = (index - 2) * (5.2 - 2.2 * turn)
        start = (x + fan * 0.8 + 20 * turn, 78 - 4 * turn + fan * 0.5 * turn)
        end = (x + fan * 1.5 + 42 * turn, 99 - 5 * turn + fan * 0.45 * turn)
        bones[f"metatarsal {index}"] = _bone(
            start, end, [(0, 2.4), (0.3, 1.7), (0.7, 1.6), (1, 2.2)], (0.1, 0.1), level=0.75
        )
    shin = _bone((x - 2, -20), (x - 2, 62), [(0, 16), (0.7, 13), (1, 14)], (0, 0.1))
    sole = _bone(
        (x - 18 * turn, 58 + 4 * turn),
        (x + 44 * turn, 106 - 12 * turn),
        [(0, 14 - turn), (0.4, 14.5), (1, 15 - 6 * turn)],
        (0.2, 0.15),
    )
    return Anatomy(bones, [shin, _turn(sole, (x, 60), flex * 0.1)])


def _pelvis(turn: float, flex: float) -> Anatomy:
    bones = {
        "sacrum": _bone(
            (50, 2), (50, 46), [(0, 12), (0.5, 9), (1, 3)], (0.1, 0.1), level=0.6, cortex=0.1
        )
    }
    for name, toward in (("other ", -1), ("", 1)):
        x = 50 + toward * 34
        bones[f"{name}ilium"] = _bone(
            (50 + toward * 30, 4), (50 + toward * 19, 44), [(0, 10), (0.3, 13), (0.8, 7), (1, 7)],
            (0.3, 0.2), cortex=0.12, level=0.75 - 0.1 * turn,
        )  # fmt: skip
        bones[f"{name}pubis"] = _bone(
            (50 + toward * 21, 42), (50 + toward * 2, 54), [(0, 4), (1, 3)], (0.1, 0.1), level=0.7
        )
        bones[f"{name}ischium"] = _bone(
            (50 + toward * 21, 44), (50 + toward * 12, 66), [(0, 4.5), (1, 3.6)], (0.1, 0.2),
            level=0.7,
        )  # fmt: skip
        for part, bone in _proximal_femur(x, 46, -toward, 0.82).items():
            bones[name + part] = bone
    belly = _bone((50, -20), (50, 60), [(0, 42), (0.6, 46), (1, 47)], (0, 0.1))
    thighs = [
        _bone((50 + side * 25, 40), (50 + side * (27 + flex * 0.1), 110), [(0, 22), (1, 19)])
        for side in (-1, 1)
    ]
    return Anatomy(bones, [belly, *thighs])


def _shoulder(turn: float, flex: float) -> Anatomy:
    humerus = _bone(
        (40, 17),
        (42, 122),
        [(0, 9.5), (0.08, 10.5), (0.18, 7.8), (0.32, 5.8), (1, 5)],
        (0.09, 0),
        skew=-0.15 * (1 - turn),
        physes=(0.13,),
    )
    bones = {}
    for index in range(4):
        bones[f"rib {index}"] = _bone(
            (-12, 24 + 14 * index), (15, 40 + 14 * index), [(0, 1.6), (1, 1.6)], level=0.35
        )
    bones["scapula"] = _oval(17 + 3 * turn, 34, 8, 17, tilt=70, level=0.45)
    bones["glenoid"] = _oval(25 + 4 * turn, 24, 3.6, 7, level=0.6)
    bones["clavicle"] = _bone((-8, 14), (30, 9), [(0, 2.6), (1, 3)], (0, 0.1), level=0.6)
    bones["humerus"] = humerus
    arm = _bone((41, 4), (44, 122), [(0, 14), (0.15, 17), (0.5, 14), (1, 12)], (0.12, 0))
    thorax = _bone((2, -10), (2, 112), [(0, 16), (0.25, 26), (1, 22)])
    return Anatomy(bones, [_turn(arm, (40, 20), -flex * 0.1), thorax])


def _forearm(turn: float, flex: float) -> Anatomy:
    pivot = (30.0, 27.0)
    humerus = _bone(
        (30, -30),
        (30, 26),
        [(0, 5), (0.6, 4.8), (0.82, 8.5 - 3 * turn), (1, 9.5 - 3 * turn)],
        (0, 0.1),
        physes=(0.9,),
    )
    ulna = _bone(
        (26 + 3 * turn, 23), (25 + 2 * turn, 112), [(0, 4.6), (0.15, 4.4), (0.3, 3.1), (1, 2.5)],
        (0.05, 0),
    )  # fmt: skip
    radius = _bone(
        (36.5 - 3 * turn, 28.5), (38 - 4 * turn, 112),
        [(0, 3.9), (0.06, 3.9), (0.13, 2.8), (0.3, 3.2), (1, 3.2)], (0.02, 0), physes=(0.05,),
    )  # fmt: skip
    upper = _bone((30, -30), (30, 30), [(0, 14), (1, 13.5)], (0, 0.1))
    lower = _bone((31, 18), (31, 112), [(0, 13), (0.3, 14.5), (1, 9.5)], (0.1, 0))
    for part in (ulna, radius, lower):
        _turn(part, pivot, flex * turn)
    bones = {"humerus": humerus, "radius": radius, "ulna": ulna}
    return Anatomy(bones, [upper, lower, _oval(30, 26, 13, 13)])


def _hand(turn: float, flex: float) -> Anatomy:
    spread = 1 - 0.6 * turn
    bones = {
        "ulna": _bone((35 - 9 * spread, 75), (27, 122), [(0, 3), (0.1, 3.2), (1, 2.6)], (0.05, 0)),
        "radius": _bone(
            (35 + 5 * spread, 74), (38, 122), [(0, 6.2), (0.15, 6.2), (0.45, 4), (1, 3.6)],
            (0.03, 0), physes=(0.13,),
        ),
    }  # fmt: skip
    for index in range(6):
        x = 35 + ((index % 3) - 1) * 6 * spread
        bones[f"carpal {index}"] = _oval(x, 63 + 6 * (index // 3), 3.2, 3.2, level=0.7)
    flesh = [
        _bone((33, 64), (32, 122), [(0, 13), (0.3, 11), (1, 13)], (0.1, 0)),
        _bone((35, 36), (35, 72), [(0, 18 * spread + 2), (1, 14 * spread + 3)], (0.1, 0.1)),
    ]
    for index in range(5):
        fan = (index - 2) * spread
        thumb = index == 4
        point = np.array([35 + fan * 5.2, 58.0 + (4 if thumb else 0)])
        angle = np.radians((36 if thumb else 7.5 * fan) * (spread if thumb else 1) + flex * 0.05)
        step = np.array([np.sin(angle), -np.cos(angle)])
        first = point.copy()
        lengths = (15, 12, 8) if thumb else (22 - abs(index - 1.5), 14, 9, 6)
        for joint, length in enumerate(lengths):
            name = f"metacarpal {index}" if joint == 0 else f"phalanx {index}.{joint}"
            width = 2.5 - 0.3 * joint
            bones[name] = _bone(
                tuple(point), tuple(point + step * length),
                [(0, width + 0.4), (0.3, width - 0.5), (0.7, width - 0.6), (1, width + 0.3)],
                (0.1, 0.1), level=0.75,
            )  # fmt: skip
            point = point + step * (length + 1)
        tip = tuple(point + step * 2)
        flesh.append(_bone(tuple(first), tip, [(0, 5.5), (1, 4.2)], (0, 0.1)))
    return Anatomy(bones, flesh)


BUILDERS: dict[str, Callable[[float, float], Anatomy]] = {
    "knee": _knee,
    "leg": _leg,
    "thigh": _thigh,
    "foot": _foot,
    "pelvis": _pelvis,
    "shoulder": _shoulder,
    "forearm": _forearm,
    "hand": _hand,
}
TURNS = {"frontal": 0.0, "oblique": 0.5, "lateral": 1.0}


def anatomy_of(view: View, flex: float) -> Anatomy:
    """The patient's bones and flesh as the view shows them."""
    rng = np.random.default_rng([*view.anatomy_seed, 0])
    anatomy = BUILDERS[view.template](TURNS[view.view], flex)
    bone_width, flesh_width, cortex = rng.uniform((0.92, 0.86, 0.85), (1.1, 1.16, 1.2))
    for part, width in [(bone, bone_width) for bone in anatomy.bones.values()] + [
        (tube, flesh_width) for tube in anatomy.flesh
    ]:
        part.left, part.right = part.left * width, part.right * width
        part.cortex *= cortex
    return anatomy
