"""Products of factors rounded to bfloat16: exact where nothing is rounded, near elsewhere, and only when asked for."""

from collections.abc import Callable, Iterator

import pytest
import torch
from core_and_reference import (
    LayerProblem,
    LossProblem,
    any_problem,
    largest,
    layer_problems,
    loss_problems,
)
from hypothesis import given, settings
from test_core_threads import assert_same_on_any_threads
from test_core_training import losses
from torch import Tensor

from regrnn.kernels import core, ops
from regrnn.nn import LSTM, Regularization, RowMasks, softmax_cross_entropy

NEAR = 0.03  # of the largest element; a factor is rounded by up to 0.002 of itself


def _available() -> tuple[str, ...]:
    try:
        best = core.choose_bfloat16().core
    except OSError:
        best = None
    return ("none",) if best is None else core.BFLOAT16[core.BFLOAT16.index(best.instruction_set) :]


@pytest.fixture
def medium() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(params=_available())
def rounded(request: pytest.FixtureRequest, medium: None, monkeypatch: pytest.MonkeyPatch) -> core.Core:
    """The test runs with each library that rounds and that this processor can use."""
    if request.param == "none":
        pytest.skip(f"no products in bfloat16 here: {core.choose_bfloat16().reason}")
    chosen = core.Core(request.param)
    monkeypatch.setattr(ops, "choose_bfloat16", lambda: core.Choice(chosen, "for the test"))
    return chosen


def whole(M: int, N: int, K: int) -> tuple[Tensor, Tensor, Tensor]:
    """A (M, K), B (K, N) and A B of whole numbers that bfloat16 has."""
    generator = torch.Generator().manual_seed(M + N + K)
    a = torch.randint(-3, 4, (M, K), generator=generator).float()
    b = torch.randint(-2, 3, (K, N), generator=generator).float()
    return a, b, a @ b


