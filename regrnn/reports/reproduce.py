"""The paper's tables beside what was measured here, from result files and run directories."""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from json import loads
from pathlib import Path
from typing import Any

from regrnn.errors import RegrnnError
from regrnn.reports import page
from regrnn.reports.curves import NARROW, WIDE, comparison_curves, inline_svg
from regrnn.reports.paper import Row, Table
from regrnn.reports.read import RunFiles, number, read_run
from regrnn.reports.run import written_by
from regrnn.reports.scale import duration, figure_text
from regrnn.training.files import read_text
from regrnn.training.recipe import changes, regularization_name

Entry = Mapping[str, Any]

MEMBERS = "members.json"
"""What `regrnn train --members` leaves: entries for the averages. A prefix may stand before the name."""


@dataclass(frozen=True)
class Result:
    """One entry, and where it was found."""

    entry: Entry
    source: Path
    run: RunFiles | None = None
    """The run directory, where it is one."""
    fault: str = ""
    """Why it does not belong into the table of its recipe."""

    @property
    def complete(self) -> bool:
        """Whether the run reached its end."""
        return self.entry.get("complete") is True

    @property
    def key(self) -> tuple[object, ...]:
        """Two results with the same key are of the same run, or of two that should not differ."""
        seeds = self.entry.get("seeds")
        seed = tuple(seeds) if isinstance(seeds, list) else (self.entry.get("seed"),)
        return (*(self.entry.get(name) for name in ("recipe", "regularization", "members", "evaluation")), str(seed))

    def number(self, name: str) -> float | None:
        """A number of the entry's."""
        return number(self.entry, name)

    def figure(self, name: str) -> float | None:
        """One of the entry's figures."""
        figures = self.entry.get("figures")
        return number(figures, name) if isinstance(figures, Mapping) else None


@dataclass(frozen=True)
class Measured:
    """A row of the table with all results that belong to it."""

    row: Row
    results: list[Result]
    begun: list[Result]
    """Runs that have not reached their end."""

    def values(self, figure: str) -> list[float]:
        """The figure of each of `shown`."""
        found = (result.figure(figure) for result in self.shown)
        return [value for value in found if value is not None]

    @property
    def shown(self) -> list[Result]:
        """The complete results, or the one incomplete run that came furthest."""
        return self.results or self.begun[:1]

    @property
    def state(self) -> str:
        """complete, incomplete or not run."""
        return "complete" if self.results else "incomplete" if self.begun else "not run"


@dataclass(frozen=True)
class Reproduction:
    """A table, measured, and what has to be said about it."""

    table: Table
    rows: list[Measured]
    notes: list[str]


def read_results(folder: Path) -> list[Result]:
    """The entries of all result files in `folder`; files of other kinds (of speed) have none.

    Raises RegrnnError for a file that is damaged.
    """
    if not folder.is_dir():
        raise RegrnnError(f"--results {folder}: no such folder; name one with result files (NAME.json)")
    return [result for path in sorted(folder.glob("*.json")) for result in _entries(path)]


def read_runs(folder: Path) -> list[Result]:
    """The results of the run directories in `folder`, finished or not, with those of averages of members.

    `folder` may be a run itself, hold runs, or hold folders of members. A run whose settings are not those of its
    recipe is another experiment: its result has a fault.
    """
    if not folder.is_dir():
        raise RegrnnError(f"--runs {folder}: no such folder; name one with run directories")
    results = []
    for pattern in ("", "*/"):
        for path in sorted(folder.glob(f"{pattern}*{MEMBERS}")):
            for result in _entries(path):
                names = result.entry.get("runs")
                members = [path.parent / str(name) for name in names] if isinstance(names, list) else []
                faults = [_fault(read_run(run)) for run in members if (run / "recipe.json").is_file()]
                results.append(replace(result, fault=next(filter(None, faults), result.fault)))
    for pattern in ("", "*/", "*/*/"):
        for path in sorted(folder.glob(f"{pattern}recipe.json")):
            run = read_run(path.parent)
            results.append(Result(_run_entry(run), run.folder, run, _fault(run)))
    return results


