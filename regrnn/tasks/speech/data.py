"""Recordings and alignments in, normalised frames with labels out: the `[data]` section of a speech recipe.

How a frame gets its label: it is that of the segment in which the frame's centre lies, start <= centre < end. Without
`snip_edges` frame t is centred at (t + 1/2) shifts, with it at t shifts plus half a frame. A frame whose centre lies in
no segment (past the last label, or in an interval without one) is not predicted. A phone that the training part lacks
cannot be predicted either, but counts as a mistake.

Shape suffixes: T time (frames), F features, P phones.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regrnn.data.array_cache import ArrayCache
from regrnn.data.locate import cache_root, locate_data
from regrnn.data.text import fingerprint as file_sum
from regrnn.errors import RegrnnError
from regrnn.optional import need
from regrnn.tasks.speech.alignments import SUFFIXES, Segment, check_segments, read_alignment
from regrnn.tasks.speech.audio import Array, FeatureConfig, Heard, frames, probe

IGNORED = -1
"""The label of a frame that is not predicted."""

UNKNOWN = -2
"""The label of a phone that the training part does not have."""

SPLITS = ("train", "valid", "test")

ALIASES = {"dev": "valid", "val": "valid", "validation": "valid"}
"""Other names that data sets have for a part; capitals make no difference."""

TOLERANCE = 0.1
"""Seconds by which a recording and its labels may differ in length."""

_FORMAT = 1  # part of the key of cached features: raise it when they change
_AUDIO = (".wav", ".flac")
_NO_SPEAKER = ("wav", "flac", "audio", "wavs")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which recordings, made into which frames, in which batches."""

    path: str = ""
    """A folder of wav or flac files with .lab, .phn or .TextGrid beside them or in a folder of their own; a .jsonl
    manifest; a folder with Kaldi's feats.scp; or the name of a data set."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    deltas: int = 1
    """0, 1 or 2: how many orders of differences over time stand beside each feature."""
    normalize: Literal["speaker", "set"] = "set"
    """Mean and variance of the whole training part, or of each speaker."""
    split: Literal["utterance", "speaker"] = "utterance"
    """What is kept together when the data has no parts of its own: no speaker is in two parts with "speaker"."""
    batches: Literal["padded", "streams"] = "padded"
    """Whole utterances of similar length, or windows of `steps` with the state carried."""
    batch_size: int = 16
    """Utterances, or rows that are read side by side."""
    steps: int = 50
    """Streams: the window of truncated back-propagation."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.deltas not in (0, 1, 2):
            raise ValueError(f"deltas = {self.deltas} must be 0, 1 or 2")


@dataclass(frozen=True, eq=False)
class Utterance:
    """One recording: where it comes from and, once read, its frames."""

    name: str
    speaker: str
    source: str
    """The file, for messages."""
    x_TF: Array
    """Features before deltas and normalisation."""
    phones: list[str]
    """Of each frame; "" of one that is not predicted."""
    sequence: list[str]
    """The phones in the order they are spoken."""
    clipped: bool
    checksum: str
    """Of the recording and its labels."""
    heard: str
    """Checksum of the recording alone."""


