"""corruption_count must find every strike of dropout, wherever it is and however it is written."""

import copy
import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from regrnn.errors import RegrnnError
from regrnn.nn import GRU, LSTM, RNN, Regularization
from regrnn.nn.corruption import CorruptionCount, corruption_count, corruption_profile

I, H, P = 3, 4, 0.5  # noqa: E741 (as in the shapes: input, hidden; P is a rate)

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = [LSTM, GRU, RNN]
TORCH_LAYERS = [nn.LSTM, nn.GRU, nn.RNN]


def flat(count: int, distances: int = 4) -> list[tuple[int, int]]:
    return [(count, count)] * distances


# The layers of this package and of torch.


@pytest.mark.parametrize("num_layers", [1, 2, 4])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_papers_dropout_strikes_once_more_than_there_are_layers(layer, num_layers):
    assert corruption_profile(layer(I, H, num_layers, dropout=P), 3) == flat(num_layers + 1)


@pytest.mark.parametrize("num_layers", [2, 4])
@pytest.mark.parametrize("layer", TORCH_LAYERS)
def test_torch_drops_between_layers_only(layer, num_layers):
    assert corruption_profile(layer(I, H, num_layers, dropout=P), 3) == flat(num_layers - 1)


@pytest.mark.parametrize("layer", LAYERS + TORCH_LAYERS)
def test_nothing_strikes_without_dropout(layer):
    assert corruption_profile(layer(I, H, 2), 2) == flat(0, 3)


@pytest.mark.parametrize("layer", LAYERS + TORCH_LAYERS)
def test_both_directions_of_a_bidirectional_layer(layer):
    paper = layer in LAYERS
    module = layer(I, H, 2, dropout=P, bidirectional=True)
    assert corruption_profile(module, 2) == flat(3 if paper else 1, 3)


@pytest.mark.parametrize("scheme", [Regularization.standard(P), Regularization.variational(P)])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_dropout_on_the_recurrent_state_strikes_at_every_step(scheme, num_layers):
    grown = [(num_layers + 1 + d, num_layers + 1 + d) for d in range(4)]
    assert corruption_profile(RNN(I, H, num_layers, dropout=scheme), 3) == grown
    # Their states have a way through time that the mask on h does not touch.
    for layer in (LSTM, GRU):
        profile = corruption_profile(layer(I, H, num_layers, dropout=scheme), 3)
        assert profile == [(num_layers + 1, most) for _, most in grown]


@pytest.mark.parametrize(
    ("scheme", "count"),
    [
        (Regularization(input=P), 1),
        (Regularization(between=P), 2),
        (Regularization(output=P), 1),
        (Regularization(input=P, output=P), 2),
    ],
)
def test_each_site_counts_by_itself(scheme, count):
    assert corruption_profile(LSTM(I, H, 3, dropout=scheme), 2) == flat(count, 3)


def test_only_the_distance_matters():
    module = RNN(I, H, dropout=Regularization.standard(P))
    counts = [corruption_count(module, back=back, ahead=5 - back) for back in range(6)]
    assert counts == [CorruptionCount(least=7, most=7)] * 6


def test_called_in_inference_mode_or_compiled():
    with torch.inference_mode():
        assert corruption_count(nn.LSTM(I, H, 2, dropout=P)) == (1, 1)
        assert corruption_count(LSTM(I, H, 2, dropout=P), inputs=torch.rand(6, 2, I)) == (3, 3)
    compiled = torch.compile(nn.Sequential(nn.Dropout(P), nn.Tanh()), backend="eager")
    assert corruption_count(compiled, back=0, ahead=0, inputs=torch.rand(3, 2, I)) == (1, 1)


def test_layouts_and_dtypes():
    assert corruption_count(nn.GRU(I, H, 2, dropout=P, batch_first=True)) == (1, 1)
    assert corruption_count(LSTM(I, H, 2, dropout=P, batch_first=True)) == (3, 3)
    assert corruption_count(LSTM(I, H, 2, dropout=P).double()) == (3, 3)
    assert corruption_count(LSTM(I, H, dropout=P), inputs=torch.rand(6, I)) == (2, 2)  # one sequence
    standard = RNN(I, H, dropout=Regularization.standard(P), batch_first=True)
    for time_dim in (1, -2):
        assert corruption_count(standard, inputs=torch.rand(2, 9, I), time_dim=time_dim) == (6, 6)
    assert corruption_count(standard, back=0, ahead=0, inputs=torch.rand(2, 1, I)) == (2, 2)


