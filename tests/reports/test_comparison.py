"""Runs side by side: the page and the picture."""

import math
import re
import warnings
from xml.etree import ElementTree

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrnn.errors import RegrnnError
from regrnn.reports.comparison import write_comparison
from regrnn.reports.curves import WIDE, Curve, curves_picture, inline_svg, spread

WITH = [170.0, 130.0, 110.0, 100.0]


@pytest.fixture
def runs(make_run):
    return {"without dropout": make_run("without"), "with dropout": make_run("with", valid=WITH, train=WITH)}


def test_the_page_compares_best_and_last_epochs(tmp_path, runs, parse_page):
    path = write_comparison(tmp_path / "page.html", "Title", "Dropout <helps>.", runs, ["a  sample\n<unk>", "b"])
    assert path == tmp_path / "page.html"
    parsed = parse_page(path)
    assert ["without dropout epoch 3, the best", "90.00", "121.50", "116.50"] in parsed.rows
    assert ["epoch 4, the last", "60.00", "125.00", "–"] in parsed.rows
    assert ["with dropout epoch 4, the best", "100.00", "100.00", "95.00"] in parsed.rows
    assert ["predictions", "20,000", "73,759", "82,429"] in parsed.rows
    assert len(parsed.rows) == 5  # with dropout the best epoch is the last
    html = path.read_text()
    assert re.findall("<strong>(.*?)</strong>", html) == ["100.00", "95.00"]
    assert "<pre>a  sample\n&lt;unk&gt;</pre>" in html
    assert "Dropout &lt;helps&gt;." in html
    assert "lower is better" in html
    assert html.count("<svg") == 2


def test_the_page_of_a_figure_that_should_be_high(tmp_path, make_run):
    values = {"a": [50.0, 60.0, 55.0], "b": [50.0, 70.5, 70.0]}
    runs = {name: make_run(name, valid=v, train=v, figure="frame_accuracy", higher=True) for name, v in values.items()}
    html = write_comparison(tmp_path / "page.html", "Title", "", runs).read_text()
    assert "Frame accuracy, higher is better" in html
    assert re.findall("<strong>(.*?)</strong>", html) == ["70.50", "65.50"]


def test_runs_that_are_not_finished_can_be_compared(tmp_path, make_run, parse_page):
    runs = {"a": make_run("a", finished=False), "b": make_run("b", valid=[180.0], finished=False)}
    rows = parse_page(write_comparison(tmp_path / "page.html", "Title", "", runs)).rows
    assert ["b epoch 1, the best", "200.00", "180.00", "–"] in rows
    assert rows[-1] == ["predictions", "20,000", "73,759", "–"]


def test_one_epoch_does_not_tell_which_run_is_better(tmp_path, make_run):
    runs = {name: make_run(name, valid=[value], figure="bleu") for name, value in (("a", 20.0), ("b", 30.0))}
    html = write_comparison(tmp_path / "page.html", "Title", "", runs).read_text()
    assert "is better" not in html
    assert "<strong>" not in html


def test_runs_without_a_finite_figure(tmp_path, make_run, parse_page):
    runs = {"a": make_run("a", valid=[math.inf], train=[math.inf], finished=False)}
    path = write_comparison(tmp_path / "page.html", "Title", "", runs)
    assert ["a epoch 1, the last", "∞", "∞", "–"] in parse_page(path).rows
    with pytest.raises(RegrnnError, match="nothing to draw"):
        curves_picture(tmp_path / "picture.png", runs, "Title")


def test_different_numbers_of_predictions_are_said_of_each_run(tmp_path, make_run, parse_page):
    runs = {"a": make_run("a"), "b <i>": make_run("b", finished=False)}
    rows = parse_page(write_comparison(tmp_path / "page.html", "Title", "", runs)).rows
    assert rows[-2:] == [
        ["predictions, a", "20,000", "73,759", "82,429"],
        ["predictions, b <i>", "20,000", "73,759", "–"],
    ]


def test_runs_that_cannot_be_compared(tmp_path, make_run):
    first = make_run("first")
    for name, other, match in [
        ("empty", make_run("empty", valid=[], finished=False), "no epoch has been evaluated yet"),
        ("other", make_run("other", figure="bleu"), "measures bleu, not perplexity"),
        ("none", tmp_path, "not a run"),
    ]:
        with pytest.raises(RegrnnError, match=match):
            write_comparison(tmp_path / "page.html", "Title", "", {"first": first, name: other})
        with pytest.raises(RegrnnError, match=match):
            curves_picture(tmp_path / "picture.svg", {"first": first, name: other}, "Title")
    assert not (tmp_path / "page.html").exists()
    assert not (tmp_path / "picture.svg").exists()


