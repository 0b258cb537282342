"""How probable given tokens are, sentence by sentence, whatever else a model has read.

Shapes: T time, B batch, H hidden, N tokens.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from regrnn.data.buckets import teacher_forced
from regrnn.nn.loss import token_log_probabilities

Features = Callable[[Sequence[int], Tensor], Tensor]
"""What the softmax reads, (T, B, H), given the sentences' numbers and the tokens (T, B) that precede each of theirs."""


@torch.no_grad()
def log_probabilities(
    sentences: Sequence[Sequence[int]],
    begin: int,
    members: Sequence[tuple[nn.Linear, Features]],
    lots: Iterable[Sequence[int]],
) -> list[Tensor]:
    """ln p of the tokens of each sentence, (T,) float64 each, under the members' average per prediction.

    `begin` stands before the first token of each; a member is its softmax's layer and what that reads. `lots` are the
    numbers of the sentences to take at once, and the figures do not depend on them.
    """
    found: list[Tensor] = [torch.empty(0)] * len(sentences)
    for lot in lots:
        x_TB, y_TB, there_TB = (torch.from_numpy(a) for a in teacher_forced([sentences[i] for i in lot], begin))
        rows = []
        for decoder, features in members:
            device = decoder.weight.device
            h_NH = features(lot, x_TB.to(device))[there_TB.to(device)]
            log_p_N = token_log_probabilities(h_NH, decoder.weight, decoder.bias, y_TB[there_TB].to(device))
            rows.append(log_p_N.double().cpu())
        log_p_TB = torch.zeros(x_TB.shape, dtype=torch.float64)
        log_p_TB[there_TB] = torch.logsumexp(torch.stack(rows), 0) - math.log(len(rows))
        for row, index in enumerate(lot):
            found[index] = log_p_TB[: len(sentences[index]), row]
    return found
