"""One page that sets finished runs side by side."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from regrnn.reports import page
from regrnn.reports.curves import HUES, NARROW, WIDE, comparison_curves, inline_svg
from regrnn.reports.read import RunFiles, read_run
from regrnn.reports.run import SPLITS, epoch_name, prediction_counts, value_at, written_by
from regrnn.reports.scale import figure_text

_DIRECTIONS = {True: ", lower is better", False: ", higher is better", None: ""}


def write_comparison(
    path: Path, title: str, sentence: str, runs: Mapping[str, Path], notes: Sequence[str] = ()
) -> Path:
    """Write the page `path`, which compares `runs` by label and needs no other file, in one step; `path`.

    `sentence` says what is seen; `notes` (samples, remarks) stand at the end as they are, line by line. Raises
    RegrnnError for a folder that is no run or has no figures yet, and for runs that are judged by different figures.
    """
    files = {label: read_run(run) for label, run in runs.items()}
    page.save(path, page.document(title, _body(title, sentence, files, notes), written_by(*files.values())))
    return path


def _body(title: str, sentence: str, runs: Mapping[str, RunFiles], notes: Sequence[str]) -> Iterator[str]:
    figure, curves = comparison_curves(runs)
    name = figure.replace("_", " ")
    yield f"<header><h1>{page.escape(title)}</h1>"
    yield page.paragraph(sentence, "lead") + "</header>"
    description = f"Learning curves of {', '.join(runs)}: {name} on train and valid after each epoch"
    wide, narrow = (
        inline_svg(curves, name, size, name=shape, description=description)
        for shape, size in (("wide", WIDE), ("narrow", NARROW))
    )
    if wide and narrow:
        caption = f"{name.capitalize()} after each epoch, in eval mode; dashed: train, solid: valid."
        yield page.picture(wide, narrow, caption)
    yield page.heading("Figures")
    yield _table(figure, runs)
    yield page.paragraph(
        f"{name.capitalize()}{_DIRECTIONS[_lower(runs)]}, in eval mode (dropout switched off); "
        "train is a fixed part of the training data; test is measured at the best epoch only, once.",
        "soft",
    )
    if notes:
        yield page.heading("Notes")
        yield from (f"<pre>{page.escape(note)}</pre>" for note in notes)
    yield page.heading("Runs")
    for label, run in runs.items():
        result = run.result or {}
        pairs = [(key.capitalize(), result.get(key)) for key in ("protocol", "command", "commit", "machine")]
        yield page.card(label, page.facts([("Run directory", run.folder.resolve()), *pairs]))


def _lower(runs: Mapping[str, RunFiles]) -> bool | None:
    """Whether the figure should be low; None where no run tells, having had one epoch only."""
    return next((run.lower_is_better for run in runs.values() if run.lower_is_better is not None), None)


def _table(figure: str, runs: Mapping[str, RunFiles]) -> str:
    """Each run at its best and at its last epoch; the best run's valid and test figures are marked."""
    rows = []
    lower = _lower(runs)
    winners = {}
    for split in SPLITS[1:]:
        values = [value for run in runs.values() if (value := value_at(run, run.best, split, figure)) is not None]
        if len(values) > 1 and lower is not None:
            winners[split] = min(values) if lower else max(values)
    for index, (label, run) in enumerate(runs.items()):
        name = f'<span style="color: var(--hue-{index % len(HUES)})">{page.escape(label)}</span>'
        last = run.epochs[-1]
        for record, which in ((run.best, "best"), (last, "last")):
            if record is None or (which == "last" and last is run.best):
                continue
            first = which == "best" or run.best is None
            cells = []
            for split in SPLITS:
                value = value_at(run, record, split, figure)
                won = which == "best" and value is not None and value == winners.get(split)
                cells.append(f"<strong>{figure_text(value)}</strong>" if won else figure_text(value))
            where = f'<span class="soft">{page.escape(epoch_name(record))}, the {which}</span>'
            rows.append(page.row([f"{name} {where}" if first else where, *cells], "" if first else "minor"))
    counts = {label: prediction_counts(run) for label, run in runs.items()}
    if len({tuple(cells) for cells in counts.values()}) == 1:
        counts = {"": next(iter(counts.values()))}
    for label, cells in counts.items():
        rows.append(page.row([page.escape(f"predictions, {label}" if label else "predictions"), *cells], "minor"))
    return page.table(["", *SPLITS], rows, "figures")
