"""Figure 3 of the paper as a picture: a path through layers and time, and the strikes of dropout on it.

*Recurrent Neural Network Regularization* (Zaremba, Sutskever, Vinyals, 2014, arXiv 1409.2329). What is drawn was
measured by `regrnn.corruption_count`; this module takes plain numbers.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FixedLocator, MaxNLocator

from regrnn.errors import RegrnnError
from regrnn.reports.curves import GRID, HUES, INK, PAPER, SOFT, spread

SUFFIXES = (".svg", ".png", ".pdf")

_STRUCK, _PATH = HUES[0], HUES[1]
_LINES = (HUES[0], HUES[3], SOFT)
_DASHES = (0, (3.2, 1.8))

# In inches. A unit of the lattice is one step of time, and one layer.
_STEP, _LAYER, _NODE = 0.98, 0.86, 0.46


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Layers, time steps, and what was measured on the connections between them."""

    layers: int
    back: int
    """Steps from where the path enters to t."""
    ahead: int
    """Steps from t to where it leaves."""
    ends: bool
    """Whether dropout strikes what goes into the first layer and comes out of the last."""
    between: bool
    """Whether it strikes what goes from layer to layer."""
    recurrent: bool
    """Whether it strikes what goes from step to step."""
    least: int
    """Strikes on a path from t - back to t + ahead that has the fewest."""
    most: int
    about: str
    """The network, in words."""

    def is_struck(self, level: int) -> bool:
        """Whether dropout strikes the connection that goes up from a level: 0 the input, l the layer l."""
        return self.ends if level in (0, self.layers) else self.between

    @property
    def path(self) -> list[tuple[int, int]]:
        """(time step, level) of each node of a path that spends about as many steps in one layer as in another."""
        distance = self.back + self.ahead
        nodes, time = [(-self.back, 0)], -self.back
        for layer in range(1, self.layers + 1):
            nodes.append((time, layer))
            until = -self.back + round(layer * distance / self.layers)
            while time < until:
                time += 1
                nodes.append((time, layer))
        return [*nodes, (time, self.layers + 1)]


def trace_picture(path: Path, trace: Trace, profiles: Mapping[str, Sequence[tuple[int, int]]]) -> None:
    """Saves the lattice of layers and steps, and beside it the strikes by distance, as .svg, .png or .pdf.

    Args:
        path: where; the suffix says the format.
        trace: what to draw.
        profiles: up to three kinds of dropout by name, with the least and the most strikes at the distances
            0, 1, 2, ...

    Raises:
        RegrnnError: another suffix.
    """
    if path.suffix not in SUFFIXES:
        raise RegrnnError(f"{path}: pictures are saved as {', '.join(SUFFIXES)}; name it so")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own matplotlibrc says
        matplotlib.rcParams.update(
            {
                "font.family": "DejaVu Sans",  # comes with matplotlib, as do the letters of formulas
                "font.size": 11.5,
                "mathtext.fontset": "stix",
                "text.color": INK,
                "axes.labelcolor": SOFT,
                "xtick.color": SOFT,
                "ytick.color": SOFT,
                "svg.fonttype": "path",
                "svg.hashsalt": "regrnn",  # the same picture for the same numbers
            }
        )
        figure = _draw(trace, profiles)
        data = io.BytesIO()
        form = path.suffix[1:]
        metadata = {
            "svg": {"Date": None, "Creator": None},
            "png": {"Software": None},
            "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        }[form]
        figure.savefig(data, format=form, dpi=160, metadata=metadata)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data.getvalue())
    os.replace(temporary, path)


def passes_text(least: int, most: int) -> str:
    """`passes dropout exactly 3 times`, `passes dropout 3 to 8 times`."""
    if least != most:
        return f"passes dropout {least} to {most} times"
    return {0: "never passes dropout", 1: "passes dropout exactly once"}.get(
        most, f"passes dropout exactly {most} times"
    )


