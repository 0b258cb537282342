"""Ticks and numbers."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrnn.reports.scale import duration, figure_text, limits, logarithmic, tick_text, ticks, whole_ticks


def test_ticks_are_round():
    assert ticks(0, 10, log=False) == [0, 2.5, 5, 7.5, 10]
    assert ticks(0.11, 0.29, log=False) == [0.125, 0.15, 0.175, 0.2, 0.225, 0.25, 0.275]
    assert ticks(1, 10000, log=True) == [1, 10, 100, 1000, 10000]
    assert ticks(20, 500, log=True) == [20, 50, 100, 200, 500]
    assert ticks(45, 190, log=True) == [50, 70, 100, 150]


@settings(max_examples=50)
@given(low=st.floats(1e-200, 1e200), factor=st.floats(1.6, 1e100))
def test_logarithmic_ticks_lie_within_and_are_few(low, factor):
    high = low * factor
    found = ticks(low, high, log=True)
    assert found == sorted(set(found))
    assert all(low <= tick <= high for tick in found)
    assert 2 <= len(found) <= 15


@settings(max_examples=50)
@given(low=st.floats(-1e6, 1e6), size=st.floats(1e-3, 1e9))
def test_linear_ticks_lie_within_at_equal_distances(low, size):
    high = low + size
    found = ticks(low, high, log=False)
    slack = 1e-6 * size
    assert all(low - slack <= tick <= high + slack for tick in found)
    assert 4 <= len(found) <= 11
    steps = [b - a for a, b in pairwise(found)]
    assert max(steps) - min(steps) <= 1e-4 * max(steps)


@settings(max_examples=50)
@given(low=st.integers(0, 1000), size=st.integers(0, 100000), most=st.integers(5, 20))
def test_whole_ticks_are_whole_and_few(low, size, most):
    found = whole_ticks(low, low + size, most)
    assert all(isinstance(tick, int) and low <= tick <= low + size for tick in found)
    assert min(2, size + 1) <= len(found) <= most + 1


@settings(max_examples=50)
@given(values=st.lists(st.floats(1e-300, 1e300), min_size=1), log=st.booleans())
def test_limits_hold_all_values_and_are_not_equal(values, log):
    low, high = limits([*values, math.nan, math.inf], log=log)
    assert low < min(values)
    assert high > max(values)
    assert not log or low > 0


def test_an_axis_is_logarithmic_where_that_helps():
    assert logarithmic([20.0, 500.0, math.inf])
    assert not logarithmic([60.0, 70.0])
    assert not logarithmic([0.0, 500.0])
    assert not logarithmic([math.nan])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (121.376, "121.38"),
        (1234.5, "1,234"),
        (2e7, "2.00e+07"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "not a number"),
        (None, "–"),
        (0.0, "0.00"),
    ],
)
def test_figure_text(value, text):
    assert figure_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1500.0, "1,500"), (0.25, "0.25"), (2e7, "2e+07"), (1e-5, "1e-05"), (100.0, "100")]
)
def test_tick_text(value, text):
    assert tick_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.2, "12 s"), (59.7, "1 min 00 s"), (200, "3 min 20 s"), (3900, "1 h 05 min")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text
