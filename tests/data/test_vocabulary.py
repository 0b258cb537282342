import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrnn.data.text import find_text
from regrnn.data.vocabulary import (
    BPEVocabulary,
    CharacterVocabulary,
    Vocabulary,
    WordVocabulary,
    build_vocabulary,
    from_json,
)
from regrnn.errors import RegrnnError

LINES = ["the cat sat on the mat", "", "the <unk> dog  don't <eos>", "naïve 日本 😀 the"]
KINDS = ("word", "character", "bpe")
line_text = st.text(st.characters(exclude_characters="\n", codec="utf-8"))


def build(kind: str, lines: list[str] = LINES, **options: Any) -> Vocabulary:
    if kind == "bpe":
        options = {"size": 300} | options
    return build_vocabulary(kind, lines, **options)


BPE = build("bpe", [f"{line} {i} {line[::-1]}" for i, line in enumerate(LINES * 9)])


def test_word_ids_are_by_frequency_then_code_point() -> None:
    words = build("word", ["b a b <eos>", "c a b", "é Z <unk>"])
    assert words.tokens(range(len(words))) == ["<eos>", "b", "a", "<unk>", "Z", "c", "é"]
    assert words.size == len(words) == 7
    assert words.encode_line("b  unseen <unk> <eos>") == [1, 3, 3, 0, 0]
    assert words.is_unknown(3)
    assert not words.is_unknown(1)
    assert words.decode([1, 3, 0, 2]) == "b <unk>\na"


def test_words_below_the_minimum_train_unk() -> None:
    words = build("word", ["a a a b b c d", "e f"], min_frequency=2)
    # c, d, e and f make <unk> the most frequent.
    assert words.tokens(range(len(words))) == ["<unk>", "a", "<eos>", "b"]


def test_unk_has_an_id_though_training_never_sees_it() -> None:
    words = build("word", ["a b"])
    assert words.tokens(range(len(words))) == ["<eos>", "a", "b", "<unk>"]
    assert words.encode_line("new a") == [3, 1, 0]


def test_max_size_keeps_the_most_frequent() -> None:
    words = build("word", ["a a a b b c c d"], max_size=4)
    assert sorted(words.tokens(range(len(words)))) == ["<eos>", "<unk>", "a", "b"]
    assert words.tokens([words.unk_id]) == ["<unk>"]
    assert words.encode_line("c") == words.encode_line("d")


def test_a_blank_line_is_an_end_of_line() -> None:
    for kind in KINDS:
        vocabulary = build(kind)
        assert vocabulary.encode_line("") == [vocabulary.eos_id]


def test_lowercase() -> None:
    words = build("word", ["The the CAT"], lowercase=True)
    assert words.encode_line("tHE Cat") == words.encode_line("the cat")
    assert words.decode(words.encode_line("THE cat")) == "the cat\n"


@pytest.mark.parametrize(
    ("line", "tokens"),
    [
        ("Don't stop, Mr. O’Neil!", ["Don't", "stop", ",", "Mr", ".", "O’Neil", "!"]),
        (
            "It cost $3.14 (or 10,000.) at 12:30.",
            ["It", "cost", "$", "3.14", "(", "or", "10,000", ".", ")", "at", "12:30", "."],
        ),
        (
            "The U.S. and e.g. J.K. Rowling; 50%",
            ["The", "U.S.", "and", "e.g.", "J.K.", "Rowling", ";", "50", "%"],
        ),
        ("a well-known COVID-19 -- yes -", ["a", "well-known", "COVID-19", "--", "yes", "-"]),
        ("\"So... what?\" 'quoted'", ['"', "So", "...", "what", "?", '"', "'", "quoted", "'"]),
        ("हिन्दी की किताब, می‌خواهم", ["हिन्दी", "की", "किताब", ",", "می‌خواهم"]),
        ("cafe\u0301 end.Next a,b", ["cafe\u0301", "end", ".", "Next", "a", ",", "b"]),
        ("<unk>, <eos>. <x>", ["<unk>", ",", "<eos>", ".", "<", "x", ">"]),
        ("snake_case #1 €5 日本語。", ["snake_case", "#", "1", "€", "5", "日本語", "。"]),
    ],
)
def test_punctuation_apart(line: str, tokens: list[str]) -> None:
    words = build("word", [line, line + " a b"], punctuation="separate")
    assert words.tokens(words.encode_line(line)[:-1]) == tokens


