"""Learning curves as pictures: SVG to stand inside a page, PNG and SVG files to stand alone.

Drawn with matplotlib's object-oriented interface, so that no display and no global figure is involved. Text becomes
outlines: the picture looks the same where its font is not installed.
"""

import io
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from matplotlib.transforms import Affine2D, Bbox, Transform

from regrnn.errors import RegrnnError
from regrnn.reports.page import LIGHT, save
from regrnn.reports.read import RunFiles, read_run
from regrnn.reports.scale import figure_text, limits, logarithmic, tick_text, ticks, whole_ticks

# A picture is drawn in the light colours; within a page each becomes the style sheet's variable of the same name.
PAPER, INK, SOFT, GRID = (LIGHT[name] for name in ("paper", "ink", "soft", "grid"))
HUES = tuple(colour for name, colour in LIGHT.items() if name.startswith("hue"))
VARIABLES = {colour: name for name, colour in LIGHT.items()}

WIDE, NARROW = (800.0, 420.0), (370.0, 380.0)
"""Sizes of a picture in CSS pixels, for a screen and for a phone."""


@dataclass(frozen=True)
class Curve:
    """One line of a picture: a figure of one split of one run, epoch by epoch."""

    label: str
    epochs: Sequence[float]
    values: Sequence[float]
    """One for each of `epochs`; what is not finite is not drawn."""
    hue: int
    """Which of `HUES`."""
    dashed: bool = False
    best: int | None = None
    """Index of the point to mark as the best."""

    @property
    def points(self) -> list[tuple[float, float]]:
        """The finite points."""
        pairs = zip(self.epochs, self.values, strict=True)
        return [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def run_curves(run: RunFiles, figure: str, *, label: str = "", hues: tuple[int, int] = (1, 0)) -> list[Curve]:
    """The training curve (dashed) and the validation curve, its best epoch marked, of one run's `figure`.

    `label` stands before "train" and "valid"; `hues` are those of the two curves.
    """
    epochs = run.curve("epoch")
    label = textwrap.fill(label, 22)
    best = next((index for index, record in enumerate(run.epochs) if record is run.best), None)
    return [
        Curve(f"{label}\n{split}".strip(), epochs, run.curve(f"{split}_{figure}"), hue, dashed=not index, best=mark)
        for index, (split, hue, mark) in enumerate(zip(("train", "valid"), hues, (None, best), strict=True))
    ]


def comparison_curves(runs: Mapping[str, RunFiles]) -> tuple[str, list[Curve]]:
    """The figure that decides, the same in all runs, and its curves: a hue for each run.

    Raises RegrnnError if a run has no figures yet or the runs are judged by different ones.
    """
    deciding = ""
    curves = []
    for index, (label, run) in enumerate(runs.items()):
        if not run.figures:
            raise RegrnnError(f"{run.folder}: no epoch has been evaluated yet; nothing to compare")
        if deciding and run.figures[0] != deciding:
            raise RegrnnError(f"{run.folder}: measures {run.figures[0]}, not {deciding}; compare runs of one task")
        deciding = run.figures[0]
        hue = index % len(HUES)
        curves += run_curves(run, deciding, label=label, hues=(hue, hue))
    return deciding, curves


def curves_picture(path: Path, runs: Mapping[str, Path], title: str) -> None:
    """Save the training and validation curves of several runs, by label, as the picture `path` (.png or .svg).

    Raises RegrnnError for another suffix, a folder that is no run, runs that are judged by different figures, and runs
    without a finite figure.
    """
    if path.suffix not in (".png", ".svg"):
        raise RegrnnError(f"{path}: pictures are saved as .png or .svg; name it so")
    figure, curves = comparison_curves({label: read_run(run) for label, run in runs.items()})
    if not any(curve.points for curve in curves):
        raise RegrnnError(f"{path}: no figure of these runs is a finite number; there is nothing to draw")
    with _style():
        picture = _draw(curves, figure.replace("_", " "), WIDE, title=title, paper=PAPER)
        data = io.BytesIO()
        if path.suffix == ".svg":
            picture.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
            save(path, data.getvalue().decode())
        else:
            picture.savefig(data, format="png", dpi=144, metadata={"Software": None})
            save(path, data.getvalue())


def inline_svg(
    curves: Sequence[Curve],
    y_label: str,
    size: tuple[float, float],
    *,
    name: str,
    description: str,
    rates: Sequence[float] = (),
) -> str:
    """The curves as an `<svg>` element for a page, in the page's colours; empty when there is nothing to draw.

    `name` keeps its inner identifiers apart from those of the page's other pictures; `description` is read out
    instead of the picture; `rates`, the learning rate of each epoch, are drawn below in a panel of their own.
    """
    if not any(curve.points for curve in curves):
        return ""
    with _style():
        data = io.BytesIO()
        _draw(curves, y_label, size, rates=rates).savefig(data, format="svg", transparent=True)
    return _embed(data.getvalue(), name, description)


@contextmanager
def _style() -> Iterator[None]:
    """The picture's settings, whatever the user's own matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.family": "DejaVu Sans",  # comes with matplotlib
                "font.size": 11.5,
                "text.parse_math": False,  # a label may hold a dollar sign
                "text.color": INK,
                "axes.edgecolor": SOFT,
                "axes.linewidth": 0.8,
                "axes.labelcolor": SOFT,
                "xtick.color": SOFT,
                "ytick.color": SOFT,
                "grid.color": GRID,
                "grid.linewidth": 0.9,
                "svg.fonttype": "path",
                "svg.hashsalt": "regrnn",  # the same picture for the same figures
            }
        )
        yield


def _draw(
    curves: Sequence[Curve],
    y_label: str,
    size: tuple[float, float],
    *,
    rates: Sequence[float] = (),
    title: str = "",
    paper: str = "none",
) -> Figure:
    """The picture. A unit of `size` is a pixel of the page, a point of the figure and, at 72 dpi, a display unit."""
    width, height = size
    figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor=paper)
    FigureCanvasAgg(figure)
    drawn = [curve for curve in curves if curve.points]
    rated = any(math.isfinite(x) and math.isfinite(rate) for x, rate in zip(drawn[0].epochs, rates, strict=False))

    # Margins in pixels: the labels of the curves stand right of the axes.
    right = 26 + max(_text_width(figure, line) for curve in drawn for line in _end_label(curve).split("\n"))
    edge = 0.0 if paper == "none" else 16.0  # a picture that stands alone has a border
    widest = max((_text_width(figure, _rate_label(rate)) for rate in rates if math.isfinite(rate)), default=0.0)
    left, top, bottom, rate_height, gap = max(52.0, widest + 8), 30.0 + 26 * bool(title), 40.0, 46.0, 20.0
    axes_bottom = bottom + (rate_height + gap) * rated

    def panel(low: float, high: float) -> Axes:
        box = (left / width, low / height, (width - left - right) / width, (high - low) / height)
        axes = figure.add_axes(box, facecolor="none")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0, pad=6)
        axes.set_axisbelow(True)
        return axes

    axes = panel(axes_bottom, height - top)
    lowest = axes
    if title:
        figure.text(edge / width, 1 - 14 / height, title, ha="left", va="top", fontsize=14, fontweight="bold")
    figure.text(edge / width, 1 - (top - 20) / height, y_label, ha="left", va="top", color=SOFT)

    xs = [x for curve in drawn for x, _ in curve.points]
    first, last = min(xs), max(xs)
    side = 0.5 if first == last else 0.02 * (last - first)
    ys = [y for curve in drawn for _, y in curve.points]
    log = logarithmic(ys)
    low, high = limits(ys, log=log)
    if log:
        axes.set_yscale("log")
    axes.set_xlim(first - side, last + side)
    axes.set_ylim(low, high)
    _set_ticks(axes, ticks(low, high, log=log), "y")
    axes.grid(axis="y")
    if rated:
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        lowest = panel(bottom, bottom + rate_height)
        lowest.set_xlim(axes.get_xlim())
        _draw_rates(lowest, drawn[0].epochs, rates)
    _set_ticks(lowest, whole_ticks(first, last, 14 if width > 500 else 6), "x")
    lowest.set_xlabel("epoch", labelpad=4)

    for curve in drawn:
        axes.plot(
            curve.epochs,
            [y if math.isfinite(y) else math.nan for y in curve.values],
            color=HUES[curve.hue],
            linewidth=2.0 if not curve.dashed else 1.6,
            linestyle=(0, (4, 2.2)) if curve.dashed else "-",
            marker="o" if len(curve.values) <= 40 or len(curve.points) == 1 else "",
            markersize=3.4,
            solid_capstyle="round",
            clip_on=False,
            zorder=3,
        )
    _label_ends(axes, drawn)
    for curve in drawn:
        _mark_best(axes, curve, drawn)
    return figure


def _rate_label(rate: float) -> str:
    return f"{rate:.3g}"


def _draw_rates(axes: Axes, epochs: Sequence[float], rates: Sequence[float]) -> None:
    """The learning rate as steps; the rate of an epoch holds from the end of the one before."""
    points = [(x, y) for x, y in zip(epochs, rates, strict=True) if math.isfinite(x) and math.isfinite(y)]
    xs, ys = zip(*[(points[0][0] - 1, points[0][1]), *points], strict=True)
    low, high = min(ys), max(ys)
    log = low > 0 and high / low > 4
    if log:
        axes.set_yscale("log")
    axes.set_ylim(*limits(ys, log=log, margin=0.12))
    axes.plot(xs, ys, color=SOFT, linewidth=1.3, drawstyle="steps-pre", zorder=3)
    axes.yaxis.set_major_locator(FixedLocator(sorted({low, high})))
    axes.yaxis.set_major_formatter(FixedFormatter([_rate_label(value) for value in sorted({low, high})]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="y", labelsize=10)
    axes.annotate(
        "learning rate",
        (1, 1),
        xycoords="axes fraction",
        xytext=(15, 0),
        textcoords="offset points",
        va="top",
        color=SOFT,
        fontsize=10,
        annotation_clip=False,
    )


def _set_ticks(axes: Axes, values: Sequence[float], which: str) -> None:
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_locator(FixedLocator(values))
    axis.set_major_formatter(FixedFormatter([tick_text(value) for value in values]))
    axis.set_minor_locator(NullLocator())


def _end_label(curve: Curve) -> str:
    return f"{curve.label} {figure_text(curve.points[-1][1])}"


def _text_width(figure: Figure, text: str) -> float:
    """In pixels of the picture."""
    drawn = figure.text(0, 0, text)
    width = float(drawn.get_window_extent().width)
    drawn.remove()
    return width


def _pixels(axes: Axes) -> Transform:
    """The coordinates in which the picture is laid out, at whatever resolution it is saved."""
    return Affine2D().scale(1 / 72) + axes.figure.dpi_scale_trans


def _label_ends(axes: Axes, curves: Sequence[Curve]) -> None:
    """Write each curve's name and last value right of its end, pushed apart where they would touch."""
    frame = axes.get_window_extent()
    line = 15.5
    ends = [axes.transData.transform(curve.points[-1]) for curve in curves]
    heights = [line * (1 + _end_label(curve).count("\n")) for curve in curves]
    order = sorted(range(len(curves)), key=lambda i: ends[i][1])
    places = spread([ends[i][1] for i in order], [heights[i] + 3 for i in order])
    lowest = min(place - heights[i] / 2 for place, i in zip(places, order, strict=True))
    lift = max(0.0, frame.y0 - 6 - lowest)
    for place, i in zip(places, order, strict=True):
        curve, (x, y) = curves[i], ends[i]
        axes.plot(
            [x + 4, frame.x1 + 11],
            [y, place + lift],
            transform=_pixels(axes),
            color=HUES[curve.hue],
            linewidth=0.8,
            alpha=0.55,
            clip_on=False,
        )
        axes.text(
            frame.x1 + 15,
            place + lift,
            _end_label(curve),
            transform=_pixels(axes),
            color=HUES[curve.hue],
            va="center",
            linespacing=1.25,
        )


def spread(centres: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """The ascending `centres`, moved apart as little as lets intervals of these `sizes` around them not overlap."""
    groups: list[tuple[float, list[int]]] = []  # where a block of touching intervals starts, and which they are
    for index in range(len(centres)):
        members = [index]
        while True:
            # The block's best place: the mean of where each member alone would want the block to start.
            offset, wanted = 0.0, 0.0
            for member in members:
                wanted += centres[member] - sizes[member] / 2 - offset
                offset += sizes[member]
            start = wanted / len(members)
            if groups and start < groups[-1][0] + sum(sizes[member] for member in groups[-1][1]):
                members = groups.pop()[1] + members
                continue
            groups.append((start, members))
            break
    places = [0.0] * len(centres)
    for start, members in groups:
        for member in members:
            places[member] = start + sizes[member] / 2
            start += sizes[member]
    return places


def _mark_best(axes: Axes, curve: Curve, curves: Sequence[Curve]) -> None:
    """A ring around the best point, and its value where the fewest curves run."""
    if curve.best is None:
        return
    epoch, value = curve.epochs[curve.best], curve.values[curve.best]
    if (epoch, value) not in curve.points:
        return
    colour = HUES[curve.hue]
    axes.plot([epoch], [value], "o", color=PAPER, markersize=11, zorder=4, clip_on=False)
    axes.plot(
        [epoch], [value], "o", markersize=8, zorder=5, clip_on=False,
        markerfacecolor=PAPER, markeredgecolor=colour, markeredgewidth=2.2,
    )  # fmt: skip
    x, y = axes.transData.transform((epoch, value))
    label = axes.text(
        x, y, f"best {figure_text(value)}\nepoch {epoch:g}", transform=_pixels(axes), color=colour, zorder=6,
        fontsize=11, linespacing=1.2, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip
    box = label.get_window_extent()
    frame = axes.get_window_extent()
    near = 11

    def place(horizontal: float, vertical: float) -> Bbox:
        """The label's box with its centre left, above ... of the point, kept within the axes' width."""
        centre_x = x + horizontal * (box.width / 2 + near)
        centre_x = min(max(centre_x, frame.x0 + box.width / 2), frame.x1 - box.width / 2)
        centre_y = y + vertical * (box.height / 2 + (near if horizontal else 16))
        return Bbox.from_bounds(centre_x - box.width / 2, centre_y - box.height / 2, box.width, box.height)

    places = [
        place(h, v)
        for h, v in ((0, 1), (0, -1), (-1, 1), (-1, -1), (1, 1), (1, -1), (0, 1.8), (0, -1.8), (0, 3), (0, -3))
    ]
    path = [point for other in curves for point in _trace(axes, other)]
    texts = [text.get_window_extent() for text in axes.texts if text is not label]

    def trouble(place: Bbox) -> int:
        wide = place.padded(4)
        outside = place.y0 < frame.y0 - 16 or place.y1 > frame.y1 + 16
        covered = sum(bool(wide.contains(*point)) for point in path)
        return covered + 1000 * (bool(outside) + sum(bool(wide.overlaps(text)) for text in texts))

    chosen = min(places, key=trouble)
    label.set_position((chosen.x0, chosen.y0))
    label.set_verticalalignment("bottom")


def _trace(axes: Axes, curve: Curve) -> Iterator[tuple[float, float]]:
    """Points along the curve, a few pixels apart."""
    corners = [tuple(axes.transData.transform(point)) for point in curve.points]
    yield from corners
    for (x0, y0), (x1, y1) in pairwise(corners):
        count = int(math.hypot(x1 - x0, y1 - y0) / 3)
        yield from ((x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(1, count))


def _embed(svg: bytes, name: str, description: str) -> str:
    """matplotlib's SVG file as an element of a page: no prolog, metadata or style sheet; the page's colours."""
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key == "href":
                element.set(key, f"#{name}-{value.removeprefix('#')}")
            else:
                value = re.sub(r"url\(#(.*?)\)", rf"url(#{name}-\1)", value)
                element.set(key, re.sub("#[0-9a-f]{6}", _variable, value))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", description)
    return ElementTree.tostring(root, encoding="unicode")


def _variable(colour: re.Match[str]) -> str:
    known = VARIABLES.get(colour[0])
    return f"var(--{known})" if known else colour[0]
