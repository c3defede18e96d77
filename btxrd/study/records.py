"""The files by which the stages of a run and the study tell each other how it went."""

import json
import os
from pathlib import Path
from typing import Any

__all__ = [
    "LOCK_FILE",
    "RUN_FILE",
    "SESSION_VARIABLE",
    "STAGES",
    "STUDY_FILE",
    "StopRequested",
    "check_stop",
    "read_json",
    "read_run",
]

RUN_FILE = "run.json"
STUDY_FILE = "study.json"
LOCK_FILE = ".lock"
STAGES = {"03_train": "training", "04_evaluate": "evaluating", "05_gradcam": "Grad-CAM"}
"""The notebooks of a run, in order, and what the run is doing meanwhile."""

SESSION_VARIABLE = "BTXRD_SESSION"
"""The environment variable that tells a kernel which session of the study it belongs to."""


class StopRequested(RuntimeError):
    """The study is to stop; what is done so far is saved."""


def check_stop(study_dir: str | Path, session: str | None = None) -> None:
    """Stop here if the study was told to stop, or has been started anew since.

    Args:
        study_dir: the study's folder.
        session: to which the caller belongs; by default as the environment says. Notebooks that
            are run by hand belong to none and are never stopped.

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


def read_json(path: str | Path) -> dict[str, Any]:
    """Return a JSON file's content, or an empty dict where there is none or it cannot be read."""
    try:
        return json.loads(Path(path).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def read_run(run_dir: str | Path) -> dict[str, Any]:
    """Return a run's `run.json`, or an empty dict where there is none or it cannot be read."""
    return read_json(Path(run_dir) / RUN_FILE)
