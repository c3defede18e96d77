"""Links to a study's files, from wherever a notebook's output is read."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from btxrd.report.names import as_text
from btxrd.session import NOTEBOOK_VARIABLE
from btxrd.stages import CASES_FILE, RUNS_SCRIPT, STUDY_FILE, STUDY_STAGES

__all__ = ["case_links", "link_to", "linked", "place_in_study"]


def link_to(folder: str | Path, place: str | Path) -> str | None:
    """Return the address of a file, as a notebook's output links to it; None without such a file.

    It counts from where the executed notebook and its page will stand, or else, as in JupyterLab,
    from where the notebook runs. `place` is relative to `folder`.
    """
    file = Path(folder, place)
    if not file.is_file():
        return None
    return quote(os.path.relpath(file, os.environ.get(NOTEBOOK_VARIABLE, os.curdir)))


def linked(text: str, folder: str | Path, place: str | Path, anchor: str = "") -> str:
    """Return Markdown as a link to a file, or a place in it, or as it is without such a file."""
    address = link_to(folder, place)
    if address is None:
        return text
    return f"[{text}]({address}#{quote(anchor)})" if anchor else f"[{text}]({address})"


def case_links(folder: Path, image_ids: Iterable[str]) -> str:
    """Return a line of Markdown: links to some cases of a run, and to all of them.

    Where notebook 04 has not made the page yet, it is the names of the images alone.
    """
    texts = {name: as_text(Path(name).stem) for name in image_ids}
    if link_to(folder, CASES_FILE) is None:
        return ", ".join(texts.values())
    links = [linked(text, folder, CASES_FILE, name) for name, text in texts.items()]
    return f"Open {' · '.join([*links, linked('all cases', folder, CASES_FILE)])}"


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
