"""`regrnn.cli.main`: commands, their help, and how mistakes are told."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from regrnn import __version__
from regrnn.cli import main, verbs
from regrnn.cli.main import COMMANDS, build_app, run
from regrnn.errors import Interrupted, RegrnnError
from regrnn.tasks.protocol import task_names

VERBS = [verb.__name__ for task in task_names() for verb in import_module(f"regrnn.tasks.{task}.verbs").VERBS]


def python(code: str, *arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "matplotlib", "tokenizers", "safetensors", "pooch")
    code = f"""
import sys
from regrnn.cli.main import run
assert run(["--help"]) == 0
assert run(["train", "--help"]) == run(["generate", "--help"]) == run(["evaluate", "--help"]) == 0
print([name for name in {heavy} if name in sys.modules])
"""
    found = python(code)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "[]"
    assert found.stderr == ""


def test_every_command_has_help(done: Callable[..., str]) -> None:
    names = [name for name in build_app() if not name.startswith("-")]
    assert sorted(names) == sorted([*COMMANDS, *VERBS])
    overview = " ".join(done("--help").replace("│", " ").split())
    for name in names:
        page = done(name, "--help")
        assert page.startswith(f"Usage: regrnn {name}")
        assert "--json" in page
        if name in COMMANDS:
            # The first sentence is told twice, so that the overview need not import the command.
            assert f"{name} {COMMANDS[name]}" in overview
        # What is given by its place is not a flag too.
        assert not re.search(r"--(recipe|run|file)(?![\w-])", page)


def test_no_command_shows_the_overview(done: Callable[..., str]) -> None:
    assert done() == done("--help")


def test_version(done: Callable[..., str]) -> None:
    assert done("--version") == f"regrnn {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "there is no command 'trian'; did you mean 'train'?"),
        (["xyzzy"], f"there is no command 'xyzzy'; known: {', '.join(sorted([*COMMANDS, *VERBS]))}"),
        (["--xyzzy"], f"there is no command '--xyzzy'; known: {', '.join(sorted([*COMMANDS, *VERBS]))}"),
        (["train"], "regrnn train: RECIPE is missing; see regrnn train --help"),
        (["evaluate"], "regrnn evaluate: RUN is missing; see regrnn evaluate --help"),
        (["generate", "--seed", "1"], "regrnn generate: RUN is missing; see regrnn generate --help"),
        (["score", "run"], "regrnn score: FILE is missing; see regrnn score --help"),
        (["fetch"], "regrnn fetch: NAME is missing; see regrnn fetch --help"),
        (["generate", "run", "--seed", "-"], "--seed: expected a whole number, found '-'"),
        (["recipes", "a", "-"], "regrnn recipes: '-' is one argument too many; see regrnn recipes --help"),
        (["-"], f"there is no command '-'; known: {', '.join(sorted([*COMMANDS, *VERBS]))}"),
        (["recipes", "a", "b"], "regrnn recipes: 'b' is one argument too many; see regrnn recipes --help"),
        (["doctor", "--jsno"], "--jsno: regrnn doctor has no such flag; did you mean '--json'?"),
        (["doctor", "--jsno=1"], "--jsno: regrnn doctor has no such flag; did you mean '--json'?"),
        (["evaluate", "run", "--splti", "test"], "--splti: regrnn evaluate has no such flag; did you mean '--split'?"),
        (
            ["evaluate", "run", "--xyzzy"],
            "--xyzzy: regrnn evaluate has no such flag; known: --data, --evaluation, --json, --result, --split, "
            "--threads, --tune",
        ),
        (["evaluate", "run", "--split", "tset"], "--split: expected one of train, valid, test, found 'tset'"),
        (["score", "run", "f", "--by", "sentence"], "--by: expected one of token, word, line, found 'sentence'"),
        (["evaluate", "run", "--split"], "--split: the value is missing; see regrnn evaluate --help"),
        (["generate", "run", "--length", "ten"], "--length: expected a whole number, found 'ten'"),
        (["generate", "run", "--length", "2.5"], "--length: expected a whole number, found '2.5'"),
        (["generate", "run", "--top-k", "2.0"], "--top-k: expected a whole number, found '2.0'"),
        (["generate", "run", "--top-p", "half"], "--top-p: expected a number, found 'half'"),
        (["doctor", "--json=maybe"], "--json: expected no value, or true or false, found 'maybe'"),
        (
            ["train", "--model.init=0.2", "language"],
            "--model.init: the settings stand behind the recipe, as in: regrnn train language --model.init VALUE",
        ),
        (["generate", "run", "--seed", "1", "--seed", "2"], "--seed: given more than once"),
    ],
)
def test_mistakes_in_the_command_line(refused: Callable[..., str], arguments: list[str], message: str) -> None:
    assert refused(*arguments) == message


def raising(error: BaseException) -> Callable[..., Any]:
    def app(*arguments: Any, **settings: Any) -> None:
        raise error

    return lambda: app


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RegrnnError("several\n  lines\n"), "several lines"),
        (OSError(28, "No space left on device", "/a/b"), "/a/b: No space left on device"),
        (OSError("strange"), "the system: strange"),
        (MemoryError(), "there is not enough memory; choose smaller sizes or a smaller batch"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes."),
            "there is not enough memory (64 bytes were asked for); choose smaller sizes or a smaller batch",
        ),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."),
            "there is not enough memory (2.00 GiB were asked for); choose smaller sizes or a smaller batch",
        ),
    ],
)
def test_what_goes_wrong_is_one_line(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, error: BaseException, message: str
) -> None:
    monkeypatch.setattr(main, "build_app", raising(error))
    assert refused("anything") == message


def test_a_fault_of_the_program_is_not_called_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "build_app", raising(RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run(["anything"])


def test_interruptions_have_the_status_of_their_signal(
    regrnn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "build_app", raising(Interrupted(15, "stopped, saved in runs/x")))
    stopped = regrnn()
    assert (stopped.status, stopped.err) == (143, "regrnn: stopped, saved in runs/x\n")
    monkeypatch.setattr(main, "build_app", raising(KeyboardInterrupt()))
    stopped = regrnn()
    assert (stopped.status, stopped.err) == (130, "regrnn: interrupted\n")


PRINTS = "from regrnn.cli import main; main.build_app = lambda: lambda *a, **k: print('f\xfcchse'); main.main()"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """As in `regrnn score run text | head -1`."""
    read, write = os.pipe()
    os.close(read)  # nobody reads: what is written fails, at the latest when it is flushed
    with open(write, "w") as nobody:
        found = subprocess.run(
            [sys.executable, "-c", PRINTS], stdout=nobody, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (found.returncode, found.stderr) == (0, "")


def test_letters_that_the_terminal_has_not() -> None:
    found = python(PRINTS, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == "regrnn: error: standard output cannot show '\\xfc' in ascii; set PYTHONUTF8=1\n"


def test_bind_names_the_flag_of_a_wrong_argument(
    tiny_run: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def verb(trained: object, file: Path, *, top_k: int = 1) -> None:
        """A verb."""
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {top_k}")
        raise ValueError("the file is a dog's breakfast")

    def app() -> Any:
        built = build_app()
        built.command(verbs.bind(verb, "language"), name="verb")
        return built

    monkeypatch.setattr(main, "build_app", app)
    assert refused("verb", tiny_run, "f", "--top-k", "0") == "--top-k must be at least 1, not 0"
    assert refused("verb", tiny_run, "f") == "the file is a dog's breakfast"
    assert refused("verb", tiny_run) == "regrnn verb: FILE is missing; see regrnn verb --help"
