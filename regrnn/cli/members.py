"""`regrnn train --members K`: several seeds as processes of this machine, and the figures of their averages."""

import collections
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from json import dumps
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING

from regrnn.errors import NO_MEMORY, Interrupted, RegrnnError

if TYPE_CHECKING:
    from regrnn.training.recipe import Recipe

RETRIES = 2
"""How often a member that died without saving anything new is started again, from its last checkpoint."""

PROGRAM = "from regrnn.cli.main import main; main()"
"""What a member's process runs."""

_POLL_SECONDS = 0.1
_ERROR = "regrnn: error: "


@dataclass(frozen=True)
class Command:
    """`regrnn train` as it was given, but for what differs between members."""

    common: Sequence[str]
    """Recipe, settings and data."""
    device: str = "cpu"
    threads: int | None = None
    tensorboard: bool = False

    def of(self, out: Path, seed: int, jobs: int) -> list[str]:
        """The arguments that train one member."""
        threads = 1 if self.threads is None and jobs > 1 else self.threads
        return [
            "train",
            *self.common,
            *("--out", str(out), "--seed", str(seed), "--device", self.device),
            *(() if threads is None else ("--threads", str(threads))),
            *(("--tensorboard",) if self.tensorboard else ()),
        ]


@dataclass
class Member:
    """One seed: its run directory, its process while it runs, and how it fared."""

    seed: int
    out: Path
    arguments: list[str]
    process: "subprocess.Popen[str] | None" = None
    relay: threading.Thread | None = None
    starts: int = 0
    """Since it last saved something new."""
    saved: str = ""
    """Its last checkpoint when it was started."""
    told: bool = False
    """Whether it was sent the signal that stops all."""
    last: collections.deque[str] = field(default_factory=lambda: collections.deque(maxlen=1))
    """The last line that it wrote."""


def train_members(
    recipe: "Recipe", command: Command, out: Path | None, seed: int, count: int, jobs: int, *, json: bool = False
) -> None:
    """Train or resume the members, then print and write the figures of 1, 2, ... of them averaged.

    What is wrong with the command or the data is found before any process is started. Raises Interrupted after a
    signal, when all members have saved and stopped; RegrnnError if a member cannot be trained, when the others have
    come to their end.
    """
    from regrnn.cli.evaluate import members_table, own_data
    from regrnn.cli.train import find_device, set_threads
    from regrnn.reports.reproduce import MEMBERS
    from regrnn.tasks.protocol import evaluate_averages, get_task
    from regrnn.training.load import load
    from regrnn.training.result import derived_entry, finished_entry
    from regrnn.training.run import Run

    jobs = min(jobs, count)
    set_threads(command.threads)
    find_device(command.device)
    if out is not None and (out / "recipe.json").exists():
        raise RegrnnError(f"--out {out} is a run itself; name another folder for the {count} members")
    seeds = range(seed, seed + count)
    folders = [out / f"member-{s}" if out is not None else Path("runs") / f"{recipe.name}-{s}" for s in seeds]
    task = get_task(recipe.task)
    fingerprint = task.prepare(recipe.sections).fingerprint
    for member_seed, folder in zip(seeds, folders, strict=True):
        Run.open(folder, recipe, member_seed, fingerprint)
    pairs = zip(seeds, folders, strict=True)
    members = [Member(s, folder, command.of(folder, s, jobs)) for s, folder in pairs]
    failed = supervise([member for member in members if not (member.out / "result.json").exists()], jobs)
    if failed:
        text = "; ".join(f"seed {member_seed}: {reason}" for member_seed, reason in failed.items())
        others = count - len(failed)
        raise RegrnnError(
            f"{len(failed)} of {count} members could not be trained, {others} could; the same command tries again "
            f"({text})"
        )
    entries = [finished_entry(folder) for folder in folders]
    trained = [load(folder) for folder in folders]
    averages = {split: evaluate_averages(task, trained, own_data(folders[0]), split) for split in ("valid", "test")}
    path = out / MEMBERS if out is not None else Path("runs") / f"{recipe.name}-{seeds[0]}-to-{seeds[-1]}-{MEMBERS}"
    found = []
    for k in range(1, count + 1):
        entry = derived_entry(entries[:k], {split: averages[split][k - 1] for split in averages})
        found.append(entry | {"runs": [folder.name for folder in folders[:k]]})
    _write(path, found)
    if json:
        print(dumps(found, indent=2))
        return
    print("\n".join(members_table(averages)))
    last = averages["test"][-1]
    print(f"test over {last.predictions:,} predictions: {last.protocol}")
    print(f"written: {path}")


