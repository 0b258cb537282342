"""`regrnn.confusion`: counts, the most frequent mistakes, and the picture."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from regrnn.confusion import CELL, MARGIN, from_json, svg, to_json, worst, write_page
from regrnn.errors import RegrnnError

NAMES = ["a", "<b>", "c&d", "never"]
TABLE = np.array([[90, 9, 1, 0], [0, 4, 0, 0], [3, 0, 300, 0], [0, 0, 0, 0]])


def test_counts_are_read_back() -> None:
    table, names = from_json(to_json(TABLE, NAMES))
    assert (table == TABLE).all() and names == NAMES
    for damaged in ("{", "3", '{"names": []}', '{"names": [], "counts": []}', '{"names": ["a"], "counts": [[1e99]]}'):
        with pytest.raises(ValueError):
            from_json(damaged)


def test_the_most_frequent_mistakes() -> None:
    assert worst(TABLE, NAMES, 10) == [("a", "<b>", 0.09), ("c&d", "a", 3 / 303), ("a", "c&d", 0.01)]
    assert worst(TABLE, NAMES, 1) == [("a", "<b>", 0.09)]
    assert worst(np.diag([1, 2]), ["a", "b"], 5) == []


def test_the_picture() -> None:
    root = ElementTree.fromstring(svg(TABLE, NAMES))
    space = "{http://www.w3.org/2000/svg}"
    cells = {cell[0].text: cell for cell in root.iter(f"{space}rect") if len(cell)}
    # Shares below half a percent of their row are left out, and so is the row of what was never spoken.
    assert set(cells) == {
        "a taken for a: 90.0% of 100",
        "a taken for <b>: 9.0% of 100",
        "a taken for c&d: 1.0% of 100",
        "<b> taken for <b>: 100.0% of 4",
        "c&d taken for a: 1.0% of 303",
        "c&d taken for c&d: 99.0% of 303",
    }
    one = cells["a taken for <b>: 9.0% of 100"]
    assert (int(one.get("x", "")), int(one.get("y", ""))) == (MARGIN + CELL, MARGIN)  # row a, column b
    assert float(one.get("fill-opacity", "")) == pytest.approx(0.3)
    assert "hue-1" in one.get("style", "") and "hue-0" in cells["a taken for a: 90.0% of 100"].get("style", "")
    assert [text.text for text in root.iter(f"{space}text")] == [name for name in NAMES for _ in range(2)]


def test_the_page(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", TABLE, NAMES, "test of <data>")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "test of &lt;data&gt;: 407 frames of known phones, 96.81 % right" in page
    assert re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>", page) == [
        ("c&amp;d", "303", "99.0"),
        ("a", "100", "90.0"),
        ("&lt;b&gt;", "4", "100.0"),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(RegrnnError, match="cannot be written"):
        write_page(tmp_path / "no" / "page.html", TABLE, NAMES, "")
