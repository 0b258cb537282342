"""`regrnn evaluate`: one run, or the average of several."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from regrnn.cli.evaluate import _at_an_edge
from regrnn.data.text import find_text
from regrnn.data.vocabulary import UNK
from regrnn.tasks.language.task import LanguageTask

Done = Callable[..., str]


@pytest.fixture(scope="module")
def second_run(tiny_run: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like `tiny_run`, of another seed and size."""
    from regrnn.cli.main import run

    out = tmp_path_factory.mktemp("runs") / "second"
    settings = ["--data.punctuation=attached", "--data.min-frequency=1", "--data.batch-size=4", "--data.steps=20"]
    sizes = ["--model.hidden-size=8", "--training.epochs=1"]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("REGRNN_CACHE", str(tmp_path_factory.mktemp("cache-of-second-run")))
        command = ["train", "language", "--data", str(tiny_text), "--out", str(out), "--seed", "2"]
        assert run([*command, *settings, *sizes]) == 0
    return out


def test_figures_are_those_of_the_end_of_training(done: Done, tiny_run: Path, tiny_text: Path) -> None:
    result = json.loads((tiny_run / "result.json").read_text())
    for split in ("valid", "test"):
        found = json.loads(done("evaluate", tiny_run, "--split", split, "--json"))
        assert found["runs"] == [str(tiny_run)]
        assert found["data"] == str(tiny_text) and found["split"] == split
        for name, value in found["figures"].items():
            assert value == pytest.approx(result["figures"][f"{split}_{name}"], rel=1e-6)
        tokens = sum(len(line.split()) + 1 for line in find_text(tiny_text)[split])
        assert found["predictions"] == tokens - 1
    assert found["predictions"] == result["predictions"]
    assert json.loads(done("evaluate", tiny_run, "--json")) == found  # test unless told otherwise
    train = json.loads(done("evaluate", tiny_run, "--split", "train", "--json"))
    assert train["predictions"] == sum(len(line.split()) + 1 for line in find_text(tiny_text)["train"]) - 1


def test_what_a_person_reads(done: Done, tiny_run: Path, tiny_text: Path) -> None:
    found = json.loads(done("evaluate", tiny_run, "--json"))
    text = done("evaluate", tiny_run)
    assert f"test perplexity {found['figures']['perplexity']:.3f}\n" in text
    assert text.splitlines()[-1] == (
        f"over {found['predictions']:,} predictions, test of {tiny_text} "
        "(one contiguous stream, batch 1, state carried, every token but the first)"
    )


def test_threads_make_no_difference(done: Done, tiny_run: Path) -> None:
    one = json.loads(done("evaluate", tiny_run, "--json", "--threads", 1))
    two = json.loads(done("evaluate", tiny_run, "--json", "--threads", 2))
    assert one["predictions"] == two["predictions"]
    assert one["figures"] == pytest.approx(two["figures"], rel=1e-6)


def test_several_runs_are_averaged(done: Done, tiny_run: Path, second_run: Path) -> None:
    def perplexity(*runs: Path) -> float:
        found = json.loads(done("evaluate", *runs, "--json"))
        assert found["runs"] == [str(run) for run in runs]
        return float(found["figures"]["perplexity"])

    one, two, both = perplexity(tiny_run), perplexity(second_run), perplexity(tiny_run, second_run)
    assert both == pytest.approx(perplexity(second_run, tiny_run))
    assert one != pytest.approx(two, rel=1e-2)
    assert both < (one * two) ** 0.5  # ln of a mean is above the mean of ln
    assert perplexity(tiny_run, tiny_run) == pytest.approx(one)
    assert perplexity(tiny_run, tiny_run, second_run) != pytest.approx(both, rel=1e-4)


def test_a_row_for_one_two_and_all_runs(done: Done, tiny_run: Path, second_run: Path) -> None:
    runs = [tiny_run, second_run, tiny_run]
    found = json.loads(done("evaluate", *runs, "--json"))
    assert [row["members"] for row in found["averages"]] == [1, 2, 3]
    for row in found["averages"]:
        alone = json.loads(done("evaluate", *runs[: row["members"]], "--json"))
        assert row["figures"] == pytest.approx(alone["figures"], rel=1e-9)
    assert found["averages"][-1]["figures"] == found["figures"]
    lines = done("evaluate", *runs).splitlines()
    assert lines[0].startswith("members  test perplexity")
    figures = [f"{row['figures']['perplexity']:.3f}" for row in found["averages"]]
    assert [line.split()[:2] for line in lines[1:4]] == [[str(k), text] for k, text in enumerate(figures, 1)]
    assert "averages" not in json.loads(done("evaluate", tiny_run, "--json"))


