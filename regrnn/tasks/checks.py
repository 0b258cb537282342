"""What the models of several tasks ask of their settings."""

from collections.abc import Mapping

LARGEST = 1_000_000
"""Of a size: anything above is a slip of the finger."""


def check_sizes(sizes: Mapping[str, int | None]) -> None:
    """Raises ValueError for a size outside [1, LARGEST]; None is one that follows from others."""
    for name, value in sizes.items():
        if value is not None and not 1 <= value <= LARGEST:
            raise ValueError(f"{name} = {value} must be from 1 to {LARGEST:,}")


def check_tied(tied: bool, embedding_size: int | None, hidden_size: int) -> None:
    """Raises ValueError where the embedding and the softmax are to share weights and are not of one size."""
    if tied and embedding_size not in (None, hidden_size):
        raise ValueError(
            f"tied = true needs embedding_size = hidden_size, and they are {embedding_size} and {hidden_size}; "
            "leave embedding_size out"
        )
