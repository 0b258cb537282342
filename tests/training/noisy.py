"""A task small enough to be trained hundreds of times in a test, with all that can go wrong on a resume.

It has masks (dropout), a carried state, an evaluation that draws random numbers, and a validation figure that the
test may script, epoch by epoch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from regrnn.tasks.protocol import Evaluation, Figure, Loss, State
from regrnn.training.config import TrainingConfig
from regrnn.training.files import read_json
from regrnn.training.loop import Outcome, Trainer
from regrnn.training.recipe import Expected, Recipe
from regrnn.training.run import Run

ROWS, FEATURES = 3, 4


@dataclass(frozen=True, kw_only=True)
class NoisyConfig:
    features: int = FEATURES
    rate: float | None = 0.5


class NoisyModel(nn.Module):
    def __init__(self, config: NoisyConfig) -> None:
        super().__init__()
        self.mix = nn.Linear(config.features, config.features)
        self.drop = nn.Dropout(config.rate or 0.0)
        self.register_buffer("trained", torch.zeros((), dtype=torch.int64))  # batches


class NoisyTask:
    """`valid`: the validation figure of each epoch; unless given, it is that of the weights."""

    name: ClassVar[str] = "noisy"
    sections: ClassVar[Mapping[str, type]] = {"noisy": NoisyConfig}
    figure: ClassVar[Figure] = Figure("error", lower_is_better=True)
    unit: ClassVar[str] = "points"
    regularization = "paper"
    description = "random numbers"
    batches = 3

    def __init__(self, valid: Sequence[float] = ()) -> None:
        self.valid = valid
        self.fingerprint = {"train": "sha256:0"}
        self.evaluated: list[str] = []

    @classmethod
    def prepare(cls, sections: Mapping[str, Any]) -> Self:
        return cls()

    def build_model(self) -> NoisyModel:
        return NoisyModel(NoisyConfig())

    def batch(self, epoch: int, position: int, device: torch.device) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * epoch + position)
        return torch.randn(ROWS, FEATURES, generator=generator)

    def loss(self, model: NoisyModel, batch: Tensor, state: State) -> Loss:
        model.trained += 1
        h = torch.tanh(model.mix(model.drop(batch)) + state.get("h", torch.zeros(ROWS, FEATURES)))
        total = ((h - batch.roll(1, 1)) ** 2).sum()
        return Loss(total, normaliser=ROWS, predictions=batch.numel(), state={"h": h, "last": batch.T})

    def evaluate(self, model: NoisyModel, split: str) -> Evaluation:
        self.evaluated.append(split)
        value = model.mix.weight.abs().sum().item() + torch.rand(()).item()
        if split == "valid" and self.valid:
            value = self.valid[int(model.trained) // self.batches - 1]
        return Evaluation({"error": value}, 7, "all seven points")

    def checkpoint_files(self) -> dict[str, str]:
        return {"names.txt": "één\n"}

    @classmethod
    def restore(cls, sections: Mapping[str, Any], texts: Mapping[str, str]) -> "TrainedNoisy":
        return TrainedNoisy(NoisyModel(sections["noisy"]), texts["names.txt"])


@dataclass
class TrainedNoisy:
    model: NoisyModel
    names: str


@dataclass(frozen=True)
class Tiny:
    """A language recipe and a text that it is trained on in a second or two: 12 windows an epoch, 3 epochs."""

    recipe: Path
    text: Path

    def arguments(self, out: Path, *more: str) -> list[str]:
        return ["train", str(self.recipe), "--data", str(self.text), "--out", str(out), "--threads", "1", *more]


class Silent:
    """A `Progress` that says nothing; tests override what they watch."""

    def resumed(self, checkpoint: Path, values: dict[str, Any]) -> None: ...

    def step(self, epoch: int, position: int, batches: int, loss: float, rate: float) -> None: ...

    def evaluating(self, split: str) -> None: ...

    def epoch(self, record: dict[str, Any]) -> None: ...


def noisy_recipe(**training: Any) -> Recipe:
    """Two epochs with a checkpoint behind every batch, unless told otherwise."""
    training = {"epochs": 2, "learning_rate": 0.1, "checkpoint_minutes": 1e-9} | training
    sections = {"noisy": NoisyConfig(), "training": TrainingConfig(**training)}
    return Recipe(name="tiny", task="noisy", summary="", expected=Expected(), sections=sections)


def train(task: Any, recipe: Recipe, folder: Path, progress: Any = None, *, seed: int = 1) -> Outcome:
    """Start or resume the run in `folder`, as the command does."""
    run = Run.open(folder, recipe, seed, task.fingerprint)
    with run.locked():
        return Trainer(task, recipe, run, seed, torch.device("cpu"), progress or Silent()).train()


def contents(folder: Path) -> dict[str, object]:
    """All of a run directory that the seed determines, to the byte."""
    run = Run(folder)
    found: dict[str, object] = {"metrics": run.metrics.read_bytes()}
    for name, checkpoint in {"best": run.best(), "last": run.last()}.items():
        assert checkpoint is not None
        found[name] = checkpoint.name
        for path in checkpoint.iterdir():
            if path.name not in ("state.json", "manifest.json"):
                found[f"{name}/{path.name}"] = path.read_bytes()
        values = read_json(checkpoint / "state.json")
        assert values.pop("seconds") > 0
        found[f"{name}/state.json"] = values
    return found
