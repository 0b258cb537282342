"""The layers on the core against their definition in float64: outputs, states and every gradient."""

import itertools

import pytest
from core_and_reference import CELLS, LayerProblem, any_problem, assert_layer_agreement, layer_problems
from hypothesis import given, settings
from hypothesis import strategies as st


@given(problem=layer_problems())
@settings(any_problem, max_examples=120)
def test_agrees_with_the_definition(instruction_set: str, problem: LayerProblem) -> None:
    assert_layer_agreement(problem)


# More rows, inputs and units than any block of the core holds: 480 rows, 256 features.
LARGE = {"I": 270, "H": 290, "sizes": (40,) * 13}


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru"])
@pytest.mark.parametrize("recurrent", ["none", "steps"])
def test_agrees_beyond_the_blocks(instruction_set: str, cell: str, recurrent: str) -> None:
    problem = LayerProblem(cell, **LARGE, recurrent=recurrent)
    assert_layer_agreement(problem)


# Of more than 2,048 rows the gradients of weights and biases are made in parts, of these in two.
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_agrees_beyond_a_part_of_the_rows(instruction_set: str, cell: str) -> None:
    assert_layer_agreement(LayerProblem(cell, 70, 150, (54,) * 40))


@pytest.mark.parametrize("cell", CELLS)
def test_agrees_over_many_steps(instruction_set: str, cell: str) -> None:
    problem = LayerProblem(cell, 5, 9, tuple(range(60, 0, -1)), padded=False, reverse=True)
    assert_layer_agreement(problem)


@given(problem=layer_problems(), data=st.data())
@settings(any_problem, max_examples=60)
def test_gradients_of_some_results_at_some_inputs(problem: LayerProblem, data: st.DataObject) -> None:
    wanted = data.draw(st.sets(st.sampled_from(sorted(problem.leaves())), min_size=1))
    results = ["output", "h_n", *(["c_n"] if problem.cell == "lstm" else [])]
    used = data.draw(st.sets(st.sampled_from(results), min_size=1))
    assert_layer_agreement(problem, wanted, used)


@pytest.mark.parametrize(("cell", "used"), [*itertools.product(CELLS, ["output", "h_n"]), ("lstm", "c_n")])
def test_gradients_where_one_result_is_used(cell: str, used: str) -> None:
    assert_layer_agreement(LayerProblem(cell, 6, 11, (5, 4, 4, 1), padded=False), used={used})
