"""Counts how many times dropout strikes what travels through a module: figure 3 of the paper, measured.

*Recurrent Neural Network Regularization* (Zaremba, Sutskever, Vinyals, 2014, arXiv 1409.2329): with dropout
on the non-recurrent connections only, information that enters a stack of L recurrent layers at time t-k and
is read at time t+m passes the dropout operator exactly L + 1 times, however many steps it crosses.

Nothing here reads a configuration. The module runs once, and every number that torch computes has a shadow:
of what kind the number is, and the least and the most strikes on any path to it from the marked time step of
the input. Each operation of torch moves the shadows as it moves the numbers. A shadow belongs to a place in
memory (an element of a storage), so views, and writes through views, need no rule of their own.

A number derives from constants of the program (then its value is known, and a product with a known zero
carries nothing), from parameters (of any value), from random draws within the run (then it is noise, as a mask
is; with parameters too, weights that a mask has struck), or it is data: it derives from the input, whatever
else went into it. A strike is an operation that brings data together with noise: a product with a mask, a
choice by a mask, a matrix product with weights that a mask has struck. A sum with noise is one too, but not a
sum with parameters that a mask has struck, as with a bias: that leaves the data what they were.

The shadow of a tensor is an int32 tensor of its shape with a dimension of `_FIELDS` in front:

    data, noise, weight    1 or 0: what the number derives from; both noise and weight are 0 in data
    least                  _FAR - the least strikes on any path, or 0 if there is no path
    most                   1 + the most strikes on any path, or 0 if there is no path

so that wherever several numbers make one, each field is the maximum of theirs.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from regrnn.errors import RegrnnError
from regrnn.kernels.use import without_core

_FIELDS = 5
_DATA, _NOISE, _WEIGHT, _LEAST, _MOST = range(_FIELDS)
_FAR = 2**30


class CorruptionCount(NamedTuple):
    """Strikes of dropout on the paths from one time step of the input to one of the output.

    Attributes:
        least: on the path with the fewest.
        most: on the path with the most.
    """

    least: int
    most: int


def corruption_count(
    module: nn.Module | Callable[[Tensor], object],
    *,
    back: int = 2,
    ahead: int = 2,
    inputs: Tensor | None = None,
    time_dim: int | None = None,
) -> CorruptionCount:
    """Measures how often dropout strikes what enters at time t - back and is read at time t + ahead.

    The paper's answer for L layers is L + 1, on every path and whatever the distance::

        >>> corruption_count(regrnn.LSTM(8, 8, num_layers=2, dropout=0.5))
        CorruptionCount(least=3, most=3)
        >>> corruption_count(torch.nn.LSTM(8, 8, num_layers=2, dropout=0.5))
        CorruptionCount(least=1, most=1)

    Standard dropout strikes h[t-1] too, so `most` grows by one with every step. In an RNN `least` grows with
    it; in an LSTM and a GRU it does not, because information can cross time in the cell state c (or in z *
    h[t-1]), which that mask does not touch.

    The module runs in train mode. An nn.Module is copied to the CPU first; neither it nor torch's global
    random state is changed. Masks must come from torch's random operations within the run: a mask from NumPy,
    or one drawn before, is a constant. Python control flow that depends on data (``if x.sum() > 0``, an
    integer taken out of a tensor) is not followed. A bypass of a mask, as in ``x + mask * x``, is a path
    without a strike. Noise that is added is a strike too, unless a parameter scales it: a bias that a mask has
    struck does data no harm. In a bidirectional layer a path may run past the time it is read at and come back.

    Args:
        module: called with the input alone; the first tensor it returns is the output. A function that is not
            an nn.Module runs as it is, so what it keeps and changes stays changed.
        back, ahead: time steps, at least 0; only their sum, the distance, matters.
        inputs: what to run the module on: floats, or integer token ids of a module that embeds them. Their
            values do not matter. By default random floats of (T, 2, module.input_size), or
            (2, T, module.input_size) if time is dimension 1, with T = back + ahead + 3.
        time_dim: the dimension of inputs and output that is time; by default 1 for a module with
            ``batch_first`` and 0 for any other.

    Returns:
        the least and the most strikes over all paths, to any element of the output at that time.

    Raises:
        ValueError: back or ahead is negative; inputs are missing or shorter than the distance; the output has
            no time dimension, or does not depend on the input at that distance.
        RegrnnError: the module does something that cannot be followed; the message names it.
    """
    if back < 0 or ahead < 0:
        raise ValueError(f"back and ahead must be at least 0, got back={back} and ahead={ahead}")
    return _counts(module, [back + ahead], inputs, time_dim)[0]


def corruption_profile(
    module: nn.Module | Callable[[Tensor], object],
    distance: int,
    *,
    inputs: Tensor | None = None,
    time_dim: int | None = None,
) -> list[CorruptionCount]:
    """Measures `corruption_count` for every distance from 0 to `distance`, in one run of the module.

    Args:
        module, inputs, time_dim: see `corruption_count`.
        distance: the longest distance between input and output, in time steps, at least 0.

    Returns:
        the counts of distances 0, 1, ..., distance.

    Raises:
        ValueError, RegrnnError: see `corruption_count`.
    """
    if distance < 0:
        raise ValueError(f"distance must be at least 0, got {distance}")
    return _counts(module, range(distance + 1), inputs, time_dim)


def _counts(
    module: nn.Module | Callable[[Tensor], object],
    distances: Sequence[int],
    inputs: Tensor | None,
    time_dim: int | None,
) -> list[CorruptionCount]:
    """Runs the module and reads its output at distances that increase."""
    distance = distances[-1]
    if time_dim is None:
        time_dim = 1 if getattr(module, "batch_first", False) else 0
    if inputs is None:
        inputs = _default_inputs(module, distance + 3, batch_first=time_dim in (1, -2))
    elif not -inputs.dim() <= time_dim < inputs.dim():
        raise ValueError(f"inputs of shape {tuple(inputs.shape)} have no dimension time_dim={time_dim}")
    T = inputs.size(time_dim)
    if distance >= T:
        raise ValueError(
            f"inputs have {T} time steps in dimension {time_dim}, fewer than the {distance + 1} "
            f"that a distance of {distance} needs"
        )
    # Leave a step before the marked one where there is one: then its state is the ordinary one, made of data.
    marked = (T - distance) // 2

    # In inference mode operations that are made of others, a whole LSTM among them, would come in one piece.
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]), _eagerly(), without_core():
        if isinstance(module, nn.Module):
            module = copy.deepcopy(module).to("cpu").train()
        x = inputs.detach().to("cpu", copy=True)
        follower = _Follower(x, marked, time_dim)
        with follower:
            returned = module(x)
        output = _first_tensor(returned)
        if output is None:
            raise ValueError(f"the module returned no tensor but {type(returned).__name__}")
        if not -output.dim() <= time_dim < output.dim() or output.size(time_dim) != T:
            raise ValueError(
                f"the output has no time dimension: its shape is {tuple(output.shape)}, and dimension "
                f"{time_dim} should be the {T} time steps of the inputs"
            )
        shadow = follower.shadow(output).movedim(time_dim % output.dim() + 1, 0)
        return [_count(shadow[marked + d], d) for d in distances]


def _default_inputs(module: object, T: int, batch_first: bool) -> Tensor:
    """Random floats for a module that says its `input_size`."""
    input_size = getattr(module, "input_size", None)
    if not isinstance(input_size, int):
        raise ValueError("the module has no integer input_size, so say what to run it on: inputs=...")
    parameters = module.parameters() if isinstance(module, nn.Module) else iter(())
    dtype = next((p.dtype for p in parameters if p.is_floating_point()), torch.get_default_dtype())
    shape = (2, T, input_size) if batch_first else (T, 2, input_size)
    generator = torch.Generator()  # the global one is the caller's
    return torch.rand(shape, generator=generator, dtype=dtype, device="cpu")


@contextmanager
def _eagerly() -> Iterator[None]:
    """Has torch compute operation by operation, also recurrent layers and compiled modules."""
    # torch.backends.mkldnn.flags does the same, and warns about TF32 on the way.
    onednn = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    # Without torch._dynamo, which takes seconds to import, nothing can be compiled.
    compiled = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    try:
        with compiled:
            yield
    finally:
        torch._C._set_mkldnn_enabled(onednn)


def _first_tensor(returned: object) -> Tensor | None:
    if isinstance(returned, Tensor):
        return returned
    parts: Sequence[object] = ()
    if isinstance(returned, Mapping):
        parts = list(returned.values())
    elif isinstance(returned, list | tuple):
        parts = returned
    elif dataclasses.is_dataclass(returned):
        parts = [getattr(returned, field.name) for field in dataclasses.fields(returned)]
    return next((t for t in map(_first_tensor, parts) if t is not None), None)


def _count(shadow: Tensor, distance: int) -> CorruptionCount:
    if not shadow[_MOST].any():
        raise ValueError(
            f"no path from input to output: at a distance of {distance} time steps the output does not "
            "depend on the input"
        )
    return CorruptionCount(least=_FAR - int(shadow[_LEAST].max()), most=int(shadow[_MOST].max()) - 1)


# Shadows.


def _shadow(*derived_from: int, shape: Sequence[int] = ()) -> Tensor:
    """Of numbers that all derive from the same, without paths; from nothing but constants by default."""
    shadow = torch.zeros(_FIELDS, *shape, dtype=torch.int32, device="cpu")
    for field in derived_from:
        shadow[field] = 1
    return shadow


def _with_rank(shadow: Tensor, rank: int) -> Tensor:
    """Dimensions of 1 put after the fields, for torch's broadcasting to find the others where they belong."""
    return shadow[(slice(None), *[None] * (rank + 1 - shadow.dim()))]


