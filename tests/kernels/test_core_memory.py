"""Blocks of memory that tensors leave are used again, by nobody while a tensor has them, and given back in the end."""

import ctypes
import gc
import multiprocessing
import threading

import pytest
import torch
from torch import Tensor

import regrnn
from regrnn.kernels import memory, ops
from regrnn.kernels.memory import LEAST, MOST, UNUSED_FOR, Pool

LARGE = (LEAST // 4,)


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (300, 7, 100), (2_000_003,)])
def test_a_tensor_as_any_other(pool: Pool, shape: tuple[int, ...]) -> None:
    for _ in range(2):
        x = pool.empty(shape)
        assert x.shape == shape and x.dtype == torch.float32 and x.is_contiguous() and not x._is_view()
        x.copy_(torch.arange(x.numel()).view(shape))
        x.requires_grad_()
        (2 * x).sum().backward()
        assert x.grad is not None and bool((x.grad == 2).all())
        x.detach().add_(1)
        assert torch.equal(x.detach().flatten(), torch.arange(x.numel()) + 1.0)


def test_memory_is_used_again_once_nothing_refers_to_it(pool: Pool) -> None:
    x = pool.empty(LARGE)
    place, view = x.data_ptr(), x[7:]
    del x
    other = pool.empty(LARGE)
    assert other.data_ptr() != place and pool.held() == 0
    del view
    assert pool.held() >= LEAST
    assert pool.empty(LARGE).data_ptr() == place


@pytest.mark.parametrize("floats", [0, 7, LEAST])
def test_scratch_is_room_that_comes_back(pool: Pool, floats: int) -> None:
    place, room = pool.scratch(floats)
    numbers = (ctypes.c_float * floats).from_address(place) if floats else []
    for i in (0, floats - 1) if floats else ():
        numbers[i] = 1.5
    other, _other_room = pool.scratch(floats)
    assert floats == 0 or other != place
    del room
    assert floats < LEAST // 4 or (pool.held() >= 4 * floats and pool.scratch(floats)[0] == place)


