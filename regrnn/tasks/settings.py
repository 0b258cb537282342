"""Settings that several tasks have, what is asked of them, and what is made of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from regrnn.nn.regularization import Regularization, as_regularization

LARGEST = 1_000_000
"""Of a size: anything above is a slip of the finger."""


def check_sizes(sizes: Mapping[str, int | None]) -> None:
    """Raises ValueError for a size outside [1, LARGEST]; None is one that follows from others."""
    for name, value in sizes.items():
        if value is not None and not 1 <= value <= LARGEST:
            raise ValueError(f"{name} = {value} must be from 1 to {LARGEST:,}")


@dataclass(frozen=True, kw_only=True)
class TokenModelConfig:
    """What the `[model]` section of every recipe has whose model reads and predicts tokens."""

    hidden_size: int = 256
    num_layers: int = 2
    embedding_size: int | None = None
    """none: as `hidden_size`."""
    dropout: float | Regularization = 0.0
    """A rate: the paper's D at all L + 1 sites. A table: the fields of `regrnn.Regularization`."""
    tied: bool = False
    """Share the embedding of the tokens predicted and the softmax's weights (Press and Wolf 2017)."""
    init: float = 0.1
    """All parameters start uniform in +- this."""

    def __post_init__(self) -> None:
        check_sizes({name: getattr(self, name) for name in ("hidden_size", "num_layers", "embedding_size")})
        if self.init <= 0:
            raise ValueError(f"init = {self.init} must be above 0")
        if self.tied and self.embedding_size not in (None, self.hidden_size):
            raise ValueError(
                f"tied = true needs embedding_size = hidden_size, and they are {self.embedding_size} and "
                f"{self.hidden_size}; leave embedding_size out"
            )
        as_regularization(self.dropout)  # refuses a rate outside [0, 1)


class Tokens(Protocol):
    """The settings of a vocabulary, as a task's `[data]` has them."""

    @property
    def vocabulary(self) -> Literal["word", "character", "bpe"]: ...
    @property
    def min_frequency(self) -> int: ...
    @property
    def max_size(self) -> int | None: ...
    @property
    def punctuation(self) -> Literal["attached", "separate"]: ...
    @property
    def lowercase(self) -> bool: ...


_SMALLEST = {"word": 4, "character": 1, "bpe": 258}  # <unk>, <eos> and two words; 256 bytes, <eos> and one merge


def check_tokens(config: Tokens) -> None:
    """Raises ValueError for settings that do not go together."""
    smallest = _SMALLEST[config.vocabulary]
    if config.max_size is not None and config.max_size < smallest:
        raise ValueError(f"max_size = {config.max_size} must be at least {smallest} for {config.vocabulary} tokens")
    if config.lowercase and config.vocabulary != "word":
        raise ValueError(f'lowercase works with vocabulary = "word" alone, not with "{config.vocabulary}"')


def vocabulary_options(config: Tokens) -> dict[str, Any]:
    """Those settings that `regrnn.data.vocabulary.build_vocabulary` takes for the kind."""
    if config.vocabulary == "bpe":
        return {} if config.max_size is None else {"size": config.max_size}
    options: dict[str, Any] = {"min_frequency": config.min_frequency}
    if config.vocabulary == "word":
        options |= {"max_size": config.max_size, "punctuation": config.punctuation, "lowercase": config.lowercase}
    return options