def _fault(run: RunFiles) -> str:
    return _other_settings(run.name, changes(run.name, run.recipe))


def _other_settings(recipe: str, changed: Sequence[object]) -> str:
    return f"its settings are not those of {recipe} ({'; '.join(map(str, changed))})" if changed else ""


def reproduce(table: Table, results: Iterable[Result]) -> Reproduction:
    """Each row of `table` with the results that belong to it. Of two results of one seed the later is taken."""
    unique: dict[tuple[object, ...], Result] = {}
    notes = []
    recipes = {row.recipe for row in table.rows}
    for result in results:
        if result.entry.get("recipe") not in recipes:
            continue
        predictions = result.number("predictions")
        fault = result.fault
        if not fault and table.predictions is not None and predictions not in (None, table.predictions):
            fault = f"measured over {predictions:,.0f} predictions, not over the table's {table.predictions:,}"
        if fault:
            notes.append(f"left out {result.source}: {fault}")
            continue
        before = unique.get(result.key)
        if before is None or result.complete or not before.complete:
            unique[result.key] = result
        elif result.run is not None:
            notes.append(f"left out {result.source}: not complete, and {before.source} has a complete run of its seed")
    rows = []
    for row in table.rows:
        wanted = (row.recipe, row.regularization, row.members, row.evaluation)
        own = [result for key, result in unique.items() if key[:4] == wanted]
        begun = sorted((r for r in own if not r.complete), key=lambda r: -(r.number("epochs") or 0))
        complete = sorted((r for r in own if r.complete), key=lambda r: r.number("seed") or 0)
        rows.append(Measured(row, complete, begun))
    if not any(row.shown for row in rows):
        notes.append("no result was found")
    return Reproduction(table, rows, [*notes, *_remarks(rows)])


def _once(rows: Sequence[Measured], results: Callable[[Measured], Sequence[Result]]) -> Iterator[tuple[str, Result]]:
    """Each of the rows' results with the label of the first row it stands in."""
    seen: set[int] = set()
    for measured in rows:
        for result in results(measured):
            if id(result) not in seen:
                seen.add(id(result))
                yield measured.row.label, result


def _remarks(rows: Sequence[Measured]) -> Iterator[str]:
    for label, result in _once(rows, lambda measured: measured.begun):
        yield (
            f"not complete: {label}, seed {result.entry.get('seed')}, {_epochs([result])} epochs; "
            "figures are of its best epoch so far"
        )
    rounded: dict[str, list[str]] = {}
    for label, result in _once(rows, lambda measured: measured.shown):
        if result.entry.get("matmul_precision", "highest") != "highest":
            seeds = result.entry.get("seeds", [result.entry.get("seed")])
            rounded.setdefault(label, []).extend(map(str, seeds))
    if rounded:
        which = "; ".join(f"{label}, seed {', '.join(seeds)}" for label, seeds in rounded.items())
        yield f"trained with factors of products rounded to bfloat16 (training.matmul_precision = medium): {which}"
    protocols = dict.fromkeys(
        str(protocol).rpartition("test: ")[2]
        for measured in rows
        for result in measured.results
        if (protocol := result.entry.get("protocol"))
    )
    for protocol in protocols:
        yield f"test here: {protocol}"


def _entries(path: Path) -> list[Result]:
    try:
        values = loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise RegrnnError(f"{path}: damaged, not valid JSON ({error}); restore it from a copy") from None
    if not isinstance(values, list):
        return []
    found = []
    for value in values:
        if isinstance(value, dict) and "recipe" in value and isinstance(value.get("figures"), dict):
            changed = value.get("changes")
            fault = _other_settings(str(value["recipe"]), changed if isinstance(changed, list) else [])
            found.append(Result({"members": 1, "evaluation": "static", **value}, path, fault=fault))
    return found


