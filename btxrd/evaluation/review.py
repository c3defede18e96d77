"""Labels that a radiologist should look at again: those that a network least believes.

The idea is that of confident learning (Northcutt et al. 2021): a network that never saw an image
gives the label that it carries a probability, its self-confidence; where that is low, the image is
hard, or the label is wrong.
"""

import numpy as np
import pandas as pd

from btxrd import CLASS_NAMES
from btxrd.evaluation.calibration import apply_temperature, fitted_temperatures
from btxrd.predictions import labels, probabilities

__all__ = ["REVIEW_COLUMNS", "labels_to_review"]

REVIEW_COLUMNS = (
    *("image_id", "label", "most_probable", "self_confidence", "margin", "fold"),
    "conflicts_with",
)
"""The columns of `review.csv`, in order."""


def labels_to_review(pool: pd.DataFrame, conflicts: pd.DataFrame) -> pd.DataFrame:
    """List the labels that another image contradicts, then those that the networks doubt.

    A label is doubted where another class is more probable, after temperature scaling by each
    fold's own val. The rank is by the normalised margin: (1 + self-confidence − the highest
    probability of another class) / 2, in [0, 1], below 0.5 where doubted; the lowest is first.

    Args:
        pool: val and test predictions of a pool of folds, none of whose networks saw what it tests.
        conflicts: as `btxrd.data.splits.conflicting_pairs` returns them. The two images of a pair
            follow each other; what the pool does not test has no probability.

    Returns:
        `REVIEW_COLUMNS`: `label` and `most_probable` are names of classes, `fold` Int64,
        `conflicts_with` the duplicates of another label, with spaces between.
    """
    val, test = (pool[pool["part"] == part] for part in ("val", "test"))
    calibrated = apply_temperature(test, fitted_temperatures(val, test)).set_index("image_id")
    shares, given = probabilities(calibrated), labels(calibrated)
    own = np.arange(len(shares)), given
    others = shares.copy()
    others[own] = 0
    names = np.array(CLASS_NAMES)
    tested = calibrated.assign(
        label=names[given],
        most_probable=names[shares.argmax(axis=1)],
        self_confidence=shares[own],
        margin=(1 + shares[own] - others.max(axis=1)) / 2,
    )
    sides = [
        conflicts[[f"image_{own}", f"class_{own}", f"image_{other}"]].set_axis(
            ["image_id", "label", "conflicts_with"], axis=1
        )
        for own, other in ("ab", "ba")
    ]
    images = pd.concat(sides).sort_index(kind="stable").groupby("image_id", sort=False)
    contradicted = images.agg({"label": "first", "conflicts_with": " ".join})
    doubted = tested[tested["margin"] < 0.5].drop(index=contradicted.index, errors="ignore")
    first = contradicted.join(tested.drop(columns="label"))
    ranked = pd.concat([first, doubted.sort_values("margin", kind="stable")])
    found = ranked.rename_axis("image_id").reset_index().reindex(columns=list(REVIEW_COLUMNS))
    return found.astype({"fold": "Int64"})
