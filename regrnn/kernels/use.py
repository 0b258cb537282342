"""Whether the compiled core computes what is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from regrnn.kernels.core import choose

_said: set[torch.dtype] = set()
_off = ContextVar("_off", default=False)


@contextmanager
def without_core() -> Iterator[None]:
    """Has torch compute everything within, in this thread."""
    token = _off.set(True)
    try:
        yield
    finally:
        _off.reset(token)


def fused(*tensors: Tensor | None) -> bool:
    """Whether the core is there and takes these tensors: float32 on the CPU, outside of autocast and torch.func.

    Of another floating type on the CPU it says once, by a warning, that torch computes it, since that is slower.

    Raises:
        RegrnnError: `REGRNN_KERNEL` is of no known value, or demands what cannot be had.
    """
    if choose().core is None or _off.get() or torch.is_autocast_enabled("cpu"):
        return False
    transforms = torch._C._are_functorch_transforms_active()
    for tensor in tensors:
        if tensor is not None and (not tensor.is_cpu or (transforms and is_functorch_wrapped_tensor(tensor))):
            return False
    for tensor in tensors:
        if tensor is not None and tensor.dtype is not torch.float32:
            if tensor.dtype not in _said:
                _said.add(tensor.dtype)
                warnings.warn(
                    f"regrnn's compiled core computes in float32: {tensor.dtype} goes through torch, which is slower",
                    stacklevel=2,
                )
            return False
    return True
