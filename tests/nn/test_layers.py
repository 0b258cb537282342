"""The layers against torch.nn: the same numbers, gradients, parameters, forms of input, and refusals."""

import copy
import inspect
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from regrnn.nn import GRU, LSTM, RNN, Regularization

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
LAYERS = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}


def disagreement(a: Tensor, b: Tensor) -> float:
    """max|a-b| / max|b|, the one rule of agreement; where b is all zeros, a has to be."""
    if b.numel() == 0 or not b.any():
        return float(a.detach().abs().max()) if a.numel() else 0.0
    return float(((a - b).abs().max() / b.abs().max()).detach())


def states(s: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return s if isinstance(s, tuple) else (s,)


@dataclass(frozen=True)
class Case:
    name: str
    arguments: dict
    T: int
    lengths: tuple[int, ...]  # one per sequence
    form: str  # padded, unbatched, packed (unsorted lengths) or packed_sorted
    given_state: bool
    dtype: torch.dtype


@st.composite
def cases(draw: st.DrawFn) -> Case:
    name = draw(st.sampled_from(sorted(LAYERS)))
    arguments = {
        "input_size": draw(st.integers(1, 5)),
        "hidden_size": draw(st.integers(1, 5)),
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
        "dtype": draw(st.sampled_from(sorted(TOLERANCE, key=str))),
    }
    if name == "RNN":
        arguments["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    form = draw(st.sampled_from(["padded", "unbatched", "packed", "packed_sorted"]))
    if form == "unbatched":
        lengths = lengths[:1]
    if form == "packed_sorted":
        lengths = sorted(lengths, reverse=True)
    return Case(name, arguments, max(lengths), tuple(lengths), form, draw(st.booleans()), arguments["dtype"])


def outputs_and_gradients(layer: torch.nn.Module, case: Case) -> dict[str, Tensor]:
    """Two windows, the state of the first fed to the second; everything that can be compared, by name."""
    generator = torch.Generator().manual_seed(2)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=case.dtype, generator=generator)

    arguments, B = case.arguments, len(case.lengths)
    rows = case.arguments["num_layers"] * (2 if arguments["bidirectional"] else 1)
    state_shape = (rows, arguments["hidden_size"]) if case.form == "unbatched" else (rows, B, layer.hidden_size)
    leaves = {}
    hx = None
    if case.given_state:
        names = ["h0", "c0"] if case.name == "LSTM" else ["h0"]
        leaves.update({n: randn(*state_shape).requires_grad_() for n in names})
        hx = tuple(leaves.values()) if case.name == "LSTM" else leaves["h0"]

    results = {}
    loss = torch.zeros((), dtype=case.dtype)
    for window in range(2):
        if case.form == "unbatched":
            shape: tuple[int, ...] = (case.T,)
        else:
            shape = (B, case.T) if arguments["batch_first"] else (case.T, B)
        x = leaves[f"x{window}"] = randn(*shape, arguments["input_size"]).requires_grad_()
        if case.form.startswith("packed"):
            packed = pack_padded_sequence(
                x,
                torch.tensor(case.lengths),
                batch_first=arguments["batch_first"],
                enforce_sorted=case.form == "packed_sorted",
            )
            output, hx = layer(packed, hx)
            assert isinstance(output, PackedSequence)
            assert torch.equal(output.batch_sizes, packed.batch_sizes)
            output, lengths = pad_packed_sequence(output, batch_first=arguments["batch_first"])
            assert tuple(lengths.tolist()) == case.lengths
        else:
            output, hx = layer(x, hx)
        results[f"output{window}"] = output
        results.update({f"state{window}.{i}": s for i, s in enumerate(states(hx))})
        loss = loss + sum((r * randn(*r.shape)).sum() for r in (output, *states(hx)))
    leaves.update(layer.named_parameters())
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return results | {f"d {name}": g for name, g in zip(leaves, gradients, strict=True)}


@given(cases())
@settings(deadline=None, max_examples=120, derandomize=True, database=None)
def test_agrees_with_torch(case: Case) -> None:
    theirs = getattr(torch.nn, case.name)(**case.arguments)
    ours = LAYERS[case.name](**case.arguments)
    ours.load_state_dict(theirs.state_dict())
    expected = outputs_and_gradients(theirs, case)
    got = outputs_and_gradients(ours, case)
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].shape == tensor.shape and got[name].dtype == tensor.dtype, name
        assert disagreement(got[name], tensor) <= TOLERANCE[case.dtype], name


