"""Scores of maps against lesion masks, and the scores that need no trained network.

Three references stand beside every score: chance (the area of the mask), a bump at the centre of
the image, and the maps of the same network with weights drawn anew (Adebayo et al. 2018).

Maps are float (N, S, S) and at least 0, raw or scaled where nothing else is said; masks are
uint8 {0, 1} or bool (N, S, S).
"""

from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from btxrd.evaluation.intervals import Bootstrap, Sample
from btxrd.evaluation.metrics import ratio

__all__ = [
    "SCORES",
    "SOURCES",
    "Source",
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


class Source(NamedTuple):
    """A source of maps."""

    ending: str
    """The end of the names of its scores' columns: `iou_center`, `energy_chance`, …"""
    is_trained: bool
    """True where it has learnt something, and is compared with those that have not."""


SOURCES = {
    "network": Source("", True),
    "attention": Source("_attention", True),
    "chance": Source("_chance", False),
    "center prior": Source("_center", False),
    "randomised weights": Source("_randomised", False),
}
"""The sources of maps by name. Only some networks have an attention; lesion masks taught it."""

DEFAULT_THRESHOLD = 0.5
THRESHOLDS = np.arange(1, 20) / 20


def normalise_maps(maps: np.ndarray) -> np.ndarray:
    """Scale each map to [0, 1], float32, by its own extremes; a constant map becomes 0."""
    lowest = maps.min(axis=(1, 2), keepdims=True)
    span = maps.max(axis=(1, 2), keepdims=True) - lowest
    scaled = maps - lowest
    scaled /= np.where(span > 0, span, 1)
    return scaled.astype(np.float32, copy=False)


def cam_mask_iou(maps: np.ndarray, masks: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Return the overlap of the hot part of each map with the lesion, (N,) in [0, 1].

    Hot is where the min-max scaled map is at least `threshold`, in (0, 1]. The overlap is the
    intersection over union (Selvaraju et al. 2017), with the mask itself instead of a box; NaN
    where the mask is empty, 0 where the map is constant.

    >>> maps = np.array([[[0.0, 1.0], [0.2, 0.8]]])
    >>> cam_mask_iou(maps, np.array([[[0, 1], [0, 0]]]))
    array([0.5])
    """
    return _overlap(normalise_maps(maps) >= threshold, masks.astype(bool))


def _overlap(hot: np.ndarray, lesion: np.ndarray) -> np.ndarray:
    # Image by image: a sum over two axes takes ten times as long.
    both, of_hot, area = (
        np.array([np.count_nonzero(flag) for flag in flags], dtype=np.int64)
        for flags in (hot & lesion, hot, lesion)
    )
    return np.where(area > 0, ratio(both, of_hot + area - both), np.nan)


def pointing_game(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return whether the highest point of each map, the first of equals, hits the lesion: (N,).

    The pointing game of Zhang et al. (2018), without their margin. A constant map points nowhere
    and an empty mask cannot be hit: both give False.
    """
    size = maps.shape[1] * maps.shape[2]
    peaks = maps.reshape(len(maps), size).argmax(axis=1)
    hit = masks.astype(bool).reshape(len(maps), size)[np.arange(len(maps)), peaks]
    return hit & (maps.max(axis=(1, 2)) > maps.min(axis=(1, 2)))


def energy_inside(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the share of each raw map's sum inside the lesion; scaled maps give another.

    The energy-based pointing game of Wang et al. (2020), with the mask instead of a box: (N,) in
    [0, 1]; NaN where the map or the mask is empty.

    >>> energy_inside(np.array([[[0.0, 1.0], [0.0, 3.0]]]), np.array([[[0, 1], [1, 0]]]))
    array([0.25])
    """
    lesion = masks.astype(bool)
    total = maps.sum(axis=(1, 2), dtype=np.float64)
    inside = np.where(lesion, maps, 0).sum(axis=(1, 2), dtype=np.float64)
    return np.where(lesion.any(axis=(1, 2)), ratio(inside, total), np.nan)


def localisation_scores(maps: np.ndarray, masks: np.ndarray, threshold: float) -> pd.DataFrame:
    """Score each raw map against its lesion mask: N rows with the float64 columns `SCORES`.

    They are the IoU of the hot part at 0.5 and at `threshold`, 1 or 0 of the pointing game, and
    the share of energy inside. A map that is 0 everywhere finds nothing and scores 0. NaN where
    the mask is empty.
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
    """Return the threshold of the highest mean IoU over annotated images; choose it on val alone.

    It is the first best of the twentieths, or 0.5 where no mask holds a lesion.
    """
    annotated = masks.any(axis=(1, 2))
    if not annotated.any():
        return DEFAULT_THRESHOLD
    scaled, lesions = normalise_maps(maps[annotated]), masks[annotated].astype(bool)
    overlaps = np.stack([_overlap(scaled >= cut, lesions) for cut in THRESHOLDS], axis=1)
    return float(THRESHOLDS[overlaps.mean(axis=0).argmax()])


def reference_scores(
    maps: Mapping[str, np.ndarray], masks: np.ndarray, thresholds: Mapping[str, float]
) -> pd.DataFrame:
    """Score the maps of several sources, and chance, side by side: N rows.

    Args:
        maps: name of a source (some of `SOURCES`, without chance) → raw maps.
        thresholds: name of the source → threshold of its `iou_best`.
    """
    scores = {name: localisation_scores(maps[name], masks, thresholds[name]) for name in maps}
    scores["chance"] = chance_scores(masks)
    named = [scores[name].add_suffix(of.ending) for name, of in SOURCES.items() if name in scores]
    return pd.concat(named, axis=1)


def localisation_table(
    scores: pd.DataFrame, bootstrap: Bootstrap, by: str | None = None
) -> pd.DataFrame:
    """Average the scores of annotated images, and the leads of what has learnt over what has not.

    Leads are paired: the difference is taken image by image, under the same replicates. Where the
    score of a trained source is the same for all images, such as a peak that never hits, its leads
    have no interval: the replicates would vary by the reference alone. The share of peaks that hit
    is a proportion.

    Args:
        scores: columns of `reference_scores`, `label` and `group`; images without an annotated
            lesion (NaN) are left out. If all are, that is a ValueError.
        by: column that cuts the images into parts; one part, `all`, by default.

    Returns:
        One row a part, source and score, then one a part, trained source, reference and score:
        `part`, `n` images, `groups`, `source`, `reference` (empty where the row is a plain score,
        and not a lead), `score`, `estimate` (a mean), `low`, `high`.

    """
    scores = scores[scores["iou_chance"].notna()]
    if scores.empty:
        raise ValueError("no image has an annotated lesion: there is nothing to score")
    values = _scores_and_leads(scores)
    weights = bootstrap.weights(scores["label"], scores["group"])
    parts = pd.Series("all", scores.index) if by is None else scores[by]
    tables = []
    for part, rows in scores.groupby(parts, observed=True):
        here = scores.index.get_indexer(rows.index)
        own, groups = values.iloc[here], rows["group"].nunique()
        means = ratio(weights[:, here] @ own.to_numpy(), weights[:, here].sum(axis=1)[:, None])
        table = own.columns.to_frame(index=False).assign(part=part, n=len(rows), groups=groups)
        table = table.assign(**bootstrap.columns("estimate", means))
        is_lead, source = table["reference"] != "", table["source"]
        # A peak hits or does not; by chance, an area is hit.
        hits = ~is_lead & (table["score"] == "pointing") & (source != "chance")
        shares = bootstrap.proportion(means[:, hits], Sample(len(rows), groups))
        table.loc[hits, ["low", "high"]] = np.stack(shares[1:], axis=1)
        pairs = zip(source, table["score"], strict=True)
        is_same = np.array([np.ptp(own[name, "", score]) == 0 for name, score in pairs])
        table.loc[is_lead & is_same, ["low", "high"]] = np.nan
        tables.append(table)
    columns = ["part", "n", "groups", "source", "reference", "score", "estimate", "low", "high"]
    return pd.concat(tables, ignore_index=True)[columns]


def _scores_and_leads(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one column for each (source, reference, score): the plain scores, then the leads."""
    columns = {
        (name, "", score): scores[score + source.ending]
        for name, source in SOURCES.items()
        for score in SCORES
        if score + source.ending in scores
    }
    leads = {
        (own, other, score): columns[own, "", score] - columns[other, "", score]
        for own, other, score in product(SOURCES, SOURCES, SCORES)
        if SOURCES[own].is_trained and not SOURCES[other].is_trained
        if (own, "", score) in columns and (other, "", score) in columns
    }
    return pd.DataFrame(columns | leads).rename_axis(columns=["source", "reference", "score"])
