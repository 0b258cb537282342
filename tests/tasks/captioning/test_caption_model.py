"""`regrnn.tasks.captioning.model` and `evaluate`: probabilities by one step after the other, and figures by hand."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from regrnn.data.buckets import teacher_forced
from regrnn.data.vocabulary import WordVocabulary
from regrnn.errors import RegrnnError
from regrnn.tasks.captioning.data import DataConfig, Described
from regrnn.tasks.captioning.evaluate import (
    DecodingConfig,
    describe,
    evaluate,
    generation_figures,
    log_probabilities,
    training_part,
)
from regrnn.tasks.captioning.model import CaptionModel, ModelConfig
from regrnn.tasks.captioning.task import Batch, CaptioningTask
from regrnn.tasks.captioning.trained import TrainedCaptionModel

VOCABULARY = WordVocabulary(["<unk>", "<eos>", "a", "b", "c", "d"])
EOS = VOCABULARY.eos_id
FEATURES = 5


def drawn(seed: int = 1, **settings: object) -> CaptionModel:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 12, "embedding_size": 7, "dropout": 0.5, "init": 0.7}
    model = CaptionModel(ModelConfig(**(sizes | settings)), FEATURES, len(VOCABULARY))  # type: ignore[arg-type]
    model.standardise(list(np.random.default_rng(seed).normal(3, 2, (10, FEATURES)).astype(np.float32)))
    return model.eval()


def some_images(count: int = 4) -> list[Described]:
    random = np.random.default_rng(5)
    words = ["a", "b", "c", "d", "e"]  # e is unknown
    return [
        Described(
            f"{number}.png",
            [tuple(random.choice(words, random.integers(1, 6))) for _ in range(1 + number % 3)],
            random.normal(3, 2, FEATURES).astype(np.float32),
        )
        for number in range(count)
    ]


def chained(model: CaptionModel, vector: np.ndarray, ids: Sequence[int]) -> list[Tensor]:
    """ln p (V,) at each place of a caption, one step after the other."""
    state = model.begin(torch.from_numpy(vector)[None])
    rows = []
    for token in [EOS, *ids[:-1]]:
        log_p, state = model.step(torch.tensor([token]), state)
        rows.append(log_p[0].double())
    return rows


@pytest.mark.parametrize("layers", [1, 2])
def test_captions_side_by_side_are_each_its_own_chain(layers: int) -> None:
    images = some_images()
    models = [drawn(seed, num_layers=layers) for seed in (1, 2)]
    owner = [number for number, image in enumerate(images) for _ in image.captions]
    encoded = [VOCABULARY.encode_line(" ".join(caption)) for image in images for caption in image.captions]
    found = log_probabilities([(m, [i.vector for i in images]) for m in models], owner, encoded, EOS)
    with torch.no_grad():
        for log_p, number, ids in zip(found, owner, encoded, strict=True):
            chains = [chained(model, images[number].vector, ids) for model in models]
            mean = [torch.stack(rows).exp().mean(0).log() for rows in zip(*chains, strict=True)]
            expected = [row[token].item() for row, token in zip(mean, ids, strict=True)]
            assert log_p.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_the_mean_over_words_and_ends() -> None:
    model = drawn()
    images = some_images()
    encoded = [VOCABULARY.encode_line(" ".join(image.captions[0])) for image in images]
    x_TB, y_TB, there_TB = (torch.from_numpy(array) for array in teacher_forced(encoded, EOS))
    batch = Batch(torch.from_numpy(np.stack([image.vector for image in images])), x_TB, y_TB, there_TB)
    loss = CaptioningTask.loss(None, model, batch, {})  # type: ignore[arg-type]
    with torch.no_grad():
        total = sum(
            F.nll_loss(torch.stack(chained(model, image.vector, ids)), torch.tensor(ids), reduction="sum").item()
            for image, ids in zip(images, encoded, strict=True)
        )
    assert loss.total.item() == pytest.approx(total, rel=1e-5)
    assert loss.normaliser == loss.predictions == sum(len(ids) for ids in encoded)
    loss.total.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_dropout_strikes_in_training_and_not_in_evaluation() -> None:
    model = drawn()
    x_TB = torch.from_numpy(teacher_forced([VOCABULARY.encode_line("a b c d")], EOS)[0])
    v_BF = torch.ones(1, FEATURES)
    assert torch.equal(model.features(v_BF, x_TB), model.features(v_BF, x_TB))
    model.train()
    struck = model.features(v_BF, x_TB)
    assert 0.2 < (struck == 0).float().mean() < 0.8
    assert not torch.equal(struck, model.features(v_BF, x_TB))


def test_vectors_are_standardised_by_the_training_images() -> None:
    model = drawn()
    vectors = [np.array([n, 7, -n, 2 * n, 0], np.float32) for n in (1, 2, 3)]
    model.standardise(vectors)
    assert model.mean_F.tolist() == pytest.approx([2, 7, -2, 4, 0])
    deviation = math.sqrt(2 / 3)
    assert model.deviation_F.tolist() == pytest.approx([deviation, 1, deviation, 2 * deviation, 1])


def test_tied_weights_are_one() -> None:
    model = drawn(tied=True, embedding_size=None)
    assert model.decoder.weight is model.encoder.weight
    with pytest.raises(ValueError, match="tied = true needs embedding_size = hidden_size"):
        ModelConfig(hidden_size=8, embedding_size=4, tied=True)


@pytest.mark.parametrize("settings", [{"hidden_size": 0}, {"num_layers": 0}, {"init": 0.0}, {"dropout": 1.0}])
def test_sizes_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ModelConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("beam", [1, 3])
def test_the_score_of_a_caption_is_that_of_reading_it(beam: int) -> None:
    images = some_images(3)
    members = [(drawn(seed), [image.vector for image in images]) for seed in (3, 4)]
    decoding = DecodingConfig(beam=beam, max_length=6)
    for number, hypotheses in enumerate(describe(members, VOCABULARY, decoding)):
        assert len(hypotheses) == beam
        for one in hypotheses:
            assert VOCABULARY.unk_id not in one.tokens
            ids = [*one.tokens, EOS] if one.finished else one.tokens
            [log_p] = log_probabilities(members, [number], [ids], EOS)
            assert one.log_probability == pytest.approx(log_p.sum().item(), rel=1e-5)


def test_figures_by_hand() -> None:
    images = some_images()
    member = (drawn(), [image.vector for image in images])
    decoding = DecodingConfig(beam=2, max_length=5)
    texts = [caption for image in images for caption in image.captions]
    seen = frozenset(texts[:3])
    found = evaluate([member], images, VOCABULARY, decoding, seen=seen)
    owner = [number for number, image in enumerate(images) for _ in image.captions]
    encoded = [VOCABULARY.encode_line(" ".join(text)) for text in texts]
    log_p = log_probabilities([member], owner, encoded, EOS)
    assert found.predictions == sum(map(len, encoded))
    nats = sum(row.sum().item() for row in log_p) / found.predictions
    assert found.figures["perplexity"] == pytest.approx(math.exp(-nats))
    new = [row for row, text in zip(log_p, texts, strict=True) if text not in seen]
    nats = sum(row.sum().item() for row in new) / sum(len(row) for row in new)
    assert found.figures["unseen_perplexity"] == pytest.approx(math.exp(-nats))
    captions = [VOCABULARY.tokens(hypotheses[0].tokens) for hypotheses in describe([member], VOCABULARY, decoding)]
    whole = generation_figures(captions, [image.captions for image in images])
    assert whole.items() <= found.figures.items()
    # The first image has one caption and the second two, all seen: both are left out.
    assert [len(image.captions) for image in images] == [1, 2, 3, 1]
    left = generation_figures(captions[2:], [image.captions for image in images[2:]])
    assert found.figures["unseen_bleu4"] == left["bleu4"]
    assert found.figures["unseen_cider"] == left["cider"]
    assert f"the {len(new)} of 7 captions, of 2 images" in found.protocol


def test_while_training_only_perplexity_is_looked_at() -> None:
    images = some_images()
    member = (drawn(), [image.vector for image in images])
    found = evaluate([member], images, VOCABULARY, train=True)
    assert list(found.figures) == ["perplexity"]
    assert "4 images spread over the training part" in found.protocol


def test_the_training_part_is_spread_evenly() -> None:
    images = [Described(str(number), [("a",)], np.zeros(1, np.float32)) for number in range(1000)]
    part = [int(image.name) for image in training_part(images)]
    assert len(part) == len(set(part)) == 210
    assert part[0] == 0 and part[-1] == 999
    assert {b - a for a, b in itertools.pairwise(part)} == {4, 5}
    assert training_part(images[:5]) == images[:5]


def test_runs_of_other_words_or_vectors_are_not_averaged() -> None:
    def trained(vocabulary: WordVocabulary, **data: object) -> TrainedCaptionModel:
        model = CaptionModel(ModelConfig(hidden_size=4), FEATURES, len(vocabulary))
        return TrainedCaptionModel(model, vocabulary, DataConfig(path="x", **data), DecodingConfig())  # type: ignore[arg-type]

    other = trained(WordVocabulary(["<unk>", "<eos>", "a", "b", "c", "f"]))
    with pytest.raises(RegrnnError, match="different vocabularies"):
        CaptioningTask.evaluate_trained([other, trained(VOCABULARY)], "x", "test")
    with pytest.raises(RegrnnError, match="lower-cased"):
        CaptioningTask.evaluate_trained([other, trained(other.vocabulary, lowercase=False)], "x", "test")
    with pytest.raises(RegrnnError, match="image vectors of 5, and these are of 3"):
        other.caption_vectors([np.zeros(3, np.float32)])
