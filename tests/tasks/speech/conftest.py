"""One thread, recordings of tones, and models that are drawn but not trained."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tones import write_corpus

from regrnn.tasks.speech.audio import FeatureConfig
from regrnn.tasks.speech.data import DataConfig, Inventory
from regrnn.tasks.speech.decode import DecodingConfig
from regrnn.tasks.speech.model import AcousticModel, ModelConfig
from regrnn.tasks.speech.trained import TrainedAcousticModel

SMALL = FeatureConfig(mels=12)
PLAIN = DecodingConfig(smoothing="none")


@pytest.fixture(autouse=True)
def alone(one_thread: None) -> None:
    """Every test here."""


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 utterances: 16 to train on, 2 and 2."""
    return write_corpus(tmp_path_factory.mktemp("tones"), [f"u{k:02}" for k in range(20)])


@pytest.fixture
def drawn() -> Callable[..., TrainedAcousticModel]:
    """`drawn(bidirectional=True)`: a model with weights that were drawn and not trained."""

    def build(
        *,
        features: FeatureConfig = SMALL,
        deltas: int = 1,
        normalize: Any = "set",
        decoding: DecodingConfig = PLAIN,
        seed: int = 3,
        **settings: Any,
    ) -> TrainedAcousticModel:
        torch.manual_seed(seed)
        draw = np.random.default_rng(3)
        size = features.size * (deltas + 1)
        phones = ["a", "i", "o", "pau"]
        inventory = Inventory(
            phones=phones,
            bigram=draw.integers(0, 9, (5, 4)).tolist(),
            size=features.size,
            mean=[10.0] * features.size + [0.0] * (size - features.size),
            deviation=draw.uniform(1, 4, size).tolist(),
        )
        config = ModelConfig(**({"hidden_size": 8, "num_layers": 2, "dropout": 0.5} | settings))
        model = AcousticModel(config, size, len(phones))
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(4)  # so that phones differ from frame to frame
            model.decoder.bias.zero_()
        data = replace(DataConfig(), features=features, deltas=deltas, normalize=normalize)
        return TrainedAcousticModel(model, inventory, data, decoding)

    return build
