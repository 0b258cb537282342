"""Batches of sequences of unequal length: padded ones of similar length, and rows of truncated streams.

Both are known from an epoch and a position alone, so that a run resumes anywhere; each epoch has another order.

Shape suffixes: T time, B batch.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Buckets:
    """Batches of sequences of similar length, so that little is padded.

    Sequences are sorted by their length, shaken by up to a tenth of it so that neighbours change from epoch to epoch,
    cut into batches and the batches shuffled.

    Args:
        lengths: of each sequence, at least 1.
        batch_size: sequences in a batch; the shortest batch may have fewer.

    Raises:
        ValueError: no sequence, an empty one, or a batch size below 1.
    """

    def __init__(self, lengths: Sequence[int] | NDArray[np.integer[Any]], batch_size: int) -> None:
        _check(lengths, batch_size)
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self._epoch: tuple[int, list[NDArray[np.int64]]] | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.lengths) // self.batch_size)

    def batch(self, epoch: int, position: int) -> list[int]:
        """The indices of the sequences in batch `position` of `epoch`."""
        if self._epoch is None or self._epoch[0] != epoch:
            draw = np.random.default_rng([1, epoch])
            order = np.argsort(self.lengths * draw.uniform(0.95, 1.05, len(self.lengths)), kind="stable")
            cuts = range(0, len(order), self.batch_size)
            batches = [order[start : start + self.batch_size] for start in cuts]
            self._epoch = (epoch, [batches[index] for index in draw.permutation(len(batches))])
        return [int(index) for index in self._epoch[1][position]]


@dataclass(frozen=True)
class Piece:
    """Steps [start, start + T) of a sequence, or what there is of them."""

    sequence: int
    start: int


class Streams:
    """Rows side by side, each reading one sequence after another in windows of `steps`.

    A sequence begins at a window's start, where the row's state is to be reset, and its last window is padded. Which
    row reads which sequences is settled once (the longest first, to the row with the least to read); the order within
    a row is drawn anew each epoch.

    Args:
        lengths: of each sequence, at least 1.
        batch_size: rows; no more are used than there are sequences.
        steps: T, steps in a window.

    Raises:
        ValueError: no sequence, an empty one, or a batch size or number of steps below 1.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, steps: int) -> None:
        _check(lengths, batch_size)
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.windows = [-(-int(length) // steps) for length in lengths]
        self.steps = steps
        self.rows: list[list[int]] = [[] for _ in range(min(batch_size, len(self.windows)))]
        loads = [(0, row) for row in range(len(self.rows))]
        for sequence in sorted(range(len(self.windows)), key=lambda index: (-self.windows[index], index)):
            load, row = heapq.heappop(loads)
            self.rows[row].append(sequence)
            heapq.heappush(loads, (load + self.windows[sequence], row))
        self._epoch: tuple[int, list[list[Piece]]] | None = None

    @cached_property
    def _longest(self) -> int:
        return max(sum(self.windows[sequence] for sequence in row) for row in self.rows)

    def __len__(self) -> int:
        """Windows in an epoch."""
        return self._longest

    def batch(self, epoch: int, position: int) -> list[Piece | None]:
        """What each row reads in window `position` of `epoch`; None of a row that has come to its end.

        A row's state is to be reset where its piece has `start` 0.
        """
        if self._epoch is None or self._epoch[0] != epoch:
            draw = np.random.default_rng([2, epoch])
            pieces = [
                [
                    Piece(row[index], window * self.steps)
                    for index in draw.permutation(len(row))
                    for window in range(self.windows[row[index]])
                ]
                for row in self.rows
            ]
            self._epoch = (epoch, pieces)
        return [row[position] if position < len(row) else None for row in self._epoch[1]]


def pad(sequences: Sequence[NDArray[np.generic]], length: int | None = None, fill: float = 0) -> NDArray[np.generic]:
    """Arrays (T_b, ...) side by side, (T, B, ...), where T is `length` or the longest's; `fill` behind their ends."""
    longest = max(len(sequence) for sequence in sequences) if length is None else length
    first = sequences[0]
    padded = np.full((longest, len(sequences), *first.shape[1:]), fill, first.dtype)
    for row, sequence in enumerate(sequences):
        padded[: len(sequence), row] = sequence
    return padded


def teacher_forced(
    sentences: Sequence[Sequence[int]], end: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Sentences that end in `end`, side by side: inputs and targets (T, B), and where there is a target.

    Each reads `end` first, then its own tokens.
    """
    y_TB = pad([np.array(sentence, np.int64) for sentence in sentences], fill=end).astype(np.int64)
    x_TB = np.concatenate((np.full_like(y_TB[:1], end), y_TB[:-1]))
    lengths_B = np.array([len(sentence) for sentence in sentences])
    return x_TB, y_TB, np.arange(len(y_TB))[:, None] < lengths_B


def in_batches(lengths: Sequence[int], *, tokens: int, most: int) -> Iterator[list[int]]:
    """Indices from the shortest to the longest, so many at a time that none of `tokens` and `most` is exceeded.

    `tokens` counts padding; a sequence that is longer by itself is alone.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if batch and (len(batch) == most or (len(batch) + 1) * lengths[index] > tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _check(lengths: Sequence[int] | NDArray[np.integer[Any]], batch_size: int) -> None:
    if len(lengths) == 0 or np.min(lengths) < 1:
        raise ValueError("there must be a sequence, and none may be empty")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