# Squares of 16 and 32 that are full or not; more rows than a block has, more depth than is rounded at a time.
SHAPES = [(1, 1, 1), (16, 32, 32), (17, 5, 33), (70, 100, 65), (481, 33, 64), (2100, 35, 300), (33, 31, 17_000)]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("M", "N", "K"), SHAPES)
def test_whole_numbers_are_multiplied_exactly(rounded: core.Core, M: int, N: int, K: int, threads: int) -> None:
    a, b, product = whole(M, N, K)
    weight, bias = b.t().contiguous(), torch.arange(float(N))

    def filled(*shape: int) -> Tensor:
        return torch.full(shape, float("nan"))

    waiting = filled(-(-N // rounded.panel_width), M + 1, rounded.panel_width)

    c = filled(M, N)
    rounded.project(M, N, K, *map(ops._at, (a, weight, bias, None, c)), threads)
    assert torch.equal(c, product + bias)
    c = filled(M, N)
    rounded.product(M, N, K, a.data_ptr(), K, *map(ops._at, (b, c, waiting)), threads)
    assert torch.equal(c, product)
    turned, sums, with_ones = filled(N, M), filled(N), torch.cat((a, torch.ones(1, K)))
    rounded.outer(M, N, K, with_ones.data_ptr(), b.data_ptr(), N, *map(ops._at, (turned, sums, waiting)), threads)
    assert torch.equal(turned, product.t()) and torch.equal(sums, b.sum(0))


def assert_near(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    most = largest(expected.values())
    for name, tensor in expected.items():
        assert got[name].shape == tensor.shape, name
        error = largest([got[name].double() - tensor.double()])
        # A quarter of the largest result: terms may cancel, and of one unit in few steps they do.
        assert error <= NEAR * max(largest([tensor]), most / 4), name


def assert_layer_near(problem: LayerProblem) -> None:
    got, expected = problem.results("core"), problem.results("definition")
    if problem.cell == "rnn_relu":  # rounding decides on which side of 0 a unit is, and so its gradient
        got, expected = ({n: r for n, r in results.items() if not n.startswith("d ")} for results in (got, expected))
    assert_near(got, expected)


@given(problem=layer_problems())
@settings(any_problem, max_examples=60)
def test_layers_are_near_the_definition(rounded: core.Core, problem: LayerProblem) -> None:
    assert_layer_near(problem)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_layers_beyond_the_blocks(rounded: core.Core, cell: str) -> None:
    problem = LayerProblem(cell, 70, 150, (70, 70, 33, 5, 5), padded=False, recurrent="rows")
    assert_near(problem.results("core"), problem.results("definition"))


@given(problem=loss_problems())
@settings(any_problem, max_examples=40)
def test_losses_are_near_the_definition(rounded: core.Core, problem: LossProblem) -> None:
    assert_near(problem.results("core"), problem.results("definition"))


def test_losses_beyond_the_blocks(rounded: core.Core) -> None:
    problem = LossProblem(500, 270, 800)
    assert_near(problem.results("core"), problem.results("definition"))


def test_same_on_any_threads(rounded: core.Core) -> None:
    layer = LayerProblem("lstm", 37, 75, (41, 38, 9, 2, 1), padded=False, recurrent="rows")
    assert_same_on_any_threads(lambda: layer.results("core"))
    assert_same_on_any_threads(lambda: LayerProblem("lstm", 37, 75, (45,) * 50).results("core"))
    assert_same_on_any_threads(lambda: LossProblem(100, 37, 2000).results("core"))


def test_what_is_no_number_stays_none(rounded: core.Core) -> None:
    a, b, _ = whole(20, 40, 50)
    a[3, 7], a[5, 0] = float("nan"), float("inf")
    weight, c = b.t().contiguous(), torch.zeros(20, 40)
    rounded.project(20, 40, 50, *map(ops._at, (a, weight, None, None, c)), 1)
    assert c[3].isnan().all() and not c[5].isfinite().all()
    assert c[[0, 1, 2, 4, 6, 19]].isfinite().all()


def test_a_shared_mask_leaves_nothing_out(rounded: core.Core) -> None:
    """All columns in bfloat16 cost less than those that stay in float32: the same as a mask that has been applied."""
    torch.manual_seed(1)
    h, weight, bias = torch.randn(50, 65), torch.randn(300, 65), torch.randn(300)
    targets = torch.randint(300, (50,))
    mask = RowMasks(torch.rand(5, 65).gt(0.5) * 2.0, torch.arange(0, 51, 10))

    def results(apply: bool) -> list[torch.Tensor]:
        given = [x.clone().requires_grad_() for x in (h, weight, bias)]
        masked = (mask.strike(given[0]), None) if apply else (given[0], mask)
        loss = softmax_cross_entropy(masked[0], given[1], given[2], targets, masked[1])
        return [loss, *torch.autograd.grad(loss, given)]

    assert all(map(torch.equal, results(apply=True), results(apply=False)))


@given(problem=layer_problems("shared"))
@settings(any_problem, max_examples=30)
def test_layers_with_shared_masks_are_near_the_definition(rounded: core.Core, problem: LayerProblem) -> None:
    assert_layer_near(problem)


def test_training_learns_as_in_float32(rounded: core.Core) -> None:
    curve = torch.tensor(losses(LSTM, Regularization.paper(0.2)))
    torch.set_float32_matmul_precision("highest")
    exact = torch.tensor(losses(LSTM, Regularization.paper(0.2)))
    assert not torch.equal(curve, exact)
    assert (curve - exact).abs().max() <= 0.05
    assert abs(curve[-50:].mean() - exact[-50:].mean()) <= 0.01


def test_only_when_it_is_asked_for(rounded: core.Core) -> None:
    assert ops._products() is rounded
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        assert ops._products() is ops.core()


def test_an_instruction_set_that_is_named_has_none(use_kernel: Callable[[str], None], medium: None) -> None:
    use_kernel("baseline")
    assert core.choose_bfloat16().core is None
    assert ops._products() is ops.core()
