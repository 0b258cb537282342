"""Axes and numbers for people: round ticks, and figures as they are read."""

import math
from collections.abc import Iterable

_LADDERS = (
    (1.0,),
    (1.0, 3.0),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
)
"""Round numbers within a decade, from coarse to fine."""

_LARGEST = math.nextafter(math.inf, 0)


def logarithmic(values: Iterable[float]) -> bool:
    """Whether the finite values are read better on a logarithmic axis: all above 0 and more than threefold apart."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) > 3


def limits(values: Iterable[float], *, log: bool, margin: float = 0.06) -> tuple[float, float]:
    """The ends of an axis that holds the finite values, of which there is at least one, and a `margin` around them."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    equal = high - low <= 1e-6 * max(abs(low), abs(high))
    if log:
        factor = 1.1 if equal else math.exp(margin * (math.log(high) - math.log(low)))
        return max(low / factor, math.ulp(0.0)), min(high * factor, _LARGEST)
    room = (0.1 * abs(high) or 1.0) if equal else margin * (high - low)
    return low - room, high + room


def ticks(low: float, high: float, *, log: bool, least: int = 4) -> list[float]:
    """Round numbers within [low, high], at least `least` of them where that is possible and few more."""
    if log and high / low > 1.5:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        if last - first > 2 * least:  # many decades: some powers of ten
            every = math.ceil((last - first) / (2 * least))
            return [10.0**power for power in range(first, last) if power % every == 0 and low <= 10.0**power <= high]
        for ladder in _LADDERS:
            found = [
                value
                for power in range(first, last + 1)
                for step in ladder
                if low <= (value := float(f"{step}e{power}")) <= high
            ]
            if len(found) >= least:
                return found
    rough = (high - low) / least
    decade = math.floor(math.log10(rough))
    step = next(s for s in (5.0, 2.5, 2.0, 1.0) if s * 10.0**decade <= rough) * 10.0**decade
    return [round(index * step, 12 - decade) for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def whole_ticks(low: float, high: float, most: int) -> list[int]:
    """Whole numbers within [low, high], at equal and round distances, at most `most` + 1; for `most` from 5 upwards."""
    step = next(s * 10**power for power in range(300) for s in (1, 2, 5) if (high - low) / (s * 10**power) <= most)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def tick_text(value: float) -> str:
    """A tick's number: `1,500`, `0.25`, `2e+07`."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:,.10f}".rstrip("0").rstrip(".")
    return f"{value:.3g}"


def figure_text(value: float | None) -> str:
    """A measured figure: `121.38`, `1,234`, `∞`; a dash for none."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if abs(value) >= 1e6:
        return f"{value:.2e}"
    return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """`1 h 05 min`, `3 min 20 s` or `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
