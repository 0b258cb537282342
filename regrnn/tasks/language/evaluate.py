"""Perplexity over every word of a text, as one contiguous stream at batch 1 with the state carried.

Shapes: T time, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from regrnn.data.stream import TokenStream
from regrnn.nn.loss import token_log_probabilities
from regrnn.tasks.language.model import LanguageModel, State
from regrnn.tasks.protocol import Evaluation

WINDOW = 1000
"""Steps read at once; the figures do not depend on it, since the state is carried."""

if TYPE_CHECKING:
    from regrnn.tasks.language.adaptive import Adaptive

PROTOCOL = "one contiguous stream, batch 1, state carried, every token but the first"

TRAIN_PREDICTIONS = 20_000
"""`train_` figures are taken on this many predictions from the beginning of the training text."""


def log_probabilities(models: Sequence[LanguageModel], ids: np.ndarray) -> Iterator[Tensor]:
    """ln p of ids[1], ids[2], ... given all before, a window at a time: (T,) float64 each, in flat memory.

    Several models are averaged: their probabilities, per prediction.
    """
    return (rows_KT[-1] for rows_KT in running_log_probabilities(models, ids))


def running_log_probabilities(models: Sequence[LanguageModel], ids: np.ndarray) -> Iterator[Tensor]:
    """As `log_probabilities`, (K, T): of the first model, of the first two averaged, ... of all K, in one pass."""
    states: list[State] = [{} for _ in models]
    device = next(models[0].parameters()).device
    with torch.no_grad():
        for start in range(0, len(ids) - 1, WINDOW):
            window = torch.from_numpy(ids[start : start + WINDOW + 1].astype(np.int64)).to(device)
            rows = []
            for index, model in enumerate(models):
                h_TBH, states[index] = model.features(window[:-1, None], states[index])
                rows.append(
                    token_log_probabilities(h_TBH[:, 0], model.decoder.weight, model.decoder.bias, window[1:]).double()
                )
            yield running_mean(torch.stack(rows))


def running_mean(log_p_KT: Tensor) -> Tensor:
    """ln of the mean probability of the first model, of the first two, ... of all (K, T)."""
    counts_K1 = torch.arange(1, len(log_p_KT) + 1, dtype=log_p_KT.dtype, device=log_p_KT.device)[:, None]
    return torch.logcumsumexp(log_p_KT, 0) - counts_K1.log()


def evaluate(models: Sequence[LanguageModel], stream: TokenStream, *, part: int | None = None) -> Evaluation:
    """Score every token of `stream` but the first, which nothing precedes.

    `part`: only that many predictions from the beginning. The perplexity is per token; for characters and BPE the
    whole stream also gets `word_perplexity` (per white-space word, a line's end counting as one) and
    `bits_per_character` (a line's end counting as one), so that tokenisers compare.
    """
    return evaluate_averages(models, stream, part=part)[-1]


def evaluate_adaptively(models: Sequence[LanguageModel], stream: TokenStream, how: "Adaptive") -> Evaluation:
    """As `evaluate`, by a protocol of another kind (`regrnn.tasks.language.adaptive`)."""
    for model in models:
        model.eval()
    total = -sum(window.sum().item() for window in how.log_probabilities(models, stream.ids))
    return Evaluation(_figures(total, stream, None), len(stream) - 1, f"{how.protocol}; {PROTOCOL}")


def evaluate_averages(
    models: Sequence[LanguageModel], stream: TokenStream, *, part: int | None = None
) -> list[Evaluation]:
    """As `evaluate`: of the first model, of the first two averaged, ... of all, in one pass."""
    for model in models:
        model.eval()
    predictions = min(len(stream) - 1, part or len(stream))
    totals_K = torch.zeros(len(models), dtype=torch.float64)
    for window_KT in running_log_probabilities(models, stream.ids[: predictions + 1]):
        totals_K -= window_KT.sum(1).cpu()
    protocol = PROTOCOL
    if part is not None:
        protocol += f", the first {predictions:,} predictions"
    return [Evaluation(_figures(total, stream, part), predictions, protocol) for total in totals_K.tolist()]


def _figures(total: float, stream: TokenStream, part: int | None) -> dict[str, float]:
    """What `total` nats over the stream, or over a part of it, come to."""
    figures = {"perplexity": _exp(total / min(len(stream) - 1, part or len(stream)))}
    if part is None:
        if stream.words != len(stream):  # tokens are not words
            figures["word_perplexity"] = _exp(total / stream.words)
        if not stream.unknown:
            figures["bits_per_character"] = total / math.log(2) / stream.characters
    return figures


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
