"""Tokens that the core draws: the first at which the cumulated probability is above a given number."""

import pytest
import torch
from core_and_reference import any_problem
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from regrnn.kernels.stack import Stack

DRAWS = 40
ROUNDING = 1e-5


def draws(logits_V: Tensor, uniform_T: Tensor, **options: object) -> list[int]:
    """One token for each number, always from these logits: a model of no weights whose decoder's bias they are."""
    V, H = len(logits_V), 3
    layer = (torch.zeros(4 * H, H), torch.zeros(4 * H, H))
    stack = Stack("lstm", torch.zeros(V, H), [layer], (torch.zeros(V, H), logits_V))
    state = (torch.zeros(1, 1, H), torch.zeros(1, 1, H))
    tokens_TB, after_BV, _ = stack.generate(logits_V[None], state, uniform_T[:, None], **options)  # type: ignore[arg-type]
    assert torch.equal(after_BV[0].nan_to_num(), logits_V.nan_to_num())
    return tokens_TB[:, 0].tolist()


@any_problem
@given(
    V=st.sampled_from([1, 2, 31, 512, 513, 2000]),
    peaked=st.sampled_from([0.0, 0.1, 3.0, 40.0]),
    ties=st.booleans(),
    temperature=st.sampled_from([1.0, 0.3, 2.5, 1e-30]),
    top_k=st.sampled_from([None, 1, 2, 7, 600]),
    top_p=st.sampled_from([None, 1e-6, 0.4, 0.95]),
    never=st.lists(st.integers(1, 30), max_size=3),
    seed=st.integers(0, 10**6),
)
def test_the_token_is_where_the_cumulated_probability_passes_the_number(
    instruction_set: str,
    V: int,
    peaked: float,
    ties: bool,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    never: list[int],
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits_V = torch.randn(V, generator=generator) * peaked - 3
    if ties:
        logits_V = logits_V.round()
    uniform_T = torch.rand(DRAWS, generator=generator)
    uniform_T[:2] = torch.tensor([0.0, 1 - 2**-24])
    never = [token for token in never if token < V]
    found = draws(logits_V, uniform_T, temperature=temperature, top_k=top_k, top_p=top_p, never=never)

    exact_V = logits_V.double()
    exact_V[never] = -torch.inf
    weights_V = ((exact_V - exact_V.max()) / max(temperature, torch.finfo(torch.float32).tiny)).exp()
    ordered_V, order_V = weights_V.sort(descending=True, stable=True)
    ordered_V[top_k or V :] = 0
    if top_p is not None:
        before_V = (ordered_V.cumsum(0) - ordered_V) / ordered_V.sum()
        assume(((before_V[1:] - top_p).abs() > ROUNDING).all())  # else rounding decides
        ordered_V[1:][before_V[1:] >= top_p] = 0
    kept_V = torch.zeros_like(weights_V).scatter(0, order_V, ordered_V) / ordered_V.sum()
    ends_V = kept_V.cumsum(0)
    for token, uniform in zip(found, uniform_T.tolist(), strict=True):
        if kept_V[token] > 0:
            assert ends_V[token] - kept_V[token] - ROUNDING <= uniform <= ends_V[token] + ROUNDING
        else:  # equal to the least that is kept, but for rounding
            assert weights_V[token] >= ordered_V[ordered_V > 0].min() * (1 - ROUNDING)


@pytest.mark.parametrize("k", [1, 2, 3, 50, 99, 100, 1000])
def test_exactly_k_are_drawn_of_equal_ones(instruction_set: str, k: int) -> None:
    uniform_T = (torch.arange(2000) + 0.5) / 2000
    found = draws(torch.full((100,), -2.0), uniform_T, temperature=1.0, top_k=k, top_p=None, never=[])
    assert len(set(found)) == min(k, 100)


@pytest.mark.parametrize(("p", "expected"), [(0.4, {2}), (0.5, {2}), (0.51, {0, 2}), (0.75, {0, 2}), (0.8, {0, 1, 2})])
def test_the_smallest_set_that_reaches_p_is_drawn_from(instruction_set: str, p: float, expected: set[int]) -> None:
    logits_V = torch.tensor([0.25, 0.125, 0.5, 0.125]).log()
    logits_V -= logits_V.max()
    uniform_T = (torch.arange(500) + 0.5) / 500
    assert set(draws(logits_V, uniform_T, temperature=1.0, top_k=None, top_p=p, never=[])) == expected


@pytest.mark.parametrize("place", [0, 700, 999])
@pytest.mark.parametrize(("top_k", "top_p"), [(None, None), (5, 0.5)])
def test_not_a_number_among_the_logits_draws_some_token(
    instruction_set: str, place: int, top_k: int | None, top_p: float | None
) -> None:
    logits_V = torch.randn(1000)
    logits_V[place] = torch.nan
    found = draws(logits_V, torch.rand(20), temperature=1.0, top_k=top_k, top_p=top_p, never=[])
    assert 0 <= min(found) <= max(found) < 1000
