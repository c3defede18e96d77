"""Links to a study's files, from wherever a notebook's output is read."""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from btxrd.session import NOTEBOOK_VARIABLE
from btxrd.stages import RUNS_SCRIPT, STUDY_FILE, STUDY_STAGES

__all__ = ["link_to", "place_in_study", "with_links"]

LINK = re.compile(r"\[(?P<text>(?:\\.|[^\]\\])+)\]\((?P<place>[^):#][^):]*)\)|\\.")
"""A link of Markdown without a scheme, or an escaped sign, which begins and ends no link."""


def link_to(folder: str | Path, place: str) -> str | None:
    """Return the address of a file, as a notebook's output links to it; None without such a file.

    It counts from where the executed notebook and its page will stand, or else, as in JupyterLab,
    from where the notebook runs.

    Args:
        place: the address of the file, relative to `folder`, its names percent-encoded; `#…` after
            it names a place in the file.
    """
    file, hash_sign, anchor = place.partition("#")
    file = unquote(file)
    if not Path(folder, file).is_file():
        return None
    base = os.path.relpath(folder, os.environ.get(NOTEBOOK_VARIABLE, os.curdir))
    return f"{quote(Path(base, file).as_posix())}{hash_sign}{quote(unquote(anchor))}"


def with_links(text: str, folder: str | Path) -> str:
    """Turn the links of a Markdown text, relative to `folder`, into those of `link_to`.

    What links to a file that is not there becomes plain text; addresses with a scheme stay.
    """

    def pointed(link: re.Match[str]) -> str:
        if link["place"] is None:
            return link[0]
        target = link_to(folder, link["place"])
        return link["text"] if target is None else f"[{link['text']}]({target})"

    return LINK.sub(pointed, text)


def place_in_study(page: str | Path) -> dict[str, Any] | None:
    """Say where a page is in its study, which is the nearest folder above with a `study.json`.

    Returns:
        What the navigation is made of: `up`, the way to the study's folder; `page`, the way back;
        the `stages` that are done once a study, the comparison first; `script`, which lists the
        runs. None where there is no study.
    """
    html = Path(page).absolute()
    folder = next((above for above in html.parents if (above / STUDY_FILE).is_file()), None)
    if folder is None:
        return None
    place = html.relative_to(folder)
    *others, home = STUDY_STAGES.values()
    return {
        "up": "../" * (len(place.parts) - 1),
        "page": place.as_posix(),
        "stages": [home, *others],
        "script": RUNS_SCRIPT,
    }
