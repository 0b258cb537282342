"""The recurrent layers as pure functions: the definition that every faster path implements.

The model is that of *Recurrent Neural Network Regularization* (Zaremba, Sutskever, Vinyals, 2014, arXiv
1409.2329), section 3, in the layout of torch.nn: each layer has an input matrix `w_ih`, a recurrent matrix
`w_hh` and two biases, whose rows are the gates one after the other. The paper's affine map T[2n,4n] of the
pair (h[t]^(l-1), h[t-1]^l) is `[w_ih w_hh]` with the bias `b_ih + b_hh`.

Shape suffixes: T time, B batch, I input, H hidden, G gates times H (1 H for RNN, 4 H for LSTM, 3 H for GRU),
N rows of a packed batch (the sum of its lengths).

Dropout of non-recurrent connections happens outside of these functions, on x. Dropout of the recurrent
connection is `recurrent_mask`: it multiplies h[t-1] where it enters the recurrent product and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import _VF, Tensor

from regrnn.kernels import ops
from regrnn.kernels.use import fused
from regrnn.nn.regularization import RowMasks

Cell: TypeAlias = Literal["rnn_tanh", "rnn_relu", "rnn_sigmoid", "lstm", "gru"]
Nonlinearity: TypeAlias = Literal["tanh", "relu", "sigmoid"]
State: TypeAlias = tuple[Tensor, ...]
"""(h,) of an RNN or a GRU, (h, c) of an LSTM."""
Weights: TypeAlias = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""(w_ih_GI, w_hh_GH, b_ih_G, b_hh_G); both biases are None in a layer without bias."""

NONLINEARITIES: dict[Nonlinearity, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
}
_RNN_CELLS: dict[Cell, Nonlinearity] = {
    "rnn_tanh": "tanh",
    "rnn_relu": "relu",
    "rnn_sigmoid": "sigmoid",
}
GATES: dict[Cell, int] = {"rnn_tanh": 1, "rnn_relu": 1, "rnn_sigmoid": 1, "lstm": 4, "gru": 3}


def rnn_cell(nonlinearity: str) -> Cell:
    """The RNN of this nonlinearity.

    Raises:
        ValueError: there is none.
    """
    for cell, f in _RNN_CELLS.items():
        if f == nonlinearity:
            return cell
    known = ", ".join(map(repr, NONLINEARITIES))
    raise ValueError(f"Unknown nonlinearity {nonlinearity!r}. Select from {known}.")


def rnn_step(
    x_BI: Tensor,
    h_BH: Tensor,
    w_ih_HI: Tensor,
    w_hh_HH: Tensor,
    b_ih_H: Tensor | None,
    b_hh_H: Tensor | None,
    nonlinearity: Nonlinearity,
    recurrent_mask_BH: Tensor | None = None,
) -> Tensor:
    """One step of the classical RNN.

        h[t] = f(W_ih x[t] + b_ih + W_hh (m * h[t-1]) + b_hh)

    with f in {tanh, relu, sigmoid} and m the recurrent mask (all ones if None).

    Args:
        x_BI: input (B, I).
        h_BH: state h[t-1] (B, H).
        w_ih_HI, w_hh_HH: weights (H, I) and (H, H).
        b_ih_H, b_hh_H: biases (H,) or None.
        nonlinearity: the name of f.
        recurrent_mask_BH: (B, H) or None.

    Returns:
        h[t] (B, H).
    """
    return _rnn_update(F.linear(x_BI, w_ih_HI, b_ih_H), h_BH, w_hh_HH, b_hh_H, nonlinearity, recurrent_mask_BH)


