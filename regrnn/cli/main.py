"""The `regrnn` program: finds the commands and turns mistakes into one line on standard error."""

import importlib
import os
import pkgutil
import re
import sys
import typing
from collections.abc import Sequence

import cyclopts

import regrnn.tasks
from regrnn._version import __version__
from regrnn.cli.verbs import bind
from regrnn.config import did_you_mean
from regrnn.errors import NO_MEMORY, Interrupted, RegrnnError

COMMANDS = {
    "demo": "See the paper's effect on English text that every Python carries.",
    "train": "Train a model, or go on with a run that was stopped.",
    "evaluate": "Take the figures of a part of the data with one run, or with the average of several.",
    "reproduce": "Print a table of the paper beside what was measured here.",
    "recipes": "List the recipes, or show one whole.",
    "fetch": "Download a data set, checked against its checksums.",
    "trace": "Count how often dropout strikes what travels through a network, and draw it.",
    "doctor": "Say what regrnn runs on here.",
}
"""By name, with the help that is shown without importing them: `--help` has to be instant."""

DASH = "\0-"
"""Stands for a lone `-`, standard input, which cyclopts takes for a flag; no argument can have a NUL in it."""


def build_app() -> cyclopts.App:
    """All commands. Each is imported only when it runs; the tasks' own verbs come from their folders."""
    app = cyclopts.App(
        name="regrnn",
        version=f"regrnn {__version__}",
        help="Recurrent networks with dropout on every connection except the recurrent ones.",
        help_format="markdown",
        result_action="return_value",
        default_parameter=cyclopts.Parameter(negative=(), converter=_convert),
    )
    for name, summary in COMMANDS.items():
        app.command(f"regrnn.cli.{name}:{name}", name=name, help=summary)
    for module in pkgutil.iter_modules(regrnn.tasks.__path__):
        if module.ispkg:
            verbs = importlib.import_module(f"regrnn.tasks.{module.name}.verbs")
            for verb in verbs.VERBS:
                app.command(bind(verb, module.name), name=verb.__name__)
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status: 0, 1 for a mistake, 128 + the signal where one stopped it."""
    tokens = [DASH if token == "-" else token for token in (sys.argv[1:] if arguments is None else arguments)]
    try:
        build_app()(tokens, exit_on_error=False, print_error=False)
        sys.stdout.flush()  # now, while a full disk or a closed pipe can still be told
    except RegrnnError as error:
        return _refuse(str(error))
    except cyclopts.CycloptsError as error:
        return _refuse(_usage(error).replace(repr(DASH), repr("-")))
    except Interrupted as stop:
        print(f"regrnn: {stop}", file=sys.stderr)
        return 128 + stop.signum
    except KeyboardInterrupt:
        print("regrnn: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _refuse(f"{error.filename or 'the system'}: {error.strerror or error}")
    except UnicodeEncodeError as error:
        letter = error.object[error.start]
        return _refuse(f"standard output cannot show {letter!r} in {error.encoding}; set PYTHONUTF8=1")
    except (MemoryError, RuntimeError) as error:
        # Of torch's many RuntimeErrors only those of its allocators are the user's to mend.
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        asked = re.search(r"ried to allocate ([\d.]+ \w+)", str(error))
        much = f" ({asked[1]} were asked for)" if asked else ""
        return _refuse(f"{NO_MEMORY}{much}; choose smaller sizes or a smaller batch")
    return 0


def main() -> None:
    """The entry point of the installed program."""
    sys.exit(run())


def _refuse(message: str) -> int:
    """Print the one line that a mistake gets."""
    print(f"regrnn: error: {' '.join(message.split())}", file=sys.stderr)
    return 1


def _usage(error: cyclopts.CycloptsError) -> str:
    """A mistake in the command line itself, in the words of the other messages."""
    command = " ".join(["regrnn", *(error.command_chain or ())])
    see = f"see {command} --help"
    if isinstance(error, cyclopts.UnknownCommandError) and error.unused_tokens and error.app:
        names = [name for name in error.app if not name.startswith("-")]
        return f"there is no command {error.unused_tokens[0]!r}{did_you_mean(error.unused_tokens[0], names)}"
    if isinstance(error, cyclopts.UnknownOptionError):
        flag = (error.token.keyword or error.token.value).split("=")[0]
        if "." in flag and command == "regrnn train":
            return f"{flag}: the settings stand behind the recipe, as in: regrnn train language {flag} VALUE"
        names = [name for known in error.argument_collection for name in known.names if name.startswith("--")]
        return f"{flag}: {command} has no such flag{did_you_mean(flag, names)}"
    if isinstance(error, cyclopts.UnusedCliTokensError) and error.unused_tokens:
        return f"{command}: {error.unused_tokens[0]!r} is one argument too many; {see}"
    if isinstance(error, cyclopts.RepeatArgumentError) and error.token.keyword:
        return f"{error.token.keyword}: given more than once"
    if isinstance(error, cyclopts.MissingArgumentError) and error.argument:
        if error.keyword:
            return f"{error.keyword}: the value is missing; {see}"
        return f"{command}: {error.argument.name.lstrip('-').upper()} is missing; {see}"
    if isinstance(error, cyclopts.CoercionError) and error.argument and error.token:
        choices = error.argument.get_choices()
        hints = (error.argument.hint, *typing.get_args(error.argument.hint))
        expected = {int: "a whole number", float: "a number", bool: "no value, or true or false"}
        wanted = f"one of {', '.join(choices)}" if choices else next((expected[h] for h in hints if h in expected), "")
        if wanted:
            return f"{error.argument.name}: expected {wanted}, found {error.token.value!r}"
    return f"{str(error).rstrip('.')}; {see}"


def _convert(kind: typing.Any, tokens: Sequence[cyclopts.Token]) -> typing.Any:
    """As cyclopts does it, but that `-` is text and 1.5 no whole number (cyclopts rounds it)."""
    if kind is int:
        return int(tokens[0].value)
    return cyclopts.convert(kind, [token.evolve(value="-") if token.value == DASH else token for token in tokens])
