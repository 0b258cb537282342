"""`regrnn.tasks.speech.decode`: Viterbi against brute force, the median, block by block; runs, times and edits."""

import itertools
import sys

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrnn.errors import RegrnnError
from regrnn.tasks.speech.alignments import Segment
from regrnn.tasks.speech.audio import FeatureConfig
from regrnn.tasks.speech.decode import (
    DecodingConfig,
    Greedy,
    Median,
    Viterbi,
    decoder,
    phone_error_rate,
    runs,
    to_segments,
)


def noise(frames: int, states: int, seed: int, scale: float = 2.0) -> np.ndarray:
    """ln p of random distributions."""
    logits = np.random.default_rng(seed).normal(0, scale, (frames, states))
    return (logits - np.logaddexp.reduce(logits, axis=1)[:, None]).astype(np.float32)


def counts(phones: int, seed: int) -> list[list[int]]:
    found: list[list[int]] = np.random.default_rng(seed).integers(0, 20, (phones + 1, phones)).tolist()
    return found


def score(path: tuple[int, ...], log_p: np.ndarray, bigram: list[list[int]], parts: int, weight: float) -> float:
    """What a path is worth, by the rules as they are written down; -inf for one that breaks them."""
    table = np.array(bigram, float) + 1
    ln = weight * np.log(table / table.sum(1, keepdims=True))
    if path[0] % parts:
        return -np.inf
    total = ln[-1][path[0] // parts] + log_p[0, path[0]]
    for t in range(1, len(path)):
        before, now = path[t - 1], path[t]
        if now == before or (now == before + 1 and now % parts):
            cost = 0.0
        elif before % parts == parts - 1 and now % parts == 0:
            cost = ln[before // parts][now // parts]
        else:
            return -np.inf
        total += cost + log_p[t, now]
    return float(total)


def search(log_p: np.ndarray, made: Viterbi | Median | Greedy, cuts: list[int]) -> np.ndarray:
    pieces = [made.push(block) for block in np.split(log_p, cuts)]
    return np.concatenate([*pieces, made.finish()])


@pytest.mark.parametrize(("phones", "parts", "frames"), [(3, 1, 6), (2, 2, 6), (2, 3, 5), (4, 1, 1)])
@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_viterbi_finds_the_best_of_all_paths(phones: int, parts: int, frames: int, weight: float) -> None:
    for seed in range(5):
        log_p, bigram = noise(frames, phones * parts, seed), counts(phones, seed)
        best = max(
            itertools.product(range(phones * parts), repeat=frames),
            key=lambda path: score(path, log_p, bigram, parts, weight),
        )
        found = search(log_p, Viterbi(bigram, parts, weight), [])
        assert score(tuple(found.tolist()), log_p, bigram, parts, weight) == pytest.approx(
            score(best, log_p, bigram, parts, weight)
        )
        assert tuple(found) == best


@settings(max_examples=20)
@given(st.lists(st.integers(0, 2000), max_size=6), st.integers(0, 10), st.sampled_from([1, 3]))
def test_viterbi_in_blocks_equals_the_whole(cuts: list[int], seed: int, parts: int) -> None:
    log_p, bigram = noise(2000, 3 * parts, seed), counts(3, seed)
    whole = search(log_p, Viterbi(bigram, parts, 1.0), [])
    assert (search(log_p, Viterbi(bigram, parts, 1.0), sorted(cuts)) == whole).all()
    assert len(whole) == 2000


@settings(max_examples=20)
@given(st.lists(st.integers(0, 400), max_size=6), st.integers(0, 10), st.sampled_from([1, 3]))
def test_viterbi_of_utterances_side_by_side(lengths: list[int], seed: int, parts: int) -> None:
    """Each gets the path that it gets by itself, whatever lies beside it."""
    log_ps, bigram = [noise(length, 6, seed + k) for k, length in enumerate(lengths)], counts(6 // parts, seed)
    found = Viterbi(bigram, parts, 1.0).whole(log_ps)
    assert len(found) == len(lengths)
    for log_p, path in zip(log_ps, found, strict=True):
        assert path.tolist() == search(log_p, Viterbi(bigram, parts, 1.0), []).tolist()


def test_viterbi_gives_out_what_is_settled_and_forgets_it() -> None:
    log_p, bigram = noise(5000, 4, 0), counts(4, 0)
    made = Viterbi(bigram, 1, 1.0)
    early, held = 0, 0
    for row in np.split(log_p, 50):
        early += len(made.push(row))
        held = max(held, len(made.back))
    assert early > 4600 and held < 400


def test_viterbi_decides_when_survivors_never_agree() -> None:
    """Two paths of equal worth that never meet: memory stays flat all the same, and the path is a legal one."""
    frames, parts = 4 * Viterbi.PATIENCE, 1
    log_p = np.log(np.tile(np.array([[0.5, 0.5]], np.float32), (frames, 1)))
    made = Viterbi([[0, 0], [0, 0], [1, 1]], parts, 1000.0)
    given_, held = [], 0
    for row in np.split(log_p, 12):
        given_.append(made.push(row))
        held = max(held, len(made.back))
    path = np.concatenate([*given_, made.finish()])
    assert held <= Viterbi.PATIENCE + 256 and len(path) == frames
    assert len(set(path.tolist())) == 1  # a change would cost far more than it can bring


def test_smoothing_removes_a_short_slip() -> None:
    p = np.full((30, 2), 0.2)
    p[:15, 0] = p[15:, 1] = 0.8
    p[7] = [0.4, 0.6]  # a frame gone wrong
    log_p = np.log(p / p.sum(1, keepdims=True)).astype(np.float32)
    truth = [0] * 15 + [1] * 15
    assert search(log_p, Greedy(), []).tolist() != truth
    assert search(log_p, Median(5), []).tolist() == truth
    assert search(log_p, Viterbi([[0, 5], [5, 0], [5, 0]], 1, 3.0), []).tolist() == truth


@given(st.integers(1, 30), st.sampled_from([1, 3, 5, 11]), st.lists(st.integers(0, 30), max_size=5))
def test_the_median(frames: int, width: int, cuts: list[int]) -> None:
    log_p = noise(frames, 4, frames)
    half = width // 2
    around = [[log_p[min(max(t + k, 0), frames - 1)] for k in range(-half, half + 1)] for t in range(frames)]
    expected = [int(np.median(np.array(rows), axis=0).argmax()) for rows in around]
    assert search(log_p, Median(width), sorted(cuts)).tolist() == expected


def test_nothing_in_nothing_out() -> None:
    for made in (Viterbi(counts(2, 0), 1, 1.0), Median(5), Greedy()):
        assert len(made.push(np.zeros((0, 2), np.float32))) == 0
        assert len(made.finish()) == 0


def test_what_the_settings_ask_for() -> None:
    bigram = counts(2, 0)
    assert isinstance(decoder(DecodingConfig(), bigram, 1), Viterbi)
    assert isinstance(decoder(DecodingConfig(smoothing="none"), bigram, 1), Greedy)
    median = decoder(DecodingConfig(smoothing="median", median=7), bigram, 1)
    assert isinstance(median, Median) and median.half == 3
    for wrong in ({"median": 4}, {"median": -1}, {"bigram_weight": -0.5}, {"bigram_weight": float("nan")}):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))} = "):
            DecodingConfig(**wrong)  # type: ignore[arg-type]


