"""A trained language model and what it can do: what `regrnn.load` returns for a language run.

Shapes: T time, B batch, V vocabulary.
"""

import itertools
import math
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from regrnn.data.vocabulary import Vocabulary, WordVocabulary
from regrnn.errors import RegrnnError
from regrnn.kernels.stack import LaidOut, Stack, Storage
from regrnn.nn.loss import token_log_probabilities
from regrnn.search.sampling import Sampler
from regrnn.tasks.language.model import LanguageModel, State, first_state

WINDOW = 1000
"""Steps read at once; the state is carried from one window to the next."""

TOKENS_AT_ONCE = 16_000
"""Of lines that are scored side by side, padding included; a longer line is read by itself."""

MARKS = string.punctuation + "“”‘’«»…"

_SHORT_PROMPT = 4
"""Tokens that are read step by step, on weights that are laid out already: for more it pays to lay them out anew."""

_FAR_WEIGHTS = 24 * 2**20
"""Bytes of weights that are read from memory rather than from a cache."""

_LONG_TEXT = 100
"""Tokens for which a copy of such weights in bytes pays."""

SEEDS = 2**63
"""Seeds are from 0 up to here."""


@dataclass(frozen=True)
class Scored:
    """A token or a word and how much it surprised the model."""

    text: str
    log_probability: float
    """ln p(text | everything before it), in nats."""
    unknown: bool
    """Outside the vocabulary: scored as `<unk>` (of a word: any of its tokens)."""

    @property
    def surprisal(self) -> float:
        """-log2 p, in bits (Hale 2001)."""
        return -self.log_probability / math.log(2)


@dataclass(frozen=True)
class ScoredLine:
    """One line; its end counts as a token `<eos>` and as a word of its own."""

    text: str
    tokens: list[Scored]
    words: list[Scored]

    @property
    def log_probability(self) -> float:
        """ln p of the whole line and its end, in nats."""
        return math.fsum(token.log_probability for token in self.tokens)

    @property
    def surprisal(self) -> float:
        """-log2 p of the whole line and its end, in bits."""
        return -self.log_probability / math.log(2)


