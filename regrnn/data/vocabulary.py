"""Vocabularies: from lines of text to token ids and back.

Three kinds share one face, `Vocabulary`: words, Unicode characters, and byte-level BPE. Every line ends in
``<eos>``, and a blank line is an ``<eos>`` of its own (the protocol of WikiText; the Penn Treebank has no
blank lines). Only training text is ever passed to `build_vocabulary`. Ids of words and characters run from
the most frequent token down; equal counts are in order of their code points, so the same text gives the same
ids everywhere.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar, Literal, get_args

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from regrnn.errors import RegrnnError

UNK = "<unk>"
EOS = "<eos>"
Punctuation = Literal["attached", "separate"]


class Vocabulary(ABC):
    """What a model needs to know of its tokens: ids 0 to ``size - 1``, one of them the end of a line.

    Attributes:
        kind: ``word``, ``character`` or ``bpe``; also the ``kind`` of `to_json`.
        size: the number of ids.
        eos_id: the id of ``<eos>``.
        unk_id: the id of ``<unk>``, or None where every text can be written without it (BPE).
    """

    kind: ClassVar[str]
    size: int
    eos_id: int
    unk_id: int | None

    def __len__(self) -> int:
        return self.size

    def encode_line(self, line: str) -> list[int]:
        """The ids of one line (without its line end), ``<eos>`` last."""
        return next(self.encode_lines((line,)))

    @abstractmethod
    def encode_lines(self, lines: Iterable[str]) -> Iterator[list[int]]:
        """`encode_line` of each line, in order and in flat memory: the fast way through a corpus."""

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a text to be continued: no ``<eos>`` but where the text has a line end."""
        ids = [i for line in text.replace("\r\n", "\n").split("\n") for i in self.encode_line(line)]
        return ids[:-1]

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Readable text; ``<eos>`` becomes a newline.

        Raises:
            ValueError: an id outside the vocabulary (so does `tokens`).
        """

    @abstractmethod
    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The token of each id, as it stands in the vocabulary."""

    def is_unknown(self, token_id: int) -> bool:
        """Whether the id is that of ``<unk>``."""
        return token_id == self.unk_id

    def words(self, line: str) -> list[str]:
        """The words of a line as per-word perplexity counts them: what stands between white space."""
        return line.split()

    @abstractmethod
    def word_index(self, line: str) -> list[int]:
        """For each id of ``encode_line(line)``, the index in ``words(line)`` of the word it belongs to.

        White space belongs to the word after it. The end mark, and white space before it, have the index
        ``len(words(line))``; so the negative log likelihoods of a line's tokens, summed by this index, are
        those of its words and of its end, and nothing is lost.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """A plain JSON object with everything needed to build the vocabulary again: see `from_json`."""


class _TypeVocabulary(Vocabulary):
    """A list of types, ``<unk>`` and ``<eos>`` among them; the id of a type is its place in the list."""

    def __init__(self, types: Sequence[str]) -> None:
        self._types = tuple(types)
        self._ids = {token: i for i, token in enumerate(self._types)}
        if len(self._ids) < len(self._types):
            twice = next(token for token, count in Counter(self._types).items() if count > 1)
            raise RegrnnError(f"{self.kind} vocabulary: {twice!r} is there twice")
        for reserved in (UNK, EOS):
            if reserved not in self._ids:
                raise RegrnnError(f"{self.kind} vocabulary: {reserved} is missing")
        for token in self._types:
            if token not in (UNK, EOS) and not self._is_type(token):
                raise RegrnnError(f"{self.kind} vocabulary: {token!r} is not one {self.kind}")
        self.size = len(self._types)
        if self.size < 4:
            raise _too_small(self.kind, self.size - 2)
        self.eos_id = self._ids[EOS]
        self.unk_id: int = self._ids[UNK]

    @staticmethod
    @abstractmethod
    def _is_type(token: str) -> bool: ...

    @abstractmethod
    def _split(self, line: str) -> Sequence[str]: ...

    def encode_lines(self, lines: Iterable[str]) -> Iterator[list[int]]:
        find, unknown, end = self._ids.get, self.unk_id, self.eos_id
        for line in lines:
            ids = [find(token, unknown) for token in self._split(_one_line(line))]
            ids.append(end)
            yield ids

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return [self._types[i] for i in _checked(ids, self.size)]


class WordVocabulary(_TypeVocabulary):
    """Words. ``<unk>`` and ``<eos>`` standing literally in the text are those tokens.

    Args:
        types: the tokens in the order of their ids, ``<unk>`` and ``<eos>`` among them.
        punctuation: ``attached`` splits at white space only, for text that is tokenised already (the Penn
            Treebank, WikiText); ``separate`` makes a token of each punctuation mark too, but leaves don't,
            3.14, U.S. and well-known whole. Scripts written without spaces are better served by characters or
            BPE.
        lowercase: whether text is lower-cased first.
    """

    kind = "word"

    def __init__(self, types: Sequence[str], *, punctuation: Punctuation = "attached", lowercase: bool = False) -> None:
        if punctuation not in get_args(Punctuation):
            raise RegrnnError(f"punctuation must be attached or separate, not {punctuation!r}")
        self.punctuation = punctuation
        self.lowercase = lowercase
        super().__init__(types)

    @classmethod
    def build(
        cls,
        lines: Iterable[str],
        *,
        min_frequency: int = 1,
        max_size: int | None = None,
        punctuation: Punctuation = "attached",
        lowercase: bool = False,
    ) -> WordVocabulary:
        """The words of the training text.

        Args:
            lines: the training text.
            min_frequency: words seen less often become ``<unk>``, which is how ``<unk>`` is trained. With 1,
                and no ``<unk>`` in the text, it has an id (held-out text needs it) that training never sees.
            max_size: keep only the most frequent, so that ``size`` is at most this; None keeps all.
            punctuation, lowercase: see the class.

        Raises:
            RegrnnError: fewer than two words are left, or an option is out of range.
        """
        if max_size is not None and max_size < 4:
            raise RegrnnError(f"max_size must be at least 4 (<unk>, <eos> and two words), not {max_size}")
        # The smallest legal vocabulary: it is here for its way of splitting.
        splitter = cls((UNK, EOS, "a", "b"), punctuation=punctuation, lowercase=lowercase)
        counts: Counter[str] = Counter()
        for line in lines:
            counts.update(splitter._split(line))
            counts[EOS] += 1
        types = _by_frequency(counts, min_frequency, max_size)
        return cls(types, punctuation=punctuation, lowercase=lowercase)

    @staticmethod
    def _is_type(token: str) -> bool:
        return token.split() == [token]

    def _split(self, line: str) -> Sequence[str]:
        if self.lowercase:
            line = line.lower()
        return line.split() if self.punctuation == "attached" else _word_pattern().findall(line)

    def split(self, line: str) -> list[str]:
        """The tokens of a line as they stand there, known or not, lower-cased where the vocabulary is."""
        return list(self._split(_one_line(line)))

    def join(self, tokens: Sequence[str]) -> str:
        """The text of a line's tokens."""
        return " ".join(tokens) if self.punctuation == "attached" else _attach(tokens)

    def decode(self, ids: Iterable[int]) -> str:
        lines: list[list[str]] = [[]]
        for token in self.tokens(ids):
            if token == EOS:
                lines.append([])
            else:
                lines[-1].append(token)
        return "\n".join(self.join(line) for line in lines)

    def word_index(self, line: str) -> list[int]:
        words = _one_line(line).split()
        return [i for i, word in enumerate(words) for _ in self._split(word)] + [len(words)]

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "punctuation": self.punctuation,
            "lowercase": self.lowercase,
            "types": list(self._types),
        }


