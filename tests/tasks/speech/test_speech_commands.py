"""The speech system from the command line: train, resume, evaluate, average, transcribe, confusion, and `load`."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
from tones import segments_of, sound, utterance, write_corpus

import regrnn
from regrnn.cli.main import run
from regrnn.cli.progress import ConsoleProgress
from regrnn.confusion import from_json
from regrnn.errors import RegrnnError
from regrnn.reports.run import write_run_report
from regrnn.tasks.speech.alignments import read_alignment
from regrnn.tasks.speech.audio import FeatureConfig
from regrnn.tasks.speech.data import DataConfig, Utterance, labels, read_corpus
from regrnn.tasks.speech.evaluate import evaluate, log_probabilities
from regrnn.tasks.speech.task import member_parts
from regrnn.training.recipe import read_recipe, recipe_from_dict
from regrnn.training.run import Run

DRIVER = Path(__file__).parents[2] / "training" / "kill_driver.py"

SETTINGS = {
    "data.features.mels": "12",
    "data.batch-size": "4",
    "model.hidden-size": "12",
    "model.num-layers": "1",
    "model.delay": "1",
    "model.dropout": "0.2",
    "training.learning-rate": "0.02",
}


def command(data: Path, out: Path, **more: str) -> list[str]:
    settings = SETTINGS | {key.replace("__", ".").replace("_", "-"): value for key, value in more.items()}
    flags = [part for key, value in settings.items() for part in (f"--{key}", value)]
    return ["train", "speech", "--data", str(data), "--out", str(out), "--threads", "1", *flags]


@pytest.fixture(scope="session")
def trained_run(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the tones, trained until it knows them. Not to be changed: copy it first."""
    out = tmp_path_factory.mktemp("speech") / "run"
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("REGRNN_CACHE", str(tmp_path_factory.mktemp("cache-of-speech")))
        assert run(command(tones, out, training__epochs="12")) == 0
    torch.set_num_threads(threads)
    return out


def test_it_learns(trained_run: Path) -> None:
    figures = json.loads((trained_run / "result.json").read_text())["figures"]
    for split in ("train", "valid", "test"):
        assert figures[f"{split}_frame_accuracy"] > 80
        assert figures[f"{split}_phone_error_rate"] < 20
    metrics = [json.loads(line) for line in (trained_run / "metrics.jsonl").read_text().splitlines()]
    epochs = [record for record in metrics if record["event"] == "epoch"]
    assert epochs[0]["valid_frame_accuracy"] < figures["valid_frame_accuracy"]
    best = max(epochs, key=lambda record: record["valid_frame_accuracy"])  # higher is better
    assert json.loads((trained_run / "result.json").read_text())["best_epoch"] == best["epoch"]


def test_a_run_keeps_its_confusions_and_its_report_draws_them(trained_run: Path, tmp_path: Path) -> None:
    result = json.loads((trained_run / "result.json").read_text())
    table, phones = from_json((trained_run / "predictions" / "test-confusion.json").read_text())
    assert phones == ["a", "i", "o", "pau"]
    assert table.sum() == result["predictions"]
    assert 100 * np.trace(table) / table.sum() == pytest.approx(result["figures"]["test_frame_accuracy"])
    page = (trained_run / "report.html").read_text()
    assert (
        "Confusions" in page and f"pau taken for pau: {table[3, 3] / table[3].sum():.1%} of {table[3].sum():,}" in page
    )
    copy = tmp_path / "copy"
    shutil.copytree(trained_run, copy, symlinks=True)
    names = ["<script>", "b"]
    (copy / "predictions" / "test-confusion.json").write_text(json.dumps({"names": names, "counts": [[5, 1], [0, 3]]}))
    page = write_run_report(copy).read_text()
    assert "<script>" not in page and "&lt;script&gt; taken for b: 16.7% of 6" in page
    for damaged in ("{", "[]", '{"names": ["a"], "counts": [[1, 2]]}', '{"names": ["a"], "counts": [[-1]]}'):
        (copy / "predictions" / "test-confusion.json").write_text(damaged)
        with pytest.raises(RegrnnError, match=r"test-confusion\.json: damaged"):
            write_run_report(copy)


class Killed(BaseException):
    """Stands for SIGKILL."""


