"""A run's metrics for TensorBoard; `metrics.jsonl` stays the source of truth."""

import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from regrnn.errors import RegrnnError
from regrnn.reports.read import RunFiles, number, read_run

_NAME = re.compile(r"events\.out\.tfevents\.(\d{10})\.regrnn")


def write_tensorboard(run: Path, folder: Path) -> None:
    """Bring the event file in `folder` up to date with `run`: training loss, learning rate and figures by step.

    May be called as often as one likes, after every epoch for example. Where the run has only grown the file grows
    too, so that a TensorBoard that is watching sees it; otherwise (the run was taken up from an earlier checkpoint) a
    new file takes the place of the old one. Other files in `folder` stay as they are.

    Raises RegrnnError if tensorboard is not installed, `run` is no run directory, or `folder` cannot be written.
    """
    content = _encode(read_run(run))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        old = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
        if old and content.startswith(before := old[-1].read_bytes()):
            with old[-1].open("ab") as file:
                file.write(content[len(before) :])
            return
        last = _NAME.fullmatch(old[-1].name) if old else None
        path = folder / f"events.out.tfevents.{int(last[1]) + 1 if last else 0:010d}.regrnn"
        temporary = folder / f".{path.name}.tmp"
        temporary.write_bytes(content)
        os.replace(temporary, path)
        for other in old:
            other.unlink()
    except OSError as error:
        raise RegrnnError(f"{folder}: cannot be written ({error.strerror})") from None


def _encode(run: RunFiles) -> bytes:
    """The content of an event file: the same for the same run."""
    # Neither of these imports torch or tensorflow, as the package's EventFileWriter would where they are installed.
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError:
        raise RegrnnError("tensorboard is not installed; install it with: pip install 'regrnn[tensorboard]'") from None

    data = io.BytesIO()
    records = RecordWriter(data)
    start = (run.folder / "recipe.json").stat().st_mtime
    records.write(Event(wall_time=start, file_version="brain.Event:2").SerializeToString())
    spent = [(number(timing, "epoch") or 0, number(timing, "seconds") or 0) for timing in run.timings]
    for record in run.metrics:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(record, run.figures)]
        step = number(record, "step")
        if values and step is not None:
            # Lines have no times. What is known when a line is written is how long the epochs before its own took.
            wall_time = start + sum(seconds for epoch, seconds in spent if epoch < (number(record, "epoch") or 0))
            event = Event(wall_time=wall_time, step=int(step), summary=Summary(value=values))
            records.write(event.SerializeToString())
    return data.getvalue()


def _scalars(record: Mapping[str, Any], figures: list[str]) -> Iterator[tuple[str, float]]:
    """The tags and values of a line of `metrics.jsonl`."""
    names = {"loss": "training/loss", "learning_rate": "training/learning_rate"}
    names |= {f"{split}_{figure}": f"{figure}/{split}" for figure in figures for split in ("train", "valid")}
    for key, tag in names.items():
        value = number(record, key)
        if value is not None:
            yield tag, value