@dataclass(frozen=True)
class Inventory:
    """What a model has to know of its training part."""

    phones: list[str]
    """Sorted; the place is the label."""
    bigram: list[list[int]]
    """(P + 1, P): how often a phone followed another; the last row is the beginning."""
    size: int
    """F, features of a frame before deltas."""
    mean: list[float]
    """Of the training part's features, deltas included."""
    deviation: list[float]

    @cached_property
    def index(self) -> dict[str, int]:
        """The label of each phone."""
        return {phone: label for label, phone in enumerate(self.phones)}

    @cached_property
    def scale(self) -> tuple[Array, Array]:
        """Mean and standard deviation."""
        return np.array(self.mean, np.float32), np.array(self.deviation, np.float32)

    def to_json(self) -> str:
        """What `from_json` takes back."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Inventory":
        """Raises RegrnnError for what `to_json` did not write."""
        try:
            found = cls(**json.loads(text))
            count, features = len(found.phones), len(found.mean)
            sound = len(found.bigram) == count + 1 and all(len(row) == count for row in found.bigram)
            if not (sound and count and features == len(found.deviation) and features % found.size == 0):
                raise ValueError("its tables do not fit together")
        except (ValueError, TypeError, ZeroDivisionError) as error:
            raise RegrnnError(f"phones.json: damaged ({error})") from None
        return found


@dataclass(frozen=True)
class Corpus:
    """The parts of a data set, read."""

    root: Path
    rule: str
    """By which the parts were made."""
    splits: dict[str, list[Utterance]]

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """sha256 of the names, recordings and alignments of each part."""
        sums = {}
        for split, utterances in self.splits.items():
            lines = "".join(f"{u.name} {u.speaker} {u.checksum}\n" for u in utterances)
            sums[split] = f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
        return sums

    def description(self, inventory: Inventory) -> str:
        """The data in a few lines, for a person."""
        everything = [u for utterances in self.splits.values() for u in utterances]
        counts = ", ".join(
            f"{split} {len(us):,} utterances ({sum(len(u.x_TF) for u in us):,} frames)"
            for split, us in self.splits.items()
        )
        speakers = len({u.speaker for u in everything})
        lines = [f"{self.root}: {self.rule}", f"{counts}; {speakers} speakers; {len(inventory.phones)} phones"]
        unknown = unknown_phones(everything, inventory)
        if unknown:
            lines.append(f"phones that the training part lacks, counted as mistakes: {', '.join(unknown)}")
        clipped = [u.source for u in everything if u.clipped]
        if clipped:
            lines.append(f"clipped, but used as they are: {len(clipped)} recordings, the first {clipped[0]}")
        return "\n".join(lines)


def add_deltas(x_TF: Array, order: int) -> Array:
    """Features and their differences over time, (T, F (order + 1)): the regression over two frames to each side that
    Kaldi and HTK use, the ends repeated."""
    parts = [x_TF]
    for _ in range(order):
        p = np.pad(parts[-1], ((2, 2), (0, 0)), mode="edge")
        parts.append(np.asarray(((p[3:-1] - p[1:-3]) + 2 * (p[4:] - p[:-4])) / 10, np.float32))
    return np.concatenate(parts, axis=1)


def moments(utterances: Iterable[Utterance], deltas: int) -> tuple[Array, Array]:
    """Mean and standard deviation of each feature over all frames, a constant's deviation being 1."""
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for utterance in utterances:
        x = add_deltas(utterance.x_TF, deltas).astype(np.float64)
        count, total, squares = count + len(x), total + x.sum(0), squares + (x * x).sum(0)
    mean = total / count
    deviation = np.sqrt(np.maximum(0.0, squares / count - mean * mean))
    deviation[deviation < 1e-5 * np.maximum(1.0, np.abs(mean))] = 1.0
    return mean.astype(np.float32), deviation.astype(np.float32)


class Normalizer:
    """Frames of utterances made ready for a model.

    Of a speaker with utterances in the training part the mean and variance are those of these alone, so that nothing of
    what is tested is used; of any other speaker they are of the utterances given, whose labels they do not need.
    """

    def __init__(self, corpus: Corpus, inventory: Inventory, config: DataConfig) -> None:
        self.deltas = config.deltas
        self.inventory = inventory
        self.speakers: dict[str, tuple[Array, Array]] = {}
        if config.normalize == "speaker":
            groups: dict[str, list[Utterance]] = {}
            for split in SPLITS:
                known = set(groups) if split != "train" else set()
                for utterance in corpus.splits.get(split, []):
                    if utterance.speaker not in known:
                        groups.setdefault(utterance.speaker, []).append(utterance)
            self.speakers = {speaker: moments(utterances, self.deltas) for speaker, utterances in groups.items()}

    def __call__(self, utterance: Utterance) -> Array:
        """(T, F (deltas + 1)), mean 0 and variance 1."""
        mean, deviation = self.speakers.get(utterance.speaker, self.inventory.scale)
        return np.asarray((add_deltas(utterance.x_TF, self.deltas) - mean) / deviation, np.float32)


def labels(utterance: Utterance, inventory: Inventory) -> NDArray[np.int64]:
    """(T,) the label of each frame, `IGNORED` or `UNKNOWN`."""
    index = {"": IGNORED} | inventory.index
    return np.array([index.get(phone, UNKNOWN) for phone in utterance.phones], np.int64)