def test_a_sequence_just_long_enough():
    # The marked step is the first one, which meets the zeros of the initial state.
    module = LSTM(I, H, dropout=Regularization.standard(P))
    assert corruption_count(module, inputs=torch.rand(5, 2, I)) == (2, 6)


def test_the_classic_idiom_around_torchs_layer():
    class Classic(nn.Module):
        input_size = I

        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(I, H, 2, dropout=P)
            self.drop = nn.Dropout(P)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(self.rnn(self.drop(x))[0])

    assert corruption_profile(Classic(), 3) == flat(3)


def test_a_language_model_from_token_ids():
    class LanguageModel(nn.Module):
        def __init__(self, rnn: nn.Module) -> None:
            super().__init__()
            self.encoder = nn.Embedding(11, I)
            self.rnn = rnn
            self.decoder = nn.Linear(H, 11)
            self.decoder.bias.data.zero_()

        def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
            output, state = self.rnn(self.encoder(tokens))
            return F.log_softmax(self.decoder(output), dim=-1), state

    tokens = torch.randint(11, (7, 2))
    assert corruption_count(LanguageModel(LSTM(I, H, 2, dropout=P)), inputs=tokens) == (3, 3)
    assert corruption_count(LanguageModel(nn.LSTM(I, H, 2, dropout=P)), inputs=tokens) == (1, 1)
    batch_first = LanguageModel(LSTM(I, H, 2, dropout=P, batch_first=True))
    assert corruption_count(batch_first, inputs=tokens.T, time_dim=1) == (3, 3)


# Layers with a mask in the wrong place, and ways to write dropout.


class Loop(nn.Module):
    """An RNN by hand, with a place for dropout on its input, its recurrent state and its output."""

    input_size = I

    def __init__(self, input=None, recurrent=None, output=None) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.rand(I, H))
        self.u = nn.Parameter(torch.rand(H, H))
        self.drops = [drop or (lambda h: h) for drop in (input, recurrent, output)]

    def forward(self, x: Tensor) -> Tensor:
        drop_input, drop_recurrent, drop_output = self.drops
        h, outputs = x.new_zeros(x.size(1), H), []
        for x_t in drop_input(x):
            h = torch.tanh(x_t @ self.w + drop_recurrent(h) @ self.u)
            outputs.append(h)
        return drop_output(torch.stack(outputs))


def drop_in_place(h: Tensor) -> Tensor:
    return h.clone().mul_(torch.empty_like(h).bernoulli_(1 - P).div_(1 - P))


def drop_into(h: Tensor) -> Tensor:
    return torch.mul(h, torch.bernoulli(torch.full_like(h, 1 - P)), out=torch.empty_like(h))


def drop_by_assignment(h: Tensor) -> Tensor:
    h = h.clone()
    h[torch.rand_like(h) < P] = 0
    return h


def drop_half_through_a_view(h: Tensor) -> Tensor:
    h = h.clone()
    h[..., ::2].mul_(torch.bernoulli(torch.full((1,), P)))
    h[..., 1::2] *= torch.bernoulli(torch.full((1,), P))
    return h


