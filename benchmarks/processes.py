"""Workers from the side of the one who measures: memory, two trainings side by side, the whole of `regrnn train`."""

import json
import re
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

from benchmarks import idiom, ours
from benchmarks.options import Options
from benchmarks.results import Entry, entry
from benchmarks.sizes import GROWING, TOYS, Size
from benchmarks.step import corpus_of, kinds_of_masks
from benchmarks.text import LINE, words, write_corpus
from benchmarks.timing import Figures, rates, spread
from benchmarks.worker import settings_of
from regrnn.errors import RegrnnError

PTB_WORDS = 929_589
"""Training words of the Penn Treebank: an epoch of the paper's."""
CHECKPOINT_SECONDS = 600.0
"""Between two checkpoints within an epoch, unless a recipe says otherwise."""
MEBI = 2**20


class Process:
    """A worker. `with Process() as worker: worker.ask("steps", count=3)`."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  closed when the worker ends
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        # `Popen` has both since both are pipes.
        self._requests = cast(IO[str], self._process.stdin)
        self._answers = cast(IO[str], self._process.stdout)
        self.most_anonymous = 0
        """Of what `answer` saw: bytes that the process itself holds, mapped files not among them."""

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def __enter__(self) -> Self:
        self.answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._requests.close()
        if kind is not None:
            self._process.kill()
        self._process.wait()
        self._answers.close()
        self._errors.close()

    def send(self, job: str, **settings: object) -> None:
        """Have it begin; `answer` waits for the end."""
        self._requests.write(json.dumps([job, settings]) + "\n")
        self._requests.flush()

    def answer(self, watch: bool = False) -> dict[str, Any]:
        """Of the last request. `watch` keeps `most_anonymous`. Raises RegrnnError: the worker died."""
        while watch and not select.select([self._answers], [], [], 0.02)[0]:
            self.most_anonymous = max(self.most_anonymous, anonymous_memory(self.pid))
        line = self._answers.readline()
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines()
            raise RegrnnError(
                f"a worker of the benchmarks ended with status {status}: {said[-1] if said else 'silent'}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, job: str, **settings: object) -> dict[str, Any]:
        """Have it done."""
        self.send(job, **settings)
        return self.answer()


def anonymous_memory(pid: int) -> int:
    """Bytes that a process holds itself at this moment; 0 where the system does not say."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^RssAnon:\s+(\d+)", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def memory(options: Options) -> Iterator[Entry]:
    """Peak memory of training beyond that of an idle process that has torch loaded."""
    for size in options.chosen("medium"):
        corpus = corpus_of(options.folder, size)
        setting, _ = idiom.best_setting(size, ours.Training(size, corpus).batches)
        jobs: dict[str, tuple[str, dict[str, object]]] = {
            "idle": ("idle", {}),
            "idiom": ("idiom", {"size": settings_of(size), "sgd": setting.sgd, "onednn": setting.onednn}),
        }
        for masks in kinds_of_masks(size):
            jobs[masks] = ("ours", {"size": settings_of(size), "corpus": str(corpus), "masks": masks})
        peaks: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(options.repeats or (1 if options.quick else 3)):
            for name, (job, settings) in jobs.items():
                with Process() as worker:
                    worker.ask(job, threads=options.threads, **settings)
                    if name != "idle":
                        worker.ask("steps", count=4)
                    peaks[name].append(worker.ask("memory")["bytes"] / MEBI)
        idle = statistics.median(peaks["idle"])
        beyond = {name: [peak - idle for peak in values] for name, values in peaks.items() if name != "idle"}
        figures = [
            {
                "name": masks,
                "unit": "MiB",
                "runs": len(beyond[masks]),
                "ours": spread(beyond[masks]),
                "idiom": spread(beyond["idiom"]),
                "ratio": spread([o / i for o, i in zip(beyond[masks], beyond["idiom"], strict=True)]),
            }
            for masks in kinds_of_masks(size)
        ]
        settings_said = size.described() | {"idiom": str(setting), "idle_MiB": spread(peaks["idle"])}
        yield entry("memory", size.name, options, settings_said, figures)


def members(options: Options) -> Iterator[Entry]:
    """As many trainings of one thread as there are threads, side by side, against one idiom that has them all."""
    for size in options.chosen("small"):
        corpus = corpus_of(options.folder, size)
        setting, _ = idiom.best_setting(size, ours.Training(size, corpus).batches)
        count = 2 if options.quick else 20
        repeats = options.repeats or (1 if options.quick else 10)
        workers = [Process() for _ in range(options.threads + 1)]
        times: dict[str, list[float]] = {"idiom": [], "ours": []}
        try:
            for worker in workers:
                worker.__enter__()
            one, several = workers[0], workers[1:]
            one.ask(
                "idiom",
                size=settings_of(size),
                sgd=setting.sgd,
                onednn=setting.onednn,
                threads=options.threads,
            )
            for worker in several:
                worker.ask("ours", size=settings_of(size), corpus=str(corpus), masks="step", threads=1)
            for turn in range(repeats + 1):  # the first warms up
                for name, group in (("idiom", [one]), ("ours", several)):
                    taken = together(group, count)
                    if turn:
                        times[name].append(taken)
        finally:
            for worker in workers:
                worker.__exit__(None, None, None)
        work = count * size.words
        figure = rates("step", "words", 1.0, [t / (work * len(several)) for t in times["ours"]],
                       [t / work for t in times["idiom"]])  # fmt: skip
        settings = size.described() | {"members": len(several), "idiom": str(setting)}
        yield entry("members", size.name, options, settings, [figure])


