"""Numbers and colours in German and English, and training on them."""

import random
from pathlib import Path

WORDS = {
    "eins": "one",
    "zwei": "two",
    "drei": "three",
    "vier": "four",
    "rot": "red",
    "blau": "blue",
    "weiß": "white",
}
SIZES = {"train": 240, "val": 20, "test": 20}


def phrases(count: int, seed: int) -> list[tuple[str, str]]:
    """Translated word by word; every third has a name, which is there once, so that it is unknown."""
    draw = random.Random(seed)
    pairs = []
    for number in range(count):
        german = draw.choices(list(WORDS), k=draw.randint(1, 4))
        english = [WORDS[word] for word in german]
        if number % 3 == 0:
            place, name = draw.randrange(len(german) + 1), f"N{seed}x{number}"
            german.insert(place, name)
            english.insert(place, name)
        pairs.append((" ".join(german), " ".join(english)))
    return pairs


def write_pair(folder: Path, name: str, pairs: list[tuple[str, str]]) -> None:
    """Two aligned files."""
    folder.mkdir(parents=True, exist_ok=True)
    for side, language in enumerate(("de", "en")):
        text = "".join(f"{pair[side]}\n" for pair in pairs)
        (folder / f"{name}.{language}").write_text(text, encoding="utf-8")


def write_phrases(folder: Path) -> Path:
    for seed, (split, count) in enumerate(SIZES.items(), 1):
        write_pair(folder, split, phrases(count, seed))
    return folder


def flags(data: Path, **settings: str) -> list[str]:
    """Of a small translator; a setting's name has two underscores in the place of the dot."""
    chosen = {
        "data.source": "de",
        "data.target": "en",
        "data.batch-size": "16",
        "model.hidden-size": "32",
        "model.num-layers": "1",
        "model.dropout": "0.05",
        "model.init": "0.3",
        "decoding.beam": "3",
        "decoding.max-length": "12",
        "training.epochs": "10",
        "training.learning-rate": "0.02",
        "training.hold-epochs": "5",
        "training.decay": "1.4",
        "training.patience": "none",
    } | {key.replace("__", ".").replace("_", "-"): value for key, value in settings.items()}
    return ["--data", str(data), *(part for key, value in chosen.items() for part in (f"--{key}", value))]


def train(data: Path, out: Path, *more: str, **settings: str) -> int:
    from regrnn.cli.main import run

    return run(["train", "translation", "--out", str(out), "--threads", "1", *flags(data, **settings), *more])
