"""Mistakes: one line that says what is wrong and what to do, status 1, and nothing on the disk is touched."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from regrnn.training import loop

Refused = Callable[..., str]
Contents = Callable[[Path], dict[str, str]]

SHORT = ["--model.hidden-size", "4", "--data.steps", "20", "--training.epochs", "1"]
SETTINGS = ["--model.hidden-size", "4", "--data.batch-size", "2", "--data.steps", "3", "--training.epochs", "1"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file or folder of the checkout is found by a relative path."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.delenv("REGRNN_DATA", raising=False)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A run of its own, to be damaged."""
    return Path(shutil.copytree(tiny_run, tmp_path / "copy", symlinks=True))


# -- the text


def binary(path: Path) -> None:
    path.write_bytes(b"a line\nanother\n\x7fELF\0\0\1" + b"\n" * 100)


def latin1(path: Path) -> None:
    path.write_bytes("ein Wort\nnoch zwei W\xf6rter\n".encode("latin1") * 10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text(""), "{path}: the file is empty"),
        (
            lambda path: path.write_text("one line\n"),
            "{path}: too few lines to be split 80/10/10 into train, valid and test at line ends (9 bytes of text); "
            "give more lines, or a folder with a file for each split",
        ),
        (binary, "{path}: line 3, byte 19: a NUL byte; this is a binary file or UTF-16, not UTF-8 text"),
        (
            latin1,
            "{path}: line 2, byte 20: not UTF-8 (0xf6); convert the file, for example with iconv -f latin1 -t utf-8",
        ),
        (
            lambda path: path.write_text("one one one\n" * 40),
            "{path}: the vocabulary has 1 word besides <unk> and <eos>, too few for anything to be predicted; "
            "give more text, or lower min_frequency",
        ),
        (
            lambda path: path.write_text("a b c\n" * 10),
            "{path}: the train split has 32 tokens; batch size 20 and 35 steps need at least 701: "
            "lower the batch size or the steps, or give more text",
        ),
        (
            Path.mkdir,
            "{path}: no train split; looked for train.txt, *.train.txt, train.tokens, *.train.tokens, train.raw, "
            "*.train.raw or train; found no files. A single text file, given by its own name, is split for you",
        ),
        (os.mkfifo, "{path}: neither a folder nor a regular file; give a folder or a text file"),
        (
            lambda path: None,
            "no data at {path} nor at {path}; give an existing path or the name of a data set",
        ),
    ],
)
def test_text_that_cannot_be_trained_on(
    refused: Refused, tmp_path: Path, out: Path, make: Callable[[Path], Any], message: str
) -> None:
    path = tmp_path / "my.txt"
    make(path)
    assert refused("train", "language", "--data", path, "--out", out) == message.format(path=path)
    assert not out.exists()


