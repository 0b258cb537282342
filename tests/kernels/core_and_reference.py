"""A layer or a loss computed twice: by the core in float32 and by its definition in float64, gradients and all.

Shape suffixes: N rows of a packed batch, T time, B batch, I input, H hidden, V classes.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from hypothesis import HealthCheck, reject, settings
from hypothesis import strategies as st
from torch import Tensor

from regrnn.kernels.use import fused
from regrnn.nn import RowMasks, run_layer, softmax_cross_entropy, token_log_probabilities
from regrnn.nn.functional import GATES, _backwards, _run_reference

CELLS = sorted(GATES)
TOLERANCE = 1e-5
# A result of few elements can be a small difference of large terms, and is no better than their rounding.
ROUNDING = 1e-6

# The fixtures that a test is given are the same for all of its examples.
any_problem = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def disagreement(a: Tensor, b: Tensor) -> float:
    """max|a-b| / max|b|; where b is all zeros, a has to be."""
    assert a.shape == b.shape
    if b.numel() == 0:
        return 0.0
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).abs().max() / b.abs().max()) if b.any() else float(a.abs().max())


def largest(tensors: Iterable[Tensor]) -> float:
    return max(float(t.detach().abs().max()) if t.numel() else 0.0 for t in tensors)


def assert_agreement(got: dict[str, Tensor], expected: dict[str, Tensor], terms: float = 0.0) -> None:
    """By the rule of agreement, and up to the rounding of terms of this size."""
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].shape == tensor.shape, name
        error = largest([got[name].double() - tensor.double()])
        assert error <= TOLERANCE * largest([tensor]) + ROUNDING * terms, name


def assert_layer_agreement(
    problem: "LayerProblem", wanted: Collection[str] | None = None, used: Collection[str] | None = None
) -> None:
    """The core against the definition; for `wanted` and `used` see `LayerProblem.results`."""
    got, expected = (problem.results(by, wanted, used) for by in ("core", "definition"))
    states, exact_states = ({n: r.pop(n) for n in ("output", "h_n", "c_n") if n in r} for r in (got, expected))
    assert_agreement(states, exact_states, largest([*exact_states.values(), *_state(problem.leaves())]))
    if problem.cell == "rnn_relu" and not torch.equal(states["output"] > 0, exact_states["output"] > 0):
        reject()  # rounding decides on which side of 0 a unit is, and so its gradient
    assert_agreement(got, expected, largest(expected.values()))


def double(mask: RowMasks | None) -> RowMasks | None:
    return None if mask is None else RowMasks(mask.values.double(), mask.first)


def random_mask(generator: torch.Generator, *shape: int) -> Tensor:
    """Zeros and twos."""
    return 2.0 * torch.randint(2, shape, generator=generator).float()


def groups_of_rows(sizes: Collection[int], every: int) -> Tensor:
    """`first` of a mask that lives `every` time steps of these sizes."""
    rows = [0]
    for size in sizes:
        rows.append(rows[-1] + size)
    steps = [*range(0, len(sizes), every), len(sizes)]
    return torch.tensor([rows[step] for step in steps])


def random_masks(seed: int, sizes: Collection[int], every: int, features: int) -> RowMasks:
    """Masks that live `every` time steps of these sizes; 0: one for each row."""
    generator = torch.Generator().manual_seed(seed)
    if every == 0:
        return RowMasks(random_mask(generator, sum(sizes), features))
    first = groups_of_rows(sizes, every)
    return RowMasks(random_mask(generator, len(first) - 1, features), first)


@dataclass(frozen=True)
class LayerProblem:
    cell: str
    I: int  # noqa: E741 (the shape suffixes of the package)
    H: int
    sizes: tuple[int, ...]  # rows of each time step
    padded: bool = True
    reverse: bool = False
    bias: bool = True
    recurrent: str = "none"  # rows: one for each time step and sequence; steps: for each step; sequences
    every: int | None = None  # time steps that a shared mask of the input lives; 0: each row has its own
    seed: int = 0

    @property
    def batch_sizes(self) -> Tensor | None:
        return None if self.padded else torch.tensor(self.sizes)

    def leaves(self) -> dict[str, Tensor]:
        """The inputs that have gradients, float32, of a scale that saturates few units: 1 - h^2 must not cancel."""
        generator = torch.Generator().manual_seed(self.seed)

        def randn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        B, G = self.sizes[0], GATES[self.cell] * self.H
        rows = (len(self.sizes), B) if self.padded else (sum(self.sizes),)
        leaves = {"x": randn(*rows, self.I), "h0": randn(B, self.H) / 2}
        if self.cell == "lstm":
            leaves["c0"] = randn(B, self.H)
        leaves |= {"w_ih": randn(G, self.I) / (2 * self.I**0.5), "w_hh": randn(G, self.H) / (2 * self.H**0.5)}
        if self.bias:
            leaves |= {"b_ih": randn(G) / 4, "b_hh": randn(G) / 4}
        return leaves

    def recurrent_mask(self) -> Tensor | None:
        generator = torch.Generator().manual_seed(self.seed + 1)
        T, B = len(self.sizes), self.sizes[0]
        if self.recurrent == "none":
            return None
        if not self.padded:
            return random_mask(generator, sum(self.sizes), self.H)
        shapes = {"rows": (T, B), "steps": (T, 1), "sequences": (1, B)}
        return random_mask(generator, *shapes[self.recurrent], self.H)

    def input_mask(self) -> RowMasks | None:
        if self.every is None:
            return None
        return random_masks(self.seed + 2, self.sizes, self.every, self.I)

    def by_core(self, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
        state, weights, mask = _state(leaves), _weights(leaves), self.recurrent_mask()
        assert fused(leaves["x"], *state, *weights, mask)
        output, last = run_layer(
            self.cell, leaves["x"], state, weights, self.batch_sizes, self.reverse, mask, self.input_mask()
        )
        return {"output": output, **dict(zip(("h_n", "c_n"), last, strict=False))}

    def by_definition(self, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
        x, mask, input_mask = leaves["x"], self.recurrent_mask(), double(self.input_mask())
        if input_mask is not None:
            x = input_mask.strike(x)
        mask = None if mask is None else mask.double()
        if self.reverse:
            backwards = _backwards(self.batch_sizes, x.device)
            x, mask = backwards(x), None if mask is None else backwards(mask)
        output, last = _run_reference(self.cell, x, _state(leaves), _weights(leaves), self.batch_sizes, mask)
        output = backwards(output) if self.reverse else output
        return {"output": output, **dict(zip(("h_n", "c_n"), last, strict=False))}

    def results(
        self, by: str, wanted: Collection[str] | None = None, used: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Outputs, and the gradients of a loss that uses the results `used` at the leaves `wanted` (None: all)."""
        dtype = torch.float32 if by == "core" else torch.float64
        leaves = {name: leaf.to(dtype) for name, leaf in self.leaves().items()}
        wanted = leaves.keys() if wanted is None else wanted
        for name in wanted:
            leaves[name].requires_grad_()
        outputs = (self.by_core if by == "core" else self.by_definition)(leaves)
        generator = torch.Generator().manual_seed(self.seed + 3)
        factors = {name: torch.randn(r.shape, generator=generator) for name, r in outputs.items()}
        loss = sum((r * factors[n].to(dtype)).sum() for n, r in outputs.items() if used is None or n in used)
        gradients = torch.autograd.grad(loss, [leaves[name] for name in wanted])
        return outputs | {f"d {name}": g for name, g in zip(wanted, gradients, strict=True)}


