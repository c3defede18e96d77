"""What a study is doing: read from the runs' files, shown in the terminal."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from btxrd.files import read_csv, read_json
from btxrd.params import ResultParams, StudyParams
from btxrd.stages import (
    FEATURES_FILE,
    LOCK_FILE,
    RUN_FILE,
    RUN_STAGES,
    STUDY_FILE,
    run_stages,
)

__all__ = ["RunState", "StudyProgress", "run_state", "seconds_left", "study_status"]

MOST_LINES = 24
"""A larger study shows its running and failed runs only."""

WHOLE = "all runs"
TRAINING_FILES = (FEATURES_FILE, "history.csv", "seconds.csv")
STYLES = {"finished": "green", "failed": "red", "waiting": "dim", "interrupted": "yellow"}


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    Attributes:
        experiment: of the run.
        state: `waiting`, `finished`, `failed`, `interrupted`, or what its stage is doing.
        step: what the training goes by: `epoch`, or `C` in a probe.
        epoch, epochs: finished steps, and the most there can be.
        val_loss: of the last epoch, in nats; None before the first.
        error: one line, where the run failed.
        epoch_seconds: mean over the finished epochs; None before the first.
        other_seconds: what a finished run took besides its epochs, and besides features that are
            kept for others; None before its end.
        features: in [0, 1], how many a probe has; None where it computes none.
    """

    experiment: str
    state: str
    step: str
    epoch: int
    epochs: int
    val_loss: float | None
    error: str | None
    epoch_seconds: float | None
    other_seconds: float | None
    features: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to the run."""
        return self.state in ("finished", "failed", "interrupted")

    @property
    def loss(self) -> str:
        """The validation loss in words; before the first epoch, how far a probe's features are."""
        if self.val_loss is not None:
            return f"val loss {self.val_loss:.3f}"
        return "" if self.features is None else f"features {self.features:.0%}"

    def __str__(self) -> str:
        """Say it in a line."""
        if self.state == "failed":
            return f"failed: {self.error}"
        if self.state not in ("training", "interrupted"):
            return self.state
        return _joined(f"{self.state}, {self.step} {self.epoch}/{self.epochs}", self.loss)


def run_state(run: ResultParams) -> RunState:
    """Read the state of a run or pool from its files: again only where they have changed."""
    files = (run.run_dir / name for name in (RUN_FILE, *TRAINING_FILES))
    return _run_state(run.model_dump_json(), tuple(_stamp(file) for file in files))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino


@lru_cache(maxsize=4096)
def _run_state(parameters: str, stamps: tuple[object, ...]) -> RunState:
    run = ResultParams.model_validate_json(parameters)
    record = read_json(run.run_dir / RUN_FILE)
    state = record.get("status", "waiting")
    history = _column(run.run_dir / "history.csv", "val_loss")
    seconds = _column(run.run_dir / "seconds.csv", "seconds")
    features = read_json(run.run_dir / FEATURES_FILE)
    other = None
    if state == "finished" and len(seconds):
        once = float(seconds.sum()) + features.get("seconds", 0)
        other = max(0.0, sum(record.get("stage_seconds", {}).values()) - once)
    if state == "running":
        first, *_ = run_stages(run.training.mode)
        state = RUN_STAGES[record.get("stage", first.name)].doing
    return RunState(
        experiment=run.experiment,
        state=state,
        step=run.step,
        epoch=len(history),
        epochs=_steps(run),
        val_loss=float(history[-1]) if len(history) else None,
        error=record.get("error"),
        epoch_seconds=float(seconds.mean()) if len(seconds) else None,
        other_seconds=other,
        features=features.get("share"),
    )


def _steps(run: ResultParams) -> int:
    """Return how many rows the history can have: in a pool, none."""
    return 0 if run.is_pool else run.steps


def _column(path: Path, name: str) -> np.ndarray:
    try:
        return read_csv(path)[name].to_numpy()
    except (FileNotFoundError, pd.errors.EmptyDataError, KeyError):
        return np.array([])


def seconds_left(states: Sequence[RunState], slots: int) -> float | None:
    """Return how long a study still takes at most; None before an epoch is measured.

    A run's epochs take as long as those it has had, else as those of its experiment, else as the
    mean of all; what comes besides the epochs, as in the finished runs.

    >>> states = [RunState("E1", "training", "epoch", 2, 4, 0.9, None, 10.0, None)] * 2
    >>> seconds_left(states, slots=1), seconds_left(states, slots=2)
    (40.0, 20.0)
    """
    measured = [s for s in states if s.epoch_seconds is not None]
    if not measured:
        return None
    others = [s.other_seconds for s in states if s.other_seconds is not None]
    other = float(np.mean(others)) if others else 0.0
    left = []
    for state in states:
        if state.is_over:
            continue
        like = [s.epoch_seconds for s in measured if s.experiment == state.experiment]
        epoch = state.epoch_seconds or float(np.mean(like or [s.epoch_seconds for s in measured]))
        epochs = state.epochs - state.epoch if state.state in ("waiting", "training") else 0
        left.append(epochs * epoch + other)
    return max([sum(left) / max(1, slots), *left], default=0.0)


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _time_left(states: Sequence[RunState], slots: int) -> str:
    left = seconds_left(states, slots)
    return f"at most about {_duration(left)} left" if left else ""


