"""One run: its stages, its folder and its provenance."""

import os
import shutil
import time
import traceback
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Self

from btxrd.evaluation.pools import POOL_FILES, write_pool
from btxrd.files import (
    atomic_path,
    clear_scratch,
    digest,
    file_digest,
    project_path,
    read_json,
    write_json,
)
from btxrd.params import EvaluateParams, GradcamParams, ResultParams, StudyParams
from btxrd.provenance import code_version, now, package_versions
from btxrd.runner.code_digest import code_digest
from btxrd.runner.notebooks import execute_notebook
from btxrd.session import SESSION_VARIABLE, THREAD_VARIABLES, StopRequested, check_stop
from btxrd.stages import EVALUATE, GRADCAM, RUN_FILE, RUN_STAGES, Stage, run_stages

__all__ = [
    "RunTask",
    "execute_run",
    "kernel_environment",
    "note_failure",
    "note_unmade",
    "note_waiting",
]


@dataclass(frozen=True)
class RunTask:
    """A run of a study, or a pool of its runs, with what else its numbers depend on.

    Attributes:
        params: the training's parameters.
        settings: what the later stages are given besides the run's folder, by stage.
        data: fingerprint of the images, annotations and table.
        code: digest of each stage's code.
        runs: the folders of the runs that a pool puts together.
    """

    params: ResultParams
    settings: Mapping[str, Mapping[str, Any]]
    data: str
    code: Mapping[str, str]
    runs: tuple[Path, ...] = ()

    @classmethod
    def plan(cls, study: StudyParams, results: Sequence[ResultParams], data: str) -> list[Self]:
        """Return what is to do for runs and pools of a study, with the code as it is now."""
        intervals = {"run_dir": "", "replicates": study.replicates, "level": study.level}
        given = {
            EVALUATE.name: EvaluateParams(prevalences=study.prevalences, **intervals),
            GRADCAM.name: GradcamParams(method=study.gradcam, **intervals),
        }
        settings = {name: params.model_dump(exclude={"run_dir"}) for name, params in given.items()}
        code = {name: code_digest(stage) for name, stage in RUN_STAGES.items()}
        single = [result for result in results if not result.is_pool]
        tasks = []
        for params in results:
            own = [run.run_dir for run in single if params.is_pool and params.holds(run)]
            tasks.append(cls(params, settings, data, code, tuple(own)))
        return tasks

    @property
    def name(self) -> str:
        """The run or pool in a few words."""
        return self.params.name

    @property
    def run_dir(self) -> Path:
        """The folder of the run or pool."""
        return self.params.run_dir

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that are done for it, in order: a pool is only evaluated."""
        return (EVALUATE,) if self.params.is_pool else run_stages(self.params.training.mode)

    @property
    def split_file(self) -> Path:
        """The split that the run trains on."""
        return project_path(self.params.study_dir) / "splits" / f"{self.params.split}.csv"

    def stage_hashes(self) -> dict[str, str]:
        """Return 16 hex digits for each stage, of all that decides its numbers.

        Evaluation and heat maps follow from the training, but not the other way round: a change
        of them does not train again. A pool's files are made of those of its runs.
        """
        files = [run / name for run in self.runs for name in POOL_FILES] or [self.split_file]
        read = [file_digest(file) if file.is_file() else None for file in files]
        first, *later = (stage.name for stage in self.stages)
        own = [self.params.fingerprint(), self.data, read, self.settings.get(first)]
        begin = digest([*own, self.code[first]])
        follow = {name: digest([begin, self.settings[name], self.code[name]]) for name in later}
        return {first: begin, **follow}

    def hash(self) -> str:
        """Return 16 hex digits of parameters, data, split and code: what decides the numbers."""
        return digest(self.stage_hashes())

    def is_finished(self) -> bool:
        """Say whether the run's folder holds this very run, complete."""
        found = read_json(self.run_dir / RUN_FILE)
        return found.get("status") == "finished" and found.get("hash") == self.hash()

    def stage_parameters(self, stage: str) -> dict[str, Any]:
        """Return what papermill injects into the notebook of a stage."""
        if stage in self.settings:
            return {"run_dir": str(self.run_dir), **self.settings[stage]}
        return self.params.model_dump()

    def record(self, **facts: Any) -> dict[str, Any]:
        """Return what `run.json` says of the task itself, and further facts."""
        study = project_path(self.params.study_dir)
        return {
            "hash": self.hash(),
            "stage_hashes": self.stage_hashes(),
            "parameters": self.params.model_dump(),
            "settings": self.settings,
            "data": self.data,
            "split": file_digest(self.split_file),
            "code_digests": {stage.name: self.code[stage.name] for stage in self.stages},
            "runs": [run.relative_to(study).as_posix() for run in self.runs],
            "stage_seconds": {},
            **facts,
        }


