"""What every test is given: a cache of its own; the command line, run in this process; and, made once, a tiny text
and a tiny trained run.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Examples take as long as the machine lets them, and are the same in every run.
settings.register_profile("regrnn", deadline=None, derandomize=True, database=None)
settings.load_profile("regrnn")

_numbers = itertools.count()


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit status, standard output and standard error."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def empty_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`REGRNN_CACHE`, a folder that is not there yet: no test finds or leaves anything in the user's."""
    folder = tmp_path_factory.getbasetemp() / f"cache-{next(_numbers)}"
    monkeypatch.setenv("REGRNN_CACHE", str(folder))
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch's threads, while a test that asks for it runs: tests are small, and several may run at once."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 lines of 15 types; the validation and test parts each have a word that the training part has not."""
    draw = random.Random(1)
    nouns, verbs, adjectives = ["dog", "cat", "bird", "fox"], ["sees", "hears", "likes"], ["red", "old", "big"]
    lines = []
    for number in range(300):
        noun = {250: "yak", 290: "emu"}.get(number, draw.choice(nouns))
        lines.append(f"the {draw.choice(adjectives)} {noun} {draw.choice(verbs)} the {draw.choice(nouns)} .")
    path = tmp_path_factory.mktemp("text") / "tiny.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of `tiny_text`, trained for two epochs. Not to be changed: copy it first."""
    import torch

    from regrnn.cli.main import run

    threads = torch.get_num_threads()
    out = tmp_path_factory.mktemp("runs") / "tiny"
    settings = {
        "data.punctuation": "attached",
        "data.min-frequency": "1",
        "data.batch-size": "4",
        "data.steps": "10",
        "model.hidden-size": "16",
        "model.num-layers": "1",
        "model.dropout": "0.1",
        "model.init": "0.1",
        "training.epochs": "2",
        "training.patience": "none",
    }
    flags = [part for key, value in settings.items() for part in (f"--{key}", value)]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("REGRNN_CACHE", str(tmp_path_factory.mktemp("cache-of-tiny-run")))
        assert run(["train", "language", "--data", str(tiny_text), "--out", str(out), "--threads", "1", *flags]) == 0
    torch.set_num_threads(threads)
    return out


@pytest.fixture
def regrnn(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`regrnn("evaluate", path)` is the command `regrnn evaluate PATH`."""

    def command(*arguments: Any) -> Outcome:
        from regrnn.cli.main import run

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
