"""Files of a study: written whole or not at all, and read back as they were written."""

import errno
import hashlib
import json
import re
import shutil
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

__all__ = [
    "PHANTOM_FILE",
    "PROJECT_ROOT",
    "atomic_path",
    "clear_scratch",
    "digest",
    "file_digest",
    "file_name",
    "in_a_line",
    "is_phantom",
    "project_path",
    "read_csv",
    "read_json",
    "read_yaml",
    "write_csv",
    "write_json",
]

PHANTOM_FILE = "phantom.json"
"""The file beside the table of drawn data that says how they were drawn."""

IDENTIFIERS = (
    *("image_id", "image_a", "image_b", "path", "digest", "subject"),
    *("group", "center", "part", "checkpoint"),
)
"""The columns of our tables that are text even where they consist of digits."""

SCRATCH = ".writing-"
LONGEST = 50
"""The most characters that a name gives to a file's, which may have 255 bytes in all."""
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

PROJECT_ROOT = Path(__file__).resolve().parents[1]
"""The clone that holds `btxrd/`, `notebooks/` and `params/`."""


def project_path(path: str | Path) -> Path:
    """Resolve a path of the parameters: relative ones count from the project's root.

    >>> project_path("params/study.yaml") == PROJECT_ROOT / "params" / "study.yaml"
    True
    """
    return PROJECT_ROOT / Path(path).expanduser()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block succeeds.

    Makes parent folders. On an error in the block `path` stays as it was. The temporary name keeps
    the suffix of `path`, because writers choose their format by it.

    Raises:
        OSError: the disk is full, the quota used up or the file too big; names `path`.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "runs" / "note.txt"
    >>> with atomic_path(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {"dir": path.parent, "prefix": f"{SCRATCH}{path.name}-", "ignore_cleanup_errors": True}
    try:
        with tempfile.TemporaryDirectory(**place) as scratch:
            temporary = Path(scratch, path.name)
            yield temporary
            temporary.replace(path)
    except Exception as error:
        cause = _no_room(error)
        if cause is None:
            raise
        message = f"no room to write {path}: {cause.strerror}; what was there before still is"
        raise OSError(cause.errno, message) from error


def _no_room(error: BaseException | None) -> OSError | None:
    """Return the lack of room behind an error, if any: torch hides it in an error of its own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return error
        error = error.__cause__ or error.__context__
    return None


def in_a_line(error: Exception) -> str:
    """Return what an error says in one line, or its type where it says nothing.

    >>> in_a_line(ValueError("no  such file"))
    'no such file'
    """
    return textwrap.shorten(str(error), 300, placeholder=" …") or type(error).__name__


def clear_scratch(folder: str | Path, name: str = "") -> None:
    """Remove what killed writers left in a folder, or of one `name`. Nobody may be writing."""
    for scratch in Path(folder).glob(f"{SCRATCH}{name}-*" if name else f"{SCRATCH}*"):
        shutil.rmtree(scratch, ignore_errors=True)


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table without its index, atomically."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def read_csv(path: str | Path, **dtypes: Any) -> pd.DataFrame:
    """Read a table that `write_csv` wrote: identifiers are text, and only an empty cell is empty.

    So `000001`, `1e5`, `NA` and `None` stay what they are.

    Args:
        dtypes: by column, where it is neither text (`IDENTIFIERS`) nor what pandas infers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such table; pandas' EmptyDataError and ParserError are of this kind.
    """
    texts = dict.fromkeys(IDENTIFIERS, str)
    return pd.read_csv(path, dtype=texts | dtypes, keep_default_na=False, na_values=[""])


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically; NaN is written as `null`.

    Raises:
        TypeError: `content` holds something that JSON has no form for.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_without_nan(content), indent=2, allow_nan=False) + "\n")


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    if isinstance(content, float) and content != content:
        return None
    return content


def read_json(path: str | Path) -> dict[str, Any]:
    """Return a JSON file's content, or an empty dict where there is none or it cannot be read."""
    try:
        return json.loads(Path(path).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def digest(content: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of JSON content, whatever its keys' order.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def file_name(name: str) -> str:
    """Return a name, perhaps cut short, as every file system and address takes it in a file's.

    All but letters, digits, `.`, `-` and `_` becomes `_`.

    >>> file_name("x<b>1"), file_name("../a b"), file_name("IMG000001")
    ('x_b_1', '.._a_b', 'IMG000001')
    """
    return re.sub(r"[^\w.-]", "_", name)[:LONGEST]


def file_digest(path: str | Path) -> str:
    """Return the first 16 hex digits of a file's SHA-256."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def is_phantom(dataset_root: str | Path) -> bool:
    """Return whether the data under `dataset_root` were drawn by `btxrd.extras.phantom`."""
    return (Path(dataset_root) / PHANTOM_FILE).is_file()


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not YAML, or its top level is not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no parameter file {path}")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold `key: value` lines, not {type(content).__name__}")
    return content
