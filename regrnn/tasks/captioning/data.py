"""Captions and images in, vectors and token ids out: the `[data]` section of a captioning recipe.

A corpus is a JSON file in Karpathy's format, `{"images": [{"filename", "split", "sentences": [{"tokens" or "raw"}]}]}`,
and the images beside it, in a folder `images` or where `images` says. Its splits are train (and restval, which COCO's
has), val or valid, and test; whatever else is not read.

Tokens are taken as they stand; of a `raw` sentence they are the words and numbers of the lower-cased text, punctuation
left out. With `lowercase` tokens are lower-cased too. A caption without tokens is left out, and so is an image without
captions.
"""

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrnn.data.array_cache import ArrayCache
from regrnn.data.locate import cache_root, locate_data
from regrnn.data.text import fingerprint as file_sum
from regrnn.data.vocabulary import EOS, UNK, WordVocabulary
from regrnn.errors import RegrnnError
from regrnn.tasks.captioning.encoders import DEFAULT, Encoder, Vector, make_encoder
from regrnn.tasks.captioning.images import open_image

SPLITS = ("train", "valid", "test")
ALIASES = {"train": "train", "restval": "train", "val": "valid", "valid": "valid", "test": "test"}

_FORMAT = 1  # part of the key of cached vectors: raise it when they change
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images and captions, in which batches."""

    path: str = ""
    """A JSON in Karpathy's format, a folder with one, or the name of a data set."""
    images: str = ""
    """The folder of the images; unless given, `images` beside the JSON, or else the JSON's own folder."""
    features: str = DEFAULT
    """The frozen CNN: "efficientnet-lite0", "timm:MODEL" or "torchvision:MODEL"; or a file of vectors that were made
    elsewhere: .npy, a row for each image of the JSON in its order, or .safetensors, a vector by each filename."""
    min_frequency: int = 1
    """Words that the training captions have more rarely become `<unk>`."""
    lowercase: bool = True
    batch_size: int = 50
    """Captions."""

    def __post_init__(self) -> None:
        for name in ("min_frequency", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        if not self.features.strip():
            raise ValueError(f'features is empty; it names a CNN ("{DEFAULT}") or a file of vectors')

    @property
    def precomputed(self) -> bool:
        """Whether the vectors were made elsewhere."""
        return self.features.endswith((".npy", ".safetensors"))


@dataclass(frozen=True)
class Described:
    """An image and what people wrote under it."""

    name: str
    captions: list[tuple[str, ...]]
    """Tokens."""
    vector: Vector


@dataclass(frozen=True)
class Corpus:
    """The images of the splits that were asked for."""

    root: Path
    splits: dict[str, list[Described]]
    sums: dict[str, str]
    """Checksums of all that was read."""
    seen: frozenset[tuple[str, ...]]
    """The captions of the training part, whether that was asked for or not."""

    @property
    def description(self) -> str:
        """The data in a line, for a person."""
        counts = [
            f"{split} {len(images):,} ({sum(len(image.captions) for image in images):,} captions)"
            for split, images in self.splits.items()
        ]
        return f"{self.root}: images: {', '.join(counts)}"


def build_vocabulary(train: Sequence[Described], config: DataConfig) -> WordVocabulary:
    """The words of the training captions by `min_frequency`; `<eos>` both begins and ends a caption."""
    lines = (" ".join(caption) for image in train for caption in image.captions)
    return WordVocabulary.build(lines, min_frequency=config.min_frequency)


def read_corpus(config: DataConfig, only: Sequence[str] = SPLITS) -> Corpus:
    """Read the captions and the images' vectors, computed where they are not cached.

    Raises RegrnnError that names the file and key for bad input, and for a split of `only` that has no images.
    """
    path, entries = _read_json(config)
    wanted = [entry for entry in entries if entry.split in only]
    for split in only:
        if not any(entry.split == split for entry in wanted):
            raise RegrnnError(f'{path}: no image has "split": "{split}" and a caption; every split needs one')
    vectors, sums = _vectors(config, path, entries, wanted)
    splits: dict[str, list[Described]] = {split: [] for split in only}
    for entry, vector in zip(wanted, vectors, strict=True):
        splits[entry.split].append(Described(entry.filename, entry.captions, vector))
    seen = frozenset(caption for entry in entries if entry.split == "train" for caption in entry.captions)
    return Corpus(path, splits, {"captions": file_sum(path), **sums}, seen)


@dataclass(frozen=True)
class _Entry:
    """An image of the JSON; `row` is its place there."""

    filename: str
    folder: str
    split: str
    captions: list[tuple[str, ...]]
    row: int


def _find_json(value: str) -> Path:
    if not value.strip():
        raise RegrnnError(
            "no data is named; give --data a JSON in Karpathy's format, a folder with one, or the name of a data set"
        )
    path = locate_data(value)
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.json"))
    if not found:
        raise RegrnnError(f"{path}: has no .json with captions in Karpathy's format")
    if len(found) > 1:
        preferred = [entry for entry in found if entry.name == "dataset.json" or entry.name.startswith("dataset_")]
        if len(preferred) != 1:
            names = ", ".join(entry.name for entry in found[:4])
            raise RegrnnError(f"{path}: has several .json files ({names}); name the one to use")
        found = preferred
    return found[0]


def _read_json(config: DataConfig) -> tuple[Path, list[_Entry]]:
    path = _find_json(config.path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RegrnnError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise RegrnnError(f"{path}: not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise RegrnnError(f"{path}: not valid JSON ({error})") from None
    images = data.get("images") if isinstance(data, dict) else None
    if not isinstance(images, list) or not images:
        raise RegrnnError(f'{path}: has no list "images"; captions are to be in Karpathy\'s format')
    entries = [_entry(image, row, f"{path}: images[{row}]", config.lowercase) for row, image in enumerate(images)]
    return path, [entry for entry in entries if entry is not None and entry.captions]


def _entry(image: Any, row: int, where: str, lowercase: bool) -> _Entry | None:
    if not isinstance(image, dict):
        raise RegrnnError(f"{where}: is no object with filename, split and sentences")
    filename = image.get("filename")
    if not isinstance(filename, str) or not filename:
        raise RegrnnError(f'{where}: "filename" is missing')
    split = image.get("split")
    if not isinstance(split, str):
        raise RegrnnError(f'{where} ({filename}): "split" is missing; it is to be train, val or test')
    sentences = image.get("sentences")
    if not isinstance(sentences, list):
        raise RegrnnError(f'{where} ({filename}): "sentences" is missing, a list of {{"tokens"}} or {{"raw"}}')
    if split not in ALIASES:
        return None
    captions = [_tokens(sentence, f"{where} ({filename})", lowercase) for sentence in sentences]
    folder = image.get("filepath", "")
    return _Entry(
        filename,
        folder if isinstance(folder, str) else "",
        ALIASES[split],
        [caption for caption in captions if caption],
        row,
    )


def _tokens(sentence: Any, where: str, lowercase: bool) -> tuple[str, ...]:
    given = sentence.get("tokens") if isinstance(sentence, dict) else None
    if given is None and isinstance(sentence, dict) and isinstance(sentence.get("raw"), str):
        return tuple(_WORD.findall(sentence["raw"].lower()))
    if not isinstance(given, list) or not all(isinstance(token, str) for token in given):
        raise RegrnnError(f'{where}: a sentence has neither "tokens", a list of words, nor "raw", a text')
    tokens = tuple(word for token in given for word in (token.lower() if lowercase else token).split())
    for reserved in (UNK, EOS):
        if reserved in tokens:
            raise RegrnnError(f"{where}: a caption has the token {reserved}, which is reserved; leave it out")
    return tokens


def _vectors(
    config: DataConfig, path: Path, entries: Sequence[_Entry], wanted: Sequence[_Entry]
) -> tuple[Sequence[Vector], dict[str, str]]:
    """A vector for each wanted image, and checksums of what they depend on."""
    if config.precomputed:
        file = locate_data(config.features)
        vectors = _read_vectors(file, wanted, 1 + max(entry.row for entry in entries))
        return vectors, {"features": file_sum(file)}
    folders = [Path(config.images).expanduser()] if config.images else [path.parent / "images", path.parent]
    files = [_find_image(folders, entry) for entry in wanted]
    checksums = [file_sum(file) for file in files]
    digest = hashlib.sha256()
    for entry, checksum in zip(wanted, checksums, strict=True):
        digest.update(f"{entry.filename} {checksum}\n".encode())
    return encode_images(files, checksums, config.features), {"images": digest.hexdigest()}


def _find_image(folders: Sequence[Path], entry: _Entry) -> Path:
    for folder in folders:
        for file in (folder / entry.filename, folder / entry.folder / entry.filename):
            if file.is_file():
                return file
    looked = " nor in ".join(str(folder) for folder in folders)
    raise RegrnnError(
        f"{entry.filename}: the JSON names this image, and it is not in {looked}; put it there, take it out of the "
        "JSON, or name the folder with --data.images"
    )


def encode_images(files: Sequence[Path], checksums: Sequence[str], features: str) -> list[Vector]:
    """The vectors of image files by the CNN `features`, from the cache where they are there."""
    cache = ArrayCache(cache_root() / "features")
    encoder: Encoder | None = None
    fresh, said = 0, time.monotonic()
    vectors = []

    def compute(file: Path) -> Callable[[], NDArray[np.float32]]:
        def vector() -> NDArray[np.float32]:
            nonlocal encoder, fresh
            image = open_image(file)
            encoder = encoder or make_encoder(features)
            fresh += 1
            return encoder(image)

        return vector

    for number, (file, checksum) in enumerate(zip(files, checksums, strict=True)):
        vectors.append(cache.get({"image": checksum, "encoder": features, "format": _FORMAT}, compute(file)))
        if fresh and time.monotonic() - said > 10:
            said = time.monotonic()
            print(f"regrnn: {number + 1:,} of {len(files):,} images have their vectors", file=sys.stderr)
    return vectors


def _read_vectors(file: Path, wanted: Sequence[_Entry], count: int) -> list[Vector]:
    """Vectors made elsewhere. Raises RegrnnError where they do not fit the JSON."""
    if not file.is_file():
        raise RegrnnError(f"{file}: no such file of vectors")
    if file.suffix == ".npy":
        try:
            table = np.load(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise RegrnnError(f"{file}: not an array of numpy ({error})") from None
        if table.ndim != 2 or len(table) < count or not np.issubdtype(table.dtype, np.floating):
            raise RegrnnError(
                f"{file}: is {table.dtype} of {list(table.shape)}; it needs a row of floats for each of the JSON's "
                f"{count:,} images"
            )
        vectors = [np.asarray(table[entry.row], np.float32) for entry in wanted]
    else:
        vectors = _from_safetensors(file, wanted)
    if not all(np.isfinite(vector).all() for vector in vectors):
        raise RegrnnError(f"{file}: has vectors that are not finite numbers")
    if len({vector.shape for vector in vectors}) > 1 or vectors[0].ndim != 1:
        raise RegrnnError(f"{file}: the images' vectors must all have one dimension and as many numbers")
    return vectors


def _from_safetensors(file: Path, wanted: Sequence[_Entry]) -> list[Vector]:
    from safetensors import SafetensorError, safe_open

    vectors: list[Vector] = []
    try:
        with safe_open(file, framework="np") as tensors:
            names: Mapping[str, None] = dict.fromkeys(tensors.keys())
            for entry in wanted:
                if entry.filename not in names:
                    raise RegrnnError(f"{file}: has no vector called {entry.filename!r}, which the JSON names")
                vectors.append(np.asarray(tensors.get_tensor(entry.filename), np.float32))
    except (OSError, SafetensorError) as error:
        raise RegrnnError(f"{file}: not a safetensors file ({error})") from None
    return vectors
