"""`cases.html`: every test image of a run, a pool or an external evaluation, to look at.

The page holds what is known of each case; its pictures are files beside the runs of the study,
which all of them share, and its heat maps are those that notebook 05 leaves in each run's folder.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pandas as pd
from matplotlib import colormaps
from numpy.typing import NDArray

from btxrd import CLASS_NAMES, RESEARCH_ONLY
from btxrd.data.cache import ImageCache
from btxrd.data.release import Release
from btxrd.data.splits import read_split
from btxrd.data.table import SITE_COLUMNS, is_image_name
from btxrd.evaluation.subgroups import subgroup_attributes
from btxrd.extras.pages import TEMPLATES
from btxrd.extras.pages.cases import case_table, relatives
from btxrd.files import atomic_path, project_path, read_csv, write_files
from btxrd.params import POOLED, ResultParams
from btxrd.provenance import data_name
from btxrd.report.figures import HEAT_MAP
from btxrd.report.fragments import render
from btxrd.report.links import link_to, place_in_study
from btxrd.report.names import as_text
from btxrd.report.tables import title_of
from btxrd.stages import CASES_FILE, EVALUATE, HEATMAPS_FILE

__all__ = ["case_links", "lesion_outline", "write_cases", "write_pictures"]

PICTURES = "pictures"
QUALITY = 85
"""Of JPEG, 0 to 100. WebP files are a third smaller and take twenty times as long."""

UNITS = 1000
"""In which outlines count: the side of the square."""
FINER = 4
"""How much finer than pixels an outline is found, so that it runs along their edges."""
DIGITS = 6
"""Significant ones of probabilities and losses."""

FILTERS = {
    "true": "True class",
    "predicted": "Called",
    "outcome": "Right or wrong",
    "center": "Center",
    "region": "Region",
    "view": "View",
    "subtype": "Subtype",
    "lesion_size": "Lesion size",
    "age_band": "Age",
    "sex": "Sex",
    "confidence": "Highest probability",
    "in_training": "Study in training",
}
"""What cases are chosen by → the title; each is a column of categories."""

FACTS = {
    "center": "Center",
    "age": "Age in years",
    "sex": "Sex",
    "region": "Region",
    "sites": "Sites",
    "view": "View",
    "subtype": "Subtype",
    "lesion_size": "Lesion size",
    "lesion_percent": "Lesion, % of the image",
    "group": "Patient group",
    "fold": "Fold",
    "loss": "Log loss (nats)",
    "temperature": "Calibration temperature",
    "applied": "Applied to show it",
}
"""What stands of a case beside its picture → the title."""


def case_links(folder: Path, image_ids: Iterable[str]) -> str:
    """Return a line of Markdown: links to some cases of a run, and to all of them.

    Where notebook 04 has not made the page yet, only the names of the images.
    """
    texts = {name: as_text(Path(name).stem) for name in image_ids}
    page = link_to(folder, CASES_FILE)
    if page is None:
        return ", ".join(texts.values())
    links = [f"[{text}]({page}#{quote(name)})" for name, text in texts.items()]
    return f"Open {' · '.join([*links, f'[all cases]({page})'])}"


def write_cases(
    folder: Path,
    run: ResultParams,
    training: Mapping[str, Any],
    predictions: pd.DataFrame,
    release: Release,
) -> None:
    """Write `cases.html` and the pictures that it shows and that are not there yet.

    Args:
        folder: of the run, pool or evaluation.
        run: what the predictions are of.
        training: the content of its `training.json`.
        predictions: as `read_predictions` returns them.
        release: what was predicted, preprocessed as for the network.
    """
    test = predictions[predictions["part"] == "test"]
    study = _study_of(folder, run)
    kin = _relatives(study, run, test)
    kin = kin[kin["relative"].isin(release.table["image_id"])]
    pictures = (study or folder) / PICTURES / release.cache.key
    files = write_pictures(
        pictures, release.cache, dict.fromkeys([*test["image_id"], *kin["relative"]])
    )
    cases = _described(predictions, release, kin)
    members = _members(run, training, study, folder)
    places = {
        "folder": _relative(pictures, folder),
        "heatmaps": [f"{member}/{HEATMAPS_FILE}" for member in members],
    }
    text = render(
        "cases.html.j2",
        beside=TEMPLATES,
        title=training.get("name", run.name),
        data_name=data_name(project_path(run.dataset_root)),
        note=RESEARCH_ONLY,
        warnings=training.get("warnings", []),
        filters=_filters(cases),
        orders=_orders(),
        study=place_in_study(folder / CASES_FILE),
        evaluation=EVALUATE.page,
        content=_content(cases, release.table, files) | places,
    )
    with atomic_path(folder / CASES_FILE) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _content(cases: pd.DataFrame, table: pd.DataFrame, files: Mapping[str, str]) -> dict[str, Any]:
    """Return what the page's script reads; files and addresses aside."""
    classes = table.set_index("image_id")["label"].map(dict(enumerate(CLASS_NAMES)))
    others = set(files) - set(cases["image_id"])
    return {
        "classes": CLASS_NAMES,
        "columns": {name: _plain(cases[name]) for name in cases},
        "facts": {name: title for name, title in FACTS.items() if name in cases},
        "others": {name: classes[name] for name in files if name in others},
        "pictures": {name: file for name, file in files.items() if file != name},
        "units": UNITS,
        "colours": np.rint(255 * colormaps[HEAT_MAP](np.arange(256))[:, :3]).astype(int).tolist(),
    }


