"""What is not the usual case: sizes of 0 and 1, odd layouts, wrong types, other devices and other modes of torch."""

import copy
import os
import select
import signal
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from core_and_reference import CELLS, LayerProblem, LossProblem, assert_agreement, assert_layer_agreement, disagreement
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.func import functional_call

from regrnn.kernels import use
from regrnn.nn import GRU, LSTM, RNN, Regularization, run_layer, softmax_cross_entropy, token_log_probabilities

LAYERS = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}


def loss_and_gradients(layer: torch.nn.Module, x: Tensor) -> list[Tensor]:
    loss = layer(x)[0].square().sum()
    return [loss.detach(), *torch.autograd.grad(loss, list(layer.parameters()))]


# Sizes.


@pytest.mark.parametrize("cell", CELLS)
def test_everything_of_size_1(instruction_set: str, cell: str) -> None:
    for recurrent in ("none", "rows", "steps", "sequences"):
        problem = LayerProblem(cell, 1, 1, (1,), recurrent=recurrent, every=1, seed=3)
        assert_layer_agreement(problem)


def test_softmax_of_size_1(instruction_set: str) -> None:
    results = LossProblem(1, 1, 1, group=1).results("core")
    assert not any(tensor.any() for tensor in results.values())  # one class is certain


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dropout", [0.0, 0.5, Regularization.batch(0.5), Regularization.standard(0.5)])
def test_no_sequences(instruction_set: str, name: str, dropout: float | Regularization) -> None:
    layer = LAYERS[name](3, 4, 2, dropout=dropout, bidirectional=True)
    x = torch.zeros(5, 0, 3, requires_grad=True)
    output, state = layer(x)
    assert output.shape == (5, 0, 8)
    assert all(s.shape == (4, 0, 4) for s in (state if name == "LSTM" else (state,)))
    output.sum().backward()
    assert x.grad.shape == x.shape
    assert all(p.grad.shape == p.shape and not p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("packed", [False, True])
def test_no_steps_are_refused(packed: bool) -> None:
    x = torch.zeros(0, 3) if packed else torch.zeros(0, 2, 3)
    sizes = torch.zeros(0, dtype=torch.int64) if packed else None
    weights = tuple(GRU(3, 4).all_weights[0])
    with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0 in RNN"):
        run_layer("gru", x, (torch.zeros(2, 4),), weights, sizes)


def test_no_tokens(instruction_set: str) -> None:
    for group in (None, 1):
        results = LossProblem(0, 3, 17, group=group).results("core")
        assert results["d weight"].shape == (17, 3) and results["log p"].shape == (0,)
        assert not any(tensor.any() for tensor in results.values())


def test_enormous_sizes_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="allocate memory"):
        LSTM(10**8, 10**8)
    layer = LSTM(1, 1)
    with pytest.raises(RuntimeError):  # more rows than there are addresses, from one that is repeated
        layer(torch.zeros(1, 1, 1).expand(2**50, 2**8, 1))
    h = torch.zeros(1, 1).expand(2**60, 1)
    with pytest.raises(RuntimeError):
        softmax_cross_entropy(h, torch.zeros(2, 1, requires_grad=True), None, torch.zeros(1).long().expand(2**60))
    assert layer(torch.zeros(1, 1, 1))[0].isfinite().all()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dropout", [0.5, Regularization.batch(0.5), Regularization.standard(0.5)])
def test_enormous_sizes_on_the_meta_device(name: str, dropout: float | Regularization) -> None:
    layer = LAYERS[name](10**6, 10**7, 2, dropout=dropout, device="meta")
    output, _ = layer(torch.zeros(3, 2, 10**6, device="meta"))
    assert output.shape == (3, 2, 10**7) and output.device.type == "meta"


# Layouts in memory: the same numbers as contiguous tensors, bit for bit.


def transposed(x: Tensor) -> Tensor:
    return x.t().contiguous().t() if x.dim() == 2 else x.transpose(0, 1).contiguous().transpose(0, 1)


def strided(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=-1)[..., ::2]


def shifted(x: Tensor) -> Tensor:
    """At an address that no vector is aligned to."""
    return torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape)


