"""The runs of a study: gathered from their files, and compared with each other, fairly paired."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from btxrd.evaluation.comparisons import (
    EXPERIMENT_KEYS,
    check_comparable,
    compare_experiments,
    generalisation_gap,
    holm,
    seed_summary,
)
from btxrd.evaluation.intervals import Bootstrap
from btxrd.files import read_json
from btxrd.predictions import read_predictions
from btxrd.stages import RUN_FILE

__all__ = [
    "COMPARED",
    "COMPARISON_COLUMNS",
    "CRITERIA",
    "SPLIT_TITLES",
    "RunResult",
    "collect_runs",
    "compare_runs",
    "comparison_table",
    "differences_from",
    "recommend",
    "run_figures",
    "seed_table",
    "success_table",
]

SPLIT_TITLES = {
    "stratified": "Stratified",
    "center": "Center-Holdout",
    "grouped": "Grouped",
    "random": "Random (leaks)",
}
COMPARED = {
    "accuracy": "Accuracy",
    "macro_auc": "Macro AUC",
    "sensitivity/Malignant": "Malignant Sensitivity",
}
"""The metrics of `comparison.csv`, and what its columns call them."""
COMPARISON_COLUMNS = (
    "Experiment ID",
    "Backbone",
    "Image Size",
    "Annotations",
    *(
        f"{SPLIT_TITLES[split]} {title}"
        for split in ("stratified", "center")
        for title in COMPARED.values()
    ),
)
"""The first ten columns of `comparison.csv`, in order."""

DIFFERENCE_COLUMNS = (
    *("split", "first_experiment", "second_experiment", "metric", "first", "second"),
    *("difference", "low", "high", "p", "p_holm", "note"),
)
GAP_COLUMNS = ("experiment", "metric", "inside", "outside", "difference", "low", "high", "note")

CRITERIA = {
    "Stratified Accuracy": 0.75,
    "Center-Holdout Accuracy": 0.55,
    "Stratified Malignant Sensitivity": 0.70,
    "Stratified Grad-CAM Mean IoU": 0.15,
}
"""What the study set out to exceed on the real data: column of `comparison.csv` → bound."""


@dataclass(frozen=True)
class RunResult:
    """What the files of one run say.

    Attributes:
        path: its folder, relative to the study's.
        status: `finished`, `failed`, `running`, or `by hand` (notebooks run without the runner).
        error: one line, where it failed.
        parameters: resolved; empty where the run never began.
        metrics: part → metrics, as `summarise` returns them; empty without `metrics.json`.
        gradcam: one row an explained image; None without `gradcam.csv`.
        training: the content of `training.json`; empty without it.
    """

    path: Path
    experiment: str
    split: str
    seed: int
    status: str
    error: str | None
    parameters: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    gradcam: pd.DataFrame | None
    training: dict[str, Any]

    def value(self, metric: str, part: str = "test") -> float:
        """Return the estimate of a flat metric name; NaN where there is none."""
        return self.interval(metric, part)[0]

    def interval(self, metric: str, part: str = "test") -> tuple[float, float, float]:
        """Return estimate, low and high of a flat metric name; NaN where there is none."""
        values = self.metrics.get(part, {}).get("intervals", {}).get(metric, [None] * 3)
        return tuple(np.nan if value is None else float(value) for value in values)

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the activation maps with the lesion masks of the annotated test tumours.

        NaN where there are no maps: not yet, or none of such a network.
        """
        if self.gradcam is None or "iou" not in self.gradcam:
            return np.nan
        return float(self.gradcam.loc[self.gradcam["label"] > 0, "iou"].mean())


def collect_runs(study_dir: str | Path) -> list[RunResult]:
    """Read every run of a study, finished or not, in the order of their names."""
    study_dir = Path(study_dir)
    folders = sorted(study_dir.glob("runs/*/*/seed-*"))
    # A folder that was moved aside is called seed-42.old-<time>.
    return [_collect(f, study_dir) for f in folders if f.name.removeprefix("seed-").isdigit()]


def _collect(folder: Path, study_dir: Path) -> RunResult:
    record, training = read_json(folder / RUN_FILE), read_json(folder / "training.json")
    gradcam = folder / "gradcam.csv"
    return RunResult(
        path=folder.relative_to(study_dir),
        experiment=folder.parts[-3],
        split=folder.parts[-2],
        seed=int(folder.name.removeprefix("seed-")),
        status=record.get("status", "by hand"),
        error=record.get("error"),
        parameters=record.get("parameters") or training.get("parameters") or {},
        metrics=read_json(folder / "metrics.json"),
        gradcam=pd.read_csv(gradcam) if gradcam.is_file() else None,
        training=training,
    )


