"""A whole study: the data set's notebooks, every run of the grid, the comparison."""

import getpass
import logging
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from distributed import Client, Future, LocalCluster
from filelock import FileLock, Timeout

from btxrd.data.cache import data_fingerprint
from btxrd.data.dataset import usable_table
from btxrd.data.phantom import make_phantom
from btxrd.files import project_path, write_json
from btxrd.params import CompareParams, EdaParams, ParameterError, SplitsParams, StudyParams
from btxrd.provenance import code_version, data_name, now, package_versions
from btxrd.study.notebooks import execute_notebook
from btxrd.study.progress import StudyProgress
from btxrd.study.records import STUDY_FILE, read_json, read_run
from btxrd.study.run import RunTask, execute_run

__all__ = ["StudyInUseError", "StudyResult", "run_study", "select"]


class StudyInUseError(RuntimeError):
    """Another process is running the same study; the message names it."""


@dataclass(frozen=True)
class StudyResult:
    """How a study ended.

    Attributes:
        report: the comparison report.
        records: name of each run → content of its `run.json`.
        run_dirs: name of each run → its folder.
    """

    report: Path
    records: dict[str, dict[str, Any]]
    run_dirs: dict[str, Path]

    @property
    def failed(self) -> dict[str, dict[str, Any]]:
        """The runs that did not finish."""
        return {name: r for name, r in self.records.items() if r["status"] != "finished"}


def select(study: StudyParams, only: Sequence[str] = (), splits: Sequence[str] = ()) -> StudyParams:
    """Return the study reduced to some experiments and splits; all of them where none is named.

    Raises:
        ParameterError: names what the study does not have, and what it has.
    """
    update = {}
    for key, wanted in (("experiments", only), ("splits", splits)):
        allowed = getattr(study, key)
        unknown = [name for name in wanted if name not in allowed]
        if unknown:
            raise ParameterError(f"the study has no {key} {unknown}; it has {allowed}")
        if wanted:
            update[key] = [name for name in allowed if name in wanted]
    return study.model_copy(update=update)


def run_study(study: StudyParams, jobs: int = 1) -> StudyResult:
    """Run a study and build its report; finished, unchanged runs are not run again.

    Args:
        study: the study's parameters.
        jobs: runs at a time; the cores are shared out among them.

    Raises:
        FileNotFoundError: the data set is not there.
        NotebookError: the EDA or splits notebook failed, so there is nothing to train on; or the
            comparison did.
        StudyInUseError: another process runs this study.
    """
    study.study_dir.mkdir(parents=True, exist_ok=True)
    try:
        # The system lets go of the lock when its holder dies.
        with FileLock(study.study_dir / ".lock", timeout=0):
            return _run_study(study, jobs)
    except Timeout:
        owner = read_json(study.study_dir / STUDY_FILE).get("owner", "another process")
        raise StudyInUseError(f"{study.study_dir} is in use by {owner}") from None


def _run_study(study: StudyParams, jobs: int) -> StudyResult:
    started, clock = now(), time.perf_counter()
    runs = study.runs()
    root = _ensure_data(study)
    owner = f"{getpass.getuser()} on {platform.node()}, process {os.getpid()}"
    plan = {"parameters": study.model_dump(), "owner": owner, "started": started, "jobs": jobs}
    write_json(study.study_dir / STUDY_FILE, plan)
    image_size = runs[0].data.image_size
    threads = max(1, (os.cpu_count() or 1) // jobs)
    common = {
        "dataset_root": str(root),
        "cache_dir": study.cache_dir,
        "study_dir": str(study.study_dir),
        "image_size": image_size,
    }
    stages: dict[str, float] = {}
    with _cluster(jobs) as client, StudyProgress(runs) as progress:
        stage = time.perf_counter()
        progress.say("01_eda and 02_splits")
        eda = _submit(client, "01_eda", EdaParams(**common), study.study_dir / "eda.html")
        splits_params = SplitsParams(**common, split_seed=study.split_seed)
        _submit(client, "02_splits", splits_params, study.study_dir / "splits.html").result()
        data = data_fingerprint(usable_table(root)[0], project_path(study.cache_dir))
        settings = study.replicates, tuple(study.prevalences), study.gradcam
        tasks = [RunTask(run, *settings, data) for run in runs]
        waiting = [task for task in tasks if not task.is_finished()]
        submit = partial(client.submit, execute_run, threads=threads, pure=False)
        progress.follow(waiting, submit, jobs, busy=[eda])
        eda.result()
        stages["eda, splits and runs"] = time.perf_counter() - stage
        records = {task.params.name: _record(task) for task in tasks}
        stage = time.perf_counter()
        progress.say("06_compare")
        compare = CompareParams(study_dir=str(study.study_dir))
        study_json = {
            **plan,
            "data": {"name": data_name(root), "fingerprint": data},
            "code": code_version(),
            "packages": package_versions(),
            "threads": threads,
            "runs": {name: record["status"] for name, record in records.items()},
        }
        write_json(study.study_dir / STUDY_FILE, study_json)
        _submit(client, "06_compare", compare, study.study_dir / "index.html").result()
        stages["comparison"] = time.perf_counter() - stage
    seconds = {name: round(value, 1) for name, value in stages.items()}
    total = {"ended": now(), "seconds": round(time.perf_counter() - clock, 1)}
    write_json(study.study_dir / STUDY_FILE, {**study_json, **total, "stage_seconds": seconds})
    run_dirs = {run.name: run.run_dir for run in runs}
    return StudyResult(study.study_dir / "index.html", records, run_dirs)


def _record(task: RunTask) -> dict[str, Any]:
    record = read_run(task.params.run_dir)
    if record.get("status") in ("finished", "failed"):
        return record
    return record | {"status": "failed", "error": "its worker process died before the run ended"}


def _ensure_data(study: StudyParams) -> Path:
    root = project_path(study.dataset_root)
    if not root.exists() and study.phantom is not None:
        make_phantom(root, **study.phantom.model_dump(), progress=True)
    if not root.exists():
        raise FileNotFoundError(f"no data set at {root}: see the README, section `The real data`")
    return root


def _cluster(jobs: int) -> Client:
    """Start worker processes, one run each at a time; closed with the client."""
    cluster = LocalCluster(
        n_workers=jobs,
        threads_per_worker=1,
        processes=True,
        memory_limit=0,
        dashboard_address=None,
        silence_logs=logging.CRITICAL,
    )
    return _OwningClient(cluster)


class _OwningClient(Client):
    """A client that closes the cluster it was given when it is closed."""

    def __exit__(self, *error: object) -> None:
        cluster = self.cluster
        super().__exit__(*error)
        cluster.close()


def _submit(client: Client, name: str, params: Any, html: Path) -> Future:
    output = html.with_name(f"{name}.ipynb")
    return client.submit(execute_notebook, name, output, params.model_dump(), html, pure=False)
