"""Which images a reader is shown: chosen by rule, not by taste."""

import pandas as pd

from btxrd import CLASS_NAMES
from btxrd.data.table import SUBTYPE_COLUMNS, VIEW_COLUMNS, one_hot_name
from btxrd.predictions import probabilities

__all__ = ["KINDS", "case_titles", "gallery_cases", "ranked_cases"]

KINDS = {
    "true positive": "most confident first",
    "false positive": "most confident first",
    "false negative": "least probability of their true class first",
}
"""The kinds of cases of a class, and the order in which they are shown."""


def ranked_cases(predictions: pd.DataFrame, class_name: str, kind: str) -> pd.DataFrame:
    """Return one kind of case of one class, in the order of `KINDS`.

    Args:
        predictions: rows of `predictions.csv`.
        class_name: the class in question.
        kind: `true positive`, `false positive` or `false negative`.

    Returns:
        The rows in question, with a column `predicted` (0, 1, 2).

    Raises:
        ValueError: the class or the kind is unknown.
    """
    if class_name not in CLASS_NAMES or kind not in KINDS:
        raise ValueError(
            f"no cases of kind {kind!r} of {class_name!r}; kinds: {', '.join(KINDS)}; "
            f"classes: {', '.join(CLASS_NAMES)}"
        )
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

    Args:
        predictions: rows of `predictions.csv`.
        count: at most so many of each.

    Returns:
        The rows in question with their index, class by class, and the columns `predicted` (0, 1,
        2), `class_name` and `kind`. An image that is a case of two classes stands in both.
    """
    return pd.concat(
        ranked_cases(predictions, name, kind).head(count).assign(class_name=name, kind=kind)
        for name in CLASS_NAMES
        for kind in KINDS
    )


def case_titles(cases: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Write above each case what it is: kind, probabilities, subtype, age and view.

    Args:
        cases: as `gallery_cases` returns them.
        table: as `read_table` returns it; holds the cases' images.

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
