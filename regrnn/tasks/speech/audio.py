"""Recordings in, frames of features out, block by block.

A file of any sample rate is resampled to the model's; the channels of a stereo file are averaged. Samples are scaled
to 16-bit integers' range, as in Kaldi; nothing is drawn (no dither), so that equal files give equal features.

Shape suffixes: T time (frames), F features.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regrnn.errors import RegrnnError
from regrnn.optional import need

Array = NDArray[np.float32]

BLOCK = 1 << 16
"""Samples read at once."""

RATES = (1000, 768_000)
"""Hz; a recording that says something else is taken for damaged."""

CLIPPED = 0.001
"""A recording with a greater share of samples at full scale is called clipped."""


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """Frames of a recording: what `kaldi_native_fbank` is asked for."""

    kind: Literal["log-mel", "mfcc"] = "log-mel"
    sample_rate: int = 16000
    """Hz; recordings of another rate are resampled."""
    frame_length_ms: float = 25.0
    frame_shift_ms: float = 10.0
    mels: int = 40
    cepstra: int = 13
    """MFCC: how many are kept, of `mels` mel bins."""
    snip_edges: bool = False
    """False: frame t is centred at (t + 1/2) shifts, the ends mirrored; true: frame t begins at t shifts, and there
    are only frames that lie within the recording."""

    def __post_init__(self) -> None:
        if not 2000 <= self.sample_rate <= 384_000:
            raise ValueError(f"sample_rate = {self.sample_rate} must be from 2,000 to 384,000 Hz")
        if not 1 <= self.frame_shift_ms <= self.frame_length_ms <= 1000:
            raise ValueError(
                f"frame_shift_ms = {self.frame_shift_ms:g} and frame_length_ms = {self.frame_length_ms:g}: the shift "
                "must be at least 1 and not above the length, which may be up to 1000"
            )
        if not 3 < self.mels <= 256:
            raise ValueError(f"mels = {self.mels} must be from 4 to 256")
        if self.kind == "mfcc" and not 1 <= self.cepstra <= self.mels:
            raise ValueError(f"cepstra = {self.cepstra} must be from 1 to mels = {self.mels}")

    @property
    def size(self) -> int:
        """F, features of a frame."""
        return self.mels if self.kind == "log-mel" else self.cepstra

    @property
    def shift(self) -> float:
        """Seconds from frame to frame."""
        return self.frame_shift_ms / 1000

    @property
    def first_centre(self) -> float:
        """Seconds from the beginning to the centre of frame 0."""
        return (self.frame_length_ms if self.snip_edges else self.frame_shift_ms) / 2000


@dataclass
class Heard:
    """What was found out while a file was read."""

    samples: int = 0
    rate: int = 0
    full_scale: int = 0

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples / self.rate if self.rate else 0.0

    @property
    def clipped(self) -> bool:
        """Whether more than `CLIPPED` of the samples are at full scale."""
        return self.full_scale > CLIPPED * self.samples


def read_blocks(path: Path, heard: Heard) -> Iterator[Array]:
    """The samples of a file in [-1, 1], the mean of its channels, a block at a time.

    Raises RegrnnError for a file that is no audio, has no samples, or has samples that are not finite numbers.
    """
    soundfile = need("soundfile", "soundfile", "speech")
    if not path.is_file():
        raise RegrnnError(f"{path}: no such file")
    try:
        with soundfile.SoundFile(path) as file:
            heard.rate = _sensible(path, int(file.samplerate))
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                if not np.isfinite(block).all():
                    raise RegrnnError(f"{path}: has samples that are not finite numbers; write the recording again")
                heard.samples += len(block)
                heard.full_scale += int((np.abs(block).max(1) >= 0.9999).sum())
                yield block.mean(1)
    except soundfile.LibsndfileError as error:
        raise RegrnnError(f"{path}: not audio that can be read ({error.error_string.strip()})") from None
    if heard.samples == 0:
        raise RegrnnError(f"{path}: has no samples; leave it out")


def probe(path: Path) -> tuple[int, float]:
    """The sample rate and the duration in seconds of a file. Raises RegrnnError as `read_blocks`."""
    soundfile = need("soundfile", "soundfile", "speech")
    if not path.is_file():
        raise RegrnnError(f"{path}: no such file")
    try:
        found = soundfile.info(path)
    except (soundfile.LibsndfileError, OSError):
        raise RegrnnError(f"{path}: not audio that can be read") from None
    if found.frames == 0:
        raise RegrnnError(f"{path}: has no samples; leave it out")
    rate = _sensible(path, int(found.samplerate))
    return rate, found.frames / rate


def _sensible(path: Path, rate: int) -> int:
    if not RATES[0] <= rate <= RATES[1]:
        raise RegrnnError(
            f"{path}: its sample rate is {rate:,} Hz, which is not from {RATES[0]:,} to {RATES[1]:,}; write the "
            "recording with its true rate"
        )
    return rate


class Resampler:
    """A rational change of sample rate by a polyphase windowed sinc, block by block and without delay.

    The low-pass is a Kaiser window (beta 9, about 90 dB) over 48 zero crossings to each side, cut at 0.94 of the
    lower Nyquist frequency: aliases above it are gone, and what is below 0.88 of it passes unchanged
    (Smith, *Digital Audio Resampling*). Where the rates would need more than `PHASES` phases of the filter, those
    between are interpolated, which is good to 110 dB.
    """

    CROSSINGS = 48
    CUT = 0.94
    BETA = 9.0
    PHASES = 1024

    def __init__(self, source: int, target: int) -> None:
        divisor = math.gcd(source, target)
        self.up, self.down = target // divisor, source // divisor
        scale = min(1.0, target / source) * self.CUT  # of the source's Nyquist frequency
        self.half = math.ceil(self.CROSSINGS / scale)
        # Tap k of phase p weighs the sample k - half + 1 - p / phases away from where the output lies.
        self.phases = min(self.up, self.PHASES)
        offsets = np.arange(-self.half + 1, self.half + 1)[None, :] - np.arange(self.phases + 1)[:, None] / self.phases
        window = np.i0(self.BETA * np.sqrt(np.maximum(0.0, 1 - (offsets / self.half) ** 2))) / np.i0(self.BETA)
        # The last phase is the first, a sample on, and is there to interpolate towards.
        taps = scale * np.sinc(scale * offsets) * window
        self.taps = (taps / taps.sum(1, keepdims=True)).astype(np.float32)  # a constant stays what it is
        self.buffer: Array = np.zeros(self.half - 1, np.float32)  # silence before the beginning
        self.begin = -(self.half - 1)  # the sample that buffer[0] is
        self.received = 0
        self.made = 0

    def push(self, block: Array) -> Array:
        """The output that the samples so far determine."""
        self.received += len(block)
        self.buffer = np.concatenate((self.buffer, block))
        return self._make(self.begin + len(self.buffer) - self.half)

    def finish(self) -> Array:
        """The rest: silence follows the end. In all there are samples x target / source, rounded up."""
        total = -(-self.received * self.up // self.down)
        self.buffer = np.concatenate((self.buffer, np.zeros(self.half + 1, np.float32)))
        return self._make(self.received, total)

    def _taps(self, phase: NDArray[np.int64]) -> Array:
        """The filter of each output, (n, 2 half)."""
        if self.phases == self.up:
            return np.asarray(self.taps[phase])
        place = phase * self.phases // self.up
        part = (phase * self.phases / self.up - place).astype(np.float32)[:, None]
        return np.asarray((1 - part) * self.taps[place] + part * self.taps[place + 1])

    def _make(self, until: int, total: int | None = None) -> Array:
        """Outputs whose place in the source is before sample `until`."""
        stop = max(self.made, -(-until * self.up // self.down)) if total is None else total
        pieces = []
        while self.made < stop:
            position = np.arange(self.made, min(stop, self.made + 4096)) * self.down
            first = position // self.up - self.half + 1 - self.begin
            rows = np.lib.stride_tricks.sliding_window_view(self.buffer, 2 * self.half)[first]
            pieces.append(np.einsum("nk,nk->n", rows, self._taps(position % self.up)))
            self.made += len(position)
        keep = max(0, self.made * self.down // self.up - self.half + 1 - self.begin)
        self.buffer, self.begin = self.buffer[keep:], self.begin + keep
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def frames(path: Path, config: FeatureConfig, heard: Heard) -> Iterator[Array]:
    """The features (T, F) of a file, a block at a time in flat memory. Raises RegrnnError as `read_blocks`.

    A recording too short for a single frame gives none.
    """
    fbank = need("kaldi_native_fbank", "kaldi-native-fbank", "speech")
    options = fbank.FbankOptions() if config.kind == "log-mel" else fbank.MfccOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = config.sample_rate
    options.frame_opts.frame_length_ms = config.frame_length_ms
    options.frame_opts.frame_shift_ms = config.frame_shift_ms
    options.frame_opts.snip_edges = config.snip_edges
    options.mel_opts.num_bins = config.mels
    if config.kind == "mfcc":
        options.num_ceps = config.cepstra
    try:
        computer = fbank.OnlineFbank(options) if config.kind == "log-mel" else fbank.OnlineMfcc(options)
    except ValueError:
        raise RegrnnError(
            f"--data.features.mels {config.mels} are too many for frames of {config.frame_length_ms:g} ms at "
            f"{config.sample_rate:,} Hz: some would hold no frequency; set fewer, or longer frames"
        ) from None
    resampler: Resampler | None = None
    done = 0

    def ready() -> Array:
        nonlocal done
        # Copies: what get_frame shows is freed by pop.
        rows = [np.array(computer.get_frame(index)) for index in range(done, computer.num_frames_ready)]
        computer.pop(len(rows))
        done += len(rows)
        return np.array(rows, np.float32).reshape(len(rows), config.size)

    for block in read_blocks(path, heard):
        if heard.rate != config.sample_rate:
            resampler = resampler or Resampler(heard.rate, config.sample_rate)
            block = resampler.push(block)
        computer.accept_waveform(config.sample_rate, block * 32768)
        yield ready()
    if resampler is not None:
        computer.accept_waveform(config.sample_rate, resampler.finish() * 32768)
    computer.input_finished()
    yield ready()
