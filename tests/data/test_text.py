import hashlib
import tracemalloc
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrnn.data.text import TextSource, count_characters, count_words, describe, find_text, fingerprint
from regrnn.errors import RegrnnError

TEN_LINES = b"".join(b"line number %d\n" % i for i in range(10))


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def lines_of(path: Path) -> list[str]:
    return list(TextSource(path, 0, path.stat().st_size))


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"a b\nc\n", ["a b", "c"]),
        (b"a b\nc", ["a b", "c"]),
        (b"a\r\n\r\nb\r\n", ["a", "", "b"]),
        (b"\n\n", ["", ""]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),
        ("é\x85ü\u2028x\x0cy\rz\n".encode(), ["é\x85ü\u2028x\x0cy\rz"]),
        (b"ends in a carriage return\r", ["ends in a carriage return\r"]),
    ],
)
def test_lines(tmp_path: Path, content: bytes, lines: list[str]) -> None:
    source = TextSource(write(tmp_path / "t.txt", content), 0, len(content))
    assert list(source) == lines
    assert list(source) == lines  # as often as wanted


@pytest.mark.parametrize(
    ("content", "line", "byte", "what"),
    [
        (b"good\nbad \xff here\n", 2, 9, "not UTF-8 (0xff)"),
        (b"\xef\xbb\xbfok\n\xc3(\n", 2, 6, "not UTF-8 (0xc3)"),
        (b"a\nb\ncut in the middle \xe2\x82", 3, 22, "not UTF-8 (0xe2)"),
        (b"surrogate \xed\xa0\x80\n", 1, 10, "not UTF-8 (0xed)"),
        (b"a\nb\x00c\xff\n", 2, 3, "a NUL byte"),
        (b"a\xff\x00\n", 1, 1, "not UTF-8 (0xff)"),
        ("utf-16".encode("utf-16"), 1, 0, "not UTF-8 (0xff)"),
    ],
)
def test_bad_bytes_are_placed(tmp_path: Path, content: bytes, line: int, byte: int, what: str) -> None:
    path = write(tmp_path / "t.txt", content)
    with pytest.raises(RegrnnError) as caught:
        lines_of(path)
    assert str(caught.value).startswith(f"{path}: line {line}, byte {byte}: {what}")


def test_place_is_in_the_file_and_not_in_the_part(tmp_path: Path) -> None:
    content = TEN_LINES + b"caf\xe9\n"
    path = write(tmp_path / "t.txt", content)
    with pytest.raises(RegrnnError, match=rf"line 11, byte {len(TEN_LINES) + 3}: not UTF-8"):
        list(TextSource(path, 28, len(content)))


def test_file_that_becomes_shorter_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", TEN_LINES)
    with pytest.raises(RegrnnError, match="became shorter"):
        list(TextSource(path, 0, len(TEN_LINES) + 1))


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [
        ("train.txt", "valid.txt", "test.txt"),
        ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
        ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
        ("train.tokens", "dev.tokens", "test.tokens"),
        ("wiki.train.raw", "wiki.val.raw", "wiki.test.raw"),
        ("train", "validation", "test"),
        ("Train.TXT", "x.val.txt", "TEST"),
    ],
)
def test_folder(tmp_path: Path, train: str, valid: str, test: str) -> None:
    names = {"train": train, "valid": valid, "test": test}
    for split, name in names.items():
        write(tmp_path / name, f"{split} text\n".encode())
    for bystander in ("README.md", "retrain.txt", "train.txt~", ".train.txt", "contest.txt"):
        write(tmp_path / bystander, b"not a split\n")
    sources = find_text(tmp_path)
    assert list(sources) == ["train", "valid", "test"]
    for split, source in sources.items():
        assert source.path == tmp_path / names[split]
        assert list(source) == [f"{split} text"]
        assert f"{split} {source.path}" in describe(sources)


