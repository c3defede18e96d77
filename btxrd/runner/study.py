"""A whole study: the data set's notebooks, every run of the grid, the comparison."""

import getpass
import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from distributed import Future
from filelock import FileLock, Timeout

from btxrd.data.cache import data_fingerprint, file_digests
from btxrd.data.release import usable_table
from btxrd.extras.phantom import make_phantom
from btxrd.files import (
    clear_scratch,
    digest,
    file_digest,
    project_path,
    read_csv,
    read_json,
    write_json,
)
from btxrd.params import (
    CompareParams,
    EdaParams,
    ParameterError,
    RunParams,
    SplitsParams,
    StudyParams,
)
from btxrd.provenance import code_version, data_name, now, package_versions
from btxrd.runner.cluster import Cluster, ClusterError
from btxrd.runner.code_digest import code_digest
from btxrd.runner.notebooks import execute_notebook
from btxrd.runner.pages import write_run_list
from btxrd.runner.progress import StudyProgress
from btxrd.runner.run import (
    PoolTask,
    RunTask,
    execute_run,
    kernel_environment,
    note_failure,
    note_unmade,
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
"""How often the runs' files are looked at while nothing ends."""
PARAMETERS = {EDA.name: EdaParams, SPLITS.name: SplitsParams, COMPARE.name: CompareParams}


class StudyInUseError(RuntimeError):
    """Another process is running the same study; the message names it."""


@dataclass(frozen=True)
class StudyResult:
    """How a study ended.

    Attributes:
        report: the comparison report.
        records: name of each run and pool → content of its `run.json`.
        run_dirs: name of each run and pool → its folder.
    """

    report: Path
    records: dict[str, dict[str, Any]]
    run_dirs: dict[str, Path]

    @property
    def failed(self) -> dict[str, dict[str, Any]]:
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
        unknown = [value for value in wanted if value not in allowed]
        if unknown:
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
        study: the study's parameters.
        jobs: runs at a time; one here, or as many as a cluster has slots, by default.
        scheduler: address of a Dask scheduler; worker processes are started here by default.
        resources: what a run takes of its worker's Dask resources.
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
    runs = study.runs()
    study.study_dir.mkdir(parents=True, exist_ok=True)
    try:
        # The system lets go of the lock when its holder dies. `btxrd status` holds it a moment.
        with FileLock(study.study_dir / LOCK_FILE, timeout=1):
            clear_scratch(study.study_dir)
            session = _Session(study, _ensure_data(study))
            with session, Cluster(jobs, scheduler, resources) as cluster:
                return _Study(study, runs, session, cluster, threads).run()
    except Timeout:
        owner = read_json(study.study_dir / STUDY_FILE).get("owner", "another process")
        raise StudyInUseError(f"{study.study_dir} is in use by {owner}") from None


def _ensure_data(study: StudyParams) -> Path:
    root = project_path(study.dataset_root)
    if not root.exists() and study.phantom is not None:
        make_phantom(root, **study.phantom.model_dump(), progress=True)
    if not root.exists():
        raise FileNotFoundError(f"no data set at {root}: see the README, section `The real data`")
    return root


class _Session:
    """One call of the study, from its start to its end, as `study.json` records it.

    Entering it writes the file; leaving it notes how the session ended. `note` keeps a fact.
    """

    def __init__(self, study: StudyParams, root: Path) -> None:
        self.file = study.study_dir / STUDY_FILE
        self.id = uuid.uuid4().hex
        self.clock = time.perf_counter()
        owner = f"{getpass.getuser()} on {platform.node()}, process {os.getpid()}"
        before = read_json(self.file)
        self.now: dict[str, Any] = {"started": now(), "owner": owner, "outcome": "running"}
        self.content: dict[str, Any] = {
            "parameters": study.model_dump(),
            "session": self.id,
            "owner": owner,
            "started": before.get("started", self.now["started"]),
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
        self.now |= {"ended": now(), "seconds": round(time.perf_counter() - self.clock, 1)}
        total = sum(session.get("seconds", 0) for session in self.content["sessions"])
        with suppress(OSError):
            self.note(ended=self.now["ended"], seconds=round(total, 1))

    def note(self, **facts: Any) -> None:
        self.content |= facts
        write_json(self.file, self.content)


class _Interrupts:
    """Counts Ctrl-C: the first one is a request, the second one interrupts. Sleeps until then."""

    def __init__(self) -> None:
        self.requested = False
        self.previous: Any = None
        self.happened = threading.Event()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)

    def _handle(self, *signal_and_frame: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self.happened.set()

    def watch(self, future: Future) -> Future:
        """Wake whoever sleeps when a future is done."""
        future.add_done_callback(lambda _: self.happened.set())
        return future

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


class _Study:
    """The stages of a study, in a session, on a cluster."""

    def __init__(
        self,
        study: StudyParams,
        runs: list[RunParams],
        session: _Session,
        cluster: Cluster,
        threads: int | None,
    ) -> None:
        self.study, self.runs, self.pools, self.session = study, runs, study.pools(), session
        self.cluster, self.threads = cluster, threads
        self.progress, self.interrupts = StudyProgress([*runs, *self.pools]), _Interrupts()
        self.started: dict[str, tuple[Future, dict[str, Any]]] = {}

    def run(self) -> StudyResult:
        with self.progress, self.interrupts:
            self.progress.say("reading the data")
            cache_dir = project_path(self.study.cache_dir)
            table = usable_table(project_path(self.study.dataset_root), cache_dir)[0]
            digests = partial(file_digests, table, cache_dir)
            before, data = digests(), data_fingerprint(table, cache_dir)
            self.session.content["data"]["fingerprint"] = data
            self.progress.say(f"{EDA.name} and {SPLITS.name}")
            self._start(EDA, data)
            self._start(SPLITS, data)
            self._finish(SPLITS)
            tasks = RunTask.plan(self.study, self.runs, data)
            changes = partial(_changes, before, digests)
            records = self._run_grid(tasks, changes)
            records |= self._pool(tasks, records, changes)
            self._finish(EDA)
            self._note_findings(records)
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
        self.cluster.check(self.session.file)
        self.threads = self.threads or self.cluster.threads()
        self.session.now |= {"slots": self.cluster.slots(), "threads": self.threads}
        self.session.note()

    def _start(self, stage: Stage, data: str) -> None:
        """Hand a notebook of the study to a worker, unless its files are there and up to date.

        Args:
            stage: of the study.
            data: a digest of the files that the notebook reads.
        """
        folder, params = self.study.study_dir, self._parameters(stage)
        made_of = {"parameters": params, "data": data, "code": code_digest(stage)}
        complete = all((folder / file).is_file() for file in stage.files)
        if complete and self.session.content["made"].get(stage.name) == made_of:
            return
        self._meet_workers()
        environment = kernel_environment(self.threads, self.session.id)
        arguments = (execute_notebook, stage, folder, params, environment)
        future = self.interrupts.watch(self.cluster.submit(*arguments))
        self.started[stage.name] = future, made_of

    def _parameters(self, stage: Stage) -> dict[str, Any]:
        """Return what papermill injects: of all that the study says, what the notebook takes."""
        says = self.study.model_dump() | {
            "dataset_root": str(project_path(self.study.dataset_root)),
            "study_dir": str(self.study.study_dir),
            # Which image cache is opened: of the splits it decides nothing.
            "image_size": min(run.data.image_size for run in self.runs),
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

    def _pool(
        self,
        tasks: list[RunTask],
        records: Mapping[str, Mapping[str, Any]],
        changes: Callable[[], list[str]],
    ) -> dict[str, dict[str, Any]]:
        """Put together the runs that belong together, where all of them are finished.

        Returns:
            The record of every pool.
        """
        ready, unmade = [], {}
        for pool in self.pools:
            own = [task.params.name for task in tasks if pool.holds(task.params)]
            lacking = [name for name in own if records[name].get("status") != "finished"]
            task = PoolTask.of(pool, tasks)
            if lacking:
                message = f"not made: of its {len(own)} runs, {'; '.join(lacking)} did not finish"
                unmade[pool.name] = note_unmade(task, message)
            else:
                ready.append(task)
        return unmade | (self._run_grid(ready, changes) if ready else {})

    def _run_grid(
        self, tasks: Sequence[RunTask], changes: Callable[[], list[str]]
    ) -> dict[str, dict[str, Any]]:
        """Hand runs, or pools, to free slots in their order, to the end or until a stop is asked.

        Dask would take all at once: it does not keep the order, so a long run could start last,
        and it may queue a run behind another one while a worker has nothing to do.

        Args:
            tasks: all runs, or the pools that can be made.
            changes: names the files of the data set that are not as they were.

        Returns:
            The record of each.

        Raises:
            KeyboardInterrupt: a stop was requested, and what was running is saved.
        """
        waiting = [task for task in tasks if not task.is_finished()]
        records = {task.params.name: read_json(task.run_dir / RUN_FILE) for task in tasks}
        running: list[tuple[RunTask, Future]] = []
        kind = "pools" if tasks[0].params.is_pool else "runs"
        self.progress.say(f"{len(waiting)} of {len(tasks)} {kind} to do")
        if waiting:
            self._meet_workers()
        while running or (waiting and not self.interrupts.requested):
            ended = {t.params.name: self._outcome(t, f) for t, f in running if f.done()}
            records |= ended
            running = [(task, f) for task, f in running if task.params.name not in ended]
            slots = self.cluster.slots()
            taken = sum(not future.done() for future, _ in self.started.values())
            while waiting and len(running) + taken < slots and not self.interrupts.requested:
                task = waiting.pop(0)
                if changed := changes():
                    records[task.params.name] = note_failure(task, _refusal(changed))
                    continue
                arguments = (task, self.threads, self.session.id)
                resources = self.cluster.resources
                future = self.cluster.submit(execute_run, *arguments, resources=resources)
                running.append((task, self.interrupts.watch(future)))
            if self.interrupts.requested and not self.session.content.get("stopping"):
                self.session.note(stopping=True)
                self.progress.say("stopping after the running epochs; Ctrl-C again stops at once")
            active, to_do = [t.params for t, _ in running], [t.params for t in waiting]
            to_do += self.pools if kind == "runs" else []
            self.progress.update(active, to_do, slots)
            self.interrupts.sleep()
        if self.interrupts.requested:
            raise KeyboardInterrupt
        return records

    def _outcome(self, task: RunTask, future: Future) -> dict[str, Any]:
        """Return a run's record, and see to it that its file says how it ended."""
        try:
            record = self.cluster.result(future)
        except ClusterError:
            raise
        except Exception as error:
            reason = str(error).partition("\n")[0]
            return note_failure(task, f"its worker gave up: {type(error).__name__}: {reason}")
        if read_json(task.run_dir / RUN_FILE).get("status") != record["status"]:
            # Where the disk is full, the report is made from what could be written.
            with suppress(OSError):
                write_json(task.run_dir / RUN_FILE, record)
        return record

    def _note_findings(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        findings = read_csv(self.study.study_dir / "findings.csv")
        errors = findings[findings["severity"] == "error"]
        self.session.note(
            findings=findings[["severity", "subject", "what"]].to_dict("records"),
            excluded=sorted(errors["image_id"].dropna().unique()),
            runs={name: record["status"] for name, record in records.items()},
        )


def _changes(
    before: Mapping[str, str | None], look: Callable[[], Mapping[str, str | None]]
) -> list[str]:
    now = look()
    return [Path(path).name for path, was in before.items() if now[path] != was]


def _refusal(changed: Sequence[str]) -> str:
    """Say why a run is not begun: it would have other data than the others."""
    return (
        f"not run: {len(changed)} files of the data set changed while the study ran "
        f"({', '.join(changed[:3])}); mend them, or start the study again: it takes them as they "
        "are now, and runs everything anew"
    )
