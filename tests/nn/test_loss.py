"""The fused softmax cross-entropy against linear and cross_entropy of torch."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regrnn.nn import loss as loss_module
from regrnn.nn import softmax_cross_entropy, token_log_probabilities

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def disagreement(a: Tensor, b: Tensor) -> float:
    """max|a-b| / max|b|; where b is all zeros, a has to be."""
    a, b = a.detach(), b.detach()
    if b.numel() == 0:
        assert a.shape == b.shape
        return 0.0
    return float((a - b).abs().max() / b.abs().max()) if b.any() else float(a.abs().max())


def problem(N: int, V: int, H: int, dtype: torch.dtype, scale: float = 1.0, bias: bool = True) -> tuple:
    generator = torch.Generator().manual_seed(N + 7 * V + 13 * H)

    def randn(*shape: int) -> Tensor:
        return (scale * torch.randn(*shape, dtype=dtype, generator=generator)).requires_grad_()

    return (
        randn(N, H),
        randn(V, H),
        randn(V) if bias else None,
        torch.randint(V, (N,), generator=generator),
    )


def idiom(h: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(h, weight, bias), targets, reduction="sum")


def gradients(loss: Tensor, *leaves: Tensor | None) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [x for x in leaves if x is not None]))


@given(
    N=st.integers(1, 12),
    V=st.integers(2, 70),
    H=st.integers(1, 6),
    dtype=st.sampled_from(sorted(TOLERANCE, key=str)),
    bias=st.booleans(),
    factor=st.floats(0.01, 100),
)
@settings(deadline=None, max_examples=60, derandomize=True, database=None)
def test_agrees_with_torch(N: int, V: int, H: int, dtype: torch.dtype, bias: bool, factor: float) -> None:
    h, weight, b, targets = problem(N, V, H, dtype, bias=bias)
    ours, theirs = softmax_cross_entropy(h, weight, b, targets), idiom(h, weight, b, targets)
    assert ours.shape == () and ours.dtype == dtype
    assert disagreement(ours, theirs) <= TOLERANCE[dtype]
    # The gradient that comes from above scales that of every input.
    # Where the target is all but certain its gradient is a small difference, which torch's float32 has not exactly.
    exactly = [None if x is None else x.detach().double().requires_grad_() for x in (h, weight, b)]
    expected = gradients(factor * idiom(*exactly, targets), *exactly)
    for a, e in zip(gradients(factor * ours, h, weight, b), expected, strict=True):
        assert disagreement(a, e) <= TOLERANCE[dtype]
    with torch.no_grad():
        log_p = token_log_probabilities(h, weight, b, targets)
        assert (
            disagreement(log_p, -F.cross_entropy(F.linear(h, weight, b), targets, reduction="none"))
            <= (TOLERANCE[dtype])
        )


def test_agrees_with_torch_at_a_real_size() -> None:
    h, weight, bias, targets = problem(700, 1003, 40, torch.float32, scale=0.5)
    ours, theirs = softmax_cross_entropy(h, weight, bias, targets), idiom(h, weight, bias, targets)
    assert disagreement(ours, theirs) <= 1e-5
    for a, e in zip(gradients(ours, h, weight, bias), gradients(theirs, h, weight, bias), strict=True):
        assert disagreement(a, e) <= 1e-5
    # Three lots of rows, the last one short.
    log_p = token_log_probabilities(h, weight, bias, targets)
    assert disagreement(log_p, -F.cross_entropy(F.linear(h, weight, bias), targets, reduction="none")) <= 1e-5


def test_one_word_is_certain() -> None:
    h, weight, bias, targets = problem(3, 1, 2, torch.float64)
    loss = softmax_cross_entropy(h, weight, bias, targets)
    assert loss == 0
    assert not any(g.any() for g in gradients(loss, h, weight, bias))


def test_gradients_are_right() -> None:
    h, weight, bias, targets = problem(4, 5, 3, torch.float64)
    assert torch.autograd.gradcheck(lambda h, w, b: softmax_cross_entropy(h, w, b, targets), (h, weight, bias))
    assert torch.autograd.gradcheck(lambda h, w: softmax_cross_entropy(h, w, None, targets), (h, weight))


def test_hopeless_targets_keep_their_exact_loss() -> None:
    # p of the target underflows to 0 in float32, so -log of it would be infinite.
    weight = torch.tensor([[300.0], [0.0], [-300.0]], requires_grad=True)
    h = torch.ones(3, 1, requires_grad=True)
    targets = torch.tensor([2, 1, 0])
    loss = softmax_cross_entropy(h, weight, None, targets)
    assert loss.item() == 900.0
    assert -token_log_probabilities(h, weight, None, targets).sum().item() == 900.0
    expected = gradients(idiom(h, weight, None, targets), h, weight)
    assert all(torch.equal(a, b) for a, b in zip(gradients(loss, h, weight), expected, strict=True))


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_gradients_go_only_where_they_are_wanted(wanted: tuple[int, ...]) -> None:
    *inputs, targets = problem(4, 5, 3, torch.float64)
    for k, tensor in enumerate(inputs):
        tensor.requires_grad_(k in wanted)
    leaves = [inputs[k] for k in wanted]
    got = gradients(softmax_cross_entropy(*inputs, targets), *leaves)
    for a, e in zip(got, gradients(idiom(*inputs, targets), *leaves), strict=True):
        assert disagreement(a, e) <= 1e-10


def test_backward_may_run_twice_over_a_kept_graph() -> None:
    h, weight, bias, targets = problem(4, 5, 3, torch.float64)
    loss = softmax_cross_entropy(h, weight, bias, targets)
    loss.backward(retain_graph=True)
    once = weight.grad.clone()
    loss.backward()
    assert torch.equal(weight.grad, 2 * once)


def test_double_backward_is_refused() -> None:
    h, weight, bias, targets = problem(4, 5, 3, torch.float64)
    loss = softmax_cross_entropy(h, weight, bias, targets)
    with pytest.raises(RuntimeError, match=r"cannot be differentiated twice: leave out create_graph=True"):
        torch.autograd.grad(loss, h, create_graph=True)


def test_nothing_is_kept_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    h, weight, bias, targets = problem(9, 5, 3, torch.float64)
    expected = softmax_cross_entropy(h, weight, bias, targets)
    assert expected.requires_grad
    # Lots of 2 rows: the largest tensor made is then 2 x V, never N x V.
    monkeypatch.setattr(loss_module, "_ROWS", 2)
    with torch.no_grad():
        under_no_grad = softmax_cross_entropy(h, weight, bias, targets)
    frozen = softmax_cross_entropy(h.detach(), weight.detach(), bias.detach(), targets)
    log_p = token_log_probabilities(h, weight, bias, targets)
    for loss in (under_no_grad, frozen, -log_p.sum()):
        assert not loss.requires_grad
        assert disagreement(loss, expected) <= 1e-10


def test_no_tokens() -> None:
    h, weight, bias, targets = problem(0, 5, 3, torch.float32)
    loss = softmax_cross_entropy(h, weight, bias, targets)
    assert loss == 0
    assert [g.shape for g in gradients(loss, h, weight, bias)] == [h.shape, weight.shape, bias.shape]
    assert not any(g.any() for g in gradients(softmax_cross_entropy(h, weight, bias, targets), weight, bias))
    assert token_log_probabilities(h, weight, bias, targets).shape == (0,)


H, W, B, T = torch.zeros(4, 3), torch.zeros(5, 3), torch.zeros(5), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize("function", [softmax_cross_entropy, token_log_probabilities])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((H[None], W, B, T), r"h must be \(N, H\) and weight \(V, H\)"),
        ((H, W[:, :2], B, T), r"got \[4, 3\] and \[5, 2\]"),
        ((H, W, B[:4], T), r"bias must be \(5,\), got \[4\]"),
        ((H, W, B, T[:3]), r"targets must be int64 of shape \(4,\)"),
        ((H, W, B, T.int()), "targets must be int64"),
        ((H, W.double(), B, T), "of one dtype"),
        ((H, W, B.double(), T), "of one dtype"),
        ((H, W, B, T + 5), r"targets must be in \[0, 5\), got 5"),
        ((H, W, B, T - 1), r"targets must be in \[0, 5\), got -1"),
    ],
)
def test_wrong_arguments_are_refused(function, arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(*arguments)
