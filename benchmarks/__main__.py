"""The command line of the suite; `python -m benchmarks --help`."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.inference import inference
from benchmarks.layer import layer
from benchmarks.options import Options
from benchmarks.processes import corpus, members, memory, process
from benchmarks.results import RESULTS, Entry, save
from benchmarks.roofline import roofline
from benchmarks.sizes import SIZES
from benchmarks.step import bfloat16, growth, step
from benchmarks.tables import lines
from benchmarks.translation import translation
from regrnn.errors import RegrnnError

PARTS: dict[str, Callable[[Options], Iterator[Entry]]] = {
    "roofline": roofline,
    "step": step,
    "bfloat16": bfloat16,
    "layer": layer,
    "inference": inference,
    "translation": translation,
    "memory": memory,
    "members": members,
    "process": process,
    "growth": growth,
    "corpus": corpus,
}


def parser() -> argparse.ArgumentParser:
    """The flags."""
    out = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure regrnn against the PyTorch idiom and against the processor's own limits. Each part, and "
        "each size of a part, is added to the results file as soon as it is measured.",
    )
    out.add_argument("names", nargs="*", metavar="NAME", help=f"parts to run: {', '.join(PARTS)} (default: all)")
    out.add_argument("--sizes", help=f"of {','.join(SIZES)} (default: each part's own)")
    out.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the processor (default: all)")
    out.add_argument("--repeats", type=int, help="runs of each side (default: each size's own)")
    out.add_argument("--out", type=Path, help=f"results file (default: {RESULTS.name}; with --quick none)")
    out.add_argument("--quick", action="store_true", help="toy sizes: whether everything runs, nothing else")
    out.add_argument("--full", action="store_true", help="corpus: up to 1 GB of text")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit status."""
    flags = parser().parse_args(arguments)
    sizes = tuple(flags.sizes.split(",")) if flags.sizes else None
    for given, known in ((flags.names, PARTS), (sizes or (), SIZES)):
        if unknown := [name for name in given if name not in known]:
            parser().error(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    for name in ("threads", "repeats"):
        if getattr(flags, name) is not None and getattr(flags, name) < 1:
            parser().error(f"--{name} must be at least 1")

    import torch

    before, cache = torch.get_num_threads(), os.environ.get("REGRNN_CACHE")
    out = flags.out or (None if flags.quick else RESULTS)
    try:
        torch.set_num_threads(flags.threads)
        with tempfile.TemporaryDirectory(prefix="regrnn-benchmarks-") as folder:
            os.environ["REGRNN_CACHE"] = str(Path(folder) / "cache")  # generated text has no place in the user's
            options = Options(
                folder=Path(folder), threads=flags.threads, sizes=sizes, repeats=flags.repeats, quick=flags.quick,
                full=flags.full,
            )  # fmt: skip
            for name in flags.names or PARTS:
                began = time.monotonic()
                for found in PARTS[name](options):
                    found["seconds"] = round(time.monotonic() - began, 1)
                    began = time.monotonic()
                    if out is not None:
                        save(out, found)
                    print("\n".join(lines(found)), flush=True)
    except RegrnnError as error:
        print(f"benchmarks: error: {error}", file=sys.stderr)
        return 1
    finally:
        torch.set_num_threads(before)
        if cache is None:
            os.environ.pop("REGRNN_CACHE", None)
        else:
            os.environ["REGRNN_CACHE"] = cache
    return 0


if __name__ == "__main__":
    sys.exit(main())
