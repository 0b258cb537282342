"""Curves as text."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrnn.reports.terminal import terminal_curves

SERIES = {"train": [500.0, 200.0, 90.0, 40.0, 20.0], "valid": [480.0, 220.0, 150.0, 170.0, 240.0]}


def plot_rows(text):
    return [line for line in text.split("\n") if "│" in line or "┤" in line]


def test_a_plot_has_a_title_axes_and_a_legend_that_names_the_minimum():
    lines = terminal_curves(SERIES, title="perplexity").split("\n")
    assert lines[0] == "perplexity"
    assert len(lines) == 1 + 16 + 2 + 2
    assert [line.split("┤")[0].strip() for line in lines if "┤" in line] == ["500", "200", "100", "50", "20"]
    assert lines[-3].split() == ["1", "2", "3", "4", "epoch"]
    assert lines[-2] == "  ● train  ★ minimum 20.00 at epoch 5, last 20.00"
    assert lines[-1] == "  ○ valid  ★ minimum 150.00 at epoch 3, last 240.00"


def test_the_star_stands_at_the_best_point():
    values = [5.0, 3.0, 1.0, 2.0, 4.0]
    low = plot_rows(terminal_curves({"a": values}, log=False))
    high = plot_rows(terminal_curves({"a": values}, log=False, best="maximum"))
    assert [row for row, line in enumerate(low) if "★" in line] == [15]
    assert [row for row, line in enumerate(high) if "★" in line] == [0]
    width = len(low[0].split("┤")[0].split("│")[0])
    assert low[15].index("★") == pytest.approx(width + 1 + (72 - width) / 2, abs=2)  # the third of five
    assert high[0].index("★") == width + 2


def test_a_falling_curve_falls():
    rows = plot_rows(terminal_curves({"a": [4.0, 3.0, 2.0, 1.0]}, log=False, height=8))
    stars = [(row, line.index(mark)) for row, line in enumerate(rows) for mark in "●★" if mark in line]
    assert [column for _, column in stars] == sorted(column for _, column in stars)
    assert stars[0][0] == 0 and stars[-1][0] == 7


def test_a_logarithmic_axis_gives_equal_ratios_equal_distances():
    rows = plot_rows(terminal_curves({"a": [1000.0, 100.0, 10.0, 1.0]}, log=True, height=31))
    ticks = [row for row, line in enumerate(rows) if "┤" in line]
    assert len(ticks) == 4
    steps = [b - a for a, b in pairwise(ticks)]
    assert max(steps) - min(steps) <= 1


def test_a_dashed_curve_has_fewer_dots():
    whole = terminal_curves({"a": [1.0, 2.0]})
    dashed = terminal_curves({"a": [1.0, 2.0]}, dashed=["a"])
    dots = [sum(bin(ord(c) - 0x2800).count("1") for c in text if 0x2800 <= ord(c) < 0x2900) for text in (whole, dashed)]
    assert 0.4 * dots[0] < dots[1] < 0.8 * dots[0]


def test_ascii_is_ascii_and_shows_the_same():
    text = terminal_curves(SERIES, title="perplexity", ascii=True)
    assert text.isascii()
    lines = text.split("\n")
    assert len(lines) == 1 + 16 + 2 + 2
    assert lines[-1] == "  o valid  ! minimum 150.00 at epoch 3, last 240.00"
    assert sum(line.count("!") for line in lines[:-2]) == 2


def test_values_that_are_not_finite_are_left_out():
    text = terminal_curves({"a": [math.inf, 5.0, math.nan, 4.0], "b": [math.nan]})
    assert "minimum 4.00 at epoch 4" in text
    assert "○ b  no finite value" in text
    assert terminal_curves({"a": [math.inf]}, title="t") == "t\n(no finite value to draw)"
    assert terminal_curves({}) == "(no finite value to draw)"


def test_one_point_and_equal_points():
    assert sum(line.count("★") for line in plot_rows(terminal_curves({"a": [5.0]}))) == 1
    assert sum(line.count("★") for line in plot_rows(terminal_curves({"a": [0.0, 0.0]}))) == 1


@settings(max_examples=60, deadline=None)
@given(
    series=st.dictionaries(
        st.sampled_from(["a", "bb", "c c"]),
        st.lists(st.floats(-1e200, 1e200) | st.sampled_from([math.inf, math.nan]), max_size=60),
    ),
    width=st.integers(40, 120),
    height=st.integers(4, 30),
    ascii=st.booleans(),
)
def test_any_curves_fit_their_size(series, width, height, ascii):
    text = terminal_curves(series, width=width, height=height, ascii=ascii)
    lines = text.split("\n")
    assert "\x1b" not in text
    if not text.startswith("("):
        assert len(lines) == height + 2 + len(series)
        assert all(len(line) <= width for line in lines[: height + 2])
        assert all(line == line.rstrip() for line in lines)


def test_plots_that_cannot_be():
    with pytest.raises(ValueError, match="40 x 4"):
        terminal_curves(SERIES, width=39)
    with pytest.raises(ValueError, match="40 x 4"):
        terminal_curves(SERIES, height=3)
    with pytest.raises(ValueError, match="9 curves are too many"):
        terminal_curves({str(i): [1.0] for i in range(9)})
    with pytest.raises(ValueError, match="no place for -1"):
        terminal_curves({"a": [-1.0, 2.0]}, log=True)
