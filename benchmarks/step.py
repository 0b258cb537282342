"""One step of training: batch in, weights updated; and how it grows."""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import idiom, ours
from benchmarks.options import Options
from benchmarks.results import Entry, entry
from benchmarks.roofline import peak
from benchmarks.sizes import GROWING, TOYS, Masks, Size
from benchmarks.text import write_corpus
from benchmarks.timing import Figures, interleaved, rates, spread
from regrnn.kernels.core import choose_bfloat16
from regrnn.training.loop import matmul_precision

WINDOWS = 20
"""Different batches that the steps go through."""

GROWTH = {
    "hidden": (100, 200, 300, 450, 650, 1000),
    "batch": (1, 5, 10, 20, 40, 80),
    "steps": (5, 10, 20, 35, 70, 140),
    "vocabulary": (1_000, 3_000, 10_000, 30_000, 100_000),
}
"""One factor at a time; the others stay those of `GROWING`."""


def corpus_of(folder: Path, size: Size, windows: int = WINDOWS) -> Path:
    """Text with that many windows and one more, in a folder of its own."""
    return write_corpus(Path(tempfile.mkdtemp(dir=folder)), size.vocabulary, (windows + 1) * size.words + size.batch)


def kinds_of_masks(size: Size) -> tuple[Masks, ...]:
    """Those that differ: without dropout there are none."""
    return ("step", "batch") if size.dropout else ("step",)


def measure(
    size: Size, options: Options, setting: idiom.Setting | None = None
) -> tuple[list[Figures], dict[str, object]]:
    """Each kind of masks against the idiom, and what the idiom's setting was."""
    corpus = corpus_of(options.folder, size)
    sides = {masks: ours.Training(size, corpus, masks) for masks in kinds_of_masks(size)}
    batches = sides["step"].batches
    tried: dict[str, float] = {}
    if setting is None:
        setting, tried = idiom.best_setting(size, batches)
    roof, peaks = peak(), list[float]()
    runs: dict[str, Callable[[], object]] = {"idiom": idiom.Training(size, batches, setting).step}
    runs |= {masks: side.step for masks, side in sides.items()}
    if roof is not None:
        runs["peak"] = lambda: peaks.append(roof.gflops(torch.get_num_threads()))
    repeats = options.runs(size)
    times = interleaved(runs, repeats)
    figures = []
    for masks in sides:
        # What masks strike is work that the idiom does and regrnn leaves out.
        work = {"ours": (masks, True), "ours_whole": (masks, False), "idiom": ("idiom", False)}
        more: dict[str, object] = {}
        for side, (name, left_out) in work.items():
            gflops = [size.flops(left_out) / taken / 1e9 for taken in times[name]]
            more[f"{side}_gflops"] = spread(gflops)
            if roof is not None:
                more[f"{side}_share"] = spread([g / p for g, p in zip(gflops, peaks[-repeats:], strict=True)])
        figures.append(rates(masks, "words", size.words, times[masks], times["idiom"], **more))
    return figures, {"idiom": str(setting), "idiom_seconds": tried}


def step(options: Options) -> Iterator[Entry]:
    """The paper's models."""
    for size in options.chosen("small", "medium", "large"):
        figures, setting = measure(size, options)
        yield entry("step", size.name, options, size.described() | setting, figures)


def bfloat16(options: Options) -> Iterator[Entry]:
    """The paper's models with products in bfloat16, against the idiom's under the same setting of torch."""
    if (choice := choose_bfloat16()).core is None:
        yield entry("bfloat16", "machine", options, {}, [], [f"No products in bfloat16: {choice.reason}."])
        return

    def at_medium(run: Callable[[], object]) -> Callable[[], object]:
        def rounded() -> object:
            with matmul_precision("medium"):
                return run()

        return rounded

    for size in options.chosen("small", "medium", "large"):
        corpus = corpus_of(options.folder, size)
        training = ours.Training(size, corpus)
        batches = training.batches
        setting, _ = idiom.best_setting(size, batches)
        theirs = idiom.Training(size, batches, setting).step
        runs: dict[str, Callable[[], object]] = {
            "ours": at_medium(training.step),
            "ours in float32": training.step,
            "idiom": at_medium(theirs),
            "idiom in float32": theirs,
        }
        times = interleaved(runs, options.runs(size))
        more = {
            f"{side}_in_float32": spread([size.words / taken for taken in times[f"{side} in float32"]])
            for side in ("ours", "idiom")
        }
        saved = [f / r for f, r in zip(times["ours in float32"], times["ours"], strict=True)]
        figures = [rates("step", "words", size.words, times["ours"], times["idiom"], gain=spread(saved), **more)]
        described = size.described() | {"idiom": str(setting), "library": choice.reason}
        yield entry("bfloat16", size.name, options, described, figures)


def growth(options: Options) -> Iterator[Entry]:
    """A step as one thing grows: hidden size, batch, window, vocabulary, threads."""
    base = dataclasses.replace(TOYS["medium"], name="base") if options.quick else GROWING
    setting, _ = idiom.best_setting(base, ours.Training(base, corpus_of(options.folder, base)).batches)
    for factor, values in GROWTH.items():
        if options.quick:
            values = (getattr(base, factor), 2 * getattr(base, factor))
        figures: list[Figures] = []
        for value in values:
            changed: dict[str, Any] = {factor: value}
            size = dataclasses.replace(base, **changed)
            figures += [figure | {factor: value} for figure in measure(size, options, setting)[0]]
        yield entry("growth", factor, options, base.described() | {"idiom": str(setting)}, figures)
    figures = []
    for threads in sorted({1, *(2**n for n in range(10) if 2**n < options.threads), options.threads}):
        torch.set_num_threads(threads)
        figures += [figure | {"threads": threads} for figure in measure(base, options, setting)[0]]
    torch.set_num_threads(options.threads)
    yield entry("growth", "threads", options, base.described() | {"idiom": str(setting)}, figures)
