"""The acoustic model: frames, stacked and thinned; a deep LSTM with D at its L + 1 sites; softmax over phones.

Shapes: T time (steps), B batch, I input, H hidden, S states (classes: phones times parts).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from regrnn.nn import LSTM, Regularization
from regrnn.nn.regularization import as_regularization
from regrnn.tasks.settings import check_sizes
from regrnn.tasks.speech.audio import Array

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The `[model]` section of a speech recipe."""

    hidden_size: int = 256
    """Of each direction."""
    num_layers: int = 2
    bidirectional: bool = False
    context: int = 0
    """Frames to each side that are stacked upon each frame."""
    subsample: int = 1
    """Only one frame of so many, the middle one, is read; predictions for the others lie between those of two such."""
    delay: int = 0
    """Steps by which predictions come later than their frames, so that a forward LSTM hears what follows."""
    states: int = 1
    """Equal parts of each phone that are told apart."""
    dropout: float | Regularization = 0.0
    """A rate: the paper's D at all L + 1 sites. A table: the fields of `regrnn.Regularization`."""

    def __post_init__(self) -> None:
        check_sizes({name: getattr(self, name) for name in ("hidden_size", "num_layers", "subsample", "states")})
        for name in ("context", "delay"):
            if not 0 <= getattr(self, name) <= 1000:
                raise ValueError(f"{name} = {getattr(self, name)} must be from 0 to 1,000")
        if self.bidirectional and self.delay:
            raise ValueError(
                f"delay = {self.delay} is for forward models; a bidirectional one hears what follows: set 0"
            )
        as_regularization(self.dropout)  # refuses a rate outside [0, 1)


def stack(x_TF: Array, context: int, subsample: int) -> Array:
    """Frames with `context` neighbours to each side, the ends repeated, one of `subsample` kept, (steps, F (2 c + 1)).

    Step u is frame u `subsample` + `subsample` // 2, or the last frame of a group that ends before.
    """
    kept = centres(len(x_TF), subsample)
    around = np.clip(kept[:, None] + np.arange(-context, context + 1), 0, len(x_TF) - 1)
    return x_TF[around].reshape(len(kept), -1)


def centres(count: int, subsample: int) -> np.ndarray:
    """The frame that each step reads, of `count` frames."""
    return np.minimum(np.arange(0, count, subsample) + subsample // 2, count - 1)


def between(log_p_US: Array, centres_U: np.ndarray, frames: range) -> Array:
    """ln p at `frames` from that at the frames `centres_U`, which increase: p changes evenly from one to the next.

    Before the first and after the last it stays.
    """
    at = np.interp(frames, centres_U, np.arange(len(centres_U)))
    before = at.astype(int)
    after = np.minimum(before + 1, len(centres_U) - 1)
    with np.errstate(divide="ignore"):
        share_T1 = np.log([1 - at + before, at - before])[..., None].astype(np.float32)
    found: Array = np.logaddexp(log_p_US[before] + share_T1[0], log_p_US[after] + share_T1[1])
    return found


def delayed(x_TI: Array, delay: int) -> Array:
    """The last step repeated `delay` times more, so that there is an output for each step."""
    return np.pad(x_TI, ((0, delay), (0, 0)), mode="edge")


def split_states(labels_T: np.ndarray, parts: int) -> np.ndarray:
    """Phone labels as labels of states, phone x parts + part: each run of one phone is cut into equal parts."""
    if parts == 1:
        return labels_T
    starts = np.flatnonzero(np.diff(labels_T, prepend=labels_T[:1] - 1))
    lengths = np.diff(starts, append=len(labels_T))
    place = np.arange(len(labels_T)) - np.repeat(starts, lengths)
    part = place * parts // np.repeat(lengths, lengths)
    return np.where(labels_T >= 0, labels_T * parts + part, labels_T)


class AcousticModel(nn.Module):
    """p(state of a frame | all frames up to `delay` steps after it, or all frames)."""

    def __init__(self, config: ModelConfig, features: int, phones: int) -> None:
        """`features` of a frame, deltas included."""
        super().__init__()
        self.config = config
        size = features * (2 * config.context + 1)
        self.rnn = LSTM(
            size,
            config.hidden_size,
            config.num_layers,
            dropout=config.dropout,
            bidirectional=config.bidirectional,
        )
        self.decoder = nn.Linear(config.hidden_size * (1 + config.bidirectional), phones * config.states)

    def features(self, x_TBI: Tensor, state: State) -> tuple[Tensor, State]:
        """The top layer's h_TBH after D, and the state to go on from; an empty state is zero."""
        h_TBH, (h, c) = self.rnn(x_TBI, (state["h"], state["c"]) if state else None)
        return h_TBH, {"h": h, "c": c}

    def packed_features(self, x_TBI: Tensor, lengths: list[int]) -> PackedSequence:
        """The top layer's h after D of whole sequences, so that the backward direction begins at each one's end."""
        h: PackedSequence
        h, _ = self.rnn(pack_padded_sequence(x_TBI, torch.tensor(lengths), enforce_sorted=False))
        return h
