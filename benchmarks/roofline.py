"""The roof: the most floating-point operations a second that the machine gives, by hand and through torch.mm."""

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.options import Options
from benchmarks.results import Entry, entry
from benchmarks.timing import interleaved, spread

SOURCE = Path(__file__).with_name("peak.cpp")
RUN_SECONDS = 0.15
SIDE = 2048
"""Of the square matrices of the big product."""


class Peak:
    """The library compiled from peak.cpp."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._seconds, self._operations = library.seconds, library.operations
        for function in (self._seconds, self._operations):
            function.restype, function.argtypes = ctypes.c_double, [ctypes.c_long, ctypes.c_int]
        first = 1_000_000
        self._turns = max(first, round(first * RUN_SECONDS / self._seconds(first, 1)))

    def gflops(self, threads: int) -> float:
        """Measured now, for `RUN_SECONDS` or so."""
        return float(self._operations(self._turns, threads) / self._seconds(self._turns, threads) / 1e9)


@functools.cache
def peak() -> Peak | None:
    """None where there is no C++ compiler."""
    names = [shlex.split(os.environ.get("CXX", "")), ["c++"], ["g++"], ["clang++"]]
    compiler = next((name for name in names if name and shutil.which(name[0])), None)
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "peak.so"
        command = [*compiler, "-O3", "-std=c++17", "-fPIC", "-shared", "-pthread", "-ffp-contract=fast"]
        # Here alone the machine's own instructions are wanted; what the flag is called depends on the compiler.
        for native in ("-march=native", "-mcpu=native"):
            done = subprocess.run([*command, native, SOURCE, "-o", target], capture_output=True)
            if done.returncode == 0:
                return Peak(ctypes.CDLL(str(target)))
    return None


def roofline(options: Options) -> Iterator[Entry]:
    """FMA peak and a big product in float32, on one thread and on all."""
    side = 64 if options.quick else SIDE
    repeats = options.repeats or (2 if options.quick else 10)
    a, b, out = torch.randn(side, side), torch.randn(side, side), torch.empty(side, side)
    figures = []
    for threads in sorted({1, options.threads}):
        torch.set_num_threads(threads)
        measured: dict[str, list[float]] = {"fma": [], "sgemm": []}
        for _ in range(repeats):
            if (roof := peak()) is not None:
                measured["fma"].append(roof.gflops(threads))
            taken = interleaved({"mm": lambda: torch.mm(a, b, out=out)}, 1, warm_up=1)["mm"][0]
            measured["sgemm"].append(2 * side**3 / taken / 1e9)
        for name, values in measured.items():
            figures.append(
                {
                    "name": f"{name}, {threads} thread{'s' if threads > 1 else ''}",
                    "unit": "GFLOP/s",
                    "runs": len(values),
                    "ours": spread(values) if values else None,
                    "idiom": None,
                    "ratio": None,
                }
            )
    torch.set_num_threads(options.threads)
    notes = [] if peak() else ["No C++ compiler was found, so the FMA peak was not measured."]
    yield entry("roofline", "machine", options, {"side": side}, figures, notes)