@pytest.mark.parametrize("evaluation", ["temperature", "cache", "dynamic"])
def test_another_evaluation_is_labelled_as_such(done: Done, tiny_run: Path, second_run: Path, evaluation: str) -> None:
    static = json.loads(done("evaluate", tiny_run, "--json"))
    assert static["evaluation"] == "static"
    found = json.loads(done("evaluate", tiny_run, "--evaluation", evaluation, "--json"))
    assert found["evaluation"] == evaluation and found["settings"]
    assert found["predictions"] == static["predictions"]
    assert found["figures"]["perplexity"] != pytest.approx(static["figures"]["perplexity"], rel=1e-6)
    label = {
        "temperature": "softmax temperature 1.1",
        "cache": "neural cache of 2,000",
        "dynamic": "dynamic evaluation",
    }
    assert found["protocol"].startswith(label[evaluation])
    assert f"({label[evaluation]}" in done("evaluate", tiny_run, "--evaluation", evaluation).splitlines()[-1]
    both = json.loads(done("evaluate", tiny_run, second_run, "--evaluation", evaluation, "--json"))
    assert both["figures"] != found["figures"]


def test_settings_of_an_evaluation(done: Done, tiny_run: Path) -> None:
    static = json.loads(done("evaluate", tiny_run, "--json"))
    one = json.loads(done("evaluate", tiny_run, "--evaluation", "temperature", "--temperature.temperature=1", "--json"))
    assert one["figures"] == pytest.approx(static["figures"], rel=1e-6)
    flags = ["--dynamic.learning-rate", "0.05", "--dynamic.steps=3"]
    found = json.loads(done("evaluate", tiny_run, *flags, "--evaluation", "dynamic", "--json"))
    assert found["settings"] == {"learning_rate": 0.05, "decay": 0.0001, "steps": 3}


def test_tuned_on_valid_and_scored_once(done: Done, tiny_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    command = ["evaluate", tiny_run, "--evaluation", "temperature", "--tune"]
    found = json.loads(done(*command, "--json", "--result", file))
    perplexities = [row["figures"]["perplexity"] for row in found["tried_on_valid"]]
    assert len(perplexities) == 13
    best = found["tried_on_valid"][perplexities.index(min(perplexities))]
    assert found["settings"] == best["settings"]
    chosen = f"--temperature.temperature={best['settings']['temperature']}"
    again = json.loads(done(*command[:4], chosen, "--json"))
    assert again["figures"] == found["figures"]
    lines = done(*command).splitlines()
    assert len(lines) == 13 + len(found["figures"]) + 1
    assert lines[0].startswith("valid perplexity ") and lines[0].endswith("temperature 0.8")
    (entry,) = json.loads(file.read_text())
    assert entry["evaluation"] == "temperature" and entry["settings"] == best["settings"]
    assert entry["figures"]["valid_perplexity"] == min(perplexities)
    assert entry["figures"]["test_perplexity"] == found["figures"]["perplexity"]


def test_the_last_value_of_a_grid_is_named() -> None:
    tried = [{"a": a, "b": b, "c": 5} for a in (1, 2, 3) for b in (0.1, 0.2, 0.3)]
    assert _at_an_edge({"a": 2, "b": 0.2, "c": 5}, tried) == []
    assert _at_an_edge({"a": 3, "b": 0.1, "c": 5}, tried) == ["a 3", "b 0.1"]


def test_results_are_added_to_a_file_and_brought_up_to_date(
    done: Done, refused: Callable[..., str], tiny_run: Path, second_run: Path, tmp_path: Path
) -> None:
    file = tmp_path / "results.json"
    done("evaluate", tiny_run, second_run, "--result", file)
    done("evaluate", tiny_run, second_run, "--split", "valid", "--result", file)
    entries = json.loads(file.read_text())
    assert [(entry["members"], entry["seeds"]) for entry in entries] == [(2, [1, 2])]
    assert {"valid_perplexity", "test_perplexity"} <= entries[0]["figures"].keys()
    tested = json.loads(done("evaluate", tiny_run, second_run, "--json"))
    assert entries[0]["predictions"] == tested["predictions"]  # of the test part, whichever came last
    assert entries[0]["protocol"].startswith("valid: ") and "; test: " in entries[0]["protocol"]
    assert entries[0]["regularization"] == "paper" and entries[0]["complete"] is True
    done("evaluate", tiny_run, "--evaluation", "cache", "--result", file)
    done("evaluate", tiny_run, "--evaluation", "cache", "--cache.weight", "0.2", "--split", "valid", "--result", file)
    entry = json.loads(file.read_text())[1]
    # Of other settings nothing is kept.
    assert set(entry["figures"]) >= {"valid_perplexity"} and "test_perplexity" not in entry["figures"]
    assert "a run is there twice" in refused("evaluate", tiny_run, tiny_run, "--result", file)
    nowhere = tmp_path / "nowhere" / "results.json"
    assert f"there is no folder {nowhere.parent}" in refused("evaluate", tiny_run, "--result", nowhere)
    assert "cannot be written" in refused("evaluate", tiny_run, "--result", tmp_path)
    file.write_text("{}")
    assert (
        refused("evaluate", tiny_run, "--result", file)
        == f"{file}: not a result file (a list of objects); name another"
    )
    copy = Path(shutil.copytree(tiny_run, tmp_path / "copy", symlinks=True))
    (copy / "result.json").unlink()
    assert "is not a finished run" in refused("evaluate", copy, "--result", tmp_path / "other.json")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--evaluation", "dynamc"],
            "--evaluation dynamc: language runs have no such evaluation; did you mean 'dynamic'?",
        ),
        (["--cache.size", "5"], "--cache.size: name the --evaluation that it belongs to"),
        (["--tune"], "--tune: name the --evaluation that it belongs to"),
        (["--evaluation", "cache", "--cache.sise", "5"], "--cache.sise: no setting 'sise'; did you mean 'size'?"),
        (["--evaluation", "cache", "--cache.size", "0"], "--cache: size = 0 must be from 1 to 1,000,000,000"),
        (["--evaluation", "cache", "--cache.size", "x"], "--cache.size: expected a whole number, found 'x'"),
        (
            ["--evaluation", "temperature", "--temperature.temperature", "1e-40"],
            "the test perplexity is inf, no finite number with these settings; a smaller rate or another value may do",
        ),
        (["--evaluation", "cache", "--cache.size"], "--cache.size: the value is missing"),
        (["--evaluation", "cache", "--cache.weight", "1"], "--cache: weight = 1.0 must be above 0 and below 1"),
        (["--evaluation", "cache", "--dynamic.steps", "5"], "--dynamic.steps: no section 'dynamic'; known: cache"),
        (["--evaluation", "dynamic", "--dynamic.decay", "2"], "--dynamic: decay = 2.0 must be from 0 to 1"),
        (
            ["--evaluation", "dynamic", "--tune", "--dynamic.decay", "0"],
            "--dynamic.decay: --tune chooses it from its grid; give one of the two",
        ),
    ],
)
def test_evaluations_with_a_mistake(
    refused: Callable[..., str], tiny_run: Path, flags: list[str], message: str
) -> None:
    assert refused("evaluate", tiny_run, *flags) == message


