"""One run: train, evaluate, explain; its folder and its provenance."""

import hashlib
import json
import os
import shutil
import time
import traceback
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from btxrd.files import atomic_path, clear_scratch, project_path, write_json
from btxrd.params import EvaluateParams, GradcamParams, RunParams
from btxrd.provenance import code_version, file_digest, now, package_versions
from btxrd.session import (
    RUN_FILE,
    SESSION_VARIABLE,
    STAGES,
    StopRequested,
    check_stop,
    read_json,
    read_run,
)
from btxrd.study.notebooks import NotebookError, execute_notebook
from btxrd.study.source import code_digest

__all__ = ["MOST_ATTEMPTS", "RunTask", "execute_run", "kernel_environment", "run_code"]

PRODUCTS = {
    "03_train": ("history.csv", "seconds.csv", "model.pt", "training.json", "predictions.csv"),
    "04_evaluate": ("metrics.json", "operating_points.csv", "calibration.csv", "subgroups.csv"),
    "05_gradcam": ("gradcam.csv",),
}
"""What each stage leaves; `run.json` keeps the digests of these files."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

MOST_ATTEMPTS = 3
"""How often a session starts a run whose worker dies: once, and twice again elsewhere."""


def run_code() -> dict[str, str]:
    """Return the digest of each stage's code."""
    return {stage: code_digest(stage) for stage in STAGES}


@dataclass(frozen=True)
class RunTask:
    """A run of a study, with what else its numbers depend on.

    Attributes:
        params: the run's parameters.
        replicates: of the bootstrap.
        prevalences: of malignant images, for further predictive values.
        gradcam: the method of the activation maps.
        data: fingerprint of the images, annotations and table.
        code: as `run_code` returns it.
    """

    params: RunParams
    replicates: int
    prevalences: tuple[float, ...]
    gradcam: str
    data: str
    code: Mapping[str, str]

    @property
    def split_file(self) -> Path:
        """The split that the run trains on."""
        return project_path(self.params.study_dir) / "splits" / f"{self.params.split}.csv"

    def stage_hashes(self) -> dict[str, str]:
        """Return 16 hex digits for each stage, of all that decides its numbers.

        Evaluation and heat maps follow from the training and its code, but not the other way
        round: a change of them does not train again.
        """
        training = _hash(
            parameters=self.params.fingerprint(),
            data=self.data,
            split=file_digest(self.split_file),
            code=self.code["03_train"],
        )
        evaluation = _hash(
            training=training,
            replicates=self.replicates,
            prevalences=self.prevalences,
            code=self.code["04_evaluate"],
        )
        maps = _hash(training=training, gradcam=self.gradcam, code=self.code["05_gradcam"])
        return {"03_train": training, "04_evaluate": evaluation, "05_gradcam": maps}

    def hash(self) -> str:
        """Return 16 hex digits of parameters, data, split and code: what decides the numbers."""
        return _hash(**self.stage_hashes())

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


