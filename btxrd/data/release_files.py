"""The comparison of a data set's images with the published release's files, byte for byte.

`release_files.txt` has a line an image, IMG000001 first: the first 16 hex digits of the SHA-256 of
the released file, as `file_digest` returns them, and its size in bytes.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from btxrd.data.audit import finding, findings_table
from btxrd.data.table import table_file
from btxrd.files import file_digest, is_phantom

__all__ = [
    "ALTERED",
    "FOREIGN",
    "MISSING",
    "MOST_NAMED",
    "RELEASED",
    "release_digests",
    "release_files",
    "release_findings",
    "release_lines",
]

STATES = ("as released", "other bytes", "missing", "not of the release")
RELEASED, ALTERED, MISSING, FOREIGN = STATES

MOST_NAMED = 20
"""The most images of a state that are named; the others are counted."""


def release_digests() -> dict[str, tuple[str, int]]:
    """Return the digest and the size in bytes of each released image, by its name without ending.

    >>> release_digests()["IMG000001"]
    ('2ddae86a96c6c696', 446439)
    """
    lines = Path(__file__).with_suffix(".txt").read_text().splitlines()
    facts = (line.split() for line in lines)
    return {f"IMG{row:06d}": (digest, int(size)) for row, (digest, size) in enumerate(facts, 1)}


def release_files(root: str | Path, progress: bool = False) -> pd.DataFrame:
    """Compare the images of a data set, table or not, with the release's, by name without ending.

    Returns:
        One row a file in `images/`, and one an image of the release that is missing: image (the
        name without ending), file (None where it is missing) and state (one of `STATES`; a file
        that cannot be read has other bytes). No rows for drawn data, which have no release.
    """
    folder = table_file(root).parent
    if is_phantom(folder):
        return pd.DataFrame(columns=["image", "file", "state"])
    released = release_digests()
    inside = (folder / "images").glob("[!.]*")
    paths = [path for path in inside if path.suffix in (".jpeg", ".jpg") and path.is_file()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        states = pool.map(lambda path: _state(path, released.get(path.stem)), paths)
        bar = tqdm(states, "digests", total=len(paths), unit="image", disable=not progress)
        rows = [(path.stem, path.name, state) for path, state in zip(paths, bar, strict=True)]
    rows += [(image, None, MISSING) for image in released.keys() - {path.stem for path in paths}]
    files = pd.DataFrame(rows, columns=["image", "file", "state"])
    return files.sort_values(["image", "file"], ignore_index=True)


def _state(path: Path, released: tuple[str, int] | None) -> str:
    if released is None:
        return FOREIGN
    try:
        same = path.stat().st_size == released[1] and file_digest(path) == released[0]
    except OSError:
        same = False
    return RELEASED if same else ALTERED


def release_findings(files: pd.DataFrame) -> pd.DataFrame:
    """Return a warning, as `audit` does, for each image of a release with other bytes than it has.

    There is none where half of the images or more have other bytes: that is another edition of the
    release, no damage to a copy. `files` is as `release_files` returns it.
    """
    altered = files["file"][files["state"] == ALTERED]
    if 2 * len(altered) >= files["state"].isin([RELEASED, ALTERED]).sum():
        return findings_table([])
    return findings_table(finding("image-altered", f"images/{name}", name) for name in altered)


def release_lines(files: pd.DataFrame) -> Iterator[str]:
    """Yield how many images are as released, then up to 20 names of each kind that is not."""
    if files.empty:
        yield "The images are drawn: there is no release to compare them with."
        return
    count = files["state"].value_counts().reindex(STATES, fill_value=0)
    yield (
        f"Of the release's {len(release_digests()):,} images {count[RELEASED]:,} are as released, "
        f"{count[ALTERED]:,} have other bytes (resized or saved again) and {count[MISSING]:,} are "
        f"missing; {count[FOREIGN]:,} images are not of the release."
    )
    for state in STATES[1:]:
        names = files["file"].fillna(files["image"])[files["state"] == state]
        more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
        if len(names):
            yield f"{state}: {', '.join(names.head(MOST_NAMED))}{more}"