def test_split_is_missing(refused: Refused, tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("train", "test"):
        (folder / f"{name}.txt").write_text("a b c\n" * 20)
    message = refused("train", "language", "--data", folder, "--out", out)
    assert message.startswith(f"{folder}: no valid split; looked for valid.txt, ")
    assert "found test.txt, train.txt" in message
    (folder / "valid.txt").write_bytes(b"a b\n" * 3 + b"\xff\n")
    message = refused("train", "language", "--data", folder, "--out", out, *SETTINGS)
    assert message.startswith(f"{folder}/valid.txt: line 4, byte 12: not UTF-8 (0xff); ")
    assert not out.exists()


def test_data_set_that_is_not_there(refused: Refused, out: Path, empty_cache: Path) -> None:
    root = empty_cache / "data"
    message = refused("train", "ptb-small", "--out", out)
    assert message == f"no data at ptb nor at {root}/ptb; get it with: regrnn fetch ptb"
    message = refused("train", "ptb-small", "--data", "pbt", "--out", out)
    assert message == f"no data at pbt nor at {root}/pbt; did you mean ptb?"
    assert refused("train", "language", "--out", out).startswith("no data is named; give --data a text file, ")
    assert not out.exists()


# -- the recipe


def test_recipe_that_is_not_there(refused: Refused) -> None:
    assert refused("train", "ptb-smal") == "there is no recipe 'ptb-smal'; did you mean 'ptb-small'?"
    assert refused("recipes", "ptb-smal") == "there is no recipe 'ptb-smal'; did you mean 'ptb-small'?"
    assert refused("train", "xyzzy").startswith("there is no recipe 'xyzzy'; known: ")
    assert refused("train", "my.toml") == "my.toml: cannot be read (No such file or directory)"
    Path("folder.toml").mkdir()
    assert refused("train", "folder.toml") == "folder.toml: cannot be read (Is a directory)"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("task = ", "my.toml: not valid TOML: Invalid value (at end of document)"),
        ("task = 'language'\n[model\n", "my.toml: not valid TOML: Expected ']' at the end of a table declaration"),
        ("", 'my.toml: the key "task" is missing (task = "language")'),
        ("task = 'langauge'", "my.toml: there is no task 'langauge'; did you mean 'language'?"),
        ("task = 'language'\n[modle]\n", "my.toml: unknown key 'modle'; did you mean 'model'?"),
        ("task = 'language'\nmodel = 3\n", "my.toml: 'model' is a plain value, which does not belong there"),
        ("task = 'language'\n[model]\n", "my.toml [training]: the key 'epochs' is missing"),
        ("{}[model]\nhiden_size = 3", "my.toml [model]: unknown key 'hiden_size'; did you mean 'hidden_size'?"),
        ("{}[model]\nhidden_size = '3'", "my.toml [model] hidden_size: expected a whole number, found '3' (str)"),
        ("{}[model]\nhidden_size = 3.0", "my.toml [model] hidden_size: expected a whole number, found 3.0 (float)"),
        ("{}[model]\nhidden_size = true", "my.toml [model] hidden_size: expected a whole number, found True (bool)"),
        ("{}[model]\ninit = 'x'", "my.toml [model] init: expected a number, found 'x' (str)"),
        ("{}[model]\ninit = nan", "my.toml [model] init: nan is not a finite number"),
        ("{}[model]\ntied = 1", "my.toml [model] tied: expected true or false, found 1 (int)"),
        ("{}[model]\ncell = 'LSTM'", "my.toml [model] cell: 'LSTM' is not one of lstm, gru, rnn"),
        ("{}[model]\ndropout = 1.0", "my.toml [model]: dropout must be a rate in [0, 1), got 1.0"),
        ("{}[model]\ndropout = -0.5", "my.toml [model]: dropout must be a rate in [0, 1), got -0.5"),
        ("{}[data]\nsteps = 0", "my.toml [data]: steps = 0 must be at least 1"),
        ("{}learning_rate = 0", "my.toml [training]: learning_rate = 0.0 must be above 0"),
    ],
)
def test_recipe_with_a_mistake(refused: Refused, out: Path, toml: str, message: str) -> None:
    Path("my.toml").write_text(toml.replace("{}", "task = 'language'\n[training]\nepochs = 1\n"))
    assert refused("train", "my.toml", "--out", out).startswith(message)
    assert not out.exists()


def test_recipe_that_is_not_utf8(refused: Refused) -> None:
    Path("my.toml").write_bytes(b"task = '\xff'")
    assert refused("train", "my.toml") == "my.toml: not UTF-8 at byte 8"