def unknown_phones(utterances: Iterable[Utterance], inventory: Inventory) -> list[str]:
    """Phones that were not in the training part, sorted."""
    return sorted({phone for utterance in utterances for phone in utterance.phones if phone} - set(inventory.phones))


def take_inventory(train: Sequence[Utterance], config: DataConfig) -> Inventory:
    """Phones, their bigram and the features' moments, of the training part alone."""
    phones = sorted({phone for utterance in train for phone in utterance.phones if phone})
    if len(phones) < 2:
        raise RegrnnError(f"the training part has {len(phones)} phones; there must be at least two to tell apart")
    index = {phone: label for label, phone in enumerate(phones)}
    bigram = np.zeros((len(phones) + 1, len(phones)), np.int64)
    for utterance in train:
        before = len(phones)
        for phone in utterance.sequence:
            if phone in index:  # one shorter than a frame may have no frame anywhere
                bigram[before, index[phone]] += 1
                before = index[phone]
    mean, deviation = moments(train, config.deltas)
    return Inventory(phones, bigram.tolist(), train[0].x_TF.shape[1], mean.tolist(), deviation.tolist())


def read_corpus(config: DataConfig, only: Sequence[str] = SPLITS, needed: Sequence[str] | None = None) -> Corpus:
    """Read the parts `only` of the data that `config` names. Raises RegrnnError for bad input.

    Those of them that are `needed` (all unless given) have to have an utterance.

    By utterance: sorted by the SHA-256 of their names, the first tenth is for testing, the next for validation (each
    rounded, but at least one), the rest for training. By speaker: the same with the speakers' names.
    """
    if not config.path.strip():
        raise RegrnnError(
            "no data is named; give --data a folder of recordings with alignments, a .jsonl manifest, a folder with "
            "Kaldi's feats.scp, or the name of a data set"
        )
    root = locate_data(config.path)
    entries = _entries(root, config)
    for entry in entries:
        _check_name(root, entry.name)
    given = {entry.split for entry in entries}
    if given == {""}:
        parts, rule = _cut(root, entries, config.split)
    else:
        strange = next((entry for entry in entries if entry.split not in SPLITS), None)
        if strange is not None:
            part = f"the part {strange.split!r}" if strange.split else "no part, and others have one"
            raise RegrnnError(f"{root}: the utterance {strange.name!r} has {part}; give each train, valid or test")
        parts = {split: sorted((e for e in entries if e.split == split), key=_digest) for split in SPLITS}
        rule = "split as given"
        _refuse_leaks(root, parts, config.split)
    for split in SPLITS:
        if not parts[split] and split in (only if needed is None else needed):
            raise RegrnnError(f"{root}: no utterance for {split}; give more utterances, or a part called {split}")
    cache = ArrayCache(cache_root() / "features")
    corpus = Corpus(root, rule, {split: [entry.read(config, cache) for entry in parts[split]] for split in only})
    _refuse_copies(corpus)
    return corpus


@dataclass(frozen=True)
class _Entry:
    """An utterance that was found but not read."""

    name: str
    speaker: str
    split: str
    audio: Path
    alignment: Path | None
    segments: tuple[Segment, ...] = ()
    """Of a manifest that holds them itself."""

    def read(self, config: DataConfig, cache: ArrayCache) -> Utterance:
        rate, duration = probe(self.audio)
        segments = list(self.segments)
        heard_sum = file_sum(self.audio)
        if self.alignment is not None:
            segments = read_alignment(self.alignment, rate)
        where = self.alignment or self.audio
        if abs(segments[-1].end - duration) > TOLERANCE:
            raise RegrnnError(
                f"{where}: the labels end at {segments[-1].end:.3f} s and {self.audio.name} at {duration:.3f} s; they "
                f"may differ by {TOLERANCE:g} s: check that they belong together and that the rate is right"
            )
        heard = Heard()
        key = {"audio": heard_sum, "features": asdict(config.features), "format": _FORMAT}

        def compute() -> Array:
            rows = list(frames(self.audio, config.features, heard))
            clipped = np.full((1, config.features.size), float(heard.clipped), np.float32)
            return np.concatenate([clipped, *rows])

        found = cache.get(key, compute)  # the first row says whether it is clipped
        x_TF = found[1:]
        if not len(x_TF):
            raise RegrnnError(f"{self.audio}: too short for a frame ({duration * 1000:.1f} ms); leave it out")
        phones = frame_phones(segments, len(x_TF), config.features)
        if not any(phones):
            raise RegrnnError(f"{where}: no frame has its centre in a labelled segment; leave the utterance out")
        described = json.dumps([[s.start, s.end, s.phone] for s in segments])
        checksum = hashlib.sha256(f"{heard_sum} {described}".encode()).hexdigest()
        spoken = [segment.phone for segment in segments if segment.phone]
        source, clipped = str(self.audio), bool(found[0, 0])
        return Utterance(self.name, self.speaker, source, x_TF, phones, spoken, clipped, checksum, heard_sum)


