"""`regrnn.tasks.language.data`: text in, streams of tokens out."""

import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from regrnn.config import fill
from regrnn.errors import RegrnnError
from regrnn.tasks.language.data import DataConfig, find_sources, read_corpus
from regrnn.tasks.language.model import ModelConfig
from regrnn.tasks.language.task import LanguageTask


def test_vocabulary_is_of_the_training_text_alone(tiny_text: Path) -> None:
    corpus = read_corpus(DataConfig(path=str(tiny_text)))
    lines = tiny_text.read_text(encoding="utf-8").splitlines()
    train = lines[: corpus.streams["train"].lines]
    words = {word for line in train for word in line.split()}
    assert "yak" not in words and "emu" not in words  # the test would show nothing otherwise
    assert set(corpus.vocabulary.tokens(range(len(corpus.vocabulary)))) == words | {"<unk>", "<eos>"}
    assert {split: stream.unknown for split, stream in corpus.streams.items()} == {"train": 0, "valid": 1, "test": 1}


def test_single_file_is_cut_in_order_into_80_10_10(tiny_text: Path) -> None:
    corpus = read_corpus(DataConfig(path=str(tiny_text)))
    read = "".join(corpus.vocabulary.decode(corpus.streams[split].ids) for split in ("train", "valid", "test"))
    expected = tiny_text.read_text(encoding="utf-8").replace("yak", "<unk>").replace("emu", "<unk>")
    assert read == expected
    sizes = [corpus.streams[split].lines for split in ("train", "valid", "test")]
    assert sum(sizes) == 300 and abs(sizes[0] - 240) <= 2 and abs(sizes[1] - 30) <= 2


def test_folder_has_a_file_for_each_split(tmp_path: Path) -> None:
    for split, text in {"train": "a b c\na b\n", "valid": "b a\n", "test": "c z\n"}.items():
        (tmp_path / f"my.{split}.txt").write_text(text)
    corpus = read_corpus(DataConfig(path=str(tmp_path)))
    decoded = {split: corpus.vocabulary.decode(stream.ids) for split, stream in corpus.streams.items()}
    assert decoded == {"train": "a b c\na b\n", "valid": "b a\n", "test": "c <unk>\n"}


def test_docs_is_the_text_of_the_running_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    docs_corpus = pytest.importorskip("regrnn.data.docs_corpus")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()  # a folder of that name, as a checkout has one, is not meant
    texts = {split: f"{split} of the documentation\n" * 10 for split in ("train", "valid", "test")}

    def write(folder: Path) -> None:
        for split, text in texts.items():
            (folder / f"{split}.txt").write_text(text)

    monkeypatch.setattr(docs_corpus, "write_docs_corpus", write)
    for _ in range(2):  # the second time over what is there
        sources = find_sources("docs")
        assert {split: "".join(f"{line}\n" for line in source) for split, source in sources.items()} == texts
    files = sorted(path.name for path in (empty_cache / "docs").rglob("*.txt"))
    assert files == ["test.txt", "train.txt", "valid.txt"]  # nothing half-written is left behind
    with pytest.raises(RegrnnError, match=r"docs: no train split"):
        find_sources("./docs")


def test_settings_reach_the_vocabulary(tmp_path: Path) -> None:
    draw = random.Random(2)
    lines = [" ".join(draw.choice(["One", "two,", "three", "four"]) for _ in range(8)) for _ in range(50)]
    path = tmp_path / "text.txt"
    path.write_text("\n".join([*lines[:40], "rare Rare once", *lines[40:]]) + "\n")

    def types(**settings: object) -> set[str]:
        vocabulary = read_corpus(DataConfig(path=str(path), **settings)).vocabulary  # type: ignore[arg-type]
        return set(vocabulary.tokens(range(len(vocabulary)))) - {"<unk>", "<eos>"}

    assert types(min_frequency=2) == {"One", "two,", "three", "four"}
    assert types(min_frequency=2, lowercase=True) == {"one", "two,", "three", "four", "rare"}
    assert types(min_frequency=2, punctuation="separate") == {"One", "two", ",", "three", "four"}
    counts = Counter(word for line in path.read_text().splitlines()[:40] for word in line.split())
    assert types(max_size=4) == {word for word, _ in counts.most_common(2)}
    assert types(vocabulary="character", min_frequency=2) == set("One two,threefoura")  # c and R are seen once
    bpe = read_corpus(DataConfig(path=str(path), vocabulary="bpe", max_size=261)).vocabulary
    assert bpe.kind == "bpe" and len(bpe) == 261


