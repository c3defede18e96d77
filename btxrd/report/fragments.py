"""What the report's templates are rendered with: pages, and the pieces of HTML that cells show."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

__all__ = ["TEMPLATES", "render"]

TEMPLATES = Path(__file__).with_name("templates")

FOLDERS = (TEMPLATES, *(TEMPLATES / name for name in ("report", "scorecard", "tables")))
"""A template names those in its own folder, and the pages' shared ones, without their folder."""


def render(template: str, beside: Path = TEMPLATES, **values: Any) -> str:
    """Return a template as HTML; texts in it are escaped.

    Args:
        template: its name.
        beside: the folder that it is looked for in before `btxrd/report/templates`.
        values: what it is rendered with.

    Raises:
        jinja2.TemplateNotFound: there is none of this name.

    >>> values = {"caption": None, "head": {"a < b": "text"}, "rows": [], "is_tall": False}
    >>> "a &lt; b" in render("table.html.j2", **values)
    True
    """
    return _environment(beside).get_template(template).render(values)


@cache
def _environment(beside: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([beside, *FOLDERS]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    return environment
