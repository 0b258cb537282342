"""Softmax cross-entropy on the core against float64, also where the logits are extreme."""

import pytest
import torch
from core_and_reference import TOLERANCE, LossProblem, any_problem, assert_agreement, loss_problems, loss_results
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regrnn.nn import softmax_cross_entropy, token_log_probabilities


@given(problem=loss_problems())
@settings(any_problem, max_examples=100)
def test_agrees_with_the_definition(instruction_set: str, problem: LossProblem) -> None:
    assert_agreement(problem.results("core"), problem.results("definition"))


@pytest.mark.parametrize("wanted", [None, {"h"}, {"weight"}, {"bias"}, {"h", "bias"}, {"weight", "bias"}])
def test_agrees_beyond_the_blocks(instruction_set: str, wanted: set[str] | None) -> None:
    problem = LossProblem(500, 270, 800)
    assert_agreement(problem.results("core", wanted), problem.results("definition", wanted))


@given(
    N=st.integers(1, 6),
    V=st.integers(1, 70),
    largest=st.sampled_from([10, 100, 5000]),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(any_problem, max_examples=80)
def test_extreme_logits(instruction_set: str, N: int, V: int, largest: int, bias: bool, seed: int) -> None:
    # Of whole numbers, whose products float32 has exactly: beyond +-100 the probabilities are 0 and 1, or equal parts.
    generator = torch.Generator().manual_seed(seed)

    def whole(*shape: int, most: int) -> Tensor:
        return torch.randint(-most, most + 1, shape, generator=generator).float()

    leaves = {"h": whole(N, 2, most=largest // 10), "weight": whole(V, 2, most=10)}
    if bias:
        leaves["bias"] = whole(V, most=largest)
    targets = torch.randint(V, (N,), generator=generator)
    got, expected = (loss_results(by, leaves, targets) for by in ("core", "definition"))
    smallest = torch.finfo(torch.float32).tiny
    for name in expected:  # what float32 has no normal number for is zero
        expected[name][expected[name].abs() < 1e4 * smallest] = 0
        got[name][got[name].abs() < 1e4 * smallest] = 0
    # 1 - p of a certain target is a difference that float64 has to 1e-16.
    for name, tensor in expected.items():
        error = (got[name].double() - tensor).abs().max()
        assert error <= TOLERANCE * tensor.abs().max() + 1e-13 * largest, name


@pytest.mark.parametrize("ahead", [20.0, 60.0, 80.0])
def test_gradient_of_an_all_but_certain_target_is_exact(instruction_set: str, ahead: float) -> None:
    """It is minus the others' share, e^-ahead each, where 1 - p would be 0 or a few units in the last place."""
    others = 40
    weight = torch.zeros(1 + others, 1)
    weight[0] = ahead
    leaves = {"h": torch.ones(1, 1), "weight": weight, "bias": torch.zeros(1 + others)}
    got = loss_results("core", leaves, torch.tensor([0]))
    e = torch.tensor(-ahead, dtype=torch.float64).exp()
    share = e / (1 + others * e)
    expected = share.repeat(1 + others)
    expected[0] = -others * share
    assert_agreement(
        {"bias": got["d bias"], "weight": got["d weight"], "h": got["d h"]},
        {"bias": expected, "weight": expected[:, None], "h": (expected[0] * ahead).view(1, 1)},
    )


@pytest.mark.parametrize("V", [1, 7, 8, 16, 17, 33])
def test_all_classes_alike(instruction_set: str, V: int) -> None:
    # Also with logits of -1e4, where a padded class at 0 or its like would take all of the probability.
    for logit in (0.0, -1e4, 1e4):
        leaves = {"h": torch.ones(3, 1), "weight": torch.full((V, 1), logit)}
        got = loss_results("core", leaves, torch.tensor([0, V - 1, V // 2]))
        expected = torch.full((3,), -torch.log(torch.tensor(V)).item())
        assert_agreement({"log p": got["log p"]}, {"log p": expected})
        assert got["loss"].item() == pytest.approx(-expected.sum().item(), rel=1e-6)


def test_class_that_a_bias_forbids(instruction_set: str) -> None:
    problem = LossProblem(5, 4, 19)
    leaves = problem.leaves()
    leaves["bias"][3] = -torch.inf
    targets = torch.tensor([0, 1, 2, 4, 18])
    got, expected = (loss_results(by, leaves, targets) for by in ("core", "definition"))
    assert_agreement(got, expected)
    assert got["d bias"][3] == 0
    # The forbidden class as the target is infinitely unlikely, and its gradients as in torch.
    targets[1] = 3
    got, expected = (loss_results(by, leaves, targets) for by in ("core", "definition"))
    assert got["loss"] == torch.inf and got["log p"][1] == -torch.inf
    del got["loss"], expected["loss"], got["log p"], expected["log p"]
    assert_agreement(got, expected)


@pytest.mark.parametrize("place", ["h", "weight", "bias"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("V", [1, 19])
def test_not_a_number_is_not_lost(instruction_set: str, place: str, value: float, V: int) -> None:
    problem = LossProblem(3, 4, V)
    leaves = problem.leaves()
    leaves["weight"].abs_()  # so that an infinity in h makes one sign of logits
    row = {"h": (1, 2), "weight": (V // 2, 2), "bias": (V // 2,)}[place]
    leaves[place][row] = value
    if place == "weight":
        leaves["h"].abs_()
    got, expected = (loss_results(by, leaves, problem.targets()) for by in ("core", "definition"))
    assert got["loss"].isnan() and expected["loss"].isnan()
    assert torch.equal(got["log p"].isnan(), expected["log p"].isnan())
    for name, gradient in expected.items():
        if gradient.isnan().all():
            assert got[name].isnan().all(), name
        assert got[name].isnan().any() == gradient.isnan().any(), name


def test_one_row_that_is_not_a_number_leaves_the_others_alone(instruction_set: str) -> None:
    problem = LossProblem(9, 4, 19)
    leaves, targets = problem.leaves(), problem.targets()
    whole = loss_results("core", leaves, targets)
    leaves["h"][4] = torch.nan
    got = loss_results("core", leaves, targets)
    rest = torch.arange(9) != 4
    assert torch.equal(got["log p"][rest], whole["log p"][rest])
    assert torch.equal(got["d h"][rest], whole["d h"][rest])
    assert got["d h"][4].isnan().all()


def test_log_probabilities_come_in_lots_of_rows() -> None:
    problem = LossProblem(700, 5, 23)  # more than two lots of 256
    leaves, targets = problem.leaves(), problem.targets()
    h, weight, bias = leaves.values()
    together = token_log_probabilities(h, weight, bias, targets)
    apart = [token_log_probabilities(h[i : i + 1], weight, bias, targets[i : i + 1]) for i in range(0, 700, 97)]
    assert torch.equal(together[::97], torch.cat(apart))
    loss = softmax_cross_entropy(h, weight, bias, targets)
    assert loss.item() == pytest.approx(-together.double().sum().item(), rel=1e-6)
