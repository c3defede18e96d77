"""The `btxrd` command: plan the grid, run its notebooks, show progress, check what came of it."""


class RunnerError(RuntimeError):
    """An error that a user can mend; the message is one line and says how."""
