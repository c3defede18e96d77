"""The runs of a study: gathered from their files, and compared with each other, fairly paired.

What is compared is whole: the runs of a split with a single fold, and the pools of one with
several. Its seeds are the trainings of an experiment; an ensemble of them stands by itself.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, groupby, product
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, Literal

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
from btxrd.evaluation.review import REVIEW_COLUMNS, known_conflicts, labels_to_review
from btxrd.files import read_csv, read_json
from btxrd.predictions import read_predictions
from btxrd.stages import RUN_FILE, RUN_STAGES, STUDY_FILE

__all__ = [
    "ANSWER_SPLITS",
    "CENTER_SPLITS",
    "COMPARED",
    "COMPARISON_COLUMNS",
    "CRITERIA",
    "FIGURES",
    "HELD_OUT",
    "SPLIT_TITLES",
    "RunResult",
    "answer_split",
    "collect_runs",
    "compare_runs",
    "comparison_table",
    "differences_from",
    "figures_beside_baselines",
    "figures_by_metric",
    "map_scores",
    "recommend",
    "reviewed_pool",
    "seed_figures",
    "success_table",
]

SPLIT_TITLES = {
    "stratified": "Stratified",
    "grouped": "Grouped",
    "grouped_cv": "Grouped CV",
    "center": "Center-Holdout",
    "center_cv": "Center CV",
    "random": "Random (leaks)",
}
"""What tables and figures call the splits, in the order in which they stand there."""
HELD_OUT = {
    "stratified": "image",
    "grouped": "study",
    "grouped_cv": "study",
    "center": "center",
    "center_cv": "center",
    "random": "image",
}
"""What each split keeps out of training as a whole: the protocol of its figures."""
ANSWER_SPLITS = ("grouped_cv", "grouped", "stratified")
"""The splits that the answer may be read from, the most honest one first."""
CENTER_SPLITS = ("center_cv", "center")
"""The splits that test in centers not trained in, the one that tests more images first."""
COMPARED = {
    "accuracy": "Accuracy",
    "macro_auc": "Macro AUC",
    "sensitivity/Malignant": "Malignant Sensitivity",
}
"""The metrics of `comparison.csv`, and what its columns call them."""
FIGURES = (*COMPARED, "balanced_accuracy")
"""The metrics of `figures.csv`."""
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
AWAY = (("stratified", "center"), ("grouped", "center"), ("grouped_cv", "center_cv"))
"""Splits in which the network knows the center that it is tested on, and in which it does not."""
GAP_COLUMNS = (
    *("inside_split", "outside_split", "experiment", "metric"),
    *("inside", "outside", "difference", "low", "high", "note"),
)

ENSEMBLE = "ensemble"
ENDS = [f"{metric}{end}" for metric in FIGURES for end in ("", "_low", "_high", "_sd")]
OVERLAPS = ("mean_iou", "attention_iou")
FIGURE_COLUMNS = ("part", "experiment", "split", "seeds", "n", *ENDS, *OVERLAPS, "status")

CRITERIA = {
    "Stratified Accuracy": 0.75,
    "Center-Holdout Accuracy": 0.55,
    "Stratified Malignant Sensitivity": 0.70,
    "Stratified Grad-CAM Mean IoU": 0.15,
}
"""What the study set out to exceed on the real data: column of `comparison.csv` → bound."""


@dataclass(frozen=True)
class RunResult:
    """What the files of one run, or pool of runs, say.

    Attributes:
        path: its folder, relative to the study's.
        fold: of a split with several: its number, or "pooled".
        seed: its number, or "ensemble".
        status: `finished`, `failed`, `running`, or `by hand` (notebooks run without the runner).
        error: one line, where it failed.
        parameters: resolved; empty where the run never began.
        metrics: part → metrics, as `summarise` returns them; empty without `metrics.json`.
        gradcam: one row an explained image; None without `gradcam.csv`.
        training: the content of `training.json`; empty without it.
        pages: the files of its pages that exist, by what reports call them.
    """

    path: Path
    experiment: str
    split: str
    fold: int | Literal["pooled"] | None
    seed: int | Literal["ensemble"]
    status: str
    error: str | None
    parameters: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    gradcam: pd.DataFrame | None
    training: dict[str, Any]
    pages: dict[str, str]

    @property
    def is_evaluated(self) -> bool:
        """Whether it has figures and did not fail: a failed run may have some all the same."""
        return bool(self.metrics) and self.status in ("finished", "by hand")

    @property
    def is_pool(self) -> bool:
        """Whether it is several runs put together."""
        return isinstance(self.fold, str) or self.seed == ENSEMBLE

    @property
    def is_whole(self) -> bool:
        """Whether it predicts all that its split tests, and not one fold of it."""
        return not isinstance(self.fold, int)

    @property
    def where(self) -> str:
        """The split, and which fold of it: `center_cv, fold 3`."""
        fold = {None: "", "pooled": ", pooled"}.get(self.fold, f", fold {self.fold}")
        return f"{self.split}{fold}"

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
        return self._mean_of_tumours("iou")

    @property
    def attention_iou(self) -> float:
        """The same of the network's attention, which masks taught; NaN where it has none."""
        return self._mean_of_tumours("iou_attention")

    def _mean_of_tumours(self, score: str) -> float:
        if self.gradcam is None or score not in self.gradcam:
            return np.nan
        return float(self.gradcam.loc[self.gradcam["label"] > 0, score].mean())


