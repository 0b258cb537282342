"""Perplexity over every word of a text, as one contiguous stream at batch 1 with the state carried.

Shapes: T time, V vocabulary.
"""

import json
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
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


FREQUENCIES = "frequency.json"
"""The file of an evaluation that says how well words of each frequency are predicted."""


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


def evaluate(
    models: Sequence[LanguageModel],
    stream: TokenStream,
    *,
    part: int | None = None,
    counts_V: NDArray[np.int64] | None = None,
) -> Evaluation:
    """Score every token of `stream` but the first, which nothing precedes.

    `part`: only that many predictions from the beginning. `counts_V`, how often training has each token, adds the file
    `FREQUENCIES`. The perplexity is per token; for characters and BPE the
    whole stream also gets `word_perplexity` (per white-space word, a line's end counting as one) and
    `bits_per_character` (a line's end counting as one), so that tokenisers compare.
    """
    return evaluate_averages(models, stream, part=part, counts_V=counts_V)[-1]


def evaluate_adaptively(
    models: Sequence[LanguageModel], stream: TokenStream, hows: Sequence["Adaptive"]
) -> Iterator[Evaluation]:
    """As `evaluate`, by each of some settings of a protocol of another kind (`regrnn.tasks.language.adaptive`)."""
    for model in models:
        model.eval()
    for part in [hows] if hows[0].one_pass else [[how] for how in hows]:
        windows = type(hows[0]).log_probabilities(part, models, stream.ids)
        totals_S = torch.zeros(len(part), dtype=torch.float64)
        for window_ST in windows:
            totals_S -= window_ST.sum(1).cpu()
        for how, total in zip(part, totals_S.tolist(), strict=True):
            yield Evaluation(_figures(total, stream, None), len(stream) - 1, f"{how.protocol}; {PROTOCOL}")


def evaluate_averages(
    models: Sequence[LanguageModel],
    stream: TokenStream,
    *,
    part: int | None = None,
    counts_V: NDArray[np.int64] | None = None,
) -> list[Evaluation]:
    """As `evaluate`: of the first model, of the first two averaged, ... of all, in one pass."""
    for model in models:
        model.eval()
    predictions = min(len(stream) - 1, part or len(stream))
    totals_K = torch.zeros(len(models), dtype=torch.float64)
    by_frequency = None if counts_V is None else ByFrequency(counts_V, len(models))
    seen = 1
    for window_KT in running_log_probabilities(models, stream.ids[: predictions + 1]):
        totals_K -= window_KT.sum(1).cpu()
        if by_frequency is not None:
            by_frequency.add(window_KT.cpu().numpy(), stream.ids[seen : seen + window_KT.size(1)])
            seen += window_KT.size(1)
    protocol = PROTOCOL
    if part is not None:
        protocol += f", the first {predictions:,} predictions"
    files = [{}] * len(models) if by_frequency is None else [{FREQUENCIES: text} for text in by_frequency.texts()]
    return [
        Evaluation(_figures(total, stream, part), predictions, protocol, file)
        for total, file in zip(totals_K.tolist(), files, strict=True)
    ]


class ByFrequency:
    """Perplexity of the tokens that training has never, 1 to 9 times, 10 to 99 times, ..., of each of K models.

    Memory is that of the vocabulary's counts and a few sums.
    """

    def __init__(self, counts_V: NDArray[np.int64], models: int) -> None:
        # 0 for never, then the number of digits.
        self.band_V = np.where(counts_V > 0, np.floor(np.log10(np.maximum(counts_V, 1))).astype(np.int64) + 1, 0)
        bands = int(self.band_V.max()) + 1
        self.nats = np.zeros((models, bands))
        self.predictions = np.zeros(bands, np.int64)

    def add(self, log_p_KT: NDArray[np.float64], ids_T: NDArray[np.unsignedinteger[Any]]) -> None:
        """Some predictions, by each of the models."""
        band_T = self.band_V[ids_T]
        self.predictions += np.bincount(band_T, minlength=len(self.predictions))
        for nats, log_p_T in zip(self.nats, log_p_KT, strict=True):
            nats -= np.bincount(band_T, log_p_T, minlength=len(nats))

    def texts(self) -> list[str]:
        """Of each model a JSON list of the bands that have predictions, from the rarest."""
        return [
            json.dumps(
                [
                    {
                        "least": 10 ** (band - 1) if band else 0,
                        "most": 10**band - 1,
                        "predictions": int(count),
                        "perplexity": _exp(float(total / count)),
                    }
                    for band, (count, total) in enumerate(zip(self.predictions, nats, strict=True))
                    if count
                ]
            )
            for nats in self.nats
        ]


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
