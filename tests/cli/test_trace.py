"""`regrnn trace`, in process: what it prints, its picture, and how it refuses."""

import io
import json
import sys

import cyclopts
import pytest

from regrnn.errors import RegrnnError


def run(*arguments: str) -> None:
    app = cyclopts.App(name="regrnn", result_action="return_value")
    app.command("regrnn.cli.trace:trace", name="trace")
    app(["trace", *arguments], exit_on_error=False, print_error=False)


def measured(capsys, *arguments: str) -> dict:
    run(*arguments, "--json")
    return json.loads(capsys.readouterr().out)


def pairs(record: dict) -> list[tuple[int, int]]:
    assert [count["distance"] for count in record["counts"]] == list(range(len(record["counts"])))
    return [(count["least"], count["most"]) for count in record["counts"]]


def test_the_table_the_reading_and_the_sketch(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run("--distance", "2")
    out = capsys.readouterr().out
    assert out.splitlines()[:4] == [
        "distance  least  most",
        "       0      3     3",
        "       1      3     3",
        "       2      3     3",
    ]
    assert "2 layers of LSTM passes dropout exactly 3 times, however many steps it crosses (L + 1 = 3)." in out
    sketch = """\
y[t-1]  y[t]    y[t+1]
 ┆       ┆       ┇
 ○ ────> ● ━━━━▶ ●
 ┆       ┇       ┆
 ● ━━━━▶ ● ────> ○
 ┇       ┆       ┆
x[t-1]  x[t]    x[t+1]
"""
    assert sketch in out


def test_the_sketch_shows_what_is_struck(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run("--regularization", "standard", "--distance", "1", "--cell", "rnn", "--layers", "1")
    assert " ┆       ┇\n ● ┅┅┅┅▶ ●\n ┇       ┆\n" in capsys.readouterr().out
    run("--regularization", "torch.nn", "--distance", "0")
    assert "y[t]\n ┃\n ●\n ┇\n ●\n ┃\nx[t]\n" in capsys.readouterr().out


def test_a_sketch_wider_than_the_terminal_is_left_out(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    run("--distance", "5", "--layers", "1")
    assert "x[t]" not in capsys.readouterr().out


def test_a_terminal_without_unicode(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    run("--distance", "1", "--layers", "1")
    stdout.seek(0)
    assert " ;       :\n @ ====> @\n :       ;\n" in stdout.read()


@pytest.mark.parametrize(
    ("arguments", "counts"),
    [
        (["--cell", "gru", "--layers", "3"], [(4, 4)] * 3),
        (["--regularization", "torch.nn", "--layers", "3"], [(2, 2)] * 3),
        (["--regularization", "torch.nn", "--layers", "1"], [(0, 0)] * 3),
        (["--regularization", "standard", "--cell", "rnn"], [(3, 3), (4, 4), (5, 5)]),
        (["--regularization", "standard"], [(3, 3), (3, 4), (3, 5)]),
        (["--regularization", "variational", "--cell", "gru"], [(3, 3), (3, 4), (3, 5)]),
        (["--dropout", "0"], [(0, 0)] * 3),
    ],
)
def test_the_counts_are_those_of_the_network_asked_for(capsys, arguments, counts):
    record = measured(capsys, *arguments, "--distance", "2")
    assert pairs(record) == counts
    assert record["picture"] is None


@pytest.mark.parametrize(
    ("arguments", "reading"),
    [
        (["--regularization", "standard"], "passes dropout 3 to 4 times over 1 step: once more with every step "
         "through h, but not through the cell state c."),
        (["--regularization", "standard", "--cell", "rnn"], "passes dropout exactly 4 times over 1 step: once more "
         "with every step."),
        (["--regularization", "torch.nn"], "passes dropout exactly once, however many steps it crosses (L + 1 = 3)."),
        (["--regularization", "torch.nn", "--layers", "1"], "1 layer of LSTM never passes dropout"),
    ],
)  # fmt: skip
def test_the_reading_says_what_was_counted(capsys, arguments, reading):
    run(*arguments, "--distance", "1")
    assert reading in capsys.readouterr().out


def test_the_picture(capsys, tmp_path):
    out = tmp_path / "figure.svg"
    record = measured(capsys, "--out", str(out), "--distance", "1")
    assert record["picture"] == str(out)
    assert out.read_text().rstrip().endswith("</svg>")
    assert list(tmp_path.iterdir()) == [out]
    run("--out", str(tmp_path / "figure.png"), "--distance", "0", "--layers", "1", "--regularization", "variational")
    assert f"Picture: {tmp_path / 'figure.png'}" in capsys.readouterr().out
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "0"], "--layers 0: must be at least 1"),
        (["--dropout", "1"], "--dropout 1.0: must be a rate from 0 to below 1"),
        (["--dropout", "nan"], "--dropout nan: must be a rate from 0 to below 1"),
        (["--distance", "-1"], "--distance -1: must be at least 0"),
        (["--out", "figure.jpg"], "--out figure.jpg: pictures are saved as .svg, .png, .pdf; name it so"),
        (["--out", "figure.svg", "--distance", "25"], "give --distance 24 or less"),
        (["--out", "figure.svg", "--layers", "13"], "give --layers 12 or less"),
    ],
)
def test_mistakes_are_refused_by_the_name_of_the_flag(arguments, message):
    with pytest.raises(RegrnnError) as error:
        run(*arguments)
    assert message in str(error.value)
