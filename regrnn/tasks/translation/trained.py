"""A trained translator and what it can do: what `regrnn.load` returns for a translation run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch

from regrnn.data.vocabulary import WordVocabulary
from regrnn.errors import RegrnnError
from regrnn.search.beam import Hypothesis
from regrnn.tasks.translation.data import DataConfig, Vocabularies
from regrnn.tasks.translation.evaluate import DecodingConfig, copies, log_probabilities, looked_at, sample, search
from regrnn.tasks.translation.model import TranslationModel


@dataclass(frozen=True)
class Translation:
    """What the model makes of a sentence."""

    text: str
    log_probability: float
    """ln p of the tokens and of their end, given the source."""
    score: float
    """By which translations of one sentence are ranked: the log probability over a power of the length."""
    finished: bool
    """Whether the translation came to its end before the greatest length."""


@dataclass(frozen=True)
class Forced:
    """How probable a given translation is."""

    log_probability: float
    """ln p of its tokens and of its end, given the source."""
    predictions: int
    """Tokens, the end counted."""

    @property
    def perplexity(self) -> float:
        """Of a token."""
        nats = -self.log_probability / self.predictions
        return math.exp(nats) if nats < 700 else math.inf


class TrainedTranslator:
    """A translation model with its vocabularies, ready to translate."""

    def __init__(
        self, model: TranslationModel, vocabularies: Vocabularies, data: DataConfig, decoding: DecodingConfig
    ) -> None:
        self.model = model.eval()
        self.vocabularies = vocabularies
        self.data = data
        self.decoding = decoding

    def to(self, device: torch.device) -> Self:
        """Move the model."""
        self.model.to(device)
        return self

    def translate(
        self,
        lines: Sequence[str],
        *,
        beam: int | None = None,
        average: "Sequence[TrainedTranslator]" = (),
        decoding: DecodingConfig | None = None,
    ) -> list[list[Translation]]:
        """The translations that beam search finds for each sentence, the best first; of an empty line, an empty one.

        `beam` hypotheses (1: greedy), or all that `decoding` says; the recipe's unless given. `average`: further
        translators with the same vocabularies; each token is then searched by the average of their distributions.
        Raises ValueError for a beam below 1 or a line with a line end, RegrnnError for other vocabularies.
        """
        if beam is not None and beam < 1:
            raise ValueError(f"beam must be at least 1, got {beam}")
        decoding = decoding or self.decoding
        decoding = decoding if beam is None else replace(decoding, beam=beam)
        models = self._models(average)
        sources = [self.vocabularies.encode_source(line, self.data) for line in lines]
        full = [index for index, source in enumerate(sources) if source]
        found: list[list[Translation]] = [[Translation("", 0.0, 0.0, True)] for _ in lines]
        hypotheses = search(models, [sources[index] for index in full], self.vocabularies, decoding)
        for index, of_one in zip(full, hypotheses, strict=True):
            found[index] = [self._translation(models, lines[index], sources[index], one, decoding) for one in of_one]
        return found

    def sample(
        self,
        lines: Sequence[str],
        *,
        temperature: float = 1.0,
        seed: int | None = None,
        average: "Sequence[TrainedTranslator]" = (),
    ) -> list[Translation]:
        """A translation of each sentence drawn at random; of an empty line, an empty one.

        The same seed draws the same; None draws new ones. Raises ValueError for a negative temperature.
        """
        if not temperature >= 0:
            raise ValueError(f"temperature must not be negative, got {temperature}")
        generator = torch.Generator(self.model.decoder.weight.device)
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        models = self._models(average)
        sources = [self.vocabularies.encode_source(line, self.data) for line in lines]
        full = [index for index, source in enumerate(sources) if source]
        chosen, end = [sources[index] for index in full], self.vocabularies.target.eos_id
        drawn = sample(models, chosen, self.vocabularies, self.decoding, temperature=temperature, generator=generator)
        found = [Translation("", 0.0, 0.0, True) for _ in lines]
        for index, tokens, log_p in zip(full, drawn, log_probabilities(models, chosen, drawn, end), strict=True):
            finished = tokens[-1] == end
            total = float(log_p.sum())
            one = Hypothesis(tokens[:-1] if finished else tokens, total, total, finished)
            found[index] = self._translation(models, lines[index], sources[index], one, self.decoding)
        return found

    def force(
        self, lines: Sequence[str], translations: Sequence[str], *, average: "Sequence[TrainedTranslator]" = ()
    ) -> list[Forced]:
        """How probable a given translation of each sentence is. Raises ValueError for an empty sentence."""
        sources = [self.vocabularies.encode_source(line, self.data) for line in lines]
        targets = [self.vocabularies.encode_target(line) for line in translations]
        if [] in sources:
            raise ValueError(f"lines must not be empty, and number {sources.index([]) + 1} is")
        scored = log_probabilities(self._models(average), sources, targets, self.vocabularies.target.eos_id)
        return [Forced(float(log_p.sum()), len(log_p)) for log_p in scored]

    def _models(self, others: "Sequence[TrainedTranslator]") -> list[TranslationModel]:
        require_same_tokens([self, *others])
        return [self.model, *(other.model for other in others)]

    def _translation(
        self,
        models: Sequence[TranslationModel],
        line: str,
        source: Sequence[int],
        found: Hypothesis,
        decoding: DecodingConfig,
    ) -> Translation:
        target = self.vocabularies.target
        text = target.decode(found.tokens).replace("\n", " ")  # which bytes may spell
        reader = self.vocabularies.source
        if target.unk_id in found.tokens and copies(models, decoding) and isinstance(reader, WordVocabulary):
            words = reader.split(line)
            words = words[::-1] if self.data.reverse_source else words
            places = looked_at(models, source, found.tokens, target.eos_id)
            tokens = target.tokens(found.tokens)
            for at, token in enumerate(found.tokens):
                if token == target.unk_id:
                    tokens[at] = words[places[at]]
            text = target.join(tokens) if isinstance(target, WordVocabulary) else text
        return Translation(text, found.log_probability, found.score, found.finished)


def require_same_tokens(members: Sequence[TrainedTranslator]) -> None:
    """Raises RegrnnError unless all read and write the same tokens in the same order."""
    first = members[0]
    for other in members[1:]:
        for side in ("source", "target"):
            if getattr(other.vocabularies, side).to_json() != getattr(first.vocabularies, side).to_json():
                raise RegrnnError(f"the runs have different {side} vocabularies; they cannot be averaged")
        if other.data.reverse_source != first.data.reverse_source:
            raise RegrnnError("only some of the runs read the source backwards; they cannot be averaged")
