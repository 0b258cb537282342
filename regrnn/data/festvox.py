"""Debian's package `festvox-ru`: recordings of one Russian speaker and their phones, out of the package or its folder.

A .deb is an `ar` archive with a tar archive `data.tar.*` in it. Nothing is extracted by the names in there: only files
of the expected folders with the expected kind of name are read, and written under names of our own making.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from regrnn.data.text import fingerprint
from regrnn.errors import RegrnnError

VOICE = "msu_ru_nsh_clunits"
"""The folder in the package that has `wav` and `lab` in it."""

INSIDE = f"usr/share/festival/voices/russian/{VOICE}"

FILES = 1240
"""620 recordings and as many alignments."""

SHA256 = "b2ed3b648049838905800d086007076ea70115e8d16719f205747a5423109c09"
"""Of the lines `sha256  kind/name` of all files, sorted by name: `tree_sum`."""

HOW = (
    "it is in Debian's package festvox-ru (179 MB): apt-get download festvox-ru, then regrnn fetch speech-ru --from "
    "festvox-ru_*.deb"
)

_NAME = re.compile(r"(wav|lab)/[A-Za-z0-9_-]{1,60}\.(wav|lab)")
_LARGEST = 1 << 24
_MOST = 4000
_BLOCK = 1 << 18
_DAMAGED = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError)


def install(source: Path | None, folder: Path) -> dict[str, str]:
    """Put the recordings and alignments into `folder/wav` and `folder/lab`; what was done for each of the two.

    `source` is the .deb, the folder that `dpkg-deb -x` made of it, or the voice's folder in there. All files are
    checked together before `folder` appears, so that nothing is ever left half installed.

    Raises:
        RegrnnError: there is no source, it is something else or damaged, or `folder` holds other files.
    """
    if folder.is_dir() and any(folder.iterdir()):
        if tree_sum(folder) == SHA256:
            return {"wav": "kept", "lab": "kept"}
        raise RegrnnError(f"{folder}: holds other files than the package's; move it away")
    if source is None:
        raise RegrnnError(f"speech-ru cannot be downloaded by itself; {HOW}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise RegrnnError(f"{folder}: {error.strerror or error}") from None
    try:
        count = 0
        for name, content in _members(source):
            count += 1
            if count > _MOST:
                raise RegrnnError(f"{source}: has more files than the package festvox-ru")
            _write(content, temporary / name)
        if count == 0:
            raise RegrnnError(f"{source}: no {VOICE}/wav and {VOICE}/lab in there; {HOW}")
        if tree_sum(temporary) != SHA256:
            raise RegrnnError(
                f"{source}: {count:,} files, which are not the {FILES:,} of festvox-ru 0.5 (their checksum is another)"
                "; nothing was kept"
            )
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    except _DAMAGED as error:
        raise RegrnnError(f"{source}: the package is damaged or cut short ({error}); download it again") from None
    except OSError as error:
        raise RegrnnError(f"{source}: cannot be copied to {folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {"wav": "copied", "lab": "copied"}


def tree_sum(folder: Path) -> str:
    """SHA-256 of the names and checksums of the recordings and alignments in `folder`."""
    files = sorted(f"{kind}/{path.name}" for kind in ("lab", "wav") for path in folder.glob(f"{kind}/*.{kind}"))
    total = hashlib.sha256()
    for name in files:
        total.update(f"{fingerprint(folder / name)}  {name}\n".encode())
    return total.hexdigest()


def _members(source: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """`wav/NAME.wav` and `lab/NAME.lab`, open for reading."""
    if source.is_dir():
        voice = next((p for p in (source, source / VOICE, source / INSIDE) if (p / "wav").is_dir()), source)
        for kind in ("lab", "wav"):
            for path in sorted(voice.glob(f"{kind}/*.{kind}")):
                if _NAME.fullmatch(f"{kind}/{path.name}") and path.is_file():
                    with path.open("rb") as file:
                        yield f"{kind}/{path.name}", file
        return
    if not source.is_file():
        raise RegrnnError(f"{source}: no such folder or package")
    with source.open("rb") as file:
        part = _data_part(source, file)
        try:
            archive = tarfile.open(fileobj=part, mode="r|*")  # noqa: SIM115 (closed below)
        except tarfile.ReadError:
            raise RegrnnError(
                f"{source}: its data are damaged, or packed in a way that this Python cannot read; unpack it with "
                "dpkg-deb -x and give the folder"
            ) from None
        with archive:
            for member in archive:
                place = PurePosixPath(member.name)
                name = "/".join(place.parts[-2:])
                if not (member.isreg() and place.parent.parent.name == VOICE and _NAME.fullmatch(name)):
                    continue
                if content := archive.extractfile(member):
                    yield name, content


class _Part:
    """So many bytes of a file, to be read in order."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file = file
        self.left = size

    def read(self, count: int) -> bytes:
        block = self.file.read(min(count, self.left))
        self.left -= len(block)
        return block


def _data_part(source: Path, file: IO[bytes]) -> IO[bytes]:
    """The tar archive in a .deb: of each part of an `ar` archive there are a header of 60 bytes and its bytes."""
    wrong = RegrnnError(f"{source}: neither a folder nor a Debian package (.deb); {HOW}")
    if file.read(8) != b"!<arch>\n":
        raise wrong
    while header := file.read(60):
        size = header[48:58].strip()
        if len(header) != 60 or header[58:] != b"`\n" or not size.isdigit():
            raise RegrnnError(f"{source}: the package is damaged; download it again")
        if header[:16].startswith(b"data.tar"):
            return _Part(file, int(size))  # type: ignore[return-value]
        file.seek(int(size) + int(size) % 2, os.SEEK_CUR)
    raise wrong


def _write(content: IO[bytes], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    size = 0
    with path.open("wb") as file:
        while block := content.read(_BLOCK):
            size += len(block)
            if size > _LARGEST:
                raise RegrnnError(f"{path.name} is larger than any file of the package")
            file.write(block)
