"""The caption model as the loop sees it.

Shapes: T time, B batch, F image features.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from regrnn.data.buckets import Buckets, teacher_forced
from regrnn.data.vocabulary import WordVocabulary, from_json
from regrnn.errors import RegrnnError
from regrnn.nn.loss import softmax_cross_entropy
from regrnn.nn.regularization import as_regularization
from regrnn.tasks.captioning.data import Corpus, DataConfig, build_vocabulary, read_corpus
from regrnn.tasks.captioning.evaluate import DecodingConfig, evaluate, training_part
from regrnn.tasks.captioning.model import CaptionModel, ModelConfig, State
from regrnn.tasks.captioning.trained import TrainedCaptionModel, require_one_vocabulary
from regrnn.tasks.protocol import Evaluation, Figure, Loss


@dataclass(frozen=True)
class Batch:
    """Captions side by side, each with its image."""

    v_BF: Tensor
    x_TB: Tensor
    y_TB: Tensor
    there_TB: Tensor
    """Whether there is something to predict."""


class CaptioningTask:
    """Images to captions (see `regrnn.tasks.protocol.Task`)."""

    name: ClassVar[str] = "captioning"
    sections: ClassVar[Mapping[str, type]] = {"data": DataConfig, "model": ModelConfig, "decoding": DecodingConfig}
    figure: ClassVar[Figure] = Figure("perplexity", lower_is_better=True)
    unit: ClassVar[str] = "words"

    def __init__(self, corpus: Corpus, data: DataConfig, model: ModelConfig, decoding: DecodingConfig) -> None:
        self.corpus = corpus
        self.config = model
        self.decoding = decoding
        train = corpus.splits["train"]
        try:
            self.vocabulary = build_vocabulary(train, data)
        except RegrnnError as error:
            raise RegrnnError(f"{corpus.root}: {error}") from None
        self.examples = [
            (image, self.vocabulary.encode_line(" ".join(caption))) for image in train for caption in image.captions
        ]
        self.buckets = Buckets([len(ids) for _, ids in self.examples], data.batch_size)

    @classmethod
    def prepare(cls, sections: Mapping[str, Any]) -> Self:
        """Read the corpus that `[data]` names; the images' vectors are computed here where they are not cached."""
        return cls(read_corpus(sections["data"]), sections["data"], sections["model"], sections["decoding"])

    @property
    def fingerprint(self) -> dict[str, str]:
        """sha256 of the captions, and of the images or their vectors."""
        return self.corpus.sums

    @property
    def description(self) -> str:
        """The data in two lines, for a person."""
        size = len(self.corpus.splits["train"][0].vector)
        return f"{self.corpus.description}\n{len(self.vocabulary):,} types; vectors of {size:,}"

    @property
    def regularization(self) -> str:
        """What the result files call the model's dropout."""
        return as_regularization(self.config.dropout).name

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return len(self.buckets)

    def build_model(self) -> CaptionModel:
        """Drawn from torch's global generator."""
        vectors = [image.vector for image in self.corpus.splits["train"]]
        model = CaptionModel(self.config, len(vectors[0]), len(self.vocabulary))
        model.standardise(vectors)
        return model

    def batch(self, epoch: int, position: int, device: torch.device) -> Batch:
        """Captions of similar length; the order is that of the epoch, whatever the seed of the weights."""
        chosen = [self.examples[index] for index in self.buckets.batch(epoch, position)]
        v_BF = torch.from_numpy(np.stack([image.vector for image, _ in chosen]))
        arrays = teacher_forced([ids for _, ids in chosen], self.vocabulary.eos_id)
        return Batch(v_BF.to(device), *(torch.from_numpy(array).to(device) for array in arrays))

    def loss(self, model: CaptionModel, batch: Batch, state: State) -> Loss:
        """Cross-entropy, averaged over the words and ends of the batch; padding takes no part."""
        h_NH = model.features(batch.v_BF, batch.x_TB)[batch.there_TB]
        y_N = batch.y_TB[batch.there_TB]
        total = softmax_cross_entropy(h_NH, model.decoder.weight, model.decoder.bias, y_N)
        return Loss(total, normaliser=len(y_N), predictions=len(y_N), state={})

    def evaluate(self, model: CaptionModel, split: str) -> Evaluation:
        """Perplexity; of the test part, which is looked at once, also the figures of generated captions."""
        images = self.corpus.splits[split]
        if split == "train":
            images = training_part(images)
        member = (model, [image.vector for image in images])
        decoding = self.decoding if split == "test" else None
        seen = self.corpus.seen
        return evaluate([member], images, self.vocabulary, decoding, seen=seen, train=split == "train")

    def checkpoint_files(self) -> dict[str, str]:
        """The vocabulary, and how long the images' vectors are."""
        return {
            "vocabulary.json": json.dumps(self.vocabulary.to_json(), ensure_ascii=False),
            "features.json": json.dumps({"size": len(self.corpus.splits["train"][0].vector)}),
        }

    @classmethod
    def restore(cls, sections: Mapping[str, Any], texts: Mapping[str, str]) -> TrainedCaptionModel:
        """A model of the checkpoint's sizes with its vocabulary."""
        values: dict[str, Any] = {}
        for name in ("vocabulary.json", "features.json"):
            if name not in texts:
                raise RegrnnError(f"{name} is missing")
            try:
                values[name] = json.loads(texts[name])
            except ValueError as error:
                raise RegrnnError(f"{name}: not valid JSON ({error})") from None
        vocabulary = from_json(values["vocabulary.json"])
        features = values["features.json"]
        size = features.get("size") if isinstance(features, dict) else None
        if not isinstance(vocabulary, WordVocabulary) or not isinstance(size, int) or size < 1:
            raise RegrnnError("vocabulary.json or features.json is not that of a captioning run")
        model = CaptionModel(sections["model"], size, len(vocabulary))
        return TrainedCaptionModel(model, vocabulary, sections["data"], sections["decoding"])

    @classmethod
    def evaluate_trained(cls, members: Sequence[TrainedCaptionModel], data: str, split: str) -> Evaluation:
        """All figures on a part of `data`; the members' distributions are averaged at each word."""
        first = members[0]
        require_one_vocabulary(members)
        for member in members[1:]:
            if member.data.lowercase != first.data.lowercase:
                raise RegrnnError("only some of the runs are lower-cased; their predictions cannot be averaged")
        corpora: dict[DataConfig, Corpus] = {}
        parts = []
        for member in members:
            config = replace(member.data, path=data, min_frequency=1, batch_size=1)
            if config not in corpora:
                corpora[config] = read_corpus(config, (split,))
            images = corpora[config].splits[split]
            images = training_part(images) if split == "train" else images
            member.check_size(images[0].vector)
            parts.append((member.model, [image.vector for image in images]))
        corpus = next(iter(corpora.values()))
        images = corpus.splits[split]
        images = training_part(images) if split == "train" else images
        seen = frozenset() if split == "train" else corpus.seen
        return evaluate(parts, images, first.vocabulary, first.decoding, seen=seen, train=split == "train")


TASK = CaptioningTask