def lstm_step(
    x_BI: Tensor,
    state: tuple[Tensor, Tensor],
    w_ih_GI: Tensor,
    w_hh_GH: Tensor,
    b_ih_G: Tensor | None,
    b_hh_G: Tensor | None,
    recurrent_mask_BH: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of the LSTM, the paper's equations (Graves' form without peepholes).

        (i f g o) = (sigm sigm tanh sigm) (W_ih x[t] + b_ih + W_hh (m * h[t-1]) + b_hh)
        c[t] = f * c[t-1] + i * g
        h[t] = o * tanh(c[t])

    with m the recurrent mask (all ones if None). The paper writes the gates in the order i f o g; here the
    rows of the weights are in torch.nn's order i f g o: rows [0, H) of W_ih, W_hh, b_ih and b_hh are the
    input gate i, [H, 2H) the forget gate f, [2H, 3H) the input modulation g, [3H, 4H) the output gate o.

    Args:
        x_BI: input (B, I).
        state: (h[t-1], c[t-1]), each (B, H).
        w_ih_GI, w_hh_GH: weights (4H, I) and (4H, H).
        b_ih_G, b_hh_G: biases (4H,) or None.
        recurrent_mask_BH: (B, H) or None; the memory cell c is never masked.

    Returns:
        (h[t], c[t]), each (B, H).
    """
    return _lstm_update(F.linear(x_BI, w_ih_GI, b_ih_G), state, w_hh_GH, b_hh_G, recurrent_mask_BH)


def gru_step(
    x_BI: Tensor,
    h_BH: Tensor,
    w_ih_GI: Tensor,
    w_hh_GH: Tensor,
    b_ih_G: Tensor | None,
    b_hh_G: Tensor | None,
    recurrent_mask_BH: Tensor | None = None,
) -> Tensor:
    """One step of the GRU (Cho et al., 2014, arXiv 1406.1078) in torch.nn's form.

        r = sigm(W_ir x[t] + b_ir + W_hr (m * h[t-1]) + b_hr)
        z = sigm(W_iz x[t] + b_iz + W_hz (m * h[t-1]) + b_hz)
        n = tanh(W_in x[t] + b_in + r * (W_hn (m * h[t-1]) + b_hn))
        h[t] = (1 - z) * n + z * h[t-1]

    with m the recurrent mask (all ones if None). The reset gate r acts after the recurrent product, so b_hn
    is inside of the reset product. The mask strikes the recurrent product only: the leak z * h[t-1] is not
    masked, as in Gal and Ghahramani (2016) and Keras. Rows [0, H) of the weights and biases are the reset
    gate r, [H, 2H) the update gate z, [2H, 3H) the candidate n.

    Args:
        x_BI: input (B, I).
        h_BH: state h[t-1] (B, H).
        w_ih_GI, w_hh_GH: weights (3H, I) and (3H, H).
        b_ih_G, b_hh_G: biases (3H,) or None.
        recurrent_mask_BH: (B, H) or None.

    Returns:
        h[t] (B, H).
    """
    return _gru_update(F.linear(x_BI, w_ih_GI, b_ih_G), h_BH, w_hh_GH, b_hh_G, recurrent_mask_BH)


# The steps in two halves: the input projection, which a loop over time does for all steps in one product, and
# the update of the state, which waits for the step before.


def _recurrent_product(h_BH: Tensor, w_hh_GH: Tensor, b_hh_G: Tensor | None, mask_BH: Tensor | None) -> Tensor:
    return F.linear(h_BH if mask_BH is None else h_BH * mask_BH, w_hh_GH, b_hh_G)


def _rnn_update(
    a_BH: Tensor,
    h_BH: Tensor,
    w_hh_HH: Tensor,
    b_hh_H: Tensor | None,
    nonlinearity: Nonlinearity,
    mask_BH: Tensor | None,
) -> Tensor:
    return NONLINEARITIES[nonlinearity](a_BH + _recurrent_product(h_BH, w_hh_HH, b_hh_H, mask_BH))


def _lstm_update(
    a_BG: Tensor,
    state: tuple[Tensor, Tensor],
    w_hh_GH: Tensor,
    b_hh_G: Tensor | None,
    mask_BH: Tensor | None,
) -> tuple[Tensor, Tensor]:
    h_BH, c_BH = state
    i, f, g, o = (a_BG + _recurrent_product(h_BH, w_hh_GH, b_hh_G, mask_BH)).chunk(4, dim=1)
    c_BH = torch.sigmoid(f) * c_BH + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c_BH), c_BH


def _gru_update(a_BG: Tensor, h_BH: Tensor, w_hh_GH: Tensor, b_hh_G: Tensor | None, mask_BH: Tensor | None) -> Tensor:
    a_r, a_z, a_n = a_BG.chunk(3, dim=1)
    u_r, u_z, u_n = _recurrent_product(h_BH, w_hh_GH, b_hh_G, mask_BH).chunk(3, dim=1)
    r = torch.sigmoid(a_r + u_r)
    z = torch.sigmoid(a_z + u_z)
    n = torch.tanh(a_n + r * u_n)
    return (1 - z) * n + z * h_BH


def _update(
    cell: Cell,
    a_BG: Tensor,
    state: State,
    w_hh_GH: Tensor,
    b_hh_G: Tensor | None,
    mask_BH: Tensor | None,
) -> State:
    if cell == "lstm":
        h_BH, c_BH = state
        return _lstm_update(a_BG, (h_BH, c_BH), w_hh_GH, b_hh_G, mask_BH)
    (h_BH,) = state
    if cell == "gru":
        return (_gru_update(a_BG, h_BH, w_hh_GH, b_hh_G, mask_BH),)
    return (_rnn_update(a_BG, h_BH, w_hh_GH, b_hh_G, _RNN_CELLS[cell], mask_BH),)


def step(cell: Cell, x_BI: Tensor, state: State, weights: Weights, recurrent_mask_BH: Tensor | None = None) -> State:
    """One step of the cell of this name: `rnn_step`, `lstm_step` or `gru_step`, states (h,) or (h, c)."""
    w_ih_GI, w_hh_GH, b_ih_G, b_hh_G = weights
    return _update(cell, F.linear(x_BI, w_ih_GI, b_ih_G), state, w_hh_GH, b_hh_G, recurrent_mask_BH)


def run_layer(
    cell: Cell,
    x: Tensor,
    state: State,
    weights: Weights,
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
    recurrent_mask: Tensor | None = None,
    input_mask: RowMasks | None = None,
) -> tuple[Tensor, State]:
    """Runs one layer in one direction over a sequence: the one place where a way of computing it is chosen.

    Args:
        cell: which layer.
        x: input, padded (T, B, I), or packed (N, I) in the layout of `PackedSequence.data`.
        state: the state before the first step that runs, (h,) or (h, c), each (B, H), in the order of x.
        weights: (w_ih, w_hh, b_ih, b_hh), see `lstm_step` and its neighbours.
        batch_sizes: None for padded x; `PackedSequence.batch_sizes` (T,) on the CPU for packed x.
        reverse: start at the end of each sequence.
        recurrent_mask: None, or the mask of the step that reads x[t] in the layout of x: padded (T, B, H), or
            (T, 1, H) for one of all sequences, (1, B, H) to use one for all steps; packed (N, H).
        input_mask: masks that x has still to pass; what they strike the compiled core leaves out in float32; or None.

    Returns:
        h[t] in the layout of x, (T, B, H) or (N, H), and the state after the last step that ran, each (B, H).

    Raises:
        RuntimeError: the sequence has no time steps.
    """
    layer = LayerArguments(weights, recurrent_mask, input_mask)
    return run_layers(cell, x, state, [layer], batch_sizes, reverse)


class LayerArguments(NamedTuple):
    """What a layer of `run_layers` is given beside its input and its state; see `run_layer`."""

    weights: Weights
    recurrent_mask: Tensor | None = None
    input_mask: RowMasks | Tensor | None = None
    """A tensor, in the layout of the input or broadcast to it, is multiplied by as it is."""


def run_layers(
    cell: Cell,
    x: Tensor,
    state: State,
    layers: Sequence[LayerArguments],
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    """Runs layers on top of each other, as `run_layer` each, the compiled core as many at a time as it can.

    Args:
        cell, x, batch_sizes, reverse: as of `run_layer`.
        state: states before the first step, each (L, B, H), or of one layer (B, H).
        layers: from the lowest.

    Returns:
        h[t] of the last layer in the layout of x, and the states after the last step, as they were given.

    Raises:
        RuntimeError: the sequence has no time steps.
    """
    if (x.size(0) if batch_sizes is None else len(batch_sizes)) == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    on_core = fused(x, *state, *(t for layer in layers for t in (*layer.weights, layer.recurrent_mask)))

    def struck_before(layer: LayerArguments) -> bool:
        """Whether the layer's input goes through its mask before the layer has it."""
        mask = layer.input_mask
        if isinstance(mask, RowMasks):
            return not (on_core and ops.leaves_out(mask.first is None, len(layer.weights[0])))
        return mask is not None

    # Those between two masks at a time, or, without the core, one.
    starts = [i for i, layer in enumerate(layers) if i == 0 or not on_core or struck_before(layer)]
    ends: list[State] = []
    for start, end in zip(starts, [*starts[1:], len(layers)], strict=True):
        some = layers[start:end]
        mask = some[0].input_mask
        if mask is not None and struck_before(some[0]):
            x = mask.strike(x) if isinstance(mask, RowMasks) else x * mask.to(x.dtype)
            some = [some[0]._replace(input_mask=None), *some[1:]]
        if len(starts) == 1:
            now = state
        else:
            now = tuple(s[start:end] if on_core else s[start] for s in state)
        if on_core:
            x, last = _run_fused(cell, x, now, some, batch_sizes, reverse)
        else:
            of_one = now if now[0].dim() == 2 else tuple(s[0] for s in now)
            x, last = _run_without_core(cell, x, of_one, some[0], batch_sizes, reverse)
            last = last if state[0].dim() == 2 else tuple(s[None] for s in last)
        ends.append(last)
    return x, (ends[0] if len(ends) == 1 else tuple(torch.cat(s) for s in zip(*ends, strict=True)))


