"""The study: plan the grid, run its notebooks, show progress, collect the results.

Nothing is imported here: notebooks use `btxrd.evaluation.runs` and should not wait for dask.
"""
