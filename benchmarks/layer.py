"""The recurrent layers alone, as in a user's own loop: forward and backward of regrnn.LSTM against torch.nn.LSTM.

Both drop between the layers only, since torch's can do no more, with masks drawn for each step and sequence. The rounds
are those of several processes: whether the C library gives torch's memory back to the system between two calls, whose
pages then have to be made anew, is decided by how a process began, and changes a small layer's time by half.

Shapes: T time, B batch, H hidden.
"""

import functools
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import regrnn
from benchmarks.options import Options
from benchmarks.processes import Process
from benchmarks.results import Entry, entry
from benchmarks.sizes import Size
from benchmarks.timing import interleaved, rates, spread
from benchmarks.worker import settings_of

PROCESSES = 7


def layer(options: Options) -> Iterator[Entry]:
    """The layers of the paper's models."""
    for size in options.chosen("small", "medium", "large"):
        runs = options.runs(size)
        processes = 1 if options.quick else min(PROCESSES, runs)
        flops = {"ours": size.layer_flops(left_out=True), "idiom": size.layer_flops()}
        times: dict[str, list[float]] = {name: [] for name in flops}
        for i in range(processes):
            rounds = runs * (i + 1) // processes - runs * i // processes
            with Process() as worker:
                answer = worker.ask("layer", size=settings_of(size), rounds=rounds, threads=options.threads)
            for name in times:
                times[name] += answer[name]
        more = {f"{name}_gflops": spread([flops[name] / taken / 1e9 for taken in times[name]]) for name in times}
        figures = [rates("forward and backward", "words", size.words, times["ours"], times["idiom"], **more)]
        yield entry("layer", size.name, options, size.described() | {"processes": processes}, figures)


def rounds_of(size: Size, rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in this process, round by round."""
    shape = (size.steps, size.batch, size.hidden)
    x_TBH, d_TBH = torch.randn(shape, requires_grad=True), torch.randn(shape)
    between = regrnn.Regularization(between=size.dropout)
    lstms: dict[str, nn.Module] = {
        "ours": regrnn.LSTM(size.hidden, size.hidden, size.layers, dropout=between),
        "idiom": nn.LSTM(size.hidden, size.hidden, size.layers, dropout=size.dropout),
    }
    runs = {name: functools.partial(there_and_back, lstm, x_TBH, d_TBH) for name, lstm in lstms.items()}
    return interleaved(runs, rounds)


def there_and_back(lstm: nn.Module, x_TBH: Tensor, d_TBH: Tensor) -> None:
    """Forward, and backward from the gradient d at the output."""
    for tensor in itertools.chain((x_TBH,), lstm.parameters()):
        tensor.grad = None
    lstm(x_TBH)[0].backward(d_TBH)