def _joined(*shadows: Tensor, sums: bool = False) -> Tensor:
    """Of numbers each made of one of each shadow's, with torch's broadcasting; see `_struck` for `sums`."""
    rank = max(shadow.dim() for shadow in shadows) - 1
    joined = functools.reduce(torch.maximum, (_with_rank(shadow, rank) for shadow in shadows))
    return _struck(joined.clone(), sums) if len(shadows) == 1 else _struck(joined, sums)


def _reduced(shadow: Tensor, dims: Sequence[int], keepdim: bool) -> Tensor:
    """Of numbers made of all those along the dimensions, or of all there are if `dims` is empty."""
    rank = shadow.dim() - 1
    fields_dims = [d % rank + 1 for d in dims] or range(1, rank + 1)
    return _struck(shadow.amax(tuple(fields_dims), keepdim) if rank else shadow.clone(), sums=True)


def _struck(met: Tensor, sums: bool) -> Tensor:
    """Counts, in place, the strikes where data and noise have met.

    `sums`: whether they were added, or otherwise put side by side, rather than multiplied.
    """
    data, noise, weight, least, most = met
    strike = data * noise * (1 - weight) if sums else data * noise
    least -= strike * (least > 0)
    most += strike * (most > 0)
    noise *= 1 - data
    weight *= 1 - data
    return met


