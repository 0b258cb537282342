"""The command line, run in this process."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def alone(one_thread: None) -> None:
    """Every test here."""


@pytest.fixture
def contents() -> Callable[[Path], dict[str, str]]:
    """All that is under a folder: the checksum of each file, the target of each link."""

    def listing(folder: Path) -> dict[str, str]:
        found = {}
        for path in sorted(folder.rglob("*")):
            if path.is_symlink():
                found[str(path.relative_to(folder))] = f"-> {path.readlink()}"
            elif path.is_file():
                found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[str(path.relative_to(folder))] = "folder"
        return found

    return listing
