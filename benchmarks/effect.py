"""The paper's effect from two or more finished runs on one text: their curves in one picture, and perplexity by word
frequency, into docs/table1.md; `python -m benchmarks.effect LABEL=RUN LABEL=RUN`.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regrnn.errors import RegrnnError
from regrnn.reports.curves import curves_picture
from regrnn.tasks.language.evaluate import FREQUENCIES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "table1.md"
PICTURE = ROOT / "docs" / "images" / "effect.svg"
RESULT = ROOT / "benchmarks" / "results" / "effect.json"

_BLOCK = re.compile(r"(<!-- benchmarks effect -->\n).*?(<!-- end -->)", re.DOTALL)

Bands = list[dict[str, Any]]


def read_bands(run: Path) -> Bands:
    """What the run says of each band of frequency. Raises RegrnnError if it does not."""
    path = run / "predictions" / f"test-{FREQUENCIES}"
    try:
        bands: Bands = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RegrnnError(f"{path}: cannot be read ({error}); is the run a finished language model?") from None
    return bands


def table(runs: Mapping[str, Bands]) -> str:
    """Perplexity by how often training has the word, a column for each run. Raises RegrnnError for other words."""
    first = next(iter(runs.values()))
    counts = [[(band["least"], band["most"], band["predictions"]) for band in bands] for bands in runs.values()]
    if any(other != counts[0] for other in counts):
        raise RegrnnError("the runs are of different texts: their bands of frequency differ")
    lines = [
        "| times in train | predictions | " + " | ".join(runs) + " |",
        "|---|---:|" + "---:|" * len(runs),
    ]
    for index, band in enumerate(first):
        span = "never" if band["most"] == 0 else f"{band['least']:,} to {band['most']:,}"
        values = [f"{bands[index]['perplexity']:,.1f}" for bands in runs.values()]
        lines.append(f"| {span} | {band['predictions']:,} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def render(text: str, runs: Mapping[str, Bands]) -> str:
    """The page with the table of `runs`. Raises RegrnnError for a page without a place for it."""
    if not _BLOCK.search(text):
        raise RegrnnError("no place for the table (<!-- benchmarks effect --> to <!-- end -->)")
    return _BLOCK.sub(lambda block: f"{block[1]}\n{table(runs)}\n\n{block[2]}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write picture, result file and page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.effect", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="LABEL=RUN")
    flags = parser.parse_args(arguments)
    runs = {}
    for word in flags.runs:
        label, equals, path = word.partition("=")
        if not equals:
            parser.error(f"{word}: say LABEL=RUN")
        runs[label] = Path(path)
    try:
        found = {label: read_bands(run) for label, run in runs.items()}
        page = render(PAGE.read_text(encoding="utf-8"), found)
        curves_picture(PICTURE, runs, "")
    except RegrnnError as error:
        print(f"benchmarks: error: {error}", file=sys.stderr)
        return 1
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page, encoding="utf-8")
    print(f"wrote {PICTURE}, {RESULT}, {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
