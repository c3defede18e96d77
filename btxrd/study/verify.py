"""Check a study's artefacts: every number again from the predictions, every file by its digest."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from btxrd.evaluation.calibration import calibration_summary
from btxrd.evaluation.contrasts import experiment_contrasts, gap_contrasts
from btxrd.evaluation.operating_points import operating_points
from btxrd.evaluation.runs import collect_runs, comparison_table
from btxrd.evaluation.summary import summarise
from btxrd.params import RunParams
from btxrd.predictions import read_predictions
from btxrd.provenance import file_digest
from btxrd.session import read_json, read_run
from btxrd.study.run import RunTask

__all__ = ["verify"]

RECORDED = (
    "parameters",
    "replicates",
    "prevalences",
    "gradcam",
    "data",
    "code_digests",
    "hash",
    "files",
)
"""What `run.json` must hold for a run to be checked."""

TOLERANCE = 1e-9
"""How far a recomputed number may be from the written one, absolutely and relatively."""


def verify(study_dir: str | Path) -> list[str]:
    """Recompute the metrics and tables of a study from its predictions, and check its files.

    Every finished run: its hash, the digests of its files, `metrics.json`,
    `operating_points.csv` and `calibration.csv`. The study: `comparison.csv`,
    `differences.csv` and `gaps.csv`. Subgroups and heat maps need the images; of them only the
    digests are checked.

    Returns:
        A line for each thing that does not match, which names the file; none where all does.

    Raises:
        FileNotFoundError: there is no finished run in `study_dir`.
    """
    study_dir = Path(study_dir).resolve()
    folders = [study_dir / run.path for run in collect_runs(study_dir) if run.status == "finished"]
    if not folders:
        raise FileNotFoundError(f"no finished run in {study_dir}")
    problems = [line for folder in folders for line in _check_run(folder, study_dir)]
    return problems + list(_check_tables(study_dir))


def _check_run(folder: Path, study_dir: Path) -> Iterator[str]:
    record = read_run(folder)
    lacking = [key for key in RECORDED if key not in record]
    if lacking:
        yield f"{folder / 'run.json'}: lacks {', '.join(lacking)}: not of this version of btxrd"
        return
    params = RunParams.parse(
        record["parameters"] | {"study_dir": str(study_dir)}, folder / "run.json"
    )
    task = RunTask(
        params,
        record["replicates"],
        tuple(record["prevalences"]),
        record["gradcam"],
        record["data"],
        record["code_digests"],
    )
    if not task.split_file.is_file():
        yield f"{task.split_file}: missing"
    elif task.hash() != record["hash"]:
        yield f"{folder / 'run.json'}: the hash is not that of its parameters, data, split and code"
    changed = [name for name, digest in record["files"].items() if not _is(folder / name, digest)]
    for name in changed:
        yield f"{folder / name}: missing, or not the file that the run wrote"
    try:
        predictions = read_predictions(folder / "predictions.csv")
    except (FileNotFoundError, ValueError) as error:
        yield f"{folder / 'predictions.csv'}: {error}"
        return
    written = read_json(folder / "metrics.json")
    computed = summarise(predictions, record["replicates"])
    for key in _differences(written, computed):
        yield f"{folder / 'metrics.json'}: {key} does not follow from predictions.csv"
    val, test = (predictions[predictions["part"] == part] for part in ("val", "test"))
    points = operating_points(
        val, test, prevalences=record["prevalences"], replicates=record["replicates"]
    )
    calibration = calibration_summary(val, test).reset_index()
    yield from _compare(folder / "operating_points.csv", points, "predictions.csv")
    yield from _compare(folder / "calibration.csv", calibration, "predictions.csv")


def _check_tables(study_dir: Path) -> Iterator[str]:
    runs = collect_runs(study_dir)
    tables = {
        "comparison.csv": comparison_table(runs),
        "differences.csv": experiment_contrasts(runs, study_dir).table,
        "gaps.csv": gap_contrasts(runs, study_dir).table,
    }
    for name, table in tables.items():
        yield from _compare(study_dir / name, table, "the runs' files")


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and file_digest(path) == digest


def _compare(path: Path, computed: pd.DataFrame, source: str) -> Iterator[str]:
    try:
        written = pd.read_csv(path)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        if not computed.empty:
            yield f"{path}: missing or empty"
        return
    for key in _differences(written.to_dict("list"), computed.to_dict("list")):
        yield f"{path}: {key} does not follow from {source}"


def _differences(written: Any, computed: Any, key: str = "") -> Iterator[str]:
    """Name the places in which two nests of dicts, lists, texts and numbers differ."""
    if isinstance(computed, dict) and isinstance(written, dict):
        for name in dict.fromkeys((*written, *computed)):
            yield from _differences(written.get(name), computed.get(name), f"{key} {name}".strip())
    elif isinstance(computed, list) and isinstance(written, list) and len(written) == len(computed):
        for place, pair in enumerate(zip(written, computed, strict=True)):
            yield from _differences(*pair, f"{key} [{place}]")
    elif not _equal(written, computed):
        yield f"{key} ({written!r}, recomputed {computed!r})"


def _equal(written: Any, computed: Any) -> bool:
    if _is_empty(written) or _is_empty(computed):
        return _is_empty(written) and _is_empty(computed)
    if isinstance(written, (int, float, np.number)) and isinstance(
        computed, (int, float, np.number)
    ):
        return bool(np.isclose(written, computed, rtol=TOLERANCE, atol=TOLERANCE))
    return str(written) == str(computed)


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and np.isnan(value))