def _state(leaves: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(leaves[name] for name in ("h0", "c0") if name in leaves)


def _weights(leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    return leaves["w_ih"], leaves["w_hh"], leaves.get("b_ih"), leaves.get("b_hh")


# Below, at and above multiples of the widths of vectors and panels.
features = st.one_of(st.integers(1, 20), st.sampled_from([31, 32, 33, 48, 65]))


Masks = Literal["none", "shared", "separate"]


def lives(most: int, masks: Masks) -> st.SearchStrategy[int | None]:
    """How long masks live, as `LayerProblem.every` has it."""
    return st.integers(1, most + 1) if masks == "shared" else st.just(0 if masks == "separate" else None)


@st.composite
def layer_problems(draw: st.DrawFn, masks: Masks = "none") -> LayerProblem:
    padded = draw(st.booleans())
    # 36 rows of a step are worked on at a time.
    T, B = draw(st.one_of(st.tuples(st.integers(1, 7), st.integers(1, 7)), st.sampled_from([(2, 37), (3, 73)])))
    sizes = [B] * T
    if not padded:
        lengths = draw(st.lists(st.integers(1, T), min_size=B, max_size=B))
        sizes = [sum(n > t for n in lengths) for t in range(max(lengths))]
    return LayerProblem(
        cell=draw(st.sampled_from(CELLS)),
        I=draw(features),
        H=draw(features),
        sizes=tuple(sizes),
        padded=padded,
        reverse=draw(st.booleans()),
        bias=draw(st.booleans()),
        recurrent=draw(st.sampled_from(["none", "rows", "steps", "sequences"] if padded else ["none", "rows"])),
        every=draw(lives(T, masks)),
        seed=draw(st.integers(0, 1000)),
    )


@dataclass(frozen=True)
class LossProblem:
    N: int
    H: int
    V: int
    bias: bool = True
    group: int | None = None  # rows that share a mask; 0: each has its own
    seed: int = 0
    factor: float = 1.0  # the gradient that comes from above

    def leaves(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        leaves = {
            "h": torch.randn(self.N, self.H, generator=generator),
            "weight": torch.randn(self.V, self.H, generator=generator) / self.H**0.5,
        }
        if self.bias:
            leaves["bias"] = torch.randn(self.V, generator=generator)
        return leaves

    def targets(self) -> Tensor:
        return torch.randint(self.V, (self.N,), generator=torch.Generator().manual_seed(self.seed + 1))

    def mask(self) -> RowMasks | None:
        if self.group is None:
            return None
        return random_masks(self.seed + 2, [1] * self.N, self.group, self.H)

    def results(self, by: str, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
        return loss_results(by, self.leaves(), self.targets(), self.mask(), wanted, self.factor)


def loss_results(
    by: str,
    leaves: dict[str, Tensor],
    targets: Tensor,
    mask: RowMasks | None = None,
    wanted: Collection[str] | None = None,
    factor: float = 1.0,
) -> dict[str, Tensor]:
    """Loss, log p of each target, and gradients, from inputs in float32."""
    dtype = torch.float32 if by == "core" else torch.float64
    leaves = {name: leaf.detach().to(dtype) for name, leaf in leaves.items()}
    wanted = leaves.keys() if wanted is None else wanted
    for name in wanted:
        leaves[name].requires_grad_()
    h, weight, bias = leaves["h"], leaves["weight"], leaves.get("bias")
    if by == "core":
        assert fused(h, weight, bias)
        loss = softmax_cross_entropy(h, weight, bias, targets, mask)
        log_p = token_log_probabilities(h if mask is None else mask.strike(h), weight, bias, targets)
    else:
        mask = double(mask)
        logits = torch.nn.functional.linear(h if mask is None else mask.strike(h), weight, bias)
        log_p = torch.log_softmax(logits, 1).gather(1, targets[:, None]).squeeze(1)
        loss = -log_p.sum()
    gradients = torch.autograd.grad(factor * loss, [leaves[name] for name in wanted])
    results = {"loss": loss, "log p": log_p} | {f"d {name}": g for name, g in zip(wanted, gradients, strict=True)}
    return {name: tensor.detach() for name, tensor in results.items()}


@st.composite
def loss_problems(draw: st.DrawFn, masks: Masks = "none") -> LossProblem:
    N = draw(st.integers(1, 20))
    return LossProblem(
        N=N,
        H=draw(features),
        V=draw(st.one_of(st.integers(1, 70), st.integers(500, 1100))),
        bias=draw(st.booleans()),
        group=draw(lives(N, masks)),
        seed=draw(st.integers(0, 1000)),
        factor=draw(st.sampled_from([1.0, -0.05, 40.0])),
    )
