"""A captioning run from the command line: train, evaluate, average, caption."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from colours import COLOURS, train
from PIL import Image

import regrnn
from regrnn.cli.main import run
from regrnn.errors import RegrnnError
from regrnn.tasks.captioning.evaluate import log_probabilities
from regrnn.training.recipe import read_recipe, recipe_from_dict

pytestmark = pytest.mark.usefixtures("colour_encoder")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a red & <blue> one.png"
    Image.new("RGB", (20, 10), COLOURS["red"]).save(path)
    return path


def test_figures_of_a_run(caption_run: Path) -> None:
    result = json.loads((caption_run / "result.json").read_text())
    assert result["task"] == "captioning"
    assert result["regularization"] == "paper"
    figures = result["figures"]
    generated = {"bleu1", "bleu2", "bleu3", "bleu4", "cider", "rouge_l"}
    unseen = {"unseen_perplexity", "unseen_bleu4", "unseen_cider"}
    assert set(figures) == {
        "train_perplexity",
        "valid_perplexity",
        "test_perplexity",
        *(f"test_{name}" for name in generated | unseen),
    }
    assert figures["valid_perplexity"] < 2.5  # it knows the colours, and not which of three texts comes
    assert figures["test_bleu4"] > 50
    assert result["predictions"] == 3 * (4 + 5 + 4)
    assert set(result["data"]) == {"captions", "images"}
    epochs = [json.loads(line) for line in (caption_run / "metrics.jsonl").read_text().splitlines()]
    assert not any("bleu" in key for record in epochs for key in record)


def test_evaluation_of_a_run_repeats_its_figures(caption_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(caption_run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    figures = json.loads((caption_run / "result.json").read_text())["figures"]
    expected = {name.removeprefix("test_"): value for name, value in figures.items() if name.startswith("test_")}
    assert found["figures"] == pytest.approx(expected)
    assert run(["evaluate", str(caption_run), str(caption_run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"] == pytest.approx(expected)  # an average with itself
    assert run(["evaluate", str(caption_run), "--split", "train", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["figures"]["perplexity"] == pytest.approx(figures["train_perplexity"])
    assert not any(name.startswith("unseen") for name in found["figures"])


def test_an_average_lies_between_its_members(
    caption_run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert train(pictures, other, training__epochs="2", model__hidden_size="8") == 0
    capsys.readouterr()
    perplexity = []
    for runs in ([caption_run], [other], [caption_run, other]):
        assert run(["evaluate", *map(str, runs), "--json"]) == 0
        perplexity.append(json.loads(capsys.readouterr().out)["figures"]["perplexity"])
    assert perplexity[2] < sum(perplexity[:2]) / 2
    models = [regrnn.load(caption_run), regrnn.load(other)]
    picture = tmp_path / "one.png"
    Image.new("RGB", (5, 9), COLOURS["green"]).save(picture)
    assert run(["caption", str(caption_run), str(picture), "--average", str(other), "--json"]) == 0
    [said] = json.loads(capsys.readouterr().out)["captions"]
    [best, *_] = models[0].caption(picture, average=models[1:])
    assert (said["text"], said["log_probability"]) == (best.text, pytest.approx(best.log_probability))
    seeing = [(model.model, [model.vector(picture)]) for model in models]
    ids = models[0].vocabulary.encode_line(best.text)
    [log_p] = log_probabilities(seeing, [0], [ids], models[0].vocabulary.eos_id)
    assert log_p.sum() == pytest.approx(best.log_probability, rel=1e-4)
    assert best.log_probability != pytest.approx(models[0].caption(picture)[0].log_probability, rel=1e-3)
    floor = tmp_path / "floor"
    assert train(pictures, floor, training__epochs="1", data__min_frequency="13") == 1
    assert "vocabulary" in capsys.readouterr().err
    assert train(pictures, floor, training__epochs="1", data__lowercase="false") == 0
    capsys.readouterr()
    for command in (["evaluate", caption_run, floor], ["caption", caption_run, picture, "--average", floor]):
        assert run([str(part) for part in command]) == 1
        assert "the runs have different vocabularies" in capsys.readouterr().err


def test_captions_of_pictures(caption_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for colour, value in COLOURS.items():
        files.append(tmp_path / f"{colour}.png")
        Image.new("RGB", (5, 9), value).save(files[-1])
    assert run(["caption", str(caption_run), *map(str, files)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, file in zip(lines, files, strict=True):
        name, score, text = line.split("\t")
        assert name == str(file)
        assert file.stem in text.split()
        assert float(score) < 0
    assert run(["caption", str(caption_run), str(files[0]), "--best", "3", "--beam", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == str(files[0])
    assert len({one["text"] for one in found["captions"]}) == 3
    scores = [one["score"] for one in found["captions"]]
    assert scores == sorted(scores, reverse=True)
    assert all(one["finished"] for one in found["captions"])


def test_the_page_shows_pictures_with_captions(
    caption_run: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert run(["caption", str(caption_run), str(picture), "--html", str(page), "--best", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(page)
    text = page.read_text()
    assert "a red &amp; &lt;blue&gt; one.png" in text
    assert len(re.findall(r'<img src="data:image/jpeg;base64,[A-Za-z0-9+/=]+" width="20" height="10"', text)) == 1
    assert text.count("<li>") == 2
    assert "http:" not in text and "https:" not in text and "<script" not in text
    assert run(["caption", str(caption_run), str(picture), "--html", str(picture)]) == 1
    assert "is one of the pictures" in capsys.readouterr().err
    with Image.open(picture) as image:
        assert image.size == (20, 10)
    assert run(["caption", str(caption_run), str(picture), "--html", str(tmp_path / "none" / "page.html")]) == 1
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--beam", "0"], "--beam must be at least 1"),
        (["--best", "0"], "--best must be at least 1"),
    ],
)
def test_flags_out_of_range(
    caption_run: Path, picture: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["caption", str(caption_run), str(picture), *flags]) == 1
    assert message in capsys.readouterr().err


def test_a_broken_picture_is_named(caption_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    assert run(["caption", str(caption_run), str(broken)]) == 1
    error = capsys.readouterr().err
    assert "broken.jpg: not a picture that can be read" in error
    assert len(error.strip().splitlines()) == 1


def test_from_python_a_file_or_a_picture(caption_run: Path, picture: Path) -> None:
    model = regrnn.load(caption_run)
    with Image.open(picture) as image:
        assert model.caption(image) == model.caption(picture) == model.caption(str(picture))
    [first, *_] = model.caption(picture, beam=2)
    assert "red" in first.text
    both = model.caption_all([picture, Image.new("L", (1, 1))])
    alone = model.caption(picture)
    assert [one.text for one in both[0]] == [one.text for one in alone]
    assert [one.score for one in both[0]] == pytest.approx([one.score for one in alone])
    assert len(both[1]) == 3


def test_a_run_on_vectors_cannot_see(
    pictures: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = np.eye(3, dtype=np.float32)[[number % 3 for number in range(18)]]
    np.save(tmp_path / "v.npy", vectors)
    out = tmp_path / "run"
    assert train(pictures, out, data__features=str(tmp_path / "v.npy"), training__epochs="15") == 0
    assert run(["evaluate", str(out)]) == 0
    capsys.readouterr()
    assert run(["caption", str(out), str(picture)]) == 1
    assert "which cannot be made from a picture here" in capsys.readouterr().err
    model = regrnn.load(out)
    for number, colour in enumerate(COLOURS):
        assert colour in model.caption_vectors([vectors[number]])[0][0].text


def test_a_damaged_checkpoint_is_refused(caption_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(caption_run, copy, symlinks=True)
    [features, *_] = copy.glob("checkpoints/*/features.json")
    for path in copy.glob("checkpoints/*/features.json"):
        path.write_text('{"size": 4}')
    with pytest.raises(RegrnnError, match=r"features\.json"):
        regrnn.load(copy)
    assert features.exists()


def test_batches_are_the_same_whenever_asked_for(pictures: Path) -> None:
    from regrnn.tasks.captioning.task import CaptioningTask

    values = read_recipe("captioning")
    sections = recipe_from_dict(values, "captioning", [("--data.path", str(pictures)), ("--data.batch-size", "5")])
    task = CaptioningTask.prepare(sections.sections)
    assert task.batches == 8
    cpu = torch.device("cpu")

    def epoch(number: int) -> list[Any]:
        return [task.batch(number, position, cpu) for position in range(task.batches)]

    first, again = epoch(1), epoch(1)
    assert all(torch.equal(a.x_TB, b.x_TB) and torch.equal(a.v_BF, b.v_BF) for a, b in zip(first, again, strict=True))
    other = epoch(2)
    assert any(
        a.x_TB.shape != b.x_TB.shape or not torch.equal(a.v_BF, b.v_BF) for a, b in zip(first, other, strict=True)
    )
    captions = sum(int(batch.there_TB[0].sum()) for batch in first)
    assert captions == 36
    assert sum(int(batch.there_TB.sum()) for batch in first) == 12 * (4 + 5 + 7)


def test_recipes_for_captions_are_whole() -> None:
    for name in ("captioning", "ucm-captions", "coco-captions"):
        recipe = recipe_from_dict(read_recipe(name), name)
        assert recipe.task == "captioning"
        assert recipe.sections["data"].path == {"captioning": "", "ucm-captions": "ucm", "coco-captions": "coco"}[name]
