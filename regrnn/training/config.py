"""How a run is trained: the `[training]` section of a recipe."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of the loop. The defaults are those that the paper shares among its models.

    The learning rate of epoch e (counted from 1) is `learning_rate / decay ** max(0, e - last)`, where `last`, the
    last epoch at the full rate, is `hold_epochs` with timing "text" (as the paper says) and `hold_epochs + 1` with
    timing "code" (as the authors' released code does).
    """

    epochs: int
    """Passes over the training set, at most."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 1.0
    hold_epochs: int = 1
    decay: float = 1.0
    """The rate is divided by this each epoch after the hold; 1 leaves it as it is."""
    timing: Literal["text", "code"] = "text"
    clip: float | None = 5.0
    """Largest l2 norm of all gradients together; none: not clipped."""
    weight_decay: float = 0.0
    matmul_precision: Literal["highest", "medium"] = "highest"
    """As of torch.set_float32_matmul_precision, for updates and for the validation of each epoch; the figures of the
    finished run are at the highest. medium: the factors of products are rounded to bfloat16 where the processor has
    instructions for that; weights and sums stay float32."""
    patience: int | None = None
    """Stop after this many epochs without a better validation figure; none: never."""
    checkpoint_minutes: float = 10.0
    """Between epoch ends, save this often (wall time)."""

    def __post_init__(self) -> None:
        for name in ("epochs", "hold_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        for name in ("learning_rate", "clip", "checkpoint_minutes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} = {value} must be above 0")
        if not self.decay >= 1:
            raise ValueError(f"decay = {self.decay} must be at least 1 (the rate is divided by it)")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay = {self.weight_decay} must not be negative")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience = {self.patience} must be at least 1")

    def rate(self, epoch: int) -> float:
        """The learning rate of epoch `epoch`, counted from 1."""
        last = self.hold_epochs + (self.timing == "code")
        # A negative power goes to 0 where a large positive one would overflow.
        return self.learning_rate * self.decay ** -max(0, epoch - last)
