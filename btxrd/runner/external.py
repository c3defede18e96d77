"""Evaluate checkpoints on anybody's radiographs: predictions, and the page of notebook 04."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from btxrd.data import near_duplicates, open_cache, patient_groups
from btxrd.data.audit import unusable_images
from btxrd.data.cache import ImageCache
from btxrd.data.listing import LISTING_COLUMNS, open_images
from btxrd.data.loader import RadiographDataset, make_loader
from btxrd.data.release import Release
from btxrd.data.table import listed
from btxrd.evaluation.differences import ensemble_predictions
from btxrd.files import (
    file_digest,
    file_name,
    project_path,
    read_csv,
    read_json,
    write_csv,
    write_json,
)
from btxrd.models import get_device, predict_logits
from btxrd.params import RunParams
from btxrd.predictions import predictions_frame, read_predictions, write_predictions
from btxrd.runner.notebooks import execute_notebook
from btxrd.runner.predict import BATCH_SIZE, Classifier, load_classifier
from btxrd.stages import EVALUATE

__all__ = ["evaluate_checkpoints"]

LEAKS = "leaks.csv"
"""The list of images that a checkpoint was trained or validated on, in an evaluation's folder."""


@dataclass(frozen=True)
class _Member:
    """A checkpoint, and what its run left: validation predictions, digests of the files seen."""

    path: Path
    classifier: Classifier
    params: RunParams
    val: pd.DataFrame | None = None
    seen: pd.DataFrame | None = None


def evaluate_checkpoints(
    data: str | Path,
    checkpoints: Sequence[str | Path],
    name: str | None = None,
    *,
    reports_dir: str | Path = "reports/external",
    cache_dir: str | Path = "data/cache",
    tell: Callable[[str], None] = warnings.warn,
) -> Path:
    """Evaluate a checkpoint, or the mean probability of several, on labelled radiographs.

    Every image is a test image. Thresholds and temperature are chosen on the validation
    predictions of the run that the checkpoint stands in; for several checkpoints on their mean,
    where all were validated on the same images.

    Args:
        data: a folder in the release's layout, or a CSV or Excel table as `read_listing` takes it.
        checkpoints: `model.pt` of runs; each sees the images preprocessed as its training did.
        name: of the folder that is written in `reports_dir`; that of `data` by default.
        tell: is given a line for each thing that the page also warns of, or notes.

    Returns:
        The page. Beside it stand what notebook 04 reads and writes, and `leaks.csv`: the images
        whose files a checkpoint was trained or validated on.

    Raises:
        FileNotFoundError: there is no such data or checkpoint.
        ImportError: an image is DICOM, and what reads it is not installed.
        NotebookError: the notebook failed.
        ValueError: data or a checkpoint cannot be used; or the folder holds something else.
    """
    data, cache_dir = Path(data).resolve(), project_path(cache_dir)
    members = [_member(Path(path)) for path in checkpoints]
    first = members[0]
    made_of = {"data": str(data), "checkpoints": [file_digest(m.path) for m in members]}
    folder = _free_folder(project_path(reports_dir), name or file_name(data.stem), made_of)
    release = open_images(data, first.classifier.preprocessing, cache_dir)
    table, index = release.table, release.cache.index
    if "group" not in table:
        pairs = near_duplicates(index["image_id"], index["phash"].to_numpy(), index["digest"])
        table = table.assign(group=patient_groups(table, pairs))
    frames = []
    for member in members:
        cache, preprocessing = release.cache, member.classifier.preprocessing
        if preprocessing != first.classifier.preprocessing:
            cache = open_cache(table, preprocessing, cache_dir)
        frames.append(_predicted(member, table, cache))
    test, (val, missing) = _mean(frames), _validation(members)
    leaks = _leaks(members, index.set_index("image_id")["digest"].loc[table["image_id"]])
    warned, notes = list(_warnings(leaks, len(test))), [*missing, *_notes(members, release)]
    device, several = get_device(), f"mean of {len(members)} checkpoints"
    places = {"dataset_root": str(data), "cache_dir": str(cache_dir)}
    says = {
        "parameters": first.params.model_dump() | places,
        "name": several if len(members) > 1 else first.params.name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "made_of": made_of,
        "warnings": warned,
        "notes": notes,
    }
    write_json(folder / "training.json", says)
    write_csv(folder / LEAKS, leaks)
    write_predictions(folder / "predictions.csv", pd.concat([*val, test]))
    for line in (*warned, *notes):
        tell(line)
    execute_notebook(EVALUATE, folder, {"run_dir": str(folder)})
    return folder / EVALUATE.page


