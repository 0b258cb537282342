"""The figures of a finished run, with all that is needed to trust them: one entry of `benchmarks/results`."""

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from regrnn._version import __version__
from regrnn.tasks.protocol import Evaluation
from regrnn.training.files import write_text
from regrnn.training.loop import Outcome
from regrnn.training.recipe import Recipe


def result_entry(
    recipe: Recipe, seed: int, outcome: Outcome, regularization: str, data: Mapping[str, str]
) -> dict[str, Any]:
    """One run in the form that `regrnn reproduce` and the docs' tables read."""
    test = outcome.evaluations["test"]
    return {
        "recipe": recipe.name,
        "task": recipe.task,
        "seed": seed,
        "members": 1,
        "regularization": regularization,
        "complete": True,
        "epochs": outcome.position.epoch - (not outcome.stopped_early),
        "best_epoch": outcome.position.best_epoch,
        "evaluation": "static",
        "figures": figures(outcome.evaluations),
        "predictions": test.predictions,
        "data": dict(data),
        "protocol": "; ".join(f"{split}: {e.protocol}" for split, e in outcome.evaluations.items()),
        "command": " ".join(["regrnn", *map(shlex.quote, sys.argv[1:])]),
        "commit": commit(),
        "machine": f"{processor()}, {torch.get_num_threads()} threads",
        "versions": {"regrnn": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "wall_seconds": round(outcome.position.seconds),
    }


def figures(evaluations: dict[str, Evaluation]) -> dict[str, float]:
    """`SPLIT_FIGURE` by name."""
    return {
        f"{split}_{name}": value
        for split, evaluation in evaluations.items()
        for name, value in evaluation.figures.items()
    }


def keep_files(folder: Path, evaluations: Mapping[str, Evaluation]) -> None:
    """Write what the evaluations want kept as `folder/SPLIT-NAME`; there is no folder without any."""
    for split, evaluation in evaluations.items():
        for name, text in evaluation.files.items():
            folder.mkdir(exist_ok=True)
            write_text(folder / f"{split}-{name}", text)


def commit() -> str | None:
    """The git commit of the source checkout that is running; None for an installed package."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():  # git would find the repository of whoever installed the package in it
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
