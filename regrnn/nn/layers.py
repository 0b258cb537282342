"""RNN, LSTM and GRU layers with the paper's dropout, drop-in replacements for those of torch.nn.

Arguments, parameter names and shapes, initialisation, state layout, packed, padded and unbatched input are
torch.nn's, and state dicts load both ways. What is new is ``dropout``: a number p is the operator D of
*Recurrent Neural Network Regularization* (Zaremba, Sutskever, Vinyals, 2014, arXiv 1409.2329) at all L + 1
non-recurrent sites of L layers (before the first layer, between layers, after the last), where torch.nn drops
at the L - 1 sites between layers only. A `Regularization` says everything else.

Shape suffixes: T time, B batch, I input, H hidden, F features, N rows of a packed batch. In shapes, L is the
number of layers and D that of directions, 1 or 2.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from regrnn.nn.functional import (
    GATES,
    Cell,
    LayerArguments,
    Nonlinearity,
    State,
    Weights,
    packed_rows,
    rnn_cell,
    run_layers,
)
from regrnn.nn.regularization import (
    LEAST_LEFT_OUT,
    LEAST_SHARED,
    MaskKind,
    Regularization,
    RowMasks,
    as_regularization,
    draw_mask,
)

Sequences = TypeVar("Sequences", Tensor, PackedSequence)


@functools.cache
def _weight_names(layer: int, direction: int, bias: bool) -> tuple[str, ...]:
    names = ["weight_ih_l{}{}", "weight_hh_l{}{}"]
    if bias:
        names += ["bias_ih_l{}{}", "bias_hh_l{}{}"]
    return tuple(name.format(layer, "_reverse" if direction == 1 else "") for name in names)


class RecurrentLayer(nn.Module):
    """What RNN, LSTM and GRU share: the parameters, the forms of input, the masks, the stack of layers.

    Parameters of layer k, with ``_reverse`` appended for the backward direction, G = 1, 3 or 4 gates:
        weight_ih_l{k}: (G H, I) for k = 0, else (G H, D H).
        weight_hh_l{k}: (G H, H).
        bias_ih_l{k}, bias_hh_l{k}: (G H,), absent if ``bias=False``.
    """

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float | Regularization,
        bidirectional: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        proj_size: int,
    ) -> None:
        super().__init__()
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
        for name, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int):
                raise TypeError(f"{name} should be of type int, got: {type(size).__name__}")
            if size <= 0:
                raise ValueError(f"{name} must be greater than zero, got {size}")
        for name, flag in {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}.items():
            if not isinstance(flag, bool):
                raise TypeError(f"{name} should be of type bool, got: {type(flag).__name__}")
        if proj_size != 0:
            raise ValueError(
                f"proj_size={proj_size} is not supported: leave it out, and project the output with a "
                "torch.nn.Linear where that will do"
            )
        as_regularization(dropout)  # a bad rate is refused here rather than in the first forward pass
        self.cell: Cell = cell
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional

        gates = GATES[cell] * hidden_size
        for layer in range(num_layers):
            layer_input_size = input_size if layer == 0 else self._num_directions * hidden_size
            for direction in range(self._num_directions):
                shapes = [(gates, layer_input_size), (gates, hidden_size), (gates,), (gates,)]
                for name, shape in zip(_weight_names(layer, direction, self.bias), shapes, strict=False):
                    setattr(self, name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws every parameter uniformly from +-1 / sqrt(hidden_size), as torch.nn does."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def flatten_parameters(self) -> None:
        """Does nothing; here because code written for torch.nn calls it."""

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The parameters of each layer and direction, in the order of torch.nn's property of this name."""
        return [
            [getattr(self, name) for name in _weight_names(layer, direction, self.bias)]
            for layer in range(self.num_layers)
            for direction in range(self._num_directions)
        ]

    def extra_repr(self) -> str:
        parts = [str(self.input_size), str(self.hidden_size)]
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0, "bidirectional": False}
        for name, default in defaults.items():
            if getattr(self, name) != default:
                parts.append(f"{name}={getattr(self, name)}")
        return ", ".join(parts)

    @property
    def _num_directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _weights(self, layer: int, direction: int) -> Weights:
        # What module attributes cost shows beside a small layer. A parametrized weight is not among the parameters.
        own = self._parameters
        weights: list[Any] = [own.get(name) for name in _weight_names(layer, direction, self.bias)]
        if any(weight is None for weight in weights):
            weights = [getattr(self, name) for name in _weight_names(layer, direction, self.bias)]
        w_ih, w_hh, b_ih, b_hh = weights if self.bias else (*weights, None, None)
        return w_ih, w_hh, b_ih, b_hh

    def forward_with_mask(
        self, input: Tensor, hx: State | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, State, RowMasks | None]:
        """As the call, but the masks of the output may be left to the caller, who may save work by them.

        Args:
            input: (T, B, I), or (B, T, I) if `batch_first`, or (T, I) for one sequence.
            hx: the initial states, (h_0,) or (h_0, c_0); zeros if None.
            generator: source of the dropout masks; torch's global generator if None.

        Returns:
            output: h[t] of the last layer, after D unless a mask is returned.
            state: the final states, (h_n,) or (h_n, c_n).
            mask: what the output has still to pass, its rows in the order of time (see
                `regrnn.nn.softmax_cross_entropy`), or None. Only an output (T, B, H) has to, at a rate that makes it
                worth while or where D is of kind ``"batch"``.

        Raises:
            ValueError, RuntimeError, TypeError: as the call.
        """
        return self._run(input, hx, generator, leave_output=not self.batch_first and input.dim() == 3)

    def _run(
        self, input: Sequences, hx: State | None, generator: torch.Generator | None, leave_output: bool = False
    ) -> tuple[Sequences, State, RowMasks | None]:
        """Brings the input into one of the two forms of `run_layers`, runs the stack, and brings it back."""
        if isinstance(input, PackedSequence):
            x_NI, batch_sizes, sorted_indices, unsorted_indices = input
            self._check_input(x_NI, 2)
            state = self._initial_state(x_NI, int(batch_sizes[0]), hx, dims=3)
            if sorted_indices is not None:
                state = tuple(s.index_select(1, sorted_indices) for s in state)
            output, state, _ = self._run_stack(x_NI, state, batch_sizes, sorted_indices, generator, False)
            if unsorted_indices is not None:
                state = tuple(s.index_select(1, unsorted_indices) for s in state)
            return PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices), state, None

        if input.dim() not in (2, 3):
            raise ValueError(f"{type(self).__name__}: Expected input to be 2D or 3D, got {input.dim()}D instead")
        batched = input.dim() == 3
        self._check_input(input, input.dim())
        if not batched:
            x_TBI = input.unsqueeze(1)
        elif self.batch_first:
            x_TBI = input.transpose(0, 1)
        else:
            x_TBI = input
        state = self._initial_state(x_TBI, x_TBI.size(1), hx, dims=input.dim())
        output, state, mask = self._run_stack(x_TBI, state, None, None, generator, leave_output)
        if not batched:
            return output.squeeze(1), tuple(s.squeeze(1) for s in state), None
        return (output.transpose(0, 1) if self.batch_first else output), state, mask

    def _run_stack(
        self,
        x: Tensor,
        state: State,
        batch_sizes: Tensor | None,
        sorted_indices: Tensor | None,
        generator: torch.Generator | None,
        leave_output: bool,
    ) -> tuple[Tensor, State, RowMasks | None]:
        """All layers and directions.

        Masks are drawn layer by layer and forward before backward, that of the layer's input before that of its
        recurrent state; that of the output comes last.

        Args:
            x: padded (T, B, I) or packed (N, I).
            state: initial states, each (L D, B, H), in the order of x.
            batch_sizes: None for padded x.
            sorted_indices: (B,) the place in the user's batch of each sequence of a packed batch; None if it
                was sorted already.
            leave_output: whether masks of the output by which a product saves work are left to the caller.

        Returns:
            the output in the layout of x with D H features, the final states, each (L D, B, H), and the mask that was
            left.
        """
        regularization = as_regularization(self.dropout)
        T = x.size(0) if batch_sizes is None else len(batch_sizes)
        B = x.size(1) if batch_sizes is None else int(batch_sizes[0])

        def draw(rate: float, features: int, kind: MaskKind) -> Tensor | None:
            if rate == 0.0 or not self.training:
                return None
            return draw_mask(rate, T, B, features, kind, generator, x.device, x.dtype, regularization.every)

        def by_rows(mask: Tensor, kind: MaskKind) -> Tensor:
            """A mask in the layout of x, but drawn as for padded input in the user's order."""
            if kind == "batch":
                mask = mask.repeat_interleave(regularization.every, dim=0)[:T]
            if batch_sizes is None:
                return mask
            t_N, b_N = (rows.to(x.device) for rows in packed_rows(batch_sizes))
            if sorted_indices is not None:
                b_N = sorted_indices[b_N]
            return mask[t_N if len(mask) > 1 else 0, b_N if kind != "batch" else 0]

        def draw_rows(rate: float, features: int) -> RowMasks | Tensor | None:
            """For the rows of an input: `RowMasks` where a product may leave out what they strike."""
            mask = draw(rate, features, regularization.masks)
            if mask is None:
                return None
            if regularization.masks != "batch" or B * regularization.every < LEAST_SHARED:
                mask = by_rows(mask, regularization.masks)
                if rate < LEAST_LEFT_OUT:
                    return mask
                return RowMasks(mask.expand(*x.shape[:-1], features).reshape(-1, features))
            sizes = torch.full((T,), B, device="cpu") if batch_sizes is None else batch_sizes
            first = torch.cat((sizes.new_zeros(1), sizes.cumsum(0)))
            steps = torch.arange(0, T + regularization.every, regularization.every, device="cpu").clamp_(max=T)
            return RowMasks(mask[:, 0], first[steps])

        recurrent_kind = regularization.recurrent_masks or regularization.masks
        layers: list[LayerArguments] = []
        for layer in range(self.num_layers):
            for direction in range(self._num_directions):
                weights = self._weights(layer, direction)
                rate = regularization.input if layer == 0 else regularization.between
                input_mask = draw_rows(rate, weights[0].size(-1))
                recurrent_mask = draw(regularization.recurrent, self.hidden_size, recurrent_kind)
                if recurrent_mask is not None:
                    recurrent_mask = by_rows(recurrent_mask, recurrent_kind)
                layers.append(LayerArguments(weights, recurrent_mask, input_mask))
        output_mask = draw_rows(regularization.output, self.hidden_size * self._num_directions)

        if self.bidirectional:
            output, state = self._run_both_ways(x, state, layers, batch_sizes)
        else:
            output, state = run_layers(self.cell, x, state, layers, batch_sizes)
        if isinstance(output_mask, Tensor):
            output, output_mask = output * output_mask.to(output.dtype), None
        if output_mask is not None and not leave_output:
            output, output_mask = output_mask.strike(output), None
        return output, state, output_mask

    def _run_both_ways(
        self, x: Tensor, state: State, layers: Sequence[LayerArguments], batch_sizes: Tensor | None
    ) -> tuple[Tensor, State]:
        """The layers in pairs, forward and backward, each pair over the concatenated outputs of the one below."""
        firsts = zip(*(s.unbind(0) for s in state), strict=True)
        lasts: list[State] = []
        for pair in zip(layers[::2], layers[1::2], strict=True):
            outputs = []
            for layer, reverse in zip(pair, (False, True), strict=True):
                output, last = run_layers(self.cell, x, next(firsts), [layer], batch_sizes, reverse)
                outputs.append(output)
                lasts.append(last)
            x = torch.cat(outputs, dim=-1)
        return x, tuple(torch.stack(s) for s in zip(*lasts, strict=True))

    def _check_input(self, x: Tensor, dims: int) -> None:
        weight = self.weight_ih_l0
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(
                f"input dtype ({x.dtype}) does not match weight dtype ({weight.dtype}). "
                f"Convert input: input.to({weight.dtype}), or convert model: model.to({x.dtype})"
            )
        if x.dim() != dims:
            raise RuntimeError(f"input must have {dims} dimensions, got {x.dim()}")
        if x.size(-1) != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {x.size(-1)}"
            )

    def _initial_state(self, x: Tensor, B: int, hx: State | None, dims: int) -> State:
        """The states to start from, (h,) or (h, c), each (L D, B, H): the user's, checked, or zeros."""
        names = ("hx", "cx") if self.cell == "lstm" else ("hx",)
        shape = (self.num_layers * self._num_directions, B, self.hidden_size)
        if hx is None:
            zeros = x.new_zeros(shape)
            return tuple(zeros for _ in names)
        if len(hx) != len(names):
            raise ValueError(f"hx must be a pair (h_0, c_0), got {len(hx)} tensors")
        expected = shape if dims == 3 else (shape[0], shape[2])
        for name, tensor in zip(names, hx, strict=True):
            if tensor.dim() != dims:
                batching = "batched 3-D" if dims == 3 else "unbatched 2-D"
                raise RuntimeError(
                    f"For {batching} input, {name} should also be {dims}-D but got {tensor.dim()}-D tensor"
                )
            if tensor.size() != expected:
                raise RuntimeError(f"Expected {name} of size {list(expected)}, got {list(tensor.size())}")
            if tensor.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
                raise ValueError(f"{name} dtype ({tensor.dtype}) does not match input dtype ({x.dtype})")
        return hx if dims == 3 else tuple(s.unsqueeze(1) for s in hx)