# -- flags


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sead", "3"], "--sead: regrnn train has no such flag; did you mean '--seed'?"),
        (["--sead=3"], "--sead: regrnn train has no such flag; did you mean '--seed'?"),
        (["--jsno"], "--jsno: regrnn train has no such flag; did you mean '--json'?"),
        (["--hidden-size", "3"], "--hidden-size: regrnn train has no such flag; did you mean '--model.hidden-size'?"),
        (["--decay", "2"], "--decay: regrnn train has no such flag; did you mean '--training.decay'?"),
        (["--modle.hidden-size", "3"], "--modle.hidden-size: no section 'modle'; did you mean 'model'?"),
        (["--model.hiden-size", "3"], "--model.hiden-size: no setting 'hiden_size'; did you mean 'hidden_size'?"),
        (["--model.hidden-size"], "--model.hidden-size: the value is missing"),
        (["--model.hidden-size", "--model.tied", "true"], "--model.hidden-size: the value is missing"),
        (["--model.hidden-size", "x"], "--model.hidden-size: expected a whole number, found 'x'"),
        (["--model.hidden-size", "2.5"], "--model.hidden-size: expected a whole number, found '2.5'"),
        (["--model.hidden-size", "0"], "language [model]: hidden_size = 0 must be from 1 to 1,000,000"),
        (["--model.tied", "yes"], "--model.tied: expected true or false, found 'yes'"),
        (["--model.cell", "lsmt"], "language [model] cell: 'lsmt' is not one of lstm, gru, rnn"),
        (["--model.dropout", "1.5"], "language [model]: dropout must be a rate in [0, 1), got 1.5"),
        (["--model.dropout.input", "1.5"], "language [model] dropout: input must be a rate in [0, 1), got 1.5"),
        (["--model.hidden-size.x", "1"], "--model.hidden-size.x: model.hidden_size is a plain value"),
        (["stray"], "'stray' is not a flag; text is given with --data PATH, a setting with --section.key VALUE"),
        (["--seed"], "--seed: the value is missing; see regrnn train --help"),
        (["--seed", "x"], "--seed: expected a whole number, found 'x'"),
        (["--seed", "1.5"], "--seed: expected a whole number, found '1.5'"),
        (["--seed", "-1"], "--seed -1: must be from 0 to "),
        (["--seed", str(2**64)], f"--seed {2**64}: must be from 0 to "),
        (["--threads", "0"], "--threads 0: must be from 1 to 1,024"),
        (["--threads", str(10**30)], f"--threads {10**30}: must be from 1 to 1,024"),
        (["--device", "gpu"], "--device gpu: must be cpu or cuda"),
        (["--device", "meta"], "--device meta: must be cpu or cuda"),
        (["--device", "cpu:x"], "--device cpu:x: not usable here ("),
    ],
)
def test_flags_with_a_mistake(refused: Refused, tiny_text: Path, out: Path, flags: list[str], message: str) -> None:
    found = refused("train", "language", "--data", tiny_text, "--out", out, *flags)
    assert found.startswith(message)
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(refused: Refused, tiny_text: Path, out: Path) -> None:
    message = refused("train", "language", "--data", tiny_text, "--out", out, "--device", "cuda")
    assert message.startswith("--device cuda: not usable here (") and message.endswith("); try cpu")
    assert not out.exists()


# -- the run directory


