"""`regrnn.nn.Embedding` and the update of its rows, against torch's."""

import pytest
import torch
from torch import Tensor

from regrnn.kernels.use import without_core
from regrnn.nn import Embedding
from regrnn.training.descent import SGD, coalesced


def embedding(V: int, E: int, sparse: bool = True) -> Embedding:
    torch.manual_seed(1)
    return Embedding(V, E, sparse=sparse)


def gradient(module: torch.nn.Embedding, tokens: Tensor) -> Tensor:
    module.weight.grad = None
    out = module(tokens)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(2)))
    assert module.weight.grad is not None
    return module.weight.grad


# Widths with and without whole vectors; one row and many, which more than one thread moves; none.
@pytest.mark.parametrize(
    ("V", "E", "shape"), [(11, 1, (3,)), (50, 20, (4, 5)), (300, 203, (35, 20)), (9, 16, (0, 3)), (5, 3, ())]
)
def test_rows_and_their_gradient(instruction_set: str, V: int, E: int, shape: tuple[int, ...]) -> None:
    tokens = torch.randint(V, shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = embedding(V, E), torch.nn.Embedding(V, E)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours(tokens), theirs(tokens))
    got, expected = gradient(ours, tokens), gradient(theirs, tokens)
    assert got.is_sparse and got.shape == expected.shape
    assert torch.equal(got._indices()[0], tokens.unique())
    assert coalesced(got)._values().data_ptr() == got._values().data_ptr() and coalesced(got).is_coalesced()
    torch.testing.assert_close(got.to_dense(), expected)


@pytest.mark.parametrize("rows", [[2, 2, 5], [4, 1, 3], [1, 2, 7], [6], []])
def test_a_gradient_of_anybody_is_coalesced(rows: list[int]) -> None:
    values = torch.arange(3.0 * len(rows)).view(-1, 3)
    gradient = torch.sparse_coo_tensor(torch.tensor([rows], dtype=torch.int64), values, (8, 3), check_invariants=True)
    got, expected = coalesced(gradient), gradient.coalesce()
    assert got.is_coalesced()
    assert torch.equal(got.indices(), expected.indices()) and torch.equal(got.values(), expected.values())


def test_the_same_on_any_number_of_threads() -> None:
    tokens, before = torch.randint(40, (50, 20)), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(gradient(embedding(40, 70), tokens).to_dense())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("wrong", [-1, 11])
def test_a_token_out_of_range_is_named(wrong: int) -> None:
    with pytest.raises(IndexError, match=rf"tokens must be in \[0, 11\), got {wrong}"):
        embedding(11, 3)(torch.tensor([3, wrong, 4]))


def test_what_the_core_does_not_do_is_torchs() -> None:
    tokens = torch.tensor([[1, 2], [2, 0]])
    for module in (
        embedding(4, 3, sparse=False),
        Embedding(4, 3, padding_idx=0, sparse=True),
        embedding(4, 3).double(),
    ):
        plain = torch.nn.Embedding(
            4, 3, padding_idx=module.padding_idx, sparse=module.sparse, dtype=module.weight.dtype
        )
        plain.load_state_dict(module.state_dict())
        assert torch.equal(gradient(module, tokens).to_dense(), gradient(plain, tokens).to_dense())
    assert embedding(4, 3)(tokens.int()).shape == (2, 2, 3)
    assert torch.compile(embedding(4, 3), backend="eager")(tokens).shape == (2, 2, 3)


def test_gradients_of_two_passes_add_up() -> None:
    module, tokens = embedding(30, 20), torch.randint(30, (40,))
    once = gradient(module, tokens).to_dense()
    module(tokens).backward(torch.randn(40, 20, generator=torch.Generator().manual_seed(2)))
    torch.testing.assert_close(module.weight.grad.to_dense(), 2 * once)


def test_differentiating_twice_is_refused() -> None:
    module = embedding(4, 3)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        torch.autograd.grad(module(torch.tensor([1])).sum(), module.weight, create_graph=True)


@pytest.mark.parametrize(("V", "E"), [(31, 7), (500, 300)])
def test_rows_are_updated_as_without_the_core(instruction_set: str, V: int, E: int) -> None:
    tokens = torch.randint(V, (200,), generator=torch.Generator().manual_seed(0))
    ours, theirs = embedding(V, E), embedding(V, E)
    gradient(ours, tokens)
    SGD(ours.parameters(), lr=0.3).step_scaled(0.5)
    with without_core():
        gradient(theirs, tokens)
        SGD(theirs.parameters(), lr=0.3).step_scaled(0.5)
    torch.testing.assert_close(ours.weight, theirs.weight)
    unused = [v for v in range(V) if v not in set(tokens.tolist())]
    assert torch.equal(ours.weight[unused], embedding(V, E).weight[unused])


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_are_forgotten(set_to_none: bool) -> None:
    module = torch.nn.Linear(3, 2)
    module(torch.ones(1, 3)).sum().backward()
    SGD(module.parameters(), lr=0.3).zero_grad(set_to_none=set_to_none)
    for parameter in module.parameters():
        assert parameter.grad is None if set_to_none else torch.equal(parameter.grad, torch.zeros_like(parameter))
