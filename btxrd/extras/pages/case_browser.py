"""`cases.html`: every test image of a run, a pool or an external evaluation, to look at.

The page holds what is known of each case. Its pictures are files that all runs of the study share,
and its heat maps are those that notebook 05 leaves in each run's folder.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from btxrd import CLASS_NAMES, CLASS_OF_LABEL, RESEARCH_ONLY
from btxrd.data.release import Release
from btxrd.data.splits import NO_PAIRS, read_split
from btxrd.data.table import SITE_COLUMNS
from btxrd.evaluation.subgroups import subgroup_attributes
from btxrd.extras.pages import TEMPLATES
from btxrd.extras.pages.cases import case_table, relatives
from btxrd.files import atomic_path, project_path, read_csv
from btxrd.params import POOLED, ResultParams
from btxrd.provenance import data_name
from btxrd.report.fragments import render
from btxrd.report.links import place_in_study
from btxrd.report.tables import title_of
from btxrd.stages import CASES_FILE, EVALUATE, HEATMAPS_FILE

__all__ = ["lesion_outline", "write_cases"]

PICTURES = "pictures"
QUALITY = 85
"""JPEG quality, 0 to 100. WebP files are a third smaller and take twenty times as long."""
FINER = 4
"""Outlines are found on a grid so many times finer than pixels, to run along the pixels' edges."""

FILTERS = (
    *("true", "predicted", "outcome", "center", "region", "view", "subtype"),
    *("lesion_size", "age_band", "sex", "confidence", "in_training"),
)
"""The columns that cases are chosen by, each of categories."""
FACTS = (
    *("center", "age", "sex", "region", "sites", "view", "subtype", "lesion_size"),
    *("lesion_percent", "group", "fold", "loss", "temperature", "applied"),
)
"""The columns that stand beside the picture of a case."""
TITLES = {
    "true": "True class",
    "predicted": "Called",
    "outcome": "Right or wrong",
    "age_band": "Age",
    "confidence": "Highest probability",
    "in_training": "Group in training",
    "age": "Age in years",
    "lesion_percent": "Lesion, % of the image",
    "loss": "Log loss (nats)",
    "temperature": "Calibration temperature",
    "applied": "Applied to show it",
}
"""The titles of columns that their names do not tell."""


def write_cases(
    folder: Path,
    run: ResultParams,
    training: Mapping[str, Any],
    predictions: pd.DataFrame,
    release: Release,
) -> None:
    """Write `cases.html`, of the `run` in `folder`, and the pictures that are not there yet.

    Args:
        training: the content of its `training.json`.
        predictions: a frame as `read_predictions` returns it.
        release: the images that were predicted, preprocessed as for the network.
    """
    study = _study_of(folder, run)
    kin = _relatives(study, run, predictions[predictions["part"] == "test"], release)
    cases = _described(predictions, release, kin)
    pictures = (study or folder) / PICTURES / release.cache.key
    _write_pictures(pictures, release.cache.images, {*cases["row"], *kin["row"]})
    titles = {name: TITLES.get(name) or title_of(name) for name in cases}
    values = {name: cases[name].cat.remove_unused_categories() for name in FILTERS if name in cases}
    filters = {name: found.cat.categories for name, found in values.items()}
    content = {
        "cases": json.loads(cases.to_json(orient="records")),
        "classes": CLASS_NAMES,
        "facts": [[name, titles[name]] for name in FACTS if name in cases],
        "units": FINER * release.cache.images.shape[1],
        "pictures": quote(os.path.relpath(pictures, folder)),
        "heatmaps": [quote(os.path.relpath(m, folder)) for m in _heatmaps(study, run, training)],
    }
    text = render(
        "cases.html.j2",
        beside=TEMPLATES,
        title=training.get("name", run.name),
        data_name=data_name(project_path(run.dataset_root)),
        note=RESEARCH_ONLY,
        warnings=training.get("warnings", []),
        titles=titles,
        filters={name: found for name, found in filters.items() if len(found) > 1},
        study=place_in_study(folder / CASES_FILE),
        evaluation=EVALUATE.page,
        content=content,
    )
    with atomic_path(folder / CASES_FILE) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _study_of(folder: Path, run: ResultParams) -> Path | None:
    """Return the folder of the study that a run's folder stands in; None where in none."""
    place = run.place.path.parts
    return folder.parents[len(place) - 1] if folder.parts[-len(place) :] == place else None


