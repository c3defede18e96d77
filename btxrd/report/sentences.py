"""The sentences of the reports, each made of the figures that it is given."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from btxrd import CLASS_NAMES, RESEARCH_ONLY, __version__
from btxrd.data.table import SUBTYPE_COLUMNS, VIEW_COLUMNS, one_hot_name
from btxrd.evaluation.localisation import SOURCES, TRAINED
from btxrd.params import ENSEMBLE, POOLED, ResultParams
from btxrd.provenance import code_version, data_name, now, package_versions
from btxrd.report.names import as_text
from btxrd.report.tables import TITLES, format_interval
from btxrd.stages import CASES_FILE, EDA
from btxrd.stages import SPLITS as SPLITS_STAGE
from btxrd.strategies import OTHER_CENTERS, PLANNED

if TYPE_CHECKING:
    from btxrd.evaluation.runs import RunResult

__all__ = [
    "case_titles",
    "leakage_finding",
    "localisation_finding",
    "one_seed_note",
    "pool_note",
    "provenance_note",
    "recommendation",
    "review_links",
    "review_note",
    "runs_list",
    "runs_note",
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
    best: str | None, split: str | None, planned: str | None, figures: pd.DataFrame
) -> str:
    """Say how the answer was chosen, and what the rule that was set before the study gives.

    Args:
        best, split: the answer, as `btxrd.evaluation.comparison.answer` returns it.
        planned: the experiment that validation on the first of `PLANNED` recommends.
        figures: the table `figures.csv`.
    """
    if best is None:
        return ""
    rows = figures[(figures["experiment"] == best) & (figures["split"] == split)]
    val, test = (rows[rows["part"] == part].iloc[0] for part in ("val", "test"))
    accuracy = format_interval(*test[["accuracy", "accuracy_low", "accuracy_high"]])
    said = (
        f"**{as_text(best)}** has the highest accuracy on the *validation* images of `{split}` "
        f"({val['accuracy']:.3f}), by which it was chosen. On its test images its accuracy is "
        f"{accuracy}."
    )
    if planned is not None and split != PLANNED[0]:
        found = "the same" if planned == best else f"**{as_text(planned)}**"
        said += f" The rule set before the study, by validation on `{PLANNED[0]}`, gives {found}."
    return said


def one_seed_note(figures: pd.DataFrame) -> str:
    """Warn where no experiment of `figures.csv` was trained more than once; else say nothing."""
    if pd.to_numeric(figures["seeds"], errors="coerce").max() > 1:
        return ""
    return (
        "**One seed:** each experiment was trained once. Training again, with nothing changed, "
        "moves a figure too, and by how much is not known here: a difference between two "
        "experiments may be that alone. Give the study several `seeds` to rank them."
    )


def leakage_finding(leakage: pd.DataFrame) -> str:
    """Say what a `leakage_table` means for test figures, and for what is chosen on validation."""
    shares = leakage.pivot_table("sibling_share", "strategy", "part")
    said = [
        f"The leakiest test set is that of **{shares['test'].idxmax()}**: "
        f"{shares['test'].max():.0%} of its images have a sibling in train. What it measures is "
        "partly memory."
    ]
    said += [
        f"Validation leaks too: in `{split}` {shares.loc[split, 'val']:.0%} of the validation "
        "images have a sibling in train. The epoch, the temperature, the thresholds and the "
        "experiment are chosen there, partly by memory; of its test images, of other centers, "
        f"{shares.loc[split, 'test']:.0%} have one."
        for split in OTHER_CENTERS
        if split in shares.index and shares.loc[split, "val"] > 0
    ]
    return " ".join(said)


def pool_note(run: ResultParams, training: Mapping[str, Any]) -> str:
    """Say what a pool is made of and how it is to be read; of a single run say nothing.

    `training` is the content of its `training.json`.
    """
    if not run.is_pool:
        return ""
    said = [f"Put together from {training['runs']} runs."]
    if run.seed == ENSEMBLE:
        said.append("Probabilities are means over the seeds: an ensemble.")
    if run.fold == POOLED:
        said.append(
            "Each test image was predicted by the fold that did not train on its group. Thresholds "
            "and temperatures are chosen on each fold's own validation and applied to its test "
            "images. Curves and AUCs also compare images of different folds, whose networks may be "
            "differently sure of themselves; the folds stand by themselves too, with their mean."
        )
    return " ".join(said)


def runs_list(runs: "Sequence[RunResult]") -> str:
    """Return a line of Markdown a run or pool, with links to the pages that it has."""
    stages = " and the ".join(f"[{stage.title}]({stage.page})" for stage in (EDA, SPLITS_STAGE))
    return "\n".join([f"Of all runs: the {stages}.", "", *map(_run_line, runs)])


def _run_line(run: "RunResult") -> str:
    line = f"- **{as_text(run.experiment)}**, {as_text(run.where)}: {as_text(run.status)}"
    if "device" in run.training and not run.is_pool:
        how = "a probe, C = {best_C:g}" if "best_C" in run.training else "{epochs} epochs"
        line += f" ({how}, {{seconds:.0f}} s, ".format(**run.training)
        line += f"{as_text(run.training['device'])})"
    folder = quote(run.path.as_posix())
    if run.error:
        line += f". {as_text(run.error)} ([error.txt]({folder}/error.txt))"
    return " · ".join([line, *(f"[{title}]({folder}/{p})" for title, p in run.pages.items())])


def runs_note(runs: "Sequence[RunResult]") -> str:
    """Count the runs that are finished: trained and evaluated; and the pools made of them."""
    pools = [run for run in runs if run.is_pool]
    single = [run for run in runs if not run.is_pool]
    done, made = (sum(run.is_evaluated for run in some) for some in (single, pools))
    text = f"{done} of {len(single)} runs finished"
    return text + (f"; {made} of {len(pools)} pools made of them." if pools else ".")


def review_note(review: pd.DataFrame, pool: "RunResult | None") -> str:
    """Say where the rows of `review.csv` come from; `pool` is that of `reviewed_pool`."""
    if pool is None:
        return (
            "No label is proposed for review: that takes predictions by networks that did not see "
            "the image, and no pool of folds was evaluated."
        )
    known = review["conflicts_with"].notna().sum()
    return (
        f"{known} images have a duplicate that carries another label: one of the two is wrong. Of "
        f"{pool.metrics['test']['n']} images tested by {as_text(pool.experiment)} "
        f"({as_text(pool.where)}), {len(review) - known} carry a label less probable than another. "
        "All of them: [review.csv](review.csv)."
    )


def review_links(review: pd.DataFrame, pool: "RunResult") -> str:
    """Link the images of `review.csv` to their cases in the pool's browser."""
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
    references = [source for source in SOURCES if source in there - set(TRAINED)]
    cells = {
        (row.source, row.score): format_interval(row.estimate, row.low, row.high)
        for row in table.itertuples()
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
    verdicts = [
        f"against {source} {_verdict(table[table['source'] == f'{trained} − {source}'])}"
        for source in references
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
    subtypes = one_hot_name(rows, SUBTYPE_COLUMNS, "no tumour")
    views = one_hot_name(rows, VIEW_COLUMNS, "no view")
    titles = []
    for case, age, subtype, view in zip(
        cases.to_dict("records"), rows["age"], subtypes, views, strict=True
    ):
        called = f"{CLASS_NAMES[case['label']]}, called {CLASS_NAMES[case['predicted']]}"
        chances = ", ".join(f"{name[0]} {case[f'p_{name}']:.2f}" for name in CLASS_NAMES)
        pieces = (
            f"{Path(case['image_id']).stem}: {called}",
            f"({chances}),",
            f"{subtype}, {age:.0f} y, {view}",
        )
        titles.append(" ".join(piece.replace(" ", "\N{NO-BREAK SPACE}") for piece in pieces))
    return titles
