"""Beam search over anything that steps, many rows in one batch; and several models stepping as one.

Shapes: R rows still searched, K hypotheses a row, N = R K, V vocabulary, T tokens so far.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

StateT = TypeVar("StateT")


@dataclass(frozen=True)
class Hypothesis:
    """One output of a search."""

    tokens: list[int]
    """Without the end."""
    log_probability: float
    """ln p of the tokens, and of the end where it was reached: what teacher-forced scoring gives."""
    score: float
    """`log_probability / n ** length_normalisation`, n the predictions made, the end's among them."""
    finished: bool
    """Whether the end was reached; else the hypothesis was cut at the greatest length."""


@dataclass(frozen=True)
class Steps(Generic[StateT]):
    """What a search needs of a model."""

    step: Callable[[Tensor, StateT], tuple[Tensor, StateT]]
    """From tokens (N,) and the state before them to ln p of the next, (N, V), and the state after them."""
    select: Callable[[StateT, Tensor], StateT]
    """The state of the rows whose indices are given, which may repeat."""


def averaged(models: Sequence[Steps[Any]]) -> Steps[tuple[Any, ...]]:
    """Models of one vocabulary as one: its probabilities are the mean of theirs at each step. States are a tuple."""
    if not models:
        raise ValueError("there must be a model")
    if len(models) == 1:
        # The mean of one costs as much as the model's own step, being taken over all of the vocabulary.
        (one,) = models

        def alone(tokens_N: Tensor, states: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
            log_p_NV, state = one.step(tokens_N, states[0])
            return log_p_NV, (state,)

        return Steps(alone, lambda states, rows: (one.select(states[0], rows),))

    def step(tokens_N: Tensor, states: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        stepped = [model.step(tokens_N, state) for model, state in zip(models, states, strict=True)]
        log_p_NV = torch.logsumexp(torch.stack([log_p for log_p, _ in stepped]), 0) - math.log(len(stepped))
        return log_p_NV, tuple(state for _, state in stepped)

    def select(states: tuple[Any, ...], rows: Tensor) -> tuple[Any, ...]:
        return tuple(model.select(state, rows) for model, state in zip(models, states, strict=True))

    return Steps(step, select)


@torch.no_grad()
def beam_search(
    steps: Steps[StateT],
    tokens_R: Tensor,
    state: StateT,
    *,
    end: int,
    beam: int,
    max_length: int | Sequence[int],
    length_normalisation: float = 0.0,
    never: Collection[int] = (),
) -> list[list[Hypothesis]]:
    """The most probable continuations of each row, the best first.

    A row holds `beam` hypotheses. Each step keeps the most probable of all their continuations; one that ends is put
    aside and its place given up (Sutskever et al. 2014), so that a beam of 1 is greedy search and one as large as the
    number of texts is exhaustive. A row is finished when every place is given up or `max_length` is reached. Rows do
    not influence each other.

    Args:
        steps: the model, or several by `averaged`.
        tokens_R: int64, the first token each row reads.
        state: the state before it.
        end: the id of the token that ends a hypothesis.
        beam: hypotheses a row, at least 1; there are fewer results where there are fewer texts.
        max_length: predictions of a hypothesis at most, the end's among them; of all rows, or of each.
        length_normalisation: the power of the length by which the log probability is divided to rank the results:
            0 ranks by probability, 1 by the mean of a prediction.
        never: ids that are not put out. What is left is not scaled up, so that probabilities remain the model's.

    Returns:
        of each row its results by falling score, those that reached their end before those that were cut.

    Raises:
        ValueError: an argument out of range.
    """
    limits = [max_length] * len(tokens_R) if isinstance(max_length, int) else list(max_length)
    if beam < 1 or min(limits, default=1) < 1:
        raise ValueError(f"beam and max_length must be at least 1, got {beam} and {max_length}")
    if len(limits) != len(tokens_R):
        raise ValueError(f"max_length must be one number or one for each of {len(tokens_R)} rows, got {len(limits)}")
    if not length_normalisation >= 0:
        raise ValueError(f"length_normalisation must not be negative, got {length_normalisation}")
    device = tokens_R.device
    found: list[list[Hypothesis]] = [[] for _ in tokens_R]
    rows = list(range(len(found)))  # which row of the input each row of the tensors is
    history_RKT = tokens_R.new_empty(len(found), 1, 0)
    scores_RK = torch.zeros(len(found), 1, dtype=torch.float64, device=device)
    tokens_N = tokens_R
    for length in range(1, max(limits, default=0) + 1):
        if not rows:
            break
        log_p_NV, state = steps.step(tokens_N, state)
        if never:
            log_p_NV = log_p_NV.clone()
            log_p_NV[:, list(never)] = -torch.inf
        width = scores_RK.shape[1]
        # The best of a row are among the best of its hypotheses.
        best_NC, token_NC = log_p_NV.topk(min(beam, log_p_NV.shape[1]), 1)
        choices = best_NC.shape[1]
        total_RX = (scores_RK[:, :, None] + best_NC.double().view(len(rows), width, choices)).flatten(1)
        scores_RK, place_RK = total_RX.topk(min(beam, total_RX.shape[1]), 1)
        token_RK = token_NC.view(len(rows), -1).gather(1, place_RK)
        parent_RK = place_RK // choices
        history_RKT = history_RKT.gather(1, parent_RK[:, :, None].expand(-1, -1, length - 1))
        history_RKT = torch.cat((history_RKT, token_RK[:, :, None]), 2)

        room_R = torch.tensor([beam - len(found[row]) for row in rows], device=device)
        places_K = torch.arange(scores_RK.shape[1], device=device)
        scores_RK = scores_RK.masked_fill(places_K >= room_R[:, None], -torch.inf)
        ended_RK = (token_RK == end) & (scores_RK > -torch.inf)
        cut_R = torch.tensor([limits[row] == length for row in rows], device=device)
        done_RK = ended_RK | ((scores_RK > -torch.inf) & cut_R[:, None])
        for r, k in done_RK.nonzero().tolist():
            finished = bool(ended_RK[r, k])
            tokens = history_RKT[r, k].tolist()
            log_p = float(scores_RK[r, k])
            score = log_p / length**length_normalisation
            found[rows[r]].append(Hypothesis(tokens[:-1] if finished else tokens, log_p, score, finished))
        scores_RK = scores_RK.masked_fill(done_RK, -torch.inf)

        running_R = (scores_RK > -torch.inf).any(1)
        kept_R = running_R.nonzero()[:, 0]
        parent_RK = torch.arange(len(rows), device=device)[:, None] * width + parent_RK
        rows = [rows[r] for r in kept_R.tolist()]
        scores_RK, history_RKT = scores_RK[kept_R], history_RKT[kept_R]
        tokens_N = token_RK[kept_R].flatten()
        state = steps.select(state, parent_RK[kept_R].flatten())
    for hypotheses in found:
        hypotheses.sort(key=lambda hypothesis: (not hypothesis.finished, -hypothesis.score))
    return found
