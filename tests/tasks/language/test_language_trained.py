"""`regrnn.tasks.language.trained`: scoring and writing text with a language model."""

import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regrnn
from regrnn.errors import RegrnnError
from regrnn.tasks.language import trained as module
from regrnn.tasks.language.trained import ScoredLine, TrainedLanguageModel

Drawn = Callable[..., TrainedLanguageModel]

KINDS = ["word", "separate", "character", "bpe"]
LINES = [
    "the old dog sees the cat.",
    "",
    "the  emu, hears\tthe big fox.",
    " likes ",
    "a bird.",
    "the red cat likes the dog. " * 5,
]


def chained(trained: TrainedLanguageModel, ids: list[int]) -> list[float]:
    """ln p of each token of a text that begins after an end of line, from the logits of one forward pass."""
    eos = trained.vocabulary.eos_id
    with torch.no_grad():
        logits, _ = trained.model(torch.tensor([eos, *ids[:-1]])[:, None])
    log_p = logits[:, 0].double().log_softmax(-1)
    return [log_p[position, token].item() for position, token in enumerate(ids)]


def of_tokens(line: ScoredLine) -> list[float]:
    return [token.log_probability for token in line.tokens]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("carry", [False, True])
def test_scores_add_up_to_the_probability_of_the_text(drawn: Drawn, kind: str, carry: bool) -> None:
    trained = drawn(kind)
    encoded = [trained.vocabulary.encode_line(line) for line in LINES]
    scored = trained.score(LINES, carry=carry)
    if carry:
        expected = chained(trained, [token for ids in encoded for token in ids])
    else:
        expected = [score for ids in encoded for score in chained(trained, ids)]
    assert [score for line in scored for score in of_tokens(line)] == pytest.approx(expected, rel=1e-5)
    for line, text, ids in zip(scored, LINES, encoded, strict=True):
        assert line.text == text
        assert [token.text for token in line.tokens] == trained.vocabulary.tokens(ids)
        assert [word.text for word in line.words] == [*text.split(), "<eos>"]
        for items in (line.tokens, line.words):
            total = sum(item.log_probability for item in items)
            assert total == pytest.approx(line.log_probability, rel=1e-9)
            assert sum(item.surprisal for item in items) == pytest.approx(line.surprisal, rel=1e-9)
        assert line.surprisal == pytest.approx(-line.log_probability / math.log(2))


@pytest.mark.parametrize("carry", [False, True])
def test_several_models_score_by_their_mean_probability(drawn: Drawn, carry: bool) -> None:
    members = [drawn("word", seed=seed, hidden_size=size) for seed, size in ((1, 12), (2, 7), (3, 9))]
    alone = [[s for line in member.score(LINES, carry=carry) for s in of_tokens(line)] for member in members]
    expected = [math.log(sum(map(math.exp, scores)) / 3) for scores in zip(*alone, strict=True)]
    scored = members[0].score(LINES, carry=carry, average=members[1:])
    assert [s for line in scored for s in of_tokens(line)] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(RegrnnError, match="the runs have different vocabularies"):
        members[0].score(LINES, average=[drawn("separate")])


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_the_sums_of_their_tokens(drawn: Drawn, kind: str) -> None:
    trained = drawn(kind)
    text = "the emu, hears  the fox."
    [line] = trained.score(text)
    scores = of_tokens(line)
    if kind == "word":
        groups = [[i] for i in range(6)]
    elif kind == "separate":
        groups = [[0], [1, 2], [3], [4], [5, 6], [7]]
    else:  # white space belongs to the word after it
        spans = [(0, 3), (3, 8), (8, 14), (14, 19), (19, 24)]
        assert [text[start:end].strip() for start, end in spans] == text.split()
        # A character is a token; the tokens of BPE are written in bytes, and the text is ASCII.
        lengths = [1 if kind == "character" else len(token.text) for token in line.tokens[:-1]]
        ends = np.cumsum(lengths)
        groups = [[i for i, end in enumerate(ends) if first < end <= last] for first, last in spans]
        groups.append([len(lengths)])
    assert [word.log_probability for word in line.words] == pytest.approx(
        [sum(scores[i] for i in group) for group in groups]
    )


