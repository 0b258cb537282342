"""Finding the text of a corpus and reading it line by line, in flat memory.

A corpus has three splits: train, valid and test. They come from a folder with one file for each, or from a single file
that is cut in three. Lines end with ``\\n`` or ``\\r\\n``; text is UTF-8 and decoded strictly.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from regrnn.errors import RegrnnError

SPLITS = ("train", "valid", "test")
STEMS = {"train": "train", "valid": "valid|validation|val|dev", "test": "test"}
_LOOKED_FOR = "{0}.txt, *.{0}.txt, {0}.tokens, *.{0}.tokens, {0}.raw, *.{0}.raw or {0}"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class TextSource:
    """The lines of bytes ``start`` to ``end`` of a UTF-8 file; ``end`` is just past the last byte.

    Iterating yields lines without their line ends, as often as wanted. A byte order mark at the start of the
    file is skipped; a last line without a line end is a line like any other.
    """

    path: Path
    start: int
    end: int

    def __iter__(self) -> Iterator[str]:
        """Yield the lines.

        Raises:
            RegrnnError: a NUL byte or bytes that are not UTF-8 (naming the file, the line counted from 1, and
                the byte offset in the file counted from 0), or a file that cannot be read or has become
                shorter.
        """
        for _, line in self._lines():
            yield line

    @property
    def part(self) -> list[int | str]:
        """What tells the text from others of the same file, as JSON has it."""
        return [self.start, self.end]

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Where each line begins, and the line."""
        with _open(self.path) as file:
            position = _text_start(file) if self.start == 0 else self.start
            file.seek(position)
            while position < self.end:
                try:
                    raw = file.readline(self.end - position)
                except OSError as error:
                    raise RegrnnError(f"{self.path}: cannot be read: {error.strerror}") from error
                if not raw:
                    raise RegrnnError(f"{self.path}: became shorter while it was being read; start again")
                yield position, self._decode(raw, position)
                position += len(raw)

    def _decode(self, raw: bytes, position: int) -> str:
        invalid = None
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            invalid = error.start
        nul = raw.find(b"\0", 0, invalid)
        if nul >= 0:
            raise RegrnnError(
                f"{self.place(position + nul)}: a NUL byte; this is a binary file or UTF-16, not UTF-8 text"
            )
        if invalid is not None:
            raise RegrnnError(
                f"{self.place(position + invalid)}: not UTF-8 (0x{raw[invalid]:02x}); "
                "convert the file, for example with iconv -f latin1 -t utf-8"
            )
        return line.removesuffix("\n").removesuffix("\r") if line.endswith("\n") else line

    def place(self, offset: int) -> str:
        """The file, line number and byte offset of a fault; lines before it are counted only now."""
        line, left = 1, offset
        with _open(self.path) as file:
            while left > 0 and (block := file.read(min(left, _BLOCK))):
                line += block.count(b"\n")
                left -= len(block)
        return f"{self.path}: line {line}, byte {offset}"

    def place_of_line(self, index: int) -> str:
        """`place` of the beginning of a line, counted from 0 among those that iterating yields."""
        position, _ = next(itertools.islice(self._lines(), index, None))
        return self.place(position)


def find_text(path: Path, *, split: tuple[float, float, float] = (0.8, 0.1, 0.1)) -> dict[str, TextSource]:
    """The sources of ``train``, ``valid`` and ``test`` under ``path``.

    A folder has one file for each (``train.txt``, ``ptb.train.txt``, ``wiki.train.tokens``, ``train``, ...;
    validation may be called valid, validation, val or dev). A file is cut in order into three contiguous
    parts: each cut is at the given fraction of its bytes, moved forward to the next line end, so the file is
    never scanned.

    Args:
        path: a folder or a regular file.
        split: fractions of a single file, in the order train, valid, test; all positive, their sum 1.

    Raises:
        RegrnnError: nothing there; a split missing or present twice; an empty file; too few lines for three
            parts.
        ValueError: fractions that are not positive or do not add up to 1.
    """
    if len(split) != 3 or min(split) <= 0 or not math.isclose(sum(split), 1, abs_tol=1e-9):
        raise ValueError(f"split must be three positive fractions that add up to 1, not {split}")
    if path.is_dir():
        return {name: whole_file(_file_of(path, name)) for name in SPLITS}
    if path.is_file():
        return cut_in_three(path, split)
    if path.exists():
        raise RegrnnError(f"{path}: neither a folder nor a regular file; give a folder or a text file")
    raise RegrnnError(f"{path}: no such file or folder")


