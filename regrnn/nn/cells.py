"""RNNCell, LSTMCell and GRUCell: single steps with the paper's dropout, drop-in replacements for torch.nn's.

A cell is one layer for one time step. What it returns is the state that goes on to the next step, which D
never touches (Zaremba, Sutskever, Vinyals, 2014, arXiv 1409.2329), so a cell applies D at its *input* only,
and on request to the recurrent state where it enters the recurrent product. D on the way out is the input
dropout of the next cell, or the caller's own ``F.dropout`` before the softmax.

Shape suffixes: B batch, I input, H hidden.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from regrnn.nn.functional import GATES, Cell, Nonlinearity, State, rnn_cell, step
from regrnn.nn.regularization import Regularization, as_regularization, draw_mask


class RecurrentCell(nn.Module):
    """What the three cells share: parameters, masks, and the forms of input.

    Parameters, G = 1, 3 or 4 gates:
        weight_ih: (G H, I).
        weight_hh: (G H, H).
        bias_ih, bias_hh: (G H,), None if ``bias=False``.
    """

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        dropout: float | Regularization,
    ) -> None:
        super().__init__()
        _cell_regularization(dropout)  # a bad setting is refused here rather than in the first step
        self.cell: Cell = cell
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.dropout = dropout
        gates = GATES[cell] * hidden_size
        shapes = {
            "weight_ih": (gates, input_size),
            "weight_hh": (gates, hidden_size),
            "bias_ih": (gates,) if bias else None,
            "bias_hh": (gates,) if bias else None,
        }
        for name, shape in shapes.items():
            empty = None if shape is None else nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name, empty)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws every parameter uniformly from +-1 / sqrt(hidden_size), as torch.nn does."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        parts = [str(self.input_size), str(self.hidden_size)]
        if not self.bias:
            parts.append("bias=False")
        if self.dropout != 0:
            parts.append(f"dropout={self.dropout}")
        return ", ".join(parts)

    def _run(self, input: Tensor, hx: State | None, generator: torch.Generator | None) -> State:
        name = type(self).__name__
        if input.dim() not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        if input.size(-1) != self.input_size:
            raise RuntimeError(
                f"{name}: input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.size(-1)}"
            )
        x_BI = input if input.dim() == 2 else input.unsqueeze(0)
        B = x_BI.size(0)
        if hx is None:
            state: State = (x_BI.new_zeros(B, self.hidden_size),) * (2 if self.cell == "lstm" else 1)
        else:
            expected = (*input.shape[:-1], self.hidden_size)
            for tensor in hx:
                if tensor.shape != expected:
                    raise RuntimeError(f"{name}: Expected hidden size {list(expected)}, got {list(tensor.shape)}")
            state = hx if input.dim() == 2 else tuple(s.unsqueeze(0) for s in hx)

        regularization = _cell_regularization(self.dropout)

        def mask(rate: float, features: int) -> Tensor | None:
            if rate == 0.0 or not self.training:
                return None
            return draw_mask(rate, 1, B, features, "step", generator, x_BI.device, x_BI.dtype)[0]

        input_mask_BI = mask(regularization.input, self.input_size)
        state = step(
            self.cell,
            x_BI if input_mask_BI is None else x_BI * input_mask_BI,
            state,
            (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh),
            mask(regularization.recurrent, self.hidden_size),
        )
        return state if input.dim() == 2 else tuple(s.squeeze(0) for s in state)


class _OneStateCell(RecurrentCell):
    """The cells whose state is h alone."""

    def forward(self, input: Tensor, hx: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """One step.

        Args:
            input: (B, I), or (I,) for one sequence.
            hx: h[t-1] (B, H) or (H,); zeros if None.
            generator: source of the dropout masks; torch's global generator if None.

        Returns:
            h[t], as hx. D does not touch it.

        Raises:
            ValueError, RuntimeError: input or hx is of a wrong size.
        """
        (h,) = self._run(input, None if hx is None else (hx,), generator)
        return h


class RNNCell(_OneStateCell):
    """One step of the classical RNN (`regrnn.nn.functional.rnn_step`): torch.nn.RNNCell with D, and sigmoid.

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there are biases.
        nonlinearity: ``"tanh"``, ``"relu"`` or ``"sigmoid"``.
        device, dtype: of the parameters.
        dropout: the rate of D at the input, in [0, 1); or a `Regularization` with ``input`` and ``recurrent``
            rates and masks drawn each ``"step"``.

    Raises:
        ValueError: the nonlinearity is unknown, or the dropout is nothing that a cell can do.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: Nonlinearity = "tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        dropout: float | Regularization = 0.0,
    ) -> None:
        super().__init__(rnn_cell(nonlinearity), input_size, hidden_size, bias, device, dtype, dropout)
        self.nonlinearity = nonlinearity

    def extra_repr(self) -> str:
        nonlinearity = "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}"
        return super().extra_repr() + nonlinearity


class GRUCell(_OneStateCell):
    """One step of the GRU (`regrnn.nn.functional.gru_step`): torch.nn.GRUCell with D. See `LSTMCell`."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        dropout: float | Regularization = 0.0,
    ) -> None:
        super().__init__("gru", input_size, hidden_size, bias, device, dtype, dropout)


class LSTMCell(RecurrentCell):
    """One step of the LSTM (`regrnn.nn.functional.lstm_step`): torch.nn.LSTMCell with D.

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there are biases.
        device, dtype: of the parameters.
        dropout: the rate of D at the input, in [0, 1); or a `Regularization` with ``input`` and ``recurrent``
            rates and masks drawn each ``"step"``.

    Raises:
        ValueError: the dropout is nothing that a cell can do.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        dropout: float | Regularization = 0.0,
    ) -> None:
        super().__init__("lstm", input_size, hidden_size, bias, device, dtype, dropout)

    def forward(
        self,
        input: Tensor,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            input: (B, I), or (I,) for one sequence.
            hx: (h[t-1], c[t-1]), each (B, H) or (H,); zeros if None.
            generator: source of the dropout masks; torch's global generator if None.

        Returns:
            (h[t], c[t]), as hx. D does not touch them.

        Raises:
            ValueError, RuntimeError: input or hx is of a wrong size.
        """
        h, c = self._run(input, hx, generator)
        return h, c


def _cell_regularization(dropout: float | Regularization) -> Regularization:
    """What the ``dropout`` argument of a cell stands for.

    Raises:
        ValueError: it asks for what one step of one layer cannot do.
    """
    if not isinstance(dropout, Regularization):
        return Regularization(input=as_regularization(dropout).input)
    for site in ("between", "output"):
        rate = getattr(dropout, site)
        if rate > 0.0:
            raise ValueError(
                f"a cell cannot apply Regularization({site}={rate}): what it returns is the state of the "
                "next step, which must not be dropped; apply D where that output is used"
            )
    if "sequence" in (dropout.masks, dropout.recurrent_masks):
        raise ValueError(
            'a cell cannot hold masks="sequence" over time, since it sees one step; use the layer, or draw '
            "one mask with regrnn.nn.draw_mask and multiply the inputs of all steps by it"
        )
    return dropout
