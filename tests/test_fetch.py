"""`fetch` against a server on loopback that serves a phantom's archive, well and badly."""

import errno
import hashlib
import importlib
import logging
import shutil
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from btxrd.data import read_table
from btxrd.data.fetch import FetchError, fetch
from btxrd.phantom import make_phantom

N_IMAGES = 80


@dataclass
class Server:
    """What the next answers are like, and the `Range` headers of the requests so far."""

    body: bytes
    url: str = ""
    ranges: bool = True
    status: list[int] = field(default_factory=list)
    cut_at: int | None = None
    cuts_left: int = 0
    stalls: bool = False
    released: threading.Event = field(default_factory=threading.Event)
    requests: list[str | None] = field(default_factory=list)

    @property
    def md5(self) -> str:
        return hashlib.md5(self.body).hexdigest()


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Clients that hang up are what these tests are about."""


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["Range"]
            server.requests.append(wanted)
            if server.status:
                self.send_error(server.status.pop(0))
                return
            start = int(wanted[len("bytes=") : -1]) if wanted and server.ranges else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(server.body) - start))
            if start:
                last = len(server.body) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
            self.end_headers()
            self.wfile.write(server.body[start : self._end()])
            if server.stalls:
                self.wfile.flush()
                server.released.wait(10)

        def _end(self) -> int | None:
            if not server.cuts_left:
                return None
            server.cuts_left -= 1
            return server.cut_at

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom without its sidecar: what the release looks like, unpacked by hand."""
    root = tmp_path_factory.mktemp("release") / "BTXRD"
    make_phantom(root, n_images=N_IMAGES, workers=1, scale=0.1)
    (root / "phantom.json").unlink()
    return root


@pytest.fixture(scope="module")
def archive(release: Path) -> Path:
    path = release.parent / "BTXRD.zip"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("__MACOSX/BTXRD/._dataset.xlsx", b"fork")
        target.writestr("BTXRD/~$dataset.xlsx", b"locked by a spreadsheet")
        target.writestr("BTXRD/Annotations/Annotations/only-nested.json", b"{}")
        for file in sorted(release.rglob("*.json")):
            target.writestr(f"BTXRD/Annotations/Annotations/{file.name}", b"an old copy")
        for file in sorted(release.rglob("*")):
            target.write(file, Path("BTXRD") / file.relative_to(release))
    return path


