"""Starts a `regrnn` command again and again in forked children and strikes each with a signal, until one finishes.

    python kill_driver.py '{"arguments": [...], "strikes": [[signal, events, delay], ...], "log_every": n}'

A strike comes `delay` seconds after the child has reported that many events (a batch, an evaluation or an epoch), or
since its start if `events` is 0. Forking saves each attempt the import of torch. Prints a JSON list with one
`[exit status or minus signal, stderr]` an attempt.
"""

import importlib
import json
import os
import sys
import tempfile
import time
from typing import Any

from regrnn.cli.main import run
from regrnn.cli.progress import ConsoleProgress
from regrnn.training import loop

NEEDED = ("regrnn.tasks.language.task", "regrnn.training.result", "regrnn.reports.run", "torch._dynamo")
"""What a run imports on its way (torch.optim the last), at a cost of seconds for each child if not done before."""


def child(arguments: list[str], events: int) -> None:
    for name in ("step", "evaluating", "epoch"):
        original = getattr(ConsoleProgress, name)

        def report(self: ConsoleProgress, *values: Any, original: Any = original) -> None:
            os.write(events, b".")
            original(self, *values)

        setattr(ConsoleProgress, name, report)
    status = run(arguments)
    sys.stderr.flush()
    os._exit(status)


def attempt(arguments: list[str], strike: tuple[int, int, float] | None) -> tuple[int, str]:
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as stderr:
        pid = os.fork()
        if pid == 0:
            os.dup2(stderr.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.close(reading)
            child(arguments, writing)
        os.close(writing)
        if strike is not None:
            number, events, delay = strike
            while events > 0 and (seen := os.read(reading, events)):
                events -= len(seen)
            time.sleep(delay)
            os.kill(pid, number)  # not reaped yet, so the process is there to take it, even if it has ended
        _, status = os.waitpid(pid, 0)
        os.close(reading)
        stderr.seek(0)
        return os.waitstatus_to_exitcode(status), stderr.read().decode()


def main() -> None:
    spec = json.loads(sys.argv[1])
    for name in NEEDED:
        importlib.import_module(name)
    loop.LOG_EVERY = spec["log_every"]
    attempts = []
    for strike in [*spec["strikes"], None]:
        attempts.append(attempt(spec["arguments"], strike))
        if attempts[-1][0] == 0:
            break
    print(json.dumps(attempts))


if __name__ == "__main__":
    main()