def test_sizes_that_vary_share_blocks_with_little_to_spare(pool: Pool) -> None:
    places = set()
    for size in range(LEAST // 4, 2 * LEAST // 4, 1111):
        x = pool.empty((size,))
        assert pool._kind(4 * size) <= 4 * size * 9 / 8 + 4096
        places.add(x.data_ptr())
        del x
    assert len(places) <= 10


def test_what_nobody_wants_goes_back_to_the_system(pool: Pool) -> None:
    pool.empty((LEAST,))
    for _ in range(UNUSED_FOR):
        pool.empty(LARGE)
    assert pool.held() == 5 * LEAST
    small, large = (
        pool.empty(LARGE),
        pool.empty((2 * LEAST,)),
    )  # for which the system is asked, and gets back what is old
    assert pool.held() == 0
    del small, large
    assert pool.held() == 9 * LEAST
    pool.free()
    assert pool.held() == 0


def test_a_block_serves_what_is_a_little_smaller(pool: Pool) -> None:
    place = pool.empty((LEAST,)).data_ptr()
    assert pool.empty((LEAST * 3 // 4,)).data_ptr() == place
    assert pool.empty((LEAST // 2,)).data_ptr() != place


def test_memory_is_bounded_by_what_was_in_use_at_once(pool: Pool) -> None:
    """Batches of any length, each with three tensors of its size at a time: no block for every size is kept."""
    most = 0
    for size in torch.randint(LEAST // 4, 16 * LEAST, (400,), generator=torch.Generator().manual_seed(0)).tolist():
        tensors = [pool.empty((size,)) for _ in range(3)]
        most = max(most, sum(t.nbytes for t in tensors))
        del tensors
        # A block is at most half as large again as a size that has been rounded up by an eighth.
        assert pool.held() <= MOST * 1.5 * 1.125 * most


def test_without_pages_from_the_system_torch_hands_them_out(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_private", None)
    assert pool.empty(LARGE).fill_(3.0).sum() == 3 * LARGE[0]
    assert pool.held() == 0


def test_too_much_is_torchs_error(pool: Pool) -> None:
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        pool.empty((1 << 45,))


def test_threads_have_blocks_of_their_own(pool: Pool) -> None:
    wrong: list[int] = []

    def fill(number: int) -> None:
        for _ in range(200):
            x = pool.empty(LARGE).fill_(number)
            if not bool((x == number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=fill, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _overwrite(x: Tensor) -> None:
    x[:9] = -1.0  # few: torch's threads did not come along


def test_a_forked_process_has_a_copy(pool: Pool) -> None:
    x = pool.empty(LARGE).fill_(1.0)
    child = multiprocessing.get_context("fork").Process(target=_overwrite, args=(x,))
    child.start()
    child.join(60)
    assert child.exitcode == 0 and bool((x == 1).all())


def test_results_of_a_layer_keep_their_memory() -> None:
    """What one call returns is not what the next one writes to."""
    torch.manual_seed(0)
    layer, x = regrnn.LSTM(150, 150, 2), torch.randn(9, 20, 150)
    outputs = [layer(x + i)[0] for i in range(3)]
    gradients = [torch.autograd.grad(output.sum(), list(layer.parameters())) for output in outputs]
    gc.collect()
    for i, (output, gradient) in enumerate(zip(outputs, gradients, strict=True)):
        again = layer(x + i)[0]
        assert torch.equal(output, again)
        for one, other in zip(gradient, torch.autograd.grad(again.sum(), list(layer.parameters())), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("masks", ["step", "batch"])
def test_the_users_defaults_change_nothing(masks: str) -> None:
    """The default dtype and device are for what a user makes, not for what a layer of float32 on the CPU needs."""
    layer = regrnn.LSTM(150, 150, 2, dropout=regrnn.Regularization(input=0.5, between=0.5, output=0.5, masks=masks))
    decoder, x, targets = torch.nn.Linear(150, 600), torch.randn(9, 20, 150), torch.arange(180)

    def results() -> list[Tensor]:
        output, _, mask = layer.forward_with_mask(x, generator=torch.Generator().manual_seed(3))
        h_NH = output.flatten(0, 1)
        loss = regrnn.nn.softmax_cross_entropy(h_NH, decoder.weight, decoder.bias, targets, mask)
        return [loss, *torch.autograd.grad(loss, [*layer.parameters(), *decoder.parameters()])]

    expected = results()
    with torch.device("meta"):
        on_meta = results()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        in_double = results()
    finally:
        torch.set_default_dtype(default)
    for others in (on_meta, in_double):
        assert all(o.dtype == torch.float32 for o in others)
        assert all(map(torch.equal, expected, others))


@pytest.mark.parametrize("masks", ["step", "batch"])
def test_training_asks_for_no_more_pages_than_its_first_steps(masks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = regrnn.LSTM(300, 300, 2, dropout=regrnn.Regularization(input=0.5, between=0.5, output=0.5, masks=masks))
    decoder, x, targets = torch.nn.Linear(300, 3000), torch.randn(20, 20, 300), torch.arange(400)
    asked: list[int] = []
    new_pages = memory.new_pages

    def watched(size: int) -> object:
        asked.append(size)
        return new_pages(size)

    monkeypatch.setattr(memory, "pool", Pool())
    monkeypatch.setattr(ops, "pool", memory.pool)
    monkeypatch.setattr(memory, "new_pages", watched)
    for step in range(6):
        if step == 2:
            assert asked
            asked.clear()
        output, _, mask = layer.forward_with_mask(x)
        layer.zero_grad(), decoder.zero_grad()
        regrnn.nn.softmax_cross_entropy(output.flatten(0, 1), decoder.weight, decoder.bias, targets, mask).backward()
        del output, mask
    assert not asked
