"""Which run is in a directory: the same one goes on, anything else is refused with the difference."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from noisy import NoisyConfig, NoisyTask, Silent, Tiny, contents, noisy_recipe, train

from regrnn.cli.main import run as regrnn
from regrnn.errors import RegrnnError
from regrnn.training import result
from regrnn.training.files import point, write_json, write_text
from regrnn.training.recipe import Recipe
from regrnn.training.run import Run

DATA = {"train": "sha256:0"}


def listing(folder: Path) -> dict[str, tuple[bytes | None, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes() if path.is_file() else None, path.stat().st_mtime_ns)
        for path in [folder, *folder.rglob("*")]
    }


def test_the_same_recipe_seed_and_data_is_the_same_run(tmp_path: Path) -> None:
    first = Run.open(tmp_path / "deep" / "run", noisy_recipe(), 1, DATA)
    before = first.recipe.read_bytes()
    assert json.loads(before)["seed"] == 1
    assert Run.open(first.folder, noisy_recipe(), 1, DATA).folder == first.folder
    assert first.recipe.read_bytes() == before


def test_what_does_not_change_the_result_may_differ(tmp_path: Path) -> None:
    Run.open(tmp_path, noisy_recipe(checkpoint_minutes=1.0), 1, DATA)
    same = noisy_recipe(checkpoint_minutes=5.0)
    renamed = Recipe("other", same.task, "other words", same.expected, same.sections)
    Run.open(tmp_path, renamed, 1, DATA)


@pytest.mark.parametrize(
    ("recipe", "seed", "data", "difference"),
    [
        (noisy_recipe(), 2, DATA, "seed: 1 -> 2"),
        (noisy_recipe(epochs=3), 1, DATA, "recipe.training.epochs: 2 -> 3"),
        (noisy_recipe(clip=None), 1, DATA, "recipe.training.clip: 5.0 -> None"),
        (noisy_recipe(), 1, {"train": "sha256:1"}, "data.train: 'sha256:0' -> 'sha256:1'"),
        (noisy_recipe(), 1, {**DATA, "test": "sha256:2"}, "data.test: None -> 'sha256:2'"),
        (
            noisy_recipe(epochs=3),
            2,
            DATA,
            "recipe.training.epochs: 2 -> 3; seed: 1 -> 2",
        ),
    ],
)
def test_another_run_is_refused_with_the_difference(
    recipe: Recipe, seed: int, data: dict[str, str], difference: str, tmp_path: Path
) -> None:
    Run.open(tmp_path / "run", noisy_recipe(), 1, DATA)
    before = listing(tmp_path)
    with pytest.raises(RegrnnError) as raised:
        Run.open(tmp_path / "run", recipe, seed, data)
    assert f"holds another run, which differs in {difference}; name another place" in str(raised.value)
    assert listing(tmp_path) == before


def test_a_setting_of_the_task_is_a_difference(tmp_path: Path) -> None:
    Run.open(tmp_path / "run", noisy_recipe(), 1, DATA)
    other = noisy_recipe()
    other.sections["noisy"] = NoisyConfig(rate=None)
    with pytest.raises(RegrnnError, match=r"recipe\.noisy\.rate: 0\.5 -> None"):
        Run.open(tmp_path / "run", other, 1, DATA)


@pytest.mark.parametrize("content", ["notes.txt", "metrics.jsonl", ".git", ".lock-of-others"])
def test_a_folder_that_holds_something_else_is_refused_and_untouched(content: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / content).write_text("my own")
    before = listing(tmp_path)
    with pytest.raises(RegrnnError, match="exists and is not a run of regrnn; name another place"):
        Run.open(tmp_path / "mine", noisy_recipe(), 1, DATA)
    assert listing(tmp_path) == before


def test_a_file_or_a_place_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("my own")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing" / "place")
    for name in ("file", "file/below", "nowhere", "x" * 300):
        with pytest.raises(RegrnnError, match=r"^--out .* (not a run of regrnn|cannot be made \()"):
            Run.open(tmp_path / name, noisy_recipe(), 1, DATA)
    assert (tmp_path / "file").read_text() == "my own"


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    assert Run.open(tmp_path, noisy_recipe(), 1, DATA).has_recipe()


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_no_generator_takes_is_refused(seed: int, tmp_path: Path) -> None:
    with pytest.raises(RegrnnError, match=f"--seed {seed}: must be from 0 to 18446744073709551615"):
        Run.open(tmp_path / "run", noisy_recipe(), seed, DATA)
    assert not (tmp_path / "run").exists()
    train(NoisyTask(), noisy_recipe(epochs=1), tmp_path / "largest", seed=2**64 - 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "damaged, not valid JSON"),
        ("[]", "damaged, expected a JSON object"),
        ("{}", "format None, of another version"),
        ('{"format": 2}', "format 2, of another version"),
        ('{"format": 1}', "damaged; restore it"),
        ('{"format": 1, "seed": 1, "data": {}, "recipe": 3}', "damaged; restore it"),
        ('{"format": 1, "seed": 1, "data": {}, "recipe": {"training": []}}', "damaged; restore it"),
    ],
)
def test_a_damaged_recipe_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(RegrnnError, match=said) as raised:
        Run.open(tmp_path, noisy_recipe(), 1, DATA)
    assert str(tmp_path) in str(raised.value)


# One process at a time.


def hold(folder: Path, ready: Any, done: Any) -> None:
    with Run(folder).locked():
        ready.set()
        done.wait()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(NoisyTask(), noisy_recipe(), folder)
    before = contents(folder)
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(folder, ready, done))
    process.start()
    try:
        ready.wait()
        with pytest.raises(RegrnnError, match="is being trained by another process"):
            train(NoisyTask(), noisy_recipe(), folder)
    finally:
        done.set()
        process.join()
    assert contents(folder) == before
    train(NoisyTask(), noisy_recipe(), folder)  # its end has freed the run


def test_a_second_start_in_the_same_moment_is_refused(tmp_path: Path) -> None:
    """One has made the folder and its lock, but not yet the recipe, when another process comes."""
    folder = tmp_path / "run"
    folder.mkdir()
    with Run(folder).locked(), pytest.raises(RegrnnError, match="is being trained by another process"):
        Run.open(folder, noisy_recipe(), 1, DATA)
    assert not (folder / "recipe.json").exists()


def test_of_two_starts_the_first_one_has_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other run is there in the moment between looking and locking."""
    folder = tmp_path / "run"
    locked = Run.locked

    def late(self: Run) -> Any:
        monkeypatch.setattr(Run, "locked", locked)
        Run.open(folder, noisy_recipe(), 2, DATA)
        return locked(self)

    monkeypatch.setattr(Run, "locked", late)
    with pytest.raises(RegrnnError, match="differs in seed: 2 -> 1"):
        Run.open(folder, noisy_recipe(), 1, DATA)


