"""`benchmarks.effect`: perplexity by word frequency of several runs, in a table."""

import json
from pathlib import Path

import pytest

from benchmarks import effect
from regrnn.errors import RegrnnError


def test_the_table_has_a_column_for_each_run(tiny_run: Path) -> None:
    bands = effect.read_bands(tiny_run)
    runs = {"without D": bands, "with D": bands}
    page = effect.render("before\n<!-- benchmarks effect -->\nold\n<!-- end -->\nafter\n", runs)
    lines = page.splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and "old" not in lines
    assert "| times in train | predictions | without D | with D |" in lines
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith(("| never", "| 1"))]
    assert [row[0] for row in rows][:2] == ["never", "10 to 99"]
    assert all(row[2] == row[3] for row in rows)
    assert (
        sum(int(row[1].replace(",", "")) for row in rows)
        == json.loads((tiny_run / "result.json").read_text())["predictions"]
    )


def test_the_table_is_not_made_of_different_texts_nor_for_a_page_without_a_place(tiny_run: Path) -> None:
    bands = effect.read_bands(tiny_run)
    other = [bands[0] | {"predictions": bands[0]["predictions"] + 1}, *bands[1:]]
    with pytest.raises(RegrnnError, match="of different texts"):
        effect.table({"a": bands, "b": other})
    with pytest.raises(RegrnnError, match="no place for the table"):
        effect.render("a page", {"a": bands})


def test_a_run_without_figures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegrnnError, match="is the run a finished language model"):
        effect.read_bands(tmp_path)
