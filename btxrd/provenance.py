"""The origin of a result: data, code and packages."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from btxrd import __version__
from btxrd.files import PHANTOM_FILE, PROJECT_ROOT, is_phantom, read_json
from btxrd.stages import STAGES

__all__ = ["code_version", "data_name", "now", "package_versions"]

PACKAGES = sorted({package for stage in STAGES.values() for package in stage.packages})
CITATION = (
    "Yao et al., A Radiograph Dataset for the Classification, Localization, and Segmentation of "
    "Primary Bone Tumors, Scientific Data 2025, doi 10.1038/s41597-024-04311-y"
)


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def code_version() -> dict[str, Any]:
    """Return btxrd's version and, in a git clone, the commit and whether files differ from it."""
    code: dict[str, Any] = {"btxrd": __version__, "commit": None, "dirty": None}
    try:
        code["commit"] = _git("rev-parse", "HEAD")
        code["dirty"] = bool(_git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        pass
    return code


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PROJECT_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the numbers."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def data_name(dataset_root: str | Path) -> str:
    """Return in a few words, as text, which data stands under `dataset_root`."""
    root = Path(dataset_root)
    if root.is_file():
        return f"the images that {root.name} lists"
    if is_phantom(root):
        facts = read_json(root / PHANTOM_FILE)
        return (
            f"phantom BTXRD: {facts['n_images']} drawn images (seed {facts['seed']}), "
            "not radiographs of anyone"
        )
    return f"{root.name}, laid out as BTXRD ({CITATION})"
