"""Gather the artefacts of a study's runs into the comparison."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from btxrd.evaluation.intervals import format_interval
from btxrd.evaluation.summary import HEADLINES
from btxrd.session import read_json, read_run

__all__ = [
    "COMPARED",
    "COMPARISON_COLUMNS",
    "CRITERIA",
    "SPLIT_TITLES",
    "RunResult",
    "collect_runs",
    "comparison_table",
    "recommend",
    "recommendation_sentence",
    "run_line",
    "run_table",
    "success_table",
    "validation_table",
]

SPLIT_TITLES = {
    "stratified": "Stratified",
    "center": "Center-Holdout",
    "grouped": "Grouped",
    "random": "Random (leaks)",
}

STAGE_TITLES = {"03_train": "training", "04_evaluate": "evaluation", "05_gradcam": "heat maps"}

COMPARED = {
    "accuracy": "Accuracy",
    "macro_auc": "Macro AUC",
    "sensitivity/Malignant": "Malignant Sensitivity",
}

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


@dataclass(frozen=True)
class RunResult:
    """What the files of one run say.

    Attributes:
        path: its folder, relative to the study's.
        experiment, split, seed: which run it is.
        status: `finished`, `failed`, `running`, or `by hand` (notebooks run without the runner).
        error: one line, where it failed.
        parameters: resolved; empty where the run never began.
        metrics: part → metrics, as `summarise` returns them; empty without `metrics.json`.
        gradcam: one row an explained image; None without `gradcam.csv`.
        record: the whole of `run.json`.
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
    record: dict[str, Any]

    def value(self, metric: str, part: str = "test") -> float:
        """Return the estimate of a flat metric name; NaN where there is none."""
        return self.interval(metric, part)[0]

    def interval(self, metric: str, part: str = "test") -> tuple[float, float, float]:
        """Return estimate, low and high of a flat metric name; NaN where there is none."""
        values = self.metrics.get(part, {}).get("intervals", {}).get(metric, [None] * 3)
        return tuple(np.nan if value is None else float(value) for value in values)

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the activation maps with the lesion masks of the annotated test tumours."""
        if self.gradcam is None:
            return np.nan
        tumours = self.gradcam.query("label > 0")["iou"]
        return float(tumours.mean()) if tumours.notna().any() else np.nan


def collect_runs(study_dir: str | Path) -> list[RunResult]:
    """Read every run of a study, finished or not, in the order of their names."""
    study_dir = Path(study_dir)
    folders = sorted(study_dir.glob("runs/*/*/seed-*"))
    # A folder that was moved aside is called seed-42.old-<time>.
    return [_collect(f, study_dir) for f in folders if f.name.removeprefix("seed-").isdigit()]


def _collect(folder: Path, study_dir: Path) -> RunResult:
    record = read_run(folder)
    training = read_json(folder / "training.json")
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
        record={**record, "training": training},
    )


def comparison_table(runs: list[RunResult]) -> pd.DataFrame:
    """Return one row an experiment; its seeds are averaged.

    Returns:
        The columns `COMPARISON_COLUMNS`, all test figures; then the same for other
        splits that were run, the low and high ends of the intervals (of the first seed), the
        validation figures that the recommendation is read from, Grad-CAM's mean IoU on the
        stratified test set, and the errors of failed runs.
    """
    rows = [
        _comparison_row(name, [run for run in runs if run.experiment == name])
        for name in dict.fromkeys(run.experiment for run in runs)
    ]
    table = pd.DataFrame(rows)
    for column in COMPARISON_COLUMNS:
        if column not in table:
            table[column] = np.nan
    others = [column for column in table if column not in COMPARISON_COLUMNS]
    return table[[*COMPARISON_COLUMNS, *others]]


def _comparison_row(name: str, runs: list[RunResult]) -> dict[str, Any]:
    parameters = next((run.parameters for run in runs if run.parameters), {})
    row = {
        "Experiment ID": name,
        "Backbone": _backbone(parameters.get("model", {})),
        "Image Size": parameters.get("data", {}).get("image_size"),
        "Annotations": parameters.get("data", {}).get("annotations"),
    }
    extra: dict[str, Any] = {}
    for split, split_title in SPLIT_TITLES.items():
        here = [run for run in runs if run.split == split]
        for metric, title in COMPARED.items():
            if not here:
                continue
            column = f"{split_title} {title}"
            row[column] = _mean([run.value(metric) for run in here])
            extra[f"{column} Low"], extra[f"{column} High"] = here[0].interval(metric)[1:]
            extra[f"{split_title} Val {title}"] = _mean([r.value(metric, "val") for r in here])
    stratified = [run for run in runs if run.split == "stratified"]
    extra["Stratified Grad-CAM Mean IoU"] = _mean([run.mean_iou for run in stratified])
    extra["Seeds"] = len({run.seed for run in runs})
    extra["Errors"] = "; ".join(f"{run.split}: {run.error}" for run in runs if run.error) or None
    return row | extra


def _backbone(model: dict[str, Any]) -> str | None:
    attention = model.get("attn_layer")
    return f"{model['backbone']}+{attention}" if attention else model.get("backbone")


def _mean(values: list[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else np.nan


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


def recommendation_sentence(
    best: str | None,
    runs: list[RunResult],
    leakage: pd.DataFrame,
    shortcuts: pd.DataFrame,
    gaps: pd.DataFrame,
) -> str:
    """Say which experiment is recommended, how good, how sure, and what else could explain it.

    Args:
        best: as `recommend` returns it.
        runs: as `collect_runs` returns them.
        leakage: as `leakage_table` returns it.
        shortcuts: as `shortcut_table` returns it.
        gaps: the table of `gap_contrasts`.
    """
    by_split = {run.split: run for run in reversed(runs) if run.experiment == best}
    if best is None or "stratified" not in by_split:
        return "**No experiment can be recommended:** no stratified run has been evaluated."
    chosen = by_split["stratified"]
    quoted = {metric: format_interval(*chosen.interval(metric)) for metric in COMPARED}
    sentences = [
        f"**Recommended: {best}**, the highest accuracy on the stratified *validation* set "
        f"({chosen.value('accuracy', 'val'):.3f}).",
        f"On its test set: macro AUC **{quoted['macro_auc']}**, accuracy {quoted['accuracy']}, "
        f"malignant sensitivity {quoted['sensitivity/Malignant']}.",
    ]
    if "center" in by_split and by_split["center"].metrics:
        held_out = format_interval(*by_split["center"].interval("macro_auc"))
        sentences.append(f"Trained on center 1 and tested in other centers: macro AUC {held_out}.")
    gap = gaps.query("experiment == @best and metric == 'macro_auc'") if len(gaps) else gaps
    for row in gap.itertuples():
        holds = "not told from none" if row.low <= 0 <= row.high else "told from none"
        sentences.append(
            f"That is a gap of {row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f}), {holds}."
        )
    siblings = leakage.query("strategy == 'stratified' and part == 'test'")["sibling_share"]
    sentences.append(
        f"{siblings.iloc[0]:.0%} of the stratified test images have a sibling in train, so its "
        "test figures are an upper bound."
    )
    strongest = shortcuts.query("split == 'grouped' and shortcut != 'sites'")
    strongest = strongest.sort_values("macro_auc", ascending=False).iloc[0]
    sentences.append(
        "The strongest baseline that sees no lesion "
        f"({strongest['sees']}) reaches a macro AUC of {strongest['macro_auc']:.3f} by study."
    )
    return " ".join(sentences)


def run_line(run: RunResult) -> str:
    """Return one run's line of Markdown: its state, and links to its pages that exist."""
    line = f"- **{run.experiment}**, {run.split}, seed {run.seed}: {run.status}"
    if run.error:
        return f"{line}. {run.error} ([error.txt]({run.path}/error.txt))"
    training = run.record.get("training", {})
    if training:
        line += f" ({training['epochs']} epochs, {training['seconds']:.0f} s, {training['device']})"
    links = (f"[{title}]({run.path}/{stage}.html)" for stage, title in STAGE_TITLES.items())
    return f"{line} · {' · '.join(links)}"


