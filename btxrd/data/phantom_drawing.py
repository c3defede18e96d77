"""Drawing of the phantom: bones, soft tissue, lesions, film and marks, with numpy and OpenCV.

A `Film` maps the units of `phantom_anatomy` to pixels. Two layers are drawn, `bone` and `soft`
(attenuation, float32), and developed into grey values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from btxrd.data.phantom_anatomy import ALONG, TEMPLATES, Bone, Site, View, anatomy_of

__all__ = ["draw_view"]

Array = np.ndarray

# --- film ------------------------------------------------------------------------------------


@dataclass
class Film:
    """The canvas: layers `bone`, `soft` and noise `texture` (height, width), float32; the affine
    map (2, 3) from units to pixels, and `unit`, the pixels a unit is long."""

    bone: Array
    soft: Array
    texture: Array
    affine: Array
    unit: float

    def pixels(self, points: Array) -> Array:
        """Points in units (N, 2) to pixel coordinates (N, 2)."""
        return points @ self.affine[:, :2].T + self.affine[:, 2]

    def fill(self, *shapes: Array, blur: float = 0.0) -> Array:
        """Union of polygons in units as a mask (height, width) in [0, 1], blurred by `blur`."""
        mask = np.zeros(self.bone.shape, np.uint8)
        for shape in shapes:
            cv2.fillPoly(mask, [_fixed(self.pixels(shape))], 255, cv2.LINE_AA, shift=4)
        return self.soften(mask, blur)

    def strokes(self, lines: Sequence[Array], width: float, blur: float = 0.0) -> Array:
        """Open polylines in units as a mask (height, width) in [0, 1]."""
        mask = np.zeros(self.bone.shape, np.uint8)
        paths = [_fixed(self.pixels(line)) for line in lines]
        thickness = max(1, round(width * self.unit))
        cv2.polylines(mask, paths, False, 255, thickness, cv2.LINE_AA, shift=4)
        return self.soften(mask, blur)

    def dots(self, centers: Array, radii: Array, blur: float = 0.0) -> Array:
        """Discs in units as a mask (height, width) in [0, 1]."""
        mask = np.zeros(self.bone.shape, np.uint8)
        for center, radius in zip(_fixed(self.pixels(centers)), radii, strict=True):
            size = max(12, round(radius * self.unit * 16))
            cv2.circle(mask, center.tolist(), size, 255, -1, cv2.LINE_AA, shift=4)
        return self.soften(mask, blur)

    def soften(self, mask: Array, blur: float) -> Array:
        """uint8 mask to float32 in [0, 1], Gaussian-blurred by `blur` units."""
        if blur:
            mask = cv2.GaussianBlur(mask, (0, 0), max(0.4, blur * self.unit))
        return mask.astype(np.float32) / 255

    def mix(self, mask: Array, level: float | Array) -> None:
        """Replace bone by `level` where `mask` is 1."""
        self.bone += mask * (level - self.bone)

    def brighten(self, mask: Array, level: float) -> None:
        """Raise bone to `level` where `mask` is 1."""
        np.maximum(self.bone, mask * level, out=self.bone)


def _fixed(points: Array) -> Array:
    """Pixel coordinates as OpenCV's fixed-point integers with 4 fractional bits."""
    return np.round(np.asarray(points) * 16).astype(np.int32)


