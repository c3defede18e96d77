"""The comparison of a study's runs: the tables of notebook 06, and the answer read from them.

Whole runs are compared: those of a split with a single fold, and the pools of one with several.
The seeds of an experiment are its trainings; their ensemble stands by itself.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations, groupby, product
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from btxrd.evaluation.differences import (
    EXPERIMENT_KEYS,
    check_comparable,
    compare_experiments,
    differing,
    generalisation_gap,
    holm,
    seed_summary,
)
from btxrd.evaluation.intervals import Bootstrap
from btxrd.evaluation.review import REVIEW_COLUMNS, labels_to_review
from btxrd.evaluation.runs import RunResult, collect_runs
from btxrd.files import read_csv
from btxrd.params import ENSEMBLE
from btxrd.predictions import read_predictions
from btxrd.strategies import ANSWERS, PLANNED, SPLITS

__all__ = [
    "COMPARED",
    "COMPARISON_COLUMNS",
    "FIGURES",
    "SETTINGS",
    "answer",
    "compare_runs",
    "comparison_table",
    "differences_from",
    "figures_by_metric",
    "figures_of",
    "figures_shown",
    "map_scores",
    "reviewed_pool",
    "seed_figures",
    "strongest_shortcut",
    "subtracted_and_refused",
    "success_table",
    "validation_ranks",
]

COMPARED = {
    "accuracy": "Accuracy",
    "macro_auc": "Macro AUC",
    "sensitivity/Malignant": "Malignant Sensitivity",
}
"""The metrics of `comparison.csv`, and what its columns call them."""
FIGURES = (*COMPARED, "balanced_accuracy")
"""The metrics of `figures.csv`."""
OVERLAPS = {
    "mean_iou": ("iou", "Grad-CAM Mean IoU"),
    "attention_iou": ("iou_attention", "Attention Mean IoU"),
}
"""The means over heat maps in `figures.csv`: their column in `gradcam.csv`, and their title."""

SETTINGS = ("Experiment ID", "Backbone", "Image Size", "Annotations")
"""The columns of `comparison.csv` that describe an experiment."""
COMPARISON_COLUMNS = (
    *SETTINGS,
    *(f"{SPLITS[split].title} {title}" for split in PLANNED for title in COMPARED.values()),
)
"""The first ten columns of `comparison.csv`, in order."""
ENDS = {"": "", "_low": " Low", "_high": " High"}
"""The ends of an interval in `figures.csv`, and in `comparison.csv`."""
FIGURE_COLUMNS = (
    *("part", "experiment", "split", "seeds", "n"),
    *(f"{metric}{end}" for metric in FIGURES for end in (*ENDS, "_sd")),
    *(*OVERLAPS, "status"),
)
DIFFERENCE_COLUMNS = (
    *("split", "first_experiment", "second_experiment", "metric", "first", "second"),
    *("difference", "low", "high", "p", "p_holm", "note"),
)
GAP_COLUMNS = (
    *("inside_split", "outside_split", "experiment", "metric"),
    *("inside", "outside", "difference", "low", "high", "note"),
)


def compare_runs(study_dir: str | Path, bootstrap: Bootstrap) -> dict[str, pd.DataFrame]:
    """Compute all tables that notebook 06 writes from the runs' files, and `btxrd verify` checks.

    Returns them by the name of the file:

    - `comparison.csv` of `comparison_table`, `figures.csv` of `seed_figures`, and `review.csv` of
      `labels_to_review` for the `reviewed_pool`, no rows without one;
    - `differences.csv` of `compare_experiments`, for every pair of experiments on the test set of a
      split; p adjusted over all pairs of a split;
    - `gaps.csv`, what is lost in another center, for each experiment and each split that has one to
      compare with (`away`): as in `generalisation_gap`, or, where both test the same images, with
      an interval paired by image.

    The last two have columns that name what is compared, and `note`: a pair whose parameters
    differ in more than that is not subtracted; its row names them.

    Raises:
        FileNotFoundError: there is a pool to review, but notebook 02 has not been run.
        ValueError: seeds of one experiment and split differ in other parameters; names them.
    """
    study_dir = Path(study_dir)
    runs = collect_runs(study_dir)
    trained = _trainings(runs)
    figures = seed_figures(runs, study_dir, bootstrap)
    review = pd.DataFrame(columns=list(REVIEW_COLUMNS))
    pool = reviewed_pool(runs, figures)
    if pool is not None:
        predictions = read_predictions(study_dir / pool.path / "predictions.csv")
        review = labels_to_review(predictions, read_csv(study_dir / "splits" / "conflicts.csv"))
    return {
        "comparison.csv": comparison_table(runs, figures),
        "figures.csv": figures,
        "differences.csv": _joined(_differences(trained, study_dir, bootstrap), DIFFERENCE_COLUMNS),
        "gaps.csv": _joined(_gaps(trained, study_dir, bootstrap), GAP_COLUMNS),
        "review.csv": review,
    }


def _trainings(runs: list[RunResult]) -> dict[tuple[str, str], list[RunResult]]:
    """Return split and experiment → its evaluated seeds; all of a split before the next."""
    trained: dict[tuple[str, str], list[RunResult]] = {}
    single = [run for run in runs if run.is_whole and run.is_evaluated and run.seed != ENSEMBLE]
    for run in sorted(single, key=lambda run: list(SPLITS).index(run.split)):
        trained.setdefault((run.split, run.experiment), []).append(run)
    for first, *others in trained.values():
        for other in others:
            check_comparable(first.parameters, other.parameters, ("seed",))
    return trained


# Figures


def seed_figures(
    runs: list[RunResult], study_dir: str | Path, bootstrap: Bootstrap
) -> pd.DataFrame:
    """Return the headline figures of each experiment and split: means over its seeds.

    For each part (val, test) and split, in the order of `SPLITS`, there is a row an experiment, and
    one more for its ensemble: `part`, `experiment`, `split`, `seeds` ("1", "3", "ensemble"), `n`
    images, each of `FIGURES` with its ends and its spread over seeds (`_sd`, of a sample), of the
    test images also `mean_iou` and `attention_iou`, and `status`; NaN where there is none.
    Intervals are as in `seed_summary`, for one seed as in its `metrics.json`.
    """
    groups: dict[tuple[str, str, bool], list[RunResult]] = {}
    for run in runs:
        if run.is_whole:
            key = (run.split, run.experiment, run.seed == ENSEMBLE)
            groups.setdefault(key, []).append(run)
    rows = [
        _figures(groups[key], part, Path(study_dir), bootstrap)
        for part in ("val", "test")
        for key in sorted(groups, key=lambda key: list(SPLITS).index(key[0]))
    ]
    return pd.DataFrame(rows, columns=FIGURE_COLUMNS).astype({"n": "Int64"})


def _figures(
    runs: list[RunResult], part: str, study_dir: Path, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return the row of `seed_figures` of one experiment and split, or of its ensemble."""
    evaluated = [run for run in runs if run.is_evaluated]
    first = (evaluated or runs)[0]
    states = Counter(run.status for run in runs)
    row = {
        "part": part,
        "experiment": first.experiment,
        "split": first.split,
        "seeds": ENSEMBLE if first.seed == ENSEMBLE else str(len(evaluated)),
        "status": ", ".join(s if n == len(runs) else f"{n} {s}" for s, n in states.items()),
    }
    if not evaluated:
        return row
    row["n"] = first.metrics.get(part, {}).get("n", pd.NA)
    if part == "test":
        for name, (score, _) in OVERLAPS.items():
            row[name] = pd.Series([run.mean_of_maps(score) for run in evaluated]).mean()
    if len(evaluated) > 1:
        frames = _predictions(evaluated, study_dir, part)
        table = seed_summary(frames, bootstrap, FIGURES).set_index("metric")
        values = {metric: table.loc[metric, ["mean", "low", "high", "sd"]] for metric in FIGURES}
    else:
        values = {metric: (*first.interval(metric, part), np.nan) for metric in FIGURES}
    for metric, four in values.items():
        row |= dict(zip([f"{metric}{end}" for end in (*ENDS, "_sd")], four, strict=True))
    return row