@pytest.mark.parametrize("layout", [transposed, strided, shifted])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("packed", [False, True])
def test_layouts_of_a_layer(layout: Callable[[Tensor], Tensor], cell: str, packed: bool) -> None:
    problem = LayerProblem(cell, 7, 9, (3, 3, 2) if packed else (3,) * 4, not packed, recurrent="rows")
    mask, sizes = problem.recurrent_mask(), problem.batch_sizes

    def results(change: Callable[[Tensor], Tensor]) -> list[Tensor]:
        leaves = {name: leaf.requires_grad_() for name, leaf in problem.leaves().items()}
        changed = {n: change(v) if v.dim() > 1 else v.repeat_interleave(2)[::2] for n, v in leaves.items()}
        state = tuple(changed[n] for n in ("h0", "c0") if n in changed)
        weights = tuple(changed[n] for n in ("w_ih", "w_hh", "b_ih", "b_hh"))
        output, last = run_layer(cell, changed["x"], state, weights, sizes, False, change(mask))
        # The gradients that come back are of the same layout.
        loss = sum((change(r) * change(r.detach())).sum() for r in (output, *last))
        return [output, *last, *torch.autograd.grad(loss, list(leaves.values()))]

    contiguous = results(lambda x: x.clone())
    assert all(torch.equal(a, b) for a, b in zip(results(layout), contiguous, strict=True))


def test_expanded_tensors() -> None:
    problem = LayerProblem("lstm", 7, 9, (3,) * 4)
    leaves = problem.leaves()
    x, h0 = leaves["x"][:1, :1].expand(4, 3, 7), leaves["h0"][:1].expand(3, 9)
    w_hh, bias = leaves["w_hh"][:, :1].expand(36, 9), leaves["b_ih"][:1].expand(36)
    mask = torch.tensor([[[0.0], [2.0], [0.0]]]).expand(4, 3, 9)

    def results(change: Callable[[Tensor], Tensor]) -> list[Tensor]:
        a, h, c, w, b = (change(t).detach().requires_grad_() for t in (x, h0, h0, w_hh, bias))
        output, (h_n, c_n) = run_layer("lstm", a, (h, c), (leaves["w_ih"], w, b, b), None, True, change(mask))
        # sum() sends back one number for all elements, of stride 0.
        return [output, h_n, c_n, *torch.autograd.grad(output.sum() + c_n.sum(), [a, h, c, w, b])]

    expanded, contiguous = results(lambda t: t), results(lambda t: t.contiguous())
    assert all(torch.equal(a, b) for a, b in zip(expanded, contiguous, strict=True))


@pytest.mark.parametrize("layout", [transposed, strided, shifted])
@pytest.mark.parametrize("group", [None, 2])
def test_layouts_of_the_softmax(layout: Callable[[Tensor], Tensor], group: int | None) -> None:
    problem = LossProblem(6, 5, 19, group=group)
    targets = problem.targets()

    def results(change: Callable[[Tensor], Tensor]) -> list[Tensor]:
        h, weight, bias = (leaf.requires_grad_() for leaf in problem.leaves().values())
        arguments = change(h), change(weight), bias.repeat_interleave(2)[::2], targets.repeat_interleave(2)[::2]
        loss = softmax_cross_entropy(*arguments, problem.mask())
        return [loss, token_log_probabilities(*arguments), *torch.autograd.grad(loss, [h, weight, bias])]

    contiguous = results(lambda x: x.clone())
    assert all(torch.equal(a, b) for a, b in zip(results(layout), contiguous, strict=True))


# Values.


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_not_a_number_spreads_as_in_the_definition(instruction_set: str, cell: str, value: float) -> None:
    problem = LayerProblem(cell, 5, 9, (3,) * 4)
    leaves = problem.leaves()
    leaves["x"][1, 2, 3] = value
    got = problem.by_core(leaves)
    expected = problem.by_definition({name: leaf.double() for name, leaf in leaves.items()})
    for name, tensor in expected.items():
        assert torch.equal(got[name].isnan(), tensor.isnan()), name
        assert torch.allclose(got[name].double(), tensor, rtol=1e-5, atol=1e-5, equal_nan=True), name


@pytest.mark.parametrize("cell", CELLS)
def test_not_a_number_reaches_the_gradients(instruction_set: str, cell: str) -> None:
    problem = LayerProblem(cell, 5, 9, (3,) * 4)
    leaves = {name: leaf.requires_grad_() for name, leaf in problem.leaves().items()}
    poison = torch.zeros_like(leaves["x"])
    poison[0, 1, 2] = torch.nan
    output = problem.by_core(leaves | {"x": leaves["x"] + poison})["output"]
    d_w_ih, d_w_hh = torch.autograd.grad(output.sum(), [leaves["w_ih"], leaves["w_hh"]])
    assert d_w_ih[:, 2].isnan().all() and d_w_hh.isnan().any()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("scale", [1e-30, 1e4, 1e30])
def test_sizes_of_numbers(instruction_set: str, cell: str, scale: float) -> None:
    problem = LayerProblem(cell, 1, 9, (3,) * 4)
    leaves = problem.leaves()
    leaves["x"] *= scale
    got = problem.by_core(leaves)
    assert_agreement(got, problem.by_definition({name: leaf.double() for name, leaf in leaves.items()}))


# Types and devices.


