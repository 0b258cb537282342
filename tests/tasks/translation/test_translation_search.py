"""Translations by search and by chance: against all texts there are, their own scores, and each alone."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from regrnn.data.vocabulary import BPEVocabulary, WordVocabulary
from regrnn.errors import RegrnnError
from regrnn.tasks.translation.data import DataConfig, Vocabularies
from regrnn.tasks.translation.evaluate import DecodingConfig, bleu_and_chrf, log_probabilities, looked_at, search
from regrnn.tasks.translation.model import ModelConfig, TranslationModel
from regrnn.tasks.translation.trained import TrainedTranslator, Translation

READ = WordVocabulary(["<unk>", "<eos>", "a", "b", "c"])
WRITTEN = WordVocabulary(["<unk>", "<eos>", "x", "y", "z"])
WORDS = Vocabularies(READ, WRITTEN)
END = WRITTEN.eos_id
LONGEST = 4
LINES = ["a b c", "b", "c c a b", "a", "b a"]
KINDS = pytest.mark.parametrize("attention", ["none", "luong"])


def drawn(seed: int = 1, vocabularies: Vocabularies = WORDS, **settings: Any) -> TranslationModel:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 12, "init": 0.9, "num_layers": 1}
    config = ModelConfig(**(sizes | settings))
    return TranslationModel(config, len(vocabularies.source), len(vocabularies.target)).eval()


def translator(
    model: TranslationModel,
    vocabularies: Vocabularies = WORDS,
    data: dict[str, Any] | None = None,
    **decoding: Any,
) -> TrainedTranslator:
    chosen = DecodingConfig(**({"max_length": LONGEST} | decoding))
    return TrainedTranslator(model, vocabularies, DataConfig(**(data or {})), chosen)


def biased(model: TranslationModel, **by: float) -> TranslationModel:
    """Whose softmax likes some words more."""
    with torch.no_grad():
        for word, value in by.items():
            model.decoder.bias[WRITTEN.encode_line({"end": "<eos>", "unk": "<unk>"}.get(word, word))[0]] += value
    return model


def scores(models: Sequence[TranslationModel], source: list[int], targets: Sequence[list[int]]) -> list[float]:
    """ln p of each target, by teacher forcing."""
    return [row.sum().item() for row in log_probabilities(models, [source] * len(targets), targets, END)]


def everything(words: Sequence[int]) -> list[list[int]]:
    """All texts of at most `LONGEST` predictions that end."""
    return [[*body, END] for length in range(LONGEST) for body in itertools.product(words, repeat=length)]


@KINDS
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all_texts(attention: str, members: int, power: float) -> None:
    models = [drawn(seed, attention=attention) for seed in range(1, members + 1)]
    # Without attention there is nothing to copy, and <unk> is never put out.
    words = [2, 3, 4] if attention == "none" else [0, 2, 3, 4]
    decoding = DecodingConfig(beam=5**LONGEST, max_length=LONGEST, length_normalisation=power)
    sources = [READ.encode_line(line)[:-1] for line in LINES[:3]]
    texts = everything(words)
    for source, hypotheses in zip(sources, search(models, sources, WORDS, decoding), strict=True):
        ranked = sorted(
            (
                (total / len(text) ** power, text)
                for total, text in zip(scores(models, source, texts), texts, strict=True)
            ),
            reverse=True,
        )
        ended = [one for one in hypotheses if one.finished]
        assert len(ended) == len(texts)
        assert [one.score for one in ended] == pytest.approx([score for score, _ in ranked], rel=1e-4)
        assert [[*one.tokens, END] for one in ended[:20]] == [text for _, text in ranked[:20]]


@KINDS
@torch.no_grad()
def test_a_beam_of_one_is_the_greedy_choice(attention: str) -> None:
    model = biased(drawn(3, attention=attention), end=-1)
    found = translator(model, beam=1, copy_unknown=False, max_length=8).translate(LINES)
    for line, [one] in zip(LINES, found, strict=True):
        ids = READ.encode_line(line)[:-1]
        state = model.read(torch.tensor(ids)[:, None], torch.tensor([len(ids)]))
        tokens = [END]
        while len(tokens) < 9 and (len(tokens) == 1 or tokens[-1] != END):
            log_p, state = model.step(torch.tensor(tokens[-1:]), state)
            log_p[0, WRITTEN.unk_id] = -torch.inf
            tokens.append(int(log_p.argmax()))
        assert one.finished == (tokens[-1] == END)
        assert one.text == WRITTEN.decode(tokens[1:-1] if one.finished else tokens[1:])


@KINDS
@pytest.mark.parametrize("beam", [1, 4])
def test_the_score_of_a_translation_is_that_of_forcing_it(attention: str, beam: int) -> None:
    first = translator(drawn(1, attention=attention), beam=beam, copy_unknown=False)
    second = translator(drawn(2, attention=attention))
    for others in ((), (second,)):
        for line, translations in zip(LINES, first.translate(LINES, average=others), strict=True):
            assert len(translations) == beam
            for one in translations:
                words = len(one.text.split())
                if one.finished:
                    [forced] = first.force([line], [one.text], average=others)
                    assert forced.predictions == words + 1
                    assert one.log_probability == pytest.approx(forced.log_probability, rel=1e-5)
                    assert forced.perplexity == pytest.approx(math.exp(-one.log_probability / (words + 1)), rel=1e-5)
                else:
                    models = [first.model, *(other.model for other in others)]
                    [total] = scores(models, READ.encode_line(line)[:-1], [WRITTEN.encode_line(one.text)[:-1]])
                    assert one.log_probability == pytest.approx(total, rel=1e-5)
                assert one.score == pytest.approx(one.log_probability / (words + one.finished))


@KINDS
def test_an_end_at_once_is_an_empty_translation(attention: str) -> None:
    trained = translator(biased(drawn(attention=attention), end=30), beam=1)
    for [one] in trained.translate(LINES):
        assert (one.text, one.finished) == ("", True)
        assert one.log_probability == pytest.approx(0, abs=1e-5)
    assert {(one.text, one.finished) for one in trained.sample(LINES, seed=1)} == {("", True)}


@KINDS
def test_a_translation_without_end_is_cut_by_the_length_of_its_source(attention: str) -> None:
    trained = translator(biased(drawn(attention=attention), end=-60), beam=2, max_length=15)
    lengths = [min(15, 2 * len(line.split()) + 10) for line in LINES]
    assert lengths == [15, 12, 15, 12, 14]
    for length, translations in zip(lengths, trained.translate(LINES), strict=True):
        assert [(len(one.text.split()), one.finished) for one in translations] == [(length, False)] * 2
    for length, one in zip(lengths, trained.sample(LINES, seed=1), strict=True):
        assert (len(one.text.split()), one.finished) == (length, False)


def test_limits_by_the_source() -> None:
    assert [DecodingConfig(max_length=50).limit(length) for length in (1, 5, 20, 21, 5000)] == [12, 20, 50, 50, 50]
    assert DecodingConfig(max_length=1).limit(9) == 1


@KINDS
def test_neither_order_nor_company_changes_a_translation(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = translator(drawn(5, attention=attention), beam=3, max_length=8)
    expected = {line: trained.translate([line])[0] for line in LINES}

    def check(lines: Sequence[str]) -> None:
        for line, found in zip(lines, trained.translate(lines), strict=True):
            assert [one.text for one in found] == [one.text for one in expected[line]]
            assert [one.score for one in found] == pytest.approx([one.score for one in expected[line]], rel=1e-5)

    check(LINES)
    check(LINES[::-1])
    check([LINES[2], *LINES, LINES[2]] * 3)
    for name, value in (("_MOST", 2), ("_TOKENS", 9)):
        with monkeypatch.context() as patch:
            patch.setattr(f"regrnn.tasks.translation.evaluate.{name}", value)
            check(LINES * 2)


def test_without_attention_an_unknown_word_is_never_put_out() -> None:
    trained = translator(biased(drawn(), unk=5), beam=4)
    for found in trained.translate(["a Zoe b", *LINES]):
        for one in found:
            assert "<unk>" not in one.text and "Zoe" not in one.text
    for one in trained.sample(["a Zoe b", *LINES], seed=3):
        assert "<unk>" not in one.text


def test_an_unknown_word_is_never_put_out_where_nothing_is_to_be_copied() -> None:
    trained = translator(biased(drawn(attention="luong"), unk=5), beam=4, copy_unknown=False)
    for found in trained.translate(["a Zoe b", *LINES]):
        assert not any(word in one.text for one in found for word in ("<unk>", "Zoe"))
    assert not any("<unk>" in one.text for one in trained.sample(LINES, seed=3))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("members", [1, 2])
def test_the_word_most_looked_at_is_copied(reverse: bool, members: int) -> None:
    models = [biased(drawn(seed, attention="luong"), unk=3) for seed in range(1, members + 1)]
    first, *others = (translator(model, data={"reverse_source": reverse}, beam=4, max_length=7) for model in models)
    lines = ["a Zoe b", "Ann c Bob", "b a c c"]
    copied = 0
    for line, found in zip(lines, first.translate(lines, average=others), strict=True):
        source = first.vocabularies.encode_source(line, first.data)
        assert source == READ.encode_line(line)[:-1][:: -1 if reverse else 1]
        [hypotheses] = search(models, [source], WORDS, first.decoding)
        for one, hypothesis in zip(found, hypotheses, strict=True):
            read = line.split()[:: -1 if reverse else 1]
            places = looked_at(models, source, hypothesis.tokens, END)
            tokens = WRITTEN.tokens(hypothesis.tokens)
            expected = [read[place] if token == "<unk>" else token for token, place in zip(tokens, places, strict=True)]
            assert one.text == " ".join(expected)
            copied += tokens.count("<unk>")
    assert copied > 10
    assert not any("<unk>" in one.text for one in first.sample(lines, seed=1, average=others))


@torch.no_grad()
def test_what_is_looked_at_is_the_mean_attention_of_those_that_have_any() -> None:
    models = [drawn(seed, attention="luong") for seed in (1, 2)]
    source, target = [2, 3, 4, 0, 2], [3, 0, 2, 4]
    total = torch.zeros(len(target), len(source))
    for model in models:
        state = model.read(torch.tensor(source)[:, None], torch.tensor([len(source)]))
        for place, token in enumerate([END, *target[:-1]]):
            _, weights, state = model.write(torch.tensor([[token]]), state)
            assert weights is not None
            total[place] += weights[0, 0]
    assert looked_at(models, source, target, END) == total.argmax(1).tolist()
    assert looked_at([*models, drawn(9)], source, target, END) == total.argmax(1).tolist()


def test_a_copied_word_is_set_as_print_sets_it() -> None:
    read = WordVocabulary(["<unk>", "<eos>", "a", "!"], punctuation="separate", lowercase=True)
    write = WordVocabulary(["<unk>", "<eos>", "x", "!"], punctuation="separate")
    vocabularies = Vocabularies(read, write)
    model = drawn(1, vocabularies, attention="luong")
    with torch.no_grad():
        model.decoder.weight.zero_()
        model.decoder.bias.copy_(torch.tensor([3.0, -9.0, 0.0, 0.0]))
    data = {"punctuation": "separate", "lowercase": True}
    [[one]] = translator(model, vocabularies, data, beam=1, max_length=2).translate(["Zoë"])
    assert one.text == "zoë zoë"  # as the source vocabulary has it
    [[one]] = translator(model, vocabularies, data, beam=1, max_length=2).translate(["?"])
    assert one.text == "??"


@KINDS
def test_the_same_seed_draws_the_same(attention: str) -> None:
    trained = translator(drawn(6, attention=attention), max_length=10)
    lines = LINES * 4
    first = trained.sample(lines, seed=1)
    assert trained.sample(lines, seed=1) == first
    others = [[one.text for one in trained.sample(lines, seed=seed)] for seed in (2, 3, None, None)]
    texts = [[one.text for one in first], *others]
    assert all(a != b for a, b in itertools.combinations(texts, 2))
    for line, one in zip(lines, first, strict=True):
        if one.finished and "<unk>" not in one.text and all(word in "xyz" for word in one.text.split()):
            [forced] = trained.force([line], [one.text])
            assert one.log_probability == pytest.approx(forced.log_probability, rel=1e-5)


@KINDS
def test_at_temperature_0_the_draw_is_greedy(attention: str) -> None:
    trained = translator(drawn(7, attention=attention), max_length=10)
    greedy = [found[0] for found in trained.translate(LINES, beam=1)]
    drawn_cold = trained.sample(LINES, temperature=0, seed=1)
    assert [one.text for one in drawn_cold] == [one.text for one in greedy]
    assert [one.log_probability for one in drawn_cold] == pytest.approx([one.log_probability for one in greedy])
    with pytest.raises(ValueError, match="temperature must not be negative"):
        trained.sample(LINES, temperature=-0.1)
    with pytest.raises(ValueError, match="temperature must not be negative"):
        trained.sample(LINES, temperature=math.nan)


def test_draws_come_as_often_as_they_are_probable() -> None:
    trained = translator(drawn(8), copy_unknown=False, max_length=1)
    count = 2000
    texts = [one.text for one in trained.sample(["a b"] * count, seed=5)]
    [*totals] = scores([trained.model], READ.encode_line("a b")[:-1], [[END], [2], [3], [4]])
    known = math.fsum(math.exp(total) for total in totals)  # <unk> is not put out
    for text, total in zip(["", "x", "y", "z"], totals, strict=True):
        share = math.exp(total) / known
        assert texts.count(text) / count == pytest.approx(share, abs=4 * math.sqrt(share / count) + 1e-3)


@KINDS
def test_translations_of_a_line_come_the_best_first(attention: str) -> None:
    trained = translator(biased(drawn(9, attention=attention), end=1), beam=6, max_length=6, copy_unknown=False)
    for found in trained.translate(LINES):
        assert len({one.text for one in found}) == 6
        ended = [one.score for one in found if one.finished]
        assert ended == sorted(ended, reverse=True)
        assert [one.finished for one in found] == sorted((one.finished for one in found), reverse=True)
        assert len(ended) > 1


def test_of_an_empty_line_an_empty_translation() -> None:
    trained = translator(drawn(), beam=3)
    lines = ["", "a b", " \t", "c", ""]
    found = trained.translate(lines)
    empty = Translation("", 0.0, 0.0, True)
    assert [found[place] for place in (0, 2, 4)] == [[empty]] * 3
    assert [found[1], found[3]] == trained.translate(["a b", "c"])
    assert [one == empty for one in trained.sample(lines, seed=1)] == [True, False, True, False, True]
    assert trained.translate([]) == [] and trained.translate([""]) == [[empty]]
    assert trained.sample([]) == [] and trained.sample([" "]) == [empty]
    assert trained.force([], []) == []


@KINDS
def test_five_thousand_words_are_translated_within_the_limit(attention: str) -> None:
    model = biased(drawn(attention=attention, hidden_size=4), end=-60)
    trained = translator(model, beam=2, max_length=20)
    line = " ".join(itertools.islice(itertools.cycle("abc"), 5000))
    long, short = trained.translate([line, "a"])
    assert [len(one.text.split()) for one in (*long, *short)] == [20, 20, 12, 12]
    assert all(math.isfinite(one.log_probability) for one in long)
    [forced] = trained.force([line], [" ".join("xyz" * 1000)])
    assert forced.predictions == 3001 and math.isfinite(forced.log_probability)


@KINDS
def test_a_word_that_is_not_known_is_the_unknown_word(attention: str) -> None:
    trained = translator(drawn(attention=attention), beam=3, copy_unknown=False)
    assert trained.translate(["a Zoë b"]) == trained.translate(["a <unk> b"]) == trained.translate(["a <eos> b"])
    [zoe], [unknown] = trained.force(["a"], ["x Zoë"]), trained.force(["a"], ["x <unk>"])
    assert zoe == unknown


def test_byte_pairs_read_and_write_any_character() -> None:
    texts = ["ein hund sieht rot", "a dog sees red"]
    vocabularies = Vocabularies(*(BPEVocabulary.build([text] * 9, size=270) for text in texts))
    model = drawn(1, vocabularies, hidden_size=8)
    trained = translator(model, vocabularies, {"vocabulary": "bpe"}, beam=2, max_length=9)
    # A chain of bytes that the model is made to write: the characters of ☕ and a word.
    wanted = vocabularies.encode_target("☕ dog <eos>")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "target_embedding.weight":
                parameter.zero_()
    steps = iter(wanted)

    def step(tokens: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        logits = torch.zeros(len(tokens), len(vocabularies.target))
        logits[:, next(steps)] = 50
        return logits.log_softmax(-1), state

    model.step = step  # type: ignore[method-assign]
    [[one]] = translator(model, vocabularies, {"vocabulary": "bpe"}, beam=1, max_length=50).translate(["ein ☕ " * 9])
    assert (one.text, one.finished) == ("☕ dog <eos>", True)
    del model.step
    assert len(trained.translate(["犬 <unk>\t"])[0]) == 2


def test_a_translation_is_one_line() -> None:
    """Bytes may be put together to anything, a line end too."""
    vocabularies = Vocabularies(*(BPEVocabulary.build(["ein hund", "a dog"], size=260) for _ in range(2)))
    model = drawn(1, vocabularies, hidden_size=8)
    end = vocabularies.target.eos_id
    [line_end] = [i for i in range(end) if vocabularies.target.decode([i]) == "\n"]
    with torch.no_grad():
        model.decoder.weight.zero_()
        model.decoder.bias[line_end] = 50
        model.decoder.bias[end] = -50
    trained = translator(model, vocabularies, {"vocabulary": "bpe"}, beam=2, max_length=3)
    assert all("\n" not in one.text for found in trained.translate(["ein hund"]) for one in found)
    assert all("\n" not in one.text for one in trained.sample(["ein hund"] * 3, seed=1))


def test_a_line_with_a_line_end_is_refused() -> None:
    trained = translator(drawn())
    for call in (trained.translate, trained.sample):
        with pytest.raises(ValueError, match="line end"):
            call(["a\nb"])
    with pytest.raises(ValueError, match="line end"):
        trained.force(["a"], ["x\ny"])
    with pytest.raises(ValueError, match="lines must not be empty, and number 2 is"):
        trained.force(["a", " "], ["x", "y"])
    with pytest.raises(ValueError, match="beam must be at least 1, got 0"):
        trained.translate(["a"], beam=0)
    with pytest.raises(ValueError):
        trained.force(["a"], ["x", "y"])


def test_translators_of_other_words_or_order_are_not_averaged() -> None:
    first = translator(drawn())
    for side in ("source", "target"):
        other = WordVocabulary(["<unk>", "<eos>", "q", "y", "z"])
        words = Vocabularies(other, WRITTEN) if side == "source" else Vocabularies(READ, other)
        with pytest.raises(RegrnnError, match=f"different {side} vocabularies; they cannot be averaged"):
            first.translate(["a"], average=[translator(drawn(2), words)])
    with pytest.raises(RegrnnError, match="only some of the runs read the source backwards"):
        first.sample(["a"], average=[translator(drawn(2), data={"reverse_source": True})])


def test_an_average_of_sizes_and_kinds_is_one_translator() -> None:
    plain, attentive = (
        translator(drawn(1), beam=4),
        translator(drawn(2, attention="luong", hidden_size=6, shared=False)),
    )
    both = plain.translate(LINES, average=[attentive])
    assert both != plain.translate(LINES)
    [forced] = plain.force(["a b"], [""], average=[attentive])
    alone = [one.force(["a b"], [""])[0].log_probability for one in (plain, attentive)]
    assert forced.log_probability == pytest.approx(math.log(sum(map(math.exp, alone)) / 2), rel=1e-5)


@pytest.mark.parametrize("settings", [{"beam": 0}, {"max_length": 0}, {"length_normalisation": -1.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1|negative"):
        DecodingConfig(**settings)


def test_a_perplexity_beyond_numbers_is_infinite() -> None:
    trained = translator(biased(drawn(), end=5000))
    [forced] = trained.force(["a"], ["x y"])
    assert forced.perplexity == math.inf
    assert math.isfinite(forced.log_probability)


def test_case_does_not_count_where_only_lower_case_is_written() -> None:
    references = ["A Man Sleeps in a Green Room .", "Two Dogs Run on the Grass ."]
    lowered = [line.lower() for line in references]
    figures, signatures = bleu_and_chrf(lowered, references, "none", lowercase=True)
    assert figures == pytest.approx({"bleu": 100.0, "chrf": 100.0})
    assert "case:lc" in signatures
    assert bleu_and_chrf(lowered, references, "none")[0]["bleu"] < 50
