"""What a person sees of a run: one live line on a terminal, plain lines in a pipe."""

import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from regrnn.reports.scale import duration

PIPE_SECONDS = 30.0
"""Between two lines about the same epoch where there is no terminal."""


def memory() -> str:
    """The most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"{peak / 2**20:,.0f} MB"


class ConsoleProgress:
    """Prints a run's progress (`regrnn.training.loop.Progress`)."""

    def __init__(
        self,
        figure: str,
        unit: str,
        epochs: int,
        *,
        after_epoch: Callable[[], None] = lambda: None,
        stream: TextIO | None = None,
    ) -> None:
        self.figure = figure
        self.unit = unit
        self.epochs = epochs
        self.after_epoch = after_epoch
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self._shown = time.monotonic()
        self._width = 0
        self._first: tuple[int, float] | None = None
        """The batches done when first shown, and when that was: what the time left is judged by."""

    def resumed(self, checkpoint: Path, values: dict[str, Any]) -> None:
        """One line that says where the run goes on."""
        self.line(f"resuming from {checkpoint} (epoch {values['epoch']}, step {values['step']})")
        if values["threads"] != (threads := _threads()):
            self.line(
                f"note: it was saved with {values['threads']} threads and goes on with {threads}; "
                "the result is the same bit for bit only with the same number"
            )

    def step(self, epoch: int, position: int, batches: int, loss: float, rate: float) -> None:
        """Epoch, training loss, speed, time left in the whole run, memory."""
        now = time.monotonic()
        if now - self._shown < (0.2 if self.live else PIPE_SECONDS):
            return
        self._shown = now
        done = (epoch - 1) * batches + position
        if self._first is None:
            self._first = (done, now)
        first, since = self._first
        left = ""
        if done > first:
            a_batch = (now - since) / (done - first)  # evaluations at the epochs' ends included
            left = f" · {duration(a_batch * (self.epochs * batches - done))} left"
        self._status(
            f"epoch {epoch}/{self.epochs} {position / batches:4.0%} · loss {loss:.3f} · "
            f"{rate:,.0f} {self.unit}/s{left} · {memory()}"
        )

    def evaluating(self, split: str) -> None:
        """Which split."""
        if self.live:
            self._status(f"evaluating {split} ...")

    def epoch(self, record: dict[str, Any]) -> None:
        """One line that stays: training and validation figure, both in eval mode."""
        train, valid = record[f"train_{self.figure}"], record[f"valid_{self.figure}"]
        best = "  best so far" if record["best"] else ""
        self.line(
            f"epoch {record['epoch']:3}/{self.epochs}  learning rate {record['learning_rate']:<8.4g}  "
            f"train {self.figure} {train:8.2f}  valid {valid:8.2f}{best}"
        )
        self.after_epoch()

    def line(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        print(text, file=self.stream, flush=True)

    def clear(self) -> None:
        """Take the live line away, so that what is printed next begins a line of its own."""
        if self._width:
            self.stream.write("\r" + " " * self._width + "\r")
            self.stream.flush()
            self._width = 0

    def _status(self, text: str) -> None:
        if not self.live:
            print(text, file=self.stream, flush=True)
            return
        self.clear()
        text = text[: shutil.get_terminal_size().columns - 1]  # a longer line would wrap, and could not be overwritten
        self.stream.write(text)
        self.stream.flush()
        self._width = len(text)


def _threads() -> int:
    import torch

    return torch.get_num_threads()
