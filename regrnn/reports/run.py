"""The page of one run."""

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from regrnn import confusion
from regrnn.errors import RegrnnError
from regrnn.reports import page
from regrnn.reports.curves import NARROW, WIDE, inline_svg, run_curves
from regrnn.reports.read import RunFiles, number, read_run
from regrnn.reports.scale import duration, figure_text
from regrnn.training.files import read_text

SPLITS = ("train", "valid", "test")


def write_run_report(run: Path, *, running: bool = False) -> Path:
    """Write `run/report.html`, a page that needs no other file, in one step; its path.

    The run may be at any stage. `running` says that it goes on at this moment, which its files cannot tell.
    Raises RegrnnError if `run` is no run directory or a file in it is damaged.
    """
    files = read_run(run)
    path = run / "report.html"
    page.save(path, page.document(files.name, _body(files, running), written_by(files)))
    return path


def written_by(*runs: RunFiles) -> str:
    """The last line of a page: the versions that made the runs, and when the page was written."""
    versions = ", ".join(dict.fromkeys(str(run.head.get("regrnn", "of unknown version")) for run in runs))
    return f"Trained with regrnn {versions} · page written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def value_at(run: RunFiles, record: Mapping[str, Any] | None, split: str, figure: str) -> float | None:
    """A figure of the epoch `record`; at the best epoch of a finished run that of its result, the test set's too."""
    key = f"{split}_{figure}"
    if run.result is not None and record is run.best:
        found = number(run.measured, key)
        if found is not None:
            return found
    return number(record, key) if record is not None else None


def epoch_name(record: Mapping[str, Any]) -> str:
    """`epoch 3`."""
    value = number(record, "epoch")
    return "epoch ?" if value is None else f"epoch {value:g}"


def prediction_counts(run: RunFiles) -> list[str]:
    """Over how many predictions the figures of each split were taken."""
    record = run.epochs[-1] if run.epochs else {}
    counts = [number(record, f"{split}_predictions") for split in SPLITS[:2]]
    counts.append(number(run.result or {}, "predictions"))
    return [f"{count:,.0f}" if count is not None and math.isfinite(count) else "–" for count in counts]


def _body(run: RunFiles, running: bool) -> Iterator[str]:
    task, seed = run.recipe.get("task"), run.head.get("seed")
    yield f"<header><h1>{page.escape(run.name)}</h1>"
    yield page.paragraph(str(run.recipe.get("summary", "")), "lead")
    yield page.paragraph(f"{task} · seed {seed}", "soft")
    kind, state = _state(run, running)
    yield f'<p class="state {kind}">{page.escape(state)}</p></header>'
    yield page.heading("Figures")
    yield _figures(run)
    yield page.heading("Learning curves")
    yield from _pictures(run)
    if run.epochs:
        yield page.collapsed(f"All {len(run.epochs)} epochs" if len(run.epochs) > 1 else "The epoch", _epochs(run))
    yield from _confusions(run)
    yield page.heading("Settings")
    yield _settings(run)
    yield page.heading("How it was made")
    yield _provenance(run)


def _state(run: RunFiles, running: bool) -> tuple[str, str]:
    """The state's class in the style sheet, and in words."""
    planned = run.planned_epochs
    of = f" of {planned}" if planned else ""
    if run.result is not None:
        epochs = run.result.get("epochs", len(run.epochs))
        early = isinstance(epochs, int) and planned is not None and epochs < planned
        return "finished", f"finished early, after {epochs}{of} epochs" if early else f"finished, {epochs} epochs"
    kind = "running" if running else "stopped"
    if not run.metrics:
        return kind, "running, nothing measured yet" if running else "stopped before anything was measured"
    last = run.metrics[-1]
    step, loss = number(last, "step"), number(last, "loss")
    text = f"{kind} {'after' if last.get('event') == 'epoch' else 'in'} {epoch_name(last)}{of}"
    text += f", step {step:,.0f}" if step is not None else ""
    if last.get("event") != "epoch" and loss is not None:
        text += f", mean training loss {loss:.3f} nats"
    return kind, text


def _figures(run: RunFiles) -> str:
    best, last = run.best, run.epochs[-1] if run.epochs else None
    if last is None and run.result is None:
        return page.paragraph("No epoch has been evaluated yet.", "soft")
    names = dict.fromkeys([*run.figures, *(key.partition("_")[2] for key in run.measured)])
    rows = []
    for name in names:
        label = page.escape(name.replace("_", " "))
        if best is not None or run.result is not None:
            where = f' <span class="soft">{page.escape(epoch_name(best))}, the best</span>' if best is not None else ""
            rows.append(_figure_row(run, best, name, f"{label}{where}", "main"))
        if last is not best:
            rows.append(
                _figure_row(run, last, name, f"{label}, {page.escape(epoch_name(last or {}))}, the last", "minor")
            )
    rows.append(page.row(["predictions", *prediction_counts(run)], "minor"))
    expected = run.recipe.get("expected")
    expected = expected if isinstance(expected, Mapping) else {}
    here = [str(expected[key]) for key in ("here", "machine", "time") if expected.get(key)]
    rows += [
        page.words_row("the paper", str(expected.get("paper") or ""), 3),
        page.words_row("expected", "; ".join(here), 3),
    ]
    note = "All in eval mode (dropout switched off); train is a fixed part of the training data."
    return page.table(["", *SPLITS], rows, "figures") + page.paragraph(note, "soft")


