"""The release's archive: download it, verify it, unpack it, and know when all of it is there.

A transfer that stops keeps what came in a `.part` file beside the data set's folder and goes on
from there; the folder itself appears under its name only when it is whole.
"""

import hashlib
import logging
import shutil
import time
import zipfile
import zlib
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urlsplit

import requests
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from btxrd.data.annotations import annotation_file
from btxrd.data.table import listed, read_table
from btxrd.files import NO_ROOM, in_a_line, is_phantom
from btxrd.runner import RunnerError

__all__ = ["ARCHIVE_MD5", "ARCHIVE_URL", "FetchError", "fetch"]

ARCHIVE_URL = "https://ndownloader.figshare.com/files/50653575"
"""The one ZIP of figshare article 27865398, about 801 MB."""

ARCHIVE_MD5 = "59132a5036d030580ccade8add8f13df"
AGAIN = "run the same command again"

logger = logging.getLogger(__name__)


class FetchError(RunnerError):
    """The data set could not be fetched; the message is one line and says what to do."""


def fetch(
    root: str | Path = "data/BTXRD",
    url: str = ARCHIVE_URL,
    md5: str | None = ARCHIVE_MD5,
    progress: bool = True,
    timeout: float = 30.0,
    retries: int = 3,
) -> Path:
    """Make sure that `root` holds the whole data set; download and unpack it where it does not.

    What stands there already is never changed. `md5=None` takes any complete data set; a transfer
    stalls after `timeout` seconds without a byte.

    Raises:
        FetchError: names the fault and what to do. `root` is then as it was before.
    """
    root = Path(root).expanduser()
    place = root.resolve()
    try:
        if not _is_complete(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            with _alone(place):
                if not _is_complete(place):
                    part = place.with_name(f"{place.name}.zip.part")
                    _download(part, url, progress, timeout, retries)
                    _verify(part, url, md5)
                    _install(part, place, url)
    except OSError as error:
        fault = "no room for" if error.errno in NO_ROOM else "cannot fill"
        reason = f"{error.filename or place.parent}: {error.strerror or error}"
        raise FetchError(f"{fault} {root} ({reason}); mend that and {AGAIN}") from error
    return root


def _alone(place: Path) -> AbstractContextManager[object]:
    lock = FileLock(place.parent / f".{place.name}.fetch.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        logger.warning("another fetch is filling %s; waiting for it", place)
        return lock.acquire()


def _is_complete(place: Path) -> bool:
    """Return whether all is there; False where there is nothing."""
    if not place.exists() or not any(place.iterdir()):
        return False
    if is_phantom(place):
        raise FetchError(f"{place} holds phantom images; name another folder for the real ones")
    if fault := _fault(place):
        what = f"{fault}; add what is missing, or name a new folder"
        raise FetchError(f"{place} holds files, but not the whole data set: {what}")
    return True


def _fault(folder: Path) -> str:
    """Return what the data set in `folder` lacks; nothing if it is whole."""
    try:
        table = read_table(folder)
    except (FileNotFoundError, ValueError) as error:
        return in_a_line(error)
    wanted = [Path(path) for path in table["path"]]
    wanted += [annotation_file(path) for path in table.loc[table["tumor"] == 1, "path"]]
    missing = [path.name for path in wanted if not path.is_file()]
    of = f"{len(missing)} of {len(wanted)} images and annotations"
    return f"{of} are missing ({listed(missing)})" if missing else ""


def _download(part: Path, url: str, progress: bool, timeout: float, retries: int) -> None:
    """Download into `part`, after what is there already where the server can go on from it."""
    host = urlsplit(url).netloc
    if urlsplit(url).scheme not in ("http", "https"):
        raise FetchError(f"{url!r} is no address to fetch from; give one that begins with https://")
    total = 0
    for attempt in range(retries + 1):
        time.sleep(attempt)
        start = part.stat().st_size if part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        try:
            with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
                if answer.status_code == 416:  # nothing comes after what is here
                    return
                if answer.status_code in (200, 206):
                    start = start if answer.status_code == 206 else 0
                    total = start + int(answer.headers.get("Content-Length", 0))
                    _append(answer, part, start, total, progress)
                    return
                fault = f"{host} answered {answer.status_code} {answer.reason}"
                if answer.status_code < 500 and answer.status_code != 429:
                    break  # as figshare's 202, a question to a browser: again is no use
        except requests.RequestException as error:
            if "timed out" in str(error):
                fault = f"{host} sent nothing for {timeout:g} s"
            elif total:
                fault = f"the connection to {host} broke off"
            else:
                fault = f"cannot reach {host}: check the network, the proxy and its certificate"
    if total:
        fault += f" ({part.stat().st_size:,} of {total:,} bytes are here)"
    raise FetchError(f"{fault}; {AGAIN} later, or unzip {url} by hand into the folder")


def _append(answer: requests.Response, part: Path, start: int, total: int, progress: bool) -> None:
    needed, free = (total - start) / 1e6, shutil.disk_usage(part.parent).free / 1e6
    if free < needed:
        raise FetchError(
            f"no room in {part.parent}: {needed:.1f} MB needed, {free:.1f} MB were free; {AGAIN} "
            "when there is"
        )
    bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, disable=not progress)
    with part.open("ab") as file, bar:
        file.truncate(start)
        for chunk in answer.iter_content(1 << 16):
            file.write(chunk)
            bar.update(len(chunk))


def _verify(part: Path, url: str, md5: str | None) -> None:
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if md5 and digest != md5.lower():
        part.unlink()
        raise FetchError(
            f"the archive's MD5 is {digest}, not {md5}; it was deleted: {AGAIN}, and if it fails "
            f"twice, {url} is not the archive that is meant"
        )


def _install(part: Path, place: Path, url: str) -> None:
    """Unpack beside `place`, check, rename; then the archive has served."""
    scratch = place.with_name(f".{place.name}.fetching")
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed call may have left
    try:
        release = _unpack(part, scratch)
        if fault := _fault(release):
            fault = fault.replace(str(release), "the archive")
            raise FetchError(f"{url} is not the whole BTXRD archive: {fault}")
        release.replace(place)
    except FetchError:
        part.unlink()  # the next call could make no more of it
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    part.unlink()


def _unpack(archive: Path, folder: Path) -> Path:
    """Return where the release lies in `folder`, without stray files and second annotations."""
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
    # zipfile's RuntimeError: an encrypted entry, or a compression method that it does not know.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        fault = in_a_line(error)
        raise FetchError(f"the archive is damaged ({fault}) and was deleted; {AGAIN}") from error
    tables = [*folder.rglob("dataset.xlsx"), *folder.rglob("dataset.csv")]
    if not tables:
        raise FetchError("the archive holds no dataset.xlsx; is the address BTXRD's?")
    release = min(tables, key=lambda table: len(table.parts)).parent
    for lock in release.glob("~$*"):
        lock.unlink()
    annotations = release / "Annotations"
    for second in annotations.glob("Annotations/*"):
        if not (annotations / second.name).exists():
            second.rename(annotations / second.name)
    shutil.rmtree(annotations / "Annotations", ignore_errors=True)
    return release