def compare_runs(study_dir: str | Path, bootstrap: Bootstrap) -> dict[str, pd.DataFrame]:
    """Compute all tables that notebook 06 writes from the runs' files, and `btxrd verify` checks.

    Returns:
        Name of the file → its table:

        - `comparison.csv`: as `comparison_table` returns it.
        - `differences.csv`: as `compare_experiments` returns it, for every pair of experiments
          with the same split and seed, on their test set; p adjusted over all pairs of a split.
        - `gaps.csv`: as `generalisation_gap` returns it, from the stratified to the center
          holdout, a block an experiment.

        Both have columns that name what is compared, and `note`: a pair whose parameters differ
        in more than that is not subtracted; its row says why. Each split's first seed only.
    """
    study_dir = Path(study_dir)
    runs = collect_runs(study_dir)
    return {
        "comparison.csv": comparison_table(runs),
        "differences.csv": _joined(
            _differences(_first_seeds(runs), study_dir, bootstrap), DIFFERENCE_COLUMNS
        ),
        "gaps.csv": _joined(_gaps(_first_seeds(runs), study_dir, bootstrap), GAP_COLUMNS),
    }


def comparison_table(runs: list[RunResult]) -> pd.DataFrame:
    """Return one row an experiment; its seeds are averaged.

    First `COMPARISON_COLUMNS`, all test figures; then the same for other splits that were run,
    the ends of the intervals (of the first seed), the validation figures that the recommendation
    is read from, Grad-CAM's mean IoU on the stratified test set, and the errors of failed runs.
    """
    rows = [
        _comparison_row(name, [run for run in runs if run.experiment == name])
        for name in dict.fromkeys(run.experiment for run in runs)
    ]
    table = pd.DataFrame(rows)
    return table.reindex(columns=list(dict.fromkeys([*COMPARISON_COLUMNS, *table])))


def _comparison_row(name: str, runs: list[RunResult]) -> dict[str, Any]:
    parameters = next((run.parameters for run in runs if run.parameters), {})
    model, data = parameters.get("model", {}), parameters.get("data", {})
    attention = model.get("attn_layer")
    row = {
        "Experiment ID": name,
        "Backbone": f"{model['backbone']}+{attention}" if attention else model.get("backbone"),
        "Image Size": data.get("image_size"),
        "Annotations": data.get("annotations"),
    }
    for split, split_title in SPLIT_TITLES.items():
        here = [run for run in runs if run.split == split]
        for metric, title in COMPARED.items() if here else ():
            column = f"{split_title} {title}"
            row[column] = _mean([run.value(metric) for run in here])
            row[f"{column} Low"], row[f"{column} High"] = here[0].interval(metric)[1:]
            row[f"{split_title} Val {title}"] = _mean([r.value(metric, "val") for r in here])
    stratified = [run for run in runs if run.split == "stratified"]
    row["Stratified Grad-CAM Mean IoU"] = _mean([run.mean_iou for run in stratified])
    row["Seeds"] = len({run.seed for run in runs})
    row["Errors"] = "; ".join(f"{run.split}: {run.error}" for run in runs if run.error) or None
    return row


def _mean(values: list[float]) -> float:
    return float(pd.Series(values, dtype=float).mean())


def recommend(table: pd.DataFrame) -> str | None:
    """Return the recommended experiment; None where no experiment has a stratified run.

    Highest stratified accuracy, ties by stratified malignant sensitivity, then center-holdout
    accuracy, all read on the validation sets: test figures are never selected on.
    """
    order = [
        "Stratified Val Accuracy",
        "Stratified Val Malignant Sensitivity",
        "Center-Holdout Val Accuracy",
    ]
    present = [column for column in order if column in table]
    if order[0] not in present:
        return None
    ranked = table.dropna(subset=order[:1]).sort_values(present, ascending=False, kind="stable")
    return None if ranked.empty else str(ranked.iloc[0]["Experiment ID"])


def success_table(row: pd.Series) -> pd.DataFrame:
    """Check one experiment's row of the comparison against `CRITERIA`.

    Returns:
        A row a criterion: `criterion`, `bound`, `reached` (NaN where there is no figure), `met`.
    """
    reached = [float(row.get(column, np.nan)) for column in CRITERIA]
    table = {"criterion": list(CRITERIA), "bound": list(CRITERIA.values()), "reached": reached}
    return pd.DataFrame(table).assign(met=lambda t: t["reached"] > t["bound"])


def run_figures(runs: list[RunResult], part: str = "test") -> pd.DataFrame:
    """Lay out the headline figures of one part of every run.

    Returns:
        A row a run that began: `experiment`, `split`, `seed`, `n` images, each of `COMPARED`
        with its ends, `mean_iou`, `status`; NaN where a run has none.
    """
    ends = [f"{metric}{end}" for metric in COMPARED for end in ("", "_low", "_high")]
    rows = []
    for run in runs:
        row = {"experiment": run.experiment, "split": run.split, "seed": run.seed}
        row["n"] = run.metrics.get(part, {}).get("n", pd.NA)
        values = [value for metric in COMPARED for value in run.interval(metric, part)]
        row |= dict(zip(ends, values, strict=True))
        rows.append(row | {"mean_iou": run.mean_iou, "status": run.status})
    columns = ["experiment", "split", "seed", "n", *ends, "mean_iou", "status"]
    return pd.DataFrame(rows, columns=columns).astype({"n": "Int64"})


