"""Early stopping: a training ends once its validation loss no longer improves (Prechelt 1998)."""

import math

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """Say when `patience` validation losses in a row have brought no improvement.

    A loss improves when it is lower than the best one by more than `min_delta`; NaN never does.
    `best_loss` is infinity before the first that did, `counter` the calls since then.

    >>> stop = EarlyStopping(patience=2)
    >>> [stop(loss) for loss in (0.9, 0.7, 0.8, 0.75)]
    [False, False, False, True]
    >>> stop.best_loss, stop.counter
    (0.7, 2)
    """

    def __init__(self, patience: int = 7, min_delta: float = 0.0) -> None:
        self.patience = patience
        self.min_delta = min_delta
        self.best_loss = math.inf
        self.counter = 0

    @property
    def should_stop(self) -> bool:
        """True once the last `patience` calls, or more, have all failed to improve."""
        return self.counter >= self.patience

    def __call__(self, val_loss: float) -> bool:
        """Take the validation loss of one epoch; return `should_stop`."""
        if val_loss < self.best_loss - self.min_delta:
            self.best_loss = float(val_loss)
            self.counter = 0
        else:
            self.counter += 1
        return self.should_stop

    def state_dict(self) -> dict[str, float | int]:
        """Return the progress: plain numbers."""
        return {"best_loss": self.best_loss, "counter": self.counter}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        """Take up the progress that `state_dict` returned; the settings stay this object's own."""
        self.best_loss, self.counter = state["best_loss"], state["counter"]
