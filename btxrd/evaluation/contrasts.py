"""Differences between the runs of a study: experiments, splits and seeds, each fairly paired."""

from dataclasses import dataclass, field
from itertools import combinations, groupby
from operator import attrgetter
from pathlib import Path

import pandas as pd

from btxrd.evaluation.comparisons import (
    EXPERIMENT_KEYS,
    METRICS,
    check_comparable,
    compare_experiments,
    ensemble_predictions,
    generalisation_gap,
    holm,
    seed_summary,
)
from btxrd.evaluation.intervals import bootstrap_metrics, format_interval
from btxrd.predictions import labels, probabilities, read_predictions
from btxrd.evaluation.summary import HEADLINES
from btxrd.evaluation.runs import RunResult

__all__ = [
    "Contrasts",
    "difference_report",
    "experiment_contrasts",
    "gap_contrasts",
    "gap_report",
    "seed_report",
]

METRIC_TITLES = {**HEADLINES, "auc/Malignant": "Malignant AUC"}


@dataclass(frozen=True)
class Contrasts:
    """Differences, and the pairs that were not subtracted.

    Attributes:
        table: one row a difference.
        refused: a sentence for each pair of runs whose parameters differ in more than what is
            compared; names the parameter.
    """

    table: pd.DataFrame
    refused: list[str] = field(default_factory=list)


def experiment_contrasts(
    runs: list[RunResult], study_dir: Path, replicates: int = 2000
) -> Contrasts:
    """Compare every pair of experiments with the same split and seed, on their test set.

    Returns:
        The rows of `compare_experiments` with the columns `split` and `seed`; Holm's adjustment
        is over all pairs of a split and seed. Each split's first seed only.
    """
    tables, refused = [], []
    for split, group in groupby(_first_seeds(runs), key=attrgetter("split")):
        family = []
        for first, second in combinations(group, 2):
            reason = _refusal(first, second, EXPERIMENT_KEYS)
            if reason:
                refused.append(reason)
                continue
            frames = {run.experiment: _test_set(run, study_dir) for run in (first, second)}
            family.append(compare_experiments(frames, replicates=replicates))
        if family:
            table = pd.concat(family, ignore_index=True)
            table["p_holm"] = holm(table["p"].where(table["metric"].isin(METRICS)))
            tables.append(table.assign(split=split))
    return Contrasts(pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(), refused)


def gap_contrasts(runs: list[RunResult], study_dir: Path, replicates: int = 2000) -> Contrasts:
    """Subtract each experiment's center-holdout figures from its stratified ones.

    Returns:
        The rows of `generalisation_gap` with the column `experiment`; first seeds only.
    """
    by_run = {(run.experiment, run.split): run for run in _first_seeds(runs)}
    tables, refused = [], []
    for experiment in dict.fromkeys(run.experiment for run in runs):
        pair = [by_run.get((experiment, split)) for split in ("stratified", "center")]
        if pair[0] is None or pair[1] is None:
            continue
        reason = _refusal(*pair, ("split",))
        if reason:
            refused.append(reason)
            continue
        inside, outside = (_test_set(run, study_dir) for run in pair)
        gap = generalisation_gap(inside, outside, replicates=replicates)
        tables.append(gap.assign(experiment=experiment))
    return Contrasts(pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(), refused)


def seed_report(runs: list[RunResult], study_dir: Path, replicates: int = 2000) -> pd.DataFrame:
    """Lay out what several seeds of an experiment say; no rows where there is one seed each.

    Returns:
        One row an experiment, split and metric: the mean over seeds with its sampling interval,
        the standard deviation over seeds, and the figure of the ensemble (mean probabilities).
    """
    rows = []
    ordered = sorted(_evaluated(runs), key=attrgetter("experiment", "split", "seed"))
    for (experiment, split), group in groupby(ordered, key=attrgetter("experiment", "split")):
        seeds = list(group)
        if len(seeds) < 2:
            continue
        for other in seeds[1:]:
            check_comparable(seeds[0].parameters, other.parameters, ("seed",))
        frames = {run.seed: _test_set(run, study_dir) for run in seeds}
        ensemble = ensemble_predictions(list(frames.values()))
        estimates = bootstrap_metrics(
            labels(ensemble), probabilities(ensemble), ensemble["group"], replicates=replicates
        )
        for row in seed_summary(frames, replicates=replicates).itertuples():
            rows.append(
                {
                    "Experiment": experiment,
                    "Split": split,
                    "Metric": METRIC_TITLES[row.metric],
                    "Seeds": row.seeds,
                    "Mean (95 % of sampling)": format_interval(row.mean, row.low, row.high),
                    "SD over seeds": f"{row.sd:.3f}",
                    "Ensemble": format_interval(*estimates.loc[row.metric]),
                }
            )
    return pd.DataFrame(rows)


def difference_report(table: pd.DataFrame, experiment: str | None) -> pd.DataFrame:
    """Lay out the differences between one experiment and the others.

    Args:
        table: of `experiment_contrasts`.
        experiment: the one that the report recommends.
    """
    rows = []
    for row in table.itertuples(index=False):
        if experiment not in (row.first_experiment, row.second_experiment):
            continue
        sign = 1 if row.second_experiment == experiment else -1
        low, high = sorted((sign * row.low, sign * row.high))
        other = row.first_experiment if sign == 1 else row.second_experiment
        rows.append(
            {
                "Split": row.split,
                f"{experiment} against": other,
                "Metric": METRIC_TITLES[row.metric],
                "Difference": _signed(sign * row.difference, low, high),
                "p": _p_value(row.p),
                "p, Holm": _p_value(row.p_holm),
                "p, DeLong": _p_value(row.delong_p),
            }
        )
    return pd.DataFrame(rows)


def gap_report(table: pd.DataFrame) -> pd.DataFrame:
    """Lay out the generalisation gaps: a row an experiment and metric.

    Args:
        table: of `gap_contrasts`.
    """
    return pd.DataFrame(
        {
            "Experiment": row.experiment,
            "Metric": METRIC_TITLES[row.metric],
            "Stratified": f"{row.inside:.3f}",
            "Center holdout": f"{row.outside:.3f}",
            "Gap": _signed(row.difference, row.low, row.high),
        }
        for row in table.itertuples(index=False)
    )


def _evaluated(runs: list[RunResult]) -> list[RunResult]:
    return [run for run in runs if run.metrics]


def _first_seeds(runs: list[RunResult]) -> list[RunResult]:
    """Return the first evaluated seed of each experiment and split, ordered by split."""
    first: dict[tuple[str, str], RunResult] = {}
    for run in sorted(_evaluated(runs), key=attrgetter("split", "experiment", "seed")):
        first.setdefault((run.split, run.experiment), run)
    return list(first.values())


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
        return f"{_label(first)} and {_label(second)}: {reason}"
    return None


def _label(run: RunResult) -> str:
    return f"{run.experiment} · {run.split}"


def _signed(estimate: float, low: float, high: float) -> str:
    """Write a difference with its interval and its sign.

    >>> _signed(0.1, -0.02, 0.22)
    '+0.100 (-0.020 to +0.220)'
    """
    if pd.isna(estimate):
        return "–"
    return f"{estimate:+.3f} ({low:+.3f} to {high:+.3f})"


def _p_value(p: float) -> str:
    """Write a p value.

    >>> _p_value(0.0004), _p_value(0.031), _p_value(float("nan"))
    ('< 0.001', '0.031', '–')
    """
    if pd.isna(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
