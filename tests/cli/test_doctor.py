"""`regrnn doctor`."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import regrnn as package
from regrnn.kernels import core


def choose_anew() -> None:
    core.choose.cache_clear()
    core.choose_bfloat16.cache_clear()


@pytest.fixture(autouse=True)
def chosen_anew() -> Iterator[None]:
    choose_anew()
    yield
    choose_anew()


def test_doctor(done: Callable[..., str], empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRNN_DATA", "/some/where")
    facts = json.loads(done("doctor", "--json"))
    assert facts["regrnn"].startswith(package.__version__)
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert "cpu" in facts["devices"]
    assert facts["data"].startswith("/some/where ") and facts["cache"].startswith(f"{empty_cache} ")
    text = done("doctor")
    for name, value in facts.items():
        assert re.search(rf"^{name} +", text, re.MULTILINE), name
        if isinstance(value, str):
            assert value in text
    assert not empty_cache.exists()


def test_core_that_runs(done: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        best = core.instruction_set()
    except OSError as error:
        pytest.skip(f"the core is not compiled here: {error}")
    here = ", ".join(core.INSTRUCTION_SETS[core.INSTRUCTION_SETS.index(best) :])
    for setting, running in (("", best), ("auto", best), ("fused", best), ("baseline", "baseline")):
        choose_anew()
        monkeypatch.setenv("REGRNN_KERNEL", setting)
        assert json.loads(done("doctor", "--json"))["core"] == f"{running} of {here} (set REGRNN_KERNEL to change)"


def test_whether_products_can_be_in_bfloat16(done: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRNN_KERNEL", "auto")
    if core.choose().core is None:
        pytest.skip("the core is not compiled here")
    found = json.loads(done("doctor", "--json"))["bfloat16"]
    if (rounded := core.choose_bfloat16()).core is None:
        assert found == f"none: {rounded.reason}"
    else:
        assert found == f"{rounded.core.instruction_set}, for training.matmul_precision = medium"
    choose_anew()
    monkeypatch.setenv("REGRNN_KERNEL", "baseline")
    assert json.loads(done("doctor", "--json"))["bfloat16"] == "none: REGRNN_KERNEL=baseline"


def test_core_that_is_not_wanted(done: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRNN_KERNEL", "torch")
    without = "none, torch's kernels run instead, which are slower: REGRNN_KERNEL=torch"
    assert json.loads(done("doctor", "--json"))["core"] == without


def test_core_that_is_not_known(done: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRNN_KERNEL", "fast")
    wrong = "error: REGRNN_KERNEL=fast: must be one of auto, fused, torch, avx512, avx2, baseline"
    assert f"core       {wrong}\n" in done("doctor")


def test_core_that_was_not_compiled(done: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "_FOLDER", tmp_path)
    monkeypatch.setenv("REGRNN_KERNEL", "auto")
    found = json.loads(done("doctor", "--json"))["core"]
    assert found.startswith("none, torch's kernels run instead, ") and f"{tmp_path}/_baseline.so" in found
    monkeypatch.setenv("REGRNN_KERNEL", "fused")
    core.choose.cache_clear()
    assert json.loads(done("doctor", "--json"))["core"].startswith("error: REGRNN_KERNEL=fused: ")