def test_double_precision_goes_through_torch_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use, "_said", set())
    layer = LSTM(3, 4, dtype=torch.float64)
    theirs = torch.nn.LSTM(3, 4, dtype=torch.float64)
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    with pytest.warns(UserWarning, match="computes in float32: torch.float64 goes through torch, which is slower"):
        output = layer(x)[0]
    assert disagreement(output, theirs(x)[0]) <= 1e-10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)
        GRU(3, 4, dtype=torch.float64)(x)
        softmax_cross_entropy(x[0], x[1], None, torch.tensor([0, 1]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64])
@pytest.mark.parametrize("name", LAYERS)
def test_input_of_another_type_is_refused(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=rf"input dtype \({dtype}\) does not match weight dtype \(torch.float32\)"):
        LAYERS[name](3, 4)(torch.zeros(5, 2, 3, dtype=dtype))


def test_whole_numbers_have_no_softmax() -> None:
    h, weight = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(4, 3, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="not implemented for 'Long'"):
        softmax_cross_entropy(h, weight, None, torch.tensor([0, 1]))


def test_half_precision_goes_through_torch() -> None:
    x = torch.randn(5, 2, 3)
    layer = GRU(3, 4)
    expected = layer(x)[0]
    assert disagreement(layer.half()(x.half())[0], expected) <= 1e-2
    h, weight, targets = torch.randn(2, 3), torch.randn(4, 3), torch.tensor([0, 1])
    expected = softmax_cross_entropy(h, weight, None, targets)
    assert disagreement(softmax_cross_entropy(h.half(), weight.half(), None, targets), expected) <= 1e-2


@pytest.mark.parametrize("name", LAYERS)
def test_tensors_on_two_devices_are_refused(name: str) -> None:
    layer = LAYERS[name](3, 4)
    x, h0 = torch.zeros(5, 2, 3), torch.zeros(1, 2, 4, device="meta")
    with pytest.raises(RuntimeError, match="not at the same device, found input tensor at meta"):
        layer(x.to("meta"))
    with pytest.raises(RuntimeError, match="found input tensor at cpu and hidden tensor at meta"):
        layer(x, (h0, h0) if name == "LSTM" else h0)


# Autograd.


def test_double_backward_of_a_layer_is_refused() -> None:
    layer = LSTM(3, 4)
    loss = layer(torch.randn(5, 2, 3))[0].sum()
    message = (
        "a layer cannot be differentiated twice on the compiled core: leave out create_graph=True, or compute in "
        "float64, or set REGRNN_KERNEL=torch"
    )
    with pytest.raises(RuntimeError, match=message):
        torch.autograd.grad(loss, layer.weight_hh_l0, create_graph=True)


def test_double_backward_of_the_softmax_is_refused() -> None:
    h = torch.randn(2, 3, requires_grad=True)
    loss = softmax_cross_entropy(h, torch.randn(4, 3), None, torch.tensor([0, 1]))
    with pytest.raises(RuntimeError, match="softmax_cross_entropy cannot be differentiated twice on the compiled core"):
        torch.autograd.grad(loss, h, create_graph=True)


@pytest.mark.parametrize("name", LAYERS)
def test_without_gradients(name: str) -> None:
    layer = LAYERS[name](3, 4, 2, bidirectional=True)
    x, targets = torch.randn(5, 2, 3), torch.randint(4, (10,))
    weight = layer.weight_hh_l0[:4]
    output = layer(x)[0]
    loss = softmax_cross_entropy(output.reshape(20, 4)[:10], weight, None, targets)
    assert output.requires_grad and loss.requires_grad
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            again = layer(x)[0]
            loss_again = softmax_cross_entropy(again.reshape(20, 4)[:10], weight, None, targets)
        assert torch.equal(again, output) and not again.requires_grad
        assert not loss_again.requires_grad and disagreement(loss_again, loss) <= 1e-6


def test_backward_runs_again_over_a_kept_graph() -> None:
    problem = LayerProblem("gru", 3, 5, (2, 1), padded=False, every=1)
    leaves = {name: leaf.requires_grad_() for name, leaf in problem.leaves().items()}
    loss = problem.by_core(leaves)["output"].square().sum()
    once = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
    twice = torch.autograd.grad(loss, list(leaves.values()))
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


@pytest.mark.parametrize("changed", ["weight_hh_l0", "weight_ih_l0"])
def test_weights_changed_before_the_backward_pass_are_found_out(changed: str) -> None:
    layer = LSTM(3, 4)
    loss = layer(torch.randn(5, 2, 3))[0].sum()
    with torch.no_grad():
        getattr(layer, changed).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_threads_may_change_between_the_passes() -> None:
    layer, x = LSTM(13, 75), torch.randn(5, 7, 13)
    torch.set_num_threads(1)
    expected = loss_and_gradients(layer, x)
    loss = layer(x)[0].square().sum()
    torch.set_num_threads(3)
    gradients = torch.autograd.grad(loss, list(layer.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected[1:], strict=True))


