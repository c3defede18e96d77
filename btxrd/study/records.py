"""The files by which the stages of a run and the study tell each other how it went."""

import json
from pathlib import Path
from typing import Any

__all__ = ["RUN_FILE", "STAGES", "STUDY_FILE", "read_json", "read_run"]

RUN_FILE = "run.json"
STUDY_FILE = "study.json"
STAGES = {"03_train": "training", "04_evaluate": "evaluating", "05_gradcam": "Grad-CAM"}
"""The notebooks of a run, in order, and what the run is doing meanwhile."""


def read_json(path: str | Path) -> dict[str, Any]:
    """Return a JSON file's content, or an empty dict where there is none or it cannot be read."""
    try:
        return json.loads(Path(path).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def read_run(run_dir: str | Path) -> dict[str, Any]:
    """Return a run's `run.json`, or an empty dict where there is none or it cannot be read."""
    return read_json(Path(run_dir) / RUN_FILE)