DROPS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.dropout": lambda h: F.dropout(h, P),
    "F.dropout in place": lambda h: F.dropout(h.clone(), P, inplace=True),
    "nn.Dropout": nn.Dropout(P),
    "features": lambda h: F.dropout1d(h, P) if h.dim() == 3 else F.dropout(h, P),
    "native": lambda h: torch.native_dropout(h, P, True)[0],
    "mul_": drop_in_place,
    "out=": drop_into,
    "bernoulli": lambda h: h * torch.bernoulli(torch.full_like(h, 1 - P)) / (1 - P),
    "one mask for all": lambda h: h * torch.bernoulli(torch.tensor(P)),
    "one mask a unit": lambda h: h * (torch.rand(h.size(-1)) > P),
    "rand": lambda h: (torch.rand_like(h) > P) * h,
    "own generator": lambda h: h * torch.rand(h.shape, generator=torch.Generator()).gt(P).to(h.dtype),
    "division": lambda h: h / (1 + torch.rand_like(h)),
    "gaussian": lambda h: h * torch.normal(1.0, 0.5, h.shape),
    "additive": lambda h: h + 0.1 * torch.randn_like(h),
    "masked_fill": lambda h: h.masked_fill(torch.rand_like(h) < P, 0.0),
    "where": lambda h: torch.where(torch.rand_like(h) < P, torch.zeros_like(h), h),
    "where scalar": lambda h: torch.where(torch.rand_like(h) < P, 0.0, h),
    "assignment": drop_by_assignment,
    "views": drop_half_through_a_view,
    "addcmul": lambda h: torch.addcmul(torch.zeros_like(h), h, torch.bernoulli(torch.full_like(h, P))),
    "einsum": lambda h: torch.einsum("...h,h->...h", h, torch.bernoulli(torch.full((h.size(-1),), P))),
    "diagonal": lambda h: h @ torch.diag(torch.bernoulli(torch.full((h.size(-1),), P))),
    "permutation": lambda h: h * (torch.randperm(h.size(-1)) < 2),
    "chosen units": lambda h: h * torch.zeros(h.size(-1)).scatter(0, torch.randperm(h.size(-1))[:2], 1.0),
    "sorted noise": lambda h: h * (torch.rand(h.size(-1)).argsort() < 2),
}


def test_a_loop_by_hand_with_a_mask_missing():
    drop = nn.Dropout(P)
    assert corruption_profile(Loop(), 2) == flat(0, 3)
    assert corruption_profile(Loop(input=drop), 2) == flat(1, 3)
    assert corruption_profile(Loop(output=drop), 2) == flat(1, 3)


@pytest.mark.parametrize("name", DROPS)
def test_any_way_to_write_dropout_at_any_place(name):
    drop = DROPS[name]
    assert corruption_profile(Loop(input=drop, output=drop), 2) == flat(2, 3)
    assert corruption_profile(Loop(recurrent=drop), 2) == [(0, 0), (1, 1), (2, 2)]
    assert corruption_profile(Loop(drop, drop, drop), 2) == [(2, 2), (3, 3), (4, 4)]


def test_sabotaged_layers_of_this_package_are_found_out():
    class Doubled(LSTM):
        def forward(self, input, hx=None, *, generator=None):
            return super().forward(F.dropout(input, P), hx, generator=generator)

    class WithoutOutput(LSTM):
        def __init__(self) -> None:
            super().__init__(I, H, 2, dropout=Regularization(input=P, between=P))
            self.rate = P

    class Stepwise(LSTM):
        def forward(self, input, hx=None, *, generator=None):
            outputs = []
            for x in input.split(1):
                output, hx = super().forward(x, hx, generator=generator)
                hx = tuple(F.dropout(s, P) for s in hx)
                outputs.append(output)
            return torch.cat(outputs), hx

    assert corruption_profile(Doubled(I, H, 2, dropout=P), 3) == flat(4)
    assert corruption_profile(WithoutOutput(), 3) == flat(2)
    assert corruption_profile(Stepwise(I, H, 2, dropout=P), 3) == [(3 + d, 3 + d) for d in range(4)]


def test_a_mask_on_some_units_or_some_steps_is_found_out():
    some_units = Loop(output=lambda h: torch.cat([h[..., :1], F.dropout(h[..., 1:], P)], dim=-1))
    assert corruption_count(some_units) == (0, 1)

    def drop_first_step(x: Tensor) -> Tensor:
        return torch.cat([F.dropout(x[:1], P), x[1:]])

    assert corruption_count(Loop(input=drop_first_step), inputs=torch.rand(5, 2, I)) == (1, 1)
    assert corruption_count(Loop(input=drop_first_step), inputs=torch.rand(6, 2, I)) == (0, 0)


