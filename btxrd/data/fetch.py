"""The release's archive: download it, verify it, unpack it, and know when all of it is there.

A transfer that stops keeps what came in a `.part` file beside the data set's folder and goes on
from there; the folder itself appears under its name only when it is whole.
"""

import errno
import json
import logging
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import urlsplit

import pooch
import requests
from filelock import FileLock, Timeout
from tqdm.auto import tqdm
from urllib3.exceptions import ReadTimeoutError

from btxrd.data.annotations import annotation_file
from btxrd.data.table import read_table
from btxrd.files import is_phantom, write_json

__all__ = ["ARCHIVE_MD5", "ARCHIVE_URL", "FetchError", "fetch"]

ARCHIVE_URL = "https://ndownloader.figshare.com/files/50653575"
"""The one ZIP of figshare article 27865398, about 801 MB."""

ARCHIVE_MD5 = "59132a5036d030580ccade8add8f13df"

MANIFEST = ".btxrd-fetch.json"
TABLES = ("dataset.xlsx", "dataset.csv")
CHUNK = 1 << 16
RETRY_WAIT = 2.0
AGAIN = "run the same command again"

logger = logging.getLogger(__name__)


class FetchError(RuntimeError):
    """The data set could not be fetched; the message is one line and says what to do."""


class _UnusableArchive(FetchError):
    """The archive arrived, but nothing can be made of it: not worth keeping."""


