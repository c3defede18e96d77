"""`fetch` against a server on loopback that serves a phantom's archive, well and badly."""

import errno
import hashlib
import shutil
import stat
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest

from btxrd.data import read_table
from btxrd.extras.phantom import make_phantom
from btxrd.runner.fetch import FetchError, fetch

N_IMAGES = 80


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server, wanted = self.server, self.headers["Range"]
        server.requests.append(wanted)
        if server.status:
            self.send_error(server.status.pop(0))
            return
        start = int(wanted[len("bytes=") : -1]) if wanted and server.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.body) - start))
        self.end_headers()
        server.cuts_left -= 1
        end = server.cut_at if server.cuts_left >= 0 else None
        self.wfile.write(server.body[start:end])
        if server.stalls:
            server.released.wait(10)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """What the next answers are like, and the `Range` headers of the requests so far."""

    def __init__(self, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = body
        self.ranges = True
        self.status: list[int] = []
        self.cut_at: int | None = None
        self.cuts_left = 0
        self.stalls = False
        self.released = threading.Event()
        self.requests: list[str | None] = []

    @property
    def md5(self) -> str:
        return hashlib.md5(self.body).hexdigest()

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are what these tests are about."""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom without its sidecar: what the release looks like, unpacked by hand."""
    root = tmp_path_factory.mktemp("release") / "BTXRD"
    make_phantom(root, n_images=N_IMAGES, workers=1, scale=0.1)
    (root / "phantom.json").unlink()
    return root


@pytest.fixture(scope="module")
def archive(release: Path) -> bytes:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as target:
        target.writestr("__MACOSX/BTXRD/._dataset.xlsx", b"fork")
        target.writestr("BTXRD/~$dataset.xlsx", b"locked by a spreadsheet")
        target.writestr("BTXRD/Annotations/Annotations/only-nested.json", b"{}")
        for file in sorted(release.rglob("*.json")):
            target.writestr(f"BTXRD/Annotations/Annotations/{file.name}", b"an old copy")
        for file in sorted(release.rglob("*")):
            target.write(file, Path("BTXRD") / file.relative_to(release))
    return packed.getvalue()


@pytest.fixture
def server(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("btxrd.runner.fetch.time.sleep", lambda _: None)
    with Server(archive) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "BTXRD"


def _fetch(root: Path, server: Server, **changes: object) -> Path:
    url = f"http://127.0.0.1:{server.server_port}/files/50653575"
    given = {"url": url, "md5": server.md5, "progress": False, "timeout": 5, "retries": 1}
    return fetch(root, **(given | changes))


def _fault(root: Path, server: Server, **changes: object) -> str:
    with pytest.raises(FetchError) as caught:
        _fetch(root, server, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _beside(root: Path) -> set[str]:
    return {path.name for path in root.parent.iterdir()} - {".BTXRD.fetch.lock"}


def _zip_of(name: str | zipfile.ZipInfo, content: bytes, after: bytes = b"") -> bytes:
    packed = BytesIO(after)
    with zipfile.ZipFile(packed, "a") as target:
        target.writestr(name, content)
    return packed.getvalue()


@pytest.mark.parametrize("known", [True, False])
def test_a_whole_archive_becomes_the_releases_layout_once(root, server, release, known):
    root.mkdir(parents=True)
    leftover = root.parent / ".BTXRD.fetching" / "half.jpeg"
    leftover.parent.mkdir()
    leftover.write_text("of a call that was killed")
    assert _fetch(root, server, **({} if known else {"md5": None})) == root
    expected = {path.relative_to(release): path for path in release.rglob("*") if path.is_file()}
    found = {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
    assert found.keys() - expected.keys() == {Path("Annotations/only-nested.json")}
    assert all(found[name].read_bytes() == file.read_bytes() for name, file in expected.items())
    assert len(read_table(root)) == N_IMAGES
    assert _beside(root) == {"BTXRD"}
    _fetch(root, server)
    assert len(server.requests) == 1


@pytest.mark.parametrize("wrapper", ["", "BTXRD"])
def test_data_unzipped_by_hand_are_complete(root, server, release, wrapper):
    shutil.copytree(release, root / wrapper)
    _fetch(root, server)
    assert not server.requests


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / "images" / "IMG000004.jpeg").unlink(), "(IMG000004.jpeg)"),
        (lambda root: (root / "dataset.xlsx").write_bytes(b"half"), "not the whole data set"),
        (lambda root: (root / "phantom.json").write_text("{}"), "phantom"),
    ],
    ids=["incomplete", "broken", "phantom"],
)
def test_data_that_are_not_the_release_are_named_and_left_alone(
    root, server, release, change, said
):
    shutil.copytree(release, root)
    change(root)
    before = sorted(root.rglob("*"))
    assert said in _fault(root, server)
    assert sorted(root.rglob("*")) == before
    assert not server.requests


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_transfer_goes_on_or_starts_over(root, server, ranges):
    server.ranges, server.cut_at, server.cuts_left = ranges, len(server.body) // 2, 1
    _fetch(root, server, progress=True)
    first, second = server.requests
    assert first is None
    assert int(second.removeprefix("bytes=").removesuffix("-")) > 0
    assert len(read_table(root)) == N_IMAGES