def _is_uniform(shadow: Tensor) -> bool:
    return bool((shadow == shadow.flatten(1)[:, :1].view(-1, *[1] * (shadow.dim() - 1))).all())


class _Call:
    """One call of an operation: its arguments by name, and their shadows."""

    def __init__(self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], follower: _Follower) -> None:
        self.func = func
        self.follower = follower
        self.name = func._schema.name.removeprefix("aten::")
        if not self.name.endswith("__"):
            self.name = self.name.removesuffix("_")  # the in-place variant of an operation has the same rule
        parameters = func._schema.arguments
        self.arguments = {p.name: p.default_value for p in parameters if p.has_default_value()}
        self.arguments |= dict(zip((p.name for p in parameters), args, strict=False)) | dict(kwargs)

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def tensors(self, but: str = "") -> list[Tensor]:
        """All tensors among the arguments, except the argument of this name."""
        return list(_tensors([value for name, value in self.arguments.items() if name != but]))

    def shadow(self, argument: str) -> Tensor:
        """Of a tensor, or of a number or nothing, which are constants."""
        value = self.arguments[argument]
        return self.follower.shadow(value) if isinstance(value, Tensor) else _shadow()

    def is_known(self, argument: str) -> Tensor:
        """Where a tensor is made of constants alone."""
        return ~self.shadow(argument)[: _WEIGHT + 1].any(0)

    def nonzero(self, argument: str) -> Tensor:
        """False where the argument is a known zero, so that its product with anything carries nothing."""
        value = self.arguments[argument]
        return (value != 0) | ~self.is_known(argument) if isinstance(value, Tensor) else torch.tensor(value != 0)

    def carries_data(self, tensors: Iterable[Tensor]) -> bool:
        return any(bool(self.follower.shadow(t)[_DATA].any()) for t in tensors)

    def is_fixed(self, tensors: Iterable[Tensor]) -> bool:
        """Whether neither data nor noise is in any of them."""
        return not any(bool(self.follower.shadow(t)[: _NOISE + 1].any()) for t in tensors)

    def refusal(self, why: str = "") -> RegrnnError:
        return RegrnnError(
            f"corruption_count cannot follow the operation {self.func}{why}: write that part of the module "
            "with elementwise operations, matrix products, reductions, indexing and concatenation"
        )