def fetch(
    root: str | Path = "data/BTXRD",
    url: str = ARCHIVE_URL,
    md5: str | None = ARCHIVE_MD5,
    progress: bool = True,
    timeout: float = 30.0,
    retries: int = 3,
) -> Path:
    """Make sure that `root` holds the whole data set; download and unpack it where it does not.

    A folder that an earlier call filled is compared with that call's list of files (size and
    CRC-32). If any is missing or changed, all is fetched again and the old folder is kept as
    `<root>.old-<time>`. A folder that somebody filled by hand is complete if it has a table, the
    images that it names and its tumours' annotations; it is never changed.

    Args:
        root: folder that holds, or shall hold, `dataset.xlsx`, `images/` and `Annotations/`.
        url: of the ZIP; nothing else is asked for over the network.
        md5: of the ZIP; None takes what comes, as long as it unpacks to a complete data set.
        progress: show progress bars.
        timeout: seconds without a byte after which a transfer counts as stalled.
        retries: further attempts after a transfer that failed in a way that may pass.

    Returns:
        `root` as a path.

    Raises:
        FetchError: names the fault (network, server, checksum, archive, disk, or files in `root`
            that are not a whole data set) and what to do. `root` is then as it was before.
    """
    root = Path(root).expanduser()
    place = root.resolve()
    try:
        if not _is_complete(place, md5):
            place.parent.mkdir(parents=True, exist_ok=True)
            with _alone(place):
                if not _is_complete(place, md5):
                    archive = _download(place, url, md5, progress, timeout, retries)
                    _install(archive, place, url, md5, progress)
    except OSError as error:
        reason = f"{error.filename or place}: {error.strerror or error}"
        raise FetchError(f"cannot fill {root} ({reason}); mend that and {AGAIN}") from error
    return root


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    lock = FileLock(place.parent / f".{place.name}.fetch.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("another fetch is filling %s; waiting for it", place)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# What is already there


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
        if md5 and manifest["md5"] != md5.lower():
            return False
        files = [(place / name, size, crc) for name, (size, crc) in manifest["files"].items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    sizes_match = all(path.is_file() and path.stat().st_size == size for path, size, _ in files)
    return sizes_match and all(_crc32(path) == crc for path, _, crc in files)


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            crc = zlib.crc32(chunk, crc)
    return crc


def _fault(folder: Path) -> str:
    """What the data set in `folder` lacks; empty if it is whole."""
    try:
        table = read_table(folder)
    except (FileNotFoundError, ValueError, KeyError, zipfile.BadZipFile) as error:
        return _one_line(error)
    wanted = [Path(path) for path in table["path"]]
    wanted += [annotation_file(path) for path in table.loc[table["tumor"] == 1, "path"]]
    missing = [path.name for path in wanted if not path.is_file()]
    if not missing:
        return ""
    named = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
    return f"{len(missing)} of {len(wanted)} images and annotations are missing ({named})"


# The transfer


def _download(
    place: Path, url: str, md5: str | None, progress: bool, timeout: float, retries: int
) -> Path:
    """Bring the verified archive beside `place`; one that an earlier call left there will do."""
    key = md5[:8].lower() if md5 else f"{zlib.crc32(url.encode()):08x}"
    archive = place.parent / f"{place.name}-{key}.zip"
    transfer = _ResumingDownloader(Path(f"{archive}.part"), progress, timeout, retries)
    try:
        pooch.retrieve(
            url,
            known_hash=f"md5:{md5}" if md5 else None,
            fname=archive.name,
            path=archive.parent,
            downloader=transfer,
        )
    except ValueError as error:
        mismatch = _one_line(error).split(". ")[0]
        raise FetchError(
            f"{mismatch}; it was deleted: {AGAIN}, and if it fails twice, {url} is not the archive "
            "that is meant"
        ) from error
    return archive


class _ResumingDownloader:
    """A downloader for pooch that goes on from a `.part` file where the server has ranges.

    Args:
        part: the file that grows; it becomes pooch's output file once it is complete.
        progress: show a progress bar.
        timeout: seconds without a byte that count as a stall.
        retries: further attempts after a fault that may pass.
    """

    def __init__(self, part: Path, progress: bool, timeout: float, retries: int) -> None:
        self.part = part
        self.progress = progress
        self.timeout = timeout
        self.retries = retries
        self.total: int | None = None

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        """Download `url` to `output_file`, as pooch calls its downloaders.

        Raises:
            FetchError: the archive did not come, or there is no room for it.
        """
        for retries_left in reversed(range(self.retries + 1)):
            try:
                self._transfer(url)
                break
            except requests.RequestException as error:
                if not (retries_left and _may_pass(error)):
                    raise FetchError(_one_line(self._describe(url, error))) from error
                time.sleep(RETRY_WAIT)
        self.part.replace(output_file)

    def _transfer(self, url: str) -> None:
        start = self._size()
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with requests.get(url, stream=True, timeout=self.timeout, headers=headers) as response:
            if response.status_code == 416 and start:
                return  # nothing comes after what is here; the checksum is the judge of it
            if response.status_code not in (200, 206):
                raise requests.HTTPError(response=response)
            if response.status_code == 200:
                start = 0
            self._receive(response, start)

    def _receive(self, response: requests.Response, start: int) -> None:
        length = int(response.headers.get("Content-Length", 0))
        self.total = start + length if length else None
        bar = tqdm(
            desc="BTXRD archive",
            total=self.total,
            initial=start,
            unit="B",
            unit_scale=True,
            disable=not self.progress,
        )
        with (
            bar,
            _room(self.part.parent, length, "the archive"),
            self.part.open("ab" if start else "wb") as file,
        ):
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _describe(self, url: str, error: requests.RequestException) -> str:
        host = urlsplit(url).netloc
        of_all = f" of {self.total:,}" if self.total else ""
        came = f"{self._size():,}{of_all} bytes are here; to go on, {AGAIN}"
        if isinstance(error, requests.HTTPError):
            answer = f"{error.response.status_code} {error.response.reason}"
            return (
                f"{host} answered {answer} to {url}: {AGAIN} later, or get the archive with a "
                "browser and unzip it into the folder"
            )
        if isinstance(error, ValueError):
            return f"{url!r} is not an address to fetch from; give one that begins with https://"
        if isinstance(error, requests.exceptions.SSLError):
            return f"the certificate of {host} is not trusted here; see to that, then {AGAIN}"
        if _is_stall(error):
            return f"{host} sent nothing for {self.timeout:g} s; {came}"
        if self.total is None:
            return f"cannot reach {host}; check the network (or the proxy), then {AGAIN}"
        return f"the connection to {host} broke off; {came}"


def _may_pass(error: requests.RequestException) -> bool:
    if isinstance(error, requests.HTTPError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return not isinstance(error, requests.exceptions.SSLError | ValueError)


def _is_stall(error: requests.RequestException) -> bool:
    cause = error.args[0] if error.args else None
    return isinstance(error, requests.ReadTimeout) or isinstance(cause, ReadTimeoutError)


# From the archive to the folder


def _install(archive: Path, place: Path, url: str, md5: str | None, progress: bool) -> None:
    """Unpack beside `place`, check, rename; then the archive has served."""
    folder = place.with_name(f".{place.name}.fetching")
    shutil.rmtree(folder, ignore_errors=True)  # what a killed call may have left
    try:
        folder.mkdir()
        files = _unpack(archive, folder, progress)
        if fault := _fault(folder):
            fault = fault.replace(str(folder), "the archive")
            raise _UnusableArchive(f"{url} is not the whole BTXRD archive: {fault}")
        digest = md5.lower() if md5 else pooch.file_hash(str(archive), alg="md5")
        write_json(folder / MANIFEST, {"url": url, "md5": digest, "files": files})
        _set_aside(place)
        folder.replace(place)
    except _UnusableArchive:
        archive.unlink()
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    archive.unlink()


def _set_aside(place: Path) -> None:
    if not place.exists():
        return
    if not any(place.iterdir()):
        place.rmdir()
        return
    old = place.with_name(f"{place.name}.old-{time.strftime('%Y%m%d-%H%M%S')}")
    place.rename(old)
    logger.warning("files of %s were missing or changed; the old folder is now %s", place, old)


def _unpack(archive: Path, folder: Path, progress: bool) -> dict[str, tuple[int, int]]:
    """Extract into `folder`; return the files' sizes and CRC-32 sums."""
    try:
        with zipfile.ZipFile(archive) as source:
            plan = _plan(source)
            needed = sum(entry.file_size for entry in plan.values())
            with _room(archive.parent, needed, "the unpacked files"):
                for path, entry in tqdm(
                    plan.items(), desc="unpacking", unit="file", disable=not progress
                ):
                    _extract(source, entry, folder / path)
    # zipfile's NotImplementedError: a compression method that it does not know.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise _UnusableArchive(
            f"the archive is damaged ({_one_line(error)}) and was deleted; {AGAIN}"
        ) from error
    return {str(path): (entry.file_size, entry.CRC) for path, entry in plan.items()}


def _extract(source: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open(entry) as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file, CHUNK)


def _plan(source: zipfile.ZipFile) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Which entry goes where: no wrapper folder, no stray files, one copy of each annotation."""
    entries = source.infolist()
    for entry in entries:
        _refuse_unsafe(entry)
    files = {_path(entry): entry for entry in entries if not _name(entry).endswith("/")}
    files = {path: entry for path, entry in files.items() if not _is_stray(path)}
    tables = [path for path in files if path.name in TABLES]
    if not tables:
        raise _UnusableArchive("the archive holds no dataset.xlsx; is the address BTXRD's?")
    wrapper = min(tables, key=lambda path: len(path.parts)).parent
    plan: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for path in sorted(files, key=lambda path: len(path.parts)):
        if path.is_relative_to(wrapper):
            plan.setdefault(_without_nesting(path.relative_to(wrapper)), files[path])
    return plan


def _refuse_unsafe(entry: zipfile.ZipInfo) -> None:
    name = _name(entry)
    leaves = name.startswith("/") or ".." in name.split("/") or PureWindowsPath(name).drive
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if leaves or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _UnusableArchive(
            f"the archive's entry {entry.filename!r} leaves its folder or is no plain file; nothing"
            " was unpacked and the archive was deleted: use another source"
        )
    if entry.flag_bits & 1:
        raise _UnusableArchive(
            f"the archive's entry {entry.filename!r} is encrypted: use another source"
        )


def _name(entry: zipfile.ZipInfo) -> str:
    return entry.filename.replace("\\", "/")


def _path(entry: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(_name(entry))


def _is_stray(path: PurePosixPath) -> bool:
    """Whether a spreadsheet's lock file or a Mac's folder notes.

    >>> _is_stray(PurePosixPath("BTXRD/~$dataset.xlsx"))
    True
    """
    return path.name.startswith("~$") or path.name == ".DS_Store" or "__MACOSX" in path.parts


def _without_nesting(path: PurePosixPath) -> PurePosixPath:
    """Drop the release's second `Annotations/`.

    >>> _without_nesting(PurePosixPath("Annotations/Annotations/IMG000001.json")).as_posix()
    'Annotations/IMG000001.json'
    """
    nested = path.parts[:2] == ("Annotations", "Annotations")
    return PurePosixPath(*path.parts[1:]) if nested else path


@contextmanager
def _room(folder: Path, needed: int, what: str) -> Iterator[None]:
    """Refuse to begin, or say why it ended, where `needed` bytes do not fit on the disk."""
    free = shutil.disk_usage(folder).free
    try:
        if free < needed:
            raise OSError(errno.ENOSPC, "too little room")
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise FetchError(
            f"no room in {folder} for {what}: {_megabytes(needed)} needed, {_megabytes(free)} were "
            f"free; make room (or get a larger quota), then {AGAIN}"
        ) from error


def _megabytes(size: int) -> str:
    """Write a size as figshare and disks do, in powers of ten.

    >>> _megabytes(801_234_567)
    '801.2 MB'
    """
    return f"{size / 1e6:.1f} MB"


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
