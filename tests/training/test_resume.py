"""A run that was killed, stopped or refused by the disk ends, resumed, bit for bit as one that nothing disturbed."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from noisy import NoisyTask, Silent, Tiny, contents, noisy_recipe, train
from safetensors import SafetensorError

from regrnn.cli.main import run as regrnn
from regrnn.errors import Interrupted, RegrnnError
from regrnn.training import checkpoint, files, loop
from regrnn.training.checkpoint import verify_checkpoint
from regrnn.training.files import read_json
from regrnn.training.loop import Trainer
from regrnn.training.recipe import Recipe
from regrnn.training.run import Run

DRIVER = Path(__file__).with_name("kill_driver.py")
EVENTS = 3 * (12 + 2 + 1) + 3
"""What the tiny run reports: batches, evaluations and ends of its epochs, and the last three evaluations."""


def finished(folder: Path) -> dict[str, object]:
    """`contents`, and the figures of the result."""
    entry = read_json(folder / "result.json")
    kept = ("figures", "epochs", "best_epoch", "predictions", "protocol", "complete", "regularization")
    return contents(folder) | {name: entry[name] for name in kept}


def strike(arguments: list[str], strikes: list[tuple[int, int, float]]) -> list[tuple[int, str]]:
    """Run `kill_driver.py`: exit status (or minus the signal) and stderr of each attempt."""
    spec = {"arguments": arguments, "strikes": strikes, "log_every": 7}
    done = subprocess.run(
        [sys.executable, str(DRIVER), json.dumps(spec)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return [(status, stderr) for status, stderr in json.loads(done.stdout)]


def random_strikes(draw: random.Random, count: int) -> list[tuple[int, int, float]]:
    """Kills at random instants: most after random progress, some at any time since the start."""
    strikes: list[tuple[int, int, float]] = []
    for _ in range(count):
        if strikes and draw.random() < 0.3:
            strikes.append((signal.SIGKILL, 0, draw.uniform(0.0, 0.3)))
        else:
            strikes.append((signal.SIGKILL, draw.randint(1, 2 * EVENTS // count + 1), draw.uniform(0.0, 0.03)))
    return strikes


def check_kills(tiny: Tiny, undisturbed: Path, out: Path, seed: int, count: int) -> None:
    draw = random.Random(seed)
    attempts = strike(tiny.arguments(out), random_strikes(draw, count))
    assert [status for status, _ in attempts[:-1]] == [-signal.SIGKILL] * (len(attempts) - 1)
    assert attempts[-1][0] == 0, attempts[-1][1]
    assert len(attempts) > 1
    assert finished(out) == finished(undisturbed)


def test_sigkill_at_random_instants(tiny: Tiny, undisturbed: Path, tmp_path: Path) -> None:
    check_kills(tiny, undisturbed, tmp_path / "run", seed=0, count=5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 13))
def test_sigkill_at_dozens_of_random_instants(tiny: Tiny, undisturbed: Path, tmp_path: Path, seed: int) -> None:
    check_kills(tiny, undisturbed, tmp_path / "run", seed, count=4 + 2 * seed)


def test_signals_save_and_say_so(tiny: Tiny, undisturbed: Path, tmp_path: Path) -> None:
    """Event 5 is a batch, 13 to 15 end the epoch in which they come: two evaluations and its line."""
    out = tmp_path / "run"
    strikes = [(signal.SIGINT, 5, 0.0), (signal.SIGTERM, 6, 0.01), (signal.SIGTERM, 3, 0.0), (signal.SIGINT, 13, 0.0)]
    attempts = strike(tiny.arguments(out), strikes)
    assert [status for status, _ in attempts] == [130, 143, 143, 130, 0]
    for _, stderr in attempts[:-1]:
        ours = [line for line in stderr.splitlines() if line.startswith("regrnn:")]
        assert len(ours) == 1 and stderr.splitlines()[-1] == ours[0]
        assert f"saved in {out}" in ours[0]
        assert "Traceback" not in stderr
    assert finished(out) == finished(undisturbed)


def test_the_undisturbed_run(undisturbed: Path) -> None:
    """What the others are compared with: three epochs, and a line of progress every 7 batches."""
    events = [json.loads(line)["event"] for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert events.count("epoch") == 3
    assert events.count("progress") == 36 // 7


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package may catch it."""


