"""Small recordings in which each phone is a tone of its own."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from regrnn.tasks.speech.alignments import Segment, to_lab

HERTZ = {"pau": 0.0, "a": 400.0, "o": 900.0, "i": 2500.0}

Spoken = Sequence[tuple[str, float]]
"""Phones and their seconds."""


def sound(spoken: Spoken, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """The samples: a tone for each phone, with a little noise."""
    pieces, begin = [], 0.0
    for phone, seconds in spoken:
        count = round((begin + seconds) * rate) - round(begin * rate)
        t = np.arange(count) / rate
        pieces.append(0.3 * np.sin(2 * np.pi * HERTZ.get(phone, 1500.0) * t))
        begin += seconds
    clean = np.concatenate(pieces)
    return (clean + np.random.default_rng(seed).normal(0, 0.003, len(clean))).astype(np.float32)


def segments_of(spoken: Spoken) -> list[Segment]:
    """The alignment."""
    found, begin = [], 0.0
    for phone, seconds in spoken:
        found.append(Segment(begin, begin + seconds, phone))
        begin += seconds
    return found


def utterance(seed: int) -> list[tuple[str, float]]:
    """A random one of about 0.7 s."""
    draw = random.Random(seed)
    found = [("pau", 0.1)]
    for _ in range(5):
        others = [phone for phone in ("a", "o", "i") if phone != found[-1][0]]
        found.append((draw.choice(others), draw.randint(5, 15) / 100))
    return [*found, ("pau", 0.1)]


def write(path: Path, spoken: Spoken, *, rate: int = 16000, seed: int = 0, lab: bool = True) -> Path:
    """A recording at `path`, its .lab beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound(spoken, rate, seed), rate)
    if lab:
        path.with_suffix(".lab").write_text(to_lab(segments_of(spoken)))
    return path


def write_corpus(folder: Path, names: Sequence[str]) -> Path:
    """Recordings of `NAME.wav`, each with its .lab."""
    for seed, name in enumerate(names):
        write(folder / f"{name}.wav", utterance(seed), seed=seed)
    return folder
