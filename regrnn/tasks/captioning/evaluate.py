"""Perplexity of given captions, and how near the model's own come to them.

Shapes: T time, B batch, F image features.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from regrnn.data.buckets import in_batches
from regrnn.data.vocabulary import WordVocabulary
from regrnn.search.beam import Hypothesis, averaged, beam_search
from regrnn.tasks import scoring
from regrnn.tasks.captioning.data import Described
from regrnn.tasks.captioning.encoders import Vector
from regrnn.tasks.captioning.metrics import bleu, cider_d, rouge_l
from regrnn.tasks.captioning.model import CaptionModel
from regrnn.tasks.protocol import Evaluation

TRAIN_IMAGES = 210
"""`train_` figures are taken on this many images, spread evenly over the training part."""

AT_ONCE = 100
"""Captions scored, or images captioned, at once; the figures do not depend on it."""


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """The `[decoding]` section of a captioning recipe: how captions are searched for."""

    beam: int = 5
    max_length: int = 30
    """Words of a caption at most, its end counted."""
    length_normalisation: float = 0.0
    """The power of the length by which log probabilities are divided to rank captions; 0: by probability alone."""

    def __post_init__(self) -> None:
        for name in ("beam", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.length_normalisation < 0:
            raise ValueError(f"length_normalisation = {self.length_normalisation} must not be negative")


Member = tuple[CaptionModel, Sequence[Vector]]
"""A model, and each image's vector as that model takes it."""


def training_part(images: Sequence[Described]) -> list[Described]:
    """The training images on which `train_` figures are taken."""
    count = min(TRAIN_IMAGES, len(images))
    return [images[index] for index in np.linspace(0, len(images) - 1, count).astype(int)]


def log_probabilities(
    members: Sequence[Member], images: Sequence[int], captions: Sequence[Sequence[int]], eos: int
) -> list[Tensor]:
    """ln p of the tokens of each caption, (T,) float64 each, under the members' average per prediction.

    `images` says of each caption which image it is of.
    """

    def seeing(model: CaptionModel, vectors: Sequence[Vector]) -> scoring.Features:
        def features(lot: Sequence[int], tokens_TB: Tensor) -> Tensor:
            v_BF = torch.from_numpy(np.stack([vectors[images[index]] for index in lot]))
            return model.features(v_BF.to(tokens_TB.device), tokens_TB)

        return features

    lots = in_batches([len(caption) for caption in captions], tokens=sys.maxsize, most=AT_ONCE)
    parts = [(model.decoder, seeing(model, vectors)) for model, vectors in members]
    return scoring.log_probabilities(captions, eos, parts, lots)


@torch.no_grad()
def describe(members: Sequence[Member], vocabulary: WordVocabulary, decoding: DecodingConfig) -> list[list[Hypothesis]]:
    """Captions of each image by beam search on the members' average; `<unk>` is not put out."""
    search = averaged([model.steps for model, _ in members])
    found: list[list[Hypothesis]] = []
    device = members[0][0].decoder.weight.device
    for start in range(0, len(members[0][1]), AT_ONCE):
        parts = [np.stack(vectors[start : start + AT_ONCE]) for _, vectors in members]
        state = tuple(
            model.begin(torch.from_numpy(part).to(device)) for (model, _), part in zip(members, parts, strict=True)
        )
        found += beam_search(
            search,
            torch.full((len(parts[0]),), vocabulary.eos_id, device=device),
            state,
            end=vocabulary.eos_id,
            beam=decoding.beam,
            max_length=decoding.max_length,
            length_normalisation=decoding.length_normalisation,
            never=(vocabulary.unk_id,),
        )
    return found


def evaluate(
    members: Sequence[Member],
    images: Sequence[Described],
    vocabulary: WordVocabulary,
    decoding: DecodingConfig | None = None,
    *,
    seen: frozenset[tuple[str, ...]] = frozenset(),
    train: bool = False,
) -> Evaluation:
    """Perplexity over every word and end of every caption, of the members' average.

    With `decoding` there are also BLEU-1 to BLEU-4, CIDEr-D and ROUGE-L of the captions found by beam search against
    all captions of the image. `seen` are the captions of the training part: with `decoding`, figures that begin with
    `unseen_` are taken over those captions alone that do not stand there word for word (references that do are
    struck, and images that then have none left out). `train`: what was given is the training part's fixed subset.
    """
    for model, _ in members:
        model.eval()
    owner = [number for number, image in enumerate(images) for _ in image.captions]
    texts = [caption for image in images for caption in image.captions]
    encoded = [vocabulary.encode_line(" ".join(caption)) for caption in texts]
    sums = [(float(log_p.sum()), len(log_p)) for log_p in log_probabilities(members, owner, encoded, vocabulary.eos_id)]
    predictions = sum(count for _, count in sums)
    figures = {"perplexity": _perplexity(sums)}
    protocol = "every word and the end of every caption, unknown words as <unk>"
    if train:
        protocol += f"; {len(images)} images spread over the training part"
    if decoding is not None:
        best = [hypotheses[0].tokens if hypotheses else [] for hypotheses in describe(members, vocabulary, decoding)]
        captions = [tuple(vocabulary.tokens(tokens)) for tokens in best]
        figures |= generation_figures(captions, [image.captions for image in images])
        protocol += (
            f"; captions by beam search ({decoding.beam}, at most {decoding.max_length} words, length "
            f"normalisation {decoding.length_normalisation:g}), against all captions of an image"
        )
        new = [index for index, caption in enumerate(texts) if caption not in seen]
        if seen and new:
            left = [[caption for caption in image.captions if caption not in seen] for image in images]
            kept = [number for number, captions_left in enumerate(left) if captions_left]
            figures["unseen_perplexity"] = _perplexity([sums[index] for index in new])
            unseen = generation_figures([captions[number] for number in kept], [left[number] for number in kept])
            figures |= {f"unseen_{name}": unseen[name] for name in ("bleu4", "cider")}
            protocol += (
                f"; unseen: the {len(new):,} of {len(texts):,} captions, of {len(kept):,} images, that are not word "
                "for word in the training part"
            )
    return Evaluation(figures, predictions, protocol)


def generation_figures(
    captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> dict[str, float]:
    """BLEU and ROUGE-L in percent, CIDEr-D as published."""
    figures = {f"bleu{n}": value for n, value in enumerate(bleu(captions, references), 1)}
    return figures | {"cider": cider_d(captions, references), "rouge_l": rouge_l(captions, references)}


def _perplexity(sums: Sequence[tuple[float, int]]) -> float:
    nats = -sum(log_p for log_p, _ in sums) / sum(count for _, count in sums)
    return math.exp(nats) if nats < 700 else math.inf
