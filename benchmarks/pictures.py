"""The pictures of docs/performance.md: how the core works, and how the cost grows.

Drawn with matplotlib's object-oriented interface; text becomes outlines, and the same figures give the same file.
"""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.results import Entry
from regrnn.reports.curves import GRID, HUES, INK, PAPER, SOFT

BLUE, ORANGE, GREEN, PURPLE = HUES[:4]
SMALL = 9.5
_CAPTION: dict[str, Any] = {"fontsize": SMALL, "color": SOFT}


@contextmanager
def style() -> Iterator[None]:
    """The pictures' settings, whatever the user's own matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.family": "DejaVu Sans",  # comes with matplotlib
                "font.size": 11,
                "text.color": INK,
                "axes.edgecolor": SOFT,
                "axes.labelcolor": SOFT,
                "xtick.color": SOFT,
                "ytick.color": SOFT,
                "grid.color": GRID,
                "svg.fonttype": "path",
                "svg.hashsalt": "regrnn",
            }
        )
        yield


def save(path: Path, figure: Figure) -> None:
    """Write a figure as .svg or .png, whole or not at all."""
    form = path.suffix[1:]
    data = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    figure.savefig(data, format=form, dpi=150, metadata=metadata)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data.getvalue())
    os.replace(temporary, path)


def core_picture(path: Path) -> None:
    """Panels, time steps and masks."""
    with style():
        figure = Figure(figsize=(11.6, 8.4), facecolor=PAPER)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 116), ylim=(0, 84))
        axes.axis("off")
        _product(axes)
        _masks(axes)
        _time(axes)
        save(path, figure)


def _box(axes: Axes, x: float, y: float, width: float, height: float, colour: str, alpha: float = 1.0) -> None:
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="none", alpha=alpha))


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color=INK, linewidth=1.3, shrinkA=0, shrinkB=0)
    )


def _heading(axes: Axes, x: float, y: float, number: int, title: str, text: str) -> None:
    axes.text(x, y, f"{number}  {title}", fontsize=13.5, fontweight="bold", va="top")
    axes.text(x, y - 3.1, text, color=SOFT, fontsize=10.5, va="top", linespacing=1.35)


def _grid(axes: Axes, x: float, y: float, width: float, height: float, rows: int, columns: int) -> None:
    """Thin lines over a block."""
    for row in range(1, rows):
        axes.plot([x, x + width], [y + height * row / rows] * 2, color=PAPER, linewidth=0.9)
    for column in range(1, columns):
        axes.plot([x + width * column / columns] * 2, [y, y + height], color=PAPER, linewidth=0.9)


def _product(axes: Axes) -> None:
    """The recurrent product of one step: tiles of rows, panels of weights, gates at once."""
    _heading(
        axes, 3, 82, 1, "A step is computed tile by tile",
        "The weights lie packed in panels as wide as two vector registers. A few rows pass over\n"
        "one panel, their sums in registers, the panel in the first-level cache.",
    )  # fmt: skip
    # h[t-1]
    x, y, width, height = 3.0, 47.0, 14.0, 18.0
    _box(axes, x, y, width, height, GRID)
    tile = height * 5 / 20
    _box(axes, x, y + height - 2 * tile, width, tile, BLUE)
    _grid(axes, x, y, width, height, 20, 1)
    axes.text(x + width / 2, y + height + 1.2, "h[t-1]", ha="center", va="bottom")
    axes.text(x + width / 2, y - 1.2, "20 sequences,\n5 rows at a time", ha="center", va="top", **_CAPTION)
    axes.text(19.2, y + height / 2, "×", ha="center", va="center", fontsize=17)
    # Packed weights: blocks of hidden units, in each a panel for every gate.
    x, width, gates = 21.5, 1.75, "ifgo"
    for block in range(3):
        for place, gate in enumerate(gates):
            left = x + block * 8.0 + place * width
            chosen = block == 1
            _box(axes, left, y, width - 0.25, height, ORANGE if chosen else GRID, alpha=0.45 if chosen else 1)
            axes.text(left + (width - 0.25) / 2, y + height + 1.2, gate, ha="center", va="bottom",
                      color=INK if chosen else SOFT, fontsize=SMALL)  # fmt: skip
            if chosen and gate == "f":
                _box(axes, left, y + height * 0.36, width - 0.25, height * 0.3, ORANGE)
    axes.text(
        x + 11.5, y - 1.2, "recurrent weights, packed once a call:\n16 hidden units, a panel for each gate",
        ha="center", va="top", fontsize=SMALL, color=SOFT,
    )  # fmt: skip
    axes.text(x + 11.6, y + height + 4.0, "256 rows of a panel: 16 KiB", ha="center", va="bottom",
              fontsize=SMALL, color=ORANGE)  # fmt: skip
    axes.text(46.8, y + height / 2, "=", ha="center", va="center", fontsize=17)
    # The tiles of the four gates
    x, side = 49.0, 0.62
    for place, gate in enumerate(gates):
        bottom = y + height - (place + 1) * 4.65 + 1.0
        _box(axes, x, bottom, 16 * side, 5 * side, GREEN, alpha=1 if gate == "f" else 0.45)
        _grid(axes, x, bottom, 16 * side, 5 * side, 5, 16)
        axes.plot([x + 8 * side] * 2, [bottom, bottom + 5 * side], color=PAPER, linewidth=2.2)
        axes.text(x + 16 * side + 0.7, bottom + 2.5 * side, gate, va="center", fontsize=SMALL)
    axes.text(x + 8 * side, y - 1.2, "5 x 16 sums a tile:\n10 registers of AVX2", ha="center", va="top",
              fontsize=SMALL, color=SOFT)  # fmt: skip
    axes.text(
        3, 39.9, "Then, while these are in the cache:   c[t] = f * c[t-1] + i * g     h[t] = o * tanh(c[t])",
        va="center", fontsize=11,
        bbox={"boxstyle": "round,pad=0.45", "facecolor": "#f5f7f9", "edgecolor": GRID},
    )  # fmt: skip


KEPT = ((0, 2, 3, 6, 8), (1, 2, 5, 7, 9), (0, 4, 5, 6, 9))
"""Of ten inputs, those that the masks of three time steps leave: for the picture."""


def _masks(axes: Axes) -> None:
    """A mask shared by the batch: columns of the input gone, rows of the panel skipped."""
    _heading(
        axes, 68.8, 82, 2, "Dropped units are left out",
        "masks=\"batch\": one mask for all sequences, fresh every step.\n"
        "Rows of the panels are skipped by a list of what is kept.",
    )  # fmt: skip
    side, height = 1.1, 1.1
    for place, kept in enumerate(KEPT):
        x, y = 68.8 + place * 15.2, 61.0
        axes.text(x, y + 6.6, f"x[t{f'+{place}' if place else ''}]", va="bottom")
        for column in range(10):
            _box(axes, x + column * side, y, side - 0.15, 5.6, BLUE if column in kept else GRID)
        for row in range(1, 5):
            axes.plot([x, x + 10 * side], [y + 5.6 * row / 5] * 2, color=PAPER, linewidth=0.9)
        axes.text(x, y - 1.0, "keep " + " ".join(map(str, kept)), va="top", fontsize=SMALL, color=BLUE)
        _arrow(axes, (x + 3.4, y - 3.6), (x + 3.4, y - 5.6))
        for row in range(10):
            bottom = y - 7.1 - row * height
            colour = ORANGE if row in kept else GRID
            _box(axes, x, bottom, 6.8, height - 0.15, colour, alpha=0.8 if row in kept else 1)
            if row not in kept:
                axes.plot([x, x + 6.8], [bottom + height / 2 - 0.07] * 2, color=SOFT, linewidth=0.7)
            axes.text(x + 7.3, bottom + height / 2 - 0.1, str(row), va="center", fontsize=6.5,
                      color=INK if row in kept else SOFT)  # fmt: skip
    axes.text(68.8, 42.2, "rows of one panel of the input weights", va="center", fontsize=SMALL, color=ORANGE)
    axes.text(
        68.8, 40.6, "The same lists serve the gradients at inputs and weights.\n"
        "Of the paper's masks each row has a list of its own.", va="top", **_CAPTION
    )  # fmt: skip


def _time(axes: Axes) -> None:
    """Threads over time: a range of hidden units each, one barrier a step."""
    _heading(
        axes, 3, 33.5, 3, "One barrier a time step",
        "Each thread keeps its range of hidden units, all gates of them, so its panels stay in its own cache; one "
        "that is done early takes some of a slower one's.\n"
        "At the barrier h[t] is complete; nothing else is waited for. Every sum runs in one order, whatever the "
        "number of threads.",
    )  # fmt: skip
    left, step, packing = 19.0, 15.2, 12.0
    lanes = (("thread 1", "units 0 to H/2", 15.2), ("thread 2", "units H/2 to H", 8.6))
    starts = [left + packing + 1.0 + place * step for place in range(5)]
    for lane, (name, units, y) in enumerate(lanes):
        axes.text(3, y + 3.1, name, va="center", fontweight="bold")
        axes.text(3, y + 1.1, units, va="center", color=SOFT, fontsize=SMALL)
        _segment(axes, left, y, packing - 0.2 - 0.5 * lane, PURPLE, "pack")
        for place, start in enumerate(starts):
            # Three panels of each thread, each its products and then its gates; no two threads take quite as long.
            panel = 4.65 + (0.1, -0.12, 0.05, -0.08, 0.1)[place] * (1 if lane else -1)
            for number in range(3):
                _segment(axes, start + 0.3 + number * panel, y, 0.68 * panel, ORANGE)
                _segment(axes, start + 0.3 + (number + 0.68) * panel, y, 0.32 * panel, GREEN)
    top, bottom = 20.9, 7.0
    for place, start in enumerate([*starts, starts[-1] + step]):
        x = start - 0.3
        axes.plot([x, x], [bottom, top], color=INK, linewidth=1.6)
        if place < len(starts):
            axes.text(start + step / 2, bottom - 1.0, f"t = {place + 1}", ha="center", va="top", color=SOFT)
    axes.text(starts[0] - 0.3, top + 0.5, "barrier", ha="center", va="bottom", fontsize=SMALL)
    for x, colour, text in ((78.0, ORANGE, "products of a panel"), (97.0, GREEN, "gates of its units")):
        _box(axes, x, top + 0.7, 1.6, 1.3, colour)
        axes.text(x + 2.3, top + 1.3, text, va="center", fontsize=SMALL)
    axes.text(left + packing / 2, bottom - 1.0, "once a call", ha="center", va="top", color=SOFT)
    axes.text(
        3, 2.0,
        "The input projections of all steps are one product before, "
        "the weights' gradients of all steps one product after.",
        va="center", fontsize=SMALL, color=SOFT,
    )  # fmt: skip


def _segment(axes: Axes, x: float, y: float, width: float, colour: str, text: str = "") -> None:
    shape = f"round,pad={min(0.3, width / 5)}"
    inset = min(0.3, width / 5) + 0.06
    axes.add_patch(
        FancyBboxPatch((x + inset, y + 0.3), width - 2 * inset, 3.6, boxstyle=shape, facecolor=colour, edgecolor="none")
    )
    axes.text(x + width / 2, y + 2.1, text, ha="center", va="center", color=PAPER, fontsize=SMALL)


TITLES = {
    "hidden": "hidden units",
    "batch": "batch",
    "steps": "window (steps)",
    "vocabulary": "vocabulary",
    "threads": "threads",
}
_LINES = {
    "idiom": ("idiom", SOFT),
    "step": ("regrnn, the paper's masks", BLUE),
    "batch": ('regrnn, masks="batch"', ORANGE),
}


def growth_picture(path: Path, entries: Sequence[Entry]) -> None:
    """Words a second above, the ratio to the idiom below, for each factor that was measured."""
    with style():
        figure = Figure(figsize=(2.6 * len(entries) + 0.8, 6.0), facecolor=PAPER, layout="constrained")
        FigureCanvasAgg(figure)
        rows = figure.subplots(2, len(entries), squeeze=False, sharex="col", sharey="row")
        for column, entry in enumerate(entries):
            speeds, ratios = rows[0][column], rows[1][column]
            _growth_lines(speeds, ratios, entry)
            ratios.set_xlabel(TITLES[entry["case"]])
            for axes in (speeds, ratios):
                axes.grid(True)
                axes.set_axisbelow(True)
                axes.spines[["top", "right"]].set_visible(False)
        rows[0][0].set_ylim(bottom=0)
        rows[0][0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        rows[0][0].set_ylabel("words/s")
        rows[1][0].set_ylabel("times the idiom's speed")
        rows[1][0].set_ylim(bottom=0)
        handles, labels = rows[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        save(path, figure)


def _growth_lines(speeds: Axes, ratios: Axes, entry: Entry) -> None:
    case = entry["case"]
    for kind, (label, colour) in _LINES.items():
        found = [figure for figure in entry["measurements"] if figure["name"] == ("step" if kind == "idiom" else kind)]
        x = [figure[case] for figure in found]
        side = "idiom" if kind == "idiom" else "ours"
        _line(speeds, x, [figure[side] for figure in found], colour, label)
        if kind != "idiom":
            _line(ratios, x, [figure["ratio"] for figure in found], colour, label)
    ratios.axhline(1, color=SOFT, linewidth=1)
    values = sorted({figure[case] for figure in entry["measurements"]})
    speeds.set_xscale("log")
    ratios.xaxis.set_major_locator(FixedLocator(values))
    ratios.xaxis.set_minor_locator(NullLocator())
    ratios.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    ratios.tick_params(axis="x", labelsize=9)


def _line(axes: Axes, x: Iterable[float], figures: Sequence[dict[str, float]], colour: str, label: str) -> None:
    x = list(x)
    axes.fill_between(
        x, [f["low"] for f in figures], [f["high"] for f in figures], color=colour, alpha=0.15, linewidth=0
    )
    axes.plot(x, [f["median"] for f in figures], color=colour, marker="o", markersize=4, label=label)


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
