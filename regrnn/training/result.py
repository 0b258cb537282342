"""The figures of a finished run, with all that is needed to trust them: one entry of `benchmarks/results`."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from regrnn._version import __version__
from regrnn.errors import RegrnnError
from regrnn.tasks.protocol import Evaluation
from regrnn.training.files import read_json, read_text, write_json, write_text
from regrnn.training.loop import Outcome, precision_on
from regrnn.training.recipe import Recipe, changes


def result_entry(
    recipe: Recipe, seed: int, outcome: Outcome, regularization: str, data: Mapping[str, str], device: torch.device
) -> dict[str, Any]:
    """One run, on `device`, in the form that `regrnn reproduce` and the docs' tables read."""
    test = outcome.evaluations["test"]
    return {
        "recipe": recipe.name,
        "task": recipe.task,
        "seed": seed,
        "members": 1,
        "regularization": regularization,
        **_changes(changes(recipe.name, recipe.to_dict())),
        **_precision(precision_on(device, recipe.training.matmul_precision)),
        "complete": True,
        "epochs": outcome.position.epoch - (not outcome.stopped_early),
        "best_epoch": outcome.position.best_epoch,
        "evaluation": "static",
        "figures": figures(outcome.evaluations),
        "predictions": test.predictions,
        "data": dict(data),
        "protocol": "; ".join(f"{split}: {e.protocol}" for split, e in outcome.evaluations.items()),
        **_made(),
        "wall_seconds": round(outcome.position.seconds),
    }


def _changes(changed: Sequence[str]) -> dict[str, list[str]]:
    """Which settings are not those of the recipe of that name; such a result has no place in its table."""
    return {"changes": list(dict.fromkeys(changed))} if changed else {}


def _precision(matmul_precision: str) -> dict[str, str]:
    """What is said of the arithmetic of training, where it is not torch's default."""
    return {} if matmul_precision == "highest" else {"matmul_precision": matmul_precision}


def _made() -> dict[str, Any]:
    """By which command, code and machine."""
    return {
        "command": " ".join(["regrnn", *map(shlex.quote, sys.argv[1:])]),
        "commit": commit(),
        "machine": f"{processor()}, {torch.get_num_threads()} threads",
        "versions": {"regrnn": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def finished_entry(run: Path) -> dict[str, Any]:
    """The entry of a finished run; RegrnnError for another one."""
    path = run / "result.json"
    if not path.is_file():
        raise RegrnnError(f"{run} is not a finished run (it has no result.json); train it to its end first")
    return read_json(path)


def derived_entry(
    members: Sequence[Mapping[str, Any]],
    evaluations: Mapping[str, Evaluation],
    *,
    evaluation: str = "static",
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """An entry for trained runs, given by their own entries, averaged or evaluated in another way.

    Its figures are those of `evaluations`, by split; its wall time is that of training all of them.
    """
    first = members[0]
    last = list(evaluations.values())[-1]

    def common(key: str) -> str:
        return " + ".join(dict.fromkeys(str(member.get(key)) for member in members))

    return {
        "recipe": common("recipe"),
        "task": first.get("task"),
        "seed": first.get("seed"),
        "seeds": [member.get("seed") for member in members],
        "members": len(members),
        "regularization": common("regularization"),
        **_changes([change for member in members for change in member.get("changes", ())]),
        **_precision(" + ".join(dict.fromkeys(str(m.get("matmul_precision", "highest")) for m in members))),
        "complete": all(member.get("complete") is True for member in members),
        "epochs": first.get("epochs"),
        "evaluation": evaluation,
        **({"settings": dict(settings)} if settings else {}),
        "figures": figures(evaluations),
        "predictions": last.predictions,
        "data": first.get("data"),
        "protocol": "; ".join(f"{split}: {e.protocol}" for split, e in evaluations.items()),
        **_made(),
        "wall_seconds": sum(seconds for m in members if isinstance(seconds := m.get("wall_seconds"), int | float)),
    }


def check_results(path: Path) -> list[Any]:
    """The entries of the result file `path`, none if it is not there.

    Raises RegrnnError for a file of another kind, or one that could not be written.
    """
    if not path.parent.is_dir():
        raise RegrnnError(f"--result {path}: there is no folder {path.parent}; make it first")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise RegrnnError(f"--result {path}: cannot be written; name another file")
    if not path.exists():
        return []
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise RegrnnError(f"{path}: damaged, not valid JSON ({error})") from None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise RegrnnError(f"{path}: not a result file (a list of objects); name another")
    return found


def update_results(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Add `entries` to the result file `path`; one of the same runs and evaluation is brought up to date.

    Its figures of other splits stay, if its settings are the same.
    """
    found = check_results(path)
    same = ("recipe", "regularization", "members", "evaluation", "seeds", "data")
    for entry in entries:
        key = [entry.get(name) for name in same]
        place = next((i for i, old in enumerate(found) if [old.get(name) for name in same] == key), None)
        if place is None:
            found.append(entry)
            continue
        old, new_figures = found[place], entry["figures"]
        if old.get("settings") == entry.get("settings"):
            entry = entry | {"figures": old.get("figures", {}) | entry["figures"]}
            protocols = dict.fromkeys([str(old.get("protocol")), entry["protocol"]])
            entry["protocol"] = "; ".join(sorted(protocols, key=lambda protocol: "test: " in protocol))  # it ends it
            if not any(name.startswith("test_") for name in new_figures):  # the count is that of the test part
                entry["predictions"] = old.get("predictions")
        found[place] = entry
    try:
        write_json(path, found)
    except OSError as error:
        raise RegrnnError(f"{path}: cannot be written ({error.strerror})") from None


def figures(evaluations: Mapping[str, Evaluation]) -> dict[str, float]:
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