def test_runs() -> None:
    assert runs(np.array([1, 1, 0, 2, 2]), 1) == [(1, 0, 2), (0, 2, 3), (2, 3, 5)]
    # Phone 1 with its parts 3, 4, 5; going back to the first part is the phone once more.
    assert runs(np.array([3, 4, 4, 5, 3, 4, 5, 0, 1, 2]), 3) == [(1, 0, 4), (1, 4, 7), (0, 7, 10)]
    assert runs(np.zeros(0, np.int64), 1) == []


@pytest.mark.parametrize("snip_edges", [False, True])
def test_borders_lie_between_two_centres(snip_edges: bool) -> None:
    config = FeatureConfig(snip_edges=snip_edges)
    found = to_segments([(0, 0, 3), (1, 3, 8)], ["a", "b"], config, 0.0934)
    border = (config.first_centre + 2 * 0.01 + config.first_centre + 3 * 0.01) / 2
    assert found == [Segment(0.0, pytest.approx(border), "a"), Segment(pytest.approx(border), 0.0934, "b")]
    assert to_segments([], ["a"], config, 1.0) == []


def test_the_phone_error_rate_by_hand() -> None:
    truth = [["pau", "a", "o", "pau"], ["pau", "i", "pau"]]
    # One substitution; one deletion and two insertions; of 7 phones.
    found = [["pau", "a", "i", "pau"], ["a", "o", "i", "pau"]]
    assert phone_error_rate(truth, found) == pytest.approx(100 * 3 / 7)
    assert phone_error_rate(truth, truth) == 0.0
    assert phone_error_rate([["a"]], [["b", "c", "d"]]) == pytest.approx(300)
    out = jiwer.process_words(["pau a o pau", "pau i pau"], ["pau a i pau", "a o i pau"])
    assert (out.substitutions, out.deletions, out.insertions) == (2, 0, 1)


def test_without_jiwer_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(RegrnnError, match=r"^this needs jiwer: pip install 'regrnn\[speech\]'$"):
        phone_error_rate([["a"]], [["a"]])
