"""`regrnn.tasks.protocol`: what holds for any task."""

from collections.abc import Sequence
from typing import Any

from regrnn.tasks.protocol import Evaluation, evaluate_averages, get_task


class Plain:
    """A task without more than it has to have: its members are numbers, and so are their averages."""

    @classmethod
    def evaluate_trained(cls, members: Sequence[float], data: str, split: str) -> Evaluation:
        return Evaluation({"mean": sum(members) / len(members)}, len(data), split)


class OnePass(Plain):
    """A task that has the averages from one pass."""

    @classmethod
    def evaluate_averages(cls, members: Sequence[float], data: str, split: str) -> list[Evaluation]:
        return [Evaluation({"mean": 0.0}, 0, split) for _ in members]


def means(task: Any) -> list[float]:
    return [found.figures["mean"] for found in evaluate_averages(task, [1.0, 3.0, 8.0], "text", "valid")]


def test_averages_of_the_first_one_two_and_all() -> None:
    assert means(Plain) == [1.0, 2.0, 4.0]
    assert means(OnePass) == [0.0, 0.0, 0.0]


def test_what_the_language_task_has_more_than_it_has_to() -> None:
    task: Any = get_task("language")
    assert list(task.evaluations) == ["dynamic", "cache", "temperature"]
