"""Masks that every row has of its own, of which the core leaves out what they strike, against masks that multiply."""

from collections.abc import Iterator

import pytest
import torch
from core_and_reference import (
    LayerProblem,
    LossProblem,
    any_problem,
    assert_agreement,
    assert_layer_agreement,
    largest,
    layer_problems,
    loss_problems,
    loss_results,
)
from hypothesis import given, settings

from regrnn.kernels import ops
from regrnn.nn import GRU, LSTM, RNN, Regularization, RowMasks
from regrnn.nn.regularization import LEAST_LEFT_OUT, LEAST_SHARED


@pytest.fixture(scope="module", autouse=True)
def left_out_from_one_output_on() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "_LEAST_OUTPUTS", 0)
        yield


@given(problem=layer_problems("separate"))
@settings(any_problem, max_examples=40)
def test_layer_agrees_with_the_definition(instruction_set: str, problem: LayerProblem) -> None:
    assert_layer_agreement(problem)


@given(problem=loss_problems("separate"))
@settings(any_problem, max_examples=30)
def test_softmax_agrees_with_the_definition(instruction_set: str, problem: LossProblem) -> None:
    terms = abs(problem.factor) * largest([problem.leaves()["weight"]])  # whose sum the gradient at one row may be
    assert_agreement(problem.results("core"), problem.results("definition"), terms)


@pytest.mark.parametrize("wanted", [None, {"w_ih"}, {"x"}])
def test_layer_agrees_beyond_the_blocks(instruction_set: str, wanted: set[str] | None) -> None:
    problem = LayerProblem("lstm", 400, 75, (90,) * 13, every=0)
    assert_layer_agreement(problem, wanted)


@pytest.mark.parametrize("wanted", [None, {"h"}, {"weight"}, {"bias"}, {"h", "bias"}])
def test_softmax_agrees_beyond_the_blocks(instruction_set: str, wanted: set[str] | None) -> None:
    problem = LossProblem(1030, 200, 1300, group=0)
    assert_agreement(problem.results("core", wanted), problem.results("definition", wanted))


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_masks_that_strike_everything_or_nothing(instruction_set: str, value: float) -> None:
    problem = LossProblem(9, 133, 21)
    mask = RowMasks(torch.full((9, 133), value))
    results = [loss_results(by, problem.leaves(), problem.targets(), mask) for by in ("core", "definition")]
    assert_agreement(*results)
    assert value or not results[0]["d weight"].any()


def test_what_is_struck_has_no_gradient(instruction_set: str) -> None:
    problem = LayerProblem("gru", 17, 6, (3,) * 4, every=0)
    struck = problem.input_mask().values.view(4, 3, 17) == 0
    gradient = problem.results("core")["d x"]
    assert not gradient[struck].any() and gradient[~struck].all()


def test_any_number_of_threads_computes_the_same(instruction_set: str) -> None:
    layer, loss = LayerProblem("lstm", 150, 70, (9,) * 8, every=0), LossProblem(70, 150, 900, group=0)
    results = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        results.append(layer.results("core") | {f"loss {k}": v for k, v in loss.results("core").items()})
    for other in results[1:]:
        assert all(torch.equal(other[name], tensor) for name, tensor in results[0].items())


def test_outputs_and_weights_gradients_are_the_same_numbers_as_with_zeros(
    instruction_set: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = LayerProblem("lstm", 150, 70, (29,) * 8, every=0)
    left_out = problem.results("core")
    monkeypatch.setattr(ops, "_LEAST_OUTPUTS", 1 << 40)
    multiplied = problem.results("core")
    for name in multiplied.keys() - {"d x"}:
        assert torch.equal(left_out[name], multiplied[name]), name


@pytest.mark.parametrize("masks", ["step", "sequence"])
@pytest.mark.parametrize("Layer", [LSTM, GRU, RNN])
def test_mask_left_to_the_caller_is_that_of_the_call(Layer: type[LSTM], masks: str) -> None:
    layer = Layer(5, 7, 2, dropout=Regularization(input=0.5, between=0.5, output=0.5, masks=masks))
    x = torch.randn(5, 3, 5)
    struck = layer(x, generator=torch.Generator().manual_seed(1))[0]
    output, _, mask = layer.forward_with_mask(x, generator=torch.Generator().manual_seed(1))
    assert mask is not None and struck.eq(0).any() and not output.eq(0).all()
    assert torch.equal(mask.strike(output), struck)


def test_low_rates_leave_no_mask_to_the_caller() -> None:
    layer = LSTM(5, 7, dropout=LEAST_LEFT_OUT / 2)
    output, _, mask = layer.forward_with_mask(torch.randn(5, 3, 5))
    assert mask is None and output.eq(0).any()


def test_rows_share_a_mask_only_where_they_are_many() -> None:
    layer = LSTM(5, 7, dropout=Regularization.batch(0.5))
    few, many = (layer.forward_with_mask(torch.randn(4, B, 5))[2] for B in (LEAST_SHARED - 1, LEAST_SHARED))
    assert few.first is None and many.first.tolist() == [LEAST_SHARED * t for t in range(5)]
    by_step = few.values.view(4, LEAST_SHARED - 1, 7)
    assert torch.equal(by_step, by_step[:, :1].expand_as(by_step))


@pytest.mark.parametrize("masks", ["step", "sequence"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_stack_computes_the_same_as_with_masks_that_multiply(
    masks: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    rates = Regularization(input=0.5, between=0.5, output=0.5, recurrent=0.3, masks=masks)
    layer = LSTM(9, 13, 2, dropout=rates, bidirectional=True)
    x = torch.randn(6, 4, 9)
    lengths = torch.tensor([2, 6, 1, 6])
    given = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False) if packed else x

    def results() -> list[torch.Tensor]:
        output = layer(given, generator=torch.Generator().manual_seed(3))[0]
        data = output.data if packed else output
        return [data, *torch.autograd.grad(data.square().sum(), list(layer.parameters()))]

    left_out = results()
    monkeypatch.setattr(ops, "_LEAST_OUTPUTS", 1 << 40)
    for got, expected in zip(left_out, results(), strict=True):
        torch.testing.assert_close(got, expected)
