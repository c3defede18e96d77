"""The facts of each test image that the case browser shows."""

import numpy as np
import pandas as pd

from btxrd import CLASS_NAMES
from btxrd.evaluation.calibration import apply_temperature, fitted_temperatures
from btxrd.predictions import PROBABILITY_COLUMNS, labels, probabilities

__all__ = ["NOT_USED", "case_table", "relatives"]

CONFIDENCE_EDGES = (0, 0.5, 0.7, 0.9, np.inf)
CONFIDENCE_BANDS = ("under 50 %", "50 to 70 %", "70 to 90 %", "90 % and more")

NOT_USED = "not used"
"""The part of an image that a split, or a fold of it, leaves out."""


def case_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Tabulate what was predicted of each test image, and how well.

    Args:
        predictions: val and test; of a pool of folds each has a temperature of its own.

    Returns:
        One row a test image, in order: `image_id`, `group`, `fold` where there are several; `true`
        and `predicted` (names of classes), `outcome` (right, wrong) and `confidence` (band of the
        highest probability), all ordered categories; `p_<class>` as predicted, `calibrated_<class>`
        after temperature scaling (Guo et al. 2017) and `temperature`, both NaN without val; `loss`,
        −ln of the true class's probability as predicted, in nats.
    """
    val, test = (predictions[predictions["part"] == part] for part in ("val", "test"))
    shares, truth = probabilities(test), labels(test)
    called = shares.argmax(axis=1)
    temperatures, calibrated = np.full(len(test), np.nan), np.full(shares.shape, np.nan)
    if len(val):
        temperatures = fitted_temperatures(val, test)
        calibrated = probabilities(apply_temperature(test, temperatures))
    of_truth = shares[np.arange(len(test)), truth]
    wrong = (truth != called).astype(int)
    highest = shares.max(axis=1)
    kept = ["image_id", "group", *(["fold"] if "fold" in test else []), *PROBABILITY_COLUMNS]
    cases = test[kept].assign(
        true=pd.Categorical.from_codes(truth, CLASS_NAMES, ordered=True),
        predicted=pd.Categorical.from_codes(called, CLASS_NAMES, ordered=True),
        outcome=pd.Categorical.from_codes(wrong, ["right", "wrong"], ordered=True),
        confidence=pd.cut(highest, CONFIDENCE_EDGES, right=False, labels=CONFIDENCE_BANDS),
        temperature=temperatures,
        loss=-np.log(np.maximum(of_truth, np.finfo(float).tiny)),
    )
    cases[[f"calibrated_{name}" for name in CLASS_NAMES]] = calibrated
    return cases.reset_index(drop=True)


def relatives(test: pd.DataFrame, split: pd.DataFrame, duplicates: pd.DataFrame) -> pd.DataFrame:
    """Find the images of the same group as each test image, and its duplicates, in any part.

    Args:
        test: predictions; of a pool of folds with its `fold`.
        split: `image_id`, `part`, `group`, and `fold` where `test` has it: the parts of a fold
            count for the test images of that fold.
        duplicates: as `near_duplicates` returns them.

    Returns:
        One row a test image and relative: `image_id`, `relative`, `part` of the relative (`train`,
        `val`, `test`; two of them joined by "and"; `NOT_USED`) and `distance`, the bits by which
        the hashes of a duplicate differ, NaN of other images of the group.
    """
    fold = ["fold"] if "fold" in test else []
    own = test[["image_id", *fold, "group"]].astype({"group": str})
    members = split[["image_id", "part", *fold, "group"]].astype({"group": str})
    members = members.rename(columns={"image_id": "relative"})
    siblings = own.merge(members, on=[*fold, "group"])
    names = {"image_a": "image_id", "image_b": "relative"}
    back = {"image_b": "image_id", "image_a": "relative"}
    pairs = pd.concat([duplicates.rename(columns=names), duplicates.rename(columns=back)])
    copies = own.drop(columns="group").merge(pairs, on="image_id")
    copies = copies.merge(members.drop(columns="group"), on=["relative", *fold], how="left")
    found = pd.concat([siblings.assign(distance=np.nan), copies.fillna({"part": NOT_USED})])
    found = found[found["image_id"] != found["relative"]].astype({"distance": float})
    return found.groupby(["image_id", "relative"], sort=False, as_index=False).agg(
        part=("part", lambda parts: " and ".join(dict.fromkeys(parts))),
        distance=("distance", "min"),
    )