def together(workers: Sequence[Process], count: int) -> float:
    """Seconds until all have done that many steps, begun at once."""
    began = time.perf_counter()
    for worker in workers:
        worker.send("steps", count=count)
    for worker in workers:
        worker.answer()
    return time.perf_counter() - began


def process(options: Options) -> Iterator[Entry]:
    """The whole process of `regrnn train` in its steady state, by its own clock, and where time goes but in updates."""
    for size in options.chosen("small", "medium"):
        batches = 6 if options.quick else {"small": 150, "medium": 60, "large": 20}[size.name]
        corpus = write_corpus(
            Path(tempfile.mkdtemp(dir=options.folder)), size.vocabulary, batches * size.words + size.batch
        )
        found: list[dict[str, float]] = []
        for turn in range(options.repeats or (1 if options.quick else 3)):
            flags = [text for flag in size.flags(corpus) for text in flag]
            with Process() as worker:
                answer = worker.ask(
                    "train",
                    arguments=[
                        size.recipe, "--out", str(corpus / f"run-{turn}"), "--threads", str(options.threads),
                        "--training.epochs", "2", *flags,
                    ],
                )  # fmt: skip
            found.append(losses(answer["clocks"], size))
        figure = {
            "name": "step",
            "unit": "words/s",
            "runs": len(found),
            "ours": spread([run["words_per_second"] for run in found]),
            "idiom": None,
            "ratio": None,
        }
        parts = ("bare_words_per_second", "batch_percent", "checkpoint_percent", "epoch_percent", "loss_percent",
                 "checkpoint_seconds")  # fmt: skip
        figure |= {name: spread([run[name] for run in found]) for name in parts}
        yield entry("process", size.name, options, size.described() | {"batches": batches}, [figure])


def losses(clocks: Sequence[tuple[str, float, float]], size: Size) -> dict[str, float]:
    """What a run of two epochs loses beside its updates, for epochs as long as the Penn Treebank's.

    The clocked epochs are short, so what comes once an epoch (report, pointers, lines of the log) and once a checkpoint
    is measured by itself and counted as often as it would come. Evaluations are no training and count nowhere.

    Args:
        clocks: (what, from, to) for each "step", "save" and "evaluate", in the order of their ends.
        size: what was trained.
    """
    ends = [place for place, (what, _, _) in enumerate(clocks) if what == "save"]
    epochs = [clocks[: ends[0]], clocks[ends[0] + 1 : ends[1]]]
    steps = [[(began, ended) for what, began, ended in epoch if what == "step"] for epoch in epochs]
    warm = min(5, len(steps[0]) - 2)
    steady = [steps[0][warm:], steps[1]]
    busy = [ended - began for part in steady for began, ended in part]
    # From update to update: the batch read, the line printed or logged.
    wall = sum(part[-1][0] - part[0][0] for part in steady)
    gaps = wall - sum(ended - began for part in steady for began, ended in part[:-1])
    update = sum(busy) / len(busy)
    between = gaps / sum(len(part) - 1 for part in steady)
    checkpoint = statistics.mean(clocks[place][2] - clocks[place][1] for place in ends[:2])
    evaluated = sum(ended - began for what, began, ended in epochs[1] if what == "evaluate")
    turn = steps[1][0][0] - clocks[ends[0]][2] - evaluated
    updates = PTB_WORDS / size.words
    epoch = updates * (update + between)
    costs = {
        "batch_percent": updates * between,
        "checkpoint_percent": checkpoint * (1 + int(epoch / CHECKPOINT_SECONDS)),
        "epoch_percent": turn,
    }
    whole = updates * update + sum(costs.values())
    return {name: 100 * cost / whole for name, cost in costs.items()} | {
        "loss_percent": 100 * sum(costs.values()) / whole,
        "words_per_second": PTB_WORDS / whole,
        "bare_words_per_second": size.words / update,
        "checkpoint_seconds": checkpoint,
    }


def corpus(options: Options) -> Iterator[Entry]:
    """Memory of the data pipeline and of an epoch's batches as the text grows."""
    size = TOYS["medium"] if options.quick else GROWING
    megabytes: Sequence[float] = (0.1, 0.2) if options.quick else (1, 10, 100, 1000)[: 4 if options.full else 3]
    with Process() as worker:
        worker.ask("idle", threads=1)
        idle, idle_anonymous = worker.ask("memory")["bytes"], anonymous_memory(worker.pid)
    figures: list[Figures] = []
    for amount in megabytes:
        letters = len(words(size.vocabulary)[0]) + 1
        lines = round(amount * 1e6 / (letters * LINE))
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            text = write_corpus(Path(folder), size.vocabulary, lines * (LINE + 1))
            with Process() as worker:
                worker.ask("idle", threads=1)
                worker.send("read", size=settings_of(size), corpus=str(text))
                answer = worker.answer(watch=True)
                peak = worker.ask("memory")["bytes"]
            figures.append(
                {
                    "name": f"{amount:g} MB",
                    "unit": "MiB",
                    "runs": 1,
                    "ours": spread([(worker.most_anonymous - idle_anonymous) / MEBI]),
                    "idiom": None,
                    "ratio": None,
                    "text_bytes": (text / "train.txt").stat().st_size,
                    "beyond_idle_MiB": round((peak - idle) / MEBI, 1),
                    **answer,
                }
            )
    yield entry("corpus", "memory", options, size.described() | {"idle_MiB": round(idle / MEBI, 1)}, figures)
