"""Corpora as flat files of token ids, encoded once, and the windows of truncated backpropagation over them.

Shape suffixes: T time steps, B batch rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
from numpy.typing import NDArray

from regrnn.data.text import TextSource, fingerprint
from regrnn.data.vocabulary import Vocabulary
from regrnn.errors import RegrnnError

# Part of the key of a cached corpus: raise it when the same vocabulary would give other ids, or the files
# change.
_FORMAT = 1
_RECORD = "corpus.json"
_UNFINISHED = ".unfinished-"
_FLUSH = 1 << 18  # tokens held in memory before they are written
_STALE = 24 * 3600  # seconds after which what a killed process left is swept away


@dataclass(frozen=True)
class _Counts:
    """What ``corpus.json`` says of one split."""

    tokens: int
    lines: int
    unknown: int
    words: int
    characters: int


@dataclass(frozen=True, eq=False)
class TokenStream:
    """One split as token ids, on disk.

    Attributes:
        split: its name.
        ids: uint16 or uint32, shape (tokens,), read-only and memory-mapped.
        lines: how many lines, that is, how many end marks were added.
        unknown: how many ids are ``<unk>``, be it in the text or in place of a word.
        words: words between white space plus one end of line for each line, whatever the vocabulary.
        characters: Unicode characters plus one newline for each line.
    """

    split: str
    ids: np.memmap[Any, np.dtype[Any]]
    lines: int
    unknown: int
    words: int
    characters: int

    def __len__(self) -> int:
        return len(self.ids)


def encode_corpus(sources: Mapping[str, TextSource], vocabulary: Vocabulary, cache_dir: Path) -> dict[str, TokenStream]:
    """Encode each split once and for all; later calls find the files in ``cache_dir``.

    A corpus is known by the contents of its files, the parts of them that are read, and the vocabulary; paths
    and dates do not count. It is written under a temporary name and renamed when it is whole, so processes
    may do this at the same time and be killed at any moment. A cached corpus whose files have the wrong size
    is encoded again.

    Args:
        sources: split name to text, as from `regrnn.data.text.find_text`.
        vocabulary: the vocabulary of the training text.
        cache_dir: the folder that holds cached corpora; it is made when missing.

    Raises:
        RegrnnError: text that cannot be read, or a cache that cannot be written.
    """
    # One for each file, though three splits may share it.
    digests = {path: fingerprint(path) for path in {source.path for source in sources.values()}}
    identity = {split: [digests[source.path], *source.part] for split, source in sorted(sources.items())}
    dtype: np.dtype[Any] = np.dtype(np.uint16 if vocabulary.size <= 1 << 16 else np.uint32)
    described = json.dumps([_FORMAT, identity, vocabulary.to_json()], sort_keys=True)
    folder = cache_dir / hashlib.sha256(described.encode()).hexdigest()

    cached = _open_corpus(folder, tuple(sources), dtype)
    if cached is not None:
        return cached
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        _sweep(cache_dir)
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=cache_dir))
        try:
            counts = {
                split: _encode(source, vocabulary, unfinished / f"{split}.bin", dtype)
                for split, source in sources.items()
            }
            record = {
                "dtype": dtype.name,
                "vocabulary_size": vocabulary.size,
                "fingerprints": identity,
                "splits": {split: asdict(count) for split, count in counts.items()},
            }
            with (unfinished / _RECORD).open("w", encoding="utf-8") as file:
                json.dump(record, file, indent=1)
                _to_disk(file)
            _sync_folder(unfinished)
            # Mapped before the rename: from here on nothing another process does can take the files away.
            streams = _open_corpus(unfinished, tuple(sources), dtype)
            if streams is None:
                raise RegrnnError(f"{unfinished}: not what was written to it a moment ago; check the disk")
            _move_into_place(unfinished, folder, tuple(sources), dtype)
            _sync_folder(cache_dir)
            return streams
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise RegrnnError(
            f"{cache_dir}: the encoded text cannot be written: {error.strerror or error}; "
            "make room there, or set REGRNN_CACHE to another folder"
        ) from error


class Windows(Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]):
    """The batches of truncated backpropagation through time, in the paper's contiguous order.

    With N tokens there are ``n = (N - 1) // B`` predictions for each row. Row b reads ``ids[b * n : (b + 1) *
    n]`` and predicts the token after each, so the state at the end of a window is the state at the start of
    the next. Windows are ``steps`` long; a shorter last one has the rest. Only the ``(N - 1) % B`` last
    predictions of the text are left out: none with batch size 1.

    Args:
        stream: the split to read.
        batch_size: rows B.
        steps: time steps T of a window.

    Attributes:
        row_length: predictions n of each row.
        predictions: predictions B * n of all windows together.

    Raises:
        RegrnnError: a text too short for one whole window.
        ValueError: ``batch_size`` or ``steps`` below 1.
    """

    def __init__(self, stream: TokenStream, batch_size: int, steps: int) -> None:
        if batch_size < 1 or steps < 1:
            raise ValueError(f"batch_size and steps must be at least 1, not {batch_size} and {steps}")
        self.batch_size = batch_size
        self.steps = steps
        self.row_length = (len(stream) - 1) // batch_size
        self.predictions = batch_size * self.row_length
        if self.row_length < steps:
            raise RegrnnError(
                f"the {stream.split} split has {len(stream):,} tokens; batch size {batch_size} and {steps} "
                f"steps need at least {batch_size * steps + 1:,}: lower the batch size or the steps, or give "
                "more text"
            )
        ids: NDArray[np.unsignedinteger[Any]] = np.asarray(stream.ids)
        self._inputs = ids[: self.predictions].reshape(batch_size, self.row_length)
        self._targets = ids[1 : self.predictions + 1].reshape(batch_size, self.row_length)

    def __len__(self) -> int:
        return -(-self.row_length // self.steps)

    @overload
    def __getitem__(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """Inputs x_TB and targets y_TB of window ``index``, both contiguous int64."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = index % len(self) * self.steps
        part = slice(start, start + self.steps)
        return (
            np.ascontiguousarray(self._inputs[:, part].T, dtype=np.int64),
            np.ascontiguousarray(self._targets[:, part].T, dtype=np.int64),
        )


