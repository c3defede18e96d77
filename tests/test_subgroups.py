"""Subgroups: the right images in each, bootstrap metrics for the large, notes for the small."""

import numpy as np
import pandas as pd
import pytest

from btxrd.data import read_table
from btxrd.data.table import FLAG_COLUMNS
from btxrd.evaluation.intervals import bootstrap_metrics
from btxrd.evaluation.subgroups import (
    EVERYONE,
    SUBGROUP_METRICS,
    subgroup_attributes,
    subgroup_table,
)
from btxrd.predictions import labels, predictions_frame, probabilities


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


def predictions(n=200, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    logits = rng.normal(size=(n, 3))
    logits[np.arange(n), y] += 1
    rows = {"image_id": [f"i{i}" for i in range(n)], "part": "test", "center": 1}
    return predictions_frame(
        pd.DataFrame(rows | {"group": [f"g{i // 2}" for i in range(n)], "label": y}), logits
    )


def named(table, attribute, value):
    return table[(table["attribute"] == attribute) & (table["value"] == value)].iloc[0]


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


def test_lesion_sizes_are_tertiles_of_the_annotated(release):
    area = pd.Series([50.0, 10, 30, 0, np.nan], release["image_id"][:5])
    sizes = subgroup_attributes(release, area)["lesion_size"]
    assert sizes.tolist() == ["large", "small", "medium", "none", "none", "none"]
    assert subgroup_attributes(release, area * 0)["lesion_size"].eq("none").all()
    many = release.loc[np.arange(90) % 6].assign(image_id=[f"i{i}" for i in range(90)])
    area = pd.Series(np.random.default_rng(0).permutation(90) + 1, many["image_id"])
    sizes = subgroup_attributes(many, area)["lesion_size"]
    assert sizes.value_counts()[["small", "medium", "large"]].tolist() == [30, 30, 30]
    assert area[sizes == "small"].max() < area[sizes == "medium"].min()


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


def test_estimates_are_those_of_the_groups_images():
    test = predictions()
    attributes = pd.DataFrame({"image_id": test["image_id"], "side": ["left", "right"] * 100})
    table = subgroup_table(test, attributes, replicates=60, level=0.9, seed=3)
    assert table["attribute"].tolist() == [EVERYONE, "side", "side"]
    for value, chosen in ((EVERYONE, test), ("left", test[::2]), ("right", test[1::2])):
        row = table[table["value"] == value].iloc[0]
        expected = bootstrap_metrics(
            labels(chosen),
            probabilities(chosen),
            chosen["group"],
            replicates=60,
            level=0.9,
            seed=3,
        )
        for metric in SUBGROUP_METRICS:
            found = row[[metric, f"{metric}_low", f"{metric}_high"]].astype(float)
            np.testing.assert_array_equal(found, expected.loc[metric])
        assert row["n"] == len(chosen)
        assert row["malignant_n"] == (chosen["label"] == 2).sum()
        assert row["note"] == ""


def test_the_order_of_attributes_rows_does_not_matter():
    test = predictions()
    attributes = pd.DataFrame({"side": ["left", "right"] * 100}, index=test["image_id"])
    more = pd.DataFrame({"side": ["left"]}, index=pd.Index(["elsewhere"], name="image_id"))
    shuffled = pd.concat([attributes, more]).sample(frac=1, random_state=0)
    first, second = (subgroup_table(test, a, replicates=20) for a in (attributes, shuffled))
    pd.testing.assert_frame_equal(first, second)


def test_small_groups_have_a_note_instead():
    test = predictions(90)
    kind = np.array(["tiny"] * 7 + ["mixed"] * 83, dtype=object)
    kind[7:][test["label"][7:] == 0] = "normal"
    kind[7:][test["label"][7:] == 2] = "malignant"
    attributes = pd.DataFrame({"kind": kind}, index=test["image_id"])
    table = subgroup_table(test, attributes, replicates=20)
    tiny = named(table, "kind", "tiny")
    assert tiny["note"] == "too small: n = 7, 2 malignant"
    assert tiny.filter(regex="^(auc|acc|sens)").isna().all()
    normal = named(table, "kind", "normal")
    assert normal["note"] == (
        "too small for auc/Malignant and sensitivity/Malignant: n = 27, 0 malignant"
    )
    assert np.isnan(normal["sensitivity/Malignant"])
    assert normal["accuracy_low"] <= normal["accuracy"] <= normal["accuracy_high"]
    malignant = named(table, "kind", "malignant")
    assert malignant["note"] == "too small for auc/Malignant: n = 28, 28 malignant"
    assert malignant["sensitivity/Malignant"] == malignant["accuracy"]


def test_values_keep_their_order_and_absent_ones_are_left_out():
    test = predictions(60)
    bands = pd.Categorical(["b", "a", None] * 20, ["b", "unused", "a"], ordered=True)
    table = subgroup_table(test, pd.DataFrame({"band": bands}, test["image_id"]), replicates=20)
    assert table["value"].tolist() == [EVERYONE, "b", "a"]
    assert table["n"].tolist() == [60, 20, 20]


def test_bad_attributes_are_refused():
    test = predictions(30)
    attributes = pd.DataFrame({"side": "left"}, index=test["image_id"])
    with pytest.raises(KeyError, match="i29"):
        subgroup_table(test, attributes.iloc[:-1])
    with pytest.raises(KeyError, match="image_id"):
        subgroup_table(test, attributes.reset_index(drop=True))
    with pytest.raises(ValueError, match="i0 twice"):
        subgroup_table(test, pd.concat([attributes, attributes]))
    with pytest.raises(ValueError, match="1 or more, found 0"):
        subgroup_table(test, attributes, smallest=0)
