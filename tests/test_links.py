"""Links are right where a notebook's output is read: in its page, and in JupyterLab."""

import pytest

from btxrd.report.links import link_to, linked
from btxrd.session import NOTEBOOK_VARIABLE


@pytest.fixture
def study(tmp_path):
    for name in ("eda.html", "runs/E 1/cases.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("eda.html", "eda.html"),
        ("runs/E 1/cases.html", "runs/E%201/cases.html"),
        ("splits.html", None),
        ("runs", None),
    ],
)
@pytest.mark.parametrize("reader", ["page", "JupyterLab"])
def test_a_link_counts_from_where_the_notebook_is_read(study, monkeypatch, reader, place, found):
    notebooks = study / "clone" / "notebooks"
    notebooks.mkdir(parents=True)
    monkeypatch.chdir(notebooks)
    if reader == "page":
        monkeypatch.setenv(NOTEBOOK_VARIABLE, str(study))
    else:
        monkeypatch.delenv(NOTEBOOK_VARIABLE, raising=False)
    up = "" if reader == "page" else "../../"
    assert link_to(study, place) == (found and up + found)


def test_only_links_to_what_is_there_are_links(study, monkeypatch):
    monkeypatch.setenv(NOTEBOOK_VARIABLE, str(study / "runs"))
    assert linked("data", study, "eda.html") == "[data](../eda.html)"
    assert linked("splits", study, "splits.html") == "splits"
    case = linked("case", study, "runs/E 1/cases.html", "a b#.jpeg")
    assert case == "[case](E%201/cases.html#a%20b%23.jpeg)"
