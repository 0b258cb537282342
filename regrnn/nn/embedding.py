"""torch.nn.Embedding whose sparse gradient the compiled core makes.

Shapes: V types, E features.
"""

import torch
from torch import Tensor, nn

from regrnn.kernels import ops
from regrnn.kernels.use import fused


class Embedding(nn.Embedding):
    """torch.nn.Embedding, the same but that of ``sparse=True`` the compiled core makes the gradient, without a sort.

    Beside a small model, what torch takes to sort and sum the rows of a sparse gradient shows.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Rows of the weight (V, E), in the shape of the input and with E features behind it.

        Raises:
            IndexError: a token is outside of [0, V).
        """
        own = self.sparse and self.padding_idx is None and self.max_norm is None and not self.scale_grad_by_freq
        if own and not torch.compiler.is_compiling() and fused(self.weight) and ops.embeds(input, self.weight):
            return ops.embedding(input, self.weight)
        return super().forward(input)
