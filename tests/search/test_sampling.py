"""Truncation of distributions, and drawing from what steps."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regrnn.search.sampling import Sampler, truncate_logits

LOGITS = torch.tensor([[0.5, 0.2, 0.15, 0.1, 0.05]]).log()


def kept(**options: object) -> list[int]:
    return torch.isfinite(truncate_logits(LOGITS, **options)[0]).nonzero()[:, 0].tolist()  # type: ignore[arg-type]


def test_top_k_keeps_exactly_k_even_among_equals() -> None:
    assert kept(top_k=2) == [0, 1]
    assert kept(top_k=99) == [0, 1, 2, 3, 4]
    assert torch.isfinite(truncate_logits(torch.zeros(3, 7), top_k=4)).sum(1).tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("p", "expected"), [(0.01, [0]), (0.5, [0]), (0.6, [0, 1]), (0.9, [0, 1, 2, 3]), (1.0, [0, 1, 2, 3, 4])]
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(p: float, expected: list[int]) -> None:
    assert kept(top_p=p) == expected


def test_top_p_finds_its_set_in_any_order() -> None:
    shuffled = LOGITS[:, [4, 0, 3, 1, 2]]
    assert torch.isfinite(truncate_logits(shuffled, top_p=0.6)[0]).tolist() == [False, True, False, True, False]


def test_never_is_never_and_the_argument_is_left_alone() -> None:
    logits = LOGITS.clone()
    assert kept(never=[0, 3]) == [1, 2, 4]
    truncate_logits(logits, never=[0], temperature=0.5, top_k=1)
    assert torch.equal(logits, LOGITS)


def test_temperature_zero_takes_the_most_probable_that_is_allowed() -> None:
    assert kept(temperature=0) == [0]
    assert kept(temperature=0, never=[0]) == [1]


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-40, 1e-46, 5e-324])
def test_temperatures_near_zero_are_numbers(temperature: float) -> None:
    """Where float32 would overflow, or take the temperature itself for 0."""
    probabilities = truncate_logits(LOGITS, temperature=temperature, never=[0]).softmax(-1)
    assert probabilities[0].tolist() == [0.0, 1.0, 0.0, 0.0, 0.0]
    tied = truncate_logits(torch.tensor([[1.0, 3.0, 3.0]]), temperature=temperature).softmax(-1)
    assert tied[0].tolist() == [0.0, 0.5, 0.5]


def test_temperature_divides_the_logits() -> None:
    halved = truncate_logits(LOGITS, temperature=2.0).softmax(-1)
    expected = (LOGITS / 2).softmax(-1)
    torch.testing.assert_close(halved, expected)


@settings(deadline=None)
@given(
    weights=st.lists(st.integers(1, 1000), min_size=1, max_size=12),
    p=st.floats(0.01, 0.99),
    forbidden=st.integers(0, 11),
)
def test_top_p_is_smallest_and_reaches_p(weights: list[int], p: float, forbidden: int) -> None:
    """Against the definition, in float64, where a set within rounding of p may fall on either side."""
    never = [forbidden] if forbidden < len(weights) and len(weights) > 1 else []
    logits = torch.tensor([weights], dtype=torch.float64).log()
    left = torch.isfinite(truncate_logits(logits, top_p=p, never=never)[0]).tolist()
    allowed = [weight for index, weight in enumerate(weights) if index not in never]
    inside = [weight for weight, stays in zip(weights, left, strict=True) if stays]
    assert not any(left[index] for index in never)
    assert sorted(inside) == sorted(allowed)[-len(inside) :], "the most probable ones"
    assert sum(inside) / sum(allowed) >= p - 1e-9
    assert len(inside) == 1 or (sum(inside) - min(inside)) / sum(allowed) < p + 1e-9


def test_truncations_combine() -> None:
    """Of what is allowed the top k, of these the smallest set that reaches p."""
    assert kept(never=[0], top_k=3) == [1, 2, 3]
    assert kept(never=[0], top_k=3, top_p=0.5) == [1, 2]  # 0.2 and 0.15 of 0.45
    assert kept(never=[0, 1, 2, 3], top_k=3) == [4]


def chain(tokens_B: Tensor, state: int) -> tuple[Tensor, int]:
    """The token after t is t + 1 (mod 5), for certain; the state counts steps."""
    return torch.full((len(tokens_B), 5), -torch.inf).scatter(1, ((tokens_B + 1) % 5)[:, None], 0.0), state + 1


def test_tokens_are_fed_back() -> None:
    start = torch.full((2, 5), -torch.inf)
    start[0, 1] = start[1, 3] = 0.0
    assert Sampler(chain).run(start, 0, 4, lambda row, ids: False) == [[1, 2, 3, 4], [3, 4, 0, 1]]


def test_a_finished_row_stops_and_the_others_go_on() -> None:
    start = torch.full((2, 5), -torch.inf)
    start[0, 1] = start[1, 3] = 0.0
    drawn = Sampler(chain).run(start, 0, 9, lambda row, ids: ids[-1] == 4)
    assert drawn == [[1, 2, 3, 4], [3, 4]]


def test_nothing_is_stepped_that_is_not_needed() -> None:
    steps = []

    def counted(tokens_B: Tensor, state: int) -> tuple[Tensor, int]:
        steps.append(state)
        return chain(tokens_B, state)

    start = torch.zeros(2, 5)
    assert Sampler(counted).run(start, 0, 0, lambda row, ids: False) == [[], []]
    assert [len(row) for row in Sampler(counted).run(start, 0, 1, lambda row, ids: False)] == [1, 1]
    assert [len(row) for row in Sampler(counted).run(start, 0, 9, lambda row, ids: True)] == [1, 1]
    assert steps == []
    Sampler(counted).run(start, 0, 4, lambda row, ids: False)
    assert steps == [0, 1, 2], "the state is passed on"


def test_what_is_truncated_is_never_drawn_and_the_rest_keeps_its_proportions() -> None:
    sampler = Sampler(chain, top_k=3, never=[1], temperature=0.5, generator=torch.Generator().manual_seed(3))
    drawn = sampler.run(LOGITS.expand(20_000, -1), 0, 1, lambda row, ids: True)
    counts = (torch.bincount(torch.tensor(drawn)[:, 0], minlength=5) / len(drawn)).tolist()
    weights = [0.5**2, 0, 0.15**2, 0.1**2, 0]  # temperature 1/2 squares the probabilities
    for found, weight in zip(counts, weights, strict=True):
        p = weight / sum(weights)
        assert abs(found - p) <= 5 * math.sqrt(p * (1 - p) / len(drawn))


def test_the_global_generator_is_used_unless_one_is_given() -> None:
    def draw(generator: torch.Generator | None) -> list[list[int]]:
        return Sampler(lambda tokens, state: (torch.zeros(2, 50), state), generator=generator).run(
            torch.zeros(2, 50), 0, 20, lambda row, ids: False
        )

    torch.manual_seed(5)
    first = draw(None)
    torch.manual_seed(5)
    draw(torch.Generator().manual_seed(9))  # leaves the global one alone
    assert draw(None) == first
    assert draw(None) != first
    assert first[0] != first[1], "rows are drawn apart"


def test_frequencies_follow_the_distribution_and_seeds_repeat() -> None:
    def draw(seed: int) -> list[list[int]]:
        sampler = Sampler(chain, generator=torch.Generator().manual_seed(seed))
        return sampler.run(LOGITS.expand(20_000, -1), 0, 1, lambda row, ids: True)

    drawn = draw(1)
    assert drawn == draw(1)
    assert drawn != draw(2)
    counts = torch.bincount(torch.tensor(drawn)[:, 0], minlength=5) / len(drawn)
    for found, p in zip(counts.tolist(), LOGITS.exp()[0].tolist(), strict=True):
        assert abs(found - p) < 5 * math.sqrt(p * (1 - p) / len(drawn))
