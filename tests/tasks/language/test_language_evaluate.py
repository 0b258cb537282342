"""`regrnn.tasks.language.evaluate`, against a loop that reads one token at a time."""

import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import regrnn
from regrnn.data.locate import cache_root
from regrnn.data.stream import TokenStream, encode_corpus
from regrnn.data.text import TextSource, find_text
from regrnn.data.vocabulary import Vocabulary, build_vocabulary
from regrnn.errors import RegrnnError
from regrnn.tasks.language import evaluate as module
from regrnn.tasks.language.data import DataConfig
from regrnn.tasks.language.evaluate import evaluate, log_probabilities
from regrnn.tasks.language.model import LanguageModel, ModelConfig
from regrnn.tasks.language.task import LanguageTask
from regrnn.tasks.language.trained import TrainedLanguageModel

Drawn = Callable[..., TrainedLanguageModel]

TEXT = "the dog sees the yak.\n\nthe  old, red cat hears.\na bird likes the big fox."


def stream_of(vocabulary: Vocabulary, text: str, folder: Path) -> TokenStream:
    path = folder / "evaluated.txt"
    path.write_text(text, encoding="utf-8")
    source = TextSource(path, 0, path.stat().st_size)
    return encode_corpus({"test": source}, vocabulary, cache_root())["test"]


