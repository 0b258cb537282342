"""torch's own checks of the operators: schemas, autograd, meta tensors, and what torch.compile needs."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from core_and_reference import CELLS, LayerProblem, LossProblem
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from regrnn.kernels.ops import CELLS as NUMBERS
from regrnn.kernels.ops import core
from regrnn.nn.layers import LSTM
from regrnn.nn.loss import softmax_cross_entropy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

STATIC = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
WITHOUT_GRADIENTS = ("test_schema", "test_faketensor")


def layer_arguments(problem: LayerProblem) -> tuple:
    leaves = problem.leaves()
    mask = problem.input_mask()
    return (
        leaves["x"],
        leaves["h0"],
        leaves.get("c0"),
        problem.batch_sizes,
        leaves["w_ih"],
        leaves["w_hh"],
        leaves.get("b_ih"),
        leaves.get("b_hh"),
        problem.recurrent_mask(),
        None if mask is None else mask.values,
        None if mask is None else mask.first,
        NUMBERS[problem.cell],
        problem.reverse,
    )


@pytest.mark.parametrize("cell", CELLS)
def test_layer(cell: str) -> None:
    plain = LayerProblem(cell, 3, 5, (3, 2, 1), padded=False)
    masked = LayerProblem(cell, 3, 5, (3, 2, 1), padded=False, reverse=True, bias=False, recurrent="rows", every=2)
    for problem in (plain, masked, dataclasses.replace(masked, every=0)):
        inputs, rest = layer_arguments(problem)[:8], layer_arguments(problem)[8:]
        for tensor in (*inputs[:3], *inputs[4:]):
            if tensor is not None:
                tensor.requires_grad_()
        opcheck(torch.ops.regrnn.layer, (*inputs, *rest), test_utils=STATIC if problem is plain else STATIC[:3])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("every", [0, 2])
def test_layer_backward(cell: str, every: int) -> None:
    problem = LayerProblem(cell, 3, 5, (3, 2, 1), padded=False, recurrent="rows", every=every)
    arguments = layer_arguments(problem)
    h, h_n, c_n, kept = torch.ops.regrnn.layer(*arguments)
    (number, reverse), d_c_n = arguments[-2:], torch.ones_like(c_n) if cell == "lstm" else None
    rest = (*arguments[8:-2], h, kept, number, reverse)
    some, others = (torch.ones_like(h), None, True, False), (None, torch.ones_like(h_n), False, True)
    for d_h, d_h_n, bias, wants_x in (some, others):
        given = (d_h, d_h_n, d_c_n, *arguments[:6], *(arguments[6:8] if bias else (None, None)), *rest)
        opcheck(torch.ops.regrnn.layer_backward, (*given, wants_x), test_utils=WITHOUT_GRADIENTS)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [None, 0, 2])
def test_softmax_cross_entropy(bias: bool, group: int | None) -> None:
    problem = LossProblem(5, 3, 20, bias, group)
    leaves = {name: leaf.requires_grad_() for name, leaf in problem.leaves().items()}
    mask = problem.mask()
    shared = (None, None) if mask is None else (mask.values, mask.first)
    arguments = (leaves["h"], leaves["weight"], leaves.get("bias"), problem.targets())
    opcheck(torch.ops.regrnn.softmax_cross_entropy, (*arguments, *shared), test_utils=STATIC if bias else STATIC[:3])
    arguments = tuple(None if a is None else a.detach() for a in arguments)
    _, e, inverse_z = torch.ops.regrnn.softmax_cross_entropy(*arguments, *shared)
    for wants in ((True, True, bias), (False, True, False), (True, False, bias)):
        opcheck(
            torch.ops.regrnn.softmax_cross_entropy_backward,
            (torch.tensor(2.0), *arguments[:2], e, inverse_z, *shared, *wants),
            test_utils=WITHOUT_GRADIENTS,
        )
    opcheck(torch.ops.regrnn.token_log_probabilities, arguments, test_utils=WITHOUT_GRADIENTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mask(dtype: torch.dtype) -> None:
    opcheck(torch.ops.regrnn.mask, (torch.tensor(3), 0.5, [4, 3], dtype), test_utils=STATIC)


def test_meta_tensors_have_the_shapes_of_real_ones() -> None:
    for cell in CELLS:
        arguments = layer_arguments(LayerProblem(cell, 3, 5, (3, 2, 1), padded=False))
        on_meta = [a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments]
        real, meta = torch.ops.regrnn.layer(*arguments), torch.ops.regrnn.layer(*on_meta)
        assert [t.shape for t in meta] == [t.shape for t in real]
        assert all(t.device.type == "meta" for t in meta)


def test_operators_say_so_where_there_is_no_core(use_kernel: Callable[[str], None]) -> None:
    use_kernel("torch")
    with pytest.raises(RuntimeError, match="the compiled core of regrnn does not run: REGRNN_KERNEL=torch"):
        core()
    with pytest.raises(RuntimeError, match="REGRNN_KERNEL=torch"):
        torch.ops.regrnn.layer(*layer_arguments(LayerProblem("lstm", 3, 5, (2,), padded=False)))


class Seen(TorchDispatchMode):
    """Notes the operators of regrnn that pass."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: torch._ops.OpOverload, types: object, args: tuple = (), kwargs: dict | None = None
    ):  # type: ignore[no-untyped-def]
        if func.namespace == "regrnn":
            self.names.append(func.__name__.partition(".")[0])
        return func(*args, **(kwargs or {}))


def test_whoever_watches_sees_the_operators_and_the_same_numbers() -> None:
    lstm, weight = LSTM(3, 5, 2), torch.randn(7, 5, requires_grad=True)
    x, targets = torch.randn(4, 2, 3), torch.arange(8) % 7

    def gradients() -> list[torch.Tensor]:
        h = lstm(x)[0].reshape(8, 5)
        loss = softmax_cross_entropy(h, weight, None, targets)
        return [loss, *torch.autograd.grad(loss, [weight, *lstm.parameters()])]

    alone = gradients()
    with Seen() as seen:
        watched = gradients()
    assert seen.names == [
        "layer", "layer", "softmax_cross_entropy", "softmax_cross_entropy_backward", "layer_backward", "layer_backward"
    ]  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(alone, watched, strict=True))


def test_transform_of_something_else() -> None:
    lstm, x = LSTM(3, 5), torch.randn(4, 2, 3)
    slope = torch.func.grad(lambda w: (lstm(x)[0] * w).sum())(torch.tensor(2.0))
    torch.testing.assert_close(slope, lstm(x)[0].sum())
