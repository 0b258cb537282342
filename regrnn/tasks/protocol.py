"""What the training loop needs to know of a task: never words, frames or images."""

import importlib
import math
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

import regrnn.tasks
from regrnn.config import did_you_mean
from regrnn.errors import RegrnnError

State = dict[str, Tensor]
"""What is carried from batch to batch, by name (the hidden state of a stream); empty at the start of an epoch."""


@dataclass(frozen=True)
class Figure:
    """The figure on the validation set that decides which checkpoint is the best."""

    name: str
    lower_is_better: bool

    def better(self, new: float, old: float | None) -> bool:
        """Whether `new` beats `old`; the first figure beats none."""
        if not math.isfinite(new):
            return False
        return old is None or (new < old if self.lower_is_better else new > old)


@dataclass(frozen=True)
class Loss:
    """The loss of one batch. Gradients are those of `total / normaliser`.

    The paper sums over time and averages over the batch, so that a language model's normaliser is the batch size;
    other tasks divide by tokens or frames.
    """

    total: Tensor
    """() summed over all predictions, in nats."""
    normaliser: int
    predictions: int
    state: State


@dataclass(frozen=True)
class Evaluation:
    """The figures of one split, over how many predictions, and how they were taken."""

    figures: dict[str, float]
    predictions: int
    protocol: str
    files: Mapping[str, str] = field(default_factory=dict)
    """Texts to be kept with the figures, by name: they go to the run's `predictions/SPLIT-NAME`."""
    data: str = ""
    """The checksum of the split, as in `Task.fingerprint`; "" where it was not taken."""
    notes: tuple[str, ...] = ()
    """What a person has to know of this data, a line each."""


class Trained(Protocol):
    """What `regrnn.load` returns: a model with the verbs of its task."""

    model: nn.Module


class Task(Protocol):
    """One system, its data read and ready. `regrnn/tasks/NAME/task.py` has one as `TASK`.

    A task may have more. `evaluate_averages(members, data, split) -> list[Evaluation]`, where it can do in one pass
    what the function of that name does with `evaluate_trained`. And ways to evaluate that are not the plain one:
    `evaluations`, by name the dataclass of the settings of each, whose `grid()` are those to be tried on the
    validation data; `evaluate_otherwise(members, data, split, hows) -> Iterator[Evaluation]` scores by each of `hows`.
    """

    name: ClassVar[str]
    sections: ClassVar[Mapping[str, type]]
    """The recipe's sections besides `[training]`, each a config dataclass."""
    figure: ClassVar[Figure]
    unit: ClassVar[str]
    """What a prediction is: "words"."""

    @classmethod
    def prepare(cls, sections: Mapping[str, Any]) -> Self:
        """Read the data that the sections name. Raises RegrnnError for bad input."""

    @property
    def fingerprint(self) -> dict[str, str]:
        """Checksums of the data: a run resumes only on the same."""

    @property
    def description(self) -> str:
        """The data in a line or two, for a person."""

    @property
    def regularization(self) -> str:
        """none, paper, standard, variational or custom: what the result files call the model's dropout."""

    @property
    def batches(self) -> int:
        """Batches in an epoch."""

    def build_model(self) -> nn.Module:
        """A freshly initialised model, drawn from torch's global generator."""

    def batch(self, epoch: int, position: int, device: torch.device) -> Any:
        """Batch `position` (from 0) of epoch `epoch` (from 1): the same whenever it is asked for."""

    def loss(self, model: Any, batch: Any, state: State) -> Loss:
        """The loss of one batch, and the state for the next."""

    def evaluate(self, model: Any, split: str) -> Evaluation:
        """The figures of "train" (a fixed part), "valid" or "test", in eval mode, without gradients."""

    def checkpoint_files(self) -> dict[str, str]:
        """Text files that a model needs besides its weights to be used, by name."""

    @classmethod
    def restore(cls, sections: Mapping[str, Any], texts: Mapping[str, str]) -> "Trained":
        """The model that a checkpoint's settings and `checkpoint_files` describe, its weights not filled in yet."""

    @classmethod
    def evaluate_trained(cls, members: Sequence[Any], data: str, split: str) -> Evaluation:
        """The figures of what `regrnn.load` returned, on `data`; several members are averaged per prediction."""


def evaluate_averages(task: type[Task], members: Sequence[Any], data: str, split: str) -> list[Evaluation]:
    """The figures of the first of the members, of the first two averaged, ... of all: see `Task.evaluate_trained`."""
    one_pass = getattr(task, "evaluate_averages", None)
    if one_pass is not None:
        found: list[Evaluation] = one_pass(members, data, split)
        return found
    return [task.evaluate_trained(members[:count], data, split) for count in range(1, len(members) + 1)]


def task_names() -> list[str]:
    """The tasks there are: the folders of `regrnn/tasks`."""
    return sorted(module.name for module in pkgutil.iter_modules(regrnn.tasks.__path__) if module.ispkg)


def get_task(name: str) -> type[Task]:
    """The task called `name`; RegrnnError when there is none."""
    if name not in task_names():
        raise RegrnnError(f"there is no task {name!r}{did_you_mean(name, task_names())}")
    task: type[Task] = importlib.import_module(f"regrnn.tasks.{name}.task").TASK
    return task