def test_agrees_with_torch_at_a_real_size() -> None:
    # Big enough for the blocked kernels of oneDNN, which the small cases never reach.
    arguments = {
        "input_size": 70, "hidden_size": 96, "num_layers": 2, "bias": True, "batch_first": False,
        "bidirectional": False, "dtype": torch.float32,
    }  # fmt: skip
    case = Case("LSTM", arguments, 20, (20,) * 16, "padded", True, torch.float32)
    theirs, ours = torch.nn.LSTM(**arguments), LSTM(**arguments)
    ours.load_state_dict(theirs.state_dict())
    expected, got = outputs_and_gradients(theirs, case), outputs_and_gradients(ours, case)
    for name, tensor in expected.items():
        assert disagreement(got[name], tensor) <= 1e-5, name


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_state_dict_loads_both_ways(name: str, bias: bool, bidirectional: bool) -> None:
    arguments = {"num_layers": 2, "bias": bias, "bidirectional": bidirectional}
    theirs, ours = getattr(torch.nn, name)(3, 4, **arguments), LAYERS[name](3, 4, **arguments)
    assert [(n, p.shape) for n, p in ours.state_dict().items()] == [
        (n, p.shape) for n, p in theirs.state_dict().items()
    ]
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 1, 3)
    assert disagreement(ours(x)[0], theirs(x)[0]) <= 1e-5
    for row, expected in zip(ours.all_weights, theirs.all_weights, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(row, expected, strict=True))


@pytest.mark.parametrize("name", LAYERS)
def test_same_seed_gives_the_initial_parameters_of_torch(name: str) -> None:
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(3, 7, 2, bidirectional=True)
    torch.manual_seed(0)
    ours = LAYERS[name](3, 7, 2, bidirectional=True)
    for (n, p), (m, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert n == m and torch.equal(p, q)


@pytest.mark.parametrize("name", LAYERS)
def test_signature_has_the_order_of_torch(name: str) -> None:
    order = ["input_size", "hidden_size", "num_layers"]
    order += ["nonlinearity"] if name == "RNN" else []
    order += ["bias", "batch_first", "dropout", "bidirectional", "device", "dtype"]
    parameters = inspect.signature(LAYERS[name]).parameters.values()
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == order


@pytest.mark.parametrize(
    "arguments",
    [{}, {"num_layers": 2, "bias": False, "batch_first": True, "bidirectional": True}, {"num_layers": 3}],
)
@pytest.mark.parametrize("name", LAYERS)
def test_repr_is_that_of_torch(name: str, arguments: dict) -> None:
    assert repr(LAYERS[name](3, 4, **arguments)) == repr(getattr(torch.nn, name)(3, 4, **arguments))


def test_repr_shows_what_torch_does_not_have() -> None:
    assert repr(LSTM(3, 4, 2, dropout=0.5)) == "LSTM(3, 4, num_layers=2, dropout=0.5)"
    assert repr(RNN(3, 4, nonlinearity="sigmoid")) == "RNN(3, 4, nonlinearity=sigmoid)"
    assert "recurrent=0.25" in repr(GRU(3, 4, dropout=Regularization(recurrent=0.25)))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_empty_input_does_what_torch_does(name: str, batch_first: bool) -> None:
    ours = LAYERS[name](3, 4, batch_first=batch_first, dropout=0.5)
    theirs = getattr(torch.nn, name)(3, 4, batch_first=batch_first)
    no_batch = (0, 2, 3) if batch_first else (2, 0, 3)
    (output, hx), (expected, expected_hx) = ours(torch.zeros(no_batch)), theirs(torch.zeros(no_batch))
    assert output.shape == expected.shape
    assert [s.shape for s in states(hx)] == [s.shape for s in states(expected_hx)]
    no_time = torch.zeros((2, 0, 3) if batch_first else (0, 2, 3))
    for layer in (ours, theirs):
        with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0 in RNN"):
            layer(no_time)


def test_no_time_steps_are_refused_on_the_reference_path_too() -> None:
    with pytest.raises(RuntimeError, match="sequence length to be larger than 0"):
        RNN(3, 4, nonlinearity="sigmoid")(torch.zeros(0, 2, 3))


X = torch.zeros(5, 2, 3)
H = torch.zeros(1, 2, 4)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    ("input", "hx", "error", "message"),
    [
        (torch.zeros(5, 2, 4), None, RuntimeError, "input_size. Expected 3, got 4"),
        (pack_sequence([torch.zeros(5, 4)]), None, RuntimeError, "input_size. Expected 3, got 4"),
        (torch.zeros(5), None, ValueError, "Expected input to be 2D or 3D, got 1D"),
        (torch.zeros(5, 2, 1, 3), None, ValueError, "Expected input to be 2D or 3D, got 4D"),
        (X.double(), None, ValueError, r"input dtype \(torch.float64\) does not match weight dtype"),
        (X, H.double(), ValueError, r"dtype \(torch.float64\) does not match input dtype"),
        (X, H[:, :1], RuntimeError, r"size \[1, 2, 4\], got \[1, 1, 4\]"),
        (X, H[..., :3], RuntimeError, r"size \[1, 2, 4\], got \[1, 2, 3\]"),
        (X, torch.zeros(2, 2, 4), RuntimeError, r"size \[1, 2, 4\], got \[2, 2, 4\]"),
        (X, H[0], RuntimeError, "For batched 3-D input, hx should also be 3-D but got 2-D"),
        (X[:, 0], H, RuntimeError, "For unbatched 2-D input, hx should also be 2-D but got 3-D"),
        (pack_sequence([X[:, 0]]), H, RuntimeError, r"size \[1, 1, 4\], got \[1, 2, 4\]"),
    ],
)
def test_wrong_input_is_refused(
    name: str, input: Tensor, hx: Tensor | None, error: type[Exception], message: str
) -> None:
    state = (hx, hx) if name == "LSTM" and hx is not None else hx
    with pytest.raises(error, match=message):
        LAYERS[name](3, 4)(input, state)


