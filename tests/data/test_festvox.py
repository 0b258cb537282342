"""`regrnn fetch speech-ru`: Debian's package or its folder, whole and right or not there."""

import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from regrnn.cli.main import run
from regrnn.data import festvox
from regrnn.data.fetch import fetch
from regrnn.data.locate import locate_data
from regrnn.errors import RegrnnError

FILES = {
    "lab/ru_0001.lab": b"#\n0.5 125 pau\n",
    "lab/ru_0002.lab": b"#\n0.7 125 a\n",
    "wav/ru_0001.wav": b"RIFF one",
    "wav/ru_0002.wav": b"RIFF two" * 9000,
}

Deb = Callable[..., Path]


def ar(path: Path, *members: tuple[str, bytes]) -> Path:
    parts = [b"!<arch>\n"]
    for name, content in members:
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
        parts.append(content + b"\n" * (len(content) % 2))
    path.write_bytes(b"".join(parts))
    return path


@pytest.fixture
def deb(tmp_path: Path) -> Deb:
    """A package of these files; `strange` are members of its tar archive with names as they stand."""

    def build(files: dict[str, bytes] = FILES, strange: tuple[tuple[str, bytes, bytes], ...] = ()) -> Path:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:xz", preset=0) as archive:
            for name, content, kind in strange:
                member = tarfile.TarInfo(name)
                member.type = kind
                member.linkname = "/etc/passwd" if kind == tarfile.SYMTYPE else ""
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            for name, content in files.items():
                member = tarfile.TarInfo(f"./{festvox.INSIDE}/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        # An odd size before the data: parts begin at even places.
        control = ("control.tar.xz", b"odd")
        return ar(
            tmp_path / "festvox-ru_0.5.deb", ("debian-binary", b"2.0\n"), control, ("data.tar.xz", buffer.getvalue())
        )

    return build


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The small package stands for the real one."""
    for name, content in FILES.items():
        path = tmp_path / "known" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    monkeypatch.setattr(festvox, "SHA256", festvox.tree_sum(tmp_path / "known"))
    monkeypatch.setenv("REGRNN_DATA", str(tmp_path / "data"))


def installed(tmp_path: Path) -> dict[str, bytes]:
    """All that is in the data folder, hidden files too."""
    root = tmp_path / "data"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


ALL = {f"speech-ru/{name}": content for name, content in FILES.items()}


def test_the_package(deb: Deb, tmp_path: Path) -> None:
    fetched = fetch("speech-ru", root=tmp_path / "data", source=deb())
    assert dict(fetched.files) == {"wav": "copied", "lab": "copied"}
    assert installed(tmp_path) == ALL
    assert locate_data("speech-ru") == fetched.folder
    # Again, with and without the package: it is there and right.
    for source in (None, tmp_path / "nowhere"):
        assert dict(fetch("speech-ru", root=tmp_path / "data", source=source).files) == {"wav": "kept", "lab": "kept"}


@pytest.mark.parametrize("inner", [festvox.INSIDE, festvox.VOICE, "."])
def test_its_folder(inner: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / inner).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "known").rename(tree / inner)
    (tree / inner / "wav" / "notes.txt").write_text("not a recording")
    (tree / inner / "etc").mkdir()
    fetch("speech-ru", root=tmp_path / "data", source=tree)
    assert installed(tmp_path) == ALL


def test_nothing_is_written_where_an_archive_says(deb: Deb, tmp_path: Path) -> None:
    voice = f"./{festvox.INSIDE}"
    attacks = (
        ("../../evil.wav", b"x", tarfile.REGTYPE),
        (f"{voice}/wav/../../../evil.wav", b"x", tarfile.REGTYPE),
        (f"{voice}/wav/.hidden.wav", b"x", tarfile.REGTYPE),
        (f"{voice}/wav/ru_0003.wav", b"", tarfile.SYMTYPE),
        (f"{voice}/wav", b"", tarfile.SYMTYPE),
        ("/tmp/wav/ru_0009.wav", b"x", tarfile.REGTYPE),
    )
    fetch("speech-ru", root=tmp_path / "data", source=deb(strange=attacks))
    assert installed(tmp_path) == ALL
    assert not any(path.is_symlink() for path in (tmp_path / "data").rglob("*"))


def refusal(source: Path | None, tmp_path: Path) -> str:
    with pytest.raises(RegrnnError) as caught:
        fetch("speech-ru", root=tmp_path / "data", source=source)
    assert installed(tmp_path) == {}
    root = tmp_path / "data"
    assert not root.exists() or list(root.iterdir()) == []
    return str(caught.value)


def test_other_files_are_refused(deb: Deb, tmp_path: Path) -> None:
    changed = FILES | {"lab/ru_0002.lab": b"#\n0.8 125 a\n"}
    assert "4 files, which are not the 1,240 of festvox-ru" in refusal(deb(changed), tmp_path)
    less = {name: content for name, content in FILES.items() if "0001" in name}
    assert "2 files, which are not" in refusal(deb(less), tmp_path)
    assert "no msu_ru_nsh_clunits/wav" in refusal(deb({}), tmp_path)
    (tmp_path / "empty").mkdir()
    assert "no msu_ru_nsh_clunits/wav" in refusal(tmp_path / "empty", tmp_path)
    assert "no such folder or package" in refusal(tmp_path / "nowhere", tmp_path)


def test_a_bomb_is_not_unpacked(deb: Deb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(festvox, "_LARGEST", 20_000)
    assert "ru_0002.wav is larger than any file of the package" in refusal(deb(), tmp_path)
    monkeypatch.setattr(festvox, "_LARGEST", 1 << 24)
    monkeypatch.setattr(festvox, "_MOST", 3)
    assert "has more files than the package" in refusal(deb(), tmp_path)


def test_damaged_packages_are_refused(deb: Deb, tmp_path: Path) -> None:
    whole = deb().read_bytes()
    path = tmp_path / "damaged.deb"
    for content, message in (
        (b"", "neither a folder nor a Debian package"),
        (b"PK\x03\x04 a zip", "neither a folder nor a Debian package"),
        (whole[:-300], "damaged"),
        (whole[:100], "damaged"),
        (whole[:400] + bytes(len(whole) - 400), "damaged"),
        (whole.replace(b"data.tar.xz", b"date.tar.xz"), "neither a folder nor a Debian package"),
    ):
        path.write_bytes(content)
        assert message in refusal(path, tmp_path)
    ar(path, ("data.tar.zst", b"\x28\xb5\x2f\xfd" + bytes(600)))
    assert "unpack it with dpkg-deb -x" in refusal(path, tmp_path)
    ar(path, ("data.tar.xz", lzma.compress(b"not a tar archive" * 100)))
    assert "damaged" in refusal(path, tmp_path)


def test_what_lies_there_already_is_left_alone(deb: Deb, tmp_path: Path) -> None:
    own = tmp_path / "data" / "speech-ru" / "mine.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(RegrnnError, match="speech-ru: holds other files than the package's; move it away"):
        fetch("speech-ru", root=tmp_path / "data", source=deb())
    assert installed(tmp_path) == {"speech-ru/mine.txt": b"mine"}


def test_the_command(deb: Deb, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fetch", "speech-ru"]) == 1
    assert "Debian's package festvox-ru (179 MB): apt-get download festvox-ru, then" in capsys.readouterr().err
    assert run(["fetch", "speech-ru", "--from", str(deb())]) == 0
    out = capsys.readouterr().out
    assert "copied" in out and "Shmyrev" in out and out.endswith("Next:  regrnn train speech-ru --data speech-ru\n")
