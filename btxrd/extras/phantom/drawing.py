"""Drawing of the phantom: bones, soft tissue, lesions and exposure, with numpy and OpenCV.

Two layers of attenuation are drawn on a `Film`, bone and soft tissue, and developed into grey
values. Lesions differ by what radiologists read: margin, destruction, matrix, periosteal
reaction, soft-tissue mass.
"""

from typing import NamedTuple

import cv2
import numpy as np

from btxrd.extras.phantom.anatomy import REGIONS, Bone
from btxrd.extras.phantom.plan import CENTERS, SUBTYPES, Record

__all__ = ["draw"]

WIDE = {"frontal": 1.0, "oblique": 0.8, "lateral": 0.6}
"""A region's width in a view, compared with the frontal one."""

LONGEST = 640
"""Long side in pixels of the largest film; larger images are enlarged from it."""


class Look(NamedTuple):
    """A lesion's shape and texture.

    `reach` is its radius in units, drawn between two ends. `outward` is where its middle lies: 0
    on the bone's axis, 1 on its surface. `level` is what it leaves of the bone, whose own is 1,
    with a margin blurred over `blur` units; `rim` is the level of a sclerotic margin. `dots` are
    calcified bodies, or holes: number, radius, level. `spicules` counts the rays of a periosteal
    reaction on each side of the bone; `mass` is soft tissue in and beside it.
    """

    reach: tuple[float, float]
    outward: float
    level: float
    blur: float
    rim: float
    dots: tuple[int, float, float]
    spicules: int = 0
    mass: float = 0.0


LOOKS = {
    "exostosis": Look((7.5, 9.5), 1, level=1.25, blur=0.25, rim=1.6, dots=(7, 1.5, 1.6)),
    "cyst": Look((9, 12), 0.2, level=0.08, blur=0.25, rim=1.5, dots=(5, 1.1, 1.4)),
    "sunburst": Look((12, 14), 0.6, 0.2, 0.9, 0, (16, 2.4, 1.5), spicules=20, mass=0.95),
    "moth-eaten": Look((12, 14), 0.5, 0.2, 1.0, 0, (40, 1.4, 0.1), spicules=6, mass=0.95),
}