@pytest.mark.parametrize(
    "line",
    [
        'He said: "Don\'t go (or stay), please!" -- and left.',
        "It cost $3.14; that's “cheap”…",
        "'Yes', she said, 'a 50% rise in the U.S.?'",
    ],
)
def test_punctuation_is_put_back(line: str) -> None:
    words = build("word", [line], punctuation="separate")
    assert words.decode(words.encode_line(line) * 2) == f"{line}\n{line}\n"


@given(line=line_text)
def test_separate_tokens_are_the_line_without_white_space(line: str) -> None:
    words = WordVocabulary.build(["a b", line], punctuation="separate")
    tokens = words.tokens(words.encode_line(line))
    assert "".join(tokens[:-1]) == "".join(line.split())


@given(line=line_text)
def test_bpe_loses_nothing(line: str) -> None:
    ids = BPE.encode_line(line)
    assert BPE.decode(ids) == line + "\n"
    assert max(ids) < len(BPE)
    assert ids.index(BPE.eos_id) == len(ids) - 1


@given(line=line_text)
def test_characters_lose_nothing(line: str) -> None:
    characters = build("character", ["ab", line])
    ids = characters.encode_line(line)
    assert len(ids) == len(line) + 1
    assert characters.decode(ids) == line + "\n"


@given(words=st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda w: w.split() == [w])))
def test_words_lose_nothing_but_white_space(words: list[str]) -> None:
    line = "  ".join(words)
    vocabulary = build("word", ["a b", line])
    ids = vocabulary.encode_line(line)
    assert len(ids) == len(words) + 1
    if "<eos>" not in words:
        assert vocabulary.decode(ids) == " ".join(words) + "\n"


def test_special_marks_are_plain_text_for_characters_and_bpe() -> None:
    for kind in ("character", "bpe"):
        vocabulary = build(kind)
        ids = vocabulary.encode_line("<unk><eos>")
        assert vocabulary.decode(ids) == "<unk><eos>\n"
        assert ids.count(vocabulary.eos_id) == 1


def test_rare_characters_become_unk() -> None:
    characters = build("character", ["aabb", "ac"], min_frequency=2)
    assert characters.tokens(range(len(characters))) == ["a", "<eos>", "b", "<unk>"]
    assert characters.decode(characters.encode_line("abc")) == "ab\N{REPLACEMENT CHARACTER}\n"


def test_bpe_merges_and_size() -> None:
    vocabulary = build("bpe", ["low lower lowest"] * 50, size=262)
    assert isinstance(vocabulary, BPEVocabulary)
    assert len(vocabulary) == 262
    assert vocabulary.eos_id == 261
    assert vocabulary.unk_id is None
    assert not any(vocabulary.is_unknown(i) for i in range(262))
    assert len(vocabulary.encode_line("low")) == 2
    assert vocabulary.tokens(vocabulary.encode_line(" low")) == ["Ġlow", "<eos>"]


def test_bpe_training_is_deterministic() -> None:
    lines = [" ".join(f"w{i * j % 37}x{j % 5}" for j in range(30)) for i in range(40)]
    trained = [json.dumps(build("bpe", lines, size=400).to_json()) for _ in range(4)]
    assert len(set(trained)) == 1


def test_bpe_trains_on_a_long_line_as_on_its_words() -> None:
    words = [f"word{i % 50} other{i % 7}" for i in range(2000)]
    assert (
        build("bpe", [" ".join(words)]).to_json() == build("bpe", [words[0]] + [" " + w for w in words[1:]]).to_json()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_many_lines_are_encoded_as_each_one(kind: str) -> None:
    vocabulary = build(kind)
    lines = LINES * 600 + ["x" * 300_000, "the end"]
    assert list(vocabulary.encode_lines(iter(lines))) == [vocabulary.encode_line(line) for line in lines]


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_has_no_end_of_its_own(kind: str) -> None:
    vocabulary = build(kind)
    assert vocabulary.encode_prompt("the cat") == vocabulary.encode_line("the cat")[:-1]
    two = vocabulary.encode_line("the cat") + vocabulary.encode_line("sat")[:-1]
    assert vocabulary.encode_prompt("the cat\nsat") == two
    assert vocabulary.encode_prompt("the cat\r\nsat\n") == [*two, vocabulary.eos_id]
    assert vocabulary.encode_prompt("") == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_is_one_line(kind: str) -> None:
    vocabulary = build(kind)
    for call in (vocabulary.encode_line, vocabulary.word_index):
        with pytest.raises(ValueError, match="line end"):
            call("a\nb")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [-1, 10_000])
def test_ids_outside_are_refused(kind: str, bad: int) -> None:
    vocabulary = build(kind)
    for call in (vocabulary.decode, vocabulary.tokens):
        with pytest.raises(ValueError, match=f"id {bad} is not in the vocabulary"):
            call([0, bad])