def _member(path: Path) -> _Member:
    classifier = load_classifier(path)
    member = _Member(path, classifier, RunParams.parse(classifier.config, path))
    predictions, seen = path.with_name("predictions.csv"), path.with_name("seen.csv")
    trained = read_json(path.with_name("training.json")).get("parameters")
    if trained != classifier.config or not predictions.is_file():
        return member
    val = read_predictions(predictions).query("part == 'val'")
    return replace(member, val=val, seen=read_csv(seen) if seen.is_file() else None)


def _free_folder(reports_dir: Path, name: str, made_of: dict[str, Any]) -> Path:
    if Path(name).name != name:
        raise ValueError(f"{name!r} is no name of a folder: give another --name")
    folder = reports_dir / name
    if folder.exists() and read_json(folder / "training.json").get("made_of") != made_of:
        raise ValueError(
            f"{folder} holds an evaluation of other data or checkpoints, or something else: give "
            "another --name, or remove it"
        )
    return folder


def _predicted(member: _Member, table: pd.DataFrame, cache: ImageCache) -> pd.DataFrame:
    dataset = RadiographDataset(cache, cache.rows(table["image_id"]), table["label"].to_numpy())
    loader = make_loader(dataset, BATCH_SIZE, seed=0, shuffle=False)
    network = member.classifier.network.to(get_device())
    logits = predict_logits(network, loader)
    lacking = table["image_id"][~np.isfinite(logits).all(axis=1)]
    if len(lacking):
        raise ValueError(f"{member.path} gives no numbers for {listed(list(lacking))}: damaged?")
    return predictions_frame(table.assign(part="test"), logits)


def _mean(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return ensemble_predictions(frames) if len(frames) > 1 else frames[0]


def _validation(members: Sequence[_Member]) -> tuple[list[pd.DataFrame], list[str]]:
    """Return the validation predictions, or none and a note that says why."""
    lacking = "Thresholds and temperature are not available:"
    alone = [str(member.path) for member in members if member.val is None]
    if alone:
        return [], [f"{lacking} no run that made it stands beside {listed(alone)}."]
    if len({frozenset(member.val["image_id"]) for member in members}) > 1:
        return [], [f"{lacking} the checkpoints were validated on different images."]
    return [_mean([member.val for member in members])], []


def _leaks(members: Sequence[_Member], digests: pd.Series) -> pd.DataFrame:
    """Return the images that checkpoints have seen: image_id, part (train or val), checkpoint."""
    leaks = [pd.DataFrame(columns=["image_id", "part", "checkpoint"])]
    for member in members:
        if member.seen is not None:
            # Where a file was in both parts, train counts.
            seen = member.seen.sort_values("part").drop_duplicates("digest")
            parts = digests.map(seen.set_index("digest")["part"]).dropna()
            found = parts.rename("part").reset_index()
            leaks.append(found.assign(checkpoint=str(member.path)))
    return pd.concat(leaks, ignore_index=True)


def _warnings(leaks: pd.DataFrame, images: int) -> Iterator[str]:
    for part, title in (("train", "training"), ("val", "validation")):
        found = leaks["image_id"][leaks["part"] == part].unique()
        if len(found):
            yield (
                f"{len(found)} of {images} images were in the {title} set of a checkpoint "
                f"({listed(found)}): the figures are too good. {LEAKS} names them all."
            )


def _notes(members: Sequence[_Member], release: Release) -> Iterator[str]:
    if len(members) > 1:
        named = "; ".join(f"{member.params.name} ({member.path})" for member in members)
        yield f"The mean probability of {named}."
    unknown = [str(member.path) for member in members if member.seen is None]
    if unknown:
        named = listed(unknown)
        yield f"Which images {named} has been trained on is not known: no seen.csv beside it."
    bad = unusable_images(release.findings)
    if bad:
        yield f"{len(bad)} images were set aside ({listed(sorted(bad))}): btxrd check says why."
    applied = release.cache.index[["image_id", "applied"]].dropna()
    if len(applied):
        named = listed([f"{name} ({what})" for name, what in applied.itertuples(index=False)])
        yield f"{len(applied)} images are not shown just as they are stored: {named}."
    yield from release.notes
    if "group" not in release.table:
        return
    if release.table["group"].is_unique:
        yield (
            "Every image counts as a patient of its own; where patients have several, name them in "
            "the column group, or the intervals are too narrow."
        )
    unread = release.table.columns.difference([*LISTING_COLUMNS, "image_id"])
    if len(unread):
        yield f"Columns that are not read: {listed(unread)}."
