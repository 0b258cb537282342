import contextlib
import errno
import hashlib
import io
import json
import os
import stat
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cyclopts
import pytest

from regrnn.cli.fetch import fetch as fetch_command
from regrnn.data import fetch as fetch_module
from regrnn.data.fetch import DATASETS, DataFile, Dataset, fetch
from regrnn.errors import RegrnnError

FILES = {"a.txt": bytes(range(256)) * 1200, "b.txt": b"the second file\n"}
A, B = FILES.values()


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        name: DataFile(size=len(content), sha256=hashlib.sha256(content).hexdigest()) for name, content in FILES.items()
    }
    monkeypatch.setitem(
        DATASETS,  # type: ignore[arg-type]
        "small",
        Dataset(about="two files", terms="free", base_url="http://127.0.0.1:9/", files=files, recipe="r"),
    )
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


class Server(ThreadingHTTPServer):
    """Serves FILES, with faults.

    Attributes:
        files: what is served under each name.
        cut: stop after so many bytes of a body.
        ranges: whether Range is honoured.
        stated: whether Content-Length is sent.
        requests: name and Range of each request, and how many bytes of body it was sent.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(FILES)
        self.cut: int | None = None
        self.ranges = True
        self.stated = True
        self.requests: list[tuple[str, str | None, int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.removeprefix("/data/")
        wanted = self.headers["Range"]
        if name not in self.server.files:
            self.server.requests.append((name, wanted, 0))
            self.send_error(404)
            return
        body = self.server.files[name]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start >= len(body):
            self.server.requests.append((name, wanted, 0))
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if self.server.stated:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        sent = body[start:][: self.server.cut]
        self.server.requests.append((name, wanted, len(sent)))
        with contextlib.suppress(ConnectionError):  # a client may have read enough
            self.wfile.write(sent)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()


def check(root: Path) -> None:
    """Both files are there and right, and nothing else is."""
    assert {path.name: path.read_bytes() for path in (root / "small").iterdir()} == FILES


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "small").iterdir())


def test_download(tmp_path: Path, server: Server) -> None:
    fetched = fetch("small", root=tmp_path / "new", base_url=server.url + "/")
    check(tmp_path / "new")
    assert fetched.folder == tmp_path / "new" / "small"
    assert dict(fetched.files) == {"a.txt": "downloaded", "b.txt": "downloaded"}
    assert server.requests == [("a.txt", None, len(A)), ("b.txt", None, len(B))]


def test_right_files_are_kept_and_wrong_ones_replaced(tmp_path: Path, server: Server) -> None:
    fetch("small", root=tmp_path, base_url=server.url)
    (tmp_path / "small" / "b.txt").write_bytes(B.swapcase())
    server.requests.clear()
    fetched = fetch("small", root=tmp_path, base_url=server.url)
    check(tmp_path)
    assert dict(fetched.files) == {"a.txt": "kept", "b.txt": "downloaded"}
    assert [name for name, _, _ in server.requests] == ["b.txt"]


@pytest.mark.parametrize("stated", [True, False])
def test_interruption_and_resumption(tmp_path: Path, server: Server, stated: bool) -> None:
    server.stated = stated
    server.cut = 98_304
    with pytest.raises(RegrnnError) as caught:
        fetch("small", root=tmp_path, base_url=server.url)
    message = str(caught.value)
    assert message.startswith(f"a.txt from {server.url}/a.txt: the download failed: ")
    assert message.endswith("; 98,304 bytes are kept, run this again to go on")
    assert names(tmp_path) == ["a.txt.part"]
    assert (tmp_path / "small" / "a.txt.part").read_bytes() == A[:98_304]

    server.cut = None
    server.requests.clear()
    fetch("small", root=tmp_path, base_url=server.url)
    check(tmp_path)
    assert server.requests[0] == ("a.txt", "bytes=98304-", len(A) - 98_304)


def test_interrupted_twice(tmp_path: Path, server: Server) -> None:
    for cut in (65_536, 73_728):
        server.cut = cut
        with pytest.raises(RegrnnError, match="run this again to go on"):
            fetch("small", root=tmp_path, base_url=server.url)
    assert (tmp_path / "small" / "a.txt.part").read_bytes() == A[:139_264]
    server.cut = None
    fetch("small", root=tmp_path, base_url=server.url)
    check(tmp_path)
    assert server.requests[2] == ("a.txt", "bytes=139264-", len(A) - 139_264)


def test_server_without_ranges(tmp_path: Path, server: Server) -> None:
    server.cut = 8192 + 5
    with pytest.raises(RegrnnError, match="the download failed"):
        fetch("small", root=tmp_path, base_url=server.url)
    server.cut = None
    server.ranges = False
    server.requests.clear()
    fetch("small", root=tmp_path, base_url=server.url)
    check(tmp_path)
    assert server.requests[0] == ("a.txt", "bytes=8192-", len(A))


def part(root: Path, content: bytes) -> None:
    (root / "small").mkdir()
    (root / "small" / "a.txt.part").write_bytes(content)


def test_part_of_another_file_is_thrown_away(tmp_path: Path, server: Server) -> None:
    part(tmp_path, b"something else")
    fetch("small", root=tmp_path, base_url=server.url)
    check(tmp_path)
    assert server.requests[:2] == [("a.txt", "bytes=14-", len(A) - 14), ("a.txt", None, len(A))]


def test_part_longer_than_the_file(tmp_path: Path, server: Server) -> None:
    part(tmp_path, A + b"more")
    fetch("small", root=tmp_path, base_url=server.url)
    check(tmp_path)
    assert server.requests[0] == ("a.txt", None, len(A))


def test_part_that_is_whole_needs_no_request(tmp_path: Path, server: Server) -> None:
    part(tmp_path, A)
    fetch("small", root=tmp_path, base_url=server.url)
    check(tmp_path)
    assert [name for name, _, _ in server.requests] == ["b.txt"]


def test_range_that_the_server_does_not_have(tmp_path: Path, server: Server) -> None:
    part(tmp_path, A[:2000])
    server.files["a.txt"] = A[:2000]
    with pytest.raises(RegrnnError, match="got 2,000 bytes with SHA-256"):
        fetch("small", root=tmp_path, base_url=server.url)
    assert server.requests == [("a.txt", "bytes=2000-", 0), ("a.txt", None, 2000)]
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [A[::-1], A[:5000], A + b"more", b"<html>sorry</html>"])
def test_wrong_file(tmp_path: Path, server: Server, content: bytes) -> None:
    server.files["a.txt"] = content
    with pytest.raises(RegrnnError) as caught:
        fetch("small", root=tmp_path, base_url=server.url)
    message = str(caught.value)
    assert message.startswith(f"a.txt from {server.url}/a.txt: not the known file: got ")
    assert hashlib.sha256(A).hexdigest() in message
    assert len(server.requests) == 1
    assert names(tmp_path) == []


def test_endless_body_is_cut_off(tmp_path: Path, server: Server) -> None:
    server.files["a.txt"] = A * 100
    with pytest.raises(RegrnnError, match="not the known file") as caught:
        fetch("small", root=tmp_path, base_url=server.url)
    got = int(str(caught.value).split("got ")[1].split()[0].replace(",", ""))
    assert len(A) < got <= len(A) + 8192


def test_wrong_file_does_not_touch_what_is_there(tmp_path: Path, server: Server) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "a.txt").write_bytes(b"mine")
    server.files["a.txt"] = b"bad"
    with pytest.raises(RegrnnError, match="not the known file"):
        fetch("small", root=tmp_path, base_url=server.url)
    assert (tmp_path / "small" / "a.txt").read_bytes() == b"mine"


def test_not_found(tmp_path: Path, server: Server) -> None:
    del server.files["b.txt"]
    with pytest.raises(RegrnnError) as caught:
        fetch("small", root=tmp_path, base_url=server.url)
    assert str(caught.value) == (f"b.txt from {server.url}/b.txt: the download failed: the server says 404 Not Found")
    assert names(tmp_path) == ["a.txt"]


def test_nobody_answers(tmp_path: Path, server: Server) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}"
    with pytest.raises(RegrnnError, match=rf"a\.txt from {url}/a\.txt: .*Connection refused"):
        fetch("small", root=tmp_path, base_url=url)


def test_no_url(tmp_path: Path) -> None:
    with pytest.raises(RegrnnError, match=r"a\.txt from nowhere/a\.txt: the download failed"):
        fetch("small", root=tmp_path, base_url="nowhere")


def full(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module.os, "fsync", full)
    with pytest.raises(RegrnnError, match=r"a\.txt from http.*: cannot be written: No space left"):
        fetch("small", root=tmp_path, base_url=server.url)
    assert "a.txt" not in names(tmp_path)
    (tmp_path / "there").mkdir()
    for name, content in FILES.items():
        (tmp_path / "there" / name).write_bytes(content)
    with pytest.raises(RegrnnError, match=r"there: cannot be copied to .*small: No space left"):
        fetch("small", root=tmp_path, source=tmp_path / "there")
    assert names(tmp_path) == ["a.txt.part"]


def test_keyboard_interrupt_keeps_the_part(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fetch_module.os, "fsync", interrupt)
        fetch("small", root=tmp_path, base_url=server.url)
    assert names(tmp_path) == ["a.txt.part"]
    fetch("small", root=tmp_path, base_url=server.url)
    check(tmp_path)


def test_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(RegrnnError, match=r"downloading needs pooch: pip install 'regrnn\[fetch\]'"):
        fetch("small", root=tmp_path)
    # Neither what is there already nor a copy needs it.
    (tmp_path / "there").mkdir()
    for name, content in FILES.items():
        (tmp_path / "there" / name).write_bytes(content)
    fetch("small", root=tmp_path, source=tmp_path / "there")
    assert set(fetch("small", root=tmp_path).files.values()) == {"kept"}


@pytest.mark.parametrize(("name", "hint"), [("pbt", "did you mean ptb"), ("zzz", "there is ptb")])
def test_unknown_name(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(RegrnnError, match=f"no data set '{name}'; {hint}"):
        fetch(name, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    with pytest.raises(RegrnnError, match=r"small: Not a directory"):
        fetch("small", root=tmp_path / "root")


def tar(path: Path, mode: str, members: dict[str, bytes], *others: tarfile.TarInfo) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for other in others:
            archive.addfile(other)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


INSIDE = {"simple/README": b"x", "simple/data/a.txt": A, "simple/data/b.txt": B}


@pytest.fixture(params=["folder", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz", "zip"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kind = request.param
    path = tmp_path / f"source.{kind}"
    if kind == "zip":
        return zipped(path, INSIDE)
    if kind == "folder":
        for name, content in INSIDE.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        return path
    return tar(path, "w:" + {"tar": "", "tgz": "gz"}.get(kind, kind.removeprefix("tar.")), INSIDE)


def test_from(tmp_path: Path, source: Path) -> None:
    fetched = fetch("small", root=tmp_path, source=source)
    check(tmp_path)
    assert set(fetched.files.values()) == {"copied"}
    mode = (tmp_path / "small" / "a.txt").stat().st_mode
    assert stat.S_IMODE(mode) & 0o600 == 0o600


def test_from_the_place_itself(tmp_path: Path) -> None:
    fetch("small", root=tmp_path, source=zipped(tmp_path / "x.zip", INSIDE))
    assert set(fetch("small", root=tmp_path, source=tmp_path / "small").files.values()) == {"kept"}
    check(tmp_path)


@pytest.mark.parametrize("kind", ["tar", "zip", "folder"])
def test_from_takes_the_right_one_of_several(tmp_path: Path, kind: str) -> None:
    members = {"x/a.txt": A[:-1], "y/a.txt": A, "z/a.txt": A + b"!", "b.txt": B}
    if kind == "folder":
        for name, content in members.items():
            (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / kind / name).write_bytes(content)
    elif kind == "tar":
        tar(tmp_path / kind, "w", members)
    else:
        zipped(tmp_path / kind, members)
    fetch("small", root=tmp_path, source=tmp_path / kind)
    check(tmp_path)


def test_hostile_archives_stay_inside(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "root"
    members = {"../../../a.txt": A, str(tmp_path / "b.txt"): B, "../../evil.txt": b"evil"}
    link = tarfile.TarInfo("a.txt")
    link.type = tarfile.SYMTYPE
    link.linkname = "/etc/passwd"
    device = tarfile.TarInfo("b.txt")
    device.type = tarfile.FIFOTYPE
    for archive in (tar(tmp_path / "x.tar", "w", members, link, device), zipped(tmp_path / "x.zip", members)):
        fetch("small", root=root, source=archive)
        check(root)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            {"deep", "x.tar", "x.zip"} & {p.name for p in tmp_path.iterdir()}
        )
        for path in (root / "small").iterdir():
            assert path.is_file()
            assert not path.is_symlink()
            path.unlink()


def test_links_in_a_tar_are_no_files(tmp_path: Path) -> None:
    link = tarfile.TarInfo("a.txt")
    link.type = tarfile.LNKTYPE
    link.linkname = "other"
    archive = tar(tmp_path / "x.tar", "w", {"b.txt": B, "other": A}, link)
    with pytest.raises(RegrnnError, match=r"x\.tar: no a\.txt with SHA-256 .* \(no such file in there\)"):
        fetch("small", root=tmp_path, source=archive)


def test_links_in_a_zip_are_no_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("a.txt")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, A)
        archive.writestr("b.txt", B)
    with pytest.raises(RegrnnError, match=r"no a\.txt .* \(no such file in there\)"):
        fetch("small", root=tmp_path, source=tmp_path / "x.zip")


def test_from_without_the_file_or_with_another(tmp_path: Path) -> None:
    with pytest.raises(RegrnnError, match=r"no b\.txt with SHA-256 \w+ \(no such file in there\)"):
        fetch("small", root=tmp_path, source=zipped(tmp_path / "x.zip", {"a.txt": A}))
    assert names(tmp_path) == ["a.txt"]
    with pytest.raises(RegrnnError, match=r"no b\.txt with .* \(d/b\.txt is another file\)"):
        fetch("small", root=tmp_path, source=zipped(tmp_path / "x.zip", {"d/b.txt": b"B"}))
    assert names(tmp_path) == ["a.txt"]


def test_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def hashing(content: bytes = b"") -> object:
        class Sum:
            def update(self, block: bytes) -> None:
                read.append(len(block))

            def hexdigest(self) -> str:
                return ""

        return Sum()

    monkeypatch.setattr(fetch_module.hashlib, "sha256", hashing)
    with pytest.raises(RegrnnError, match="is another file"):
        fetch("small", root=tmp_path, source=zipped(tmp_path / "x.zip", {"a.txt": bytes(10_000_000)}))
    assert sum(read) == len(A) + 1


@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz", "tar", "zip"])
@pytest.mark.parametrize("fault", ["short", "corrupt"])
def test_damaged_archives(tmp_path: Path, kind: str, fault: str) -> None:
    path = tmp_path / f"x.{kind}"
    noise = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(3000))
    members = {"c": noise, "b.txt": B, "a.txt": A}
    if kind == "zip":
        zipped(path, members)
    else:
        tar(path, "w:" + kind.removeprefix("tar").removeprefix("."), members)
    content = bytearray(path.read_bytes())
    if fault == "short":
        del content[len(content) * 2 // 3 :]
    else:
        middle = content.find(A[:200]) if kind == "tar" else len(content) - 900
        content[middle : middle + 30] = bytes(30)
    path.write_bytes(content)
    with pytest.raises(RegrnnError, match=r"x\."):
        fetch("small", root=tmp_path, source=path)
    assert "a.txt" not in names(tmp_path)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such folder or archive"), (b"just text", "neither a folder nor a .zip or .tar")],
)
def test_from_something_else(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    with pytest.raises(RegrnnError, match=f"x: {message}"):
        fetch("small", root=tmp_path, source=tmp_path / "x")


def run(*arguments: str) -> None:
    app = cyclopts.App(result_action="return_value")
    app.command(fetch_command, name="fetch")
    app(["fetch", *arguments], exit_on_error=False)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("REGRNN_DATA", str(tmp_path / "sets"))
    archive = str(zipped(tmp_path / "x.zip", INSIDE))
    run("small", "--from", archive)
    check(tmp_path / "sets")
    assert capsys.readouterr().out.splitlines() == [
        "small: two files",
        f"  copied      {tmp_path}/sets/small/a.txt",
        f"  copied      {tmp_path}/sets/small/b.txt",
        "Terms: free",
        "Next:  regrnn train r --data small",
    ]


def test_command_elsewhere_for_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REGRNN_DATA", str(tmp_path / "sets"))
    root = tmp_path / "my data"
    run("small", "--from", str(zipped(tmp_path / "x.zip", INSIDE)), "--root", str(root), "--json")
    check(root)
    assert json.loads(capsys.readouterr().out) == {
        "name": "small",
        "folder": f"{root}/small",
        "files": {"a.txt": "copied", "b.txt": "copied"},
        "terms": "free",
        "next": f"regrnn train r --data '{root}/small'",
    }


@pytest.mark.skipif("REGRNN_DATA" not in os.environ, reason="REGRNN_DATA is not set: no Penn Treebank")
def test_penn_treebank_is_the_one_of_all_replications(tmp_path: Path) -> None:
    folder = Path(os.environ["REGRNN_DATA"], "ptb")
    fetched = fetch("ptb", root=tmp_path, source=folder)
    assert set(fetched.files.values()) == {"copied"}
    content = (fetched.folder / "ptb.train.txt").read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    assert blob == "04d78dc94771b5c04adc40b3be08bd8c82942e7f"