def one_at_a_time(model: LanguageModel, ids: Sequence[int]) -> list[float]:
    """ln p of ids[1:], by torch.nn's cells in float64, one token after the other."""
    cell = {"LSTM": nn.LSTMCell, "GRU": nn.GRUCell, "RNN": nn.RNNCell}[type(model.rnn).__name__]
    weights = {name: parameter.double() for name, parameter in model.state_dict().items()}
    size = weights["encoder.weight"].shape[1]
    hidden = weights["decoder.weight"].shape[1]
    cells = []
    for layer in range(len([name for name in weights if name.startswith("rnn.weight_ih")])):
        cells.append(cell(size if layer == 0 else hidden, hidden, dtype=torch.float64))
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        cells[layer].load_state_dict({name: weights[f"rnn.{name}_l{layer}"] for name in names})
    states = [None for _ in cells]
    found = []
    with torch.no_grad():
        for before, after in itertools.pairwise(ids):
            x = weights["encoder.weight"][before][None]
            for layer, step in enumerate(cells):
                states[layer] = step(x, states[layer])
                x = states[layer][0] if cell is nn.LSTMCell else states[layer]
            logits = x[0] @ weights["decoder.weight"].T + weights["decoder.bias"]
            found.append((logits[after] - logits.logsumexp(0)).item())
    return found


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_every_token_once_with_the_state_carried(
    drawn: Drawn, vocabularies: dict[str, Vocabulary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: str
) -> None:
    model = drawn("separate", cell=cell).model
    stream = stream_of(vocabularies["separate"], TEXT, tmp_path)
    expected = one_at_a_time(model, stream.ids.tolist())
    for window in (1, 3, len(stream) - 1, 1000):
        monkeypatch.setattr(module, "WINDOW", window)
        windows = list(log_probabilities([model], stream.ids))
        assert [len(piece) for piece in windows[:-1]] == [window] * (len(windows) - 1)
        assert torch.cat(windows).tolist() == pytest.approx(expected, rel=1e-5)
        evaluation = evaluate([model], stream)
        assert evaluation.predictions == len(stream) - 1 == len(expected)
        assert evaluation.figures["perplexity"] == pytest.approx(math.exp(-np.mean(expected)), rel=1e-5)
        assert "every token but the first" in evaluation.protocol


def test_masks_are_off_and_nothing_is_left_to_chance(
    drawn: Drawn, vocabularies: dict[str, Vocabulary], tmp_path: Path
) -> None:
    model = drawn("separate", dropout=0.5).model.train()
    stream = stream_of(vocabularies["separate"], TEXT, tmp_path)
    generator = torch.get_rng_state()
    assert evaluate([model], stream) == evaluate([model], stream)
    assert torch.equal(generator, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_batch_and_steps_make_no_difference(tiny_text: Path) -> None:
    evaluations = []
    for batch_size, steps in ((1, 50), (7, 3), (20, 20)):
        sections = {
            "data": DataConfig(path=str(tiny_text), batch_size=batch_size, steps=steps),
            "model": ModelConfig(hidden_size=8, init=0.5),
        }
        task = LanguageTask.prepare(sections)
        torch.manual_seed(1)
        model = task.build_model()
        evaluations.append({split: task.evaluate(model, split) for split in ("train", "valid", "test")})
    assert evaluations[0] == evaluations[1] == evaluations[2]
    for split, evaluation in evaluations[0].items():
        assert evaluation.predictions == len(task.corpus.streams[split]) - 1


def test_train_figure_is_of_the_beginning_and_says_so(tiny_text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regrnn.tasks.language.task.TRAIN_PREDICTIONS", 150)
    sections = {"data": DataConfig(path=str(tiny_text)), "model": ModelConfig(hidden_size=8, init=0.5)}
    task = LanguageTask.prepare(sections)
    torch.manual_seed(1)
    model = task.build_model()
    evaluation = task.evaluate(model, "train")
    expected = one_at_a_time(model, task.corpus.streams["train"].ids[:151].tolist())
    assert evaluation.predictions == 150
    assert evaluation.figures == {"perplexity": pytest.approx(math.exp(-np.mean(expected)), rel=1e-5)}
    assert evaluation.protocol.endswith("the first 150 predictions")


def test_several_models_average_their_probabilities(
    drawn: Drawn, vocabularies: dict[str, Vocabulary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW", 4)  # each model has a state of its own to carry
    models = [
        drawn("separate", seed=1).model,
        drawn("separate", seed=2, cell="gru", hidden_size=7).model,
        drawn("separate", seed=3).model,
    ]
    stream = stream_of(vocabularies["separate"], TEXT, tmp_path)
    p = np.exp([one_at_a_time(model, stream.ids.tolist()) for model in models])
    evaluation = evaluate(models, stream)
    assert evaluation.figures["perplexity"] == pytest.approx(math.exp(-np.log(p.mean(0)).mean()), rel=1e-5)
    alone = [evaluate([model], stream).figures["perplexity"] for model in models]
    assert evaluation.figures["perplexity"] < np.exp(np.mean(np.log(alone)))  # Jensen's inequality
    assert evaluate(models[:1] * 2, stream).figures == pytest.approx(evaluate(models[:1], stream).figures)


@pytest.mark.parametrize("kind", ["word", "separate", "character", "bpe"])
def test_figures_of_each_vocabulary_by_hand(
    drawn: Drawn, vocabularies: dict[str, Vocabulary], tmp_path: Path, kind: str
) -> None:
    known = TEXT.replace("yak", "fox").replace(",", "").replace("a bird", "the bird")  # no unknown word or character
    if kind in ("word", "separate"):
        known = known.replace("hears.", "hears the dog.")  # "hears." is no word of the training text
    lines = known.split("\n")
    stream = stream_of(vocabularies[kind], known, tmp_path)
    assert stream.unknown == 0
    model = drawn(kind).model
    nats = -sum(one_at_a_time(model, stream.ids.tolist()))
    words = sum(len(line.split()) + 1 for line in lines)
    characters = len(known) + 1  # the last line's end, though the file has none
    figures = {"perplexity": math.exp(nats / (len(stream) - 1)), "bits_per_character": nats / math.log(2) / characters}
    if kind != "word":
        figures["word_perplexity"] = math.exp(nats / words)
    assert evaluate([model], stream).figures == pytest.approx(figures, rel=1e-5)


def test_no_bits_per_character_where_a_character_is_not_written(
    drawn: Drawn, vocabularies: dict[str, Vocabulary], tmp_path: Path
) -> None:
    """`<unk>` is cheaper than what it stands for, so that the figure would not compare."""
    for kind, text in (("word", TEXT), ("character", "the quick fox\nthe dog")):
        stream = stream_of(vocabularies[kind], text, tmp_path)
        assert stream.unknown > 0
        assert "bits_per_character" not in evaluate([drawn(kind).model], stream).figures


def test_perplexity_beyond_floats_is_infinite(
    drawn: Drawn, vocabularies: dict[str, Vocabulary], tmp_path: Path
) -> None:
    model = drawn("word").model
    with torch.no_grad():
        model.decoder.bias += torch.arange(len(vocabularies["word"])) * 1e4
    assert evaluate([model], stream_of(vocabularies["word"], TEXT, tmp_path)).figures["perplexity"] == math.inf


def test_evaluate_trained_reads_other_text_in_the_models_vocabulary(
    drawn: Drawn, vocabularies: dict[str, Vocabulary], tmp_path: Path
) -> None:
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text(f"the dog {split} .\n" * 3)
    member = drawn("word")
    evaluation = LanguageTask.evaluate_trained([member], str(tmp_path), "test")
    ids = [i for line in ["the dog test ."] * 3 for i in vocabularies["word"].encode_line(line)]
    assert vocabularies["word"].unk_id in ids
    expected = one_at_a_time(member.model, ids)
    assert evaluation.figures["perplexity"] == pytest.approx(math.exp(-np.mean(expected)), rel=1e-5)
    with pytest.raises(RegrnnError, match="different vocabularies"):
        LanguageTask.evaluate_trained([member, drawn("separate")], str(tmp_path), "test")
    (tmp_path / "test.txt").write_text("\n")
    with pytest.raises(RegrnnError, match=r"test\.txt: the test part is a single token"):
        LanguageTask.evaluate_trained([member], str(tmp_path), "test")


def test_penn_treebank_has_as_many_predictions_as_in_the_papers_code() -> None:
    data = os.environ.get("REGRNN_DATA")
    if not data or not (Path(data) / "ptb").is_dir():
        pytest.skip("needs the Penn Treebank: REGRNN_DATA is not set to a folder that has ptb/")
    sources = find_text(Path(data) / "ptb")
    vocabulary = build_vocabulary("word", sources["train"])
    assert len(vocabulary) == 10_000
    streams = encode_corpus({split: sources[split] for split in ("valid", "test")}, vocabulary, cache_root())
    assert {split: len(stream) - 1 for split, stream in streams.items()} == {"valid": 73_759, "test": 82_429}


def test_perplexity_by_frequency_adds_up(tiny_text: Path, tiny_run: Path) -> None:
    parts = find_text(tiny_text)
    vocabulary = regrnn.load(tiny_run).vocabulary
    counts: Counter[int] = Counter(i for line in parts["train"] for i in vocabulary.encode_line(line))
    bands = json.loads((tiny_run / "predictions" / "test-frequency.json").read_text())
    result = json.loads((tiny_run / "result.json").read_text())
    assert sum(band["predictions"] for band in bands) == result["predictions"]
    nats = sum(band["predictions"] * math.log(band["perplexity"]) for band in bands)
    assert math.exp(nats / result["predictions"]) == pytest.approx(result["figures"]["test_perplexity"])
    assert bands[0]["most"] == 0 and bands[0]["predictions"] == 1  # the emu, in the test part alone
    for band in bands:
        assert band["least"] <= band["most"] < max(10 * band["least"], 1)
    test = [i for line in parts["test"] for i in vocabulary.encode_line(line)][1:]
    for band in bands:
        assert band["predictions"] == sum(band["least"] <= counts[i] <= band["most"] for i in test)
