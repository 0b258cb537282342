"""One thread, and language models that are drawn but not trained: what they compute can be checked all the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from regrnn.data.vocabulary import Vocabulary, build_vocabulary
from regrnn.tasks.language.model import LanguageModel, ModelConfig
from regrnn.tasks.language.trained import TrainedLanguageModel


@pytest.fixture(autouse=True)
def alone(one_thread: None) -> None:
    """Every test here."""


@pytest.fixture(scope="session")
def vocabularies(tiny_text: Path) -> dict[str, Vocabulary]:
    """One of each kind, of the first 200 lines of the tiny text with punctuation set as in print."""
    lines = [line.replace(" .", ".") for line in tiny_text.read_text(encoding="utf-8").splitlines()[:200]]
    return {
        "word": build_vocabulary("word", lines),
        "separate": build_vocabulary("word", lines, punctuation="separate"),
        "character": build_vocabulary("character", lines),
        "bpe": build_vocabulary("bpe", lines, size=280),
    }


@pytest.fixture
def drawn(vocabularies: dict[str, Vocabulary]) -> Callable[..., TrainedLanguageModel]:
    """`drawn("word", cell="gru")`: a model of one of the vocabularies with weights large enough to matter."""

    def build(kind: str, *, seed: int = 1, **settings: object) -> TrainedLanguageModel:
        torch.manual_seed(seed)
        sizes = {"hidden_size": 12, "num_layers": 2, "dropout": 0.5, "init": 0.5}
        model = LanguageModel(ModelConfig(**(sizes | settings)), len(vocabularies[kind]))  # type: ignore[arg-type]
        return TrainedLanguageModel(model, vocabularies[kind])

    return build
