"""Memory for the core's large tensors that is used again: what the system hands out anew it hands out page by page.

At the paper's large size, the layers' backward passes write 140 MB of weights' gradients that were freed before.
glibc gives such blocks back to the system at once; making their pages anew took a tenth of a training step.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

LEAST = 1 << 18  # bytes: smaller blocks malloc keeps by itself
LARGE_PAGE = 1 << 21
UNUSED_FOR = 512  # requests
MOST = 2

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
    """Blocks that tensors have left, for the next ones.

    With those in use they are no more than `MOST` times what was in use at once; and what nobody has wanted for
    `UNUSED_FOR` requests goes back to the system when it is next asked for pages.
    """

    def __init__(self) -> None:
        # By size; tensors end on any thread and at any moment, so that nothing but appending happens then.
        self._free: dict[int, deque[tuple[int, mmap.mmap]]] = {}
        self._leases: dict[int, type[ctypes.Array[ctypes.c_byte]]] = {}
        self._lock = threading.RLock()
        self._requests = 0
        self._all = 0  # bytes, in use or not
        self._peak = 0  # bytes that were in use at once

    def empty(self, shape: Sequence[int]) -> Tensor:
        """A float32 tensor of this shape, uninitialised; its memory comes back here when nothing refers to it.

        Raises RuntimeError: there is no memory for it.
        """
        floats = math.prod(shape)
        lease = self._lend(4 * floats)
        if lease is None:
            return torch.empty(shape, dtype=torch.float32, device="cpu")  # whatever the user's defaults are
        return torch.frombuffer(lease, dtype=torch.float32, count=floats).resize_(shape)

    def scratch(self, floats: int) -> tuple[int, object]:
        """The address of uninitialised room for so many float32, and what has to live while it is used.

        It costs a small layer less than a tensor. Raises RuntimeError: as `empty`.
        """
        lease = self._lend(4 * floats)
        if lease is None:
            tensor = torch.empty(floats, dtype=torch.float32, device="cpu")
            return tensor.data_ptr(), tensor
        return ctypes.addressof(lease), lease

    def free(self) -> None:
        """Give all blocks that no tensor has back to the system."""
        with self._lock:
            self._drop(self._free_blocks())

    def held(self) -> int:
        """Bytes that no tensor has."""
        return sum(kind * len(blocks) for kind, blocks in list(self._free.items()))

    def _lend(self, size: int) -> ctypes.Array[ctypes.c_byte] | None:
        """A block of so many bytes, until nothing refers to what is returned; None: they are few, or there is none."""
        if size < LEAST:
            return None
        self._requests += 1
        kind = self._kind(size)
        kind, block = self._take(kind) or (kind, None)
        if block is None:
            try:
                block = self._map(kind)
            except OSError:
                return None  # torch's error says how much was asked for
        lease: Any = self._lease(kind).from_buffer(block)
        lease.block = block
        found: ctypes.Array[ctypes.c_byte] = lease
        return found

    @staticmethod
    def _kind(size: int) -> int:
        """The size of the blocks made for this one: at most an eighth more, so that sizes that vary share them."""
        step = max(mmap.PAGESIZE, 1 << (size.bit_length() - 4))
        return -(-size // step) * step

    def _take(self, kind: int) -> tuple[int, mmap.mmap] | None:
        """The block of this size that came back last, or one that is half as large again at most, and its size."""
        try:
            return kind, self._free[kind].pop()[1]
        except (KeyError, IndexError):
            pass
        for fits in sorted(k for k in list(self._free) if kind < k <= kind + kind // 2):
            try:
                return fits, self._free[fits].pop()[1]
            except IndexError:
                pass
        return None

    def _map(self, kind: int) -> mmap.mmap:
        """A block from the system, which gets back what is old or too much. Raises OSError: it has none."""
        with self._lock:
            self._peak = max(self._peak, self._all - self.held() + kind)
            blocks = self._free_blocks()
            old = [b for b in blocks if b[0] <= self._requests - UNUSED_FOR]
            over = self._all + kind - sum(k for _, k in old) - int(MOST * self._peak)
            for block in blocks[len(old) :]:
                if over <= 0:
                    break
                old.append(block)
                over -= block[1]
            self._drop(old)
            made = new_pages(kind)
            self._all += kind
            return made

    def _free_blocks(self) -> list[tuple[int, int]]:
        """When each came back, and its size, from the oldest."""
        return sorted((when, kind) for kind, blocks in list(self._free.items()) for when, _ in list(blocks))

    def _drop(self, oldest: Sequence[tuple[int, int]]) -> None:
        """Give these back to the system, but for those that other threads have taken meanwhile."""
        for _, kind in oldest:
            with contextlib.suppress(IndexError):
                self._free[kind].popleft()
                self._all -= kind

    def _lease(self, kind: int) -> type[ctypes.Array[ctypes.c_byte]]:
        """The class of what a tensor holds of a block, whose end puts the block back."""
        if kind not in self._leases:
            free = self._free.setdefault(kind, deque())

            def __del__(lease: Any) -> None:
                free.append((self._requests, lease.block))

            members = {"_type_": ctypes.c_byte, "_length_": kind, "__del__": __del__}
            self._leases[kind] = type("Lease", (ctypes.Array,), members)
        return self._leases[kind]


pool = Pool()
