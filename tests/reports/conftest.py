"""Run directories as `regrnn train` writes them, made by hand."""

import json
import math
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

VALID = [180.0, 140.0, 121.5, 125.0]
TRAIN = [200.0, 120.0, 90.0, 60.0]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes `tmp_path/name`: a run of 4 epochs, of which `valid` (and `train`) gives those that were evaluated."""

    def make(
        name: str = "run",
        *,
        valid: Sequence[float] = VALID,
        train: Sequence[float] = TRAIN,
        figure: str = "perplexity",
        higher: bool = False,
        finished: bool = True,
        **recipe: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        settings = {
            "name": name,
            "task": "language",
            "summary": "A small run",
            "expected": {"paper": "validation perplexity 120.7, test 114.5", "here": "", "machine": "", "time": ""},
            "data": {"path": "ptb", "steps": 20},
            "model": {"hidden_size": 200, "tied": False, "dropout": {"input": 0.25, "output": None}},
            "training": {"epochs": 4, "learning_rate": 1.0},
        }
        head = {"format": 1, "regrnn": "0.1.0", "seed": 7, "recipe": settings | recipe, "data": {"train": "sha256:ab"}}
        (folder / "recipe.json").write_text(json.dumps(head))
        lines, timings = [], []
        best, best_epoch = None, 0
        for epoch, (t, v) in enumerate(zip(train, valid, strict=False), start=1):
            better = math.isfinite(v) and (best is None or (v > best if higher else v < best))
            if better:
                best, best_epoch = v, epoch
            lines.append({"event": "progress", "epoch": epoch, "step": epoch * 1000 - 500, "loss": 6.5 - epoch})
            lines.append(
                {
                    "event": "epoch",
                    "epoch": epoch,
                    "step": epoch * 1000,
                    "learning_rate": 1.0 / 2**epoch,
                    "loss": 6.0 - epoch,
                    f"train_{figure}": t,
                    "train_predictions": 20000,
                    f"valid_{figure}": v,
                    "valid_predictions": 73759,
                    "best": better,
                }
            )
            timings.append({"epoch": epoch, "predictions": 90000, "seconds": 60.0, "threads": 2})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "timings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in timings))
        if finished:
            result = {
                "regularization": "none",
                "epochs": len(valid),
                "best_epoch": best_epoch,
                "figures": {
                    f"train_{figure}": train[best_epoch - 1],
                    f"valid_{figure}": best,
                    f"test_{figure}": best - 5,
                },
                "predictions": 82429,
                "protocol": "test: batch 1, every word",
                "command": "regrnn train ptb-small",
                "commit": "0123abcd",
                "machine": "a processor, 2 threads",
                "versions": {"regrnn": "0.1.0", "torch": "2.13.0"},
                "wall_seconds": 3725,
            }
            (folder / "result.json").write_text(json.dumps(result))
        return folder

    return make


class _Page(HTMLParser):
    """Collects what stands in a page, and what a page must not have."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self._attributes(tag, attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._attributes(tag, attrs)

    def _attributes(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "link", "iframe", "object", "embed", "base", "form"):
            self.faults.append(f"<{tag}>")
        for name, value in attrs:
            if name.startswith("on") or name in ("src", "srcset", "action"):
                self.faults.append(f"{tag} {name}={value}")
            elif name == "id":
                self.ids.append(value or "")
            elif name in ("href", "xlink:href"):
                self.references.append(value or "")
            self.references += re.findall(r"url\((.*?)\)", value or "")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            if re.search(r"@import|url\(|expression", data):
                self.faults.append("the style sheet loads something")
            return
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.fixture
def parse_page() -> Callable[[Path], _Page]:
    """Parses a page, and fails if it is not whole, could run or load something, or refers to what it does not hold."""

    def parse(path: Path) -> _Page:
        page = _Page()
        page.feed(path.read_text(encoding="utf-8"))
        page.close()
        assert page.open == []
        assert page.faults == []
        assert len(page.ids) == len(set(page.ids))
        assert {reference.removeprefix("#") for reference in page.references} <= set(page.ids)
        return page

    return parse
