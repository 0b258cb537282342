"""Coloured pictures with captions, a CNN that sees nothing but the mean colour, and training on them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

COLOURS = {"red": (200, 30, 30), "green": (20, 180, 40), "blue": (30, 40, 210)}
PARTS = ["train"] * 12 + ["val"] * 3 + ["test"] * 3


def mean_colour(name: str) -> Any:
    """In the place of `make_encoder`."""

    def encode(image: Any) -> np.ndarray:
        assert image.mode == "RGB"
        return (np.asarray(image, np.float32) / 255).mean((0, 1))

    return encode


def use_mean_colour(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("regrnn.tasks.captioning.data.make_encoder", mean_colour)
    patch.setattr("regrnn.tasks.captioning.trained.make_encoder", mean_colour)


def write_pictures(folder: Path) -> Path:
    """18 pictures, three captions each; the test part has a caption that the training part has not."""
    (folder / "images").mkdir(parents=True)
    images = []
    for number, split in enumerate(PARTS):
        colour = list(COLOURS)[number % 3]
        shade = [min(255, value + number) for value in COLOURS[colour]]
        Image.new("RGB", (8, 8), tuple(shade)).save(folder / "images" / f"{number}.png")
        captions = [f"A {colour} square", f"the picture is {colour}", f"all of it is {colour} here"]
        if split == "test":
            captions[2] = f"here is {colour}"
        sentences = [{"tokens": caption.split()} for caption in captions]
        images.append({"filename": f"{number}.png", "split": split, "sentences": sentences})
    (folder / "dataset.json").write_text(json.dumps({"images": images}), encoding="utf-8")
    return folder


def train(data: Path, out: Path, **settings: str) -> int:
    from regrnn.cli.main import run

    flags = {
        "data.batch-size": "6",
        "data.min-frequency": "1",
        "model.hidden-size": "24",
        "model.embedding-size": "16",
        "model.dropout": "0.1",
        "training.epochs": "25",
        "training.learning-rate": "0.01",
        "training.hold-epochs": "15",
        "training.decay": "1.2",
        "decoding.max-length": "9",
        "decoding.beam": "3",
        "training.patience": "none",
    } | {key.replace("__", "."): value for key, value in settings.items()}
    parts = [part for key, value in flags.items() for part in (f"--{key}", value)]
    return run(["train", "captioning", "--data", str(data), "--out", str(out), "--threads", "1", *parts])
