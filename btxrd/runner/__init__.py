"""The `btxrd` command: plan the grid, run its notebooks, show progress, check what came of it."""