class TrainedLanguageModel:
    """A language model and its vocabulary, ready to score and to write text."""

    def __init__(self, model: LanguageModel, vocabulary: Vocabulary) -> None:
        self.model = model.eval()
        self.vocabulary = vocabulary
        self._laid_out = LaidOut()

    def to(self, device: torch.device) -> Self:
        """Move the model to `device`."""
        self.model.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def score(
        self, lines: str | Iterable[str], *, carry: bool = False, average: Sequence[Self] = ()
    ) -> list[ScoredLine]:
        """Log-probabilities of every token, word and line.

        Args:
            lines: one text, cut at its line ends, or lines, with or without their line ends.
            carry: read the lines as one running text; otherwise each begins anew, from a zero state and an `<eos>`.
            average: other models of the same vocabulary; each token has the mean of all probabilities.

        Raises:
            RegrnnError: the models have different vocabularies.
        """
        members = [self, *average]
        require_one_vocabulary(members)
        if isinstance(lines, str):
            lines = lines.removesuffix("\n").split("\n") if lines else []
        lines = [line.removesuffix("\n").removesuffix("\r") for line in lines]
        encoded = [self.vocabulary.encode_line(line) for line in lines]
        scores: list[list[float]] = [[] for _ in lines]
        if carry and lines:
            flat = _mean_scores(members, [[token for ids in encoded for token in ids]])[0]
            ends = list(itertools.accumulate(map(len, encoded)))
            scores = [flat[end - len(ids) : end] for end, ids in zip(ends, encoded, strict=True)]
        else:
            for rows in _batches([len(ids) for ids in encoded]):
                for index, row in zip(rows, _mean_scores(members, [encoded[index] for index in rows]), strict=True):
                    scores[index] = row
        return [self._scored_line(line, ids, row) for line, ids, row in zip(lines, encoded, scores, strict=True)]

    @torch.no_grad()
    def _score_rows(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """ln p of each token of texts that each begin after an `<eos>`, side by side: (rows, longest) on the CPU.

        What stands behind a row's end means nothing.
        """
        longest = max(map(len, rows))
        # What stands behind a row's end cannot reach back to it.
        ids_TB = torch.full((longest + 1, len(rows)), self.vocabulary.eos_id)
        for index, ids in enumerate(rows):
            ids_TB[1 : len(ids) + 1, index] = torch.tensor(ids, dtype=torch.int64)
        ids_TB = ids_TB.to(self.device)
        state: State = {}
        windows = []
        for start in range(0, longest, WINDOW):
            x_TB = ids_TB[start : min(start + WINDOW, longest)]
            y_TB = ids_TB[start + 1 : start + 1 + len(x_TB)]
            h_TBH, state = self.model.features(x_TB, state)
            scores = token_log_probabilities(
                h_TBH.flatten(0, 1), self.model.decoder.weight, self.model.decoder.bias, y_TB.flatten()
            )
            windows.append(scores.view(y_TB.shape))
        return torch.cat(windows).T.cpu()

    def _scored_line(self, line: str, ids: Sequence[int], scores: Sequence[float]) -> ScoredLine:
        vocabulary = self.vocabulary
        tokens = [
            Scored(text, score, vocabulary.is_unknown(token))
            for text, token, score in zip(vocabulary.tokens(ids), ids, scores, strict=True)
        ]
        texts = [*vocabulary.words(line), "<eos>"]
        parts: list[list[Scored]] = [[] for _ in texts]
        for index, token in zip(vocabulary.word_index(line), tokens, strict=True):
            parts[index].append(token)
        words = [
            Scored(text, math.fsum(token.log_probability for token in part), any(token.unknown for token in part))
            for text, part in zip(texts, parts, strict=True)
        ]
        return ScoredLine(line, tokens, words)

    @torch.no_grad()
    def generate(
        self,
        prompt: str = "",
        *,
        length: int = 100,
        samples: int = 1,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | None = None,
        storage: Storage = "float32",
        average: Sequence[Self] = (),
    ) -> list[str]:
        """Texts that go on from `prompt`, drawn side by side in one batch.

        The prompt is not repeated: `prompt + text` reads as one, so a text that goes on with a word begins with the
        space before it.

        Args:
            prompt: what comes before; it follows an `<eos>`.
            length: tokens a sample has at most.
            samples: how many texts.
            temperature: divides the logits; 0 takes the most probable token each time.
            top_k: draw among the k most probable tokens.
            top_p: draw among the most probable tokens that together reach p.
            seed: of a generator of its own; None draws from torch's global one.
            stop: a text ends where this string ends in it (for example a full stop, or a newline).
            storage: ``"int8"`` rounds the weights to 8 bits: faster, and probabilities change by a few parts in a
                thousand. Needs the compiled core.
            average: other models of the same vocabulary; each token is drawn from the mean of all distributions.

        `<unk>` is never drawn. Raises RegrnnError for a word of the prompt that the vocabulary lacks, ValueError for
        a setting out of range.
        """
        for name, value in (("length", length), ("samples", samples)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature must be 0 or more, not {temperature}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {top_k}")
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {top_p}")
        if seed is not None and not 0 <= seed < SEEDS:
            raise ValueError(f"seed must be from 0 to {SEEDS - 1}, not {seed}")
        members = [self, *average]
        require_one_vocabulary(members)
        vocabulary = self.vocabulary
        before = self._encode_prompt(prompt)
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)

        stacks = [member._stack(storage) for member in members]

        def mean(rows: Sequence[Tensor]) -> Tensor:
            """Logits (B, V) of the mean of the members' distributions."""
            if len(rows) == 1:
                return rows[0]
            return torch.logsumexp(torch.stack([row.log_softmax(-1) for row in rows]), 0)

        def read(tokens_TB: Tensor, states: Sequence[State]) -> tuple[Tensor, list[State]]:
            """Logits (B, V) of the token after the last, and the members' states."""
            rows, after = [], []
            for member, state in zip(members, states, strict=True):
                h_TBH, state = member.model.features(tokens_TB, state)
                rows.append(F.linear(h_TBH[-1], member.model.decoder.weight, member.model.decoder.bias))
                after.append(state)
            return mean(rows), after

        def step(tokens_B: Tensor, states: list[State]) -> tuple[Tensor, list[State]]:
            rows, after = [], []
            for stack, state in zip(stacks, states, strict=True):
                if stack is None:
                    return read(tokens_B[None], states)
                row_BV, parts = stack.step(tokens_B, list(state.values()))
                rows.append(row_BV)
                after.append(dict(zip(state, parts, strict=True)))
            return mean(rows), after

        def text(ids: list[int]) -> str:
            written = vocabulary.decode([*before, *ids])[len(vocabulary.decode(before)) :]
            # The vocabulary of words writes the space before a word, whether or not the prompt ends with one.
            return written.removeprefix(" ") if vocabulary.kind == "word" and prompt[-1:].isspace() else written

        ids_TB = torch.tensor([vocabulary.eos_id, *before], device=self.device)[:, None]
        if None in stacks or len(ids_TB) > _SHORT_PROMPT:
            logits_1V, states = read(ids_TB, [{} for _ in members])
        else:
            states = [first_state(member.model.rnn, 1) for member in members]
            for ids_B in ids_TB:
                logits_1V, states = step(ids_B, states)
        states = [
            {name: tensor.expand(-1, samples, -1).contiguous() for name, tensor in state.items()} for state in states
        ]
        never = [] if vocabulary.unk_id is None else [vocabulary.unk_id]

        # Weights that no cache holds are read once for several tokens, where a copy in bytes says which these may be.
        far = len(stacks) == samples == 1 and stacks[0] is not None and stacks[0].weight_bytes >= _FAR_WEIGHTS
        draft = self._stack("int8") if far and storage == "float32" and length >= _LONG_TEXT else None

        def several(logits_BV: Tensor, states: list[State], uniform_TB: Tensor) -> tuple[Tensor, Tensor, list[State]]:
            (state,) = states
            judged = None if draft is None else (draft, torch.rand(len(uniform_TB), 2, generator=generator))
            tokens_TB, logits_BV, after = stacks[0].generate(  # type: ignore[union-attr]
                logits_BV,
                list(state.values()),
                uniform_TB,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                never=never,
                draft=judged,
            )
            return tokens_TB, logits_BV, [dict(zip(state, after, strict=True))]

        sampler = Sampler(
            step,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            never=never,
            generator=generator,
            several=several if len(stacks) == 1 and stacks[0] is not None else None,
        )

        def finished(row: int, ids: list[int]) -> bool:
            return bool(stop) and str(stop) in text(ids)

        drawn = sampler.run(logits_1V.expand(samples, -1), states, length, finished)
        texts = map(text, drawn)
        return [text[: text.index(stop) + len(stop)] if stop and stop in text else text for text in texts]

    def _stack(self, storage: Storage) -> Stack | None:
        """The model laid out for steps; None where the core does not take it, RegrnnError if that is asked for."""
        rnn, decoder = self.model.rnn, self.model.decoder
        stack = self._laid_out.of(
            rnn.cell, self.model.encoder.weight, rnn.all_weights, (decoder.weight, decoder.bias), storage
        )
        if stack is None and storage != "float32":
            raise RegrnnError(
                f"storage {storage} needs the compiled core, and a model in float32 on the CPU; `regrnn doctor` "
                "says whether the core is there"
            )
        return stack

    def _encode_prompt(self, prompt: str) -> list[int]:
        """The ids of `prompt`. Raises RegrnnError for what the vocabulary lacks; `<unk>` may stand in for it."""
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise RegrnnError(f"prompt: {prompt!r} is not UTF-8; check the encoding of the terminal")
        for line in prompt.replace("\r\n", "\n").split("\n"):
            if (lacking := self._lacking(line)) is not None:
                characters = self.vocabulary.kind == "character"
                raise RegrnnError(
                    f"prompt: {lacking!r} is not in the vocabulary of {len(self.vocabulary):,} types; "
                    + ("leave it out" if characters else "use another word, or <unk> in its place")
                )
        return self.vocabulary.encode_prompt(prompt)

    def _lacking(self, line: str) -> str | None:
        """The first word or character of `line` that is not in the vocabulary; None if there is none."""
        vocabulary = self.vocabulary

        def unknown(text: str) -> list[bool]:
            return [vocabulary.is_unknown(token) for token in vocabulary.encode_line(text)]

        if vocabulary.kind == "character":
            return next((line[place] for place, is_unknown in enumerate(unknown(line)) if is_unknown), None)
        separate = isinstance(vocabulary, WordVocabulary) and vocabulary.punctuation == "separate"
        for word in vocabulary.words(line):
            meant = word.count("<unk>") if separate else int(word == "<unk>")
            if sum(unknown(word)) > meant:
                bare = word.strip(MARKS)  # "zebra" of "zebra," unless the comma is the matter
                return bare if bare and "<unk>" not in word and any(unknown(bare)) else word
        return None


def require_one_vocabulary(members: Sequence[TrainedLanguageModel]) -> None:
    """Raise RegrnnError unless the members' distributions are over the same tokens, in the same order."""
    for number, member in enumerate(members[1:], 2):
        if member.vocabulary.to_json() != members[0].vocabulary.to_json():
            raise RegrnnError(
                f"the runs have different vocabularies (number {number} of {len(members)} is the first that differs); "
                "their predictions cannot be averaged"
            )


def _mean_scores(members: Sequence[TrainedLanguageModel], rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """ln of the members' mean probability of each token of texts that each begin after an `<eos>`."""
    scores_BT = torch.stack([member._score_rows(rows) for member in members])
    mean_BT = scores_BT[0] if len(members) == 1 else torch.logsumexp(scores_BT, 0) - math.log(len(members))
    return [row[: len(ids)] for row, ids in zip(mean_BT.tolist(), rows, strict=True)]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The indices of rows to be read side by side: of like length together, so that little is wasted on padding."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
