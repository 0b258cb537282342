"""The suite runs at toy size and says all that a result needs; both sides of a comparison do the same work."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import idiom, ours
from benchmarks.__main__ import PARTS, main
from benchmarks.options import Options
from benchmarks.results import Entry, merge, read, save
from benchmarks.sizes import SIZES, TOYS, Size
from benchmarks.step import corpus_of, growth
from benchmarks.text import write_corpus
from benchmarks.timing import interleaved, rates, spread
from benchmarks.translation import Idiom, drawn, one_by_one, sentences
from regrnn.errors import RegrnnError
from regrnn.kernels.core import choose_bfloat16
from regrnn.training.recipe import read_recipe, recipe_from_dict

QUICK = ["--quick", "--threads", "1", "--repeats", "1"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the parts that need no other process measure, one size of each, saved by two runs."""
    path = tmp_path_factory.mktemp("results") / "performance.json"
    assert main(["roofline", "step", "--sizes", "medium", "--out", str(path), *QUICK]) == 0
    assert main(["bfloat16", "layer", "inference", "translation", "--sizes", "small", "--out", str(path), *QUICK]) == 0
    return path


def is_spread(found: Any) -> bool:
    return isinstance(found, dict) and 0 < found["low"] <= found["median"] <= found["high"]


def test_every_entry_says_how_it_was_measured(results: Path) -> None:
    entries = read(results)
    assert [(entry["part"], entry["case"]) for entry in entries] == [
        ("roofline", "machine"),
        ("step", "medium"),
        ("bfloat16", "small" if choose_bfloat16().core else "machine"),
        ("layer", "small"),
        ("inference", "small"),
        ("translation", "plain"),
    ]
    for entry in entries:
        assert entry["command"].startswith(f"python -m benchmarks {entry['part']} --threads 1")
        assert entry["quick"] and entry["threads"] == 1
        assert {"processor", "cores", "system", "load"} <= set(entry["machine"])
        assert entry["versions"]["torch"] == torch.__version__ and entry["versions"]["core"]
        assert set(entry) >= {"date", "commit", "settings", "notes", "seconds"}


def test_every_measurement_has_both_sides_and_their_ratio(results: Path) -> None:
    for entry in read(results):
        if entry["part"] == "bfloat16" and choose_bfloat16().core is None:
            assert entry["notes"] and not entry["measurements"]
            continue
        assert entry["measurements"]
        for figure in entry["measurements"]:
            assert figure["runs"] >= 1 and figure["unit"] and figure["name"]
            if entry["part"] != "roofline":
                assert is_spread(figure["ours"]) and is_spread(figure["idiom"]) and is_spread(figure["ratio"])


def test_step_measures_both_kinds_of_masks_and_the_share_of_the_roof(results: Path) -> None:
    (entry,) = [entry for entry in read(results) if entry["part"] == "step"]
    assert [figure["name"] for figure in entry["measurements"]] == ["step", "batch"]
    assert (
        len(entry["settings"]["idiom_seconds"]) == 4
        and entry["settings"]["idiom"] in entry["settings"]["idiom_seconds"]
    )
    roof = next(found for found in read(results) if found["part"] == "roofline")
    has_compiler = not roof["notes"]
    for figure in entry["measurements"]:
        assert is_spread(figure["ours_gflops"]) and is_spread(figure["idiom_gflops"])
        assert ("ours_share" in figure) == ("ours_whole_share" in figure) == has_compiler


def test_inference_measures_each_verb_and_batch(results: Path) -> None:
    (entry,) = [entry for entry in read(results) if entry["part"] == "inference"]
    assert {(figure["verb"], figure["batch"]) for figure in entry["measurements"]} == {
        ("score", 1),
        ("score", 20),
        ("generate", 1),
        ("generate", 64),
    }


def test_translation_finds_what_the_idiom_finds() -> None:
    torch.manual_seed(3)
    settings = {"hidden": 12, "layers": 2, "vocabulary": 9}
    trained = drawn(settings)
    for parameter in trained.model.parameters():
        parameter.data *= 8  # so that hypotheses differ, and some of them end
    lines = sentences(9, 12, 1, 6)
    idiom = Idiom(trained.model)
    for beam in (1, 3):
        expected = one_by_one(idiom, trained, lines, beam)
        assert [found[0].text for found in trained.translate(lines, beam=beam)] == expected
        assert len(set(expected)) > 3 and len({len(text.split()) for text in expected}) > 2


def test_growth_changes_one_factor_at_a_time(tmp_path: Path) -> None:
    found = list(growth(Options(folder=tmp_path, threads=1, repeats=1, quick=True)))
    assert [entry["case"] for entry in found] == ["hidden", "batch", "steps", "vocabulary", "threads"]
    base = TOYS["medium"]
    for entry in found[:-1]:
        start = getattr(base, entry["case"])
        values = [(figure[entry["case"]], figure["name"]) for figure in entry["measurements"]]
        assert values == [(start, "step"), (start, "batch"), (2 * start, "step"), (2 * start, "batch")]


def test_a_part_measured_again_takes_its_place(results: Path) -> None:
    entries = read(results)
    again: Entry = entries[1] | {"notes": ["again"]}
    merged = merge(entries, again)
    assert [entry["part"] for entry in merged] == [entry["part"] for entry in entries]
    assert merged[1]["notes"] == ["again"] and merged[0] == entries[0]
    assert merge(entries, again | {"case": "large"})[-1]["case"] == "large"