def describe(sources: Mapping[str, TextSource]) -> str:
    """One line that says where the splits come from and, for a file cut in parts, by which rule."""
    paths = {source.path for source in sources.values()}
    if len(paths) > 1 or len(sources) == 1:
        return ", ".join(f"{name} {source.path}" for name, source in sources.items())
    whole = sum(source.end - source.start for source in sources.values())
    parts = ", ".join(
        f"{name} bytes {source.start:,} to {source.end:,} ({(source.end - source.start) / whole:.1%})"
        for name, source in sources.items()
    )
    return f"{paths.pop()} cut in order at the first line ends past the fractions asked for: {parts}"


def fingerprint(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal, read in blocks."""
    with _open(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise RegrnnError(f"{path}: cannot be read: {error.strerror}") from error


def read_lines(file: Path) -> list[str]:
    """The lines of a text file, or of standard input where `file` is `-`. Raises RegrnnError for what is no text."""
    if str(file) != "-":
        if file.is_file():
            return list(TextSource(file, 0, file.stat().st_size))
        reason = "not a regular file; give a text file, or - for standard input" if file.exists() else "no such file"
        raise RegrnnError(f"{file}: {reason}")
    # As bytes: what `sys.stdin` makes of what is not UTF-8 depends on the locale.
    raw = sys.stdin.buffer.read().removeprefix(codecs.BOM_UTF8)
    try:
        text, fault = raw.decode("utf-8"), raw.find(b"\0")
    except UnicodeDecodeError as error:
        text, fault = "", error.start
    if fault >= 0:
        line = raw.count(b"\n", 0, fault) + 1
        raise RegrnnError(
            f"standard input: line {line}, byte {fault}: not UTF-8 text; convert it, for example with iconv"
        )
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def count_words(source: TextSource) -> int:
    """Words between white space, and one end of line for each line: what a per-word perplexity divides by."""
    return sum(len(line.split()) + 1 for line in source)


def count_characters(source: TextSource) -> int:
    """Unicode characters, and one newline for each line: what bits per character divide by."""
    return sum(len(line) + 1 for line in source)


def _open(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise RegrnnError(f"{path}: cannot be opened: {error.strerror}") from error


def _text_start(file: BufferedReader) -> int:
    """Where the text begins: past the byte order mark, if there is one."""
    file.seek(0)
    return len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0


def _text_range(path: Path) -> tuple[int, int]:
    with _open(path) as file:
        start, end = _text_start(file), path.stat().st_size
    if start == end:
        raise RegrnnError(f"{path}: the file is empty")
    return start, end


def whole_file(path: Path) -> TextSource:
    """All lines of a file. Raises RegrnnError if it is empty or cannot be read."""
    return TextSource(path, 0, _text_range(path)[1])


def _file_of(folder: Path, split: str) -> Path:
    name = re.compile(rf"(?:(?:.+\.)?(?:{STEMS[split]})\.(?:txt|tokens|raw)|{STEMS[split]})", re.IGNORECASE)
    try:
        files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise RegrnnError(f"{folder}: cannot be listed: {error.strerror}") from error
    found = [file for file in files if name.fullmatch(file.name)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file in found)
        raise RegrnnError(f"{folder}: several files could be the {split} split ({names}); leave one")
    looked_for = _LOOKED_FOR.format(split)
    if split == "valid":
        looked_for += " (or validation, val, dev in place of valid)"
    shown = ", ".join(file.name for file in files[:12]) + (", ..." if len(files) > 12 else "")
    raise RegrnnError(
        f"{folder}: no {split} split; looked for {looked_for}; found {shown or 'no files'}. "
        "A single text file, given by its own name, is split for you"
    )


def cut_in_three(path: Path, split: tuple[float, float, float] = (0.8, 0.1, 0.1)) -> dict[str, TextSource]:
    """A file cut in order into train, valid and test, as `find_text` says."""
    start, end = _text_range(path)
    with _open(path) as file:
        first = _next_line(file, start + round(split[0] * (end - start)))
        second = _next_line(file, max(first + 1, start + round((split[0] + split[1]) * (end - start))))
    if not start < first < second < end:
        shares = "/".join(f"{100 * fraction:g}" for fraction in split)
        raise RegrnnError(
            f"{path}: too few lines to be split {shares} into train, valid and test at line ends "
            f"({end - start:,} bytes of text); give more lines, or a folder with a file for each split"
        )
    return {
        "train": TextSource(path, 0, first),
        "valid": TextSource(path, first, second),
        "test": TextSource(path, second, end),
    }


def _next_line(file: BufferedReader, offset: int) -> int:
    """The first start of a line at or after ``offset`` (or the end of the file), found in blocks."""
    position = max(offset - 1, 0)
    file.seek(position)
    while block := file.read(_BLOCK):
        found = block.find(b"\n")
        if found >= 0:
            return position + found + 1
        position += len(block)
    return position
