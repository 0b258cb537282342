"""The core gives the same result, bit for bit, on any number of threads."""

from collections.abc import Callable

import pytest
import torch
from core_and_reference import CELLS, LayerProblem, LossProblem
from torch import Tensor

from regrnn.kernels import ops

N = 200_003  # enough elements that the work on a vector is divided


def assert_same_on_any_threads(compute: Callable[[], dict[str, Tensor]]) -> None:
    torch.set_num_threads(1)
    expected = compute()
    for threads in (2, 3, 5):
        torch.set_num_threads(threads)
        got = compute()
        for name, tensor in expected.items():
            assert torch.equal(got[name], tensor), (name, threads)


# With fewer panels of units than threads, with as many, and with a number that they do not divide.
@pytest.mark.parametrize("H", [3, 40, 75])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("every", [None, 2])
def test_layer(instruction_set: str, cell: str, H: int, every: int | None) -> None:
    packed = LayerProblem(cell, 37, H, (41, 38, 9, 2, 1), padded=False, recurrent="rows", every=every)
    padded = LayerProblem(cell, 37, H, (7,) * 6, reverse=True, every=every)
    for problem in (packed, padded):
        assert_same_on_any_threads(lambda problem=problem: problem.results("core"))


def test_layer_of_more_rows_than_a_part(instruction_set: str) -> None:
    assert_same_on_any_threads(lambda: LayerProblem("lstm", 37, 75, (45,) * 50).results("core"))


@pytest.mark.parametrize("group", [None, 7])
@pytest.mark.parametrize("V", [5, 300, 2000])
def test_softmax(instruction_set: str, V: int, group: int | None) -> None:
    assert_same_on_any_threads(lambda: LossProblem(50, 37, V, group=group).results("core"))


def test_softmax_of_more_rows_than_a_block() -> None:
    assert_same_on_any_threads(lambda: LossProblem(1000, 9, 50).results("core"))


def test_mask(instruction_set: str) -> None:
    assert_same_on_any_threads(lambda: {"mask": ops.mask(torch.tensor(5), 0.3, (N,), torch.float32)})


def test_sum_of_squares_and_descent(instruction_set: str) -> None:
    w, gradient = torch.randn(2, N, generator=torch.Generator().manual_seed(1))

    def compute() -> dict[str, Tensor]:
        updated = w.clone()
        ops.descend([updated[:9], updated[9:]], [gradient[:9], gradient[9:]], 0.7, 0.3, 0.01)
        total = ops.sum_of_squares([gradient, gradient[:9], gradient])
        return {"sum": torch.tensor(total, dtype=torch.float64), "updated": updated}

    assert_same_on_any_threads(compute)
