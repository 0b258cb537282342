import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrnn.data import stream as stream_module
from regrnn.data.stream import TokenStream, Windows, encode_corpus
from regrnn.data.text import TextSource, count_characters, count_words, find_text
from regrnn.data.vocabulary import CharacterVocabulary, Vocabulary, WordVocabulary, build_vocabulary
from regrnn.errors import RegrnnError

TEXT = {"train": "a b b\n\nnew <unk> c a\n", "valid": "é a\n", "test": "b c\nlast line without an end"}


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, TextSource]:
    folder = tmp_path / "text"
    folder.mkdir()
    for split, text in TEXT.items():
        (folder / f"{split}.txt").write_text(text, encoding="utf-8", newline="")
    return find_text(folder)


@pytest.fixture
def words(sources: dict[str, TextSource]) -> WordVocabulary:
    return WordVocabulary.build(sources["train"])


def contents(streams: dict[str, TokenStream]) -> dict[str, list[int]]:
    return {split: stream.ids.tolist() for split, stream in streams.items()}


def expected(sources: dict[str, TextSource], vocabulary: Vocabulary) -> dict[str, list[int]]:
    return {split: [i for line in source for i in vocabulary.encode_line(line)] for split, source in sources.items()}


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


class Counting(CharacterVocabulary):
    """Counts how often a text is encoded, and runs something in the middle of it."""

    calls = 0
    meanwhile: Callable[[], object] | None = None

    def encode_lines(self, lines: Iterable[str]) -> Iterator[list[int]]:
        self.calls += 1
        for ids in super().encode_lines(lines):
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile:
                meanwhile()
            yield ids


@pytest.fixture
def counting(sources: dict[str, TextSource]) -> Counting:
    vocabulary = Counting.build(sources["train"])
    assert isinstance(vocabulary, Counting)
    return vocabulary


@pytest.mark.parametrize("kind", ["word", "character", "bpe"])
def test_streams_are_the_lines_and_their_ends(sources: dict[str, TextSource], tmp_path: Path, kind: str) -> None:
    vocabulary = build_vocabulary(kind, sources["train"])
    streams = encode_corpus(sources, vocabulary, tmp_path / "a" / "cache")
    assert list(streams) == ["train", "valid", "test"]
    assert contents(streams) == expected(sources, vocabulary)
    for split, stream in streams.items():
        assert stream.split == split
        assert len(stream) == len(stream.ids)
        assert stream.lines == len(list(sources[split]))
        assert stream.words == count_words(sources[split])
        assert stream.characters == count_characters(sources[split])
        assert stream.unknown == sum(vocabulary.is_unknown(i) for i in stream.ids.tolist())


def test_counts_of_words(sources: dict[str, TextSource], words: WordVocabulary, tmp_path: Path) -> None:
    streams = encode_corpus(sources, words, tmp_path / "cache")
    assert [stream.unknown for stream in streams.values()] == [1, 1, 5]
    assert [stream.lines for stream in streams.values()] == [3, 1, 2]
    assert [stream.words for stream in streams.values()] == [10, 3, 9]


def test_ids_are_read_only_and_mapped(sources: dict[str, TextSource], words: WordVocabulary, tmp_path: Path) -> None:
    ids = encode_corpus(sources, words, tmp_path / "cache")["train"].ids
    assert isinstance(ids, np.memmap)
    assert ids.dtype == np.uint16
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 1