@dataclass(frozen=True)
class _KaldiEntry:
    """An utterance of a Kaldi folder."""

    name: str
    speaker: str
    split: str
    features: str
    """`FILE:OFFSET`."""
    phones: tuple[str, ...]

    def read(self, config: DataConfig, cache: ArrayCache) -> Utterance:
        x_TF = np.asarray(_read_ark(self.features), np.float32)
        if x_TF.ndim != 2 or not len(x_TF):
            raise RegrnnError(f"{self.features}: {self.name} is no matrix of frames")
        if not np.isfinite(x_TF).all():
            raise RegrnnError(f"{self.features}: {self.name} has features that are not finite numbers")
        if len(x_TF) != len(self.phones):
            raise RegrnnError(
                f"{self.features}: {self.name} has {len(x_TF)} frames and its alignment {len(self.phones)}; align the "
                "same features"
            )
        spoken = [p for t, p in enumerate(self.phones) if t == 0 or p != self.phones[t - 1]]
        checksum = hashlib.sha256(x_TF.tobytes() + " ".join(self.phones).encode()).hexdigest()
        heard_sum = hashlib.sha256(x_TF.tobytes()).hexdigest()
        phones = list(self.phones)
        return Utterance(self.name, self.speaker, self.features, x_TF, phones, spoken, False, checksum, heard_sum)


Entry = _Entry | _KaldiEntry


def frame_phones(segments: Sequence[Segment], count: int, config: FeatureConfig) -> list[str]:
    """The phone in whose segment each of `count` frames has its centre; "" where there is none."""
    # Whole nanoseconds, so that 0.1 + 0.2 and 0.3 are the same instant.
    starts = np.array([round(segment.start * 1e9) for segment in segments])
    ends = np.array([round(segment.end * 1e9) for segment in segments])
    centres = np.round((config.first_centre + np.arange(count) * config.shift) * 1e9).astype(np.int64)
    at = np.searchsorted(starts, centres, side="right") - 1
    inside = (at >= 0) & (centres < ends[at])
    return [segments[k].phone if good else "" for k, good in zip(at, inside, strict=True)]


def is_kaldi(path: str) -> bool:
    """Whether the data are features without recordings."""
    root = locate_data(path)
    return root.is_dir() and (root / "feats.scp").is_file()


