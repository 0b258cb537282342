"""docs/performance.md is what the report makes of the committed results; the report makes a page of any results."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import ELSEWHERE, PAGE, ROOT, TABLES, main, render
from benchmarks.results import RESULTS, Entry, read
from benchmarks.tables import lines, number, spread

RANGE = {"median": 2.0, "low": 1.0, "high": 3.0}


def entry(part: str, case: str, *figures: dict[str, Any], **settings: Any) -> Entry:
    return {
        "format": 1, "part": part, "case": case, "quick": False, "notes": [], "threads": 2, "seconds": 12.3,
        "command": f"python -m benchmarks {part} --threads 2", "date": "2026-01-02 03:04 UTC", "commit": "0123456789ab",
        "machine": {"processor": "A Processor", "cores": 2, "system": "Linux 6", "load": [0.25, 0.5, 1.0]},
        "versions": {"regrnn": "0.1.0", "core": "avx2 of avx2", "torch": "2.13.0", "numpy": "2", "python": "3.11"},
        "settings": {"layers": 2, "hidden": 650, "dropout": 0.5} | settings,
        "measurements": [{"unit": "words/s", "runs": 3, "ours": RANGE, "idiom": RANGE, "ratio": RANGE} | figure
                         for figure in figures],
    }  # fmt: skip


def all_parts() -> list[Entry]:
    speed = {"ours_seconds": RANGE, "idiom_seconds": RANGE, "ours_gflops": RANGE, "idiom_gflops": RANGE}
    share = {"ours_share": {"median": 0.83, "low": 0.8, "high": 0.9}, "idiom_share": RANGE, "ours_whole_share": RANGE}
    masks = [{"name": name, **speed, **share} for name in ("step", "batch")]
    percents = ("bare_words_per_second", "batch_percent", "checkpoint_percent", "epoch_percent", "loss_percent")
    return [
        entry("growth", "threads", *(m | {"threads": t} for t in (1, 2) for m in masks)),
        entry("growth", "hidden", *(m | {"hidden": h} for h in (100, 200) for m in masks)),
        entry("roofline", "machine", {"name": "fma, 2 threads", "idiom": None, "ratio": None}),
        entry("step", "large", *masks, idiom="fused SGD, oneDNN on"),
        entry("step", "small", masks[0], idiom="foreach SGD, oneDNN on", dropout=0.0),
        entry(
            "bfloat16", "medium",
            {"name": "step", "ours_in_float32": RANGE, "idiom_in_float32": RANGE, "gain": RANGE, **speed},
        ),
        entry("layer", "small", {"name": "forward and backward", **speed}),
        entry(
            "inference", "small", {"name": "x", "verb": "score", "batch": 1, "storage": "float32", **speed},
            idiom_score_1="windows of 35",
        ),
        entry("translation", "plain", {"name": "beam 12", "beam": 12, **speed}),
        entry("memory", "medium", {"name": "step"}),
        entry("members", "small", {"name": "step"}, members=2),
        entry("process", "small", {"name": "step", "idiom": None, "ratio": None} | dict.fromkeys(percents, RANGE)),
        entry(
            "corpus", "memory",
            {"name": "1 MB", "tokens": 1234567, "stream_bytes": 2**21, "beyond_idle_MiB": 9.0, "prepare_seconds": 1.0,
             "epoch_seconds": 2.0, "idiom": None, "ratio": None},
        ),
    ]  # fmt: skip


def test_the_committed_page_is_what_the_committed_results_give() -> None:
    page = render(read(RESULTS), [read(path) for path in ELSEWHERE])
    assert PAGE.read_text(encoding="utf-8") == page, "run python -m benchmarks.report"


def test_what_the_committed_page_shows_is_there() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", PAGE.read_text(encoding="utf-8")):
        assert (PAGE.parent / target).exists(), f"docs/performance.md: {target} is not there"


def test_committed_results_are_real() -> None:
    for found in read(RESULTS):
        assert not found["quick"], f"{RESULTS.relative_to(ROOT)}: {found['part']} was taken with --quick"
        assert found["commit"], f"{RESULTS.relative_to(ROOT)}: {found['part']} has no commit"


def test_nothing_is_claimed_that_was_not_measured() -> None:
    text = render([])
    assert "{{" not in text
    for part in TABLES:
        assert f"*Not measured yet: `python -m benchmarks {part}`.*" in text


def test_every_part_gets_its_table_with_where_it_comes_from() -> None:
    text, elsewhere = render(all_parts(), [all_parts()]).split("## On other machines")
    assert "{{" not in text + elsewhere and "Not measured" not in text + elsewhere
    assert "| the layer alone | small, 2 x 650 |" in elsewhere and "**2.00** (1.00-3.00)" in elsewhere
    for part in TABLES:
        command = f"`python -m benchmarks {part} --threads 2`"
        assert f"{command}: 2026-01-02, A Processor, commit 0123456789, 3 runs a side" in text
    assert text.count("A Processor, 2 cores") == 1
    row = next(line for line in text.splitlines() if line.startswith("| large, 2 x 650 | the paper's masks"))
    assert "**2.00** (1.00-3.00)" in row and "83 %" in row
    assert text.index("| small, 2 x 650 | no dropout") < text.index("| large, 2 x 650 | the paper's masks")
    assert "1,234,567" in text and text.index("| hidden units |") < text.index("| threads |")


def test_toys_are_marked() -> None:
    assert "the figures below mean nothing" not in render(all_parts())
    assert "the figures below mean nothing" in render([found | {"quick": True} for found in all_parts()])


def test_the_command_writes_page_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps(all_parts()))
    elsewhere = tmp_path / "elsewhere.json"
    page = tmp_path / "docs" / "performance.md"
    flags = [str(results), "--out", str(page), "--elsewhere", str(elsewhere)]
    assert main(flags) == 0
    assert page.read_text() == render(all_parts())
    elsewhere.write_text(json.dumps(all_parts()))
    assert main(flags) == 0
    assert page.read_text() == render(all_parts(), [all_parts()])
    assert all(b"</svg>" in (page.parent / "images" / name).read_bytes() for name in ("core.svg", "growth.svg"))
    results.write_text("{}]")
    assert main(flags) == 1
    assert "not a results file" in capsys.readouterr().err


def test_the_terminal_shows_each_measurement() -> None:
    for found in all_parts():
        head, *rest = lines(found)
        assert head == f"{found['part']} {found['case']}, 2 threads, 12 s"
        assert len(rest) == len(found["measurements"]) and all("2.00 [1.00-3.00]" in line for line in rest)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.1234, "0.12"), (9.99, "9.99"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")],
)
def test_numbers_have_three_figures(value: float, text: str) -> None:
    assert number(value) == text


def test_a_range_of_one_run_is_a_number() -> None:
    assert spread({"median": 5.0, "low": 5.0, "high": 5.0}) == "5.00"
    assert spread(None) == "-"
