"""The recurrent layers alone, as in a user's own loop: forward and backward of regrnn.LSTM against torch.nn.LSTM.

Both drop between the layers only, since torch's can do no more, with masks drawn for each step and sequence.

Shapes: T time, B batch, H hidden.
"""

import functools
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import regrnn
from benchmarks.options import Options
from benchmarks.results import Entry, entry
from benchmarks.timing import interleaved, rates, spread


def layer(options: Options) -> Iterator[Entry]:
    """The layers of the paper's models."""
    for size in options.chosen("small", "medium", "large"):
        shape = (size.steps, size.batch, size.hidden)
        x_TBH, d_TBH = torch.randn(shape, requires_grad=True), torch.randn(shape)
        between = regrnn.Regularization(between=size.dropout)
        lstms: dict[str, nn.Module] = {
            "ours": regrnn.LSTM(size.hidden, size.hidden, size.layers, dropout=between),
            "idiom": nn.LSTM(size.hidden, size.hidden, size.layers, dropout=size.dropout),
        }
        runs = {name: functools.partial(there_and_back, lstm, x_TBH, d_TBH) for name, lstm in lstms.items()}
        times = interleaved(runs, options.runs(size))
        flops = {"ours": size.layer_flops(left_out=True), "idiom": size.layer_flops()}
        more = {f"{name}_gflops": spread([flops[name] / taken / 1e9 for taken in times[name]]) for name in lstms}
        figures = [rates("forward and backward", "words", size.words, times["ours"], times["idiom"], **more)]
        yield entry("layer", size.name, options, size.described(), figures)


def there_and_back(lstm: nn.Module, x_TBH: Tensor, d_TBH: Tensor) -> None:
    """Forward, and backward from the gradient d at the output."""
    for tensor in itertools.chain((x_TBH,), lstm.parameters()):
        tensor.grad = None
    lstm(x_TBH)[0].backward(d_TBH)
