"""The core as operators of torch: functional, with gradients, so that autograd, `torch.no_grad` and meta tensors work.

Shape suffixes: N rows of a packed batch (the sum of `sizes`), T time, B batch, I input, H hidden, G gates times H,
V classes. The operators take float32 on the CPU alone; whoever calls them looks whether `core()` is there.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

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


# Layers in one direction, each on top of the other.

_library.define(
    "layer(Tensor x, Tensor h0, Tensor? c0, Tensor? sizes, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, "
    "Tensor? mask, Tensor? shared, Tensor? first, int cell, bool reverse) -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "layer_backward(Tensor? d_h, Tensor? d_h_n, Tensor? d_c_n, Tensor x, Tensor h0, Tensor? c0, Tensor? sizes, "
    "Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? mask, Tensor? shared, Tensor? first, Tensor h, "
    "Tensor kept, int cell, bool reverse, bool wants_x) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)

LayerTensors: TypeAlias = tuple[Tensor, Tensor, *tuple[Tensor | None, ...]]
"""Of one layer: w_ih, w_hh, b_ih, b_hh; `mask` of its recurrent state: None, (N, H), or (T or 1, B or 1, H); `shared`,
a mask of its input or None: (groups, I), whose row g is that of the rows [first[g], first[g + 1]), or (N, I); `first`
(groups + 1,) int64, or None if each row has a mask of its own."""
_OF_LAYER = 7


def layers(
    x: Tensor, state: Sequence[Tensor], given: Sequence[LayerTensors], sizes_T: Tensor | None, cell: str, reverse: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """L layers in one direction; see `regrnn.nn.functional.run_layers`.

    Args:
        x: padded (T, B, I), or packed (N, I): the rows of time 0, then those of time 1, and so on.
        state: (h,) or (h, c), each (L, B, H), or (B, H) of one layer.
        given: each layer's tensors, from the lowest.
        sizes_T: None, or of packed x the rows of each time step, int64, not increasing.
        cell: a key of `CELLS`.
        reverse: run from the end of each sequence.

    Returns:
        h of the last layer in the layout of x, and the states after the last step of each sequence, as they were given.
    """
    h0, c0 = state[0], state[1] if cell == "lstm" else None
    tensors = (x, h0, c0, sizes_T, *itertools.chain.from_iterable(given))
    number = CELLS[cell]
    if _plain(*tensors):
        h, h_n, c_n, _ = _direct_layers(*tensors, number, reverse)
        return h, ((h_n, c_n) if cell == "lstm" else (h_n,))
    if h0.dim() == 2:
        h, h_n, c_n, _ = torch.ops.regrnn.layer(*tensors, number, reverse)
        return h, ((h_n, c_n) if cell == "lstm" else (h_n,))
    ends = []
    for i, own in enumerate(given):
        start = h0[i], None if c0 is None else c0[i]
        x, h_n, c_n, _ = torch.ops.regrnn.layer(x, *start, sizes_T, *own, number, reverse)
        ends.append((h_n, c_n) if cell == "lstm" else (h_n,))
    return x, tuple(torch.stack(s) for s in zip(*ends, strict=True))


def _each_layer(
    cell: int, reverse: bool, x: Tensor, h0: Tensor, c0: Tensor | None, sizes: Tensor | None, *own: Tensor | None
) -> tuple[Any, list[Any]]:
    """What forward and backward have in common, layer by layer, and the tensors that must live while it is used."""
    tensors = _contiguous(x, h0, c0, sizes, *own)
    x, h0, c0, sizes, *own_ = tensors
    B, H = h0.shape[-2:]
    T, N, threads = x.size(0) if sizes is None else len(sizes), x.shape[:-1].numel(), torch.get_num_threads()
    h_at, c_at, sizes_at, apart = h0.data_ptr(), _at(c0), _at(sizes), 4 * B * H
    out = _array_of(Layer, len(own) // _OF_LAYER)()
    for i, it in enumerate(out):
        w_ih, w_hh, b_ih, b_hh, mask, shared, first = own_[i * _OF_LAYER : (i + 1) * _OF_LAYER]
        it.cell, it.T, it.B, it.N, it.I, it.H, it.reverse, it.threads = cell, T, B, N, w_ih.size(1), H, reverse, threads
        it.sizes, it.w_ih, it.w_hh, it.h0 = sizes_at, w_ih.data_ptr(), w_hh.data_ptr(), h_at + i * apart
        if c_at is not None:
            it.c0 = c_at + i * apart
        if b_ih is not None:
            it.b_ih, it.b_hh = b_ih.data_ptr(), b_hh.data_ptr()
        if mask is not None:
            it.mask = mask.data_ptr()
            if mask.dim() == 2:
                it.mask_packed = 1
            else:
                it.mask_b = 0 if mask.size(1) == 1 and B > 1 else H
                it.mask_t = 0 if mask.size(0) == 1 else mask.size(1) * H
        if shared is not None:
            it.x_mask = shared.data_ptr()
            if first is not None:
                it.groups, it.first = len(shared), first.data_ptr()
    out[0].x = x.data_ptr()
    return out, tensors


def _keep(kernel: Core, given: Any, kept: Tensor, h: Tensor) -> None:
    """Says where each layer keeps what its backward pass needs, and where its h goes, which is the next one's x."""
    one, rows = 4 * kernel.layer_kept(given), 4 * _lines(given[0].N * given[0].H)
    at = kept.data_ptr()
    hidden = at + len(given) * one
    for i, it in enumerate(given):
        it.kept, it.h = at + i * one, hidden + i * rows
        if i > 0:
            it.x = given[i - 1].h
    given[-1].h = h.data_ptr()


