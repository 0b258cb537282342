"""`regrnn evaluate`: one run, or the average of several."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from regrnn.data.text import find_text
from regrnn.data.vocabulary import UNK

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
