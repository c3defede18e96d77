"""What the reports say in words."""

from typing import Any

import pandas as pd

from btxrd import CLASS_NAMES, RESEARCH_ONLY, __version__
from btxrd.data.table import SUBTYPE_COLUMNS, VIEW_COLUMNS, one_hot_name
from btxrd.evaluation.localisation import SOURCES
from btxrd.evaluation.runs import COMPARED, RunResult
from btxrd.predictions import probabilities
from btxrd.provenance import code_version, data_name, now, package_versions
from btxrd.report.tables import TITLES, format_interval
from btxrd.stages import RUN_STAGES

__all__ = [
    "case_titles",
    "localisation_finding",
    "provenance_note",
    "recommendation",
    "run_line",
]


def provenance_note(dataset_root: str, **facts: Any) -> str:
    """Return the Markdown that ends every report: research only, which data, how it was made.

    `facts` are further lines, name and value.
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
    lines = [f"- **{name.replace('_', ' ')}:** {value}" for name, value in rows.items()]
    return "\n".join([f"> **{RESEARCH_ONLY}**", "", *lines])


def recommendation(
    best: str | None,
    runs: list[RunResult],
    leakage: pd.DataFrame,
    shortcuts: pd.DataFrame,
    gaps: pd.DataFrame,
) -> str:
    """Say which experiment is recommended, how good, how sure, and what else could explain it.

    `best` is what `recommend` returns, `leakage` and `shortcuts` are `leakage_table` and
    `shortcut_table`, `gaps` is `gaps.csv` of `compare_runs`.
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
        figure = format_interval(row.difference, row.low, row.high, signed=True)
        includes = "includes" if row.low <= 0 <= row.high else "does not include"
        sentences.append(f"That is a gap of {figure}; the interval {includes} 0.")
    siblings = leakage.query("strategy == 'stratified' and part == 'test'")["sibling_share"]
    sentences.append(
        f"{siblings.iloc[0]:.0%} of the stratified test images have a sibling in train, so its "
        "test figures are an upper bound."
    )
    blind = shortcuts.query("split == 'grouped' and shortcut != 'sites'")
    strongest = blind.sort_values("estimate", ascending=False).iloc[0]
    sentences.append(
        f"The strongest baseline that sees no lesion ({strongest['sees']}) reaches a macro AUC of "
        f"{strongest['estimate']:.3f} by study."
    )
    return " ".join(sentences)


def run_line(run: RunResult) -> str:
    """Return one run's line of Markdown: its state, and links to its pages that exist."""
    line = f"- **{run.experiment}**, {run.split}, seed {run.seed}: {run.status}"
    if run.error:
        return f"{line}. {run.error} ([error.txt]({run.path}/error.txt))"
    if run.training:
        how = "a probe, C = {best_C:g}" if "best_C" in run.training else "{epochs} epochs"
        line += f" ({how}, {{seconds:.0f}} s, {{device}})".format(**run.training)
    links = (f"[{stage.title}]({run.path}/{stage.page})" for stage in RUN_STAGES.values())
    return f"{line} · {' · '.join(links)}"


def localisation_finding(table: pd.DataFrame) -> str:
    """Say in Markdown what a `localisation_table` of all images shows.

    The network is called better (or worse) than a reference in a score where the whole interval
    of its paired lead lies above (or below) 0. A score that is the same for all images, such as a
    peak that never hits, does not vary in the bootstrap and is not called either.
    """
    references = [source for source in SOURCES if source in set(table["source"]) - {"network"}]
    cells = {
        (row.source, row.score): format_interval(row.estimate, row.low, row.high)
        for row in table.itertuples()
    }
    figures = [
        f"{TITLES[score]} **{cells['network', score]}** against "
        + ", ".join(f"{source} {cells[source, score]}" for source in references)
        for score in ("iou", "pointing")
        if ("network", score) in cells
    ]
    own = table[table["source"] == "network"]
    varied = set(own["score"][own["low"] < own["high"]])
    verdicts = [
        f"against {source} {_verdict(table[table['source'] == f'network − {source}'], varied)}"
        for source in references
    ]
    n, groups = table[["n", "groups"]].iloc[0]
    return (
        f"On {n} annotated test tumours of {groups} studies: {'; '.join(figures)}. "
        f"Paired image by image, the network is {'; '.join(verdicts)}."
    )


def _verdict(leads: pd.DataFrame, varied: set[str]) -> str:
    """Name the scores whose lead has an interval wholly on one side of 0."""
    called = leads["score"].isin(varied)
    sides = {"better": called & (leads["low"] > 0), "worse": called & (leads["high"] < 0)}
    said = [
        f"**{side}** in {found.sum()} of {len(leads)} scores "
        f"({', '.join(leads['score'][found].map(TITLES))})"
        for side, found in sides.items()
        if found.any()
    ]
    return " and ".join(said) if said else f"**no different** in any of {len(leads)} scores"


def case_titles(cases: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Write above each case what it is: kind, probabilities, subtype, age and view.

    Args:
        cases: as `gallery_cases` returns them.
        table: as `read_table` returns it.

    Returns:
        One text a case, in three pieces whose inner spaces do not break: wrapped to some 34
        characters, each piece gets a line. A false positive is named with its true class, a
        false negative with the predicted one; a normal image has no subtype.

    Raises:
        KeyError: the table lacks an image.
    """
    rows = table.set_index("image_id").loc[cases["image_id"]]
    facts = zip(
        cases["kind"],
        cases["label"],
        cases["predicted"],
        probabilities(cases),
        one_hot_name(rows, SUBTYPE_COLUMNS, "no tumour"),
        rows["age"],
        one_hot_name(rows, VIEW_COLUMNS, "no view"),
        strict=True,
    )
    titles = []
    for kind, label, predicted, shares, subtype, age, view in facts:
        other = {
            "true positive": "",
            "false positive": f": is {CLASS_NAMES[label]}",
            "false negative": f": called {CLASS_NAMES[predicted]}",
        }[kind]
        chances = ", ".join(
            f"{name[0]} {share:.2f}" for name, share in zip(CLASS_NAMES, shares, strict=True)
        )
        pieces = [f"{kind}{other}", f"({chances}),", f"{subtype}, {age:.0f} y, {view}"]
        titles.append(" ".join(piece.replace(" ", "\N{NO-BREAK SPACE}") for piece in pieces))
    return titles
