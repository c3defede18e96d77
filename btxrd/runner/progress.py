"""The progress of a study: read from the runs' files, shown in the terminal."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from rich.console import Console
from rich.live import Live
from rich.text import Text

from btxrd.files import read_csv, read_json
from btxrd.params import ResultParams, StudyParams
from btxrd.stages import FEATURES_FILE, LOCK_FILE, RUN_FILE, STAGES, STUDY_FILE, run_stages

__all__ = ["RunState", "StudyProgress", "run_state", "seconds_left", "study_status"]

MOST_LINES = 20
"""A larger study shows its running and failed runs only: a terminal has 24 lines."""
STYLES = {"finished": "green", "failed": "red", "waiting": "dim", "interrupted": "yellow"}


@dataclass(frozen=True)
class RunState:
    """The state of a run or pool.

    Attributes:
        state: `waiting`, `finished`, `failed`, `interrupted`, or what its stage is doing.
        epoch, epochs: finished steps, and the most there can be.
        val_loss: of the last epoch, in nats; None before the first.
        error: one line, where the run failed.
        epoch_seconds: mean over the finished epochs; None before the first.
        other_seconds: what a finished run took besides its epochs, and besides features that are
            kept for others; None before its end.
        features: in [0, 1], how many a probe has; None where it computes none.
        pace: images a second and the share of time spent waiting for them, in [0, 1], of the last
            epoch; None before the first.
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
    pace: tuple[float, float] | None = None

    @property
    def is_over(self) -> bool:
        """True where nothing more happens to the run."""
        return self.state in ("finished", "failed", "interrupted")

    def __str__(self) -> str:
        """Return the state in a line; before the first epoch, how far a probe's features are."""
        if self.state == "failed":
            return f"failed: {self.error}"
        if self.state not in ("training", "interrupted"):
            return self.state
        loss = "" if self.features is None else f"features {self.features:.0%}"
        if self.val_loss is not None:
            loss = f"val loss {self.val_loss:.3f}"
        pace = left = ""
        if self.state == "training":
            left = _time_left([self], 1)
            pace = self.pace and "{:.0f} images/s ({:.0%} waiting)".format(*self.pace)
        return _joined(f"{self.state}, {self.step} {self.epoch}/{self.epochs}", loss, pace, left)


def run_state(run: ResultParams) -> RunState:
    """Read the state of a run or pool from its files."""
    record = read_json(run.run_dir / RUN_FILE)
    state = record.get("status", "waiting")
    history = _column(run.run_dir / "history.csv", "val_loss")
    seconds = _column(run.run_dir / "seconds.csv", "seconds")
    pace = [_column(run.run_dir / "seconds.csv", n)[-1:] for n in ("images_per_second", "waiting")]
    features = read_json(run.run_dir / FEATURES_FILE)
    other = None
    if state == "finished" and len(seconds):
        once = float(seconds.sum()) + features.get("seconds", 0)
        other = max(0.0, sum(record.get("stage_seconds", {}).values()) - once)
    if state == "running":
        first, *_ = run_stages(run.training.mode)
        state = STAGES[record.get("stage", first.name)].doing
    return RunState(
        experiment=run.experiment,
        state=state,
        step=run.step,
        epoch=len(history),
        epochs=0 if run.is_pool else run.steps,
        val_loss=float(history[-1]) if len(history) else None,
        error=record.get("error"),
        epoch_seconds=float(seconds.mean()) if len(seconds) else None,
        other_seconds=other,
        features=features.get("share"),
        pace=(float(pace[0][0]), float(pace[1][0])) if len(pace[1]) else None,
    )


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


def _joined(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)


def _time_left(states: Sequence[RunState], slots: int) -> str:
    """Say how long it still takes, in words; nothing where that is not known."""
    seconds = seconds_left(states, slots)
    if not seconds:
        return ""
    minutes = round(seconds / 60)
    hours = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    return f"at most about {seconds:.0f} s left" if seconds < 90 else f"at most about {hours} left"


def study_status(study_dir: str | Path) -> tuple[list[str], int]:
    """Say how far a study is, from its files alone: while it runs, or after it.

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
    states = {run.name: run_state(run) for run in (*runs, *pools)}
    running = _is_locked(study_dir / LOCK_FILE)
    for name, state in states.items():
        if not (running or state.is_over or state.state == "waiting"):
            states[name] = replace(state, state="interrupted")
    lines = [f"{name}: {state}" for name, state in states.items()]
    ended = [[states[run.name].state for run in some] for some in (runs, pools)]
    finished, made = (some.count("finished") for some in ended)
    failed = ended[0].count("failed")
    lines.append(f"{finished} of {len(runs)} runs finished, {failed} failed")
    if pools:
        lines.append(f"{made} of {len(pools)} pools made of them")
    if running:
        session = plan["sessions"][-1]
        left = _time_left(list(states.values()), session.get("slots", 1))
        return [*lines, _joined(f"run by {session['owner']}", left)], failed
    rest = "" if finished + made == len(states) else "; the same command goes on from here"
    return [*lines, f"nobody runs this study now{rest}"], failed


def _status_by_hand(study_dir: Path) -> list[str]:
    """Say which files of which stages stand in the folders of runs that no study has recorded."""
    lines = []
    for folder in sorted({path.parent for path in study_dir.glob("runs/**/history.csv")}):
        history = _column(folder / "history.csv", "val_loss")
        left = (s.title for s in STAGES.values() if (folder / s.writes[-1]).is_file())
        made = dict.fromkeys(left)  # both notebooks that train leave the same files
        name = " · ".join(folder.relative_to(study_dir / "runs").parts)
        last = f"val loss {history[-1]:.3f}" if len(history) else ""
        lines.append(_joined(f"{name}: {' and '.join(made) or 'training not finished'}", last))
    if not lines:
        raise FileNotFoundError(f"no study in {study_dir}: it has no {STUDY_FILE}, and no runs")
    return [*lines, f"run by hand: a study would have a {STUDY_FILE}"]


def _is_locked(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that cannot be written to: an archive
        return False


class StudyProgress:
    """A line a run or pool and the time left, live in a terminal; lines of changes elsewhere."""

    def __init__(self, runs: Sequence[ResultParams], console: Console | None = None) -> None:
        self.runs, self.console = list(runs), console or Console()
        self.states: dict[str, RunState] = {}
        self.summary = ""
        self.view = Live(console=self.console, get_renderable=self.lines, refresh_per_second=2)

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

    def lines(self) -> Text:
        """Return the live view: the runs, in a large study those under way, and the time left."""
        view = Text(no_wrap=True, overflow="ellipsis")
        for name, state in self.states.items():
            if len(self.states) <= MOST_LINES or state.state not in ("waiting", "finished"):
                view.append(f"{name}: {state}\n", STYLES.get(state.state, "bold"))
        return view.append(self.summary)

    def update(self, slots: int) -> None:
        """Read how far the runs are, of which there can be so many at a time, and show it."""
        before = dict(self.states)
        for run in self.runs:
            known = before.get(run.name)
            # A pool of an earlier session may be made anew.
            if known is None or not known.is_over or run.is_pool:
                self.states[run.name] = run_state(run)
        states = list(self.states.values())
        over = sum(state.is_over for state in states)
        self.summary = _joined(f"{over}/{len(states)} runs", _time_left(states, slots))
        for name, state in self.states.items():
            told = state.state == "failed" or not self.console.is_interactive
            if before and told and state != before[name]:
                self.say(f"{name}: {state}  [{self.summary}]")
