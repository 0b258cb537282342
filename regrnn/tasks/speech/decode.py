"""From distributions over states to phones: a median filter, or Viterbi with a phone bigram. Both run block by block.

Shapes: B utterances, T time (frames), S states (phones times parts), P phones, Q parts of a phone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regrnn.optional import need
from regrnn.tasks.speech.alignments import Segment
from regrnn.tasks.speech.audio import Array, FeatureConfig

Path = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """The `[decoding]` section: how frames become phones."""

    smoothing: Literal["viterbi", "median", "none"] = "viterbi"
    bigram_weight: float = 1.0
    """Viterbi: what a change of phone costs is minus this times the logarithm of the bigram's probability."""
    median: int = 5
    """Median filter: frames, an odd number."""

    def __post_init__(self) -> None:
        if not 0 <= self.bigram_weight <= 1000:
            raise ValueError(f"bigram_weight = {self.bigram_weight:g} must be from 0 to 1,000")
        if self.median < 1 or self.median % 2 == 0 or self.median > 1001:
            raise ValueError(f"median = {self.median} must be an odd number from 1 to 1,001")


class Median:
    """The most probable state after a median over time of each state's probability, the ends repeated."""

    def __init__(self, width: int) -> None:
        self.half = width // 2
        self.held: Array | None = None
        """The last 2 `half` frames: those before the next one that can be smoothed, and those after."""

    def push(self, log_p_TS: Array) -> Path:
        """The states that the frames so far determine."""
        if not len(log_p_TS):
            return np.zeros(0, np.int64)
        before = np.repeat(log_p_TS[:1], self.half, axis=0) if self.held is None else self.held
        return self._smooth(np.concatenate((before, log_p_TS)))

    def finish(self) -> Path:
        """The rest."""
        if self.held is None:
            return np.zeros(0, np.int64)
        return self._smooth(np.concatenate((self.held, np.repeat(self.held[-1:], self.half, axis=0))))

    def _smooth(self, everything: Array) -> Path:
        width = 2 * self.half + 1
        if len(everything) < width:
            self.held = everything
            return np.zeros(0, np.int64)
        windows = np.lib.stride_tricks.sliding_window_view(everything, width, axis=0)
        self.held = everything[len(everything) - 2 * self.half :]
        return np.asarray(np.median(windows, axis=-1).argmax(1), np.int64)


