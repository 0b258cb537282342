"""`regrnn evaluate`."""

import os
from json import dumps
from pathlib import Path
from typing import Literal

from regrnn.errors import RegrnnError


def evaluate(
    run: Path,
    /,
    *more: Path,
    data: str | None = None,
    split: Literal["train", "valid", "test"] = "test",
    threads: int | None = None,
    json: bool = False,
) -> None:
    """Score every word of a text by one protocol, and say over how many predictions.

    Parameters
    ----------
    run
        A run directory.
    more
        Further runs with the same vocabulary: the probabilities of all are averaged, per prediction.
    data
        A text file, a folder with train, valid and test, or the name of a data set; the run's own unless given.
    split
        Which part of it.
    threads
        Of the processor; torch's choice unless given.
    json
        Print the figures as JSON on standard output.
    """
    from regrnn.cli.train import set_threads
    from regrnn.tasks.protocol import get_task
    from regrnn.training.load import load, run_task

    set_threads(threads)
    runs = [run, *more]
    name = run_task(run)
    for other in more:
        if run_task(other) != name:
            raise RegrnnError(f"{other} is a {run_task(other)} run and {run} a {name} run; they cannot be averaged")
    members = [load(path) for path in runs]
    of = data if data is not None else _own_data(run)
    evaluation = get_task(name).evaluate_trained(members, of, split)
    if json:
        head = {"runs": [str(path) for path in runs], "data": of, "split": split}
        kept = {key: value for key, value in vars(evaluation).items() if key != "files"}
        print(dumps(head | kept, indent=2))
        return
    for figure, value in evaluation.figures.items():
        print(f"{split} {figure.replace('_', ' ')} {value:.3f}")
    print(f"over {evaluation.predictions:,} predictions, {split} of {of} ({evaluation.protocol})")


def _own_data(run: Path) -> str:
    """What `run` was trained on. Raises RegrnnError when that is not known, or no longer there."""
    from regrnn.data.locate import data_root
    from regrnn.training.files import read_json

    if not (run / "recipe.json").is_file():
        raise RegrnnError(f"{run} does not say which data it was trained on; name it with --data")
    recipe = read_json(run / "recipe.json").get("recipe")
    section = recipe.get("data") if isinstance(recipe, dict) else None
    path = section.get("path") if isinstance(section, dict) else None
    if not isinstance(path, str):
        raise RegrnnError(f"{run}/recipe.json does not say which data the run was trained on; name it with --data")
    # "docs" is not a file: it comes with Python.
    if path != "docs" and not (Path(os.path.expanduser(path)).exists() or (data_root() / path).exists()):
        raise RegrnnError(
            f"{run} was trained on {path!r}, which is neither here nor in {data_root()}; "
            "say where it is, or name another text, with --data"
        )
    return path
