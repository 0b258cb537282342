"""``regrnn trace``: the paper's figure 3, measured and drawn."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from regrnn.errors import RegrnnError

if TYPE_CHECKING:
    from torch import nn

    from regrnn.nn import CorruptionCount
    from regrnn.reports.trace import Trace

Cell = Literal["lstm", "gru", "rnn"]
Scheme = Literal["paper", "standard", "variational", "torch.nn"]

# The sketch: struck by dropout or not, on the path or not; and what stands for them in ASCII.
_CELL = 8
_ACROSS = {(True, True): "┅", (True, False): "╌", (False, True): "━", (False, False): "─"}
_UP = {(True, True): "┇", (True, False): "┆", (False, True): "┃", (False, False): "│"}
_ASCII = str.maketrans("┅╌━─┇┆┃│●○▶", "~-=_:;#|@o>")

# Beyond these a picture is wider, or higher, than anybody can read.
_MOST_STEPS, _MOST_LAYERS = 24, 12


def trace(
    *,
    cell: Cell = "lstm",
    layers: int = 2,
    dropout: float = 0.5,
    regularization: Scheme = "paper",
    distance: int = 5,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Count how often dropout strikes what travels through a network, and draw it.

    The network is built, run and followed; nothing is read off its settings.

    Parameters
    ----------
    cell
        Kind of recurrent layer.
    layers
        Number of layers, L.
    dropout
        Rate of dropout, from 0 to below 1.
    regularization
        Where dropout strikes. paper: all but the recurrent connections. standard: these too. variational: these
        too, with one mask for all steps. torch.nn: what torch.nn's layers make of dropout=, between layers only.
    distance
        Count for inputs and outputs 0, 1, ... up to this many time steps apart.
    out
        Save a picture to this file, .svg, .png or .pdf.
    json
        Print one JSON object.
    """
    import json as json_module

    from regrnn.nn.corruption import corruption_profile

    _check(layers, dropout, distance, out)
    counts = corruption_profile(_network(cell, layers, dropout, regularization), distance)
    lattice = _lattice(cell, layers, dropout, regularization, counts)
    if out is not None:
        _save_picture(out, lattice, cell, dropout, regularization, counts)
    if json:
        record = {
            "cell": cell,
            "layers": layers,
            "dropout": dropout,
            "regularization": regularization,
            "counts": [{"distance": d, **count._asdict()} for d, count in enumerate(counts)],
            "picture": None if out is None else str(out),
        }
        print(json_module.dumps(record))
        return
    lines = ["distance  least  most", *(f"{d:8}  {least:5}  {most:4}" for d, (least, most) in enumerate(counts))]
    lines += ["", _reading(cell, layers, counts)]
    sketch = _sketch(lattice)
    if max(map(len, sketch)) <= shutil.get_terminal_size().columns:
        lines += ["", *sketch]
    if out is not None:
        lines += ["", f"Picture: {out}"]
    print(_for_terminal("\n".join(lines)))


def _check(layers: int, dropout: float, distance: int, out: Path | None) -> None:
    from regrnn.reports.trace import SUFFIXES

    if layers < 1:
        raise RegrnnError(f"--layers {layers}: must be at least 1")
    if not 0 <= dropout < 1:
        raise RegrnnError(f"--dropout {dropout}: must be a rate from 0 to below 1")
    if distance < 0:
        raise RegrnnError(f"--distance {distance}: must be at least 0")
    if out is not None:
        if out.suffix not in SUFFIXES:
            raise RegrnnError(f"--out {out}: pictures are saved as {', '.join(SUFFIXES)}; name it so")
        if distance > _MOST_STEPS:
            raise RegrnnError(f"--out draws at most {_MOST_STEPS} steps: give --distance {_MOST_STEPS} or less")
        if layers > _MOST_LAYERS:
            raise RegrnnError(f"--out draws at most {_MOST_LAYERS} layers: give --layers {_MOST_LAYERS} or less")


def _network(cell: Cell, layers: int, dropout: float, scheme: Scheme) -> nn.Module:
    import torch

    import regrnn.nn as ours

    name, size = cell.upper(), 4
    if scheme == "torch.nn":
        # A single layer has no place for it, and torch warns.
        rate = dropout if layers > 1 else 0.0
        theirs: nn.Module = getattr(torch.nn, name)(size, size, layers, dropout=rate)
        return theirs
    network: nn.Module = getattr(ours, name)(size, size, layers, dropout=getattr(ours.Regularization, scheme)(dropout))
    return network


