"""`regrnn train`, and what it leaves."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import regrnn as package
from regrnn.cli.train import pair_flags, summary
from regrnn.kernels import core
from regrnn.training.recipe import read_recipe, recipe_from_dict, recipe_names
from regrnn.training.run import Run

SMALL = ["--data.batch-size", "5", "--data.steps", "20", "--model.hidden-size", "6", "--training.epochs", "1"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def test_a_run_directory_has_all_of_the_run(tiny_run: Path) -> None:
    assert {path.name for path in tiny_run.iterdir()} - {".lock"} == {
        "recipe.json",
        "metrics.jsonl",
        "timings.jsonl",
        "checkpoints",
        "best",
        "last",
        "result.json",
        "report.html",
        "predictions",
    }
    recipe = json.loads((tiny_run / "recipe.json").read_text())
    assert recipe["seed"] == 1
    assert recipe["recipe"]["model"]["hidden_size"] == 16  # a flag's
    assert recipe["recipe"]["training"]["learning_rate"] == 1.0  # the recipe's
    entry = json.loads((tiny_run / "result.json").read_text())
    metrics = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    epochs = [record for record in metrics if record["event"] == "epoch"]
    assert [record["epoch"] for record in epochs] == [1, 2]
    best = min(epochs, key=lambda record: record["valid_perplexity"])
    assert entry["best_epoch"] == best["epoch"] and entry["epochs"] == 2
    assert entry["figures"]["valid_perplexity"] == pytest.approx(best["valid_perplexity"], rel=1e-6)
    assert entry["regularization"] == "paper"


@pytest.mark.parametrize(
    ("kernel", "said", "kept"),
    [
        ("torch", "matmul_precision is left to torch's kernels: REGRNN_KERNEL=torch", "medium"),
        ("baseline", "products in float32, although matmul_precision is medium: REGRNN_KERNEL=baseline", None),
    ],
)
def test_medium_precision_is_never_silent(
    kernel: str,
    said: str,
    kept: str | None,
    regrnn: Callable[..., Any],
    tiny_text: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if core.choose().core is None:
        pytest.skip("the core is not compiled here")
    monkeypatch.setenv("REGRNN_KERNEL", kernel)
    for choice in (core.choose, core.choose_bfloat16):
        choice.cache_clear()
    try:
        medium = ("--training.matmul-precision", "medium", "--out", "run")
        outcome = regrnn("train", "language", "--data", tiny_text, *SMALL, *medium)
    finally:
        for choice in (core.choose, core.choose_bfloat16):
            choice.cache_clear()
    assert outcome.status == 0 and f"{said}\n" in outcome.err
    assert json.loads(Path("run/result.json").read_text()).get("matmul_precision") == kept


def test_settings_come_from_recipe_then_flags(done: Callable[..., str], tiny_text: Path, tmp_path: Path) -> None:
    recipe = Path("mine.toml")
    recipe.write_text(
        "task = 'language'\n[data]\npath = 'nowhere'\nbatch_size = 5\nsteps = 20\n"
        "[model]\nhidden_size = 6\ndropout = 0.2\n[training]\nepochs = 1\n"
    )
    done("train", recipe, "--data", tiny_text, "--model.dropout.input=0.3", "--model.tied", "true", "--seed", "3")
    out = Path("runs/mine-3")
    saved = json.loads((out / "recipe.json").read_text())
    assert saved["recipe"]["model"]["dropout"]["input"] == 0.3  # a table takes the number's place
    assert saved["recipe"]["model"]["dropout"]["between"] == 0.0
    model = package.load(out).model
    assert model.decoder.weight is model.encoder.weight
    assert model.decoder.in_features == 6
    text = tmp_path / "other.txt"
    text.write_text(tiny_text.read_text())
    # --data.path and --data are the same setting, and where equal text lies makes no other run.
    assert done("train", recipe, "--data.path", text, "--model.dropout.input=0.3", "--model.tied=true", "--seed=3")


def test_json_is_all_there_is_on_standard_output(
    regrnn: Callable[..., Any], done: Callable[..., str], tiny_text: Path, tmp_path: Path
) -> None:
    command = ["train", "language", "--data", tiny_text, "--out", tmp_path / "run", "--json", *SMALL]
    first = regrnn(*command)
    entry = json.loads(first.out)
    assert first.status == 0
    assert entry == json.loads((tmp_path / "run" / "result.json").read_text())
    assert entry["recipe"] == "language" and entry["seed"] == 1 and entry["complete"] is True
    assert set(entry["figures"]) >= {"train_perplexity", "valid_perplexity", "test_perplexity"}
    again = regrnn(*command)
    assert (again.status, json.loads(again.out)) == (0, entry)
    assert again.err == f"{tmp_path}/run is finished; name another --out to train again\n"
    text = done(*[argument for argument in command if argument != "--json"])
    assert f"test over {entry['predictions']:,} predictions" in text


def test_the_same_seed_trains_the_same_model(done: Callable[..., str], tiny_text: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        done("train", "language", "--data", tiny_text, "--out", tmp_path / name, "--seed", seed, *SMALL)
    metrics = {name: (tmp_path / name / "metrics.jsonl").read_bytes() for name in "abc"}
    assert metrics["a"] == metrics["b"] != metrics["c"]
    weights = {name: package.load(tmp_path / name).model.state_dict() for name in "abc"}
    assert all(torch.equal(tensor, weights["b"][name]) for name, tensor in weights["a"].items())
    assert not torch.equal(weights["a"]["decoder.weight"], weights["c"]["decoder.weight"])


def test_a_run_in_use_is_refused(refused: Callable[..., str], tiny_run: Path, tiny_text: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_run, tmp_path / "copy", symlinks=True))
    recipe = json.loads((copy / "recipe.json").read_text())["recipe"]
    sections = ("data", "model", "training")
    flags = [
        f"--{section}.{key}={value}"
        for section in sections
        for key, value in recipe[section].items()
        if not isinstance(value, dict) and key != "path"
    ]
    flags.append("--training.patience=none")
    with Run(copy).locked():
        message = refused("train", "language", "--data", tiny_text, "--out", copy, *flags)
    assert message.startswith(f"{copy} is being trained by another process")


def test_tensorboard_is_looked_for_before_anything_is_trained(
    refused: Callable[..., str], tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    command = ["train", "language", "--data", tiny_text, "--out", tmp_path / "run", "--tensorboard", *SMALL]
    assert refused(*command) == "tensorboard is not installed; install it with: pip install 'regrnn[tensorboard]'"
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("settings", "pairs"),
    [
        ((), []),
        (("--a.b", "1", "--c.d=2"), [("--a.b", "1"), ("--c.d", "2")]),
        (("--a.b=x=y",), [("--a.b", "x=y")]),
        (("--a.b=",), [("--a.b", "")]),
        (("--a.b", "-1"), [("--a.b", "-1")]),
        (("--sead", "3", "--a.b=2"), [("--sead", "3"), ("--a.b", "2")]),
        (("--jsno", "--a.b=2"), [("--jsno", ""), ("--a.b", "2")]),
    ],
)
def test_pair_flags(settings: tuple[str, ...], pairs: list[tuple[str, str]]) -> None:
    assert pair_flags(settings) == pairs


def test_summary_says_each_thing_once() -> None:
    how = "one contiguous stream, batch 1, state carried, every token but the first"
    entry = {
        "recipe": "ptb-small",
        "seed": 1,
        "best_epoch": 12,
        "epochs": 13,
        "predictions": 82_429,
        "figures": {
            "train_perplexity": 41.256,
            "valid_perplexity": 120.7,
            "valid_bits_per_character": 1.404,
            "test_perplexity": 1014.5,
        },
        "protocol": f"train: {how}, the first 20,000 predictions; valid: {how}; test: {how}",
    }
    assert summary(entry).splitlines() == [
        "ptb-small, seed 1: best epoch 12 of 13",
        "  train  perplexity 41.26",
        "  valid  perplexity 120.70, bits per character 1.40",
        "  test   perplexity 1014.50",
        f"  test over 82,429 predictions: {how}",
        "  train: the same, the first 20,000 predictions",
    ]


def test_recipes_are_listed_and_shown(done: Callable[..., str]) -> None:
    listed = done("recipes")
    found = json.loads(done("recipes", "--json"))
    assert list(found) == recipe_names()
    assert {"language", "ptb-small", "ptb-medium", "ptb-large"} <= set(found)
    for name, values in found.items():
        assert f"{name}: {values['summary']}\n" in listed
        recipe = recipe_from_dict(read_recipe(name), name)  # every setting is known and in range
        assert recipe.name == name
        assert json.loads(done("recipes", name, "--json")) == values
        text = done("recipes", name)
        assert f'task = "{values["task"]}"' in text and "[training]" in text
        # What is shown is a beginning for a TOML file of one's own.
        Path("own.toml").write_text(text, encoding="utf-8")
        own = recipe_from_dict(read_recipe("own.toml"), "own.toml")
        assert (own.sections, own.task) == (recipe.sections, recipe.task)
        assert done("recipes", "own.toml") == text


def test_recipes_are_the_papers() -> None:
    rows = {
        "ptb-small": (2, 200, 0.1, 0.0, 20, 20, 4, 2.0, 13, 5.0),
        "ptb-medium": (2, 650, 0.05, 0.5, 20, 35, 6, 1.2, 39, 5.0),
        "ptb-large": (2, 1500, 0.04, 0.65, 20, 35, 14, 1.15, 55, 10.0),
    }
    for name, row in rows.items():
        sections = recipe_from_dict(read_recipe(name), name).sections
        data, model, training = sections["data"], sections["model"], sections["training"]
        assert row == (
            model.num_layers,
            model.hidden_size,
            model.init,
            model.dropout,
            data.batch_size,
            data.steps,
            training.hold_epochs,
            training.decay,
            training.epochs,
            training.clip,
        )
        assert (model.cell, model.tied, training.optimizer, training.learning_rate) == ("lstm", False, "sgd", 1.0)
        assert (data.vocabulary, data.min_frequency, data.max_size, data.path) == ("word", 1, None, "ptb")


def test_recipe_of_ones_own_is_checked_before_it_is_shown(refused: Callable[..., str]) -> None:
    Path("own.toml").write_text("task = 'language'\n[training]\nepochs = 2024-01-01\n")
    message = refused("recipes", "own.toml", "--json")
    assert message.startswith("own.toml [training] epochs: expected a whole number, found ")
