"""What the reports say in words."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from btxrd import CLASS_NAMES, RESEARCH_ONLY, __version__
from btxrd.data.table import SUBTYPE_COLUMNS, VIEW_COLUMNS, one_hot_name
from btxrd.evaluation.localisation import SOURCES
from btxrd.evaluation.runs import COMPARED, RunResult, recommend
from btxrd.params import ResultParams
from btxrd.predictions import probabilities
from btxrd.provenance import code_version, data_name, now, package_versions
from btxrd.report.names import as_text
from btxrd.report.tables import TITLES, format_interval
from btxrd.stages import CASES_FILE, EDA, SPLITS
from btxrd.strategies import PLANNED
from btxrd.strategies import SPLITS as STRATEGIES

__all__ = [
    "case_titles",
    "first_weights",
    "leakage_finding",
    "localisation_finding",
    "not_subtracted",
    "pool_note",
    "provenance_note",
    "recommendation",
    "review_links",
    "review_note",
    "run_line",
    "runs_list",
    "runs_note",
    "seeds_note",
]


def provenance_note(dataset_root: str, **facts: Any) -> str:
    """Return the Markdown that ends every report: research only, which data, how it was made.

    `facts` are further lines, name and value; values are text.
    """
    code = code_version()
    commit = f", commit {code['commit'][:10]}" if code["commit"] else ""
    rows = {
        "data": data_name(dataset_root),
        "code": f"btxrd {__version__}{commit}{' with local changes' if code['dirty'] else ''}",
        **facts,
        "packages": ", ".join(f"{name} {v}" for name, v in package_versions().items()),
        "made": pd.Timestamp(now()).strftime("%Y-%m-%d %H:%M UTC"),
    }
    lines = [f"- **{name.replace('_', ' ')}:** {as_text(value)}" for name, value in rows.items()]
    return "\n".join([f"> **{RESEARCH_ONLY}**", "", *lines])


def recommendation(
    best: str | None,
    split: str | None,
    comparison: pd.DataFrame,
    leakage: pd.DataFrame,
    shortcuts: pd.DataFrame,
) -> str:
    """Say of the answer what its `scorecard` does not: how it was chosen, and by another rule.

    `best` and `split` are what `recommend` and `answer_split` return, `leakage` and `shortcuts`
    are `leakage_table` and `shortcut_table`, `comparison` the table of `compare_runs`.
    """
    if best is None or split is None:
        return ""
    chosen = comparison.set_index("Experiment ID").loc[best]
    title = STRATEGIES[split].title
    sentences = [
        f"**{as_text(best)}** has the highest accuracy on the *validation* images of the split "
        f"`{split}` ({chosen[f'{title} Val Accuracy']:.3f}), by which it was chosen; where two are "
        "equal, malignant sensitivity decides, then accuracy in the center holdout. On its test "
        f"images its accuracy is {_quoted(chosen, f'{title} Accuracy')}.",
    ]
    if STRATEGIES[split].folds:
        sentences.append(
            "In cross-validation the validation images are test images of another fold, so that "
            "choosing among experiments is not wholly independent of the test figures."
        )
    if split not in PLANNED:
        sentences += _stratified_beside(best, comparison, leakage)
    return " ".join([*sentences, *_sites(shortcuts)])


def _quoted_figures(chosen: pd.Series, title: str) -> str:
    quoted = {metric: _quoted(chosen, f"{title} {name}") for metric, name in COMPARED.items()}
    return (
        f"macro AUC **{quoted['macro_auc']}**, accuracy {quoted['accuracy']}, malignant "
        f"sensitivity {quoted['sensitivity/Malignant']}"
    )


def _siblings(split: str, leakage: pd.DataFrame) -> str:
    share = leakage.query("strategy == @split and part == 'test'")["sibling_share"].iloc[0]
    bound = ", so these figures are an upper bound" if share else ""
    return f"{share:.0%} of the `{split}` test images have a sibling in train{bound}."


def _stratified_beside(best: str, comparison: pd.DataFrame, leakage: pd.DataFrame) -> list[str]:
    """Say what the stratified split gives, where it was run: an upper bound, and another rule."""
    chosen = comparison.set_index("Experiment ID").loc[best]
    planned, said = PLANNED[0], []
    title = STRATEGIES[planned].title
    if pd.notna(chosen[f"{title} Macro AUC"]):
        figures = _quoted_figures(chosen, title)
        said += [f"On the split `{planned}`: {figures}.", _siblings(planned, leakage)]
    if f"{title} Val Rank" in comparison:
        by_rule = recommend(comparison, planned)
        agrees = "the same" if by_rule == best else f"**{as_text(by_rule)}**"
        said.append(f"The rule set before the study, by validation on `{planned}`, gives {agrees}.")
    return said


def _quoted(chosen: pd.Series, column: str) -> str:
    return format_interval(*chosen[[column, f"{column} Low", f"{column} High"]])


def _sites(shortcuts: pd.DataFrame) -> list[str]:
    """Say what the baseline `sites` reaches by study: it is not blind to the lesion."""
    rows = shortcuts[(shortcuts["split"] == "group") & (shortcuts["shortcut"] == "sites")]
    return [
        f"*{row.sees.capitalize()}* reach a macro AUC of {row.estimate:.3f} by study, but are no "
        "shortcut for a network: the table has a site for tumours only, so knowing it is knowing "
        "the answer."
        for row in rows.itertuples()
    ]


def seeds_note(figures: pd.DataFrame) -> str:
    """Say what the intervals of `seed_figures` cover, by how many seeds there are."""
    seeds = pd.to_numeric(figures["seeds"], errors="coerce").max()
    if seeds > 1:
        return (
            f"Figures are means over up to {seeds:.0f} trainings that differ in their seed alone; "
            "± is the standard deviation over these. Intervals cover other images and other "
            "trainings: each replicate draws patient groups and seeds anew. An *ensemble* averages "
            "the probabilities of the seeds; it is one model, and its interval covers images alone."
        )
    return (
        "**One seed:** each experiment was trained once, so intervals cover other images but not "
        "another training. Training again, with nothing changed, moves a figure too, and by how "
        "much is not known here: a difference between two experiments may be that alone. Give the "
        "study several `seeds` to rank them."
    )


def not_subtracted(differences: pd.DataFrame) -> str:
    """Say which experiments were not subtracted and why, an item of a list a reason.

    Args:
        differences: as `btxrd.evaluation.runs.differences_from` returns them.
    """
    refused = differences.dropna(subset="note")
    # A note names both runs first.
    reasons = refused["note"].map(lambda note: note.partition(": ")[2]).rename("reason")
    splits = refused.groupby(["against", reasons], sort=False)["split"].agg(", ".join)
    return "\n".join(
        f"- Not subtracted: {as_text(against)} ({as_text(where)}), because {as_text(reason)}."
        for (against, reason), where in splits.items()
    )


def leakage_finding(leakage: pd.DataFrame) -> str:
    """Say what a `leakage_table` means for test figures, and for what is chosen on validation."""
    shares = leakage.pivot_table("sibling_share", "strategy", "part")
    worst, test = shares["test"].idxmax(), shares["test"].max()
    text = (
        f"The leakiest test set is that of **{worst}**: {test:.0%} of its images have a sibling in "
        "train. What it measures is partly memory."
    )
    if "center" in shares.index:
        text += (
            f" Validation leaks too: in the center holdout {shares.loc['center', 'val']:.0%} of "
            "the validation images have a sibling in train. The epoch, the temperature, the "
            "thresholds and the experiment are chosen there, partly by memory; its test images, of "
            f"other centers, are not touched by it ({shares.loc['center', 'test']:.0%})."
        )
    return text


def pool_note(run: ResultParams, training: Mapping[str, Any]) -> str:
    """Say what a pool is made of and how it is to be read; nothing of a run.

    `training` is the content of its `training.json`.
    """
    if not run.is_pool:
        return ""
    said = [f"Put together from {training['runs']} runs."]
    if run.seed == "ensemble":
        said.append("Probabilities are means over the seeds: an ensemble.")
    if run.fold == "pooled":
        said.append(
            "Every test image stands here once, predicted by the fold that did not train on its "
            "study. Thresholds and temperatures are chosen on each fold's own validation and "
            "applied to its test images; the validation figures are of all folds together. Curves "
            "and AUCs also compare images of different folds, whose networks may be differently "
            "sure of themselves; the folds stand by themselves too, with their mean."
        )
    return " ".join(said)


def runs_list(runs: list[RunResult]) -> str:
    """Return a line of Markdown a run, under links to what they were made of."""
    made_of = f"Of all runs: the [{EDA.title}]({EDA.page}) and the [{SPLITS.title}]({SPLITS.page})."
    return "\n".join([made_of, "", *map(run_line, runs)])


def run_line(run: RunResult) -> str:
    """Return one run's or pool's line of Markdown: its state, and links to its pages that exist."""
    line = f"- **{as_text(run.experiment)}**, {_trained_by(run)}: {as_text(run.status)}"
    if "device" in run.training and not run.is_pool:
        how = "a probe, C = {best_C:g}" if "best_C" in run.training else "{epochs} epochs"
        line += f" ({how}, {{seconds:.0f}} s, ".format(**run.training)
        line += f"{as_text(run.training['device'])})"
    folder = quote(run.path.as_posix())
    if run.error:
        line += f". {as_text(run.error)} ([error.txt]({folder}/error.txt))"
    return " · ".join([line, *(f"[{title}]({folder}/{p})" for title, p in run.pages.items())])


def _trained_by(run: RunResult) -> str:
    seed = "ensemble" if run.seed == "ensemble" else f"seed {run.seed}"
    return as_text(f"{run.where}, {seed}")


def runs_note(runs: list[RunResult]) -> str:
    """Count the runs that are finished: trained and evaluated; and the pools made of them."""
    pools = [run for run in runs if run.is_pool]
    trained = [run for run in runs if not run.is_pool]
    done, made = (sum(run.is_evaluated for run in part) for part in (trained, pools))
    text = f"{done} of {len(trained)} runs finished"
    unevaluated = sum(not run.metrics and run.status == "by hand" for run in trained)
    if unevaluated:
        text += f", {unevaluated} trained but not evaluated"
    return text + (f"; {made} of {len(pools)} pools made of them." if pools else ".")


def first_weights(best: str | None, comparison: pd.DataFrame) -> str:
    """Name the first weights of the recommended experiment; nothing where they are not known."""
    named = comparison.set_index("Experiment ID")["Weights"].dropna()
    return f" First weights of {best}: {named[best]}." if best in named else ""


def review_note(review: pd.DataFrame, pool: RunResult | None) -> str:
    """Say where the rows of `labels_to_review` come from; `pool` is that of `reviewed_pool`."""
    if pool is None:
        return (
            "No label is proposed for review: that takes predictions by networks that did not see "
            "the image, a pool of a split with folds, and none was evaluated."
        )
    known = review["conflicts_with"].notna().sum()
    return (
        f"{known} images have a duplicate that carries another label: one of the two is wrong. "
        "Contradicted studies are in no test set, so the networks have no say on them. Of "
        f"{pool.metrics['test']['n']} images tested by {as_text(pool.experiment)} "
        f"({_trained_by(pool)}), {len(review) - known} carry a label less probable than another. "
        "They are ranked by the margin between the two: a hard image stands here as well as a "
        "wrong label. All of them: [review.csv](review.csv)."
    )


def review_links(review: pd.DataFrame, pool: RunResult | None) -> str:
    """Link the images of `labels_to_review` to their cases, as a line of Markdown."""
    if pool is None or review.empty:
        return ""
    page = f"{quote(pool.path.as_posix())}/{CASES_FILE}"
    cases = [f"[{as_text(name)}]({page}#{quote(name)})" for name in review["image_id"]]
    return f"Their cases: {' · '.join(cases)}."


def localisation_finding(table: pd.DataFrame) -> str:
    """Say in Markdown what a `localisation_table` of all images shows.

    The network is called better (or worse) than a reference in a score where the whole interval
    of its paired lead lies above (or below) 0; a lead without an interval is not called either.
    Without maps of the network, that is what is said. Of an attention, where there is one, it is
    said that the masks taught it.
    """
    n, groups = table[["n", "groups"]].iloc[0]
    where = f"On {n} annotated test tumours of {groups} studies"
    there = set(table["source"])
    if "network" not in there:
        return f"{where} there are no maps of the network to score."
    references = [name for name in SOURCES if name in there and not SOURCES[name].is_trained]
    cells = {
        (row.source, row.score): format_interval(row.estimate, row.low, row.high)
        for row in table[table["reference"] == ""].itertuples()
    }
    said = [f"{where}: {_against('network', references, cells, table)}"]
    if "attention" in there:
        said.append(
            "Its attention was taught the lesion masks of training images: "
            f"{_against('attention', references, cells, table)}"
        )
    return " ".join(said)


def _against(
    trained: str,
    references: list[str],
    cells: dict[tuple[str, str], str],
    table: pd.DataFrame,
) -> str:
    figures = [
        f"{TITLES[score]} **{cells[trained, score]}** against "
        + ", ".join(f"{source} {cells[source, score]}" for source in references)
        for score in ("iou", "pointing")
        if (trained, score) in cells
    ]
    own = table[table["source"] == trained]
    verdicts = [
        f"against {reference} {_verdict(own[own['reference'] == reference])}"
        for reference in references
    ]
    return f"{'; '.join(figures)}. Paired image by image, the {trained} is {'; '.join(verdicts)}."


def _verdict(leads: pd.DataFrame) -> str:
    """Name the scores whose lead has an interval wholly on one side of 0."""
    sides = {"better": leads["low"] > 0, "worse": leads["high"] < 0}
    said = [
        f"**{side}** in {found.sum()} of {len(leads)} scores "
        f"({', '.join(leads['score'][found].map(TITLES))})"
        for side, found in sides.items()
        if found.any()
    ]
    return " and ".join(said) if said else f"**no different** in any of {len(leads)} scores"


def case_titles(cases: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Write above each case what it is: id, classes, probabilities, subtype, age and view.

    Args:
        cases: as `gallery_cases` returns them.
        table: as `read_table` returns it.

    Returns:
        One text a case, in three pieces whose inner spaces do not break: each piece gets a line
        where the next does not fit. A normal image has no subtype.

    Raises:
        KeyError: the table lacks an image.
    """
    rows = table.set_index("image_id").loc[cases["image_id"]]
    facts = zip(
        cases["image_id"],
        cases["label"],
        cases["predicted"],
        probabilities(cases),
        one_hot_name(rows, SUBTYPE_COLUMNS, "no tumour"),
        rows["age"],
        one_hot_name(rows, VIEW_COLUMNS, "no view"),
        strict=True,
    )
    titles = []
    for image_id, label, predicted, shares, subtype, age, view in facts:
        called = f"{CLASS_NAMES[label]}, called {CLASS_NAMES[predicted]}"
        chances = ", ".join(
            f"{name[0]} {share:.2f}" for name, share in zip(CLASS_NAMES, shares, strict=True)
        )
        pieces = [
            f"{Path(image_id).stem}: {called}",
            f"({chances}),",
            f"{subtype}, {age:.0f} y, {view}",
        ]
        titles.append(" ".join(piece.replace(" ", "\N{NO-BREAK SPACE}") for piece in pieces))
    return titles
