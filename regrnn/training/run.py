"""A run directory: what was asked, what was measured, and the checkpoints.

    recipe.json   metrics.jsonl   timings.jsonl   checkpoints/NNNNNN/   best ->   last ->   result.json   report.html
    predictions/

`metrics.jsonl` holds only what the seed determines, so that two equal runs have equal files; wall times go to
`timings.jsonl`. `result.json` is there once the run is finished.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regrnn._version import __version__
from regrnn.config import differences
from regrnn.errors import RegrnnError
from regrnn.training.checkpoint import FORMAT
from regrnn.training.files import point, read_json, sync, unfinished, write_json
from regrnn.training.recipe import Recipe

SEEDS = 2**64
"""Seeds are below this: what torch's generators take."""


class Run:
    """One run directory. `open` makes it or finds the same run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = folder / "recipe.json"
        self.lock = folder / ".lock"
        self.metrics = folder / "metrics.jsonl"
        self.timings = folder / "timings.jsonl"
        self.checkpoints = folder / "checkpoints"

    @classmethod
    def open(cls, folder: Path, recipe: Recipe, seed: int, fingerprint: Mapping[str, str]) -> "Run":
        """The run in `folder`: a new one, or the one already there if recipe, data and seed are the same.

        Raises RegrnnError, with the difference, when the folder holds anything else.
        """
        if not 0 <= seed < SEEDS:
            raise RegrnnError(f"--seed {seed}: must be from 0 to {SEEDS - 1}")
        run = cls(folder)
        wanted = {
            "format": FORMAT,
            "regrnn": __version__,
            "seed": seed,
            "recipe": recipe.to_dict(),
            "data": dict(fingerprint),
        }
        wanted = json.loads(json.dumps(wanted))  # tuples become lists, as they come back from the disk
        if not run.has_recipe():
            try:
                if not run._is_vacant():
                    raise RegrnnError(f"--out {folder} exists and is not a run of regrnn; name another place")
                folder.mkdir(parents=True, exist_ok=True)
                with run.locked():
                    if not run.has_recipe():  # another process may have been first
                        write_json(run.recipe, wanted)
            except OSError as error:
                raise RegrnnError(f"--out {folder}: cannot be made ({error.strerror})") from None
        found = read_json(run.recipe)
        if found.get("format") != FORMAT:
            raise RegrnnError(
                f"--out {folder} is a run of format {found.get('format')!r}, of another version of regrnn"
            )
        try:
            changes = differences(_identity(found), _identity(wanted))
        except (KeyError, TypeError, AttributeError):
            raise RegrnnError(f"{run.recipe}: damaged; restore it from a copy or train again") from None
        if changes:
            raise RegrnnError(
                f"--out {folder} holds another run, which differs in {'; '.join(changes)}; name another place"
            )
        for name in ("last", "best"):
            if (folder / name).is_dir() and not (folder / name).is_symlink():
                raise RegrnnError(
                    f"{folder / name} is a folder where a link belongs, so this copy of a run can be used but not "
                    "trained on; copy the run again with its links (cp -a)"
                )
        return run

    def _is_vacant(self) -> bool:
        """Whether there is nothing here but what a start that was killed may have left."""
        if not self.folder.exists():
            return True
        left_behind = {self.lock.name, unfinished(self.recipe).name}
        return self.folder.is_dir() and all(path.name in left_behind for path in self.folder.iterdir())

    def has_recipe(self) -> bool:
        """Whether the folder holds a run at all."""
        try:
            return self.recipe.is_file()
        except OSError:  # a name too long, or a folder that may not be looked into: to be said by whoever makes it
            return False

    @property
    def result(self) -> Path:
        """The finished run's figures, in the form of `benchmarks/results`."""
        return self.folder / "result.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run: a second process on the same directory is refused."""
        with self.lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RegrnnError(f"{self.folder} is being trained by another process") from None
            except OSError as error:
                raise RegrnnError(
                    f"{self.lock}: cannot be locked here ({error.strerror}); name another --out"
                ) from None
            yield

    def last(self) -> Path | None:
        """The checkpoint to resume from, if one was saved."""
        return self._follow("last")

    def best(self) -> Path | None:
        """The checkpoint with the best validation figure, if one was evaluated."""
        return self._follow("best")

    def _follow(self, name: str) -> Path | None:
        pointer = self.folder / name
        if not pointer.is_symlink() and not pointer.exists():
            return None
        target = pointer.resolve()
        if not target.is_dir():
            raise RegrnnError(f"{pointer} leads to {target}, which is not there; restore it from a copy or train again")
        return target

    def set_last(self, checkpoint: Path) -> None:
        """Resume from `checkpoint` from now on."""
        point(self.folder / "last", checkpoint)
        self.prune()

    def set_best(self, checkpoint: Path) -> None:
        """Let `best` lead to `checkpoint`."""
        point(self.folder / "best", checkpoint)
        self.prune()

    def prune(self) -> None:
        """Delete the checkpoints that neither pointer leads to, whole or half-written."""
        kept = {self.last(), self.best()}
        for path in self.checkpoints.glob("*"):
            if path.resolve() not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def append(self, path: Path, record: Mapping[str, Any]) -> None:
        """Add one line of JSON to `metrics` or `timings`."""
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def metrics_size(self) -> int:
        """Bytes of `metrics.jsonl`, on the disk for certain."""
        if not self.metrics.exists():
            return 0
        sync(self.metrics)
        return self.metrics.stat().st_size

    def cut_metrics(self, size: int) -> None:
        """Forget the lines written after the checkpoint that is being resumed from."""
        found = self.metrics.stat().st_size if self.metrics.exists() else 0
        if found < size:
            raise RegrnnError(f"{self.metrics}: shorter than when the checkpoint was saved; restore it from a copy")
        if found > size:
            os.truncate(self.metrics, size)

    def mend_timings(self) -> None:
        """Drop the half line that a kill may have left at the end of `timings.jsonl`."""
        if self.timings.exists():
            os.truncate(self.timings, self.timings.read_bytes().rfind(b"\n") + 1)


def _identity(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two runs the same: not the version, nor where equal data lies, nor the words around it."""
    settings = {key: value for key, value in recipe["recipe"].items() if key not in ("name", "summary", "expected")}
    settings["data"] = {key: value for key, value in settings.get("data", {}).items() if key != "path"}
    settings["training"] = {key: value for key, value in settings["training"].items() if key != "checkpoint_minutes"}
    return {"seed": recipe["seed"], "recipe": settings, "data": recipe["data"]}
