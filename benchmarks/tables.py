"""Entries of the results file as plain lines for a terminal."""

from collections.abc import Iterator
from typing import Any

from benchmarks.results import Entry


def lines(entry: Entry) -> Iterator[str]:
    """One line for each measurement, and what has to be known of them."""
    yield f"{entry['part']} {entry['case']}, {entry['threads']} threads, {entry['seconds']:.0f} s"
    for figure in entry["measurements"]:
        label = figure["name"]
        if entry["part"] == "growth":
            label += f", {entry['case']} {figure[entry['case']]}"
        parts = [f"{label:28}", f"{spread(figure['ours'])} {figure['unit']}"]
        if figure["idiom"] is not None:
            parts += [f"idiom {spread(figure['idiom'])}", f"ratio {spread(figure['ratio'])}"]
        for name, title in (("ours_share", "of the ceiling"), ("loss_percent", "% beside the updates")):
            if figure.get(name):
                parts.append(f"{spread(figure[name])} {title}")
        yield "  " + "  ".join(parts)
    for note in entry["notes"]:
        yield f"  {note}"


def number(value: float) -> str:
    """Three figures, or all those before the point."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(figures: dict[str, Any] | None) -> str:
    """`1.42 [1.31-1.50]`; a dash where nothing was measured."""
    if figures is None:
        return "-"
    if figures["low"] == figures["high"]:
        return number(figures["median"])
    return f"{number(figures['median'])} [{number(figures['low'])}-{number(figures['high'])}]"
