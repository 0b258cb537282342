"""The page of one run, at every stage of the run."""

import json
import math

import pytest

from regrnn.errors import RegrnnError
from regrnn.reports import page
from regrnn.reports.run import write_run_report


def words(parsed):
    return " ".join(" ".join(parsed.text).split())


def test_a_finished_run(make_run, parse_page):
    run = make_run("ptb-small")
    path = write_run_report(run)
    assert path == run / "report.html"
    parsed = parse_page(path)
    assert ["perplexity epoch 3, the best", "90.00", "121.50", "116.50"] in parsed.rows
    assert ["perplexity, epoch 4, the last", "60.00", "125.00", "–"] in parsed.rows
    assert ["predictions", "20,000", "73,759", "82,429"] in parsed.rows
    assert ["the paper", "validation perplexity 120.7, test 114.5"] in parsed.rows
    assert ["3 best", "3,000", "0.125", "3.000", "90.00", "121.50", "1,500", "1 min 00 s"] in parsed.rows
    text = words(parsed)
    for part in (
        "ptb-small",
        "A small run",
        "language · seed 7",
        "finished, 4 epochs",
        "hidden_size 200",
        "tied false",
        "dropout.input 0.25",
        "dropout.output none",
        "test: batch 1, every word",
        "regrnn train ptb-small",
        "0123abcd",
        "a processor, 2 threads",
        "regrnn 0.1.0, torch 2.13.0",
        "1 h 02 min",
        "1,500 predictions a second",
        "sha256:ab",
    ):
        assert part in text
    assert path.read_text().count("<svg") == 2  # one for a screen, one for a phone
    assert sorted(entry.name for entry in run.iterdir() if "report" in entry.name) == ["report.html"]


def test_the_table_takes_the_figures_of_the_result(make_run, parse_page):
    run = make_run()
    result = json.loads((run / "result.json").read_text())
    result["figures"] |= {"valid_perplexity": 99.25, "test_bleu": 18.5}
    (run / "result.json").write_text(json.dumps(result))
    rows = parse_page(write_run_report(run)).rows
    assert ["perplexity epoch 3, the best", "90.00", "99.25", "116.50"] in rows
    assert ["bleu epoch 3, the best", "–", "–", "18.50"] in rows


@pytest.mark.parametrize(
    ("lines", "running", "state"),
    [
        ([], False, "stopped before anything was measured"),
        ([], True, "running, nothing measured yet"),
        ([{"event": "progress", "epoch": 2, "step": 1500, "loss": 5.1234}], False,
         "stopped in epoch 2 of 4, step 1,500, mean training loss 5.123 nats"),
        ([{"event": "progress", "epoch": 2, "step": 1500, "loss": 5.1234}], True,
         "running in epoch 2 of 4, step 1,500, mean training loss 5.123 nats"),
        ([{"event": "epoch", "epoch": 2, "step": 2000}], False, "stopped after epoch 2 of 4, step 2,000"),
    ],
)  # fmt: skip
def test_the_state_of_an_unfinished_run(make_run, parse_page, lines, running, state):
    run = make_run(finished=False)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert state in words(parse_page(write_run_report(run, running=running)))


def test_a_run_that_stopped_early_by_its_own_rule(make_run, parse_page):
    run = make_run(valid=[5.0, 6.0, 7.0])
    assert "finished early, after 3 of 4 epochs" in words(parse_page(write_run_report(run)))


def test_no_epoch_yet(make_run, parse_page):
    run = make_run(valid=[], finished=False)
    for name in ("metrics.jsonl", "timings.jsonl"):
        (run / name).unlink()
    path = write_run_report(run)
    assert "No epoch has been evaluated yet." in words(parse_page(path))
    assert "<svg" not in path.read_text()


