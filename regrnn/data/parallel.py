"""Finding the two sides of a parallel corpus and reading them line by line, in flat memory.

A corpus is a folder or a file:

- two aligned text files for each split, whose last suffix is the language: `train.de` and `train.en`, `val.de`, ...;
- a TSV for each split (`train.tsv`), a pair on each line; or one TSV for all, which is cut in three;
- JSON lines likewise (`train.jsonl`), an object on each line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from regrnn.data.text import SPLITS, STEMS, TextSource, cut_in_three, whole_file
from regrnn.errors import RegrnnError

TABLES = (".tsv", ".jsonl")


@dataclass(frozen=True)
class TsvColumn(TextSource):
    """One column of a file of tab-separated values; quotes are characters like any other."""

    column: int
    """Counted from 1."""

    def __iter__(self) -> Iterator[str]:
        """Yield the cell of each line. Raises RegrnnError, also for a line with too few."""
        for position, line in self._lines():
            cells = line.split("\t")
            if len(cells) < max(self.column, 2):
                raise RegrnnError(
                    f"{self.place(position)}: has {len(cells)} column{'s' if len(cells) > 1 else ''} and should have "
                    f"at least {max(self.column, 2)}, with a tab between them"
                )
            yield cells[self.column - 1]

    @property
    def part(self) -> list[int | str]:
        return [*super().part, "tsv", self.column]


@dataclass(frozen=True)
class JsonField(TextSource):
    """One field of the object on each line, or of the object that it has as `translation`."""

    field: str

    def __iter__(self) -> Iterator[str]:
        """Yield the field's text, white space in it made a blank. Raises RegrnnError for what has no such text."""
        for position, line in self._lines():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise RegrnnError(f"{self.place(position)}: not valid JSON ({error})") from None
            if isinstance(value, dict) and isinstance(value.get("translation"), dict):
                value = value["translation"]
            text = value.get(self.field) if isinstance(value, dict) else None
            if not isinstance(text, str):
                raise RegrnnError(
                    f"{self.place(position)}: has no text {self.field!r}; say with --data.source and --data.target "
                    "what the two sides are called"
                )
            try:
                text.encode()
            except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
                raise RegrnnError(f"{self.place(position)}: {self.field!r} is not text that UTF-8 can write") from None
            yield " ".join(text.split())

    @property
    def part(self) -> list[int | str]:
        return [*super().part, "json", self.field]


@dataclass(frozen=True)
class Parallel:
    """The two sides of a split, line by line."""

    source: TextSource
    target: TextSource


def find_parallel(
    path: Path, source: str, target: str, names: Mapping[str, str], splits: Sequence[str] = SPLITS
) -> dict[str, Parallel]:
    """The sides of the splits asked for under `path`.

    Args:
        path: a folder, or a .tsv or .jsonl file, which is cut in order into three parts as a text is.
        source, target: languages, the last suffix of two files for each split; of a TSV the numbers of columns, 1 and
            2 unless given; of JSON lines the keys, "source" and "target" unless given.
        names: of splits whose files have names of their own, what comes before the suffix.

    Raises:
        RegrnnError: nothing there, or not clear which.
    """
    if path.is_dir():
        return {split: _in_folder(path, split, names.get(split, ""), source, target) for split in splits}
    if not path.exists():
        raise RegrnnError(f"{path}: no such file or folder")
    if path.suffix not in TABLES or not path.is_file():
        raise RegrnnError(
            f"{path}: has no two sides; give a folder with two aligned text files for each split, or a .tsv or .jsonl"
        )
    return {split: _table(part, source, target) for split, part in cut_in_three(path).items() if split in splits}


def _in_folder(folder: Path, split: str, name: str, source: str, target: str) -> Parallel:
    try:
        files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise RegrnnError(f"{folder}: cannot be listed: {error.strerror}") from error
    tables = [file for suffix in TABLES for file in _named(files, split, name, suffix)]
    if tables:
        return _table(whole_file(_only(folder, tables, split)), source, target)
    languages = {file.suffix.removeprefix(".") for file in files if _named([file], split, name, file.suffix)}
    if not languages:
        shown = ", ".join(file.name for file in files[:12]) + (", ..." if len(files) > 12 else "")
        wanted = f"{name}.LANGUAGE" if name else f"{split}.LANGUAGE twice, {split}.tsv or {split}.jsonl"
        if split == "valid" and not name:
            wanted += " (or validation, val, dev in place of valid)"
        raise RegrnnError(
            f"{folder}: no {split} split; looked for {wanted}; found {shown or 'no files'}. Files of another name are "
            f"named with --data.{split}, without their suffix"
        )
    if not source or not target:
        raise RegrnnError(
            f"{folder}: say which language is read and which is written, with --data.source and --data.target; the "
            f"{split} split has {', '.join(sorted(languages))}"
        )
    sides = []
    for flag, language in (("source", source), ("target", target)):
        found = _named(files, split, name, f".{language}")
        if not found:
            raise RegrnnError(
                f"{folder}: the {split} split has no {language!r} (--data.{flag}); "
                f"it has {', '.join(sorted(languages))}"
            )
        sides.append(whole_file(_only(folder, found, split)))
    _check_two(source, target)
    return Parallel(*sides)


def _check_two(source: str, target: str) -> None:
    if source == target:
        raise RegrnnError(f"--data.source and --data.target are both {source!r}; they should be two sides")


def _named(files: Sequence[Path], split: str, name: str, suffix: str) -> list[Path]:
    """Files of a split with a suffix; if there is one called just `split`, that alone."""
    if name:
        return [file for file in files if file.name == name + suffix]
    stems, end = STEMS[split], re.escape(suffix)
    for pattern in (rf"(?:{stems}){end}", rf"(?:.+[._-])?(?:{stems})(?:[._-].+)?{end}"):
        found = [file for file in files if re.fullmatch(pattern, file.name, re.IGNORECASE)]
        if found:
            return found
    return []


def _only(folder: Path, found: Sequence[Path], split: str) -> Path:
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        of_one_name = len({file.stem for file in found}) == 1
        advice = "keep one of them" if of_one_name else f"name one with --data.{split}, without its suffix"
        raise RegrnnError(f"{folder}: several files could be the {split} split ({names}); {advice}")
    return found[0]


def _table(text: TextSource, source: str, target: str) -> Parallel:
    where = (text.path, text.start, text.end)
    if text.path.suffix == ".jsonl":
        source, target = source or "source", target or "target"
        _check_two(source, target)
        return Parallel(JsonField(*where, source), JsonField(*where, target))
    columns = []
    for flag, value, default in (("source", source, 1), ("target", target, 2)):
        if value and not (value.isascii() and value.isdigit() and 1 <= int(value) <= 1000):
            raise RegrnnError(f"--data.{flag} {value}: {text.path} is a TSV, whose columns are given by number, from 1")
        columns.append(int(value) if value else default)
    _check_two(*map(str, columns))
    return Parallel(TsvColumn(*where, columns[0]), TsvColumn(*where, columns[1]))
