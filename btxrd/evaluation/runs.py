"""The runs and pools of a study, as their files describe them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from btxrd.files import read_csv, read_json
from btxrd.params import ENSEMBLE, RunPlace, run_at
from btxrd.stages import RUN_FILE, RUN_STAGES, STUDY_FILE
from btxrd.strategies import SPLITS

__all__ = ["RunResult", "collect_runs"]


@dataclass(frozen=True, kw_only=True)
class RunResult(RunPlace):
    """One run, or pool of runs, and the content of its files; empty or None without the file.

    Attributes:
        status: `finished`, `failed`, `running`, or `by hand` (notebooks run without the runner).
        error: one line, where it failed.
        parameters: resolved; empty where the run never began.
        metrics: part → metrics, as `summarise` returns them.
        gradcam: one row an explained image.
        pages: the files of its pages that exist, by what reports call them.
    """

    status: str
    error: str | None
    parameters: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    gradcam: pd.DataFrame | None
    training: dict[str, Any]
    pages: dict[str, str]

    @property
    def is_evaluated(self) -> bool:
        """True for a run that has figures and did not fail; a failed one may have some too."""
        return bool(self.metrics) and self.status in ("finished", "by hand")

    @property
    def is_whole(self) -> bool:
        """True where it predicts all that its split tests, and not one fold of it."""
        return not isinstance(self.fold, int)

    def interval(self, metric: str, part: str = "test") -> tuple[float, float, float]:
        """Return estimate, low and high of a flat metric name; NaN where there is none."""
        values = self.metrics.get(part, {}).get("intervals", {}).get(metric, [None] * 3)
        return tuple(np.nan if value is None else float(value) for value in values)

    def mean_of_maps(self, score: str) -> float:
        """Return the mean of a column of `gradcam.csv` over the test tumours; NaN without maps."""
        if self.gradcam is None or score not in self.gradcam:
            return np.nan
        return float(self.gradcam.loc[self.gradcam["label"] > 0, score].mean())


def collect_runs(study_dir: str | Path) -> list[RunResult]:
    """Read every run and pool of a study, finished or not.

    Experiments stand in the order of the study, those that it does not name after them; splits in
    that of `SPLITS`, seeds by their number, an ensemble after them.
    """
    study_dir = Path(study_dir)
    named = read_json(study_dir / STUDY_FILE).get("parameters", {}).get("experiments", [])
    # A folder that was moved aside, called seed-42.old-<time>, is no place of a run.
    places = [run_at(path.relative_to(study_dir)) for path in study_dir.glob("runs/**/")]
    runs = [_collect(place, study_dir / place.path) for place in places if place]

    def order(run: RunResult) -> tuple[Any, ...]:
        """Return what runs are sorted by; seed-42 comes before seed-100, it is shorter."""
        path, known = run.path.as_posix(), [*named, run.experiment].index(run.experiment)
        place = known, run.experiment, list(SPLITS).index(run.split)
        return *place, run.seed == ENSEMBLE, len(path), path

    return sorted(runs, key=order)


def _collect(place: RunPlace, folder: Path) -> RunResult:
    record, training = read_json(folder / RUN_FILE), read_json(folder / "training.json")
    gradcam = folder / "gradcam.csv"
    return RunResult(
        **vars(place),
        status=record.get("status", "by hand"),
        error=record.get("error"),
        parameters=record.get("parameters") or training.get("parameters") or {},
        metrics=read_json(folder / "metrics.json"),
        gradcam=read_csv(gradcam) if gradcam.is_file() else None,
        training=training,
        pages={s.title: s.page for s in RUN_STAGES.values() if (folder / s.page).is_file()},
    )