def test_the_svg_picture_names_its_curves_and_their_best_points(tmp_path, runs):
    path = tmp_path / "picture.svg"
    curves_picture(path, runs, "Costs $5 and $6")
    svg = path.read_text()
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    texts = set(re.findall("<!-- (.*?) -->", svg, flags=re.DOTALL))  # matplotlib's notes beside the outlines of text
    texts = {line for text in texts for line in text.split("\n")}
    assert {"Costs $5 and $6", "perplexity", "epoch", "best 121.50", "epoch 3", "best 100.00"} <= texts
    assert {"without dropout", "with dropout", "train 60.00", "valid 125.00", "valid 100.00"} <= texts
    again = tmp_path / "again.svg"
    curves_picture(again, runs, "Costs $5 and $6")
    assert again.read_bytes() == path.read_bytes()


def test_the_png_picture(tmp_path, runs):
    path = tmp_path / "picture.png"
    curves_picture(path, runs, "Title")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    size = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    assert size == (2 * WIDE[0], 2 * WIDE[1])


def test_other_kinds_of_pictures_are_refused(tmp_path, runs):
    with pytest.raises(RegrnnError, match=r"\.png or \.svg"):
        curves_picture(tmp_path / "picture.jpg", runs, "Title")


def draw():
    curves = [
        Curve("train", [1, 2, 3], [9.0, 4.0, 1.0], 1, dashed=True),
        Curve("valid", [1, 2, 3], [8.0, 5.0, 6.0], 0, best=1),
    ]
    return inline_svg(curves, "perplexity", WIDE, name="a", description="Two curves", rates=[1.0, 1.0, 0.5])


def test_an_inline_picture_is_in_the_colours_of_the_page():
    svg = draw()
    assert not re.search("#[0-9a-f]{6}", svg)
    assert {"soft", "grid", "paper", "hue-0", "hue-1"} == set(re.findall(r"var\(--(.*?)\)", svg))
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == "Two curves"
    assert root.get("viewBox") == f"0 0 {WIDE[0]:g} {WIDE[1]:g}"
    assert not {"metadata", "style"} & {element.tag for element in root.iter()}


def test_a_picture_does_not_depend_on_the_users_settings_nor_change_them():
    plain = draw()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "axes.grid": True, "svg.fonttype": "none"}):
        before = dict(matplotlib.rcParams)
        assert draw() == plain
        assert dict(matplotlib.rcParams) == before


def test_a_picture_without_a_finite_value_is_empty():
    curves = [Curve("valid", [1, 2], [float("inf"), float("nan")], 0)]
    assert inline_svg(curves, "perplexity", WIDE, name="a", description="") == ""


def test_labels_of_any_length_leave_room_for_the_curves(tmp_path, make_run):
    runs = {"a very long label of a run that goes on and on " * 3: make_run("a"), "x" * 100: make_run("b")}
    with warnings.catch_warnings(action="error"):
        write_comparison(tmp_path / "page.html", "Title", "", runs)
    html = (tmp_path / "page.html").read_text()
    lines = re.findall(r'd="M ([\d.]+) ([\d.]+)\s+L ([\d.]+) ([\d.]+)\s+"', html)
    grid = [float(x1) - float(x0) for x0, y0, x1, y1 in lines if y0 == y1]
    assert min(length for length in grid if length > 20) > 100  # also on a phone


@settings(max_examples=50)
@given(data=st.lists(st.tuples(st.floats(0, 400), st.floats(1, 40)), min_size=1, max_size=8))
def test_spread_moves_labels_apart_and_keeps_their_order(data):
    centres = sorted(centre for centre, _ in data)
    sizes = [size for _, size in data]
    places = spread(centres, sizes)
    for i in range(1, len(places)):
        assert places[i] - places[i - 1] >= (sizes[i] + sizes[i - 1]) / 2 - 1e-6


def test_spread_moves_nothing_that_does_not_touch():
    assert spread([10.0, 50.0, 90.0], [20.0, 20.0, 20.0]) == [10.0, 50.0, 90.0]
    assert spread([50.0, 50.0, 90.0], [20.0, 20.0, 20.0]) == [40.0, 60.0, 90.0]
