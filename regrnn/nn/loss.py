"""Output projection, softmax and cross-entropy in one, for large vocabularies.

Shape suffixes: N tokens (time steps times sequences), H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regrnn.kernels import ops
from regrnn.kernels.use import fused
from regrnn.nn.regularization import RowMasks

_ROWS = 256  # rows of logits held at a time where no gradient is wanted


def softmax_cross_entropy(
    h_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, mask: RowMasks | None = None
) -> Tensor:
    """The sum of -log p of the targets under softmax(h W^T + b).

    The same as ``cross_entropy(linear(h, weight, bias), targets, reduction="sum")``, except that the forward
    pass leaves the gradient of the logits, softmax minus one at the target, in the one N x V buffer, so that
    the backward pass is two matrix products. Without gradients the buffer is not kept.

    Args:
        h_NH: last hidden layer (N, H).
        weight_VH, bias_V: output projection (V, H) and (V,) or None.
        targets_N: (N,) int64 in [0, V); none is ignored.
        mask: masks that h has still to pass; what they strike the compiled core leaves out in float32; or None.

    Returns:
        scalar, in nats.

    Raises:
        ValueError: shapes or dtypes do not fit together, or a target is out of range.
        RuntimeError: in the backward pass, if it is asked to be differentiable (``create_graph=True``).
    """
    _check(h_NH, weight_VH, bias_V, targets_N)
    core = fused(h_NH, weight_VH, bias_V)
    if mask is not None and not (core and ops.leaves_out(mask.first is None, len(weight_VH))):
        h_NH, mask = mask.strike(h_NH), None
    wanted = any(x is not None and x.requires_grad for x in (h_NH, weight_VH, bias_V))
    if not (wanted and torch.is_grad_enabled()):
        if mask is not None:
            h_NH = mask.strike(h_NH)
        return -token_log_probabilities(h_NH, weight_VH, bias_V, targets_N).sum()
    if core:
        shared = (None, None) if mask is None else (mask.values, mask.first)
        return ops.softmax_cross_entropy(h_NH, weight_VH, bias_V, targets_N, *shared)
    loss: Tensor = _SoftmaxCrossEntropy.apply(h_NH, weight_VH, bias_V, targets_N)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def token_log_probabilities(h_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor) -> Tensor:
    """log p of each target under softmax(h W^T + b), without gradient, in memory that does not grow with N V.

    Arguments and errors as of `softmax_cross_entropy`.

    Returns:
        (N,), in nats.
    """
    _check(h_NH, weight_VH, bias_V, targets_N)
    if fused(h_NH, weight_VH, bias_V):
        pieces = [
            ops.token_log_probabilities(h, weight_VH, bias_V, targets)
            for h, targets in zip(h_NH.split(_ROWS), targets_N.split(_ROWS), strict=True)
        ]
        return torch.cat(pieces)
    log_p_N = h_NH.new_empty(len(h_NH))
    buffer_NV = h_NH.new_empty(min(_ROWS, len(h_NH)), len(weight_VH))
    for start in range(0, len(h_NH), _ROWS):
        rows = slice(start, start + _ROWS)
        h = h_NH[rows]
        logits = _linear_into(buffer_NV[: len(h)], h, weight_VH, bias_V)
        log_p = torch.log_softmax(logits, 1, out=logits)
        log_p_N[rows] = log_p.gather(1, targets_N[rows, None]).squeeze(1)
    return log_p_N


def _linear_into(out_NV: Tensor, h_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None) -> Tensor:
    if bias_V is None:
        return torch.mm(h_NH, weight_VH.t(), out=out_NV)
    return torch.addmm(bias_V, h_NH, weight_VH.t(), out=out_NV)


class _SoftmaxCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor) -> Tensor:
        # One product for all rows: working on fewer at a time, so that they stay in cache, costs more (the
        # weights are read again for each lot) than the passes over the buffer save.
        logits_NV = _linear_into(h_NH.new_empty(len(h_NH), len(weight_VH)), h_NH, weight_VH, bias_V)
        target_N1 = targets_N[:, None]
        log_p_NV = torch.log_softmax(logits_NV, 1, out=logits_NV)
        loss = -log_p_NV.gather(1, target_N1).sum()
        d_logits_NV = log_p_NV.exp_()
        d_logits_NV.scatter_add_(1, target_N1, d_logits_NV.new_full((1, 1), -1.0).expand_as(target_N1))
        ctx.save_for_backward(h_NH, weight_VH, d_logits_NV)
        return loss

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        if torch.is_grad_enabled():
            # torch's once_differentiable lets this pass where d_loss is a constant, and the gradient that
            # results counts as a constant too.
            raise RuntimeError(
                "softmax_cross_entropy cannot be differentiated twice: leave out create_graph=True, or use "
                "torch.nn.functional.linear and cross_entropy"
            )
        h_NH, weight_VH, d_logits_NV = ctx.saved_tensors
        wants_h, wants_weight, wants_bias, _ = ctx.needs_input_grad
        # The scale goes to the smaller side of each product.
        d_h = torch.mm(d_logits_NV, weight_VH).mul_(d_loss) if wants_h else None
        d_weight = torch.mm(d_logits_NV.t(), h_NH * d_loss) if wants_weight else None
        d_bias = torch.mv(d_logits_NV.t(), d_loss.expand(len(h_NH))) if wants_bias else None
        return d_h, d_weight, d_bias, None


def _check(h_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor) -> None:
    if h_NH.dim() != 2 or weight_VH.dim() != 2 or h_NH.size(1) != weight_VH.size(1):
        raise ValueError(f"h must be (N, H) and weight (V, H), got {list(h_NH.shape)} and {list(weight_VH.shape)}")
    if bias_V is not None and bias_V.shape != weight_VH.shape[:1]:
        raise ValueError(f"bias must be ({len(weight_VH)},), got {list(bias_V.shape)}")
    if targets_N.shape != h_NH.shape[:1] or targets_N.dtype != torch.int64:
        raise ValueError(
            f"targets must be int64 of shape ({len(h_NH)},), got {targets_N.dtype} of {list(targets_N.shape)}"
        )
    if h_NH.dtype != weight_VH.dtype or (bias_V is not None and bias_V.dtype != h_NH.dtype):
        dtypes = ", ".join(str(x.dtype) for x in (h_NH, weight_VH, bias_V) if x is not None)
        raise ValueError(f"h, weight and bias must be of one dtype, got {dtypes}")
    if len(targets_N):
        lowest, highest = (int(t) for t in targets_N.aminmax())
        if lowest < 0 or highest >= len(weight_VH):
            wrong = lowest if lowest < 0 else highest
            raise ValueError(f"targets must be in [0, {len(weight_VH)}), got {wrong}")
