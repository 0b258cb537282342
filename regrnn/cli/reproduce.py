"""`regrnn reproduce`."""

from json import dumps
from pathlib import Path
from typing import Literal

from regrnn.errors import RegrnnError


def reproduce(
    table: Literal["table1", "table2", "table3", "table4"],
    /,
    *,
    results: Path | None = None,
    runs: Path | None = None,
    markdown: bool = False,
    html: Path | None = None,
    json: bool = False,
) -> None:
    """Print a table of the paper beside what was measured here.

    Nothing is trained or evaluated: the figures are those of result files and run directories. A row that was not run,
    or has not reached its end, says so.

    Parameters
    ----------
    table
        `table1` (Penn Treebank), `table2` (speech), `table3` (translation) or `table4` (captions).
    results
        A folder of result files; `benchmarks/results` of a source checkout unless given.
    runs
        A folder of run directories; `runs` unless given, if it is there.
    markdown
        Print the table in Markdown.
    html
        Write a page with the table and the learning curves of the runs to this file.
    json
        Print JSON.
    """
    from regrnn.reports import reproduce as report
    from regrnn.reports.paper import TABLES

    if markdown and json:
        raise RegrnnError("--markdown and --json: give one of the two")
    checkout = Path(__file__).parents[2] / "benchmarks" / "results"
    found = []
    if results is not None or checkout.is_dir():
        found += report.read_results(checkout if results is None else results)
    if runs is not None or Path("runs").is_dir():
        found += report.read_runs(Path("runs") if runs is None else runs)
    reproduction = report.reproduce(TABLES[table], found)
    if html is not None:
        report.write_page(html, reproduction)
    if json:
        print(dumps(report.as_json(reproduction), indent=2, ensure_ascii=False))
    elif markdown:
        print(report.markdown(reproduction))
    else:
        print(report.terminal(reproduction))
        if html is not None:
            print(f"\nwritten: {html}")