def _draw(trace: Trace, profiles: Mapping[str, Sequence[tuple[int, int]]]) -> Figure:
    columns, rows = trace.back + trace.ahead + 1, trace.layers + 2
    # Room for the title above, and for the legend below, even where the lattice is narrow.
    lattice_width, lattice_height = _STEP * max(columns + 0.7, 4.7), _LAYER * (rows - 0.2)
    left, bottom, gap, plot_width, right, top = 0.25, 0.95, 0.75, 3.3, 1.6, 0.95
    width = left + lattice_width + gap + plot_width + right
    height = bottom + lattice_height + top
    figure = Figure(figsize=(width, height), facecolor=PAPER)
    FigureCanvasAgg(figure)

    figure.text(
        left / width,
        1 - 0.22 / height,
        f"What enters at {_time_text(-trace.back)} and leaves at {_time_text(trace.ahead)} "
        f"{passes_text(trace.least, trace.most)}",
        va="top",
        fontsize=15,
        fontweight="bold",
    )
    figure.text(left / width, 1 - 0.55 / height, trace.about, va="top", color=SOFT)

    axes = figure.add_axes(
        (left / width, bottom / height, lattice_width / width, lattice_height / height), facecolor="none"
    )
    axes.set_axis_off()
    centre = (trace.ahead - trace.back) / 2
    axes.set_xlim(centre - lattice_width / _STEP / 2, centre + lattice_width / _STEP / 2)
    axes.set_ylim(-0.4, rows - 0.6)
    _draw_lattice(axes, trace)
    _draw_legend(figure, left, 0.36, trace)

    plot_left, plot_bottom = left + lattice_width + gap, bottom + 0.12
    plot_height = lattice_height - 0.42
    plot = figure.add_axes(
        (plot_left / width, plot_bottom / height, plot_width / width, plot_height / height), facecolor="none"
    )
    _draw_profiles(plot, profiles, trace.back + trace.ahead)
    return figure


def _time_text(step: int) -> str:
    return "t" if step == 0 else f"t {'−' if step < 0 else '+'} {abs(step)}"


def _node_text(step: int, level: int, layers: int) -> str:
    time = "t" if step == 0 else f"t{{{'-' if step < 0 else '+'}}}{abs(step)}"
    if level == 0:
        return f"$x_{{{time}}}$"
    if level == layers + 1:
        return f"$y_{{{time}}}$"
    return f"$h_{{{time}}}^{{{level}}}$"


def _draw_lattice(axes: Axes, trace: Trace) -> None:
    steps, levels = range(-trace.back, trace.ahead + 1), range(trace.layers + 2)
    on_path = set(pairwise(trace.path))

    # The path first, a broad band below all else.
    axes.plot(
        *zip(*trace.path, strict=True),
        color=_PATH,
        alpha=0.22,
        linewidth=13,
        solid_capstyle="round",
        solid_joinstyle="round",
        zorder=0,
    )
    strikes = 0
    for (x0, y0), (x1, y1) in pairwise(trace.path):
        if trace.recurrent if y0 == y1 else trace.is_struck(y0):
            strikes += 1
            # Beside the connection, so that its dashes are seen.
            x, y = (x0 + x1) / 2 + 0.21 / _STEP * (x0 == x1), (y0 + y1) / 2 + 0.21 / _LAYER * (y0 == y1)
            axes.plot([x], [y], "o", markersize=15, color=_PATH, markeredgewidth=0, zorder=5)
            axes.text(
                x, y - 0.01, str(strikes), ha="center", va="center", color=PAPER, fontsize=10,
                fontweight="bold", zorder=6,
            )  # fmt: skip

    for step in steps:
        for level in levels[:-1]:
            edge = ((step, level), (step, level + 1))
            _arrow(axes, *edge, struck=trace.is_struck(level), strong=edge in on_path)
    for level in levels[1:-1]:
        for step in steps[:-1]:
            edge = ((step, level), (step + 1, level))
            _arrow(axes, *edge, struck=trace.recurrent, strong=edge in on_path)
        for start, end in ((steps[0] - 0.8, steps[0]), (steps[-1], steps[-1] + 0.8)):
            _arrow(axes, (start, level), (end, level), struck=trace.recurrent, strong=False)

    ends = {trace.path[0], trace.path[-1]}
    for step in steps:
        for level in levels:
            hidden = 0 < level < levels[-1]
            on = (step, level) in trace.path
            half = _NODE / 2
            axes.add_patch(
                FancyBboxPatch(
                    (step - half / _STEP, level - half / _LAYER),
                    _NODE / _STEP,
                    _NODE / _LAYER,
                    boxstyle="round,pad=0,rounding_size=0.12",
                    mutation_aspect=_STEP / _LAYER,
                    facecolor=PAPER if hidden or (step, level) in ends else "none",
                    edgecolor=(_PATH if on else INK) if hidden or (step, level) in ends else "none",
                    linewidth=1.8 if on else 1.0,
                    zorder=3,
                )
            )
            axes.text(
                step,
                level - 0.01,
                _node_text(step, level, trace.layers),
                ha="center",
                va="center",
                fontsize=14,
                color=INK if hidden or (step, level) in ends else SOFT,
                zorder=4,
            )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], *, struck: bool, strong: bool) -> None:
    """From node to node, or to or from a place between steps: what goes on beyond the picture, drawn faintly."""
    up = start[0] == end[0]
    room = (_NODE / 2 + 0.03) / (_LAYER if up else _STEP)
    head = 0.05 / (_LAYER if up else _STEP)
    leaves, enters = (place[0] == round(place[0]) for place in (start, end))
    (x0, y0), (x1, y1) = start, end
    if up:
        y0, y1 = y0 + room, y1 - room - head
    else:
        x0, x1 = x0 + room * leaves, x1 - room * enters - head
    colour: tuple[float, ...] = to_rgb(_STRUCK if struck else INK)
    if not (leaves and enters):
        colour = tuple(0.35 * part + 0.65 for part in colour)
    style: dict[str, Any] = {"color": colour, "zorder": 2}
    axes.plot(
        [x0, x1],
        [y0, y1],
        linewidth=2.0 if strong else 1.3,
        linestyle=_DASHES if struck else "-",
        solid_capstyle="butt",
        **style,
    )
    axes.plot([x1], [y1], marker="^" if up else ">", markersize=7 if strong else 6, markeredgewidth=0, **style)