def _run_entry(run: RunFiles) -> Entry:
    """The entry of a finished run; of another one its figures at the best epoch so far."""
    common = {"recipe": run.name, "seed": run.head.get("seed"), "members": 1, "evaluation": "static"}
    if run.result is not None:
        return common | {"complete": True} | run.result
    best = run.best or {}
    names = [f"{split}_{figure}" for figure in run.figures for split in ("train", "valid")]
    return common | {
        "task": run.recipe.get("task"),
        "regularization": regularization_name(run.recipe),
        "matmul_precision": run.recipe.get("training", {}).get("matmul_precision", "highest"),
        "complete": False,
        "epochs": len(run.epochs),
        "planned_epochs": run.planned_epochs,
        "figures": {name: value for name in names if (value := number(best, name)) is not None},
    }


# -- in words


def header(table: Table) -> list[str]:
    """The column heads."""
    names = list(table.columns.values())
    return [
        "",
        *(f"paper {name}" for name in names),
        *(f"here {name}" for name in names),
        "predictions",
        "seeds",
        "epochs",
        "wall time",
        "commit",
    ]


def cells(measured: Measured, table: Table) -> list[str]:
    """A row as text, a cell for each of `header`."""
    row = measured.row
    results = measured.shown
    figures = [row.figure(column) for column in table.columns]
    paper = [_published(row.paper[figure]) if figure in row.paper else "–" for figure in figures]
    here = [_value(measured, figure, first=not index) for index, figure in enumerate(figures)]
    if not results:
        return [row.label, *paper, *here, *("–",) * 5]
    predictions = _several(f"{p:,.0f}" for r in results if (p := r.number("predictions")) is not None)
    walls = [seconds for r in results if (seconds := r.number("wall_seconds")) is not None]
    wall = duration(statistics.fmean(walls)) if walls else "–"
    commits = _several(_short(str(commit)) for r in results if (commit := r.entry.get("commit")))
    seeds = " ".join(seed for r in results for seed in _seeds(r.entry))
    state = "" if measured.results else ", not complete"
    return [row.label, *paper, *here, predictions, seeds, _epochs(results) + state, wall, commits]


