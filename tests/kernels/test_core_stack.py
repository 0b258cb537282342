"""Single steps of a whole model on the core: the layers, the softmax, and weights laid out for them.

Shapes: B rows, E embedding, H hidden, V outputs, L layers.
"""

import copy
import pickle
from typing import Any

import pytest
import torch
from core_and_reference import TOLERANCE, disagreement
from torch import Tensor, nn

from regrnn.kernels.memory import in_large_pages
from regrnn.kernels.stack import LaidOut, Stack, Storage
from regrnn.nn import GRU, LSTM, RNN
from regrnn.search.sampling import truncate_logits

LAYERS = {"lstm": LSTM, "gru": GRU, "rnn_tanh": RNN}
TYPES, E = 40, 9


class Parts:
    """An embedding, layers and a softmax with drawn weights."""

    def __init__(self, cell: str, H: int, V: int, *, bias: bool = True, layers: int = 2, seed: int = 3) -> None:
        torch.manual_seed(seed)
        self.cell = cell
        self.embedding = nn.Embedding(TYPES, E)
        self.rnn = LAYERS[cell](E, H, layers, bias=bias)
        self.decoder = nn.Linear(H, V, bias=bias)

    def stack(self, storage: Storage = "float32") -> Stack:
        decoder = (self.decoder.weight, self.decoder.bias)
        return Stack(self.cell, self.embedding.weight, self.rnn.all_weights, decoder, storage)

    def state(self, B: int) -> tuple[Tensor, ...]:
        shape = (self.rnn.num_layers, B, self.rnn.hidden_size)
        return tuple(torch.randn(shape) for _ in range(2 if self.cell == "lstm" else 1))

    @torch.no_grad()
    def plain(self, tokens_B: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h_1BH, after = self.rnn(self.embedding(tokens_B)[None], state if self.cell == "lstm" else state[0])
        return self.decoder(h_1BH[0]), after if self.cell == "lstm" else (after,)


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize(("H", "V"), [(1, 1), (5, 130), (33, 257)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_step_is_that_of_the_layers(instruction_set: str, cell: str, H: int, V: int, bias: bool) -> None:
    parts = Parts(cell, H, V, bias=bias)
    stack = parts.stack()
    for B in (1, 2, 7, 1):  # the last time tokens come again
        tokens_B = torch.arange(B) % 3
        state = parts.state(B)
        logits_BV, after = stack.step(tokens_B, state)
        expected_BV, expected = parts.plain(tokens_B, state)
        assert disagreement(logits_BV, expected_BV) < TOLERANCE
        for ours, theirs in zip(after, expected, strict=True):
            assert disagreement(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_a_row_has_the_same_result_whatever_stands_beside_it(instruction_set: str, cell: str, storage: Storage) -> None:
    parts = Parts(cell, 37, 300)
    tokens_B = torch.tensor([3, 9, 3, 0, 39, 7, 7])
    state = parts.state(7)
    logits_BV, after = parts.stack(storage).step(tokens_B, state)
    stack = parts.stack(storage)
    for rows in ([0], [2, 4], [1, 3, 5, 6], [6]):
        alone_BV, alone = stack.step(tokens_B[rows], [s[:, rows] for s in state])
        assert torch.equal(alone_BV, logits_BV[rows])
        for ours, theirs in zip(alone, after, strict=True):
            assert torch.equal(ours, theirs[:, rows])


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_tokens_that_have_come_before_give_the_same(instruction_set: str, cell: str, storage: Storage) -> None:
    parts = Parts(cell, 37, 300)
    stack = parts.stack(storage)
    for tokens in ([3, 9], [9, 9, 3], [5, 3, 5, 0, 9, 7], [0, 5, 7, 3], [39]):
        tokens_B, state = torch.tensor(tokens), parts.state(len(tokens))
        logits_BV, after = stack.step(tokens_B, state)
        expected_BV, expected = parts.stack(storage).step(tokens_B, state)
        assert torch.equal(logits_BV, expected_BV)
        for ours, theirs in zip(after, expected, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize("options", [{}, {"temperature": 0.2, "top_k": 5}, {"top_p": 0.6}, {"temperature": 0.0}])
@pytest.mark.parametrize("seed", [3, 4])
def test_with_a_draft_logits_and_state_are_those_of_the_tokens(
    instruction_set: str, cell: str, options: dict[str, Any], seed: int
) -> None:
    """To the last bit, of whatever worth the draft: with seed 3 it is the model itself, whose tokens mostly stay."""
    draft = Parts(cell, 37, TYPES, seed=seed).stack("int8")
    parts = Parts(cell, 37, TYPES)
    stack, first, logits_1V = parts.stack(), parts.state(1), torch.randn(1, TYPES)
    options = {"temperature": 1.0, "top_k": None, "top_p": None, "never": [2]} | options
    for length in (0, 1, 2, 16, 17, 70):
        uniform_T1, judging_T2 = torch.rand(length, 1), torch.rand(length, 2)
        ids_T1, found_1V, found = stack.generate(logits_1V, first, uniform_T1, **options, draft=(draft, judging_T2))
        assert ids_T1.shape == (length, 1) and 2 not in ids_T1
        expected_1V, state = logits_1V, first
        for ids_1 in ids_T1:
            expected_1V, state = stack.step(ids_1, state)
        assert torch.equal(found_1V, expected_1V)
        assert all(map(torch.equal, found, state))
        if options["temperature"] == 0:
            assert torch.equal(ids_T1, stack.generate(logits_1V, first, uniform_T1, **options)[0])


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.6}, {"never": [0, 4]}])
@pytest.mark.parametrize("likeness", [0.0, 0.3, 2.0])
def test_with_a_draft_tokens_have_the_distribution_of_the_model(
    instruction_set: str, options: dict[str, Any], likeness: float
) -> None:
    """Of a model of no weights, all of whose tokens have one distribution; that of the draft is another."""
    V, H, draws = 6, 3, 30_000
    generator = torch.Generator().manual_seed(5)
    bias_V, off_V = torch.randn(2, V, generator=generator)
    layer = (torch.zeros(4 * H, H), torch.zeros(4 * H, H))
    model, draft = (
        Stack("lstm", torch.zeros(V, H), [layer], (torch.zeros(V, H), bias), storage)  # type: ignore[arg-type]
        for bias, storage in ((bias_V, "float32"), (bias_V + likeness * off_V, "int8"))
    )
    state = (torch.zeros(1, 1, H), torch.zeros(1, 1, H))
    options = {"temperature": 1.0, "top_k": None, "top_p": None, "never": []} | options
    uniform_T1, judging_T2 = (torch.rand(draws, n, generator=generator) for n in (1, 2))
    ids_T1, _, _ = model.generate(bias_V[None], state, uniform_T1, **options, draft=(draft, judging_T2))
    expected_V = truncate_logits(bias_V[None], **options)[0].softmax(0)
    shares_V = ids_T1.flatten().bincount(minlength=V) / draws
    assert (shares_V - expected_V).abs().max() < 4 * 0.5 / draws**0.5
    assert shares_V[expected_V == 0].sum() == 0


def test_without_a_softmax_there_are_no_logits(instruction_set: str) -> None:
    parts = Parts("lstm", 12, 50)
    stack = Stack("lstm", parts.embedding.weight, parts.rnn.all_weights, None)
    tokens_B, state = torch.tensor([4, 5]), parts.state(2)
    logits_BV, after = stack.step(tokens_B, state)
    assert logits_BV.shape == (2, 0)
    for ours, theirs in zip(after, parts.plain(tokens_B, state)[1], strict=True):
        assert disagreement(ours, theirs) < TOLERANCE


def test_weights_are_laid_out_when_they_have_changed(instruction_set: str) -> None:
    parts = Parts("lstm", 6, 20)
    laid_out = LaidOut()

    def of(storage: Storage = "float32") -> Stack | None:
        decoder = (parts.decoder.weight, parts.decoder.bias)
        return laid_out.of("lstm", parts.embedding.weight, parts.rnn.all_weights, decoder, storage)

    first = of()
    assert first is not None
    assert of() is first
    assert of("int8") is not first
    assert of() is first
    for weight in (parts.embedding.weight, parts.rnn.all_weights[1][1], parts.decoder.bias):
        before = of()
        with torch.no_grad():
            weight.add_(1)
        assert of() is not before
    parts.decoder.double()
    assert of() is None


def test_weights_made_in_inference_mode_are_laid_out(instruction_set: str) -> None:
    with torch.inference_mode():
        parts = Parts("gru", 6, 20)
        stack = LaidOut().of("gru", parts.embedding.weight, parts.rnn.all_weights, None)
        assert stack is not None
        state = parts.state(1)
        _, (h_LBH,) = stack.step(torch.tensor([2]), state)
        assert disagreement(h_LBH, parts.plain(torch.tensor([2]), state)[1][0]) < TOLERANCE


def test_a_copy_of_a_model_lays_out_its_own_weights(instruction_set: str) -> None:
    parts = Parts("lstm", 6, 20)
    laid_out = LaidOut()
    stack = laid_out.of("lstm", parts.embedding.weight, parts.rnn.all_weights, None)
    for other in (copy.deepcopy(laid_out), pickle.loads(pickle.dumps(laid_out))):
        assert other.of("lstm", parts.embedding.weight, parts.rnn.all_weights, None) is not stack


@pytest.mark.parametrize("shape", [(0, 2), (3, 5), (1030, 1031)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_a_copy_in_large_pages_is_equal_and_contiguous(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = torch.arange(torch.Size(shape).numel()).to(dtype).view(shape)
    copy = in_large_pages(tensor.T)
    assert torch.equal(copy, tensor.T)
    assert copy.is_contiguous()
    assert copy.data_ptr() != tensor.data_ptr() or not copy.numel()