def collect_runs(study_dir: str | Path) -> list[RunResult]:
    """Read every run and pool of a study, finished or not.

    Experiments stand in the order of the study, those that it does not name after them; splits in
    that of `SPLIT_TITLES`.
    """
    study_dir = Path(study_dir)
    named = read_json(study_dir / STUDY_FILE).get("parameters", {}).get("experiments", [])
    # A folder that was moved aside is called seed-42.old-<time>.
    where = re.compile(r"runs/[^/]+/[^/]+/((fold-\d+|pooled)/)?(seed-\d+|ensemble)")
    paths = [folder.relative_to(study_dir) for folder in sorted(study_dir.glob("runs/**/"))]
    runs = [_collect(path, study_dir) for path in paths if where.fullmatch(path.as_posix())]
    return sorted(runs, key=lambda run: _order(run, named))


def _order(run: RunResult, experiments: list[str]) -> tuple[Any, ...]:
    """Return what a study's runs are sorted by; seed-42 comes before seed-100, it is shorter."""
    named = run.experiment in experiments
    experiment = experiments.index(run.experiment) if named else len(experiments)
    path = run.path.as_posix()
    split = _place(run.split)
    return experiment, run.experiment, split, run.seed == ENSEMBLE, len(path), path


def _place(split: str) -> int:
    return [*SPLIT_TITLES, split].index(split)


def _number(name: str) -> int | str:
    """Return the number of `fold-3` or `seed-42`; what has none as it is."""
    number = name.rpartition("-")[2]
    return int(number) if number.isdigit() else name


def _collect(path: Path, study_dir: Path) -> RunResult:
    folder = study_dir / path
    _, experiment, split, *fold, seed = path.parts
    record, training = read_json(folder / RUN_FILE), read_json(folder / "training.json")
    gradcam = folder / "gradcam.csv"
    return RunResult(
        path=path,
        experiment=experiment,
        split=split,
        fold=_number(fold[0]) if fold else None,
        seed=_number(seed),
        status=record.get("status", "by hand"),
        error=record.get("error"),
        parameters=record.get("parameters") or training.get("parameters") or {},
        metrics=read_json(folder / "metrics.json"),
        gradcam=read_csv(gradcam) if gradcam.is_file() else None,
        training=training,
        pages={s.title: s.page for s in RUN_STAGES.values() if (folder / s.page).is_file()},
    )


def compare_runs(study_dir: str | Path, bootstrap: Bootstrap) -> dict[str, pd.DataFrame]:
    """Compute all tables that notebook 06 writes from the runs' files, and `btxrd verify` checks.

    Returns:
        Name of the file → its table:

        - `comparison.csv`: as `comparison_table` returns it.
        - `figures.csv`: as `seed_figures` returns it.
        - `differences.csv`: as `compare_experiments` returns it, for every pair of experiments
          on the test set of a split; p adjusted over all pairs of a split.
        - `gaps.csv`: what is lost in another center, for each pair of `AWAY` and experiment:
          `inside_split` and `outside_split`, then as `generalisation_gap` returns it, or, where
          both test the same images, with an interval paired by image.
        - `review.csv`: as `labels_to_review` returns it, of `reviewed_pool`; no rows without one.

        `differences.csv` and `gaps.csv` have columns that name what is compared, and `note`: a
        pair whose parameters differ in more than that is not subtracted; its row says why.

    Raises:
        FileNotFoundError: there is a pool to review, but notebook 02's files are missing.
        ValueError: seeds of one experiment and split differ in other parameters; names them.
    """
    study_dir = Path(study_dir)
    runs = collect_runs(study_dir)
    trained = _trainings(runs)
    figures = seed_figures(runs, study_dir, bootstrap)
    comparison = comparison_table(runs, figures)
    return {
        "comparison.csv": comparison,
        "figures.csv": figures,
        "differences.csv": _joined(_differences(trained, study_dir, bootstrap), DIFFERENCE_COLUMNS),
        "gaps.csv": _joined(_gaps(trained, study_dir, bootstrap), GAP_COLUMNS),
        "review.csv": _review(reviewed_pool(runs, comparison), study_dir),
    }