def _noise(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Array:
    """Smooth noise (height, width), about N(0, 1), `cells` grid cells along the long side."""
    step = max(shape) / cells
    grid = (max(2, round(shape[0] / step)), max(2, round(shape[1] / step)))
    small = rng.standard_normal(grid, dtype=np.float32)
    return cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _draw_bone(film: Film, bone: Bone, young: bool) -> None:
    """Add a bone: bright cortex at its edge, darker marrow, trabecular texture, growth plates."""
    shapes = [_fixed(film.pixels(shape)) for shape in (bone.outline, *bone.lobes)]
    points = np.concatenate(shapes) / 16
    height, width = film.bone.shape
    x0, y0 = np.maximum(np.floor(points.min(0)).astype(int) - 2, 0)
    x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + 3, (width, height))
    if x1 <= x0 or y1 <= y0:
        return
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    for shape in shapes:
        cv2.fillPoly(mask, [shape - (x0 * 16, y0 * 16)], 1, shift=4)
    depth = cv2.distanceTransform(cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_REPLICATE),
                                  cv2.DIST_L2, 3)[1:-1, 1:-1] / film.unit  # fmt: skip
    start, end = film.pixels(np.stack([bone.start, bone.end]))
    axis = (end - start) / np.sum((end - start) ** 2)
    xs = (np.arange(x0, x1) - start[0]) * axis[0]
    ys = (np.arange(y0, y1) - start[1]) * axis[1]
    along = np.clip(xs[None, :] + ys[:, None], 0, 1).astype(np.float32)
    half_width = np.maximum(bone.half_width, 0.6)
    shaft = np.median(half_width)
    table = np.clip(bone.cortex * shaft**2 / half_width, 0.45, bone.cortex * shaft)
    spongy = np.clip(half_width / shaft - 1, 0, 1)
    index = np.round(along * (len(ALONG) - 1)).astype(np.intp)
    layers = depth / table.astype(np.float32)[index]
    marrow = (0.5 + 0.14 * spongy.astype(np.float32))[index]
    rise = np.minimum(0.35 + layers * 1.6, 1)
    fall = np.clip((layers - 0.8) / 1.1, 0, 1)
    value = rise * (1 - fall * (1 - marrow)) * bone.level * min(1.1, (shaft / 6) ** 0.25)
    texture = film.texture[y0:y1, x0:x1]
    value *= 1 + (0.03 + 0.05 * spongy.astype(np.float32)[index]) * texture
    for physis in bone.physes if young else ():
        value *= 1 - 0.4 * np.exp(-(((along - physis) / 0.012) ** 2))
    value *= mask
    below = film.bone[y0:y1, x0:x1]
    film.bone[y0:y1, x0:x1] = np.maximum(below, value) + 0.3 * np.minimum(below, value)


def _draw_flesh(film: Film, flesh: list[Bone]) -> None:
    """Set the soft layer: thickness of a rounded limb, 0 outside to about 1 in its middle."""
    mask = np.zeros(film.soft.shape, np.uint8)
    for tube in flesh:
        cv2.fillPoly(mask, [_fixed(film.pixels(tube.outline))], 1, shift=4)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3) / film.unit
    thickness = np.sqrt(1 - (1 - np.clip(depth / 15, 0, 1)) ** 2)
    film.soft[:] = cv2.GaussianBlur(thickness, (0, 0), 0.45 * film.unit)


# --- lesions ---------------------------------------------------------------------------------


@dataclass
class Place:
    """Where a lesion is drawn: `point` on the axis, unit vectors `along` (away from the joint)
    and `out` (to the lesion's side), and the bone's half-width `width` there, in units."""

    point: Array
    along: Array
    out: Array
    width: float

    def to_units(self, offsets: Array) -> Array:
        """Offsets (…, 2) as (along, out) to points in units."""
        return self.point + offsets[..., :1] * self.along + offsets[..., 1:] * self.out


def _place(bone: Bone, site: Site, side: int) -> Place:
    along = (bone.end - bone.start) / np.linalg.norm(bone.end - bone.start)
    width = float(np.interp(site.along, ALONG, bone.left if side > 0 else bone.right))
    away = -1 if site.along > 0.5 else 1
    return Place(bone.at(site.along), along * away, bone.normal * side, max(width, 2.2))


