"""The signal by which a study stops the kernels of its runs, through its `study.json`."""

import os
from collections.abc import Mapping
from pathlib import Path

from btxrd.files import read_json
from btxrd.stages import STUDY_FILE

__all__ = [
    "NOTEBOOK_VARIABLE",
    "SESSION_VARIABLE",
    "THREAD_VARIABLES",
    "StopRequested",
    "StopWithStudy",
    "check_stop",
]

SESSION_VARIABLE = "BTXRD_SESSION"
"""The environment variable that tells a kernel which session of the study it belongs to."""

NOTEBOOK_VARIABLE = "BTXRD_NOTEBOOK_FOLDER"
"""The environment variable that tells a kernel the folder of its executed notebook, from which
links count; in JupyterLab there is none, and they count from the working directory."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""The environment variables that tell a kernel's libraries how many threads to use."""


class StopRequested(RuntimeError):
    """The study is to stop; what is done so far is saved."""


def check_stop(study_dir: str | Path, session: str | None = None) -> None:
    """Stop here if the study was told to stop, or has been started anew since.

    The session to which the caller belongs is by default the environment's. Notebooks that are run
    by hand belong to none and are never stopped.

    Raises:
        StopRequested: says why.
    """
    session = session or os.environ.get(SESSION_VARIABLE)
    study = read_json(Path(study_dir) / STUDY_FILE)
    if not session or "session" not in study:
        return
    if study["session"] != session:
        raise StopRequested("stopped: the study was started again; it goes on there")
    if study.get("stopping"):
        raise StopRequested("stopped on request; the same command goes on from here")


class StopWithStudy:
    """An `on_epoch` of `btxrd.training.fit` that ends a training when its study is to stop."""

    def __init__(self, study_dir: str | Path) -> None:
        self.study_dir = study_dir

    def __call__(self, row: Mapping[str, float]) -> None:
        """Raise StopRequested after an epoch, which is saved by then, if the study is to stop."""
        check_stop(self.study_dir)