def _filters(cases: pd.DataFrame) -> dict[str, tuple[str, list[str]]]:
    """Return what cases can be chosen by: column → title and values, where there are several."""
    filters = {}
    for name, title in FILTERS.items():
        if name in cases:
            counts = cases[name].value_counts(sort=False)
            filters[name] = title, list(counts.index[counts > 0])
    return {name: found for name, found in filters.items() if len(found[1]) > 1}


def _study_of(folder: Path, run: ResultParams) -> Path | None:
    """Return the folder of the study that a run's folder stands in; None where in none."""
    place = run.place.path.parts
    return folder.parents[len(place) - 1] if folder.parts[-len(place) :] == place else None


def _relative(path: Path, folder: Path) -> str:
    return quote(os.path.relpath(path, folder))


def _relatives(study: Path | None, run: ResultParams, test: pd.DataFrame) -> pd.DataFrame:
    """Find the relatives of the test images, as far as is known where they stand."""
    split = test.assign(part="test")
    pairs = pd.DataFrame(columns=["image_a", "image_b", "distance"])
    if study and (file := study / "splits" / f"{run.split}.csv").is_file():
        pooled = run.fold == POOLED
        split = read_csv(file) if pooled else read_split(study, run.split, run.fold)
    if study and (file := study / "splits" / "duplicates.csv").is_file():
        pairs = read_csv(file)
    return relatives(test, split, pairs)


def _members(
    run: ResultParams, training: Mapping[str, Any], study: Path | None, folder: Path
) -> list[str]:
    """Return where the runs are whose heat maps are shown: of each fold the first seed's."""
    if study is None:
        return []
    if not run.is_pool:
        return ["."]
    first = {member["fold"]: member for member in reversed(training.get("members", []))}
    places = [run.model_copy(update=member).place.path for _, member in sorted(first.items())]
    return [_relative(study / place, folder) for place in places]


