"""Where dropout strikes a recurrent layer, how often, and how its masks are drawn.

D is the dropout operator of *Recurrent Neural Network Regularization* (Zaremba, Sutskever, Vinyals, 2014,
arXiv 1409.2329): it sets units to zero at random. Here it is inverted dropout: kept units are scaled by
1 / (1 - rate), so that a network in eval mode needs no correction.

Shape suffixes: T time, B batch, F features.
"""

from __future__ import annotations

import functools
import numbers
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from regrnn.kernels import ops

MaskKind = Literal["step", "sequence", "batch"]

LEAST_LEFT_OUT = 0.4
"""The least rate at which products take less time without what masks strike that rows have each of their own."""

LEAST_SHARED = 10
"""The least rows that share a mask for which products gain from their sharing it."""


@dataclass(frozen=True, kw_only=True)
class Regularization:
    """Rates of dropout at every place of a stack of recurrent layers, and the life of its masks.

    A rate is the probability, in [0, 1), of setting a unit to zero.

    Attributes:
        input: rate on the input of the first layer, ``D(h[t]^0)`` in the paper.
        between: rate on what goes from one layer to the next, ``D(h[t]^l)`` for 0 < l < L.
        output: rate on the output of the last layer, ``D(h[t]^L)``.
        recurrent: rate on ``h[t-1]^l`` where it enters the recurrent product. The paper has 0 here.
        masks: ``"step"`` draws a fresh mask for each time step and sequence (the paper); ``"sequence"`` draws
            one for each sequence and call and holds it over time (Gal and Ghahramani, 2016, arXiv
            1512.05287); ``"batch"`` draws one for all sequences of the batch, fresh every `every` time steps, so
            that struck columns can be left out of the matrix products.
        recurrent_masks: the same choice for the recurrent state; None means as ``masks``.
        every: time steps that a mask of kind ``"batch"`` lives, at least 1.

    Raises:
        ValueError: a rate is not a number in [0, 1), a kind of mask is unknown, or `every` is below 1.
    """

    input: float = 0.0
    between: float = 0.0
    output: float = 0.0
    recurrent: float = 0.0
    masks: MaskKind = "step"
    recurrent_masks: MaskKind | None = None
    every: int = 1

    def __post_init__(self) -> None:
        for name in ("input", "between", "output", "recurrent"):
            object.__setattr__(self, name, _checked_rate(name, getattr(self, name)))
        for name, kinds in (
            ("masks", get_args(MaskKind)),
            ("recurrent_masks", (*get_args(MaskKind), None)),
        ):
            kind = getattr(self, name)
            if kind not in kinds:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, kinds))}, got {kind!r}")
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"every must be a number of time steps, at least 1, got {self.every!r}")

    @classmethod
    def paper(cls, p: float) -> Regularization:
        """The paper's D at all L + 1 non-recurrent sites, fresh for each step: what ``dropout=p`` means."""
        return cls(input=p, between=p, output=p)

    @classmethod
    def standard(cls, p: float) -> Regularization:
        """Standard dropout, which the paper argues against: D also on the recurrent state, at every step."""
        return cls(input=p, between=p, output=p, recurrent=p)

    @classmethod
    def variational(cls, p: float) -> Regularization:
        """Gal and Ghahramani (2016): D at all sites and on the recurrent state, one mask a sequence."""
        return cls(input=p, between=p, output=p, recurrent=p, masks="sequence")

    @classmethod
    def batch(cls, p: float, every: int = 1) -> Regularization:
        """The paper's sites with one mask for the whole batch, fresh every `every` steps: it saves most time."""
        return cls(input=p, between=p, output=p, masks="batch", every=every)

    @property
    def name(self) -> str:
        """What the scheme is called: none, paper, standard, variational, batch; custom for anything else."""
        rate = max(self.input, self.between, self.output, self.recurrent)
        if rate == 0:
            return "none"
        for name in ("paper", "standard", "variational"):
            if self == getattr(type(self), name)(rate):
                return name
        return "batch" if self == self.batch(rate, self.every) else "custom"


def as_regularization(dropout: float | Regularization) -> Regularization:
    """The `Regularization` that the ``dropout`` argument of a layer stands for: a number p is the paper's."""
    if isinstance(dropout, Regularization):
        return dropout
    if isinstance(dropout, float):
        return _of_rate(dropout)  # asked for at every call of a layer
    return Regularization.paper(_checked_rate("dropout", dropout))


@functools.lru_cache
def _of_rate(rate: float) -> Regularization:
    return Regularization.paper(_checked_rate("dropout", rate))


@dataclass(frozen=True)
class RowMasks:
    """Masks that the rows of a packed batch have still to pass, so that what they strike can be left out of products.

    Attributes:
        values: (groups, F), 0 or 1 / (1 - rate).
        first: (groups + 1,) int64 on the CPU: row g of the values is that of rows [first[g], first[g + 1]). None:
            each row has its own.
    """

    values: Tensor
    first: Tensor | None = None

    def strike(self, x: Tensor) -> Tensor:
        """x through the masks, for x of N rows in all: (N, F) or (T, B, F)."""
        mask = self.values
        if self.first is not None:
            rows = x.shape[:-1].numel()  # given, so that no device has to count them, and meta tensors can pass
            mask = mask.repeat_interleave(self.first.diff().to(x.device), dim=0, output_size=rows)
        return x * mask.view(x.shape).to(x.dtype)  # under autocast a layer's output has another type than its input


def draw_mask(
    rate: float,
    T: int,
    B: int,
    F: int,
    kind: MaskKind,
    generator: torch.Generator | None,
    device: torch.device,
    dtype: torch.dtype,
    every: int = 1,
) -> Tensor:
    """Draws one mask of inverted dropout: entries are 0 with probability `rate`, else 1 / (1 - rate).

    Args:
        rate: in [0, 1).
        T, B, F: time steps, sequences, features.
        kind: ``"step"``, ``"sequence"`` or ``"batch"``, see `Regularization`.
        generator: where the seed of the mask's stream comes from; None is torch's global generator of `device`.
        every: time steps between two masks of kind ``"batch"``.

    Returns:
        (T, B, F) for ``"step"``, (1, B, F) for ``"sequence"``, (T / every rounded up, 1, F) for ``"batch"``.
    """
    seed = torch.randint(2**63 - 1, (), generator=generator, device=device)
    sizes = {"step": (T, B, F), "sequence": (1, B, F), "batch": (-(-T // every), 1, F)}
    return ops.mask(seed, rate, sizes[kind], dtype)


def _checked_rate(name: str, rate: object) -> float:
    # A bool is a number to Python, and NaN fails the comparison.
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or not 0.0 <= float(rate) < 1.0:
        raise ValueError(f"{name} must be a rate in [0, 1), got {rate!r}")
    return float(rate)
