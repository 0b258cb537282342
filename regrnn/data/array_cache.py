"""Arrays that were costly to compute, on disk by a key of all they depend on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrnn.errors import RegrnnError

_DIGEST = hashlib.sha256().digest_size


class ArrayCache:
    """Files of one array each: the SHA-256 of what follows, then numpy's format.

    A file is written under another name and renamed, so several processes may share the folder and be killed at any
    instant. A file whose checksum is wrong is computed and written anew.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: Mapping[str, Any], compute: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        """The float32 array of `key` (plain values), computed if it is not there whole.

        Raises RegrnnError when it cannot be written.
        """
        path = self.path(key)
        found = _read(path)
        if found is not None:
            return found
        array = np.ascontiguousarray(compute(), dtype=np.float32)
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        content = buffer.getvalue()
        temporary: str | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=".unfinished-", dir=path.parent)
            with open(descriptor, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(temporary, path)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            raise RegrnnError(
                f"{self.folder}: the cache cannot be written ({error.strerror or error}); make room there, or set "
                "REGRNN_CACHE to another folder"
            ) from None
        return array

    def path(self, key: Mapping[str, Any]) -> Path:
        """The file of `key`."""
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / name[:2] / name


def _read(path: Path) -> NDArray[np.float32] | None:
    """The array in `path`; None if there is none or the file is not as it was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
        return None
    array: NDArray[np.float32] = np.load(io.BytesIO(content[_DIGEST:]), allow_pickle=False)
    return array
