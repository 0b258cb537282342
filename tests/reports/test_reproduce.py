"""`regrnn.reports.reproduce`: the paper's tables beside result files and run directories."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from regrnn.errors import RegrnnError
from regrnn.reports.paper import TABLES
from regrnn.reports.reproduce import (
    Reproduction,
    as_json,
    cells,
    markdown,
    read_results,
    read_runs,
    reproduce,
    terminal,
    write_page,
)
from regrnn.training.recipe import read_recipe, recipe_from_dict

TABLE_1, TABLE_2 = TABLES["table1"], TABLES["table2"]


def entry(seed: int, test: float, **changed: Any) -> dict[str, Any]:
    """One result of `ptb-small`."""
    return {
        "recipe": "ptb-small",
        "seed": seed,
        "members": 1,
        "regularization": "none",
        "complete": True,
        "epochs": 13,
        "evaluation": "static",
        "figures": {"valid_perplexity": test + 4, "test_perplexity": test},
        "predictions": 82429,
        "protocol": "train: a; valid: b; test: every word",
        "commit": "0123456789abcdef",
        "wall_seconds": 1800,
    } | changed


@pytest.fixture
def measured(tmp_path: Path) -> Callable[..., Reproduction]:
    """Table 1 from a result file of the given entries."""

    def make(*entries: dict[str, Any]) -> Reproduction:
        (tmp_path / "results").mkdir(exist_ok=True)
        (tmp_path / "results" / "ptb.json").write_text(json.dumps(entries))
        return reproduce(TABLE_1, read_results(tmp_path / "results"))

    return make


def small_run(make_run: Callable[..., Path], name: str = "small", **changed: Any) -> Path:
    """A run directory with the settings of `ptb-small`, but for those that are `changed`."""
    recipe = recipe_from_dict(read_recipe("ptb-small"), "ptb-small").to_dict()
    finished = changed.pop("finished", True)
    for key, value in changed.items():
        section, _, setting = key.partition("__")
        recipe[section][setting] = value
    recipe.pop("name")
    folder = make_run(name, finished=finished, **recipe)
    head = json.loads((folder / "recipe.json").read_text())
    head["recipe"]["name"] = "ptb-small"
    (folder / "recipe.json").write_text(json.dumps(head))
    return folder


def test_the_papers_figures() -> None:
    """PAPER's table, the last two columns of each row."""
    paper = {row.label: (*row.paper.values(),) for row in TABLE_1.rows if row.paper}
    assert paper == {
        "non-regularised LSTM, 2 x 200": (120.7, 114.5),
        "medium with D, 2 x 650": (86.2, 82.7),
        "large with D, 2 x 1500": (82.2, 78.4),
        "2 small, averaged": (100.4, 96.1),
        "5 small, averaged": (87.9, 84.1),
        "10 small, averaged": (83.5, 80.0),
        "2 medium, averaged": (80.6, 77.0),
        "5 medium, averaged": (76.7, 73.3),
        "10 medium, averaged": (75.2, 72.0),
        "2 large, averaged": (76.9, 73.6),
        "10 large, averaged": (72.8, 69.5),
        "38 large, averaged": (71.9, 68.7),
    }
    assert [(*row.paper.values(),) for row in TABLE_2.rows[:2]] == [(71.6, 68.9), (69.4, 70.5)]
    assert [(*row.paper.values(),) for row in TABLES["table3"].rows[:2]] == [(5.8, 25.9), (5.0, 29.03)]
    assert [(*row.paper.values(),) for row in TABLES["table4"].rows[:3]] == [(23.5,), (24.3,), (24.4,)]
    for table in TABLES.values():
        shown = [tuple(map(row.figure, table.columns)) for row in table.rows]
        keys = [(row.recipe, row.regularization, row.members, row.evaluation) for row in table.rows]
        assert len(keys) == len(set(zip(keys, shown, strict=True)))
        assert all(set(row.paper) <= set(names) for row, names in zip(table.rows, shown, strict=True))


