"""Perplexity of given translations, the model's own by beam search, and how near they come (BLEU, chrF).

Shapes: S source length, T target length, B batch, N target tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from regrnn.data.buckets import in_batches, pad
from regrnn.optional import need
from regrnn.search.beam import Hypothesis, averaged, beam_search
from regrnn.search.sampling import Sampler
from regrnn.tasks import scoring
from regrnn.tasks.protocol import Evaluation
from regrnn.tasks.translation.data import Pairs, Vocabularies
from regrnn.tasks.translation.model import State, TranslationModel

TRAIN_PAIRS = 1000
"""`train_` figures are taken on this many pairs, spread evenly over the training part."""

_TOKENS = 20_000  # scored at once, and the most hypotheses times source length in a search: bounds the memory
_MOST = 400  # sentences at once


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """The `[decoding]` section of a translation recipe: how translations are searched for and compared."""

    beam: int = 12
    max_length: int = 200
    """Tokens of a translation at most, its end counted; nor are there more than twice the source's and 10."""
    length_normalisation: float = 1.0
    """The power of the length by which log probabilities are divided to rank translations; 0: by probability alone."""
    copy_unknown: bool = True
    """With attention: put in the place of `<unk>` the source word most looked at; without, `<unk>` is never put out."""
    bleu_tokenize: Literal["13a", "none", "intl", "char", "zh", "ja-mecab", "ko-mecab"] = "13a"
    """sacrebleu's tokeniser; none for text that is tokenised already."""

    def __post_init__(self) -> None:
        for name in ("beam", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        if not self.length_normalisation >= 0:
            raise ValueError(f"length_normalisation = {self.length_normalisation} must not be negative")

    def limit(self, source_length: int) -> int:
        """Predictions at most for a source of so many tokens."""
        return min(self.max_length, 2 * source_length + 10)


@dataclass(frozen=True)
class Sources:
    """Sentences as a model reads them."""

    source_SB: Tensor
    lengths_B: Tensor


def to_sources(sentences: Sequence[Sequence[int]], device: torch.device) -> Sources:
    """Sentences side by side, none of them empty."""
    arrays = [np.array(sentence, np.int64) for sentence in sentences]
    padded_SB = torch.from_numpy(pad(arrays)).to(device)
    return Sources(padded_SB, torch.tensor([len(sentence) for sentence in sentences]))


def training_part(pairs: Pairs) -> list[int]:
    """The training pairs on which `train_` figures are taken."""
    return [int(index) for index in np.linspace(0, len(pairs) - 1, min(TRAIN_PAIRS, len(pairs)))]


def log_probabilities(
    models: Sequence[TranslationModel], sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], end: int
) -> list[Tensor]:
    """ln p of the tokens of each target, (T,) float64 each, under the models' average per prediction."""

    def reading(model: TranslationModel) -> scoring.Features:
        def features(lot: Sequence[int], tokens_TB: Tensor) -> Tensor:
            read = to_sources([sources[index] for index in lot], tokens_TB.device)
            return model.features(read.source_SB, read.lengths_B, tokens_TB)

        return features

    lengths = [max(len(source), len(target)) for source, target in zip(sources, targets, strict=True)]
    lots = in_batches(lengths, tokens=_TOKENS, most=_MOST)
    return scoring.log_probabilities(targets, end, [(model.decoder, reading(model)) for model in models], lots)


