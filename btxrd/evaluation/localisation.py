"""How well maps find lesions, against what it takes no trained network to reach.

Three references stand beside every score: chance (the area of the mask), a bump at the centre of
the image, and the maps of the same network with weights drawn anew (Adebayo et al. 2018, "Sanity
Checks for Saliency Maps", NeurIPS; arXiv:1810.03292).
"""

import copy
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from btxrd.evaluation.gradcam import cam_mask_iou, energy_inside, pointing_game
from btxrd.evaluation.intervals import bootstrap_weights, format_interval

__all__ = [
    "SCORES",
    "SOURCES",
    "best_threshold",
    "center_prior",
    "chance_scores",
    "localisation_finding",
    "localisation_report",
    "localisation_scores",
    "localisation_table",
    "randomised_copy",
    "reference_scores",
    "size_tertiles",
]

SCORES = {
    "iou": "IoU at 0.5",
    "iou_best": "IoU at val's best",
    "pointing": "Peak in lesion",
    "energy": "Energy in lesion",
}
"""The scores of a map by column, and what reports call them; all lie in [0, 1]."""

SOURCES = {
    "network": "",
    "chance": "_chance",
    "center prior": "_center",
    "randomised weights": "_randomised",
}
"""Whose scores they are, and the ending of their columns: `iou_center`, `energy_chance`, …"""

DEFAULT_THRESHOLD = 0.5
INTERVAL = ["estimate", "low", "high"]
THRESHOLDS = tuple(np.arange(1, 20) / 20)


