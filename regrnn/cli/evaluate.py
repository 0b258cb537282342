"""`regrnn evaluate`."""

import dataclasses
import inspect
import math
import os
import sys
from collections.abc import Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cyclopts

from regrnn.config import apply_flag, did_you_mean, fill
from regrnn.errors import RegrnnError

if TYPE_CHECKING:
    from regrnn.tasks.protocol import Evaluation, Task

STATIC = "static"
"""The evaluation that every task has: the trained model as it is."""


def evaluate(
    run: Path,
    /,
    *more: Annotated[str, cyclopts.Parameter(allow_leading_hyphen=True)],
    data: str | None = None,
    split: Literal["train", "valid", "test"] = "test",
    evaluation: str = STATIC,
    tune: bool = False,
    threads: int | None = None,
    result: Path | None = None,
    json: bool = False,
) -> None:
    """Take the figures of a part of the data by one protocol, and say over how many predictions.

    Parameters
    ----------
    run
        A run directory.
    more
        Further runs of the same task and vocabulary: the probabilities of all are averaged, per prediction, and there
        is a row for 1, 2, ... of them. Also settings of the evaluation, `--dynamic.learning-rate 0.03`.
    data
        The data, as `regrnn train` takes them for this task; the run's own unless given.
    split
        Which part of it.
    evaluation
        `static`: the model as it was trained. Some tasks have others; a name that there is not lists them.
    tune
        Choose the settings of the evaluation on valid, from a small grid, which is printed; then score the split once.
    threads
        Of the processor; torch's choice unless given.
    result
        Add the figures to this file, of the form of `benchmarks/results`; the runs have to be finished.
    json
        Print the figures as JSON on standard output.
    """
    from regrnn.cli.train import set_threads
    from regrnn.tasks.protocol import evaluate_averages, get_task
    from regrnn.training.load import load, run_task
    from regrnn.training.result import check_results, derived_entry, finished_entry, update_results

    others, flags = _sort(more)
    runs = [run, *others]
    set_threads(threads)
    name = run_task(run)
    for other in others:
        if run_task(other) != name:
            raise RegrnnError(f"{other} is a {run_task(other)} run and {run} a {name} run; they cannot be averaged")
    task = get_task(name)
    how = None if evaluation == STATIC else _settings(task, evaluation, flags, tune)
    if how is None and (flags or tune):
        raise RegrnnError(f"{flags[0][0] if flags else '--tune'}: name the --evaluation that it belongs to")
    entries = [finished_entry(path) for path in runs] if result is not None else []
    if result is not None:
        check_results(result)  # now, not when all has been computed
        if len({path.resolve() for path in runs}) < len(runs):
            raise RegrnnError("--result: a run is there twice, and an average to be kept is of different ones")
    members = [load(path) for path in runs]
    of = data if data is not None else own_data(run)
    tried: list[dict[str, Any]] = []
    scored: dict[str, Evaluation] = {}
    if how is None:
        averages = evaluate_averages(task, members, of, split)
    else:
        if tune:
            how, scored["valid"] = _tune(task, evaluation, members, of, tried, quiet=json)
        averages = list(task.evaluate_otherwise(members, of, split, [how]))  # type: ignore[attr-defined]
    found = averages[-1]
    for figure, value in found.figures.items():
        if not math.isfinite(value):
            advice = "" if how is None else " with these settings; a smaller rate or another value may do"
            raise RegrnnError(f"the {split} {figure.replace('_', ' ')} is {value}, no finite number{advice}")
    for note in found.notes:
        print(f"regrnn: note: {note}", file=sys.stderr)
    changed = _changed(run, split, found)
    if changed and result is not None:
        raise RegrnnError(f"--result {result}: {changed}, so that the figures are not the run's")
    if changed and data is None:
        print(f"regrnn: note: {changed}; what is scored may have been trained on", file=sys.stderr)
    scored[split] = found
    settings = {} if how is None else dataclasses.asdict(how)
    if result is not None:
        counted: dict[int, dict[str, Evaluation]] = {len(runs): scored}
        if how is None:
            # Of several runs each has its own result already.
            counted = {k: {split: average} for k, average in enumerate(averages, 1) if k > 1 or len(runs) == 1}
        made = [
            derived_entry(entries[:count], of_splits, evaluation=evaluation, settings=settings)
            for count, of_splits in counted.items()
        ]
        update_results(result, made)
    if json:
        record: dict[str, Any] = {"runs": [str(path) for path in runs], "data": of, "split": split}
        record["evaluation"] = evaluation
        if how is not None:
            record |= {"settings": settings, "tried_on_valid": tried}
        if len(averages) > 1:
            record["averages"] = [{"members": k, "figures": a.figures} for k, a in enumerate(averages, 1)]
        record |= {"figures": found.figures, "predictions": found.predictions, "protocol": found.protocol}
        print(dumps(record, indent=2))
        return
    if len(averages) > 1:
        print("\n".join(members_table({split: averages})))
    for figure, value in found.figures.items():
        print(f"{split} {figure.replace('_', ' ')} {value:.3f}")
    print(f"over {found.predictions:,} predictions, {split} of {of} ({found.protocol})")


