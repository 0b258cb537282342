"""One thread, a tiny text, and an undisturbed run on it."""

import random
from pathlib import Path

import pytest
from noisy import Tiny

from regrnn.cli.main import run as regrnn
from regrnn.training import loop

RECIPE = """
task = "language"

[data]
batch_size = 4
steps = 5

[model]
hidden_size = 8
dropout = 0.3

[training]
epochs = 3
hold_epochs = 2
decay = 2.0
checkpoint_minutes = 0.00001 # behind every batch
"""


@pytest.fixture(autouse=True)
def alone(one_thread: None) -> None:
    """Every test here."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.toml").write_text(RECIPE)
    text = folder / "text"
    text.mkdir()
    draw = random.Random(3)
    for split, lines in {"train": 35, "valid": 6, "test": 7}.items():
        words = [
            " ".join(draw.choices(["the", "cat", "sat", "on", "a", "mat", "and", "saw", "it"], k=6))
            for _ in range(lines)
        ]
        (text / f"{split}.txt").write_text("\n".join(words) + "\n")
    return Tiny(folder / "tiny.toml", text)


@pytest.fixture(scope="session")
def undisturbed(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run directory of a run that nothing disturbed. Not to be written to."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRNN_CACHE", str(tmp_path_factory.mktemp("cache-of-undisturbed")))
        patch.setattr(loop, "LOG_EVERY", 7)
        assert regrnn(tiny.arguments(out)) == 0
    return out