def _blob(
    place: Place,
    along: float,
    out: float,
    rng: np.random.Generator,
    shift: tuple[float, float] = (0, 0),
    rough: float = 0.1,
) -> Array:
    """A rounded outline (48, 2) in units with half-axes `along` and `out`."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = np.ones_like(angle)
    for order in range(2, 7):
        radius += rough / order * 2 * rng.normal() * np.cos(order * angle + rng.uniform(0, 6.3))
    radius = np.clip(radius, 0.6, 1.4)
    offsets = np.stack([along * radius * np.cos(angle), out * radius * np.sin(angle)], axis=1)
    return place.to_units(offsets + shift)


def _scatter(place: Place, along: float, out: float, count: int, rng: np.random.Generator) -> Array:
    """Random points (count, 2) in units inside an ellipse."""
    angle, radius = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0, 1, count))
    offsets = np.stack([along * radius * np.cos(angle), out * radius * np.sin(angle)], axis=1)
    return place.to_units(offsets)


def _closed(outline: Array) -> Array:
    return np.concatenate([outline, outline[:1]])


def _osteochondroma(film: Film, place: Place, rng: np.random.Generator) -> Array:
    """Exostosis: a stalk leaning away from the joint, with a bright lobulated cap."""
    length, cap, lean = rng.uniform((4.5, 7.4, 1.0), (7.5, 9.4, 4.5))
    base = place.width * 0.75
    tip = base + length
    stalk = place.to_units(
        np.array([(-4.6, base), (lean - 2.8, tip), (lean + 2.8, tip), (4.6, base)])
    )
    crown = _blob(place, cap * 1.15, cap, rng, (lean, tip + 0.3 * cap), rough=0.12)
    mask = film.fill(stalk, crown)
    film.brighten(film.soften((mask * 255).astype(np.uint8), 0.25), 1.3)
    film.brighten(film.strokes([_closed(crown)], 1.5, blur=0.2), 1.6)
    knots = _scatter(Place(place.to_units(np.array([lean, tip + 0.3 * cap])), place.along,
                           place.out, cap), cap * 0.8, cap * 0.7, 7, rng)  # fmt: skip
    film.brighten(film.dots(knots, rng.uniform(0.7, 1.4, 7), blur=0.2), 1.5)
    return mask


def _bone_cyst(film: Film, place: Place, rng: np.random.Generator) -> Array:
    """Central lucency, longer than wide, slightly expansile, with a thin sclerotic rim."""
    out = float(np.clip(place.width * rng.uniform(1.2, 1.5), 7.4, 11))
    outline = _blob(place, out * rng.uniform(1.4, 1.8), out, rng, rough=0.05)
    mask = film.fill(outline)
    film.mix(film.fill(outline, blur=0.2), 0.06 + 0.02 * film.texture)
    film.brighten(film.strokes([_closed(outline)], 1.7, blur=0.2), 1.5)
    return mask


def _giant_cell_tumour(film: Film, place: Place, rng: np.random.Generator) -> Array:
    """Eccentric round lucency at the bone's end, with soap-bubble septa and a thin shell."""
    radius = float(np.clip(place.width * rng.uniform(0.95, 1.2), 8.4, 12))
    outline = _blob(place, radius, radius, rng, (0, place.width * 0.35), rough=0.08)
    mask = film.fill(outline)
    film.mix(film.fill(outline, blur=0.25), 0.08)
    centers = _scatter(place, radius * 0.8, radius * 0.8, 5, rng)
    rings = [_closed(_blob(Place(c, place.along, place.out, 1), radius * 0.5, radius * 0.45, rng))
             for c in centers]  # fmt: skip
    film.brighten(film.strokes(rings, 0.5, blur=0.2) * mask, 0.55)
    film.brighten(film.strokes([_closed(outline)], 1.6, blur=0.25), 1.4)
    return mask


def _osteofibroma(film: Film, place: Place, rng: np.random.Generator) -> Array:
    """A chain of small cortical lucencies in a dense sclerotic band."""
    height = place.width * 0.6
    band = _blob(place, rng.uniform(11, 14), 7.2, rng, (0, height), rough=0.06)
    film.mix(film.fill(band, blur=0.5), 1.35)
    for step in np.linspace(-7, 7, 3) + rng.normal(0, 0.4, 3):
        hole = _blob(place, 2.8, rng.uniform(3.6, 4.6), rng, (step, height), rough=0.08)
        film.mix(film.fill(hole, blur=0.2), 0.15)
    return film.fill(band)


def _loose_bodies(film: Film, place: Place, rng: np.random.Generator) -> Array:
    """Several calcified bodies around a joint, bright rims and paler middles."""
    reach = float(np.clip(place.width, 6, 12))
    hub = Place(place.to_units(np.array([0, reach * 0.9])), place.along, place.out, reach)
    count = int(rng.integers(6, 10))
    centers = _scatter(hub, 10.0, 8.0, count, rng)
    radii = rng.uniform(2.6, 4.0, count)
    film.brighten(film.dots(centers, radii, blur=0.2), 1.45)
    film.mix(film.dots(centers, radii * 0.4, blur=0.2), 0.75)
    ring = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    rims = [c + 1.1 * r * np.stack([np.cos(ring), np.sin(ring)], 1)
            for c, r in zip(centers, radii, strict=True)]  # fmt: skip
    hull = cv2.convexHull(np.concatenate(rims).astype(np.float32))[:, 0]
    return film.fill(hull)


