"""How well maps find lesions, against what it takes no trained network to reach.

Three references stand beside every score: chance (the area of the mask), a bump at the centre of
the image, and the maps of the same network with weights drawn anew (Adebayo et al. 2018).

Maps are float (N, S, S) and at least 0, raw or scaled where nothing else is said; masks are
uint8 {0, 1} or bool (N, S, S). Other shapes, and thresholds outside (0, 1], are a ValueError.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from btxrd.evaluation.intervals import Bootstrap, Sample
from btxrd.evaluation.metrics import ratio

__all__ = [
    "SCORES",
    "SOURCES",
    "best_threshold",
    "cam_mask_iou",
    "center_prior",
    "chance_scores",
    "energy_inside",
    "localisation_scores",
    "localisation_table",
    "normalise_maps",
    "pointing_game",
    "reference_scores",
]

SCORES = ("iou", "iou_best", "pointing", "energy")
"""The scores of a map by column; all lie in [0, 1]."""

SOURCES = {
    "network": "",
    "attention": "_attention",
    "chance": "_chance",
    "center prior": "_center",
    "randomised weights": "_randomised",
}
"""Whose scores they are, and the ending of their columns: `iou_center`, `energy_chance`, …

The attention is that of a network that was taught it by the lesion masks, where it has one.
"""

TRAINED = ("network", "attention")
"""The sources that have learnt something; the others are what they are compared with."""

HITTING = [source for source in SOURCES if source != "chance"]
"""The sources whose maps have a peak that hits or does not."""

DEFAULT_THRESHOLD = 0.5
THRESHOLDS = tuple(np.arange(1, 20) / 20)


def normalise_maps(maps: np.ndarray) -> np.ndarray:
    """Scale each map to [0, 1], float32, by its own extremes; a constant map becomes 0."""
    lowest = maps.min(axis=(1, 2), keepdims=True)
    span = maps.max(axis=(1, 2), keepdims=True) - lowest
    scaled = maps - lowest
    scaled /= np.where(span > 0, span, 1)
    return scaled.astype(np.float32, copy=False)


def cam_mask_iou(maps: np.ndarray, masks: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Overlap of the hot part of each map (min-max scaled, at least `threshold`) with the lesion.

    Intersection over union (Selvaraju et al. 2017), with the mask itself instead of a box: (N,)
    in [0, 1]; NaN where the mask is empty; 0 where the map is constant.

    >>> maps = np.array([[[0.0, 1.0], [0.2, 0.8]]])
    >>> cam_mask_iou(maps, np.array([[[0, 1], [0, 0]]]))
    array([0.5])
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], not {threshold}")
    lesion = _lesions(maps, masks)
    hot = normalise_maps(maps) >= threshold
    intersection, area = _areas(hot & lesion), _areas(lesion)
    return _share(intersection, _areas(hot) + area - intersection, area > 0)


def pointing_game(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Whether the highest point of each map, the first of equals, lies in the lesion: (N,) bool.

    The pointing game of Zhang et al. (2018), without their margin. A constant map points nowhere
    and an empty mask cannot be hit: both give False.
    """
    lesion = _lesions(maps, masks)
    size = maps.shape[1] * maps.shape[2]
    peaks = maps.reshape(len(maps), size).argmax(axis=1)
    hit = np.take_along_axis(lesion.reshape(len(maps), size), peaks[:, None], axis=1)[:, 0]
    return hit & (maps.max(axis=(1, 2)) > maps.min(axis=(1, 2)))