@pytest.mark.parametrize(
    ("kind", "options", "index"),
    [
        ("word", {}, [0, 1, 2]),
        ("word", {"punctuation": "separate"}, [0, 0, 0, 1, 1, 2]),
        ("character", {}, [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2]),
    ],
)
def test_word_index(kind: str, options: dict[str, Any], index: list[int]) -> None:
    vocabulary = build(kind, **options)
    line = ' "cat"  don\'t '.replace("don't", "mat!")
    assert vocabulary.words(line) == ['"cat"', "mat!"]
    assert vocabulary.word_index(line) == index


@given(line=line_text, kind=st.sampled_from(["attached", "separate", "character", "bpe"]))
def test_word_index_covers_the_line(line: str, kind: str) -> None:
    if kind == "bpe":
        vocabulary: Vocabulary = BPE
    elif kind == "character":
        vocabulary = build("character", ["ab", line])
    else:
        vocabulary = build("word", ["a b", line], punctuation=kind)
    index, ids, words = vocabulary.word_index(line), vocabulary.encode_line(line), vocabulary.words(line)
    assert len(index) == len(ids)
    assert index[-1] == len(words)
    assert index == sorted(index)
    # What is decoded from the tokens of a word is the word.
    if kind in ("attached", "character"):
        for i, word in enumerate(words):
            part = [token for token, j in zip(ids, index, strict=True) if j == i]
            assert word == "<eos>" or vocabulary.decode(part).split() == [word]


def test_word_index_of_bpe() -> None:
    line = "  the 日本 😀cat\t"
    index, ids = BPE.word_index(line), BPE.encode_line(line)
    parts = ["".join(BPE.decode([t for t, i in zip(ids, index, strict=True) if i == w])) for w in range(4)]
    assert parts == ["  the", " 日本", " 😀cat", "\t\n"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [("word", {"punctuation": "separate", "lowercase": True}), ("word", {}), ("character", {}), ("bpe", {})],
)
def test_json_round_trip(kind: str, options: dict[str, Any]) -> None:
    vocabulary = build(kind, **options)
    again = from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert type(again) is type(vocabulary)
    assert again.to_json() == vocabulary.to_json()
    assert (again.size, again.eos_id, again.unk_id) == (vocabulary.size, vocabulary.eos_id, vocabulary.unk_id)
    for line in [*LINES, "The Cat, UNSEEN!"]:
        assert again.encode_line(line) == vocabulary.encode_line(line)
        assert again.decode(again.encode_line(line)) == vocabulary.decode(vocabulary.encode_line(line))


WORD = {"kind": "word", "types": ["<unk>", "<eos>", "a", "b"], "punctuation": "attached", "lowercase": False}


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "words"},
        {"kind": None},
        {"types": None},
        {"types": ["<unk>", "<eos>", "a", 3]},
        {"types": ["<unk>", "<eos>", "a", "a"]},
        {"types": ["<eos>", "a", "b", "c"]},
        {"types": ["<unk>", "a", "b", "c"]},
        {"types": ["<unk>", "<eos>", "a", "two words"]},
        {"types": ["<unk>", "<eos>", "a", ""]},
        {"types": ["<unk>", "<eos>", "a", "\ud800"]},
        {"types": ["<unk>", "<eos>", "a"]},
        {"punctuation": "apart"},
        {"punctuation": 1},
        {"lowercase": "no"},
        {"lowercase": 1},
        {"more": 1},
        {"kind": "character"},
        {"kind": "bpe"},
    ],
)
def test_malformed_json_is_refused(change: dict[str, Any]) -> None:
    assert isinstance(from_json(WORD), WordVocabulary)
    with pytest.raises(RegrnnError, match="vocabulary"):
        from_json(WORD | change)


