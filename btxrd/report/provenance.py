"""The Markdown that ends every notebook: research only, which data, how it was made."""

from typing import Any

import pandas as pd

from btxrd import RESEARCH_ONLY, __version__
from btxrd.provenance import code_version, data_name, now, package_versions
from btxrd.report.names import as_text

__all__ = ["provenance_note"]


def provenance_note(dataset_root: str, **facts: Any) -> str:
    """Return Markdown: research only, which data, code and packages, when, and further `facts`."""
    code = code_version()
    commit = f", commit {code['commit'][:10]}" if code["commit"] else ""
    rows = {
        "data": data_name(dataset_root),
        "code": f"btxrd {__version__}{commit}{' with local changes' if code['dirty'] else ''}",
        **facts,
        "packages": ", ".join(f"{name} {v}" for name, v in package_versions().items()),
        "made": pd.Timestamp(now()).strftime("%Y-%m-%d %H:%M UTC"),
    }
    lines = [f"- **{name.replace('_', ' ')}:** {as_text(value)}" for name, value in rows.items()]
    return "\n".join([f"> **{RESEARCH_ONLY}**", "", *lines])