def localisation_scores(maps: np.ndarray, masks: np.ndarray, threshold: float) -> pd.DataFrame:
    """Score each map against its lesion mask.

    Args:
        maps: raw, at least 0, float (N, S, S).
        masks: lesion masks, uint8 {0, 1} or bool (N, S, S).
        threshold: of `iou_best`, in (0, 1], such as `best_threshold` finds.

    Returns:
        N rows with the float64 columns `SCORES`: the IoU of the hot part at 0.5 and at
        `threshold`, 1 or 0 of the pointing game, and the share of energy inside. NaN where the
        mask is empty; a map that is 0 everywhere finds nothing and scores 0.

    Raises:
        ValueError: the shapes differ, or the threshold is out of range.

    >>> maps = np.array([[[0.0, 1.0], [0.3, 0.7]]])
    >>> localisation_scores(maps, np.array([[[0, 1], [0, 0]]]), threshold=0.8)
       iou  iou_best  pointing  energy
    0  0.5       1.0       1.0     0.5
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
    """Score a map that is equally hot everywhere: each score is the mask's share of the square.

    That is what a random point hits, and how much of an even energy lies inside. It is also the
    strictest chance for an IoU: pixels that are hot at random, with probability f, overlap with a
    mask of share a by about f·a / (f + a - f·a), which is highest at f = 1. The square is what
    the network sees, letterbox padding included.

    Args:
        masks: lesion masks, uint8 {0, 1} or bool (N, S, S).

    Returns:
        N rows with the float64 columns `SCORES`; NaN where the mask is empty.

    >>> chance_scores(np.array([[[0, 1], [0, 0]]]))
        iou  iou_best  pointing  energy
    0  0.25      0.25      0.25    0.25
    """
    shares = masks.astype(bool).mean(axis=(1, 2))
    shares = np.where(shares > 0, shares, np.nan)
    return pd.DataFrame(dict.fromkeys(SCORES, shares))


def center_prior(size: int) -> np.ndarray:
    """Return a map that bets on the middle: a round Gaussian, its sd a quarter of the side.

    Radiographs are aimed at what is wrong, so a lesion is often near the middle.

    Args:
        size: side S in pixels.

    Returns:
        float32 (S, S), in (0, 1], highest at the centre.

    >>> center_prior(3).round(2)
    array([[0.17, 0.41, 0.17],
           [0.41, 1.  , 0.41],
           [0.17, 0.41, 0.17]], dtype=float32)
    """
    offsets = np.arange(size) - (size - 1) / 2
    bump = np.exp(-0.5 * (offsets / (size / 4)) ** 2)
    return np.outer(bump, bump).astype(np.float32)


def best_threshold(
    maps: np.ndarray, masks: np.ndarray, thresholds: ArrayLike = THRESHOLDS
) -> float:
    """Find the threshold of the highest mean IoU over annotated images; choose it on val alone.

    Args:
        maps: raw or scaled, float (N, S, S).
        masks: lesion masks, uint8 {0, 1} or bool (N, S, S); images of empty masks do not count.
        thresholds: candidates in (0, 1]; of equally good ones the first is taken.

    Returns:
        One of `thresholds`, or 0.5 where no mask holds a lesion.

    Raises:
        ValueError: the shapes differ, or a threshold is out of range.

    >>> maps = np.array([[[0.0, 1.0], [0.3, 0.7]]])
    >>> best_threshold(maps, np.array([[[0, 1], [0, 1]]]))
    0.35
    """
    annotated = masks.any(axis=(1, 2))
    if not annotated.any():
        return DEFAULT_THRESHOLD
    maps, masks = maps[annotated], masks[annotated]
    candidates = np.asarray(thresholds, dtype=float)
    overlaps = [cam_mask_iou(maps, masks, threshold).mean() for threshold in candidates]
    return float(candidates[np.argmax(overlaps)])


def reference_scores(
    maps: Mapping[str, np.ndarray], masks: np.ndarray, thresholds: Mapping[str, float]
) -> pd.DataFrame:
    """Score the maps of several sources, and chance, side by side.

    Args:
        maps: source (a key of `SOURCES`, without chance) → raw maps, float (N, S, S).
        masks: lesion masks, uint8 {0, 1} or bool (N, S, S).
        thresholds: source → threshold of its `iou_best`.

    Returns:
        N rows; for each source the columns `SCORES` with its ending: `iou`, …, `iou_chance`, ….

    Raises:
        ValueError: as `localisation_scores`.
    """
    frames = [
        chance_scores(masks).add_suffix(ending)
        if source == "chance"
        else localisation_scores(maps[source], masks, thresholds[source]).add_suffix(ending)
        for source, ending in SOURCES.items()
        if source == "chance" or source in maps
    ]
    return pd.concat(frames, axis=1)


def randomised_copy(model: nn.Module, inputs: torch.Tensor, seed: int = 42) -> nn.Module:
    """Return a copy of a network that has learnt nothing: every weight is drawn anew.

    The model parameter randomisation test of Adebayo et al. 2018, of all layers at once: maps
    that look alike with and without training do not tell what was learnt. Modules that can
    `reset_parameters` do so; other parameters are drawn from a normal distribution of their own
    mean and standard deviation. Batch norms take the statistics of `inputs` on the way through:
    with those of the trained network, or with none, activations fade or burst within a few
    layers of a deep network, and the maps would be empty for that reason alone.

    Args:
        model: left as it is.
        inputs: a batch as the network takes it, float (B, 3, S, S), B ≥ 2.
        seed: of the weights; PyTorch's global generator is left as it was.

    Returns:
        The copy, on the model's device, in eval mode.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    >>> drawn = randomised_copy(network, torch.rand(2, 3, 8, 8))
    >>> bool((drawn[0].weight == network[0].weight).any())
    False
    """
    device = next(model.parameters()).device
    drawn = copy.deepcopy(model).cpu().eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for module in drawn.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
                continue
            for parameter in module.parameters(recurse=False):
                spread = parameter.std(correction=0).item()
                parameter.normal_(parameter.mean().item(), spread)
    drawn.to(device)
    norms = [module for module in drawn.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over batches, here of one
        norm.train()
    with torch.no_grad():
        drawn(inputs.to(device))
    return drawn.eval()


def size_tertiles(areas: ArrayLike) -> pd.Series:
    """Name the third of these lesions that each belongs to, by size.

    Args:
        areas: (n,) share of the image in [0, 1].

    Returns:
        n ordered categories, named with their limits in percent of the image.

    >>> size_tertiles([0.001, 0.02, 0.3]).tolist()
    ['small lesion (< 1.4 %)', 'medium lesion', 'large lesion (≥ 11.3 %)']
    """
    areas = np.asarray(areas, dtype=float)
    limits = np.quantile(areas, [1 / 3, 2 / 3])
    names = [
        f"small lesion (< {limits[0]:.1%})".replace("%", " %"),
        "medium lesion",
        f"large lesion (≥ {limits[1]:.1%})".replace("%", " %"),
    ]
    codes = np.searchsorted(limits, areas, side="right")
    return pd.Series(pd.Categorical.from_codes(codes, names, ordered=True))


def localisation_table(
    scores: pd.DataFrame,
    by: str | None = None,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 42,
) -> pd.DataFrame:
    """Average the scores of each source, and the network's lead over each reference.

    Percentile intervals over the cluster bootstrap of `bootstrap_weights`: whole studies are
    drawn, within each class. A lead is paired, image by image, so its interval is narrower than
    those of its two sides suggest. Parts of the images share the draws of the whole.

    Args:
        scores: one row an image, with `group`, `label`, the columns `SCORES` and those of the
            references with the endings of `SOURCES`; images without a lesion (NaN) are left out.
        by: a column whose values are averaged apart; None takes all images together.
        replicates: how many bootstrap replicates, 1 or more.
        level: coverage of the intervals, between 0 and 1.
        seed: of the draws.

    Returns:
        One row a part of the images, source and score: `part` (a value of `by`, or "all"), `n`
        images, `groups` studies, `source` (a key of `SOURCES`, or "network − " and one),
        `score` (a key of `SCORES`), `estimate`, `low`, `high`.

    Raises:
        ValueError: no image has a lesion, a group is missing, or `level` is not between 0 and 1.

    >>> scores = pd.DataFrame({"group": ["a", "b"], "label": [1, 2], "iou": [0.3, 0.5],
    ...                        "iou_chance": [0.1, 0.2]})
    >>> localisation_table(scores)[["part", "n", "source", "score", "estimate"]].round(3)
      part  n            source score  estimate
    0  all  2           network   iou      0.40
    1  all  2            chance   iou      0.15
    2  all  2  network − chance   iou      0.25
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, such as 0.95, found {level}")
    scores = scores[scores["iou"].notna()]
    if scores.empty:
        raise ValueError("no image has an annotated lesion: there is nothing to score")
    values = _sources_and_leads(scores)
    weights = bootstrap_weights(scores["label"], scores["group"], replicates, seed)
    parts = pd.Series("all", scores.index) if by is None else scores[by]
    tables = []
    for part, rows in scores.groupby(parts, observed=True):
        here = scores.index.get_indexer(rows.index)
        low, high = _interval_of_means(values.iloc[here], weights[:, here], level)
        sizes = {"part": part, "n": len(rows), "groups": rows["group"].nunique()}
        means = {"estimate": values.iloc[here].mean(), "low": low, "high": high}
        tables.append(pd.DataFrame(means).reset_index().assign(**sizes))
    columns = ["part", "n", "groups", "source", "score", "estimate", "low", "high"]
    return pd.concat(tables, ignore_index=True)[columns]


