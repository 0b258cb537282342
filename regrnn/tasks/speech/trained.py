"""A trained acoustic model and what it can do: what `regrnn.load` returns for a speech run.

Shapes: T time (frames, or steps of a thinned model), I input, S states (phones times parts).
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch

from regrnn.errors import RegrnnError
from regrnn.tasks.speech.alignments import Segment, to_json, to_lab, to_textgrid
from regrnn.tasks.speech.audio import Array, Heard, frames
from regrnn.tasks.speech.data import DataConfig, Inventory, add_deltas
from regrnn.tasks.speech.decode import DecodingConfig, decoder, runs, to_segments
from regrnn.tasks.speech.model import AcousticModel, State, between, centres


@dataclass(frozen=True)
class Transcription:
    """The phones of one recording."""

    segments: list[Segment]
    duration: float
    """Seconds."""
    clipped: bool
    """Whether more than a thousandth of its samples are at full scale: the phones may suffer."""

    @property
    def phones(self) -> list[str]:
        """In the order they are spoken."""
        return [segment.phone for segment in self.segments]

    def to_lab(self) -> str:
        """`END 125 PHONE` lines, as festvox has them."""
        return to_lab(self.segments)

    def to_textgrid(self) -> str:
        """Praat's text format, one tier `phones`."""
        return to_textgrid(self.segments, self.duration)

    def to_json(self) -> str:
        """One object on a line."""
        return to_json(self.segments, self.duration)


class TrainedAcousticModel:
    """An acoustic model and its phones, ready to transcribe."""

    def __init__(
        self,
        model: AcousticModel,
        inventory: Inventory,
        data: DataConfig,
        decoding: DecodingConfig,
        recordings: bool = True,
    ) -> None:
        """`recordings` is False of a model of features that were made elsewhere."""
        self.model = model.eval()
        self.inventory = inventory
        self.data = data
        self.decoding = decoding
        self.recordings = recordings

    def to(self, device: torch.device) -> Self:
        """Move the model."""
        self.model.to(device)
        return self

    def transcribe(
        self, path: str | os.PathLike[str], *, average: "Sequence[TrainedAcousticModel]" = ()
    ) -> Transcription:
        """The phones of a recording of any sample rate and any number of channels (their mean is taken).

        `average`: further models of the same phones and frames; their distributions are averaged with this one's at
        each frame, and this one's phone bigram and smoothing are used.

        A forward model reads the file block by block in memory that does not grow with it, but for eight bytes a frame
        and what is returned; a bidirectional one holds its frames. A model normalised by speaker takes the file for a
        speaker's, and reads it twice.

        Raises RegrnnError for a file that is no audio, has no samples, or is too short for a frame, and for models that
        cannot be averaged.
        """
        members = [self, *average]
        require_same_frames(members)
        if not all(member.recordings for member in members):
            raise RegrnnError("the run was trained on Kaldi's features, which cannot be made from a recording here")
        heard = Heard()
        streams = [member._log_probabilities(Path(path), Heard()) for member in average]
        parts = self.model.config.states
        smooth = decoder(self.decoding, self.inventory.bigram, parts)
        stream = mean_of([self._log_probabilities(Path(path), heard), *streams])
        pieces = [smooth.push(log_p_TS) for log_p_TS in stream]
        pieces.append(smooth.finish())
        states = np.concatenate(pieces)
        if not len(states):
            raise RegrnnError(f"{path}: too short for a frame ({heard.duration * 1000:.1f} ms)")
        segments = to_segments(runs(states, parts), self.inventory.phones, self.data.features, heard.duration)
        return Transcription(segments, heard.duration, heard.clipped)

    @torch.no_grad()
    def _log_probabilities(self, path: Path, heard: Heard) -> Iterator[Array]:
        """ln p of each state, (T, S), a block of frames at a time."""
        config, features = self.model.config, self.data.features
        mean, deviation = self.inventory.scale if self.data.normalize == "set" else self._moments(path)
        count = 0

        def counted() -> Iterator[Array]:
            nonlocal count
            for block in frames(path, features, heard):
                count += len(block)
                yield block

        inputs = prepared(counted(), self.data.deltas, config.context, config.subsample, mean, deviation)
        if config.bidirectional:
            everything = list(inputs)
            inputs = iter([np.concatenate(everything)] if everything else [])
        state: State = {}
        early = config.delay  # outputs still to be dropped: they are of no frame
        last: Array | None = None
        held = np.zeros((0, 0), np.float32)  # steps that more frames are to be made from: the last two, or fewer
        first = given = 0  # the step that held[0] is, and the next frame

        def run(x_TI: Array) -> Array:
            nonlocal state, early
            x_TBI = torch.from_numpy(x_TI)[:, None].to(self.model.decoder.weight.device)
            h_TBH, state = self.model.features(x_TBI, state)
            log_p_TS: Array = torch.log_softmax(self.model.decoder(h_TBH[:, 0]), 1).cpu().numpy()
            dropped = min(early, len(log_p_TS))
            early -= dropped
            return log_p_TS[dropped:]

        for x_TI in inputs:
            if not len(x_TI):
                continue
            last = x_TI[-1:]
            steps = run(x_TI)
            held = np.concatenate((held, steps)) if len(held) else steps
            if (done := len(held) - 2) > 0:
                # Which frame the last step is of is known when the recording ends: up to the one before it.
                at = (np.arange(len(held)) + first) * config.subsample + config.subsample // 2
                yield between(held, at, range(given, at[done] + 1))
                held, first, given = held[done:], first + done, int(at[done]) + 1
        if last is None:
            return
        if config.delay:
            rest = run(np.repeat(last, config.delay, axis=0))
            held = np.concatenate((held, rest)) if len(held) else rest
        yield between(held, centres(count, config.subsample)[first:], range(given, count))

    def _moments(self, path: Path) -> tuple[Array, Array]:
        """Mean and standard deviation of a recording's own features."""
        zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
        count, total, squares = 0, np.zeros(1), np.zeros(1)
        for block in prepared(frames(path, self.data.features, Heard()), self.data.deltas, 0, 1, zero, one):
            x = block.astype(np.float64)
            count, total, squares = count + len(x), total + x.sum(0), squares + (x * x).sum(0)
        mean = total / max(1, count)
        deviation = np.sqrt(np.maximum(0.0, squares / max(1, count) - mean * mean))
        deviation[deviation < 1e-5 * np.maximum(1.0, np.abs(mean))] = 1.0
        return mean.astype(np.float32), deviation.astype(np.float32)


