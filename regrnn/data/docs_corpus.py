"""A small corpus of English that every Python carries: its own documentation. Nothing is imported or downloaded.

The text is that of `pydoc_data.topics` (the language reference, which `help("topics")` shows), then the docstrings of
the standard library, found by parsing its source files. Markup goes; of what is left only sentences of running prose
stay, one a line, in lower case, as words and punctuation between spaces, digits as ``N``, each sentence once: the form
of the Penn Treebank files. The order is fixed, but the text is that of the running Python: two versions differ.
"""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from regrnn.data.text import SPLITS
from regrnn.errors import RegrnnError

TOKENS = 50_000
"""Size of the corpus: once it has as many, ends of lines included, no further sentence is taken."""
PASSAGE = 20
"""Sentences in a passage. Of ten passages the fourth is for validation, the eighth for test, the rest for training."""

# Tests, programs with texts of their own, and what others installed.
_SKIPPED_FOLDERS = {"dist-packages", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "tests", "turtledemo"}

_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_BULLET = re.compile(r"\s*(?:[*+-]|\d+[.)]|\(\d+\)|\[\d+\])\s+")
_MARKUP = [
    (re.compile(r"(?<=[a-z])- (?=[a-z])"), "-"),  # a word broken at its hyphen: "post- mortem"
    (re.compile(r":[a-z:]+:(?=`)"), ""),  # roles: ":class:`int`"
    (re.compile(r"\s\[\d+\]"), ""),  # footnotes
    (re.compile(r"``?([^`']+)(?:``?|'')"), r"\1"),
    (re.compile(r"\*\*?(\w[^*]*?)\*\*?"), r"\1"),
    (re.compile(r'["“]([^"“”\s]+)["”]'), r"\1"),  # code of one word; longer quotations cost their sentence
    (re.compile(r"\(\)"), ""),
    (re.compile("’"), "'"),
    (re.compile("[—–]"), "--"),
    (re.compile(r"^(?:Note|Warning|(?:Added|Changed|Deprecated|New) (?:in|since) version [\d.]+):\s+"), ""),
]
_SENTENCE_END = re.compile(r"(?<=[.?!])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)\s+(?=\(?\w)")
_TOKEN = re.compile(
    r"e\.g\.|i\.e\.|etc\.|[A-Za-z_]\w*(?:[.'-]\w+)*|\d+(?:[.,]\d+)*(?:st|nd|rd|th)?(?!\w)|--|[.,;:?!()]", re.ASCII
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_FUNCTION_WORD = re.compile("a|an|and|are|as|be|by|for|if|in|is|it|not|of|on|or|that|the|this|to|with")


@dataclass(frozen=True, kw_only=True)
class DocsCorpus:
    """A corpus on disk: ``train.txt``, ``valid.txt`` and ``test.txt`` in ``folder``; the dictionaries go by split."""

    folder: Path
    sha256: dict[str, str]
    """Of each file's bytes, in hexadecimal."""
    tokens: dict[str, int]
    """Words and punctuation, and one end of line for each line."""
    python: str
    """Version of the Python whose documentation it is, as 3.12.1."""


def docs_text() -> str:
    """The corpus, `TOKENS` tokens long to the nearest sentence: one sentence a line, every line ended.

    Raises:
        RegrnnError: this Python carries too little documentation (its library has no source files).
    """
    sentences: dict[str, None] = {}
    tokens = 0
    for document in _documents():
        for sentence in _sentences(document):
            if sentence in sentences:
                continue
            sentences[sentence] = None
            tokens += len(sentence.split()) + 1
            if tokens >= TOKENS:
                return "".join(f"{line}\n" for line in sentences)
    raise RegrnnError(
        f"{_library()}: this Python's library has only {tokens:,} tokens of documentation, and {TOKENS:,} are needed; "
        "use a Python that is installed with the source files of its library"
    )


def write_docs_corpus(folder: Path) -> DocsCorpus:
    """Write the corpus to ``train.txt``, ``valid.txt`` and ``test.txt`` in ``folder``, which is made if need be.

    The split goes by passages of `PASSAGE` sentences, one in ten each for validation and test, so that all three have
    the same character; within each the order stays, and no sentence is in two of them.

    Raises:
        RegrnnError: too little documentation (see `docs_text`), or a file that cannot be written.
    """
    split_of = {3: "valid", 7: "test"}
    texts = dict.fromkeys(SPLITS, "")
    for number, line in enumerate(docs_text().splitlines(keepends=True)):
        texts[split_of.get(number // PASSAGE % 10, "train")] += line
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split, text in texts.items():
            (folder / f"{split}.txt").write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise RegrnnError(f"{folder}: the corpus cannot be written: {error.strerror}") from error
    return DocsCorpus(
        folder=folder,
        sha256={split: hashlib.sha256(text.encode()).hexdigest() for split, text in texts.items()},
        tokens={split: len(text.split()) + text.count("\n") for split, text in texts.items()},
        python=platform.python_version(),
    )


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _documents() -> Iterator[str]:
    """The topics by name, then the docstrings of every module of the library by path."""
    topics = _topics()
    for name in sorted(topics):
        yield topics[name]
    for path in _source_files():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # sources may have escapes that this Python warns of
                module = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):  # unreadable, a template, or with NUL bytes
            continue
        yield "\n\n".join(_docstrings(module))


def _topics() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        return {}
    return topics


def _source_files() -> list[Path]:
    library = _library()
    files = []
    for folder, subfolders, names in os.walk(library):
        subfolders[:] = [name for name in subfolders if name not in _SKIPPED_FOLDERS and name[0] not in "_."]
        files += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(files, key=lambda path: path.relative_to(library).as_posix())


def _docstrings(node: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Those of a module or class, of its functions and of its classes; not of what is inside functions."""
    if text := ast.get_docstring(node):
        yield text
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _docstrings(child)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(child)):
            yield text


def _sentences(document: str) -> Iterator[str]:
    """The tokenised sentences of prose in a document of plain text or reStructuredText, in order."""
    for lines in _paragraphs(document):
        if len({len(line) - len(line.lstrip()) for line in lines}) > 1:
            continue  # prose has one margin; tables, signatures and most code do not
        text = " ".join(line.strip() for line in lines)
        for pattern, replacement in _MARKUP:
            text = pattern.sub(replacement, text)
        for sentence in _SENTENCE_END.split(text):
            tokens = _tokens(sentence)
            if _is_prose(tokens):
                yield " ".join(tokens)


def _paragraphs(document: str) -> Iterator[list[str]]:
    """The lines of each paragraph; an item of a list is one, its bullet blanked out."""
    for block in _BLANK_LINE.split(document.expandtabs()):
        paragraph: list[str] = []
        for line in block.splitlines():
            if bullet := _BULLET.match(line):
                if paragraph:
                    yield paragraph
                paragraph = []
                line = " " * bullet.end() + line[bullet.end() :]
            if line.strip():
                paragraph.append(line)
        if paragraph:
            yield paragraph


def _tokens(sentence: str) -> list[str]:
    """Words and punctuation; none of what does not start and end as a sentence or has signs that prose has not."""
    if not re.match(r"\(?[A-Z].*[.?!]\)?$", sentence) or _TOKEN.sub("", sentence).strip():
        return []
    tokens = []
    for token in _TOKEN.findall(sentence):
        word = _NUMBER.sub("N", token.lower())
        tokens += [word[:-2], "'s"] if word.endswith("'s") else [word]
    return tokens


def _is_prose(tokens: list[str]) -> bool:
    words = [token for token in tokens if token[0].isalpha() or token[0] == "_"]
    names = sum("_" in word or "." in word[:-1].replace("e.g", "").replace("i.e", "") for word in words)
    function_words = sum(bool(_FUNCTION_WORD.fullmatch(word)) for word in words)
    return (
        5 <= len(tokens) <= 60
        and tokens.count("(") == tokens.count(")")
        and names <= 0.15 * len(words)
        and function_words >= max(2, 0.15 * len(words))
    )