def execute_run(task: RunTask, threads: int = 1, session: str | None = None) -> dict[str, Any]:
    """Run the notebooks of a run, or of a pool, in its folder and record how it went.

    A folder that holds another run (other parameters, data, split or code) is moved aside first;
    stages of it that are the same in this run are taken over, done or begun. An interrupted
    training goes on from its last epoch, with as many threads as it began with.

    Args:
        threads: of torch and the linear algebra in each kernel.
        session: of the study, to which the run belongs; one of its own by default.

    Returns:
        The content of `run.json`, with the status `finished`, `failed` or `interrupted`. A
        failure is recorded there and in `error.txt`, not raised.
    """
    if task.is_finished():
        return read_json(task.run_dir / RUN_FILE)
    record: dict[str, Any] = {"parameters": task.params.model_dump()}
    try:
        done = _make_room(task)
        known = read_json(task.run_dir / RUN_FILE)
        record |= task.record(
            status="running",
            code=code_version(),
            packages=package_versions(),
            threads=known.get("threads", threads),
            session=session or uuid.uuid4().hex,
            started=known.get("started", now()),
            stage_seconds=done,
        )
        write_json(task.run_dir / RUN_FILE, record)
        if task.runs:
            write_pool(task.run_dir, task.runs)
        for stage in task.stages:
            if stage.name not in record["stage_seconds"]:
                _execute_stage(task, stage, record)
        made = {name for stage in task.stages for name in stage.writes}
        made |= {name for name in POOL_FILES if (task.run_dir / name).is_file()}
        files = {name: file_digest(task.run_dir / name) for name in sorted(made)}
        seconds = round(sum(record["stage_seconds"].values()), 1)
        record |= {"status": "finished", "files": files, "seconds": seconds}
        (task.run_dir / "error.txt").unlink(missing_ok=True)
    except Exception as error:
        stop, kind = StopRequested.__name__, getattr(error, "kind", type(error).__name__)
        record |= {"status": "interrupted" if kind == stop else "failed", "error": str(error)}
        if kind != stop:
            _explain(task, error, getattr(error, "details", "") or traceback.format_exc())
    record |= {"ended": now(), "training": read_json(task.run_dir / "training.json")}
    # Where the disk is full, the record is still returned.
    with suppress(OSError):
        write_json(task.run_dir / RUN_FILE, record)
    return record


def note_waiting(task: RunTask) -> None:
    """Record that a run is to be run again or to go on, where it has a record."""
    if record := read_json(task.run_dir / RUN_FILE):
        write_json(task.run_dir / RUN_FILE, record | {"status": "waiting"})


def note_failure(task: RunTask, message: str) -> dict[str, Any]:
    """Record that a run failed without having said so itself; returns its record."""
    record = read_json(task.run_dir / RUN_FILE) or task.record()
    record |= {"status": "failed", "error": message}
    with suppress(OSError):
        write_json(task.run_dir / RUN_FILE, record)
    _explain(task, message)
    return record


def note_unmade(task: RunTask, message: str) -> dict[str, Any]:
    """Record that a pool cannot be made, and move aside what it was before; returns its record."""
    if any((task.run_dir / name).is_file() for name in POOL_FILES):
        task.run_dir.rename(_aside(task.run_dir))
    return note_failure(task, message)


def _explain(task: RunTask, error: object, details: str = "") -> None:
    with suppress(OSError):
        (task.run_dir / "error.txt").write_text(f"{error}\n\n{details}".strip() + "\n")


def _execute_stage(task: RunTask, stage: Stage, record: dict[str, Any]) -> None:
    """Run a stage's notebook and note in the record that it is done."""
    check_stop(task.params.study_dir, record["session"])
    record["stage"] = stage.name
    write_json(task.run_dir / RUN_FILE, record)
    started = time.perf_counter()
    environment = kernel_environment(record["threads"], record["session"])
    execute_notebook(stage, task.run_dir, task.stage_parameters(stage.name), environment)
    record["stage_seconds"][stage.name] = round(time.perf_counter() - started, 1)


def kernel_environment(threads: int, session: str) -> dict[str, str]:
    """Return the environment of a study's kernel."""
    threaded = dict.fromkeys(THREAD_VARIABLES, str(threads))
    return os.environ | threaded | {SESSION_VARIABLE: session}


def _make_room(task: RunTask) -> dict[str, float]:
    """Leave in the run's folder nothing but this run; return the seconds of its stages done."""
    run_dir, hashes = task.run_dir, task.stage_hashes()
    known = read_json(run_dir / RUN_FILE)
    before, seconds = known.get("stage_hashes", {}), known.get("stage_seconds", {})
    same = [stage for stage in task.stages if before.get(stage.name) == hashes[stage.name]]
    done = {
        stage.name: seconds[stage.name]
        for stage in same
        if stage.name in seconds and all((run_dir / file).is_file() for file in stage.files)
    }
    if known.get("hash") == task.hash():
        clear_scratch(run_dir)
        return done
    clear_scratch(run_dir.parent, run_dir.name)
    kept = {file for s in same for file in (s.files if s.name in done else s.resumes)}
    kept = [file for file in kept if (run_dir / file).is_file()]
    facts = {"threads": known["threads"]} if kept and "threads" in known else {}
    with atomic_path(run_dir) as new:
        new.mkdir()
        for file in kept:
            shutil.copy2(run_dir / file, new / file)
        write_json(new / RUN_FILE, task.record(stage_seconds=done, **facts))
        if run_dir.exists():
            run_dir.rename(_aside(run_dir))
    return done


def _aside(run_dir: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (f"{run_dir.name}.old-{stamp}{f'-{n}' if n else ''}" for n in count())
    return next(run_dir.with_name(name) for name in names if not run_dir.with_name(name).exists())