def test_a_file_system_without_locks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from regrnn.training import run as module

    def refuse(*arguments: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with pytest.raises(RegrnnError, match=r"\.lock: cannot be locked here \(No locks available\)"):
        Run.open(tmp_path / "run", noisy_recipe(), 1, DATA)


# Pointers and what they keep.


def test_only_best_and_last_are_kept_at_every_moment(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kept: list[tuple[set[str], set[str]]] = []

    class Watch(Silent):
        def look(self, *values: Any) -> None:
            run = Run(folder)
            pointed = {path.name for path in (run.best(), run.last()) if path}
            kept.append(({path.name for path in run.checkpoints.glob("*")}, pointed))

        step = evaluating = epoch = look

    train(NoisyTask([3.0, 4.0, 2.0]), noisy_recipe(epochs=3), folder, Watch())
    assert all(there == pointed for there, pointed in kept)
    assert {2} <= {len(there) for there, _ in kept} <= {0, 1, 2}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"000009"}, "the last is the best"


def test_a_run_that_moved_is_the_same_run(tmp_path: Path) -> None:
    train(NoisyTask(), noisy_recipe(), tmp_path / "here")
    before = contents(tmp_path / "here")
    (tmp_path / "there").mkdir()
    shutil.move(tmp_path / "here", tmp_path / "there" / "run")
    assert contents(tmp_path / "there" / "run") == before
    train(NoisyTask(), noisy_recipe(), tmp_path / "there" / "run")


def test_a_pointer_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    train(NoisyTask(), noisy_recipe(), tmp_path)
    last = Run(tmp_path).last()
    assert last is not None
    shutil.rmtree(last)
    with pytest.raises(RegrnnError) as raised:
        train(NoisyTask(), noisy_recipe(), tmp_path)
    assert f"{tmp_path / 'last'} leads to {last}, which is not there" in str(raised.value)
    assert (tmp_path / "metrics.jsonl").read_bytes()


def test_a_copy_that_lost_its_links_is_not_begun_anew(tmp_path: Path) -> None:
    """As a copying program makes it that follows links; taken for a new run it would lose all it had."""
    train(NoisyTask(), noisy_recipe(), tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy", symlinks=False)
    before = listing(tmp_path / "copy")
    with pytest.raises(RegrnnError, match=r"copy/last is a folder where a link belongs.*cp -a"):
        train(NoisyTask(), noisy_recipe(), tmp_path / "copy")
    assert listing(tmp_path / "copy") == before


def test_metrics_that_were_cut_short_are_named(tmp_path: Path) -> None:
    train(NoisyTask(), noisy_recipe(), tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(RegrnnError, match=r"metrics\.jsonl: shorter than when the checkpoint was saved"):
        train(NoisyTask(), noisy_recipe(), tmp_path)


# Files that are whole or not there.


def test_a_refused_write_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a.txt", "before")

    def half(path: Path, text: str, **options: Any) -> None:
        path.write_bytes(text.encode()[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "a.txt", "after")
    assert (tmp_path / "a.txt").read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_pointer_moves_over_what_a_kill_left(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    (tmp_path / ".last.tmp").symlink_to("nowhere")
    for name in "ab":
        point(tmp_path / "last", tmp_path / name)
        assert os.readlink(tmp_path / "last") == name


# The command.


def test_a_finished_run_says_so_and_stays_as_it_is(
    tiny: Tiny, undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out, symlinks=True)
    before = {name: value for name, value in listing(out).items() if name not in (".", ".lock")}
    assert regrnn(tiny.arguments(out, "--json")) == 0
    printed = capfd.readouterr()
    assert f"{out} is finished; name another --out to train again" in printed.err
    assert json.loads(printed.out) == json.loads((undisturbed / "result.json").read_text())
    assert {name: value for name, value in listing(out).items() if name not in (".", ".lock")} == before


def test_the_command_refuses_another_run_and_a_locked_one(
    tiny: Tiny, undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out, symlinks=True)
    cases = [
        (["--seed", "2"], "differs in seed: 1 -> 2"),
        (["--model.dropout", "0.4"], "differs in recipe.model.dropout: 0.3 -> 0.4"),
        (["--data.steps", "6"], "differs in recipe.data.steps: 5 -> 6"),
    ]
    for more, said in cases:
        assert regrnn(tiny.arguments(out, *more)) == 1
        assert said in capfd.readouterr().err
    with Run(out).locked():
        assert regrnn(tiny.arguments(out)) == 1
    assert "is being trained by another process" in capfd.readouterr().err


def test_the_command_refuses_other_data_but_not_another_place_of_the_same(
    tiny: Tiny, undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, text = tmp_path / "run", tmp_path / "text"
    shutil.copytree(undisturbed, out, symlinks=True)
    shutil.copytree(tiny.text, text)
    moved = Tiny(tiny.recipe, text)
    assert regrnn(moved.arguments(out)) == 0
    with (text / "test.txt").open("a") as file:
        file.write("the cat\n")
    assert regrnn(moved.arguments(out)) == 1
    assert "differs in data.test: 'sha256:" in capfd.readouterr().err


# The result.


def test_the_result_has_all_that_a_figure_needs(undisturbed: Path) -> None:
    entry = json.loads((undisturbed / "result.json").read_text())
    assert set(entry) == {
        "recipe", "task", "seed", "members", "regularization", "complete", "epochs", "best_epoch", "evaluation",
        "figures", "predictions", "data", "protocol", "command", "commit", "machine", "versions", "wall_seconds",
    }  # fmt: skip
    assert (entry["recipe"], entry["task"], entry["seed"], entry["regularization"]) == ("tiny", "language", 1, "paper")
    assert (entry["complete"], entry["epochs"], entry["members"], entry["evaluation"]) == (True, 3, 1, "static")
    lines = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    best = next(line for line in lines if line["event"] == "epoch" and line["epoch"] == entry["best_epoch"])
    for figure in ("train_perplexity", "valid_perplexity"):
        assert entry["figures"][figure] == best[figure], "those of the best checkpoint"
    assert entry["predictions"] == 7 * 7 - 1  # 7 lines of 6 words and an end; nothing precedes the first
    assert entry["machine"].endswith("1 threads")


def test_early_stopping_counts_the_epochs_that_were_trained(tmp_path: Path) -> None:
    for valid, patience, epochs in [((3.0, 4.0, 5.0), 2, 3), ((3.0, 4.0, 5.0, 6.0), 2, 3), ((3.0, 2.0), None, 2)]:
        recipe = noisy_recipe(epochs=len(valid), patience=patience)
        outcome = train(NoisyTask(valid), recipe, tmp_path / f"{len(valid)}")
        assert result.result_entry(recipe, 1, outcome, "none", DATA, torch.device("cpu"))["epochs"] == epochs


def test_the_commit_is_that_of_this_source_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is installed inside somebody's repository does not take that one's commit for its own."""
    installed = tmp_path / ".venv" / "site-packages"
    (installed / "regrnn" / "training").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    asked: list[Any] = []
    monkeypatch.setattr(result, "__file__", str(installed / "regrnn" / "training" / "result.py"))
    monkeypatch.setattr(result.subprocess, "run", lambda *arguments, **options: asked.append(arguments))
    assert result.commit() is None
    assert asked == []


def test_no_git_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert result.commit() is None


def test_write_json_is_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ü": [1.5, None]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ü": [1.5, None]}
    assert "ü" in (tmp_path / "a.json").read_text(encoding="utf-8")
