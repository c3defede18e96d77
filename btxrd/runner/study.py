"""A whole study: the data set's notebooks, every run of the grid, the comparison."""

import getpass
import os
import platform
import signal
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from distributed import Future, KilledWorker
from filelock import FileLock, Timeout

from btxrd.data.cache import data_fingerprint, file_digests
from btxrd.data.release import usable_table
from btxrd.extras.phantom import make_phantom
from btxrd.files import clear_scratch, digest, file_digest, project_path, read_json, write_json
from btxrd.params import (
    CompareParams,
    EdaParams,
    ParameterError,
    ResultParams,
    SplitsParams,
    StudyParams,
)
from btxrd.provenance import code_version, data_name, now, package_versions
from btxrd.runner import RunnerError
from btxrd.runner.cluster import Cluster, ClusterError
from btxrd.runner.code_digest import code_digest
from btxrd.runner.notebooks import execute_notebook
from btxrd.runner.pages import write_run_list
from btxrd.runner.progress import StudyProgress
from btxrd.runner.run import (
    RunTask,
    execute_run,
    kernel_environment,
    note_failure,
    note_unmade,
    note_waiting,
)
from btxrd.stages import (
    CLAIM_FILE,
    COMPARE,
    EDA,
    LOCK_FILE,
    PUBLISHED_FILE,
    RUN_FILE,
    RUN_STAGES,
    SPLITS,
    STUDY_FILE,
    Stage,
)

__all__ = ["StudyInUseError", "StudyResult", "run_study", "select"]

LOOK_SECONDS = 1.0
"""The time after which the runs' files are looked at, where nothing ends before."""
PARAMETERS = {EDA.name: EdaParams, SPLITS.name: SplitsParams, COMPARE.name: CompareParams}

Record = dict[str, Any]
"""The content of a `run.json`."""


class StudyInUseError(RunnerError):
    """Another process is running the same study; the message names it."""


@dataclass(frozen=True)
class StudyResult:
    """The report of a study, and by name the `run.json` and the folder of each run and pool."""

    report: Path
    records: dict[str, Record]
    run_dirs: dict[str, Path]

    @property
    def failed(self) -> dict[str, Record]:
        """The runs that did not finish, and the pools that lack them."""
        return {name: r for name, r in self.records.items() if r["status"] != "finished"}


