"""regrnn's side: the training loop of `regrnn train` without its files, and a model to score and generate with."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.sizes import Masks, Size
from benchmarks.text import words
from regrnn.data.vocabulary import EOS, UNK, WordVocabulary
from regrnn.tasks.language.model import LanguageModel, ModelConfig
from regrnn.tasks.language.trained import TrainedLanguageModel
from regrnn.tasks.protocol import get_task
from regrnn.training.loop import Trainer
from regrnn.training.recipe import Recipe, read_recipe, recipe_from_dict
from regrnn.training.run import Run

CPU = torch.device("cpu")


class Silent:
    """Progress of a run that nobody watches (`regrnn.training.loop.Progress`)."""

    def resumed(self, checkpoint: Path, values: dict[str, Any]) -> None: ...
    def step(self, epoch: int, position: int, batches: int, loss: float, rate: float) -> None: ...
    def evaluating(self, split: str) -> None: ...
    def epoch(self, record: dict[str, Any]) -> None: ...


def recipe_of(size: Size, corpus: Path, masks: Masks = "step") -> Recipe:
    """The recipe of this size on this text."""
    return recipe_from_dict(read_recipe(size.recipe), size.recipe, size.flags(corpus, masks))


class Training:
    """The update of `regrnn train` (`Trainer`), through the first windows of a text over and over."""

    def __init__(self, size: Size, corpus: Path, masks: Masks = "step", windows: int = 20) -> None:
        recipe = recipe_of(size, corpus, masks)
        self.task = get_task(recipe.task).prepare(recipe.sections)
        # Neither opened nor written: an update needs no run directory.
        self.trainer = Trainer(self.task, recipe, Run(corpus), 1, CPU, Silent())
        self.trainer.model.train()
        self.batches: Sequence[tuple[Tensor, Tensor]] = [
            self.task.batch(1, position, CPU) for position in range(min(windows, self.task.batches - 1))
        ]
        self._batches = itertools.cycle(self.batches)

    def step(self) -> float:
        """One update; the loss."""
        return self.trainer._step(next(self._batches))[0]


def trained_model(size: Size) -> TrainedLanguageModel:
    """A model of this size with fresh weights: what it says is noise, what it costs is not."""
    vocabulary = WordVocabulary([UNK, EOS, *words(size.vocabulary)])
    config = ModelConfig(hidden_size=size.hidden, num_layers=size.layers, dropout=size.dropout, init=size.init)
    return TrainedLanguageModel(LanguageModel(config, len(vocabulary)), vocabulary)
