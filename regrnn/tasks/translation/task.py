"""The translator as the loop sees it.

Shapes: S source length, T target length, B batch, N target tokens.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from regrnn.data.buckets import Buckets, teacher_forced
from regrnn.data.vocabulary import from_json
from regrnn.errors import RegrnnError
from regrnn.nn.loss import softmax_cross_entropy
from regrnn.nn.regularization import as_regularization
from regrnn.tasks.protocol import Evaluation, Figure, Loss
from regrnn.tasks.translation.data import Corpus, DataConfig, Vocabularies, encode, find_sources, read_corpus
from regrnn.tasks.translation.evaluate import DecodingConfig, evaluate, need_sacrebleu, to_sources
from regrnn.tasks.translation.model import ModelConfig, State, TranslationModel
from regrnn.tasks.translation.trained import TrainedTranslator, require_same_tokens


@dataclass(frozen=True)
class Batch:
    """Pairs side by side."""

    source_SB: Tensor
    lengths_B: Tensor
    """Of the sources, on the CPU."""
    x_TB: Tensor
    y_TB: Tensor
    there_TB: Tensor
    """Whether there is something to predict."""


class TranslationTask:
    """Sentences of one language to those of another (see `regrnn.tasks.protocol.Task`)."""

    name: ClassVar[str] = "translation"
    sections: ClassVar[Mapping[str, type]] = {"data": DataConfig, "model": ModelConfig, "decoding": DecodingConfig}
    figure: ClassVar[Figure] = Figure("perplexity", lower_is_better=True)
    unit: ClassVar[str] = "target tokens"

    def __init__(self, corpus: Corpus, data: DataConfig, model: ModelConfig, decoding: DecodingConfig) -> None:
        self.corpus = corpus
        self.data = data
        self.config = model
        self.decoding = decoding
        # Padding costs where the target is; the source is packed.
        self.buckets = Buckets(corpus.splits["train"].target_lengths, data.batch_size)

    @classmethod
    def prepare(cls, sections: Mapping[str, Any]) -> Self:
        """Read the corpus that `[data]` names."""
        need_sacrebleu()  # now, so that it is not missed after the last epoch
        return cls(read_corpus(sections["data"]), sections["data"], sections["model"], sections["decoding"])

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """sha256 of both sides of each split."""
        return self.corpus.fingerprint

    @property
    def description(self) -> str:
        """The data in a few lines, for a person."""
        return self.corpus.description

    @property
    def regularization(self) -> str:
        """What the result files call the model's dropout."""
        return as_regularization(self.config.dropout).name

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return len(self.buckets)

    def build_model(self) -> TranslationModel:
        """Drawn from torch's global generator."""
        vocabularies = self.corpus.vocabularies
        return TranslationModel(self.config, len(vocabularies.source), len(vocabularies.target))

    def batch(self, epoch: int, position: int, device: torch.device) -> Batch:
        """Pairs whose targets are of similar length; the order is that of the epoch, whatever the seed."""
        train = self.corpus.splits["train"]
        chosen = self.buckets.batch(epoch, position)
        read = to_sources([train.source(index) for index in chosen], device)
        arrays = teacher_forced([train.target(index) for index in chosen], self.corpus.vocabularies.target.eos_id)
        return Batch(read.source_SB, read.lengths_B, *(torch.from_numpy(array).to(device) for array in arrays))

    def loss(self, model: TranslationModel, batch: Batch, state: State) -> Loss:
        """Cross-entropy of the target, averaged over the tokens and ends of the batch; the source takes no part."""
        h_NH = model.features(batch.source_SB, batch.lengths_B, batch.x_TB)[batch.there_TB]
        y_N = batch.y_TB[batch.there_TB]
        total = softmax_cross_entropy(h_NH, model.decoder.weight, model.decoder.bias, y_N)
        return Loss(total, normaliser=len(y_N), predictions=len(y_N), state={})

    def evaluate(self, model: TranslationModel, split: str) -> Evaluation:
        """Perplexity; of the test part, which is looked at once, also BLEU and chrF of the model's translations."""
        pairs, vocabularies = self.corpus.splits[split], self.corpus.vocabularies
        if split != "test":
            return evaluate([model], pairs, vocabularies, train=split == "train")
        return _evaluate_all([TrainedTranslator(model, vocabularies, self.data, self.decoding)], self.corpus, split)

    def checkpoint_files(self) -> dict[str, str]:
        """The vocabularies, without which the weights mean nothing; a joint one once."""
        vocabularies = self.corpus.vocabularies
        files = {"source-vocabulary.json": vocabularies.source}
        if vocabularies.target is not vocabularies.source:
            files["target-vocabulary.json"] = vocabularies.target
        return {name: json.dumps(words.to_json(), ensure_ascii=False) for name, words in files.items()}

    @classmethod
    def restore(cls, sections: Mapping[str, Any], texts: Mapping[str, str]) -> TrainedTranslator:
        """A model of the checkpoint's sizes with its vocabularies."""
        data: DataConfig = sections["data"]
        found = []
        for name in ("source-vocabulary.json",) if data.joint else ("source-vocabulary.json", "target-vocabulary.json"):
            if name not in texts:
                raise RegrnnError(f"{name} is missing")
            try:
                found.append(from_json(json.loads(texts[name])))
            except ValueError as error:
                raise RegrnnError(f"{name}: not valid JSON ({error})") from None
        vocabularies = Vocabularies(found[0], found[-1])
        model = TranslationModel(sections["model"], len(vocabularies.source), len(vocabularies.target))
        return TrainedTranslator(model, vocabularies, data, sections["decoding"])

    @classmethod
    def evaluate_trained(cls, members: Sequence[TrainedTranslator], data: str, split: str) -> Evaluation:
        """All figures on a part of `data`; the members' distributions are averaged at each token.

        Names of files that the run's settings give (`--data.test`) are those of its own data alone.
        """
        require_same_tokens(members)
        first = members[0]
        config = replace(first.data, path=data)
        if data != first.data.path:  # whose files need not have the names of the run's own
            config = replace(config, train="", valid="", test="")
        corpus = encode(find_sources(config, (split,)), first.vocabularies, config)
        if split == "train":
            return evaluate([member.model for member in members], corpus.splits[split], first.vocabularies, train=True)
        return _evaluate_all(members, corpus, split)


def _evaluate_all(members: Sequence[TrainedTranslator], corpus: Corpus, split: str) -> Evaluation:
    """Perplexity, and BLEU and chrF of what the members translate together."""
    need_sacrebleu()
    first, pairs = members[0], corpus.splits[split]
    translations = [found[0].text for found in first.translate(pairs.source_lines(), average=members[1:])]
    return evaluate(
        [member.model for member in members],
        pairs,
        first.vocabularies,
        translations=translations,
        decoding=first.decoding,
        lowercase=first.data.lowercase,
    )


TASK = TranslationTask