def _described(predictions: pd.DataFrame, release: Release, kin: pd.DataFrame) -> pd.DataFrame:
    """Return all that the page says of each test image, in its order."""
    cases = case_table(predictions)
    cases = cases.iloc[release.cache.rows(cases["image_id"]).argsort()].reset_index(drop=True)
    index = release.cache.index.set_index("image_id")
    attributes = subgroup_attributes(release.table, index["lesion_area"])
    cases = cases.join(attributes, on="image_id")
    table = release.table.set_index("image_id").loc[cases["image_id"]]
    if "age" in table:
        cases["age"] = table["age"].to_numpy()
    if set(SITE_COLUMNS) <= set(table):
        flags = table[list(SITE_COLUMNS)] == 1
        cases["sites"] = [", ".join(flags.columns[row]) or "none" for row in flags.to_numpy()]
    area = index["lesion_area"].loc[cases["image_id"]].to_numpy()
    cases["lesion_percent"] = np.where(area > 0, (100 * area).round(2), np.nan)
    applied = index["applied"].loc[cases["image_id"]]
    if applied.notna().any():
        cases["applied"] = applied.fillna("nothing").to_numpy()
    rows = release.cache.rows(cases["image_id"])
    cases["outline"] = [
        lesion_outline(release.cache.masks[row]) if share > 0 else ""
        for row, share in zip(rows, area, strict=True)
    ]
    trained = set(kin["image_id"][kin["part"].str.contains("train")])
    cases["in_training"] = pd.Categorical(
        np.where(cases["image_id"].isin(trained), "yes", "no"), ["yes", "no"]
    )
    found: dict[str, list[list[Any]]] = {name: [] for name in cases["image_id"]}
    for name, relative, part, bits in kin.itertuples(index=False):
        found[name].append([relative, part, None if np.isnan(bits) else int(bits)])
    cases["relatives"] = list(found.values())
    return cases


def _plain(column: pd.Series) -> list[Any]:
    """Return a column as JSON has it: numbers with `DIGITS` digits, None where nothing is known."""
    if pd.api.types.is_float_dtype(column):
        return [None if pd.isna(x) else float(f"{x:.{DIGITS}g}") for x in column]
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object).where(column.notna(), None)
    return column.tolist()


def _orders() -> dict[str, str]:
    """Return what cases are ordered by: column and direction → in words."""
    rising = {f"p_{name}:up": f"{title_of(f'p_{name}')}, lowest first" for name in CLASS_NAMES}
    falling = {f"p_{name}:down": f"{title_of(f'p_{name}')}, highest first" for name in CLASS_NAMES}
    pairs = [pair for both in zip(falling.items(), rising.items(), strict=True) for pair in both]
    return {"": "Id", "loss:down": "Loss, worst first", "loss:up": "Loss, best first"} | dict(pairs)


def write_pictures(folder: Path, cache: ImageCache, image_ids: Iterable[str]) -> dict[str, str]:
    """Write some images of the cache, as a network sees them, as JPEG files; skip those there.

    Args:
        folder: of the pictures of this cache.
        cache: whose images.
        image_ids: of the images.

    Returns:
        image_id → name of the file: the id itself where it is the plain name of a JPEG in the whole
        data set, and else the image's row in the cache.
    """
    names = list(image_ids)
    rows = cache.rows(names)
    plain = cache.index["image_id"].map(is_image_name).all()
    files = {name: name if plain else f"{row}.jpeg" for name, row in zip(names, rows, strict=True)}
    there = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    new = {file: row for file, row in zip(files.values(), rows, strict=True) if file not in there}
    write_files(folder, ((file, _jpeg(cache.images[row])) for file, row in new.items()))
    return files


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpeg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def lesion_outline(mask: NDArray[np.uint8]) -> str:
    """Return the outline of a lesion mask as the path of an SVG, `UNITS` to the side of the image.

    Args:
        mask: uint8 {0, 1} (S, S).

    Returns:
        One closed polygon a part, and one a hole, in whole numbers; empty where the mask is.

    >>> mask = np.zeros((100, 100), np.uint8)
    >>> mask[20:50, 40:80] = 1
    >>> lesion_outline(mask)
    'M401,204 404,499 799,496 796,201Z'
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return ""
    part = np.pad(255 * mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    fine = cv2.resize(part, None, fx=FINER, fy=FINER, interpolation=cv2.INTER_LINEAR)
    found, _ = cv2.findContours((fine > 127).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    scale = UNITS / (FINER * len(mask))
    corner = np.array([columns[0] - 1, rows[0] - 1]) * FINER
    paths = []
    for contour in found:
        points = cv2.approxPolyDP(contour, FINER / 2, closed=True)[:, 0]
        places = np.rint((corner + points + 0.5) * scale).astype(int)
        paths.append("M" + " ".join(f"{x},{y}" for x, y in places) + "Z")
    return "".join(paths)