def _check_name(root: Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = name.encode("utf-8", "backslashreplace").decode()
        raise RegrnnError(f"{root}: the name {shown} is not UTF-8; rename the file") from None


def _split_name(given: str) -> str:
    """A part's name as this package has it, or what was given."""
    return ALIASES.get(given.lower(), given.lower() if given.lower() in SPLITS else given)


def _digest(entry: Entry) -> str:
    return hashlib.sha256(entry.name.encode()).hexdigest()


def _cut(root: Path, entries: Sequence[Entry], unit: str) -> tuple[dict[str, list[Entry]], str]:
    names = {entry.name if unit == "utterance" else entry.speaker for entry in entries}
    if len(names) < 3:
        raise RegrnnError(
            f"{root}: {len(names)} {unit}s cannot be split by {unit} into train, valid and test; give at least three"
            + ("" if unit == "utterance" else " or set --data.split utterance")
        )
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    tenth = max(1, round(len(order) / 10))
    part = {name: "test" if k < tenth else "valid" if k < 2 * tenth else "train" for k, name in enumerate(order)}
    parts: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    for entry in sorted(entries, key=_digest):
        parts[part[entry.name if unit == "utterance" else entry.speaker]].append(entry)
    return parts, f"split by {unit}, sorted by the SHA-256 of its name: a tenth test, a tenth valid, the rest train"


def _refuse_leaks(root: Path, parts: Mapping[str, Sequence[Entry]], unit: str) -> None:
    seen: dict[str, str] = {}
    for split, entries in parts.items():
        for entry in entries:
            name = entry.speaker if unit == "speaker" else entry.name
            if seen.setdefault(name, split) != split:
                what = f"the {unit} {name!r} is in {seen[name]} and in {split}"
                raise RegrnnError(f"{root}: {what}; what is tested must not have been trained on")


def _refuse_copies(corpus: Corpus) -> None:
    """One recording under two names, in two parts."""
    seen: dict[str, tuple[str, Utterance]] = {}
    for split, utterances in corpus.splits.items():
        for utterance in utterances:
            other, first = seen.setdefault(utterance.heard, (split, utterance))
            if other != split:
                raise RegrnnError(
                    f"{corpus.root}: {first.name!r} in {other} and {utterance.name!r} in {split} are the same "
                    f"recording ({first.source}, {utterance.source}); what is tested must not have been trained on: "
                    "leave one out"
                )


def _entries(root: Path, config: DataConfig) -> list[Entry]:
    found: list[Entry]
    if root.is_dir() and (root / "feats.scp").is_file():
        found = list(_kaldi(root))
    elif root.is_dir():
        found = list(_folder(root))
    elif root.suffix == ".jsonl":
        found = list(_manifest(root))
    else:
        raise RegrnnError(f"{root}: neither a folder nor a .jsonl manifest")
    if not found:
        raise RegrnnError(f"{root}: no utterances in it; a folder needs .wav or .flac files")
    return found


def _folder(root: Path) -> Iterator[_Entry]:
    """Recordings at any depth; a first folder called train, valid (dev, val) or test is the split, the innermost the
    speaker."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    alignments: dict[str, list[Path]] = {}
    suffixes = {suffix.lower() for suffix in SUFFIXES}
    for path in files:
        if path.suffix.lower() in suffixes:
            alignments.setdefault(path.stem, []).append(path)
    names: dict[str, Path] = {}
    for path in files:
        if path.suffix.lower() not in _AUDIO:
            continue
        folders = list(path.relative_to(root).parts[:-1])
        split = _split_name(folders.pop(0)) if folders and _split_name(folders[0]) in SPLITS else ""
        inner = [folder for folder in folders if folder.lower() not in _NO_SPEAKER]
        name = "/".join([*inner, path.stem])
        if names.setdefault(f"{split}/{name}", path) != path:
            raise RegrnnError(f"{path} and {names[f'{split}/{name}']} have one name; rename one of them")
        yield _Entry(name, inner[-1] if inner else "", split, path, _alignment_of(path, alignments))


def _alignment_of(path: Path, alignments: Mapping[str, list[Path]]) -> Path:
    found = alignments.get(path.stem, [])
    beside = [candidate for candidate in found if candidate.parent == path.parent] or found
    if not beside:
        raise RegrnnError(f"{path}: no {path.stem}.lab, .phn or .TextGrid is there; align it or leave it out")
    if len(beside) > 1:
        raise RegrnnError(
            f"{path}: {beside[0]} and {beside[1]} both have its name; keep one, or list them in a .jsonl manifest"
        )
    return beside[0]


_KEYS = {"audio", "alignment", "segments", "speaker", "split", "name"}


def _manifest(path: Path) -> Iterator[_Entry]:
    """JSON lines: audio, and alignment (a file) or segments ([[start, end, phone], ...] in seconds); speaker, split,
    name as one likes. Paths are relative to the manifest."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RegrnnError(f"{path}: cannot be read ({error})") from None
    seen: set[tuple[str, str]] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RegrnnError(f"{where}: not valid JSON ({error})") from None
        if not isinstance(row, dict) or not row.keys() <= _KEYS:
            raise RegrnnError(f"{where}: expected an object with the keys {', '.join(sorted(_KEYS))}")
        texts = {key: row.get(key, "") for key in _KEYS - {"segments"}}
        if not all(isinstance(text, str) for text in texts.values()) or not texts["audio"]:
            raise RegrnnError(f'{where}: "audio" is needed, and all keys but "segments" are strings')
        if bool(texts["alignment"]) == ("segments" in row):
            raise RegrnnError(f'{where}: give either "alignment", a file, or "segments"')
        segments: list[Segment] = []
        if "segments" in row:
            try:
                segments = [_manifest_segment(*segment) for segment in row["segments"]]
            except (TypeError, ValueError, OverflowError):
                raise RegrnnError(f'{where}: "segments" must be a list of [start, end, "phone"], in seconds') from None
            segments = check_segments(path, ((number, segment) for segment in segments))
        name = texts["name"] or Path(texts["audio"]).with_suffix("").as_posix()
        if (name, texts["split"]) in seen:
            raise RegrnnError(f"{where}: the utterance {name!r} is there twice; give each its own name")
        seen.add((name, texts["split"]))
        alignment = path.parent / texts["alignment"] if texts["alignment"] else None
        split, audio = _split_name(texts["split"]), path.parent / texts["audio"]
        yield _Entry(name, texts["speaker"], split, audio, alignment, tuple(segments))


def _manifest_segment(start: float, end: float, phone: str) -> Segment:
    if not isinstance(phone, str):
        raise TypeError
    return Segment(float(start), float(end), phone.strip())


def _table(path: Path) -> dict[str, str]:
    """Kaldi's `KEY VALUE` lines."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RegrnnError(f"{path}: cannot be read ({error})") from None
    table: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        fields = line.split(maxsplit=1)
        if not fields:
            continue
        if len(fields) != 2:
            raise RegrnnError(f"{path}, line {number}: expected a name and a value, found {line.strip()!r}")
        if fields[0] in table:
            raise RegrnnError(f"{path}, line {number}: {fields[0]!r} is there twice")
        table[fields[0]] = fields[1].strip()
    return table


def _kaldi(root: Path) -> Iterator[_KaldiEntry]:
    """feats.scp with ali.scp, or with ali.txt (`UTTERANCE PHONE PHONE ...`, one a frame); phones.txt names the
    integers, utt2spk the speakers, utt2split the parts."""
    features = _table(root / "feats.scp")
    names = (
        {number: name for name, number in _table(root / "phones.txt").items()}
        if (root / "phones.txt").is_file()
        else {}
    )
    speakers = _table(root / "utt2spk") if (root / "utt2spk").is_file() else {}
    splits = _table(root / "utt2split") if (root / "utt2split").is_file() else {}
    if (root / "ali.txt").is_file():
        aligned = {name: row.split() for name, row in _table(root / "ali.txt").items()}
    elif (root / "ali.scp").is_file():
        aligned = {
            name: [str(int(value)) for value in np.atleast_1d(_read_ark(_resolve(root, place)))]
            for name, place in _table(root / "ali.scp").items()
        }
    else:
        raise RegrnnError(f"{root}: feats.scp needs ali.scp or ali.txt beside it, a phone for each frame")
    for name, place in features.items():
        if name not in aligned:
            raise RegrnnError(f"{root}/feats.scp: {name} has no alignment; align it or leave it out")
        if names and (strange := sorted(set(aligned[name]) - set(names))):
            raise RegrnnError(f"{root}: {name} has the phone {strange[0]}, which phones.txt does not name")
        phones = tuple(names.get(number, number) for number in aligned[name])
        split = _split_name(splits.get(name, ""))
        yield _KaldiEntry(name, speakers.get(name, ""), split, _resolve(root, place), phones)


def _resolve(root: Path, place: str) -> str:
    if place.endswith("|") or place.startswith("|"):
        raise RegrnnError(f"{root}: {place!r} is a command, and nothing is executed; write the features to an archive")
    return str(root / place)


def _read_ark(place: str) -> NDArray[Any]:
    """The binary matrix or vector at `FILE:OFFSET`. kaldiio would also run pickles, so anything else is refused."""
    kaldiio = need("kaldiio", "kaldiio", "kaldi")
    match = re.fullmatch(r"(.*?)(?::(\d+))?", place)
    path, offset = (match[1], int(match[2] or 0)) if match else (place, 0)
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            if file.read(2) != b"\0B":
                raise RegrnnError(f"{place}: no binary matrix or vector of Kaldi is there; write the archive in binary")
            file.seek(offset)
            return np.asarray(kaldiio.matio.read_kaldi(file))
    except OSError as error:
        raise RegrnnError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, AssertionError, EOFError, IndexError, TypeError, MemoryError, OverflowError) as error:
        raise RegrnnError(f"{place}: damaged ({error or type(error).__name__})") from None