def _lattice(cell: Cell, layers: int, dropout: float, scheme: Scheme, counts: Sequence[CorruptionCount]) -> Trace:
    """Which kinds of connection dropout strikes, told apart by networks of one and of two layers."""
    from regrnn.nn.corruption import corruption_profile
    from regrnn.reports.trace import Trace

    one, step = corruption_profile(_network(cell, 1, dropout, scheme), 1)
    (two,) = corruption_profile(_network(cell, 2, dropout, scheme), 0)
    distance = len(counts) - 1
    but = ", but not on the cell state c" if cell == "lstm" else ""
    about = {
        "paper": "the paper's dropout, on all connections but the recurrent ones",
        "standard": f"standard dropout, on the recurrent connections too{but}",
        "variational": f"variational dropout, on the recurrent connections too{but}",
        "torch.nn": f"the dropout of torch.nn.{cell.upper()}, between layers only",
    }[scheme]
    return Trace(
        layers=layers,
        back=distance // 2,
        ahead=distance - distance // 2,
        ends=one.most > 0,
        between=two.most > one.most,
        recurrent=step.most > one.most,
        least=counts[-1].least,
        most=counts[-1].most,
        about=f"{_layers_text(layers)} of {cell.upper()} with {about}",
    )


def _save_picture(
    out: Path, lattice: Trace, cell: Cell, dropout: float, scheme: Scheme, counts: Sequence[CorruptionCount]
) -> None:
    from regrnn.nn.corruption import corruption_profile
    from regrnn.reports.trace import trace_picture

    shown: tuple[Scheme, ...] = ("paper", "variational" if scheme == "variational" else "standard", "torch.nn")
    profiles: dict[str, Sequence[tuple[int, int]]] = {
        other: counts
        if other == scheme
        else corruption_profile(_network(cell, lattice.layers, dropout, other), len(counts) - 1)
        for other in shown
    }
    trace_picture(out, lattice, profiles)


def _layers_text(layers: int) -> str:
    return "1 layer" if layers == 1 else f"{layers} layers"


def _reading(cell: Cell, layers: int, counts: Sequence[CorruptionCount]) -> str:
    """What the counts say, in a sentence."""
    from regrnn.reports.trace import passes_text

    first, last, steps = counts[0], counts[-1], len(counts) - 1
    what = f"What travels through {_layers_text(layers)} of {cell.upper()} {passes_text(*last)}"
    if last == first:
        return f"{what}, {'however many steps it crosses' if steps else 'within a step'} (L + 1 = {layers + 1})."
    if last.least == last.most:
        return f"{what} over {_steps_text(steps)}: once more with every step."
    spared = {"lstm": "the cell state c", "gru": "what the update gate keeps of h"}[cell]
    return f"{what} over {_steps_text(steps)}: once more with every step through h, but not through {spared}."


def _steps_text(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"


def _sketch(trace: Trace) -> list[str]:
    """The lattice in characters, the output on top; heavy where the path goes."""
    steps, top = range(-trace.back, trace.ahead + 1), trace.layers + 1
    nodes = trace.path
    edges = set(pairwise(nodes))
    lines = []
    for level in range(top, -1, -1):
        row = ""
        for step in steps:
            if level in (0, top):
                name = "x" if level == 0 else "y"
                row += f"{name}[t{step:+d}]".replace("t+0", "t").ljust(_CELL)
                continue
            row += " ● " if (step, level) in nodes else " ○ "
            if step < trace.ahead:
                heavy = ((step, level), (step + 1, level)) in edges
                row += _ACROSS[trace.recurrent, heavy] * (_CELL - 4) + ("▶" if heavy else ">")
        lines.append(row.rstrip())
        if level > 0:
            marks = [_UP[trace.is_struck(level - 1), ((step, level - 1), (step, level)) in edges] for step in steps]
            lines.append("".join(f" {mark}".ljust(_CELL) for mark in marks).rstrip())
    kinds = "┆ ╌ through dropout   │ ─ without   ┇ ┅ ┃ ━ one path"
    return [*lines, "", kinds]


def _for_terminal(text: str) -> str:
    """In ASCII if standard output cannot say it otherwise."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return text.translate(_ASCII)
    return text