# Modes of torch that the core leaves to torch.


@pytest.mark.parametrize("name", LAYERS)
def test_func_grad_is_that_of_autograd(name: str) -> None:
    layer, x = LAYERS[name](3, 4, 2), torch.randn(5, 2, 3)
    parameters = {n: p.detach() for n, p in layer.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(layer, parameters, (x,))[0].square().sum()

    gradients = torch.func.grad(loss)(parameters)
    for gradient, expected in zip(gradients.values(), loss_and_gradients(layer, x)[1:], strict=True):
        assert disagreement(gradient, expected) <= 1e-5


def test_vmap() -> None:
    x = torch.randn(3, 5, 2, 3)
    # torch's own whole-sequence operators have no batching rule, its elementary ones have.
    ours, theirs = LSTM(3, 4), torch.nn.LSTM(3, 4)
    for layer in (ours, theirs):
        with pytest.raises(RuntimeError, match="Batching rule not implemented for aten::lstm"):
            torch.func.vmap(lambda x, layer=layer: layer(x)[0])(x)
    layer = RNN(3, 4, nonlinearity="sigmoid")
    together = torch.func.vmap(lambda x: layer(x)[0])(x)
    assert disagreement(together, torch.stack([layer(part)[0] for part in x])) <= 1e-5


@pytest.mark.parametrize("dropout", [0.0, 0.5, Regularization.batch(0.5)])
def test_autocast(dropout: float | Regularization, use_kernel: Callable[[str], None]) -> None:
    layer, x = GRU(8, 8, 2, dropout=dropout), torch.randn(5, 2, 8)
    outputs = []
    for kernel in ("fused", "torch"):
        use_kernel(kernel)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs.append(layer(x, generator=torch.Generator().manual_seed(1))[0])
    assert torch.equal(*outputs)
    h, weight, targets = torch.randn(4, 3), torch.randn(5, 3, requires_grad=True), torch.arange(4)
    expected = softmax_cross_entropy(h, weight, None, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = softmax_cross_entropy(h, weight, None, targets)
    assert disagreement(loss, expected) <= 1e-2


# Copies.


def test_copy_and_file_of_a_layer_that_has_run(tmp_path: Path) -> None:
    layer, x = LSTM(3, 4, 2, dropout=0.5), torch.randn(5, 2, 3)
    layer(x)[0].sum().backward()
    layer.eval()
    twin = copy.deepcopy(layer)
    assert all(type(tensor) is Tensor for tensor in layer.state_dict().values())
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    loaded = LSTM(3, 4, 2).eval()
    loaded.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    for other in (twin, loaded):
        for got, expected in zip(loss_and_gradients(other, x), loss_and_gradients(layer, x), strict=True):
            assert torch.equal(got, expected)


# Processes and threads.


def in_a_fork(compute: Callable[[], Tensor], seconds: float = 60) -> bytes:
    """What `compute` gives in a forked child, as bytes; a child that hangs or crashes fails the test."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, since threads do not survive
        child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(writing, compute().numpy().tobytes())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    received, end = b"", time.monotonic() + seconds
    while select.select([reading], [], [], max(end - time.monotonic(), 0))[0]:
        part = os.read(reading, 1 << 16)
        received += part
        if not part:
            break
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    os.close(reading)
    assert os.waitpid(child, 0)[1] == 0
    return received


def test_fork_after_use() -> None:
    torch.set_num_threads(3)
    problem = LayerProblem("lstm", 7, 75, (5,) * 4, every=1)
    loss = LossProblem(6, 7, 300)

    def compute() -> Tensor:
        tensors = [*problem.results("core").values(), *loss.results("core").values()]
        return torch.cat([t.detach().flatten() for t in tensors])[::50].contiguous()

    expected = compute()  # OpenMP has its threads now, which a child has not
    for _ in range(2):
        assert in_a_fork(compute) == expected.numpy().tobytes()
    assert torch.equal(compute(), expected)


def test_use_from_several_threads_at_once(use_kernel: Callable[[str], None]) -> None:
    use_kernel("auto")
    problems = [LayerProblem(cell, 17, 40, (5,) * 6, recurrent="rows", every=2) for cell in CELLS]
    jobs = [p for p in problems for _ in range(4)]
    expected = {p.cell: p.results("core") for p in problems}

    def compute(problem: LayerProblem) -> dict[str, Tensor]:
        torch.set_num_threads(2)
        return problem.results("core")

    with ThreadPoolExecutor(4) as pool:
        for problem, results in zip(jobs, pool.map(compute, jobs), strict=True):
            for name, tensor in expected[problem.cell].items():
                assert torch.equal(results[name], tensor), name