class Tripwire:
    """Counts everything that touches the disk, and evaluations; the call number `at` ends the run half-way."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int | None, end: Callable[[str], BaseException]) -> None:
        self.calls: list[str] = []
        self.at = at
        self.end = end
        patch.setattr(os, "fsync", self.wrap("fsync", lambda descriptor: None))
        patch.setattr(os, "replace", self.wrap("replace", os.replace))
        patch.setattr(os, "symlink", self.wrap("symlink", os.symlink))
        patch.setattr(os, "truncate", self.wrap("truncate", os.truncate))
        patch.setattr(Path, "write_text", self.wrap("write_text", Path.write_text, self.half_text))
        patch.setattr(Run, "append", self.wrap("append", Run.append, self.half_line))
        for name in ("save_model", "save_file"):
            patch.setattr(checkpoint, name, self.wrap(name, getattr(checkpoint, name), self.half_tensors))
        patch.setattr(shutil, "rmtree", self.wrap("rmtree", shutil.rmtree, self.half_tree))
        patch.setattr(NoisyTask, "evaluate", self.wrap("evaluate", NoisyTask.evaluate))

    def wrap(self, name: str, original: Any, half: Callable[..., None] = lambda *a, **k: None) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            if self.at == len(self.calls) - 1:
                half(*arguments, **options)
                raise self.end(name)
            return original(*arguments, **options)

        return call

    @staticmethod
    def half_text(path: Path, text: str, **options: Any) -> None:
        path.write_bytes(text.encode()[: len(text) // 2])

    @staticmethod
    def half_line(run: Run, path: Path, record: Any) -> None:
        with path.open("a") as file:
            file.write('{"event": "epo')

    @staticmethod
    def half_tensors(tensors: Any, path: str | Path, *arguments: Any) -> None:
        Path(path).write_bytes(b"half")

    @staticmethod
    def half_tree(path: Path, **options: Any) -> None:
        for name in sorted(os.listdir(path))[:1] if os.path.isdir(path) else []:
            os.unlink(os.path.join(path, name))


RECIPES = {
    "sgd": (noisy_recipe(), ()),
    "adamw": (noisy_recipe(optimizer="adamw", learning_rate=0.01, weight_decay=0.1), ()),
    "early stopping": (noisy_recipe(epochs=9, patience=1, decay=2.0), (3.0, 4.0)),
    "the last is the best": (noisy_recipe(), (3.0, 2.0)),
}


def disturb_everywhere(
    recipe: Recipe,
    valid: tuple[float, ...],
    folder: Path,
    end: Callable[[str], BaseException],
    every: int,
    spared: Collection[str] = (),
) -> Iterator[tuple[str, BaseException | None, Path, Path]]:
    """For every n-th touch of the disk: its name, what the run raised, its folder, and that of an undisturbed run."""
    whole = folder / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 2)
        calls = Tripwire(patch, None, end).calls
        train(NoisyTask(valid), recipe, whole)
    for at in [at for at, call in enumerate(calls) if call not in spared][::every]:
        out = folder / str(at)
        raised: BaseException | None = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "LOG_EVERY", 2)
            wire = Tripwire(patch, at, end)
            try:
                train(NoisyTask(valid), recipe, out)
            except (RegrnnError, Killed) as error:
                raised = error
            assert wire.calls[: at + 1] == calls[: at + 1]
        yield calls[at], raised, out, whole
        shutil.rmtree(out)


def go_on(recipe: Recipe, valid: tuple[float, ...], out: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 2)
        patch.setattr(os, "fsync", lambda descriptor: None)
        return train(NoisyTask(valid), recipe, out)


def check_kill_everywhere(name: str, folder: Path, every: int) -> None:
    recipe, valid = RECIPES[name]
    outcome = None
    for call, raised, out, whole in disturb_everywhere(recipe, valid, folder, lambda call: Killed(), every):
        assert isinstance(raised, Killed)
        for pointer in (Run(out).last(), Run(out).best()):
            if pointer is not None:
                verify_checkpoint(pointer)
        outcome = go_on(recipe, valid, out)
        assert contents(out) == contents(whole), call
        for log in ("metrics.jsonl", "timings.jsonl"):
            assert all(isinstance(json.loads(line), dict) for line in (out / log).read_text().splitlines()), call
        assert {path.name for path in (out / "checkpoints").iterdir()} == {
            path.name for path in (whole / "checkpoints").iterdir()
        }, call
        again = go_on(recipe, valid, whole)
        assert outcome.evaluations == again.evaluations, call
    assert outcome is not None


@pytest.mark.parametrize("name", ["sgd", "early stopping"])
def test_killed_at_touches_of_the_disk(name: str, tmp_path: Path) -> None:
    check_kill_everywhere(name, tmp_path, every=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_killed_at_every_touch_of_the_disk(name: str, tmp_path: Path) -> None:
    check_kill_everywhere(name, tmp_path, every=1)


def no_space(call: str) -> BaseException:
    """What a full disk looks like to the caller: safetensors has an exception of its own."""
    if call in ("save_model", "save_file"):
        return SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_full_disk(name: str, folder: Path, every: int) -> None:
    recipe, valid = RECIPES[name]
    refused = 0
    roomless = ("evaluate", "truncate", "rmtree")  # these ask for no room on the disk
    for call, raised, out, whole in disturb_everywhere(recipe, valid, folder, no_space, every, roomless):
        refused += 1
        assert isinstance(raised, RegrnnError), call
        assert "No space left on device" in str(raised)
        assert str(out) in str(raised)
        assert "\n" not in str(raised)
        last = Run(out).last()
        if last is not None:
            verify_checkpoint(last)
            assert f"the last good state is {last}" in str(raised)
        assert not list(out.glob("checkpoints/.*")), "a refused write left a piece behind"
        go_on(recipe, valid, out)
        assert contents(out) == contents(whole), call
    assert refused > 10


def test_full_disk(tmp_path: Path) -> None:
    check_full_disk("sgd", tmp_path, every=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_full_disk_at_every_write(name: str, tmp_path: Path) -> None:
    check_full_disk(name, tmp_path, every=1)


class AtStep(Silent):
    """Does something once, behind the batch number `step` of this process."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self.left = step
        self.action = action

    def step(self, epoch: int, position: int, batches: int, loss: float, rate: float) -> None:
        self.left -= 1
        if self.left == 0:
            self.action()


