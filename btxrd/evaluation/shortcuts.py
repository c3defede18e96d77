"""Baselines that never see a lesion, and the AUC that each reaches.

A model that scores no better than these may have learned who was imaged, where, and how the file
was exported, and nothing about tumours (Zech et al. 2018; DeGrave et al. 2021).
"""

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from btxrd import CLASS_NAMES
from btxrd.data.cache import ImageCache
from btxrd.data.table import REGION_COLUMNS, SITE_COLUMNS, VIEW_COLUMNS
from btxrd.evaluation.intervals import Bootstrap
from btxrd.evaluation.metrics import metric_table
from btxrd.predictions import Floats

__all__ = ["SHORTCUTS", "shortcut_features", "shortcut_table"]

SHORTCUTS = {
    "metadata": "age, sex, region and view",
    "sites": "metadata and the site columns",
    "file": "width, height, aspect, bytes per pixel, colour mode and quantisation of the file",
    "thumbnail": "the image shrunk to 8 × 8 pixels",
    "border": "the outer sixteenth of the image, as 60 mean grey levels",
}
"""The baselines by name, with what each sees in the words of the reports."""

CELLS = 16
"""Cells a side into which an image is averaged: the outer ring of them is the border."""

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]


def shortcut_features(
    table: pd.DataFrame, cache: ImageCache | None = None
) -> dict[str, pd.DataFrame | np.ndarray]:
    """Collect the features that each shortcut sees of every image.

    They are named and ordered as in `SHORTCUTS`, one row an image in the table's order, float64:
    ages in years, other facts 0 or 1; quantisation NaN where a file has no JPEG table; grey levels,
    0 to 255, of the square that a network sees, padding included, averaged into 16 × 16 cells: four
    neighbours make a pixel of the thumbnail, the outer ring of cells is the border.

    Without a cache, which holds at least the table's images, files and pixels are left out.
    """
    metadata = table[["age", *REGION_COLUMNS, *VIEW_COLUMNS]].astype(float)
    metadata.insert(1, "male", (table["gender"] == "M").astype(float))
    features: dict[str, pd.DataFrame | np.ndarray] = {
        "metadata": metadata,
        "sites": metadata.join(table[list(SITE_COLUMNS)].astype(float)),
    }
    if cache is None:
        return features
    rows = cache.rows(table["image_id"])
    file = cache.index.iloc[rows].set_axis(table.index)
    width, height = file["width"].astype(float), file["height"].astype(float)
    size = (CELLS, CELLS)
    shrunk = [cv2.resize(cache.images[row], size, interpolation=cv2.INTER_AREA) for row in rows]
    cells = np.array(shrunk, dtype=np.float64)
    ring = np.ones((CELLS, CELLS), bool)
    ring[1:-1, 1:-1] = False
    return features | {
        "file": pd.DataFrame(
            {
                "width": width,
                "height": height,
                "aspect": width / height,
                "bytes_per_pixel": file["bytes"] / (width * height),
                "colour": (file["mode"] != "L").astype(float),
                "quantisation": file["quantisation"].astype(float),
            }
        ),
        "thumbnail": cells.reshape(-1, 8, 2, 8, 2).mean(axis=(2, 4)).reshape(-1, 64),
        "border": cells[:, ring],
    }


def shortcut_table(
    table: pd.DataFrame,
    groups: ArrayLike,
    bootstrap: Bootstrap,
    cache: ImageCache | None = None,
    folds: int = 5,
    seed: int = 42,
) -> pd.DataFrame:
    """Cross-validate every shortcut, with groups torn apart and with groups kept whole.

    Table and file columns go to gradient-boosted trees, grey levels to logistic regression. Out-of-
    fold probabilities are pooled before the AUC is taken. There are 2 or more `folds`, fewer than
    wanted where a class has too few images (or groups), or where a fold would train without one.

    Returns:
        One row a shortcut and split: `shortcut`, `sees`, `split` (`image`: folds by image, as a
        random split makes them; `group`: whole groups), `n` images, and the macro AUC
        (one-vs-rest): `estimate`, `low`, `high`, NaN where not even two folds can be made.
    """
    labels, units = table["label"].to_numpy(), np.asarray(groups)
    deals = {
        "image": _deal(StratifiedKFold, labels, None, folds, seed),
        "group": _deal(StratifiedGroupKFold, labels, units, folds, seed),
    }
    weights = bootstrap.weights(labels, units)
    rows = []
    for name, features in shortcut_features(table, cache).items():
        for split, deal in deals.items():
            interval = [np.nan] * 3
            if deal:
                chances = _out_of_fold(name, np.asarray(features), labels, deal)
                values = metric_table(labels, chances, weights, ["macro_auc"])
                interval = bootstrap.estimate(values["macro_auc"])
            rows.append((name, SHORTCUTS[name], split, len(table), *interval))
    columns = ["shortcut", "sees", "split", "n", "estimate", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def _deal(
    splitter: type[StratifiedKFold | StratifiedGroupKFold],
    labels: np.ndarray,
    groups: np.ndarray | None,
    folds: int,
    seed: int,
) -> list[Fold]:
    """Deal the images into as many folds as leave every class to train on; none if no two do."""
    units = np.arange(len(labels)) if groups is None else groups
    units_of_class = [len(np.unique(units[labels == c])) for c in range(len(CLASS_NAMES))]
    for count in range(min(folds, *units_of_class), 1, -1):
        dealer = splitter(count, shuffle=True, random_state=seed)
        deal = list(dealer.split(labels, labels, groups))
        if all(len(test) and set(labels[train]) == set(labels) for train, test in deal):
            return deal
    return []


def _out_of_fold(name: str, features: np.ndarray, labels: np.ndarray, deal: list[Fold]) -> Floats:
    """Return the (n, 3) probabilities of each image from the model that did not see its fold."""
    chances = np.empty((len(labels), len(CLASS_NAMES)))
    with threadpool_limits(1):
        for train, test in deal:
            if name in ("thumbnail", "border"):
                model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
            else:
                model = HistGradientBoostingClassifier(
                    max_iter=60, min_samples_leaf=10, random_state=0
                )
            model.fit(features[train], labels[train])
            chances[test] = model.predict_proba(features[test])
    return chances
