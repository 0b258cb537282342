"""Norm, clipping and descent against torch's clip_grad_norm_ and SGD, with dense and sparse gradients."""

import copy
import subprocess
import sys

import pytest
import torch
from core_and_reference import TOLERANCE, any_problem, disagreement
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from regrnn.kernels import ops
from regrnn.training.descent import SGD, clip_factor, gradient_norm, make_embeddings_sparse


def model(sparse: bool = False) -> nn.ModuleDict:
    torch.manual_seed(0)
    parts = nn.ModuleDict({"words": nn.Embedding(31, 7), "out": nn.Linear(7, 31), "unused": nn.Linear(3, 2)})
    if sparse:
        make_embeddings_sparse(parts)
        assert parts["words"].sparse
    return parts


def backward(parts: nn.ModuleDict, seed: int) -> None:
    # Words come more than once, so that a sparse gradient has rows to add up.
    words = torch.randint(12, (40,), generator=torch.Generator().manual_seed(seed))
    parts.zero_grad()
    nn.functional.cross_entropy(parts["out"](parts["words"](words).tanh()), words, reduction="sum").backward()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("clip", [None, 0.5, 5.0, 1e9])
def test_updates_are_those_of_torch(instruction_set: str, sparse: bool, clip: float | None) -> None:
    ours, theirs = model(sparse), model().double()
    optimizer, expected = SGD(ours.parameters(), lr=0.3), torch.optim.SGD(theirs.parameters(), lr=0.3)
    for seed in range(5):
        backward(ours, seed)
        backward(theirs, seed)
        norm = gradient_norm(ours.parameters())
        wanted = torch.nn.utils.clip_grad_norm_(theirs.parameters(), float("inf") if clip is None else clip).item()
        assert norm == pytest.approx(wanted, rel=1e-5)
        optimizer.step_scaled(clip_factor(norm, clip))
        expected.step()
        for (name, w), (_, v) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            assert disagreement(w, v) <= TOLERANCE, name
    assert (ours["words"].weight.grad.is_sparse) == sparse


def test_weight_decay_is_that_of_torch(instruction_set: str) -> None:
    ours, theirs = model(), model().double()
    optimizer = SGD(ours.parameters(), lr=0.3, weight_decay=0.05)
    expected = torch.optim.SGD(theirs.parameters(), lr=0.3, weight_decay=0.05)
    for seed in range(3):
        backward(ours, seed)
        backward(theirs, seed)
        optimizer.step()
        expected.step()
    for (name, w), (_, v) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert disagreement(w, v) <= TOLERANCE, name


def test_weight_decay_of_sparse_gradients_is_refused() -> None:
    parts = model(sparse=True)
    backward(parts, 0)
    with pytest.raises(ValueError, match="weight_decay does not go with sparse gradients"):
        SGD(parts.parameters(), lr=0.1, weight_decay=0.1).step()


def test_rows_of_no_word_stay_bit_for_bit() -> None:
    parts = model(sparse=True)
    before = copy.deepcopy(parts["words"].weight.data)
    backward(parts, 0)
    gradient_norm(parts.parameters())
    SGD(parts.parameters(), lr=0.3).step()
    after = parts["words"].weight.data
    assert torch.equal(after[12:], before[12:]) and not torch.equal(after[:12], before[:12])


@given(
    n=st.one_of(st.integers(0, 70), st.sampled_from([16_383, 16_384, 16_385, 65_537])),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-15, 1.0, 1e15]),
)
@settings(any_problem, max_examples=60)
def test_sum_of_squares(instruction_set: str, n: int, seed: int, scale: float) -> None:
    x = scale * torch.randn(n, generator=torch.Generator().manual_seed(seed))
    exact = x.double().square().sum().item()
    assert ops.sum_of_squares([x]) == pytest.approx(exact, rel=1e-6)
    assert ops.sum_of_squares([x, x[:0], x[: n // 2], x]) == pytest.approx(
        2 * exact + x[: n // 2].double().square().sum().item(), rel=1e-6
    )


def test_norm_of_many_is_exact_where_single_precision_is_not() -> None:
    gradient = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0))
    parameter = nn.Parameter(torch.zeros_like(gradient))
    parameter.grad = gradient
    exact = torch.linalg.vector_norm(gradient.double()).item()
    assert gradient_norm([parameter]) == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_gradient_that_is_no_number_shows_in_the_norm(instruction_set: str, value: float) -> None:
    for n, place in ((3, 1), (40_000, 39_999)):
        parameter = nn.Parameter(torch.zeros(n))
        parameter.grad = torch.zeros(n)
        parameter.grad[place] = value
        norm = gradient_norm([parameter])
        assert norm != norm if value != value else norm == torch.inf


@pytest.mark.parametrize("layout", ["transposed weight", "transposed gradient", "expanded gradient", "strided weight"])
def test_layouts_in_memory(layout: str) -> None:
    generator = torch.Generator().manual_seed(0)
    w, gradient = torch.randn(9, 5, generator=generator), torch.randn(9, 5, generator=generator)
    if layout == "transposed weight":
        w = w.t().contiguous().t()
    elif layout == "transposed gradient":
        gradient = gradient.t().contiguous().t()
    elif layout == "expanded gradient":
        gradient = gradient[:1].expand(9, 5)
    else:
        w = torch.randn(9, 10, generator=generator)[:, ::2]
    parameter = nn.Parameter(w)
    expected = w.detach().clone() - 0.5 * (0.25 * gradient)
    parameter.grad = gradient
    assert gradient_norm([parameter]) == pytest.approx(torch.linalg.vector_norm(gradient.double()).item(), rel=1e-6)
    SGD([parameter], lr=0.5).step_scaled(0.25)
    assert torch.allclose(parameter, expected, rtol=1e-6, atol=0)
    assert parameter.data_ptr() == w.data_ptr()


def test_double_precision_goes_through_torch() -> None:
    parameter = nn.Parameter(torch.ones(4, dtype=torch.float64))
    parameter.grad = torch.full((4,), 1e-12, dtype=torch.float64)
    assert gradient_norm([parameter]) == pytest.approx(2e-12, rel=1e-12)
    SGD([parameter], lr=1.0).step()
    assert torch.equal(parameter.data, torch.full((4,), 1 - 1e-12, dtype=torch.float64))


WITHOUT_DYNAMO = """
import sys
import torch
from regrnn.training.descent import SGD
w = torch.nn.Parameter(torch.ones(3))
optimizer = SGD([w], lr=0.5)
optimizer.zero_grad()
w.sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
assert w.tolist() == [0.5] * 3 and optimizer.param_groups[0]["lr"] == 0.5
sys.exit("torch._dynamo" in sys.modules)
"""


def test_an_update_does_not_import_dynamo() -> None:
    """It is 70 MB and seconds, and torch's own optimizers import it when they are built."""
    assert subprocess.run([sys.executable, "-c", WITHOUT_DYNAMO]).returncode == 0