def contents(folder: Path) -> dict[str, Any]:
    """All of a run that the seed determines."""
    made = Run(folder)
    last, best = made.last(), made.best()
    assert last is not None and best is not None
    found: dict[str, Any] = {path.name: path.read_bytes() for path in (folder / "predictions").iterdir()}
    found |= {"metrics": made.metrics.read_bytes(), "last": last.name, "best": best.name}
    for checkpoint in (last, best):
        for name in ("model.safetensors", "optimizer.safetensors", "state.safetensors", "phones.json"):
            found[f"{checkpoint.name}/{name}"] = (checkpoint / name).read_bytes()
    found["figures"] = json.loads(made.result.read_text())["figures"]
    return found


TINY = {
    "training__epochs": "2",
    "training__checkpoint_minutes": "0.0000001",  # behind every batch
    "model__hidden_size": "6",
    "model__subsample": "2",
}


@pytest.mark.parametrize(
    "more",
    [
        {"data__batches": "padded", "model__delay": "0", "model__bidirectional": "true"},
        {"data__batches": "streams", "data__steps": "30", "model__states": "2"},
    ],
    ids=["padded", "streams"],
)
def test_a_killed_run_ends_as_one_that_was_not(
    more: dict[str, str], tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TINY | more
    assert run(command(tones, tmp_path / "whole", **settings)) == 0
    out = tmp_path / "killed"
    left = 0
    real = {name: getattr(ConsoleProgress, name) for name in ("step", "evaluating", "epoch")}

    def counting(name: str) -> Any:
        def report(self: ConsoleProgress, *values: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            real[name](self, *values)

        return report

    for name in real:
        monkeypatch.setattr(ConsoleProgress, name, counting(name))
    kills = 0
    for events in (2, 1, 3, 4, 2, 0):
        left = events
        try:
            assert run(command(tones, out, **settings)) == 0
        except Killed:
            kills += 1
    assert kills == 5
    assert contents(out) == contents(tmp_path / "whole")


def test_sigkill(tones: Path, tmp_path: Path) -> None:
    settings = TINY | {"data__batches": "streams", "data__steps": "30"}
    assert run(command(tones, tmp_path / "whole", **settings)) == 0
    out = tmp_path / "killed"
    strikes = [(signal.SIGKILL, 3, 0.0), (signal.SIGKILL, 2, 0.01), (signal.SIGKILL, 5, 0.0)]
    spec = {"arguments": command(tones, out, **settings), "strikes": strikes, "log_every": 100}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    driven = subprocess.run(
        [sys.executable, str(DRIVER), json.dumps(spec)], capture_output=True, text=True, env=environment
    )
    assert driven.returncode == 0, driven.stderr
    attempts = json.loads(driven.stdout)
    assert [status for status, _ in attempts] == [-signal.SIGKILL] * 3 + [0], attempts
    assert contents(out) == contents(tmp_path / "whole")


def test_other_data_or_settings_are_another_run(
    done: Callable[..., str], refused: Callable[..., str], trained_run: Path, tones: Path, tmp_path: Path
) -> None:
    copy, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(trained_run, copy, symlinks=True)
    shutil.copytree(tones, moved)
    again = command(moved, copy, training__epochs="12")
    assert "frame accuracy" in done(*again)  # equal data elsewhere: the same run, which is finished
    lab = next(iter(sorted(moved.glob("*.lab"))))
    lab.write_text(lab.read_text().replace("125 a", "125 o"))
    assert "holds another run, which differs in data" in refused(*again)
    assert "features" in refused(*command(tones, copy, training__epochs="12", data__features__mels="13"))


def test_evaluate_and_average(done: Callable[..., str], trained_run: Path, tones: Path, tmp_path: Path) -> None:
    figures = json.loads((trained_run / "result.json").read_text())["figures"]
    found = json.loads(done("evaluate", trained_run, "--json"))
    assert found["figures"]["frame_accuracy"] == pytest.approx(figures["test_frame_accuracy"])
    assert "files" not in found
    other = tmp_path / "other"
    assert run([*command(tones, other, training__epochs="1"), "--seed", "2"]) == 0
    runs = [trained_run, other]
    both = json.loads(done("evaluate", *runs, "--split", "valid", "--json"))
    alone = [json.loads(done("evaluate", path, "--split", "valid", "--json")) for path in runs]
    assert both["predictions"] == alone[0]["predictions"] == alone[1]["predictions"]
    assert alone[0]["figures"] != alone[1]["figures"]
    parts, _ = member_parts([regrnn.load(path) for path in runs], str(tones), "valid")
    right = 0
    for k, utterance_ in enumerate(parts[0][2]):
        p = [np.exp(log_probabilities(model, [normalize(us[k])])[0]) for model, normalize, us in parts]
        right += int((np.mean(p, axis=0).argmax(1) == labels(utterance_, regrnn.load(other).inventory)).sum())
    assert both["figures"]["frame_accuracy"] == pytest.approx(100 * right / both["predictions"])
    out = done("evaluate", trained_run, "--data", tones, "--split", "train")
    assert f"train frame accuracy {figures['train_frame_accuracy']:.3f}" in out


def test_data_that_are_not_those_of_training(
    trained_run: Path, tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    """A recording more cuts the parts in another way; a phone that training had not is named."""
    copy, moved = tmp_path / "run", tmp_path / "tones"
    shutil.copytree(trained_run, copy, symlinks=True)
    shutil.copytree(tones, moved)
    recipe = json.loads((copy / "recipe.json").read_text())
    recipe["recipe"]["data"]["path"] = str(moved)
    (copy / "recipe.json").write_text(json.dumps(recipe))

    def said() -> str:
        capsys.readouterr()
        assert run(["evaluate", str(copy)]) == 0
        return capsys.readouterr().err

    assert said() == ""
    test = read_corpus(DataConfig(path=str(moved), features=FeatureConfig(mels=12)), ("test",)).splits["test"]
    lab = moved / f"{test[0].name}.lab"
    lab.write_text(lab.read_text().replace("125 pau", "125 hush", 1))
    assert "counted as mistakes: hush\n" in said() and "the test part is not that with which" in said()
    assert "so that the figures are not the run's" in refused("evaluate", copy, "--result", tmp_path / "r.json")


def test_members_that_cannot_be_averaged(
    done: Callable[..., str], refused: Callable[..., str], trained_run: Path, tones: Path, tmp_path: Path
) -> None:
    for name, more, message in (
        ("states", {"model__states": "2"}, "different phones or states"),
        ("frames", {"data__features__frame_shift_ms": "20"}, "different frames"),
    ):
        assert run(command(tones, tmp_path / name, training__epochs="1", **more)) == 0
        assert message in refused("evaluate", trained_run, tmp_path / name)
    # Other features of the same frames may be averaged.
    assert run(command(tones, tmp_path / "mels", training__epochs="1", data__features__mels="20")) == 0
    assert "frame accuracy" in done("evaluate", trained_run, tmp_path / "mels")


def test_a_run_normalised_by_speaker_is_evaluated_on_a_part_alone(
    done: Callable[..., str], refused: Callable[..., str], trained_run: Path, tmp_path: Path
) -> None:
    """New recordings need no training part beside them."""
    assert json.loads((trained_run / "recipe.json").read_text())["recipe"]["data"]["normalize"] == "speaker"
    folder = write_corpus(tmp_path / "new", [f"test/someone/n{k}" for k in range(3)])
    found = json.loads(done("evaluate", trained_run, "--data", folder, "--json"))
    assert found["figures"]["frame_accuracy"] > 70
    assert "no utterance for valid" in refused("evaluate", trained_run, "--data", folder, "--split", "valid")


def json_line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)


def test_transcribe(done: Callable[..., str], trained_run: Path, tmp_path: Path) -> None:
    spoken = utterance(77)
    path, flac = tmp_path / "new.wav", tmp_path / "other.flac"
    soundfile.write(path, np.stack([sound(spoken, 44100)] * 2, 1), 44100)
    soundfile.write(flac, sound(utterance(78)), 16000)
    truth = segments_of(spoken)

    lab = done("transcribe", trained_run, path)
    (tmp_path / "found.lab").write_text(lab)
    found = read_alignment(tmp_path / "found.lab", 44100)
    merged = [s for k, s in enumerate(truth) if k == 0 or s.phone != truth[k - 1].phone]
    assert [s.phone for s in found] == [s.phone for s in merged]
    for one, other in zip(found, merged, strict=True):
        assert one.start == pytest.approx(other.start, abs=0.035)

    grid = done("transcribe", trained_run, path, "--format", "textgrid")
    (tmp_path / "found.TextGrid").write_text(grid)
    assert [s.phone for s in read_alignment(tmp_path / "found.TextGrid", 44100)] == [s.phone for s in found]

    rows = [json.loads(line) for line in done("transcribe", trained_run, path, flac, "--format", "json").splitlines()]
    assert [row["file"] for row in rows] == [str(path), str(flac)]
    assert [segment["phone"] for segment in rows[0]["segments"]] == [s.phone for s in found]
    assert rows[0]["duration"] == pytest.approx(truth[-1].end, abs=1e-4)

    for form, suffix in (("lab", ".lab"), ("textgrid", ".TextGrid"), ("json", ".json")):
        out = tmp_path / "out" / form
        printed = done("transcribe", trained_run, path, flac, "--format", form, "--out", out)
        assert printed.splitlines() == [str(out / f"new{suffix}"), str(out / f"other{suffix}")]
        assert {p.name for p in out.iterdir()} == {f"new{suffix}", f"other{suffix}"}
    assert (tmp_path / "out" / "lab" / "new.lab").read_text() == lab
    # For machines, with files beside it or without.
    assert done("transcribe", trained_run, path, flac, "--json") == "\n".join(map(json_line, rows)) + "\n"
    out = tmp_path / "both"
    assert json.loads(done("transcribe", trained_run, path, "--json", "--out", out)) == rows[0]
    assert (out / "new.lab").read_text() == lab
    model = regrnn.load(trained_run)
    assert model.transcribe(path).to_lab() == lab


def test_transcribe_refuses(
    refused: Callable[..., str], trained_run: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "a.wav", tmp_path / "b" / "a.wav"
    two.parent.mkdir()
    for path in (one, two):
        soundfile.write(path, sound(utterance(1)), 16000)
    assert "give --out FOLDER or --json" in refused("transcribe", trained_run, one, two)
    assert "both be written to" in refused("transcribe", trained_run, one, two, "--out", tmp_path / "out")
    assert "nowhere.wav: no such file" in refused("transcribe", trained_run, tmp_path / "nowhere.wav")
    assert "is a language run; `regrnn transcribe` needs a speech run" in refused("transcribe", tiny_run, one)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("transcribe", trained_run, one, "--out", tmp_path / "file")
    (tmp_path / "a.lab").write_text("made by hand")
    assert "and may be its alignment" in refused("transcribe", trained_run, one, "--out", tmp_path)
    assert (tmp_path / "a.lab").read_text() == "made by hand"
    soundfile.write(one, np.clip(sound(utterance(1)) * 9, -1, 1), 16000)
    capsys.readouterr()
    assert run(["transcribe", str(trained_run), str(one)]) == 0
    assert capsys.readouterr().err == f"regrnn: note: {one} is clipped; its phones may suffer\n"


def test_confusion(
    done: Callable[..., str], refused: Callable[..., str], trained_run: Path, tones: Path, tmp_path: Path
) -> None:
    out = tmp_path / "page.html"
    printed = done("confusion", trained_run, "--split", "test", "--out", out)
    assert printed.endswith(f"{out}\n")
    found = json.loads(done("confusion", trained_run, "--json", "--out", out))
    table, phones = from_json((trained_run / "predictions" / "test-confusion.json").read_text())
    assert found == {"page": str(out), "split": "test", "phones": phones, "counts": table.tolist()}
    page = out.read_text()
    assert f"{table.sum():,} frames of known phones, {100 * np.trace(table) / table.sum():.2f} % right" in page
    for k, phone in enumerate(phones):
        if total := table[k].sum():
            assert f"<tr><td>{phone}</td><td>{total:,}</td><td>{100 * table[k, k] / total:.1f}</td></tr>" in page
    wrong = table - np.diag(np.diag(table))
    if wrong.any():
        truth, guess = divmod(int(wrong.argmax()), len(phones))
        share = wrong.max() / table[truth].sum()
        assert printed.startswith(f"{share:6.1%} of the frames of {phones[truth]} are taken for {phones[guess]}")
    assert "cannot be written" in refused("confusion", trained_run, "--out", tmp_path / "no" / "page.html")


def test_a_missing_extra_is_known_before_training(
    done: Callable[..., str], refused: Callable[..., str], tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("jiwer", "soundfile", "kaldi_native_fbank"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            message = refused(*command(tones, tmp_path / "run"))
            assert message == f"this needs {module.replace('_', '-')}: pip install 'regrnn[speech]'"
    assert not (tmp_path / "run").exists()
    for module in ("jiwer", "soundfile", "kaldi_native_fbank", "kaldiio"):
        monkeypatch.setitem(sys.modules, module, None)
    assert "speech-ru" in done("recipes")  # what needs none of them goes on


def test_kaldi_features(
    done: Callable[..., str], refused: Callable[..., str], trained_run: Path, tones: Path, tmp_path: Path
) -> None:
    """Trained and evaluated on them, from the run alone; a recording cannot become such features here."""
    folder = tmp_path / "kaldi"
    folder.mkdir()
    draw = np.random.default_rng(0)
    phones = {f"u{k}": draw.integers(0, 3, 40) for k in range(10)}
    features = {name: np.eye(3, 8, dtype=np.float32)[row] * 3 for name, row in phones.items()}
    kaldiio.save_ark(str(folder / "feats.ark"), features, scp=str(folder / "feats.scp"))
    rows = [f"{name} {' '.join('abc'[v] for v in row)}\n" for name, row in phones.items()]
    (folder / "ali.txt").write_text("".join(rows))
    out = tmp_path / "run"
    assert (
        run(command(folder, out, training__epochs="15", data__batch_size="1", model__delay="0", model__subsample="1"))
        == 0
    )
    found = json.loads(done("evaluate", out, "--json"))
    assert found["figures"]["frame_accuracy"] > 95 and found["predictions"] == 40
    wav = sorted(tones.glob("*.wav"))[0]
    assert "trained on Kaldi's features" in refused("transcribe", out, wav)
    assert "has 8 features a frame and the run 12" in refused("evaluate", trained_run, "--data", folder)


@pytest.mark.parametrize("name", ["speech", "speech-ru"])
def test_recipes(name: str) -> None:
    recipe = recipe_from_dict(read_recipe(name), name)
    assert recipe.task == "speech"
    assert recipe.sections["data"].path == ("speech-ru" if name == "speech-ru" else "")
    plain = recipe_from_dict(read_recipe(name), name, [("--model.dropout", "0.0")])
    assert plain.sections["model"].dropout == 0.0


@pytest.mark.skipif(
    not (Path(os.environ.get("REGRNN_DATA", "nowhere")) / "speech-sample").is_dir(),
    reason="the sample of recordings is not here: set REGRNN_DATA",
)
def test_the_recipe_runs_on_real_recordings(done: Callable[..., str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ["--model.hidden-size", "16", "--training.epochs", "1", "--data.batch-size", "2", "--threads", "1"]
    done("train", "speech-ru", "--data", "speech-sample", "--out", out, *flags)
    path = sorted((Path(os.environ["REGRNN_DATA"]) / "speech-sample" / "wav").glob("*.wav"))[0]
    found = regrnn.load(out).transcribe(path)
    assert found.duration == pytest.approx(soundfile.info(path).duration)


def test_a_phone_found_where_nothing_is_labelled_does_not_count(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = regrnn.load(trained_run)
    phones = trained.inventory.phones
    truth = ["a"] * 20 + [""] * 20 + ["o"] * 20
    heard = ["a"] * 21 + ["pau"] * 18 + ["o"] * 21
    x_TF = np.zeros((60, 12), np.float32)
    one = Utterance("u", "", "u.wav", x_TF, truth, ["a", "o"], clipped=False, checksum="", heard="")
    log_p_TS = np.full((60, len(phones)), -20.0, np.float32)
    log_p_TS[np.arange(60), [phones.index(phone) for phone in heard]] = 0.0
    monkeypatch.setattr("regrnn.tasks.speech.evaluate.averaged", lambda members: [([one], [log_p_TS])])
    found = evaluate([(trained.model, None, [one])], trained.inventory, trained.decoding)
    assert found.figures["frame_accuracy"] == 100 and found.figures["phone_error_rate"] == 0
    one.phones[20:40] = ["i"] * 20
    one.sequence.insert(1, "i")
    found = evaluate([(trained.model, None, [one])], trained.inventory, trained.decoding)
    assert found.figures["phone_error_rate"] == pytest.approx(100 / 3)
