"""Patient groups and the splits into train, val and test.

A strategy has one fold or several. With several its table also has a column `fold`, and a row an
image and fold; the rows of one fold are like the table of a strategy without folds.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from btxrd import CLASS_OF_LABEL
from btxrd.data.table import REGION_COLUMNS, SITE_COLUMNS, SUBTYPE_COLUMNS
from btxrd.files import read_csv
from btxrd.strategies import SPLITS

__all__ = [
    "conflicting_pairs",
    "folds_of",
    "leakage_table",
    "make_split",
    "near_duplicates",
    "patient_groups",
    "read_split",
]

NEAR_DISTANCE = 4
"""The most bits of a 64-bit pHash by which near-duplicates differ."""

BLOCK = 128
"""The number of hashes that are compared with all others at a time."""

SAME_GROUP = ["center", "age", "gender", *SITE_COLUMNS, *REGION_COLUMNS, "label", *SUBTYPE_COLUMNS]
"""Columns that agree in consecutive rows of one patient group."""

NO_PAIRS = pd.DataFrame(columns=["image_a", "image_b", "distance", "identical"], dtype=object)


def near_duplicates(
    image_ids: pd.Series, hashes: np.ndarray, digests: Sequence[str]
) -> pd.DataFrame:
    """Find the pairs of images whose files are identical or whose perceptual hashes are near.

    Args:
        hashes: uint64 (n,), 64-bit pHash (Zauner 2010) of each image.
        digests: (n,), of the content of each image's file.

    Returns:
        Columns image_a, image_b (in table order), distance (bits by which the hashes differ; at
        most 4 unless the files are identical) and identical (bool: byte for byte).

    >>> hashes = np.array([0, 255, 3], np.uint64)
    >>> near_duplicates(pd.Series(["a", "b", "c"]), hashes, ["7f", "e0", "51"]).values.tolist()
    [['a', 'c', 2, False]]
    """
    hashes = np.asarray(hashes, dtype=np.uint64)
    names, contents = image_ids.to_numpy(), pd.factorize(np.asarray(digests))[0]
    pairs = []
    for start in range(0, len(hashes), BLOCK):
        distance = np.bitwise_count(hashes[start : start + BLOCK, None] ^ hashes[None, start:])
        same = contents[start : start + BLOCK, None] == contents[None, start:]
        a, b = np.nonzero(np.triu(same | (distance <= NEAR_DISTANCE), k=1))
        pairs.append(np.stack([start + a, start + b, distance[a, b]]))
    first, second, distances = np.concatenate(pairs, axis=1)
    columns = {"image_a": names[first], "image_b": names[second], "distance": distances}
    return pd.DataFrame(columns | {"identical": contents[first] == contents[second]})


def conflicting_pairs(table: pd.DataFrame, duplicates: pd.DataFrame) -> pd.DataFrame:
    """Return the duplicate pairs whose two images carry different labels: one must be wrong.

    Columns image_a, class_a, image_b, class_b and distance (bits).
    """
    classes = table.set_index("image_id")["label"].map(CLASS_OF_LABEL)
    pairs = duplicates.assign(**{f"class_{x}": duplicates[f"image_{x}"].map(classes) for x in "ab"})
    pairs = pairs.dropna(subset=["class_a", "class_b"])
    columns = ["image_a", "class_a", "image_b", "class_b", "distance"]
    return pairs[pairs["class_a"] != pairs["class_b"]][columns].reset_index(drop=True)


def patient_groups(table: pd.DataFrame, duplicates: pd.DataFrame = NO_PAIRS) -> pd.Series:
    """Number the patient groups: the surrogate for the patient id that the release does not have.

    A group is a run of consecutive rows with equal center, age, gender, site columns, region
    columns, class and subtype; groups that share a (near-)duplicate image are joined.

    Args:
        table: as `read_table` returns it, in the release's order.
        duplicates: as `near_duplicates` returns them.

    Returns:
        int64 with the table's index: 0, 1, … in order of first appearance.
    """
    columns = table[SAME_GROUP]
    runs = (columns != columns.shift()).any(axis=1).cumsum().to_numpy() - 1
    return pd.Series(_joined(runs, _rows(table, duplicates)), index=table.index)


def _rows(table: pd.DataFrame, duplicates: pd.DataFrame) -> np.ndarray:
    """Return the row numbers (pairs, 2) of the pairs whose images are both in the table."""
    position = pd.Series(np.arange(len(table)), index=table["image_id"])
    pairs = duplicates[["image_a", "image_b"]]
    known = pairs.isin(set(position.index)).all(axis=1)
    return position[pairs[known].to_numpy().ravel()].to_numpy().reshape(-1, 2)


def _joined(groups: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Merge groups that a pair of rows connects; renumber by first appearance."""
    size = groups.max() + 1
    links = coo_array((np.ones(len(rows)), (groups[rows[:, 0]], groups[rows[:, 1]])), (size, size))
    merged = connected_components(links, directed=False)[1][groups]
    return pd.factorize(merged)[0].astype(np.int64)


