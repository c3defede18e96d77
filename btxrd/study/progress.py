"""What a study is doing: read from the runs' files, shown in the terminal."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from btxrd.params import RunParams, StudyParams
from btxrd.session import LOCK_FILE, STAGES, STUDY_FILE, read_json, read_run

__all__ = ["RunState", "StudyProgress", "run_state", "seconds_left", "study_status"]

MOST_LINES = 24
"""A larger study shows its running and failed runs only, and how many wait or are done."""

STYLES = {"finished": "green", "failed": "red", "waiting": "dim", "interrupted": "yellow"}


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    Attributes:
        experiment: of the run.
        state: `waiting`, `training`, `evaluating`, `Grad-CAM`, `finished`, `failed` or
            `interrupted`.
        epoch, epochs: finished epochs, and the most there can be.
        val_loss: of the last epoch, in nats; None before the first.
        error: one line, where the run failed.
        epoch_seconds: mean over the finished epochs; None before the first.
        other_seconds: what a finished run took besides its epochs; None before its end.
    """

    experiment: str
    state: str
    epoch: int
    epochs: int
    val_loss: float | None
    error: str | None
    epoch_seconds: float | None
    other_seconds: float | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to the run."""
        return self.state in ("finished", "failed", "interrupted")

    @property
    def done(self) -> float:
        """The share of the run that is done, counted in epochs."""
        return 1.0 if self.state in ("finished", "failed") else self.epoch / (self.epochs + 1)


def run_state(run: RunParams) -> RunState:
    """Read a run's state from its folder."""
    record = read_run(run.run_dir)
    status = record.get("status", "waiting")
    history = _column(run.run_dir / "history.csv", "val_loss")
    seconds = _column(run.run_dir / "seconds.csv", "seconds")
    finished = status == "finished" and len(seconds) > 0
    stages = sum(record.get("stage_seconds", {}).values())
    return RunState(
        experiment=run.experiment,
        state=STAGES.get(record.get("stage", ""), "training") if status == "running" else status,
        epoch=len(history),
        epochs=run.training.epochs,
        val_loss=float(history[-1]) if len(history) else None,
        error=record.get("error"),
        epoch_seconds=float(seconds.mean()) if len(seconds) else None,
        other_seconds=max(0.0, stages - float(seconds.sum())) if finished else None,
    )


def _column(path: Path, name: str) -> np.ndarray:
    try:
        return pd.read_csv(path)[name].to_numpy()
    except (FileNotFoundError, pd.errors.EmptyDataError, KeyError):
        return np.array([])


def seconds_left(states: Sequence[RunState], slots: int) -> float | None:
    """Return how long a study still takes at most; None before an epoch is measured.

    A run's epochs take as long as those it has had, else as those of its experiment, else as the
    mean of all; what comes besides the epochs, as in the finished runs.

    >>> states = [RunState("E1", "training", 2, 4, 0.9, None, 10.0, None)] * 2
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


def study_status(study_dir: str | Path) -> list[str]:
    """Say how far a study is, from its files alone: while it runs, or after it.

    Args:
        study_dir: the study's folder, such as `reports/btxrd`.

    Returns:
        A line a run, in the study's order; how many are finished and failed; who runs the study.

    Raises:
        FileNotFoundError: there is no study in `study_dir`.
    """
    study_dir = Path(study_dir)
    plan = read_json(study_dir / STUDY_FILE)
    if not plan:
        raise FileNotFoundError(f"no study in {study_dir}: it has no {STUDY_FILE}")
    # The folder may have been moved since.
    places = {"reports_dir": str(study_dir.resolve().parent), "name": study_dir.resolve().name}
    runs = StudyParams.parse(plan["parameters"] | places, study_dir / STUDY_FILE).runs()
    states = [run_state(run) for run in runs]
    running = _is_locked(study_dir / LOCK_FILE)
    if not running:
        states = [
            s if s.is_over or s.state == "waiting" else replace(s, state="interrupted")
            for s in states
        ]
    lines = [f"{run.name}: {_describe(state)}" for run, state in zip(runs, states, strict=True)]
    finished, failed = (sum(s.state == name for s in states) for name in ("finished", "failed"))
    lines.append(f"{finished} of {len(runs)} runs finished, {failed} failed")
    if running:
        left = seconds_left(states, plan["sessions"][-1].get("slots", 1))
        time_left = "" if left is None else f"; at most about {_duration(left)} left"
        return [*lines, f"run by {plan['owner']}{time_left}"]
    ended = "" if finished == len(runs) else "; the same command goes on from here"
    return [*lines, f"nobody runs this study now{ended}"]


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
    """A line a run and the time left: live in a terminal, plain lines of changes elsewhere."""

    def __init__(self, runs: Sequence[RunParams], console: Console | None = None) -> None:
        self.runs = list(runs)
        self.console = console or Console(file=sys.stdout)
        self.live: Live | None = None
        self.message = ""
        self.states: dict[str, RunState] = {}

    def __enter__(self) -> Self:
        """Start the live view, where there is a terminal."""
        if self.console.is_terminal:
            self.live = Live(console=self.console, refresh_per_second=2).__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the last state on the screen."""
        if self.live is not None:
            self.live.__exit__(*error)

    def say(self, message: str) -> None:
        """Show what the study does besides its runs."""
        self.message = message
        if self.live is None:
            self._print(message)
        else:
            self.live.update(self._view(1))

    def update(self, active: Sequence[RunParams], waiting: Sequence[RunParams], slots: int) -> None:
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
        if self.live is not None:
            self.live.update(self._view(slots))
            return
        for name, state in self.states.items():
            if before and state != before.get(name):
                self._print(f"{name}: {_describe(state)}  [{self._summary(slots)}]")

    def _print(self, message: str) -> None:
        print(time.strftime("%H:%M:%S"), message, file=self.console.file, flush=True)

    def _view(self, slots: int) -> Group:
        parts = [Text(self.message, style="italic")]
        if self.states:
            share = sum(state.done for state in self.states.values()) / len(self.states)
            line = Table.grid(padding=(0, 1))
            line.add_row(ProgressBar(total=1, completed=share, width=40), self._summary(slots))
            parts += [self._table(), line]
        return Group(*parts)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for column in ("run", "state", "epoch", "val loss"):
            table.add_column(column, justify="left" if column in ("run", "state") else "right")
        few = len(self.states) <= MOST_LINES
        for name, state in self.states.items():
            if few or state.state not in ("waiting", "finished"):
                val_loss = "" if state.val_loss is None else f"{state.val_loss:.3f}"
                epochs = f"{state.epoch}/{state.epochs}"
                style = STYLES.get(state.state, "bold")
                table.add_row(name, state.error or state.state, epochs, val_loss, style=style)
        return table

    def _summary(self, slots: int) -> str:
        states = list(self.states.values())
        counts = f"{sum(s.is_over for s in states)}/{len(states)} runs"
        left = seconds_left(states, slots)
        return f"{counts}, at most about {_duration(left)} left" if left else counts


def _describe(state: RunState) -> str:
    if state.state in ("training", "interrupted"):
        loss = "" if state.val_loss is None else f", val loss {state.val_loss:.3f}"
        return f"{state.state}, epoch {state.epoch}/{state.epochs}{loss}"
    return f"failed: {state.error}" if state.state == "failed" else state.state


def _duration(seconds: float) -> str:
    """Return a duration in words.

    >>> _duration(42), _duration(200), _duration(7300)
    ('42 s', '3 min', '2 h 2 min')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
