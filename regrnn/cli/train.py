"""`regrnn train`."""

import dataclasses
import inspect
import time
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import cyclopts

from regrnn.config import did_you_mean
from regrnn.errors import Interrupted, RegrnnError

if TYPE_CHECKING:
    import torch

    from regrnn.training.recipe import Recipe

REPORT_SECONDS = 60.0
"""Between two writings of `report.html` while a run goes on."""

MOST_THREADS = 1024
"""Above this the system may refuse them, and torch would bring the process down."""


def train(
    recipe: str,
    /,
    *settings: Annotated[str, cyclopts.Parameter(allow_leading_hyphen=True)],
    data: str | None = None,
    out: Path | None = None,
    seed: int = 1,
    members: int = 1,
    jobs: int = 1,
    device: str = "cpu",
    threads: int | None = None,
    tensorboard: bool = False,
    json: bool = False,
) -> None:
    """Train a model, or go on with a run that was stopped.

    The same command resumes where the run directory was left, bit for bit.

    Parameters
    ----------
    recipe
        A recipe that comes with the package (see `regrnn recipes`) or a TOML file.
    settings
        Any setting of the recipe: `--section.key VALUE`, for example `--model.hidden-size 300`.
    data
        A text file or a folder with train, valid and test (language), recordings with alignments (speech), two
        aligned texts for each part (translation), pictures with their captions (captioning), or the name of a data set.
    out
        The run directory; `runs/RECIPE-SEED` unless given. With `--members` the folder of `member-SEED`, one for each.
    seed
        Of the first weights and all masks.
    members
        Train so many models, of this seed and the following, each a run of its own; then evaluate the averages of
        1, 2, ... of them.
    jobs
        How many members at a time, each in a process of its own.
    device
        `cpu` or `cuda`.
    threads
        Of the processor; torch's choice unless given, or one for each of several jobs.
    tensorboard
        Keep event files for TensorBoard in the run directory's folder `tensorboard`.
    json
        Print the figures as JSON on standard output.
    """
    from regrnn.training.recipe import read_recipe, recipe_from_dict

    values = read_recipe(recipe)
    flags = pair_flags(settings)
    if data is not None:
        flags.append(("--data.path", data))
    for flag, _ in flags:
        if "." not in flag:
            raise RegrnnError(
                f"{flag}: regrnn train has no such flag{_nearest(flag, recipe_from_dict(values, recipe))}"
            )
    resolved = recipe_from_dict(values, recipe, flags)
    for flag, count in (("--members", members), ("--jobs", jobs)):
        if count < 1:
            raise RegrnnError(f"{flag} {count}: must be at least 1")
    if members > 1:
        from regrnn.cli.members import Command, train_members

        common = (recipe, *settings, *(() if data is None else ("--data", data)))
        command = Command(common, device=device, threads=threads, tensorboard=tensorboard)
        train_members(resolved, command, out, seed, members, jobs, json=json)
        return
    out = out or Path("runs") / f"{resolved.name}-{seed}"
    entry = run_training(resolved, out, seed, device=device, threads=threads, tensorboard=tensorboard)
    print(dumps(entry, indent=2) if json else summary(entry))


def pair_flags(settings: tuple[str, ...]) -> list[tuple[str, str]]:
    """`--section.key VALUE` and `--section.key=VALUE` as pairs."""
    pairs = []
    rest = list(settings)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise RegrnnError(
                f"{flag!r} is not a flag; text is given with --data PATH, a setting with --section.key VALUE"
            )
        if "=" in flag:
            flag, text = flag.split("=", 1)
        elif rest and not rest[0].startswith("--"):
            text = rest.pop(0)
        elif "." in flag:
            raise RegrnnError(f"{flag}: the value is missing")
        else:
            text = ""  # an unknown flag, which is refused by its name
        pairs.append((flag, text))
    return pairs


