"""Metrics of a model by center, age, sex, region, view, subtype and lesion size.

Subgroups are compared to be looked into, not to be tested: intervals are pointwise, many subgroups
are small, and none is a random sample of its kind.
"""

import numpy as np
import pandas as pd

from btxrd.data.table import REGION_COLUMNS, SUBTYPE_COLUMNS, VIEW_COLUMNS, one_hot_name
from btxrd.evaluation.intervals import Bootstrap, bootstrap_metrics
from btxrd.predictions import MALIGNANT, labels, probabilities

__all__ = ["EVERYONE", "SUBGROUP_METRICS", "lesion_sizes", "subgroup_attributes", "subgroup_table"]

SUBGROUP_METRICS = ("auc/Malignant", "accuracy", "sensitivity/Malignant")
"""The metrics of each subgroup."""

EVERYONE = "all images"
"""The attribute and value of the row of `subgroup_table` that stands for the whole part."""

SMALLEST, SMALLEST_MALIGNANT = 20, 5
"""The images that a subgroup needs for any estimate, and the malignant ones for theirs."""

AGE_EDGES = (0, 18, 40, 65, np.inf)
AGE_BANDS = ("0–17", "18–39", "40–64", "65+")


def subgroup_attributes(table: pd.DataFrame, lesion_area: pd.Series | None = None) -> pd.DataFrame:
    """Derive the attributes by which images are put into subgroups: ordered categories by image_id.

    They stand in the order of the table, which `read_table` or `read_listing` of `btxrd.data`
    returned: `center`, `age_band` (years), `sex`, `region`, `view`, `subtype` (each the first that
    is set, or `none`), those whose columns it has; and, where there are lesions, `lesion_size`.
    The area of the lesion is by image_id, as in `lesion_sizes`.
    """
    centers = table["center"].astype(str)
    columns = {"center": _ordered(centers, [str(c) for c in sorted(set(table["center"]))])}
    if "age" in table:
        columns["age_band"] = pd.cut(table["age"], AGE_EDGES, right=False, labels=AGE_BANDS)
    if "gender" in table:
        sexes = table["gender"].map({"F": "female", "M": "male"})
        columns["sex"] = _ordered(sexes, ["female", "male"])
    named = {"region": REGION_COLUMNS, "view": VIEW_COLUMNS, "subtype": SUBTYPE_COLUMNS}
    for attribute, names in named.items():
        if set(names) <= set(table):
            columns[attribute] = _ordered(one_hot_name(table, names), [*names, "none"])
    if lesion_area is not None and lesion_area.any():
        columns["lesion_size"] = lesion_sizes(table["image_id"].map(lesion_area))
    return pd.DataFrame(columns).set_axis(pd.Index(table["image_id"], name="image_id"))


def _ordered(values: pd.Series, order: list[str]) -> pd.Series:
    return values.astype(pd.CategoricalDtype(order, ordered=True))


def lesion_sizes(lesion_area: pd.Series) -> pd.Series:
    """Name the third of the annotated lesions that each image's lesion belongs to, by size.

    `lesion_area` is the share of the image in [0, 1], of all images of a data set; 0 or NaN, named
    `none`, where there is no lesion. The names are ordered categories with the same index, and hold
    the limits in percent of the image.

    >>> lesion_sizes(pd.Series([0.001, 0.02, 0.3, 0.0])).tolist()
    ['small (< 1.4 %)', 'medium', 'large (≥ 11.3 %)', 'none']
    """
    area = lesion_area.fillna(0)
    annotated = area[area > 0]
    low, high = annotated.quantile([1 / 3, 2 / 3]) if len(annotated) else (np.nan, np.nan)
    names = [f"small (< {100 * low:.1f} %)", "medium", f"large (≥ {100 * high:.1f} %)", "none"]
    codes = np.select([area <= 0, area < low, area < high], [3, 0, 1], 2)
    return pd.Series(pd.Categorical.from_codes(codes, names, ordered=True), lesion_area.index)


def subgroup_table(
    test: pd.DataFrame, attributes: pd.DataFrame, bootstrap: Bootstrap
) -> pd.DataFrame:
    """Compute the metrics of every subgroup that is large enough for them.

    A subgroup of fewer than `SMALLEST` images has no estimate. The malignant AUC and sensitivity
    also need `SMALLEST_MALIGNANT` malignant images, and the AUC as many others; accuracy does
    not, so that a benign subtype has one.

    There is one row for all images, then one for each attribute of `subgroup_attributes` and value
    that occurs in `test`: `attribute`, `value`, `n`, `malignant_n`, and each of `SUBGROUP_METRICS`
    with its ends. An image without a value is in no subgroup, one without attributes a KeyError.
    """
    values = attributes.loc[test["image_id"]]
    subgroups = [(EVERYONE, EVERYONE, test)]
    for attribute in values.columns:
        column = values[attribute].astype("category")
        for value in column.cat.categories:
            subgroups.append((attribute, str(value), test[(column == value).to_numpy(bool)]))
    rows = []
    for attribute, value, chosen in subgroups:
        malignant = int((labels(chosen) == MALIGNANT).sum())
        row = {"attribute": attribute, "value": value, "n": len(chosen), "malignant_n": malignant}
        # What a subgroup is too small for is left out.
        names = ["accuracy"] if len(chosen) >= SMALLEST else []
        if names and malignant >= SMALLEST_MALIGNANT:
            names += ["sensitivity/Malignant"]
            names += ["auc/Malignant"] if len(chosen) - malignant >= SMALLEST_MALIGNANT else []
        if names:
            estimates = bootstrap_metrics(
                labels(chosen), probabilities(chosen), chosen["group"], bootstrap, names
            )
            for metric, interval in estimates.iterrows():
                row |= dict(zip((metric, f"{metric}_low", f"{metric}_high"), interval, strict=True))
        rows.append(row)
    ends = [f"{metric}{end}" for metric in SUBGROUP_METRICS for end in ("", "_low", "_high")]
    table = pd.DataFrame(rows, columns=["attribute", "value", "n", "malignant_n", *ends])
    return table[table["n"] > 0].reset_index(drop=True)