def _run_without_core(
    cell: Cell, x: Tensor, state: State, layer: LayerArguments, batch_sizes: Tensor | None, reverse: bool
) -> tuple[Tensor, State]:
    """One layer, by torch's operators, whose input has passed its mask."""
    weights, recurrent_mask, _ = layer
    if reverse:
        backwards = _backwards(batch_sizes, x.device)
        x = backwards(x)
        recurrent_mask = None if recurrent_mask is None else backwards(recurrent_mask)
    if recurrent_mask is None and cell in _ATEN:
        output, state = _run_aten(cell, x, state, weights, batch_sizes)
    else:
        output, state = _run_reference(cell, x, state, weights, batch_sizes, recurrent_mask)
    return (backwards(output) if reverse else output), state


def _backwards(batch_sizes: Tensor | None, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The function that turns every sequence around in time; done twice it changes nothing."""
    if batch_sizes is None:
        return lambda x_TBF: x_TBF.flip(0)
    t_N, b_N = packed_rows(batch_sizes)
    starts_T = batch_sizes.cumsum(0) - batch_sizes
    lengths_B = torch.bincount(b_N)
    rows_N = (starts_T[lengths_B[b_N] - 1 - t_N] + b_N).to(device)
    return lambda x_NF: x_NF.index_select(0, rows_N)


def packed_rows(batch_sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The time step and the (sorted) sequence of each row of a packed batch, both (N,) int64 on the CPU."""
    t_N = torch.repeat_interleave(torch.arange(len(batch_sizes)), batch_sizes)
    starts_T = batch_sizes.cumsum(0) - batch_sizes
    return t_N, torch.arange(len(t_N)) - starts_T[t_N]


def _run_fused(
    cell: Cell,
    x: Tensor,
    state: State,
    layers: Sequence[LayerArguments],
    batch_sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, State]:
    """The compiled core, which leaves out what masks of the inputs strike."""
    given = []
    for weights, recurrent_mask, mask in layers:
        left_out = (mask.values, mask.first) if isinstance(mask, RowMasks) else (None, None)
        given.append((*weights, recurrent_mask, *left_out))
    return ops.layers(x, state, given, batch_sizes, cell, reverse)


_ATEN: dict[Cell, Callable[..., tuple[Tensor, ...]]] = {
    "rnn_tanh": _VF.rnn_tanh,
    "rnn_relu": _VF.rnn_relu,
    "lstm": _VF.lstm,
    "gru": _VF.gru,
}


def _run_aten(
    cell: Cell, x: Tensor, state: State, weights: Weights, batch_sizes: Tensor | None
) -> tuple[Tensor, State]:
    """ATen's whole-sequence operator (oneDNN or cuDNN behind it where they apply)."""
    flat = [w for w in weights if w is not None]
    hx = tuple(s.unsqueeze(0) for s in state)
    has_biases, num_layers, dropout, bidirectional, batch_first = len(flat) == 4, 1, 0.0, False, False
    # Without dropout, `train` only says whether the operator keeps what its backward needs.
    train = torch.is_grad_enabled()
    hx_argument = hx if cell == "lstm" else hx[0]
    if batch_sizes is None:
        output, *last = _ATEN[cell](
            x, hx_argument, flat, has_biases, num_layers, dropout, train, bidirectional, batch_first
        )
    else:
        output, *last = _ATEN[cell](
            x, batch_sizes, hx_argument, flat, has_biases, num_layers, dropout, train, bidirectional
        )
    return output, tuple(s.squeeze(0) for s in last)


def _run_reference(
    cell: Cell,
    x: Tensor,
    state: State,
    weights: Weights,
    batch_sizes: Tensor | None,
    recurrent_mask: Tensor | None,
) -> tuple[Tensor, State]:
    """A loop over time of the reference steps, their input projections taken out of it into one product."""
    w_ih_GI, w_hh_GH, b_ih_G, b_hh_G = weights
    a = F.linear(x, w_ih_GI, b_ih_G)
    if batch_sizes is None:
        a_steps = a.unbind(0)
        sizes = [x.size(1)] * x.size(0)
        masks = None if recurrent_mask is None else recurrent_mask.expand(x.size(0), -1, -1).unbind(0)
    else:
        sizes = batch_sizes.tolist()
        a_steps = torch.split(a, sizes)
        masks = None if recurrent_mask is None else torch.split(recurrent_mask, sizes)

    outputs: list[Tensor] = []
    ended: list[State] = []  # final states of the sequences that are over, the last ones of the batch first
    for t, (a_BG, size) in enumerate(zip(a_steps, sizes, strict=True)):
        if size < state[0].size(0):
            ended.append(tuple(s[size:] for s in state))
            state = tuple(s[:size] for s in state)
        mask_BH = None if masks is None else masks[t]
        state = _update(cell, a_BG, state, w_hh_GH, b_hh_G, mask_BH)
        outputs.append(state[0])
    if ended:
        state = tuple(torch.cat(pieces) for pieces in zip(state, *reversed(ended), strict=True))
    return (torch.stack(outputs) if batch_sizes is None else torch.cat(outputs)), state
