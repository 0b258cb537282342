"""A checkpoint is written whole or not at all, and any damage to it is found and named."""

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy import NoisyTask, Tiny, contents, noisy_recipe, train
from torch import nn

import regrnn
from regrnn.errors import RegrnnError
from regrnn.tasks.language.model import LanguageModel, ModelConfig
from regrnn.tasks.protocol import get_task
from regrnn.training import checkpoint
from regrnn.training.checkpoint import (
    Snapshot,
    load_snapshot,
    load_weights,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
    verify_checkpoint,
)
from regrnn.training.recipe import read_recipe, recipe_from_dict
from regrnn.training.run import Run

FILES = (
    "config.json",
    "manifest.json",
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "state.safetensors",
    "vocabulary.json",
)


def snapshot() -> Snapshot:
    return Snapshot(optimizer={"0.step": torch.tensor(3.0)}, tensors={"h": torch.arange(6.0)}, values={"epoch": 2})


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    folder = tmp_path / "checkpoints" / "000001"
    save_checkpoint(folder, model, {"task": "x"}, {"words.txt": "één\n"}, snapshot())
    config = verify_checkpoint(folder)
    assert config == {"format": 1, "regrnn": regrnn.__version__, "task": "x"}
    assert (folder / "words.txt").read_text(encoding="utf-8") == "één\n"
    load_weights(other, folder)
    assert torch.equal(model.weight, other.weight) and torch.equal(model.bias, other.bias)
    back = load_snapshot(folder)
    assert back.values == {"epoch": 2}
    assert torch.equal(back.tensors["h"], torch.arange(6.0))
    assert back.optimizer["0.step"].item() == 3.0 and back.optimizer["0.step"].dim() == 0


def test_all_files_have_the_permissions_that_the_user_gives_new_files(tmp_path: Path) -> None:
    """safetensors makes its own private to the user, and a model in a shared folder could not be used."""
    before = os.umask(0o027)
    try:
        save_checkpoint(tmp_path / "000001", nn.Linear(3, 2), {}, {"words.txt": ""}, snapshot())
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "000001").iterdir()}
    assert modes == dict.fromkeys([*(set(FILES) - {"vocabulary.json"}), "words.txt"], 0o640)


def test_tied_weights_are_saved_once_and_stay_tied(tmp_path: Path) -> None:
    config = ModelConfig(hidden_size=8, tied=True)
    model, other = LanguageModel(config, 500), LanguageModel(config, 500)
    save_checkpoint(tmp_path / "000001", model, {}, {}, snapshot())
    assert (tmp_path / "000001" / "model.safetensors").stat().st_size < 1.5 * 4 * sum(
        p.numel() for p in model.parameters()
    )
    load_weights(other, tmp_path / "000001")
    assert other.decoder.weight is other.encoder.weight
    assert torch.equal(other.encoder.weight, model.encoder.weight)


def test_a_refused_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise checkpoint.safetensors.SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", refuse)
    with pytest.raises(OSError, match="No space left on device"):
        save_checkpoint(tmp_path / "000001", nn.Linear(3, 2), {}, {}, snapshot())
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_save_left_is_in_nobodys_way(tmp_path: Path) -> None:
    for name in ("000001", ".000001.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
    save_checkpoint(tmp_path / "000001", nn.Linear(3, 2), {}, {}, snapshot())
    verify_checkpoint(tmp_path / "000001")
    assert {path.name for path in tmp_path.iterdir()} == {"000001"}
    assert not (tmp_path / "000001" / "half").exists()


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_an_optimizer_goes_on_as_if_nothing_had_been(kind: Any, tmp_path: Path) -> None:
    def step(model: nn.Linear, optimizer: torch.optim.Optimizer, seed: int) -> None:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = kind(model.parameters(), lr=0.1)
    for seed in range(3):
        step(model, optimizer, seed)
    folder = tmp_path / "000001"
    save_checkpoint(folder, model, {}, {}, Snapshot(optimizer=optimizer_tensors(optimizer), tensors={}))
    restored = kind(other.parameters(), lr=0.1)
    load_weights(other, folder)
    restore_optimizer(restored, load_snapshot(folder).optimizer)
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(other, restored, seed)
    assert torch.equal(model.weight, other.weight) and torch.equal(model.bias, other.bias)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "000001", nn.Linear(3, 2), {}, {}, snapshot())
    for model in (nn.Linear(3, 4), nn.Linear(3, 2, bias=False), nn.Sequential(nn.Linear(3, 2))):
        with pytest.raises(RegrnnError, match=r"model\.safetensors does not fit its config\.json"):
            load_weights(model, tmp_path / "000001")