class _OneStateLayer(RecurrentLayer):
    """The layers whose state is h alone."""

    def forward(
        self, input: Sequences, hx: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Sequences, Tensor]:
        """Runs the layers over a batch of sequences.

        Args:
            input: (T, B, I), or (B, T, I) if `batch_first`, or (T, I) for one sequence, or a PackedSequence.
            hx: initial states (L D, B, H), (L D, H) for one sequence; zeros if None.
            generator: source of the dropout masks; torch's global generator if None.

        Returns:
            output: h[t] of the last layer after D, in the form of the input, with D H features.
            h_n: final states, as hx; D does not touch them.

        Raises:
            ValueError, RuntimeError, TypeError: input or hx is of a wrong size, dtype or type.
        """
        if hx is not None and not isinstance(hx, Tensor):
            raise TypeError(f"{type(self).__name__}: hx must be a tensor h_0, got {type(hx).__name__}")
        output, (h_n,), _ = self._run(input, None if hx is None else (hx,), generator)
        return output, h_n


class RNN(_OneStateLayer):
    """The classical RNN (`regrnn.nn.functional.rnn_step`): torch.nn.RNN with D, and with sigmoid.

    Args:
        input_size: I, features of the input.
        hidden_size: H, units of each layer.
        num_layers: L.
        nonlinearity: ``"tanh"``, ``"relu"`` or ``"sigmoid"``.
        bias: whether the layers have biases.
        batch_first: input and output are (B, T, F) rather than (T, B, F); states are (L D, B, H) regardless.
        dropout: a rate in [0, 1), the paper's D at all L + 1 sites; or a `Regularization`.
        bidirectional: whether each layer also runs backwards, its output the concatenation of both.
        device, dtype: of the parameters.
        proj_size: refused.

    Raises:
        ValueError, TypeError: an argument is out of range or of a wrong type.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Nonlinearity = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float | Regularization = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        proj_size: int = 0,
    ) -> None:
        super().__init__(
            rnn_cell(nonlinearity),
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device,
            dtype,
            proj_size,
        )
        self.nonlinearity = nonlinearity

    def extra_repr(self) -> str:
        nonlinearity = "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}"
        return super().extra_repr() + nonlinearity


class GRU(_OneStateLayer):
    """The GRU (`regrnn.nn.functional.gru_step`): torch.nn.GRU with D. Arguments and errors as of `LSTM`."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float | Regularization = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        proj_size: int = 0,
    ) -> None:
        super().__init__(
            "gru",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device,
            dtype,
            proj_size,
        )