def test_a_transfer_that_is_always_cut_says_how_much_came_and_goes_on_later(root, server):
    server.cut_at, server.cuts_left = 200_000, 2
    line = _fault(root, server)
    (part,) = root.parent.glob("*.part")
    came = part.stat().st_size
    assert f"{came:,} of {len(server.body):,} bytes" in line
    assert not root.exists()
    _fetch(root, server)
    assert server.requests[-1] == f"bytes={came}-"
    assert _beside(root) == {"BTXRD"}


def test_a_changed_byte_is_refused_and_the_next_call_starts_afresh(root, server):
    md5, body = server.md5, server.body
    server.body = body[:1000] + bytes([body[1000] ^ 1]) + body[1001:]
    line = _fault(root, server, md5=md5)
    assert md5 in line
    assert server.md5 in line
    assert _beside(root) == set()
    server.body = body
    _fetch(root, server)
    assert server.requests == [None, None]


def test_a_servers_hiccup_is_retried(root, server):
    server.status = [503]
    _fetch(root, server)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("answers", "given", "said"),
    [
        ({"status": [404]}, {}, "404 Not Found"),
        ({"status": [202]}, {}, "202 Accepted"),
        ({"stalls": True}, {"timeout": 0.3, "retries": 0}, "sent nothing for 0.3 s"),
        ({}, {"url": "http://127.0.0.1:9/BTXRD.zip"}, "cannot reach 127.0.0.1"),
        ({}, {"url": "BTXRD.zip"}, "https://"),
        ({"body": b"<html>Please accept our cookies</html>"}, {"md5": None}, "damaged"),
        ({"body": _zip_of("readme.txt", b"")}, {"md5": None}, "no dataset.xlsx"),
    ],
)
def test_a_fault_is_told_at_once_in_one_line(root, server, answers, given, said):
    for name, value in ({"cut_at": 150_000, "cuts_left": 9} | answers).items():
        setattr(server, name, value)
    assert said in _fault(root, server, **given)
    assert len(server.requests) <= 1
    assert all(name.endswith(".part") == server.stalls for name in _beside(root))


def test_an_archive_without_its_images_is_refused(root, server, release):
    server.body = _zip_of("dataset.xlsx", (release / "dataset.xlsx").read_bytes())
    assert "images and annotations are missing" in _fault(root, server)
    assert _beside(root) == set()


def test_too_little_room_is_seen_before_the_transfer(root, server, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    line = _fault(root, server)
    assert f"{len(server.body) / 1e6:.1f} MB needed, 0.0 MB were free" in line
    assert not root.exists()


def test_a_disk_that_fills_up_while_unpacking_leaves_only_the_archive(root, server, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        line = _fault(root, server)
    assert "no room" in line
    assert _beside(root) == {"BTXRD.zip.part"}
    server.status = [416]
    _fetch(root, server)
    assert server.requests == [None, f"bytes={len(server.body)}-"]
    assert _beside(root) == {"BTXRD"}


def _link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    "entry",
    ["../../outside", "/outside", "C:\\outside", "BTXRD\\..\\..\\outside", _link("BTXRD/l")],
    ids=["parent", "absolute", "drive", "backslash", "link"],
)
def test_no_entry_leaves_the_folder(root, server, tmp_path, entry):
    server.body = _zip_of(entry, b"/etc", after=server.body)
    _fetch(root, server)
    assert _beside(root) == {"BTXRD"}
    assert not any(path.is_symlink() for path in root.rglob("*"))
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    assert not Path("/outside").exists()


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
    assert "cannot fill" in _fault(tmp_path / "file" / "BTXRD", server)
    assert f"{tmp_path / 'file'}: Not a directory" in _fault(tmp_path / "file", server)