class Viterbi:
    """The best path: the sum of the frames' ln p, and of weight x ln P(phone | phone before it) at each change.

    The parts of a phone follow in order and each lasts at least one frame; staying costs nothing. What all survivors
    agree upon is given out at once, so that memory stays flat; should they not agree for `PATIENCE` frames, the best
    of them decides.
    """

    PATIENCE = 3000

    def __init__(self, bigram: Sequence[Sequence[int]], parts: int, weight: float) -> None:
        counts = np.array(bigram, np.float64) + 1.0  # add-one: what was not seen is not impossible
        log_p = weight * np.log(counts / counts.sum(1, keepdims=True))
        self.parts = parts
        self.states = np.arange(counts.shape[1] * parts).reshape(-1, parts)
        self.change_to = log_p[:-1].T.copy()  # (P, P): of the phone, from the phone before it
        if parts == 1:  # to stay is a change that costs nothing
            np.fill_diagonal(self.change_to, 0.0)
        self.begin = np.full(self.states.size, -np.inf)
        self.begin[self.states[:, 0]] = log_p[-1]
        self.score: NDArray[np.float64] | None = None
        self.back: list[Path] = []
        """Of each frame held but the first: the state before."""

    def push(self, log_p_TS: Array) -> Path:
        """The states that the frames so far determine."""
        given: list[Path] = []
        for row in log_p_TS:
            if self.score is None:
                self.score = self.begin + row
                continue
            before, best = self._arrive(self.score.reshape(-1, self.parts))
            self.score = best + row
            self.score -= self.score.max()  # so that no sum grows without end
            self.back.append(before)
            if len(self.back) % 256 == 0:
                given.append(self._agreed())
        return np.concatenate(given) if given else np.zeros(0, np.int64)

    def whole(self, log_ps_TS: Sequence[Array]) -> list[Path]:
        """The paths of whole utterances, which are searched side by side: that is faster than one after the other.

        What came before a state is looked for along the path that was found alone.
        """
        order = sorted(range(len(log_ps_TS)), key=lambda row: -len(log_ps_TS[row]))
        lengths = [len(log_ps_TS[row]) for row in order]
        final: list[int] = []
        ends: list[NDArray[np.float64]] = []
        moves: list[NDArray[np.bool_]] = []
        change_from = self.change_to.T[:, None].copy()  # (P, 1, P): from the phone, to the phone after it
        score_BS = np.zeros((0, self.states.size))
        for t in range(lengths[0] if lengths else 0):
            now_BS = np.stack([log_ps_TS[row][t] for row, length in zip(order, lengths, strict=True) if length > t])
            if t == 0:
                score_BS = self.begin + now_BS
                continue
            final[:0] = score_BS[len(now_BS) :].argmax(1).tolist()  # of those that end here
            score_BPQ = score_BS[: len(now_BS)].reshape(len(now_BS), -1, self.parts)
            end_BP = score_BPQ[..., -1]
            changed_BP = (end_BP.T[..., None] + change_from).max(0)
            moved_BPQ = self._moved(score_BPQ, changed_BP)
            ends.append(end_BP.copy())
            moves.append((moved_BPQ > score_BPQ).reshape(now_BS.shape))
            score_BS = self._best(score_BPQ, moved_BPQ).reshape(now_BS.shape) + now_BS
            score_BS -= score_BS.max(1, keepdims=True)
        final[:0] = score_BS.argmax(1).tolist()
        paths = [np.zeros(0, np.int64) for _ in log_ps_TS]
        for place, state in enumerate(final):
            path = [state]
            for t in range(lengths[place] - 2, -1, -1):
                state = path[-1]
                if self.parts > 1 and not moves[t][place, state]:
                    path.append(state)
                elif state % self.parts:
                    path.append(state - 1)
                else:
                    phone = int((self.change_to[state // self.parts] + ends[t][place]).argmax())
                    path.append((phone + 1) * self.parts - 1)
            paths[order[place]] = np.array(path[::-1], np.int64)
        return paths

    def _moved(self, score_PQ: NDArray[np.float64], changed_P: NDArray[np.float64]) -> NDArray[np.float64]:
        """The score in each state, (..., P, Q), of the best path that comes from another one."""
        return np.concatenate((changed_P[..., None], score_PQ[..., :-1]), -1)

    def _best(self, score_PQ: NDArray[np.float64], moved_PQ: NDArray[np.float64]) -> NDArray[np.float64]:
        """The score of the best path into each state, from another one or by staying."""
        return moved_PQ if self.parts == 1 else np.maximum(moved_PQ, score_PQ)

    def _arrive(self, score_PQ: NDArray[np.float64]) -> tuple[Path, NDArray[np.float64]]:
        """The best state before each state, and the score of the path through it."""
        paths_PP = self.change_to + score_PQ[:, -1]
        phone = paths_PP.argmax(1)
        changed = paths_PP[np.arange(len(phone)), phone]
        moved, origin = self._moved(score_PQ, changed), self.states - 1
        origin[:, 0] = (phone + 1) * self.parts - 1
        before = origin if self.parts == 1 else np.where(moved > score_PQ, origin, self.states)
        return before.ravel(), self._best(score_PQ, moved).ravel()

    def finish(self) -> Path:
        """The rest."""
        if self.score is None:
            return np.zeros(0, np.int64)
        return self._trace(int(self.score.argmax()), len(self.back))

    def _trace(self, state: int, at: int) -> Path:
        """States 0 to `at` of the path that is in `state` at frame `at` of those held."""
        path = [state]
        for before in reversed(self.back[:at]):
            path.append(int(before[path[-1]]))
        return np.array(path[::-1], np.int64)

    def _agreed(self) -> Path:
        survivors = np.flatnonzero(np.isfinite(self.score)) if self.score is not None else np.zeros(0, np.int64)
        at = len(self.back)
        while at > 0 and len(survivors) > 1:
            at -= 1
            survivors = np.unique(self.back[at][survivors])
        if len(survivors) > 1 or at == 0:
            if len(self.back) < self.PATIENCE or self.score is None:
                return np.zeros(0, np.int64)
            path = self._trace(int(self.score.argmax()), len(self.back))
            at = len(path) // 2
            state = int(path[at])
            # Only what goes through the decided state may go on.
            reached = np.arange(len(self.begin))
            for before in reversed(self.back[at:]):
                reached = before[reached]
            self.score = np.where(reached == state, self.score, -np.inf)
        else:
            state = int(survivors[0])
        given = self._trace(state, at)[:-1]
        self.back = self.back[at:]
        return given


class Greedy:
    """The most probable state of each frame by itself."""

    def push(self, log_p_TS: Array) -> Path:
        """One for each frame."""
        return np.asarray(log_p_TS.argmax(1), np.int64)

    def finish(self) -> Path:
        """Nothing is held."""
        return np.zeros(0, np.int64)


def decoder(config: DecodingConfig, bigram: Sequence[Sequence[int]], parts: int) -> Median | Viterbi | Greedy:
    """What `config` asks for."""
    if config.smoothing == "viterbi":
        return Viterbi(bigram, parts, config.bigram_weight)
    return Median(config.median) if config.smoothing == "median" else Greedy()


def whole_paths(
    config: DecodingConfig, bigram: Sequence[Sequence[int]], parts: int, log_ps_TS: Sequence[Array]
) -> list[Path]:
    """The states of whole utterances, each by itself, as `config` asks for them."""
    if config.smoothing == "viterbi":
        return Viterbi(bigram, parts, config.bigram_weight).whole(log_ps_TS)
    found = []
    for log_p_TS in log_ps_TS:
        made = decoder(config, bigram, parts)
        found.append(np.concatenate((made.push(log_p_TS), made.finish())))
    return found


def runs(path: Path, parts: int) -> list[tuple[int, int, int]]:
    """(phone, first frame, frame after the last) of a path of states; going back to an earlier part begins anew."""
    found: list[tuple[int, int, int]] = []
    for t, state in enumerate(path.tolist()):
        again = found and state // parts == found[-1][0] and state >= path[t - 1]
        if again:
            found[-1] = (found[-1][0], found[-1][1], t + 1)
        else:
            found.append((state // parts, t, t + 1))
    return found


def to_segments(
    found: Sequence[tuple[int, int, int]], phones: Sequence[str], config: FeatureConfig, duration: float
) -> list[Segment]:
    """Runs of frames as times: a border lies half-way between two centres; the ends are those of the recording."""
    offset = config.first_centre - config.shift / 2
    borders = [max(0.0, offset + start * config.shift) for _, start, _ in found]
    borders = [0.0, *borders[1:], duration] if found else []
    return [Segment(borders[k], borders[k + 1], phones[phone]) for k, (phone, _, _) in enumerate(found)]


def phone_error_rate(references: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    """Substitutions, insertions and deletions in percent of the reference's phones, over all utterances together."""
    jiwer = need("jiwer", "jiwer", "speech")
    return 100.0 * float(jiwer.wer([" ".join(row) for row in references], [" ".join(row) for row in found]))
