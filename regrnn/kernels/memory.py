"""Memory for the core's large tensors that is used again: what the system hands out anew it hands out page by page.

At the paper's large size, the layers' backward passes write 140 MB of weights' gradients that were freed before.
glibc gives such blocks back to the system at once; making their pages anew took a tenth of a training step.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

LEAST = 1 << 18  # bytes: smaller blocks malloc keeps by itself
LARGE_PAGE = 1 << 21
UNUSED_FOR = 512  # requests after which a block goes back to the system

_private = getattr(mmap, "MAP_PRIVATE", None)
_anonymous = getattr(mmap, "MAP_ANONYMOUS", None)


def new_pages(size: int) -> mmap.mmap:
    """Zeros from the system, in large pages where it has them. Raises OSError: it has not so many, or no such call."""
    if _private is None or _anonymous is None:
        raise OSError("no private mappings")
    block = mmap.mmap(-1, size, flags=_private | _anonymous)
    if size >= LARGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            block.madvise(mmap.MADV_HUGEPAGE)
    return block


def in_large_pages(tensor: Tensor) -> Tensor:
    """A contiguous copy, in large pages where the system has them.

    Products and steps of generation read all weights once, and look up where each page of 4 KiB lies.
    """
    size = tensor.numel() * tensor.element_size()
    try:
        pages = new_pages(size) if size >= LARGE_PAGE else None
    except OSError:
        pages = None
    if pages is None:
        return tensor.clone(memory_format=torch.contiguous_format)
    return torch.frombuffer(pages, dtype=tensor.dtype).resize_(tensor.shape).copy_(tensor)


class Pool:
    """Blocks that tensors have left, by their size, until nobody has wanted them for `UNUSED_FOR` requests."""

    def __init__(self) -> None:
        self._free: dict[int, deque[tuple[int, mmap.mmap]]] = {}
        self._requests = 0
        self._leases: dict[int, type[ctypes.Array[ctypes.c_byte]]] = {}

    def empty(self, shape: Sequence[int]) -> Tensor:
        """A float32 tensor of this shape, uninitialised; its memory comes back here when nothing refers to it.

        Raises RuntimeError: there is no memory for it.
        """
        size = 4 * math.prod(shape)
        if size < LEAST:
            return torch.empty(shape)
        kind = self._kind(size)
        self._requests += 1
        try:
            block = self._free[kind].pop()[1]  # the last one left: its pages may still be in a cache
        except (KeyError, IndexError):
            self._let_go(self._requests - UNUSED_FOR)
            try:
                block = new_pages(kind)
            except OSError:
                return torch.empty(shape)  # whose error says how much was asked for
        lease: Any = self._lease(kind).from_buffer(block)
        lease.block = block
        return torch.frombuffer(lease, dtype=torch.float32, count=size // 4).resize_(shape)

    def free(self) -> None:
        """Give all blocks that no tensor has back to the system."""
        self._let_go(self._requests)

    def held(self) -> int:
        """Bytes that no tensor has."""
        return sum(kind * len(blocks) for kind, blocks in list(self._free.items()))

    @staticmethod
    def _kind(size: int) -> int:
        """The size of the blocks that serve this one: at most an eighth more, so that sizes that vary share them."""
        step = max(mmap.PAGESIZE, 1 << (size.bit_length() - 4))
        return -(-size // step) * step

    def _lease(self, kind: int) -> type[ctypes.Array[ctypes.c_byte]]:
        """The class of what a tensor holds of a block, whose end puts the block back."""
        if kind not in self._leases:
            free = self._free.setdefault(kind, deque())

            def __del__(lease: Any) -> None:
                free.append((self._requests, lease.block))

            members = {"_type_": ctypes.c_byte, "_length_": kind, "__del__": __del__}
            self._leases[kind] = type("Lease", (ctypes.Array,), members)
        return self._leases[kind]

    def _let_go(self, until: int) -> None:
        """Drop blocks that came back at or before this request."""
        for blocks in list(self._free.values()):
            with contextlib.suppress(IndexError):  # another thread takes them too
                while blocks[0][0] <= until:
                    blocks.popleft()


pool = Pool()