def make_split(
    table: pd.DataFrame, strategy: str, seed: int = 42, duplicates: pd.DataFrame = NO_PAIRS
) -> pd.DataFrame:
    """Split the images into train, val and test.

    Args:
        strategy: a key of `SPLITS`.
        duplicates: as `near_duplicates` returns them. Identical files stay together in
            `stratified` and `center`; all pairs do in the others but `random`. Groups with a pair
            of conflicting labels are only trained on in `grouped`, `grouped_cv` and `center_cv`.

    Returns:
        Columns image_id, part (`train`, `val` or `test`), label (0, 1, 2) and group (the patient
        group); for a strategy of several folds also `fold`, the second. One row an image (and
        fold); in `random` the held-out images have two, one as val and one as test, because that
        strategy scores on what it selects on. A fold of `center_cv` lacks the images of other
        centers that have a sibling in the test center.

    Raises:
        ValueError: the strategy is unknown, or a class is too rare to stand in every part.
    """
    if strategy not in SPLITS:
        raise ValueError(f"unknown split strategy {strategy!r}; allowed: {', '.join(SPLITS)}")
    folds = SPLITS[strategy].folds
    exact = _rows(table, duplicates[duplicates["identical"].astype(bool)])
    frame = table[["image_id", "label", "center"]].assign(
        group=patient_groups(table, duplicates), together=_joined(np.arange(len(table)), exact)
    )
    disputed = conflicting_pairs(table, duplicates)["image_a"]
    frame["disputed"] = frame["group"].isin(frame["group"][frame["image_id"].isin(disputed)])
    if strategy in ("grouped", "grouped_cv") and _fewest_groups(frame) < 5:
        raise ValueError("a class has fewer than 5 patient groups: too few for a grouped split")
    if strategy == "grouped":
        frame["part"] = _grouped(frame, ["test", "val"], seed)
    elif strategy == "grouped_cv":
        frame = _each_group_tested(frame, folds, seed)
    elif strategy == "center_cv":
        tested = {center: _center_tested(frame, center, seed) for center in folds}
        frame = pd.concat(rows.assign(fold=center) for center, rows in tested.items())
    elif strategy == "random":
        train, held_out = _halve(frame, 0.20, seed)
        rows = {"train": train, "val": held_out, "test": held_out}
        frame = pd.concat(images.assign(part=part) for part, images in rows.items())
        frame = frame.sort_index(kind="stable")
    else:
        frame["part"] = _by_first_member(frame, strategy, seed)
    fold = ["fold"] if folds else []
    return frame[["image_id", *fold, "part", "label", "group"]].reset_index(drop=True)