@pytest.mark.parametrize("kind", ["separate", "bpe"])
def test_each_line_is_scored_as_if_alone_whatever_stands_beside_it(
    drawn: Drawn, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = drawn(kind)
    alone = [of_tokens(trained.score([line])[0]) for line in LINES]
    for tokens_at_once, window in ((16_000, 1000), (20, 7), (1, 1)):
        monkeypatch.setattr(module, "TOKENS_AT_ONCE", tokens_at_once)
        monkeypatch.setattr(module, "WINDOW", window)
        for lines, expected in ((LINES, alone), (LINES[::-1], alone[::-1])):
            for line, scores in zip(trained.score(lines), expected, strict=True):
                assert of_tokens(line) == pytest.approx(scores, rel=1e-5)


def test_carried_state_is_that_of_one_stream(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = drawn("separate")
    whole = [of_tokens(line) for line in trained.score(LINES, carry=True)]
    assert whole[0] == pytest.approx(of_tokens(trained.score(LINES[0])[0]), rel=1e-5)
    assert whole[2] != pytest.approx(of_tokens(trained.score(LINES[2])[0]), rel=1e-3)
    monkeypatch.setattr(module, "WINDOW", 5)
    for line, scores in zip(trained.score(LINES, carry=True), whole, strict=True):
        assert of_tokens(line) == pytest.approx(scores, rel=1e-5)


def test_a_long_line_is_not_padded_to_by_short_ones() -> None:
    lengths = [3, 20_000, 2, 9_000, 3, 8_000]
    batches = list(module._batches(lengths))
    assert sorted(index for batch in batches for index in batch) == list(range(6))
    assert [sorted(batch) for batch in batches] == [[0, 2, 4], [5], [3], [1]]


def test_text_is_cut_into_lines_as_a_file_is(drawn: Drawn) -> None:
    trained = drawn("word")
    for text in ("the dog\n\nthe cat", "the dog\n\nthe cat\n", "the dog\r\n\r\nthe cat\r\n"):
        assert [line.text for line in trained.score(text)] == ["the dog", "", "the cat"]
    assert [line.text for line in trained.score("the\x0cdog\u2028the cat")] == ["the\x0cdog\u2028the cat"]
    assert [line.text for line in trained.score(["the dog\n", "the cat"])] == ["the dog", "the cat"]
    assert trained.score("") == trained.score([]) == trained.score([], carry=True) == []
    [blank] = trained.score("\n")
    assert [token.text for token in blank.tokens] == [word.text for word in blank.words] == ["<eos>"]
    assert blank.log_probability < 0


def test_words_out_of_the_vocabulary_are_marked(drawn: Drawn) -> None:
    [line] = drawn("separate").score("the emu, <unk> sees")
    assert [(word.text, word.unknown) for word in line.words] == [
        ("the", False),
        ("emu,", True),
        ("<unk>", True),
        ("sees", False),
        ("<eos>", False),
    ]
    assert [(token.text, token.unknown) for token in line.tokens[1:3]] == [("<unk>", True), ("<unk>", True)]
    [line] = drawn("character").score("the fix")
    assert [word.unknown for word in line.words] == [False, False, False]
    [line] = drawn("character").score("the Fox")
    assert [word.unknown for word in line.words] == [False, True, False]
    [line] = drawn("bpe").score("the 狐")
    assert not any(token.unknown for token in line.tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_draws_the_same_texts(drawn: Drawn, kind: str) -> None:
    trained = drawn(kind)
    first = trained.generate("the dog", length=20, samples=3, seed=5)
    torch.manual_seed(0)  # a generator of its own: torch's is neither read nor moved
    before = torch.get_rng_state()
    assert trained.generate("the dog", length=20, samples=3, seed=5) == first
    assert torch.equal(before, torch.get_rng_state())
    assert len(set(first)) == 3
    assert trained.generate("the dog", length=20, samples=3, seed=6) != first
    torch.manual_seed(1)
    unseeded = trained.generate("the dog", length=20)
    assert trained.generate("the dog", length=20) != unseeded
    torch.manual_seed(1)
    assert trained.generate("the dog", length=20) == unseeded


@pytest.mark.parametrize("kind", KINDS)
def test_temperature_0_takes_the_most_probable_token_each_time(drawn: Drawn, kind: str) -> None:
    trained = drawn(kind)
    vocabulary = trained.vocabulary
    prompt = vocabulary.encode_prompt("the dog")
    ids = [vocabulary.eos_id, *prompt]
    for _ in range(15):
        with torch.no_grad():
            logits, _ = trained.model(torch.tensor(ids)[:, None])
        if vocabulary.unk_id is not None:
            logits[-1, 0, vocabulary.unk_id] = -math.inf
        ids.append(int(logits[-1, 0].argmax()))
    expected = vocabulary.decode(ids[1:])
    texts = trained.generate("the dog", length=15, samples=2, temperature=0)
    assert ["the dog" + text for text in texts] == [expected] * 2
    assert trained.generate("the dog", length=15, top_k=1) == texts[:1]


@pytest.mark.parametrize("samples", [1, 3])
def test_the_average_of_several_models_writes(drawn: Drawn, samples: int) -> None:
    members = [drawn("word", seed=seed, hidden_size=size) for seed, size in ((1, 12), (2, 7), (3, 9))]
    vocabulary = members[0].vocabulary
    ids = [vocabulary.eos_id, *vocabulary.encode_prompt("the dog")]
    alone = []
    for _ in range(15):
        with torch.no_grad():
            logits = [member.model(torch.tensor(ids)[:, None])[0][-1, 0] for member in members]
        p = torch.stack([row.softmax(0) for row in logits]).mean(0)
        p[vocabulary.unk_id] = 0
        ids.append(int(p.argmax()))
        alone.append(int(logits[0].argmax()))
    assert alone != ids[-15:]
    texts = members[0].generate("the dog", length=15, samples=samples, temperature=0, average=members[1:])
    assert ["the dog" + text for text in texts] == [vocabulary.decode(ids[1:])] * samples


def test_models_of_different_vocabularies_do_not_write_together(drawn: Drawn) -> None:
    with pytest.raises(RegrnnError, match="the runs have different vocabularies"):
        drawn("word").generate(average=[drawn("separate")])


def test_first_token_is_drawn_from_the_conditional_distribution(drawn: Drawn) -> None:
    trained = drawn("word", init=1.0)
    vocabulary = trained.vocabulary
    with torch.no_grad():
        logits, _ = trained.model(torch.tensor([vocabulary.eos_id, *vocabulary.encode_prompt("the old dog")])[:, None])
    p = logits[-1, 0].clone().index_fill(0, torch.tensor([vocabulary.unk_id]), -math.inf).softmax(0)
    count = 4000
    texts = trained.generate("the old dog", length=1, samples=count, seed=1)
    assert p.max() < 0.9
    for token, probability in enumerate(p.tolist()):
        text = "\n" if token == vocabulary.eos_id else f" {vocabulary.tokens([token])[0]}"
        spread = math.sqrt(probability * (1 - probability) / count)
        assert abs(texts.count(text) / count - probability) <= 5 * spread, text


def test_later_tokens_depend_on_what_was_drawn(drawn: Drawn) -> None:
    """Each sample goes on from its own state: the probability of a whole text is what `score` says."""
    trained = drawn("word", init=1.0)
    count = 4000
    texts = trained.generate(length=2, samples=count, seed=2)
    most = max((text for text in set(texts) if len(text.split()) == 2), key=texts.count)
    words = most.split()
    [line] = trained.score(most)
    [alone] = trained.score(words[0])
    unknown = trained.vocabulary.unk_id
    with torch.no_grad():
        first, state = trained.model(torch.tensor([[trained.vocabulary.eos_id]]))
        second, _ = trained.model(torch.tensor([trained.vocabulary.encode_prompt(words[0])]), state)
    known = [1 - logits[0, 0].softmax(0)[unknown].item() for logits in (first, second)]
    p = math.exp(line.tokens[0].log_probability + line.tokens[1].log_probability) / known[0] / known[1]
    assert line.tokens[0] == alone.tokens[0]
    assert abs(texts.count(most) / count - p) <= 5 * math.sqrt(p * (1 - p) / count)


@pytest.mark.parametrize(
    ("kind", "prompt", "whole"),
    [
        ("word", "the dog", "the dog sees the cat"),
        ("word", "the dog ", "the dog sees the cat"),
        ("word", "the dog\n", "the dog\nsees the cat"),
        ("word", "", "sees the cat"),
        ("separate", "the dog", "the dog sees the cat"),
        ("separate", "the dog", "the dog. sees the"),
        ("separate", "the dog ", "the dog . sees the"),
        ("character", "the d", "the dog s"),
        ("character", "the ", "the dog s"),
        ("bpe", "the dog", "the dog sees"),
        ("bpe", "the dog ", "the dog sees"),
        ("bpe", "föx", "föx ist groß"),
    ],
)
def test_prompt_and_text_read_as_one(drawn: Drawn, kind: str, prompt: str, whole: str) -> None:
    trained = drawn(kind)
    ids = trained.vocabulary.encode_prompt(whole)
    before = len(trained.vocabulary.encode_prompt(prompt))
    if kind == "bpe":  # `whole` may be cut otherwise than at the prompt's end
        ids = trained.vocabulary.encode_prompt(prompt) + trained.vocabulary.encode_prompt(whole.removeprefix(prompt))
    _insist(trained, ids[before:])
    [text] = trained.generate(prompt, length=len(ids) - before, seed=1)
    assert prompt + text == whole


def _insist(trained: TrainedLanguageModel, ids: list[int]) -> None:
    """Make the model write `ids`, whatever it reads."""
    position = iter(ids)

    class Insists(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model
            self.decoder = model.decoder

        def features(self, tokens: torch.Tensor, state: object) -> object:
            h, state = self.model.features(tokens, state)  # type: ignore[operator]
            with torch.no_grad():
                self.decoder.weight.zero_()
                self.decoder.bias.fill_(-1e4)
                self.decoder.bias[next(position)] = 0
            return h, state

        def forward(self, tokens: torch.Tensor, state: object) -> object:
            h, state = self.features(tokens, state)
            return torch.nn.functional.linear(h, self.decoder.weight, self.decoder.bias), state

    trained.model = Insists(trained.model)  # type: ignore[assignment]
    trained._stack = lambda storage: None  # type: ignore[assignment,method-assign]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 5}, {"top_p": 0.6}, {"temperature": 0}])
def test_the_core_draws_what_plain_torch_draws(
    drawn: Drawn, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = drawn("word")
    if trained._stack("float32") is None:
        pytest.skip("the compiled core is not here")
    fast = trained.generate("the dog", length=70, samples=5, seed=3, **options)
    monkeypatch.setattr(trained, "_stack", lambda storage: None)
    assert trained.generate("the dog", length=70, samples=5, seed=3, **options) == fast


def test_long_texts_of_large_models_are_drafted(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = drawn("word")
    if trained._stack("float32") is None:
        pytest.skip("the compiled core is not here")
    likeliest = trained.generate("the dog", length=100, temperature=0)
    asked = []
    of = trained._stack
    monkeypatch.setattr(trained, "_stack", lambda storage: asked.append(storage) or of(storage))
    monkeypatch.setattr("regrnn.tasks.language.trained._FAR_WEIGHTS", 0)
    assert trained.generate("the dog", length=100, temperature=0) == likeliest
    (text,) = trained.generate("the dog", length=100, seed=3)
    assert trained.generate("the dog", length=100, seed=3) == [text] != trained.generate("the dog", length=100, seed=4)
    assert len(trained.vocabulary.encode_line(text.replace("\n", " "))) > 50
    assert "int8" in asked
    asked.clear()
    trained.generate("the dog", length=99)
    trained.generate("the dog", length=100, samples=2)
    assert "int8" not in asked


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 5}, {"top_p": 0.6}])
def test_several_models_write_the_same_with_the_core_and_without(
    drawn: Drawn, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [drawn("word", seed=seed, hidden_size=size) for seed, size in ((1, 12), (2, 7))]
    if members[0]._stack("float32") is None:
        pytest.skip("the compiled core is not here")
    fast = members[0].generate("the dog", length=40, samples=3, seed=3, average=members[1:], **options)
    for member in members:
        monkeypatch.setattr(member, "_stack", lambda storage: None)
    assert members[0].generate("the dog", length=40, samples=3, seed=3, average=members[1:], **options) == fast


def test_several_models_write_in_int8(drawn: Drawn) -> None:
    members = [drawn("word", seed=seed, hidden_size=size) for seed, size in ((1, 12), (2, 7))]
    if members[0]._stack("float32") is None:
        pytest.skip("the compiled core is not here")
    exact, rounded = (
        members[0].generate("the dog", length=10, temperature=0, average=members[1:], storage=storage)
        for storage in ("float32", "int8")
    )
    assert rounded == exact != members[0].generate("the dog", length=10, temperature=0)


def test_weights_that_changed_are_laid_out_anew(drawn: Drawn) -> None:
    trained = drawn("word")
    before = trained.generate(length=30, temperature=0)
    with torch.no_grad():
        trained.model.decoder.bias[trained.vocabulary.encode_line("dog")[0]] += 100
    assert trained.generate(length=3, temperature=0)[0].split() == ["dog", "dog", "dog"] != before


def test_int8_needs_the_core(drawn: Drawn) -> None:
    trained = drawn("word")
    trained.model.double()
    with warnings.catch_warnings(), pytest.raises(RegrnnError, match="storage int8 needs the compiled core"):
        warnings.simplefilter("ignore")
        trained.generate(length=3, storage="int8")


def test_stop_ends_each_text_by_itself(drawn: Drawn) -> None:
    trained = drawn("separate")
    texts = trained.generate("the dog", length=60, samples=8, seed=3, stop=".")
    free = trained.generate("the dog", length=60, samples=8, seed=3)
    assert {text.count(".") for text in texts} <= {0, 1} and any("." in text for text in texts)
    for text, whole in zip(texts, free, strict=True):
        assert whole.startswith(text)
        assert text.endswith(".") or text == whole
    [line] = trained.generate(length=200, seed=3, stop="\n")
    assert line.endswith("\n") and line.count("\n") == 1
    # A stop that is longer than a token, and one that is inside of one.
    [text] = drawn("character").generate(length=400, seed=4, stop="o")
    assert text.endswith("o") and text.count("o") == 1
    [text] = trained.generate(length=400, seed=4, stop="he")
    assert text.endswith("he") and text.count("he") == 1
    assert trained.generate("the dog", length=60, samples=8, seed=3, stop="") == free


def test_unk_is_never_written(drawn: Drawn) -> None:
    trained = drawn("word")
    with torch.no_grad():
        trained.model.decoder.bias[trained.vocabulary.unk_id] = 50
    for settings in ({}, {"temperature": 0}, {"top_k": 2}, {"top_p": 0.5}):
        texts = trained.generate("the <unk>", length=20, samples=4, seed=1, **settings)
        assert not any("<unk>" in text for text in texts)
        assert all(text for text in texts)


@pytest.mark.parametrize(
    ("kind", "prompt", "named"),
    [
        ("word", "the zebra", "'zebra'"),
        ("word", "the dog\nzebra dog", "'zebra'"),
        ("word", "the <unk>x", "'<unk>x'"),
        ("word", "<unk>dog the", "'<unk>dog'"),
        ("separate", "the zebra.", "'zebra'"),
        ("separate", "the dog;", "'dog;'"),
        ("separate", "<unk>zebra the", "'<unk>zebra'"),
        ("character", "the ox\t", r"'\\t'"),
        ("character", "the\tox ", r"'\\t'"),
        ("character", "the ZEBRA", "'Z'"),
    ],
)
def test_what_a_prompt_has_and_the_vocabulary_lacks_is_named(drawn: Drawn, kind: str, prompt: str, named: str) -> None:
    with pytest.raises(RegrnnError, match=rf"^prompt: {named} is not in the vocabulary of \d+ types; "):
        drawn(kind).generate(prompt)


def test_prompts_that_are_no_text_are_refused(drawn: Drawn) -> None:
    for kind in KINDS:
        with pytest.raises(RegrnnError, match=r"^prompt: 'the \\udcff' is not UTF-8"):
            drawn(kind).generate("the \udcff")


@pytest.mark.parametrize("kind", ["word", "character", "bpe"])
def test_prompts_of_several_lines(drawn: Drawn, kind: str) -> None:
    trained = drawn(kind, init=2.0)
    unix = trained.generate("the dog\nthe", length=10, seed=1)
    assert trained.generate("the dog\r\nthe", length=10, seed=1) == unix
    assert trained.generate("the dog the", length=10, seed=1) != unix


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length must be at least 1, not 0"),
        ({"samples": 0}, "samples must be at least 1, not 0"),
        ({"temperature": -0.5}, "temperature must be 0 or more, not -0.5"),
        ({"temperature": math.nan}, "temperature must be 0 or more, not nan"),
        ({"temperature": math.inf}, "temperature must be 0 or more, not inf"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, not 0.0"),
        ({"top_p": math.nan}, "top_p must be above 0 and at most 1, not nan"),
        ({"seed": -1}, "seed must be from 0 to 9223372036854775807, not -1"),
        ({"seed": 2**63}, "seed must be from 0 to 9223372036854775807, not 9223372036854775808"),
    ],
)
def test_settings_out_of_range(drawn: Drawn, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        drawn("word").generate("the", **settings)


def test_load_needs_the_run_directory_alone(tiny_run: Path, tmp_path: Path, empty_cache: Path) -> None:
    here = regrnn.load(tiny_run)
    lines = ["the old dog sees the yak .", ""]
    moved = tmp_path / "somewhere" / "else"
    shutil.copytree(tiny_run, moved, symlinks=True)
    (moved / "recipe.json").write_text((moved / "recipe.json").read_text().replace("tiny.txt", "deleted.txt"))
    there = regrnn.load(str(moved))
    assert there.score(lines) == here.score(lines)
    assert there.generate("the old", seed=1) == here.generate("the old", seed=1)
    best = regrnn.load((moved / "best").resolve())  # a checkpoint by itself
    assert best.score(lines) == here.score(lines)
    assert not empty_cache.exists()
    assert not here.model.training
    assert here.device == torch.device("cpu") and here.to(torch.device("cpu")) is here
    # It has learnt something: a sentence of the grammar is far likelier than its words in another order.
    good, bad = here.score(["the old dog sees the cat .", "dog the . the cat old sees"])
    assert good.log_probability > bad.log_probability + 5