def _lines(floats: int) -> int:
    """In whole cache lines."""
    return (floats + _LINE - 1) // _LINE * _LINE


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


def _width_in_panels(columns: int) -> int:
    width = core().panel_width
    return (columns + width - 1) // width * width


def _own(rows: int, K: int, groups: int) -> int:
    """Floats of scratch that a thread needs under a shared mask: `own_floats` of src/shared.h or more."""
    return 2 * (K + rows) * core().panel_width + groups * (K // _FEATURES_IN_CACHE + 2) + _LINE


def _contiguous(*tensors: Tensor | None) -> list[Any]:
    return [None if t is None else t.contiguous() for t in tensors]


def _layers(x: Tensor, h0: Tensor, c0: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *tensors, cell, reverse = rest
    given, _alive = _each_layer(cell, reverse, x, h0, c0, *tensors)
    kernel, count = _products(), len(given)
    h = pool.empty((*x.shape[:-1], given[0].H))
    h_n, c_n = pool.empty(h0.shape), pool.empty(_shape(c0))
    kept = pool.empty((count * kernel.layer_kept(given) + (count - 1) * _lines(given[0].N * given[0].H),))
    _keep(kernel, given, kept, h)
    h_n_at, c_n_at, apart = h_n.data_ptr(), c_n.data_ptr(), 4 * given[0].B * given[0].H
    scratch, _room = pool.scratch(kernel.layers_floats(given, count, 0))
    for i, it in enumerate(given):
        it.h_n, it.c_n, it.scratch = h_n_at + i * apart, c_n_at + i * apart, scratch
    kernel.layers_forward(given, count)
    return h, h_n, c_n, kept


def _layer_meta(
    x: Tensor, h0: Tensor, c0: Tensor | None, sizes: Tensor | None, w_ih: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (B, H), N, empty = h0.shape, x.shape[:-1].numel(), x.new_empty
    kept = sum(map(_lines, (N * len(w_ih), N * H if rest[-2] in (_LSTM, _GRU) else 0, N * H)))  # as of `layer_kept`
    return empty(*x.shape[:-1], H), empty(B, H), empty(0 if c0 is None else c0.shape), empty(kept)


def _layers_backward(
    d_h: Tensor | None,
    d_h_n: Tensor | None,
    d_c_n: Tensor | None,
    *rest: Any,
    wants_state: bool = True,
    begin: int = 0,
) -> tuple[Tensor, ...]:
    """The gradients at x, h0, c0, and w_ih, w_hh, b_ih, b_hh of each layer from `begin` on.

    Those at x, h0, c0 are empty if nobody wants them, as they have to be where layers below `begin` are left out.
    """
    x, h0, c0, sizes, *own, h, kept, cell, reverse, wants_x = rest
    given, _alive = _each_layer(cell, reverse, x, h0, c0, sizes, *own)
    kernel, count = _products(), len(given)
    _keep(kernel, given, kept, h)
    for i, it in enumerate(given):
        it.wants_x = wants_x if i == 0 else i > begin  # scratch depends on it
    d_h, d_h_n, d_c_n = _contiguous(d_h, d_h_n, d_c_n if cell == _LSTM else None)
    d_x = pool.empty(x.shape if wants_x else (0,))
    d_h0, d_c0 = (pool.empty(_shape(state) if wants_state else (0,)) for state in (h0, c0))
    results, rows, states = [d_x, d_h0, d_c0], _lines(given[0].N * given[0].H), given[0].B * given[0].H
    # The gradient at a layer's input is that at the h of the one below, which is done with before two more are.
    room = kernel.layers_floats(given, count, 1)
    scratch, _room = pool.scratch(room + min(count - 1, 2) * rows + (0 if wants_state else 2 * _lines(states)))
    unwanted, apart = scratch + 4 * (room + min(count - 1, 2) * rows), 4 * states
    for i, it in list(enumerate(given))[begin:]:
        weights = [pool.empty(_shape(own[i * _OF_LAYER + k])) for k in range(4)]
        results += weights
        it.d_w_ih, it.d_w_hh = weights[0].data_ptr(), weights[1].data_ptr()
        if it.b_ih is not None:
            it.d_b_ih, it.d_b_hh = weights[2].data_ptr(), weights[3].data_ptr()
        it.scratch = scratch
        it.d_x = d_x.data_ptr() if i == 0 else scratch + 4 * (room + (i - 1) % 2 * rows)
        it.d_h = scratch + 4 * (room + i % 2 * rows)
        if wants_state:
            it.d_h0, it.d_c0 = d_h0.data_ptr() + i * apart, d_c0.data_ptr() + i * apart
        else:
            it.d_h0, it.d_c0 = unwanted, unwanted + 4 * _lines(states)
        if d_h_n is not None:
            it.d_h_n = d_h_n.data_ptr() + i * apart
        if d_c_n is not None:
            it.d_c_n = d_c_n.data_ptr() + i * apart
    given[-1].d_h = _at(d_h)
    kernel.layers_backward(ctypes.byref(given[begin]), count - begin)
    return tuple(results)


def _shape(tensor: Tensor | None) -> Sequence[int]:
    return (0,) if tensor is None else tensor.shape


def _layer_backward_meta(*arguments: Any) -> tuple[Tensor, ...]:
    x, h0, c0, _, w_ih, w_hh, b_ih, b_hh = arguments[3:11]
    shapes = [x.shape if arguments[-1] else (0,), h0.shape, *map(_shape, (c0, w_ih, w_hh, b_ih, b_hh))]
    return tuple(map(x.new_empty, shapes))


def _layers_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.cell, ctx.reverse = inputs
    h, _, c_n, kept = output
    ctx.save_for_backward(*tensors, h, kept)
    ctx.mark_non_differentiable(kept, *([] if ctx.cell == _LSTM else [c_n]))
    ctx.set_materialize_grads(False)


def _layers_gradient(
    ctx: Any, d_h: Tensor | None, d_h_n: Tensor | None, d_c_n: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        _twice("a layer")
    given = (d_h, d_h_n, d_c_n if ctx.cell == _LSTM else None, *ctx.saved_tensors)
    wants_x, wants_h0, wants_c0, _, *wants_own, _, _ = ctx.needs_input_grad
    wants_state, begin = wants_h0 or wants_c0, 0
    if _plain(*given):
        if not (wants_x or wants_state):  # layers at the bottom may be frozen
            begin = wants_own.index(True) // _OF_LAYER
        results = _layers_backward(*given, ctx.cell, ctx.reverse, wants_x, wants_state=wants_state, begin=begin)
    else:
        results = torch.ops.regrnn.layer_backward(*given, ctx.cell, ctx.reverse, wants_x)
    d_x, d_h0, d_c0, *of_weights = results
    out: list[Tensor | None] = [d_x if wants_x else None, d_h0 if wants_h0 else None, d_c0 if wants_c0 else None, None]
    out += [None] * (begin * _OF_LAYER)
    has_biases = given[_FIRST_OF_LAYERS + 2] is not None
    for i in range(0, len(of_weights), 4):
        out += [*of_weights[i : i + 2], *(of_weights[i + 2 : i + 4] if has_biases else (None, None)), None, None, None]
    return (*out, None, None)


_FIRST_OF_LAYERS = 7  # of what the backward pass is given: behind three gradients, x, h0, c0 and sizes

_direct_layers = _direct("Layers", _layers, _layers_setup, _layers_gradient)


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
    e, inverse_z, losses = pool.empty((_width_in_panels(V) // width, N, width)), pool.empty((N,)), pool.empty((N,))
    total = _softmax_pass(h, weight, bias, targets, e, inverse_z, losses, shared, first)
    return torch.tensor(total, dtype=h.dtype, device="cpu"), e, inverse_z


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
) -> float:
    """Fills `losses`, whose sum it returns, and, unless they are None, e and inverse_z for the backward pass."""
    (N, H), V, width, threads = h.shape, len(weight), core().panel_width, torch.get_num_threads()
    (most, *_room), m = pool.scratch(threads * N * width + _lines(N) + _GROUPS * N), 4 * threads * N * width
    lists, separate, scratch = None, None, None
    _alive: list[Tensor] = []
    if shared is not None and first is not None:
        lists, _alive = _shared(h, shared, first)
        scratch = pool.empty((N * H + _LINE + threads * _own(N, H, len(shared)),))
    elif shared is not None:
        separate, scratch = shared.contiguous(), _separate(h)
    places = (*map(_at, (h, weight, bias, targets, e, inverse_z, losses)), most, most + m, most + m + 4 * _lines(N))
    total: float = _products().softmax_forward(N, H, V, *places, lists, _at(separate), _at(scratch), threads)
    return total


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
        # Behind it, for the gradient at h, the sums that wait while a part of the depth is multiplied.
        waits = _width_in_panels(H) * N if shared is None and wants_h else 0
        turned, _room = pool.scratch(_lines((H + 1) * N) + waits)
        waiting = turned + 4 * _lines((H + 1) * N) if waits else None
    if shared is not None and first is not None:
        lists, _alive = _shared(h, shared, first)
        scratch = [pool.empty((H, _DOT_DEPTH)), _dots(h, shared), pool.empty((threads, _own(N, H, len(shared))))]
    _products().softmax_backward(
        N, H, V, *map(_at, (h, weight, e, inverse_z)), d_loss.item(), *places, turned, waiting, lists,
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


# Embeddings. Whoever traces or compiles has torch's operator.


def embeds(tokens: Tensor, weight: Tensor) -> bool:
    """Whether `embedding` takes these tensors, which `regrnn.kernels.use.fused` has let pass."""
    return tokens.dtype == torch.int64 and tokens.is_cpu and weight.is_contiguous() and _plain(tokens, weight)


def embedding(tokens: Tensor, weight_VE: Tensor) -> Tensor:
    """The rows of `weight_VE` that the tokens name, whose gradient is sparse and coalesced.

    Raises:
        IndexError: a token is outside of [0, V).
    """
    out: Tensor = _direct_embedding(tokens, weight_VE)
    return out


def _embedding(tokens: Tensor, weight: Tensor) -> Tensor:
    tokens = tokens.contiguous()
    V, E = weight.shape
    out = pool.empty((*tokens.shape, E))
    places = (tokens.data_ptr(), weight.data_ptr(), out.data_ptr())
    if not core().gather_rows(tokens.numel(), E, V, *places, torch.get_num_threads()):
        lowest, highest = (int(t) for t in tokens.aminmax())
        raise IndexError(f"tokens must be in [0, {V}), got {lowest if lowest < 0 else highest}")
    return out


def _embedding_setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    tokens, weight = inputs
    ctx.save_for_backward(tokens)
    ctx.shape = weight.shape


def _embedding_gradient(ctx: Any, d: Tensor) -> tuple[None, Tensor]:
    if torch.is_grad_enabled():
        _twice("an embedding")
    tokens, d = _contiguous(*ctx.saved_tensors, d)
    (V, E), N, kernel, threads = ctx.shape, tokens.numel(), core(), torch.get_num_threads()
    rows, (place, _room) = torch.empty((1, N), dtype=torch.int64, device="cpu"), pool.scratch(V)
    count = kernel.rows_in_use(N, V, tokens.data_ptr(), place, rows.data_ptr())
    sums = pool.empty((count, E))
    kernel.sum_rows(N, E, count, tokens.data_ptr(), place, d.data_ptr(), sums.data_ptr(), threads)
    rows = rows[:, :count]
    return None, torch.sparse_coo_tensor(rows, sums, ctx.shape, is_coalesced=True, check_invariants=False)


def ascending(rows_N: Tensor) -> bool:
    """Whether each of these numbers (int64, on the CPU) is larger than the one before."""
    rows_N = rows_N.contiguous()
    return bool(core().ascending(len(rows_N), rows_N.data_ptr()))


_direct_embedding = _direct("Embedding", _embedding, _embedding_setup, _embedding_gradient)


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


@functools.cache
def _array_of(kind: Any, count: int) -> Any:
    """The type of so many; ctypes makes a new one each time, when nothing refers to the last."""
    return kind * count


def _all(tensors: Sequence[Tensor]) -> tuple[int, Any, Any]:
    """How many there are, their sizes, and where they lie."""
    count = len(tensors)
    sizes = _array_of(ctypes.c_int64, count)(*(t.numel() for t in tensors))
    return count, sizes, _array_of(ctypes.c_void_p, count)(*(t.data_ptr() for t in tensors))


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


def descend_rows(w_VE: Tensor, rows_N: Tensor, gradient_NE: Tensor, rate: float) -> None:
    """w[rows[i]] -= rate * gradient[i], in place, for different rows; contiguous tensors, the numbers int64."""
    places = rows_N.data_ptr(), gradient_NE.data_ptr(), w_VE.data_ptr()
    core().descend_rows(len(rows_N), w_VE.size(1), *places, rate, torch.get_num_threads())


def _register() -> None:
    cpu = {
        "layer": _layers,
        "layer_backward": _layers_backward,
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
    torch.library.register_autograd("regrnn::layer", _layers_gradient, setup_context=_layers_setup, lib=_library)
    torch.library.register_autograd(
        "regrnn::softmax_cross_entropy", _softmax_gradient, setup_context=_softmax_setup, lib=_library
    )


_register()