def test_missing_split_says_what_was_looked_for_and_found(tmp_path: Path) -> None:
    for name in ("train.txt", "test.txt", "notes.md"):
        write(tmp_path / name, b"x\n")
    with pytest.raises(RegrnnError) as caught:
        find_text(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: no valid split; looked for valid.txt, *.valid.txt")
    assert "validation, val, dev" in message
    assert "found notes.md, test.txt, train.txt" in message


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(RegrnnError, match=r"no train split; .* found no files"):
        find_text(tmp_path)


def test_two_candidates(tmp_path: Path) -> None:
    for name in ("train.txt", "test.txt", "valid.txt", "dev.txt"):
        write(tmp_path / name, b"x\n")
    with pytest.raises(RegrnnError, match=r"the valid split \(dev.txt, valid.txt\)"):
        find_text(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_empty_file(tmp_path: Path, content: bytes) -> None:
    for name in ("train.txt", "valid.txt"):
        write(tmp_path / name, b"x\n")
    empty = write(tmp_path / "test.txt", content)
    with pytest.raises(RegrnnError, match=r"test\.txt: the file is empty"):
        find_text(tmp_path)
    with pytest.raises(RegrnnError, match=r"test\.txt: the file is empty"):
        find_text(empty)


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(RegrnnError, match="nowhere: no such file or folder"):
        find_text(tmp_path / "nowhere")


def test_device_is_neither_folder_nor_file() -> None:
    with pytest.raises(RegrnnError, match="neither a folder nor a regular file"):
        find_text(Path("/dev/null"))


def test_file_is_cut_at_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", TEN_LINES)
    sources = find_text(path)
    assert [list(source) for source in sources.values()] == [
        [f"line number {i}" for i in range(8)],
        ["line number 8"],
        ["line number 9"],
    ]
    assert describe(sources) == (
        f"{path} cut in order at the first line ends past the fractions asked for: "
        "train bytes 0 to 112 (80.0%), valid bytes 112 to 126 (10.0%), test bytes 126 to 140 (10.0%)"
    )


def test_file_is_cut_where_asked(tmp_path: Path) -> None:
    sources = find_text(write(tmp_path / "t.txt", TEN_LINES), split=(0.45, 0.2, 0.35))
    # 63 bytes fall into line 4 and 91 into line 6; both cuts move to the ends of those lines.
    assert [len(list(source)) for source in sources.values()] == [5, 2, 3]


@pytest.mark.parametrize("split", [(0.8, 0.2, 0.0), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1)])
def test_fractions_are_checked(tmp_path: Path, split: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="three positive fractions"):
        find_text(write(tmp_path / "t.txt", TEN_LINES), split=split)


@pytest.mark.parametrize("content", [b"one line", b"one line\n", b"two\nlines\n", b"short\n" * 2 + b"long" * 99, b"\n"])
def test_too_few_lines(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "t.txt", content)
    with pytest.raises(RegrnnError, match=r"t\.txt: too few lines to be split 80/10/10 into train"):
        find_text(path)


@pytest.fixture(scope="module")
def reused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reused") / "t.txt"


@given(
    lines=st.lists(st.sampled_from(["", "é", "a longer line", "日本 😀", "x" * 40]), min_size=1, max_size=40),
    bom=st.booleans(),
)
def test_parts_are_the_whole_cut_at_line_ends(reused: Path, lines: list[str], bom: bool) -> None:
    start = 3 if bom else 0
    ends = list(accumulate((len(line.encode()) + 1 for line in lines), initial=start))
    size = ends[-1] - start
    first = next(end for end in ends if end >= start + round(0.8 * size))
    second = next((end for end in ends if end >= start + round(0.9 * size) and end > first), ends[-1])
    write(reused, b"\xef\xbb\xbf" * bom + "".join(line + "\n" for line in lines).encode())
    if first == ends[0] or second == ends[-1]:
        with pytest.raises(RegrnnError, match="too few lines"):
            find_text(reused)
    else:
        sources = find_text(reused)
        assert [source.end for source in sources.values()] == [first, second, ends[-1]]
        assert [line for source in sources.values() for line in source] == lines


def test_reading_is_flat_in_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", b"a line of words\n" * 100_000)
    tracemalloc.start()
    try:
        source = find_text(path)["train"]
        assert sum(1 for _ in source) == 80_000
        fingerprint(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_200_000  # a block of 1 MiB is read at a time where lines do not matter


def test_counts(tmp_path: Path) -> None:
    content = " the  cat\u00a0sat \r\n\nnaïve\n".encode()
    source = TextSource(write(tmp_path / "t.txt", content), 0, len(content))
    assert count_words(source) == (3 + 1) + (0 + 1) + (1 + 1)
    assert count_characters(source) == (14 + 1) + (0 + 1) + (5 + 1)


def test_fingerprint(tmp_path: Path) -> None:
    assert fingerprint(write(tmp_path / "t", TEN_LINES)) == hashlib.sha256(TEN_LINES).hexdigest()
    with pytest.raises(RegrnnError, match="nowhere: cannot be opened"):
        fingerprint(tmp_path / "nowhere")