def _draw_legend(figure: Figure, left: float, middle: float, trace: Trace) -> None:
    """Below the lattice, `middle` inches from the bottom: what the lattice has of each kind."""
    struck = {trace.recurrent, *map(trace.is_struck, range(trace.layers + 1))}
    texts = {True: "through dropout", False: "without", None: "one path"}
    if True in struck:
        texts[None] += ", its strikes numbered"
    else:
        del texts[True]
    if False not in struck:
        del texts[False]
    width, height = figure.get_size_inches()
    x = left + 0.1
    for kind, text in texts.items():
        axes = figure.add_axes((x / width, (middle - 0.1) / height, 0.5 / width, 0.2 / height), facecolor="none")
        axes.set_axis_off()
        axes.set(xlim=(0, 1), ylim=(-1, 1))
        if kind is None:
            axes.plot([0.14, 0.86], [0, 0], color=_PATH, alpha=0.22, linewidth=12, solid_capstyle="round")
        else:
            colour = _STRUCK if kind else INK
            axes.plot([0, 0.88], [0, 0], color=colour, linewidth=1.6, linestyle=_DASHES if kind else "-")
            axes.plot([0.92], [0], ">", color=colour, markersize=6, markeredgewidth=0)
        figure.text((x + 0.6) / width, middle / height, text, va="center", color=SOFT, fontsize=10.5)
        x += 0.9 + 0.085 * len(text)


def _draw_profiles(axes: Axes, profiles: Mapping[str, Sequence[tuple[int, int]]], distance: int) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.tick_params(length=0, pad=6)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=GRID, linewidth=0.9)
    highest = max(most for profile in profiles.values() for _, most in profile)
    furthest = max(len(profile) for profile in profiles.values()) - 1
    axes.set(xlim=(-0.02 * furthest if furthest else -0.5, 1.02 * furthest), ylim=(0, highest + 0.6))
    axes.xaxis.set_major_locator(FixedLocator(range(0, furthest + 1, 1 + furthest // 10)))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_xlabel("steps between input and output", labelpad=4)
    axes.set_title("Strikes of dropout, measured", loc="left", fontsize=11.5, color=INK, pad=10)

    coloured = list(zip(profiles.items(), _LINES, strict=False))
    for (_, profile), colour in reversed(coloured):  # the first on top
        steps = range(len(profile))
        least, most = zip(*profile, strict=True)
        if least != most:
            axes.fill_between(steps, least, most, color=colour, alpha=0.13, linewidth=0, zorder=1)
        axes.plot(steps, most, "o-", color=colour, linewidth=2, markersize=4.5, clip_on=False, zorder=3)

    labels = [(most, f"{name}: {_range_text(least, most)}", colour) for (name, [*_, (least, most)]), colour in coloured]
    labels.sort(key=lambda label: label[0])
    line = 0.22 / axes.get_window_extent().height * axes.figure.dpi * axes.get_ylim()[1]
    places = spread([most for most, _, _ in labels], [line] * len(labels))
    for (_, text, colour), place in zip(labels, places, strict=True):
        axes.annotate(
            text, (furthest, place), xytext=(11, 0), textcoords="offset points", va="center",
            color=colour, annotation_clip=False,
        )  # fmt: skip


def _range_text(least: int, most: int) -> str:
    return str(most) if least == most else f"{least} to {most}"
