"""`regrnn score` and `regrnn generate`: what `TrainedLanguageModel` says, on standard output."""

import io
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import regrnn as package
from regrnn.cli.main import run
from regrnn.cli.verbs import bind
from regrnn.data.vocabulary import build_vocabulary
from regrnn.tasks.language.model import LanguageModel, ModelConfig
from regrnn.tasks.language.trained import TrainedLanguageModel
from regrnn.tasks.language.verbs import score

Done = Callable[..., str]

TEXT = "the old dog sees the cat .\n\nthe yak hears\tthe \\fox .\n"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def table(tsv: str) -> tuple[list[str], list[list[str]]]:
    assert tsv.endswith("\n")
    header, *rows = (line.split("\t") for line in tsv.removesuffix("\n").split("\n"))
    assert all(len(row) == len(header) for row in rows)
    return header, rows


def unescaped(cell: str) -> str:
    return cell.replace("\\t", "\t").replace("\\\\", "\\")


@pytest.mark.parametrize("carry", [False, True])
def test_score_by_word_token_and_line(done: Done, tiny_run: Path, text: Path, carry: bool) -> None:
    expected = package.load(tiny_run).score(TEXT, carry=carry)
    flags = ["--carry"] if carry else []
    for by in ("word", "token"):
        header, rows = table(done("score", tiny_run, text, "--by", by, *flags))
        assert header == ["line", "position", by, "unknown", "log_probability", "surprisal_bits"]
        items = [
            (number, position, item)
            for number, line in enumerate(expected, 1)
            for position, item in enumerate(line.words if by == "word" else line.tokens, 1)
        ]
        assert len(rows) == len(items) == 8 + 1 + 7
        for row, (number, position, item) in zip(rows, items, strict=True):
            assert row[:2] == [str(number), str(position)]
            assert unescaped(row[2]) == item.text
            assert row[3] == str(int(item.unknown))
            assert float(row[4]) == pytest.approx(item.log_probability, abs=1e-6)
            assert float(row[5]) == pytest.approx(-item.log_probability / math.log(2), abs=2e-6)
    words = [row[2] for row in table(done("score", tiny_run, text, *flags))[1]]  # words unless told otherwise
    assert words[-7:] == ["the", "yak", "hears", "the", "\\\\fox", ".", "<eos>"]
    header, rows = table(done("score", tiny_run, text, "--by", "line", *flags))
    assert header == ["line", "text", "unknown", "log_probability", "surprisal_bits"]
    assert [unescaped(row[1]) for row in rows] == TEXT.splitlines()
    assert [row[2] for row in rows] == ["0", "0", "2"]
    for row, line in zip(rows, expected, strict=True):
        assert float(row[3]) == pytest.approx(line.log_probability, abs=1e-5)


def test_score_json_is_an_object_a_line(done: Done, tiny_run: Path, text: Path) -> None:
    objects = [json.loads(line) for line in done("score", tiny_run, text, "--json").splitlines()]
    assert [line["text"] for line in objects] == TEXT.splitlines()
    for line in objects:
        assert [word["text"] for word in line["words"]] == [*line["text"].split(), "<eos>"]
        for items in (line["tokens"], line["words"]):
            assert sum(item["log_probability"] for item in items) == pytest.approx(line["log_probability"])
            assert sum(item["surprisal_bits"] for item in items) == pytest.approx(line["surprisal_bits"])
    assert [word["text"] for word in objects[2]["words"] if word["unknown"]] == ["yak", "\\fox"]


def test_score_of_characters_is_well_formed_tsv(capsys: pytest.CaptureFixture[str], text: Path) -> None:
    vocabulary = build_vocabulary("character", TEXT.splitlines())
    trained = TrainedLanguageModel(LanguageModel(ModelConfig(hidden_size=4), len(vocabulary)), vocabulary)
    score(trained, text, by="token")
    _, rows = table(capsys.readouterr().out)
    assert "".join({"<eos>": "\n"}.get(row[2], unescaped(row[2])) for row in rows) == TEXT
    assert [row[2] for row in rows if "\t" in unescaped(row[2])] == ["\\t"]


class Stdin:
    """Standard input as bytes."""

    def __init__(self, raw: bytes) -> None:
        self.buffer = io.BytesIO(raw)


@pytest.mark.parametrize(
    "raw",
    [
        TEXT.encode(),
        TEXT.removesuffix("\n").encode(),
        TEXT.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + TEXT.encode(),
    ],
)
def test_score_reads_standard_input_as_a_file(
    done: Done, tiny_run: Path, text: Path, monkeypatch: pytest.MonkeyPatch, raw: bytes
) -> None:
    expected = done("score", tiny_run, text)
    monkeypatch.setattr(sys, "stdin", Stdin(raw))
    assert done("score", tiny_run, "-") == expected
    text.write_bytes(raw)
    assert done("score", tiny_run, text) == expected


