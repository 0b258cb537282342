"""The language model as the loop sees it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regrnn.data.stream import TokenStream, Windows
from regrnn.data.vocabulary import from_json
from regrnn.errors import RegrnnError
from regrnn.nn.loss import softmax_cross_entropy
from regrnn.nn.regularization import as_regularization
from regrnn.tasks.language.adaptive import ADAPTIVE, Adaptive
from regrnn.tasks.language.data import Corpus, DataConfig, encode, find_sources, read_corpus
from regrnn.tasks.language.evaluate import TRAIN_PREDICTIONS, evaluate, evaluate_adaptively, evaluate_averages
from regrnn.tasks.language.model import LanguageModel, ModelConfig, State
from regrnn.tasks.language.trained import TrainedLanguageModel, require_one_vocabulary
from regrnn.tasks.protocol import Evaluation, Figure, Loss

_BLOCK = 1 << 24  # ids counted at once


class LanguageTask:
    """Truncated back-propagation through time over a contiguous text (see `regrnn.tasks.protocol.Task`)."""

    name: ClassVar[str] = "language"
    sections: ClassVar[Mapping[str, type]] = {"data": DataConfig, "model": ModelConfig}
    figure: ClassVar[Figure] = Figure("perplexity", lower_is_better=True)
    unit: ClassVar[str] = "tokens"
    evaluations: ClassVar[Mapping[str, type[Adaptive]]] = ADAPTIVE

    def __init__(self, corpus: Corpus, data: DataConfig, model: ModelConfig) -> None:
        self.corpus = corpus
        self.config = model
        try:
            self.windows = Windows(corpus.streams["train"], data.batch_size, data.steps)
        except RegrnnError as error:
            raise RegrnnError(f"{corpus.sources['train'].path}: {error}") from None

    @classmethod
    def prepare(cls, sections: Mapping[str, Any]) -> Self:
        """Read the corpus that `[data]` names."""
        return cls(read_corpus(sections["data"]), sections["data"], sections["model"])

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """sha256 of each split."""
        return self.corpus.fingerprint

    @property
    def batches(self) -> int:
        """Windows in an epoch."""
        return len(self.windows)

    @property
    def description(self) -> str:
        """The data in a line or two, for a person."""
        counts = ", ".join(f"{split} {len(stream):,}" for split, stream in self.corpus.streams.items())
        return f"{self.corpus.description}\n{counts} tokens; {len(self.corpus.vocabulary):,} types"

    @property
    def regularization(self) -> str:
        """What the result files call the model's dropout."""
        return as_regularization(self.config.dropout).name

    def build_model(self) -> LanguageModel:
        """Drawn from torch's global generator."""
        return LanguageModel(self.config, len(self.corpus.vocabulary))

    def batch(self, epoch: int, position: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs and targets (T, B) of window `position`; every epoch reads the text in the same order."""
        x_TB, y_TB = self.windows[position]
        return torch.from_numpy(x_TB).to(device), torch.from_numpy(y_TB).to(device)

    def loss(self, model: LanguageModel, batch: tuple[Tensor, Tensor], state: State) -> Loss:
        """The paper's: summed over time, averaged over the batch (Zaremba et al.'s code; PAPER's trap 1)."""
        x_TB, y_TB = batch
        h_TBH, state, mask = model.features_with_mask(x_TB, state)
        decoder = model.decoder
        total = softmax_cross_entropy(h_TBH.flatten(0, 1), decoder.weight, decoder.bias, y_TB.flatten(), mask)
        return Loss(total, normaliser=x_TB.shape[1], predictions=y_TB.numel(), state=state)

    def evaluate(self, model: LanguageModel, split: str) -> Evaluation:
        """Perplexity by the one protocol, whatever the training batch and window."""
        if split == "train":
            return evaluate([model], self.corpus.streams[split], part=TRAIN_PREDICTIONS)
        counts_V = self._counts if split == "test" else None
        return evaluate([model], self.corpus.streams[split], counts_V=counts_V)

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        """How often the training text has each token."""
        counts_V = np.zeros(len(self.corpus.vocabulary), np.int64)
        ids = self.corpus.streams["train"].ids
        for start in range(0, len(ids), _BLOCK):
            counts_V += np.bincount(ids[start : start + _BLOCK], minlength=len(counts_V))
        return counts_V

    def checkpoint_files(self) -> dict[str, str]:
        """The vocabulary, without which the weights mean nothing."""
        return {"vocabulary.json": json.dumps(self.corpus.vocabulary.to_json(), ensure_ascii=False)}

    @classmethod
    def restore(cls, sections: Mapping[str, Any], texts: Mapping[str, str]) -> TrainedLanguageModel:
        """A model of the checkpoint's sizes with its vocabulary."""
        try:
            vocabulary = from_json(json.loads(texts["vocabulary.json"]))
        except KeyError:
            raise RegrnnError("vocabulary.json is missing") from None
        except ValueError as error:
            raise RegrnnError(f"vocabulary.json: not valid JSON ({error})") from None
        return TrainedLanguageModel(LanguageModel(sections["model"], len(vocabulary)), vocabulary)

    @classmethod
    def evaluate_trained(cls, members: Sequence[TrainedLanguageModel], data: str, split: str) -> Evaluation:
        """Perplexity on a split of `data` in the members' own vocabulary."""
        return cls.evaluate_averages(members, data, split)[-1]

    @classmethod
    def evaluate_averages(cls, members: Sequence[TrainedLanguageModel], data: str, split: str) -> list[Evaluation]:
        """The same of the first member, of the first two averaged, ... of all, in one pass."""
        stream, fingerprint = _stream(members, data, split)
        found = evaluate_averages([member.model for member in members], stream)
        return [replace(evaluation, data=fingerprint) for evaluation in found]

    @classmethod
    def evaluate_otherwise(
        cls, members: Sequence[TrainedLanguageModel], data: str, split: str, hows: Sequence[Adaptive]
    ) -> Iterator[Evaluation]:
        """Perplexity by each of some settings of one of `evaluations`."""
        stream, fingerprint = _stream(members, data, split)
        for evaluation in evaluate_adaptively([member.model for member in members], stream, hows):
            yield replace(evaluation, data=fingerprint)


def _stream(members: Sequence[TrainedLanguageModel], data: str, split: str) -> tuple[TokenStream, str]:
    """A split of `data` in the vocabulary that the members share, and its checksum; RegrnnError if they share none."""
    require_one_vocabulary(members)
    source = find_sources(data)[split]
    corpus = Corpus(members[0].vocabulary, encode({split: source}, members[0].vocabulary), {split: source})
    return corpus.streams[split], corpus.fingerprint[split]


TASK = LanguageTask
