"""The sizes that are measured: the paper's three models, and toys for the tests.

Shape letters: T time, B batch, H hidden, V vocabulary, L layers.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Masks = Literal["step", "batch"]
"""How dropout's masks are drawn: fresh for each step and sequence (the paper), or one for the whole batch."""

MODEL = 2 * 3
"""Floating-point operations for each weight and word: a multiplication and an addition, forward, for the gradient at
the input, and for that at the weight."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """One model and its batches."""

    name: str
    recipe: str
    """The recipe whose other settings regrnn takes."""
    hidden: int
    layers: int = 2
    batch: int = 20
    steps: int
    vocabulary: int = 10_000
    dropout: float
    clip: float
    init: float
    repeats: int
    """Runs of each side, unless `--repeats` says otherwise."""
    score: int
    """Words scored in a run."""
    generate: int
    """Words generated in a run, for each sample."""

    @property
    def words(self) -> int:
        """Predictions of one step of training."""
        return self.batch * self.steps

    def flops(self, left_out: bool = False) -> float:
        """Floating-point operations in the matrix products of a step of training, with or without what masks strike."""
        kept = 1 - self.dropout if left_out else 1.0
        square = 4 * self.hidden**2
        weights = self.layers * square * (1 + kept) + self.hidden * self.vocabulary * kept
        return MODEL * self.words * weights

    def layer_flops(self, left_out: bool = False) -> float:
        """The same of the recurrent layers alone, with dropout between them."""
        kept = 1 - self.dropout if left_out else 1.0
        return MODEL * self.words * 4 * self.hidden**2 * (self.layers + 1 + (self.layers - 1) * kept)

    def flags(self, corpus: Path, masks: Masks = "step") -> list[tuple[str, str]]:
        """The settings as `regrnn train` takes them behind the recipe."""
        out = {
            "data.path": corpus,
            "data.batch-size": self.batch,
            "data.steps": self.steps,
            "model.hidden-size": self.hidden,
            "model.num-layers": self.layers,
            "model.init": self.init,
            "training.clip": self.clip,
        }
        if masks == "batch":
            out["model.dropout.masks"] = "batch"
            out |= {f"model.dropout.{site}": self.dropout for site in ("input", "between", "output")}
        else:
            out["model.dropout"] = self.dropout
        return [(f"--{name}", str(value)) for name, value in out.items()]

    def described(self) -> dict[str, object]:
        """What a result says of the size."""
        names = ("layers", "hidden", "batch", "steps", "vocabulary", "dropout", "clip")
        return {name: getattr(self, name) for name in names}


SIZES: Mapping[str, Size] = {
    size.name: size
    for size in (
        Size(name="small", recipe="ptb-small", hidden=200, steps=20, dropout=0.0, clip=5, init=0.1, repeats=30,
             score=10_000, generate=200),
        Size(name="medium", recipe="ptb-medium", hidden=650, steps=35, dropout=0.5, clip=5, init=0.05, repeats=12,
             score=4_000, generate=100),
        Size(name="large", recipe="ptb-large", hidden=1500, steps=35, dropout=0.65, clip=10, init=0.04, repeats=6,
             score=1_000, generate=100),
    )
}  # fmt: skip
"""Table 1 of the paper."""

TOYS: Mapping[str, Size] = {
    name: dataclasses.replace(
        size, hidden=hidden, batch=3, steps=4, vocabulary=40, repeats=2, score=30, generate=4
    )
    for (name, size), hidden in zip(SIZES.items(), (8, 12, 16), strict=True)
}  # fmt: skip
"""For the tests: whether everything runs, nothing else."""

GROWING = dataclasses.replace(SIZES["medium"], name="base", hidden=300, repeats=6)
"""What `growth` starts from; one factor at a time is changed."""
