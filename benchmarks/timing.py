"""Sides that are timed in turns, and what is said of their times."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Figures = dict[str, Any]


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def interleaved(sides: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Wall seconds of each side, run by run.

    In every round each side runs once, so that what disturbs the machine for longer than a round disturbs all; each
    round begins with another side.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(warm_up + repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            taken = seconds(sides[name])
            if turn >= warm_up:
                times[name].append(taken)
    return times


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range, to six figures."""
    figures = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {name: float(f"{value:.6g}") for name, value in figures.items()}


def rates(name: str, unit: str, work: float, ours: Sequence[float], idiom: Sequence[float], **more: object) -> Figures:
    """A measurement of speed: `work` in `unit`s, done in these seconds by each side.

    `ratio` is regrnn's speed over the idiom's: the median over rounds of neighbouring runs.
    """
    return {
        "name": name,
        "unit": f"{unit}/s",
        "runs": len(ours),
        "ours": spread([work / t for t in ours]),
        "idiom": spread([work / t for t in idiom]),
        "ratio": spread([i / o for o, i in zip(ours, idiom, strict=True)]),
        "ours_seconds": spread(ours),
        "idiom_seconds": spread(idiom),
        **more,
    }
