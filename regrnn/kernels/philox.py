"""Philox4x32-10 in plain torch: the definition of the masks that src/philox.h draws faster.

Salmon, Moraes, Dror and Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def words(seed: Tensor, n: int) -> Tensor:
    """The first n 32-bit words of the stream of `seed`, as int64: word i % 4 of the block with counter i // 4.

    Args:
        seed: () int64; its low half is the first word of the key.
        n: how many.

    Returns:
        (n,) int64 in [0, 2^32), on the device of `seed`.
    """
    counter = torch.arange((n + 3) // 4, device=seed.device)
    c0, c1 = counter & _LOW, counter >> 32
    c2, c3 = torch.zeros_like(counter), torch.zeros_like(counter)
    k0, k1 = seed & _LOW, (seed >> 32) & _LOW
    for _ in range(10):
        # The products need 64 unsigned bits: int64 wraps around to the same bits, and the mask undoes the sign that
        # the shift drags along.
        a, b = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((b >> 32) & _LOW) ^ c1 ^ k0, b & _LOW, ((a >> 32) & _LOW) ^ c3 ^ k1, a & _LOW
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return torch.stack((c0, c1, c2, c3), dim=1).flatten()[:n]


def threshold(rate: float) -> int:
    """The words below it, a share of 1 - rate of all, keep their element."""
    return round((1.0 - rate) * 2**32)
