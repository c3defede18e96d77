"""A progress bar that follows a training in a notebook."""

import os
from collections.abc import Mapping

from tqdm.auto import tqdm

from btxrd.files import read_csv
from btxrd.params import RunParams
from btxrd.session import SESSION_VARIABLE

__all__ = ["TrainingView"]


class TrainingView:
    """A bar with the epoch (or C), its losses, its pace and the time left at most.

    The kernels of a study, which nobody watches, show none: their pages have the curve.
    """

    def __init__(self, run: RunParams) -> None:
        history = run.run_dir / "history.csv"
        self.run, self.steps = run, 1
        self.done = len(read_csv(history)) if history.is_file() else 0
        self.bar = tqdm(
            total=run.steps,
            initial=self.done,
            unit=f" {run.step}",
            disable=SESSION_VARIABLE in os.environ,
        )

    def __call__(self, row: Mapping[str, float]) -> None:
        """Show a row of the history and its pace, as `btxrd.training.fit` passes to `on_epoch`."""
        self.done = int(row.get("epoch", self.done + 1))
        self._move(self.done * self.steps)
        shown = {name: f"{row[name]:.3f}" for name in ("train_loss", "val_loss", "val_top1")}
        if "waiting" in row:
            shown["images/s"] = f"{row['images_per_second']:.0f}"
            shown["waiting"] = f"{row['waiting']:.0%}"
        self.bar.set_postfix({self.run.step: f"{self.done}/{self.run.steps}", **shown})

    def step(self, step: int, steps: int) -> None:
        """Show how far the running epoch is, as `btxrd.training.fit` passes it to `on_step`."""
        if self.steps != steps:
            self.steps, self.bar.unit = steps, " step"
            self.bar.reset(total=steps * self.run.steps)
            self.bar.initial = self.bar.n = self.done * steps
        self._move(self.done * steps + step)

    def close(self) -> None:
        """Leave the bar as it is: in the middle, where a training stopped early."""
        self.bar.close()

    def _move(self, place: int) -> None:
        if not self.bar.disable:
            self.bar.update(place - self.bar.n)