def draw(record: Record, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw one radiograph; `rng` draws what belongs to this view alone.

    Returns:
        The image (height, width) uint8, and the outlines of its visible lesions, each (32, 2)
        float64 (x, y) in pixels.
    """
    shared, region = np.random.default_rng(record.patient_seed), REGIONS[record.region]
    girth, flesh, side = *shared.uniform(0.8, 1.2, 2), shared.choice([-1, 1])
    places = [
        Place.of(region.bones[name], region.ends[name], distance, side)
        for name, distance in record.lesions.items()
    ]
    film = Film(record, girth, places, rng)
    for bone in region.bones.values():
        film.add_bone(bone)
    film.add_flesh(flesh * region.flesh, rng)
    look = LOOKS[SUBTYPES[record.subtype].look] if record.subtype else None
    outlines = [_draw_lesion(film, place, look, shared) for place in places]
    image = _developed(film, record, rng)
    _draw_side(image, record, rng)
    stretch, edge = np.divide(record.size, film.bone.shape[::-1]), np.subtract(record.size, 1)
    clipped = [np.clip(film.pixels(outline) * stretch, 1, edge) for outline in outlines]
    least = 0.002 * image.size
    return image, [seen for seen in clipped if cv2.contourArea(seen.astype(np.float32)) > least]


class Place(NamedTuple):
    """A lesion's frame: `point` on the bone's axis, unit vectors `axes` along it and out of it.

    `width` is the bone's half-width there.
    """

    point: np.ndarray
    axes: np.ndarray
    width: float

    @classmethod
    def of(cls, bone: Bone, end: int, distance: float, side: int) -> "Place":
        """Return the place at a distance from the bone's end (0 or 1), on its side -1 or 1."""
        fraction, (along, across) = abs(end - distance / bone.length), bone.axes
        point = bone.start + fraction * bone.length * along
        return cls(point, np.array([along, side * across]), float(bone.half_width(fraction)))

    def to_units(self, along: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Return points in units (N, 2), so far along the bone and out of its axis."""
        return self.point + np.stack([along, out], axis=1) @ self.axes

    def blob(self, along: float, out: float, radius: float, rng: np.random.Generator) -> np.ndarray:
        """Return a rounded outline (32, 2) in units around a middle."""
        angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        order, phase = np.arange(2, 7)[:, None], rng.uniform(0, 2 * np.pi, (5, 1))
        waves = rng.normal(0, 0.2, (5, 1)) / order * np.cos(order * angle + phase)
        radii = radius * np.clip(1 + waves.sum(0), 0.65, 1.35)
        return self.to_units(along + radii * np.cos(angle), out + radii * np.sin(angle))


class Film:
    """The canvas: layers `bone` and `soft` (height, width) float32.

    `affine` (2, 3) maps units to pixels; `unit` is how many pixels a unit is long.
    """

    def __init__(
        self, record: Record, girth: float, places: list[Place], rng: np.random.Generator
    ) -> None:
        """Make an empty film, turned and zoomed, with the first lesion well inside."""
        size = np.round(np.multiply(record.size, min(1, LONGEST / max(record.size)))).astype(int)
        box, tilt = np.array(REGIONS[record.region].box), 10 + 4 * CENTERS[record.center].rough
        self.unit = float((size / box).max() * rng.uniform(0.9, 1.3))
        angle = np.radians(rng.uniform(-tilt, tilt))
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix *= self.unit * np.array([(-1 if record.left else 1) * girth * WIDE[record.view], 1])
        offset = size / 2 - matrix @ (box * (0.5 + rng.uniform(-0.12, 0.12, 2)))
        if places:
            spot = matrix @ places[0].point + offset
            margin = np.minimum(15 * self.unit, 0.4 * size)
            offset += np.clip(spot, margin, size - margin) - spot
        self.affine = np.column_stack([matrix, offset])
        self.bone, self.soft = np.zeros((2, *size[::-1]), np.float32)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Return points in units (N, 2) as pixels, int32."""
        return np.rint(cv2.transform(points[None], self.affine)[0]).astype(np.int32)

    def filled(self, *outlines: np.ndarray, blur: float = 0.18) -> np.ndarray:
        """Return the union of polygons in units as a mask (height, width) in [0, 1], blurred."""
        mask = np.zeros(self.bone.shape, np.uint8)
        for outline in outlines:
            cv2.fillPoly(mask, [self.pixels(outline)], 255, cv2.LINE_AA)
        mask = cv2.GaussianBlur(mask, (0, 0), max(0.4, blur * self.unit))
        return mask.astype(np.float32) / 255

    def mix(self, mask: np.ndarray, level: float) -> None:
        """Replace bone by `level` where `mask` is 1."""
        self.bone += mask * (level - self.bone)

    def add_bone(self, bone: Bone) -> None:
        """Add a bone: a bright cortex round darker marrow."""
        shaft = float(np.median(bone.widths))
        level = bone.level * min(1.1, (shaft / 6) ** 0.25)
        added, outline = np.zeros_like(self.bone), [self.pixels(bone.outline())]
        cv2.fillPoly(added, outline, 0.55 * level)
        cortex = max(1, round(0.22 * shaft * self.unit))
        cv2.polylines(added, outline, True, level, cortex, cv2.LINE_AA)
        self.bone = np.maximum(self.bone, added) + 0.3 * np.minimum(self.bone, added)

    def add_flesh(self, depth: float, rng: np.random.Generator) -> None:
        """Texture the bones drawn so far, and wrap soft tissue, `depth` units deep, around them."""
        away = cv2.distanceTransform((self.bone == 0).astype(np.uint8), cv2.DIST_L2, 5)
        inside = np.clip(1 - away / (depth * self.unit), 0, 1)
        reach = max(1, round(0.3 * depth * self.unit))
        self.soft = cv2.blur(np.sqrt(1 - (1 - inside) ** 2), (reach, reach))
        height, width = self.bone.shape
        coarse = rng.standard_normal((80, max(2, 80 * width // height)), dtype=np.float32)
        self.bone *= 1 + 0.08 * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _draw_lesion(film: Film, place: Place, look: Look, rng: np.random.Generator) -> np.ndarray:
    """Draw one lesion and return its outline (32, 2) in units."""
    reach = rng.uniform(*look.reach)
    middle = look.outward * (place.width + 0.6 * reach)
    outline = place.blob(0, middle, reach, rng)
    film.mix(film.filled(outline, blur=look.blur), look.level)
    film.soft += look.mass * film.filled(outline, blur=1.4)
    if look.rim:
        edge = film.filled(outline, blur=0.7)
        film.mix(4 * edge * (1 - edge), look.rim)
    count, radius, level = look.dots
    angle, distance = rng.uniform(0, 2 * np.pi, count), reach * np.sqrt(rng.uniform(0, 0.56, count))
    spots = distance * np.cos(angle), middle + distance * np.sin(angle)
    radii = rng.uniform(0.45 * radius, radius, count)
    film.mix(
        film.filled(*(place.blob(*dot, rng) for dot in zip(*spots, radii, strict=True))), level
    )
    if look.spicules:
        is_tip = np.arange(2 * look.spicules + 1) % 2
        for side, height in ((1, reach), (-1, 0.5 * reach)):
            along = np.linspace(-0.8, 0.8, len(is_tip)) * height * (1 + 0.5 * is_tip)
            out = 0.9 * place.width + height * is_tip * rng.uniform(0.5, 1.1, len(is_tip))
            film.mix(film.filled(place.to_units(along, side * out)), 1.45)
    return outline


def _developed(film: Film, record: Record, rng: np.random.Generator) -> np.ndarray:
    """Return the layers as grey values (height, width) uint8 of the image's size."""
    rough = CENTERS[record.center].rough
    value = 0.38 * film.soft + 0.48 * film.bone * (0.8 + 0.2 * film.soft)
    blur = rough * rng.uniform(0.12, 0.25) * film.unit
    value = cv2.GaussianBlur(value, (0, 0), max(0.3, blur))
    value = np.clip(value / 1.1, 0, 1) ** rng.uniform(1 - 0.13 * rough, 1 + 0.13 * rough)
    background = rng.uniform(0.02, 0.04 + 0.08 * rough)
    value = background + (1 - background) * value
    value += rng.uniform(-0.04, 0.04) * np.linspace(-1, 1, value.shape[1], dtype=np.float32)
    image = cv2.resize(value, record.size)
    noise = rough * rng.uniform(0.005, 0.014)
    image += noise * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image * 255, 0, 255).astype(np.uint8)


def _draw_side(image: np.ndarray, record: Record, rng: np.random.Generator) -> None:
    """Burn the letter of the body's side into most images."""
    height, width = image.shape
    if rng.uniform() < 0.75:
        spot = int(width * rng.choice([0.06, 0.86])), int(height * rng.uniform(0.12, 0.9))
        letter, size = "L" if record.left else "R", min(height, width) / 420
        cv2.putText(image, letter, spot, cv2.FONT_HERSHEY_SIMPLEX, size, 235, 1, cv2.LINE_AA)
