"""`regrnn.data.buckets`: padded batches and truncated streams, known from an epoch and a position alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrnn.data.buckets import Buckets, Piece, Streams, in_batches, pad

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@given(LENGTHS, st.integers(1, 9), st.integers(0, 5))
def test_a_batch_holds_each_sequence_once_an_epoch(lengths: list[int], batch_size: int, epoch: int) -> None:
    buckets = Buckets(lengths, batch_size)
    batches = [buckets.batch(epoch, position) for position in range(len(buckets))]
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert sorted(map(len, batches))[1:] == [batch_size] * (len(batches) - 1)


def test_batches_hold_sequences_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(50, 2000, 640).tolist()
    buckets = Buckets(lengths, 16)
    read = padded = 0
    for position in range(len(buckets)):
        batch = [lengths[index] for index in buckets.batch(1, position)]
        read += sum(batch)
        padded += max(batch) * len(batch)
    assert padded < 1.12 * read  # in the order of the file it is about twice


def test_batches_depend_on_epoch_and_position_alone() -> None:
    lengths = [5, 9, 30, 31, 8, 7, 12, 40, 41, 3]
    first = Buckets(lengths, 3)
    expected = {(epoch, at): first.batch(epoch, at) for epoch in (1, 2, 3) for at in range(4)}
    again = Buckets(lengths, 3)
    for key in reversed(expected):  # a resumed run begins anywhere
        assert again.batch(*key) == expected[key]
    assert [expected[1, at] for at in range(4)] != [expected[2, at] for at in range(4)]


@given(LENGTHS, st.integers(1, 9), st.integers(1, 12), st.integers(0, 5))
def test_streams_read_each_step_of_each_sequence_once_and_in_order(
    lengths: list[int], rows: int, steps: int, epoch: int
) -> None:
    streams = Streams(lengths, rows, steps)
    table = [streams.batch(epoch, position) for position in range(len(streams))]
    assert all(len(row) == min(rows, len(lengths)) for row in table)
    assert any(piece is not None for piece in table[-1])
    seen: list[Piece] = []
    for column in zip(*table, strict=True):
        pieces = [piece for piece in column if piece is not None]
        assert list(column[: len(pieces)]) == pieces  # a row that has ended stays so
        for before, piece in zip([None, *pieces], pieces, strict=False):
            goes_on = before is not None and before.start + steps < lengths[before.sequence]
            # A sequence is read to its end before the row begins another, at 0, where its state is reset.
            assert piece == (Piece(before.sequence, before.start + steps) if goes_on else Piece(piece.sequence, 0))  # type: ignore[union-attr]
        if pieces:
            assert pieces[-1].start + steps >= lengths[pieces[-1].sequence]
        seen += pieces
    assert sorted((p.sequence, p.start) for p in seen) == [
        (index, start) for index, length in enumerate(lengths) for start in range(0, length, steps)
    ]


def test_rows_of_streams_have_as_much_to_read() -> None:
    lengths = np.random.default_rng(0).integers(50, 2000, 200).tolist()
    streams = Streams(lengths, 8, 50)
    windows = sum(-(-length // 50) for length in lengths)
    assert windows / 8 <= len(streams) <= windows / 8 + 2
    assert [streams.batch(1, at) for at in range(5)] != [streams.batch(2, at) for at in range(5)]
    assert Streams(lengths, 8, 50).batch(2, 3) == streams.batch(2, 3)


@pytest.mark.parametrize(
    ("lengths", "size", "message"),
    [([], 1, "there must be a sequence"), ([3, 0], 1, "none may be empty"), ([3], 0, "batch_size must be at least 1")],
)
def test_what_makes_no_batches_is_refused(lengths: list[int], size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Buckets(lengths, size)
    with pytest.raises(ValueError, match=message):
        Streams(lengths, size, 5)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Streams([3], 1, 0)


def test_padding() -> None:
    short, long = np.ones((2, 3), np.float32), np.full((4, 3), 2, np.float32)
    padded = pad([short, long])
    assert padded.shape == (4, 2, 3) and padded.dtype == np.float32
    assert (padded[:2, 0] == 1).all() and (padded[2:, 0] == 0).all() and (padded[:, 1] == 2).all()
    assert pad([np.array([5])], 3, fill=-1).tolist() == [[5], [-1], [-1]]


def test_lots_hold_no_more_than_they_may() -> None:
    lengths = [5, 1, 9, 2, 2, 30, 7, 1, 3]
    batches = list(in_batches(lengths, tokens=12, most=3))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or (len(batch) <= 3 and len(batch) * longest <= 12)
    assert [lengths[batch[0]] for batch in batches] == sorted(lengths[batch[0]] for batch in batches)
    assert list(in_batches([], tokens=12, most=3)) == []