@pytest.mark.parametrize(
    "data", [None, [], "word", 3, {}, {"kind": "character", "types": ["<unk>", "<eos>", "a", "bc"]}]
)
def test_other_json_is_refused(data: object) -> None:
    with pytest.raises(RegrnnError, match="vocabulary"):
        from_json(data)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["tokenizer"], None),
        (["tokenizer"], "Tokenizer"),
        (["tokenizer", "normalizer"], {"type": "Lowercase"}),
        (["tokenizer", "pre_tokenizer"], None),
        (["tokenizer", "pre_tokenizer", "add_prefix_space"], True),
        (["tokenizer", "added_tokens"], [{"id": 0, "content": "a"}]),
        (["tokenizer", "decoder"], {"type": "Metaspace"}),
        (["tokenizer", "model", "type"], "WordPiece"),
        (["tokenizer", "model", "unk_token"], "a"),
        (["tokenizer", "model", "dropout"], 0.1),
        (["tokenizer", "model", "vocab"], {}),
        (["tokenizer", "model", "vocab", "a"], 0),
        (["tokenizer", "model", "vocab", "a"], "64"),
        (["tokenizer", "model", "vocab", "a"], True),
        (["tokenizer", "model", "vocab", "日"], 299),
        (["tokenizer", "model", "vocab", ""], 299),
        (["tokenizer", "model", "vocab", "\ud800"], 299),
        (["tokenizer", "model", "merges"], [["a"]]),
        (["tokenizer", "model", "merges"], ["a b"]),
        (["tokenizer", "model", "merges"], [["a", 1]]),
        (["tokenizer", "model", "merges"], [["q", "q"]]),
        (["tokenizer", "model", "merges"], {"a": "b"}),
        (["more"], 1),
    ],
)
def test_malformed_bpe_is_refused(path: list[str], value: object) -> None:
    data = BPE.to_json()
    assert BPE.size == 300  # so that 299 is the next free id of the model
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(RegrnnError, match="vocabulary"):
        from_json(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(
    kind=st.sampled_from(KINDS),
    key=st.sampled_from(["types", "tokenizer", "punctuation", "lowercase"]),
    value=json_values,
)
def test_any_json_is_taken_or_refused(kind: str, key: str, value: object) -> None:
    try:
        vocabulary = from_json(WORD | {"kind": kind, key: value})
    except RegrnnError:
        return
    assert vocabulary.size >= 4


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("word", []),
        ("word", ["", ""]),
        ("word", ["same same", "same"]),
        ("word", ["<unk> <eos> a"]),
        ("character", ["aaaa", "a"]),
        ("bpe", ["aaaa", "a"]),
        ("bpe", []),
    ],
)
def test_vocabulary_of_one(kind: str, lines: list[str]) -> None:
    with pytest.raises(RegrnnError, match=r"the vocabulary has [01] .* give more text"):
        build_vocabulary(kind, lines)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("word", {"min_frequency": 0}, "min_frequency must be at least 1"),
        ("word", {"min_frequency": 9}, "lower min_frequency"),
        ("word", {"max_size": 3}, "max_size must be at least 4"),
        ("word", {"punctuation": "none"}, "attached or separate, not 'none'"),
        ("character", {"min_frequency": -1}, "min_frequency must be at least 1"),
        ("bpe", {"size": 257}, "size must be at least 258"),
        ("words", {}, "did you mean word"),
        ("syllable", {}, "the kinds are word, character and bpe"),
    ],
)
def test_bad_options(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RegrnnError, match=message):
        build_vocabulary(kind, LINES, **options)


def test_an_option_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="lowercase"):
        build_vocabulary("character", LINES, lowercase=True)


def test_kinds_are_the_classes() -> None:
    assert [type(build(kind)) for kind in KINDS] == [WordVocabulary, CharacterVocabulary, BPEVocabulary]


@pytest.mark.skipif("REGRNN_DATA" not in os.environ, reason="REGRNN_DATA is not set: no Penn Treebank")
def test_penn_treebank_has_ten_thousand_types() -> None:
    train = find_text(Path(os.environ["REGRNN_DATA"], "ptb"))["train"]
    words = build_vocabulary("word", train)
    assert words.size == 10_000
    # The order of the released TensorFlow code, which sorts in the same way.
    assert words.tokens(range(5)) == ["the", "<unk>", "<eos>", "N", "of"]


def test_words_of_a_line_as_they_stand_there() -> None:
    vocabulary = WordVocabulary(["<unk>", "<eos>", "the", "dog"], punctuation="separate")
    line = 'The dog said: "don\'t", (twice) 3.14!'
    tokens = vocabulary.split(line)
    assert tokens == ["The", "dog", "said", ":", '"', "don't", '"', ",", "(", "twice", ")", "3.14", "!"]
    assert vocabulary.join(tokens) == line
    assert len(tokens) == len(vocabulary.encode_line(line)) - 1
    lower = WordVocabulary(["<unk>", "<eos>", "the", "dog"], lowercase=True)
    assert lower.split("The  Dog,\t<UNK>") == ["the", "dog,", "<unk>"]
    assert lower.join(lower.split("The  Dog,")) == "the dog,"
    assert lower.split(" ") == [] and lower.join([]) == ""
    with pytest.raises(ValueError, match="line end"):
        lower.split("a\nb")
