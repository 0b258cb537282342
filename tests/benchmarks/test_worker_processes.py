"""Workers: what they answer, what is made of it, and that a dead one is told of."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import PARTS, main
from benchmarks.processes import PTB_WORDS, Process, losses
from benchmarks.results import read
from benchmarks.sizes import SIZES, TOYS
from benchmarks.step import corpus_of
from benchmarks.text import write_corpus
from benchmarks.worker import Worker, peak_memory, settings_of
from regrnn.errors import RegrnnError
from regrnn.training.loop import Trainer


def test_a_worker_trains_each_side(tmp_path: Path) -> None:
    size = TOYS["medium"]
    corpus = corpus_of(tmp_path, size)
    worker = Worker()
    with pytest.raises(ValueError, match="nothing is ready"):
        worker.steps(1)
    assert worker.idiom(settings_of(size), "fused", True, 1) == {}
    assert worker.steps(2) == {}
    assert worker.ours(settings_of(size), str(corpus), "batch", 1) == {}
    assert worker.steps(2) == {}
    assert worker.memory()["bytes"] > 50 * 2**20


def test_the_peak_stays_when_memory_is_given_back() -> None:
    before = peak_memory()
    held = bytearray(b"x") * (before + (64 << 20))
    most = peak_memory()
    del held
    assert before < most and peak_memory() > most - 2**20  # the kernel counts in lots


def test_a_worker_reads_every_batch(tmp_path: Path) -> None:
    size = TOYS["small"]
    corpus = write_corpus(tmp_path / "text", size.vocabulary, 1000)
    answer = Worker().read(settings_of(size), str(corpus))
    tokens = sum(len(line.split()) + 1 for line in (corpus / "train.txt").read_text().splitlines())
    assert answer["tokens"] == tokens and answer["stream_bytes"] == 2 * tokens


def test_clocks_of_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = TOYS["small"]
    corpus = write_corpus(tmp_path / "text", size.vocabulary, 8 * size.words + size.batch)
    flags = [text for flag in size.flags(corpus) for text in flag]
    arguments = [size.recipe, "--out", str(tmp_path / "run"), "--threads", "1", "--training.epochs", "2", *flags]
    step = Trainer._step
    answer = json.loads(json.dumps(Worker().train(arguments)))
    assert Trainer._step is step
    kinds = [what for what, _, _ in answer["clocks"]]
    assert kinds.count("save") == 2 and kinds.count("step") >= 16 and kinds.count("evaluate") == 7
    found = losses(answer["clocks"], size)
    assert 0 < found["loss_percent"] < 100
    assert 0 < found["words_per_second"] < found["bare_words_per_second"]
    with pytest.raises(ValueError, match="status 1"):
        Worker().train(["no-such-recipe"])
    capsys.readouterr()


def test_losses_by_hand() -> None:
    # Updates of 0.1 s with 0.01 s between; a checkpoint of 2 s; 0.5 s from there to the next epoch, evaluation aside.
    size = SIZES["small"]
    clocks, now = [], 0.0
    for epoch in range(2):
        for _ in range(10):
            clocks.append(("step", now, now + 0.1))
            now += 0.11
        clocks.append(("save", now, now + 2.0))
        now += 2.0
        clocks.append(("evaluate", now, now + 7.0))
        now += 7.0 + (0.5 if epoch == 0 else 0.0)
    found = losses(clocks, size)
    updates = PTB_WORDS / size.words  # of an epoch: 256 s, so one checkpoint
    whole = updates * 0.11 + 2.0 + 0.5
    assert found["batch_percent"] == pytest.approx(100 * updates * 0.01 / whole)
    assert found["checkpoint_percent"] == pytest.approx(200 / whole)
    assert found["epoch_percent"] == pytest.approx(50 / whole)
    assert found["words_per_second"] == pytest.approx(PTB_WORDS / whole)
    assert found["bare_words_per_second"] == pytest.approx(size.words / 0.1)


def test_a_process_answers_and_its_death_is_told() -> None:
    with (
        pytest.raises(RegrnnError, match="a worker of the benchmarks ended with status 1: .*no_such_job"),
        Process() as worker,
    ):
        assert worker.ask("memory")["bytes"] > 0
        worker.ask("no_such_job")


@pytest.mark.slow
def test_all_parts_in_processes_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    assert main(["--quick", "--threads", "1", "--repeats", "1", "--out", str(path)]) == 0
    entries = {(entry["part"], entry["case"]): entry for entry in read(path)}
    assert {part for part, _ in entries} == set(PARTS)
    for key in (("memory", "medium"), ("members", "small")):
        for figure in entries[key]["measurements"]:
            assert figure["ours"]["low"] > 0 and figure["idiom"]["low"] > 0 and figure["ratio"]["low"] > 0
    assert entries["process", "medium"]["measurements"][0]["loss_percent"]["low"] > 0
    assert all(figure["tokens"] > 0 for figure in entries["corpus", "memory"]["measurements"])
