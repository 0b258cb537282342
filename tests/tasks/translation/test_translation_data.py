"""`regrnn.tasks.translation.data`: pairs as token ids, vocabularies, what is left out and what is refused."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phrases import SIZES, phrases, write_pair

from regrnn.data import stream
from regrnn.errors import RegrnnError
from regrnn.tasks.translation import data as module
from regrnn.tasks.translation.data import DataConfig, Pairs, Vocabularies, read_corpus
from regrnn.tasks.translation.evaluate import training_part

PLAIN = [("a b", "x y"), ("b c a", "y z x"), ("a", "x")]


def written(folder: Path, **splits: list[tuple[str, str]]) -> Path:
    for split in ("train", "valid", "test"):
        write_pair(folder, split, splits.get(split, PLAIN))
    return folder


def config(path: Path, **settings: Any) -> DataConfig:
    return DataConfig(path=str(path), source="de", target="en", **settings)


def refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(RegrnnError) as caught:
        read_corpus(config(path, **settings))
    message = str(caught.value)
    assert "\n" not in message
    return message


def check_pairs(pairs: Pairs, vocabularies: Vocabularies, lines: list[tuple[str, str]], settings: DataConfig) -> None:
    """Those of `lines`, encoded one by one."""
    assert len(pairs) == len(lines)
    for index, (source, target) in enumerate(lines):
        assert pairs.source(index) == vocabularies.encode_source(source, settings)
        assert pairs.target(index) == vocabularies.encode_target(target)
        assert pairs.target_lengths[index] == len(pairs.target(index)) - 1
    assert pairs.source_lines() == [source for source, _ in lines]
    assert pairs.target_lines() == [target for _, target in lines]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"min_frequency": 2},
        {"vocabulary": "bpe", "max_size": 300},
        {"joint": True},
        {"lowercase": True, "punctuation": "separate"},
    ],
    ids=["word", "bpe", "joint", "lower"],
)
def test_pairs_are_what_encoding_their_lines_gives(
    settings: dict[str, Any], reverse: bool, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = config(texts, reverse_source=reverse, **settings)
    first = read_corpus(chosen)
    with monkeypatch.context() as patch:
        patch.setattr(stream, "_encode", lambda *arguments: pytest.fail("encoded again"))
        again = read_corpus(chosen)
    for corpus in (first, again):
        for seed, (split, name) in enumerate({"train": "train", "valid": "val", "test": "test"}.items(), 1):
            check_pairs(corpus.splits[split], corpus.vocabularies, phrases(SIZES[name], seed), chosen)
    assert first.fingerprint == again.fingerprint


def test_ids_are_mapped_and_not_read(texts: Path) -> None:
    pairs = read_corpus(config(texts)).splits["train"]
    assert all(isinstance(ids, np.memmap) for ids in pairs._ids)


def test_the_source_alone_is_read_backwards(tmp_path: Path) -> None:
    folder = written(tmp_path / "texts")
    forwards, backwards = (read_corpus(config(folder, reverse_source=reverse)) for reverse in (False, True))
    words = forwards.vocabularies.source
    assert words.tokens(forwards.splits["train"].source(1)) == ["b", "c", "a"]
    assert words.tokens(backwards.splits["train"].source(1)) == ["a", "c", "b"]
    target = backwards.vocabularies.target
    assert target.tokens(backwards.splits["train"].target(1)) == ["y", "z", "x", "<eos>"]


def test_vocabularies_are_of_the_training_part_alone(tmp_path: Path) -> None:
    folder = written(tmp_path / "texts", valid=[("a q", "x q")], test=[("r a", "r x")])
    corpus = read_corpus(config(folder))
    source, target = corpus.vocabularies.source, corpus.vocabularies.target
    assert sorted(source.tokens(range(len(source)))) == ["<eos>", "<unk>", "a", "b", "c"]
    assert sorted(target.tokens(range(len(target)))) == ["<eos>", "<unk>", "x", "y", "z"]
    assert source.tokens(corpus.splits["valid"].source(0)) == ["a", "<unk>"]
    assert target.tokens(corpus.splits["test"].target(0)) == ["<unk>", "x", "<eos>"]
    assert "5 source types, 5 target types" in corpus.description


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_a_joint_vocabulary_is_one_of_both_texts(kind: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "texts", train=[("a b a", "b x"), ("a ab", "x y")])
    corpus = read_corpus(config(folder, joint=True, vocabulary=kind))
    vocabulary = corpus.vocabularies.source
    assert vocabulary is corpus.vocabularies.target
    assert f"{len(vocabulary):,} types, joint" in corpus.description
    if kind == "word":
        # By frequency in both: a 3, <eos> 4, b and x twice.
        assert vocabulary.tokens(range(len(vocabulary))) == ["<eos>", "a", "b", "x", "ab", "y", "<unk>"]


def test_rare_words_and_those_beyond_the_size_are_unknown(tmp_path: Path) -> None:
    train = [("a a b b c", "x x y y z"), ("a b d", "x y z")]
    folder = written(tmp_path / "texts", train=train)
    frequent = read_corpus(config(folder, min_frequency=2)).vocabularies
    assert frequent.source.tokens(frequent.source.encode_line("a b c d"))[:-1] == ["a", "b", "<unk>", "<unk>"]
    assert frequent.target.tokens(frequent.target.encode_line("x y z"))[:-1] == ["x", "y", "z"]
    small = read_corpus(config(folder, max_size=4)).vocabularies
    assert [len(small.source), len(small.target)] == [4, 4]


def test_case_and_punctuation(tmp_path: Path) -> None:
    folder = written(tmp_path / "texts", train=[("Ein Hund.", "A dog!"), ("ein Hund", "a Dog")])
    as_it_is = read_corpus(config(folder)).vocabularies
    assert "Hund." in as_it_is.source.tokens(range(len(as_it_is.source)))
    both = read_corpus(config(folder, lowercase=True, punctuation="separate"))
    source, target = both.vocabularies.source, both.vocabularies.target
    assert source.tokens(both.splits["train"].source(0)) == ["ein", "hund", "."]
    assert target.tokens(both.splits["train"].target(0)) == ["a", "dog", "!", "<eos>"]
    assert both.splits["train"].target_lines() == ["A dog!", "a Dog"]  # what translations are compared with


def test_byte_pairs_write_everything(tmp_path: Path) -> None:
    folder = written(tmp_path / "texts", train=phrases(50, 1))
    vocabularies = read_corpus(config(folder, vocabulary="bpe", max_size=280)).vocabularies
    assert len(vocabularies.source) <= 280 and len(vocabularies.target) <= 280
    line = "größer <eos> 犬 <unk>"
    ids = vocabularies.encode_target(line)
    assert ids[-1] == vocabularies.target.eos_id and ids.count(ids[-1]) == 1
    assert vocabularies.target.decode(ids[:-1]) == line


def test_pairs_with_an_empty_side_are_left_out_and_said(tmp_path: Path) -> None:
    pairs = [("a", "x"), ("", "y"), ("b", " \t "), ("", ""), ("c", "z")]
    folder = written(tmp_path / "texts", train=pairs, test=pairs)
    corpus = read_corpus(config(folder))
    for split in ("train", "test"):
        part = corpus.splits[split]
        check_pairs(part, corpus.vocabularies, [pairs[0], pairs[4]], config(folder))
        assert (part.lines, part.empty, part.long) == (5, 3, 0)
        assert part.description == "2 pairs (3 with an empty side left out)"
    assert corpus.splits["valid"].left_out == ""
    assert f"train: {folder / 'train.de'} and train.en, 2 pairs (3 with an empty side left out)" in corpus.description


def test_long_pairs_are_left_out_of_training_alone(tmp_path: Path) -> None:
    pairs = [("a b c", "x"), ("a b", "x y"), ("a", "x y z"), ("", "x y z"), ("c", "z")]
    folder = written(tmp_path / "texts", train=pairs, valid=pairs, test=pairs)
    corpus = read_corpus(config(folder, max_length=2))
    check_pairs(corpus.splits["train"], corpus.vocabularies, [pairs[1], pairs[4]], config(folder))
    assert corpus.splits["train"].left_out == "1 with an empty side, 2 too long"
    assert len(corpus.splits["valid"]) == len(corpus.splits["test"]) == 4
    # The words of the pairs left out are in the vocabulary: it is of the training text.
    assert "b" in corpus.vocabularies.source.tokens(range(len(corpus.vocabularies.source)))


def test_nothing_left_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "texts", train=[("a b", "x y"), ("", "x")])
    message = refusal(folder, max_length=1)
    assert message.startswith(f"{folder / 'train.de'}: no pair of lines takes part (1 with an empty side, 1 too long)")
    assert "--data.max-length" in message
    empty = written(tmp_path / "empty", valid=[("a", ""), ("", "x")])
    assert "valid.de: no pair of lines takes part (2 with an empty side)" in refusal(empty)


def test_unequal_numbers_of_lines_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "texts")
    (folder / "valid.en").write_text("x\ny\n\n\n")
    message = refusal(folder)
    assert f"{folder / 'valid.de'} has 3 lines and {folder / 'valid.en'} 4; they should be aligned" in message


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        ("c <eos>", {}),
        ("c <eos> <eos>", {"joint": True}),
        ("<eos>.", {"punctuation": "separate"}),
        ("c <EOS>", {"lowercase": True}),
    ],
)
def test_a_literal_end_in_a_text_is_refused(line: str, settings: dict[str, Any], tmp_path: Path) -> None:
    reserved = "has the token <eos>, which is reserved; leave it out"
    folder = written(tmp_path / "texts", test=[("a", "x"), ("b", line), ("c", "z")])
    assert refusal(folder, **settings) == f"{folder / 'test.en'}: line 2, byte 2: {reserved}"
    written(folder, train=[("a", "x"), ("b", "y"), (line, "z")])
    assert refusal(folder, **settings) == f"{folder / 'train.de'}: line 3, byte 4: {reserved}"


def test_a_literal_end_in_a_table_is_counted_from_the_files_start(tmp_path: Path) -> None:
    rows = [f"a{number % 3}\tb{number % 5}" for number in range(50)]
    path = tmp_path / "all.tsv"
    path.write_text("\n".join([*rows[:47], "a1\t<eos>", *rows[48:]]) + "\n")
    with pytest.raises(RegrnnError, match=rf"all\.tsv: line 48, byte {47 * 6}: has the token <eos>"):
        read_corpus(DataConfig(path=str(path)))


def test_a_table_and_records_are_the_corpus_that_files_are(tmp_path: Path) -> None:
    folder = written(tmp_path / "files", train=phrases(30, 1), valid=phrases(5, 2), test=phrases(5, 3))
    rows, records = tmp_path / "rows", tmp_path / "records"
    rows.mkdir()
    records.mkdir()
    for seed, (split, count) in enumerate({"train": 30, "valid": 5, "test": 5}.items(), 1):
        pairs = phrases(count, seed)
        (rows / f"{split}.tsv").write_text("".join(f"{english}\t{german}\n" for german, english in pairs))
        lines = [json.dumps({"translation": {"de": german, "en": english}}) for german, english in pairs]
        (records / f"{split}.jsonl").write_text("\r\n".join(lines))
    expected = read_corpus(config(folder))
    for other in (DataConfig(path=str(rows), source="2", target="1"), config(records)):
        corpus = read_corpus(other)
        assert corpus.vocabularies.source.to_json() == expected.vocabularies.source.to_json()
        for split, pairs in corpus.splits.items():
            of_files = expected.splits[split]
            assert [(pairs.source(i), pairs.target(i)) for i in range(len(pairs))] == [
                (of_files.source(i), of_files.target(i)) for i in range(len(of_files))
            ]
        assert corpus.fingerprint != expected.fingerprint


def test_line_ends_do_not_count(tmp_path: Path) -> None:
    folder = written(tmp_path / "texts")
    expected = read_corpus(config(folder))
    for path in (folder / "train.de", folder / "test.en"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    corpus = read_corpus(config(folder))
    for split, pairs in corpus.splits.items():
        check_pairs(pairs, expected.vocabularies, PLAIN, config(folder))
        assert pairs.lines == expected.splits[split].lines


def test_a_cut_table_says_which_bytes(tmp_path: Path) -> None:
    path = tmp_path / "all.tsv"
    path.write_text("".join(f"a{number % 3}\tb{number % 5}\n" for number in range(50)))
    corpus = read_corpus(DataConfig(path=str(path)))
    assert f"valid: {path} bytes 240 to 270, 5 pairs" in corpus.description
    assert len(set(corpus.fingerprint.values())) == 6


def test_too_few_words_name_the_file(tmp_path: Path) -> None:
    folder = written(tmp_path / "texts", train=[("a b", "x"), ("b", "x")])
    message = refusal(folder)
    assert message.startswith(f"{folder / 'train.en'}: the vocabulary has 1 word besides")
    (folder / "train.de").write_bytes(b"a b\n\xff\n")
    assert refusal(folder).startswith(f"{folder / 'train.de'}: line 2, byte 4: not UTF-8")


def test_no_path_is_refused() -> None:
    with pytest.raises(RegrnnError, match="no data is named; give --data a folder with two aligned files"):
        read_corpus(DataConfig(source="de", target="en"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_frequency": 0}, "min_frequency = 0 must be at least 1"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"max_length": 0}, "max_length = 0"),
        ({"max_size": 3}, "max_size = 3 must be at least 4 for word tokens"),
        ({"max_size": 257, "vocabulary": "bpe"}, "max_size = 257 must be at least 258 for bpe tokens"),
        ({"lowercase": True, "vocabulary": "bpe"}, 'lowercase works with vocabulary = "word" alone'),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**settings)


def test_an_end_in_a_line_to_translate_is_an_unknown_word(tmp_path: Path) -> None:
    chosen = config(written(tmp_path / "texts"), reverse_source=True)
    vocabularies = read_corpus(chosen).vocabularies
    ids = vocabularies.encode_source("a <eos> b", chosen)
    assert vocabularies.source.tokens(ids) == ["b", "<unk>", "a"]
    assert vocabularies.target.tokens(vocabularies.encode_target("<eos> x")) == ["<unk>", "x", "<eos>"]
    assert vocabularies.encode_source(" ", chosen) == []


def test_training_figures_are_of_pairs_spread_evenly(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = read_corpus(config(texts)).splits["train"]
    assert training_part(pairs) == list(range(SIZES["train"]))
    monkeypatch.setattr("regrnn.tasks.translation.evaluate.TRAIN_PAIRS", 50)
    part = training_part(pairs)
    assert len(part) == 50 and part[0] == 0 and part[-1] == SIZES["train"] - 1
    assert {b - a for a, b in itertools.pairwise(part)} == {4, 5}


def test_ends_are_found_block_by_block(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_corpus(config(texts)).splits["train"]
    monkeypatch.setattr(module, "_BLOCK", 7)
    pairs = read_corpus(config(texts)).splits["train"]
    assert [pairs.source(i) for i in range(len(pairs))] == [expected.source(i) for i in range(len(expected))]