@pytest.mark.parametrize(("types", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_the_largest_id_fits(sources: dict[str, TextSource], tmp_path: Path, types: int, dtype: type) -> None:
    vocabulary = WordVocabulary(["<unk>", "<eos>", *(f"w{i}" for i in range(types - 5)), "a", "b", "c"])
    streams = encode_corpus(sources, vocabulary, tmp_path / "cache")
    assert streams["train"].ids.dtype == dtype
    assert streams["train"].ids.max() == types - 1
    assert contents(streams) == expected(sources, vocabulary)


def test_encoded_once(sources: dict[str, TextSource], counting: Counting, tmp_path: Path) -> None:
    first = contents(encode_corpus(sources, counting, tmp_path / "cache"))
    assert counting.calls == 3
    moved = tmp_path / "moved"
    sources["train"].path.parent.rename(moved)
    assert contents(encode_corpus(find_text(moved), counting, tmp_path / "cache")) == first
    assert counting.calls == 3


def test_anything_that_counts_makes_another_corpus(
    sources: dict[str, TextSource], words: WordVocabulary, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    encode_corpus(sources, words, cache)
    lowercase = WordVocabulary.build(sources["train"], lowercase=True)
    assert lowercase.tokens(range(len(lowercase))) == words.tokens(range(len(words)))
    encode_corpus(sources, lowercase, cache)
    assert len(entries(cache)) == 2
    encode_corpus({"test": sources["test"]}, words, cache)
    assert len(entries(cache)) == 3
    part = TextSource(sources["train"].path, 0, 6)
    assert len(encode_corpus(sources | {"train": part}, words, cache)["train"]) == 4
    assert len(entries(cache)) == 4
    sources["valid"].path.write_text("b a\n")
    changed = encode_corpus(find_text(sources["train"].path.parent), words, cache)
    assert changed["valid"].ids.tolist() == words.encode_line("b a")
    assert len(entries(cache)) == 5


def test_three_parts_of_one_file(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("".join(f"line {i} of twenty\n" for i in range(20)))
    sources = find_text(path)
    vocabulary = build_vocabulary("word", sources["train"])
    streams = encode_corpus(sources, vocabulary, tmp_path / "cache")
    assert contents(streams) == expected(sources, vocabulary)
    assert [stream.lines for stream in streams.values()] == [17, 2, 1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: os.truncate(folder / "valid.bin", 3),
        lambda folder: os.truncate(folder / "train.bin", 0),
        lambda folder: (folder / "test.bin").unlink(),
        lambda folder: (folder / "corpus.json").unlink(),
        lambda folder: os.truncate(folder / "corpus.json", 40),
        lambda folder: (folder / "corpus.json").write_text("[]"),
        lambda folder: (folder / "corpus.json").write_text('{"dtype": "uint16", "splits": {"train": 1}}'),
        lambda folder: (folder / "corpus.json").write_bytes(b"\xff\xff"),
    ],
)
def test_damaged_cache_is_encoded_again(
    sources: dict[str, TextSource],
    counting: Counting,
    tmp_path: Path,
    damage: Callable[[Path], object],
) -> None:
    cache = tmp_path / "cache"
    whole = contents(encode_corpus(sources, counting, cache))
    damage(next(cache.iterdir()))
    assert contents(encode_corpus(sources, counting, cache)) == whole
    assert counting.calls == 6
    assert len(entries(cache)) == 1
    encode_corpus(sources, counting, cache)
    assert counting.calls == 6


def test_the_record(sources: dict[str, TextSource], words: WordVocabulary, tmp_path: Path) -> None:
    encode_corpus(sources, words, tmp_path / "cache")
    folder = next((tmp_path / "cache").iterdir())
    record = json.loads((folder / "corpus.json").read_text())
    assert record["dtype"] == "uint16"
    assert record["splits"]["train"] == {
        "tokens": 10,
        "lines": 3,
        "unknown": 1,
        "words": 10,
        "characters": len(TEXT["train"]),
    }
    assert entries(folder) == ["corpus.json", "test.bin", "train.bin", "valid.bin"]


KILLED = """
import os, signal, sys
from pathlib import Path
from regrnn.data.text import find_text
from regrnn.data.stream import encode_corpus
from regrnn.data.vocabulary import CharacterVocabulary

class Killed(CharacterVocabulary):
    def encode_lines(self, lines):
        for ids in super().encode_lines(lines):
            yield ids
            if next(iter(Path(sys.argv[2]).glob("*/valid.bin")), None):
                os.kill(os.getpid(), signal.SIGKILL)

sources = find_text(Path(sys.argv[1]))
encode_corpus(sources, Killed.build(sources["train"]), Path(sys.argv[2]))
"""


def test_killed_while_encoding(sources: dict[str, TextSource], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    folder = sources["train"].path.parent
    killed = subprocess.run([sys.executable, "-c", KILLED, folder, cache], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = entries(cache)
    assert len(left) == 1
    assert left[0].startswith(".unfinished-")

    vocabulary = CharacterVocabulary.build(sources["train"])
    assert contents(encode_corpus(sources, vocabulary, cache)) == expected(sources, vocabulary)
    # What was left may belong to a process at work, so it goes only when it is a day old.
    assert left[0] in entries(cache)
    yesterday = time.time() - 25 * 3600
    for path in [*(cache / left[0]).iterdir(), cache / left[0]]:
        os.utime(path, (yesterday, yesterday))
    encode_corpus({"test": sources["test"]}, vocabulary, cache)
    assert left[0] not in entries(cache)
    assert len(entries(cache)) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, RegrnnError])
def test_nothing_is_left_by_an_error(
    sources: dict[str, TextSource], counting: Counting, tmp_path: Path, error: type[BaseException]
) -> None:
    def fail() -> None:
        raise error("stop")

    counting.meanwhile = fail
    with pytest.raises(error, match="stop"):
        encode_corpus(sources, counting, tmp_path / "cache")
    assert entries(tmp_path / "cache") == []


def test_another_process_was_faster(sources: dict[str, TextSource], counting: Counting, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    theirs = CharacterVocabulary.build(sources["train"])
    inodes = []

    def meanwhile() -> None:
        encode_corpus(sources, theirs, cache)
        inodes.extend(path.stat().st_ino for path in cache.glob("[!.]*/train.bin"))

    counting.meanwhile = meanwhile
    streams = encode_corpus(sources, counting, cache)
    assert contents(streams) == expected(sources, counting)
    # Theirs stays, so that nobody finds the place empty.
    assert [path.stat().st_ino for path in cache.glob("*/train.bin")] == inodes


def test_another_process_left_a_damaged_corpus(
    sources: dict[str, TextSource], counting: Counting, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    theirs = CharacterVocabulary.build(sources["train"])

    def meanwhile() -> None:
        encode_corpus(sources, theirs, cache)
        os.truncate(next(cache.glob("[!.]*/train.bin")), 1)

    counting.meanwhile = meanwhile
    assert contents(encode_corpus(sources, counting, cache)) == expected(sources, counting)
    assert len(entries(cache)) == 1
    assert contents(encode_corpus(sources, theirs, cache)) == expected(sources, counting)


def test_many_at_the_same_time(sources: dict[str, TextSource], words: WordVocabulary, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    start = threading.Barrier(8)
    found: list[dict[str, list[int]]] = []

    def work() -> None:
        start.wait()
        found.append(contents(encode_corpus(sources, words, cache)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected(sources, words)] * 8
    assert len(entries(cache)) == 1


def test_full_disk(
    sources: dict[str, TextSource],
    words: WordVocabulary,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stream_module.os, "fsync", full)
    with pytest.raises(RegrnnError, match=r"cache: .* No space left on device; .*REGRNN_CACHE"):
        encode_corpus(sources, words, tmp_path / "cache")
    assert entries(tmp_path / "cache") == []


def test_cache_that_is_a_file(sources: dict[str, TextSource], words: WordVocabulary, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(RegrnnError, match="cache: the encoded text cannot be written: File exists"):
        encode_corpus(sources, words, tmp_path / "cache")


def test_bad_text_is_named(sources: dict[str, TextSource], words: WordVocabulary, tmp_path: Path) -> None:
    sources["valid"].path.write_bytes(b"a\n\xff")
    with pytest.raises(RegrnnError, match=r"valid\.txt: line 2, byte 2: not UTF-8"):
        encode_corpus(sources, words, tmp_path / "cache")


def test_encoding_is_flat_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_FLUSH", 5000)
    path = tmp_path / "t.txt"
    path.write_text("a line of words\n" * 30_000)
    sources = find_text(path)
    words = build_vocabulary("word", sources["train"])
    tracemalloc.start()
    try:
        streams = encode_corpus(sources, words, tmp_path / "cache")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(map(len, streams.values())) == 150_000
    # Held as a list these ids would take 1.2 MB, the text 2 MB; hashing reads a quarter of a MiB at a time.
    assert peak < 600_000


def stream_of(tokens: int) -> TokenStream:
    return TokenStream("train", np.arange(tokens, dtype=np.uint16), 1, 0, tokens, tokens)  # type: ignore[arg-type]


@given(batch_size=st.integers(1, 7), steps=st.integers(1, 9), extra=st.integers(0, 60))
def test_windows_hold_every_prediction_once(batch_size: int, steps: int, extra: int) -> None:
    tokens = batch_size * steps + 1 + extra
    windows = Windows(stream_of(tokens), batch_size, steps)
    row_length = (tokens - 1) // batch_size
    assert len(windows) == -(-row_length // steps)
    pairs = list(windows)
    assert [len(x_TB) for x_TB, _ in pairs[:-1]] == [steps] * (len(windows) - 1)
    assert len(pairs[-1][0]) == (row_length - 1) % steps + 1
    for x_TB, y_TB in pairs:
        assert x_TB.shape == y_TB.shape == (len(x_TB), batch_size)
        assert x_TB.dtype == y_TB.dtype == np.int64
        assert x_TB.flags.c_contiguous
        assert y_TB.flags.c_contiguous
    rows_BT = np.concatenate([x_TB for x_TB, _ in pairs]).T
    targets_BT = np.concatenate([y_TB for _, y_TB in pairs]).T
    # The rows one after another are the text, and so are the targets, one token later.
    assert rows_BT.ravel().tolist() == list(range(windows.predictions))
    assert targets_BT.ravel().tolist() == list(range(1, windows.predictions + 1))
    assert windows.predictions == batch_size * row_length
    assert 0 <= tokens - 1 - windows.predictions < batch_size


def test_windows_are_sought_by_index() -> None:
    windows = Windows(stream_of(2 * 10 + 1), 2, 4)
    assert len(windows) == 3
    x_TB, y_TB = windows[1]
    assert x_TB.tolist() == [[4, 14], [5, 15], [6, 16], [7, 17]]
    assert y_TB.tolist() == [[5, 15], [6, 16], [7, 17], [8, 18]]
    assert windows[-1][0].tolist() == windows[2][0].tolist() == [[8, 18], [9, 19]]
    assert [x.tolist() for x, _ in windows[1:]] == [windows[i][0].tolist() for i in (1, 2)]
    for index in (3, -4):
        with pytest.raises(IndexError):
            windows[index]


def test_batches_do_not_share_memory_with_the_stream() -> None:
    stream = stream_of(21)
    x_TB, _ = Windows(stream, 1, 20)[0]
    x_TB[:] = 0
    assert stream.ids.tolist() == list(range(21))


def test_text_too_short_for_a_window() -> None:
    Windows(stream_of(20 * 35 + 1), 20, 35)
    with pytest.raises(RegrnnError) as caught:
        Windows(stream_of(20 * 35), 20, 35)
    assert str(caught.value) == (
        "the train split has 700 tokens; batch size 20 and 35 steps need at least 701: "
        "lower the batch size or the steps, or give more text"
    )


@pytest.mark.parametrize(("batch_size", "steps"), [(0, 1), (1, 0), (-1, 5)])
def test_sizes_are_positive(batch_size: int, steps: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Windows(stream_of(100), batch_size, steps)


@pytest.mark.skipif("REGRNN_DATA" not in os.environ, reason="REGRNN_DATA is not set: no Penn Treebank")
def test_penn_treebank(tmp_path: Path) -> None:
    sources = find_text(Path(os.environ["REGRNN_DATA"], "ptb"))
    streams = encode_corpus(sources, build_vocabulary("word", sources["train"]), tmp_path)
    assert {split: len(stream) for split, stream in streams.items()} == {
        "train": 929_589,
        "valid": 73_760,
        "test": 82_430,
    }
    assert all(stream.words == len(stream) for stream in streams.values())
    # The paper's protocol: every word but the first of the text is predicted, once.
    assert [Windows(streams[split], 1, 35).predictions for split in ("valid", "test")] == [73_759, 82_429]
    assert Windows(streams["train"], 20, 35).predictions == 929_580
