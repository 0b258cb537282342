"""`regrnn train --members`: several seeds side by side, and their averages."""

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from regrnn.cli import members as module
from regrnn.cli.main import run
from regrnn.cli.members import RETRIES, Command, Member, supervise
from regrnn.errors import Interrupted

SHORT = ["--data.min-frequency=1", "--data.batch-size=4", "--model.hidden-size=8", "--training.epochs=1"]


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "best" / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture
def command(tiny_text: Path) -> list[str]:
    return ["train", "language", "--data", str(tiny_text), *SHORT]


def test_members_are_runs_and_their_averages_are_evaluated(
    done: Callable[..., str], command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "three"
    text = done(*command, "--out", out, "--seed", 5, "--members", 3, "--jobs", 2)
    runs = [out / f"member-{seed}" for seed in (5, 6, 7)]
    assert sorted(path.name for path in out.iterdir()) == [*(path.name for path in runs), "members.json"]
    entries = json.loads((out / "members.json").read_text())
    assert [entry["members"] for entry in entries] == [1, 2, 3]
    assert [entry["seeds"] for entry in entries] == [[5], [5, 6], [5, 6, 7]]
    assert [entry["runs"] for entry in entries][1] == ["member-5", "member-6"]
    for entry in entries:
        for split in ("valid", "test"):
            found = json.loads(done("evaluate", *runs[: entry["members"]], "--split", split, "--json"))
            assert entry["figures"][f"{split}_perplexity"] == pytest.approx(found["figures"]["perplexity"], rel=1e-9)
        assert entry["predictions"] == found["predictions"]
        assert f"{entry['members']}  " in text and f"{entry['figures']['test_perplexity']:.3f}" in text
    assert entries[0]["figures"]["test_perplexity"] == pytest.approx(
        json.loads((runs[0] / "result.json").read_text())["figures"]["test_perplexity"], rel=1e-6
    )
    assert entries[2]["figures"]["test_perplexity"] < entries[0]["figures"]["test_perplexity"]
    # The same as on its own.
    done(*command, "--out", tmp_path / "alone", "--seed", 6, "--threads", 1)
    assert weights(tmp_path / "alone") == weights(runs[1]) != weights(runs[0])
    # Finished members are not trained again.
    monkeypatch.setattr(module, "PROGRAM", "raise SystemExit(9)")
    again = json.loads(done(*command, "--out", out, "--seed", 5, "--members", 3, "--json"))
    assert [entry["figures"] for entry in again] == [entry["figures"] for entry in entries]


def test_bad_input_is_found_before_anything_is_started(
    refused: Callable[..., str], command: list[str], tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "supervise", lambda *arguments: pytest.fail("started"))
    assert refused(*command, "--members", 0) == "--members 0: must be at least 1"
    assert refused(*command, "--members", 2, "--jobs", 0) == "--jobs 0: must be at least 1"
    assert refused(*command, "--members", 2, "--out", tiny_run).startswith(f"--out {tiny_run} is a run itself")
    assert "gone.txt" in refused(*command[:2], "--data", tmp_path / "gone.txt", "--members", 2)
    assert refused(*command, "--members", 2, "--device", "tpu") == "--device tpu: must be cpu or cuda"
    (tmp_path / "out" / "member-2").mkdir(parents=True)
    (tmp_path / "out" / "member-2" / "file").touch()
    message = refused(*command, "--members", 2, "--out", tmp_path / "out")
    assert message.startswith(f"--out {tmp_path / 'out' / 'member-2'} exists and is not a run")


# -- the processes, whose program is a stand-in

FINISH = """
import pathlib, os, signal, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
seed = sys.argv[sys.argv.index("--seed") + 1]
out.mkdir(exist_ok=True)
starts = len(list(out.glob("start-*")))
(out / f"start-{starts}").touch()
def finish():
    (out / "result.json").write_text("{}")
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[int, str]]:
    """Supervises members 1 to `count`, each of which runs FINISH and then `program`."""

    def go(program: str, count: int = 3, jobs: int = 2) -> dict[int, str]:
        monkeypatch.setattr(module, "PROGRAM", FINISH + program)
        command = Command(["language"])
        folders = {seed: tmp_path / f"member-{seed}" for seed in range(1, count + 1)}
        return supervise([Member(seed, out, command.of(out, seed, jobs)) for seed, out in folders.items()], jobs)

    return go


def starts(folder: Path) -> list[int]:
    return [len(list(path.glob("start-*"))) for path in sorted(folder.iterdir())]


def test_a_member_that_is_killed_is_started_again(
    start: Callable[..., dict[int, str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    failed = start("if seed == '2' and starts < 2: os.kill(os.getpid(), signal.SIGKILL)\nfinish()")
    assert failed == {}
    assert starts(tmp_path) == [1, 3, 1]
    assert "[seed 2] killed by signal 9; going on from its last checkpoint" in capfd.readouterr().err


def test_a_member_that_always_dies_does_not_take_the_others_along(
    start: Callable[..., dict[int, str]], tmp_path: Path
) -> None:
    failed = start("if seed == '1': sys.exit('a fault')\ntime.sleep(0.2)\nfinish()")
    assert failed == {1: "died with status 1 (a fault)"}
    assert starts(tmp_path) == [RETRIES + 1, 1, 1]
    assert (tmp_path / "member-3" / "result.json").exists()


def test_a_member_that_says_what_is_wrong_is_not_started_again(
    start: Callable[..., dict[int, str]], tmp_path: Path
) -> None:
    failed = start("if seed == '3': sys.exit('regrnn: error: the loss is not a number')\nfinish()")
    assert failed == {3: "the loss is not a number"}
    assert starts(tmp_path) == [1, 1, 1]


def test_a_member_that_gets_on_between_its_deaths_or_lacks_memory_is_started_again(
    start: Callable[..., dict[int, str]], tmp_path: Path
) -> None:
    saves = "(out / 'checkpoints' / str(starts // 2)).mkdir(parents=True, exist_ok=True)"
    lacks = "sys.exit('regrnn: error: there is not enough memory; choose smaller sizes or a smaller batch')"
    failed = start(
        f"if seed == '1' and starts < 7:\n    {saves}\n    sys.exit('a fault')\n"
        f"if seed == '2' and starts < 2:\n    {lacks}\n"
        f"if seed == '3':\n    {lacks}\nfinish()"
    )
    assert failed == {3: "there is not enough memory; choose smaller sizes or a smaller batch"}
    assert starts(tmp_path) == [8, 3, RETRIES + 1]


def test_no_more_jobs_at_a_time_than_asked_for(start: Callable[..., dict[int, str]], tmp_path: Path) -> None:
    lock = "lock = out.parent / 'lock'\nlock.touch(exist_ok=False)\ntime.sleep(0.2)\nlock.unlink()\nfinish()"
    assert start(lock, jobs=1) == {}


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_and_starts_none(
    start: Callable[..., dict[int, str]], tmp_path: Path, signum: signal.Signals, request: pytest.FixtureRequest
) -> None:
    def interrupt() -> None:
        while not all((tmp_path / f"member-{seed}" / "ready").exists() for seed in (1, 2)):
            time.sleep(0.01)
        os.kill(os.getpid(), signum)

    save = "import sys\ndef stop(number, frame):\n    (out / 'saved').touch()\n    sys.exit(128 + number)\n"
    save += "signal.signal(signal.SIGINT, stop)\nsignal.signal(signal.SIGTERM, stop)\n"
    watcher = threading.Thread(target=interrupt)
    if signal.getsignal(signum) is signal.SIG_IGN:  # under nohup, which is respected
        request.addfinalizer(lambda: signal.signal(signum, signal.SIG_IGN))
        signal.signal(signum, signal.SIG_DFL)
    before = signal.getsignal(signum)
    watcher.start()
    with pytest.raises(Interrupted, match="the same command goes on") as stopped:
        start(f"{save}(out / 'ready').touch()\ntime.sleep(60)")
    watcher.join()
    assert stopped.value.signum == signum
    assert signal.getsignal(signum) is before
    assert [(tmp_path / f"member-{seed}" / "saved").exists() for seed in (1, 2)] == [True, True]
    assert not (tmp_path / "member-3").exists()


def test_failures_are_one_line_and_the_others_stay(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.setattr(module, "PROGRAM", "import sys; sys.exit('regrnn: error: no')")
    message = refused(*command, "--out", tmp_path / "two", "--members", 2)
    assert message == (
        "2 of 2 members could not be trained, 0 could; the same command tries again (seed 1: no; seed 2: no)"
    )


def test_threads_of_a_member() -> None:
    def threads(jobs: int, given: int | None) -> list[str]:
        arguments = Command(["x"], threads=given).of(Path("o"), 1, jobs)
        return arguments[arguments.index("--threads") + 1 :][:1] if "--threads" in arguments else []

    assert threads(1, None) == []
    assert threads(2, None) == ["1"]
    assert threads(2, 3) == ["3"]
    assert run(["train", "--help"]) == 0
