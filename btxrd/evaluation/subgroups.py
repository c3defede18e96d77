"""Whom a model serves worse: its metrics by center, age, sex, region, view, subtype and size.

Subgroups are compared to be looked into, not to be tested: intervals are pointwise, many groups
are small, and none is a random sample of its kind.
"""

import numpy as np
import pandas as pd

from btxrd import CLASS_NAMES
from btxrd.data.table import REGION_COLUMNS, SUBTYPE_COLUMNS, VIEW_COLUMNS, one_hot_name
from btxrd.evaluation.intervals import bootstrap_metrics
from btxrd.predictions import labels, probabilities

__all__ = ["EVERYONE", "SUBGROUP_METRICS", "subgroup_attributes", "subgroup_table"]

SUBGROUP_METRICS = ("auc/Malignant", "accuracy", "sensitivity/Malignant")
"""What is computed for each subgroup, named as in `btxrd.evaluation.metrics.metric_table`."""

EVERYONE = "all images"
"""Attribute and value of the row of `subgroup_table` that stands for the whole part."""

MALIGNANT = CLASS_NAMES.index("Malignant")
AGE_EDGES = (0, 18, 40, 65, np.inf)
AGE_BANDS = ("0–17", "18–39", "40–64", "65+")
SIZES = ("small", "medium", "large")
NO_LESION = "none"


def subgroup_attributes(table: pd.DataFrame, lesion_area: pd.Series | None = None) -> pd.DataFrame:
    """Derive what images are grouped by.

    Args:
        table: as `btxrd.data.table.read_table` returns it.
        lesion_area: area of the lesion mask by image_id, in pixels or as a share of the image;
            images that it lacks, or has with 0 or NaN, have no annotated lesion.

    Returns:
        A frame of ordered categories indexed by `image_id`, in the table's order: `center`,
        `age_band` (0–17, 18–39, 40–64, 65+ years), `sex`, `region`, `view`, `subtype` (each the
        first that is set, or `none`) and, where `lesion_area` is given, `lesion_size`: small,
        medium or large by the tertiles of the annotated images of `table`, or `none`.

    >>> from btxrd.data.table import FLAG_COLUMNS
    >>> table = pd.DataFrame(0, index=[0, 1], columns=list(FLAG_COLUMNS)).assign(
    ...     image_id=["a", "b"], center=1, age=[17, 18], gender=["F", "M"], frontal=1)
    >>> subgroup_attributes(table, pd.Series({"b": 0.02}))[
    ...     ["age_band", "sex", "view", "lesion_size"]].loc["b"].tolist()
    ['18–39', 'male', 'frontal', 'small']
    """
    columns = {
        "center": _categories(
            table["center"].astype(str), [str(center) for center in sorted(set(table["center"]))]
        ),
        "age_band": pd.cut(table["age"], AGE_EDGES, right=False, labels=AGE_BANDS),
        "sex": _categories(table["gender"].map({"F": "female", "M": "male"}), ("female", "male")),
    }
    named = {"region": REGION_COLUMNS, "view": VIEW_COLUMNS, "subtype": SUBTYPE_COLUMNS}
    for attribute, names in named.items():
        columns[attribute] = _categories(one_hot_name(table, names), (*names, "none"))
    if lesion_area is not None:
        columns["lesion_size"] = _lesion_size(table["image_id"], lesion_area)
    return pd.DataFrame(columns).set_axis(pd.Index(table["image_id"], name="image_id"))


def _categories(values: pd.Series, order: tuple[str, ...] | list[str]) -> pd.Series:
    return values.astype(pd.CategoricalDtype(list(order), ordered=True))


def _lesion_size(image_ids: pd.Series, lesion_area: pd.Series) -> pd.Series:
    area = image_ids.map(lesion_area).fillna(0).to_numpy(np.float64)
    sizes = np.full(len(area), NO_LESION, dtype=object)
    annotated = area > 0
    if annotated.any():
        cuts = np.quantile(area[annotated], [1 / 3, 2 / 3])
        sizes[annotated] = np.array(SIZES)[np.digitize(area[annotated], cuts, right=True)]
    return _categories(pd.Series(sizes, image_ids.index), (*SIZES, NO_LESION))


