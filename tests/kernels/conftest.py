"""The tests of the compiled core: skipped where there is none; kernel and threads are left as they were."""

from collections.abc import Callable, Iterator

import pytest
import torch

from regrnn.kernels import core


def _available() -> tuple[str, ...]:
    try:
        best = core.instruction_set()
    except OSError:
        return ("none",)  # `compiled` skips the test and says why
    return core.INSTRUCTION_SETS[core.INSTRUCTION_SETS.index(best) :]


@pytest.fixture(autouse=True)
def compiled() -> None:
    choice = core.choose()
    if choice.core is None:
        pytest.skip(f"the core does not run: {choice.reason}")


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def use_kernel(compiled: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets `REGRNN_KERNEL` until the end of the test."""

    def use(name: str) -> None:
        monkeypatch.setenv("REGRNN_KERNEL", name)
        core.choose.cache_clear()
        core.choose_bfloat16.cache_clear()

    yield use
    core.choose.cache_clear()
    core.choose_bfloat16.cache_clear()


@pytest.fixture(params=_available())
def instruction_set(request: pytest.FixtureRequest, use_kernel: Callable[[str], None]) -> str:
    """The test runs with each instruction set that is compiled and that this processor has."""
    use_kernel(request.param)
    return request.param