def test_lines_are_what_a_file_has_them(done: Done, tiny_run: Path, text: Path) -> None:
    """A form feed or a line separator inside a line ends none: it does not in training either."""
    text.write_text("the dog\x0cthe\u2028cat\x85.\n", encoding="utf-8")
    _, rows = table(done("score", tiny_run, text))
    assert [row[2] for row in rows] == ["the", "dog", "the", "cat", ".", "<eos>"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "standard input: empty, so there is nothing to score; give it a line of text"),
        (b"the dog\nthe \xff", "standard input: line 2, byte 12: not UTF-8 text; convert it, for example with iconv"),
        (b"the\0dog", "standard input: line 1, byte 3: not UTF-8 text; convert it, for example with iconv"),
    ],
)
def test_standard_input_that_is_no_text(
    refused: Callable[..., str], tiny_run: Path, monkeypatch: pytest.MonkeyPatch, raw: bytes, message: str
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(raw))
    assert refused("score", tiny_run, "-") == message


def test_generate_prints_prompt_and_text(done: Done, tiny_run: Path) -> None:
    trained = package.load(tiny_run)
    command = ["generate", tiny_run, "--prompt", "the old", "--length", 12, "--seed", 3]
    [expected] = trained.generate("the old", length=12, seed=3)
    assert done(*command) == ("the old" + expected).rstrip("\n") + "\n"
    assert expected.startswith(" ")  # the model goes on with a word
    assert done(*command) == done(*command)
    texts = trained.generate("the old", length=12, seed=3, samples=3)
    assert len(set(texts)) == 3
    printed = "".join(f"--- {number}\n{('the old' + text).rstrip()}\n" for number, text in enumerate(texts, 1))
    assert done(*command, "--samples", 3) == printed
    assert json.loads(done(*command, "--samples", 3, "--json")) == texts
    assert json.loads(done(*command, "--json")) == [expected]


def test_generate_settings_reach_the_model(done: Done, tiny_run: Path) -> None:
    trained = package.load(tiny_run)

    def drawn(*flags: object) -> list[str]:
        found: list[str] = json.loads(done("generate", tiny_run, "--json", "--seed", 1, "--length", 30, *flags))
        return found

    plain = drawn()
    assert plain == trained.generate(length=30, seed=1)
    greedy = trained.generate(length=30, temperature=0)
    assert drawn("--temperature", 0) == drawn("--top-k", 1) == drawn("--top-p", 1e-9) == greedy != plain
    assert drawn("--temperature", 3.5) == trained.generate(length=30, seed=1, temperature=3.5) != plain
    assert drawn("--top-k", 2) == trained.generate(length=30, seed=1, top_k=2)
    assert drawn("--top-p", 0.5) == trained.generate(length=30, seed=1, top_p=0.5) != plain
    if trained._stack("float32") is not None:
        assert drawn("--storage", "int8") == trained.generate(length=30, seed=1, storage="int8")
    [stopped] = drawn("--stop", ".")
    assert stopped == plain[0][: plain[0].index(".") + 1]
    [line] = drawn("--stop", "\\n")  # as it is typed in a shell
    assert line == plain[0][: plain[0].index("\n") + 1]


def test_a_run_that_was_moved_and_lost_its_data(done: Done, tiny_run: Path, tmp_path: Path, text: Path) -> None:
    generated = done("generate", tiny_run, "--seed", 1)
    scored = done("score", tiny_run, text)
    for number, links in enumerate((True, False)):  # also by a copy that makes folders of the links
        copy = Path(shutil.copytree(tiny_run, tmp_path / f"copy{number}", symlinks=links))
        recipe = (copy / "recipe.json").read_text()
        assert "tiny.txt" in recipe
        (copy / "recipe.json").write_text(recipe.replace("tiny.txt", "deleted.txt"))
        assert done("generate", copy, "--seed", 1) == generated
        assert done("score", copy, text) == scored
    assert done("generate", (tiny_run / "best").resolve(), "--seed", 1) == generated


def test_commands_take_the_verbs_own_signature(tiny_run: Path) -> None:
    seen: dict[str, Any] = {}

    def verb(trained: TrainedLanguageModel, file: Path, *, most: int = 5) -> None:
        """Do a thing."""
        seen.update(trained=trained, file=file, most=most)

    command = bind(verb, "language")
    assert command.__name__ == "verb" and command.__doc__ == "Do a thing."
    command(tiny_run, Path("x"), most=2)
    assert isinstance(seen["trained"], TrainedLanguageModel)
    assert (seen["file"], seen["most"]) == (Path("x"), 2)


def test_help_names_arguments_and_flags(done: Done) -> None:
    page = " ".join(done("score", "--help").replace("│", " ").split())
    assert "Usage: regrnn score [OPTIONS] RUN FILE" in page
    assert "UTF-8 text, a sentence on each line; - reads standard input." in page
    page = " ".join(done("generate", "--help").replace("│", " ").split())
    assert "Usage: regrnn generate [OPTIONS] RUN" in page
    assert "End a text where this string ends, for example . or \\n." in page
    assert run(["generate", "-h"]) == 0
