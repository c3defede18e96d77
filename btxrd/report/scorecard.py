"""The answer at a glance: its figures beside what they are held against, and four doubts."""

from collections.abc import Sequence

import pandas as pd

from btxrd.report.fragments import render
from btxrd.report.tables import as_table, format_interval, percent

__all__ = ["scorecard"]

HEADLINES = ("macro_auc", "sensitivity/Malignant", "balanced_accuracy")
GUESSING = "Guessing gives a macro AUC of 0.5, a sensitivity and a balanced accuracy of 0.333"
BLIND = {"chance": "by chance", "center prior": "by betting on the middle"}
"""Maps of no network, which the peaks of heat maps are held against."""

Doubt = tuple[str, str, bool]
"""The verdict, why, and whether it speaks for the answer."""


def scorecard(
    best: str | None,
    split: str | None,
    level: float,
    *,
    figures: pd.DataFrame,
    gaps: pd.DataFrame,
    leakage: pd.DataFrame,
    shortcut: pd.Series | None,
    maps: pd.DataFrame,
    centers: Sequence[str],
    about: str = "",
    caution: str = "",
) -> str:
    """Lay out the answer, its figures, and what else could explain them, as a fragment of HTML.

    Args:
        best, split: as `btxrd.evaluation.comparison.answer` returns them.
        figures, gaps: of `compare_runs`.
        leakage: as `leakage_table` returns it.
        shortcut: the strongest of those that see no lesion, measured under the split's protocol.
        maps: `localisation_table` of the answer's `map_scores`; no rows where there are none.
        centers: the splits that test in centers not trained in, the preferred one first.
        about: which data, and how many runs.
        caution: stands above everything.
    """
    facts = {"best": best, "split": split, "about": about, "caution": caution}
    if best is not None and split is not None:
        tested = (figures["part"] == "test") & (figures["seeds"] != "ensemble")
        evaluated = figures[tested].dropna(subset="n")
        own = evaluated[evaluated["experiment"] == best].set_index("split")
        inside = own.loc[split]
        away = next((own.loc[name] for name in centers if name in own.index), None)
        seen = leakage[(leakage["strategy"] == split) & (leakage["part"] == "test")]
        gaps = gaps[(gaps["experiment"] == best) & (gaps["metric"] == "macro_auc")]
        doubts = {
            "As good on new patients?": ("leakage", *_siblings(seen["sibling_share"], inside)),
            "Could it be a shortcut?": ("shortcuts", *_shortcut(shortcut, inside)),
            "Does it look at the lesion?": ("runs", *_maps(maps)),
            "Does it hold in other hospitals?": ("centers", *_elsewhere(inside, away, gaps)),
        }
        columns = [f"{metric}{end}" for metric in HEADLINES for end in ("", "_low", "_high")]
        shown = own.loc[[split, *([] if away is None else [away.name])], columns].reset_index()
        facts |= {
            "answer": format_interval(*inside[columns[:3]]),
            "n": inside["n"],
            "trainings": int(inside["seeds"]),
            "candidates": (evaluated["split"] == split).sum(),
            "level": percent(level),
            "table": as_table(shown, titles={"split": "Tested on"}, caption=GUESSING).to_html(),
            "doubts": doubts,
        }
    return render("scorecard.html.j2", **facts)


def _siblings(shares: pd.Series, inside: pd.Series) -> Doubt:
    """Judge by how many test images have an image of the same group in training."""
    if shares.empty:
        return "Not known", "Siblings in training were not counted.", False
    share = shares.iloc[0]
    text = f"{share:.0%} of the test images have a sibling, an image of the same group, in training"
    if share > 0:
        bound = f"{inside['macro_auc']:.3f} is an upper bound"
        return f"Not known: {bound}", f"{text}: part of it is memory.", False
    return "Yes, as far as a group is a patient", f"{text}. The data name no patients.", True


def _shortcut(shortcut: pd.Series | None, inside: pd.Series) -> Doubt:
    """Judge by how far one gets without seeing a lesion."""
    if shortcut is None:
        return "Not known", "No shortcut was measured.", False
    found = format_interval(*shortcut[["estimate", "low", "high"]])
    text = f"The strongest that sees no lesion ({shortcut['sees']}) has a macro AUC of {found}"
    if inside["macro_auc"] <= shortcut["estimate"]:
        return "Yes: one does as well", f"{text}.", False
    if inside["macro_auc_low"] > shortcut["high"]:
        return "Not by those tried", f"{text}: the intervals lie apart.", True
    return "Not excluded", f"{text}: the intervals do not lie apart.", False


def _maps(maps: pd.DataFrame) -> Doubt:
    """Judge by how many peaks of heat maps lie in the lesion."""
    pointing = maps[maps["score"] == "pointing"] if len(maps) else maps
    if "network" not in set(pointing.get("source", ())):
        return "Not known", "There are no heat maps of it.", False
    peaks = pointing[pointing["reference"] == ""].set_index("source")
    leads = pointing[pointing["source"] == "network"].set_index("reference")["low"]
    own, there = peaks.loc["network"], [name for name in BLIND if name in peaks.index]
    beaten = [name for name in there if leads[name] > 0]
    against = " and ".join(f"{peaks.loc[name, 'estimate']:.0%} {BLIND[name]}" for name in there)
    sure = "" if pd.isna(own["low"]) else f" ({own['low']:.0%}–{own['high']:.0%})"
    more = f"More than {' and '.join(beaten)}"
    text = (
        f"The heat map peaks inside the lesion in {own['estimate']:.0%}{sure} of {own['n']} "
        f"annotated test tumours, against {against}."
    )
    return more if beaten else f"Not more than {' or '.join(there)}", text, beaten == there


def _elsewhere(inside: pd.Series, away: pd.Series | None, gaps: pd.DataFrame) -> Doubt:
    """Judge by what is lost in centers that it was not trained on."""
    if away is None:
        return "Not tested", "It was run on no split that leaves a center out.", False
    lost = inside["macro_auc"] - away["macro_auc"]
    text = (
        f"In centers that it was not trained on its macro AUC is {away['macro_auc']:.3f}, on "
        f"{inside.name} {inside['macro_auc']:.3f}."
    )
    same = (gaps["inside_split"] == inside.name) & (gaps["outside_split"] == away.name)
    for gap in gaps[same].dropna(subset="low").itertuples():
        text += f" The interval of the difference is {gap.low:+.3f} to {gap.high:+.3f}."
        if lost > 0 and gap.low <= 0 <= gap.high:
            return f"{lost:.3f} lower, perhaps by chance", text, False
    return f"{lost:.3f} lower" if lost > 0 else "Nothing is lost there", text, lost <= 0