def test_files_may_not_grow(tmp_path: Path) -> None:
    """The system itself refuses a write: a limit on the size of files, set while the run goes on."""
    train(NoisyTask(), noisy_recipe(), tmp_path / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = AtStep(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard)))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(RegrnnError) as raised:
            train(NoisyTask(), noisy_recipe(), tmp_path / "run", limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    last = Run(tmp_path / "run").last()
    assert last is not None and last.name == "000002"
    assert "File too large" in str(raised.value)
    assert f"at step 3 ({str(raised.value).split('(', 1)[1].split(')')[0]}" in str(raised.value)
    assert f"the last good state is {last}" in str(raised.value)
    train(NoisyTask(), noisy_recipe(), tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or mount is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full(
    tiny: Tiny, undisturbed: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 7)
    out, ballast = small_disk / "run", small_disk / "ballast"
    ballast.write_bytes(bytes(470_000))  # room for a checkpoint, but not for a second beside it
    assert regrnn(tiny.arguments(out)) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith(f"regrnn: error: {out}: cannot be written at step ")
    assert "No space left on device" in line
    last = Run(out).last()
    assert (f"the last good state is {last}" if last else "no state had been saved yet") in line
    ballast.unlink()
    assert regrnn(tiny.arguments(out)) == 0
    assert finished(out) == finished(undisturbed)


@pytest.mark.parametrize("where", ["recipe.json", "lock"])
def test_full_disk_at_the_start(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first file cannot be written; nothing of that refuses the same command later."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise no_space("")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text" if where == "recipe.json" else "open", refuse)
        with pytest.raises(RegrnnError, match="No space left on device"):
            train(NoisyTask(), noisy_recipe(), tmp_path / "run")
    train(NoisyTask(), noisy_recipe(), tmp_path / "run")
    assert Run(tmp_path / "run").best() is not None


def test_killed_while_the_recipe_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files, "sync", lambda path: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            train(NoisyTask(), noisy_recipe(), tmp_path / "run")
    assert not Run(tmp_path / "run").has_recipe()
    assert os.listdir(tmp_path / "run")
    train(NoisyTask(), noisy_recipe(), tmp_path / "run")
    assert Run(tmp_path / "run").best() is not None


class RaiseSignal(Silent):
    """Sends this process a signal at the first moment of a kind."""

    def __init__(self, moment: str, number: int) -> None:
        self.moment = moment
        self.number = number
        self.sent = False

    def send(self, moment: str) -> None:
        if moment == self.moment and not self.sent:
            self.sent = True
            signal.raise_signal(self.number)

    def step(self, epoch: int, position: int, batches: int, loss: float, rate: float) -> None:
        self.send(f"batch {position} of epoch {epoch}")

    def evaluating(self, split: str) -> None:
        self.send(f"before {split}")

    def epoch(self, record: dict[str, Any]) -> None:
        self.send(f"end of epoch {record['epoch']}")


@pytest.mark.parametrize(
    "moment",
    ["batch 1 of epoch 1", "batch 3 of epoch 1", "before valid", "end of epoch 1", "end of epoch 2", "before test"],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_at_a_moment(moment: str, number: signal.Signals, tmp_path: Path) -> None:
    recipe = noisy_recipe(checkpoint_minutes=60.0)  # so that what is saved between epochs is the signal's work
    train(NoisyTask(), recipe, tmp_path / "whole")
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as raised:
        train(NoisyTask(), recipe, tmp_path / "run", RaiseSignal(moment, number))
    assert raised.value.signum == number
    assert "epoch 3" not in str(raised.value)
    assert signal.getsignal(number) is before
    last = Run(tmp_path / "run").last()
    assert last is not None
    assert f"at step {int(last.name)}, saved in {tmp_path / 'run'}" in str(raised.value)
    if moment.startswith("batch"):
        assert int(last.name) == int(moment[6])
    train(NoisyTask(), recipe, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_signal_inside_an_evaluation_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost by it, so the rest of a long evaluation is not waited for."""
    reached = []

    class LongEvaluation(NoisyTask):
        def evaluate(self, model: Any, split: str) -> Any:
            signal.raise_signal(signal.SIGTERM)
            reached.append(split)
            return super().evaluate(model, split)

    train(NoisyTask(), noisy_recipe(), tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(LongEvaluation(), noisy_recipe(), tmp_path / "run")
    assert reached == []
    train(NoisyTask(), noisy_recipe(), tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_signal_while_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(NoisyTask(), noisy_recipe(), tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(NoisyTask(), noisy_recipe(), tmp_path / "run", RaiseSignal("batch 1 of epoch 1", signal.SIGTERM))

    class Impatient(Silent):
        def resumed(self, checkpoint: Path, values: dict[str, Any]) -> None:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(NoisyTask(), noisy_recipe(), tmp_path / "run", Impatient())
    train(NoisyTask(), noisy_recipe(), tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_outside_the_main_thread_signals_are_left_alone(tmp_path: Path) -> None:
    handlers = []

    class Watch(Silent):
        def step(self, *values: Any) -> None:
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=train, args=(NoisyTask(), noisy_recipe(), tmp_path / "run", Watch()))
    thread.start()
    thread.join()
    assert handlers == [before] * 6


def test_state_and_rate_are_taken_up(tmp_path: Path) -> None:
    """Each piece of what resuming restores matters: without it the run would end elsewhere."""
    recipe = noisy_recipe(optimizer="adamw", learning_rate=0.01, hold_epochs=1, decay=4.0)
    train(NoisyTask(), recipe, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    for forgotten in ("generator", "state", "optimizer", "nothing"):
        out = tmp_path / forgotten
        with pytest.raises(Interrupted):
            train(NoisyTask(), recipe, out, RaiseSignal("batch 2 of epoch 2", signal.SIGTERM))
        run = Run.open(out, recipe, 1, NoisyTask().fingerprint)
        with pytest.MonkeyPatch.context() as patch:

            def forget(folder: Path, forgotten: str = forgotten) -> Any:
                snapshot = checkpoint.load_snapshot(folder)
                if forgotten == "generator":
                    snapshot.tensors["generator.cpu"] = torch.Generator().get_state()
                elif forgotten == "state":
                    snapshot.tensors.pop("state.h")
                elif forgotten == "optimizer":
                    snapshot.optimizer.clear()
                return snapshot

            patch.setattr(loop, "load_snapshot", forget)
            trainer = Trainer(NoisyTask(), recipe, run, 1, torch.device("cpu"), Silent())
            trainer.train()
        assert (contents(out) == whole) == (forgotten == "nothing"), forgotten
