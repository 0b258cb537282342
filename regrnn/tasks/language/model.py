"""The language model of the paper: embedding, deep LSTM with D at its L + 1 sites, softmax.

Shapes: T time, B batch, E embedding, H hidden, V vocabulary.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from regrnn.nn import GRU, LSTM, RNN, Embedding
from regrnn.nn.regularization import RowMasks
from regrnn.tasks.settings import TokenModelConfig

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class ModelConfig(TokenModelConfig):
    """The `[model]` section of a language recipe."""

    cell: Literal["lstm", "gru", "rnn"] = "lstm"
    hidden_size: int = 200


class LanguageModel(nn.Module):
    """p(next token | all tokens before it)."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        embedding_size = config.embedding_size or config.hidden_size
        layers: dict[str, type[LSTM] | type[GRU] | type[RNN]] = {"lstm": LSTM, "gru": GRU, "rnn": RNN}
        self.encoder = Embedding(vocabulary_size, embedding_size)
        self.rnn = layers[config.cell](embedding_size, config.hidden_size, config.num_layers, dropout=config.dropout)
        self.decoder = nn.Linear(config.hidden_size, vocabulary_size)
        if config.tied:
            self.decoder.weight = self.encoder.weight
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -config.init, config.init)

    def features(self, tokens_TB: Tensor, state: State) -> tuple[Tensor, State]:
        """The top layer's h_TBH after D, and the state to go on from; an empty state is zero."""
        return self.features_of_embedded(self.encoder(tokens_TB), state)

    def features_of_embedded(self, e_TBE: Tensor, state: State) -> tuple[Tensor, State]:
        """As `features`, of tokens that have been embedded."""
        h_TBH, final = self.rnn(e_TBE, unpack_state(state))
        return h_TBH, pack_state(final)

    def features_with_mask(self, tokens_TB: Tensor, state: State) -> tuple[Tensor, State, RowMasks | None]:
        """As `features`, but the masks of h may be left for the softmax, which saves work by them."""
        hx = unpack_state(state)
        h_TBH, final, mask = self.rnn.forward_with_mask(
            self.encoder(tokens_TB), (hx,) if isinstance(hx, Tensor) else hx
        )
        return h_TBH, pack_state(final[0] if len(final) == 1 else (final[0], final[1])), mask

    def forward(self, tokens_TB: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Logits (T, B, V) for the token after each, and the state to go on from."""
        h_TBH, state = self.features(tokens_TB, state or {})
        return F.linear(h_TBH, self.decoder.weight, self.decoder.bias), state


def unpack_state(state: State) -> Tensor | tuple[Tensor, Tensor] | None:
    """The form in which layers take a state."""
    if not state:
        return None
    return (state["h"], state["c"]) if "c" in state else state["h"]


def pack_state(state: Tensor | tuple[Tensor, Tensor]) -> State:
    """A layer's state by name: `h` (L, B, H), and `c` of an LSTM."""
    return {"h": state} if isinstance(state, Tensor) else {"h": state[0], "c": state[1]}


def first_state(rnn: LSTM | GRU | RNN, rows: int) -> State:
    """Zeros for so many rows: what a layer begins with that is given no state."""
    h_LBH = next(rnn.parameters()).new_zeros(rnn.num_layers, rows, rnn.hidden_size)
    return {"h": h_LBH, "c": h_LBH.clone()} if rnn.cell == "lstm" else {"h": h_LBH}
