"""One run: train, evaluate, explain; its folder and its provenance."""

import hashlib
import json
import os
import shutil
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from btxrd.files import project_path, write_json
from btxrd.params import EvaluateParams, GradcamParams, RunParams
from btxrd.provenance import code_version, file_digest, now, package_versions
from btxrd.study.notebooks import NotebookError, execute_notebook
from btxrd.study.records import RUN_FILE, STAGES, read_json, read_run

__all__ = ["RunTask", "execute_run"]

HASHED = (
    "history.csv",
    "model.pt",
    "training.json",
    "predictions.csv",
    "metrics.json",
    "operating_points.csv",
    "calibration.csv",
    "subgroups.csv",
    "gradcam.csv",
)
"""The files of a run whose digests its `run.json` keeps."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class RunTask:
    """A run of a study, with what else its numbers depend on.

    Attributes:
        params: the run's parameters.
        replicates: of the bootstrap.
        prevalences: of malignant images, for further predictive values.
        gradcam: the method of the activation maps.
        data: fingerprint of the images, annotations and table.
    """

    params: RunParams
    replicates: int
    prevalences: tuple[float, ...]
    gradcam: str
    data: str

    @property
    def split_file(self) -> Path:
        """The split that the run trains on."""
        return project_path(self.params.study_dir) / "splits" / f"{self.params.split}.csv"

    def hash(self) -> str:
        """Return 16 hex digits of parameters, data and split: what decides the run's numbers."""
        content = {
            "parameters": self.params.fingerprint(),
            "replicates": self.replicates,
            "prevalences": self.prevalences,
            "gradcam": self.gradcam,
            "data": self.data,
            "split": file_digest(self.split_file),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def is_finished(self) -> bool:
        """Say whether the run's folder holds this very run, complete."""
        found = read_run(self.params.run_dir)
        return found.get("status") == "finished" and found.get("hash") == self.hash()

    def stage_parameters(self, stage: str) -> dict[str, Any]:
        """Return what papermill injects into the notebook of a stage."""
        run_dir = str(self.params.run_dir)
        if stage == "04_evaluate":
            prevalences = list(self.prevalences)
            params = EvaluateParams(
                run_dir=run_dir, replicates=self.replicates, prevalences=prevalences
            )
            return params.model_dump()
        if stage == "05_gradcam":
            return GradcamParams(run_dir=run_dir, method=self.gradcam).model_dump()
        return self.params.model_dump()


def execute_run(task: RunTask, threads: int = 1) -> dict[str, Any]:
    """Run the three notebooks of a run in its folder and record how it went.

    A folder that holds another run (other parameters, data or split) is moved aside first; an
    interrupted training of the same run goes on from its last epoch.

    Args:
        task: the run.
        threads: of torch and the linear algebra in each kernel.

    Returns:
        The content of `run.json`. A failure is recorded there and in `error.txt`, not raised.
    """
    _prepare_kernels(threads)
    run_dir = task.params.run_dir
    _make_room(run_dir, task.hash())
    record: dict[str, Any] = {
        "status": "running",
        "hash": task.hash(),
        "parameters": task.params.model_dump(),
        "replicates": task.replicates,
        "prevalences": task.prevalences,
        "gradcam": task.gradcam,
        "data": task.data,
        "split": file_digest(task.split_file),
        "code": code_version(),
        "packages": package_versions(),
        "threads": threads,
        "started": now(),
        "stage_seconds": {},
    }
    try:
        for stage in STAGES:
            record["stage"] = stage
            write_json(run_dir / RUN_FILE, record)
            started = time.perf_counter()
            execute_notebook(stage, run_dir / f"{stage}.ipynb", task.stage_parameters(stage))
            record["stage_seconds"][stage] = round(time.perf_counter() - started, 1)
    except Exception as error:
        details = error.details if isinstance(error, NotebookError) else traceback.format_exc()
        (run_dir / "error.txt").write_text(f"{error}\n\n{details}\n")
        record |= {"status": "failed", "error": str(error), "ended": now()}
    else:
        files = {name: file_digest(run_dir / name) for name in HASHED}
        record |= {"status": "finished", "ended": now(), "files": files}
        (run_dir / "error.txt").unlink(missing_ok=True)
    record["training"] = read_json(run_dir / "training.json")
    write_json(run_dir / RUN_FILE, record)
    return record


def _prepare_kernels(threads: int) -> None:
    """Set what the kernels of this process inherit.

    Dask has its workers hand freed memory back at once (MALLOC_TRIM_THRESHOLD_), which halves the
    speed of training on a CPU.
    """
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    os.environ.pop("MALLOC_TRIM_THRESHOLD_", None)


def _make_room(run_dir: Path, run_hash: str) -> None:
    if run_dir.is_dir() and read_run(run_dir).get("hash") != run_hash:
        aside = run_dir.with_name(f"{run_dir.name}.old-{time.strftime('%Y%m%d-%H%M%S')}")
        shutil.move(run_dir, aside)
    run_dir.mkdir(parents=True, exist_ok=True)