def _trainings(runs: list[RunResult]) -> dict[tuple[str, str], list[RunResult]]:
    """Return split and experiment → its evaluated seeds; all of a split before the next."""
    trained: dict[tuple[str, str], list[RunResult]] = {}
    single = [run for run in runs if run.is_whole and run.is_evaluated and run.seed != ENSEMBLE]
    for run in sorted(single, key=lambda run: _place(run.split)):
        trained.setdefault((run.split, run.experiment), []).append(run)
    for first, *others in trained.values():
        for other in others:
            check_comparable(first.parameters, other.parameters, ("seed",))
    return trained


def seed_figures(
    runs: list[RunResult], study_dir: str | Path, bootstrap: Bootstrap
) -> pd.DataFrame:
    """Lay out the headline figures of each experiment and split: means over its seeds.

    Returns:
        For each part (val, test) and split, in the order of `SPLIT_TITLES`, a row an experiment,
        and one more for its ensemble: `part`, `experiment`, `split`, `seeds` ("1", "3",
        "ensemble"), `n` images, each of `FIGURES` with its ends and its spread over seeds (`_sd`,
        of a sample), `mean_iou`, `attention_iou`, `status`; NaN where there is none. Intervals are
        as in `seed_summary`, for one seed as in its `metrics.json`.
    """
    groups: dict[tuple[str, str, bool], list[RunResult]] = {}
    for run in runs:
        if run.is_whole:
            key = (run.experiment, run.split, run.seed == ENSEMBLE)
            groups.setdefault(key, []).append(run)
    rows = [
        _figures(groups[key], part, Path(study_dir), bootstrap)
        for part in ("val", "test")
        for key in sorted(groups, key=lambda key: _place(key[1]))
    ]
    return pd.DataFrame(rows, columns=FIGURE_COLUMNS).astype({"n": "Int64"})