class LSTM(RecurrentLayer):
    """The paper's regularised LSTM (`regrnn.nn.functional.lstm_step`): torch.nn.LSTM with D.

    Args:
        input_size: I, features of the input.
        hidden_size: H, units of each layer.
        num_layers: L.
        bias: whether the layers have biases.
        batch_first: input and output are (B, T, F) rather than (T, B, F); states are (L D, B, H) regardless.
        dropout: a rate in [0, 1), the paper's D at all L + 1 sites; or a `Regularization`.
        bidirectional: whether each layer also runs backwards, its output the concatenation of both.
        device, dtype: of the parameters.
        proj_size: refused.

    Raises:
        ValueError, TypeError: an argument is out of range or of a wrong type.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float | Regularization = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        proj_size: int = 0,
    ) -> None:
        super().__init__(
            "lstm",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device,
            dtype,
            proj_size,
        )

    def forward(
        self,
        input: Sequences,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Sequences, tuple[Tensor, Tensor]]:
        """Runs the layers over a batch of sequences.

        Args:
            input: (T, B, I), or (B, T, I) if `batch_first`, or (T, I) for one sequence, or a PackedSequence.
            hx: initial states (h_0, c_0), each (L D, B, H), (L D, H) for one sequence; zeros if None.
            generator: source of the dropout masks; torch's global generator if None.

        Returns:
            output: h[t] of the last layer after D, in the form of the input, with D H features.
            (h_n, c_n): final states, as hx; D does not touch them.

        Raises:
            ValueError, RuntimeError, TypeError: input or hx is of a wrong size, dtype or type.
        """
        if hx is not None and isinstance(hx, Tensor):
            raise TypeError("LSTM: hx must be a pair of tensors (h_0, c_0), got one tensor")
        output, (h_n, c_n), _ = self._run(input, hx, generator)
        return output, (h_n, c_n)
