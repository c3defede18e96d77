"""Check artefacts: every number again from the predictions, every file by its digest."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from btxrd.evaluation import Bootstrap
from btxrd.evaluation.comparison import compare_runs
from btxrd.evaluation.pools import pool_runs
from btxrd.evaluation.runs import collect_runs
from btxrd.evaluation.summary import evaluate
from btxrd.files import file_digest, read_csv, read_json, write_csv, write_json
from btxrd.params import EvaluateParams, ResultParams
from btxrd.predictions import read_predictions
from btxrd.runner.run import RunTask
from btxrd.stages import EVALUATE, RUN_FILE, STUDY_FILE

__all__ = ["verify"]

RECORDED = ("parameters", "settings", "data", "code_digests", "hash", "files")
"""The keys that `run.json` must hold for a run to be checked."""

TOLERANCE = 1e-9
"""A recomputed number may be so far from the written one, absolutely and relatively."""


def verify(study_dir: str | Path) -> list[str]:
    """Recompute the numbers of a study as notebooks 04 and 06 do, and check its files.

    Every finished run: its hash, the digests of its files, and what follows from its predictions.
    A pool: also that its predictions are those of its runs. The study: its tables. Subgroups and
    heat maps need the images; of them only the digests are checked. Of the folder of an external
    evaluation, which `btxrd evaluate` writes: what follows from its predictions.

    Returns:
        A line for each thing that does not match, which names the file; none where all does.

    Raises:
        FileNotFoundError: there is no finished run in `study_dir`.
    """
    study_dir = Path(study_dir).resolve()
    if "made_of" in read_json(study_dir / "training.json"):
        return list(_check_numbers(study_dir, EvaluateParams(run_dir=str(study_dir)).model_dump()))
    folders = [study_dir / run.path for run in collect_runs(study_dir) if run.status == "finished"]
    if not folders:
        raise FileNotFoundError(f"no finished run in {study_dir}")
    problems = [line for folder in folders for line in _check_run(folder, study_dir)]
    says = read_json(study_dir / STUDY_FILE).get("parameters")
    if says is None:
        return [*problems, f"{study_dir / STUDY_FILE}: missing or empty"]
    try:
        tables = compare_runs(study_dir, Bootstrap(says["replicates"], says["level"]))
    except (FileNotFoundError, ValueError) as error:
        return [*problems, f"{study_dir}: its tables cannot be computed again: {error}"]
    return [*problems, *_compare(study_dir, tables, "the runs' files")]


def _check_run(folder: Path, study_dir: Path) -> Iterator[str]:
    file, record = folder / RUN_FILE, read_json(folder / RUN_FILE)
    lacking = [key for key in RECORDED if key not in record]
    if lacking:
        yield f"{file}: lacks {', '.join(lacking)}: not of this version of btxrd"
        return
    params = ResultParams.parse(record["parameters"] | {"study_dir": str(study_dir)}, file)
    made_of = params, record["settings"], record["data"], record["code_digests"]
    runs = tuple(study_dir / run for run in record.get("runs", []))
    task = RunTask(*made_of, runs)
    if not task.split_file.is_file():
        yield f"{task.split_file}: missing"
    elif task.hash() != record["hash"]:
        yield f"{file}: the hash is not that of its parameters, data, split and code"
    for name, digest in record["files"].items():
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            yield f"{folder / name}: missing, or not the file that the run wrote"
    if params.is_pool:
        try:
            yield from _compare(folder, pool_runs(runs), "the files of its runs")
        except (FileNotFoundError, ValueError) as error:
            yield str(error)
            return
    yield from _check_numbers(folder, record["settings"][EVALUATE.name])


def _check_numbers(folder: Path, given: Mapping[str, Any]) -> Iterator[str]:
    """Compute again what notebook 04 writes with such parameters."""
    try:
        predictions = read_predictions(folder / "predictions.csv")
    except (FileNotFoundError, ValueError) as error:
        # It names the file.
        yield str(error)
        return
    bootstrap = Bootstrap(given["replicates"], given["level"])
    computed = evaluate(predictions, bootstrap, given["prevalences"])
    yield from _compare(folder, computed, "predictions.csv")


def _compare(folder: Path, computed: Mapping[str, Any], source: str) -> Iterator[str]:
    """Compare files with what they should hold, which is written and read back as they were."""
    with tempfile.TemporaryDirectory(prefix="btxrd-") as scratch:
        for name, content in computed.items():
            again, write = Path(scratch, name), write_json if name.endswith("json") else write_csv
            write(again, content)
            written, expected = _read(folder / name), _read(again)
            if expected and not written:
                yield f"{folder / name}: missing or empty"
                continue
            for key in _differences(written, expected):
                yield f"{folder / name}: {key} does not follow from {source}"


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file, or the columns of a table; empty without a file."""
    if path.suffix == ".json":
        return read_json(path)
    try:
        return read_csv(path).to_dict("list")
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return {}


def _differences(written: Any, computed: Any, key: str = "") -> Iterator[str]:
    """Name the places in which two nests of dicts, lists, texts and numbers differ."""
    both = written, computed
    if all(isinstance(one, dict) for one in both):
        for name in dict.fromkeys((*written, *computed)):
            yield from _differences(written.get(name), computed.get(name), f"{key} {name}".strip())
    elif all(isinstance(one, list) for one in both) and len(written) == len(computed):
        for place, pair in enumerate(zip(*both, strict=True)):
            yield from _differences(*pair, f"{key} [{place}]")
    elif all(isinstance(one, int | float) for one in both):
        if not np.isclose(*both, TOLERANCE, TOLERANCE, equal_nan=True):
            yield f"{key} ({written!r}, recomputed {computed!r})"
    elif written != computed:
        yield f"{key} ({written!r}, recomputed {computed!r})"
