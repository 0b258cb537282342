"""Writes the tables of docs/*.md from the committed result files; `python -m benchmarks.paper`."""

import re
import sys
from dataclasses import replace
from pathlib import Path

from regrnn.reports.paper import TABLES
from regrnn.reports.reproduce import markdown, read_results, reproduce

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"

_BLOCK = re.compile(r"(<!-- regrnn reproduce (table\d) --markdown -->\n).*?(<!-- end -->)", re.DOTALL)


def render(text: str, results: Path = RESULTS) -> str:
    """A page with each of its tables as the result files have it."""
    found = [replace(result, source=Path(result.source.name)) for result in read_results(results)]
    return _BLOCK.sub(lambda block: f"{block[1]}\n{markdown(reproduce(TABLES[block[2]], found))}\n\n{block[3]}", text)


def main() -> int:
    """Bring all pages up to date."""
    for page in sorted(DOCS.glob("*.md")):
        before = page.read_text(encoding="utf-8")
        after = render(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"written: {page.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
