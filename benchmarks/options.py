"""What the command line asks of every part."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.sizes import SIZES, TOYS, Size


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure."""

    folder: Path
    """For generated text, caches and run directories; thrown away behind the run."""
    threads: int
    sizes: tuple[str, ...] | None = None
    """Names of `SIZES`; None: those that each part has by itself."""
    repeats: int | None = None
    """Runs of each side; None: as many as each size has by itself."""
    quick: bool = False
    """Toys in the place of the sizes."""
    full: bool = False
    """The gigabyte of text too."""

    def chosen(self, *names: str) -> list[Size]:
        """The sizes to measure where a part measures `names` by itself."""
        return [(TOYS if self.quick else SIZES)[name] for name in self.sizes or names]

    def runs(self, size: Size) -> int:
        """Runs of each side."""
        return self.repeats or size.repeats
