"""The cells against torch.nn's and against the layers, and what they refuse to drop."""

import inspect

import pytest
import torch
from torch import Tensor

from regrnn.nn import (
    LSTM,
    GRUCell,
    LSTMCell,
    Regularization,
    RNNCell,
    draw_mask,
    gru_step,
    lstm_step,
    rnn_step,
)

CELLS = {"LSTMCell": LSTMCell, "GRUCell": GRUCell, "RNNCell": RNNCell}
CPU = torch.device("cpu")


def states(s: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return s if isinstance(s, tuple) else (s,)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_agrees_with_torch(name: str, bias: bool, batched: bool, dtype: torch.dtype, tolerance: float) -> None:
    theirs = getattr(torch.nn, name)(3, 4, bias=bias, dtype=dtype)
    ours = CELLS[name](3, 4, bias=bias, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(*([2] if batched else []), 3, dtype=dtype, requires_grad=True)
    results = []
    for cell in (ours, theirs):
        hx = cell(x)
        hx = cell(x, hx)  # the state fed back in
        gradients = torch.autograd.grad(sum(s.square().sum() for s in states(hx)), [x, *cell.parameters()])
        results.append([*states(hx), *gradients])
    for a, b in zip(*results, strict=True):
        assert a.shape == b.shape
        assert ((a - b).abs().max() / b.abs().max()).detach() <= tolerance


@pytest.mark.parametrize("nonlinearity", ["relu", "sigmoid"])
def test_nonlinearities_of_rnn(nonlinearity: str) -> None:
    cell = RNNCell(3, 4, nonlinearity=nonlinearity, dtype=torch.float64)
    x, h = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    w_ih, w_hh, b_ih, b_hh = cell.parameters()
    expected = getattr(torch, nonlinearity)(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh)
    assert torch.allclose(cell(x, h), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("bias", [True, False])
def test_parameters_repr_and_signature_are_those_of_torch(name: str, bias: bool) -> None:
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(3, 4, bias=bias)
    torch.manual_seed(0)
    ours = CELLS[name](3, 4, bias=bias)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(p, theirs.state_dict()[n]) for n, p in ours.state_dict().items())
    theirs.load_state_dict(ours.state_dict())
    assert repr(ours) == repr(theirs)
    order = list(inspect.signature(getattr(torch.nn, name)).parameters)
    assert list(inspect.signature(CELLS[name]).parameters) == [*order, "dropout"]


def test_repr_shows_what_differs() -> None:
    assert repr(GRUCell(3, 4, dropout=0.5)) == "GRUCell(3, 4, dropout=0.5)"
    assert repr(RNNCell(3, 4, nonlinearity="sigmoid")) == "RNNCell(3, 4, nonlinearity=sigmoid)"


def test_steps_of_a_cell_are_a_layer() -> None:
    layer = LSTM(3, 4, dtype=torch.float64)
    cell = LSTMCell(3, 4, dtype=torch.float64)
    cell.load_state_dict({name.removesuffix("_l0"): p for name, p in layer.state_dict().items()})
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    output, (_, c_n) = layer(x)
    state = None
    for t in range(6):
        state = cell(x[t], state)
        assert torch.allclose(output[t], state[0], rtol=1e-10, atol=1e-12)
    assert torch.allclose(c_n[0], state[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("dropout", [0.5, Regularization(input=0.5, recurrent=0.3), Regularization(recurrent=0.3)])
def test_dropout_strikes_the_input_and_the_recurrent_product(name: str, dropout: float | Regularization) -> None:
    cell = CELLS[name](30, 40, dropout=dropout, dtype=torch.float64)
    x, h, c = (torch.randn(5, n, dtype=torch.float64) for n in (30, 40, 40))
    got = states(cell(x, (h, c) if name == "LSTMCell" else h, generator=torch.Generator().manual_seed(1)))

    generator = torch.Generator().manual_seed(1)
    rates = dropout if isinstance(dropout, Regularization) else Regularization(input=dropout)
    recurrent_mask = None
    if rates.input:
        x = x * draw_mask(rates.input, 1, 5, 30, "step", generator, CPU, torch.float64)[0]
    if rates.recurrent:
        recurrent_mask = draw_mask(rates.recurrent, 1, 5, 40, "step", generator, CPU, torch.float64)[0]
    if name == "LSTMCell":
        expected = lstm_step(x, (h, c), *cell.parameters(), recurrent_mask)
    elif name == "GRUCell":
        expected = (gru_step(x, h, *cell.parameters(), recurrent_mask),)
    else:
        expected = (rnn_step(x, h, *cell.parameters(), "tanh", recurrent_mask),)
    for a, b in zip(got, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CELLS)
def test_nothing_is_dropped_in_eval_mode(name: str) -> None:
    cell = CELLS[name](3, 4, dropout=Regularization(input=0.5, recurrent=0.5)).eval()
    x = torch.randn(5, 3)
    state = torch.get_rng_state()
    first, second = states(cell(x)), states(cell(x))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    cell.train()
    assert not torch.equal(states(cell(x))[0], first[0])


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize(
    ("dropout", "message"),
    [
        (1.0, "dropout must be a rate"),
        (Regularization(output=0.5), r"cannot apply Regularization\(output=0.5\).* must not be dropped"),
        (Regularization(between=0.5), r"cannot apply Regularization\(between=0.5\)"),
        (Regularization(input=0.5, masks="sequence"), 'cannot hold masks="sequence" over time'),
        (Regularization(recurrent=0.5, recurrent_masks="sequence"), 'cannot hold masks="sequence" over time'),
    ],
)
def test_dropout_that_a_cell_cannot_do_is_refused(name: str, dropout: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CELLS[name](3, 4, dropout=dropout)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize(
    ("input", "hx", "error", "message"),
    [
        (torch.zeros(2, 5, 3), None, ValueError, "Expected input to be 1D or 2D, got 3D"),
        (torch.zeros(2, 4), None, RuntimeError, "Expected 3, got 4"),
        (torch.zeros(2, 3), torch.zeros(2, 5), RuntimeError, r"Expected hidden size \[2, 4\], got \[2, 5\]"),
        (torch.zeros(2, 3), torch.zeros(3, 4), RuntimeError, r"Expected hidden size \[2, 4\], got \[3, 4\]"),
        (torch.zeros(3), torch.zeros(1, 4), RuntimeError, r"Expected hidden size \[4\], got \[1, 4\]"),
    ],
)
def test_wrong_input_is_refused(
    name: str, input: Tensor, hx: Tensor | None, error: type[Exception], message: str
) -> None:
    state = (hx, hx) if name == "LSTMCell" and hx is not None else hx
    with pytest.raises(error, match=message):
        CELLS[name](3, 4)(input, state)


def test_unknown_nonlinearity_is_refused() -> None:
    with pytest.raises(ValueError, match="Unknown nonlinearity 'elu'"):
        RNNCell(3, 4, nonlinearity="elu")
