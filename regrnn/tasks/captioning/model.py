"""Show and Tell (Vinyals et al. 2014): the image's vector is the first input of an LSTM that writes the caption.

    x[0] = W_image v,   x[1] = E <eos>,   x[t + 1] = E w[t],
    p(w[t] | v, w[1..t-1]) = softmax(W D(h[t]^L) + b),

h^L the top layer's output, with D at the L + 1 non-recurrent connections. The step that reads the image predicts
nothing. `<eos>` begins a caption and ends it.

Shapes: T time, B batch, F image features, E embedding, H hidden, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from regrnn.kernels.stack import LaidOut
from regrnn.nn import LSTM, Embedding
from regrnn.search.beam import Steps
from regrnn.tasks.captioning.encoders import Vector
from regrnn.tasks.settings import TokenModelConfig

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class ModelConfig(TokenModelConfig):
    """The `[model]` section of a captioning recipe."""

    num_layers: int = 1
    init: float = 0.1
    """All parameters start uniform in +- this, but the image's projection: +- 1 / sqrt(F)."""


class CaptionModel(nn.Module):
    """p(next word | image, words before it)."""

    mean_F: Tensor
    """Of the training images' vectors."""
    deviation_F: Tensor

    def __init__(self, config: ModelConfig, features: int, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        embedding_size = config.embedding_size or config.hidden_size
        self.encoder = Embedding(vocabulary_size, embedding_size)
        self.image = nn.Linear(features, embedding_size)
        self.rnn = LSTM(embedding_size, config.hidden_size, config.num_layers, dropout=config.dropout)
        self.decoder = nn.Linear(config.hidden_size, vocabulary_size)
        if config.tied:
            self.decoder.weight = self.encoder.weight
        self._laid_out = LaidOut()
        for part in (self.encoder, self.rnn, self.decoder):
            for parameter in part.parameters():
                nn.init.uniform_(parameter, -config.init, config.init)
        self.register_buffer("mean_F", torch.zeros(features))
        self.register_buffer("deviation_F", torch.ones(features))

    def standardise(self, vectors: Sequence[Vector]) -> None:
        """Take the mean and deviation of the training images' vectors; a feature that never changes is left as is."""
        mean, square = np.zeros(len(self.mean_F)), np.zeros(len(self.mean_F))
        for vector in vectors:
            mean += vector
        mean /= len(vectors)
        for vector in vectors:
            square += (vector - mean) ** 2
        deviation = np.sqrt(square / len(vectors))
        deviation[deviation < 1e-5 * np.maximum(1.0, np.abs(mean))] = 1.0
        self.mean_F.copy_(torch.from_numpy(mean))
        self.deviation_F.copy_(torch.from_numpy(deviation))

    def project(self, v_BF: Tensor) -> Tensor:
        """x[0], (1, B, E)."""
        projected_BE: Tensor = self.image((v_BF - self.mean_F) / self.deviation_F)
        return projected_BE[None]

    def features(self, v_BF: Tensor, tokens_TB: Tensor) -> Tensor:
        """The top layer's h_TBH after D that predicts what follows each token."""
        x_TBE = torch.cat((self.project(v_BF), self.encoder(tokens_TB)))
        h_TBH, _ = self.rnn(x_TBE)
        predicting_TBH: Tensor = h_TBH[1:]
        return predicting_TBH

    def begin(self, v_BF: Tensor) -> State:
        """The state once the image is read."""
        _, (h_LBH, c_LBH) = self.rnn(self.project(v_BF))
        return {"h": h_LBH, "c": c_LBH}

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """ln p (B, V) of the token after each, and the state to go on from."""
        if not self.training and not torch.is_grad_enabled():
            decoder = (self.decoder.weight, self.decoder.bias)
            stack = self._laid_out.of(self.rnn.cell, self.encoder.weight, self.rnn.all_weights, decoder)
            if stack is not None:
                logits_BV, (h_LBH, c_LBH) = stack.step(tokens_B, (state["h"], state["c"]))
                return logits_BV.log_softmax(-1), {"h": h_LBH, "c": c_LBH}
        h_TBH, (h_LBH, c_LBH) = self.rnn(self.encoder(tokens_B[None]), (state["h"], state["c"]))
        return self.decoder(h_TBH[0]).log_softmax(-1), {"h": h_LBH, "c": c_LBH}

    @property
    def steps(self) -> Steps[State]:
        """For a search."""
        return Steps(self.step, select)


def select(state: State, rows: Tensor) -> State:
    """The state (L, B, H) of some rows."""
    return {name: tensor.index_select(1, rows) for name, tensor in state.items()}
