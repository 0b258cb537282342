"""`regrnn.data.array_cache`: computed once, whole or not there, and never trusted without its checksum."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from regrnn.data.array_cache import ArrayCache
from regrnn.errors import RegrnnError

KEY = {"audio": "abc", "features": {"mels": 40}}
ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)


def never() -> np.ndarray:
    raise AssertionError("it is there already")


@pytest.fixture
def cache(tmp_path: Path) -> ArrayCache:
    return ArrayCache(tmp_path / "new" / "cache")


def test_an_array_is_computed_once(cache: ArrayCache) -> None:
    assert (cache.get(KEY, lambda: ARRAY) == ARRAY).all()
    again = ArrayCache(cache.folder).get(dict(reversed(KEY.items())), never)
    assert again.dtype == np.float32 and (again == ARRAY).all()
    assert [path for path in cache.folder.rglob("*") if path.is_file()] == [cache.path(KEY)]


def test_all_of_the_key_counts(cache: ArrayCache) -> None:
    cache.get(KEY, lambda: ARRAY)
    other = cache.get({"audio": "abc", "features": {"mels": 41}}, lambda: ARRAY + 1)
    assert (other == ARRAY + 1).all()
    assert (cache.get(KEY, never) == ARRAY).all()


@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: content[:-1], lambda content: content[:50] + b"?" + content[51:]],
    ids=["empty", "cut", "changed"],
)
def test_a_damaged_file_is_written_anew(cache: ArrayCache, damage: Callable[[bytes], bytes]) -> None:
    cache.get(KEY, lambda: ARRAY)
    path = cache.path(KEY)
    path.write_bytes(damage(path.read_bytes()))
    assert (cache.get(KEY, lambda: ARRAY * 2) == ARRAY * 2).all()
    assert (cache.get(KEY, never) == ARRAY * 2).all()


def test_a_failure_leaves_nothing_behind(cache: ArrayCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RegrnnError, match=r"cache cannot be written \(No space left on device\).*REGRNN_CACHE"):
        cache.get(KEY, lambda: ARRAY)
    assert [path for path in cache.folder.rglob("*") if path.is_file()] == []


def test_a_cache_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RegrnnError, match="cache cannot be written"):
        ArrayCache(tmp_path / "file" / "cache").get(KEY, lambda: ARRAY)
