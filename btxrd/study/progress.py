"""What a study is doing: read from the runs' files, shown in the terminal."""

import csv
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from distributed import Future
from rich.console import Console
from rich.live import Live
from rich.table import Table

from btxrd.params import RunParams, StudyParams
from btxrd.study.records import STAGES, STUDY_FILE, read_json, read_run
from btxrd.study.run import RunTask

__all__ = ["RunState", "StudyProgress", "run_state", "study_status"]

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    Attributes:
        state: `waiting`, `training`, `evaluating`, `Grad-CAM`, `finished` or `failed`.
        epoch, epochs: finished epochs, and the most there can be.
        val_loss: of the last epoch, in nats; None before the first.
        error: one line, where the run failed.
    """

    state: str
    epoch: int
    epochs: int
    val_loss: float | None
    error: str | None

    @property
    def done(self) -> float:
        """The share of the run that is done, counted in epochs."""
        if self.state in ("finished", "failed"):
            return 1.0
        return self.epoch / (self.epochs + 1)


def run_state(run: RunParams) -> RunState:
    """Read a run's state from its folder."""
    record = read_run(run.run_dir)
    rows = _history(run.run_dir / "history.csv")
    status = record.get("status", "waiting")
    state = STAGES.get(record.get("stage", ""), status) if status == "running" else status
    val_loss = float(rows[-1]["val_loss"]) if rows else None
    return RunState(state, len(rows), run.training.epochs, val_loss, record.get("error"))


def study_status(study_dir: str | Path) -> list[str]:
    """Say how far a study is, from its files alone: while it runs, or after it.

    Args:
        study_dir: the study's folder, such as `reports/btxrd`.

    Returns:
        A line a run, in the study's order, then how many are finished and failed.

    Raises:
        FileNotFoundError: there is no study in `study_dir`.
    """
    study_dir = Path(study_dir)
    plan = read_json(study_dir / STUDY_FILE)
    if not plan:
        raise FileNotFoundError(f"no study in {study_dir}: it has no {STUDY_FILE}")
    runs = StudyParams.parse(plan["parameters"], study_dir / STUDY_FILE).runs()
    states = [run_state(run) for run in runs]
    lines = [f"{run.name}: {_describe(state)}" for run, state in zip(runs, states, strict=True)]
    finished, failed = (sum(s.state == name for s in states) for name in ("finished", "failed"))
    return [*lines, f"{finished} of {len(runs)} runs finished, {failed} failed"]


def _history(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="") as lines:
            return list(csv.DictReader(lines))
    except FileNotFoundError:
        return []


class StudyProgress:
    """A line a run and the time left: live in a terminal, plain lines of changes elsewhere."""

    def __init__(self, runs: Sequence[RunParams], console: Console | None = None) -> None:
        self.runs = list(runs)
        self.console = console or Console(file=sys.stdout)
        self.live: Live | None = None
        self.message = ""
        self.started = time.monotonic()
        self.done_at_start = 0.0
        self.shown: dict[str, RunState] = {}

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
            self._show([])

    def follow(
        self,
        tasks: Sequence[RunTask],
        submit: Callable[[RunTask], Future],
        slots: int,
        busy: Sequence[Future] = (),
    ) -> None:
        """Submit the tasks in their order, one to each free slot, and show the runs to their end.

        Dask would hand out all at once: it does not keep the order, so a long run could start
        last, and it may queue a run behind another one while a worker has nothing to do.

        Args:
            tasks: the runs to do.
            submit: hands a task to the cluster.
            slots: runs at a time, one a worker.
            busy: other work that occupies slots until it is done.
        """
        self.started = time.monotonic()
        states = [run_state(run) for run in self.runs]
        self.done_at_start = sum(state.done for state in states if state.state == "finished")
        self.message = f"{len(tasks)} of {len(self.runs)} runs to do"
        if self.live is None:
            self._print(self.message)
        waiting, running = list(tasks), list(busy)
        while waiting or running:
            running = [future for future in running if not future.done()]
            while waiting and len(running) < slots:
                running.append(submit(waiting.pop(0)))
            self._show([run_state(run) for run in self.runs])
            time.sleep(POLL_SECONDS)

    def _show(self, states: Sequence[RunState]) -> None:
        if self.live is not None:
            self.live.update(self._table(states))
            return
        for run, state in zip(self.runs, states, strict=True):
            known = self.shown.get(run.name)
            self.shown[run.name] = state
            if known is not None and known != state:
                self._print(f"{run.name}: {_describe(state)}  [{self._time_left(states)}]")

    def _print(self, message: str) -> None:
        print(time.strftime("%H:%M:%S"), message, file=self.console.file, flush=True)

    def _table(self, states: Sequence[RunState]) -> Table:
        table = Table(title=self.message, title_justify="left", box=None, pad_edge=False)
        for column in ("run", "state", "epoch", "val loss"):
            table.add_column(column, justify="left" if column in ("run", "state") else "right")
        for run, state in zip(self.runs, states, strict=False):
            style = {"finished": "green", "failed": "red", "waiting": "dim"}.get(
                state.state, "bold"
            )
            val_loss = "" if state.val_loss is None else f"{state.val_loss:.3f}"
            epochs = f"{state.epoch}/{state.epochs}"
            table.add_row(run.name, state.error or state.state, epochs, val_loss, style=style)
        table.caption = self._time_left(states) if states else None
        table.caption_justify = "left"
        return table

    def _time_left(self, states: Sequence[RunState]) -> str:
        done = sum(state.done for state in states)
        finished = sum(state.state in ("finished", "failed") for state in states)
        head = f"{finished}/{len(states)} runs"
        gained = done - self.done_at_start
        if gained <= 0 or done >= len(states):
            return head
        left = (time.monotonic() - self.started) / gained * (len(states) - done)
        return f"{head}, about {_duration(left)} left"


def _describe(state: RunState) -> str:
    if state.state == "training":
        loss = "" if state.val_loss is None else f", val loss {state.val_loss:.3f}"
        return f"training, epoch {state.epoch}/{state.epochs}{loss}"
    return f"failed: {state.error}" if state.error else state.state


def _duration(seconds: float) -> str:
    """Return a duration in words.

    >>> _duration(42), _duration(200), _duration(7300)
    ('42 s', '3 min', '2 h 2 min')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