def supervise(members: Sequence[Member], jobs: int) -> dict[int, str]:
    """Run the members to their ends, `jobs` at a time; by seed the last words of those that could not be trained.

    A member that dies is started again, RETRIES times, while the others go on; if it has saved a checkpoint since, the
    count begins anew. One that says what is wrong ("regrnn: error: ...") would say it again and is not, unless it is
    memory that was short. Raises Interrupted after SIGINT, SIGTERM or SIGHUP: all
    members are told to save and stop.
    """
    waiting = collections.deque(members)
    running: list[Member] = []
    failed: dict[int, str] = {}
    with _signals() as stopped:
        try:
            while (waiting and not stopped) or running:
                while waiting and len(running) < jobs and not stopped:
                    member = waiting.popleft()
                    _start(member)
                    running.append(member)
                for member in running:
                    if stopped and not member.told and member.process is not None:
                        member.process.send_signal(signal.SIGINT if stopped[0] == signal.SIGINT else signal.SIGTERM)
                        member.told = True
                for member in [m for m in running if m.process is not None and m.process.poll() is not None]:
                    running.remove(member)
                    reason = _end(member)
                    if stopped or not reason:
                        continue
                    hopeless = reason.startswith(_ERROR) and not reason.startswith(_ERROR + NO_MEMORY)
                    if hopeless or (member.starts > RETRIES and _last_checkpoint(member) == member.saved):
                        failed[member.seed] = reason.removeprefix(_ERROR)
                        _say(member, f"given up: {failed[member.seed]}")
                    else:
                        _say(member, f"{reason}; going on from its last checkpoint")
                        waiting.append(member)
                time.sleep(_POLL_SECONDS)
        finally:
            for member in running:  # only after a fault of this program
                if member.process is not None:
                    member.process.terminate()
                    _end(member)
    if stopped:
        raise Interrupted(stopped[0], "stopped; the members are saved, and the same command goes on with each of them")
    return failed


def _start(member: Member) -> None:
    """Start the member's process."""
    saved = _last_checkpoint(member)
    member.starts = 1 if saved != member.saved else member.starts + 1
    member.saved = saved
    member.last.clear()
    # -P: a folder named regrnn where the command is given is not the package.
    member.process = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, *member.arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        process_group=0,  # Ctrl-C goes to this process alone, which hands it on once
    )
    assert member.process.stderr is not None
    member.relay = threading.Thread(target=_relay, args=(member, member.process.stderr), daemon=True)
    member.relay.start()


def _last_checkpoint(member: Member) -> str:
    return max((path.name for path in (member.out / "checkpoints").glob("*")), default="")


def _relay(member: Member, stream: IO[str]) -> None:
    """Hand on what the member says of its progress."""
    with stream:
        for line in stream:
            member.last.append(line.rstrip())
            _say(member, line.rstrip())


def _say(member: Member, text: str) -> None:
    print(f"[seed {member.seed}] {text}", file=sys.stderr, flush=True)


def _end(member: Member) -> str:
    """Wait for the member's process; why it did not come to its end, empty if it did."""
    assert member.process is not None and member.relay is not None
    status = member.process.wait()
    member.relay.join()
    if status == 0 and (member.out / "result.json").exists():
        return ""
    if member.last and member.last[0].startswith(_ERROR):
        return member.last[0]
    how = f"killed by signal {-status}" if status < 0 else f"died with status {status}"
    return how + (f" ({member.last[0]})" if member.last and status > 0 else "")


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The list that the signals that stop a run are put in as they come."""
    came: list[int] = []

    def handle(signum: int, frame: FrameType | None) -> None:
        came.append(signum)

    if threading.current_thread() is not threading.main_thread():
        yield came  # signals belong to the main thread's owner
        return
    before = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup ignores it
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, handle)
    try:
        yield came
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _write(path: Path, entries: list[dict[str, object]]) -> None:
    from regrnn.training.files import write_json

    try:
        write_json(path, entries)
    except OSError as error:
        raise RegrnnError(f"{path}: cannot be written ({error.strerror})") from None