def test_a_file_that_is_no_results_file_is_refused_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.json"
    path.write_text('[{"recipe": "docs"}]')
    with pytest.raises(RegrnnError, match=r"other\.json: not a results file"):
        save(path, {"part": "step", "case": "small"})
    assert path.read_text() == '[{"recipe": "docs"}]'
    assert main(["roofline", "--out", str(path), *QUICK]) == 1
    assert "benchmarks: error: " in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["stp"], ["step", "--sizes", "huge"], ["step", "--threads", "0"]])
def test_what_there_is_not_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(wrong)
    assert "benchmarks: error: " in capsys.readouterr().err


def test_nothing_is_left_of_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REGRNN_CACHE", str(tmp_path / "user"))
    seen: list[Options] = []

    def watched(options: Options) -> Any:
        seen.append(options)
        (options.folder / "something").write_text("x")
        return iter(())

    monkeypatch.setitem(PARTS, "step", watched)
    before = torch.get_num_threads()
    assert main(["step", *QUICK]) == 0
    assert not seen[0].folder.exists() and not (tmp_path / "user").exists()
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("size", SIZES.values(), ids=lambda size: size.name)
def test_the_sizes_are_those_of_the_recipes(size: Size, tmp_path: Path) -> None:
    plain = recipe_from_dict(read_recipe(size.recipe), size.recipe).to_dict()
    flagged = ours.recipe_of(size, Path("ptb")).to_dict()
    assert flagged == plain


@pytest.mark.parametrize(("name", "whole", "kept"), [("medium", 5.569e10, 3.495e10), ("large", 2.142e11, 1.241e11)])
def test_operations_of_a_step(name: str, whole: float, kept: float) -> None:
    # 6 B T (16 H^2 + H V), by hand; half or 0.35 of the input and output products without what masks strike.
    assert SIZES[name].flops() == pytest.approx(whole, rel=1e-3)
    assert SIZES[name].flops(left_out=True) == pytest.approx(kept, rel=1e-3)


def test_operations_of_the_layers_alone() -> None:
    # 6 B T 4 H^2 for each of four matrices, one of them behind dropout of a half.
    square = 6 * 20 * 35 * 4 * 650**2
    assert SIZES["medium"].layer_flops() == 4 * square
    assert SIZES["medium"].layer_flops(left_out=True) == 3.5 * square


def test_generated_text_has_its_whole_vocabulary_and_zipfs_law(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path, 500, 20_000)
    words = (folder / "train.txt").read_text().split()
    counts = {word: words.count(word) for word in ("w000", "w009", "w400")}
    assert len(set(words)) == 498
    assert counts["w000"] > 2 * counts["w009"] > 20 * counts["w400"] > 0
    assert (write_corpus(tmp_path / "again", 500, 20_000) / "train.txt").read_text().split() == words


def test_both_sides_train_the_same_model(tmp_path: Path) -> None:
    size = TOYS["small"]
    mine = ours.Training(size, corpus_of(tmp_path, size, windows=5))
    theirs = idiom.Training(size, mine.batches, idiom.Setting())
    theirs.model.load_state_dict(mine.trainer.model.state_dict())
    for _ in range(6):
        assert theirs.step() == pytest.approx(mine.step() / size.batch, rel=1e-4)
    for name, weight in theirs.model.state_dict().items():
        torch.testing.assert_close(weight, mine.trainer.model.state_dict()[name], rtol=1e-3, atol=1e-5)


def test_both_sides_score_alike() -> None:
    size = TOYS["medium"]
    trained = ours.trained_model(size)
    assert len(trained.vocabulary) == size.vocabulary
    model = idiom.Model(size).eval()
    model.load_state_dict(trained.model.state_dict())
    line = "w03 w07 w00 w01 w11"
    ids = torch.tensor([[trained.vocabulary.eos_id, *trained.vocabulary.encode_line(line)]]).T
    expected = -trained.score(line)[0].log_probability
    for window in (2, 100):
        assert idiom.score(model, ids, window, True) == pytest.approx(expected, rel=1e-5)
    drawn = idiom.generate(model, torch.zeros(3, dtype=torch.int64), 4, False)
    assert [len(row) for row in drawn] == [4, 4, 4] and torch.backends.mkldnn.enabled


def test_sides_take_turns() -> None:
    calls: list[str] = []
    sides: Mapping[str, Any] = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    times = interleaved(sides, 2, warm_up=1)
    assert "".join(calls) == "abcbcacab"
    assert {name: len(taken) for name, taken in times.items()} == {"a": 2, "b": 2, "c": 2}


def test_ratios_are_of_neighbouring_runs() -> None:
    figure = rates("x", "words", 10, ours=[1.0, 2.0, 4.0], idiom=[2.0, 6.0, 4.0])
    assert figure["ratio"] == {"median": 2.0, "low": 1.0, "high": 3.0}
    assert figure["ours"] == {"median": 5.0, "low": 2.5, "high": 10.0}
    assert figure["idiom_seconds"]["median"] == 4.0
    assert json.loads(json.dumps(spread([1 / 3]))) == {"median": 0.333333, "low": 0.333333, "high": 0.333333}