def subgroup_table(
    test: pd.DataFrame,
    attributes: pd.DataFrame,
    smallest: int = 20,
    smallest_malignant: int = 5,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 42,
) -> pd.DataFrame:
    """Compute the metrics of every subgroup that is large enough for them.

    A group of fewer than `smallest` images has no estimate. The malignant AUC and sensitivity
    also need `smallest_malignant` malignant images, and the AUC as many others; accuracy does
    not, so that a benign subtype has one.

    Args:
        test: rows of one part of `predictions.csv`.
        attributes: one row an image, with `image_id` as index or column; every other column is an
            attribute. An ordered or unordered category keeps its order, other values are
            sorted; an image without a value is in no group of that attribute.
        smallest: images that a group needs, 1 or more.
        smallest_malignant: malignant images that the malignant metrics need, 1 or more.
        replicates, level, seed: of the cluster bootstrap, which is drawn within each group.

    Returns:
        One row for all images, then one for each attribute and value that occurs in `test`:
        `attribute`, `value`, `n`, `malignant_n`, for each of `SUBGROUP_METRICS` its estimate and
        `<metric>_low`, `<metric>_high`, and `note`, which says what is NaN for want of images.

    Raises:
        KeyError: `attributes` lacks an image of `test`, or `image_id` altogether.
        ValueError: `attributes` has an image twice, or an option is out of range.

    >>> from btxrd.predictions import predictions_frame
    >>> rows = pd.DataFrame({"image_id": ["a", "b"], "part": "test", "center": 1,
    ...                      "group": ["a", "b"], "label": [0, 2]})
    >>> test = predictions_frame(rows, [[3, 0, 0], [1, 0, 0]])
    >>> sexes = pd.DataFrame({"image_id": ["a", "b"], "sex": ["male", "female"]})
    >>> subgroup_table(test, sexes, smallest=2)[["value", "accuracy", "note"]]
            value  accuracy                                               note
    0  all images       0.5  too small for auc/Malignant and sensitivity/Ma...
    1      female       NaN                   too small: n = 1, 1 malignant
    2        male       NaN                   too small: n = 1, 0 malignant
    """
    if min(smallest, smallest_malignant) < 1:
        raise ValueError(f"sizes must be 1 or more, found {smallest} and {smallest_malignant}")
    if attributes.index.name != "image_id":
        attributes = attributes.set_index("image_id")
    repeated = attributes.index[attributes.index.duplicated()]
    if len(repeated):
        raise ValueError(f"attributes have {repeated[0]} twice")
    values = attributes.loc[test["image_id"]]
    groups = [(EVERYONE, EVERYONE, test)]
    for attribute in values.columns:
        column = values[attribute].astype("category")
        for value in column.cat.categories:
            chosen = test[(column == value).to_numpy(bool)]
            if len(chosen):
                groups.append((attribute, str(value), chosen))
    rows = []
    for attribute, value, chosen in groups:
        malignant = int((labels(chosen) == MALIGNANT).sum())
        row = {"attribute": attribute, "value": value, "n": len(chosen), "malignant_n": malignant}
        wanting = _wanting(len(chosen), malignant, smallest, smallest_malignant)
        estimates = None
        if len(wanting) < len(SUBGROUP_METRICS):
            estimates = bootstrap_metrics(
                labels(chosen),
                probabilities(chosen),
                chosen["group"],
                replicates=replicates,
                level=level,
                seed=seed,
            )
        for metric in SUBGROUP_METRICS:
            interval = [np.nan] * 3 if metric in wanting else estimates.loc[metric]
            row |= dict(zip((metric, f"{metric}_low", f"{metric}_high"), interval, strict=True))
        rows.append(row | {"note": _note(len(chosen), malignant, wanting)})
    return pd.DataFrame(rows)


def _wanting(n: int, malignant: int, smallest: int, smallest_malignant: int) -> list[str]:
    """Metrics for which a group is too small."""
    if n < smallest:
        return list(SUBGROUP_METRICS)
    if malignant < smallest_malignant:
        return ["auc/Malignant", "sensitivity/Malignant"]
    return ["auc/Malignant"] if n - malignant < smallest_malignant else []


def _note(n: int, malignant: int, wanting: list[str]) -> str:
    if not wanting:
        return ""
    what = "" if len(wanting) == len(SUBGROUP_METRICS) else f" for {' and '.join(wanting)}"
    return f"too small{what}: n = {n}, {malignant} malignant"