def _duration(seconds: float) -> str:
    """Return a duration in words.

    >>> _duration(42), _duration(200), _duration(7300)
    ('42 s', '3 min', '2 h 2 min')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def study_status(study_dir: str | Path) -> tuple[list[str], int]:
    """Say how far a study is, from its files alone: while it runs, or after it.

    Args:
        study_dir: the study's folder, such as `reports/btxrd`.

    Returns:
        A line a run, in the study's order, then a line a pool; how many are finished and failed;
        who runs the study. And the number of failed runs. Of notebooks run by hand, a line a run.

    Raises:
        FileNotFoundError: there is no study in `study_dir`, nor a run.
    """
    study_dir = Path(study_dir).resolve()
    plan = read_json(study_dir / STUDY_FILE)
    if not plan:
        return _status_by_hand(study_dir), 0
    # The folder may have been moved since.
    places = {"reports_dir": str(study_dir.parent), "name": study_dir.name}
    study = StudyParams.parse(plan["parameters"] | places, study_dir / STUDY_FILE)
    runs, pools = study.runs(), study.pools()
    states = [run_state(run) for run in (*runs, *pools)]
    running = _is_locked(study_dir / LOCK_FILE)
    if not running:
        states = [
            s if s.is_over or s.state == "waiting" else replace(s, state="interrupted")
            for s in states
        ]
    lines = [f"{run.name}: {s}" for run, s in zip((*runs, *pools), states, strict=True)]
    of_runs, of_pools = states[: len(runs)], states[len(runs) :]
    finished, failed = (sum(s.state == name for s in of_runs) for name in ("finished", "failed"))
    lines.append(f"{finished} of {len(runs)} runs finished, {failed} failed")
    if pools:
        made = sum(s.state == "finished" for s in of_pools)
        lines.append(f"{made} of {len(pools)} pools made of them")
    if running:
        left = _time_left(states, plan["sessions"][-1].get("slots", 1))
        return [*lines, _joined(f"run by {plan['owner']}", left)], failed
    ended = (
        "" if all(s.state == "finished" for s in states) else "; the same command goes on from here"
    )
    return [*lines, f"nobody runs this study now{ended}"], failed


def _status_by_hand(study_dir: Path) -> list[str]:
    """Say which files of which stages stand in the folders of runs that no study has recorded."""
    lines = []
    for folder in sorted({path.parent for path in study_dir.glob("runs/**/history.csv")}):
        history = _column(folder / "history.csv", "val_loss")
        left = (s.title for s in RUN_STAGES.values() if (folder / s.writes[-1]).is_file())
        made = dict.fromkeys(left)  # both notebooks that train leave the same files
        name = " · ".join(folder.relative_to(study_dir / "runs").parts)
        last = f"val loss {history[-1]:.3f}" if len(history) else ""
        lines.append(_joined(f"{name}: {' and '.join(made) or 'training not finished'}", last))
    if not lines:
        raise FileNotFoundError(f"no study in {study_dir}: it has no {STUDY_FILE}, and no runs")
    return [*lines, f"run by hand: a study would have a {STUDY_FILE}"]


def _is_locked(path: Path) -> bool:
    try:
        FileLock(path, timeout=0).acquire().lock.release()
    except Timeout:
        return True
    except OSError:
        # A folder that cannot be written to: an archive.
        return False
    return False


class StudyProgress:
    """A row a run and the time left, live in a terminal; plain lines of changes elsewhere.

    Args:
        runs: of the study, in its order; its pools.
        console: where to; standard output by default.
    """

    def __init__(self, runs: Sequence[ResultParams], console: Console | None = None) -> None:
        self.runs, self.console = list(runs), console or Console()
        self.states: dict[str, RunState] = {}
        texts = (TextColumn(f"{{task.fields[{name}]}}") for name in ("state", "loss", "left"))
        self.view = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            *texts,
            console=self.console,
            refresh_per_second=2,
        )
        empty = {"visible": False, "state": "", "loss": "", "left": ""}
        totals = {run.name: _steps(run) for run in self.runs} | {WHOLE: len(self.runs)}
        self.rows = {name: self.view.add_task(name, total=n, **empty) for name, n in totals.items()}

    def __enter__(self) -> Self:
        """Start the live view, where there is a terminal."""
        if self.console.is_interactive:
            self.view.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the last state on the screen."""
        if self.console.is_interactive:
            self.view.stop()

    def say(self, message: str) -> None:
        """Write a line: what the study does besides its runs, or what became of one."""
        line = f"{time.strftime('%H:%M:%S')} {message}"
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)

    def update(
        self, active: Sequence[ResultParams], waiting: Sequence[ResultParams], slots: int
    ) -> None:
        """Show the runs; the files of those that wait or have ended are not read again.

        Args:
            active: the runs under way.
            waiting: those to do.
            slots: how many there can be at a time.
        """
        before = dict(self.states)
        under_way, to_do = ({run.name for run in runs} for runs in (active, waiting))
        for run in self.runs:
            known = before.get(run.name)
            if run.name in under_way or known is None or not (known.is_over or run.name in to_do):
                state = run_state(run)
                if run.name in to_do or (run.name in under_way and state.is_over):
                    state = replace(state, state="waiting")
                self.states[run.name] = state
        states = list(self.states.values())
        over, left = sum(state.is_over for state in states), _time_left(states, slots)
        summary = _joined(f"{over}/{len(states)} runs", left)
        row, words = self.rows[WHOLE], left or WHOLE
        self.view.update(row, completed=over, description=words, visible=True)
        for name, state in self.states.items():
            if state == before.get(name):
                continue
            self._show(name, state)
            if before and (state.state == "failed" or not self.console.is_interactive):
                self.say(f"{name}: {state}  [{summary}]")

    def _show(self, name: str, state: RunState) -> None:
        style, left = STYLES.get(state.state, "bold"), seconds_left([state], 1)
        self.view.update(
            self.rows[name],
            completed=state.epoch,
            visible=len(self.states) <= MOST_LINES or state.state not in ("waiting", "finished"),
            state=f"[{style}]{state.state}[/]",
            loss=state.loss,
            left="" if not left else _duration(left),
        )
