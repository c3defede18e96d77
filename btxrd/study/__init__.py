"""The study: plan the grid, run its notebooks, show progress, collect the results."""

from btxrd.study.notebooks import NotebookError, execute_notebook, write_html
from btxrd.study.run import RunTask, execute_run, read_run
from btxrd.study.study import StudyResult, run_study, select

__all__ = [
    "NotebookError",
    "RunTask",
    "StudyResult",
    "execute_notebook",
    "execute_run",
    "read_run",
    "run_study",
    "select",
    "write_html",
]
