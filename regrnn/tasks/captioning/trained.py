"""A trained caption model and what it can do: what `regrnn.load` returns for a captioning run."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch

from regrnn.data.vocabulary import WordVocabulary
from regrnn.errors import RegrnnError
from regrnn.tasks.captioning.data import DataConfig
from regrnn.tasks.captioning.encoders import Encoder, Vector, make_encoder
from regrnn.tasks.captioning.evaluate import DecodingConfig, describe
from regrnn.tasks.captioning.images import open_image, to_rgb
from regrnn.tasks.captioning.model import CaptionModel


@dataclass(frozen=True)
class Caption:
    """What the model says of an image."""

    text: str
    log_probability: float
    """ln p of the words and of their end."""
    score: float
    """By which captions of one image are ranked: the log probability, or what length normalisation makes of it."""
    finished: bool
    """Whether the caption came to its end before the greatest length."""


class TrainedCaptionModel:
    """A caption model with its vocabulary and the name of its CNN, ready to describe pictures."""

    def __init__(
        self, model: CaptionModel, vocabulary: WordVocabulary, data: DataConfig, decoding: DecodingConfig
    ) -> None:
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.data = data
        self.decoding = decoding

    def to(self, device: torch.device) -> Self:
        """Move the model."""
        self.model.to(device)
        return self

    def caption(
        self,
        image: str | os.PathLike[str] | Any,
        *,
        beam: int | None = None,
        average: "Sequence[TrainedCaptionModel]" = (),
    ) -> list[Caption]:
        """The captions that beam search finds for a picture (a file or a PIL image), the best first.

        `beam` hypotheses; the recipe's unless given. `average`: further models with the same vocabulary; each word is
        then searched by the mean of their distributions. Raises RegrnnError for a file that is no picture, for a model
        of vectors that were made elsewhere and for different vocabularies, ValueError for a beam below 1.
        """
        return self.caption_all([image], beam=beam, average=average)[0]

    def caption_all(
        self,
        images: Sequence[str | os.PathLike[str] | Any],
        *,
        beam: int | None = None,
        average: "Sequence[TrainedCaptionModel]" = (),
    ) -> list[list[Caption]]:
        """`caption` of several pictures at once."""
        members = [self, *average]
        require_one_vocabulary(members)
        vectors: dict[str, list[Vector]] = {}
        for member in members:
            if member.data.features not in vectors:
                vectors[member.data.features] = [member.vector(image) for image in images]
        return self._describe([(member, vectors[member.data.features]) for member in members], beam)

    def caption_vectors(self, vectors: Sequence[Vector], *, beam: int | None = None) -> list[list[Caption]]:
        """Captions of images whose vectors are known."""
        return self._describe([(self, vectors)], beam)

    def _describe(
        self, members: Sequence[tuple["TrainedCaptionModel", Sequence[Vector]]], beam: int | None
    ) -> list[list[Caption]]:
        if beam is not None and beam < 1:
            raise ValueError(f"beam must be at least 1, got {beam}")
        for member, vectors in members:
            for vector in vectors:
                member.check_size(vector)
        decoding = self.decoding if beam is None else replace(self.decoding, beam=beam)
        seen = [(member.model, vectors) for member, vectors in members]
        return [
            [
                Caption(self.vocabulary.decode(one.tokens), one.log_probability, one.score, one.finished)
                for one in hypotheses
            ]
            for hypotheses in describe(seen, self.vocabulary, decoding)
        ]

    def vector(self, image: str | os.PathLike[str] | Any) -> Vector:
        """What the frozen CNN makes of a picture."""
        opened = open_image(Path(image)) if isinstance(image, str | os.PathLike) else to_rgb(image)
        return self._encoder(opened)

    def check_size(self, vector: Vector) -> None:
        """Raises RegrnnError for a vector that this model cannot take."""
        wanted = len(self.model.mean_F)
        if vector.shape != (wanted,):
            raise RegrnnError(f"the run was trained on image vectors of {wanted:,}, and these are of {len(vector):,}")

    @cached_property
    def _encoder(self) -> Encoder:
        if self.data.precomputed:
            raise RegrnnError(
                f"the run was trained on vectors from {self.data.features}, which cannot be made from a picture here; "
                "use caption_vectors in Python, or train with --data.features efficientnet-lite0"
            )
        return make_encoder(self.data.features)


def require_one_vocabulary(members: Sequence[TrainedCaptionModel]) -> None:
    """Raise RegrnnError unless the members' distributions are over the same words, in the same order."""
    if any(member.vocabulary.to_json() != members[0].vocabulary.to_json() for member in members[1:]):
        raise RegrnnError("the runs have different vocabularies; their predictions cannot be averaged")