def test_fingerprint_changes_with_the_text_and_with_its_place_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a b\n" * 20)
    (tmp_path / "b.txt").write_text("a b\n" * 20)
    (tmp_path / "c.txt").write_text("a b\n" * 19 + "b a\n")
    a, b, c = (read_corpus(DataConfig(path=str(tmp_path / f"{name}.txt"))).fingerprint for name in "abc")
    assert a == b != c
    assert len(set(a.values())) == 3


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"batch_size": 0}, "batch_size = 0 must be at least 1"),
        ({"steps": -1}, "steps = -1 must be at least 1"),
        ({"min_frequency": 0}, "min_frequency = 0 must be at least 1"),
        ({"max_size": 3}, "max_size = 3 must be at least 4 for word tokens"),
        ({"max_size": 257, "vocabulary": "bpe"}, "max_size = 257 must be at least 258 for bpe tokens"),
        ({"lowercase": True, "vocabulary": "character"}, 'lowercase works with vocabulary = "word" alone'),
        ({"lowercase": True, "vocabulary": "bpe"}, 'lowercase works with vocabulary = "word" alone'),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, object], named: str) -> None:
    with pytest.raises(RegrnnError, match=rf"my\.toml \[data\]: {named}"):
        fill(DataConfig, settings, "my.toml [data]")


def test_no_data_named() -> None:
    with pytest.raises(RegrnnError, match="no data is named; give --data"):
        read_corpus(DataConfig())


def test_vocabulary_of_one_word_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("same same\n" * 20)
    with pytest.raises(RegrnnError, match=rf"^{path}: the vocabulary has 1 word besides"):
        read_corpus(DataConfig(path=str(path)))


@pytest.mark.parametrize("split", ["valid", "test"])
def test_split_of_a_single_token_is_refused(tmp_path: Path, split: str) -> None:
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text("\n" if name == split else "a b c\n")
    with pytest.raises(RegrnnError, match=rf"{split}\.txt: the {split} part is a single token"):
        read_corpus(DataConfig(path=str(tmp_path)))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_windows_carry_the_state_on(tiny_text: Path, cell: str) -> None:
    data = DataConfig(path=str(tiny_text), batch_size=3, steps=7)
    model_config = ModelConfig(cell=cell, hidden_size=8, num_layers=2, init=0.5)  # type: ignore[arg-type]
    task = LanguageTask(read_corpus(data), data, model_config)
    torch.manual_seed(1)
    model = task.build_model()
    first, second = (task.batch(1, position, torch.device("cpu")) for position in (0, 1))
    one = task.loss(model, first, {})
    two = task.loss(model, second, one.state)
    whole = task.loss(model, (torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])), {})
    torch.testing.assert_close(one.total + two.total, whole.total, rtol=1e-6, atol=0)
    cold = task.loss(model, second, {})
    assert abs(cold.total.item() - two.total.item()) > 1e-3  # the state makes a difference
    assert {name: tensor.shape for name, tensor in one.state.items()} == {
        name: torch.Size([2, 3, 8]) for name in (("h", "c") if cell == "lstm" else ("h",))
    }


def test_every_epoch_reads_the_text_once_in_order(tiny_text: Path) -> None:
    data = DataConfig(path=str(tiny_text), batch_size=3, steps=7)
    corpus = read_corpus(data)
    task = LanguageTask(corpus, data, ModelConfig(hidden_size=4))
    for epoch in (1, 2):
        batches = [task.batch(epoch, position, torch.device("cpu")) for position in range(task.batches)]
        x_TB, y_TB = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
        rows = len(x_TB)
        assert x_TB.T.flatten().tolist() == corpus.streams["train"].ids[: 3 * rows].tolist()
        assert y_TB.T.flatten().tolist() == corpus.streams["train"].ids[1 : 3 * rows + 1].tolist()
        assert rows == (len(corpus.streams["train"]) - 1) // 3
