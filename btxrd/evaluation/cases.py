"""The images that a reader is shown, chosen by rule and not by taste."""

import pandas as pd

from btxrd import CLASS_NAMES
from btxrd.predictions import probabilities

__all__ = ["KINDS", "gallery_cases", "ranked_cases"]

KINDS = {
    "true positive": "most confident first",
    "false positive": "most confident first",
    "false negative": "least probability of their true class first",
}
"""The kinds of cases of a class, and the order in which they are shown."""


def ranked_cases(predictions: pd.DataFrame, class_name: str, kind: str) -> pd.DataFrame:
    """Return one of `KINDS` of cases of a class, in its order, with the class `predicted`."""
    wanted = CLASS_NAMES.index(class_name)
    frame = predictions.assign(predicted=probabilities(predictions).argmax(axis=1))
    is_class, called = frame["label"] == wanted, frame["predicted"] == wanted
    chosen = {
        "true positive": is_class & called,
        "false positive": ~is_class & called,
        "false negative": is_class & ~called,
    }[kind]
    ascending = kind == "false negative"
    return frame[chosen].sort_values(f"p_{class_name}", ascending=ascending, kind="stable")


def gallery_cases(predictions: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the first `count` cases of every kind and class, in the order of `KINDS`.

    They keep their index and have the columns `predicted` (0, 1, 2), `class_name` and `kind`. An
    image that is a case of two classes stands in both.
    """
    return pd.concat(
        ranked_cases(predictions, name, kind).head(count).assign(class_name=name, kind=kind)
        for name in CLASS_NAMES
        for kind in KINDS
    )
