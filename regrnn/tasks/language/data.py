"""Text in, streams of tokens out: the `[data]` section of a language recipe."""

import os
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from regrnn.data.locate import cache_root, locate_data
from regrnn.data.stream import TokenStream, encode_corpus
from regrnn.data.text import TextSource, describe, find_text, fingerprint
from regrnn.data.vocabulary import Vocabulary, build_vocabulary
from regrnn.errors import RegrnnError
from regrnn.tasks.settings import check_tokens, vocabulary_options


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which text, cut into which tokens, in which batches."""

    path: str = ""
    """A text file, a folder with train, valid and test, or the name of a data set; "docs" is the documentation of the
    Python that is running (a folder of that name is "./docs")."""
    vocabulary: Literal["word", "character", "bpe"] = "word"
    min_frequency: int = 1
    """Words or characters that training text has more rarely become `<unk>`; BPE writes everything."""
    max_size: int | None = None
    """Words: keep the most frequent, so many types in all. BPE: make so many (8,192 unless given). Characters are all
    kept."""
    punctuation: Literal["attached", "separate"] = "attached"
    """Words: whether a mark is part of the word it stands at (text that is already tokenised) or its own token."""
    lowercase: bool = False
    """Words: whether the text is lower-cased first."""
    batch_size: int = 20
    """Rows that are read side by side."""
    steps: int = 20
    """Time steps that the network is unrolled for truncated back-propagation."""

    def __post_init__(self) -> None:
        for name in ("min_frequency", "batch_size", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        check_tokens(self)


@dataclass(frozen=True)
class Corpus:
    """A text read with a vocabulary of its training part alone."""

    vocabulary: Vocabulary
    streams: dict[str, TokenStream]
    sources: dict[str, TextSource]

    @property
    def fingerprint(self) -> dict[str, str]:
        """sha256 of each split's file, and which bytes of it."""
        sums = {source.path: fingerprint(source.path) for source in self.sources.values()}
        return {
            split: f"sha256:{sums[source.path]} bytes {source.start}-{source.end}"
            for split, source in self.sources.items()
        }

    @property
    def description(self) -> str:
        """Where the splits come from and by which rule."""
        return describe(self.sources)


def find_sources(path: str) -> dict[str, TextSource]:
    """The text of the three splits of what `--data` or a recipe names. Raises RegrnnError when there is none."""
    if not path.strip():
        raise RegrnnError(
            "no data is named; give --data a text file, a folder with train, valid and test, or the name of a data set"
        )
    return find_text(_docs_corpus() if path == "docs" else locate_data(path))


def read_corpus(config: DataConfig) -> Corpus:
    """Build the vocabulary from the training text and encode all three splits. Raises RegrnnError for bad input."""
    sources = find_sources(config.path)
    train = sources["train"]
    try:
        vocabulary = build_vocabulary(config.vocabulary, train, **vocabulary_options(config))
    except RegrnnError as error:
        message = str(error)  # a fault of the text itself has its place in it already
        raise RegrnnError(message if message.startswith(str(train.path)) else f"{train.path}: {message}") from None
    return Corpus(vocabulary, encode(sources, vocabulary), sources)


def encode(sources: dict[str, TextSource], vocabulary: Vocabulary) -> dict[str, TokenStream]:
    """The splits as token ids. Raises RegrnnError for text that cannot be read or has nothing to predict."""
    streams = encode_corpus(sources, vocabulary, cache_root() / "encoded")
    for split, stream in streams.items():
        if len(stream) < 2:
            raise RegrnnError(
                f"{sources[split].path}: the {split} part is a single token, and the first of a text is not predicted; "
                "give more text"
            )
    return streams


def _docs_corpus() -> Path:
    """The folder of the corpus that the running Python carries, written anew: it is that of no other Python."""
    from regrnn.data.docs_corpus import write_docs_corpus

    folder = cache_root() / "docs" / platform.python_version()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            write_docs_corpus(Path(fresh))
            for path in Path(fresh).iterdir():
                os.replace(path, folder / path.name)  # at once: another process may be reading the same text
    except OSError as error:
        raise RegrnnError(
            f"{folder}: the corpus cannot be written ({error.strerror}); make room there, or set REGRNN_CACHE to "
            "another folder"
        ) from None
    return folder
