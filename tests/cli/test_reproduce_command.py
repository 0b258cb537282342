"""`regrnn reproduce`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

TABLES = ("table1", "table2", "table3", "table4")


@pytest.mark.parametrize("table", TABLES)
def test_every_table_from_the_committed_results(
    done: Callable[..., str], table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = json.loads(done("reproduce", table, "--json"))
    assert found["table"].startswith(f"Table {table[-1]}: ")
    assert found["table"] in done("reproduce", table)
    assert found["table"] in done("reproduce", table, "--markdown", "--html", "page.html")
    assert Path("page.html").read_text().startswith("<!DOCTYPE html>")


def test_the_run_is_seen_wherever_it_is(done: Callable[..., str], tiny_run: Path, tmp_path: Path) -> None:
    found = json.loads(done("reproduce", "table1", "--runs", tiny_run, "--results", tmp_path, "--json"))
    assert {row["state"] for row in found["rows"]} == {"not run"}


def test_bad_input(refused: Callable[..., str], tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert (
        refused("reproduce", "table1", "--runs", gone)
        == f"--runs {gone}: no such folder; name one with run directories"
    )
    assert refused("reproduce", "table1", "--results", gone).startswith(f"--results {gone}: no such folder")
    assert refused("reproduce", "table9").startswith("TABLE: expected one of table1, table2")
    assert "give one of the two" in refused("reproduce", "table1", "--json", "--markdown")
    assert "page.html: cannot be written" in refused("reproduce", "table1", "--html", gone / "page.html")
