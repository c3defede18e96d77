"""Whole studies as processes: killed at any moment, stopped, spread over a cluster.

Each ends with the same bytes as one that nobody disturbed.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
import torch
import yaml

from btxrd.files import read_json
from btxrd.runner.progress import study_status
from btxrd.runner.verify import verify
from btxrd.stages import STAGES

pytestmark = pytest.mark.long

BIN = Path(sys.executable).parent
KILLS = {"data": 3, "03_train": 6, "04_evaluate": 3, "05_gradcam": 6, "06_compare": 2}
"""At least so many kills in each stage; 20 in all."""
LATEST = 1.5
"""Seconds from a stage's begin, or from a kill, to the next kill: at most."""
SAME = ("history.csv", "predictions.csv", "metrics.json", "operating_points.csv", "gradcam.csv")


class Study:
    """A study of three small runs, the folds of a split, and their pool; in a folder of its own."""

    def __init__(self, folder: Path, phantom: Path, cache_dir: Path) -> None:
        self.file, self.dir = folder / "study.yaml", folder / "small"
        values = {
            "name": "small",
            "dataset_root": str(phantom),
            "cache_dir": str(cache_dir),
            "reports_dir": str(folder),
            "splits": ["center_cv"],
            "experiments": ["E1_b0_baseline"],
            "overrides": {
                "model": {"backbone": "resnet10t", "pretrained": False},
                "data": {"image_size": 64},
                "training": {"epochs": 5, "warmup_epochs": 1, "lr": 1e-3},
            },
            "replicates": 50,
        }
        self.file.write_text(yaml.safe_dump(values))

    def start(self, *options: str) -> subprocess.Popen:
        self.before = self.session
        command = [BIN / "btxrd", "study", self.file, "--threads", "1", *options]
        log = (self.dir.parent / "log.txt").open("w")
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )

    @property
    def log(self) -> str:
        return (self.dir.parent / "log.txt").read_text()

    @property
    def session(self) -> str | None:
        return read_json(self.dir / "study.json").get("session")

    def outcomes(self) -> list[str]:
        """How the sessions ended, as far as they could say so."""
        return [session["outcome"] for session in read_json(self.dir / "study.json")["sessions"]]

    def states(self) -> list[dict]:
        return [read_json(path) for path in self.dir.glob("runs/*/*/fold-*/seed-42/run.json")]

    def is_in(self, stage: str) -> bool:
        """Say whether the session that was started last is in a stage."""
        session, runs = self.session, self.states()
        if session == self.before:
            return False
        if stage == "06_compare":
            return len(runs) == 3 and all(run["status"] == "finished" for run in runs)
        return stage == "data" or any(
            (run.get("stage"), run.get("status"), run.get("session")) == (stage, "running", session)
            for run in runs
        )

    def has(self, name: str) -> bool:
        """Say whether some run has left a file of this name."""
        return any(self.dir.glob(f"runs/*/*/*/*/{name}"))

    def results(self) -> dict[str, bytes]:
        paths = [self.dir / "comparison.csv", self.dir / "differences.csv", self.dir / "gaps.csv"]
        paths += [path for name in SAME for path in self.dir.rglob(name)]
        return {str(path.relative_to(self.dir)): path.read_bytes() for path in paths}

    def wait_for(self, process: subprocess.Popen, condition: Callable[[], bool]) -> bool:
        """Wait until something holds; False where the study ended before it did."""
        while process.poll() is None:
            if condition():
                return True
            time.sleep(0.02)
        return False


@pytest.fixture(scope="module")
def whole(tmp_path_factory, phantom, cache_dir) -> Study:
    """The study as it is when nobody disturbs it."""
    study = Study(tmp_path_factory.mktemp("whole"), phantom, cache_dir)
    assert study.start("--jobs", "2").wait() == 0, study.log
    return study


@pytest.fixture
def study(tmp_path, phantom, cache_dir) -> Study:
    return Study(tmp_path, phantom, cache_dir)


def processes_of(process: subprocess.Popen) -> list[psutil.Process]:
    """Return the process with all that it started, and what that started."""
    with suppress(psutil.NoSuchProcess):
        main = psutil.Process(process.pid)
        return [main, *main.children(recursive=True)]
    return []


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def read_everything(folder: Path) -> None:
    """Read every file that stands under a final name: a torn one does not get through."""
    readers = {
        ".csv": pd.read_csv,
        ".json": lambda path: json.loads(path.read_text()),
        ".pt": lambda path: torch.load(path, weights_only=True),
        ".ipynb": lambda path: nbformat.validate(nbformat.read(path, as_version=4)),
    }
    for path in folder.rglob("*"):
        # A table without columns, such as of no differences, is one line end.
        empty = path.suffix == ".csv" and path.read_bytes() == b"\n"
        if path.suffix in readers and ".writing-" not in str(path) and not empty:
            readers[path.suffix](path)


def runs_kernel(worker: psutil.Process) -> bool:
    """Say whether a worker runs a notebook: kernels are children of the process that forks them."""
    with suppress(psutil.NoSuchProcess):
        return any(child.children() for child in worker.children())
    return False


