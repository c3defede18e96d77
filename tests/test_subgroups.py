"""Subgroups: the right images in each, bootstrap metrics for those that are large enough."""

import numpy as np
import pandas as pd
import pytest

from btxrd.data import read_table
from btxrd.data.table import FLAG_COLUMNS
from btxrd.evaluation.intervals import Bootstrap, bootstrap_metrics
from btxrd.evaluation.subgroups import (
    EVERYONE,
    SUBGROUP_METRICS,
    lesion_sizes,
    subgroup_attributes,
    subgroup_table,
)
from btxrd.predictions import labels, probabilities

FEW = Bootstrap(20)


@pytest.fixture
def release():
    """Six rows in the release's layout."""
    flags = pd.DataFrame(0, index=range(6), columns=list(FLAG_COLUMNS))
    table = flags.assign(
        image_id=[f"IMG{i}.jpeg" for i in range(6)],
        center=[1, 1, 2, 3, 3, 3],
        age=[1, 17, 18, 39, 64, 65],
        gender=list("MFMFMF"),
    )
    table.loc[[0, 1], ["pelvis", "lateral"]] = 1
    table.loc[2, ["osteochondroma", "other bt"]] = 1
    return table


@pytest.fixture
def test(predicted):
    return predicted((70, 70, 60), skill=1.0)


def grouped(frame, values, name="side"):
    return pd.DataFrame({name: values}, index=frame["image_id"])


def test_attributes_of_the_release(release):
    attributes = subgroup_attributes(release)
    assert attributes.index.tolist() == release["image_id"].tolist()
    assert list(attributes) == ["center", "age_band", "sex", "region", "view", "subtype"]
    assert attributes["age_band"].tolist() == ["0–17", "0–17", "18–39", "18–39", "40–64", "65+"]
    assert attributes["sex"].tolist() == ["male", "female"] * 3
    assert attributes["center"].tolist() == list("112333")
    assert attributes["region"].tolist() == ["pelvis"] * 2 + ["none"] * 4
    assert attributes["view"].tolist() == ["lateral"] * 2 + ["none"] * 4
    assert attributes["subtype"].iloc[2] == "osteochondroma"
    assert all(column.cat.ordered for _, column in attributes.items())


def test_a_table_with_fewer_columns_has_fewer_attributes(release):
    table = release[["image_id", "center", "age", "frontal", "lateral"]]
    assert list(subgroup_attributes(table)) == ["center", "age_band"]
    assert list(subgroup_attributes(table.assign(oblique=0))) == ["center", "age_band", "view"]


def test_lesion_sizes_are_thirds_of_the_annotated(release):
    area = pd.Series([0.5, 0.1, 0.3, 0, np.nan], release["image_id"][:5])
    sizes = subgroup_attributes(release, area)["lesion_size"].str.partition(" ")[0]
    assert sizes.tolist() == ["large", "small", "medium", "none", "none", "none"]
    assert "lesion_size" not in subgroup_attributes(release, area * 0)
    areas = pd.Series((np.random.default_rng(0).permutation(90) + 1) / 100, range(5, 95))
    sizes = lesion_sizes(areas)
    assert sizes.index.equals(areas.index)
    assert sizes.value_counts(sort=False).tolist() == [30, 30, 30, 0]
    small, medium, large, _ = sizes.cat.categories
    assert areas[sizes == small].max() < areas[sizes == medium].min()
    assert areas[sizes == medium].max() < areas[sizes == large].min()
    assert lesion_sizes(pd.Series([0.1, 0.0])).str.partition(" ")[0].tolist() == ["large", "none"]


def test_attributes_of_a_phantom(table):
    attributes = subgroup_attributes(table)
    assert attributes.notna().all(axis=None)
    assert attributes["center"].value_counts().to_dict() == {
        str(center): n for center, n in table["center"].value_counts().items()
    }


def test_attributes_of_the_real_table(real_table):
    attributes = subgroup_attributes(read_table(real_table))
    assert attributes["subtype"].value_counts()["simple bone cyst"] == 206
    assert attributes["view"].value_counts()["frontal"] == 2181
    assert attributes.notna().all(axis=None)


def test_estimates_are_those_of_the_groups_images(test):
    bootstrap = Bootstrap(60, 0.9, seed=3)
    table = subgroup_table(test, grouped(test, ["left", "right"] * 100), bootstrap)
    assert table["attribute"].tolist() == [EVERYONE, "side", "side"]
    for value, chosen in ((EVERYONE, test), ("left", test[::2]), ("right", test[1::2])):
        row = table[table["value"] == value].iloc[0]
        expected = bootstrap_metrics(
            labels(chosen), probabilities(chosen), chosen["group"], bootstrap
        )
        for metric in SUBGROUP_METRICS:
            found = row[[metric, f"{metric}_low", f"{metric}_high"]].astype(float)
            np.testing.assert_array_equal(found, expected.loc[metric])
        assert (row["n"], row["malignant_n"]) == (len(chosen), (chosen["label"] == 2).sum())


def test_the_order_of_attributes_rows_does_not_matter(test):
    attributes = grouped(test, ["left", "right"] * 100)
    more = pd.DataFrame({"side": ["left"]}, index=pd.Index(["elsewhere"], name="image_id"))
    shuffled = pd.concat([attributes, more]).sample(frac=1, random_state=0)
    first, second = (subgroup_table(test, a, FEW) for a in (attributes, shuffled))
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize(
    ("counts", "estimable"),
    [
        ((19, 0, 0), []),
        ((7, 7, 5), []),
        ((20, 0, 0), ["accuracy"]),
        ((8, 8, 4), ["accuracy"]),
        ((8, 7, 5), ["accuracy", "sensitivity/Malignant", "auc/Malignant"]),
        ((5, 0, 15), ["accuracy", "sensitivity/Malignant", "auc/Malignant"]),
        ((4, 0, 16), ["accuracy", "sensitivity/Malignant"]),
        ((0, 0, 20), ["accuracy", "sensitivity/Malignant"]),
    ],
)
def test_small_groups_have_no_estimate(test, counts, estimable):
    chosen = pd.concat(test[test["label"] == c].head(n) for c, n in enumerate(counts))
    kind = test["image_id"].isin(chosen["image_id"]).map({True: "small", False: None})
    small = subgroup_table(test, grouped(test, kind.to_numpy()), FEW).iloc[1]
    assert (small["n"], small["malignant_n"]) == (sum(counts), counts[2])
    for metric in SUBGROUP_METRICS:
        ends = small[[metric, f"{metric}_low", f"{metric}_high"]].astype(float)
        assert (ends.notna() == (metric in estimable)).all(), metric


def test_values_keep_their_order_and_absent_ones_are_left_out(test):
    bands = pd.Categorical(["b", "a", None, None] * 50, ["b", "unused", "a"], ordered=True)
    table = subgroup_table(test, grouped(test, bands), FEW)
    assert table["value"].tolist() == [EVERYONE, "b", "a"]
    assert table["n"].tolist() == [200, 50, 50]


def test_an_image_without_attributes_is_named(test):
    with pytest.raises(KeyError, match="test-0199"):
        subgroup_table(test, grouped(test, "left").iloc[:-1], FEW)
