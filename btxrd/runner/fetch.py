"""The release's archive: download it, verify it, unpack it, and know when all of it is there.

A transfer that stops keeps what came in a `.part` file beside the data set's folder and goes on
from there; the folder itself appears under its name only when it is whole.
"""

import errno
import json
import logging
import shutil
import time
import zipfile
import zlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pooch
import requests
from filelock import FileLock, Timeout

from btxrd.data.annotations import annotation_file
from btxrd.data.table import read_table
from btxrd.files import NO_ROOM, is_phantom, write_json
from btxrd.runner import RunnerError

__all__ = ["ARCHIVE_MD5", "ARCHIVE_URL", "FetchError", "fetch"]

ARCHIVE_URL = "https://ndownloader.figshare.com/files/50653575"
"""The one ZIP of figshare article 27865398, about 801 MB."""

ARCHIVE_MD5 = "59132a5036d030580ccade8add8f13df"

MANIFEST = ".btxrd-fetch.json"
CHUNK = 1 << 16
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

    If a file that an earlier call put there is missing or changed, all is fetched again and the old
    folder kept as `<root>.old-<time>`; what was unzipped by hand is never changed. `md5=None` takes
    any complete data set; a transfer stalls after `timeout` seconds without a byte.

    Raises:
        FetchError: names the fault and what to do. `root` is then as it was before.
    """
    root = Path(root).expanduser()
    place = root.resolve()
    try:
        if not _is_complete(place, md5):
            place.parent.mkdir(parents=True, exist_ok=True)
            with _alone(place):
                if not _is_complete(place, md5):
                    key = md5[:8].lower() if md5 else f"{zlib.crc32(url.encode()):08x}"
                    archive = place.parent / f"{place.name}-{key}.zip"
                    digest = _download(archive, url, md5, progress, timeout, retries)
                    _install(archive, place, url, digest)
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


def _is_complete(place: Path, md5: str | None) -> bool:
    """Whether all is there; False means that `place` may be filled or replaced."""
    if not place.exists():
        return False
    if not place.is_dir():
        raise FetchError(f"{place} is a file; name a folder for the data set")
    if (place / MANIFEST).is_file():
        return _matches_manifest(place, md5)
    if not any(place.iterdir()):
        return False
    if is_phantom(place):
        raise FetchError(f"{place} holds phantom images; name another folder for the real ones")
    if fault := _fault(place):
        raise FetchError(
            f"{place} holds files, but not the whole data set: {fault}; "
            "add what is missing, or name a new folder"
        )
    return True


def _matches_manifest(place: Path, md5: str | None) -> bool:
    try:
        manifest = json.loads((place / MANIFEST).read_text())
        files = {place / name: sums for name, sums in manifest["files"].items()}
        if md5 and manifest["md5"] != md5.lower():
            return False
    except (ValueError, KeyError):
        return False
    return all(path.is_file() and _sums(path) == sums for path, sums in files.items())


def _sums(file: Path) -> list[int]:
    content = file.read_bytes()
    return [len(content), zlib.crc32(content)]


def _fault(folder: Path) -> str:
    """What the data set in `folder` lacks; empty if it is whole."""
    try:
        table = read_table(folder)
    except (FileNotFoundError, ValueError) as error:
        return _one_line(error)
    wanted = [Path(path) for path in table["path"]]
    wanted += [annotation_file(path) for path in table.loc[table["tumor"] == 1, "path"]]
    missing = [path.name for path in wanted if not path.is_file()]
    if not missing:
        return ""
    named = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
    return f"{len(missing)} of {len(wanted)} images and annotations are missing ({named})"


def _download(
    archive: Path, url: str, md5: str | None, progress: bool, timeout: float, retries: int
) -> str:
    """Bring the archive, unless it is there already, and return its MD5."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise FetchError(f"{url!r} is no address to fetch from; give one that begins with https://")
    name = archive.name
    store = pooch.create(
        archive.parent, "", registry={name: None}, urls={name: url}, retry_if_failed=retries
    )
    part = Path(f"{archive}.part")
    transfer = _ResumingDownloader(part, progress, timeout)
    try:
        store.fetch(name, downloader=transfer)
    except requests.RequestException as error:
        raise FetchError(transfer.describe(url, error)) from error
    finally:
        if part.is_file() and not part.stat().st_size:
            part.unlink()
    # Told the MD5, pooch would transfer another archive of 801 MB anew with every retry.
    digest = pooch.file_hash(archive, alg="md5")
    if md5 and digest != md5.lower():
        archive.unlink()
        raise FetchError(
            f"the archive's MD5 is {digest}, not {md5}; it was deleted: {AGAIN}, and if it fails "
            f"twice, {url} is not the archive that is meant"
        )
    return digest


