"""The sentences of notebook 05: what heat maps find, and the titles of its cases."""

from pathlib import Path

import pandas as pd

from btxrd import CLASS_NAMES
from btxrd.data.table import SUBTYPE_COLUMNS, VIEW_COLUMNS, one_hot_name
from btxrd.evaluation.localisation import SOURCES
from btxrd.report.tables import TITLES, format_interval

__all__ = ["case_titles", "localisation_finding"]


def localisation_finding(table: pd.DataFrame) -> str:
    """Say in Markdown what a `localisation_table` of all images shows.

    The network is called better (or worse) than a reference in a score where the whole interval
    of its paired lead lies above (or below) 0; a lead without an interval is not called either.
    """
    n, groups = table[["n", "groups"]].iloc[0]
    where = f"On {n} annotated test tumours of {groups} patient groups"
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
    """Return what stands above each case: id, classes, probabilities, subtype, age and view.

    `cases` are those of `gallery_cases`, `table` is that of `read_table`. A text has three pieces
    whose inner spaces do not break: each gets a line where the next does not fit.
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
