"""Embedding, layers and softmax step by step on the core, for generation and search: weights laid out once.

Shapes: B rows, E embedding, H hidden, V outputs of the softmax, L layers, G gates times H.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor

from regrnn.kernels.core import Drawing, Matrix, StackedLayer
from regrnn.kernels.core import Stack as Filled
from regrnn.kernels.memory import in_large_pages
from regrnn.kernels.ops import CELLS, core
from regrnn.kernels.use import fused

Storage = Literal["float32", "int8"]
"""How the weights are held: as they are, or each rounded to 8 bits with a scale for every output."""

_GATES = {"rnn_tanh": 1, "rnn_relu": 1, "rnn_sigmoid": 1, "lstm": 4, "gru": 3}
_MOST_PROJECTED = 2**28  # floats; memory that is never written costs nothing
_AHEAD = 16  # tokens that are judged together, the first of them not drafted
_CHUNK = 16  # bytes of one output that lie together, see `struct Matrix`


class Stack:
    """A copy of a language model's weights, laid out for steps of few rows. Only where the core is there.

    Args:
        cell: a key of `ops.CELLS`.
        embedding: (types, E) float32 on the CPU; used in place.
        layers: w_ih, w_hh and, if it has biases, b_ih and b_hh of each layer, from the first (`LSTM.all_weights`).
        decoder: weights (V, H) and biases (V,) or None; None for layers alone, whose logits are (B, 0).
        storage: of all weights but the embedding and the biases.
    """

    def __init__(
        self,
        cell: str,
        embedding: Tensor,
        layers: Sequence[Sequence[Tensor]],
        decoder: tuple[Tensor, Tensor | None] | None,
        storage: Storage = "float32",
    ) -> None:
        self._width = core().panel_width
        self._storage = storage
        self._alive: list[Tensor] = []
        self.weight_bytes = 0  # of what a step reads
        self._cell, self._gates, self._has_c = CELLS[cell], _GATES[cell], cell == "lstm"
        self.H = layers[0][1].size(1)
        types, self.E = embedding.shape
        self._embedding = self._keep(embedding)
        self._layers = (StackedLayer * len(layers))(*(self._layer(*weights) for weights in layers))
        weights, bias = decoder or (embedding.new_empty(0, self.H), None)
        self.V = len(weights)
        self._decoder = self._matrix(weights, 1)
        self._decoder_bias = None if bias is None else self._keep(bias)

        # The first layer's input products of the tokens seen so far: a text has few of its vocabulary.
        self._projected, self._known = embedding.new_empty(0), torch.zeros(0, dtype=torch.uint8)
        if types * self._gates * self.H <= _MOST_PROJECTED:
            self._projected = embedding.new_empty(types, self._gates * self.H)
            self._known = torch.zeros(types, dtype=torch.uint8)

    def _keep(self, tensor: Tensor, *, copy: bool = False) -> int:
        tensor = in_large_pages(tensor.detach()) if copy else tensor.detach().contiguous()
        self._alive.append(tensor)
        return tensor.data_ptr()

    def _matrix(self, w: Tensor, gates: int) -> Matrix:
        (outputs, K), width = w.shape, self._width
        of_gate = outputs // gates
        padded = w.new_zeros(gates, (of_gate + width - 1) // width * width, K)
        padded[:, :of_gate] = w.detach().view(gates, of_gate, K)
        rows = padded.view(-1, K)
        filled = Matrix(K=K)
        self.weight_bytes += rows.numel() * (rows.element_size() if self._storage == "float32" else 1)
        if self._storage == "float32":
            filled.panels = self._keep(rows.view(-1, width, K).transpose(1, 2), copy=True)
            return filled
        scales, rounded = round_to_bytes(rows)
        filled.stride = (K + _CHUNK - 1) // _CHUNK * _CHUNK
        chunks = torch.nn.functional.pad(rounded, (0, filled.stride - K)).view(-1, 4, filled.stride // _CHUNK, _CHUNK)
        filled.bytes = self._keep(chunks.transpose(1, 2), copy=True)
        filled.scales = self._keep(scales)
        return filled

    def _layer(
        self, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
    ) -> StackedLayer:
        filled = StackedLayer(w_ih=self._matrix(w_ih, self._gates), w_hh=self._matrix(w_hh, self._gates))
        if b_ih is not None and b_hh is not None:
            b_hh = b_hh.detach().clone()
            if self._cell == CELLS["gru"]:  # the last part is inside of the reset product
                filled.b_hn = self._keep(b_hh[2 * self.H :].clone())
                b_hh[2 * self.H :] = 0
            filled.bias = self._keep(b_ih.detach() + b_hh)
        return filled

    def _fill(self, state: Sequence[Tensor], logits: Tensor) -> tuple[Filled, list[Tensor]]:
        """What the core steps on, from a state (h,) or (h, c), each (L, B, H), and what it writes: h, c and scratch."""
        L, B, H = len(self._layers), state[0].size(1), self.H
        h = logits.new_empty(2, L, B, H)
        h[0] = state[0]
        c = logits.new_empty(2, L, B, H) if self._has_c else logits.new_empty(0)
        if self._has_c:
            c[0] = state[1]
        return self._filled(B, h, c, logits)

    def _filled(self, B: int, h: Tensor, c: Tensor, logits: Tensor) -> tuple[Filled, list[Tensor]]:
        threads, H, new = torch.get_num_threads(), self.H, logits.new_empty
        stride = max(self._decoder.stride, *(max(m.w_ih.stride, m.w_hh.stride) for m in self._layers))
        scratch = {
            "x": new(B, self.E),
            "gates": new(B, self._gates * H),
            "h_now": new(B, H),
            "c_now": new(B, H),
            "products": new(threads, 4, B, self._width),
            "rounded": torch.empty(threads, 2, B, stride, dtype=torch.int16),
            "steps": new(threads, 2, B),
            "unknown": torch.empty(threads, B, dtype=torch.int32),
            "checked": torch.empty(B, dtype=torch.int64),
        }
        filled = Filled(cell=self._cell, layers=len(self._layers), B=B, E=self.E, H=H, V=self.V, threads=threads)
        filled.embedding, filled.stacked, filled.decoder = self._embedding, self._layers, self._decoder
        filled.decoder_bias = self._decoder_bias
        filled.h, filled.c, filled.logits = h.data_ptr(), c.data_ptr(), logits.data_ptr()
        if len(self._known):
            filled.projected, filled.known = self._projected.data_ptr(), self._known.data_ptr()
        for name, tensor in scratch.items():
            setattr(filled, name, tensor.data_ptr())
        return filled, [h, c, *scratch.values()]

    def step(self, tokens_B: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits (B, V) of what follows `tokens_B` (int64, rows of the embedding), and the state to go on from.

        Of each row the same, whatever stands beside it.
        """
        logits_BV = torch.empty(len(tokens_B), self.V)
        tokens_B = tokens_B.contiguous()
        filled, written = self._fill(state, logits_BV)
        core().step(ctypes.byref(filled), tokens_B.data_ptr())
        return logits_BV, self._state(written, 1)

    def _state(self, written: list[Tensor], half: int) -> tuple[Tensor, ...]:
        return (written[0][half], written[1][half]) if self._has_c else (written[0][half],)

    def generate(
        self,
        logits_BV: Tensor,
        state: Sequence[Tensor],
        uniform_TB: Tensor,
        *,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        never: Collection[int],
        draft: tuple[Stack, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Tokens (T, B) int64, the first drawn from `logits_BV`; then the logits and the state that follow the last.

        Args:
            logits_BV: (B, V).
            state: (h,) or (h, c), each (L, B, H).
            uniform_TB: numbers in [0, 1): a token is the first at which the cumulated probability is above it.
            temperature: divides the logits; at 0 the most probable token is taken.
            top_k: draw among the k most probable; None among all.
            top_p: draw among the most probable that together reach p; None among all.
            never: tokens that must not be drawn.
            draft: the same model with its weights in bytes, and more numbers in [0, 1), (T, 2). For one row alone: it
                goes ahead by a few tokens, and this stack judges them together, for which it reads its weights once
                (Leviathan et al. 2023). What is drawn has the same distribution, but is not the same.
        """
        uniform_TB = uniform_TB.contiguous()
        tokens_TB = torch.empty(uniform_TB.shape, dtype=torch.int64)
        never_ids = torch.tensor(list(never), dtype=torch.int64)
        drawing = Drawing(
            temperature=temperature,
            top_p=1.0 if top_p is None else top_p,
            top_k=min(top_k or 0, self.V),
            never=never_ids.data_ptr(),
            nevers=len(never_ids),
            uniform=uniform_TB.data_ptr(),
        )
        places = len(uniform_TB), tokens_TB.data_ptr()
        if draft is not None:
            return tokens_TB, *self._generate_ahead(logits_BV, state, drawing, *draft, *places)
        logits_BV = logits_BV.clone(memory_format=torch.contiguous_format)
        filled, written = self._fill(state, logits_BV)
        core().generate(ctypes.byref(filled), ctypes.byref(drawing), *places)
        return tokens_TB, logits_BV, self._state(written, len(uniform_TB) % 2)

    def _generate_ahead(
        self,
        logits_1V: Tensor,
        state: Sequence[Tensor],
        drawing: Drawing,
        draft: Stack,
        judging_T2: Tensor,
        *places: int,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The logits and the state behind the tokens that a draft has led to."""
        L, new, judging_T2 = len(self._layers), logits_1V.new_empty, judging_T2.contiguous()
        logits, logits_of_draft = new(_AHEAD + 1, self.V), new(_AHEAD, self.V)
        logits[:1] = logits_1V
        h, c = (new(L, _AHEAD + 1, self.H) for _ in range(2))
        for all_steps, before in zip((h, c), state, strict=False):
            all_steps[:, :1] = before
        filled, _scratch = self._filled(_AHEAD, h, c, logits)
        drafted, _scratch_of_draft = draft._fill(state, logits_of_draft)
        structures = (ctypes.byref(each) for each in (filled, drafted, drawing))
        core().generate_ahead(*structures, judging_T2.data_ptr(), *places)
        return logits[:1], tuple(s[:, :1].contiguous() for s in (h, c)[: len(state)])


class LaidOut:
    """The stack of a model, one for each storage, kept from step to step and laid out anew if the weights have changed.

    A copy of the model has its own.
    """

    def __init__(self) -> None:
        self._kept: dict[Storage, tuple[object, Stack]] = {}

    def __reduce__(self) -> tuple[type[LaidOut], tuple[()]]:
        return LaidOut, ()

    def of(
        self,
        cell: str,
        embedding: Tensor,
        layers: Sequence[Sequence[Tensor]],
        decoder: tuple[Tensor, Tensor | None] | None,
        storage: Storage = "float32",
    ) -> Stack | None:
        """As `Stack`'s arguments say; None where the core does not run, or not with these weights."""
        weights = [w for w in (embedding, *itertools.chain(*layers), *(decoder or ())) if w is not None]
        if not fused(*weights):
            return None
        # Tensors made in inference mode have no version.
        key = [(w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights]
        if storage not in self._kept or self._kept[storage][0] != key:
            self._kept[storage] = key, Stack(cell, embedding, layers, decoder, storage)
        return self._kept[storage][1]


def round_to_bytes(w: Tensor) -> tuple[Tensor, Tensor]:
    """Scales (rows,) and int8 numbers whose product is w (rows, columns) to within half a scale; 0 stays 0."""
    scales = w.abs().amax(1) / 127 if w.size(1) else w.new_zeros(len(w))
    return scales, torch.round(w / scales.clamp(min=torch.finfo(w.dtype).tiny)[:, None]).to(torch.int8)