class _Follower(TorchDispatchMode):
    """Runs every operation of torch within its context, and computes the shadows of the results."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, the default, imports torch._dynamo at the first operation: 2 s for nothing

    def __init__(self, x: Tensor, marked: int, time_dim: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # By the address of a storage: itself (which keeps the address taken), its element size, its shadow.
        self._storages: dict[int, tuple[torch.UntypedStorage, int, Tensor]] = {}
        shadow = _shadow(_DATA, shape=x.shape)
        shadow[_LEAST].select(time_dim, marked).fill_(_FAR)
        shadow[_MOST].select(time_dim, marked).fill_(1)
        self._put(x, shadow)

    def shadow(self, tensor: Tensor) -> Tensor:
        """The shadow of a tensor, as a view of its storage's."""
        if tensor.layout != torch.strided:
            raise RegrnnError(f"corruption_count cannot follow a tensor with layout {tensor.layout}")
        storage = tensor.untyped_storage()
        size = storage.nbytes() // tensor.element_size()
        if storage._cdata not in self._storages:
            is_weight = isinstance(tensor, nn.Parameter) or tensor.requires_grad
            flat = _shadow(*[_WEIGHT] * is_weight, shape=[size])
            self._storages[storage._cdata] = storage, tensor.element_size(), flat
        _, element_size, flat = self._storages[storage._cdata]
        if element_size != tensor.element_size() or flat.size(1) != size:
            raise RegrnnError(
                "corruption_count cannot follow a tensor that is resized, or viewed with elements of another "
                "size: copy it instead"
            )
        return flat.as_strided((_FIELDS, *tensor.shape), (size, *tensor.stride()), tensor.storage_offset())

    def _put(self, tensor: Tensor, shadow: Tensor) -> None:
        self.shadow(tensor).copy_(_with_rank(shadow, tensor.dim()))

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        call = _Call(func, args, kwargs, self)
        for tensor in call.tensors():
            self.shadow(tensor)  # gives storages that were not seen before theirs
        if func._schema.is_mutable and torch.Tag.inplace_view not in func.tags:
            shadows = _follow(call)  # before the arguments change
            result = func(*args, **kwargs)
            outputs = list(_tensors([result]))
            if not outputs:
                raise call.refusal()
        else:
            result = func(*args, **kwargs)
            outputs = list(_tensors([result]))
            if all(t.layout == torch.strided and t.untyped_storage()._cdata in self._storages for t in outputs):
                # A view, which has its shadow; or not a tensor.
                if (
                    call.name == "_local_scalar_dense"
                    and call["self"].is_floating_point()
                    and not call.is_fixed([call["self"]])
                ):
                    raise call.refusal(" (a float taken out of a tensor, as .item() does)")
                return result
            shadows = _follow(call)
        if len(shadows) == 1:
            shadows *= len(outputs)
        for output, shadow in zip(outputs, shadows, strict=True):
            self._put(output, shadow)
        return result


