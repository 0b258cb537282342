"""The command line, run in this process."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from regrnn.cli.main import run


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit status, standard output and standard error."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def alone(one_thread: None) -> None:
    """Every test here."""


@pytest.fixture
def regrnn(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`regrnn("evaluate", path)` is the command `regrnn evaluate PATH`."""

    def command(*arguments: Any) -> Outcome:
        capsys.readouterr()
        status = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return command


@pytest.fixture
def done(regrnn: Callable[..., Outcome]) -> Callable[..., str]:
    """The standard output of a command that has to succeed."""

    def command(*arguments: Any) -> str:
        outcome = regrnn(*arguments)
        assert outcome.status == 0, outcome.err
        return outcome.out

    return command


@pytest.fixture
def refused(regrnn: Callable[..., Outcome]) -> Callable[..., str]:
    """The message of a command that has to be refused as a user's mistake is: one line, and no output."""

    def command(*arguments: Any) -> str:
        outcome = regrnn(*arguments)
        assert outcome.status == 1, outcome
        assert outcome.out == ""
        lines = outcome.err.splitlines()
        errors = [line for line in lines if line.startswith("regrnn: error: ")]
        # What stands before it is a run's progress.
        assert len(errors) == 1 and lines[-1] == errors[0], outcome.err
        assert "Traceback" not in outcome.err
        return errors[0].removeprefix("regrnn: error: ")

    return command


@pytest.fixture
def contents() -> Callable[[Path], dict[str, str]]:
    """All that is under a folder: the checksum of each file, the target of each link."""

    def listing(folder: Path) -> dict[str, str]:
        found = {}
        for path in sorted(folder.rglob("*")):
            if path.is_symlink():
                found[str(path.relative_to(folder))] = f"-> {path.readlink()}"
            elif path.is_file():
                found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[str(path.relative_to(folder))] = "folder"
        return found

    return listing
