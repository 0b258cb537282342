"""`benchmarks.effect`: perplexity by word frequency of several runs, in a table."""

import json
from pathlib import Path

import pytest

from benchmarks import effect
from regrnn.errors import RegrnnError


def test_the_table_has_a_column_for_each_run(tiny_run: Path, tmp_path: Path) -> None:
    bands = effect.read_bands(tiny_run)
    result = tmp_path / "effect.json"
    result.write_text(json.dumps({"without D": bands, "with D": bands}))
    page = effect.render("before\n<!-- benchmarks effect -->\nold\n<!-- end -->\nafter\n", result)
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


def test_a_run_without_figures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegrnnError, match="is the run a finished language model"):
        effect.read_bands(tmp_path)
