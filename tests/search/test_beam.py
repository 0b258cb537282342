"""`regrnn.search.beam`: against all texts there are, on tables of probabilities that stand in for a model."""

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from regrnn.search.beam import Hypothesis, Steps, averaged, beam_search

END, TYPES, LONGEST = 0, 4, 4
START = 1


class Table:
    """p(next | row, last token, place) drawn at random; its state is the row and the place."""

    def __init__(self, seed: int, rows: int = 3) -> None:
        draw = torch.Generator().manual_seed(seed)
        logits = 2 * torch.randn(rows, LONGEST, TYPES, TYPES, generator=draw)
        self.log_p = logits.log_softmax(-1)

    def state(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        return torch.tensor(rows), torch.zeros(len(rows), dtype=torch.long)

    @property
    def steps(self) -> Steps[tuple[Tensor, Tensor]]:
        def step(tokens: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            rows, places = state
            return self.log_p[rows, places, tokens], (rows, places + 1)

        return Steps(step, lambda state, rows: (state[0][rows], state[1][rows]))

    def log_probability(self, row: int, tokens: list[int]) -> float:
        """Teacher-forced: of all the tokens, one after the other."""
        before = [START, *tokens[:-1]]
        return math.fsum(
            self.log_p[row, place, last, token].item()
            for place, (last, token) in enumerate(zip(before, tokens, strict=True))
        )


def texts() -> Iterator[list[int]]:
    """All texts of at most `LONGEST` predictions that end."""
    words = [token for token in range(TYPES) if token != END]
    for length in range(LONGEST):
        for body in itertools.product(words, repeat=length):
            yield [*body, END]


def search(table: Table, rows: list[int], **settings: object) -> list[list[Hypothesis]]:
    options = {"end": END, "max_length": LONGEST, "beam": 3, **settings}
    return beam_search(table.steps, torch.full((len(rows),), START), table.state(rows), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("power", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_beam_as_wide_as_there_are_texts_finds_the_best_of_all(seed: int, power: float) -> None:
    table = Table(seed)
    everything = TYPES**LONGEST
    for row, hypotheses in enumerate(search(table, [0, 1, 2], beam=everything, length_normalisation=power)):
        expected = sorted(
            ((table.log_probability(row, text) / len(text) ** power, text[:-1]) for text in texts()), reverse=True
        )
        ended = [one for one in hypotheses if one.finished]
        assert [one.tokens for one in ended] == [tokens for _, tokens in expected]
        assert [one.score for one in ended] == pytest.approx([score for score, _ in expected], rel=1e-5)
        cut = [one for one in hypotheses if not one.finished]
        assert hypotheses == ended + cut
        assert {len(one.tokens) for one in cut} == {LONGEST}
        assert len(cut) == (TYPES - 1) ** LONGEST


@pytest.mark.parametrize("beam", [1, 2, 3, 7])
def test_the_score_is_that_of_teacher_forcing(beam: int) -> None:
    table = Table(7)
    for row, hypotheses in enumerate(search(table, [0, 1, 2], beam=beam, length_normalisation=1.0)):
        assert len(hypotheses) == beam
        for one in hypotheses:
            whole = [*one.tokens, END] if one.finished else one.tokens
            assert one.log_probability == pytest.approx(table.log_probability(row, whole), rel=1e-5)
            assert one.score == pytest.approx(one.log_probability / len(whole), rel=1e-12)
        assert len({(*one.tokens, one.finished) for one in hypotheses}) == beam


@pytest.mark.parametrize("seed", range(10))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    table = Table(seed)
    for row, [found] in enumerate(search(table, [0, 1, 2], beam=1)):
        tokens: list[int] = []
        while len(tokens) < LONGEST and (not tokens or tokens[-1] != END):
            tokens.append(int(table.log_p[row, len(tokens), tokens[-1] if tokens else START].argmax()))
        assert [*found.tokens, END] == tokens if found.finished else found.tokens == tokens


def test_a_wider_beam_keeps_more_of_the_probability() -> None:
    best = [
        sum(search(Table(seed), [0, 1, 2], beam=beam)[row][0].log_probability for seed in range(20) for row in range(3))
        for beam in (1, TYPES**LONGEST)
    ]
    assert best[1] > best[0] + 1


def test_rows_do_not_depend_on_their_company() -> None:
    table = Table(3, rows=6)
    alone = [search(table, [row])[0] for row in range(6)]
    assert search(table, list(range(6))) == alone
    assert search(table, [5, 2, 2, 0]) == [alone[5], alone[2], alone[2], alone[0]]
    assert search(table, []) == []


def test_an_end_at_once_is_an_empty_text() -> None:
    table = Table(1)
    table.log_p[:, :, :] = torch.tensor([0.97, 0.01, 0.01, 0.01]).log()
    for [one] in search(table, [0, 1], beam=1):
        assert one == Hypothesis([], pytest.approx(math.log(0.97)), pytest.approx(math.log(0.97)), True)


def test_a_text_without_end_is_cut() -> None:
    table = Table(1)
    table.log_p[..., END] = -torch.inf
    for hypotheses in search(table, [0, 1, 2]):
        assert [(len(one.tokens), one.finished) for one in hypotheses] == [(LONGEST, False)] * 3


def test_what_must_never_come_does_not_and_the_rest_keeps_its_probability() -> None:
    table = Table(5)
    for row, hypotheses in enumerate(search(table, [0, 1, 2], beam=TYPES**LONGEST, never=(2,))):
        expected = {tuple(text[:-1]) for text in texts() if 2 not in text}
        assert {tuple(one.tokens) for one in hypotheses if one.finished} == expected
        for one in hypotheses:
            whole = [*one.tokens, END] if one.finished else one.tokens
            assert one.log_probability == pytest.approx(table.log_probability(row, whole), rel=1e-5)


def test_several_models_are_one_whose_probabilities_are_their_mean() -> None:
    tables = [Table(seed) for seed in (11, 12, 13)]
    mean = Table(0)
    mean.log_p = torch.stack([table.log_p.exp() for table in tables]).mean(0).log()
    together = beam_search(
        averaged([table.steps for table in tables]),
        torch.full((3,), START),
        tuple(table.state([0, 1, 2]) for table in tables),
        end=END,
        beam=3,
        max_length=LONGEST,
    )
    for row, expected in zip(together, search(mean, [0, 1, 2]), strict=True):
        assert [one.tokens for one in row] == [one.tokens for one in expected]
        assert [one.score for one in row] == pytest.approx([one.score for one in expected], rel=1e-5)


@pytest.mark.parametrize("beam", [1, 3, TYPES**LONGEST])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_each_row_may_have_its_own_limit(beam: int, power: float) -> None:
    table = Table(9, rows=6)
    limits = [3, 1, LONGEST, 2, 1, 3]
    options = {"beam": beam, "length_normalisation": power}
    together = search(table, list(range(6)), max_length=limits, **options)
    for row, limit in enumerate(limits):
        assert together[row] == search(table, [row], max_length=limit, **options)[0]
        assert max(len(one.tokens) + one.finished for one in together[row]) <= limit
        assert all(len(one.tokens) == limit for one in together[row] if not one.finished)
    assert search(table, [2, 0], max_length=(LONGEST, LONGEST), **options) == search(table, [2, 0], **options)


@pytest.mark.parametrize("limits", [[], [2], [2, 2, 2]])
def test_there_are_as_many_limits_as_rows(limits: list[int]) -> None:
    with pytest.raises(ValueError, match=f"one for each of 2 rows, got {len(limits)}"):
        search(Table(1), [0, 1], max_length=limits)
    with pytest.raises(ValueError, match="at least 1"):
        search(Table(1), [0, 1], max_length=[2, 0])
    assert search(Table(1), [], max_length=[]) == []


@pytest.mark.parametrize("settings", [{"beam": 0}, {"max_length": 0}, {"length_normalisation": -1.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 1|negative"):
        search(Table(1), [0], **settings)
    with pytest.raises(ValueError, match="must be a model"):
        averaged([])
