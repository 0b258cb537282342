"""The gradient's norm, clipping and stochastic gradient descent, in one pass each over the parameters.

On the compiled core where it runs; gradients of embeddings may be sparse (``nn.Embedding(sparse=True)``), and then the
rows that a batch did not use cost nothing.
"""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from regrnn.kernels import ops
from regrnn.kernels.use import fused


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """The Euclidean norm of all gradients together, summed in double precision; a sparse one is coalesced on the way.

    torch's `clip_grad_norm_` sums in single precision, which at the paper's medium size is off by 2e-4.
    """
    total, on_core = 0.0, []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.is_sparse:
            gradient = parameter.grad = coalesced(gradient)
            gradient = gradient.values()
        if fused(gradient):
            on_core.append(gradient.contiguous())
        else:
            total += torch.linalg.vector_norm(gradient, dtype=torch.float64).item() ** 2
    if on_core:
        total += ops.sum_of_squares(on_core)
    return math.sqrt(total)


def coalesced(gradient: Tensor) -> Tensor:
    """A sparse gradient with each row once, in order.

    Autograd forgets that `regrnn.nn.Embedding` has made it so; torch's own coalesce() would sort and copy.
    """
    if not gradient.is_coalesced() and gradient.sparse_dim() == 1:
        rows, values = gradient._indices(), gradient._values()
        if fused(values) and ops.ascending(rows[0]):
            return torch.sparse_coo_tensor(rows, values, gradient.shape, is_coalesced=True, check_invariants=False)
    return gradient.coalesce()


def clip_factor(norm: float, clip: float | None) -> float:
    """What gradients of this norm are multiplied by so that their norm is at most `clip`, as in `clip_grad_norm_`."""
    return 1.0 if clip is None else min(1.0, clip / (norm + 1e-6))


@torch.no_grad()
def scale_gradients(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Multiply all gradients, in place."""
    if factor == 1.0:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


def make_embeddings_sparse(model: nn.Module) -> None:
    """Give the embeddings of a model sparse gradients, but for those whose weights another module uses too."""
    uses = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    for module in model.modules():
        if isinstance(module, nn.Embedding) and uses[id(module.weight)] == 1:
            module.sparse = True


class SGD(torch.optim.Optimizer):
    """w -= lr (g + weight_decay w), without momentum; `step_scaled` multiplies g by a factor on the way.

    Args:
        parameters: what to update.
        lr: the learning rate.
        weight_decay: not with sparse gradients, whose rows alone it would touch.
    """

    # The first call of one of torch's own imports all of torch._dynamo, to tell it to keep out: 70 MB and seconds.
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or set them to zero; see torch.optim.Optimizer."""
        for group in self.param_groups:
            for w in group["params"]:
                if set_to_none:
                    w.grad = None
                elif w.grad is not None:
                    w.grad = w.grad.detach().zero_()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update; see torch.optim.Optimizer."""
        loss = None if closure is None else closure()
        self.step_scaled(1.0)
        return loss

    @torch.no_grad()
    def step_scaled(self, factor: float) -> None:
        """One update by `factor` times the gradients."""
        for group in self.param_groups:
            lr, weight_decay = group["lr"], group["weight_decay"]
            on_core, gradients = [], []
            for w in group["params"]:
                if w.grad is None:
                    continue
                if not w.grad.is_sparse and fused(w, w.grad) and w.is_contiguous():
                    on_core.append(w)
                    gradients.append(w.grad.contiguous())
                else:
                    self._update(w, w.grad, factor, lr, weight_decay)
            if on_core:
                ops.descend(on_core, gradients, lr, factor, weight_decay)

    @staticmethod
    def _update(w: Tensor, gradient: Tensor, factor: float, lr: float, weight_decay: float) -> None:
        if gradient.is_sparse:
            if weight_decay:
                raise ValueError("weight_decay does not go with sparse gradients: it would decay the rows in use alone")
            gradient = coalesced(gradient)
            rows, values = gradient.indices()[0], gradient.values()
            if gradient.sparse_dim() == 1 and w.dim() == 2 and w.is_contiguous() and fused(w, values):
                ops.descend_rows(w, rows.contiguous(), values.contiguous(), lr * factor)
            else:
                w.index_add_(0, rows, values, alpha=-lr * factor)
        else:
            if weight_decay:
                w.mul_(1.0 - lr * weight_decay)
            w.add_(gradient, alpha=-lr * factor)