# Damage. `load` and resuming both refuse, and name the file.


@pytest.fixture(scope="module")
def victim(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose best checkpoint is not its last, so that both can be damaged; copied from before each case."""
    out = tmp_path_factory.mktemp("victim") / "run"
    shutil.copytree(undisturbed, out, symlinks=True)
    run = Run(out)
    (out / "result.json").unlink()
    best = run.best()
    assert best is not None
    other = out / "checkpoints" / "000001"
    shutil.copytree(best, other)
    run.set_best(other)
    assert run.best() != run.last()
    return out


def resume(tiny: Tiny, out: Path) -> None:
    flags = [("--data.path", str(tiny.text))]
    recipe = recipe_from_dict(read_recipe(str(tiny.recipe)), "tiny", flags)
    train(get_task("language").prepare(recipe.sections), recipe, out)


def refusals(tiny: Tiny, out: Path, pointer: str) -> list[str]:
    """What loading says of damage in the checkpoint behind `pointer`, and what resuming says."""
    checkpoint_folder = (out / pointer).resolve()
    said = []
    for use in (lambda: regrnn.load(checkpoint_folder), lambda: resume(tiny, out)):
        with pytest.raises(RegrnnError) as raised:
            use()
        said.append(str(raised.value))
    if pointer == "best":
        with pytest.raises(RegrnnError):
            regrnn.load(out)
    return said


@pytest.mark.parametrize("pointer", ["best", "last"])
@pytest.mark.parametrize("name", FILES)
def test_every_file_is_missed_cut_or_lengthened(
    name: str, pointer: str, tiny: Tiny, victim: Path, tmp_path: Path
) -> None:
    path = (victim / pointer).resolve() / name
    whole = path.read_bytes()
    try:
        for damaged in (b"", whole[:-1], whole[: len(whole) // 2], whole + b"\0", b"\0" * len(whole)):
            if damaged.strip() == whole.strip():
                continue  # a line's end that JSON does not need
            path.write_bytes(damaged)
            for message in refusals(tiny, victim, pointer):
                assert str(path) in message
                assert "damaged" in message
        path.unlink()
        in_run = refusals(tiny, victim, pointer)[1]
        assert str(path) in in_run and ("missing" in in_run or "No such file" in in_run)
    finally:
        path.write_bytes(whole)
    verify_checkpoint(path.parent)


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_bit_that_flipped_is_found(name: str, place: float, bit: int, tiny: Tiny, victim: Path) -> None:
    path = (victim / "last").resolve() / name
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(flipped)
    try:
        for message in refusals(tiny, victim, "last"):
            # A manifest that says something else of a file is found at that file.
            assert str(path) in message or (name == "manifest.json" and str(path.parent) in message)
    finally:
        path.write_bytes(whole)


def test_no_bit_of_the_manifest_is_idle(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "000001", nn.Linear(3, 2), {}, {}, snapshot())
    path = tmp_path / "000001" / "manifest.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(RegrnnError):
            verify_checkpoint(path.parent)


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.marker,)


def forge(folder: Path, name: str, content: bytes) -> None:
    """Write `content` and let the manifest agree with it."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("forged", [False, True], ids=["plain", "with a manifest that agrees"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.safetensors"])
