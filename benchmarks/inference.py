"""Scoring and generating by what `regrnn.load` returns, against the idiom's loops in eval mode without gradients.

Shapes: T time, B batch.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import idiom
from benchmarks.options import Options
from benchmarks.ours import trained_model
from benchmarks.results import Entry, entry
from benchmarks.sizes import Size
from benchmarks.text import LINE, draw, shares, words
from benchmarks.timing import Figures, interleaved, rates
from regrnn.kernels.core import choose
from regrnn.kernels.stack import Storage
from regrnn.tasks.language.trained import TrainedLanguageModel

Key = TypeVar("Key")

SCORED = (1, 20)
GENERATED = (1, 64)
"""Sequences side by side."""
WINDOWS = (35, 100, 350, 1000)
"""Steps the idiom may score at once: it gets the best of these."""

STORAGES: tuple[Storage, ...] = ("float32", "int8")
"""What the weights may be held in to generate: each is measured against the idiom. Reduced ones need the core."""


def inference(options: Options) -> Iterator[Entry]:
    """Scoring and generating."""
    for size in options.chosen("small", "medium", "large"):
        model = idiom.Model(size).eval()
        trained = trained_model(size)
        for decoder in (model.decoder, trained.model.decoder):
            speak_as_text(decoder)
        figures: list[Figures] = []
        settings: dict[str, object] = size.described()
        for rows in SCORED:
            found, window = scoring(size, options, model, trained, rows)
            figures += found
            settings[f"idiom_score_{rows}"] = window
        for rows in GENERATED:
            found, how = generation(size, options, model, trained, rows)
            figures += found
            settings[f"idiom_generate_{rows}"] = how
        yield entry("inference", size.name, options, settings, figures)


@torch.no_grad()
def speak_as_text(decoder: nn.Linear) -> None:
    """Makes words as frequent in what is drawn as in text: all equally probable, they would hardly ever come again."""
    of_words = torch.from_numpy(shares(decoder.out_features)).float()
    of_unk, of_eos = of_words[-1:], torch.tensor([1 / LINE])
    decoder.bias.copy_(torch.cat([of_unk, of_eos, of_words]).log())


def scoring(
    size: Size, options: Options, model: idiom.Model, trained: TrainedLanguageModel, rows: int
) -> tuple[list[Figures], str]:
    """`rows` lines side by side, all as long; and how the idiom did it."""
    length = -(-size.score // rows)
    ids = draw(size.vocabulary, rows * length, np.random.default_rng(1)).reshape(rows, length)
    types = words(size.vocabulary)
    lines = [" ".join(types[i] for i in row) for row in ids]
    # As regrnn scores a line: after an <eos>, and its own <eos> as well.
    vocabulary = trained.vocabulary
    eos = [vocabulary.eos_id]
    ids_TB = torch.tensor([eos + vocabulary.encode_line(line) for line in lines]).T.contiguous()

    def theirs(window: int, onednn: bool) -> Callable[[], object]:
        return functools.partial(idiom.score, model, ids_TB, min(window, length), onednn)

    window = fastest({window: theirs(window, True) for window in WINDOWS})
    onednn = fastest({onednn: theirs(window, onednn) for onednn in (True, False)})
    predictions = (len(ids_TB) - 1) * rows
    sides = {"idiom": theirs(window, onednn), "float32": functools.partial(trained.score, lines)}
    times = interleaved(sides, options.runs(size), warm_up=1)
    how = f"windows of {min(window, length)}, {_onednn(onednn)}"
    return [_figure("score", rows, "float32", predictions, times)], how


def generation(
    size: Size, options: Options, model: idiom.Model, trained: TrainedLanguageModel, rows: int
) -> tuple[list[Figures], str]:
    """`rows` samples side by side, drawn from the whole distribution; and how the idiom did it."""
    first_B: Tensor = torch.zeros(rows, dtype=torch.int64)
    theirs: dict[bool, Callable[[], object]] = {
        onednn: functools.partial(idiom.generate, model, first_B, size.generate, onednn) for onednn in (True, False)
    }
    onednn = fastest(theirs)
    sides: dict[str, Callable[[], object]] = {"idiom": theirs[onednn]}
    storages = STORAGES if choose().core is not None else STORAGES[:1]
    for storage in storages:
        sides[storage] = functools.partial(trained.generate, length=size.generate, samples=rows, storage=storage)
    times = interleaved(sides, options.runs(size), warm_up=1)
    figures = [_figure("generate", rows, name, rows * size.generate, times) for name in storages]
    return figures, _onednn(onednn)


def fastest(sides: Mapping[Key, Callable[[], object]]) -> Key:
    """The key of the side that takes the least time of two turns."""
    names = {str(key): key for key in sides}
    times = interleaved({str(key): side for key, side in sides.items()}, 2, warm_up=0)
    return names[min(times, key=lambda name: min(times[name]))]


def _onednn(enabled: bool) -> str:
    return f"oneDNN {'on' if enabled else 'off'}"


def _figure(verb: str, rows: int, storage: str, work: int, times: Mapping[str, Sequence[float]]) -> Figures:
    figure = rates(f"{verb}, batch {rows}, {storage}", "words", work, times[storage], times["idiom"])
    return figure | {"verb": verb, "batch": rows, "storage": storage}