def test_dropout_on_weights_strikes_where_they_are_used():
    class WeightDrop(Loop):
        def forward(self, x: Tensor) -> Tensor:
            h, outputs, u = x.new_zeros(x.size(1), H), [], F.dropout(self.u, P)
            bias = F.dropout(torch.ones(H) * self.w[0, 0], P)
            for x_t in x:
                h = torch.tanh(torch.addmm(x_t @ self.w, h, u) + bias)
                outputs.append(h)
            return torch.stack(outputs)

    assert corruption_profile(WeightDrop(), 3) == [(d, d) for d in range(4)]

    table = nn.Parameter(torch.rand(11, H))
    for embed in (lambda tokens, rows: F.embedding(tokens, rows), lambda tokens, rows: rows[tokens]):
        rows_dropped = lambda tokens: embed(tokens, F.dropout1d(table[None], P)[0])  # noqa: B023, E731
        assert corruption_count(rows_dropped, back=0, ahead=0, inputs=torch.randint(11, (3, 2))) == (1, 1)


def test_zoneout_strikes_both_states_it_chooses_from():
    class Zoneout(Loop):
        def forward(self, x: Tensor) -> Tensor:
            h, outputs = x.new_zeros(x.size(1), H), []
            for x_t in x:
                kept = torch.rand_like(h) < P
                h = torch.where(kept, h, torch.tanh(x_t @ self.w + h @ self.u))
                outputs.append(h)
            return torch.stack(outputs)

    assert corruption_profile(Zoneout(), 3) == [(d + 1, d + 1) for d in range(4)]


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("recurrent", [False, True])
def test_the_least_count_is_the_order_in_which_the_gradient_vanishes(cell, recurrent):
    # With z in place of every mask, a path with n strikes adds a multiple of z**n to d output / d input.
    torch.manual_seed(0)
    cells = nn.ModuleList([cell(I, H), cell(H, H)]).double()
    distance = 3

    def stack(x: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
        for layer in cells:
            state, outputs = None, []
            for x_t in drop(x):
                if recurrent and state is not None:
                    state = (drop(state[0]), state[1]) if cell is nn.LSTMCell else drop(state)
                state = layer(x_t, state)
                outputs.append(state[0] if cell is nn.LSTMCell else state)
            x = torch.stack(outputs)
        return drop(x)

    inputs = torch.rand(distance + 1, 2, I, dtype=torch.float64)

    def gradient(z: float) -> float:
        x = inputs.clone().requires_grad_()
        (dx,) = torch.autograd.grad(stack(x, lambda h: z * h)[-1].sum(), x)
        return dx[0].abs().sum().item()

    order = math.log(gradient(1e-3) / gradient(1e-4)) / math.log(10)
    count = corruption_count(lambda x: stack(x, nn.Dropout(P)), back=distance, ahead=0, inputs=inputs)
    assert count.least == round(order)
    assert abs(order - round(order)) < 0.05
    assert count.most == 3 + recurrent * distance


# What is a path.


def test_constants_carry_nothing_and_known_masks_do_not_strike():
    kept = torch.tensor([1.0, 0.0, 1.0, 0.0])

    class Half(Loop):
        def forward(self, x: Tensor) -> Tensor:
            output = super().forward(x)
            struck = F.dropout(output, P)
            return output * kept + struck * (1 - kept)

    half = Half()
    assert corruption_count(half) == (0, 1)
    assert corruption_count(lambda x: half(x) * kept, inputs=torch.rand(7, 2, I)) == (0, 0)
    assert corruption_count(lambda x: half(x) * (1 - kept), inputs=torch.rand(7, 2, I)) == (1, 1)
    for nothing in (
        lambda x: x * 0,
        lambda x: x * torch.zeros(1),
        lambda x: x @ torch.zeros(I, H),
        lambda x: torch.zeros_like(x) + x.new_ones(()),
        lambda x: x.masked_fill(torch.ones_like(x, dtype=torch.bool), 1.0),
        lambda x: F.dropout(x, 1.0),
    ):
        with pytest.raises(ValueError, match="does not depend on the input"):
            corruption_count(nothing, back=0, ahead=0, inputs=torch.rand(3, 2, I))


def test_a_bypass_is_a_path():
    assert corruption_count(Loop(input=lambda x: x + F.dropout(x, P))) == (0, 1)


def test_time_runs_one_way():
    shifted = Loop(input=lambda x: x.roll(1, 0))
    assert corruption_count(shifted, back=1, ahead=0) == (0, 0)
    with pytest.raises(ValueError, match="at a distance of 0 time steps"):
        corruption_count(shifted, back=0, ahead=0)

    class CausalAttention(nn.Module):
        input_size = I

        def forward(self, x: Tensor) -> Tensor:
            x = x.transpose(0, 1)
            future = torch.ones(x.size(1), x.size(1), dtype=torch.bool).triu(1)
            scores = (x @ x.transpose(1, 2)).masked_fill(future, -torch.inf)
            return (F.dropout(scores.softmax(-1), P) @ x).transpose(0, 1)

    # Through the keys a path meets the mask; as a value, data only.
    assert corruption_count(CausalAttention()) == (0, 1)
    with pytest.raises(ValueError, match="at a distance of 1 time steps"):
        corruption_count(lambda x: CausalAttention()(x.flip(0)).flip(0), back=1, inputs=torch.rand(6, 2, I), ahead=0)


# Operations. Each is a module of which the strikes are plain to see.

OPERATIONS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, int]]] = {
    "layer norm": (lambda x: F.layer_norm(F.dropout(x, P), [I], torch.ones(I), torch.ones(I)), (1, 1)),
    "batch of products": (lambda x: torch.bmm(F.dropout(x, P), x.transpose(1, 2)), (0, 1)),
    "product of half": (lambda x: torch.cat([F.dropout(x, P), x], -1) @ torch.ones(2 * I, H), (0, 1)),
    "known zero weights": (
        lambda x: torch.cat([F.dropout(x, P), x], -1) @ torch.eye(2 * I)[:, :I],
        (1, 1),
    ),
    "matrix vector": (lambda x: torch.stack([x_t @ F.dropout(torch.ones(I), P) for x_t in x]), (1, 1)),
    "vector vector": (lambda x: torch.stack([x_t[0] @ torch.ones(I) for x_t in F.dropout(x, P)]), (1, 1)),
    "mean": (lambda x: F.dropout(x, P).mean(-1), (1, 1)),
    "max": (lambda x: torch.cat([x, F.dropout(x, P)], -1).max(-1).values, (0, 1)),
    "sum of all but time": (lambda x: F.dropout(x, P).sum((1, 2), keepdim=True), (1, 1)),
    "cumulative sum": (lambda x: torch.cat([F.dropout(x, P), x], -1).cumsum(-1)[..., :I], (1, 1)),
    "gather": (lambda x: F.dropout(x, P).gather(-1, torch.zeros(*x.shape[:2], 1, dtype=torch.long)), (1, 1)),
    "index select": (lambda x: F.dropout(x, P).index_select(-1, torch.tensor([2, 0])), (1, 1)),
    "known index": (lambda x: torch.cat([F.dropout(x, P), x], -1)[..., torch.tensor([0, 2])], (1, 1)),
    "known mask": (lambda x: F.dropout(x, P)[:, :, torch.tensor([True, False, True])], (1, 1)),
    "padding": (lambda x: F.pad(F.dropout(x, P), (1, 1), value=1.0), (1, 1)),
    "flip, repeat, tril": (lambda x: F.dropout(x, P).flip(-1).repeat(1, 1, 2).tril(9), (1, 1)),
    "relu, lerp": (lambda x: torch.lerp(torch.relu(F.dropout(x, P)), x, 0.5), (0, 1)),
    "assignment": (lambda x: torch.zeros(*x.shape).index_put((torch.arange(len(x)),), F.dropout(x, P)), (1, 1)),
    "scattered": (
        lambda x: torch.zeros(*x.shape).scatter(-1, torch.arange(I).expand(x.shape), F.dropout(x, P)),
        (1, 1),
    ),
    "comparison": (lambda x: F.dropout(x, P) > 0.5, (1, 1)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_move_counts_as_they_move_numbers(name):
    module, count = OPERATIONS[name]
    assert corruption_count(module, back=0, ahead=0, inputs=torch.rand(3, 2, I)) == count


def test_one_hot_and_packed_sequences():
    one_hot = lambda tokens: F.dropout(F.one_hot(tokens, 11).float(), P)  # noqa: E731
    assert corruption_count(one_hot, back=0, ahead=0, inputs=torch.randint(11, (3, 2))) == (1, 1)

    layer = LSTM(I, H, 2, dropout=P)

    def packed(x: Tensor) -> Tensor:
        output, _ = layer(pack_padded_sequence(x, torch.tensor([7, 6])))
        return pad_packed_sequence(output)[0]

    assert corruption_count(packed, inputs=torch.rand(7, 2, I)) == (3, 3)


@pytest.mark.parametrize(
    ("module", "operation"),
    [
        (lambda x: F.conv1d(x, torch.ones(2, 2, 1)), "aten.convolution"),
        (lambda x: x.sort(-1).values, "aten.sort"),
        (lambda x: x[:, torch.randperm(2)], "aten.index"),
        (lambda x: x * torch.bernoulli(torch.sigmoid(x)), "aten.bernoulli.default, which is random, on data"),
        (lambda x: x * x.sum().item(), "aten._local_scalar_dense"),
        (torch.inference_mode()(lambda x: F.dropout(x, P)), "aten.dropout"),
        (lambda x: x.view(torch.float64), "another size"),
        (lambda x: x.to_sparse(), "sparse"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(module, operation):
    with pytest.raises(RegrnnError, match=operation):
        corruption_count(module, back=0, ahead=0, inputs=torch.rand(3, 2, I + 1))


# Arguments, outputs, and what must stay as it was.


@pytest.mark.parametrize("wrap", ["tuple", "list", "dict", "dataclass"])
def test_the_first_tensor_returned_is_the_output(wrap):
    @dataclasses.dataclass
    class Output:
        name: str
        output: Tensor
        other: Tensor

    def module(x: Tensor) -> object:
        output, other = F.dropout(x, P), x
        return {
            "tuple": (("name", output), other),
            "list": [None, output, other],
            "dict": {"name": "x", "output": output, "other": other},
            "dataclass": Output("x", output, other),
        }[wrap]

    assert corruption_count(module, back=0, ahead=0, inputs=torch.rand(3, 2, I)) == (1, 1)


def test_wrong_arguments_are_refused():
    module, inputs = LSTM(I, H), torch.rand(4, 2, I)
    with pytest.raises(ValueError, match="back=-1"):
        corruption_count(module, back=-1)
    with pytest.raises(ValueError, match="distance must be at least 0, got -1"):
        corruption_profile(module, -1)
    with pytest.raises(ValueError, match="4 time steps in dimension 0, fewer than the 5"):
        corruption_count(module, inputs=inputs)
    with pytest.raises(ValueError, match="time_dim=3"):
        corruption_count(module, inputs=inputs, time_dim=3)
    with pytest.raises(ValueError, match=r"inputs=\.\.\."):
        corruption_count(nn.Linear(I, H))
    with pytest.raises(ValueError, match="no time dimension"):
        corruption_count(lambda x: module(x)[0][-1], back=1, ahead=0, inputs=inputs)
    with pytest.raises(ValueError, match="returned no tensor but NoneType"):
        corruption_count(lambda x: None, back=1, ahead=0, inputs=inputs)


def test_nothing_of_the_callers_changes():
    class Counting(nn.Module):
        input_size = I

        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator()
            self.rnn = LSTM(I, H, 2, dropout=P)
            self.frozen = nn.Dropout(P).eval()
            self.register_buffer("calls", torch.zeros(()))
            self.last_state: object = None

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            output, self.last_state = self.rnn(self.frozen(x), generator=self.generator)
            return output

    module = Counting().eval()
    inputs = torch.rand(7, 2, I, requires_grad=True)
    before = copy.deepcopy(module.state_dict()), inputs.detach().clone()
    states = torch.get_rng_state(), module.generator.get_state()
    onednn = torch.backends.mkldnn.enabled
    # eval mode is the caller's; the measurement is of training, so `frozen` strikes too.
    assert corruption_count(module, inputs=inputs) == (4, 4)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(module.generator.get_state(), states[1])
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[0][name])
    assert torch.equal(inputs, before[1])
    assert not any(m.training for m in module.modules())
    assert module.last_state is None
    assert torch.backends.mkldnn.enabled == onednn
    assert torch.is_grad_enabled()


def test_an_error_in_the_module_leaves_everything_as_it_was():
    inputs = torch.rand(7, 2, I)
    onednn, state = torch.backends.mkldnn.enabled, torch.get_rng_state()

    def fail(x: Tensor) -> Tensor:
        torch.rand(1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        corruption_count(fail, inputs=inputs)
    assert torch.backends.mkldnn.enabled == onednn
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