def require_same_frames(members: Sequence[TrainedAcousticModel]) -> None:
    """Raise RegrnnError unless the members' distributions are over the same states, at the same times."""
    first = members[0]
    for member in members[1:]:
        if member.inventory.phones != first.inventory.phones or member.model.config.states != first.model.config.states:
            raise RegrnnError("the runs have different phones or states; their predictions cannot be averaged")
        mine, others = member.data.features, first.data.features
        if (mine.shift, mine.first_centre, mine.snip_edges) != (others.shift, others.first_centre, others.snip_edges):
            raise RegrnnError("the runs have different frames; their predictions cannot be averaged")


def mean_of(streams: Sequence[Iterator[Array]]) -> Iterator[Array]:
    """ln of the mean of the streams' distributions, of as many frames at a time as all of them have given."""
    if len(streams) == 1:
        yield from streams[0]
        return
    held = [np.zeros((0, 0), np.float32)] * len(streams)
    while True:
        for index, stream in enumerate(streams):
            while not len(held[index]):
                block = next(stream, None)
                if block is None:
                    return
                held[index] = block
        ready = min(map(len, held))
        yield np.logaddexp.reduce([block[:ready] for block in held]) - np.float32(np.log(len(held)))
        held = [block[ready:] for block in held]


def prepared(
    blocks: Iterable[Array], deltas: int, context: int, subsample: int, mean: Array, deviation: Array
) -> Iterator[Array]:
    """What `add_deltas`, normalisation and `stack` make of all blocks together, a block at a time."""
    reach = 2 * deltas + context  # frames to each side that a step depends on
    buffer: Array | None = None
    begin = step = 0  # the frame that buffer[0] is, and the next step
    for block in blocks:
        buffer = block if buffer is None else np.concatenate((buffer, block))
        ready = max(step, (begin + len(buffer) - reach - subsample // 2 - 1) // subsample + 1)
        if ready > step:
            yield _steps(buffer, begin, range(step, ready), deltas, context, subsample, mean, deviation)
            step = ready
            keep = max(0, step * subsample + subsample // 2 - reach - begin)
            buffer, begin = buffer[keep:], begin + keep
    if buffer is not None and begin + len(buffer) > step * subsample:
        final = range(step, -(-(begin + len(buffer)) // subsample))
        yield _steps(buffer, begin, final, deltas, context, subsample, mean, deviation)


def _steps(
    buffer: Array, begin: int, steps: range, deltas: int, context: int, subsample: int, mean: Array, deviation: Array
) -> Array:
    x_TF = (add_deltas(buffer, deltas) - mean) / deviation
    kept = np.minimum(np.array(steps) * subsample + subsample // 2 - begin, len(buffer) - 1)
    around = np.clip(kept[:, None] + np.arange(-context, context + 1), 0, len(buffer) - 1)
    return np.asarray(x_TF[around].reshape(len(kept), -1), np.float32)