def test_several_seeds_have_a_mean_and_a_deviation(measured: Callable[..., Reproduction]) -> None:
    found = measured(entry(1, 114.0), entry(3, 118.0, wall_seconds=5400, commit="fedcba98-dirty"), entry(2, 116.0))
    assert cells(found.rows[0], TABLE_1) == [
        "non-regularised LSTM, 2 x 200",
        "120.7",
        "114.5",
        "120.00 ± 2.00",
        "116.00 ± 2.00",
        "82,429",
        "1 2 3",
        "13",
        "50 min 00 s",
        "0123456, fedcba9+",
    ]
    first = as_json(found)["rows"][0]
    assert first["figures"]["test_perplexity"] == {"mean": 116.0, "deviation": 2.0, "values": [114.0, 116.0, 118.0]}
    assert first["seeds"] == ["1", "2", "3"] and first["state"] == "complete"
    assert "test here: every word" in found.notes


def test_rows_are_told_apart(measured: Callable[..., Reproduction]) -> None:
    found = measured(
        entry(1, 115.0),
        entry(1, 99.0, members=2, seeds=[1, 2]),
        entry(1, 101.0, evaluation="dynamic"),
        entry(1, 98.0, regularization="paper"),
        entry(1, 50.0, recipe="docs"),
        {"part": "speed", "case": "step"},  # the benchmarks' own file has entries of another kind
    )
    values = {row.row.label: row.values("test_perplexity") for row in found.rows if row.results}
    assert values == {
        "non-regularised LSTM, 2 x 200": [115.0],
        "2 small, averaged": [99.0],
        "small with D": [98.0],
        "small, dynamic evaluation": [101.0],
    }
    assert cells(next(row for row in found.rows if row.row.members == 2), TABLE_1)[6] == "1–2"


def test_another_text_has_no_place_in_the_table(measured: Callable[..., Reproduction]) -> None:
    found = measured(entry(1, 60.0, predictions=4777))
    assert found.rows[0].state == "not run"
    assert any("measured over 4,777 predictions, not over the table's 82,429" in note for note in found.notes)


def test_runs_finished_and_not(make_run: Callable[..., Path], tmp_path: Path) -> None:
    small_run(make_run)
    begun = small_run(make_run, "begun", finished=False)
    head = json.loads((begun / "recipe.json").read_text())
    (begun / "recipe.json").write_text(json.dumps(head | {"seed": 8}))
    found = reproduce(TABLE_1, read_runs(tmp_path))
    assert found.rows[0].values("test_perplexity") == [116.5]
    assert any(note.startswith("not complete: non-regularised LSTM, 2 x 200, seed 8, 4 of 13") for note in found.notes)
    assert reproduce(TABLE_1, read_runs(tmp_path / "small")).rows[0].state == "complete"
    alone = reproduce(TABLE_1, read_runs(begun)).rows[0]
    assert alone.state == "incomplete"
    row = cells(alone, TABLE_1)
    assert row[3:5] == ["121.50", "not complete"] and row[7] == "4 of 13, not complete"


def test_a_run_with_other_settings_is_another_experiment(make_run: Callable[..., Path], tmp_path: Path) -> None:
    small_run(make_run, model__hidden_size=300, data__path="elsewhere")
    found = reproduce(TABLE_1, read_runs(tmp_path))
    assert found.rows[0].state == "not run"
    assert any("not those of ptb-small (model.hidden_size: 200 -> 300)" in note for note in found.notes)


def test_so_is_a_result_that_says_so(measured: Callable[..., Reproduction]) -> None:
    found = measured(entry(1, 115.0), entry(2, 90.0, changes=["model.hidden_size: 200 -> 650"]))
    assert any("its settings are not those of ptb-small (model.hidden_size: 200 -> 650)" in n for n in found.notes)
    assert [row.values("test_perplexity") for row in found.rows if row.shown] == [[115.0]]


def test_dropout_and_where_the_data_lies_may_differ(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = small_run(make_run, model__dropout=0.25, data__path="elsewhere")
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"regularization": "paper"}))
    found = reproduce(TABLE_1, read_runs(tmp_path))
    assert [row.row.label for row in found.rows if row.results] == ["small with D"]


def test_what_was_trained_with_rounded_products_is_named(make_run: Callable[..., Path], tmp_path: Path) -> None:
    note = "trained with factors of products rounded to bfloat16 (training.matmul_precision = medium): "
    small_run(make_run, training__matmul_precision="medium", finished=False)
    found = reproduce(TABLE_1, read_runs(tmp_path))
    assert found.rows[0].state == "incomplete"
    assert f"{note}non-regularised LSTM, 2 x 200, seed 7" in found.notes
    exact = [entry(seed, 115.0) for seed in (1, 2)]
    rounded = [entry(3, 115.0, matmul_precision="medium"), entry(4, 116.0, matmul_precision="medium")]
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "ptb.json").write_text(json.dumps(exact + rounded))
    notes = reproduce(TABLE_1, read_results(tmp_path / "results")).notes
    assert f"{note}non-regularised LSTM, 2 x 200, seed 3, 4" in notes