def _other_benign(film: Film, place: Place, rng: np.random.Generator) -> Array:
    """Either a lobulated chondroid lucency with calcified dots or a scalloped cortical defect."""
    chondroid = rng.uniform() < 0.5
    out = float(np.clip(place.width * (1.1 if chondroid else 1.0), 7.6, 11.0))
    shift = (0.0, 0.0) if chondroid else (0.0, place.width * 0.5)
    outline = _blob(place, out * 1.35, out, rng, shift, rough=0.16)
    film.mix(film.fill(outline, blur=0.3), 0.08)
    film.brighten(film.strokes([_closed(outline)], 1.5 if chondroid else 2.0, blur=0.25), 1.45)
    if chondroid:
        dots = _scatter(place, out * 1.0, out * 0.7, 10, rng)
        film.brighten(film.dots(dots, rng.uniform(0.6, 1.1, 10), blur=0.15), 1.3)
    return film.fill(outline)


def _soft_mass(film: Film, place: Place, size: float, rng: np.random.Generator) -> Array:
    """A hazy mass on the lesion's side of the bone; returns its outline."""
    outline = _blob(place, size * 1.05, size * 0.95, rng, (0, place.width + size * 0.3), rough=0.1)
    film.soft += 0.95 * film.fill(outline, blur=1.4)
    return outline


def _osteosarcoma(film: Film, place: Place, rng: np.random.Generator) -> Array:
    """Patchy destruction, cloudy tumour bone, sunburst spicules, soft-tissue mass."""
    size = rng.uniform(9.5, 11.5) + 0.22 * min(place.width, 10)
    mass = _soft_mass(film, place, size, rng)
    core = _blob(place, size, place.width + 1.5, rng, rough=0.2)
    patches = np.clip(film.texture * 0.8 + 0.55, 0, 1)
    film.mix(film.fill(core, blur=0.9) * patches, 0.16)
    clouds = _scatter(place, size * 0.9, place.width + 2.5, 16, rng)
    film.brighten(film.dots(clouds, rng.uniform(0.9, 2.3, 16), blur=0.7), 1.5)
    rays = []
    for side, count in ((1, 17), (-1, int(rng.integers(4, 10)))):
        for root in np.linspace(-0.8, 0.8, count) * size:
            reach = rng.uniform(0.55, 1.0) * size * (1.0 if side > 0 else 0.6)
            reach *= 1 - 0.4 * (root / size) ** 2
            foot = np.array([root, side * place.width * 0.9])
            tip = np.array([root * 1.55 + rng.normal(0, 0.6), side * reach + foot[1]])
            rays.append(np.stack([foot, tip]))
    film.brighten(film.strokes([place.to_units(ray) for ray in rays], 0.8, blur=0.18), 1.45)
    return film.fill(mass, core)


def _other_malignant(film: Film, place: Place, rng: np.random.Generator) -> Array:
    """Moth-eaten destruction, broken cortex, lamellated periosteal reaction, soft-tissue mass."""
    size = rng.uniform(9.5, 11.5) + 0.22 * min(place.width, 10)
    mass = _soft_mass(film, place, size * 0.9, rng)
    core = _blob(place, size, place.width + 0.8, rng, rough=0.15)
    film.mix(film.fill(core, blur=1.0) * 0.45, 0.2)
    holes = _scatter(place, size, place.width + 0.6, 60, rng)
    film.mix(film.dots(holes, rng.uniform(0.6, 1.4, 60), blur=0.25), 0.1)
    steps = np.linspace(-1, 1, 15)
    for side in (1, -1):
        lamellae = [
            place.to_units(
                np.stack([steps * size * (1.05 - 0.08 * layer),
                          side * (place.width + (1.3 + 1.5 * layer) * (1.1 - steps**2))], axis=1)
            )
            for layer in range(3)
        ]  # fmt: skip
        film.brighten(film.strokes(lamellae, 0.55, blur=0.15), 1.05)
    return film.fill(mass, core)


