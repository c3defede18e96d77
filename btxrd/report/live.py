"""A view that follows a training in a notebook."""

import os
import time
from collections.abc import Mapping
from html import escape

import pandas as pd
from IPython.display import HTML, display

from btxrd.files import read_csv
from btxrd.params import RunParams
from btxrd.report.figures import history_figure
from btxrd.session import SESSION_VARIABLE

__all__ = ["TrainingView"]

REDRAW_SECONDS = 3.0
"""The curve is not drawn more often: short epochs would wait for it."""
STEP_SECONDS = 1.0
"""The bar does not say a step more often."""


class TrainingView:
    """Shows a bar with the step, the last epoch (or C) and the time left, and under it the curve.

    Both stay in place. The curve goes when the training is over, since the notebook draws it in
    full then; a study's kernels, which nobody watches, show the bar only, an epoch at a time.
    """

    def __init__(self, run: RunParams) -> None:
        self.run = run
        self.is_watched = SESSION_VARIABLE not in os.environ
        self.seconds: list[float] = []
        self.done, self.words = len(_history(run)), ""
        self.bar = display(HTML("starting …"), display_id=True)
        self.curve = display(HTML(""), display_id=True) if self.is_watched else None
        self.stepped = self.drawn = 0.0

    def __call__(self, row: Mapping[str, float]) -> None:
        """Show a row of the history, as `btxrd.training.fit` passes it to `on_epoch`."""
        self.seconds.append(row["seconds"])
        self.done = int(row.get("epoch", len(self.seconds)))
        mean = sum(self.seconds) / len(self.seconds)
        self.words = (
            f"train loss {row['train_loss']:.3f} · val loss {row['val_loss']:.3f} · "
            f"val top-1 {row['val_top1']:.1%} · {mean:.1f} s each · "
            f"at most {mean * (self.run.steps - self.done):.0f} s left"
        )
        self._show_bar(self.done, self.words)
        if self.is_watched and self.done > 1 and _elapsed(self.drawn) > REDRAW_SECONDS:
            _show(self.curve, history_figure(_history(self.run), title=self.run.name))
            self.drawn = time.monotonic()

    def step(self, step: int, steps: int) -> None:
        """Show how far the running epoch is, as `btxrd.training.fit` passes it to `on_step`."""
        if self.is_watched and _elapsed(self.stepped) > STEP_SECONDS:
            self._show_bar(self.done + step / steps, f"step {step}/{steps} · {self.words}")
            self.stepped = time.monotonic()

    def close(self) -> None:
        """Take the curve away; where nothing was left to train, say so."""
        _show(self.curve, HTML(""))
        if not self.seconds:
            self._show_bar(self.done, f"already trained: {self.run.run_dir}")

    def _show_bar(self, value: float, words: str) -> None:
        step, steps = self.run.step, self.run.steps
        bar = f'<progress value="{value}" max="{steps}" style="width: 16em"></progress>'
        _show(self.bar, HTML(f"{bar} {step} <b>{self.done}/{steps}</b> · {escape(words)}"))


def _history(run: RunParams) -> pd.DataFrame:
    """Return the rows so far, as `fit` has saved them."""
    path = run.run_dir / "history.csv"
    return read_csv(path) if path.is_file() else pd.DataFrame()


def _elapsed(since: float) -> float:
    return time.monotonic() - since


def _show(handle: object, content: object) -> None:
    # Outside a notebook, `display` gives no handle.
    if handle is not None:
        handle.update(content)