def _encode(source: TextSource, vocabulary: Vocabulary, path: Path, dtype: np.dtype[Any]) -> _Counts:
    lines = words = characters = 0

    def counted() -> Iterator[str]:
        nonlocal lines, words, characters
        for line in source:
            lines += 1
            words += len(line.split()) + 1
            characters += len(line) + 1
            yield line

    tokens = unknown = 0
    with path.open("wb") as file:

        def write(ids: list[int]) -> None:
            nonlocal tokens, unknown
            array = np.array(ids, dtype=dtype)
            tokens += len(array)
            if vocabulary.unk_id is not None:
                unknown += int(np.count_nonzero(array == vocabulary.unk_id))
            file.write(array.data)

        pending: list[int] = []
        for ids in vocabulary.encode_lines(counted()):
            pending += ids
            if len(pending) >= _FLUSH:
                write(pending)
                pending.clear()
        write(pending)
        _to_disk(file)
    return _Counts(tokens, lines, unknown, words, characters)


def _open_corpus(folder: Path, splits: Sequence[str], dtype: np.dtype[Any]) -> dict[str, TokenStream] | None:
    """The streams of a cached corpus, or None if it is not there or not whole."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        streams = {}
        for split in splits:
            counts = _Counts(**record["splits"][split])
            path = folder / f"{split}.bin"
            if record["dtype"] != dtype.name or path.stat().st_size != counts.tokens * dtype.itemsize:
                return None
            ids = np.memmap(path, dtype=dtype, mode="r")
            streams[split] = TokenStream(split, ids, counts.lines, counts.unknown, counts.words, counts.characters)
    except (OSError, ValueError, KeyError, TypeError):
        # Missing, cut short or not ours: whichever, it is to be written anew.
        return None
    return streams


def _move_into_place(unfinished: Path, folder: Path, splits: Sequence[str], dtype: np.dtype[Any]) -> None:
    """Rename ``unfinished`` to ``folder``, unless another process has put a whole corpus there meanwhile."""
    while True:
        try:
            unfinished.rename(folder)
            return
        except OSError:
            # A folder with files in it cannot be renamed over.
            if not folder.exists():
                raise
        if _open_corpus(folder, splits, dtype) is not None:
            return
        damaged = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder.parent))
        with contextlib.suppress(FileNotFoundError):
            folder.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)


def _sweep(cache_dir: Path) -> None:
    """Remove what processes killed long ago have left."""
    for left in cache_dir.glob(_UNFINISHED + "*"):
        # Another process may sweep at the same time.
        with contextlib.suppress(FileNotFoundError):
            newest = max(path.stat().st_mtime for path in (left, *left.iterdir()))
            if time.time() - newest > _STALE:
                shutil.rmtree(left, ignore_errors=True)


def _to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
