"""What a run directory says, read from its files alone.

A run that goes on, one that was killed and one that is finished are all readable: a last line of `metrics.jsonl` that
was cut in half is left out, a missing file counts as an empty one.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regrnn.errors import RegrnnError
from regrnn.training.files import read_json


@dataclass(frozen=True)
class RunFiles:
    """The files of one run directory."""

    folder: Path
    head: dict[str, Any]
    """`recipe.json`: format, version, seed, recipe, checksums of the data."""
    metrics: list[dict[str, Any]]
    """All lines of `metrics.jsonl`."""
    timings: list[dict[str, Any]]
    result: dict[str, Any] | None
    """`result.json`; None while the run is not finished."""

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe as it was resolved."""
        recipe: dict[str, Any] = self.head["recipe"]
        return recipe

    @property
    def name(self) -> str:
        """The recipe's name."""
        return str(self.recipe.get("name", self.folder.name))

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """One record for each epoch that was evaluated, in order."""
        return [record for record in self.metrics if record.get("event") == "epoch"]

    @property
    def planned_epochs(self) -> int | None:
        """The recipe's number of epochs."""
        training = self.recipe.get("training")
        epochs = training.get("epochs") if isinstance(training, Mapping) else None
        return epochs if isinstance(epochs, int) else None

    @property
    def best(self) -> dict[str, Any] | None:
        """The record of the best epoch so far."""
        return next((record for record in reversed(self.epochs) if record.get("best") is True), None)

    @property
    def measured(self) -> Mapping[str, Any]:
        """The figures of the best epoch with the test set's, once the run is finished."""
        figures = (self.result or {}).get("figures")
        return figures if isinstance(figures, Mapping) else {}

    @property
    def figures(self) -> list[str]:
        """What was measured on both the training and the validation text; the first of them decides."""
        names = [key.removeprefix("train_") for record in self.epochs for key in record if key.startswith("train_")]
        return [
            name
            for name in dict.fromkeys(names)
            if name != "predictions"
            and name.isascii()
            and name.isidentifier()
            and any(f"valid_{name}" in record for record in self.epochs)
        ]

    def curve(self, key: str) -> list[float]:
        """The figure `key` epoch by epoch; nan where it is missing."""
        return [math.nan if (value := number(record, key)) is None else value for record in self.epochs]

    @property
    def lower_is_better(self) -> bool | None:
        """The direction of the deciding figure, from which epochs were called the best; None when they do not tell."""
        if not self.figures or self.best is None:
            return None
        key = f"valid_{self.figures[0]}"
        best = number(self.best, key)
        others = [value for value in self.curve(key) if math.isfinite(value) and value != best]
        return best < others[0] if best is not None and others else None


def read_run(run: Path) -> RunFiles:
    """All that `run` holds. Raises RegrnnError if it is no run directory or a file in it is damaged."""
    path = run / "recipe.json"
    if not path.is_file():
        raise RegrnnError(f"{run}: not a run (it has no recipe.json); name a folder that `regrnn train` made")
    head = read_json(path)
    if not isinstance(head.get("recipe"), dict):
        raise RegrnnError(f'{path}: not a run\'s recipe (the key "recipe" is missing); restore it from a copy')
    return RunFiles(
        folder=run,
        head=head,
        metrics=_lines(run / "metrics.jsonl"),
        timings=_lines(run / "timings.jsonl", strict=False),
        result=read_json(run / "result.json") if (run / "result.json").is_file() else None,
    )


def read_epochs(run: Path) -> list[dict[str, Any]]:
    """One record of `run/metrics.jsonl` for each epoch that was evaluated, in order; none yet is an empty list.

    Raises RegrnnError if `run` is no run directory or a line but the last is damaged.
    """
    return read_run(run).epochs


def read_result(run: Path) -> dict[str, Any] | None:
    """`run/result.json`; None while the run is not finished.

    Raises RegrnnError if `run` is no run directory or the file is damaged.
    """
    return read_run(run).result


def number(record: Mapping[str, Any], key: str) -> float | None:
    """The number at `key`; None when there is none."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _lines(path: Path, *, strict: bool = True) -> list[dict[str, Any]]:
    """The JSON objects of a file of lines.

    A kill can cut the last line in half, which is left out. In `timings.jsonl`, which a resumed run goes on writing
    as it finds it, such a line ends up in the middle: `strict` is then False and any bad line is left out.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RegrnnError(f"{path}: cannot be read ({error.strerror})") from None
    records = []
    for index, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        elif strict and index < len(lines):
            raise RegrnnError(f"{path}, line {index}: damaged, expected a JSON object; restore the file from a copy")
    return records