def _figures(
    runs: list[RunResult], part: str, study_dir: Path, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return the row of `seed_figures` of one experiment and split, or of its ensemble."""
    evaluated = sorted((run for run in runs if run.is_evaluated), key=attrgetter("seed"))
    first = (evaluated or runs)[0]
    states = Counter(run.status for run in runs)
    row = {
        "part": part,
        "experiment": first.experiment,
        "split": first.split,
        "seeds": ENSEMBLE if first.seed == ENSEMBLE else str(len(evaluated)),
        "n": first.metrics.get(part, {}).get("n", pd.NA) if evaluated else pd.NA,
        "mean_iou": _mean([run.mean_iou for run in evaluated]),
        "attention_iou": _mean([run.attention_iou for run in evaluated]),
        "status": ", ".join(s if n == len(runs) else f"{n} {s}" for s, n in states.items()),
    }
    if len(evaluated) > 1:
        frames = [_predictions(run, study_dir, part) for run in evaluated]
        table = seed_summary(frames, bootstrap, FIGURES).set_index("metric")
        table = table.rename(columns={"mean": "", "low": "_low", "high": "_high", "sd": "_sd"})
        found = {metric: table.loc[metric].drop("seeds").to_dict() for metric in FIGURES}
    else:
        ends = ("", "_low", "_high")
        alone = {m: first.interval(m, part) if evaluated else [np.nan] * 3 for m in FIGURES}
        found = {metric: dict(zip(ends, own, strict=True)) for metric, own in alone.items()}
    return row | {f"{m}{end}": value for m, ends in found.items() for end, value in ends.items()}


def figures_beside_baselines(
    figures: pd.DataFrame,
    leakage: pd.DataFrame,
    shortcuts: pd.DataFrame,
    best: str | None,
    split: str | None,
) -> pd.DataFrame:
    """Lay out the test figures of all experiments for reading, and the baselines below them.

    Args:
        figures: as `seed_figures` returns them.
        leakage, shortcuts: as `leakage_table` and `shortcut_table` return them.
        best, split: as `recommend` and `answer_split` return them; this experiment gets a ★.

    Returns:
        The columns of `figures` without `part`, and without `attention_iou` where no network has
        an attention; behind `n` the `sibling_share` of the test set. Each baseline that sees no
        lesion has a row with its macro AUC by patient group, and no split.
    """
    tested = figures[figures["part"] == "test"].drop(columns="part")
    if tested["attention_iou"].isna().all():
        tested = tested.drop(columns="attention_iou")
    siblings = leakage[leakage["part"] == "test"].set_index("strategy")["sibling_share"]
    tested.insert(tested.columns.get_loc("n") + 1, "sibling_share", tested["split"].map(siblings))
    answers = (tested["experiment"] == best) & (tested["split"] == split)
    tested["experiment"] += answers.map({True: " ★", False: ""})
    ends = {"estimate": "macro_auc", "low": "macro_auc_low", "high": "macro_auc_high"}
    blind = shortcuts[shortcuts["split"] == "grouped"].rename(columns=ends)
    blind = blind.assign(experiment="no lesion: " + blind["shortcut"], status="baseline, by study")
    blind = blind[["experiment", "n", *ends.values(), "status"]]
    return pd.concat([tested, blind], ignore_index=True).astype({"n": "Int64"})


def figures_by_metric(figures: pd.DataFrame) -> pd.DataFrame:
    """Turn the test figures of the trained experiments into rows for a forest plot.

    Args:
        figures: as `seed_figures` returns them.

    Returns:
        A row for each of `COMPARED`, experiment and split with figures, ensembles left out:
        `label` (the experiment), `split` (its title, a categorical in the order of
        `SPLIT_TITLES`), `metric`, `estimate`, `low`, `high`, `n`.
    """
    tested = figures[(figures["part"] == "test") & (figures["seeds"] != ENSEMBLE)]
    tested = tested.dropna(subset="n").rename(columns={"experiment": "label"})
    splits = pd.Categorical(tested["split"].map(SPLIT_TITLES), SPLIT_TITLES.values())
    columns = ["label", "split", "metric", "estimate", "low", "high", "n"]
    ends = {"": "estimate", "_low": "low", "_high": "high"}
    frames = [
        tested.rename(columns={f"{metric}{end}": name for end, name in ends.items()})
        .assign(metric=metric, split=splits)
        .reindex(columns=columns)
        for metric in COMPARED
    ]
    return pd.concat(frames, ignore_index=True)


def comparison_table(runs: list[RunResult], figures: pd.DataFrame) -> pd.DataFrame:
    """Return one row an experiment; its figures are means over its seeds.

    First `COMPARISON_COLUMNS`, all test figures; then the same for other splits that were run,
    the ends of the intervals, the validation figures that the recommendation is read from,
    Grad-CAM's mean IoU on the test sets, and that of an attention where there is one; the first
    `Weights`, by name and digest; the errors of failed runs, and for each of `ANSWER_SPLITS` that
    was evaluated a `<Split> Val Rank`: 1 has the highest accuracy on its validation set, ties by
    malignant sensitivity there, then by center-holdout accuracy on validation. `Stratified Val
    Rank` is the rule that was set before the study.

    Args:
        figures: as `seed_figures` returns them.
    """
    alone = figures[figures["seeds"] != ENSEMBLE].set_index(["experiment", "split", "part"])
    rows = [
        _comparison_row(name, [run for run in runs if run.experiment == name], alone)
        for name in dict.fromkeys(run.experiment for run in runs)
    ]
    table = pd.DataFrame(rows)
    table = table.reindex(columns=list(dict.fromkeys([*COMPARISON_COLUMNS, *table])))
    ranks = {_rank_column(s): _ranks(table, SPLIT_TITLES[s]) for s in ANSWER_SPLITS}
    return table.assign(**{name: rank for name, rank in ranks.items() if rank.notna().any()})


def _rank_column(split: str) -> str:
    return f"{SPLIT_TITLES[split]} Val Rank"


def _ranks(table: pd.DataFrame, title: str) -> pd.Series:
    """Return each experiment's place on the validation set of a split; NaN without a figure."""
    order = [f"{title} Val Accuracy", f"{title} Val Malignant Sensitivity"]
    figures = table.reindex(columns=[*order, "Center-Holdout Val Accuracy"])
    best_first = figures.dropna(subset=order[:1]).sort_values(list(figures), ascending=False)
    return pd.Series(np.arange(1.0, len(best_first) + 1), best_first.index).reindex(table.index)


def _comparison_row(name: str, runs: list[RunResult], figures: pd.DataFrame) -> dict[str, Any]:
    parameters = next((run.parameters for run in runs if run.parameters), {})
    model, data = parameters.get("model", {}), parameters.get("data", {})
    attention = model.get("attn_layer") or model.get("attention")
    row = {
        "Experiment ID": name,
        "Backbone": f"{model['backbone']}+{attention}" if attention else model.get("backbone"),
        "Image Size": data.get("image_size"),
        "Annotations": data.get("annotations"),
    }
    for split, split_title in SPLIT_TITLES.items():
        if (name, split, "test") not in figures.index:
            continue
        test, val = (figures.loc[(name, split, part)] for part in ("test", "val"))
        for metric, title in COMPARED.items():
            column = f"{split_title} {title}"
            row[column] = test[metric]
            row[f"{column} Low"], row[f"{column} High"] = test[[f"{metric}_low", f"{metric}_high"]]
            row[f"{split_title} Val {title}"] = val[metric]
        row[f"{split_title} Grad-CAM Mean IoU"] = test["mean_iou"]
        if not np.isnan(test["attention_iou"]):
            row[f"{split_title} Attention Mean IoU"] = test["attention_iou"]
    # The trainings of an experiment can have begun with different contents of one file.
    weights = dict.fromkeys(run.training.get("weights") for run in runs if not run.is_pool)
    row["Weights"] = "; ".join(filter(None, weights)) or None
    row["Seeds"] = len({run.seed for run in runs if not run.is_pool})
    errors = [f"{run.where}: {run.error}" for run in runs if run.error]
    row["Errors"] = "; ".join(errors) or None
    return row


def _mean(values: Iterable[float]) -> float:
    return float(pd.Series(values, dtype=float).mean())


def answer_split(table: pd.DataFrame) -> str | None:
    """Return the split that the answer is read from; None where none of them was evaluated.

    It is the first of `ANSWER_SPLITS` on which an experiment has figures.

    Args:
        table: as `comparison_table` returns it.
    """
    return next((split for split in ANSWER_SPLITS if _rank_column(split) in table), None)


def recommend(table: pd.DataFrame, split: str | None) -> str | None:
    """Return the recommended experiment: the first of a split's ranks; None without a split.

    Ranks are read on validation sets, as `comparison_table` says: test figures are never selected
    on. `stratified` gives the rule that was set before the study.

    Args:
        table: as `comparison_table` returns it.
        split: as `answer_split` returns it.
    """
    if split is None:
        return None
    return str(table.loc[table[_rank_column(split)].idxmin(), "Experiment ID"])


def reviewed_pool(runs: list[RunResult], table: pd.DataFrame) -> RunResult | None:
    """Return the pool whose out-of-fold predictions doubt labels; None without `grouped_cv`.

    That of the recommended experiment: its ensemble over seeds, or else one of its seeds.

    Args:
        table: as `comparison_table` returns it.
    """
    if answer_split(table) != "grouped_cv":
        return None
    best = recommend(table, "grouped_cv"), "grouped_cv"
    pools = [run for run in runs if run.is_evaluated and run.is_whole]
    own = [run for run in pools if (run.experiment, run.split) == best]
    return min(own, key=lambda run: (run.seed != ENSEMBLE, run.seed))


def map_scores(runs: list[RunResult], experiment: str | None, split: str | None) -> pd.DataFrame:
    """Collect how well the heat maps of an experiment find lesions on the test images of a split.

    Returns:
        What `localisation_table` takes, one row an annotated test tumour: means over the
        trainings that tested it. No rows without `gradcam.csv`; without the network's own scores
        where it has no maps.
    """
    own = [run.gradcam for run in runs if (run.experiment, run.split) == (experiment, split)]
    frames = [maps[maps["iou_chance"].notna()] for maps in own if maps is not None]
    if not frames:
        return pd.DataFrame()
    of_image = ["image_id", "center", "group", "label"]
    return pd.concat(frames).groupby(of_image, as_index=False).mean()


def _review(pool: RunResult | None, study_dir: Path) -> pd.DataFrame:
    if pool is None:
        return pd.DataFrame(columns=list(REVIEW_COLUMNS))
    predictions = read_predictions(study_dir / pool.path / "predictions.csv")
    return labels_to_review(predictions, known_conflicts(study_dir))


def success_table(row: pd.Series, split: str | None = None) -> pd.DataFrame:
    """Check one experiment's row of the comparison against `CRITERIA`, as they are named.

    Args:
        split: another one, whose figures are held against the bounds of the stratified ones.

    Returns:
        A row a criterion: `criterion`, `bound`, `reached` (NaN where there is no figure), `met`
        (NA there); with another split also its `<split>` figure and `<split>_met`.
    """
    table = pd.DataFrame({"criterion": list(CRITERIA), "bound": list(CRITERIA.values())})
    sources = {("reached", "met"): list(CRITERIA)}
    if split not in (None, "stratified"):
        named, own = (SPLIT_TITLES[s] for s in ("stratified", split))
        sources[split, f"{split}_met"] = [
            name.replace(named, own) if named in name else None for name in CRITERIA
        ]
    for (reached, met), columns in sources.items():
        table[reached] = [float(row.get(column, np.nan)) for column in columns]
        exceeds = (table[reached] > table["bound"]).astype("boolean")
        table[met] = exceeds.where(table[reached].notna())
    return table


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


def _differences(
    trained: dict[tuple[str, str], list[RunResult]], study_dir: Path, bootstrap: Bootstrap
) -> Iterator[pd.DataFrame]:
    for split, keys in groupby(trained, key=itemgetter(0)):
        here = {experiment: trained[split, experiment] for _, experiment in keys}
        notes = {
            pair: _refusal(here[pair[0]][0], here[pair[1]][0], EXPERIMENT_KEYS)
            for pair in combinations(here, 2)
        }
        families: dict[str, dict[str, list[pd.DataFrame]]] = {}
        for name, seeds in here.items():
            first = next((other for other in families if notes[other, name] is None), name)
            families.setdefault(first, {})[name] = _test_sets(seeds, study_dir)
        tables = [compare_experiments(f, bootstrap) for f in families.values() if len(f) > 1]
        if tables:
            table = pd.concat(tables, ignore_index=True)
            yield table.assign(split=split, p_holm=holm(table["p"]))
        refused = [(split, *pair, note) for pair, note in notes.items() if note is not None]
        yield pd.DataFrame(
            refused, columns=["split", "first_experiment", "second_experiment", "note"]
        )


def _gaps(
    trained: dict[tuple[str, str], list[RunResult]], study_dir: Path, bootstrap: Bootstrap
) -> Iterator[pd.DataFrame]:
    experiments = dict.fromkeys(experiment for _, experiment in trained)
    for splits, experiment in product(AWAY, experiments):
        pair = [trained.get((split, experiment)) for split in splits]
        if None in pair:
            continue
        note = _refusal(pair[0][0], pair[1][0], ("split",))
        if note is None:
            gap = _gap(*(_test_sets(seeds, study_dir) for seeds in pair), bootstrap)
        else:
            gap = pd.DataFrame([{"note": note}])
        yield gap.assign(experiment=experiment, inside_split=splits[0], outside_split=splits[1])


def _gap(
    inside: list[pd.DataFrame], outside: list[pd.DataFrame], bootstrap: Bootstrap
) -> pd.DataFrame:
    """Subtract the figures of two splits, by image where they test the same images."""
    tested = [set(frames[0]["image_id"]) for frames in (inside, outside)]
    if tested[0] != tested[1]:
        return generalisation_gap(inside, outside, bootstrap)
    # Which fold tested an image is another matter inside than outside.
    named = {"outside": outside, "inside": inside}
    unfolded = {
        name: [frame.drop(columns="fold", errors="ignore") for frame in frames]
        for name, frames in named.items()
    }
    paired = compare_experiments(unfolded, bootstrap)
    return paired.rename(columns={"first": "outside", "second": "inside"})


def _joined(tables: Iterator[pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    found = [table for table in tables if len(table)]
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    return table.reindex(columns=list(columns))


def _test_sets(seeds: list[RunResult], study_dir: Path) -> list[pd.DataFrame]:
    return [_predictions(run, study_dir, "test") for run in seeds]


def _predictions(run: RunResult, study_dir: Path, part: str) -> pd.DataFrame:
    predictions = read_predictions(study_dir / run.path / "predictions.csv")
    return predictions[predictions["part"] == part].reset_index(drop=True)


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
