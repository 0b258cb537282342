"""Two aligned texts in, pairs of token ids out: the `[data]` section of a translation recipe.

The ids of both sides lie in flat files that are mapped, not read (`regrnn.data.stream`), so that a corpus may be larger
than memory; what is held of each pair is where it begins and how long it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regrnn.data.locate import cache_root, locate_data
from regrnn.data.parallel import Parallel, find_parallel
from regrnn.data.stream import TokenStream, encode_corpus
from regrnn.data.text import SPLITS, TextSource
from regrnn.data.text import fingerprint as file_sum
from regrnn.data.vocabulary import EOS, Vocabulary, build_vocabulary
from regrnn.errors import RegrnnError
from regrnn.tasks.settings import check_tokens, vocabulary_options

_BLOCK = 1 << 24  # ids looked through at once


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which two texts, cut into which tokens, in which batches."""

    path: str = ""
    """A folder with two aligned files, a TSV or JSON lines for each split; one .tsv or .jsonl, which is cut in three;
    or the name of a data set."""
    source: str = ""
    """What is read: the language that files end in ("de"), a TSV's column (1), a key of JSON lines ("source")."""
    target: str = ""
    """What is written, likewise."""
    train: str = ""
    """The name of the training files before their suffix, where it is not `train`; so `valid` and `test`."""
    valid: str = ""
    test: str = ""
    vocabulary: Literal["word", "bpe"] = "word"
    joint: bool = False
    """One vocabulary for both languages, of both texts."""
    min_frequency: int = 1
    """Words that the training text has more rarely become `<unk>`; BPE writes everything."""
    max_size: int | None = None
    """Words: keep the most frequent, so many types in all. BPE: make so many (8,192 unless given)."""
    punctuation: Literal["attached", "separate"] = "attached"
    """Words: whether a mark is part of the word it stands at (text that is already tokenised) or its own token."""
    lowercase: bool = False
    """Words: whether both texts are lower-cased first."""
    reverse_source: bool = False
    """Read the source backwards, so that its beginning is near to that of the target (Sutskever et al. 2014)."""
    max_length: int = 100
    """Training pairs with more tokens on either side are left out."""
    batch_size: int = 64
    """Pairs."""

    def __post_init__(self) -> None:
        for name in ("min_frequency", "batch_size", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        check_tokens(self)


@dataclass(frozen=True)
class Vocabularies:
    """Of the two languages; the same one twice where it is joint."""

    source: Vocabulary
    target: Vocabulary

    def encode_source(self, line: str, config: DataConfig) -> list[int]:
        """The ids of a sentence to be read, in the order they are read; none of an empty one."""
        ids = without_end(self.source, self.source.encode_line(line))
        return ids[::-1] if config.reverse_source else ids

    def encode_target(self, line: str) -> list[int]:
        """The ids of a sentence to be written, and its end."""
        return [*without_end(self.target, self.target.encode_line(line)), self.target.eos_id]


def without_end(vocabulary: Vocabulary, ids: Sequence[int]) -> list[int]:
    """The ids of a line but for its end; an `<eos>` that stands in the line itself is an unknown word."""
    unknown = vocabulary.unk_id
    return [unknown if i == vocabulary.eos_id and unknown is not None else i for i in ids[:-1]]


class Pairs:
    """The pairs of a split that take part, as token ids.

    Those with an empty side never do; of the training part, neither do those with a side above `longest`.
    """

    def __init__(
        self,
        texts: Parallel,
        streams: tuple[TokenStream, TokenStream],
        vocabularies: Vocabularies,
        config: DataConfig,
        longest: int | None = None,
    ) -> None:
        self.texts = texts
        self._ids = tuple(stream.ids for stream in streams)
        self._reverse = config.reverse_source
        self._ends = (
            _line_ends(streams[0], texts.source, vocabularies.source),
            _line_ends(streams[1], texts.target, vocabularies.target),
        )
        lines = [len(ends) for ends in self._ends]
        if lines[0] != lines[1]:
            raise RegrnnError(
                f"{texts.source.path} has {lines[0]:,} lines and {texts.target.path} {lines[1]:,}; they should be "
                "aligned line by line"
            )
        lengths = [np.diff(ends, prepend=-1) - 1 for ends in self._ends]
        empty = (lengths[0] == 0) | (lengths[1] == 0)
        long = ~empty & (np.maximum(*lengths) > longest) if longest is not None else np.zeros_like(empty)
        self.empty, self.long = int(empty.sum()), int(long.sum())
        self.kept = np.flatnonzero(~(empty | long))
        self.target_lengths: NDArray[np.int64] = lengths[1][self.kept]
        """Of the pairs that take part, without the end."""
        self.lines = lines[0]
        if not len(self.kept):
            raise RegrnnError(
                f"{texts.source.path}: no pair of lines takes part ({self.left_out or 'there are none'}); give it "
                "sentences, or raise --data.max-length"
            )

    def __len__(self) -> int:
        return len(self.kept)

    def source(self, index: int) -> list[int]:
        """The ids of what is read, in the order they are read."""
        ids = self._side(0, index)
        return ids[::-1] if self._reverse else ids

    def target(self, index: int) -> list[int]:
        """The ids of what is written, and `<eos>`."""
        return [*self._side(1, index), int(self._ids[1][self._ends[1][self.kept[index]]])]

    def _side(self, side: int, index: int) -> list[int]:
        line, ends = self.kept[index], self._ends[side]
        start = ends[line - 1] + 1 if line else 0
        ids: list[int] = self._ids[side][start : ends[line]].tolist()
        return ids

    def source_lines(self) -> list[str]:
        """The source's own text of the pairs that take part."""
        return self._lines(self.texts.source)

    def target_lines(self) -> list[str]:
        """The target's own text of the pairs that take part."""
        return self._lines(self.texts.target)

    def _lines(self, text: TextSource) -> list[str]:
        kept = set(self.kept.tolist())
        return [line for number, line in enumerate(text) if number in kept]

    @property
    def left_out(self) -> str:
        """How many pairs take no part and why; empty if all do."""
        reasons = ((self.empty, "with an empty side"), (self.long, "too long"))
        return ", ".join(f"{count:,} {reason}" for count, reason in reasons if count)

    @property
    def description(self) -> str:
        """How many pairs."""
        return f"{len(self):,} pairs" + (f" ({self.left_out} left out)" if self.left_out else "")


def _line_ends(stream: TokenStream, text: TextSource, vocabulary: Vocabulary) -> NDArray[np.int64]:
    """Where each line's end mark is."""
    ids = stream.ids
    found = [
        np.flatnonzero(ids[start : start + _BLOCK] == vocabulary.eos_id) + start for start in range(0, len(ids), _BLOCK)
    ]
    ends = np.concatenate(found) if found else np.zeros(0, np.int64)
    if len(ends) != stream.lines:
        # By its ids: a mark may stand at the token, and lower case make one of <EOS>.
        lines = enumerate(vocabulary.encode_lines(text))
        index = next(index for index, line in lines if line.count(vocabulary.eos_id) > 1)
        raise RegrnnError(f"{text.place_of_line(index)}: has the token {EOS}, which is reserved; leave it out")
    return ends


@dataclass(frozen=True)
class Corpus:
    """The splits that were asked for."""

    vocabularies: Vocabularies
    splits: dict[str, Pairs]

    @property
    def fingerprint(self) -> dict[str, str]:
        """sha256 of each split's files, and which parts of them."""
        sums: dict[str, str] = {}
        files: dict[str, str] = {}
        for split, pairs in self.splits.items():
            for side, text in (("source", pairs.texts.source), ("target", pairs.texts.target)):
                name = str(text.path)
                files[name] = files.get(name) or file_sum(text.path)
                sums[f"{split} {side}"] = f"sha256:{files[name]} {' '.join(map(str, text.part))}"
        return sums

    @property
    def description(self) -> str:
        """The data in a few lines, for a person."""
        lines = [f"{split}: {_where(pairs.texts)}, {pairs.description}" for split, pairs in self.splits.items()]
        sizes = [len(self.vocabularies.source), len(self.vocabularies.target)]
        joint = self.vocabularies.source is self.vocabularies.target
        lines.append(f"{sizes[0]:,} types, joint" if joint else f"{sizes[0]:,} source types, {sizes[1]:,} target types")
        return "\n".join(lines)


def _where(texts: Parallel) -> str:
    first, second = texts.source, texts.target
    if first.path != second.path:
        return f"{first.path} and {second.path.name}"
    return f"{first.path} bytes {first.start:,} to {first.end:,}"


def find_sources(config: DataConfig, splits: Sequence[str] = SPLITS) -> dict[str, Parallel]:
    """The texts that `[data]` names. Raises RegrnnError when there are none."""
    if not config.path.strip():
        raise RegrnnError(
            "no data is named; give --data a folder with two aligned files for each split, a .tsv, a .jsonl, or the "
            "name of a data set"
        )
    names = {split: getattr(config, split) for split in SPLITS}
    return find_parallel(locate_data(config.path), config.source, config.target, names, splits)


def read_corpus(config: DataConfig) -> Corpus:
    """Build the vocabularies from the training text and encode all splits. Raises RegrnnError for bad input."""
    sources = find_sources(config)
    return encode(sources, build_vocabularies(sources["train"], config), config)


def build_vocabularies(train: Parallel, config: DataConfig) -> Vocabularies:
    """Those of the training text."""
    options = vocabulary_options(config)

    def build(*texts: TextSource) -> Vocabulary:
        try:
            return build_vocabulary(config.vocabulary, chain(*texts), **options)
        except RegrnnError as error:
            message = str(error)  # a fault of the text itself has its place in it already
            known = any(message.startswith(str(text.path)) for text in texts)
            raise RegrnnError(message if known else f"{texts[0].path}: {message}") from None

    if config.joint:
        joint = build(train.source, train.target)
        return Vocabularies(joint, joint)
    return Vocabularies(build(train.source), build(train.target))


def encode(sources: dict[str, Parallel], vocabularies: Vocabularies, config: DataConfig) -> Corpus:
    """The splits as token ids; pairs that are too long are left out of train alone."""
    folder = cache_root() / "encoded"
    read = encode_corpus({split: texts.source for split, texts in sources.items()}, vocabularies.source, folder)
    written = encode_corpus({split: texts.target for split, texts in sources.items()}, vocabularies.target, folder)
    splits = {}
    for split, texts in sources.items():
        longest = config.max_length if split == "train" else None
        splits[split] = Pairs(texts, (read[split], written[split]), vocabularies, config, longest)
    return Corpus(vocabularies, splits)
