"""Training with the core and without: the same curve, update by update."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from regrnn.nn import GRU, LSTM, Regularization, softmax_cross_entropy
from regrnn.training.descent import SGD, clip_factor, gradient_norm, make_embeddings_sparse

VOCABULARY, T, B, UPDATES = 29, 8, 10, 200


def losses(Layer: type[LSTM] | type[GRU], dropout: Regularization) -> list[float]:
    """In nats per token, of a language model with the paper's loss, clipping and carried state."""
    torch.manual_seed(3)
    words = nn.Embedding(VOCABULARY, 18)
    rnn = Layer(18, 21, 2, dropout=dropout)
    out = nn.Linear(21, VOCABULARY)
    parts = nn.ModuleList([words, rnn, out])
    for parameter in parts.parameters():
        nn.init.uniform_(parameter, -0.3, 0.3)
    make_embeddings_sparse(parts)
    optimizer = SGD(parts.parameters(), lr=0.3)
    # Each word but for one in ten follows from the one before.
    text = torch.zeros(T * UPDATES + 1, B, dtype=torch.int64)
    for t in range(1, len(text)):
        text[t] = torch.where(torch.rand(B) < 0.1, torch.randint(VOCABULARY, (B,)), (5 * text[t - 1] + 3) % VOCABULARY)
    state, curve = None, []
    for window in text[:-1].split(T):
        start = T * len(curve)
        targets = text[start + 1 : start + 1 + T].flatten()
        parts.zero_grad()
        h, state, mask = rnn.forward_with_mask(words(window), state)
        loss = softmax_cross_entropy(h.flatten(0, 1), out.weight, out.bias, targets, mask) / B
        loss.backward()
        optimizer.step_scaled(clip_factor(gradient_norm(parts.parameters()), 5.0))
        state = tuple(s.detach() for s in state)
        curve.append(loss.item() / T)
    return curve


@pytest.mark.parametrize(
    ("Layer", "dropout"),
    [(LSTM, Regularization.paper(0.2)), (LSTM, Regularization.batch(0.2)), (GRU, Regularization.batch(0.2))],
    ids=["LSTM-paper", "LSTM-batch", "GRU-batch"],
)
def test_200_updates_stay_together(
    Layer: type[LSTM] | type[GRU], dropout: Regularization, use_kernel: Callable[[str], None]
) -> None:
    curves = []
    for kernel in ("torch", "fused"):
        use_kernel(kernel)
        curves.append(losses(Layer, dropout))
    without, with_core = map(torch.tensor, curves)
    assert len(without) == UPDATES
    assert (without - with_core).abs().max() <= 1e-3
    assert without[-20:].mean() < without[:20].mean() - 0.5  # it learned something