@torch.no_grad()
def search(
    models: Sequence[TranslationModel],
    sources: Sequence[Sequence[int]],
    vocabularies: Vocabularies,
    decoding: DecodingConfig,
) -> list[list[Hypothesis]]:
    """Translations of each source, none of them empty, by beam search on the models' average, the best first."""
    found: list[list[Hypothesis]] = [[] for _ in sources]
    device = models[0].decoder.weight.device
    target = vocabularies.target
    for part in in_batches([len(source) for source in sources], tokens=_TOKENS // decoding.beam, most=_MOST):
        read = to_sources([sources[index] for index in part], device)
        results = beam_search(
            averaged([model.steps for model in models]),
            torch.full((len(part),), target.eos_id, device=device),
            tuple(model.read(read.source_SB, read.lengths_B) for model in models),
            end=target.eos_id,
            beam=decoding.beam,
            max_length=[decoding.limit(len(sources[index])) for index in part],
            length_normalisation=decoding.length_normalisation,
            never=never(models, vocabularies, decoding),
        )
        for index, hypotheses in zip(part, results, strict=True):
            found[index] = hypotheses
    return found


def never(models: Sequence[TranslationModel], vocabularies: Vocabularies, decoding: DecodingConfig) -> tuple[int, ...]:
    """Tokens that are not put out: `<unk>`, unless something can be copied in its place."""
    unknown = vocabularies.target.unk_id
    return () if unknown is None or copies(models, decoding) else (unknown,)


def copies(models: Sequence[TranslationModel], decoding: DecodingConfig) -> bool:
    """Whether unknown words are copied from the source."""
    return decoding.copy_unknown and any(model.attention is not None for model in models)


@torch.no_grad()
def sample(
    models: Sequence[TranslationModel],
    sources: Sequence[Sequence[int]],
    vocabularies: Vocabularies,
    decoding: DecodingConfig,
    *,
    temperature: float,
    generator: torch.Generator,
) -> list[list[int]]:
    """A translation of each source drawn from the models' average, its end included if it came to one."""
    target = vocabularies.target
    steps = averaged([model.steps for model in models])
    found: list[list[int]] = [[] for _ in sources]
    device = models[0].decoder.weight.device
    for part in in_batches([len(source) for source in sources], tokens=_TOKENS, most=_MOST):
        read = to_sources([sources[index] for index in part], device)
        state: tuple[State, ...] = tuple(model.read(read.source_SB, read.lengths_B) for model in models)
        log_p_BV, state = steps.step(torch.full((len(part),), target.eos_id, device=device), state)
        sampler = Sampler(
            steps.step, temperature=temperature, never=never(models, vocabularies, decoding), generator=generator
        )
        limits = [decoding.limit(len(sources[index])) for index in part]

        def finished(row: int, tokens: list[int], limits: list[int] = limits) -> bool:
            return tokens[-1] == target.eos_id or len(tokens) == limits[row]

        for index, tokens in zip(part, sampler.run(log_p_BV, state, max(limits), finished), strict=True):
            found[index] = tokens
    return found


@torch.no_grad()
def looked_at(models: Sequence[TranslationModel], source: Sequence[int], target: Sequence[int], end: int) -> list[int]:
    """The place in `source` most looked at when each token of `target` is written, by the mean attention."""
    device = models[0].decoder.weight.device
    read = to_sources([source], device)
    tokens_T1 = torch.tensor([end, *target[:-1]], device=device)[:, None]
    total = torch.zeros(len(target), len(source), device=device)
    for model in models:
        if model.attention is not None:
            _, weights_1TS, _ = model.write(tokens_T1, model.read(read.source_SB, read.lengths_B))
            assert weights_1TS is not None
            total += weights_1TS[0]
    places: list[int] = total.argmax(1).tolist()
    return places


def evaluate(
    models: Sequence[TranslationModel],
    pairs: Pairs,
    vocabularies: Vocabularies,
    *,
    train: bool = False,
    translations: Sequence[str] | None = None,
    decoding: DecodingConfig | None = None,
    lowercase: bool = False,
) -> Evaluation:
    """Perplexity over every token and end of every target, of the models' average.

    With `translations`, one for each pair, made as `decoding` says, there are also BLEU and chrF, blind to case with
    `lowercase`. `train`: only the training part's fixed subset.
    """
    for model in models:
        model.eval()
    chosen = training_part(pairs) if train else range(len(pairs))
    sources, targets = [pairs.source(index) for index in chosen], [pairs.target(index) for index in chosen]
    log_p = log_probabilities(models, sources, targets, vocabularies.target.eos_id)
    predictions = sum(len(one) for one in log_p)
    nats = -sum(float(one.sum()) for one in log_p) / predictions
    figures = {"perplexity": math.exp(nats) if nats < 700 else math.inf}
    protocol = "every target token and end, given the source and the tokens before it, unknown words as <unk>"
    if pairs.left_out and not train:
        protocol += f"; {pairs.left_out} left out"
    if train:
        protocol += f"; {len(chosen):,} pairs spread over the training part"
    files = {}
    if translations is not None and decoding is not None:
        found, signatures = bleu_and_chrf(translations, pairs.target_lines(), decoding.bleu_tokenize, lowercase)
        figures |= found
        protocol += (
            f"; translations by beam search ({decoding.beam}, length normalisation "
            f"{decoding.length_normalisation:g}); {signatures}"
        )
        files["translations.txt"] = "".join(f"{line}\n" for line in translations)
    return Evaluation(figures, predictions, protocol, files)


def bleu_and_chrf(
    translations: Sequence[str], references: Sequence[str], tokenize: str, lowercase: bool = False
) -> tuple[dict[str, float], str]:
    """Both in percent, by sacrebleu, and its signatures. Raises RegrnnError if it is not installed."""
    metrics = need_sacrebleu()
    bleu = metrics.BLEU(tokenize=tokenize, force=True, lowercase=lowercase)
    chrf = metrics.CHRF(lowercase=lowercase)
    figures = {
        name: float(metric.corpus_score(list(translations), [list(references)]).score)
        for name, metric in (("bleu", bleu), ("chrf", chrf))
    }
    return figures, f"BLEU {bleu.get_signature()}; chrF {chrf.get_signature()}"


def need_sacrebleu() -> Any:
    """Its metrics. Raises RegrnnError if it is not installed."""
    return need("sacrebleu.metrics", "sacrebleu", "translation")
