"""`regrnn.tasks.captioning.metrics`: the values of pycocoevalcap 1.2 on the same tokens, and edges by hand."""

import math

import pytest

from regrnn.tasks.captioning.metrics import bleu, cider_d, rouge_l

REFERENCES = [
    [
        "a red boat lies beside a wooden pier",
        "a small red boat is moored at the pier",
        "there is one boat near the pier",
    ],
    ["many cars are parked in rows in the lot", "lots of cars parked neatly in a parking lot"],
    [
        "a river winds through a green forest",
        "a narrow river flows through the forest",
        "trees stand on both sides of a river",
        "the river is surrounded by green trees",
    ],
    ["two planes stop at the airport near a building", "two airplanes are parked at the airport"],
    ["here lie green fields and a road", "green fields"],
]
CANDIDATES = [
    "a red boat is moored beside a wooden pier",
    "many cars parked neatly in the parking lot",
    "a river flows through the green forest with many trees on both sides",
    "one plane is at the airport",
    "there is a tennis court",
]

# Bleu(4), Cider() and Rouge() of pycocoevalcap 1.2, run once on these; BLEU and ROUGE-L times 100.
ALL_FIVE = [78.04878048, 69.06263604, 55.31451358, 40.16992160, 2.02961377, 55.64349951]
FIRST_FOUR = [86.11111111, 76.94243880, 61.49722462, 44.37147080, 2.53554510, 65.50928155]

Sentences = list[list[str]]


def split(count: int) -> tuple[Sentences, list[Sentences]]:
    return [c.split() for c in CANDIDATES[:count]], [[r.split() for r in rs] for rs in REFERENCES[:count]]


@pytest.mark.parametrize(("count", "expected"), [(5, ALL_FIVE), (4, FIRST_FOUR)])
def test_figures_are_those_of_the_published_program(count: int, expected: list[float]) -> None:
    candidates, references = split(count)
    found = [*bleu(candidates, references), cider_d(candidates, references), rouge_l(candidates, references)]
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_caption_that_is_a_reference_scores_full() -> None:
    _, references = split(4)
    candidates = [theirs[0] for theirs in references]
    assert bleu(candidates, references) == pytest.approx([100.0] * 4)
    assert rouge_l(candidates, references) == pytest.approx(100.0)
    alone = [[theirs[0]] for theirs in references]
    assert cider_d(candidates, alone) == pytest.approx(10.0)


def test_nothing_in_common_scores_nothing() -> None:
    candidates, references = [["x", "y"], []], [[["a", "b"]], [["a"]]]
    assert bleu(candidates, references) == [0.0] * 4
    assert rouge_l(candidates, references) == 0.0
    assert cider_d(candidates, references) == 0.0
    assert bleu([[]], [[["a"]]]) == [0.0] * 4


def test_bleu_takes_the_shorter_of_two_equally_near_references() -> None:
    # Four words beside references of three and five: no penalty. Beside five alone: exp(1 - 5 / 4).
    candidate, three, five = ["a", "b", "c", "d"], ["a", "b", "c"], ["a", "b", "c", "d", "e"]
    assert bleu([candidate], [[five, three]])[0] == pytest.approx(100.0)
    assert bleu([candidate], [[five]])[0] == pytest.approx(100.0 * math.exp(1 - 5 / 4))


def test_bleu_clips_counts_by_one_reference_not_by_their_sum() -> None:
    assert bleu([["the"] * 4], [[["the", "cat", "the", "x"], ["the", "y", "z", "w"]]])[0] == pytest.approx(50.0)


@pytest.mark.parametrize("figure", [bleu, rouge_l, cider_d])
def test_lists_that_do_not_fit_are_refused(figure: object) -> None:
    for candidates, references in ([[["a"]], []], [[], []], [[["a"]], [[]]]):
        with pytest.raises(ValueError, match="there must be"):
            figure(candidates, references)  # type: ignore[operator]
