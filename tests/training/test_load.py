"""A trained model from its run directory alone."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from noisy import NoisyTask, noisy_recipe, train
from safetensors.torch import load_file

import regrnn
from regrnn.errors import RegrnnError
from regrnn.training import load as module
from regrnn.training.load import find_checkpoint, load, run_task
from regrnn.training.run import Run


@pytest.fixture
def noisy_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "get_task", lambda name: {"noisy": NoisyTask}[name])


def test_load_gives_the_best_weights(noisy_is_known: None, tmp_path: Path) -> None:
    train(NoisyTask([3.0, 2.0, 4.0]), noisy_recipe(epochs=3), tmp_path)
    for path, checkpoint in {tmp_path: "best", tmp_path / "last": "last"}.items():
        saved = load_file(tmp_path / checkpoint / "model.safetensors")
        trained = load(path)
        assert torch.equal(trained.model.mix.weight, saved["mix.weight"])
        assert trained.names == "één\n"
        assert not trained.model.training
    assert not torch.equal(load(tmp_path).model.mix.weight, load(tmp_path / "last").model.mix.weight)


def test_before_the_first_evaluation_the_last_is_all_there_is(noisy_is_known: None, tmp_path: Path) -> None:
    train(NoisyTask(), noisy_recipe(), tmp_path)
    (tmp_path / "best").unlink()
    assert find_checkpoint(tmp_path) == Run(tmp_path).last()
    load(str(tmp_path))


def test_needs_nothing_but_the_folder(undisturbed: Path, tmp_path: Path) -> None:
    """Moved, in a copy without links, or a checkpoint by itself; neither text nor cache is asked for."""
    shutil.copytree(undisturbed, tmp_path / "moved" / "run", symlinks=True)
    shutil.copytree(undisturbed, tmp_path / "flat", symlinks=False)
    shutil.copytree(undisturbed / "best", tmp_path / "alone")
    recipe = json.loads((tmp_path / "moved" / "run" / "recipe.json").read_text())
    recipe["recipe"]["data"]["path"] = "/nowhere"
    (tmp_path / "moved" / "run" / "recipe.json").write_text(json.dumps(recipe))
    scores = {
        load(path).score("the cat sat")[0].log_probability
        for path in (undisturbed, tmp_path / "moved" / "run", tmp_path / "flat", tmp_path / "alone")
    }
    assert len(scores) == 1
    assert regrnn.load is load


def test_loading_draws_nothing_that_shows(undisturbed: Path) -> None:
    torch.manual_seed(1)
    first = load(undisturbed)
    torch.manual_seed(2)
    second = load(undisturbed)
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["empty", "nowhere", "file", "other"])
def test_what_is_no_run_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").write_bytes(b"")
    for use in (load, run_task):
        with pytest.raises(RegrnnError, match=f"{name}: not a run directory of regrnn"):
            use(tmp_path / name)


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    Run.open(tmp_path, noisy_recipe(), 1, {})
    with pytest.raises(RegrnnError, match="no checkpoint was saved yet"):
        load(tmp_path)


def test_the_run_of_another_task(undisturbed: Path, tmp_path: Path) -> None:
    train(NoisyTask(), noisy_recipe(), tmp_path)
    assert run_task(tmp_path) == "noisy"
    assert run_task(undisturbed) == "language"
    with pytest.raises(RegrnnError, match=r"config\.json: there is no task 'noisy'"):
        load(tmp_path)


def test_a_pointer_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    train(NoisyTask(), noisy_recipe(), tmp_path)
    best = Run(tmp_path).best()
    assert best is not None
    shutil.rmtree(best)
    with pytest.raises(RegrnnError, match="best leads to .* which is not there"):
        load(tmp_path)


def test_resuming_a_run_of_another_task_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run", symlinks=True)
    with pytest.raises(RegrnnError, match="recipe.task: 'language' -> 'noisy'"):
        train(NoisyTask(), noisy_recipe(), tmp_path / "run")