def test_wrong_kind_of_state_is_refused() -> None:
    with pytest.raises(TypeError, match=r"must be a pair of tensors \(h_0, c_0\)"):
        LSTM(3, 4)(X, H)
    with pytest.raises(ValueError, match=r"must be a pair \(h_0, c_0\), got 3"):
        LSTM(3, 4)(X, (H, H, H))
    with pytest.raises(RuntimeError, match=r"Expected cx of size \[1, 2, 4\], got \[1, 2, 5\]"):
        LSTM(3, 4)(X, (H, torch.zeros(1, 2, 5)))
    with pytest.raises(TypeError, match="must be a tensor h_0, got tuple"):
        GRU(3, 4)(X, (H, H))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_size": 0}, ValueError, "input_size must be greater than zero"),
        ({"hidden_size": -1}, ValueError, "hidden_size must be greater than zero"),
        ({"num_layers": 0}, ValueError, "num_layers must be greater than zero"),
        ({"num_layers": 1.5}, TypeError, "num_layers should be of type int, got: float"),
        ({"num_layers": True}, TypeError, "num_layers should be of type int, got: bool"),
        ({"bias": 1}, TypeError, "bias should be of type bool"),
        ({"batch_first": "yes"}, TypeError, "batch_first should be of type bool"),
        ({"proj_size": 2}, ValueError, "proj_size=2 is not supported"),
        ({"dropout": 1.0}, ValueError, "dropout must be a rate in"),
        ({"dropout": "0.5"}, ValueError, "dropout must be a rate in"),
    ],
)
def test_wrong_argument_is_refused(name: str, arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LAYERS[name](**({"input_size": 3, "hidden_size": 4} | arguments))


def test_unknown_nonlinearity_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Unknown nonlinearity 'elu'\. Select from 'tanh', 'relu', 'sigmoid'"):
        RNN(3, 4, nonlinearity="elu")


@pytest.mark.parametrize("name", LAYERS)
def test_deep_copy_is_independent(name: str) -> None:
    layer = LAYERS[name](3, 4, 2, dropout=0.5).eval()
    twin = copy.deepcopy(layer)
    x = torch.randn(5, 2, 3)
    before = layer(x)[0]
    assert torch.equal(twin(x)[0], before)
    with torch.no_grad():
        twin.weight_hh_l1.zero_()
    assert torch.equal(layer(x)[0], before)
    assert not torch.equal(twin(x)[0], before)


def test_changing_the_parameters_from_outside_is_seen() -> None:
    layer, other = LSTM(3, 4), LSTM(3, 4)
    x = torch.randn(5, 2, 3)
    expected = other(x)[0]
    swapped = torch.func.functional_call(layer, dict(other.named_parameters()), (x,))[0]
    assert torch.equal(swapped, expected)
    layer.weight_ih_l0, layer.weight_hh_l0 = other.weight_ih_l0, other.weight_hh_l0
    layer.bias_ih_l0, layer.bias_hh_l0 = other.bias_ih_l0, other.bias_hh_l0
    layer.flatten_parameters()
    assert torch.equal(layer(x)[0], expected)


def test_parametrised_weights_train() -> None:
    layer = parametrizations.weight_norm(LSTM(3, 4), "weight_hh_l0")
    x = torch.randn(5, 2, 3)
    scale = layer.parametrizations.weight_hh_l0.original0
    before = layer(x)[0]
    before.sum().backward()
    assert scale.grad is not None and scale.grad.any()
    with torch.no_grad():
        scale.mul_(2)
    assert not torch.allclose(layer(x)[0], before)


def test_moves_to_double_and_runs_without_gradients() -> None:
    layer = GRU(3, 4, 2, dropout=Regularization.standard(0.5)).to(torch.float64)
    with torch.no_grad():
        output, h_n = layer(torch.randn(5, 2, 3, dtype=torch.float64))
    assert output.dtype == h_n.dtype == torch.float64
    assert not output.requires_grad and not h_n.requires_grad


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_flow_in_eval_mode(name: str) -> None:
    theirs, ours = getattr(torch.nn, name)(3, 4).eval(), LAYERS[name](3, 4, dropout=0.5).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 2, 3)
    for layer in (theirs, ours):
        layer(x)[0].square().sum().backward()
    assert disagreement(ours.weight_hh_l0.grad, theirs.weight_hh_l0.grad) <= 1e-5


# Without LSTM, whose oneDNN kernel needs bfloat16 instructions, in torch.nn as here.
@pytest.mark.parametrize("name", ["GRU", "RNN"])
def test_autocast_gives_what_torch_gives(name: str) -> None:
    theirs, ours = getattr(torch.nn, name)(8, 8), LAYERS[name](8, 8)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 2, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, expected = ours(x)[0], theirs(x)[0]
    assert output.dtype == expected.dtype
    assert disagreement(output.float(), expected.float()) <= 1e-2
