"""Checkpoints: a folder written whole, with a checksum of every file. No pickle; loading executes nothing.

checkpoints/NNNNNN/  model.safetensors config.json (the task's own files)     to use the model
                     optimizer.safetensors state.safetensors state.json       to resume
                     manifest.json                                            sha256 of each
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from regrnn._version import __version__
from regrnn.errors import RegrnnError
from regrnn.training.files import read_json, sync, to_json

FORMAT = 1
FILES = ("config.json", "model.safetensors", "optimizer.safetensors", "state.json", "state.safetensors")
"""What every checkpoint holds, whatever its task."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that resuming needs besides the model."""

    optimizer: dict[str, Tensor]
    """The optimiser's tensors, `INDEX.NAME`."""
    tensors: dict[str, Tensor]
    """Generator states and the carried hidden state."""
    values: dict[str, Any] = field(default_factory=dict)
    """Counters and figures, as in `state.json`."""


def save_checkpoint(
    folder: Path, model: nn.Module, config: Mapping[str, Any], texts: Mapping[str, str], snapshot: Snapshot
) -> None:
    """Write a checkpoint whole or not at all. `config` says which task and settings build the model.

    Raises OSError when the disk refuses; nothing is then left under `folder`.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    files = {
        "config.json": to_json({"format": FORMAT, "regrnn": __version__, **config}),
        "state.json": to_json(snapshot.values),
        **texts,
    }
    try:
        for name, text in files.items():
            (temporary / name).write_text(text, encoding="utf-8")
        mode = (temporary / "config.json").stat().st_mode
        save_model(model, str(temporary / "model.safetensors"))
        save_file(snapshot.optimizer, temporary / "optimizer.safetensors")
        save_file(snapshot.tensors, temporary / "state.safetensors")
        sums = {}
        for path in sorted(temporary.iterdir()):
            path.chmod(mode)  # safetensors lets nobody else read what it writes, whatever the umask says
            sync(path)
            sums[path.name] = _sha256(path)
        manifest = temporary / "manifest.json"
        manifest.write_text(to_json({"format": FORMAT, "sha256": sums}), encoding="utf-8")
        sync(manifest)
        sync(temporary)
        shutil.rmtree(folder, ignore_errors=True)  # a checkpoint of this name that no pointer leads to
        os.replace(temporary, folder)
        sync(folder.parent)
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise
        raise OSError(None, str(error), str(folder)) from error


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """The `config.json` of a checkpoint whose every file is as it was written; RegrnnError names what is not."""
    manifest = read_json(folder / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise RegrnnError(
            f"{folder}: format {manifest.get('format')!r} of another version of regrnn; this one reads {FORMAT}"
        )
    sums = manifest.get("sha256")
    if not isinstance(sums, dict) or not sums.keys() >= set(FILES) or any(Path(name).name != name for name in sums):
        raise RegrnnError(f"{folder}/manifest.json: damaged; restore it from a copy or train again")
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file():
            raise RegrnnError(f"{path}: missing from the checkpoint; restore it from a copy or train again")
        if _sha256(path) != expected:
            raise RegrnnError(
                f"{path}: damaged (its checksum is not that of the manifest); restore it from a copy or train again"
            )
    return read_json(folder / "config.json")


def load_weights(model: nn.Module, folder: Path) -> None:
    """Fill `model` with a verified checkpoint's weights."""
    try:
        load_model(model, str(folder / "model.safetensors"))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise RegrnnError(f"{folder}/model.safetensors does not fit its config.json: {error}") from None


def load_snapshot(folder: Path) -> Snapshot:
    """What a verified checkpoint holds for resuming. Tensors are copied out of the file's buffer."""

    def tensors(name: str) -> dict[str, Tensor]:
        try:
            return {key: value.clone() for key, value in load_file(folder / name).items()}
        except (OSError, safetensors.SafetensorError) as error:
            raise RegrnnError(f"{folder / name}: cannot be read ({error})") from None

    return Snapshot(
        optimizer=tensors("optimizer.safetensors"),
        tensors=tensors("state.safetensors"),
        values=read_json(folder / "state.json"),
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as flat tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value
        for index, entries in state.items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give the optimiser back the state that `optimizer_tensors` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