def busy_workers(process: subprocess.Popen) -> list[psutil.Process]:
    """Return the worker processes of a study that run a kernel."""
    with suppress(psutil.NoSuchProcess):
        return list(filter(runs_kernel, psutil.Process(process.pid).children()))
    return []


def test_twenty_kills_change_no_byte(study, whole):
    """First workers, whose runs must be taken up by others; then the study.

    Half of the times only the command is killed, and its workers and kernels must end themselves.
    """
    moments = random.Random(1)
    killed, expected = Counter(), []
    for stage, times in KILLS.items():
        while killed[stage] < times:
            process = study.start("--jobs", "2")
            if not study.wait_for(process, lambda stage=stage: study.is_in(stage)):
                assert process.returncode == 0, study.log
                expected.append("finished")
                break
            time.sleep(moments.uniform(0, LATEST))
            for _ in range(2):
                if workers := busy_workers(process):
                    kill([moments.choice(workers)])
                    killed[stage] += 1
                    time.sleep(moments.uniform(0, LATEST))
            everything = processes_of(process)
            expected.append(study.outcomes()[-1])
            killed[stage] += expected[-1] == "running"
            kill(everything[:1] if moments.random() < 0.5 else everything)
            read_everything(study.dir)
    assert sum(killed.values()) >= 20
    assert set(killed) == set(KILLS)
    assert study.start("--jobs", "2").wait() == 0, study.log
    assert study.results() == whole.results()
    assert not list(study.dir.rglob(".writing-*"))
    assert not list(study.dir.rglob("*.old-*"))
    assert verify(study.dir) == []
    assert study.outcomes() == [*expected, "finished"]
    print(f"{dict(killed)} kills in {len(expected)} sessions")


@pytest.fixture
def interruptible(study, whole) -> Study:
    """The study with its data described, and nothing run."""
    shutil.copytree(whole.dir, study.dir)
    shutil.rmtree(study.dir / "runs")
    (study.dir / "index.html").unlink()
    # What 01 and 02 made counts for the folder it was made in.
    text = (study.dir / "study.json").read_text()
    (study.dir / "study.json").write_text(text.replace(str(whole.dir), str(study.dir)))
    return study


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(interruptible, times):
    """It reaches every process of a terminal: here, of the session."""
    study = interruptible
    process = study.start("--jobs", "2")
    assert study.wait_for(process, lambda: study.has("history.csv")), study.log
    everything = processes_of(process)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        pressed = time.monotonic()
        study.wait_for(process, lambda: "stopping after the running epochs" in study.log)
    assert process.wait(timeout=60) == 130, study.log
    if times == 2:
        assert time.monotonic() - pressed < 5
    assert psutil.wait_procs(everything, timeout=5)[1] == []
    assert "Traceback" not in study.log
    assert "the same command goes on from here" in study.log
    assert not (study.dir / "index.html").exists()
    states = {run["status"] for run in study.states()}
    assert "finished" not in states
    assert times == 2 or states == {"interrupted"}
    assert study_status(study.dir)[0][-1].startswith("nobody runs this study now")


def test_data_that_change_under_a_study_are_noticed(tmp_path, phantom, cache_dir):
    """A JPEG may be damaged so that it still decodes: to something else than before."""
    shutil.copytree(phantom, tmp_path / "data")
    study = Study(tmp_path, tmp_path / "data", cache_dir)
    process = study.start("--jobs", "1")
    assert study.wait_for(process, lambda: study.is_in("04_evaluate")), study.log
    image = sorted((tmp_path / "data" / "images").iterdir())[5]
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2] + content[-2:])
    assert process.wait() == 1, study.log
    refused = f"not run: 1 files of the data set changed while the study ran ({image.name})"
    assert refused in study.log
    assert refused in (study.dir / "index.html").read_text()
    assert sorted(run["status"] for run in study.states()) == ["failed", "failed", "finished"]


@pytest.fixture
def cluster(tmp_path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A scheduler and three workers, as somebody else would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    port = address.rpartition(":")[2]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [BIN / "dask", "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"]
    scheduler = subprocess.Popen(command, **quiet)
    command = [BIN / "dask", "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    command += ["--resources", "GPU=1", "--local-directory", tmp_path / "dask"]
    workers = [subprocess.Popen(command, **quiet) for _ in range(3)]
    yield address, workers
    for process in (*workers, scheduler):
        kill(processes_of(process))
        process.wait()


def test_a_cluster_that_loses_a_worker_gives_the_same_numbers(study, whole, cluster):
    address, workers = cluster
    process = study.start("--scheduler", address, "--resources", "GPU=1")

    def busy() -> list[subprocess.Popen]:
        """Workers that run a run: the study's first notebook is over, and one has begun."""
        begun = study.has("last.pt") and (study.dir / STAGES["01_eda"].page).exists()
        return [w for w in workers if begun and runs_kernel(psutil.Process(w.pid))]

    assert study.wait_for(process, lambda: bool(busy())), study.log
    busy()[0].kill()
    assert process.wait() == 0, study.log
    assert [run["status"] for run in study.states()] == ["finished"] * 3
    assert study.results() == whole.results()
    assert verify(study.dir) == []
