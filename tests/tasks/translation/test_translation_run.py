"""A translation run from the command line: train, evaluate, average, translate."""

import io
import json
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import torch
from phrases import SIZES, flags, phrases, train, write_pair

import regrnn
from regrnn import optional
from regrnn.cli.main import run
from regrnn.errors import RegrnnError
from regrnn.tasks.translation.task import TranslationTask
from regrnn.training.load import load
from regrnn.training.recipe import read_recipe, recipe_from_dict

RECIPES = Path(regrnn.__file__).parent / "recipes"
RUNS = pytest.mark.parametrize("name", ["attentive_run", "plain_run"])
LINES = ["rot blau", "", "eins zwei drei", "Zoe", "  ", "vier weiß"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.de"
    path.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    return path


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


@RUNS
def test_figures_of_a_run(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    result = result_of(folder)
    assert result["task"] == "translation"
    assert result["regularization"] == "paper"
    figures = result["figures"]
    assert set(figures) == {"train_perplexity", "valid_perplexity", "test_perplexity", "test_bleu", "test_chrf"}
    assert figures["valid_perplexity"] < 1.6  # 8.5 before training
    test = phrases(SIZES["test"], 3)
    assert result["predictions"] == sum(len(english.split()) + 1 for _, english in test)
    assert set(result["data"]) == {
        f"{split} {side}" for split in ("train", "valid", "test") for side in ("source", "target")
    }
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum(record["event"] == "epoch" for record in records) == 10
    assert not any("bleu" in key or "chrf" in key for record in records for key in record)
    translations = (folder / "predictions" / "test-translations.txt").read_text(encoding="utf-8").splitlines()
    assert len(translations) == SIZES["test"]
    references = [english for _, english in test]
    assert figures["test_bleu"] == pytest.approx(sacrebleu.corpus_bleu(translations, [references]).score)
    assert figures["test_chrf"] == pytest.approx(sacrebleu.corpus_chrf(translations, [references]).score)


def test_with_attention_names_are_copied_and_nearly_all_is_right(attentive_run: Path) -> None:
    assert result_of(attentive_run)["figures"]["test_bleu"] > 75
    translations = (attentive_run / "predictions" / "test-translations.txt").read_text().split()
    names = {word for _, english in phrases(SIZES["test"], 3) for word in english.split() if word.startswith("N")}
    assert len(names & set(translations)) > len(names) / 2


def test_without_attention_no_name_is_written(plain_run: Path) -> None:
    translations = (plain_run / "predictions" / "test-translations.txt").read_text()
    assert "N3x" not in translations and "<unk>" not in translations
    assert result_of(plain_run)["figures"]["test_bleu"] > 20


@RUNS
def test_evaluation_repeats_the_figures(name: str, done: Callable[..., str], request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    figures = result_of(folder)["figures"]
    expected = {key.removeprefix("test_"): value for key, value in figures.items() if key.startswith("test_")}
    found = json.loads(done("evaluate", folder, "--json"))
    assert found["figures"] == pytest.approx(expected)
    assert found["predictions"] == result_of(folder)["predictions"]
    for part in ("unknown words as <unk>", "beam search (3, length normalisation 1)", "tok:13a", "chrF nrefs:1"):
        assert part in found["protocol"]
    found = json.loads(done("evaluate", folder, "--split", "valid", "--json"))
    assert found["figures"]["perplexity"] == pytest.approx(figures["valid_perplexity"])
    assert set(found["figures"]) == {"perplexity", "bleu", "chrf"}
    found = json.loads(done("evaluate", folder, "--split", "train", "--json"))
    assert found["figures"] == {"perplexity": pytest.approx(figures["train_perplexity"])}
    assert "240 pairs spread over the training part" in found["protocol"]


def test_an_average_with_itself_is_itself(attentive_run: Path, done: Callable[..., str]) -> None:
    alone = json.loads(done("evaluate", attentive_run, "--json"))
    both = json.loads(done("evaluate", attentive_run, attentive_run, "--json"))
    assert both["figures"] == pytest.approx(alone["figures"])
    assert [row["members"] for row in both["averages"]] == [1, 2]


@pytest.fixture(scope="module")
def second_run(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like `attentive_run`, of another seed and size, and trained for less."""
    out = tmp_path_factory.mktemp("runs") / "second"
    settings = {"training__epochs": "5", "model__hidden_size": "20", "model__shared": "false"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRNN_CACHE", str(tmp_path_factory.mktemp("cache-of-second")))
        assert train(texts, out, "--seed", "2", **settings) == 0
    return out


def test_several_runs_in_a_table(attentive_run: Path, second_run: Path, done: Callable[..., str]) -> None:
    found = json.loads(done("evaluate", attentive_run, second_run, "--json"))
    first, both = (row["figures"] for row in found["averages"])
    assert first["perplexity"] == pytest.approx(result_of(attentive_run)["figures"]["test_perplexity"])
    alone = result_of(second_run)["figures"]["test_perplexity"]
    assert both["perplexity"] < (first["perplexity"] + alone) / 2
    lines = done("evaluate", attentive_run, second_run).splitlines()
    assert lines[0].split("  ") == ["members", "test perplexity", "test bleu", "test chrf"]
    assert lines[1].split() == ["1", *(f"{first[key]:.3f}" for key in ("perplexity", "bleu", "chrf"))]
    assert lines[2].split() == ["2", *(f"{both[key]:.3f}" for key in ("perplexity", "bleu", "chrf"))]


def test_members_are_trained_and_averaged(texts: Path, done: Callable[..., str], tmp_path: Path) -> None:
    out = tmp_path / "two"
    done("train", "translation", "--members", 2, "--out", out, *flags(texts, training__epochs="1", decoding__beam="1"))
    alone, both = json.loads((out / "members.json").read_text())
    assert alone["figures"]["test_perplexity"] == result_of(out / "member-1")["figures"]["test_perplexity"]
    found = json.loads(done("evaluate", out / "member-1", out / "member-2", "--json"))
    for figure in ("perplexity", "bleu", "chrf"):
        assert both["figures"][f"test_{figure}"] == pytest.approx(found["figures"][figure], rel=1e-9)


def test_runs_that_do_not_go_together(
    attentive_run: Path,
    plain_run: Path,
    tiny_run: Path,
    texts: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "only some of the runs read the source backwards" in refused("evaluate", attentive_run, plain_run)
    assert "only some of the runs" in refused("translate", attentive_run, texts / "test.de", "--average", plain_run)
    assert "cannot be averaged" in refused("evaluate", attentive_run, tiny_run)
    other = tmp_path / "other"
    assert train(texts, other, training__epochs="1", data__min_frequency="1") == 0
    capsys.readouterr()
    assert "different source vocabularies" in refused("evaluate", attentive_run, other)


def test_names_of_files_are_those_of_the_runs_own_data(
    texts: Path, tmp_path: Path, done: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    shutil.copytree(texts, own)
    for language in ("de", "en"):
        (own / f"test.{language}").rename(own / f"flickr.{language}")
    run_folder = tmp_path / "run"
    assert train(own, run_folder, data__test="flickr", training__epochs="1") == 0
    capsys.readouterr()
    figures = json.loads((run_folder / "result.json").read_text())["figures"]
    for data in (own, texts):  # the same text under two names
        found = json.loads(done("evaluate", run_folder, "--data", data, "--json"))
        assert found["figures"]["perplexity"] == pytest.approx(figures["test_perplexity"])


def test_other_data_are_evaluated_with_the_words_of_the_run(
    attentive_run: Path, tmp_path: Path, done: Callable[..., str], refused: Callable[..., str]
) -> None:
    pairs = [*phrases(12, 8), ("", "nothing"), ("rot " * 80, "red " * 80)]
    write_pair(tmp_path / "more", "test", pairs)
    found = json.loads(done("evaluate", attentive_run, "--data", tmp_path / "more", "--json"))
    assert found["predictions"] == sum(len(english.split()) + 1 for german, english in pairs if german)
    assert "1 with an empty side left out" in found["protocol"]
    assert "no train split" in refused("evaluate", attentive_run, "--data", tmp_path / "more", "--split", "train")


@RUNS
def test_as_many_lines_come_out_as_go_in(
    name: str, text: Path, done: Callable[..., str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder: Path = request.getfixturevalue(name)
    out = done("translate", folder, text)
    lines = out.split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(LINES)
    assert [bool(line) for line in lines] == [bool(line.strip()) for line in LINES]
    assert lines == [found[0].text for found in regrnn.load(folder).translate(LINES)]
    for raw in (text.read_bytes(), text.read_bytes().removesuffix(b"\n"), text.read_bytes().replace(b"\n", b"\r\n")):
        for arguments in (["translate", folder, "-"], ["translate", folder]):
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), "ascii"))
            assert done(*arguments) == out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b""), "ascii"))
    assert done("translate", folder) == ""


def test_what_was_learnt_is_translated(attentive_run: Path, text: Path, done: Callable[..., str]) -> None:
    lines = done("translate", attentive_run, text).splitlines()
    assert lines[0] == "red blue"
    assert lines[2] == "one two three"
    assert "Zoe" in lines[3]


def test_several_translations_of_a_line(attentive_run: Path, text: Path, done: Callable[..., str]) -> None:
    lines = done("translate", attentive_run, text, "--best", "2", "--beam", "4").splitlines()
    found = regrnn.load(attentive_run).translate(LINES, beam=4)
    expected = [
        f"{number} ||| {one.text} ||| {one.score:.4f}"
        for number, translations in enumerate(found, 1)
        for one in translations[:2]
    ]
    assert lines == expected
    assert [line.split(" ||| ")[0] for line in lines] == ["1", "1", "2", "3", "3", "4", "4", "5", "6", "6"]
    assert lines[2] == "2 |||  ||| 0.0000"


def test_translations_as_json(attentive_run: Path, text: Path, done: Callable[..., str]) -> None:
    raw = done("translate", attentive_run, text, "--best", "3", "--json")
    records = [json.loads(line) for line in raw.splitlines()]
    assert [record["line"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert [len(record["translations"]) for record in records] == [3, 1, 3, 3, 1, 3]
    assert records[1]["translations"] == [{"text": "", "log_probability": 0.0, "score": 0.0, "finished": True}]
    for record in records:
        scores = [one["score"] for one in record["translations"] if one["finished"]]
        assert scores == sorted(scores, reverse=True)
    one = records[0]["translations"][0]
    assert set(one) == {"text", "log_probability", "score", "finished"}
    assert one["score"] == pytest.approx(one["log_probability"] / (len(one["text"].split()) + 1))


def test_draws_by_a_seed(plain_run: Path, text: Path, done: Callable[..., str]) -> None:
    command = ["translate", plain_run, text, "--sample", "--temperature", "3"]
    first = done(*command, "--seed", 1)
    assert done(*command, "--seed", 1) == first
    assert done(*command, "--seed", 2) != first
    assert len(first.splitlines()) == len(LINES)
    assert [line == "" for line in first.splitlines()][1::3] == [True, True]
    cold = done("translate", plain_run, text, "--sample", "--temperature", "0")
    assert cold == done("translate", plain_run, text, "--beam", "1")
    records = [json.loads(line) for line in done(*command, "--seed", 1, "--json").splitlines()]
    assert [record["translations"][0]["text"] for record in records] == first.splitlines()


@RUNS
def test_scores_of_given_translations_are_those_of_evaluation(
    name: str, texts: Path, done: Callable[..., str], request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(name)
    out = done("translate", folder, texts / "test.de", "--force", texts / "test.en")
    head, *rows = (line.split("\t") for line in out.splitlines())
    assert head == ["line", "log_probability", "tokens", "perplexity"]
    assert [int(row[0]) for row in rows] == list(range(1, SIZES["test"] + 1))
    total, tokens = sum(float(row[1]) for row in rows), sum(int(row[2]) for row in rows)
    result = result_of(folder)
    assert tokens == result["predictions"]
    assert torch.tensor(-total / tokens).exp().item() == pytest.approx(result["figures"]["test_perplexity"], rel=1e-4)
    records = [
        json.loads(line)
        for line in done("translate", folder, texts / "test.de", "--force", texts / "test.en", "--json").splitlines()
    ]
    for record, row in zip(records, rows, strict=True):
        assert [str(record["line"]), str(record["tokens"])] == [row[0], row[2]]
        assert record["log_probability"] == pytest.approx(float(row[1]), abs=1e-5)
        assert record["perplexity"] == pytest.approx(float(row[3]), abs=1e-3)


def test_an_average_translates_as_one(
    attentive_run: Path, second_run: Path, texts: Path, done: Callable[..., str]
) -> None:
    command = ["translate", attentive_run, texts / "test.de", "--average", second_run]
    lines = done(*command).splitlines()
    first, second = regrnn.load(attentive_run), regrnn.load(second_run)
    sources = (texts / "test.de").read_text().splitlines()
    assert lines == [found[0].text for found in first.translate(sources, average=[second])]
    rows = [line.split("\t") for line in done(*command, "--force", texts / "test.en").splitlines()[1:]]
    perplexity = torch.tensor(-sum(float(row[1]) for row in rows) / sum(int(row[2]) for row in rows)).exp().item()
    both = json.loads(done("evaluate", attentive_run, second_run, "--json"))
    assert perplexity == pytest.approx(both["figures"]["perplexity"], rel=1e-4)


def test_forcing_what_is_not_aligned(
    attentive_run: Path, text: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    other = tmp_path / "other.en"
    other.write_text("one\ntwo\n")
    message = refused("translate", attentive_run, text, "--force", other)
    assert message.endswith(f"{text} has 6 lines and {other} 2; they should be aligned")
    other.write_text("one\n" * 6)
    message = refused("translate", attentive_run, text, "--force", other)
    assert f"{text}: line 2 is empty" in message
    assert "--force -: standard input is read for the text already" in refused(
        "translate", attentive_run, "--force", "-"
    )
    assert "no such file" in refused("translate", attentive_run, text, "--force", tmp_path / "none")


def test_an_empty_translation_may_be_forced(
    attentive_run: Path, text: Path, tmp_path: Path, done: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text.write_text("rot\nblau\n")
    (tmp_path / "t.en").write_text("red\n\n")
    rows = [
        line.split("\t") for line in done("translate", attentive_run, text, "--force", tmp_path / "t.en").splitlines()
    ]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"red\n\n"), "ascii"))
    piped = done("translate", attentive_run, text, "--force", "-")
    assert [line.split("\t") for line in piped.splitlines()] == rows
    assert [row[2] for row in rows[1:]] == ["2", "1"]
    assert float(rows[1][1]) > float(rows[2][1])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--beam", "0"], "--beam must be at least 1, got 0"),
        (["--best", "0"], "--best must be at least 1, got 0"),
        (["--sample", "--temperature", "-1"], "--temperature must not be negative, got -1.0"),
        (["--sample", "--beam", "2"], "--sample draws one translation; leave --beam, --best and --force out"),
        (["--sample", "--best", "2"], "--sample draws one translation"),
        (["--sample", "--force", "t.en"], "--sample draws one translation"),
        (["--temperature", "0.5"], "--temperature and --seed are of drawing at random; give --sample too"),
        (["--force", "t.en", "--best", "2"], "--force makes no translations; leave --beam and --best out"),
    ],
)
def test_flags_that_are_out_of_range_or_do_not_go_together(
    attentive_run: Path, text: Path, more: list[str], message: str, refused: Callable[..., str]
) -> None:
    assert message in refused("translate", attentive_run, text, *more)


def test_texts_and_runs_that_are_none(
    attentive_run: Path, tiny_run: Path, text: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    assert "is a language run; `regrnn translate` needs a translation run" in refused("translate", tiny_run, text)
    assert "is a language run" in refused("translate", attentive_run, text, "--average", tiny_run)
    assert "no such file" in refused("translate", attentive_run, tmp_path / "none")
    assert "not a regular file" in refused("translate", attentive_run, tmp_path)
    text.write_bytes(b"rot\n\xff\n")
    assert "line 2, byte 4: not UTF-8" in refused("translate", attentive_run, text)


def test_a_missing_package_is_one_clear_line(
    attentive_run: Path,
    texts: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    done: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = optional.importlib.import_module

    def refuse(module: str) -> Any:
        if module.startswith("sacrebleu"):
            raise ImportError(module)
        return original(module)

    monkeypatch.setattr(optional.importlib, "import_module", refuse)
    expected = "regrnn: error: this needs sacrebleu: pip install 'regrnn[translation]'"
    assert train(texts, tmp_path / "run") == 1
    assert capsys.readouterr().err.strip() == expected
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert run(["evaluate", str(attentive_run)]) == 1
    assert capsys.readouterr().err.strip() == expected
    # What needs no BLEU works.
    assert done("translate", attentive_run, text).startswith("red blue\n")
    assert "perplexity" in done("evaluate", attentive_run, "--split", "train")


def test_bleu_of_text_that_is_tokenised_already(texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    shutil.copytree(texts, folder)
    test = [(f"{german} .", f"{english} .") for german, english in phrases(6, 3)]
    write_pair(folder, "test", test)
    out = tmp_path / "run"
    assert train(folder, out, training__epochs="2", decoding__bleu_tokenize="none", model__attention="none") == 0
    translations = (out / "predictions" / "test-translations.txt").read_text().splitlines()
    references = [english for _, english in test]
    expected = sacrebleu.corpus_bleu(translations, [references], tokenize="none", force=True).score
    assert result_of(out)["figures"]["test_bleu"] == pytest.approx(expected)
    assert "tok:none" in json.dumps(result_of(out)["protocol"])


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_a_joint_vocabulary_is_saved_once(kind: str, texts: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = {"data__joint": "true", "data__vocabulary": kind, "data__min_frequency": "1", "training__epochs": "1"}
    assert train(texts, out, **settings) == 0
    files = {path.name for path in (out / "best").iterdir()}
    assert "source-vocabulary.json" in files and "target-vocabulary.json" not in files
    trained = regrnn.load(out)
    assert trained.vocabularies.source is trained.vocabularies.target
    figures = result_of(out)["figures"]
    found = TranslationTask.evaluate_trained([trained], str(texts), "test").figures
    assert {f"test_{name}": value for name, value in found.items()} == pytest.approx(
        {name: value for name, value in figures.items() if name.startswith("test_")}
    )
    assert run(["translate", str(out), str(text)]) == 0


def test_dropout_of_another_kind_is_named(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = (
        (RECIPES / "translation.toml").read_text().replace("dropout = 0.4", "dropout = {output = 0.2, masks = 'batch'}")
    )
    (tmp_path / "mine.toml").write_text(recipe)
    more = flags(texts, training__epochs="1")
    at = more.index("--model.dropout")
    del more[at : at + 2]
    assert run(["train", str(tmp_path / "mine.toml"), "--out", str(out), "--threads", "1", *more]) == 0
    assert result_of(out)["regularization"] == "custom"
    assert regrnn.load(out).model.attention.dropout.masks == "batch"


@pytest.mark.parametrize("name", ["source-vocabulary.json", "target-vocabulary.json"])
def test_a_damaged_checkpoint_is_refused(name: str, attentive_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(attentive_run, copy, symlinks=True)
    found = list(copy.glob(f"checkpoints/*/{name}"))
    assert found
    for path in found:
        path.write_text("{")
    with pytest.raises(RegrnnError, match=name):
        regrnn.load(copy)
    for path in found:
        path.unlink()
    with pytest.raises(RegrnnError, match=name):
        regrnn.load(copy)


def weights(folder: Path) -> bytes:
    return (folder / "best" / "model.safetensors").read_bytes()


def test_an_interrupted_run_ends_as_an_undisturbed_one(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"training__epochs": "2", "data__batch_size": "60"}
    assert train(texts, tmp_path / "whole", **settings) == 0
    asked = 0
    original = TranslationTask.batch

    def batch(task: TranslationTask, *arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked in (3, 6):
            signal.raise_signal(signal.SIGTERM)
        return original(task, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TranslationTask, "batch", batch)
        statuses = [train(texts, tmp_path / "run", **settings) for _ in range(3)]
    assert statuses == [143, 143, 0]
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert result_of(tmp_path / "run")["figures"] == result_of(tmp_path / "whole")["figures"]
    files = [folder / "predictions" / "test-translations.txt" for folder in (tmp_path / "run", tmp_path / "whole")]
    assert files[0].read_text() == files[1].read_text()


def test_a_run_does_not_go_on_with_other_texts(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "texts"
    shutil.copytree(texts, folder)
    original = TranslationTask.batch

    def batch(task: TranslationTask, *arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return original(task, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TranslationTask, "batch", batch)
        assert train(folder, tmp_path / "run") == 143
    write_pair(folder, "train", phrases(SIZES["train"], 9))
    capsys.readouterr()
    assert train(folder, tmp_path / "run") == 1
    assert "train" in capsys.readouterr().err


def test_batches_are_the_same_whenever_asked_for(texts: Path) -> None:
    given = flags(texts, data__batch_size="50")
    pairs = [
        ("--data.path" if flag == "--data" else flag, value)
        for flag, value in zip(given[::2], given[1::2], strict=True)
    ]
    task = TranslationTask.prepare(recipe_from_dict(read_recipe("translation"), "translation", pairs).sections)
    assert task.batches == 5
    cpu = torch.device("cpu")

    def epoch(number: int) -> list[Any]:
        return [task.batch(number, position, cpu) for position in range(task.batches)]

    def same(a: Any, b: Any) -> bool:
        return all(
            torch.equal(getattr(a, name), getattr(b, name)) for name in ("source_SB", "lengths_B", "x_TB", "y_TB")
        )

    first, again, other = epoch(1), epoch(1), epoch(2)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not all(a.x_TB.shape == b.x_TB.shape and same(a, b) for a, b in zip(first, other, strict=True))
    train_pairs = phrases(SIZES["train"], 1)
    for batches in (first, other):
        assert sum(int(batch.there_TB.sum()) for batch in batches) == sum(len(e.split()) + 1 for _, e in train_pairs)
        assert sum(int(batch.lengths_B.sum()) for batch in batches) == sum(len(g.split()) for g, _ in train_pairs)
        read = [
            (tuple(b.source_SB[: b.lengths_B[row], row].tolist()), tuple(b.y_TB[b.there_TB[:, row], row].tolist()))
            for b in batches
            for row in range(len(b.lengths_B))
        ]
        pairs_of = task.corpus.splits["train"]
        assert sorted(read) == sorted((tuple(pairs_of.source(i)), tuple(pairs_of.target(i))) for i in range(240))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data__source": "fr"}, "has no 'fr' (--data.source)"),
        ({"data__max_length": "0"}, "max_length = 0 must be at least 1"),
        ({"decoding__beam": "0"}, "beam = 0 must be at least 1"),
        ({"decoding__bleu_tokenize": "14a"}, "bleu_tokenize"),
        ({"model__attention": "bahdanau"}, "attention"),
        ({"data__min_frequency": "1000"}, "the vocabulary has 0 words"),
    ],
)
def test_settings_that_are_refused(
    settings: dict[str, str], message: str, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(texts, tmp_path / "run", **settings) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_train_without_texts_says_what_is_wanted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["train", "translation", "--out", str(tmp_path / "run")]) == 1
    assert "no data is named; give --data a folder with two aligned files" in capsys.readouterr().err


def test_from_python(attentive_run: Path) -> None:
    model = regrnn.load(attentive_run)
    [[best, *_], [empty]] = model.translate(["rot blau", ""])
    assert (best.text, best.finished, empty.text) == ("red blue", True, "")
    [forced] = model.force(["rot blau"], ["red blue"])
    assert forced.log_probability == pytest.approx(best.log_probability, rel=1e-5)
    assert re.fullmatch(r"[\w ]*", model.sample(["rot"], seed=1)[0].text)
    assert not model.model.training
    assert load(attentive_run).translate(["rot"])[0][0].text == model.translate(["rot"])[0][0].text