LESIONS: dict[str, Callable[[Film, Place, np.random.Generator], Array]] = {
    "osteochondroma": _osteochondroma,
    "multiple osteochondromas": _osteochondroma,
    "simple bone cyst": _bone_cyst,
    "giant cell tumor": _giant_cell_tumour,
    "osteofibroma": _osteofibroma,
    "synovial osteochondroma": _loose_bodies,
    "other bt": _other_benign,
    "osteosarcoma": _osteosarcoma,
    "other mt": _other_malignant,
}


def _draw_lesions(film: Film, view: View, places: list[Place]) -> list[Array]:
    """Draw the view's lesions; return the outlines (N, 2) of the visible ones in pixels."""
    outlines = []
    for index, place in enumerate(places):
        rng = np.random.default_rng([*view.anatomy_seed, 10 + index])
        mask = LESIONS[view.subtype](film, place, rng)
        outline = _outline(mask)
        if outline is not None:
            outlines.append(outline)
    return outlines


def _outline(mask: Array) -> Array | None:
    """The longest contour of a mask (height, width), resampled to 12 to 32 points; or None."""
    contours, _ = cv2.findContours(
        (mask > 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    contours = [contour[:, 0] for contour in contours if cv2.contourArea(contour) >= 30]
    if not contours:
        return None
    contour = max(contours, key=cv2.contourArea).astype(float)
    count = int(np.clip(len(contour) // 6, 12, 32))
    return contour[np.linspace(0, len(contour), count, endpoint=False).astype(int)]


# --- exposure, marks, the whole view ---------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """How a center exposes and exports: (low, high) ranges, one draw an image; chances."""

    background: tuple[float, float]
    contrast: tuple[float, float]
    gamma: tuple[float, float]
    blur: tuple[float, float]
    noise: tuple[float, float]
    zoom: tuple[float, float]
    tilt: float
    collimation: float
    quality: tuple[int, int]


STYLES = {
    1: Style((0.03, 0.16), (0.92, 1.05), (0.9, 1.15), (0.15, 0.3), (0.006, 0.014),
             (0.94, 1.06), 6, 0.3, (88, 96)),
    2: Style((0.0, 0.26), (0.95, 1.25), (0.75, 1.35), (0.2, 0.55), (0.012, 0.035),
             (0.98, 1.18), 11, 0.5, (75, 92)),
    3: Style((0.10, 0.34), (1.05, 1.4), (0.65, 1.5), (0.35, 0.75), (0.02, 0.05),
             (1.05, 1.3), 18, 0.2, (60, 85)),
}  # fmt: skip


def draw_view(view: View) -> tuple[Array, list[Array], int]:
    """Draw one radiograph.

    Returns the image (height, width) uint8, the outlines of its visible lesions, each (N, 2)
    float64 (x, y) in pixels of the image, and the JPEG quality its center exports at.
    """
    rng = np.random.default_rng(view.view_seed)
    style = STYLES[view.center]
    width, height = view.size
    shrink = float(np.clip(max(view.size), 256, 640)) / max(view.size)
    shape = (max(64, round(height * shrink)), max(64, round(width * shrink)))
    anatomy = anatomy_of(view, flex=rng.uniform(0, 38))
    side = 1 if np.random.default_rng([*view.anatomy_seed, 1]).uniform() < 0.5 else -1
    places = [_place(anatomy.bones[site.bone], site, side) for site in view.sites]
    affine, unit = _projection(view, style, shape, places, rng)
    zeros = np.zeros(shape, np.float32)
    film = Film(zeros.copy(), zeros, _noise(rng, shape, 80), affine, unit)
    _draw_flesh(film, anatomy.flesh)
    for bone in anatomy.bones.values():
        _draw_bone(film, bone, view.age < 17)
    outlines = _draw_lesions(film, view, places)
    image = _develop(film, view, style, rng)
    factor = np.array([width / shape[1], height / shape[0]])
    outlines = [np.clip((outline + 0.5) * factor, 1, (width - 1, height - 1))
                for outline in outlines]  # fmt: skip
    return image, outlines, int(rng.integers(*style.quality))


def _projection(
    view: View,
    style: Style,
    shape: tuple[int, int],
    places: list[Place],
    rng: np.random.Generator,
) -> tuple[Array, float]:
    """The affine map (2, 3) from units to pixels, the first lesion well inside, and its scale."""
    height, width = shape
    box = np.array(TEMPLATES[view.template].box)
    unit = max(width / box[0], height / box[1]) * rng.uniform(*style.zoom)
    angle = np.radians(rng.uniform(-style.tilt, style.tilt))
    matrix = unit * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if view.left:
        matrix = matrix @ np.diag([-1.0, 1.0])
    size = np.array([width, height])
    focus = box * (0.5 + rng.uniform(-0.06, 0.06, 2))
    offset = size / 2 - matrix @ focus
    if places:
        first = places[0].to_units(np.array([0, places[0].width * 0.6]))
        spot = matrix @ first + offset
        margin = np.minimum(15 * unit, 0.4 * size)
        offset = offset + np.clip(spot, margin, size - margin) - spot
    return np.column_stack([matrix, offset]), unit


def _develop(film: Film, view: View, style: Style, rng: np.random.Generator) -> Array:
    """Turn the layers into grey values (height, width) uint8 at the view's size."""
    shape = film.bone.shape
    background, contrast, gamma, blur, noise = (
        rng.uniform(*span)
        for span in (style.background, style.contrast, style.gamma, style.blur, style.noise)
    )
    soft = film.soft * (1 + 0.05 * _noise(rng, shape, 9))
    value = 0.38 * soft + 0.48 * film.bone * (0.8 + 0.2 * film.soft)
    value = cv2.GaussianBlur(value, (0, 0), max(0.3, blur * film.unit))
    value = np.clip(contrast * value, 0, 1.15) / 1.15
    value = background + (1 - background) * value**gamma
    ramp = np.linspace(-0.5, 0.5, shape[1], dtype=np.float32) * rng.uniform(-0.08, 0.08)
    value = value + ramp
    if rng.uniform() < style.collimation:
        value = _collimate(value, rng)
    image = cv2.resize(value, view.size, interpolation=cv2.INTER_AREA
                       if max(view.size) < max(shape) else cv2.INTER_LINEAR)  # fmt: skip
    image += noise * rng.standard_normal(image.shape, dtype=np.float32)
    image = np.clip(image * 255, 0, 255).astype(np.uint8)
    return _draw_marks(image, view, rng)


def _collimate(value: Array, rng: np.random.Generator) -> Array:
    """Darken a border outside the collimated field."""
    height, width = value.shape
    edges = rng.uniform(0, 0.05, 4) * (width, height, width, height)
    left, top, right, bottom = edges.astype(int)
    field_mask = np.full_like(value, 0.12)
    field_mask[top : height - bottom, left : width - right] = 1
    return value * cv2.GaussianBlur(field_mask, (0, 0), 1.2)


def _draw_marks(image: Array, view: View, rng: np.random.Generator) -> Array:
    """Burn in the side letter as the center does, and center 3's watermark and footer."""
    height, width = image.shape
    size = min(height, width)
    letter = "L" if view.left else "R"
    if view.center == 1 and rng.uniform() < 0.05:
        letter = "Left" if view.left else "Right"
    x = int(width * (rng.uniform(0.03, 0.1) if rng.uniform() < 0.5 else rng.uniform(0.82, 0.92)))
    y = int(height * rng.uniform(0.12, 0.9))
    scale, thick = size / 420, max(1, size // 260)
    font = cv2.FONT_HERSHEY_SIMPLEX
    if rng.uniform() < (0.85, 0.6, 0.35)[view.center - 1]:
        cv2.putText(image, letter, (x, y), font, scale, 235, thick, cv2.LINE_AA)
        if view.center == 2:
            (wide, high), _ = cv2.getTextSize(letter, font, scale, thick)
            middle = (x + wide // 2, y - high // 2)
            cv2.circle(image, middle, int(high * 1.1), 235, thick, cv2.LINE_AA)
    if view.center == 3:
        spot = (int(width * 0.8), int(height * 0.04))
        cv2.putText(image, "MedPix", spot, font, size / 700, 190, thick, cv2.LINE_AA)
        image[height - max(4, height // 60) :] = 0
        cv2.putText(image, "Uploader: A. Phantom Source: btxrd", (2, height - 2), font,
                    size / 1400, 150, 1, cv2.LINE_AA)  # fmt: skip
    return image
