"""Which images of a data set are the published release's files, byte for byte.

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

RELEASED, ALTERED, MISSING, FOREIGN = STATES = (
    *("as released", "other bytes", "missing"),
    "not of the release",
)

MOST_NAMED = 20
"""Images of a state that are named; of the others only the number is said."""


def release_digests() -> dict[str, tuple[str, int]]:
    """Return the digest and the size in bytes of each released image, by its name without ending.

    >>> release_digests()["IMG000001"]
    ('2ddae86a96c6c696', 446439)
    """
    lines = Path(__file__).with_suffix(".txt").read_text().splitlines()
    facts = (line.split() for line in lines)
    return {f"IMG{row:06d}": (digest, int(size)) for row, (digest, size) in enumerate(facts, 1)}


def release_files(root: str | Path, progress: bool = False) -> pd.DataFrame:
    """Compare the images of a data set with the release's, by their names without ending.

    Args:
        root: as `read_table` takes it; a table need not be there.
        progress: show a progress bar.

    Returns:
        One row a file in `images/`, and one an image of the release that is not there: image (the
        name without ending), file (None where it is missing) and state (one of `STATES`; a file
        that cannot be read has other bytes). No rows for drawn data, which have no release.
    """
    folder = table_file(root).parent
    if is_phantom(folder):
        return pd.DataFrame(columns=["image", "file", "state"])
    released = release_digests()
    inside = (folder / "images").glob("[!.]*")
    paths = [path for path in inside if path.suffix in (".jpeg", ".jpg") and path.is_file()]

    def state(path: Path) -> str:
        if path.stem not in released:
            return FOREIGN
        return RELEASED if _holds(path, *released[path.stem]) else ALTERED

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compared = pool.map(state, paths)
        bar = tqdm(compared, "digests", total=len(paths), unit="image", disable=not progress)
        rows = [(path.stem, path.name, found) for path, found in zip(paths, bar, strict=True)]
    rows += [(image, None, MISSING) for image in released.keys() - {path.stem for path in paths}]
    files = pd.DataFrame(rows, columns=["image", "file", "state"])
    return files.sort_values(["image", "file"], ignore_index=True)


def _holds(path: Path, digest: str, size: int) -> bool:
    try:
        return path.stat().st_size == size and file_digest(path) == digest
    except OSError:
        return False


def release_findings(files: pd.DataFrame) -> pd.DataFrame:
    """Warn of images with other bytes: of each, or once where they are half of all or more.

    Fewer are damage to a copy of the release; the others are another edition of it.

    Args:
        files: as `release_files` returns them.

    Returns:
        As `audit` does. An image that is missing or not of the release is no finding.
    """
    altered = files["file"][files["state"] == ALTERED]
    compared = int(files["state"].isin([RELEASED, ALTERED]).sum())
    if altered.empty:
        return findings_table([])
    if len(altered) * 2 >= compared:
        share = f"{len(altered):,} of {compared:,}"
        return findings_table([finding("images-altered", "images", None, share)])
    return findings_table(finding("image-altered", f"images/{name}", name) for name in altered)


def release_lines(files: pd.DataFrame) -> Iterator[str]:
    """Say how many images are as released, then name up to 20 of each kind that is not.

    Args:
        files: as `release_files` returns them.
    """
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