class CharacterVocabulary(_TypeVocabulary):
    """Unicode characters (code points), white space included."""

    kind = "character"

    @classmethod
    def build(cls, lines: Iterable[str], *, min_frequency: int = 1) -> CharacterVocabulary:
        """The characters of the training text; those seen less often than ``min_frequency`` become ``<unk>``.

        Raises:
            RegrnnError: fewer than two characters are left, or ``min_frequency`` is out of range.
        """
        counts: Counter[str] = Counter()
        for line in lines:
            counts.update(_one_line(line))
            counts[EOS] += 1
        return cls(_by_frequency(counts, min_frequency, None))

    @staticmethod
    def _is_type(token: str) -> bool:
        return len(token) == 1 and token != "\n"

    def _split(self, line: str) -> Sequence[str]:
        return line

    def decode(self, ids: Iterable[int]) -> str:
        """The text; ``<unk>`` becomes U+FFFD, the replacement character."""
        written = {EOS: "\n", UNK: "\N{REPLACEMENT CHARACTER}"}
        return "".join(written.get(token, token) for token in self.tokens(ids))

    def word_index(self, line: str) -> list[int]:
        return [*_word_of_each_character(line), len(line.split())]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "types": list(self._types)}


class BPEVocabulary(Vocabulary):
    """Byte-level byte pair encoding (Sennrich et al. 2016; the byte level of GPT-2), trained by `tokenizers`.

    Any text can be written with it and decoded without loss, so there is no ``<unk>``. ``<eos>`` is the last
    id; it stands outside the trained model, so that the characters ``<eos>`` in a text are only characters.

    Args:
        types: byte-level tokens to ids 0 to n - 1, the 256 bytes among them.
        merges: the pairs to merge, in order.
    """

    kind = "bpe"
    unk_id = None

    def __init__(self, types: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
        if sorted(types.values()) != list(range(len(types))):
            raise RegrnnError("bpe vocabulary: ids are not 0 to n - 1, each once")
        alphabet = set(pre_tokenizers.ByteLevel.alphabet())
        if missing := alphabet - types.keys():
            raise RegrnnError(f"bpe vocabulary: {len(missing)} of the 256 bytes are missing")
        for token in types:
            if not token or not alphabet.issuperset(token):
                raise RegrnnError(f"bpe vocabulary: {token!r} is not written in bytes")
        for left, right in merges:
            if not {left, right, left + right} <= types.keys():
                raise RegrnnError(f"bpe vocabulary: the merge {left!r} {right!r} is of tokens it does not have")
        self._tokenizer = _byte_level(models.BPE(dict(types), list(merges)))
        self._types = (*sorted(types, key=types.__getitem__), EOS)
        self.size = len(self._types)
        self.eos_id = self.size - 1

    @classmethod
    def build(cls, lines: Iterable[str], *, size: int = 8192) -> BPEVocabulary:
        """Train on the lines, which are read once and not kept.

        Args:
            lines: the training text.
            size: the number of ids asked for, ``<eos>`` and the 256 bytes included; a short text gives fewer.

        Raises:
            RegrnnError: ``size`` below 258, or a text of fewer than two different characters.
        """
        if size < 258:
            raise RegrnnError(f"size must be at least 258 (256 bytes, <eos> and one merge), not {size}")
        seen: set[str] = set()

        def pieces() -> Iterator[str]:
            for line in lines:
                if len(seen) < 2:
                    seen.update(line)
                yield from _pieces(_one_line(line))

        tokenizer = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=size - 1,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(pieces(), trainer)
        if len(seen) < 2:
            raise _too_small("character", len(seen))
        model = json.loads(tokenizer.to_str())["model"]
        return cls(model["vocab"], [(left, right) for left, right in model["merges"]])

    def encode_lines(self, lines: Iterable[str]) -> Iterator[list[int]]:
        for batch in _batches(lines):
            for encoding in self._tokenizer.encode_batch_fast(batch):
                yield [*encoding.ids, self.eos_id]

    def decode(self, ids: Iterable[int]) -> str:
        """The text; a character cut in the middle of its bytes becomes U+FFFD, the replacement character."""
        lines: list[list[int]] = [[]]
        for i in _checked(ids, self.size):
            if i == self.eos_id:
                lines.append([])
            else:
                lines[-1].append(i)
        return "\n".join(self._tokenizer.decode_batch(lines))

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return [self._types[i] for i in _checked(ids, self.size)]

    def word_index(self, line: str) -> list[int]:
        of_character = _word_of_each_character(line)
        offsets = self._tokenizer.encode(line).offsets
        return [*(of_character[start] for start, _ in offsets), len(line.split())]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "tokenizer": json.loads(self._tokenizer.to_str())}


