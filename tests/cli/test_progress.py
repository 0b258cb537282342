"""`regrnn.cli.progress`: what a person sees of a run."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from regrnn.cli import progress
from regrnn.cli.progress import ConsoleProgress
from regrnn.errors import Interrupted
from regrnn.training import loop


class Terminal(io.StringIO):
    """Remembers what is written; `screen` is what a terminal of any height would show of it."""

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        lines = []
        for line in self.getvalue().split("\n"):
            shown: list[str] = []
            place = 0
            for character in line:
                if character == "\r":
                    place = 0
                    continue
                shown[place : place + 1] = [character]
                place += 1
            lines.append("".join(shown).rstrip())
        return lines


class Clock:
    """Stands in for the module `time`."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setenv("COLUMNS", "100")
    return clock


RECORD = {"epoch": 1, "learning_rate": 0.5, "train_perplexity": 81.5, "valid_perplexity": 99.25, "best": True}


def test_one_live_line_is_overwritten_on_a_terminal(clock: Clock) -> None:
    terminal = Terminal()
    shown = ConsoleProgress("perplexity", "tokens", 2, stream=terminal)
    shown.line("the text\nof two lines")
    for position in range(1, 101):
        clock.now += 1 / 16
        shown.step(1, position, 100, 5.4321, 1234.5)
        assert len(terminal.screen) == 3  # two lines that stay and the live one
    assert terminal.screen[:2] == ["the text", "of two lines"]
    assert re.fullmatch(r"epoch 1/2 100% · loss 5\.432 · 1,234 tokens/s · 6 s left · [\d,]+ MB", terminal.screen[2]), (
        terminal.screen[2]
    )
    assert terminal.getvalue().count("loss") == 25  # 5 times a second at the most
    shown.evaluating("valid")
    assert terminal.screen[2] == "evaluating valid ..."
    shown.epoch(RECORD)
    assert terminal.screen[2:] == [
        "epoch   1/2  learning rate 0.5       train perplexity    81.50  valid    99.25  best so far",
        "",
    ]
    shown.step(2, 1, 100, 5.0, 1000)
    shown.clear()
    assert terminal.screen[-1] == ""


def test_live_line_never_wraps(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    terminal = Terminal()
    shown = ConsoleProgress("perplexity", "tokens", 2, stream=terminal)
    clock.now += 1
    shown.step(1, 10, 100, 5.4321, 1234.5)
    assert terminal.screen == ["epoch 1/2  10% · loss 5.432 ·"]
    assert len(terminal.screen[0]) < 30


def test_plain_lines_in_a_pipe(clock: Clock) -> None:
    pipe = io.StringIO()
    shown = ConsoleProgress("perplexity", "tokens", 2, stream=pipe)
    for position in range(1, 101):
        clock.now += 1
        shown.step(1, position, 100, 5.4321, 1000)
    shown.evaluating("valid")
    shown.epoch(RECORD)
    shown.clear()
    lines = pipe.getvalue().splitlines()
    assert "\r" not in pipe.getvalue()
    assert [line.split(" · ")[0] for line in lines[:-1]] == ["epoch 1/2  30%", "epoch 1/2  60%", "epoch 1/2  90%"]
    assert "left" not in lines[0]  # nothing to judge by yet
    assert "1 min 50 s left" in lines[2]
    assert lines[-1].startswith("epoch   1/2  learning rate 0.5 ")


def test_time_left_counts_the_evaluations_too(clock: Clock) -> None:
    terminal = Terminal()
    shown = ConsoleProgress("perplexity", "tokens", 3, stream=terminal)
    clock.now += 1
    shown.step(1, 100, 100, 5.0, 1000)  # first seen at the end of the first epoch, as after a resume
    shown.epoch(RECORD)
    clock.now += 50
    shown.step(2, 50, 100, 5.0, 1000)
    assert " 2 min 30 s left " in terminal.screen[-1]  # a second for each of 150
    clock.now += 100
    shown.step(3, 50, 100, 5.0, 1000)
    assert " 50 s left " in terminal.screen[-1]


def test_resuming_says_where_and_warns_of_other_threads() -> None:
    pipe = io.StringIO()
    shown = ConsoleProgress("perplexity", "tokens", 3, stream=pipe)
    shown.resumed(Path("runs/x/checkpoints/000040"), {"epoch": 2, "step": 40, "threads": torch.get_num_threads()})
    assert pipe.getvalue() == "resuming from runs/x/checkpoints/000040 (epoch 2, step 40)\n"
    shown.resumed(Path("runs/x/checkpoints/000040"), {"epoch": 2, "step": 40, "threads": 64})
    assert pipe.getvalue().splitlines()[-1] == (
        "note: it was saved with 64 threads and goes on with 1; "
        "the result is the same bit for bit only with the same number"
    )


@pytest.mark.parametrize("error", [Interrupted(15, "stopped"), RuntimeError("a fault")])
def test_what_ends_a_run_gets_a_line_of_its_own(
    tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from regrnn.cli import train
    from regrnn.training.recipe import read_recipe, recipe_from_dict

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)

    def end(trainer: Any) -> None:
        trainer.progress.evaluating("valid")
        assert terminal.screen[-1] == "evaluating valid ..."
        raise error

    monkeypatch.setattr(loop.Trainer, "train", end)
    recipe = recipe_from_dict(read_recipe("language"), "language", [("--data.path", str(tiny_text))])
    with pytest.raises(type(error)):
        train.run_training(recipe, tmp_path / "run", 1)
    assert terminal.screen[-1] == ""


def test_on_a_pipe_a_run_prints_its_epochs(regrnn: Callable[..., Any], tiny_text: Path, tmp_path: Path) -> None:
    settings = [
        "--data.steps",
        "20",
        "--model.hidden-size",
        "4",
        "--training.epochs",
        "2",
        "--training.patience",
        "none",
    ]
    outcome = regrnn("train", "language", "--data", tiny_text, "--out", tmp_path / "run", *settings)
    lines = outcome.err.splitlines()
    assert lines[0] == f"language, seed 1, in {tmp_path}/run"
    assert lines[1].startswith(f"{tiny_text} cut in order ")
    assert re.fullmatch(r"train [\d,]+, valid \d+, test \d+ tokens; 14 types", lines[2]), lines[2]
    epochs = [line for line in lines if re.match(r"epoch +\d+/2  learning rate 1 ", line)]
    assert len(epochs) == 2
    assert "\r" not in outcome.err
