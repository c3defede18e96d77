"""A view that follows a training in a notebook."""

import os
import time
from collections.abc import Mapping

import pandas as pd
from IPython.display import HTML, display

from btxrd.params import RunParams
from btxrd.report.figures import history_figure
from btxrd.session import SESSION_VARIABLE

__all__ = ["TrainingView"]

REDRAW_SECONDS = 3.0
"""The curve is not drawn more often: short epochs would wait for it."""


class TrainingView:
    """Shows a bar with the last epoch (or C) and the time left, and under it the curve so far.

    Both stay in place. The curve goes when the training is over, since the notebook draws it in
    full then; a study's kernels, which nobody watches, show the bar only.
    """

    def __init__(self, run: RunParams) -> None:
        self.run = run
        self.seconds: list[float] = []
        self.bar = display(HTML("starting …"), display_id=True)
        self.curve = None
        if SESSION_VARIABLE not in os.environ:
            self.curve = display(HTML(""), display_id=True)
        self.drawn = 0.0

    def __call__(self, row: Mapping[str, float]) -> None:
        """Show a row of the history, as `btxrd.training.fit` passes it to `on_epoch`."""
        self.seconds.append(row["seconds"])
        step, steps = self.run.step, self.run.steps
        done = int(row.get("epoch", len(self.seconds)))
        mean = sum(self.seconds) / len(self.seconds)
        _show(
            self.bar,
            HTML(
                f'<progress value="{done}" max="{steps}" style="width: 16em"></progress> '
                f"{step} <b>{done}/{steps}</b> · train loss {row['train_loss']:.3f} · "
                f"val loss {row['val_loss']:.3f} · val top-1 {row['val_top1']:.1%} · "
                f"{mean:.1f} s each · at most {mean * (steps - done):.0f} s left"
            ),
        )
        if self.curve is not None and done > 1 and time.monotonic() - self.drawn > REDRAW_SECONDS:
            history = pd.read_csv(self.run.run_dir / "history.csv")
            _show(self.curve, history_figure(history, title=self.run.name))
            self.drawn = time.monotonic()

    def close(self) -> None:
        """Take the curve away."""
        _show(self.curve, HTML(""))


def _show(handle: object, content: object) -> None:
    # Outside a notebook, `display` gives no handle.
    if handle is not None:
        handle.update(content)
