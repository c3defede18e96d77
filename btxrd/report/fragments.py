"""Templates of pages, and of the pieces of HTML that cells show."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

__all__ = ["TEMPLATES", "render"]

TEMPLATES = Path(__file__).with_name("templates")
"""Templates name each other without their folder."""


def render(template: str, beside: Path = TEMPLATES, **values: Any) -> str:
    """Return a template of `beside`, or else of `TEMPLATES`, as HTML; texts in it are escaped.


    >>> "a &lt; b" in render("table.html.j2", caption="a < b", head=[], rows=[])
    True
    """
    return _environment(beside).get_template(template).render(values)


@cache
def _environment(beside: Path) -> Environment:
    folders = [beside, *sorted(TEMPLATES.iterdir())]
    loader = FileSystemLoader(folders)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    return environment
