"""What the report's templates are rendered with: pages, and the pieces of HTML that cells show."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

__all__ = ["TEMPLATES", "render"]

TEMPLATES = Path(__file__).with_name("templates")

_ENVIRONMENT = Environment(
    # A template names those in its own folder, and the pages' shared ones, without their folder.
    loader=FileSystemLoader(
        [TEMPLATES, *(TEMPLATES / name for name in ("cases", "report", "scorecard", "tables"))]
    ),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}


def render(template: str, **values: Any) -> str:
    """Return a template of `btxrd/report/templates` as HTML; texts in it are escaped.

    Raises:
        jinja2.TemplateNotFound: there is none of this name.

    >>> values = {"caption": None, "head": {"a < b": "text"}, "rows": [], "is_tall": False}
    >>> "a &lt; b" in render("table.html.j2", **values)
    True
    """
    return _ENVIRONMENT.get_template(template).render(values)