def figures_of(figures: pd.DataFrame, part: str) -> pd.DataFrame:
    """Return the rows of `seed_figures` of one part that are means over trainings: no ensembles."""
    return figures[(figures["part"] == part) & (figures["seeds"] != ENSEMBLE)]


def figures_shown(
    figures: pd.DataFrame, part: str, best: str | None, split: str | None
) -> pd.DataFrame:
    """Return the rows of `seed_figures` of one part, with a ★ at the `answer`: best, split."""
    shown = figures[figures["part"] == part]
    absent = [name for name in OVERLAPS if shown[name].isna().all()]
    shown = shown.drop(columns=["part", *absent])
    answers = (shown["experiment"] == best) & (shown["split"] == split)
    return shown.assign(experiment=shown["experiment"] + answers.map({True: " ★", False: ""}))


def figures_by_metric(figures: pd.DataFrame) -> pd.DataFrame:
    """Turn the test figures into rows for a forest plot, ensembles left out.

    There is one for each of `COMPARED`, experiment and split: `label` (the experiment), `split`
    (its title, a categorical in the order of `SPLITS`), `metric`, `estimate`, `low`, `high`, `n`.
    """
    tested = figures_of(figures, "test").dropna(subset="n").rename(columns={"experiment": "label"})
    titles = {name: split.title for name, split in SPLITS.items()}
    tested["split"] = pd.Categorical(tested["split"].map(titles), titles.values())
    columns = ["label", "split", "metric", "estimate", "low", "high", "n"]
    frames = []
    for metric in COMPARED:
        named = {metric: "estimate", f"{metric}_low": "low", f"{metric}_high": "high"}
        frames.append(tested.rename(columns=named).assign(metric=metric)[columns])
    return pd.concat(frames, ignore_index=True)


