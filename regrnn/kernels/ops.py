"""The core as operators of torch: functional, with gradients, so that autograd, `torch.no_grad` and meta tensors work.

Shape suffixes: N rows of a packed batch (the sum of `sizes`), T time, B batch, I input, H hidden, G gates times H,
V classes. The operators take float32 on the CPU alone; whoever calls them looks whether `core()` is there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from regrnn.kernels import philox
from regrnn.kernels.core import Core, Layer, Shared, choose, choose_bfloat16
from regrnn.kernels.memory import pool

CELLS = {"rnn_tanh": 0, "rnn_relu": 1, "rnn_sigmoid": 2, "lstm": 3, "gru": 4}
_LSTM, _GRU = 3, 4
_GROUPS = 64  # GROUPS of src/softmax.h
_FEATURES_IN_CACHE = 96  # the least that FEATURES_IN_CACHE of src/shared.h is
_DOT_DEPTH, _DOT_ROWS = 384, 4  # DOT_DEPTH and DOT_ROWS of src/shared.h
_LINE = 16  # floats of a cache line
_PIECE = 1 << 14  # PIECE of src/update.h
_LEAST_OUTPUTS = 512  # where products pay that leave out what separate masks strike: below, panels are too few

_library = torch.library.Library("regrnn", "DEF")


def core() -> Core:
    """The compiled core. Raises RuntimeError: there is none."""
    choice = choose()
    if choice.core is None:
        raise RuntimeError(f"the compiled core of regrnn does not run: {choice.reason}")
    return choice.core


def _products() -> Core:
    """The core for the products of training: in bfloat16 where torch's setting for float32 allows it."""
    if torch.get_float32_matmul_precision() == "medium" and (rounded := choose_bfloat16().core) is not None:
        return rounded
    return core()


def leaves_out(separate: bool, outputs: int) -> bool:
    """Whether products with so many outputs leave out what masks strike, of each row's own (`separate`) or shared.

    In bfloat16 all of it costs less than a part in float32.
    """
    return _products() is core() and (not separate or outputs >= _LEAST_OUTPUTS)


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _plain(*tensors: Tensor | None) -> bool:
    """Whether autograd alone has to see an operator on these: nothing compiles, traces or overrides it.

    What the operators do can then be called without torch's dispatcher, which takes longer than a small layer.
    """
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
        and all(t is None or type(t) is Tensor or type(t) is torch.nn.Parameter for t in tensors)
    )


def _direct(name: str, compute: Callable[..., Any], setup: Callable[..., None], gradient: Callable[..., Any]) -> Any:
    """What an operator does, past the dispatcher: arguments as of `torch.library.register_autograd`."""

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = compute(*inputs)
        setup(ctx, inputs, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(gradient)}
    return type(name, (torch.autograd.Function,), methods).apply  # type: ignore[attr-defined]


def _twice(what: str) -> NoReturn:
    raise RuntimeError(
        f"{what} cannot be differentiated twice on the compiled core: leave out create_graph=True, or compute in "
        "float64, or set REGRNN_KERNEL=torch"
    )


# A layer in one direction.

