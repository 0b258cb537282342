"""Where masks strike, how long they live, where they come from."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from regrnn.nn import GRU, LSTM, RNN, Regularization, draw_mask, gru_step, lstm_step, rnn_step

CPU = torch.device("cpu")
LAYERS = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}


def identity_rnn(n: int, feedback: float, num_layers: int = 1, bidirectional: bool = False, **dropout: object) -> RNN:
    """h[t] = relu(D(x[t]) + feedback * (m * h[t-1])) in each direction: its outputs show its masks."""
    layer = RNN(
        n,
        n,
        num_layers,
        "relu",
        bias=False,
        bidirectional=bidirectional,
        dropout=Regularization(**dropout),
        dtype=torch.float64,
    )
    for w_ih, w_hh in layer.all_weights:
        torch.nn.init.eye_(w_ih)
        torch.nn.init.zeros_(w_hh)
        w_hh.data.diagonal().fill_(feedback)
    return layer


def is_constant_over_time(x_TBF: Tensor) -> bool:
    return torch.equal(x_TBF, x_TBF[:1].expand_as(x_TBF))


# The setting


@pytest.mark.parametrize("name", ["input", "between", "output", "recurrent"])
@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, math.nan, math.inf, True, "0.5", None, [0.5]])
def test_rate_out_of_range_is_refused(name: str, rate: object) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be a rate in \[0, 1\), got"):
        Regularization(**{name: rate})


@pytest.mark.parametrize("name", ["masks", "recurrent_masks"])
@pytest.mark.parametrize("kind", ["token", "", 1, True])
def test_unknown_kind_of_mask_is_refused(name: str, kind: object) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be one of 'step', 'sequence', 'batch'"):
        Regularization(**{name: kind})


def test_masks_none_is_refused_but_recurrent_masks_none_is_not() -> None:
    with pytest.raises(ValueError, match="masks must be one of"):
        Regularization(masks=None)
    assert Regularization(recurrent_masks=None) == Regularization()


def test_regularization_is_keyword_only_and_frozen() -> None:
    with pytest.raises(TypeError):
        Regularization(0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Regularization().input = 0.5


def test_named_schemes() -> None:
    sites = {"input": 0.3, "between": 0.3, "output": 0.3}
    assert Regularization.paper(0.3) == Regularization(**sites)
    assert Regularization.standard(0.3) == Regularization(**sites, recurrent=0.3)
    assert Regularization.variational(0.3) == Regularization(**sites, recurrent=0.3, masks="sequence")
    for scheme in ("paper", "standard", "variational"):
        assert getattr(Regularization, scheme)(0.3).name == scheme
    assert Regularization.paper(0).name == "none"
    assert Regularization(input=0.3).name == "custom"


# One mask


@pytest.mark.parametrize("kind", ["step", "sequence"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.65])
def test_mask_has_the_moments_of_inverted_dropout(rate: float, dtype: torch.dtype, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = draw_mask(rate, 30, 40, 50, kind, generator, CPU, dtype)
    assert mask.shape == (30 if kind == "step" else 1, 40, 50) and mask.dtype == dtype
    kept = torch.tensor(1 / (1 - rate), dtype=dtype)
    assert torch.all((mask == 0) | torch.isclose(mask, kept))
    # Entries have mean 1, variance rate / (1 - rate); five standard errors, the seed being fixed anyway.
    share = (mask == 0).double().mean().item()
    standard_error = math.sqrt(rate * (1 - rate) / mask.numel())
    assert abs(share - rate) <= 5 * standard_error
    assert abs(mask.double().mean().item() - 1) <= 5 * standard_error / (1 - rate)
    variance = mask.double().var().item()
    assert abs(variance - rate / (1 - rate)) <= 5 * standard_error / (1 - rate) ** 2


def test_mask_entries_are_independent() -> None:
    mask = draw_mask(0.5, 40, 30, 50, "step", torch.Generator().manual_seed(0), CPU, torch.float64)
    for dim in range(3):
        a, b = mask.narrow(dim, 1, mask.size(dim) - 1), mask.narrow(dim, 0, mask.size(dim) - 1)
        correlation = ((a - 1) * (b - 1)).mean().item()
        assert abs(correlation) <= 5 / math.sqrt(a.numel())


# In a layer


@pytest.mark.parametrize(
    ("rates", "strikes"),
    [
        ({"input": 0.5}, 1),
        ({"between": 0.5}, 2),
        ({"output": 0.5}, 1),
        ({"input": 0.5, "between": 0.5, "output": 0.5}, 4),  # L + 1
    ],
)
def test_sites_of_three_layers(rates: dict, strikes: int) -> None:
    torch.manual_seed(0)
    output, _ = identity_rnn(40, 0.0, num_layers=3, **rates)(torch.ones(30, 20, 40, dtype=torch.float64))
    # What survives each of the sites was doubled there.
    assert set(output.unique().tolist()) == {0.0, 2.0**strikes}
    share = 0.5**strikes
    assert abs((output != 0).double().mean().item() - share) <= 5 * math.sqrt(share / output.numel())
    assert not is_constant_over_time(output)


def test_a_number_is_the_paper() -> None:
    x = torch.randn(5, 2, 3)
    layer = LSTM(3, 4, 2, dropout=0.5)
    twin = LSTM(3, 4, 2, dropout=Regularization.paper(0.5))
    twin.load_state_dict(layer.state_dict())
    outputs = [m(x, generator=torch.Generator().manual_seed(1))[0] for m in (layer, twin)]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("site", ["input", "between", "output"])
@pytest.mark.parametrize("masks", ["step", "sequence"])
def test_life_of_a_mask(site: str, masks: str) -> None:
    torch.manual_seed(0)
    layer = identity_rnn(6, 0.0, num_layers=2, masks=masks, **{site: 0.5})
    x = torch.ones(8, 5, 6, dtype=torch.float64)
    first, second = layer(x)[0], layer(x)[0]
    assert is_constant_over_time(first) == (masks == "sequence")
    assert not torch.equal(first[0, 0], first[0, 1])  # each sequence has its own
    assert not torch.equal(first, second)  # and each call


@pytest.mark.parametrize(
    ("masks", "recurrent_masks", "constant"),
    [
        ("step", None, False),
        ("sequence", None, True),
        ("step", "sequence", True),
        ("sequence", "step", False),
    ],
)
def test_life_of_a_recurrent_mask(masks: str, recurrent_masks: str | None, constant: bool) -> None:
    torch.manual_seed(0)
    layer = identity_rnn(6, 1.0, recurrent=0.5, masks=masks, recurrent_masks=recurrent_masks)
    x = torch.ones(8, 5, 6, dtype=torch.float64)
    h, _ = layer(x, torch.ones(1, 5, 6, dtype=torch.float64))
    # h[t] = 1 + m[t] * h[t-1]
    previous = torch.cat([torch.ones_like(h[:1]), h[:-1]])
    mask = ((h - 1) / previous).detach()
    assert set(mask.unique().tolist()) == {0.0, 2.0}
    assert is_constant_over_time(mask) == constant
    assert not torch.equal(mask[0, 0], mask[0, 1])


def test_input_and_recurrent_masks_have_their_own_lives() -> None:
    torch.manual_seed(0)
    layer = identity_rnn(6, 1.0, input=0.5, recurrent=0.5, masks="sequence", recurrent_masks="step")
    h, _ = layer(torch.ones(8, 5, 6, dtype=torch.float64))
    struck = h[:, h[0] == 0]  # units whose input is dropped for the whole sequence stay at 0
    assert struck.numel() and not struck.any()
    assert not is_constant_over_time(h)


def test_final_states_are_not_dropped() -> None:
    torch.manual_seed(0)
    layer = identity_rnn(40, 0.0, num_layers=2, output=0.5)
    output, h_n = layer(torch.ones(3, 20, 40, dtype=torch.float64))
    assert (output[-1] == 0).any()
    assert torch.equal(h_n, torch.ones_like(h_n))
    regularised = LSTM(3, 4, 2, dropout=Regularization(output=0.9))
    twin = torch.nn.LSTM(3, 4, 2)
    twin.load_state_dict(regularised.state_dict())
    x = torch.randn(5, 2, 3)
    for ours, theirs in zip(regularised(x)[1], twin(x)[1], strict=True):
        assert torch.allclose(ours, theirs)


@pytest.mark.parametrize("site", ["input", "recurrent"])
def test_directions_have_their_own_masks(site: str) -> None:
    torch.manual_seed(0)
    layer = identity_rnn(20, 1.0, bidirectional=True, masks="sequence", **{site: 0.5})
    output, _ = layer(torch.ones(4, 3, 20, dtype=torch.float64))
    forward, backward = output[..., :20], output[..., 20:].flip(0)
    assert not torch.equal(forward, backward)
    # Were only one of them masked, the other would be what it is without dropout.
    plain, _ = layer.eval()(torch.ones(4, 3, 20, dtype=torch.float64))
    assert not torch.equal(forward, plain[..., :20])
    assert not torch.equal(backward, plain[..., 20:].flip(0))


def test_output_of_two_directions_has_one_mask() -> None:
    layer = identity_rnn(3, 0.0, bidirectional=True, output=0.5)
    generator = torch.Generator().manual_seed(5)
    output, _ = layer(torch.ones(4, 2, 3, dtype=torch.float64), generator=generator)
    generator.manual_seed(5)
    assert torch.equal(output, draw_mask(0.5, 4, 2, 6, "step", generator, CPU, torch.float64))


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_is_drawn_in_eval_mode_or_at_rate_zero(name: str) -> None:
    everything = Regularization.standard(0.5)
    evaluated, unregularised = LAYERS[name](3, 4, 2, dropout=everything).eval(), LAYERS[name](3, 4, 2)
    theirs = getattr(torch.nn, name)(3, 4, 2)
    x = torch.randn(5, 2, 3)
    for layer in (evaluated, unregularised):
        theirs.load_state_dict(layer.state_dict())
        state = torch.get_rng_state()
        generator = torch.Generator().manual_seed(0)
        outputs = [layer(x)[0], layer(x, generator=generator)[0]]
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(generator.get_state(), torch.Generator().manual_seed(0).get_state())
        for output in outputs:
            assert torch.allclose(output, theirs(x)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_generators_reproduce_masks(name: str) -> None:
    layer = LAYERS[name](3, 4, 2, dropout=Regularization.standard(0.5))
    x = torch.randn(5, 2, 3)

    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(7)
    first, second = (layer(x, generator=generator)[0] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    assert not torch.equal(first, second)
    generator.manual_seed(7)
    assert torch.equal(layer(x, generator=generator)[0], first)

    torch.manual_seed(7)  # the global generator is one like any other
    assert torch.equal(layer(x)[0], first)


def test_changing_the_rate_of_a_layer_is_seen() -> None:
    layer = LSTM(3, 4, dropout=0.5)
    x = torch.randn(5, 2, 3)
    layer.dropout = 0.0
    assert torch.equal(layer(x)[0], layer(x)[0])
    layer.dropout = 2.0
    with pytest.raises(ValueError, match="dropout must be a rate"):
        layer(x)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("scheme", ["paper", "standard", "variational"])
@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_packed_and_padded_input_draw_the_same_masks(name: str, scheme: str, enforce_sorted: bool) -> None:
    layer = LAYERS[name](3, 4, 2, dropout=getattr(Regularization, scheme)(0.5), dtype=torch.float64)
    lengths = [6, 4, 3, 1] if enforce_sorted else [3, 6, 1, 4]
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    padded, _ = layer(x, generator=torch.Generator().manual_seed(1))
    packed, _ = layer(
        pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted),
        generator=torch.Generator().manual_seed(1),
    )
    unpacked, _ = pad_packed_sequence(packed)
    for b, length in enumerate(lengths):
        assert torch.allclose(unpacked[:length, b], padded[:length, b], rtol=0, atol=1e-12)
        assert not unpacked[length:, b].any()


# A whole layer again by hand


def by_hand(
    layer: LSTM | GRU | RNN, x_TBI: Tensor, lengths: list[int], seed: int
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """One sequence and one step at a time, with masks drawn in the order of the layer.

    Returns:
        the output of each sequence (its length, D H), and for each sequence its final h per layer and direction.
    """
    rates: Regularization = layer.dropout
    directions, H = 2 if layer.bidirectional else 1, layer.hidden_size
    T, B, _ = x_TBI.shape
    generator = torch.Generator().manual_seed(seed)

    def mask(rate: float, features: int, kind: str) -> Tensor:
        if rate == 0:
            return torch.ones(T, B, features, dtype=x_TBI.dtype)
        return draw_mask(rate, T, B, features, kind, generator, CPU, x_TBI.dtype).expand(T, -1, -1)

    sequences = [x_TBI[:length, b] for b, length in enumerate(lengths)]
    final: list[list[Tensor]] = [[] for _ in lengths]
    for k in range(layer.num_layers):
        rate = rates.input if k == 0 else rates.between
        outputs = [[] for _ in lengths]
        for direction in range(directions):
            site = mask(rate, sequences[0].size(-1), rates.masks)
            recurrent = mask(rates.recurrent, H, rates.recurrent_masks or rates.masks)
            weights = layer.all_weights[k * directions + direction]
            if not layer.bias:
                weights = [*weights, None, None]
            for b, sequence in enumerate(sequences):
                h = c = torch.zeros(1, H, dtype=x_TBI.dtype)
                steps = {}
                times = range(lengths[b])
                for t in reversed(times) if direction else times:
                    x, m = (sequence[t] * site[t, b])[None], recurrent[t, b][None]
                    if isinstance(layer, LSTM):
                        h, c = lstm_step(x, (h, c), *weights, m)
                    elif isinstance(layer, GRU):
                        h = gru_step(x, h, *weights, m)
                    else:
                        h = rnn_step(x, h, *weights, layer.nonlinearity, m)
                    steps[t] = h[0]
                outputs[b].append(torch.stack([steps[t] for t in times]))
                final[b].append(h[0])
        sequences = [torch.cat(o, -1) for o in outputs]
    site = mask(rates.output, directions * H, rates.masks)
    return [s * site[: len(s), b] for b, s in enumerate(sequences)], final


rate = st.sampled_from([0.0, 0.3, 0.5])
kind = st.sampled_from(["step", "sequence"])


@given(
    name=st.sampled_from(["LSTM", "GRU", "tanh", "relu", "sigmoid"]),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)),
    bias=st.booleans(),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    packed=st.booleans(),
    regularization=st.builds(
        Regularization,
        input=rate,
        between=rate,
        output=rate,
        recurrent=rate,
        masks=kind,
        recurrent_masks=st.one_of(st.none(), kind),
    ),
)
@settings(deadline=None, max_examples=60, derandomize=True, database=None)
def test_training_output_again_by_hand(
    name: str,
    sizes: tuple[int, int, int],
    bias: bool,
    bidirectional: bool,
    batch_first: bool,
    lengths: list[int],
    packed: bool,
    regularization: Regularization,
) -> None:
    arguments = {"bias": bias, "bidirectional": bidirectional, "batch_first": batch_first}
    arguments |= {"dropout": regularization, "dtype": torch.float64}
    if name in LAYERS:
        layer = LAYERS[name](*sizes, **arguments)
    else:
        layer = RNN(*sizes, nonlinearity=name, **arguments)
    if not packed:
        lengths = [max(lengths)] * len(lengths)
    x = torch.randn(max(lengths), len(lengths), sizes[0], dtype=torch.float64)
    given = x.transpose(0, 1) if batch_first else x
    if packed:
        given = pack_padded_sequence(given, lengths, batch_first=batch_first, enforce_sorted=False)
    output, state = layer(given, generator=torch.Generator().manual_seed(11))
    h_n = state[0] if name == "LSTM" else state
    if packed:
        output, _ = pad_packed_sequence(output, batch_first=batch_first)
    if batch_first:
        output = output.transpose(0, 1)

    expected, final = by_hand(layer, x, lengths, 11)
    for b, length in enumerate(lengths):
        assert torch.allclose(output[:length, b], expected[b], rtol=1e-10, atol=1e-12)
        assert torch.allclose(h_n[:, b], torch.stack(final[b]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("packed", [True, False])
def test_gradients_through_masks_are_right(name: str, packed: bool) -> None:
    layer = LAYERS[name](2, 2, 2, bidirectional=True, dropout=Regularization.standard(0.4), dtype=torch.float64)
    x = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, *_: Tensor) -> Tensor:
        given = pack_padded_sequence(x, [2, 3, 1], enforce_sorted=False) if packed else x
        output, _ = layer(given, generator=torch.Generator().manual_seed(3))
        return output.data if packed else output

    # The parameters are arguments too, so that they are varied; `run` sees them through the layer.
    assert torch.autograd.gradcheck(run, (x, *layer.parameters()), fast_mode=True)


def test_unbatched_input_is_a_batch_of_one() -> None:
    layer = GRU(3, 4, 2, dropout=Regularization.standard(0.5))
    x = torch.randn(5, 3)
    alone, h = layer(x, generator=torch.Generator().manual_seed(1))
    batch, h_n = layer(x[:, None], generator=torch.Generator().manual_seed(1))
    assert torch.equal(alone, batch[:, 0]) and torch.equal(h, h_n[:, 0])