def comparison_table(runs: list[RunResult], figures: pd.DataFrame) -> pd.DataFrame:
    """Return one row an experiment; its figures are those of `seed_figures`, side by side.

    First `COMPARISON_COLUMNS`, all test figures; then those of every split that was run, with the
    ends of the intervals, mean IoUs and validation figures; the first `Weights`, by name and
    digest; how many `Seeds`; the `Errors` of failed runs; and for each of `ANSWERS` that was
    evaluated a `<Split> Val Rank`, as `validation_ranks` returns it.
    """
    names = dict.fromkeys(run.experiment for run in runs)
    rows = [_described(name, [run for run in runs if run.experiment == name]) for name in names]
    facts = pd.DataFrame(rows, columns=[*SETTINGS, "Weights", "Seeds", "Errors"])
    titles = {f"{m}{end}": f"{t}{said}" for m, t in COMPARED.items() for end, said in ENDS.items()}
    titles |= {name: title for name, (_, title) in OVERLAPS.items()}
    columns, ranks = {}, {}
    for split, row in SPLITS.items():
        for part, prefix in (("test", ""), ("val", "Val ")):
            here = figures_of(figures, part).set_index("experiment").query("split == @split")
            found = here[list(titles)].dropna(axis=1, how="all")
            columns |= {f"{row.title} {prefix}{titles[name]}": found[name] for name in found}
        if row.may_answer:
            ranks[f"{row.title} Val Rank"] = validation_ranks(figures, split)
    wide = pd.DataFrame(columns | {name: rank for name, rank in ranks.items() if len(rank)})
    table = facts.join(wide, on="Experiment ID")
    order = dict.fromkeys([*COMPARISON_COLUMNS, *columns, *table])
    return table.reindex(columns=list(order))


def _described(name: str, runs: list[RunResult]) -> dict[str, Any]:
    """Return what `comparison.csv` says of an experiment besides its figures."""
    parameters = next((run.parameters for run in runs if run.parameters), {})
    model, data = parameters.get("model", {}), parameters.get("data", {})
    attention = model.get("attn_layer") or model.get("attention")
    single = [run for run in runs if not run.is_pool]
    # The trainings of an experiment can have begun with different contents of one file.
    weights = dict.fromkeys(run.training.get("weights") for run in single)
    return {
        "Experiment ID": name,
        "Backbone": f"{model['backbone']}+{attention}" if attention else model.get("backbone"),
        "Image Size": data.get("image_size"),
        "Annotations": data.get("annotations"),
        "Weights": "; ".join(filter(None, weights)) or None,
        "Seeds": len({run.seed for run in single}),
        "Errors": "; ".join(f"{run.where}: {run.error}" for run in runs if run.error) or None,
    }


