"""The acoustic model as the loop sees it.

Shapes: T time (steps), B batch, I input, H hidden.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from regrnn.data.buckets import Buckets, Streams, pad
from regrnn.errors import RegrnnError
from regrnn.nn.loss import softmax_cross_entropy
from regrnn.nn.regularization import as_regularization
from regrnn.optional import need
from regrnn.tasks.protocol import Evaluation, Figure, Loss
from regrnn.tasks.speech.audio import Array
from regrnn.tasks.speech.data import (
    IGNORED,
    SPLITS,
    Corpus,
    DataConfig,
    Inventory,
    Normalizer,
    is_kaldi,
    labels,
    read_corpus,
    take_inventory,
    unknown_phones,
)
from regrnn.tasks.speech.decode import DecodingConfig
from regrnn.tasks.speech.evaluate import TRAIN_UTTERANCES, Member, evaluate
from regrnn.tasks.speech.model import AcousticModel, ModelConfig, State, centres, delayed, split_states, stack
from regrnn.tasks.speech.trained import TrainedAcousticModel, require_same_frames


@dataclass(frozen=True)
class Batch:
    """Steps of several utterances side by side."""

    x_TBI: Tensor
    y_TB: Tensor
    """int64; `IGNORED` where nothing is predicted."""
    lengths: list[int] | None
    """Of whole utterances; None of windows of streams."""
    fresh_B: Tensor | None
    """Streams: whether the row's state is to be reset."""