def test_a_result_stands_in_a_row_for_each_of_its_measures(tmp_path: Path) -> None:
    figures = {"train_frame_accuracy": 94.0, "test_frame_accuracy": 88.0, "train_state_accuracy": 85.0}
    one = entry(1, 0, recipe="speech-ru-states", figures=figures, predictions=9, matmul_precision="medium")
    (tmp_path / "speech.json").write_text(json.dumps([one]))
    found = reproduce(TABLE_2, read_results(tmp_path))
    rows = {row.row.label: cells(row, TABLE_2)[1:7] for row in found.rows if row.results}
    assert rows == {
        "states, without D": ["71.6", "68.9", "–", "85.00", "–", "–"],
        "phones of the same, without D": ["–", "–", "–", "94.00", "–", "88.00"],
    }
    assert [note.rpartition(": ")[2] for note in found.notes if "bfloat16" in note] == ["states, without D, seed 1"]


def test_averages_that_lie_among_the_runs(make_run: Callable[..., Path], tmp_path: Path) -> None:
    small_run(make_run, "member-1")
    (tmp_path / "members.json").write_text(json.dumps([entry(1, 99.0, members=2, seeds=[1, 2], runs=["member-1"])]))
    found = reproduce(TABLE_1, read_runs(tmp_path))
    assert [row.row.members for row in found.rows if row.results] == [1, 2]
    head = json.loads((tmp_path / "member-1" / "recipe.json").read_text())
    head["recipe"]["model"]["hidden_size"] = 300
    (tmp_path / "member-1" / "recipe.json").write_text(json.dumps(head))
    assert all(row.state == "not run" for row in reproduce(TABLE_1, read_runs(tmp_path)).rows)


def test_what_a_person_reads(measured: Callable[..., Reproduction]) -> None:
    found = measured(entry(1, 115.0))
    text = terminal(found)
    lines = text.splitlines()
    assert lines[0] == "Table 1: Penn Treebank, word-level perplexity"
    first = next(line for line in lines if line.startswith("non-regularised"))
    numbers = ["120.7", "114.5", "119.00", "115.00", "82,429", "1", "13", "30", "min", "00", "s", "0123456"]
    assert first.split()[-12:] == numbers
    assert next(line for line in lines if line.startswith("medium with D")).split().count("run") == 1
    rows = [line for line in markdown(found).splitlines() if line.startswith("|")]
    assert len(rows) == len(TABLE_1.rows) + 2
    assert {row.count("|") for row in rows} == {11}


def test_page_with_curves(make_run: Callable[..., Path], tmp_path: Path, parse_page: Callable[[Path], Any]) -> None:
    small_run(make_run)
    page = parse_page(write_page(tmp_path / "table.html", reproduce(TABLE_1, read_runs(tmp_path))))
    assert page.rows[1][:5] == ["non-regularised LSTM, 2 x 200", "120.7", "114.5", "121.50", "116.50"]
    text = (tmp_path / "table.html").read_text()
    assert text.count("<svg") == 2  # for a screen and for a phone
    other = small_run(make_run, "other", finished=False, model__dropout=0.5)
    head = json.loads((other / "recipe.json").read_text())
    head["recipe"]["name"] = "ptb-medium"
    (other / "recipe.json").write_text(json.dumps(head))
    found = reproduce(TABLE_1, [replace(result, fault="") for result in read_runs(tmp_path)])
    write_page(tmp_path / "two.html", found)
    assert (tmp_path / "two.html").read_text().count("<svg") == 4  # a picture for each recipe
    page = parse_page(write_page(tmp_path / "none.html", reproduce(TABLE_1, [])))
    assert "no result was found" in page.text


@pytest.mark.parametrize("text", ["[", "\xff"])
def test_damaged_result_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text, encoding="latin-1")
    with pytest.raises(RegrnnError, match=r"bad\.json: damaged"):
        read_results(tmp_path)
