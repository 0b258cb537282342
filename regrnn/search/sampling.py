"""Ancestral sampling from anything that steps, many samples in one batch.

Shapes: B samples, V vocabulary.
"""

import functools
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

import torch
from torch import Tensor

StateT = TypeVar("StateT")

_AT_ONCE = 32  # tokens drawn before it is looked whether a text has ended


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


def draw(probabilities_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Tokens (B,): of each row the first at which the cumulated probability is above `uniform`, in [0, 1)."""
    cumulated_BV = probabilities_BV.double().cumsum(-1)
    wanted_B1 = uniform_B.to(cumulated_BV)[:, None] * cumulated_BV[:, -1:]
    tokens_B1 = torch.searchsorted(cumulated_BV, wanted_B1, right=True)
    return tokens_B1[:, 0].clamp(max=probabilities_BV.size(1) - 1)


class Sampler(Generic[StateT]):
    """Draws token after token from `step(tokens_B, state) -> (logits_BV, state)`.

    Args:
        step: one step of the model.
        temperature, top_k, top_p, never: see `truncate_logits`.
        generator: where randomness comes from; None: torch's global one.
        several: draws tokens one after the other at less cost than by `step`: from logits (B, V), a state and uniform
            numbers (T, B) to tokens (T, B) and the logits and the state that follow them.
    """

    def __init__(
        self,
        step: Callable[[Tensor, StateT], tuple[Tensor, StateT]],
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        never: Collection[int] = (),
        generator: torch.Generator | None = None,
        several: Callable[[Tensor, StateT, Tensor], tuple[Tensor, Tensor, StateT]] | None = None,
    ) -> None:
        self.step = step
        self.generator = generator
        self.truncate = functools.partial(
            truncate_logits, temperature=temperature, top_k=top_k, top_p=top_p, never=never
        )
        self.several = several

    def run(
        self, logits_BV: Tensor, state: StateT, length: int, finished: Callable[[int, list[int]], bool]
    ) -> list[list[int]]:
        """Up to `length` tokens for each row, beginning from the logits of the first.

        A row ends where `finished(row, tokens so far)` is true; all end when all have.
        """
        drawn: list[list[int]] = [[] for _ in logits_BV]
        running = [True] * len(drawn)
        tokens_TB: Tensor | None = None
        position = 0
        while position < length and any(running):
            n = 1 if self.several is None else min(_AT_ONCE, length - position)
            uniform_TB = torch.rand(n, len(drawn), generator=self.generator, device=logits_BV.device)
            if self.several is None:
                if tokens_TB is not None:
                    logits_BV, state = self.step(tokens_TB[-1], state)
                tokens_TB = draw(self.truncate(logits_BV).softmax(-1), uniform_TB[0])[None]
            else:
                tokens_TB, logits_BV, state = self.several(logits_BV, state, uniform_TB)
            for row, tokens in enumerate(tokens_TB.T.tolist()):
                for token in tokens:
                    if running[row]:
                        drawn[row].append(token)
                        running[row] = not finished(row, drawn[row])
            position += n
        return drawn
