"""A process that is measured from outside: one JSON request a line on standard input, one answer a line on output.

`python -m benchmarks.worker`; the first answer comes when the process is up. What the work itself prints goes to
standard error.
"""

import contextlib
import dataclasses
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.sizes import Masks, Size

Answer = dict[str, Any]


def peak_memory() -> int:
    """The most memory this process has held, in bytes.

    Linux's ru_maxrss begins with that of the process that started this one; the high-water mark does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Worker:
    """What can be asked of it: a method for each job."""

    def __init__(self) -> None:
        self._step: Callable[[], object] | None = None

    def idle(self, threads: int) -> Answer:
        """Loads torch, which everything here needs, and has its threads and libraries begin."""
        import torch

        torch.set_num_threads(threads)
        torch.mm(torch.randn(64, 64), torch.randn(64, 64))
        return {}

    def idiom(self, size: dict[str, Any], sgd: str, onednn: bool, threads: int) -> Answer:
        """Makes the idiom ready to train, on words drawn here."""
        import numpy as np
        import torch

        from benchmarks import idiom
        from benchmarks.text import draw

        self.idle(threads)
        made = Size(**size)
        draws = np.random.default_rng(1)
        batches = []
        for _ in range(5):
            ids = torch.from_numpy(draw(made.vocabulary, (made.steps + 1) * made.batch, draws))
            ids_TB = ids.view(-1, made.batch)
            batches.append((ids_TB[:-1], ids_TB[1:]))
        self._step = idiom.Training(made, batches, idiom.Setting(sgd, onednn)).step
        return {}

    def ours(self, size: dict[str, Any], corpus: str, masks: Masks, threads: int) -> Answer:
        """Makes regrnn ready to train."""
        from benchmarks import ours

        self.idle(threads)
        self._step = ours.Training(Size(**size), Path(corpus), masks).step
        return {}

    def steps(self, count: int) -> Answer:
        """Trains for `count` steps."""
        if self._step is None:
            raise ValueError("steps: nothing is ready to train")
        for _ in range(count):
            self._step()
        return {}

    def layer(self, size: dict[str, Any], rounds: int, threads: int) -> Answer:
        """The recurrent layers of both sides in turns: seconds of each, round by round."""
        from benchmarks.layer import rounds_of

        self.idle(threads)
        return rounds_of(Size(**size), rounds)

    def memory(self) -> Answer:
        """The peak so far."""
        return {"bytes": peak_memory()}

    def read(self, size: dict[str, Any], corpus: str) -> Answer:
        """The data pipeline: vocabulary, encoding, every batch of an epoch."""
        from benchmarks import ours
        from regrnn.tasks.language.task import LanguageTask

        began = time.perf_counter()
        task = LanguageTask.prepare(ours.recipe_of(Size(**size), Path(corpus)).sections)
        prepared = time.perf_counter()
        for position in range(task.batches):
            task.batch(1, position, ours.CPU)
        return {
            "tokens": len(task.corpus.streams["train"]),
            "stream_bytes": task.corpus.streams["train"].ids.nbytes,
            "prepare_seconds": prepared - began,
            "epoch_seconds": time.perf_counter() - prepared,
        }

    def train(self, arguments: list[str]) -> Answer:
        """`regrnn train` with these arguments; when each update, checkpoint and evaluation began and ended."""
        import matplotlib.figure  # noqa: F401  the report needs it, once in a run: not for the first epoch to pay

        from regrnn.cli.main import run
        from regrnn.training.loop import Trainer

        clocks: list[tuple[str, float, float]] = []

        def clocked(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                began = time.perf_counter()
                result = method(*args)
                clocks.append((name, began, time.perf_counter()))
                return result

            return call

        names = ("_step", "_save", "_evaluate")
        methods = {name: getattr(Trainer, name) for name in names}
        try:
            for name, method in methods.items():
                setattr(Trainer, name, clocked(name.removeprefix("_"), method))
            status = run(["train", *arguments])
        finally:
            for name, method in methods.items():
                setattr(Trainer, name, method)
        if status != 0:
            raise ValueError(f"regrnn train ended with status {status}")
        return {"clocks": clocks}


def settings_of(size: Size) -> dict[str, Any]:
    """A size as a request carries it."""
    return dataclasses.asdict(size)


@contextlib.contextmanager
def _own_output() -> Iterator[Any]:
    """The pipe that answers go to, out of reach of what prints to standard output."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        yield answers


def main() -> None:
    """Answers until the input ends."""
    worker = Worker()
    with _own_output() as answers:
        print(json.dumps({}), file=answers, flush=True)
        for line in sys.stdin:
            job, settings = json.loads(line)
            print(json.dumps(getattr(worker, job)(**settings)), file=answers, flush=True)


if __name__ == "__main__":
    main()
