"""Curves as plain text, for a terminal or a pipe."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from regrnn.reports.scale import figure_text, limits, logarithmic, tick_text, ticks, whole_ticks

_SYMBOLS, _ASCII_SYMBOLS = "●○◆◇▲△■□", "*o+x#%@&"
_BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each dot of a braille character, by its row and column."""

Point = tuple[float, float]


def terminal_curves(
    series: Mapping[str, Sequence[float]],
    *,
    width: int = 72,
    height: int = 16,
    title: str = "",
    unit_of_x: str = "epoch",
    log: bool | None = None,
    best: Literal["minimum", "maximum"] = "minimum",
    dashed: Collection[str] = (),
    ascii: bool = False,
) -> str:
    """Several curves, by label, as lines of text without escape codes.

    Value i of a curve (from 0) stands at x = i + 1; values that are not finite are left out.

    Parameters
    ----------
    width, height
        Characters of a line, and lines of the plot alone: the title, the x axis and the legend come to them.
    log
        Whether the y axis is logarithmic; None: where the values are far enough apart for it.
    best
        What a star marks on each curve, and the legend names.
    dashed
        Labels of the curves that are dashed.
    ascii
        Only characters that every encoding has.

    Raises ValueError for more curves than there are symbols, a plot too small to be one, and a logarithmic axis for a
    value that is not above 0.
    """
    if width < 40 or height < 4:
        raise ValueError(f"a plot of {width} x {height} characters is too small; the least is 40 x 4")
    if len(series) > len(_SYMBOLS):
        raise ValueError(f"{len(series)} curves are too many for one plot; the most is {len(_SYMBOLS)}")
    curves = {
        label: [(float(x), y) for x, y in enumerate(values, start=1) if math.isfinite(y)]
        for label, values in series.items()
    }
    points = [point for curve in curves.values() for point in curve]
    lines = [title] if title else []
    if not points:
        return "\n".join([*lines, "(no finite value to draw)"])
    lowest = min(y for _, y in points)
    if log and lowest <= 0:
        raise ValueError(f"a logarithmic axis has no place for {lowest:g}")
    plot = _Plot(points, width, height, log, ascii)
    symbols = _ASCII_SYMBOLS if ascii else _SYMBOLS
    star = "!" if ascii else "★"
    longest = max(map(len, curves))
    legend = []
    for label, curve in curves.items():
        plot.draw_line(curve, label in dashed)
    for index, (label, curve) in enumerate(curves.items()):
        plot.draw_symbols(curve, symbols[index], index / len(curves))
        words = "no finite value"
        if curve:
            x, y = (min if best == "minimum" else max)(curve, key=lambda point: point[1])
            plot.stars.append((x, y))
            words = f"{star} {best} {figure_text(y)} at {unit_of_x} {x:g}, last {figure_text(curve[-1][1])}"
        legend.append(f"  {symbols[index]} {label:{longest}}  {words}")
    for point in plot.stars:
        plot.put(point, star)
    return "\n".join(line.rstrip() for line in [*lines, *plot.lines(unit_of_x), *legend])


class _Plot:
    """A grid of characters between two axes."""

    def __init__(self, points: Sequence[Point], width: int, height: int, log: bool | None, ascii: bool) -> None:
        xs, ys = zip(*points, strict=True)
        self.first, self.last = min(xs), max(xs)
        self.log = logarithmic(ys) if log is None else log
        self.low, self.high = limits(ys, log=self.log, margin=0.03)
        self.ascii = ascii
        self.height = height
        texts = {self._row(value): tick_text(value) for value in ticks(self.low, self.high, log=self.log)}
        self.y_ticks = texts
        self.margin = max(map(len, texts.values()), default=0) + 1
        self.columns = width - self.margin - 1
        self.grid = [[" "] * self.columns for _ in range(height)]
        self.stars: list[Point] = []

    def _up(self, y: float) -> float:
        """From 0 at the bottom to 1 at the top."""
        if self.log:
            return (math.log(y) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (y - self.low) / (self.high - self.low)

    def _row(self, y: float, dots: int = 1) -> int:
        """Counted from the top, each line being `dots` high."""
        return min(int((1 - self._up(y)) * self.height * dots), self.height * dots - 1)

    def _column(self, x: float, dots: int = 1) -> int:
        """Counted from the left, each character being `dots` wide; a margin of one character on both sides."""
        across = (x - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        return round((1 + across * (self.columns - 3)) * dots)

    def put(self, point: Point, character: str) -> None:
        """Write over whatever stands at `point`."""
        self.grid[self._row(point[1])][self._column(point[0])] = character

    def draw_line(self, curve: Sequence[Point], dashed: bool) -> None:
        """Straight lines from point to point: braille dots, or full stops."""
        wide, high = (1, 1) if self.ascii else (2, 4)
        dash = (2, 1) if self.ascii else (4, 3)  # dots drawn, dots left out
        corners = [(self._column(x, wide), self._row(y, high)) for x, y in curve]
        for index, (column, row) in enumerate(_dots(corners)):
            if dashed and index % sum(dash) >= dash[0]:
                continue
            cell = self.grid[row // high]
            if self.ascii:
                cell[column] = "."
            else:
                drawn = max(ord(cell[column // wide]), 0x2800)
                cell[column // wide] = chr(drawn | _BRAILLE[row % high][column % wide])

    def draw_symbols(self, curve: Sequence[Point], symbol: str, phase: float) -> None:
        """The curve's symbol at some of its points; another `phase` (from 0 to 1) starts at another point."""
        every = max(1, round(8 * len(curve) / self.columns))
        for point in curve[int(phase * every) :: every]:
            self.put(point, symbol)

    def lines(self, unit_of_x: str) -> Iterator[str]:
        """The plot with its axes."""
        tick, side, corner, foot, floor = "+|++-" if self.ascii else "┤│└┬─"
        for row, cells in enumerate(self.grid):
            text = self.y_ticks.get(row, "")
            yield f"{text:>{self.margin - 1}} {tick if text else side}{''.join(cells)}"
        axis, labels = [floor] * self.columns, [" "] * (self.columns + 8)
        end = -1
        last = self.columns - len(unit_of_x) - 2
        for x in whole_ticks(self.first, self.last, self.columns // 6):
            column, text = self._column(x), f"{x}"
            start = column - len(text) // 2
            if start <= end or start + len(text) > last:
                continue
            axis[column] = foot
            labels[start : start + len(text)] = text
            end = start + len(text)
        labels[self.columns - len(unit_of_x) : self.columns] = unit_of_x
        yield f"{'':{self.margin}}{corner}{''.join(axis)}"
        yield f"{'':{self.margin + 1}}{''.join(labels)}"


def _dots(corners: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Every dot on the way from corner to corner."""
    yield from corners[:1]
    for (x0, y0), (x1, y1) in pairwise(corners):
        steps = max(abs(x1 - x0), abs(y1 - y0))
        yield from ((round(x0 + (x1 - x0) * i / steps), round(y0 + (y1 - y0) * i / steps)) for i in range(1, steps + 1))