def run_training(
    recipe: "Recipe",
    out: Path,
    seed: int,
    *,
    device: str = "cpu",
    threads: int | None = None,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train or resume the run in `out` to its end; its entry for `benchmarks/results`, also in `result.json`."""
    from regrnn.cli.progress import ConsoleProgress
    from regrnn.reports.run import write_run_report
    from regrnn.reports.tensorboard import write_tensorboard
    from regrnn.tasks.protocol import get_task
    from regrnn.training.files import read_json, write_json
    from regrnn.training.loop import Trainer
    from regrnn.training.result import keep_files, result_entry
    from regrnn.training.run import Run

    set_threads(threads)
    where = find_device(device)
    task = get_task(recipe.task).prepare(recipe.sections)
    run = Run.open(out, recipe, seed, task.fingerprint)
    written = 0.0

    def write_pages(running: bool = True) -> None:
        nonlocal written
        if not running or time.monotonic() - written > REPORT_SECONDS:
            write_run_report(out, running=running)
            written = time.monotonic()
        if tensorboard:
            write_tensorboard(out, out / "tensorboard")

    progress = ConsoleProgress(task.figure.name, task.unit, recipe.training.epochs, after_epoch=write_pages)
    with run.locked():
        if tensorboard:  # now, so that a missing package is not found out after an epoch
            write_tensorboard(out, out / "tensorboard")
        if run.result.exists():
            progress.line(f"{out} is finished; name another --out to train again")
            entry: dict[str, Any] = read_json(run.result)
            return entry
        progress.line(f"{recipe.name}, seed {seed}, in {out}\n{task.description}")
        if recipe.training.matmul_precision != "highest" and where.type == "cpu":
            progress.line(_said_of_precision())
        try:
            outcome = Trainer(task, recipe, run, seed, where, progress).train()
        except Interrupted:
            write_pages(running=False)
            raise
        finally:
            progress.clear()
        keep_files(out / "predictions", outcome.evaluations)
        entry = result_entry(recipe, seed, outcome, task.regularization, task.fingerprint, where)
        write_json(run.result, entry)
        write_pages(running=False)
    return entry


def _said_of_precision() -> str:
    """How products are computed on the CPU at medium precision."""
    from regrnn.kernels.core import choose, choose_bfloat16

    rounded = choose_bfloat16()
    if rounded.core is not None:
        return f"products in bfloat16 ({rounded.reason}), sums in float32; the last evaluation in float32"
    if choose().core is None:
        return f"matmul_precision is left to torch's kernels: {rounded.reason}"
    return f"products in float32, although matmul_precision is medium: {rounded.reason}"


def set_threads(threads: int | None) -> None:
    """Use that many threads; None leaves torch's choice."""
    import torch

    if threads is not None:
        if not 1 <= threads <= MOST_THREADS:
            raise RegrnnError(f"--threads {threads}: must be from 1 to {MOST_THREADS:,}")
        torch.set_num_threads(threads)


def find_device(name: str) -> "torch.device":
    """`name` as a device that works here; RegrnnError when it does not."""
    import torch

    if name.split(":")[0] not in ("cpu", "cuda"):
        raise RegrnnError(f"--device {name}: must be cpu or cuda")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RegrnnError(f"--device {name}: not usable here ({str(error).splitlines()[0]}); try cpu") from None
    return device


def summary(entry: dict[str, Any]) -> str:
    """The figures of a finished run, a line for each split, and how they were taken."""
    lines = [f"{entry['recipe']}, seed {entry['seed']}: best epoch {entry['best_epoch']} of {entry['epochs']}"]
    for split in ("train", "valid", "test"):
        figures = [
            f"{name.removeprefix(f'{split}_').replace('_', ' ')} {value:.2f}"
            for name, value in entry["figures"].items()
            if name.startswith(f"{split}_")
        ]
        lines.append(f"  {split:5}  {', '.join(figures)}")
    # The entry says it of each split; most of it is the same three times.
    train, _, others = entry["protocol"].removeprefix("train: ").partition("; valid: ")
    valid, _, test = others.partition("; test: ")
    lines.append(f"  test over {entry['predictions']:,} predictions: {test}")
    for split, protocol in (("train", train), ("valid", valid)):
        if protocol != test:
            lines.append(f"  {split}: {protocol.replace(test, 'the same')}")
    return "\n".join(lines)


def _nearest(flag: str, recipe: "Recipe") -> str:
    """`; did you mean ...`: the setting that is called so, or the flag that is spelt most like it."""
    parameters = inspect.signature(train).parameters.values()
    own = [f"--{parameter.name}" for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    settings = list(_setting_flags(recipe))
    bare = flag.removeprefix("--").replace("_", "-")
    near = next((setting for setting in settings if setting.endswith(f".{bare}")), None)
    return f"; did you mean {near!r}?" if near else did_you_mean(flag, [*own, *settings])


def _setting_flags(recipe: "Recipe") -> Iterator[str]:
    """`--model.hidden-size` and so on: a flag for each setting of the recipe."""
    for section, config in recipe.sections.items():
        for field in dataclasses.fields(config):
            yield f"--{section}.{field.name}".replace("_", "-")