def test_out_that_holds_something_else(refused: Refused, tiny_text: Path, tmp_path: Path, contents: Contents) -> None:
    folder = tmp_path / "thesis"
    (folder / "chapters").mkdir(parents=True)
    (folder / "chapters" / "one.tex").write_text("precious")
    file = tmp_path / "notes.txt"
    file.write_text("precious")
    before = contents(tmp_path)
    for place in (folder, file):
        message = refused("train", "language", "--data", tiny_text, "--out", place)
        assert message == f"--out {place} exists and is not a run of regrnn; name another place"
    message = refused("train", "language", "--data", tiny_text, "--out", file / "run")
    assert message == f"--out {file}/run: cannot be made (Not a directory)"
    assert contents(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_out_where_one_may_not_write(refused: Refused, tiny_text: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    message = refused("train", "language", "--data", tiny_text, "--out", tmp_path / "run")
    tmp_path.chmod(0o700)
    assert message == f"--out {tmp_path}/run: cannot be made (Permission denied)"


def test_out_that_holds_another_run(refused: Refused, tiny_text: Path, copy: Path, contents: Contents) -> None:
    before = contents(copy)
    message = refused("train", "language", "--data", tiny_text, "--out", copy, "--seed", "2")
    assert message.startswith(f"--out {copy} holds another run, which differs in ")
    assert "seed: 1 -> 2" in message and "recipe.model.hidden_size: 16 -> 300" in message
    assert message.endswith("; name another place")
    assert contents(copy) == before


def test_run_that_was_trained_on_other_text(refused: Refused, done: Callable[..., str], out: Path) -> None:
    text = Path("my.txt")
    text.write_text("a b c d\n" * 40)
    command = ["train", "language", "--data", text, "--out", out, *SETTINGS]
    done(*command)
    done(*command)
    text.write_text("a b c e\n" * 40)
    assert "data.train: 'sha256:" in refused(*command)


def test_what_is_no_run(refused: Refused, tmp_path: Path, tiny_text: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path, tiny_text):
        for command in (["evaluate", place], ["generate", place], ["score", place, tiny_text]):
            assert refused(*command) == f"{place}: not a run directory of regrnn (it has no recipe.json)"


def test_run_that_has_saved_nothing_yet(refused: Refused, copy: Path) -> None:
    for name in ("best", "last"):
        (copy / name).unlink()
    assert refused("generate", copy) == f"{copy}: no checkpoint was saved yet; train it first"
    for path in (copy / "checkpoints").iterdir():
        shutil.rmtree(path)
    (copy / "best").symlink_to("checkpoints/000001")
    assert f"{copy}/best leads to" in refused("generate", copy)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("name", ["model.safetensors", "vocabulary.json", "config.json"])
@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_damaged_checkpoint(
    refused: Refused, copy: Path, tiny_text: Path, name: str, damage: Callable[[Path], None], contents: Contents
) -> None:
    checkpoint = (copy / "best").resolve()
    damage(checkpoint / name)
    before = contents(copy)
    for command in (["evaluate", copy], ["generate", copy], ["score", copy, tiny_text]):
        message = refused(*command)
        assert message.startswith(f"{checkpoint}/{name}: "), message
        assert any(word in message for word in ("damaged", "missing", "cannot be read"))
    assert contents(copy) == before


def test_damaged_checkpoint_is_not_trained_on(
    refused: Refused, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: Contents
) -> None:
    """A run that stopped half-way, whose last checkpoint then lost a bit."""
    out = tmp_path / "run"
    command = ["train", "language", "--data", tiny_text, "--out", out, *SETTINGS]

    def stop(*arguments: Any) -> None:
        raise OSError(28, "No space left on device", "metrics.jsonl")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 10**9)
        patch.setattr(loop.Trainer, "_evaluate_epoch", stop)
        assert refused(*command) == "metrics.jsonl: No space left on device"
    flip((out / "last").resolve() / "optimizer.safetensors")
    before = contents(out)
    message = refused(*command)
    assert "optimizer.safetensors: damaged (its checksum is not that of the manifest)" in message
    assert contents(out) == before


def rewrite(checkpoint: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file of a checkpoint, its checksum too."""
    value = json.loads((checkpoint / name).read_text())
    change(value)
    (checkpoint / name).write_text(json.dumps(value))
    if name != "manifest.json":
        digest = hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
        rewrite(checkpoint, "manifest.json", lambda manifest: manifest["sha256"].update({name: digest}))


def test_run_of_another_version(refused: Refused, copy: Path, tiny_text: Path) -> None:
    checkpoint = (copy / "best").resolve()
    rewrite(checkpoint, "manifest.json", lambda manifest: manifest.update(format=99))
    message = f"{checkpoint}: format 99 of another version of regrnn; this one reads 1"
    assert refused("generate", copy) == refused("evaluate", copy) == message
    recipe = json.loads((copy / "recipe.json").read_text())
    (copy / "recipe.json").write_text(json.dumps(recipe | {"format": 99}))
    message = refused("train", "language", "--data", tiny_text, "--out", copy)
    assert message == f"--out {copy} is a run of format 99, of another version of regrnn"


def test_run_of_another_task(refused: Refused, copy: Path, tiny_run: Path) -> None:
    rewrite((copy / "best").resolve(), "config.json", lambda config: config.update(task="juggling"))
    message = f"{copy} is a juggling run; `regrnn generate` needs a language run"
    assert refused("generate", copy) == message
    assert "there is no task 'juggling'" in refused("evaluate", copy)
    message = f"{copy} is a juggling run and {tiny_run} a language run; they cannot be averaged"
    assert refused("evaluate", tiny_run, copy) == message


def test_vocabulary_that_does_not_fit_the_weights(refused: Refused, copy: Path) -> None:
    checkpoint = (copy / "best").resolve()
    rewrite(checkpoint, "vocabulary.json", lambda vocabulary: vocabulary["types"].append("more"))
    message = refused("generate", copy)
    assert message.startswith(f"{checkpoint}/model.safetensors does not fit its config.json: ")
    rewrite(checkpoint, "vocabulary.json", lambda vocabulary: vocabulary.update(kind="emoji"))
    message = refused("generate", copy)
    assert message == f"{checkpoint}: vocabulary: not a word, character or bpe vocabulary with all of its keys"


def test_runs_of_different_vocabularies(
    refused: Refused, done: Callable[..., str], tiny_run: Path, tiny_text: Path, out: Path
) -> None:
    done("train", "language", "--data", tiny_text, "--out", out, "--data.min-frequency", "60", *SHORT)
    message = refused("evaluate", tiny_run, out)
    assert message.startswith("the runs have different vocabularies (number 2 of 2 is the first that differs); their")


# -- what a run is used on


def test_data_of_a_run_is_gone(refused: Refused, copy: Path, empty_cache: Path) -> None:
    recipe = json.loads((copy / "recipe.json").read_text())
    recipe["recipe"]["data"]["path"] = "gone.txt"
    (copy / "recipe.json").write_text(json.dumps(recipe))
    assert refused("evaluate", copy) == (
        f"{copy} was trained on 'gone.txt', which is neither here nor in {empty_cache}/data; "
        "say where it is, or name another text, with --data"
    )
    del recipe["recipe"]["data"]
    (copy / "recipe.json").write_text(json.dumps(recipe))
    message = f"{copy}/recipe.json does not say which data the run was trained on; name it with --data"
    assert refused("evaluate", copy) == message
    checkpoint = (copy / "best").resolve()
    assert (
        refused("evaluate", checkpoint)
        == f"{checkpoint} does not say which data it was trained on; name it with --data"
    )
    assert refused("evaluate", copy, "--data", "").startswith("no data is named; give --data a text file")


def test_words_of_a_prompt_that_the_vocabulary_lacks(refused: Refused, tiny_run: Path) -> None:
    message = refused("generate", tiny_run, "--prompt", "the old zebra sees")
    assert message == ("prompt: 'zebra' is not in the vocabulary of 14 types; use another word, or <unk> in its place")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--length", "0"], "--length must be at least 1, not 0"),
        (["--samples", "-1"], "--samples must be at least 1, not -1"),
        (["--temperature", "-1"], "--temperature must be 0 or more, not -1.0"),
        (["--top-k", "0"], "--top-k must be at least 1, not 0"),
        (["--top-p", "1.5"], "--top-p must be above 0 and at most 1, not 1.5"),
        (["--seed", "-1"], "--seed must be from 0 to 9223372036854775807, not -1"),
    ],
)
def test_generate_settings_out_of_range(refused: Refused, tiny_run: Path, flags: list[str], message: str) -> None:
    assert refused("generate", tiny_run, *flags) == message


def test_text_that_cannot_be_scored(refused: Refused, tiny_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    assert refused("score", tiny_run, path) == f"{path}: no such file"
    message = refused("score", tiny_run, tmp_path)
    assert message == f"{tmp_path}: not a regular file; give a text file, or - for standard input"
    path.write_text("")
    assert refused("score", tiny_run, path) == f"{path}: empty, so there is nothing to score; give it a line of text"
    path.write_bytes(b"the dog\nthe \xff\n")
    assert refused("score", tiny_run, path).startswith(f"{path}: line 2, byte 12: not UTF-8 (0xff)")