_library.define(
    "layer(Tensor x, Tensor h0, Tensor? c0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? sizes, "
    "Tensor? mask, Tensor? shared, Tensor? first, int cell, bool reverse) -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "layer_backward(Tensor? d_h, Tensor? d_h_n, Tensor? d_c_n, Tensor x, Tensor h0, Tensor? c0, Tensor w_ih, "
    "Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? sizes, Tensor? mask, Tensor? shared, Tensor? first, Tensor h, "
    "Tensor kept, int cell, bool reverse, bool wants_x) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def layer(
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    sizes_T: Tensor | None,
    mask: Tensor | None,
    shared: Tensor | None,
    first: Tensor | None,
    cell: str,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer in one direction; see `regrnn.nn.functional.run_layer`.

    Args:
        x: padded (T, B, I), or packed (N, I): the rows of time 0, then those of time 1, and so on.
        state: (h,) or (h, c), each (B, H).
        weights: (w_ih, w_hh, b_ih, b_hh).
        sizes_T: None, or of packed x the rows of each time step, int64, not increasing.
        mask: of the recurrent state: None, (N, H), or (T or 1, B or 1, H).
        shared: None, or a mask of the input (groups, I) whose row g is that of the rows [first[g], first[g + 1]).
        first: (groups + 1,) int64, or None if each row has a mask of its own.
        cell: a key of `CELLS`.
        reverse: run from the end of each sequence.

    Returns:
        h in the layout of x, and the state after the last step of each sequence, each (B, H).
    """
    c0 = state[1] if cell == "lstm" else None
    tensors = (x, state[0], c0, *weights, sizes_T, mask, shared, first)
    operator: Any = _direct_layer if _plain(*tensors) else torch.ops.regrnn.layer
    h, h_n, c_n, _ = operator(*tensors, CELLS[cell], reverse)
    return h, ((h_n, c_n) if cell == "lstm" else (h_n,))


def _given(
    x: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    sizes: Tensor | None,
    mask: Tensor | None,
    shared: Tensor | None,
    first: Tensor | None,
    cell: int,
    reverse: bool,
) -> tuple[Layer, list[Any]]:
    """What forward and backward have in common, and the tensors that must live while it is used."""
    tensors = _contiguous(x, h0, c0, w_ih, w_hh, b_ih, b_hh, sizes, mask, shared, first)
    x, h0, c0, w_ih, w_hh, b_ih, b_hh, sizes, mask, shared, first = tensors
    (B, H), in_features = h0.shape, x.size(-1)
    out = Layer(cell, x.size(0) if sizes is None else len(sizes), B, x.shape[:-1].numel(), in_features, H, reverse)
    out.threads = torch.get_num_threads()
    out.x, out.h0, out.w_ih, out.w_hh = x.data_ptr(), h0.data_ptr(), w_ih.data_ptr(), w_hh.data_ptr()
    if c0 is not None:
        out.c0 = c0.data_ptr()
    if b_ih is not None and b_hh is not None:
        out.b_ih, out.b_hh = b_ih.data_ptr(), b_hh.data_ptr()
    if sizes is not None:
        out.sizes = sizes.data_ptr()
    if mask is not None:
        out.mask = mask.data_ptr()
        if mask.dim() == 2:
            out.mask_packed = 1
        else:
            out.mask_b = 0 if mask.size(1) == 1 and B > 1 else H
            out.mask_t = 0 if mask.size(0) == 1 else mask.size(1) * H
    if shared is not None:
        out.x_mask = shared.data_ptr()
        if first is not None:
            out.groups, out.first = len(shared), first.data_ptr()
    return out, tensors


def _shared(x: Tensor, mask: Tensor, first: Tensor) -> tuple[Any, list[Tensor]]:
    """A shared mask of the rows x as the core takes it, and the tensors that must live while it is used."""
    mask, first = mask.contiguous(), first.contiguous()
    groups, K = mask.shape
    kept, count = (torch.empty(shape, dtype=torch.int32, device="cpu") for shape in ((groups, K), (groups,)))
    filled = Shared(groups=groups, N=len(x), K=K)
    filled.first, filled.mask, filled.kept, filled.count = map(_at, (first, mask, kept, count))
    return ctypes.byref(filled), [mask, first, kept, count]


def _separate(x: Tensor) -> Tensor:
    """Scratch for the products with x where each of its rows has a mask of its own."""
    return pool.empty((core().separate_floats(*x.shape, torch.get_num_threads()),))


def _dots(x: Tensor, mask: Tensor) -> Tensor:
    """Scratch for gradients at an input under a shared mask, for each of whose groups rows are rounded up."""
    N, K = x.shape
    return pool.empty(((N + len(mask) * _DOT_ROWS) * K,))


def _waiting(rows: Tensor, columns: int) -> Tensor:
    """Scratch for sums of a product with so many columns, made for a part of its depth at a time."""
    width = core().panel_width
    return pool.empty(((columns + width - 1) // width, len(rows), width))


def _own(rows: int, K: int, groups: int) -> int:
    """Floats of scratch that a thread needs under a shared mask: `own_floats` of src/shared.h or more."""
    return 2 * (K + rows) * core().panel_width + groups * (K // _FEATURES_IN_CACHE + 2) + _LINE


def _contiguous(*tensors: Tensor | None) -> list[Any]:
    return [None if t is None else t.contiguous() for t in tensors]


def _layer(x: Tensor, h0: Tensor, c0: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    given, _alive = _given(x, h0, c0, *rest)
    kernel, it = _products(), ctypes.byref(given)
    h = pool.empty((*x.shape[:-1], given.H))
    h_n, c_n = pool.empty(h0.shape), pool.empty(_shape(c0))
    kept, scratch = pool.empty((kernel.layer_kept(it),)), pool.empty((kernel.layer_floats(it, 0),))
    given.h, given.h_n, given.c_n, given.kept = h.data_ptr(), h_n.data_ptr(), c_n.data_ptr(), kept.data_ptr()
    given.scratch = scratch.data_ptr()
    kernel.layer_forward(it)
    return h, h_n, c_n, kept


def _layer_meta(
    x: Tensor, h0: Tensor, c0: Tensor | None, w_ih: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (B, H), N, has_c = h0.shape, x.shape[:-1].numel(), rest[-2] in (_LSTM, _GRU)
    kept = sum((N * width + _LINE - 1) // _LINE * _LINE for width in (len(w_ih), H if has_c else 0, H))
    empty = x.new_empty
    return empty(*x.shape[:-1], H), empty(B, H), empty(0 if c0 is None else c0.shape), empty(kept)


def _layer_backward(
    d_h: Tensor | None, d_h_n: Tensor | None, d_c_n: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    *same, h, kept, cell, reverse, wants_x = rest
    x, h0, c0, w_ih, w_hh, b_ih, b_hh, *_ = same
    both_passes: tuple[Any, ...] = (*same, cell, reverse)
    given, _alive = _given(*both_passes)
    kernel, it = _products(), ctypes.byref(given)
    d_h, d_h_n, d_c_n = _contiguous(d_h, d_h_n, d_c_n if cell == _LSTM else None)
    given.d_h, given.d_h_n, given.d_c_n = _at(d_h), _at(d_h_n), _at(d_c_n)
    given.h, given.kept, given.wants_x = h.data_ptr(), kept.data_ptr(), wants_x
    d_x, d_h0, d_c0 = pool.empty(x.shape if wants_x else (0,)), pool.empty(h0.shape), pool.empty(_shape(c0))
    d_w_ih, d_w_hh = pool.empty(w_ih.shape), pool.empty(w_hh.shape)
    d_b_ih, d_b_hh = pool.empty(_shape(b_ih)), pool.empty(_shape(b_hh))
    results = (d_x, d_h0, d_c0, d_w_ih, d_w_hh, d_b_ih, d_b_hh)
    given.d_x, given.d_h0, given.d_c0, given.d_w_ih, given.d_w_hh = [t.data_ptr() for t in results[:5]]
    if b_ih is not None:
        given.d_b_ih, given.d_b_hh = d_b_ih.data_ptr(), d_b_hh.data_ptr()
    scratch = pool.empty((kernel.layer_floats(it, 1),))
    given.scratch = scratch.data_ptr()
    kernel.layer_backward(it)
    return results


def _shape(tensor: Tensor | None) -> Sequence[int]:
    return (0,) if tensor is None else tensor.shape


def _layer_backward_meta(*arguments: Any) -> tuple[Tensor, ...]:
    x, h0, c0, w_ih, w_hh, b_ih, b_hh = arguments[3:10]
    shapes = [x.shape if arguments[-1] else (0,), h0.shape, *map(_shape, (c0, w_ih, w_hh, b_ih, b_hh))]
    return tuple(map(x.new_empty, shapes))


def _layer_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.cell, ctx.reverse = inputs
    h, _, c_n, kept = output
    ctx.save_for_backward(*tensors, h, kept)
    ctx.mark_non_differentiable(kept, *([] if ctx.cell == _LSTM else [c_n]))
    ctx.set_materialize_grads(False)


def _layer_gradient(
    ctx: Any, d_h: Tensor | None, d_h_n: Tensor | None, d_c_n: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        _twice("a layer")
    given = (d_h, d_h_n, d_c_n if ctx.cell == _LSTM else None, *ctx.saved_tensors)
    operator: Any = _layer_backward if _plain(*given) else torch.ops.regrnn.layer_backward
    wants_x = ctx.needs_input_grad[0]
    d_x, d_h0, d_c0, d_w_ih, d_w_hh, d_b_ih, d_b_hh = operator(*given, ctx.cell, ctx.reverse, wants_x)
    biases = (None, None) if given[8] is None else (d_b_ih, d_b_hh)
    d_c0 = d_c0 if ctx.cell == _LSTM else None
    return (d_x if wants_x else None, d_h0, d_c0, d_w_ih, d_w_hh, *biases, *[None] * 6)


_direct_layer = _direct("Layer", _layer, _layer_setup, _layer_gradient)


# Softmax and cross-entropy.

_library.define(
    "softmax_cross_entropy(Tensor h, Tensor weight, Tensor? bias, Tensor targets, Tensor? shared, "
    "Tensor? first) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "softmax_cross_entropy_backward(Tensor d_loss, Tensor h, Tensor weight, Tensor e, Tensor inverse_z, "
    "Tensor? shared, Tensor? first, "
    "bool wants_h, bool wants_weight, bool wants_bias) -> (Tensor, Tensor, Tensor)"
)
_library.define("token_log_probabilities(Tensor h, Tensor weight, Tensor? bias, Tensor targets) -> Tensor")


def softmax_cross_entropy(
    h_NH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    shared: Tensor | None = None,
    first: Tensor | None = None,
) -> Tensor:
    """See `regrnn.nn.loss.softmax_cross_entropy`; targets have been checked. `shared` and `first` as of `layer`."""
    tensors = (h_NH, weight_VH, bias_V, targets_N, shared, first)
    operator: Any = _direct_softmax if _plain(*tensors) else torch.ops.regrnn.softmax_cross_entropy
    loss: Tensor = operator(*tensors)[0]
    return loss


def _softmax(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    shared: Tensor | None,
    first: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    h, weight, bias, targets = _contiguous(h, weight, bias, targets)
    (N, _), V, width = h.shape, len(weight), core().panel_width
    e, inverse_z, losses = pool.empty(((V + width - 1) // width, N, width)), pool.empty((N,)), pool.empty((N,))
    _softmax_pass(h, weight, bias, targets, e, inverse_z, losses, shared, first)
    return losses.sum(dtype=torch.float64).to(h.dtype), e, inverse_z


def _softmax_pass(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    e: Tensor | None,
    inverse_z: Tensor | None,
    losses: Tensor,
    shared: Tensor | None,
    first: Tensor | None,
) -> None:
    """Fills `losses` and, unless they are None, what the backward pass needs: e and inverse_z."""
    (N, H), V, width, threads = h.shape, len(weight), core().panel_width, torch.get_num_threads()
    most, m, sums = pool.empty((threads, N, width)), pool.empty((N,)), pool.empty((_GROUPS, N))
    lists, separate, scratch = None, None, None
    _alive: list[Tensor] = []
    if shared is not None and first is not None:
        lists, _alive = _shared(h, shared, first)
        scratch = pool.empty((N * H + _LINE + threads * _own(N, H, len(shared)),))
    elif shared is not None:
        separate, scratch = shared.contiguous(), _separate(h)
    places = map(_at, (h, weight, bias, targets, e, inverse_z, losses, most, m, sums))
    _products().softmax_forward(N, H, V, *places, lists, _at(separate), _at(scratch), threads)


def _softmax_meta(
    h: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, shared: Tensor | None, first: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    N, V, width = len(h), len(weight), core().panel_width
    return h.new_empty(()), h.new_empty((V + width - 1) // width, N, width), h.new_empty(N)


def _softmax_backward(
    d_loss: Tensor,
    h: Tensor,
    weight: Tensor,
    e: Tensor,
    inverse_z: Tensor,
    shared: Tensor | None,
    first: Tensor | None,
    wants_h: bool,
    wants_weight: bool,
    wants_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    h, weight = _contiguous(h, weight)
    (N, H), V, threads = h.shape, len(weight), torch.get_num_threads()
    wanted = (wants_h, h.shape), (wants_weight, weight.shape), (wants_bias, (V,))
    d_h, d_weight, d_bias = results = tuple(pool.empty(shape if want else (0,)) for want, shape in wanted)
    places = [result.data_ptr() if want else None for result, (want, _) in zip(results, wanted, strict=True)]
    lists, separate, turned, waiting = None, None, None, None
    scratch: list[Tensor | None] = [None] * 3
    _alive: list[Tensor] = []
    if shared is not None and first is None:
        separate, scratch[2] = shared.contiguous(), _separate(h)
    else:
        turned = pool.empty((H, N))
    if shared is not None and first is not None:
        lists, _alive = _shared(h, shared, first)
        scratch = [pool.empty((H, _DOT_DEPTH)), _dots(h, shared), pool.empty((threads, _own(N, H, len(shared))))]
    elif shared is None and wants_h:
        waiting = _waiting(h, H)
    _products().softmax_backward(
        N, H, V, *map(_at, (h, weight, e, inverse_z)), d_loss.item(), *places, _at(turned), _at(waiting), lists,
        _at(separate), *map(_at, scratch), threads,
    )  # fmt: skip
    return d_h, d_weight, d_bias


def _softmax_backward_meta(
    d_loss: Tensor,
    h: Tensor,
    weight: Tensor,
    e: Tensor,
    inverse_z: Tensor,
    shared: Tensor | None,
    first: Tensor | None,
    wants_h: bool,
    wants_weight: bool,
    wants_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        h.new_empty(h.shape if wants_h else 0),
        h.new_empty(weight.shape if wants_weight else 0),
        h.new_empty(len(weight) if wants_bias else 0),
    )


def _softmax_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    h, weight, _, _, shared, first = inputs
    _, e, inverse_z = output
    ctx.save_for_backward(h, weight, e, inverse_z, shared, first)
    ctx.mark_non_differentiable(e, inverse_z)
    ctx.set_materialize_grads(False)


def _softmax_gradient(ctx: Any, d_loss: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if d_loss is None:
        return (None,) * 6
    if torch.is_grad_enabled():
        _twice("softmax_cross_entropy")
    wanted = ctx.needs_input_grad[:3]
    given = (d_loss, *ctx.saved_tensors)
    operator: Any = _softmax_backward if _plain(*given) else torch.ops.regrnn.softmax_cross_entropy_backward
    results = operator(*given, *wanted)
    return *(result if want else None for want, result in zip(wanted, results, strict=True)), None, None, None


_direct_softmax = _direct("SoftmaxCrossEntropy", _softmax, _softmax_setup, _softmax_gradient)


def token_log_probabilities(h_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor) -> Tensor:
    """See `regrnn.nn.loss.token_log_probabilities`; targets have been checked. Memory grows with N, not with N V."""
    log_p: Tensor = torch.ops.regrnn.token_log_probabilities(h_NH, weight_VH, bias_V, targets_N)
    return log_p


def _log_probabilities(h: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    h, weight, bias, targets = _contiguous(h, weight, bias, targets)
    losses = h.new_empty(len(h))
    _softmax_pass(h, weight, bias, targets, None, None, losses, None, None)
    return losses.neg_()


# Masks.

_library.define("mask(Tensor seed, float rate, int[] size, ScalarType dtype) -> Tensor")


def mask(seed: Tensor, rate: float, size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A mask of inverted dropout, 0 with probability `rate`, else 1 / (1 - rate), from the Philox stream of `seed`.

    Args:
        seed: () int64, on the device where the mask shall be.
        rate: in [0, 1).
        size: of the mask.
        dtype: of the mask.
    """
    out: Tensor = torch.ops.regrnn.mask(seed, rate, size, dtype)
    return out


def _mask(seed: Tensor, rate: float, size: Sequence[int], dtype: torch.dtype) -> Tensor:
    n = torch.Size(size).numel()
    kept = 1.0 / (1.0 - rate)
    choice = choose()
    if seed.device.type != "cpu" or choice.core is None:
        below = philox.words(seed, n) < philox.threshold(rate)
        return below.to(dtype).mul_(kept).view(list(size))
    out = pool.empty(size)
    exact = dtype == torch.float32
    choice.core.draw_mask(
        int(seed.item()) & (2**64 - 1), n, philox.threshold(rate), kept if exact else 1.0, out.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return out if exact else out.to(dtype).mul_(kept)


# Gradient descent.


def _all(tensors: Sequence[Tensor]) -> tuple[int, Any, Any]:
    """How many there are, their sizes, and where they lie."""
    count = len(tensors)
    sizes = (ctypes.c_int64 * count)(*(t.numel() for t in tensors))
    return count, sizes, (ctypes.c_void_p * count)(*(t.data_ptr() for t in tensors))


def sum_of_squares(tensors: Sequence[Tensor]) -> float:
    """Of all elements of contiguous float32 tensors, in double precision over pieces in single."""
    count, sizes, places = _all(tensors)
    pieces = torch.empty(sum(-(-n // _PIECE) for n in sizes), dtype=torch.float64, device="cpu")
    total: float = core().sum_of_squares(count, sizes, places, pieces.data_ptr(), torch.get_num_threads())
    return total


def descend(ws: Sequence[Tensor], gradients: Sequence[Tensor], rate: float, factor: float, decay: float) -> None:
    """w -= rate * (factor * gradient + decay * w), in place, for each pair of contiguous float32 tensors."""
    places = *_all(ws), _all(gradients)[2]
    core().descend(*places, rate, factor, decay, torch.get_num_threads())


def _register() -> None:
    cpu = {
        "layer": _layer,
        "layer_backward": _layer_backward,
        "softmax_cross_entropy": _softmax,
        "softmax_cross_entropy_backward": _softmax_backward,
        "token_log_probabilities": _log_probabilities,
    }
    meta: dict[str, Any] = {
        "layer": _layer_meta,
        "layer_backward": _layer_backward_meta,
        "softmax_cross_entropy": _softmax_meta,
        "softmax_cross_entropy_backward": _softmax_backward_meta,
        "token_log_probabilities": lambda h, *_: h.new_empty(len(h)),
        "mask": lambda seed, rate, size, dtype: seed.new_empty(size, dtype=dtype),
    }
    for name, function in cpu.items():
        _library.impl(name, function, "CPU")
    _library.impl("mask", _mask, "CPU")
    _library.impl("mask", _mask, "CUDA")
    for name, function in meta.items():
        torch.library.register_fake(f"regrnn::{name}", function, lib=_library)
    torch.library.register_autograd("regrnn::layer", _layer_gradient, setup_context=_layer_setup, lib=_library)
    torch.library.register_autograd(
        "regrnn::softmax_cross_entropy", _softmax_gradient, setup_context=_softmax_setup, lib=_library
    )


_register()
