"""Files that are either whole or not there: written under another name, flushed, renamed."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regrnn.errors import RegrnnError


def sync(path: Path) -> None:
    """Force a file's or a directory's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: Mapping[str, Any] | list[Any]) -> str:
    """Indented JSON, with a line end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def unfinished(path: Path) -> Path:
    """The name under which `write_text` begins `path`; a kill may leave it behind."""
    return path.with_name(f".{path.name}.tmp")


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step; at no instant is half a file under that name.

    Raises OSError when the disk refuses; nothing is left behind then.
    """
    temporary = unfinished(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync(path.parent)


def write_json(path: Path, value: Mapping[str, Any] | list[Any]) -> None:
    """`write_text` of `value` as indented JSON."""
    write_text(path, to_json(value))


def read_text(path: Path) -> str:
    """The UTF-8 text in `path`; RegrnnError names the file when it is missing or damaged."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RegrnnError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise RegrnnError(f"{path}: damaged, not UTF-8 at byte {error.start}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; RegrnnError names the file when it is missing or damaged."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise RegrnnError(f"{path}: damaged, not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise RegrnnError(f"{path}: damaged, expected a JSON object")
    return value


def point(pointer: Path, target: Path) -> None:
    """Make the symbolic link `pointer` lead to `target` in one step."""
    temporary = unfinished(pointer)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, pointer.parent))
    os.replace(temporary, pointer)
    sync(pointer.parent)
