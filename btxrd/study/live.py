"""One line that follows a training in a notebook."""

import time
from collections.abc import Mapping

from IPython.display import Markdown, display

__all__ = ["EpochLine"]


class EpochLine:
    """Shows the last epoch and the time left in place, so that the executed copy keeps one line.

    Args:
        epochs: the most there can be.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.started = time.monotonic()
        self.seen = 0
        self.handle = display(Markdown("starting …"), display_id=True)

    def __call__(self, row: Mapping[str, float]) -> None:
        """Show a row of the history, as `btxrd.training.fit` passes it to `on_epoch`."""
        self.seen += 1
        epoch = int(row["epoch"])
        left = (time.monotonic() - self.started) / self.seen * (self.epochs - epoch)
        line = (
            f"epoch **{epoch}/{self.epochs}** · train loss {row['train_loss']:.3f} · "
            f"val loss {row['val_loss']:.3f} · val top-1 {row['val_top1']:.1%} · "
            f"{row['seconds']:.1f} s an epoch · at most {left:.0f} s left"
        )
        if self.handle is not None:
            self.handle.update(Markdown(line))
