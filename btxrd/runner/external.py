"""Evaluate checkpoints on anybody's radiographs: predictions, and the page of notebook 04."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from btxrd.data import near_duplicates, open_cache, open_images, study_groups
from btxrd.data.audit import unusable_images
from btxrd.data.cache import image_digests
from btxrd.data.listing import LISTING_COLUMNS
from btxrd.data.loader import RadiographDataset, make_loader
from btxrd.data.release import Release
from btxrd.data.table import listed
from btxrd.evaluation.comparisons import ensemble_predictions
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
"""In an evaluation's folder: the images that a checkpoint was trained or validated on."""


@dataclass(frozen=True)
class _Member:
    """A checkpoint, and the folder of the run that made it; None where it stands elsewhere."""

    path: Path
    classifier: Classifier
    params: RunParams
    run_dir: Path | None


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
        cache_dir: of the image cache.
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
    made_of = {"data": str(data), "checkpoints": [file_digest(m.path) for m in members]}
    folder = _free_folder(project_path(reports_dir), name or file_name(data.stem), made_of)
    release = open_images(data, members[0].classifier.preprocessing, cache_dir)
    frames = [_predicted(member, release, cache_dir) for member in members]
    test = ensemble_predictions(frames) if len(frames) > 1 else frames[0]
    val, missing = _validation(members)
    leaks = _leaks(members, image_digests(release.table, cache_dir))
    place = {"dataset_root": str(data), "cache_dir": str(cache_dir)}
    says = _says(members, place) | {
        "made_of": made_of,
        "warnings": list(_warnings(leaks, len(test))),
        "notes": [*missing, *_notes(members, release)],
    }
    write_json(folder / "training.json", says)
    write_csv(folder / LEAKS, leaks)
    write_predictions(folder / "predictions.csv", pd.concat([*val, test]))
    for line in (*says["warnings"], *says["notes"]):
        tell(line)
    execute_notebook(EVALUATE, folder, {"run_dir": str(folder)})
    return folder / EVALUATE.page


def _member(path: Path) -> _Member:
    classifier = load_classifier(path)
    params = RunParams.parse(classifier.config, path)
    trained = read_json(path.with_name("training.json")).get("parameters")
    beside = trained == classifier.config and path.with_name("predictions.csv").is_file()
    return _Member(path, classifier, params, path.parent if beside else None)


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


def _predicted(member: _Member, release: Release, cache_dir: Path) -> pd.DataFrame:
    table, classifier = release.table, member.classifier
    if "group" not in table:
        index = release.cache.index
        pairs = near_duplicates(index["image_id"], index["phash"].to_numpy(), index["digest"])
        table = table.assign(group=study_groups(table, pairs))
    cache = open_cache(table, classifier.preprocessing, cache_dir)
    dataset = RadiographDataset(cache, cache.rows(table["image_id"]), table["label"].to_numpy())
    loader = make_loader(dataset, BATCH_SIZE, seed=0, shuffle=False)
    network = classifier.network.to(get_device())
    logits = predict_logits(network, loader)
    lacking = table["image_id"][~np.isfinite(logits).all(axis=1)]
    if len(lacking):
        raise ValueError(f"{member.path} gives no numbers for {listed(list(lacking))}: damaged?")
    return predictions_frame(table.assign(part="test"), logits)


def _validation(members: Sequence[_Member]) -> tuple[list[pd.DataFrame], list[str]]:
    """Return the validation predictions, or none and a note that says why."""
    lacking = "Thresholds and temperature are not available:"
    alone = [str(member.path) for member in members if member.run_dir is None]
    if alone:
        return [], [f"{lacking} no run that made it stands beside {listed(alone)}."]
    frames = [read_predictions(member.run_dir / "predictions.csv") for member in members]
    frames = [frame[frame["part"] == "val"] for frame in frames]
    if len(frames) == 1:
        return frames, []
    if len({frozenset(frame["image_id"]) for frame in frames}) > 1:
        return [], [f"{lacking} the checkpoints were validated on different images."]
    return [ensemble_predictions(frames)], []


def _leaks(members: Sequence[_Member], digests: pd.Series) -> pd.DataFrame:
    """Return the images that checkpoints have seen: image_id, part (train or val), checkpoint."""
    leaks = [pd.DataFrame(columns=["image_id", "part", "checkpoint"])]
    for member in members:
        if member.run_dir is not None and (member.run_dir / "seen.csv").is_file():
            seen = read_csv(member.run_dir / "seen.csv")
            # Where a file was in both parts, train counts.
            seen = seen.sort_values("part").drop_duplicates("digest")
            parts = digests.map(seen.set_index("digest")["part"]).dropna()
            found = parts.rename("part").rename_axis("image_id").reset_index()
            leaks.append(found.assign(checkpoint=str(member.path)))
    return pd.concat(leaks, ignore_index=True)


def _says(members: Sequence[_Member], place: dict[str, str]) -> dict[str, Any]:
    """Return what notebook 04 wants to know of a training."""
    first, device = members[0].params, get_device()
    several = f"mean of {len(members)} checkpoints"
    return {
        "parameters": first.model_dump() | place,
        "name": several if len(members) > 1 else first.name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


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
    unknown = [m.path for m in members if not m.run_dir or not (m.run_dir / "seen.csv").is_file()]
    if unknown:
        named = listed([str(path) for path in unknown])
        yield f"Which images {named} has been trained on is not known: no seen.csv beside it."
    bad = unusable_images(release.findings)
    if bad:
        yield f"{len(bad)} images were set aside ({listed(sorted(bad))}): btxrd check says why."
    applied = release.cache.index[["image_id", "applied"]].dropna()
    if len(applied):
        named = listed([f"{name} ({what})" for name, what in applied.itertuples(index=False)])
        yield f"{len(applied)} images are not shown just as they are stored: {named}."
    if "group" in release.table:
        yield from release.notes
        yield from _notes_of_listing(release.table)


def _notes_of_listing(table: pd.DataFrame) -> Iterator[str]:
    if table["group"].is_unique:
        yield (
            "Every image counts as a patient of its own; where patients have several, name them in "
            "the column group, or the intervals are too narrow."
        )
    unread = table.columns.difference([*LISTING_COLUMNS, "image_id"])
    if len(unread):
        yield f"Columns that are not read: {listed(unread)}."