def test_generation_from_the_average(done: Done, refused: Callable[..., str], tiny_run: Path, second_run: Path) -> None:
    command = ["generate", tiny_run, "--seed", 3, "--length", 30, "--samples", 2, "--json"]
    alone = done(*command)
    assert done(*command, "--average", tiny_run) == alone
    assert done(*command, "--average", second_run) != alone
    assert done(*command, "--average", second_run, tiny_run) == done(*command, "--average", tiny_run, second_run)
    assert refused(*command, "--average", second_run.parent / "gone").endswith("(it has no recipe.json)")


def test_other_text_in_the_runs_vocabulary(done: Done, tiny_run: Path, tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("the old dog sees the cat .\n" * 5)
    known = json.loads(done("evaluate", tiny_run, "--data", tmp_path, "--json"))
    assert known["predictions"] == 5 * 8 - 1
    assert "bits_per_character" in known["figures"]
    (tmp_path / "test.txt").write_text("the old wombat sees the cat .\n" * 5)
    strange = json.loads(done("evaluate", tiny_run, "--data", tmp_path, "--json"))
    assert strange["predictions"] == 5 * 8 - 1
    assert strange["figures"]["perplexity"] > known["figures"]["perplexity"]
    assert "bits_per_character" not in strange["figures"]
    (tmp_path / "test.txt").write_text(f"the old {UNK} sees the cat .\n" * 5)
    assert json.loads(done("evaluate", tiny_run, "--data", tmp_path, "--json"))["figures"] == strange["figures"]


def test_a_moved_run_and_moved_data(
    done: Done,
    refused: Callable[..., str],
    tiny_run: Path,
    tiny_text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = Path(shutil.copytree(tiny_run, tmp_path / "copy", symlinks=True))
    recipe = (copy / "recipe.json").read_text()
    (copy / "recipe.json").write_text(recipe.replace(str(tiny_text), "moved.txt"))
    assert re.search(r"trained on 'moved\.txt'.*with --data", refused("evaluate", copy))
    expected = json.loads(done("evaluate", tiny_run, "--json"))
    named = json.loads(done("evaluate", copy, "--data", tiny_text, "--json"))
    assert named["figures"] == expected["figures"]
    # A relative path counts from where the command is given, as in training; or it is the name of a data set.
    (tmp_path / "data").mkdir()
    shutil.copy(tiny_text, tmp_path / "data" / "moved.txt")
    monkeypatch.setenv("REGRNN_DATA", str(tmp_path / "data"))
    assert json.loads(done("evaluate", copy, "--json"))["figures"] == expected["figures"]
    monkeypatch.delenv("REGRNN_DATA")
    monkeypatch.chdir(tmp_path / "data")
    assert json.loads(done("evaluate", copy, "--json"))["figures"] == expected["figures"]


def test_a_task_without_other_evaluations(
    refused: Callable[..., str], tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(LanguageTask, "evaluations")
    message = refused("evaluate", tiny_run, "--evaluation", "cache")
    assert message == "--evaluation cache: language runs have no such evaluation; known: static"