class SpeechTask:
    """Frames to phones, in whole utterances or truncated streams (see `regrnn.tasks.protocol.Task`)."""

    name: ClassVar[str] = "speech"
    sections: ClassVar[Mapping[str, type]] = {"data": DataConfig, "model": ModelConfig, "decoding": DecodingConfig}
    figure: ClassVar[Figure] = Figure("frame_accuracy", lower_is_better=False)
    unit: ClassVar[str] = "frames"

    def __init__(
        self, corpus: Corpus, data: DataConfig, model: ModelConfig, decoding: DecodingConfig, recordings: bool
    ) -> None:
        """`recordings`: whether the features were made here, so that recordings can be transcribed."""
        self.corpus = corpus
        self.data = data
        self.config = model
        self.decoding = decoding
        self.recordings = recordings
        if data.batches == "streams" and model.bidirectional:
            raise RegrnnError(
                "--data.batches streams carries the state forward and --model.bidirectional true needs whole "
                "utterances; set --data.batches padded"
            )
        if data.batches == "streams" and data.steps <= model.delay:
            raise RegrnnError(f"--data.steps {data.steps} must be above --model.delay {model.delay}")
        train = corpus.splits["train"]
        sizes = {u.x_TF.shape[1] for us in corpus.splits.values() for u in us}
        if len(sizes) > 1:
            raise RegrnnError(f"{corpus.root}: frames have {sorted(sizes)} features; they must all have as many")
        self.inventory = take_inventory(train, data)
        self.normalize = Normalizer(corpus, self.inventory, data)
        self.lengths = [len(centres(len(u.x_TF), model.subsample)) + model.delay for u in train]
        self.padded = Buckets(self.lengths, data.batch_size)
        self.streams = Streams(self.lengths, data.batch_size, data.steps)
        # A row of a stream reads one utterance for many windows.
        self._sequence = lru_cache(maxsize=2 * data.batch_size)(self._make_sequence)

    @classmethod
    def prepare(cls, sections: Mapping[str, Any]) -> Self:
        """Read the corpus that `[data]` names."""
        data: DataConfig = sections["data"]
        need("jiwer", "jiwer", "speech")  # now, so that it is not missed after an epoch
        corpus = read_corpus(data)
        return cls(corpus, data, sections["model"], sections["decoding"], recordings=not is_kaldi(data.path))

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """sha256 of each split."""
        return self.corpus.fingerprint

    @property
    def batches(self) -> int:
        """Batches or windows in an epoch."""
        return len(self.padded) if self.data.batches == "padded" else len(self.streams)

    @property
    def description(self) -> str:
        """The data in a few lines, for a person."""
        return self.corpus.description(self.inventory)

    @property
    def regularization(self) -> str:
        """What the result files call the model's dropout."""
        return as_regularization(self.config.dropout).name

    def build_model(self) -> AcousticModel:
        """Drawn from torch's global generator."""
        return AcousticModel(self.config, len(self.inventory.mean), len(self.inventory.phones))

    def batch(self, epoch: int, position: int, device: torch.device) -> Batch:
        """Batch `position` of `epoch`; the order is that of the epoch, whatever the seed of the weights."""
        if self.data.batches == "padded":
            sequences = [self._sequence(index) for index in self.padded.batch(epoch, position)]
            x, y = pad([x for x, _ in sequences]), pad([y for _, y in sequences], fill=IGNORED)
            lengths = [len(x) for x, _ in sequences]
            return Batch(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device), lengths, None)
        pieces = self.streams.batch(epoch, position)
        size, steps = self._sequence(0)[0].shape[1], self.data.steps
        x_TBI = np.zeros((steps, len(pieces), size), np.float32)
        y_TB = np.full((steps, len(pieces)), IGNORED, np.int64)
        for row, piece in enumerate(pieces):
            if piece is not None:
                x, y = (part[piece.start : piece.start + steps] for part in self._sequence(piece.sequence))
                x_TBI[: len(x), row], y_TB[: len(y), row] = x, y
        fresh_B = torch.tensor([piece is None or piece.start == 0 for piece in pieces], device=device)
        return Batch(torch.from_numpy(x_TBI).to(device), torch.from_numpy(y_TB).to(device), None, fresh_B)

    def loss(self, model: AcousticModel, batch: Batch, state: State) -> Loss:
        """Cross-entropy, averaged over the labelled frames of the batch; padding takes no part."""
        if batch.lengths is not None:
            h_NH = model.packed_features(batch.x_TBI, batch.lengths).data
            y_N = pack_padded_sequence(batch.y_TB, torch.tensor(batch.lengths), enforce_sorted=False).data
        else:
            if state and batch.fresh_B is not None:
                state = {name: s.masked_fill(batch.fresh_B[None, :, None], 0.0) for name, s in state.items()}
            h_TBH, state = model.features(batch.x_TBI, state)
            h_NH, y_N = h_TBH.flatten(0, 1), batch.y_TB.flatten()
        labelled = y_N >= 0
        count = int(labelled.sum())
        total = softmax_cross_entropy(h_NH[labelled], model.decoder.weight, model.decoder.bias, y_N[labelled])
        # A window in which no row has a label counts as one prediction, of loss 0.
        return Loss(total, normaliser=max(1, count), predictions=max(1, count), state=state)

    def evaluate(self, model: AcousticModel, split: str) -> Evaluation:
        """The figures of whole utterances, whatever the batches of training."""
        utterances = self.corpus.splits[split][: TRAIN_UTTERANCES if split == "train" else None]
        member = (model, self.normalize, utterances)
        return evaluate([member], self.inventory, self.decoding, train=split == "train")

    def checkpoint_files(self) -> dict[str, str]:
        """The phones, their bigram and the features' moments; and a note where recordings cannot be read."""
        files = {"phones.json": self.inventory.to_json()}
        return files if self.recordings else {**files, "features.txt": "made by Kaldi\n"}

    @classmethod
    def restore(cls, sections: Mapping[str, Any], texts: Mapping[str, str]) -> TrainedAcousticModel:
        """A model of the checkpoint's sizes with its phones."""
        if "phones.json" not in texts:
            raise RegrnnError("phones.json is missing")
        inventory = Inventory.from_json(texts["phones.json"])
        model = AcousticModel(sections["model"], len(inventory.mean), len(inventory.phones))
        recordings = "features.txt" not in texts
        return TrainedAcousticModel(model, inventory, sections["data"], sections["decoding"], recordings)

    @classmethod
    def evaluate_trained(cls, members: Sequence[TrainedAcousticModel], data: str, split: str) -> Evaluation:
        """The figures on a part of `data`; the members' distributions are averaged at each frame."""
        first = members[0]
        parts, fingerprint = member_parts(members, data, split)
        found = evaluate(parts, first.inventory, first.decoding, train=split == "train")
        unknown = unknown_phones(parts[0][2], first.inventory)
        note = f"phones that the run's training part lacks, counted as mistakes: {', '.join(unknown)}"
        return replace(found, data=fingerprint, notes=(note,) if unknown else ())

    def _make_sequence(self, index: int) -> tuple[Array, np.ndarray]:
        """Inputs and targets of a training utterance, step by step, the targets `delay` steps late."""
        utterance, model = self.corpus.splits["train"][index], self.config
        x_TI = delayed(stack(self.normalize(utterance), model.context, model.subsample), model.delay)
        y_T = split_states(labels(utterance, self.inventory), model.states)[
            centres(len(utterance.x_TF), model.subsample)
        ]
        return x_TI, np.concatenate((np.full(model.delay, IGNORED, np.int64), y_T))


def member_parts(members: Sequence[TrainedAcousticModel], data: str, split: str) -> tuple[list[Member], str]:
    """Each member with the utterances of `split` as it needs them, and the split's checksum.

    Raises RegrnnError for members whose distributions are of different things, or data that do not suit them.
    """
    first = members[0]
    require_same_frames(members)
    parts: list[Member] = []
    corpora: dict[DataConfig, Corpus] = {}
    for member in members:
        config = replace(member.data, path=data, split=first.data.split, batches="padded", batch_size=1, steps=1)
        if config not in corpora:
            corpora[config] = read_corpus(config, (split,) if config.normalize == "set" else SPLITS, (split,))
        utterances = corpora[config].splits[split]
        if split == "train":
            utterances = utterances[:TRAIN_UTTERANCES]
        for utterance in utterances:
            if utterance.x_TF.shape[1] != member.inventory.size:
                raise RegrnnError(
                    f"{utterance.source}: {utterance.name} has {utterance.x_TF.shape[1]} features a frame and the run "
                    f"{member.inventory.size}; evaluate it on features of its own kind"
                )
        parts.append((member.model, Normalizer(corpora[config], member.inventory, config), utterances))
    return parts, next(iter(corpora.values())).fingerprint[split]


TASK = SpeechTask
