"""The answer at a glance: four figures beside their references, and what else explains them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from btxrd import CLASS_NAMES
from btxrd.evaluation.comparison import strongest_shortcut
from btxrd.evaluation.intervals import Bootstrap
from btxrd.evaluation.localisation import SOURCES
from btxrd.report.fragments import render
from btxrd.report.tables import TITLES, format_interval
from btxrd.strategies import ANSWERS, OTHER_CENTERS, SPLITS

__all__ = ["scorecard"]

EVEN = 0.5
"""The AUC of chance."""
GUESS = 1 / len(CLASS_NAMES)
"""The sensitivity, and the balanced accuracy, of guessing one of the classes."""
FLOOR = 0.4
"""Where the axis of an AUC begins, unless something lies below."""

CARDS = {
    "macro_auc": ("how well the classes are told apart", EVEN),
    "sensitivity/Malignant": ("share of malignant tumours found", GUESS),
    "balanced_accuracy": ("share called right, classes alike", GUESS),
}
"""Metric → what it says in plain words, and what chance gives."""

SAMPLES = {
    "image": " dealt by image, whatever their group",
    "group": ", each tested by a network that saw nothing of its group",
}
"""Test images in words, by what a split keeps apart."""

REFERENCES = ("chance", "center prior")
"""The references, of `SOURCES`, that the peaks of heat maps are held against."""

LEAKAGE = "#What-leakage-and-shortcuts-could-have-bought"
CENTERS = "#Does-it-hold-in-another-center?"
RUNS = "#Every-run"
"""Sections of notebook 06."""


def scorecard(
    best: str | None,
    split: str | None,
    bootstrap: Bootstrap,
    *,
    figures: pd.DataFrame,
    gaps: pd.DataFrame,
    leakage: pd.DataFrame,
    shortcuts: pd.DataFrame,
    maps: pd.DataFrame,
    published: pd.DataFrame,
    about: str = "",
    caution: str = "",
) -> str:
    """Lay out the answer, four cards, and what else could explain them, as a fragment of HTML.

    A card has a test figure with its interval and, on the same axis, chance and what was measured
    under the same protocol: the strongest shortcut, and what others have published.

    Args:
        best, split: as `btxrd.evaluation.comparison.answer` returns them.
        figures, gaps: of `compare_runs`.
        leakage, shortcuts: `leakage_table` and `shortcut_table`.
        maps: `localisation_table` of the answer's `map_scores`; no rows where there are none.
        published: rows of `PUBLISHED_FILE`; none where the figures are of phantoms.
        about: which data, and how many runs.
        caution: stands above everything.
    """
    facts = {"best": best, "about": about, "caution": caution, "splits": ", ".join(ANSWERS)}
    if best is not None and split is not None:
        tested = (figures["part"] == "test") & (figures["seeds"] != "ensemble")
        evaluated = figures[tested].dropna(subset="n")
        own = evaluated[evaluated["experiment"] == best].set_index("split")
        blind = strongest_shortcut(shortcuts, SPLITS[split].keeps_apart)
        away = next((name for name in OTHER_CENTERS if name in own.index), None)
        facts |= {
            "split": split,
            "sample": SAMPLES[SPLITS[split].keeps_apart],
            "level": bootstrap.name,
            "n": own.loc[split, "n"],
            "trainings": int(own.loc[split, "seeds"]),
            "candidates": (evaluated["split"] == split).sum(),
            "cards": _cards(own, split, away, blind, published),
            "doubts": [
                _siblings(leakage[leakage["strategy"] == split], own.loc[split, "macro_auc"]),
                _shortcut(blind, own.loc[split]),
                _maps(maps),
                _elsewhere(own, split, away, gaps[gaps["experiment"] == best]),
            ],
        }
    return render("scorecard.html.j2", **facts)


@dataclass(frozen=True)
class Mark:
    """Something on the axis of a card: one estimate with its interval, or several without."""

    label: str
    estimates: Sequence[float]
    low: float = np.nan
    high: float = np.nan

    @property
    def text(self) -> str:
        """The number, as it stands beside the mark."""
        if len(self.estimates) > 1:
            return f"{min(self.estimates):.3f} to {max(self.estimates):.3f}"
        if np.isnan(self.low):
            return f"{self.estimates[0]:.3f}"
        return format_interval(self.estimates[0], self.low, self.high)


def _reached(row: pd.Series, metric: str, label: str) -> Mark:
    """Take a metric from a row of `figures.csv`."""
    return Mark(label, [row[metric]], row[f"{metric}_low"], row[f"{metric}_high"])


def _others(published: pd.DataFrame, held_out: str, metric: str) -> list[Mark]:
    """Put what others have published under a protocol into one mark, if there is any."""
    alike = published.loc[published["held_out"] == held_out, metric].dropna()
    return [Mark("published", alike.tolist())] if len(alike) else []


def _cards(
    own: pd.DataFrame,
    split: str,
    away: str | None,
    blind: pd.Series | None,
    published: pd.DataFrame,
) -> list[dict[str, Any]]:
    """Return what the four cards show; `own` are rows of `figures.csv`, by split."""
    cards = []
    for metric, (plain, chance) in CARDS.items():
        marks = [_reached(own.loc[split], metric, "this")]
        if metric == "macro_auc" and blind is not None:
            seen = [blind["estimate"]], blind["low"], blind["high"]
            marks.append(Mark("best shortcut", *seen))
        marks += _others(published, SPLITS[split].keeps_apart, metric)
        cards.append({"title": TITLES[metric], "plain": plain} | _axis(marks, chance))
    elsewhere = {"title": "Other centers", "plain": "macro AUC where not trained"}
    if away is None:
        return [*cards, elsewhere]
    marks = [
        _reached(own.loc[away], "macro_auc", "this"),
        _reached(own.loc[split], "macro_auc", split),
        *_others(published, SPLITS[away].keeps_apart, "macro_auc"),
    ]
    return [*cards, elsewhere | _axis(marks, EVEN)]


def _axis(marks: list[Mark], chance: float) -> dict[str, Any]:
    """Place marks on an axis: `x`, `left` and `right` in per cent of its length."""
    values = [[*mark.estimates, mark.low, mark.high] for mark in marks]
    floor = FLOOR if chance == EVEN and np.nanmin(np.concatenate(values)) >= FLOOR else 0.0

    def place(value: float) -> float:
        return round(100 * (value - floor) / (1 - floor), 2)

    rows = [
        {
            "label": mark.label,
            "text": mark.text,
            "dots": [place(value) for value in mark.estimates],
            "ends": None if np.isnan(mark.low) else (place(mark.low), place(mark.high)),
        }
        for mark in marks
    ]
    estimate, _, interval = rows[0]["text"].partition(" ")
    return {
        "estimate": estimate,
        "interval": interval,
        "marks": rows,
        "floor": f"{floor:g}",
        "chance": f"{chance:.2g}",
        "chance_at": place(chance),
    }


def _siblings(leakage: pd.DataFrame, estimate: float) -> dict[str, Any]:
    """Say whether images of the same study were trained on; of the rows of one split."""
    doubt = {"question": "As good on new patients?", "link": LEAKAGE, "more": "leakage"}
    share = leakage.loc[leakage["part"] == "test", "sibling_share"]
    if share.empty:
        return doubt | {"verdict": "Not known", "text": "Siblings in training were not counted."}
    if share.iloc[0] > 0:
        return doubt | {
            "verdict": f"Not known: {estimate:.3f} is an upper bound",
            "text": f"{share.iloc[0]:.0%} of the test images have a sibling, an image of the same "
            "study, in training: part of it is memory.",
        }
    return doubt | {
        "fine": True,
        "verdict": "Yes, as far as a study is a patient",
        "text": "0% of the test images have a sibling, an image of the same study, in training. "
        "The data name no patients.",
    }


def _shortcut(blind: pd.Series | None, inside: pd.Series) -> dict[str, Any]:
    """Say how far one gets without seeing a lesion."""
    doubt = {"question": "Could it be a shortcut?", "link": LEAKAGE, "more": "shortcuts"}
    if blind is None:
        return doubt | {"verdict": "Not known", "text": "No shortcut was measured."}
    found = format_interval(blind["estimate"], blind["low"], blind["high"])
    text = (
        f"Of those that see no lesion, the strongest ({blind['sees']}) has a macro AUC of {found}"
    )
    if inside["macro_auc"] <= blind["estimate"]:
        return doubt | {"verdict": "Yes: one does as well", "text": f"{text}."}
    if inside["macro_auc_low"] > blind["high"]:
        text += ": the intervals lie apart."
        return doubt | {"fine": True, "verdict": "Not by those tried", "text": text}
    return doubt | {"verdict": "Not excluded", "text": f"{text}: the intervals do not lie apart."}


def _maps(maps: pd.DataFrame) -> dict[str, Any]:
    """Say whether heat maps point at lesions, by their peaks."""
    doubt = {"question": "Does it look at the lesion?", "link": RUNS, "more": "heat maps"}
    pointing = maps[maps["score"] == "pointing"] if len(maps) else maps
    if "network" not in set(pointing.get("source", ())):
        return doubt | {"verdict": "Not known", "text": "There are no heat maps of it."}
    peaks = pointing[pointing["reference"] == ""].set_index("source")
    leads = pointing[pointing["source"] == "network"].set_index("reference")
    own = peaks.loc["network"]
    references = [name for name in REFERENCES if name in peaks.index]
    beaten = [name for name in references if leads.loc[name, "low"] > 0]
    against = " and ".join(
        f"{peaks.loc[name, 'estimate']:.0%} {SOURCES[name].words}" for name in references
    )
    sure = "" if np.isnan(own["low"]) else f" ({own['low']:.0%}–{own['high']:.0%})"
    return doubt | {
        "fine": beaten == references,
        "verdict": f"More than {' and '.join(beaten)}"
        if beaten
        else f"Not more than {' or '.join(references)}",
        "text": f"The heat map peaks inside the lesion in {own['estimate']:.0%}{sure} of "
        f"{own['n']} annotated test tumours, against {against}.",
    }


def _elsewhere(
    own: pd.DataFrame, split: str, away: str | None, gaps: pd.DataFrame
) -> dict[str, Any]:
    """Say what is lost in other centers; `gaps` are the experiment's rows of `gaps.csv`."""
    doubt = {"question": "Does it hold in other hospitals?", "link": CENTERS, "more": "centers"}
    if away is None:
        return doubt | {"verdict": "Not tested", "text": "It was run on no split by center."}
    inside, outside = own.loc[split, "macro_auc"], own.loc[away, "macro_auc"]
    lost = inside - outside
    text = (
        f"In centers that it was not trained on its macro AUC is {outside:.3f}, on {split} "
        f"{inside:.3f}."
    )
    same = (gaps["inside_split"] == split) & (gaps["outside_split"] == away)
    chance, gap = "", gaps[same & (gaps["metric"] == "macro_auc")].dropna(subset="low")
    if len(gap):
        low, high = gap[["low", "high"]].iloc[0]
        text += f" The interval of the difference is {low:+.3f} to {high:+.3f}"
        chance = ", perhaps by chance" if low <= 0 <= high else ""
        text += "; 0 is in it." if chance else "."
    verdict = f"{lost:.3f} lower{chance}" if lost > 0 else "Nothing is lost there"
    return doubt | {"fine": lost <= 0, "verdict": verdict, "text": text}