def run_table(
    runs: list[RunResult], leakage: pd.DataFrame, shortcuts: pd.DataFrame
) -> pd.DataFrame:
    """Lay out the runs for reading, and beside them what leakage and shortcuts could explain.

    Args:
        runs: as `collect_runs` returns them.
        leakage: as `leakage_table` returns it.
        shortcuts: as `shortcut_table` returns it.

    Returns:
        A row a run with its headline test figures, value (interval), and the share of its test
        images that have a sibling in train; then a row a shortcut under grouped cross-validation.
    """
    tested = leakage[leakage["part"] == "test"].set_index("strategy")["sibling_share"]
    rows = []
    for run in runs:
        row = {"Experiment": run.experiment, "Split": run.split, "Seed": run.seed}
        row["Test n"] = run.metrics.get("test", {}).get("n")
        for metric in COMPARED:
            row[HEADLINES[metric]] = format_interval(*run.interval(metric))
        row["Sibling in train"] = f"{tested[run.split]:.0%}" if run.split in tested else "–"
        row["Grad-CAM mean IoU"] = "–" if np.isnan(run.mean_iou) else f"{run.mean_iou:.2f}"
        row["Status"] = run.status
        rows.append(row)
    for shortcut in shortcuts[shortcuts["split"] == "grouped"].itertuples():
        auc = format_interval(shortcut.macro_auc, shortcut.low, shortcut.high)
        row = {"Experiment": f"no lesion: {shortcut.shortcut}", "Split": "by study"}
        rows.append(row | {"Test n": shortcut.n, HEADLINES["macro_auc"]: auc})
    return pd.DataFrame(rows).fillna({"Sibling in train": "–", "Status": "baseline"})


def validation_table(runs: list[RunResult]) -> pd.DataFrame:
    """Lay out the validation figures that the recommendation is read from, value (interval)."""
    return pd.DataFrame(
        {"Experiment": run.experiment, "Split": run.split, "Seed": run.seed}
        | {"Validation n": run.metrics["val"]["n"]}
        | {HEADLINES[metric]: format_interval(*run.interval(metric, "val")) for metric in COMPARED}
        for run in runs
        if "val" in run.metrics
    )


@dataclass(frozen=True)
class Criterion:
    """One success criterion of the study: a test figure that must exceed a bound."""

    title: str
    column: str
    bound: float


CRITERIA = (
    Criterion("stratified accuracy", "Stratified Accuracy", 0.75),
    Criterion("center-holdout accuracy", "Center-Holdout Accuracy", 0.55),
    Criterion("stratified malignant sensitivity", "Stratified Malignant Sensitivity", 0.70),
    Criterion("Grad-CAM mean IoU", "Stratified Grad-CAM Mean IoU", 0.15),
)
"""What the study set out to reach on the real data."""


def success_table(row: pd.Series) -> pd.DataFrame:
    """Check one experiment's row of the comparison against the success criteria."""
    return pd.DataFrame(
        [
            {
                "Criterion": f"{criterion.title} > {criterion.bound:.2f}",
                "Reached": f"{row.get(criterion.column, np.nan):.3f}",
                "Met": "yes" if row.get(criterion.column, np.nan) > criterion.bound else "no",
            }
            for criterion in CRITERIA
        ]
    )