# The answer


def validation_ranks(figures: pd.DataFrame, split: str) -> pd.Series:
    """Return the rank of each experiment that was evaluated on a split; the first, 1, is the best.

    Ranks are read on validation images, because test figures are never selected on: the highest
    accuracy; ties by malignant sensitivity, then by validation accuracy on the last of `PLANNED`.
    """
    val = figures_of(figures, "val").set_index("experiment")
    own = val.loc[val["split"] == split, ["accuracy", "sensitivity/Malignant"]]
    elsewhere = val.loc[val["split"] == PLANNED[-1], "accuracy"].rename("elsewhere")
    ordered = own.dropna(subset="accuracy").join(elsewhere)
    ordered = ordered.sort_values(list(ordered), ascending=False)
    return pd.Series(np.arange(1.0, len(ordered) + 1), ordered.index)


def answer(figures: pd.DataFrame, splits: Sequence[str] = ANSWERS) -> tuple[str | None, str | None]:
    """Return the recommended experiment and the split that the answer is read from.

    They are the first of `splits` on which an experiment has figures, and the first of its
    `validation_ranks`; both None where there is none.
    """
    for split in splits:
        if len(ranks := validation_ranks(figures, split)):
            return ranks.index[0], split
    return None, None


def reviewed_pool(runs: list[RunResult], figures: pd.DataFrame) -> RunResult | None:
    """Return the pool of folds whose predictions doubt labels; None where the answer is from none.

    It is that of the recommended experiment: its ensemble over seeds, or else one of its seeds.
    """
    best, split = answer(figures)
    if split is None or not SPLITS[split].folds:
        return None
    own = [
        run
        for run in runs
        if (run.experiment, run.split) == (best, split) and run.is_evaluated and run.is_whole
    ]
    return min(own, key=lambda run: (run.seed != ENSEMBLE, run.seed))


def map_scores(runs: list[RunResult], experiment: str | None, split: str | None) -> pd.DataFrame:
    """Return the argument of `localisation_table` for an experiment's test images of a split.

    One row an annotated tumour: means over the trainings that tested it. No rows without
    `gradcam.csv`; without the network's own scores where it has no maps.
    """
    own = [run.gradcam for run in runs if (run.experiment, run.split) == (experiment, split)]
    frames = [maps[maps["iou_chance"].notna()] for maps in own if maps is not None]
    if not frames:
        return pd.DataFrame()
    of_image = ["image_id", "center", "group", "label"]
    return pd.concat(frames).groupby(of_image, as_index=False).mean()


def strongest_shortcut(shortcuts: pd.DataFrame, keeps_apart: str) -> pd.Series | None:
    """Return the row of a `shortcut_table` with the highest AUC; None where none was measured.

    `keeps_apart` (`image` or `group`) is looked up in its column `split`. `sites` is not among
    them: a tumour's site is noted by somebody who saw the tumour.
    """
    blind = shortcuts[(shortcuts["split"] == keeps_apart) & (shortcuts["shortcut"] != "sites")]
    measured = blind.dropna(subset="estimate")
    return None if measured.empty else measured.loc[measured["estimate"].idxmax()]


def success_table(figures: pd.DataFrame, experiment: str) -> pd.DataFrame:
    """Check one experiment's test figures against the bounds that were set before the study.

    A row a bound: `split`, `metric`, `bound`, `reached` (NaN where there is no figure), `met`
    (NA there).
    """
    own = figures_of(figures, "test")
    own = own[own["experiment"] == experiment].set_index("split")
    rows = [
        (name, metric, bound, own[metric].get(name, np.nan))
        for name, split in SPLITS.items()
        for metric, bound in split.bounds.items()
    ]
    table = pd.DataFrame(rows, columns=["split", "metric", "bound", "reached"])
    met = (table["reached"] > table["bound"]).astype("boolean")
    return table.assign(met=met.where(table["reached"].notna()))