def _tensors(values: Iterable[object]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


_Rule = Callable[[_Call], Tensor | list[Tensor]]


def _follow(call: _Call) -> list[Tensor]:
    """The shadows of an operation's results: one for each, or one for all; they broadcast to them."""
    tensors, tags = call.tensors(), call.func.tags
    rule: _Rule
    if call.name in _RULES:
        rule = _RULES[call.name]
    elif torch.Tag.nondeterministic_seeded in tags:
        rule = _random
    elif call.name in _VALUELESS or not tensors:
        return [_shadow()]
    elif torch.Tag.reduction in tags:
        rule = _reduction
    elif _is_elementwise(call.name):
        rule = _elementwise
    elif call.carries_data(tensors):
        raise call.refusal()
    else:
        rule = _without_data
    shadows = rule(call)
    return shadows if isinstance(shadows, list) else [shadows]


# The rules. Operations whose results depend on the shape of their arguments alone:
_VALUELESS = frozenset(
    {
        "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full",
        "new_empty", "new_empty_strided", "zero",
    }
)  # fmt: skip

# Elementwise operations that torch does not tag as such:
_ELEMENTWISE = frozenset(
    {
        "_to_copy", "abs", "copysign", "eq", "ge", "gelu", "gt", "hardswish", "le", "lt", "mish", "ne",
        "prelu", "_prelu_kernel", "relu", "relu6", "threshold", "__and__", "__or__", "__xor__",
    }
)  # fmt: skip
_SUMS = frozenset({"add", "rsub", "sub"})


@functools.cache
def _is_elementwise(name: str) -> bool:
    packet = getattr(torch.ops.aten, name, None)
    tagged = packet is not None and any(
        torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads()
    )
    return tagged or name in _ELEMENTWISE


def _elementwise(call: _Call) -> Tensor:
    shadows = [call.follower.shadow(t) for t in call.tensors(but="out")]
    return _joined(*shadows, sums=call.name in _SUMS)


def _product(call: _Call, one: str = "self", other: str = "other") -> Tensor:
    product = _joined(call.shadow(one), call.shadow(other))
    return product * (call.nonzero(one) & call.nonzero(other))


def _sum_and_product(call: _Call) -> Tensor:
    return _joined(call.shadow("self"), _product(call, "tensor1", "tensor2"), sums=True)


def _choice(call: _Call, condition: str, chosen: str, other: str) -> Tensor:
    """By a condition: a known one leaves one path, any other both."""
    shadows = call.shadow(condition), call.shadow(chosen), call.shadow(other)
    both = _joined(*shadows)
    _, one, two = (_with_rank(shadow, both.dim() - 1) for shadow in shadows)
    return torch.where(call.is_known(condition), torch.where(call[condition] != 0, one, two), both)


def _copied(call: _Call) -> Tensor:
    return call.shadow("src")


def _filled(call: _Call) -> Tensor:
    return call.shadow("value")


def _without_data(call: _Call) -> Tensor:
    """Any operation on constants, parameters and noise: they carry no paths."""
    elements = [call.follower.shadow(t).reshape(_FIELDS, -1) for t in call.tensors()]
    return _reduced(torch.cat(elements, 1), [], keepdim=False)


# Random draws.


def _random(call: _Call) -> Tensor:
    """Noise, unless its probabilities are data."""
    # Operations that draw in place or "like" a tensor use its shape, not its values; so does bernoulli(x, p).
    shape_only = call.func._schema.is_mutable or call.name.endswith("_like") or call.func._overloadname == "p"
    if call.carries_data(call.tensors(but="self" if shape_only else "")):
        raise call.refusal(", which is random, on data")
    return _shadow(_NOISE)


def _native_dropout(call: _Call) -> list[Tensor]:
    if call["train"] is False:
        return [call.shadow("input"), _shadow()]
    noise = _shadow(_NOISE)
    return [_joined(call.shadow("input"), noise) * call.nonzero("input"), noise]


# Several elements into one.


def _reduction(call: _Call) -> Tensor:
    dims = call.arguments.get("dim")
    dims = [] if dims is None else [dims] if isinstance(dims, int) else dims
    return _reduced(call.shadow("self"), dims, bool(call.arguments.get("keepdim")))


def _softmax(call: _Call) -> Tensor:
    reduced = _reduced(call.shadow("self"), [call["dim"]], keepdim=True)
    left_out: Tensor = call.is_known("self") & (call["self"] == -torch.inf)  # its softmax is a known zero
    return reduced * ~left_out


def _cumulation(call: _Call) -> Tensor:
    dim = call["dim"] % call["self"].dim() + 1
    return _struck(call.shadow("self").cummax(dim).values, sums=True)


def _layer_norm(call: _Call) -> list[Tensor]:
    x = call.shadow("input")
    statistics = _reduced(x, range(-len(call["normalized_shape"]), 0), keepdim=True)
    scaled = _joined(x, statistics, call.shadow("weight"))
    return [_joined(scaled, call.shadow("bias"), sums=True), statistics, statistics]


_FACTORS = {
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "mv": ("self", "vec"),
    "dot": ("self", "tensor"),
    "addmm": ("mat1", "mat2"),
    "addmv": ("mat", "vec"),
    "baddbmm": ("batch1", "batch2"),
}


def _matrix(call: _Call) -> Tensor:
    one, other = _FACTORS[call.name]
    a, a_nonzero, b, b_nonzero = call.shadow(one), call.nonzero(one), call.shadow(other), call.nonzero(other)
    a_is_vector, b_is_vector = a_nonzero.dim() == 1, b_nonzero.dim() == 1
    if a_is_vector:
        a, a_nonzero = a.unsqueeze(-2), a_nonzero.unsqueeze(-2)
    if b_is_vector:
        b, b_nonzero = b.unsqueeze(-1), b_nonzero.unsqueeze(-1)
    product = _matrix_product(a, b, a_nonzero, b_nonzero)
    if b_is_vector:
        product = product.squeeze(-1)
    if a_is_vector:
        product = product.squeeze(-2 if not b_is_vector else -1)
    return _joined(call.shadow("self"), product, sums=True) if "add" in call.name else product


def _matrix_product(a: Tensor, b: Tensor, a_nonzero: Tensor, b_nonzero: Tensor) -> Tensor:
    """Sums of products: shadows of (..., n, k) and (..., k, m) make one of (..., n, m)."""
    shape = (*a.shape[:-1], b.size(-1))
    # The elements of weights are all alike, and then so are the columns, or the rows, of the product.
    if b_nonzero.all() and _is_uniform(b):
        terms = _joined(a, b[..., :1, :1]) * a_nonzero
        return _reduced(terms, [-1], keepdim=True).expand(shape)
    if a_nonzero.all() and _is_uniform(a):
        terms = _joined(a[..., :1, :1], b) * b_nonzero
        return _reduced(terms, [-2], keepdim=True).expand(shape)
    # Row by row of a, for n * k * m shadows at once can be too many.
    rows = []
    for i in range(shape[-2]):
        terms = _joined(a[..., i, :, None], b) * (a_nonzero[..., i, :, None] & b_nonzero)
        rows.append(_reduced(terms, [-2], keepdim=False))
    return torch.stack(rows, dim=-2)


# Elements that move. The operation itself moves their shadows.

_MOVED = frozenset({"self", "src", "tensors", "values"})


def _moved(call: _Call) -> Tensor:
    if call.arguments.get("accumulate") or call.arguments.get("reduce"):
        raise call.refusal(" with accumulation")

    def argument(name: str, field: int) -> object:
        value = call[name]
        if name == "value":  # a number to pad or to fill with
            return 0
        if name not in _MOVED:
            return value
        if isinstance(value, Tensor):
            # An operation in place must not write into the shadow before its time.
            return call.follower.shadow(value)[field].clone()
        return [call.follower.shadow(tensor)[field] for tensor in value]

    fields = [call.func(**{name: argument(name, field) for name in call.arguments}) for field in range(_FIELDS)]
    return torch.stack(fields)


def _picked(call: _Call) -> Tensor:
    """index_select and gather, by indices that may be data."""
    index = call.shadow("index")
    if call.name == "index_select":
        dims = call["self"].dim()
        index = index.reshape(_FIELDS, *[-1 if d == call["dim"] % dims else 1 for d in range(dims)])
    return _joined(_moved(call), index)


def _indexed(call: _Call) -> Tensor:
    """x[indices]; one index of integers, as in ``weight[tokens]``, may be data."""
    if call.is_fixed(_tensors(call["indices"])):
        return _moved(call)
    (index, *others) = call["indices"]
    if others or index.dtype == torch.bool:
        raise call.refusal(" with indices that derive from data or noise")
    rows, by = _moved(call), call.follower.shadow(index)
    return _joined(rows, by.reshape(*by.shape, *[1] * (rows.dim() - by.dim())))


def _put_by_index(call: _Call) -> Tensor:
    """x[indices] = values; with one mask and one value it is a choice, whatever the mask derives from."""
    if call.is_fixed(_tensors(call["indices"])):
        return _moved(call)
    (mask, *others) = call["indices"]
    if others or mask.dtype != torch.bool or call["values"].numel() != 1 or call["accumulate"]:
        raise call.refusal(" with indices that derive from data or noise")
    call.arguments["mask"] = mask.reshape(*mask.shape, *[1] * (call["self"].dim() - mask.dim()))
    call.arguments["value"] = call["values"].reshape(())
    return _choice(call, "mask", "value", "self")


def _scattered(call: _Call) -> Tensor:
    """By indices that may be data, as in one_hot: then any element along `dim` may be the one written."""
    if call.is_fixed([call["index"]]):
        return _moved(call)
    dim: int = call["dim"]
    if call.arguments.get("reduce") or call["self"].narrow(dim, 0, 1).shape != call["index"].narrow(dim, 0, 1).shape:
        raise call.refusal(" with indices that derive from data or noise")
    written = _joined(call.shadow("index"), call.shadow("src" if "src" in call.arguments else "value"))
    return _joined(call.shadow("self"), _reduced(written, [dim], keepdim=True))


def _embedded(call: _Call) -> Tensor:
    rows = call.shadow("weight")[:, call["indices"]]
    return _joined(rows, call.shadow("indices").unsqueeze(-1))


def _packed(call: _Call) -> list[Tensor]:
    """torch.nn.utils.rnn.pack_padded_sequence: the elements and the batch sizes."""
    lengths, batch_first = call["lengths"], call["batch_first"]
    fields = [call.func(field.contiguous(), lengths, batch_first)[0] for field in call.shadow("input")]
    return [torch.stack(fields), _shadow()]


_RULES: dict[str, _Rule] = {
    "mul": _product,
    "addcmul": _sum_and_product,
    "where": lambda call: _choice(call, "condition", "self", "other"),
    "mask": _random,  # of regrnn, from a seed
    "masked_fill": lambda call: _choice(call, "mask", "value", "self"),
    "copy": _copied,
    "fill": _filled,
    "native_dropout": _native_dropout,
    "_softmax": _softmax,
    "_log_softmax": _softmax,
    "_safe_softmax": _softmax,
    "cumsum": _cumulation,
    "cumprod": _cumulation,
    "native_layer_norm": _layer_norm,
    "index_select": _picked,
    "gather": _picked,
    "index": _indexed,
    "index_put": _put_by_index,
    "scatter": _scattered,
    "embedding": _embedded,
    "_pack_padded_sequence": _packed,
    "cat": _moved,
    "constant_pad_nd": _moved,
    "flip": _moved,
    "repeat": _moved,
    "roll": _moved,
    "select_scatter": _moved,
    "slice_scatter": _moved,
    "stack": _moved,
    "tril": _moved,
    "triu": _moved,
    **dict.fromkeys(_FACTORS, _matrix),
}
