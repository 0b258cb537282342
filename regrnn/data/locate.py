"""Where data sets and caches live, and how a name on the command line becomes a path."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from regrnn.data.fetch import DATASETS
from regrnn.errors import RegrnnError


def cache_root() -> Path:
    """``$REGRNN_CACHE``, or ``regrnn`` in the user's cache: ``$XDG_CACHE_HOME``, else ``~/.cache``."""
    if own := os.environ.get("REGRNN_CACHE"):
        return _path(own)
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is invalid and to be ignored.
    return (Path(base) if os.path.isabs(base) else _path("~/.cache")) / "regrnn"


def data_root() -> Path:
    """``$REGRNN_DATA``, or ``data`` in the cache: the folder that holds data sets by name."""
    own = os.environ.get("REGRNN_DATA")
    return _path(own) if own else cache_root() / "data"


def locate_data(value: str) -> Path:
    """The path of the user's own data, or of the data set called ``value`` under `data_root`.

    An existing path wins over a data set of the same name.

    Raises:
        RegrnnError: neither exists; the message names both places, and how to fetch a known data set.
    """
    if not value.strip():
        raise RegrnnError("the data's path or name is empty; give a path or the name of a data set")
    own = _path(value)
    if own.exists():
        return own
    root = data_root()
    named = root / value
    if named.exists():
        return named
    message = f"no data at {own} nor at {named}"
    if value in DATASETS:
        raise RegrnnError(f"{message}; get it with: regrnn fetch {value}")
    present = [entry.name for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []
    near = difflib.get_close_matches(value, sorted({*DATASETS, *present}), n=1)
    hint = f"did you mean {near[0]}?" if near else "give an existing path or the name of a data set"
    raise RegrnnError(f"{message}; {hint}")


def _path(value: str) -> Path:
    """``~`` expanded where it can be; `Path.expanduser` would raise for a user that does not exist."""
    return Path(os.path.expanduser(value))