_KINDS: dict[str, type[WordVocabulary | CharacterVocabulary | BPEVocabulary]] = {
    "word": WordVocabulary,
    "character": CharacterVocabulary,
    "bpe": BPEVocabulary,
}


def build_vocabulary(kind: str, lines: Iterable[str], **options: Any) -> Vocabulary:
    """The vocabulary of the training text.

    Args:
        kind: ``word``, ``character`` or ``bpe``.
        lines: the training text and nothing else: held-out text in the vocabulary is a leak.
        options: the keywords of the kind's ``build``.

    Raises:
        RegrnnError: an unknown kind, an option out of range, or a text with fewer than two types.
        TypeError: an option that the kind does not have.
    """
    if kind not in _KINDS:
        near = difflib.get_close_matches(kind, _KINDS, n=1)
        raise RegrnnError(
            f"no vocabulary kind {kind!r}; "
            + (f"did you mean {near[0]}?" if near else "the kinds are word, character and bpe")
        )
    return _KINDS[kind].build(lines, **options)


def from_json(data: object) -> Vocabulary:
    """The vocabulary that `Vocabulary.to_json` wrote.

    Raises:
        RegrnnError: anything that `to_json` could not have written.
    """
    match data:
        case {"kind": "word", "types": types, "punctuation": str(punctuation), "lowercase": bool(lowercase)}:
            _only(data, {"kind", "types", "punctuation", "lowercase"})
            return WordVocabulary(_strings(types), punctuation=_punctuation(punctuation), lowercase=lowercase)
        case {"kind": "character", "types": types}:
            _only(data, {"kind", "types"})
            return CharacterVocabulary(_strings(types))
        case {"kind": "bpe", "tokenizer": tokenizer}:
            _only(data, {"kind", "tokenizer"})
            return BPEVocabulary(*_bpe_model(tokenizer))
    raise RegrnnError("vocabulary: not a word, character or bpe vocabulary with all of its keys")


