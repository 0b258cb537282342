"""The tables in docs/*.md are what the committed result files make them."""

import json
from pathlib import Path

import pytest

from benchmarks import paper


@pytest.mark.parametrize("page", sorted(paper.DOCS.glob("*.md")), ids=lambda page: page.name)
def test_pages_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == paper.render(text), "run: python -m benchmarks.paper"


def test_table1_is_in_its_page() -> None:
    assert "| non-regularised LSTM, 2 x 200 | 120.7 | 114.5 |" in (paper.DOCS / "table1.md").read_text(encoding="utf-8")


def test_pages_follow_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- regrnn reproduce table1 --markdown -->\nold\n<!-- end -->\nafter\n")
    figures = {"valid_perplexity": 84.0, "test_perplexity": 81.5}
    entry = {"recipe": "ptb-medium", "regularization": "paper", "seed": 1, "complete": True, "figures": figures}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "r.json").write_text(json.dumps([entry]))
    text = paper.render(page.read_text(), tmp_path / "results")
    assert text.startswith("before\n<!-- regrnn") and text.endswith("<!-- end -->\nafter\n")
    assert "| medium with D, 2 x 650 | 86.2 | 82.7 | 84.00 | 81.50 |" in text and "old" not in text
    assert paper.render(text, tmp_path / "results") == text
    monkeypatch.setattr(paper, "DOCS", tmp_path)
    monkeypatch.setattr(paper, "ROOT", tmp_path)
    assert paper.main() == 0
    assert "medium with D" in page.read_text()