def _hash(**content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def execute_run(task: RunTask, threads: int = 1, session: str | None = None) -> dict[str, Any]:
    """Run the three notebooks of a run in its folder and record how it went.

    A folder that holds another run (other parameters, data, split or code) is moved aside first;
    stages of it that are the same in this run are taken over. Stages that are done are not done
    again, and an interrupted training goes on from its last epoch, with as many threads as it
    began with.

    Args:
        task: the run.
        threads: of torch and the linear algebra in each kernel.
        session: of the study, to which the run belongs; one of its own by default.

    Returns:
        The content of `run.json`, with the status `finished`, `failed` or `interrupted`. A
        failure is recorded there and in `error.txt`, not raised.
    """
    if task.is_finished():
        return read_run(task.params.run_dir)
    session = session or uuid.uuid4().hex
    run_dir = task.params.run_dir
    record: dict[str, Any] = {"status": "failed", "parameters": task.params.model_dump()}
    try:
        done = _make_room(task)
        known = read_run(run_dir)
        record = _new_record(task, known, session, known.get("threads", threads), done)
        for stage in STAGES:
            if stage not in record["stage_seconds"]:
                _execute_stage(task, stage, record)
        files = {name: file_digest(run_dir / name) for names in PRODUCTS.values() for name in names}
        seconds = round(sum(record["stage_seconds"].values()), 1)
        record |= {"status": "finished", "files": files, "seconds": seconds}
        (run_dir / "error.txt").unlink(missing_ok=True)
    except StopRequested as error:
        record |= {"status": "interrupted", "error": str(error)}
    except Exception as error:
        details = error.details if isinstance(error, NotebookError) else traceback.format_exc()
        stopped = isinstance(error, NotebookError) and error.kind == StopRequested.__name__
        record |= {"status": "interrupted" if stopped else "failed", "error": str(error)}
        if not stopped:
            # Where the disk is full, the record is still returned.
            with suppress(OSError):
                (run_dir / "error.txt").write_text(f"{error}\n\n{details}\n")
    record |= {"ended": now(), "training": read_json(run_dir / "training.json")}
    with suppress(OSError):
        write_json(run_dir / RUN_FILE, record)
    return record


def _new_record(
    task: RunTask, known: Mapping[str, Any], session: str, threads: int, done: dict[str, float]
) -> dict[str, Any]:
    """Return the record of a run that begins or goes on, and write it.

    Raises:
        RuntimeError: the worker has died too often under this run.
    """
    again = known.get("status") == "running" and known.get("session") == session
    record = {
        "status": "running",
        "hash": task.hash(),
        "stage_hashes": task.stage_hashes(),
        "parameters": task.params.model_dump(),
        "replicates": task.replicates,
        "prevalences": task.prevalences,
        "gradcam": task.gradcam,
        "data": task.data,
        "split": file_digest(task.split_file),
        "code_digests": dict(task.code),
        "code": code_version(),
        "packages": package_versions(),
        "threads": threads,
        "session": session,
        "attempt": known["attempt"] + 1 if again else 1,
        "started": known.get("started", now()),
        "stage_seconds": done,
    }
    write_json(task.params.run_dir / RUN_FILE, record)
    if record["attempt"] > MOST_ATTEMPTS:
        raise RuntimeError(
            f"its worker process died {MOST_ATTEMPTS} times (killed, or out of memory?)"
        )
    return record


def _execute_stage(task: RunTask, stage: str, record: dict[str, Any]) -> None:
    """Run a stage's notebook and note in the record, and in its file, that it is done."""
    check_stop(task.params.study_dir, record["session"])
    run_dir = task.params.run_dir
    record["stage"] = stage
    write_json(run_dir / RUN_FILE, record)
    started = time.perf_counter()
    environment = kernel_environment(record["threads"], record["session"])
    output = run_dir / f"{stage}.ipynb"
    execute_notebook(stage, output, task.stage_parameters(stage), environment=environment)
    record["stage_seconds"][stage] = round(time.perf_counter() - started, 1)


def kernel_environment(threads: int, session: str) -> dict[str, str]:
    """Return the environment of a study's kernel.

    Dask has its workers hand freed memory back at once (MALLOC_TRIM_THRESHOLD_), which halves the
    speed of training on a CPU.
    """
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
    environment.pop("MALLOC_TRIM_THRESHOLD_", None)
    return environment | {SESSION_VARIABLE: session}


def _make_room(task: RunTask) -> dict[str, float]:
    """Leave in the run's folder nothing but this run; return the seconds of its stages done."""
    run_dir, hashes = task.params.run_dir, task.stage_hashes()
    known = read_run(run_dir)
    done = {
        stage: known["stage_seconds"][stage]
        for stage, digest in known.get("stage_hashes", {}).items()
        if digest == hashes[stage] and _is_done(run_dir, known, stage)
    }
    if known.get("hash") == task.hash():
        clear_scratch(run_dir)
        return done
    clear_scratch(run_dir.parent, run_dir.name)
    plan = {"hash": task.hash(), "stage_hashes": hashes, "stage_seconds": done}
    with atomic_path(run_dir) as new:
        new.mkdir()
        for stage in done:
            for name in (*PRODUCTS[stage], f"{stage}.ipynb", f"{stage}.html"):
                shutil.copy2(run_dir / name, new / name)
        write_json(new / RUN_FILE, plan)
        if run_dir.exists():
            run_dir.rename(_aside(run_dir))
    return done


def _is_done(run_dir: Path, record: Mapping[str, Any], stage: str) -> bool:
    files = (*PRODUCTS[stage], f"{stage}.ipynb", f"{stage}.html")
    return stage in record["stage_seconds"] and all((run_dir / name).is_file() for name in files)


def _aside(run_dir: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (f"{run_dir.name}.old-{stamp}{f'-{n}' if n else ''}" for n in count())
    return next(run_dir.with_name(name) for name in names if not run_dir.with_name(name).exists())
