"""Truncation of distributions, and drawing from what steps."""

import math

import pytest
import torch
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


def test_temperature_divides_the_logits() -> None:
    halved = truncate_logits(LOGITS, temperature=2.0).softmax(-1)
    expected = (LOGITS / 2).softmax(-1)
    torch.testing.assert_close(halved, expected)


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
