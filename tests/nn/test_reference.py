"""The reference functions against the paper's equations, ATen's operators, torch's cells and finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regrnn.nn import LSTM, RNN, gru_step, lstm_step, rnn_step, run_layer

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def disagreement(a: Tensor, b: Tensor) -> float:
    """max|a-b| / max|b|; where b is all zeros, a has to be."""
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max()) if b.any() else float(a.abs().max())


def sigm(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def test_lstm_is_the_papers_lstm() -> None:
    """Section 3.1 in NumPy: (i f o g) = (sigm sigm sigm tanh) T[2n,4n] (h[t]^(l-1), h[t-1]^l), as written there."""
    n, L, T, B = 5, 2, 7, 3
    layer = LSTM(n, n, L, dtype=torch.float64)
    x = torch.randn(T, B, n, dtype=torch.float64)
    maps = []
    for w_ih, w_hh, b_ih, b_hh in layer.all_weights:
        matrix = torch.cat([w_ih, w_hh], 1).detach().numpy()
        bias = (b_ih + b_hh).detach().numpy()
        paper = [0, 1, 3, 2]  # torch's rows are i f g o, the paper's i f o g
        maps.append([np.concatenate([np.split(a, 4)[gate] for gate in paper]) for a in (matrix, bias)])
    h, c = np.zeros((L, B, n)), np.zeros((L, B, n))
    outputs = []
    for t in range(T):
        below = x[t].numpy()
        for layer_index, (matrix, bias) in enumerate(maps):
            a = np.concatenate([below, h[layer_index]], 1) @ matrix.T + bias
            i, f, o, g = np.split(a, 4, axis=1)
            c[layer_index] = sigm(f) * c[layer_index] + sigm(i) * np.tanh(g)
            below = h[layer_index] = sigm(o) * np.tanh(c[layer_index])
        outputs.append(below)
    output, (h_n, c_n) = layer(x)
    assert disagreement(output.detach(), torch.tensor(np.stack(outputs))) <= 1e-10
    assert disagreement(h_n.detach(), torch.tensor(h)) <= 1e-10
    assert disagreement(c_n.detach(), torch.tensor(c)) <= 1e-10


def test_sigmoid_rnn_is_a_hand_written_loop() -> None:
    layer = RNN(3, 4, nonlinearity="sigmoid", bidirectional=True, dtype=torch.float64)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    h_0 = torch.randn(2, 2, 4, dtype=torch.float64)
    output, h_n = layer(x, h_0)
    for direction, (order, weights) in enumerate(zip((range(6), range(5, -1, -1)), layer.all_weights, strict=True)):
        w_ih, w_hh, b_ih, b_hh = weights
        h = h_0[direction]
        for t in order:
            h = 1 / (1 + torch.exp(-(x[t] @ w_ih.T + b_ih + h @ w_hh.T + b_hh)))
            assert disagreement(output[t, :, 4 * direction : 4 * direction + 4], h) <= 1e-10
        assert disagreement(h_n[direction], h) <= 1e-10


@given(
    cell=st.sampled_from(sorted(GATES)),
    sizes=st.tuples(*[st.integers(1, 5)] * 2),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    packed=st.booleans(),
    reverse=st.booleans(),
    bias=st.booleans(),
    dtype=st.sampled_from(sorted(TOLERANCE, key=str)),
)
@settings(deadline=None, max_examples=100, derandomize=True, database=None)
def test_reference_loop_agrees_with_aten(
    cell: str,
    sizes: tuple[int, int],
    lengths: list[int],
    packed: bool,
    reverse: bool,
    bias: bool,
    dtype: torch.dtype,
) -> None:
    """A recurrent mask of ones changes nothing, but only the reference loop takes a mask."""
    generator = torch.Generator().manual_seed(3)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, generator=generator)

    (I, H), G, B = sizes, GATES[cell], len(lengths)  # noqa: E741 (the shape suffixes of the package)
    batch_sizes = torch.tensor([sum(n > t for n in lengths) for t in range(max(lengths))]) if packed else None
    x_shape = (sum(lengths),) if packed else (max(lengths), B)
    x = randn(*x_shape, I).requires_grad_()
    state = tuple(randn(B, H).requires_grad_() for _ in range(2 if cell == "lstm" else 1))
    weights = tuple(w.requires_grad_() for w in (randn(G * H, I), randn(G * H, H)))
    biases = tuple(randn(G * H).requires_grad_() for _ in range(2)) if bias else ()
    ones = torch.ones(*x_shape, H, dtype=dtype)

    results = []
    for mask in (None, ones):
        output, last = run_layer(cell, x, state, (*weights, *(biases or (None, None))), batch_sizes, reverse, mask)
        generator.manual_seed(4)
        loss = sum((r * randn(*r.shape)).sum() for r in (output, *last))
        gradients = torch.autograd.grad(loss, [x, *state, *weights, *biases])
        results.append([output, *last, *gradients])
    for fast, reference in zip(*results, strict=True):
        assert fast.shape == reference.shape
        assert disagreement(fast, reference) <= TOLERANCE[dtype]


def test_reversed_packed_sequences_start_at_their_own_ends() -> None:
    lengths = [5, 3, 1]
    sequences = [torch.randn(n, 1, 3, dtype=torch.float64) for n in lengths]
    packed = torch.nn.utils.rnn.pack_sequence([s[:, 0] for s in sequences])
    layer = LSTM(3, 4, dtype=torch.float64)
    weights = tuple(layer.all_weights[0])
    zero = torch.zeros(3, 4, dtype=torch.float64)
    mask = torch.rand(len(packed.data), 4, dtype=torch.float64)
    for recurrent_mask in (None, mask):
        output, (h, _) = run_layer("lstm", packed.data, (zero, zero), weights, packed.batch_sizes, True, recurrent_mask)
        starts = packed.batch_sizes.cumsum(0) - packed.batch_sizes
        for b, sequence in enumerate(sequences):
            s = (zero[:1], zero[:1])
            for t in reversed(range(lengths[b])):
                row = int(starts[t]) + b
                m = None if recurrent_mask is None else recurrent_mask[row : row + 1]
                s = lstm_step(sequence[t], s, *weights, m)
                assert disagreement(output[row], s[0][0]) <= 1e-10
            assert disagreement(h[b], s[0][0]) <= 1e-10


def cell_arguments(gates: int, mask: bool) -> list[Tensor | None]:
    B, I, H = 2, 3, 4  # noqa: E741
    shapes = [(B, I), (B, H), (gates * H, I), (gates * H, H), (gates * H,), (gates * H,)]
    arguments: list[Tensor | None] = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in shapes]
    return [*arguments, torch.tensor([0.0, 2.0]).double()[torch.randint(2, (B, H))] if mask else None]


@pytest.mark.parametrize("mask", [False, True])
def test_step_gradients_are_right(mask: bool) -> None:
    x, h, *weights, m = cell_arguments(4, mask)
    c = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, h, c, *w: lstm_step(x, (h, c), *w), (x, h, c, *weights, m))
    assert torch.autograd.gradcheck(gru_step, cell_arguments(3, mask))
    for nonlinearity in ("tanh", "relu", "sigmoid"):
        *arguments, m = cell_arguments(1, mask)
        assert torch.autograd.gradcheck(lambda *a, f=nonlinearity: rnn_step(*a[:-1], f, a[-1]), (*arguments, m))


def test_steps_agree_with_the_cells_of_torch() -> None:
    x, h, c = (torch.randn(2, n, dtype=torch.float64) for n in (3, 4, 4))
    for nonlinearity in ("tanh", "relu"):
        rnn = torch.nn.RNNCell(3, 4, nonlinearity=nonlinearity, dtype=torch.float64)
        assert disagreement(rnn_step(x, h, *rnn.parameters(), nonlinearity), rnn(x, h)) <= 1e-10
    gru = torch.nn.GRUCell(3, 4, dtype=torch.float64)
    assert disagreement(gru_step(x, h, *gru.parameters()), gru(x, h)) <= 1e-10
    lstm = torch.nn.LSTMCell(3, 4, dtype=torch.float64)
    for ours, theirs in zip(lstm_step(x, (h, c), *lstm.parameters()), lstm(x, (h, c)), strict=True):
        assert disagreement(ours, theirs) <= 1e-10


def test_recurrent_mask_strikes_the_recurrent_product_only() -> None:
    """A mask of zeros is a recurrent matrix of zeros: c of the LSTM and z * h of the GRU go on undropped."""
    c = torch.randn(2, 4, dtype=torch.float64)
    zeros = torch.zeros(2, 4, dtype=torch.float64)

    x, h, w_ih, w_hh, b_ih, b_hh, _ = cell_arguments(4, False)
    masked = lstm_step(x, (h, c), w_ih, w_hh, b_ih, b_hh, zeros)
    without = lstm_step(x, (h, c), w_ih, torch.zeros_like(w_hh), b_ih, b_hh)
    assert all(torch.equal(a, b) for a, b in zip(masked, without, strict=True))

    x, h, w_ih, w_hh, b_ih, b_hh, _ = cell_arguments(3, False)
    assert torch.equal(
        gru_step(x, h, w_ih, w_hh, b_ih, b_hh, zeros), gru_step(x, h, w_ih, torch.zeros_like(w_hh), b_ih, b_hh)
    )
    x, h, w_ih, w_hh, b_ih, b_hh, _ = cell_arguments(1, False)
    assert torch.equal(
        rnn_step(x, h, w_ih, w_hh, b_ih, b_hh, "tanh", zeros),
        rnn_step(x, h, w_ih, torch.zeros_like(w_hh), b_ih, b_hh, "tanh"),
    )
