"""The PyTorch idiom: what anybody writes with torch.nn for the paper's language model, at its best setting.

Embedding, Dropout, LSTM with dropout between its layers, Dropout, Linear, cross-entropy, `clip_grad_norm_`, SGD:
the paper's L + 1 sites. The state is carried from window to window. Gradients are set to None; the embedding's is
dense, since `clip_grad_norm_` takes no sparse one.

Shapes: T time, B batch, V vocabulary, L layers.
"""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sizes import Size
from benchmarks.timing import interleaved

Batch = tuple[Tensor, Tensor]
State = tuple[Tensor, Tensor] | None

SGD = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


@dataclass(frozen=True)
class Setting:
    """What the user of torch can choose without writing other code."""

    sgd: str = "fused"
    onednn: bool = True
    """Whether nn.LSTM may go through oneDNN."""

    def __str__(self) -> str:
        return f"{self.sgd} SGD, oneDNN {'on' if self.onednn else 'off'}"


@contextmanager
def onednn_is(enabled: bool) -> Iterator[None]:
    """oneDNN on or off within. (`torch.backends.mkldnn.flags` would also touch TF32, and warn of it.)"""
    before = torch.backends.mkldnn.enabled
    setattr(torch.backends.mkldnn, "enabled", enabled)  # noqa: B010  a descriptor: mypy takes it for a constant
    try:
        yield
    finally:
        setattr(torch.backends.mkldnn, "enabled", before)  # noqa: B010


class Model(nn.Module):
    """The network."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.encoder = nn.Embedding(size.vocabulary, size.hidden)
        self.drop = nn.Dropout(size.dropout)
        self.rnn = nn.LSTM(size.hidden, size.hidden, size.layers, dropout=size.dropout)
        self.decoder = nn.Linear(size.hidden, size.vocabulary)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -size.init, size.init)

    def forward(self, tokens_TB: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits (T, B, V) and the state."""
        h_TBH, state = self.rnn(self.drop(self.encoder(tokens_TB)), state)
        return self.decoder(self.drop(h_TBH)), state


class Training:
    """A model and its optimiser, step by step through the same batches over and over."""

    def __init__(self, size: Size, batches: Sequence[Batch], setting: Setting, model: Model | None = None) -> None:
        self.model = model or Model(size)
        self.model.train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0, **SGD[setting.sgd])
        self.clip = size.clip
        self.setting = setting
        self.state: State = None
        self._batches = itertools.cycle(batches)

    def step(self) -> float:
        """One update; the loss, summed over time and averaged over the batch as the paper's."""
        x_TB, y_TB = next(self._batches)
        with onednn_is(self.setting.onednn):
            logits_TBV, state = self.model(x_TB, self.state)
            self.state = None if state is None else (state[0].detach(), state[1].detach())
            loss = F.cross_entropy(logits_TBV.flatten(0, 1), y_TB.flatten()) * len(x_TB)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
        return loss.item()


def best_setting(size: Size, batches: Sequence[Batch]) -> tuple[Setting, dict[str, float]]:
    """The fastest setting for training, tried in turns, and the median seconds of a step with each."""
    model = Model(size)
    tried = [*(Setting(sgd) for sgd in SGD), Setting(onednn=False)]
    sides = {str(setting): Training(size, batches, setting, model).step for setting in tried}
    times = {name: statistics.median(taken) for name, taken in interleaved(sides, 3, warm_up=1).items()}
    best = min(tried, key=lambda setting: times[str(setting)])
    return best, {name: float(f"{taken:.4g}") for name, taken in times.items()}


@torch.no_grad()
def score(model: Model, ids_TB: Tensor, window: int, onednn: bool) -> float:
    """-ln p of every token but the first row, summed, a window of steps at a time."""
    total, state = 0.0, None
    with onednn_is(onednn):
        for start in range(0, len(ids_TB) - 1, window):
            part_TB = ids_TB[start : start + window + 1]
            logits_TBV, state = model(part_TB[:-1], state)
            total += F.cross_entropy(logits_TBV.flatten(0, 1), part_TB[1:].flatten(), reduction="sum").item()
    return total


@torch.no_grad()
def generate(model: Model, first_B: Tensor, length: int, onednn: bool) -> list[list[int]]:
    """`length` tokens for each row, one step at a time: softmax, then a draw from it."""
    drawn: list[Tensor] = []
    tokens_B, state = first_B, None
    with onednn_is(onednn):
        for _ in range(length):
            logits_TBV, state = model(tokens_B[None], state)
            tokens_B = torch.multinomial(logits_TBV[-1].softmax(-1), 1)[:, 0]
            drawn.append(tokens_B)
    ids: list[list[int]] = torch.stack(drawn, 1).tolist()
    return ids
