"""Layers on top of each other in one call, against one call for each and against the definition."""

from collections.abc import Callable

import pytest
import torch
from core_and_reference import CELLS, LayerProblem, assert_agreement
from torch import Tensor

from regrnn.kernels import ops
from regrnn.kernels.use import without_core
from regrnn.nn import LSTM, RowMasks
from regrnn.nn.functional import LayerArguments, State, run_layer, run_layers


@pytest.fixture(autouse=True)
def left_out_from_one_output_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_LEAST_OUTPUTS", 0)


I, H, L = 7, 37, 4  # noqa: E741  a panel that is half empty with every width of vectors
SIZES = (5, 5, 3, 1)
MASKS = {
    # Of each layer's input; a tensor is multiplied by before the core has it, so that a call ends there.
    "none": (None, None, None, None),
    "left out": (RowMasks, RowMasks, None, RowMasks),
    "multiplied": (Tensor, None, Tensor, None),
    "both": (RowMasks, Tensor, RowMasks, None),
}


class Chain:
    """L layers of one cell, their input, states and masks, as the leaves of a graph."""

    def __init__(
        self, cell: str, padded: bool, masks: str, recurrent: bool, dtype: torch.dtype = torch.float32
    ) -> None:
        self.cell, self.dtype = cell, dtype
        layers = [LayerProblem(cell, I if i == 0 else H, H, SIZES, padded, seed=i) for i in range(L)]
        if padded:
            layers = [LayerProblem(cell, layer.I, H, (5,) * 4, True, seed=layer.seed) for layer in layers]
        self.sizes = layers[0].batch_sizes
        parts = [{name: leaf.to(dtype) for name, leaf in layer.leaves().items()} for layer in layers]
        names = ("h0", "c0") if cell == "lstm" else ("h0",)
        self.leaves = {"x": parts[0]["x"]} | {name: torch.stack([part[name] for part in parts]) for name in names}
        self.names = names
        for i, part in enumerate(parts):
            self.leaves |= {f"{name} {i}": part[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh")}
        for leaf in self.leaves.values():
            leaf.requires_grad_()
        self.layers = []
        for i, (kind, layer) in enumerate(zip(MASKS[masks], layers, strict=True)):
            rows = sum(layer.sizes)
            mask = 2.0 * torch.randint(2, (rows, layer.I), generator=torch.Generator().manual_seed(i)).to(dtype)
            if kind is Tensor:
                mask = mask.view((*parts[0]["x"].shape[:-1], layer.I))
            again = 2.0 * torch.randint(2, (rows, H), generator=torch.Generator().manual_seed(9 + i)).to(dtype)
            if padded:
                again = again.view(4, 5, H)
            weights = tuple(self.leaves[f"{name} {i}"] for name in ("w_ih", "w_hh", "b_ih", "b_hh"))
            given = None if kind is None else RowMasks(mask) if kind is RowMasks else mask
            self.layers.append(LayerArguments(weights, again if recurrent else None, given))

    @property
    def state(self) -> State:
        return tuple(self.leaves[name] for name in self.names)

    def results(self, run: Callable[["Chain"], tuple[Tensor, State]]) -> dict[str, Tensor]:
        """Outputs, final states and the gradient of a loss that uses all of them at every leaf."""
        output, last = run(self)
        outputs = {"output": output} | dict(zip(("h_n", "c_n"), last, strict=False))
        generator = torch.Generator().manual_seed(3)
        loss = sum((r * torch.randn(r.shape, generator=generator).to(self.dtype)).sum() for r in outputs.values())
        gradients = torch.autograd.grad(loss, list(self.leaves.values()))
        return outputs | {f"d {name}": g for name, g in zip(self.leaves, gradients, strict=True)}


def together(chain: Chain) -> tuple[Tensor, State]:
    return run_layers(chain.cell, chain.leaves["x"], chain.state, chain.layers, chain.sizes)


def one_by_one(chain: Chain) -> tuple[Tensor, State]:
    x, lasts = chain.leaves["x"], []
    for i, (weights, recurrent_mask, mask) in enumerate(chain.layers):
        if isinstance(mask, Tensor):
            x, mask = x * mask, None
        x, last = run_layer(
            chain.cell, x, tuple(s[i] for s in chain.state), weights, chain.sizes, False, recurrent_mask, mask
        )
        lasts.append(last)
    return x, tuple(torch.stack(s) for s in zip(*lasts, strict=True))


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("cell", CELLS)
def test_together_is_one_by_one(cell: str, masks: str, padded: bool) -> None:
    for recurrent in (False, True):
        expected = Chain(cell, padded, masks, recurrent).results(one_by_one)
        got = Chain(cell, padded, masks, recurrent).results(together)
        assert got.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(got[name], tensor), name


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru"])
def test_together_agrees_with_the_definition(instruction_set: str, cell: str, masks: str) -> None:
    with without_core():
        expected = Chain(cell, False, masks, True, torch.float64).results(together)
    assert_agreement(Chain(cell, False, masks, True).results(together), expected)


def test_a_chain_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    run = ops._direct_layers
    monkeypatch.setattr(ops, "_direct_layers", lambda *given: (calls.append(len(given)), run(*given))[1])
    together(Chain("lstm", True, "left out", False))
    assert len(calls) == 1
    together(Chain("lstm", True, "multiplied", False))  # at the third layer x has to pass its mask
    assert len(calls) == 3


def test_gradients_of_some_states_alone() -> None:
    chain = Chain("lstm", True, "none", False)
    expected = chain.results(together)
    for wanted in (("h0",), ("c0",), ("x",), ("w_hh 2",)):
        again = Chain("lstm", True, "none", False)
        for name, leaf in again.leaves.items():
            leaf.requires_grad_(name in wanted)
        output, last = together(again)
        generator = torch.Generator().manual_seed(3)
        loss = sum((r * torch.randn(r.shape, generator=generator)).sum() for r in (output, *last))
        for name, gradient in zip(wanted, torch.autograd.grad(loss, [again.leaves[n] for n in wanted]), strict=True):
            assert torch.equal(gradient, expected[f"d {name}"]), name


@pytest.mark.parametrize("frozen", [1, 2, 3])
def test_nothing_is_computed_for_frozen_layers_at_the_bottom(frozen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Chain("lstm", False, "left out", True).results(together)
    chain = Chain("lstm", False, "left out", True)
    wanted = {name: leaf for name, leaf in chain.leaves.items() if name[-1] in "0123"[frozen:] and " " in name}
    for name, leaf in chain.leaves.items():
        leaf.requires_grad_(name in wanted)
    counts = []
    core = ops.core()
    run = core.layers_backward
    monkeypatch.setattr(core, "layers_backward", lambda given, count: (counts.append(count), run(given, count))[1])
    output, last = together(chain)
    generator = torch.Generator().manual_seed(3)
    loss = sum((r * torch.randn(r.shape, generator=generator)).sum() for r in (output, *last))
    for name, gradient in zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True):
        assert torch.equal(gradient, expected[f"d {name}"]), name
    assert counts == [L - frozen]


def test_backward_twice_and_at_the_final_states_alone() -> None:
    lstm = LSTM(7, 37, 3)
    x = torch.randn(4, 5, 7, requires_grad=True)
    (h_n, c_n) = lstm(x)[1]
    loss = (h_n * 2 + c_n).sum()
    first = torch.autograd.grad(loss, [x, *lstm.parameters()], retain_graph=True)
    again = torch.autograd.grad(loss, [x, *lstm.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    lstm.double()
    h_n, c_n = lstm(x.double())[1]
    expected = torch.autograd.grad((h_n * 2 + c_n).sum(), [x, *lstm.parameters()])
    for a, b in zip(first, expected, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-4, atol=1e-5)


def test_too_few_steps_is_said() -> None:
    chain = Chain("lstm", True, "none", False)
    with pytest.raises(RuntimeError, match="sequence length"):
        run_layers("lstm", torch.zeros(0, 5, I), chain.state, chain.layers)
