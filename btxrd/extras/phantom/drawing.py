"""Drawing of the phantom: bones, soft tissue, lesions, exposure and marks, with numpy and OpenCV.

Two layers of attenuation are drawn on a `Film`, bone and soft tissue, and developed into grey
values. Lesions differ by what radiologists read: margin, destruction, matrix, periosteal
reaction, soft-tissue mass. `LOOKS` says so for each subtype, and one function draws them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from btxrd.extras.phantom.anatomy import TEMPLATES, Bone, Site, posed
from btxrd.extras.phantom.plan import Record

__all__ = ["draw"]

Span = tuple[float, float]
"""Lowest and highest value of a uniform draw."""

FONT = cv2.FONT_HERSHEY_SIMPLEX
TURNS = {"frontal": 0.0, "oblique": 0.5, "lateral": 1.0}


@dataclass(frozen=True)
class Look:
    """How a lesion looks: half-axis along the bone (`reach`, units), and what is read in it.

    `aspect` is the half-axis across over the one along. `outward` says where its middle lies: 0 on
    the bone's axis, 1 on its surface. `level` is what it leaves of the bone, whose own is 1, with a
    margin blurred over `blur` units; `rim` and `septa` are the levels of a sclerotic margin and of
    inner walls. `dots` are calcified bodies, or holes: number, radius, level. `spicules` and
    `lamellae` count the rays and layers of a periosteal reaction; `mass` is soft tissue beside it.
    """

    reach: Span
    aspect: float
    outward: float
    level: float
    blur: float = 0.25
    rim: float = 0.0
    septa: float = 0.0
    dots: tuple[int, float, float] = (0, 0.0, 0.0)
    spicules: int = 0
    lamellae: int = 0
    mass: float = 0.0


EXOSTOSIS = Look((7.5, 9.5), 0.95, 1, level=1.25, rim=1.6, dots=(7, 1.5, 1.6))

LOOKS = {
    "osteochondroma": EXOSTOSIS,
    "multiple osteochondromas": EXOSTOSIS,
    "simple bone cyst": Look((11, 14), 0.65, 0, level=0.06, rim=1.6),
    "giant cell tumor": Look((9, 12), 1, 0.3, level=0.08, rim=1.5, septa=0.7),
    "osteofibroma": Look((11, 14), 0.6, 0.4, level=1.35, rim=1.5, dots=(7, 3, 0.12)),
    "synovial osteochondroma": Look((9, 11), 0.9, 0.7, level=0.5, dots=(10, 3.6, 1.5)),
    "other bt": Look((10, 13), 0.8, 0.2, level=0.08, rim=1.5, dots=(12, 1.1, 1.4)),
    "osteosarcoma": Look((11, 13), 1, 0.3, 0.2, 0.9, dots=(16, 2.4, 1.5), spicules=20, mass=0.95),
    "other mt": Look((11, 13), 0.9, 0.2, 0.2, 1.0, dots=(40, 1.4, 0.1), lamellae=3, mass=0.95),
}


@dataclass(frozen=True)
class Style:
    """How a center exposes and exports; spans are drawn from once an image.

    `blur` is in units, `noise` a standard deviation on a range of 1, `tilt` the largest rotation
    in degrees, `quality` the JPEG's.
    """

    background: Span
    contrast: Span
    gamma: Span
    blur: Span
    noise: Span
    zoom: Span
    tilt: float
    quality: tuple[int, int]


STYLES = {
    1: Style((0.03, 0.16), (0.92, 1.05), (0.9, 1.15), (0.15, 0.3), (0.006, 0.014),
             (0.94, 1.06), 6, (88, 96)),
    2: Style((0.0, 0.26), (0.95, 1.25), (0.75, 1.35), (0.2, 0.55), (0.012, 0.035),
             (0.98, 1.18), 11, (75, 92)),
    3: Style((0.10, 0.34), (1.05, 1.4), (0.65, 1.5), (0.35, 0.75), (0.02, 0.05),
             (1.05, 1.3), 18, (60, 85)),
}  # fmt: skip


def draw(record: Record, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray], int]:
    """Draw one radiograph; `rng` draws what belongs to this view alone.

    Returns:
        The image (height, width) uint8; the outlines of its visible lesions, each (N, 2) float64
        (x, y) in pixels; and the JPEG quality that its center exports at.
    """
    patient, style = record.patient, STYLES[record.patient.center]
    shared = np.random.default_rng(record.anatomy_seed)
    girth, flesh, side = shared.uniform(0.92, 1.1), shared.uniform(0.8, 1.2), shared.choice([-1, 1])
    template = TEMPLATES[patient.template]
    bones = posed(template, TURNS[record.view], rng.uniform(), girth)
    places = [Place.of(bones[site.bone], site, side) for site in patient.sites]
    film = _blank_film(record, style, places, rng)
    for bone in bones.values():
        film.add_bone(bone)
    film.add_flesh(template.flesh * flesh)
    masks = [_draw_lesion(film, place, LOOKS[patient.subtype], shared) for place in places]
    image = _developed(film, record.size, style, rng)
    _draw_marks(image, record, rng)
    stretch = np.divide(record.size, film.bone.shape[::-1])
    edge = np.subtract(record.size, 1)
    seen = [_outline(mask) for mask in masks if np.count_nonzero(mask) >= 30]
    outlines = [np.clip((outline + 0.5) * stretch, 1, edge) for outline in seen]
    return image, outlines, int(rng.integers(*style.quality))


# --- film ------------------------------------------------------------------------------------


@dataclass
class Film:
    """The canvas: layers `bone` and `soft`, smooth noise `texture` (height, width) float32.

    `affine` (2, 3) maps units to pixels; `unit` is how many pixels a unit is long.
    """

    bone: np.ndarray
    soft: np.ndarray
    texture: np.ndarray
    affine: np.ndarray
    unit: float

    def fixed(self, points: np.ndarray) -> np.ndarray:
        """Points in units (N, 2) to pixels as OpenCV's integers with 4 fractional bits."""
        pixels = points @ self.affine[:, :2].T + self.affine[:, 2]
        return np.round(pixels * 16).astype(np.int32)

    def filled(self, outlines: Sequence[np.ndarray], blur: float = 0.18) -> np.ndarray:
        """Union of polygons in units as a mask (height, width) in [0, 1], blurred by `blur`."""
        mask = np.zeros(self.bone.shape, np.uint8)
        for outline in outlines:
            cv2.fillPoly(mask, [self.fixed(outline)], 255, cv2.LINE_AA, shift=4)
        mask = cv2.GaussianBlur(mask, (0, 0), max(0.4, blur * self.unit))
        return mask.astype(np.float32) / 255

    def mix(self, mask: np.ndarray, level: float) -> None:
        """Replace bone by `level` where `mask` is 1."""
        self.bone += mask * (level - self.bone)

    def add_bone(self, bone: Bone) -> None:
        """Add a bone: bright cortex below its surface, darker marrow with trabecular texture."""
        outline = self.fixed(bone.outline)
        x0, y0 = np.maximum(outline.min(0) // 16 - 2, 0)
        x1, y1 = np.minimum(outline.max(0) // 16 + 3, self.bone.shape[::-1])
        if x1 <= x0 or y1 <= y0:
            return
        window = np.s_[y0:y1, x0:x1]
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(mask, [outline - (x0 * 16, y0 * 16)], 1, shift=4)
        framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        depth = cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1] / self.unit
        shaft = float(np.median(bone.widths))
        cortex = max(0.25 * shaft, 0.6)
        marrow = 0.55 + 0.06 * self.texture[window]
        value = marrow + (1 - marrow) * np.exp(-2 * (depth / cortex - 0.6) ** 2)
        value *= mask * np.float32(bone.level * min(1.1, (shaft / 6) ** 0.25))
        below = self.bone[window]
        self.bone[window] = np.maximum(below, value) + 0.3 * np.minimum(below, value)

    def add_flesh(self, depth: float) -> None:
        """Wrap soft tissue, `depth` units deep, around the bones drawn so far."""
        away = cv2.distanceTransform((self.bone == 0).astype(np.uint8), cv2.DIST_L2, 5)
        inside = np.clip(1 - away / (depth * self.unit), 0, 1)
        thickness = np.sqrt(1 - (1 - inside) ** 2)
        reach = max(1, round(0.3 * depth * self.unit))
        self.soft = cv2.blur(thickness, (reach, reach))


def _noise(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth noise (height, width), about N(0, 1), `cells` grid cells along the long side."""
    grid = [max(2, round(length * cells / max(shape))) for length in shape]
    coarse = rng.standard_normal(grid, dtype=np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _blank_film(
    record: Record, style: Style, places: list["Place"], rng: np.random.Generator
) -> Film:
    """A film of 256 to 640 pixels, turned and zoomed, the first lesion well inside."""
    shrink = np.clip(max(record.size), 256, 640) / max(record.size)
    size = np.maximum(np.round(np.multiply(record.size, shrink)), 64).astype(int)
    box = np.array(TEMPLATES[record.patient.template].box)
    unit = float((size / box).max() * rng.uniform(*style.zoom))
    angle = np.radians(rng.uniform(-style.tilt, style.tilt))
    matrix = unit * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if record.patient.left:
        matrix = matrix @ np.diag([-1.0, 1.0])
    offset = size / 2 - matrix @ (box * (0.5 + rng.uniform(-0.06, 0.06, 2)))
    if places:
        spot = matrix @ places[0].to_units(np.array([0, places[0].width * 0.6])) + offset
        margin = np.minimum(15 * unit, 0.4 * size)
        offset += np.clip(spot, margin, size - margin) - spot
    shape = (int(size[1]), int(size[0]))
    bone, soft = np.zeros((2, *shape), np.float32)
    return Film(bone, soft, _noise(rng, shape, 80), np.column_stack([matrix, offset]), unit)


# --- lesions ---------------------------------------------------------------------------------


@dataclass
class Place:
    """Where a lesion is drawn: `point` on the bone's axis, the bone's half-width `width` there.

    Unit vectors `along` the bone, away from the joint, and `out` to the lesion's side.
    """

    point: np.ndarray
    along: np.ndarray
    out: np.ndarray
    width: float

    @classmethod
    def of(cls, bone: Bone, site: Site, side: int) -> "Place":
        """The place of a site on a posed bone, on the side -1 or 1 of it."""
        away = -1 if site.fraction > 0.5 else 1
        width = max(float(bone.half_width(site.fraction)), 2.2)
        return cls(bone.at(site.fraction), bone.along * away, bone.across * side, width)

    def to_units(self, offsets: np.ndarray) -> np.ndarray:
        """Offsets (…, 2) as (along, out) to points in units."""
        return self.point + offsets[..., :1] * self.along + offsets[..., 1:] * self.out

    def blob(
        self, middle: Sequence[float], along: float, out: float, rng: np.random.Generator
    ) -> np.ndarray:
        """A rounded outline (32, 2) in units around the offset `middle`, with two half-axes."""
        angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        order, phase = np.arange(2, 7)[:, None], rng.uniform(0, 2 * np.pi, (5, 1))
        waves = rng.normal(0, 0.2, (5, 1)) / order * np.cos(order * angle + phase)
        radius = np.clip(1 + waves.sum(0), 0.65, 1.35)
        circle = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return self.to_units(middle + circle * (along, out))


def _draw_lesion(film: Film, place: Place, look: Look, rng: np.random.Generator) -> np.ndarray:
    """Draw one lesion and return its mask (height, width), bool."""
    reach = rng.uniform(*look.reach)
    axes = np.array([reach, look.aspect * reach])
    middle = np.array([0, look.outward * (place.width + 0.6 * axes[1])])
    outlines = [place.blob(middle, *axes, rng)]
    edge = film.filled(outlines, 0.7)
    film.mix(film.filled(outlines, look.blur), look.level)
    if look.septa:
        walls = np.exp(-((_noise(rng, edge.shape, 24) / 0.25) ** 2))
        film.mix(walls * film.filled(outlines), look.septa)
    if look.rim:
        film.mix(4 * edge * (1 - edge), look.rim)
    if look.mass:
        outlines.append(place.blob((0, place.width + 0.25 * reach), *(0.9 * axes), rng))
        film.soft += look.mass * film.filled(outlines[1:], 1.4)
    count, radius, level = look.dots
    angle, distance = rng.uniform(0, 2 * np.pi, count), 0.75 * np.sqrt(rng.uniform(0, 1, count))
    spots = middle + axes * np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)
    radii = rng.uniform(0.45 * radius, radius, count)
    dots = [place.blob(spot, size, size, rng) for spot, size in zip(spots, radii, strict=True)]
    for details, brightness in ((dots, level), (_periosteum(place, look, reach, rng), 1.45)):
        if details:
            film.mix(film.filled(details), brightness)
    return film.filled(outlines) > 0.5


def _periosteum(
    place: Place, look: Look, reach: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Periosteal reaction as polygons in units: rays out of the cortex, layers along it."""
    polygons = []
    steps = np.linspace(-1, 1, 15)
    for side, size in ((1, reach), (-1, 0.5 * reach)):
        for root in np.linspace(-0.8, 0.8, look.spicules) * size:
            tip = (1.5 * root + rng.normal(0, 0.6), rng.uniform(0.5, 1.1) * size)
            ray = np.array([(root - 0.6, 0), tip, (root + 0.6, 0)])
            ray[:, 1] = side * (ray[:, 1] + 0.9 * place.width)
            polygons.append(ray)
        for layer in range(look.lamellae):
            height = place.width + (1.3 + 1.5 * layer) * (1.1 - steps**2)
            above = np.stack([steps * reach, side * height], axis=1)
            polygons.append(np.concatenate([above, above[::-1] - (0, 0.6 * side)]))
    return [place.to_units(polygon) for polygon in polygons]


def _outline(mask: np.ndarray) -> np.ndarray:
    """The largest contour of a mask (height, width), as 12 to 32 points (N, 2)."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contour = max(contours, key=cv2.contourArea)[:, 0].astype(float)
    count = int(np.clip(len(contour) // 6, 12, 32))
    return contour[np.linspace(0, len(contour), count, endpoint=False).astype(int)]


# --- exposure and marks ----------------------------------------------------------------------


def _developed(
    film: Film, size: tuple[int, int], style: Style, rng: np.random.Generator
) -> np.ndarray:
    """Turn the layers into grey values (height, width) uint8 of the image's size."""
    height, width = shape = film.bone.shape
    soft = film.soft * (1 + 0.05 * _noise(rng, shape, 9))
    value = 0.38 * soft + 0.48 * film.bone * (0.8 + 0.2 * film.soft)
    value = cv2.GaussianBlur(value, (0, 0), max(0.3, rng.uniform(*style.blur) * film.unit))
    value = np.clip(rng.uniform(*style.contrast) * value, 0, 1.15) / 1.15
    background = rng.uniform(*style.background)
    value = background + (1 - background) * value ** rng.uniform(*style.gamma)
    value += np.linspace(-0.5, 0.5, width, dtype=np.float32) * rng.uniform(-0.08, 0.08)
    if rng.uniform() < 0.3:
        left, top, right, bottom = (rng.uniform(0, 0.05, 4) * max(shape)).astype(int)
        field = np.full_like(value, 0.12)
        field[top : height - bottom, left : width - right] = 1
        value *= cv2.GaussianBlur(field, (0, 0), 1.2)
    smaller = max(size) < max(shape)
    image = cv2.resize(value, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    image += rng.uniform(*style.noise) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image * 255, 0, 255).astype(np.uint8)


def _draw_marks(image: np.ndarray, record: Record, rng: np.random.Generator) -> None:
    """Burn in the side letter, where the center has one, and center 3's watermark."""
    height, width = image.shape
    center, size, thick = record.patient.center, min(image.shape), max(1, min(image.shape) // 260)
    where = int(width * rng.choice([0.06, 0.86])), int(height * rng.uniform(0.12, 0.9))
    marks = [("MedPix", (int(width * 0.8), int(height * 0.04)), 700)] if center == 3 else []
    if rng.uniform() < (0.85, 0.6, 0.35)[center - 1]:
        marks.append(("L" if record.patient.left else "R", where, 420))
    for text, spot, shrink in marks:
        cv2.putText(image, text, spot, FONT, size / shrink, 235, thick, cv2.LINE_AA)
