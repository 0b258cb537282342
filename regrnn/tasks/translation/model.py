"""The paper's translator: one deep LSTM reads the source, then writes the target; with attention where asked for.

    h[1..S] = LSTM(E_s s[1..S]),   h[S+1], h[S+2], ... = LSTM(E_t <eos>, E_t t[1], ...) from there,
    p(t[j] | s, t[1..j-1]) = softmax(W D(h[S+j]^L) + b),

h^L the top layer's output, with D at the L + 1 non-recurrent connections (Zaremba et al. 2014, section 4.3; Sutskever
et al. 2014). `<eos>` separates the two sentences and ends the second; the languages have embeddings of their own.

With attention (Luong et al. 2015, "general" score, without input feeding) the softmax reads, in place of h = D(h^L),

    a[j, i] = softmax_i(h[S+j]^T W_a h[i]),   c[j] = sum_i a[j, i] h[i],   D(tanh(W_c [c[j]; h[S+j]])).

Shapes: S source length, T target length, B batch, E embedding, H hidden, V vocabulary, N target tokens.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from regrnn.kernels.stack import LaidOut, Stack
from regrnn.nn import LSTM, Embedding, Regularization, draw_mask
from regrnn.nn.regularization import as_regularization
from regrnn.search.beam import Steps
from regrnn.tasks.settings import TokenModelConfig

State = dict[str, Tensor]
"""`h`, `c` (L, B, H); with attention also `memory`, `keys` (S, B, H) and `padding` (S, B)."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(TokenModelConfig):
    """The `[model]` section of a translation recipe."""

    dropout: float | Regularization = 0.0
    """A rate: the paper's D at all L + 1 sites (with attention, also behind it). A table: the fields of
    `regrnn.Regularization`."""
    attention: Literal["none", "luong"] = "none"
    shared: bool = True
    """Whether one LSTM reads and writes, as in the paper, or two of the same sizes."""
    forget_bias: float = 0.0
    """Added to the forget gates' first biases: 1 lets the cells keep what they read (Jozefowicz et al. 2015)."""


class TranslationModel(nn.Module):
    """p(next target token | source, target tokens before it)."""

    def __init__(self, config: ModelConfig, source_types: int, target_types: int) -> None:
        super().__init__()
        self.config = config
        E, H = config.embedding_size or config.hidden_size, config.hidden_size
        self.source_embedding = Embedding(source_types, E)
        self.target_embedding = Embedding(target_types, E)
        self.rnn = LSTM(E, H, config.num_layers, dropout=config.dropout)
        self.reader = None if config.shared else LSTM(E, H, config.num_layers, dropout=config.dropout)
        self.decoder = nn.Linear(H, target_types)
        if config.tied:
            self.decoder.weight = self.target_embedding.weight
        self.attention = Attention(H, config.dropout) if config.attention == "luong" else None
        self._laid_out = LaidOut()
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -config.init, config.init)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if ".bias_ih_l" in name:
                    parameter[H : 2 * H] += config.forget_bias  # of i, f, g, o

    def read(self, source_SB: Tensor, lengths_B: Tensor) -> State:
        """The state once the sources are read; `lengths_B` (on the CPU, each at least 1) of what is not padding."""
        packed = pack_padded_sequence(source_SB, lengths_B, enforce_sorted=False)
        embedded = PackedSequence(
            self.source_embedding(packed.data), packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
        )
        output, (h_LBH, c_LBH) = (self.reader or self.rnn)(embedded)
        state = {"h": h_LBH, "c": c_LBH}
        if self.attention is not None:
            memory_SBH, _ = pad_packed_sequence(output)
            steps_S1 = torch.arange(len(memory_SBH), device=memory_SBH.device)[:, None]
            state |= {
                "memory": memory_SBH,
                "keys": self.attention.key(memory_SBH),
                "padding": steps_S1 >= lengths_B.to(memory_SBH.device),
            }
        return state

    def write(self, tokens_TB: Tensor, state: State) -> tuple[Tensor, Tensor | None, State]:
        """What the softmax reads behind each target token (T, B, H), attention (B, T, S), and the state after them."""
        h_TBH, (h_LBH, c_LBH) = self.rnn(self.target_embedding(tokens_TB), (state["h"], state["c"]))
        weights_BTS = None
        if self.attention is not None:
            h_TBH, weights_BTS = self.attention(h_TBH, state)
        return h_TBH, weights_BTS, state | {"h": h_LBH, "c": c_LBH}

    def features(self, source_SB: Tensor, lengths_B: Tensor, tokens_TB: Tensor) -> Tensor:
        """What the softmax reads behind each target token, (T, B, H)."""
        return self.write(tokens_TB, self.read(source_SB, lengths_B))[0]

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """ln p (B, V) of the token after each, and the state to go on from."""
        stack = None if self.training or torch.is_grad_enabled() else self._stack()
        if stack is None:
            h_TBH, _, state = self.write(tokens_B[None], state)
            return self.decoder(h_TBH[0]).log_softmax(-1), state
        logits_BV, (h_LBH, c_LBH) = stack.step(tokens_B, (state["h"], state["c"]))
        state = state | {"h": h_LBH, "c": c_LBH}
        if self.attention is not None:
            logits_BV = self.decoder(self.attention(h_LBH[-1:], state)[0][0])
        return logits_BV.log_softmax(-1), state

    def _stack(self) -> Stack | None:
        """The LSTM that writes and, unless attention comes in between, the softmax, laid out for single steps."""
        decoder = (self.decoder.weight, self.decoder.bias) if self.attention is None else None
        return self._laid_out.of(self.rnn.cell, self.target_embedding.weight, self.rnn.all_weights, decoder)

    @property
    def steps(self) -> Steps[State]:
        """For a search."""
        return Steps(self.step, select)


class Attention(nn.Module):
    """Where the target looks in the source (Luong et al. 2015, equations 5, 7 and 8)."""

    def __init__(self, hidden_size: int, dropout: float | Regularization) -> None:
        super().__init__()
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.combine = nn.Linear(2 * hidden_size, hidden_size, bias=False)
        self.dropout = dropout

    def forward(self, h_TBH: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """D(tanh(W_c [c; h])) (T, B, H), and the weights (B, T, S)."""
        h_BTH = h_TBH.transpose(0, 1)
        scores_BTS = h_BTH @ state["keys"].permute(1, 2, 0)
        weights_BTS = scores_BTS.masked_fill(state["padding"].T[:, None], -torch.inf).softmax(-1)
        context_BTH = weights_BTS @ state["memory"].transpose(0, 1)
        h_TBH = torch.tanh(self.combine(torch.cat((context_BTH, h_BTH), -1))).transpose(0, 1)
        return self._strike(h_TBH), weights_BTS

    def _strike(self, h_TBH: Tensor) -> Tensor:
        """D at the output's rate and by its kind of mask."""
        scheme = as_regularization(self.dropout)
        if not self.training or scheme.output == 0:
            return h_TBH
        T, B, H = h_TBH.shape
        mask = draw_mask(scheme.output, T, B, H, scheme.masks, None, h_TBH.device, h_TBH.dtype, scheme.every)
        if scheme.masks == "batch":
            mask = mask.repeat_interleave(scheme.every, 0)[:T]
        return h_TBH * mask


def select(state: State, rows: Tensor) -> State:
    """The state of some rows."""
    return {name: tensor.index_select(1, rows) for name, tensor in state.items()}
