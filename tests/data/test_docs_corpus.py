"""The documentation of the running Python as a corpus: what counts as prose, the split, and what may be missing."""

import re
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from regrnn.data import docs_corpus
from regrnn.data.docs_corpus import PASSAGE, TOKENS, DocsCorpus, docs_text, write_docs_corpus
from regrnn.data.text import SPLITS, count_words, find_text, fingerprint
from regrnn.errors import RegrnnError

RST = """Sequence Types
**************

A list's ``items`` are *mutable*; see :class:`tuple` for what is not.  The
"append()" method takes one argument, and post-
mortem use is fine [1]_ in Python 3.11.

   for item in "the list of a name":
       print(item)

>>> print("This is an example of the output.")
This is an example of the output.

* The first item is in the list,
  on two lines.
* Values are added with "x + y" to the total.

Changed in version 3.2: It is an error to call this in a loop (e.g. Two at a time).

+------+-----+
| This | is a table of the names. |

lower_case_name(the, list) -- not a sentence of the text
"""


@pytest.fixture(scope="session")
def text() -> str:
    return docs_text()


@pytest.fixture
def corpus(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DocsCorpus:
    monkeypatch.setattr(docs_corpus, "docs_text", lambda: text)
    return write_docs_corpus(tmp_path / "new" / "docs")


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """A Python whose library is the given files and which has no topics."""

    def install(files: dict[str, str]) -> None:
        for name, source in files.items():
            path = tmp_path / "lib" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "lib") if name == "stdlib" else "")
        monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)

    return install


def test_only_prose_is_kept_and_markup_goes() -> None:
    assert list(docs_corpus._sentences(RST.replace("[1]_", "[1]"))) == [
        "a list 's items are mutable ; see tuple for what is not .",
        "the append method takes one argument , and post-mortem use is fine in python N .",
        "the first item is in the list , on two lines .",
        "it is an error to call this in a loop ( e.g. two at a time ) .",
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "This is a = b of the list.",
        "this is the start of a clause.",
        "This is a list of the names:",
        "This is (the list of a name.",
        "See sys.path and os_name in the a_b list.",
        "Copy everything everywhere using nothing.",
        "In 077e010 the number is legal.",
    ],
    ids=["sign", "lower case", "no end", "bracket", "names", "no function words", "code"],
)
def test_what_is_not_a_sentence_of_prose_is_left_out(sentence: str) -> None:
    assert list(docs_corpus._sentences(f"It is the first of the two.  {sentence}")) == ["it is the first of the two ."]


def test_the_text_is_running_english_as_white_space_separated_tokens(text: str) -> None:
    lines = text.splitlines()
    assert text.endswith("\n")
    assert TOKENS <= len(text.split()) + len(lines) <= TOKENS + 60
    assert len(set(lines)) == len(lines)
    token = re.compile(r"[a-zN_][\w.'-]*|'s|--|[.,;:?!()]", re.ASCII)
    assert [word for word in text.split() if not token.fullmatch(word)] == []
    assert not re.search(r"\d|[A-MO-Z]", text)
    assert all(re.search(r"[.?!]( \))?$", line) for line in lines)
    words = text.split()
    assert words.count("the") > 0.04 * len(words)  # about 1 in 16 words of English
    assert 12 < len(words) / len(lines) < 30


def test_the_split_goes_by_passages_and_shares_no_sentence(text: str, corpus: DocsCorpus) -> None:
    lines = {split: (corpus.folder / f"{split}.txt").read_text("utf-8").splitlines() for split in SPLITS}
    assert sorted([*lines["train"], *lines["valid"], *lines["test"]]) == sorted(text.splitlines())
    everything = text.splitlines()
    assert lines["train"][: 3 * PASSAGE] == everything[: 3 * PASSAGE]
    assert lines["valid"][:PASSAGE] == everything[3 * PASSAGE : 4 * PASSAGE]
    assert lines["test"][PASSAGE : 2 * PASSAGE] == everything[17 * PASSAGE : 18 * PASSAGE]
    assert not set(lines["train"]) & (set(lines["valid"]) | set(lines["test"]))
    assert not set(lines["valid"]) & set(lines["test"])


def test_the_files_are_a_data_folder_and_are_described_exactly(corpus: DocsCorpus) -> None:
    assert corpus.python == sys.version.split()[0]
    for split, source in find_text(corpus.folder).items():
        assert corpus.tokens[split] == count_words(source)
        assert corpus.sha256[split] == fingerprint(source.path)
        assert b"\r" not in source.path.read_bytes()
    assert sum(corpus.tokens.values()) >= TOKENS
    assert 0.07 < corpus.tokens["valid"] / sum(corpus.tokens.values()) < 0.13
    assert 0.07 < corpus.tokens["test"] / sum(corpus.tokens.values()) < 0.13


def test_sources_are_parsed_in_order_and_never_imported(
    library: Callable[[dict[str, str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    library(
        {
            "b.py": 'class B:\n  """This is the class of b."""\n  def f(self):\n    """It is in the f of b."""\n',
            "a/__init__.py": '"""This is the text of a."""\nraise SystemExit("imported")\n',
            "a/test/c.py": '"""This is one of the tests."""\n',
            "_private/d.py": '"""This is not a part of the library."""\n',
            "broken.py": '"""This is the broken one.""" (\n',
            "escape.py": '"""This is the \\d of a."""\ndef f():\n  """It is in the text of the a."""\n',
            "twice.py": '"""This is the text of a."""\n',
        }
    )
    expected = [
        "this is the text of a .",
        "this is the class of b .",
        "it is in the f of b .",
        "it is in the text of the a .",
    ]
    for tokens, lines in [(8, 1), (9, 2), (16, 2), (35, 4)]:
        monkeypatch.setattr(docs_corpus, "TOKENS", tokens)
        assert docs_text().splitlines() == expected[:lines]
    monkeypatch.setattr(docs_corpus, "TOKENS", 36)
    with pytest.raises(RegrnnError, match="only 35 tokens of documentation, and 36 are needed"):
        docs_text()
    assert [line for text in docs_corpus._documents() for line in docs_corpus._sentences(text)] == [
        *expected,
        expected[0],
    ]


def test_a_python_without_sources_is_refused_by_name(library: Callable[[dict[str, str]], None], tmp_path: Path) -> None:
    library({})
    with pytest.raises(RegrnnError, match=re.escape(f"{tmp_path / 'lib'}: ") + ".*only 0 tokens .* source files"):
        write_docs_corpus(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs_corpus, "docs_text", lambda: text)
    (tmp_path / "file").write_text("")
    with pytest.raises(RegrnnError, match=r"file: the corpus cannot be written"):
        write_docs_corpus(tmp_path / "file")
