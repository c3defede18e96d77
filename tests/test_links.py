"""Links are right where a notebook's output is read: in its page, and in JupyterLab."""

import pytest

from btxrd.report.links import link_to, with_links
from btxrd.report.names import as_text
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
        ("runs/E 1/cases.html#a b.jpeg", "runs/E%201/cases.html#a%20b.jpeg"),
        ("runs/E%201/cases.html#a%23b.jpeg", "runs/E%201/cases.html#a%23b.jpeg"),
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


def test_only_links_to_what_is_there_stay_links(study, monkeypatch):
    monkeypatch.setenv(NOTEBOOK_VARIABLE, str(study / "runs"))
    text = "[data](eda.html), [splits](splits.html), [DataTables](https://datatables.net), [x](#x)"
    expected = "[data](../eda.html), splits, [DataTables](https://datatables.net), [x](#x)"
    assert with_links(text, study) == expected


def test_a_name_makes_no_link_and_breaks_none(study, monkeypatch):
    monkeypatch.setenv(NOTEBOOK_VARIABLE, str(study))
    names = f"{as_text('[x](splits.html)')} [{as_text('a]b')}](eda.html) {as_text('[y](eda.html)')}"
    assert with_links(names, study) == names
    assert with_links(f"[{as_text('a]b')}](splits.html)", study) == as_text("a]b")