@pytest.mark.parametrize("form", ["pickle", "torch.save"])
def test_a_pickle_is_refused_and_not_executed(
    form: str, name: str, forged: bool, tiny: Tiny, undisturbed: Path, tmp_path: Path
) -> None:
    marker, out = tmp_path / "executed", tmp_path / "run"
    shutil.copytree(undisturbed, out, symlinks=True)
    (out / "result.json").unlink()
    if form == "pickle":
        (tmp_path / "bomb").write_bytes(pickle.dumps(Bomb(marker)))
    else:
        torch.save({"weight": Bomb(marker)}, tmp_path / "bomb")
    content = (tmp_path / "bomb").read_bytes()
    folder = (out / "last").resolve()
    if forged:
        forge(folder, name, content)
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(RegrnnError, match=name):
        resume(tiny, out)
    if name == "model.safetensors" or not forged:
        with pytest.raises(RegrnnError, match=name):
            regrnn.load(folder)
    else:
        regrnn.load(folder)  # which needs the model alone
    assert not marker.exists()
    pickle.loads(content) if form == "pickle" else torch.load(tmp_path / "bomb", weights_only=False)
    assert marker.exists(), "the bomb was a bomb"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", b"[]", r"config\.json: damaged, expected a JSON object"),
        ("config.json", b"\xff", r"config\.json: damaged, not UTF-8"),
        ("config.json", b"[" * 100_000, r"config\.json: damaged, not valid JSON"),
        ("config.json", b'{"task": "speach"}', r"config\.json: there is no task 'speach'"),
        ("config.json", b"{}", r"config\.json: there is no task 'None'"),
        ("config.json", b'{"task": "language", "model": 3}', r"config\.json \[model\]: expected a table"),
        ("config.json", b'{"task": "language", "model": {"hiden_size": 3}}', "unknown key 'hiden_size'"),
        ("config.json", b'{"task": "language", "model": {"hidden_size": 9}}', "does not fit its config"),
        ("vocabulary.json", b"\xff", r"vocabulary\.json: damaged, not UTF-8"),
        ("vocabulary.json", b"{}", "vocabulary"),
        ("vocabulary.json", b"{", "vocabulary"),
        ("model.safetensors", b"", r"model\.safetensors"),
        ("model.safetensors", b"\xff" * 64, r"model\.safetensors"),
    ],
)
def test_files_that_never_were_ours_are_refused(
    name: str, content: bytes, said: str, undisturbed: Path, tmp_path: Path
) -> None:
    """With a manifest that agrees with them: what a checksum does not find, the readers do."""
    folder = tmp_path / "000001"
    shutil.copytree((undisturbed / "best").resolve(), folder)
    forge(folder, name, content)
    with pytest.raises(RegrnnError, match=said) as raised:
        regrnn.load(folder)
    assert str(folder) in str(raised.value)


@pytest.mark.parametrize(
    "manifest",
    [
        {"format": 1},
        {"format": 1, "sha256": []},
        {"format": 1, "sha256": {"config.json": ""}},
        {"format": 1, "sha256": dict.fromkeys([*checkpoint.FILES, "../recipe.json"], "")},
    ],
)
def test_manifests_that_leave_out_or_reach_out_are_refused(manifest: dict[str, Any], tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "000001", nn.Linear(3, 2), {}, {}, snapshot())
    (tmp_path / "000001" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RegrnnError, match=r"000001/manifest\.json: damaged"):
        verify_checkpoint(tmp_path / "000001")


def test_a_checkpoint_of_another_format_is_refused(tiny: Tiny, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out, symlinks=True)
    (out / "result.json").unlink()
    path = (out / "best").resolve() / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    for use in (lambda: regrnn.load(out), lambda: resume(tiny, out)):
        with pytest.raises(RegrnnError, match="format 2 of another version of regrnn; this one reads 1"):
            use()


def test_state_of_another_version_is_refused(tmp_path: Path) -> None:
    """Every checksum is right, but a counter is missing, unknown, or the generator's state is not there."""
    train(NoisyTask(), noisy_recipe(), tmp_path / "whole")
    for number, (name, change) in enumerate(
        [
            ("state.json", lambda folder: b'{"epoch": 1, "fortune": 2}'),
            ("state.safetensors", lambda folder: (folder / "optimizer.safetensors").read_bytes()),
        ]
    ):
        out = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", out, symlinks=True)
        folder = (out / "last").resolve()
        forge(folder, name, change(folder))
        with pytest.raises(RegrnnError, match="does not fit this version of regrnn"):
            train(NoisyTask(), noisy_recipe(), out)
    train(NoisyTask(), noisy_recipe(), tmp_path / "whole")
    assert contents(tmp_path / "whole")