def energy_inside(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Share of each raw map's sum that lies inside the lesion; min-max scaled maps give another.

    The energy-based pointing game of Wang et al. (2020), with the mask instead of a box: (N,) in
    [0, 1]; NaN where the map or the mask is empty.

    >>> energy_inside(np.array([[[0.0, 1.0], [0.0, 3.0]]]), np.array([[[0, 1], [1, 0]]]))
    array([0.25])
    """
    lesion = _lesions(maps, masks)
    total = maps.sum(axis=(1, 2), dtype=np.float64)
    inside = np.where(lesion, maps, 0).sum(axis=(1, 2), dtype=np.float64)
    return _share(inside, total, lesion.any(axis=(1, 2)) & (total > 0))


def _lesions(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise ValueError(f"maps {maps.shape} and masks {masks.shape} must both be (N, S, S)")
    return masks.astype(bool)


def _areas(flags: np.ndarray) -> np.ndarray:
    # Image by image: a sum over two axes takes ten times as long.
    return np.array([np.count_nonzero(flag) for flag in flags], dtype=np.int64)


def _share(part: np.ndarray, whole: np.ndarray, defined: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=defined)


def localisation_scores(maps: np.ndarray, masks: np.ndarray, threshold: float) -> pd.DataFrame:
    """Score each raw map against its lesion mask.

    Returns:
        N rows with the float64 columns `SCORES`: the IoU of the hot part at 0.5 and at
        `threshold`, 1 or 0 of the pointing game, and the share of energy inside. NaN where the
        mask is empty; a map that is 0 everywhere finds nothing and scores 0.
    """
    scores = pd.DataFrame(
        {
            "iou": cam_mask_iou(maps, masks),
            "iou_best": cam_mask_iou(maps, masks, threshold),
            "pointing": pointing_game(maps, masks).astype(float),
            "energy": np.nan_to_num(energy_inside(maps, masks)),
        }
    )
    scores.loc[~masks.any(axis=(1, 2))] = np.nan
    return scores


def chance_scores(masks: np.ndarray) -> pd.DataFrame:
    """Score a map that is equally hot everywhere: all `SCORES` are the mask's share of the square.

    That is what a random point hits, and the strictest chance for an IoU: pixels that are hot at
    random with probability f overlap most with a mask at f = 1. NaN where the mask is empty.
    """
    shares = masks.astype(bool).mean(axis=(1, 2))
    shares = np.where(shares > 0, shares, np.nan)
    return pd.DataFrame(dict.fromkeys(SCORES, shares))


def center_prior(size: int) -> np.ndarray:
    """Return a map that bets on the middle: a round Gaussian, its sd a quarter of the side.

    Radiographs are aimed at what is wrong, so a lesion is often near the middle.
    """
    offsets = np.arange(size) - (size - 1) / 2
    bump = np.exp(-0.5 * (offsets / (size / 4)) ** 2)
    return np.outer(bump, bump).astype(np.float32)


def best_threshold(maps: np.ndarray, masks: np.ndarray) -> float:
    """Find the threshold of the highest mean IoU over annotated images; choose it on val alone.

    It is the first best of the twentieths, or 0.5 where no mask holds a lesion.
    """
    annotated = masks.any(axis=(1, 2))
    if not annotated.any():
        return DEFAULT_THRESHOLD
    maps, masks = maps[annotated], masks[annotated]
    pairs = zip(maps, _lesions(maps, masks), strict=True)
    overlaps = np.mean([_overlaps(heat, lesion) for heat, lesion in pairs], axis=0)
    return float(THRESHOLDS[np.argmax(overlaps)])


def _overlaps(heat: np.ndarray, lesion: np.ndarray) -> np.ndarray:
    """Return `cam_mask_iou` of one map, (S, S), at each of `THRESHOLDS`, from one look at it."""
    reached = np.searchsorted(THRESHOLDS, normalise_maps(heat[None])[0], side="right")
    hot, hit = (_at_least(counts) for counts in (reached.ravel(), reached[lesion]))
    return hit / (hot + lesion.sum() - hit)


def _at_least(counts: np.ndarray) -> np.ndarray:
    """Return how many of these numbers of thresholds are at least 1, 2, …, all of them."""
    of_each = np.bincount(counts, minlength=len(THRESHOLDS) + 1)
    return of_each[::-1].cumsum()[-2::-1]


def reference_scores(
    maps: Mapping[str, np.ndarray], masks: np.ndarray, thresholds: Mapping[str, float]
) -> pd.DataFrame:
    """Score the maps of several sources, and chance, side by side.

    Args:
        maps: source (of `SOURCES`, without chance; those there are) → raw maps.
        thresholds: source → threshold of its `iou_best`.

    Returns:
        N rows; for each source the columns `SCORES` with its ending: `iou`, …, `iou_chance`, ….
    """
    frames = [
        chance_scores(masks).add_suffix(ending)
        if source == "chance"
        else localisation_scores(maps[source], masks, thresholds[source]).add_suffix(ending)
        for source, ending in SOURCES.items()
        if source == "chance" or source in maps
    ]
    return pd.concat(frames, axis=1)


def localisation_table(
    scores: pd.DataFrame, bootstrap: Bootstrap, by: str | None = None
) -> pd.DataFrame:
    """Average the scores of annotated images, and the leads of what has learnt over what has not.

    Leads are paired: the difference is taken image by image, under the same replicates. Where the
    score of the network, or of its attention, is the same for all images, such as a peak that never
    hits, its leads have no interval: the replicates would vary by the reference alone. The share of
    peaks that hit is a proportion. Without maps of the network there are scores of the references
    alone.

    Args:
        scores: columns of `reference_scores`, `label` (0, 1, 2) and `group`; images without an
            annotated lesion (NaN) are left out.
        by: column that cuts the images into parts; one part, `all`, by default.

    Returns:
        One row a part, source and score: `part`, `n` images, `groups`, `source` (of `SOURCES`, or
        one of `TRAINED` − a reference), `score`, `estimate` (a mean), `low`, `high`.

    Raises:
        ValueError: no image has an annotated lesion.

    >>> scores = pd.DataFrame({"iou": [0.2, 0.4], "iou_chance": [0.1, 0.1], "label": [1, 1],
    ...                        "group": ["a", "b"]})
    >>> localisation_table(scores, Bootstrap(99))[["source", "score", "estimate"]].round(2)
                 source score  estimate
    0           network   iou       0.3
    1            chance   iou       0.1
    2  network − chance   iou       0.2
    """
    scores = scores[scores["iou_chance"].notna()]
    if scores.empty:
        raise ValueError("no image has an annotated lesion: there is nothing to score")
    values = _sources_and_leads(scores)
    weights = bootstrap.weights(scores["label"], scores["group"])
    parts = pd.Series("all", scores.index) if by is None else scores[by]
    tables = []
    for part, rows in scores.groupby(parts, observed=True):
        here = scores.index.get_indexer(rows.index)
        total = weights[:, here].sum(axis=1, keepdims=True)
        sums = weights[:, here] @ values.iloc[here].to_numpy()
        means = ratio(sums, total)
        sizes = {"part": part, "n": len(rows), "groups": rows["group"].nunique()}
        table = values.columns.to_frame(index=False).assign(**sizes)
        table = table.assign(**bootstrap.columns("estimate", means))
        hits = ((table["score"] == "pointing") & table["source"].isin(HITTING)).to_numpy()
        shares = bootstrap.proportion(means[:, hits], Sample(len(rows), sizes["groups"]))
        table.loc[hits, ["low", "high"]] = np.stack(shares[1:], axis=1)
        for source in TRAINED:
            own = [score for score in SCORES if score + SOURCES[source] in rows]
            same = [score for score in own if np.ptp(rows[score + SOURCES[source]]) == 0]
            leads = table["source"].str.startswith(f"{source} −") & table["score"].isin(same)
            table.loc[leads, ["low", "high"]] = np.nan
        tables.append(table)
    columns = ["part", "n", "groups", "source", "score", "estimate", "low", "high"]
    return pd.concat(tables, ignore_index=True)[columns]


def _sources_and_leads(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one column for each (source, score): those there are, and the leads."""
    columns = {
        (source, score): scores[score + ending]
        for source, ending in SOURCES.items()
        for score in SCORES
        if score + ending in scores
    }
    leads = {
        (f"{trained} − {source}", score): columns[trained, score] - reference
        for trained in TRAINED
        for (source, score), reference in columns.items()
        if source not in TRAINED and (trained, score) in columns
    }
    return pd.DataFrame(columns | leads).rename_axis(columns=["source", "score"])