@pytest.fixture
def server(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(importlib.import_module("btxrd.data.fetch"), "RETRY_WAIT", 0.0)
    server = Server(archive.read_bytes())
    http = QuietServer(("127.0.0.1", 0), _handler(server))
    server.url = f"http://127.0.0.1:{http.server_port}/files/50653575"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.released.set()
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "BTXRD"


def _fetch(root: Path, server: Server, **changes: object) -> Path:
    given = {"url": server.url, "md5": server.md5, "progress": False, "timeout": 5, "retries": 1}
    return fetch(root, **(given | changes))


def _fault(call: Callable[[], Path]) -> str:
    with pytest.raises(FetchError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _beside(root: Path) -> set[str]:
    return {path.name for path in root.parent.iterdir()} - {".BTXRD.fetch.lock"}


def _zip_of(path: Path, change: Callable[[zipfile.ZipFile], None]) -> bytes:
    with zipfile.ZipFile(path, "a") as target:
        change(target)
    return path.read_bytes()


@pytest.mark.parametrize("known", [True, False])
def test_a_whole_archive_becomes_the_releases_layout(root, server, release, known):
    root.mkdir(parents=True)
    assert _fetch(root, server, **({} if known else {"md5": None})) == root
    expected = {path.relative_to(release): path for path in release.rglob("*") if path.is_file()}
    found = {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
    extra = {path.as_posix() for path in found.keys() - expected.keys()}
    assert extra == {".btxrd-fetch.json", "Annotations/only-nested.json"}
    assert all(found[name].read_bytes() == file.read_bytes() for name, file in expected.items())
    assert len(read_table(root)) == N_IMAGES
    assert _beside(root) == {"BTXRD"}


def test_what_a_killed_call_left_is_cleared(root, server):
    leftover = root.parent / ".BTXRD.fetching"
    leftover.mkdir(parents=True)
    (leftover / "half.jpeg").write_text("")
    _fetch(root, server)
    assert not (root / "half.jpeg").exists()
    assert _beside(root) == {"BTXRD"}


def test_complete_data_is_not_fetched_again(root, server):
    _fetch(root, server)
    _fetch(root, server)
    assert len(server.requests) == 1


def test_a_changed_file_makes_it_fetch_again_and_loses_nothing(root, server, caplog):
    _fetch(root, server)
    changed = next((root / "images").iterdir())
    intact = changed.read_bytes()
    changed.write_bytes(intact[:-1] + b"?")
    (root / "notes.txt").write_text("mine")
    with caplog.at_level(logging.WARNING):
        _fetch(root, server)
    assert changed.read_bytes() == intact
    (old,) = root.parent.glob("BTXRD.old-*")
    assert (old / "notes.txt").read_text() == "mine"
    assert str(old) in caplog.text


@pytest.mark.parametrize("wrapper", ["", "BTXRD"])
def test_data_unzipped_by_hand_are_complete(root, server, release, wrapper):
    shutil.copytree(release, root / wrapper)
    _fetch(root, server)
    assert not server.requests


def test_incomplete_data_unzipped_by_hand_are_named_and_left_alone(root, server, release):
    shutil.copytree(release, root)
    lost = sorted((root / "images").iterdir())[3]
    lost.unlink()
    before = sorted(root.rglob("*"))
    line = _fault(lambda: _fetch(root, server))
    assert "1 of " in line
    assert lost.name in line
    assert sorted(root.rglob("*")) == before
    assert not server.requests


def test_phantoms_do_not_pass_for_the_release(root, server, release):
    shutil.copytree(release, root)
    (root / "phantom.json").write_text("{}")
    assert "phantom" in _fault(lambda: _fetch(root, server))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_transfer_goes_on_or_starts_over(root, server, ranges):
    server.ranges, server.cut_at, server.cuts_left = ranges, len(server.body) // 2, 1
    _fetch(root, server)
    first, second = server.requests
    assert first is None
    assert int(second.removeprefix("bytes=").removesuffix("-")) > 0
    assert len(read_table(root)) == N_IMAGES


def test_a_transfer_that_is_always_cut_says_how_much_came_and_goes_on_later(root, server):
    server.cut_at, server.cuts_left = 200_000, 2
    line = _fault(lambda: _fetch(root, server))
    (part,) = root.parent.glob("*.part")
    came = part.stat().st_size
    assert f"{came:,} of {len(server.body):,} bytes" in line
    assert not root.exists()
    _fetch(root, server)
    assert server.requests[-1] == f"bytes={came}-"
    assert _beside(root) == {"BTXRD"}


def test_a_finished_part_is_not_transferred_again(root, server):
    root.parent.mkdir(parents=True)
    Path(root.parent, f"BTXRD-{server.md5[:8]}.zip.part").write_bytes(server.body)
    server.status = [416]
    _fetch(root, server)
    assert len(server.requests) == 1


def test_a_changed_byte_is_refused_and_the_next_call_starts_afresh(root, server):
    md5, body = server.md5, server.body
    server.body = body[:1000] + bytes([body[1000] ^ 1]) + body[1001:]
    line = _fault(lambda: _fetch(root, server, md5=md5))
    assert md5 in line
    assert server.md5 in line
    assert _beside(root) == set()
    server.body = body
    _fetch(root, server)
    assert server.requests == [None, None]


def test_a_stall_ends_with_the_timeout(root, server):
    server.stalls, server.cut_at, server.cuts_left = True, 150_000, 9
    line = _fault(lambda: _fetch(root, server, timeout=0.3, retries=0))
    assert "sent nothing for 0.3 s" in line
    assert not root.exists()


def test_a_servers_refusal_is_told_at_once_and_its_hiccup_retried(root, server):
    server.status = [404]
    assert "404 Not Found" in _fault(lambda: _fetch(root, server))
    assert len(server.requests) == 1
    server.status = [503]
    _fetch(root, server)
    assert len(server.requests) == 3


def test_no_network_and_no_address(root, server, unused_tcp_url):
    assert "cannot reach 127.0.0.1" in _fault(lambda: _fetch(root, server, url=unused_tcp_url))
    assert "https://" in _fault(lambda: _fetch(root, server, url="BTXRD.zip"))
    assert _beside(root) == set()


@pytest.fixture
def unused_tcp_url() -> str:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as taken:
        return f"http://127.0.0.1:{taken.server_port}/"


def test_too_little_room_is_seen_before_the_transfer(root, server, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    line = _fault(lambda: _fetch(root, server))
    assert f"{len(server.body) / 1e6:.1f} MB needed, 0.0 MB were free" in line
    assert not root.exists()


def test_a_disk_that_fills_up_while_unpacking_leaves_only_the_archive(root, server, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        line = _fault(lambda: _fetch(root, server))
    assert "no room" in line
    assert _beside(root) == {f"BTXRD-{server.md5[:8]}.zip"}
    _fetch(root, server)
    assert len(server.requests) == 1
    assert _beside(root) == {"BTXRD"}


def _link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    "entry",
    ["../outside.txt", "/tmp/outside.txt", "C:\\outside.txt", "BTXRD\\..\\..\\o", _link("BTXRD/l")],
    ids=["parent", "absolute", "drive", "backslash", "link"],
)
def test_an_entry_that_leaves_the_folder_is_named_and_nothing_unpacked(
    root, server, archive, tmp_path, entry
):
    copy = shutil.copy(archive, tmp_path / "evil.zip")
    server.body = _zip_of(copy, lambda target: target.writestr(entry, b"/etc"))
    name = entry.filename if isinstance(entry, zipfile.ZipInfo) else entry
    assert repr(name) in _fault(lambda: _fetch(root, server))
    assert _beside(root) == set()


def test_an_archive_that_is_no_archive_or_not_btxrds(root, server, tmp_path, archive):
    server.body = b"<html>Please accept our cookies</html>"
    assert "damaged" in _fault(lambda: _fetch(root, server, md5=None))
    server.body = _zip_of(tmp_path / "a.zip", lambda target: target.writestr("readme.txt", b""))
    assert "no dataset.xlsx" in _fault(lambda: _fetch(root, server, md5=None))
    with zipfile.ZipFile(archive) as source:
        table = source.read("BTXRD/dataset.xlsx")
    server.body = _zip_of(tmp_path / "b.zip", lambda target: target.writestr("dataset.xlsx", table))
    assert "images and annotations are missing" in _fault(lambda: _fetch(root, server, md5=None))
    assert _beside(root) == set()


def test_two_fetches_at_once_transfer_once(root, server):
    calls = [threading.Thread(target=_fetch, args=(root, server)) for _ in range(2)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert len(server.requests) == 1
    assert _beside(root) == {"BTXRD"}


def test_a_folder_that_cannot_be_made_is_named(tmp_path, server):
    (tmp_path / "file").write_text("")
    assert "cannot fill" in _fault(lambda: _fetch(tmp_path / "file" / "BTXRD", server))
    assert "is a file" in _fault(lambda: _fetch(tmp_path / "file", server))
