"""Turns a verb of a task, a function of a trained model, into a command on a run directory."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import cyclopts

from regrnn.errors import RegrnnError

AVERAGE = "average"
"""A verb's parameter of this name takes further trained models; on the command line, their run directories."""


def bind(verb: Callable[..., None], task: str) -> Callable[..., None]:
    """The command `regrnn VERB RUN ...` of `verb(trained, ...)`: the run's model stands in for its first parameter.

    What the verb takes by position (`file`) is positional only, as `run` is.
    """
    signature = inspect.signature(verb)
    rest = [
        p.replace(kind=inspect.Parameter.POSITIONAL_ONLY) if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD else p
        for p in list(signature.parameters.values())[1:]
    ]
    paths = Annotated[tuple[Path, ...], cyclopts.Parameter(consume_multiple=True, show_default=False)]
    rest = [p.replace(annotation=paths) if p.name == AVERAGE else p for p in rest]
    run = inspect.Parameter(
        "run",
        inspect.Parameter.POSITIONAL_ONLY,
        annotation=Annotated[Path, cyclopts.Parameter(help="A run directory.")],
    )

    @functools.wraps(verb)
    def command(run: Path, *args: Any, **kwargs: Any) -> None:
        from regrnn.training.load import load, run_task

        for path in (run, *kwargs.get(AVERAGE, ())):
            if run_task(path) != task:
                raise RegrnnError(f"{path} is a {run_task(path)} run; `regrnn {verb.__name__}` needs a {task} run")
        if AVERAGE in kwargs:
            kwargs[AVERAGE] = tuple(load(path) for path in kwargs[AVERAGE])
        try:
            verb(load(run), *args, **kwargs)
        except UnicodeError:
            raise  # of standard output, no argument's
        except ValueError as error:
            # In Python the message begins with the name of the argument; here that is a flag.
            name, _, message = str(error).partition(" ")
            flag = f"--{name.replace('_', '-')}" if name in signature.parameters else name
            raise RegrnnError(f"{flag} {message}") from None

    command.__signature__ = signature.replace(parameters=[run, *rest])  # type: ignore[attr-defined]
    command.__annotations__ = {"run": run.annotation, **{p.name: p.annotation for p in rest}, "return": None}
    del command.__wrapped__
    return command
