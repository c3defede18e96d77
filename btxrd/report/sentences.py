"""The sentences of the reports, each made of the figures that it is given."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from btxrd.params import ENSEMBLE, POOLED, ResultParams
from btxrd.report.links import linked
from btxrd.report.names import as_text
from btxrd.report.tables import format_interval
from btxrd.stages import CASES_FILE, EDA, SPLITS
from btxrd.strategies import OTHER_CENTERS, PLANNED

if TYPE_CHECKING:
    from btxrd.evaluation.runs import RunResult

__all__ = [
    "leakage_finding",
    "one_seed_note",
    "pool_note",
    "recommendation",
    "review_links",
    "review_note",
    "run_line",
    "runs_list",
    "runs_note",
]


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


def runs_list(runs: "Sequence[RunResult]", folder: Path) -> str:
    """Return a line of Markdown a run or pool of the study in `folder`, with links to its pages."""
    data, splits = (linked(stage.title, folder, stage.page) for stage in (EDA, SPLITS))
    lines = [run_line(run, folder) for run in runs]
    return "\n".join([f"Of all runs: the {data} and the {splits}.", "", *lines])


def run_line(run: "RunResult", folder: Path) -> str:
    """Return one run's or pool's line of Markdown: its state, and links to its pages that exist."""
    line = f"- **{as_text(run.experiment)}**, {as_text(run.where)}: {as_text(run.status)}"
    if "device" in run.training and not run.is_pool:
        how = "a probe, C = {best_C:g}" if "best_C" in run.training else "{epochs} epochs"
        line += f" ({how}, {{seconds:.0f}} s, ".format(**run.training)
        line += f"{as_text(run.training['device'])})"
    if run.error:
        line += f". {as_text(run.error)} ({linked('error.txt', folder, run.path / 'error.txt')})"
    pages = [linked(title, folder, run.path / page) for title, page in run.pages.items()]
    return " · ".join([line, *pages])


def runs_note(runs: "Sequence[RunResult]") -> str:
    """Count the runs that are finished: trained and evaluated; and the pools made of them."""
    pools = [run for run in runs if run.is_pool]
    single = [run for run in runs if not run.is_pool]
    done, made = (sum(run.is_evaluated for run in some) for some in (single, pools))
    text = f"{done} of {len(single)} runs finished"
    return text + (f"; {made} of {len(pools)} pools made of them." if pools else ".")


def review_note(review: pd.DataFrame, pool: "RunResult | None", folder: Path) -> str:
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
        f"All of them: {linked('review.csv', folder, 'review.csv')}."
    )


def review_links(review: pd.DataFrame, pool: "RunResult", folder: Path) -> str:
    """Link the images of `review.csv` to their cases in the pool's browser."""
    page, names = pool.path / CASES_FILE, review["image_id"]
    return f"Their cases: {' · '.join(linked(as_text(n), folder, page, n) for n in names)}."