def _strings(types: object) -> list[str]:
    if not isinstance(types, list) or not all(isinstance(token, str) for token in types):
        raise RegrnnError("vocabulary: types must be a list of strings")
    try:
        "".join(types).encode()
    except UnicodeEncodeError as error:
        raise RegrnnError("vocabulary: a type has half of a surrogate pair, which is no character") from error
    return types


def _punctuation(value: str) -> Punctuation:
    if value == "attached":
        return "attached"
    if value == "separate":
        return "separate"
    raise RegrnnError(f"vocabulary: punctuation must be attached or separate, not {value!r}")


def _only(data: object, keys: set[str]) -> None:
    if isinstance(data, dict) and (unknown := data.keys() - keys):
        raise RegrnnError(f"vocabulary: unknown key {min(unknown, key=str)!r}")


def _bpe_model(tokenizer: object) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Types and merges from the JSON of `tokenizers`, if it is byte-level BPE and does nothing else.

    Only these two are taken over; the rest is built anew. What would change the ids is refused.
    """
    match tokenizer:
        case {
            "added_tokens": [],
            "normalizer": None,
            "post_processor": None,
            "truncation": None,
            "padding": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
            "decoder": {"type": "ByteLevel"},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None | "",
                "end_of_word_suffix": None | "",
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": dict(types),
                "merges": list(merges),
            },
        }:
            pairs = [(pair[0], pair[1]) for pair in merges if isinstance(pair, list) and len(pair) == 2]
            if (
                len(pairs) == len(merges)
                and all(isinstance(token, str) for token in types)
                and all(type(i) is int for i in types.values())
                and all(isinstance(part, str) for pair in pairs for part in pair)
            ):
                return types, pairs
    raise RegrnnError("bpe vocabulary: the tokenizer is not one that byte-level BPE training here has written")


def _too_small(kind: str, types: int) -> RegrnnError:
    return RegrnnError(
        f"the vocabulary has {types} {kind}{'' if types == 1 else 's'} besides <unk> and <eos>, too few for "
        "anything to be predicted; give more text, or lower min_frequency"
    )


def _one_line(line: str) -> str:
    if "\n" in line:
        raise ValueError("a line must not contain a line end; encode_prompt takes text of several lines")
    return line


def _checked(ids: Iterable[int], size: int) -> Iterator[int]:
    for i in ids:
        if not 0 <= i < size:
            raise ValueError(f"id {i} is not in the vocabulary of {size} types")
        yield int(i)


def _by_frequency(counts: Counter[str], min_frequency: int, max_size: int | None) -> list[str]:
    """The types kept, by (-count, type); what the others counted goes to ``<unk>``."""
    if min_frequency < 1:
        raise RegrnnError(f"min_frequency must be at least 1, not {min_frequency}")

    def order(token: str) -> tuple[int, str]:
        return -counts[token], token

    kept = sorted((t for t, n in counts.items() if n >= min_frequency and t not in (UNK, EOS)), key=order)
    if max_size is not None:
        del kept[max_size - 2 :]
    counts[UNK] = counts.total() - counts[EOS] - sum(counts[token] for token in kept)
    return sorted([*kept, UNK, EOS], key=order)


def _word_of_each_character(line: str) -> list[int]:
    """For each character, how many words of the line ended before it."""
    spaces = [character.isspace() for character in _one_line(line)]
    ends = (space and i > 0 and not spaces[i - 1] for i, space in enumerate(spaces))
    return list(accumulate(map(int, ends)))


@functools.cache
def _word_pattern() -> re.Pattern[str]:
    r"""Words and punctuation marks; white space is skipped.

    Combining marks (vowel signs of Hindi, for one) are inside words, and so are the joiners U+200C and
    U+200D, though \w has neither. Marks are found below U+20000; the variation selectors above are no
    letters.
    """
    marks = "".join(chr(c) for c in range(0x20000) if unicodedata.category(chr(c))[0] == "M")
    w = rf"[\w\u200c\u200d{re.escape(marks)}]"
    return re.compile(
        rf"""{re.escape(UNK)} | {re.escape(EOS)}
        | (?:[^\W\d_]\.)+ [^\W\d_] \.? (?!{w})           # U.S.  e.g.  U.S.A
        | {w}+ (?: (?: ['’\-‐‑] | (?<=\d)[.,:/](?=\d) ) {w}+ )*   # don't  well-known  3.14  10,000  12:30
        | \.{{2,}} | -{{2,}}                             # an ellipsis, a dash
        | \S                                             # any other mark by itself
        """,
        re.VERBOSE,
    )


_NO_SPACE_BEFORE = frozenset(".,;:!?%)]}’”»…") | {"..", "..."}
_NO_SPACE_AFTER = frozenset("([{«“‘¿¡$£€#")


def _attach(tokens: Sequence[str]) -> str:
    """Words joined by spaces, punctuation set as in print; straight quotes open and close in turn."""
    written: list[str] = []
    quoted: set[str] = set()
    glue = True
    for token in tokens:
        closes = token in _NO_SPACE_BEFORE or token in quoted
        written.append(token if glue or closes else " " + token)
        glue = token in _NO_SPACE_AFTER
        if token in ('"', "'"):
            glue = token not in quoted
            quoted ^= {token}
    return "".join(written)


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _batches(lines: Iterable[str]) -> Iterator[list[str]]:
    """At most 1,000 lines at a time, fewer where they are long; `tokenizers` spreads them over the cores."""
    batch: list[str] = []
    characters = 0
    for line in lines:
        batch.append(_one_line(line))
        characters += len(line)
        if len(batch) == 1000 or characters > 1 << 18:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _pieces(line: str) -> Iterator[str]:
    """The line in pieces of at most 1,000 characters, cut before white space where there is any.

    The trainer's time is quadratic in the length of a word: a long line without spaces would stop it.
    """
    if len(line) <= 1000:
        yield line
    else:
        yield from re.findall(r".{1,1000}(?=\s|$)|.{1,1000}", line, re.DOTALL)