def select(
    study: StudyParams,
    only: Sequence[str] = (),
    splits: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> StudyParams:
    """Return the study reduced to some experiments, splits and seeds; to all where none is named.

    Raises:
        ParameterError: names what the study does not have, and what it has.
    """
    update = {}
    for key, wanted in (("experiments", only), ("splits", splits), ("seeds", seeds)):
        allowed = getattr(study, key)
        if unknown := [value for value in wanted if value not in allowed]:
            raise ParameterError(f"the study has no {key} {unknown}; it has {allowed}")
        if wanted:
            update[key] = [value for value in allowed if value in wanted]
    return study.model_copy(update=update)


def run_study(
    study: StudyParams,
    jobs: int | None = None,
    scheduler: str | None = None,
    resources: Mapping[str, float] | None = None,
    threads: int | None = None,
) -> StudyResult:
    """Run a study and build its report; finished, unchanged runs are not run again.

    Args:
        jobs, scheduler, resources: as `Cluster` takes them.
        threads: of each run; the cores shared out among the runs by default. A run that was
            interrupted goes on with as many as it began with.

    Raises:
        ClusterError: the scheduler or a worker cannot be used.
        FileNotFoundError: the data set is not there.
        KeyboardInterrupt: Ctrl-C: once, and the running epochs are over; or twice.
        NotebookError: the EDA or splits notebook failed, so there is nothing to train on; or the
            comparison did.
        StudyInUseError: another process runs this study.
    """
    grid, root = (study.runs(), study.pools()), project_path(study.dataset_root)
    study.study_dir.mkdir(parents=True, exist_ok=True)
    try:
        # The system lets go of the lock when its holder dies. `btxrd status` holds it a moment.
        with FileLock(study.study_dir / LOCK_FILE, timeout=1):
            clear_scratch(study.study_dir)
            if not root.exists() and study.phantom is not None:
                make_phantom(root, **study.phantom.model_dump(), progress=True)
            if not root.exists():
                reason = "see the README, section `The real data`"
                raise FileNotFoundError(f"no data set at {root}: {reason}")
            session = _Session(study, root)
            with session, Cluster(jobs, scheduler, resources) as cluster:
                return _Study(study, *grid, session, cluster, threads).run()
    except Timeout:
        *_, last = read_json(study.study_dir / STUDY_FILE).get("sessions", [{}])
        owner = last.get("owner", "another process")
        raise StudyInUseError(f"{study.study_dir} is in use by {owner}") from None


class _Session:
    """One call of the study, from its start to its end, as `study.json` records it.

    Entering it writes the file; leaving it notes how the session ended. `note` keeps a fact.
    """

    def __init__(self, study: StudyParams, root: Path) -> None:
        self.file, self.id = study.study_dir / STUDY_FILE, uuid.uuid4().hex
        owner = f"{getpass.getuser()} on {platform.node()}, process {os.getpid()}"
        before = read_json(self.file)
        self.now: dict[str, Any] = {"started": now(), "owner": owner, "outcome": "running"}
        self.content: dict[str, Any] = {
            "parameters": study.model_dump(),
            "session": self.id,
            "code": code_version(),
            "packages": package_versions(),
            "data": {"name": data_name(root)},
            "made": before.get("made", {}),
            "sessions": [*before.get("sessions", []), self.now],
        }

    def __enter__(self) -> Self:
        self.note()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        outcome = "finished" if kind is None else "failed"
        self.now["outcome"] = "stopped" if kind is KeyboardInterrupt else outcome
        self.now["ended"] = now()
        with suppress(OSError):
            self.note()

    def note(self, **facts: Any) -> None:
        self.content |= facts
        write_json(self.file, self.content)


class _Interrupts:
    """Ctrl-C: the first one is a request to stop, which wakes a sleeper; the second interrupts."""

    def __init__(self) -> None:
        self.requested = False
        self.happened = threading.Event()

    def __enter__(self) -> Self:
        self.previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self.previous)

    def _handle(self, *signal_and_frame: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self.happened.set()

    def sleep(self) -> None:
        """Sleep until something that is watched is done, Ctrl-C, or it is time to look."""
        self.happened.wait(LOOK_SECONDS)
        self.happened.clear()

    def wait(self, is_over: Callable[[], bool]) -> None:
        """Wait until something is over, or end here where a stop is requested."""
        while not is_over():
            if self.requested:
                raise KeyboardInterrupt
            self.sleep()


@dataclass
class _Study:
    """The stages of a study, in a session, on a cluster."""

    study: StudyParams
    runs: list[ResultParams]
    pools: list[ResultParams]
    session: _Session
    cluster: Cluster
    threads: int | None

    def __post_init__(self) -> None:
        self.progress, self.interrupts = StudyProgress([*self.runs, *self.pools]), _Interrupts()
        self.started: dict[str, tuple[Future, Record]] = {}

    def run(self) -> StudyResult:
        with self.progress, self.interrupts:
            self.progress.say("reading the data")
            cache_dir = project_path(self.study.cache_dir)
            table = usable_table(project_path(self.study.dataset_root), cache_dir)[0]
            self.look = partial(file_digests, table, cache_dir)
            self.seen, data = self.look(), data_fingerprint(table, cache_dir)
            self.session.content["data"]["fingerprint"] = data
            self.progress.say(f"{EDA.name} and {SPLITS.name}")
            self._start(EDA, data)
            self._start(SPLITS, data)
            self._finish(SPLITS)
            tasks = RunTask.plan(self.study, [*self.runs, *self.pools], data)
            runs, pools = tasks[: len(self.runs)], tasks[len(self.runs) :]
            records = self._run_grid(runs, "runs")
            for pool in pools:
                own = [run.name for run in self.runs if pool.params.holds(run)]
                lacking = [name for name in own if records[name]["status"] != "finished"]
                if lacking:
                    what = f"of its {len(own)} runs, {'; '.join(lacking)} did not finish"
                    records[pool.name] = note_unmade(pool, f"not made: {what}")
            pools = [pool for pool in pools if pool.name not in records]
            records |= self._run_grid(pools, "pools")
            self._finish(EDA)
            self.progress.say(COMPARE.name)
            self._start(COMPARE, self._results())
            self._finish(COMPARE)
            write_run_list(self.study.study_dir)
        report = self.study.study_dir / COMPARE.page
        run_dirs = {run.name: run.run_dir for run in (*self.runs, *self.pools)}
        return StudyResult(report, records, run_dirs)

    def _results(self) -> str:
        """Return a digest of all that the comparison is made of."""
        folder = self.study.study_dir
        read = [folder / name for name in COMPARE.reads]
        read += [project_path(name) for name in (PUBLISHED_FILE, CLAIM_FILE)]
        files = [file for file in read if file.is_file()]
        written = {name for stage in RUN_STAGES.values() for name in stage.writes}
        names = {RUN_FILE, *written} - {"model.pt"}
        files += sorted(file for file in folder.glob("runs/**/*") if file.name in names)
        return digest([[os.path.relpath(file, folder), file_digest(file)] for file in files])

    def _meet_workers(self) -> None:
        """Make the workers ready, when there is something to do for them."""
        if "slots" in self.session.now:
            return
        if not self.cluster.slots():
            needed = "".join(f" with {n} {name}" for name, n in self.cluster.resources.items())
            self.progress.say(f"waiting for a worker{needed} to join the scheduler")
            self.interrupts.wait(lambda: self.cluster.slots() > 0)
        cores = self.cluster.meet(self.session.file)
        self.threads = self.threads or cores
        self.session.now |= {"slots": self.cluster.slots(), "threads": self.threads}
        self.session.note()

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """Hand something to a worker; its end wakes this process."""
        future = self.cluster.submit(function, *arguments)
        future.add_done_callback(lambda _: self.interrupts.happened.set())
        return future

    def _start(self, stage: Stage, data: str) -> None:
        """Hand a notebook of the study to a worker, unless it has been run on the same `data`."""
        folder, params = self.study.study_dir, self._parameters(stage)
        made_of = {"parameters": params, "data": data, "code": code_digest(stage)}
        complete = all((folder / file).is_file() for file in stage.files)
        if complete and self.session.content["made"].get(stage.name) == made_of:
            return
        self._meet_workers()
        environment = kernel_environment(self.threads, self.session.id)
        future = self._submit(execute_notebook, stage, folder, params, environment)
        self.started[stage.name] = future, made_of

    def _parameters(self, stage: Stage) -> dict[str, Any]:
        """Return what papermill injects: of all that the study says, what the notebook takes."""
        says = self.study.model_dump() | {
            "dataset_root": str(project_path(self.study.dataset_root)),
            "study_dir": str(self.study.study_dir),
            # It decides nothing but which image cache is opened: one that is needed anyway.
            "image_size": self.runs[0].data.image_size,
        }
        model = PARAMETERS[stage.name]
        return model(**{key: says[key] for key in model.model_fields}).model_dump()

    def _finish(self, stage: Stage) -> None:
        """Wait for a notebook of the study, if it was started, and note what it is made of."""
        if stage.name in self.started:
            future, made_of = self.started.pop(stage.name)
            self.interrupts.wait(future.done)
            self.cluster.result(future)
            self.session.note(made=self.session.content["made"] | {stage.name: made_of})

    def _run_grid(self, tasks: Sequence[RunTask], kind: str) -> dict[str, Record]:
        """Hand runs, or pools, to free slots in their order, to the end or until a stop is asked.

        Dask would take all at once: it does not keep the order, so a long run could start last,
        and it may queue a run behind another one while a worker has nothing to do. Returns the
        record of each; KeyboardInterrupt where a stop was requested, and what was running is saved.
        """
        records = {task.name: read_json(task.run_dir / RUN_FILE) for task in tasks}
        waiting = [task for task in tasks if not task.is_finished()]
        running: dict[str, tuple[RunTask, Future]] = {}
        if tasks:
            self.progress.say(f"{len(waiting)} of {len(tasks)} {kind} to do")
        for task in waiting:
            note_waiting(task)
        if waiting:
            self._meet_workers()
        while waiting or running:
            self._heed_a_stop(bool(running))
            slots = self.cluster.slots()
            taken = sum(not future.done() for future, _ in self.started.values())
            while waiting and len(running) + taken < slots and not self.interrupts.requested:
                task = waiting.pop(0)
                if refusal := self._refusal():
                    records[task.name] = note_failure(task, refusal)
                    continue
                future = self._submit(execute_run, task, self.threads, self.session.id)
                running[task.name] = task, future
            self.progress.update(slots)
            self.interrupts.sleep()
            for name in [name for name, (_, future) in running.items() if future.done()]:
                records[name] = self._outcome(*running.pop(name))
        self._heed_a_stop(False)
        self.progress.update(1)
        return records

    def _heed_a_stop(self, is_running: bool) -> None:
        """Tell the kernels to stop, where that is requested; end here when none is running."""
        if self.interrupts.requested and not is_running:
            raise KeyboardInterrupt
        if self.interrupts.requested and not self.session.content.get("stopping"):
            self.session.note(stopping=True)
            self.progress.say("stopping after the running epochs; Ctrl-C again stops at once")

    def _refusal(self) -> str:
        """Say why no run is begun any more: it would have other data than those before it."""
        found = self.look()
        changed = [Path(path).name for path, was in self.seen.items() if found[path] != was]
        return changed and (
            f"not run: {len(changed)} files of the data set changed while the study ran "
            f"({', '.join(changed[:3])}); mend them, or start the study again: it takes them as "
            "they are now, and runs everything anew"
        )

    def _outcome(self, task: RunTask, future: Future) -> Record:
        """Return a run's record, and see to it that its file says how it ended."""
        try:
            record = self.cluster.result(future)
        except ClusterError:
            raise
        except KilledWorker as error:
            times = f"{error.allowed_failures + 1} times (killed, or out of memory?)"
            return note_failure(task, f"its worker process died {times}")
        except Exception as error:
            reason = str(error).partition("\n")[0]
            return note_failure(task, f"its worker gave up: {type(error).__name__}: {reason}")
        if read_json(task.run_dir / RUN_FILE).get("status") != record["status"]:
            # Where the disk is full, the report is made from what could be written.
            with suppress(OSError):
                write_json(task.run_dir / RUN_FILE, record)
        return record