def _sources_and_leads(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one column for each (source, score): those there are, and the network's leads."""
    columns = {
        (source, score): scores[score + ending]
        for source, ending in SOURCES.items()
        for score in SCORES
        if score + ending in scores
    }
    leads = {
        (f"network − {source}", score): columns["network", score] - reference
        for (source, score), reference in columns.items()
        if source != "network"
    }
    return pd.DataFrame(columns | leads).rename_axis(columns=["source", "score"])


def _interval_of_means(
    values: pd.DataFrame, weights: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the interval of each column's weighted mean.

    Replicates in which none of the images was drawn are left out.
    """
    total = weights.sum(axis=1, keepdims=True)
    drawn = total[:, 0] > 0
    if not drawn.any():
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    means = weights[drawn] @ values.to_numpy() / total[drawn]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def localisation_report(table: pd.DataFrame) -> pd.DataFrame:
    """Lay out a `localisation_table` for reading: value (interval), a column a score.

    Returns:
        A row a part of the images and source; the parts are left out where there is but one.
    """
    cells = table.assign(
        cell=[_written(*row) for row in table[["source", *INTERVAL]].itertuples(index=False)],
        images=[f"{part} (n = {n})" for part, n in zip(table["part"], table["n"], strict=True)],
    )
    keys = ["images", "source"] if len(set(cells["images"])) > 1 else ["source"]
    wide = cells.pivot_table("cell", keys, "score", aggfunc="first", sort=False)
    named = wide.reindex(columns=[score for score in SCORES if score in wide])
    return named.rename(columns=SCORES).rename_axis(index=[None] * len(keys), columns=None)


def _written(source: str, estimate: float, low: float, high: float) -> str:
    """Write a score as the reports do, and a lead with its signs."""
    if source in SOURCES:
        return format_interval(estimate, low, high)
    return f"{estimate:+.3f} ({low:+.3f} to {high:+.3f})"


def localisation_finding(table: pd.DataFrame) -> str:
    """Say in Markdown what a `localisation_table` of all images shows.

    The network is called better (or worse) than a reference in a score where the whole interval
    of its paired lead lies above (or below) 0. A score that is the same for all images, such as a
    peak that never hits, does not vary in the bootstrap and is not called either.
    """
    references = [source for source in SOURCES if source in set(table["source"]) - {"network"}]
    cells = table.set_index(["source", "score"])
    cells = {key: format_interval(*row) for key, row in cells[INTERVAL].iterrows()}
    figures = [
        f"{SCORES[score]} **{cells['network', score]}** against "
        + ", ".join(f"{source} {cells[source, score]}" for source in references)
        for score in ("iou", "pointing")
        if ("network", score) in cells
    ]
    own = table[table["source"] == "network"]
    varied = set(own["score"][own["low"] < own["high"]])
    verdicts = [
        f"against {source} {_verdict(table[table['source'] == f'network − {source}'], varied)}"
        for source in references
    ]
    n, groups = table[["n", "groups"]].iloc[0]
    return (
        f"On {n} annotated test tumours of {groups} studies: {'; '.join(figures)}. "
        f"Paired image by image, the network is {'; '.join(verdicts)}."
    )


def _verdict(leads: pd.DataFrame, varied: set[str]) -> str:
    """Name the scores whose lead has an interval wholly on one side of 0."""
    called = leads["score"].isin(varied)
    sides = {"better": called & (leads["low"] > 0), "worse": called & (leads["high"] < 0)}
    said = [
        f"**{side}** in {found.sum()} of {len(leads)} scores "
        f"({', '.join(leads['score'][found].map(SCORES))})"
        for side, found in sides.items()
        if found.any()
    ]
    return " and ".join(said) if said else f"**no different** in any of {len(leads)} scores"
