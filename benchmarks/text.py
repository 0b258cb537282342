"""Text to train on that needs no data set: words drawn by Zipf's law, the same for the same seed.

How often words come again decides how many rows of the embedding a batch uses, so uniform words would not do.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LINE = 20
"""Words of a line; its end is one more token."""
_LOT = 50_000  # lines drawn at a time: memory does not grow with the text


def words(vocabulary: int) -> list[str]:
    """The words of a vocabulary of that size; `<unk>` and `<eos>` are the two others."""
    digits = len(str(vocabulary))
    return [f"w{number:0{digits}}" for number in range(vocabulary - 2)]


def shares(vocabulary: int) -> NDArray[np.float64]:
    """How probable each of `words` is: the one of rank r proportional to 1 / (r + 2.7)."""
    weights: NDArray[np.float64] = 1 / (np.arange(vocabulary - 2) + 3.7)
    return weights / weights.sum()


def draw(vocabulary: int, count: int, draws: np.random.Generator) -> NDArray[np.int64]:
    """(count,) places in `words`, each as often as `shares` says."""
    cumulated = np.cumsum(shares(vocabulary))
    places: NDArray[np.int64] = np.searchsorted(cumulated, draws.random(count) * cumulated[-1])
    return places


def lines(vocabulary: int, count: int, seed: int) -> Iterator[str]:
    """`count` lines of `LINE` words, each with its end."""
    draws = np.random.default_rng(seed)
    types = np.array(words(vocabulary), dtype=object)
    for start in range(0, count, _LOT):
        lot = types[draw(vocabulary, min(_LOT, count - start) * LINE, draws)]
        for line in lot.reshape(-1, LINE).tolist():
            yield " ".join(line) + "\n"


def write_corpus(folder: Path, vocabulary: int, tokens: int, *, held_out: int = 20) -> Path:
    """A folder with train, valid and test: at least `tokens` tokens of training text that use the whole vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate(
        {"train": -(-tokens // (LINE + 1)), "valid": held_out, "test": held_out}.items()
    ):
        with (folder / f"{split}.txt").open("w", encoding="utf-8") as file:
            file.writelines(lines(vocabulary, count, seed))
            if split == "train":
                types = words(vocabulary)  # those too that chance has left out
                file.writelines(" ".join(types[i : i + LINE]) + "\n" for i in range(0, len(types), LINE))
    return folder