def _halve(frame: pd.DataFrame, share: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    # Stratified by name, because scikit-learn draws class by class in sorted order: numbers would
    # shuffle otherwise than the published split did.
    names = frame["label"].map(CLASS_OF_LABEL)
    try:
        return tuple(train_test_split(frame, test_size=share, stratify=names, random_state=seed))
    except ValueError as error:
        counts = frame["label"].value_counts().sort_index().to_dict()
        raise ValueError(f"too few images of a class to split: {counts} ({error})") from error


def _by_first_member(frame: pd.DataFrame, strategy: str, seed: int) -> pd.Series:
    """Split the first member of every set of identical files; the others follow it."""
    first = frame.drop_duplicates("together")
    if strategy == "stratified":
        train, rest = _halve(first, 0.30, seed)
        val, test = _halve(rest, 0.50, seed)
    else:
        test = first[first["center"] != 1]
        train, val = _halve(first[first["center"] == 1], 0.15, seed)
    parts = {"train": train, "val": val, "test": test}
    part_of = {key: part for part, rows in parts.items() for key in rows["together"]}
    return frame["together"].map(part_of)


def _grouped(frame: pd.DataFrame, held_out: Sequence[str], seed: int) -> pd.Series:
    """Deal whole patient groups into 20 stratified folds, three for each part that is held out."""
    split = pd.Series("train", index=frame.index)
    folds = max(2, min(20, _fewest_groups(frame)))
    dealt, size = _dealt(frame, folds, seed), max(1, round(0.15 * folds))
    for place, part in enumerate(held_out):
        split[dealt.index[(dealt > place * size) & (dealt <= (place + 1) * size)]] = part
    return split


def _fewest_groups(frame: pd.DataFrame) -> int:
    """Count the undisputed patient groups of the class that has the fewest."""
    return int(frame[~frame["disputed"]].groupby("label")["group"].nunique().min())


def _dealt(frame: pd.DataFrame, folds: int, seed: int) -> pd.Series:
    """Deal the undisputed patient groups out; returns the fold of each of their images, from 1."""
    free = frame[~frame["disputed"]]
    dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    dealt = pd.Series(0, index=free.index)
    for number, (_, fold) in enumerate(dealer.split(free, free["label"], free["group"]), start=1):
        dealt.iloc[fold] = number
    return dealt


def _each_group_tested(frame: pd.DataFrame, folds: Sequence[int], seed: int) -> pd.DataFrame:
    dealt = _dealt(frame, len(folds), seed).reindex(frame.index)
    parts = []
    for fold, following in zip(folds, (*folds[1:], folds[0]), strict=True):
        part = np.select([dealt == fold, dealt == following], ["test", "val"], "train")
        parts.append(frame.assign(fold=fold, part=part))
    return pd.concat(parts)


def _center_tested(frame: pd.DataFrame, center: int, seed: int) -> pd.DataFrame:
    """Hold a center out; groups that reach into it are not trained on, nor disputed ones tested."""
    here = frame["center"] == center
    others = frame[~here & ~frame["group"].isin(frame["group"][here])]
    parts = [
        frame[here & ~frame["disputed"]].assign(part="test"),
        others.assign(part=_grouped(others, ["val"], seed)),
    ]
    return pd.concat(parts).sort_index()


def folds_of(split: pd.DataFrame) -> dict[int | None, pd.DataFrame]:
    """Cut a split into its folds: number → rows, without `fold`; None → all where it has one."""
    if "fold" not in split:
        return {None: split}
    return {
        fold: rows.drop(columns="fold").reset_index(drop=True)
        for fold, rows in split.groupby("fold")
    }


def read_split(study_dir: str | Path, strategy: str, fold: int | None = None) -> pd.DataFrame:
    """Read the split, or one fold of it, that notebook 02 wrote for a study.

    Raises:
        FileNotFoundError: it has not been written; says how to.
        ValueError: it has no such fold.
    """
    path = Path(study_dir) / SPLITS[strategy].file
    if not path.is_file():
        raise FileNotFoundError(
            f"no split {path}: run notebook 02 with this study_dir first, which makes every split"
        )
    folds = folds_of(read_csv(path, group="int64"))
    if fold not in folds:
        raise ValueError(f"{path} has no fold {fold}; it has {', '.join(map(str, folds))}")
    return folds[fold]


def leakage_table(
    table: pd.DataFrame, splits: dict[str, pd.DataFrame], duplicates: pd.DataFrame = NO_PAIRS
) -> pd.DataFrame:
    """Count the held-out images that have a relative in train, in the split of each strategy.

    Returns:
        One row a strategy and part (val, test): images, with_sibling (an image of the same patient
        group is in train), with_duplicate (a near or exact duplicate is), and both as shares
        sibling_share and duplicate_share in [0, 1]. Of several folds the sums.
    """
    names = table["image_id"].to_numpy()[_rows(table, duplicates)]
    images, relatives = pd.Series(names.T.ravel()), pd.Series(names[:, ::-1].T.ravel())
    rows = []
    for strategy, split in splits.items():
        for fold in folds_of(split).values():
            train = fold[fold["part"] == "train"]
            copied = images[relatives.isin(train["image_id"])]
            for part in ("val", "test"):
                held = fold[fold["part"] == part]
                sibling = int(held["group"].isin(train["group"]).sum())
                duplicate = int(held["image_id"].isin(copied).sum())
                rows.append((strategy, part, len(held), sibling, duplicate))
    columns = ["strategy", "part", "images", "with_sibling", "with_duplicate"]
    result = pd.DataFrame(rows, columns=columns)
    result = result.groupby(["strategy", "part"], sort=False, as_index=False).sum()
    return result.assign(
        sibling_share=result["with_sibling"] / result["images"],
        duplicate_share=result["with_duplicate"] / result["images"],
    )
