"""Ancestral sampling from anything that steps, many samples in one batch.

Shapes: B samples, V vocabulary.
"""

import functools
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

import torch
from torch import Tensor

StateT = TypeVar("StateT")


def truncate_logits(
    logits_BV: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    never: Collection[int] = (),
) -> Tensor:
    """Logits / temperature, with -inf for what must not be drawn.

    `top_k` keeps the k most probable tokens; `top_p` the smallest set whose probabilities reach p (Holtzman et al.
    2020), the most probable token always among them; `never` is a list of ids. At temperature 0 only the most
    probable token is left.
    """
    logits_BV = logits_BV.clone()
    logits_BV[:, list(never)] = -torch.inf
    if temperature == 0:
        top_k = 1
    else:
        # The largest becomes 0 and stays it, however near to 0 the temperature; a division by 0 would be NaN.
        logits_BV -= logits_BV.amax(1, keepdim=True)
        logits_BV /= max(temperature, torch.finfo(logits_BV.dtype).tiny)
    if top_k is not None and top_k < logits_BV.shape[1]:
        kept = logits_BV.topk(top_k).indices  # by index, so that equal logits do not let more through
        logits_BV = torch.full_like(logits_BV, -torch.inf).scatter(1, kept, logits_BV.gather(1, kept))
    if top_p is not None and top_p < 1:
        ordered, order = logits_BV.sort(descending=True)
        reached = ordered.softmax(-1).cumsum(-1)[:, :-1]  # before the second token, the third, ...
        ordered[:, 1:] = ordered[:, 1:].masked_fill(reached >= top_p, -torch.inf)
        logits_BV = torch.empty_like(logits_BV).scatter_(1, order, ordered)
    return logits_BV


class Sampler(Generic[StateT]):
    """Draws token after token from `step(tokens_B, state) -> (logits_BV, state)`."""

    def __init__(
        self,
        step: Callable[[Tensor, StateT], tuple[Tensor, StateT]],
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        never: Collection[int] = (),
        generator: torch.Generator | None = None,
    ) -> None:
        self.step = step
        self.generator = generator
        self.truncate = functools.partial(
            truncate_logits, temperature=temperature, top_k=top_k, top_p=top_p, never=never
        )

    def run(
        self, logits_BV: Tensor, state: StateT, length: int, finished: Callable[[int, list[int]], bool]
    ) -> list[list[int]]:
        """Up to `length` tokens for each row, beginning from the logits of the first.

        A row ends where `finished(row, tokens so far)` is true; all end when all have.
        """
        drawn: list[list[int]] = [[] for _ in logits_BV]
        running = [True] * len(drawn)
        for position in range(length):
            probabilities_BV = self.truncate(logits_BV).softmax(-1)
            tokens_B = torch.multinomial(probabilities_BV, 1, generator=self.generator)[:, 0]
            for row, token in enumerate(tokens_B.tolist()):
                if running[row]:
                    drawn[row].append(token)
                    running[row] = not finished(row, drawn[row])
            if not any(running) or position == length - 1:
                break
            logits_BV, state = self.step(tokens_B, state)
        return drawn