class _ResumingDownloader:
    """pooch's HTTP downloader, made to go on from the file `part` where the server can."""

    def __init__(self, part: Path, progress: bool, timeout: float) -> None:
        self.part = part
        self.progress = progress
        self.timeout = timeout
        self.total: int | None = None

    def __call__(self, url: str, output_file: str, store: pooch.Pooch) -> None:
        """Download `url` to `output_file`, as pooch calls its downloaders.

        Raises:
            FetchError: the server refused; trying again at once is no use.
            requests.RequestException: the transfer failed, but may succeed the next time.
        """
        try:
            with self.part.open("ab") as file:
                self._append(url, file, store)
        except requests.HTTPError as error:
            status = error.response.status_code
            if status == 429 or status >= 500:
                raise
            if status != 416:  # else nothing comes after what is here; the MD5 is the judge of it
                raise FetchError(self.describe(url, error)) from error
        self.part.replace(output_file)

    def _append(self, url: str, file: BinaryIO, store: pooch.Pooch) -> None:
        def begin(answer: requests.Response, **_: object) -> None:
            if answer.is_redirect:
                return
            if answer.status_code not in (200, 206):  # figshare's 202 is a question to a browser
                raise requests.HTTPError(response=answer)
            if answer.status_code == 200:  # all of it, whatever range was asked for
                file.seek(0)
                file.truncate()
            length = int(answer.headers.get("Content-Length", 0))
            self.total = file.tell() + length if length else None
            free = shutil.disk_usage(self.part.parent).free
            if free < length:
                lack = f"{length / 1e6:.1f} MB needed, {free / 1e6:.1f} MB were free"
                raise OSError(errno.ENOSPC, lack, str(self.part.parent))

        headers = {"Accept-Encoding": "identity"}
        if start := file.tell():
            headers["Range"] = f"bytes={start}-"
        hooks = {"response": begin}
        download = pooch.HTTPDownloader(
            self.progress, CHUNK, timeout=self.timeout, headers=headers, hooks=hooks
        )
        download(url, file, store)

    def describe(self, url: str, error: requests.RequestException) -> str:
        """Say in one line what stopped the transfer, how much came and what to do."""
        host = urlsplit(url).netloc
        if error.response is not None:
            fault = f"{host} answered {error.response.status_code} {error.response.reason}"
        elif "timed out" in str(error):
            fault = f"{host} sent nothing for {self.timeout:g} s"
        elif self.total:
            fault = f"the connection to {host} broke off"
        else:
            fault = f"cannot reach {host}: check the network, the proxy and its certificate"
        if self.total:
            fault += f" ({self.part.stat().st_size:,} of {self.total:,} bytes are here)"
        return f"{fault}; {AGAIN} later, or unzip {url} by hand into the folder"


def _install(archive: Path, place: Path, url: str, md5: str) -> None:
    """Unpack beside `place`, check, rename; then the archive has served."""
    scratch = place.with_name(f".{place.name}.fetching")
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed call may have left
    try:
        release = _unpack(archive, scratch)
        if fault := _fault(release):
            fault = fault.replace(str(release), "the archive")
            raise FetchError(f"{url} is not the whole BTXRD archive: {fault}")
        files = [path for path in release.rglob("*") if path.is_file()]
        sums = {path.relative_to(release).as_posix(): _sums(path) for path in files}
        write_json(release / MANIFEST, {"url": url, "md5": md5, "files": sums})
        if place.exists():
            _set_aside(place)
        release.replace(place)
    except FetchError:
        archive.unlink()  # the next call could make no more of it
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    archive.unlink()


def _unpack(archive: Path, folder: Path) -> Path:
    """Return where the release lies in `folder`, without stray files and second annotations."""
    try:
        pooch.Unzip(extract_dir=folder.name)(str(archive), "download", None)
    # zipfile's RuntimeError: an encrypted entry, or a compression method that it does not know.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        fault = _one_line(error)
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


def _set_aside(place: Path) -> None:
    if not any(place.iterdir()):
        place.rmdir()
        return
    old = place.with_name(f"{place.name}.old-{time.strftime('%Y%m%d-%H%M%S')}")
    place.rename(old)
    logger.warning("files of %s were missing or changed; the old folder is now %s", place, old)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