def _heatmaps(study: Path | None, run: ResultParams, training: Mapping[str, Any]) -> list[Path]:
    """Return the files of the heat maps: the run's own, of a pool each fold's first seed's."""
    if study is None:
        return []
    members = training["members"] if run.is_pool else [{"fold": run.fold}]
    first = {member["fold"]: member for member in reversed(members)}
    places = [run.model_copy(update=member).place.path for _, member in sorted(first.items())]
    return [study / place / HEATMAPS_FILE for place in places]


def _relatives(
    study: Path | None, run: ResultParams, test: pd.DataFrame, release: Release
) -> pd.DataFrame:
    """Find the relatives of the test images, as far as is known where they stand.

    Returns:
        The columns of `relatives`, and of each relative its `class`, its `row` in the cache, and
        `trained`: it was in train.
    """
    split, pairs = test.assign(part="test"), NO_PAIRS
    if study:
        is_pool = run.fold == POOLED
        file = study / "splits" / f"{run.split}.csv"
        split = read_csv(file) if is_pool else read_split(study, run.split, run.fold)
        pairs = read_csv(file.with_name("duplicates.csv"))
    kin = relatives(test, split, pairs)
    classes = release.table.set_index("image_id")["label"].map(CLASS_OF_LABEL)
    kin = kin[kin["relative"].isin(classes.index)].copy()
    kin["class"] = kin["relative"].map(classes)
    kin["row"] = release.cache.rows(kin["relative"])
    kin["trained"] = kin["part"].str.contains("train")
    return kin


def _described(predictions: pd.DataFrame, release: Release, kin: pd.DataFrame) -> pd.DataFrame:
    """Return all that the page tells of each test image, in the order of the table."""
    index = release.cache.index.set_index("image_id")
    attributes = subgroup_attributes(release.table, index["lesion_area"])
    cases = attributes.join(case_table(predictions).set_index("image_id"), how="inner")
    index, table = index.loc[cases.index], release.table.set_index("image_id").loc[cases.index]
    cases["row"] = release.cache.rows(cases.index)
    if "age" in table:
        cases["age"] = table["age"]
    if set(SITE_COLUMNS) <= set(table):
        flags = table[list(SITE_COLUMNS)] == 1
        cases["sites"] = [", ".join(flags.columns[row]) or "none" for row in flags.to_numpy()]
    cases["lesion_percent"] = (100 * index["lesion_area"]).where(index["lesion_area"] > 0)
    if index["applied"].notna().any():
        cases["applied"] = index["applied"].fillna("nothing")
    cases["outline"] = [lesion_outline(release.cache.masks[row]) for row in cases["row"]]
    trained = cases.index.isin(kin["image_id"][kin["trained"]])
    cases["in_training"] = pd.Categorical(np.where(trained, "yes", "no"), ["yes", "no"])
    of_image = kin.drop(columns="image_id").groupby(kin["image_id"], sort=False)
    found = {name: rows.to_dict("records") for name, rows in of_image}
    cases["relatives"] = [found.get(name, []) for name in cases.index]
    return cases.reset_index()


def _write_pictures(folder: Path, images: NDArray[np.uint8], rows: Iterable[int]) -> None:
    """Write images of the cache, as a network sees them, as `<row>.jpeg`; skip those there."""
    for file, row in ((folder / f"{row}.jpeg", row) for row in rows):
        if not file.is_file():
            picture = cv2.imencode(".jpeg", images[row], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
            with atomic_path(file) as temporary:
                temporary.write_bytes(picture.tobytes())


def lesion_outline(mask: NDArray[np.uint8]) -> str:
    """Return the outline of a lesion mask as the path of an SVG, `FINER` units to a pixel.

    Args:
        mask: uint8 {0, 1} (S, S).

    Returns:
        One closed polygon a part, and one a hole, in whole numbers; empty where the mask is.

    >>> mask = np.zeros((100, 100), np.uint8)
    >>> mask[20:50, 40:80] = 1
    >>> lesion_outline(mask)
    'M160,81 161,199 319,198 318,80Z'
    """
    fine = cv2.resize(255 * mask, None, fx=FINER, fy=FINER, interpolation=cv2.INTER_LINEAR)
    found, _ = cv2.findContours((fine > 127).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    polygons = [cv2.approxPolyDP(contour, FINER / 2, closed=True)[:, 0] for contour in found]
    return "".join("M" + " ".join(f"{x},{y}" for x, y in points) + "Z" for points in polygons)