def test_one_epoch_and_a_half_written_line(make_run, parse_page):
    run = make_run(valid=[180.0], finished=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "epoch", "epoch": 2, "tr')
    path = write_run_report(run)
    parsed = parse_page(path)
    assert ["perplexity epoch 1, the best", "200.00", "180.00", "–"] in parsed.rows
    assert "stopped after epoch 1 of 4" in words(parsed)
    assert path.read_text().count("<svg") == 2


@pytest.mark.parametrize(
    ("valid", "pictures"),
    [
        ([180.0, math.inf, math.nan, 1e300], 2),
        ([math.inf, math.inf], 0),
        ([0.0, 0.0, 0.0], 2),
        ([-5.0, 5.0], 2),
        ([1e-300, 1e300], 2),
    ],
)
def test_figures_that_are_hard_to_draw(make_run, parse_page, valid, pictures):
    run = make_run(valid=valid, train=valid, finished=False)
    path = write_run_report(run)
    rows = parse_page(path).rows
    assert path.read_text().count("<svg") == pictures
    if math.inf in valid:
        assert [row[5] for row in rows if row[0] == "2"] == ["∞"]


def test_everything_from_files_is_escaped(make_run, parse_page):
    evil = "</style><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
    run = make_run(
        name="evil",
        summary=evil,
        task=evil,
        expected={"paper": evil, "here": evil, "machine": evil, "time": evil},
        data={evil: evil, "list": [evil], "table": {evil: evil}},
    )
    head = json.loads((run / "recipe.json").read_text())
    head["recipe"]["name"] = "<script>alert(1)</script>"
    head |= {"seed": evil, "regrnn": evil, "data": {evil: evil}}
    (run / "recipe.json").write_text(json.dumps(head))
    result = json.loads((run / "result.json").read_text())
    result |= dict.fromkeys(("regularization", "protocol", "command", "commit", "machine", "epochs"), evil)
    result |= {"versions": {evil: evil}}
    result["figures"][f"test_{evil}"] = 1.0
    (run / "result.json").write_text(json.dumps(result))
    metrics = run / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    for line in lines:
        line |= {f"train_{evil}": 1.0, f"valid_{evil}": 1.0, "learning_rate": evil, "loss": evil}
    lines[-1]["epoch"] = evil
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    parsed = parse_page(write_run_report(run))  # fails on any element or attribute that could run
    text = "".join(parsed.text)
    assert "<script>alert(1)</script>" in text  # as words
    assert text.count(evil) > 10


def test_text_that_utf8_cannot_hold(make_run):
    run = make_run()
    result = json.loads((run / "result.json").read_text()) | {"command": "regrnn train \udcff.toml"}
    (run / "result.json").write_text(json.dumps(result))
    assert "regrnn train ?.toml" in write_run_report(run).read_text()


def test_several_figures_have_a_picture_each(make_run, parse_page):
    run = make_run(valid=[180.0], finished=False)
    metrics = run / "metrics.jsonl"
    record = json.loads(metrics.read_text().splitlines()[-1]) | {"train_bleu": 10.0, "valid_bleu": 9.0}
    metrics.write_text(json.dumps(record) + "\n")
    path = write_run_report(run)
    parse_page(path)
    assert path.read_text().count("<svg") == 4


def test_a_report_that_cannot_be_written(make_run):
    run = make_run(valid=[], finished=False)
    (run / "report.html").mkdir()
    with pytest.raises(RegrnnError, match=r"report\.html: cannot be written"):
        write_run_report(run)


def test_the_dark_colours_name_what_the_light_ones_name():
    assert page.DARK.keys() == page.LIGHT.keys()
    assert len(set(page.LIGHT.values())) == len(page.LIGHT)  # a picture's colours are told apart by value


@pytest.mark.parametrize("colours", [page.LIGHT, page.DARK], ids=["light", "dark"])
def test_text_in_every_colour_is_legible(colours):
    """Contrast of at least 4.5 to 1 (WCAG 2.1, 1.4.3) with the page."""

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for name, colour in colours.items():
        if name in ("ink", "soft") or name.startswith("hue"):
            for ground in ("paper", "panel"):
                low, high = sorted([luminance(colour), luminance(colours[ground])])
                assert (high + 0.05) / (low + 0.05) >= 4.5, (name, ground)


def test_confusions_of_the_test_part(make_run, parse_page):
    run = make_run()
    assert "Confusions" not in words(parse_page(write_run_report(run)))
    (run / "predictions").mkdir()
    kept = run / "predictions" / "test-confusion.json"
    kept.write_text(json.dumps({"names": ["a", "</svg><b>"], "counts": [[6, 2], [0, 5]]}))
    parsed = parse_page(write_run_report(run))
    assert "Confusions" in words(parsed)
    assert ["a", "</svg><b>", "25.0%"] in parsed.rows
    assert "a taken for </svg><b>: 25.0% of 8" in words(parsed)
    kept.write_text(json.dumps({"names": ["a"], "counts": [[1, 2]]}))
    with pytest.raises(RegrnnError, match=r"test-confusion\.json: damaged .*; restore it from a copy"):
        write_run_report(run)