def _changed(run: Path, split: str, found: "Evaluation") -> str:
    """What to say where the split is not the one that `run` had, and it is known; else nothing."""
    from regrnn.training.files import read_json

    recipe = run / "recipe.json"
    recorded = read_json(recipe).get("data") if recipe.is_file() else None
    before = recorded.get(split) if isinstance(recorded, dict) else None
    if not found.data or before is None or before == found.data:
        return ""
    return f"the {split} part is not that with which {run} was trained: it has changed, or is of other data"


def members_table(averages: Mapping[str, "Sequence[Evaluation]"]) -> list[str]:
    """The figures of each split for 1, 2, ... members averaged, as lines of text."""
    columns = [(split, figure) for split, found in averages.items() for figure in found[0].figures]
    heads = ["members", *(f"{split} {figure.replace('_', ' ')}" for split, figure in columns)]
    lines = ["  ".join(heads)]
    for index in range(len(next(iter(averages.values())))):
        values = [f"{averages[split][index].figures[figure]:.3f}" for split, figure in columns]
        cells = zip([str(index + 1), *values], heads, strict=True)
        lines.append("  ".join(cell.rjust(len(head)) for cell, head in cells))
    return lines


def _sort(arguments: Sequence[str]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Run directories, and `--section.key VALUE` as pairs."""
    runs, flags = [], []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            runs.append(Path(word))
            continue
        flag, equals, text = word.partition("=")
        if "." not in flag:
            parameters = inspect.signature(evaluate).parameters.values()
            own = [f"--{p.name}" for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
            raise RegrnnError(f"{flag}: regrnn evaluate has no such flag{did_you_mean(flag, own)}")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise RegrnnError(f"{flag}: the value is missing")
            text = rest.pop(0)
        flags.append((flag, text))
    return runs, flags


def _settings(task: "type[Task]", evaluation: str, flags: list[tuple[str, str]], tune: bool) -> Any:
    """The settings of one of the task's own evaluations."""
    kinds: Mapping[str, type[Any]] = getattr(task, "evaluations", {})
    if evaluation not in kinds:
        raise RegrnnError(
            f"--evaluation {evaluation}: {task.name} runs have no such evaluation"
            f"{did_you_mean(evaluation, [STATIC, *kinds])}"
        )
    if tune and flags:
        raise RegrnnError(f"{flags[0][0]}: --tune chooses it from its grid; give one of the two")
    values: dict[str, Any] = {}
    for flag, text in flags:
        apply_flag(values, {evaluation: kinds[evaluation]}, flag, text)
    return fill(kinds[evaluation], values.get(evaluation, {}), f"--{evaluation}")


def _tune(
    task: "type[Task]", evaluation: str, members: Sequence[Any], data: str, tried: list[dict[str, Any]], *, quiet: bool
) -> "tuple[Any, Evaluation]":
    """The settings of the grid with the best figure on valid, and their figures; what was tried goes to `tried`."""
    best: Any = None
    deciding = task.figure
    grid = task.evaluations[evaluation].grid()  # type: ignore[attr-defined]
    scored = task.evaluate_otherwise(members, data, "valid", grid)  # type: ignore[attr-defined]
    for how, found in zip(grid, scored, strict=True):
        settings = dataclasses.asdict(how)
        tried.append({"settings": settings, "figures": found.figures})
        value = found.figures[deciding.name]
        if not quiet:
            words = ", ".join(f"{key.replace('_', ' ')} {setting:g}" for key, setting in settings.items())
            print(f"valid {deciding.name.replace('_', ' ')} {value:.3f}  {words}", flush=True)
        if deciding.better(value, None if best is None else best[1].figures[deciding.name]):
            best = (how, found)
    if best is None:
        raise RegrnnError(f"--tune: no setting of the {evaluation} grid has a finite figure on valid")
    chosen: tuple[Any, Evaluation] = best
    edges = _at_an_edge(dataclasses.asdict(chosen[0]), [row["settings"] for row in tried])
    if edges and not quiet:
        print(f"regrnn: note: {', '.join(edges)} is the end of the grid; beyond may be better", file=sys.stderr)
    return chosen


def _at_an_edge(chosen: Mapping[str, float], tried: Sequence[Mapping[str, float]]) -> list[str]:
    """The settings of which the grid has several and `chosen` the least or the greatest."""
    values = {name: {settings[name] for settings in tried} for name in chosen}
    return [
        f"{name.replace('_', ' ')} {value:g}"
        for name, value in chosen.items()
        if len(values[name]) > 1 and value in (min(values[name]), max(values[name]))
    ]


def own_data(run: Path) -> str:
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