def _figure_row(run: RunFiles, record: Mapping[str, Any] | None, figure: str, label: str, kind: str) -> str:
    return page.row([label, *(figure_text(value_at(run, record, split, figure)) for split in SPLITS)], kind)


def _pictures(run: RunFiles) -> Iterator[str]:
    drawn = False
    for index, figure in enumerate(run.figures):
        name = figure.replace("_", " ")
        curves = run_curves(run, figure)
        description = f"Learning curves: {name} on train and valid after each of {len(run.epochs)} epochs"
        rates = run.curve("learning_rate")
        wide, narrow = (
            inline_svg(curves, name, size, name=f"{shape}{index}", description=description, rates=rates)
            for shape, size in (("wide", WIDE), ("narrow", NARROW))
        )
        if wide and narrow:
            drawn = True
            yield page.picture(wide, narrow, f"{name.capitalize()} after each epoch, in eval mode.")
    if not drawn:
        reason = "No figure is a finite number." if run.epochs else "They begin with the first evaluated epoch."
        yield page.paragraph(reason, "soft")


def _confusions(run: RunFiles) -> Iterator[str]:
    """The picture of what the test set's predictions were taken for, of a task that keeps it."""
    path = run.folder / "predictions" / "test-confusion.json"
    if not path.is_file():
        return
    try:
        table, names = confusion.from_json(read_text(path))
    except ValueError as error:
        raise RegrnnError(f"{path}: damaged ({error}); restore it from a copy") from None
    picture = confusion.svg(table, names)
    yield page.heading("Confusions")
    yield page.picture(
        picture,
        picture,
        "Test: a row is the truth, a column the prediction; blue is right, orange wrong, and the strength of the "
        "colour the square root of the share of the row.",
    )
    rows = [
        page.row([page.escape(truth), page.escape(guess), f"{share:.1%}"])
        for truth, guess, share in confusion.worst(table, names, 10)
    ]
    if rows:
        header = ["truth", "taken for", "share of it"]
        yield page.collapsed("The ten most frequent mistakes", page.table(header, rows, "dense"))


def _epochs(run: RunFiles) -> str:
    header = ["epoch", "step", "learning rate", "loss, masks on"]
    header += [f"{split} {figure.replace('_', ' ')}" for figure in run.figures for split in SPLITS[:2]]
    header += ["predictions/s", "time"]
    rows = []
    for record in run.epochs:
        speed, seconds = _speed(run, number(record, "epoch"))
        rate, step, loss = number(record, "learning_rate"), number(record, "step"), number(record, "loss")
        mark = ' <span class="mark">best</span>' if record is run.best else ""
        cells = [
            f"{page.escape(epoch_name(record).removeprefix('epoch '))}{mark}",
            "–" if step is None else f"{step:,.0f}",
            "–" if rate is None else f"{rate:.4g}",
            "–" if loss is None else f"{loss:.3f}",
            *(figure_text(number(record, f"{split}_{figure}")) for figure in run.figures for split in SPLITS[:2]),
            "–" if speed is None else f"{speed:,.0f}",
            "–" if seconds is None else duration(seconds),
        ]
        rows.append(page.row(cells))
    return page.table(header, rows, "dense") + page.paragraph(
        "The loss is the epoch's mean in nats per prediction, with dropout. Times are of training alone, "
        "without what a killed process had not saved.",
        "soft",
    )


def _speed(run: RunFiles, epoch: float | None = None) -> tuple[float | None, float | None]:
    """Predictions a second and seconds, of one epoch or of all."""
    predictions = seconds = 0.0
    for timing in run.timings:
        if epoch is None or number(timing, "epoch") == epoch:
            predictions += number(timing, "predictions") or 0.0
            seconds += number(timing, "seconds") or 0.0
    return (predictions / seconds, seconds) if seconds > 0 and math.isfinite(seconds) else (None, None)


def _settings(run: RunFiles) -> str:
    sections = {key: value for key, value in run.recipe.items() if isinstance(value, Mapping) and key != "expected"}
    cards = [page.card(key, page.facts(_flat(value), "")) for key, value in sections.items() if value]
    return f'<div class="cards">{"".join(cards)}</div>' if cards else page.paragraph("None.", "soft")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings in the words of a recipe, tables within tables as `outer.inner`."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, bool):
            yield f"{prefix}{key}", str(value).lower()
        else:
            yield f"{prefix}{key}", "none" if value is None else str(value)


def _provenance(run: RunFiles) -> str:
    result = run.result or {}
    versions = result.get("versions")
    versions = versions if isinstance(versions, Mapping) else {"regrnn": run.head.get("regrnn")}
    wall = number(result, "wall_seconds")
    speed, seconds = _speed(run)
    threads = dict.fromkeys(f"{count:g}" for timing in run.timings if (count := number(timing, "threads")))
    data = run.head.get("data")
    return page.facts(
        [
            ("Protocol", result.get("protocol")),
            ("Regularization", result.get("regularization")),
            ("Command", result.get("command")),
            ("Commit", result.get("commit")),
            ("Machine", result.get("machine")),
            ("Threads", ", then ".join(threads)),
            ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
            ("Wall time", None if wall is None or not math.isfinite(wall) else duration(wall)),
            ("Training", None if seconds is None else duration(seconds)),
            ("Speed", None if speed is None else f"{speed:,.0f} predictions a second in training"),
            ("Run directory", run.folder.resolve()),
            *((f"Data, {split}", checksum) for split, checksum in (data if isinstance(data, Mapping) else {}).items()),
        ]
    )
