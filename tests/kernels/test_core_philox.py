"""Masks from a seed: the core against the definition in torch, and that against Random123's."""

import math
from collections.abc import Callable

import pytest
import torch
from core_and_reference import any_problem
from hypothesis import example, given, settings
from hypothesis import strategies as st

from regrnn.kernels import core, ops, philox
from regrnn.nn import GRU, LSTM, RNN, Regularization, draw_mask

CPU = torch.device("cpu")
seeds = st.one_of(st.integers(0, 2**63 - 1), st.integers(-(2**63), -1), st.sampled_from([0, 1, 2**32 - 1, 2**32]))


def philox4x32(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in Python's integers, from the paper's description."""
    for _ in range(10):
        (hi0, lo0), (hi1, lo1) = (divmod(m * c, 2**32) for m, c in ((0xD2511F53, counter[0]), (0xCD9E8D57, counter[2])))
        counter = [hi1 ^ counter[1] ^ key[0], lo1, hi0 ^ counter[3] ^ key[1], lo0]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return counter


# Random123's kat_vectors.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def test_known_answers(instruction_set: str) -> None:
    for counter, key, words in KNOWN:
        assert philox4x32(counter, key) == words
    words = KNOWN[0][2]
    assert philox.words(torch.tensor(0), 4).tolist() == words
    # A mask shows whether words are below a threshold, and so what they are.
    for i, word in enumerate(words):
        at, below = (ops.mask(torch.tensor(0), 1 - t / 2**32, (4,), torch.float32)[i] for t in (word, word + 1))
        assert at == 0 and below != 0


@given(seed=seeds, n=st.integers(0, 100))
@settings(max_examples=50)
def test_words_are_those_of_random123(seed: int, n: int) -> None:
    key = [seed % 2**32, (seed >> 32) % 2**32]
    expected = [philox4x32([i // 4, 0, 0, 0], key)[i % 4] for i in range(n)]
    assert philox.words(torch.tensor(seed), n).tolist() == expected


@given(
    seed=seeds,
    size=st.lists(st.integers(0, 20), max_size=3),
    rate=st.floats(0, 1, exclude_max=True),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
)
@example(seed=3, size=[70_001], rate=0.5, dtype=torch.float32)
@settings(any_problem, max_examples=100)
def test_core_is_the_definition_bit_for_bit(
    instruction_set: str, seed: int, size: list[int], rate: float, dtype: torch.dtype
) -> None:
    got = ops.mask(torch.tensor(seed), rate, size, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "choose", lambda: core.Choice(None, "the definition is wanted"))
        expected = ops.mask(torch.tensor(seed), rate, size, dtype)
    assert got.dtype == dtype and got.shape == torch.Size(size)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("rate", [0.01, 0.5, 0.65, 0.99])
def test_share_of_zeros_is_the_rate(rate: float) -> None:
    n = 10**6
    mask = ops.mask(torch.tensor(11), rate, (n,), torch.float32)
    zeros = int((mask == 0).sum())
    assert abs(zeros - n * rate) <= 5 * math.sqrt(n * rate * (1 - rate))
    assert torch.equal(mask[mask != 0].unique(), torch.tensor([1 / (1 - rate)]))


def test_rate_of_zero_keeps_everything() -> None:
    assert torch.equal(ops.mask(torch.tensor(1), 0.0, (5, 3), torch.float32), torch.ones(5, 3))
    assert not ops.mask(torch.tensor(1), 1 - 2**-40, (5, 3), torch.float32).any()


@pytest.mark.parametrize("kind", ["step", "sequence", "batch"])
def test_seed_of_a_generator_decides(kind: str) -> None:
    def draw(seed: int | None) -> torch.Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return draw_mask(0.5, 7, 5, 11, kind, generator, CPU, torch.float32, 2)

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    torch.manual_seed(1)
    first, second = draw(None), draw(None)
    assert torch.equal(first, draw(1)) and not torch.equal(first, second)


@pytest.mark.parametrize("Layer", [LSTM, GRU, RNN])
@pytest.mark.parametrize(
    "dropout",
    [0.5, Regularization.batch(0.5, 2), Regularization.standard(0.5), Regularization.variational(0.5)],
)
def test_layers_draw_the_same_masks_with_the_core_and_without(
    Layer: type[LSTM], dropout: float | Regularization, use_kernel: Callable[[str], None]
) -> None:
    layer = Layer(7, 9, 2, dropout=dropout, bidirectional=True)
    x = torch.randn(6, 3, 7)
    outputs = []
    for kernel in ("torch", "fused"):
        use_kernel(kernel)
        outputs.append(layer(x, generator=torch.Generator().manual_seed(4))[0])
    assert torch.equal(outputs[0] == 0, outputs[1] == 0) and (outputs[0] == 0).any()
    assert torch.allclose(*outputs, rtol=0, atol=1e-5)