def differences_from(differences: pd.DataFrame, experiment: str | None) -> pd.DataFrame:
    """Turn `differences.csv` so that the experiment in question comes second in each of its pairs.

    Returns:
        `split`, `against` (the other experiment), `metric`, `difference` (above 0 where
        `experiment` is higher) with `low` and `high`, `p`, `p_holm`, `note`.
    """
    first, second = differences["first_experiment"], differences["second_experiment"]
    own = differences[(first == experiment) | (second == experiment)]
    turned = own["first_experiment"] == experiment
    sign = np.where(turned, -1.0, 1.0)
    return own.assign(
        against=own["second_experiment"].where(turned, own["first_experiment"]),
        difference=sign * own["difference"],
        low=np.where(turned, -own["high"], own["low"]),
        high=np.where(turned, -own["low"], own["high"]),
    )[["split", "against", "metric", "difference", "low", "high", "p", "p_holm", "note"]]


def seed_table(runs: list[RunResult], study_dir: str | Path, bootstrap: Bootstrap) -> pd.DataFrame:
    """Return `seed_summary` of each `experiment` and `split` with several seeds; empty if none has.

    Raises:
        ValueError: seeds of one experiment and split differ in other parameters; names them.
    """
    tables = []
    order = attrgetter("experiment", "split", "seed")
    ordered = sorted((run for run in runs if run.metrics), key=order)
    for (experiment, split), group in groupby(ordered, key=attrgetter("experiment", "split")):
        seeds = list(group)
        for other in seeds[1:]:
            check_comparable(seeds[0].parameters, other.parameters, ("seed",))
        if len(seeds) > 1:
            frames = {run.seed: _test_set(run, Path(study_dir)) for run in seeds}
            table = seed_summary(frames, bootstrap)
            tables.append(table.assign(experiment=experiment, split=split))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _first_seeds(runs: list[RunResult]) -> list[RunResult]:
    """Return the first evaluated seed of each experiment and split, ordered by split."""
    first: dict[tuple[str, str], RunResult] = {}
    evaluated = (run for run in runs if run.metrics)
    for run in sorted(evaluated, key=attrgetter("split", "experiment", "seed")):
        first.setdefault((run.split, run.experiment), run)
    return list(first.values())


def _differences(
    runs: list[RunResult], study_dir: Path, bootstrap: Bootstrap
) -> Iterator[pd.DataFrame]:
    for split, group in groupby(runs, key=attrgetter("split")):
        here = {run.experiment: run for run in group}
        notes = {
            pair: _refusal(here[pair[0]], here[pair[1]], EXPERIMENT_KEYS)
            for pair in combinations(here, 2)
        }
        families: dict[str, dict[str, pd.DataFrame]] = {}
        for name, run in here.items():
            first = next((other for other in families if notes[other, name] is None), name)
            families.setdefault(first, {})[name] = _test_set(run, study_dir)
        tables = [compare_experiments(f, bootstrap) for f in families.values() if len(f) > 1]
        if tables:
            table = pd.concat(tables, ignore_index=True)
            yield table.assign(split=split, p_holm=holm(table["p"]))
        refused = [(split, *pair, note) for pair, note in notes.items() if note is not None]
        yield pd.DataFrame(
            refused, columns=["split", "first_experiment", "second_experiment", "note"]
        )


def _gaps(runs: list[RunResult], study_dir: Path, bootstrap: Bootstrap) -> Iterator[pd.DataFrame]:
    by_run = {(run.experiment, run.split): run for run in runs}
    for experiment in dict.fromkeys(sorted(run.experiment for run in runs)):
        pair = [by_run.get((experiment, split)) for split in ("stratified", "center")]
        if None in pair:
            continue
        note = _refusal(*pair, ("split",))
        if note is None:
            gap = generalisation_gap(*(_test_set(run, study_dir) for run in pair), bootstrap)
            yield gap.assign(experiment=experiment)
        else:
            yield pd.DataFrame([{"experiment": experiment, "note": note}])


def _joined(tables: Iterator[pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    found = [table for table in tables if len(table)]
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    return table.reindex(columns=list(columns))


def _test_set(run: RunResult, study_dir: Path) -> pd.DataFrame:
    predictions = read_predictions(study_dir / run.path / "predictions.csv")
    return predictions[predictions["part"] == "test"].reset_index(drop=True)


def _refusal(first: RunResult, second: RunResult, compared: tuple[str, ...]) -> str | None:
    """Say why two runs cannot be subtracted; None where they can."""
    if first.seed != second.seed:
        compared = (*compared, "seed")
    try:
        check_comparable(first.parameters, second.parameters, compared)
    except ValueError as error:
        reason = str(error).removeprefix("not comparable: ").partition("; only")[0]
        names = (f"{run.experiment} · {run.split}" for run in (first, second))
        return f"{' and '.join(names)}: {reason}"
    return None
