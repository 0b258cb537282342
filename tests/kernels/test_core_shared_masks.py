"""Masks that the batch shares, whose columns the core leaves out, against masks that multiply."""

import pytest
import torch
from core_and_reference import (
    LayerProblem,
    LossProblem,
    any_problem,
    assert_agreement,
    assert_layer_agreement,
    layer_problems,
    loss_problems,
    loss_results,
)
from hypothesis import given, settings

from regrnn.nn import GRU, LSTM, RNN, Regularization, RowMasks


@given(problem=layer_problems("shared"))
@settings(any_problem, max_examples=80)
def test_layer_agrees_with_the_definition(instruction_set: str, problem: LayerProblem) -> None:
    assert_layer_agreement(problem)


@given(problem=loss_problems("shared"))
@settings(any_problem, max_examples=60)
def test_softmax_agrees_with_the_definition(instruction_set: str, problem: LossProblem) -> None:
    assert_agreement(problem.results("core"), problem.results("definition"))


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("wanted", [None, {"w_ih"}, {"x"}])
def test_layer_agrees_beyond_the_blocks(instruction_set: str, every: int, wanted: set[str] | None) -> None:
    problem = LayerProblem("lstm", 400, 75, (40,) * 13, every=every)
    assert_layer_agreement(problem, wanted)


@pytest.mark.parametrize("wanted", [None, {"h"}, {"weight"}, {"bias"}, {"h", "bias"}])
def test_softmax_agrees_beyond_the_blocks(instruction_set: str, wanted: set[str] | None) -> None:
    problem = LossProblem(500, 790, 300, group=20)
    assert_agreement(problem.results("core", wanted), problem.results("definition", wanted))


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_masks_that_strike_everything_or_nothing(value: float) -> None:
    problem = LossProblem(9, 13, 21)
    mask = RowMasks(torch.full((3, 13), value), torch.tensor([0, 4, 4, 9]))  # the second group has no rows
    results = [loss_results(by, problem.leaves(), problem.targets(), mask) for by in ("core", "definition")]
    assert_agreement(*results)
    assert value or not results[0]["d weight"].any()


def test_what_is_struck_has_no_gradient() -> None:
    problem = LayerProblem("gru", 17, 6, (3,) * 4, every=1)
    struck = problem.input_mask().values[:, None, :].expand(4, 3, 17) == 0
    assert not problem.results("core")["d x"][struck].any()


@pytest.mark.parametrize("every", [1, 2, 7])
@pytest.mark.parametrize("Layer", [LSTM, GRU, RNN])
def test_mask_left_to_the_caller_is_that_of_the_call(Layer: type[LSTM], every: int) -> None:
    layer = Layer(5, 7, 2, dropout=Regularization.batch(0.5, every))
    x = torch.randn(5, 3, 5)
    struck = layer(x, generator=torch.Generator().manual_seed(1))[0]
    output, _, mask = layer.forward_with_mask(x, generator=torch.Generator().manual_seed(1))
    assert mask is not None and struck.eq(0).any() and not output.eq(0).any()
    assert torch.equal(mask.strike(output), struck)