def terminal(found: Reproduction) -> str:
    """The table as aligned plain text."""
    lines = [header(found.table), *(cells(row, found.table) for row in found.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    body = [
        "  ".join(
            cell.ljust(width) if not index else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([found.table.title, f"({found.table.setting})", "", *body, *_notes(found)])


def markdown(found: Reproduction) -> str:
    """The table in Markdown."""
    lines = [header(found.table), *(cells(row, found.table) for row in found.rows)]
    rule = ["---", *("---:",) * (len(lines[0]) - 1)]
    rows = [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (lines[0], rule, *lines[1:])
    ]
    notes = [f"- {note}" for note in _notes(found) if note]
    return "\n".join([f"**{found.table.title}** ({found.table.setting})", "", *rows, "", *notes])


def as_json(found: Reproduction) -> dict[str, Any]:
    """The table for machines."""
    rows = []
    for measured in found.rows:
        row = measured.row
        results = measured.shown
        figures = {}
        for figure in dict.fromkeys(name for r in results for name in r.entry.get("figures", {})):
            values = measured.values(figure)
            if values:
                figures[figure] = {"mean": statistics.fmean(values), "deviation": deviation(values), "values": values}
        rows.append(
            {
                **{key: getattr(row, key) for key in ("label", "recipe", "regularization", "members", "evaluation")},
                "paper": dict(row.paper),
                "state": measured.state,
                "figures": figures,
                "predictions": sorted({int(p) for r in results if (p := r.number("predictions")) is not None}),
                "seeds": [seed for r in results for seed in _seeds(r.entry)],
                "epochs": [r.entry.get("epochs") for r in results],
                "wall_seconds": [r.entry.get("wall_seconds") for r in results],
                "commits": sorted({str(c) for r in results if (c := r.entry.get("commit"))}),
                "sources": [str(r.source) for r in results],
            }
        )
    return {"table": found.table.title, "setting": found.table.setting, "rows": rows, "notes": found.notes}


def write_page(path: Path, found: Reproduction) -> Path:
    """Write the table with the learning curves of the runs that are here as a page of its own; `path`."""
    runs: dict[str, dict[str, RunFiles]] = {}  # by recipe: a picture of all would be a thicket
    single = [measured for measured in found.rows if measured.row.members == 1]
    for label, result in _once(single, lambda measured: [*measured.results, *measured.begun]):
        if result.run is not None and result.run.figures:
            runs.setdefault(str(result.entry["recipe"]), {}).setdefault(label, result.run)
    everything = [run for of_recipe in runs.values() for run in of_recipe.values()]
    page.save(path, page.document(found.table.title, _body(found, runs), written_by(*everything)))
    return path


def _body(found: Reproduction, runs: Mapping[str, Mapping[str, RunFiles]]) -> Iterator[str]:
    yield f"<header><h1>{page.escape(found.table.title)}</h1>"
    yield page.paragraph(found.table.setting, "lead") + "</header>"
    rows = []
    for measured in found.rows:
        rows.append(page.row(map(page.escape, cells(measured, found.table)), "" if measured.results else "minor"))
    yield page.table(header(found.table), rows, "dense")
    for note in _notes(found):
        yield page.paragraph(note, "soft")
    yield page.heading("Learning curves")
    if not runs:
        yield page.paragraph("They come with run directories (--runs), of which there is none here.", "soft")
        return
    for recipe, of_recipe in runs.items():
        figure, curves = comparison_curves(of_recipe)
        name = figure.replace("_", " ")
        description = f"Learning curves of {', '.join(of_recipe)}: {name} on train and valid after each epoch"
        wide, narrow = (
            inline_svg(curves, name, size, name=f"{recipe}-{shape}", description=description)
            for shape, size in (("wide", WIDE), ("narrow", NARROW))
        )
        if wide and narrow:
            caption = f"{name.capitalize()} after each epoch, in eval mode, of one seed of each row; dashed: train."
            yield page.picture(wide, narrow, f"{recipe}. {caption}")
        for label, run in of_recipe.items():
            facts = [("Run directory", run.folder.resolve()), ("Seed", run.head.get("seed"))]
            yield page.card(label, page.facts(facts))


def deviation(values: Sequence[float]) -> float | None:
    """The sample deviation; None of a single value."""
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


def _value(measured: Measured, figure: str, *, first: bool) -> str:
    values = measured.values(figure)
    if values:
        spread = deviation(values)
        return figure_text(statistics.fmean(values)) + ("" if spread is None else f" ± {spread:.2f}")
    if measured.results:
        return "–"
    if measured.begun:
        return "not complete"
    return "not run" if first else "–"


def _notes(found: Reproduction) -> list[str]:
    several = any(len(measured.results) > 1 for measured in found.rows)
    notes = ["± is the sample deviation over the seeds; wall time is the mean of a result's."] if several else []
    return ["", *notes, *found.notes] if notes or found.notes else []


def _published(value: float) -> str:
    """As the paper prints it, with one decimal at least."""
    text = f"{value:g}"
    return text if "." in text else f"{text}.0"


def _several(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts)) or "–"


def _short(commit: str) -> str:
    """Seven digits, and a `+` where the checkout had changes."""
    return commit[:7] + ("+" if commit.endswith("-dirty") else "")


def _seeds(entry: Entry) -> list[str]:
    seeds = entry.get("seeds")
    if isinstance(seeds, list) and seeds:
        return [f"{seeds[0]}–{seeds[-1]}" if len(seeds) > 1 else str(seeds[0])]
    return [str(entry.get("seed", "?"))]


def _epochs(results: Sequence[Result]) -> str:
    texts = []
    for result in results:
        planned = result.entry.get("planned_epochs")
        texts.append(f"{result.entry.get('epochs', '?')}" + (f" of {planned}" if planned else ""))
    return _several(texts)