# Differences


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
            first = next((other for other in families if not notes[other, name]), name)
            families.setdefault(first, {})[name] = _predictions(seeds, study_dir, "test")
        tables = [compare_experiments(f, bootstrap) for f in families.values() if len(f) > 1]
        if tables:
            table = pd.concat(tables, ignore_index=True)
            yield table.assign(split=split, p_holm=holm(table["p"]))
        refused = [(split, *pair, note) for pair, note in notes.items() if note]
        yield pd.DataFrame(
            refused, columns=["split", "first_experiment", "second_experiment", "note"]
        )


def _gaps(
    trained: dict[tuple[str, str], list[RunResult]], study_dir: Path, bootstrap: Bootstrap
) -> Iterator[pd.DataFrame]:
    experiments = dict.fromkeys(experiment for _, experiment in trained)
    pairs = [(name, split.away) for name, split in SPLITS.items() if split.away]
    for (inside, outside), experiment in product(pairs, experiments):
        if (inside, experiment) not in trained or (outside, experiment) not in trained:
            continue
        near, far = trained[inside, experiment], trained[outside, experiment]
        if note := _refusal(near[0], far[0], ("split",)):
            gap = pd.DataFrame([{"note": note}])
        else:
            tested = (_predictions(seeds, study_dir, "test") for seeds in (near, far))
            gap = _gap(*tested, bootstrap)
        yield gap.assign(experiment=experiment, inside_split=inside, outside_split=outside)


def _gap(
    inside: list[pd.DataFrame], outside: list[pd.DataFrame], bootstrap: Bootstrap
) -> pd.DataFrame:
    """Subtract the figures of two splits, by image where they test the same images."""
    if set(inside[0]["image_id"]) != set(outside[0]["image_id"]):
        return generalisation_gap(inside, outside, bootstrap)
    # Which fold tested an image is another matter inside than outside.
    named = {
        name: [frame.drop(columns="fold", errors="ignore") for frame in frames]
        for name, frames in {"outside": outside, "inside": inside}.items()
    }
    paired = compare_experiments(named, bootstrap)
    return paired.rename(columns={"first": "outside", "second": "inside"})


def _joined(tables: Iterator[pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    found = [table for table in tables if len(table)]
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    return table.reindex(columns=list(columns))


def _predictions(seeds: list[RunResult], study_dir: Path, part: str) -> list[pd.DataFrame]:
    frames = (read_predictions(study_dir / run.path / "predictions.csv") for run in seeds)
    return [frame[frame["part"] == part].reset_index(drop=True) for frame in frames]


def _refusal(first: RunResult, second: RunResult, compared: tuple[str, ...]) -> str:
    """Name the parameters for which two runs cannot be subtracted; empty where they can."""
    other_seeds = () if first.seed == second.seed else ("seed",)
    return differing(first.parameters, second.parameters, (*compared, *other_seeds))


def differences_from(differences: pd.DataFrame, experiment: str | None) -> pd.DataFrame:
    """Turn `differences.csv` so that the experiment in question comes second in each of its pairs.

    The columns are `split`, `against` (the other experiment), `metric`, `difference` (above 0 where
    `experiment` is higher) with `low` and `high`, `p`, `p_holm`, `note`.
    """
    first, second = differences["first_experiment"], differences["second_experiment"]
    own = differences[(first == experiment) | (second == experiment)]
    turned = own["first_experiment"] == experiment
    return own.assign(
        against=own["second_experiment"].where(turned, own["first_experiment"]),
        difference=own["difference"].mask(turned, -own["difference"]),
        low=own["low"].mask(turned, -own["high"]),
        high=own["high"].mask(turned, -own["low"]),
    )[["split", "against", "metric", "difference", "low", "high", "p", "p_holm", "note"]]


def subtracted_and_refused(pairs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of `differences.csv` or `gaps.csv` with figures, and those with a `note`."""
    refused = pairs["note"].notna()
    return pairs[~refused].drop(columns="note"), pairs[refused].dropna(axis=1, how="all")
