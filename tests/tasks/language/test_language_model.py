"""`regrnn.tasks.language.model` and the loss and training of `LanguageTask`, against plain torch.nn."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import regrnn
from regrnn.config import fill
from regrnn.errors import RegrnnError
from regrnn.tasks.language.data import DataConfig, read_corpus
from regrnn.tasks.language.model import LanguageModel, ModelConfig
from regrnn.tasks.language.task import LanguageTask
from regrnn.training.loop import Trainer
from regrnn.training.recipe import recipe_from_dict
from regrnn.training.run import Run

CPU = torch.device("cpu")


class Oracle(nn.Module):
    """The language model of torch.nn alone, with the weights of a `LanguageModel`."""

    def __init__(self, model: LanguageModel, cell: str) -> None:
        super().__init__()
        types, size = model.encoder.weight.shape
        hidden = model.decoder.in_features
        layer = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell]
        self.encoder = nn.Embedding(types, size)
        self.rnn = layer(size, hidden, sum(name.startswith("weight_ih") for name, _ in model.rnn.named_parameters()))
        self.decoder = nn.Linear(hidden, types)
        self.load_state_dict(model.state_dict())

    def forward(self, x_TB: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        h_TBH, state = self.rnn(self.encoder(x_TB), state)
        return self.decoder(h_TBH), state


def tokens(types: int, steps: int, batch: int, seed: int = 3) -> Tensor:
    return torch.randint(types, (steps, batch), generator=torch.Generator().manual_seed(seed))


def test_tying_shares_one_tensor() -> None:
    tied = LanguageModel(ModelConfig(hidden_size=6, tied=True), 11)
    assert tied.decoder.weight is tied.encoder.weight
    untied = LanguageModel(ModelConfig(hidden_size=6), 11)
    assert untied.decoder.weight is not untied.encoder.weight
    count = {name: sum(p.numel() for p in model.parameters()) for name, model in (("t", tied), ("u", untied))}
    assert count["u"] - count["t"] == 11 * 6
    logits, _ = tied(tokens(11, 4, 2))
    torch.autograd.backward(logits.sum())
    with torch.no_grad():
        tied.encoder.weight += 1  # an update of the one is an update of the other
    assert torch.equal(tied.encoder.weight, tied.decoder.weight)


@pytest.mark.parametrize(("hidden", "parameters"), [(200, 4_653_200), (650, 19_780_400), (1500, 66_034_000)])
def test_number_of_parameters_is_the_papers(hidden: int, parameters: int) -> None:
    with torch.device("meta"):
        model = LanguageModel(ModelConfig(hidden_size=hidden), 10_000)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_all_parameters_start_uniform_in_the_range() -> None:
    torch.manual_seed(1)
    model = LanguageModel(ModelConfig(hidden_size=64, init=0.04), 100)
    for name, parameter in model.named_parameters():
        assert parameter.abs().max() <= 0.04, name
        assert parameter.abs().max() > 0.039, name  # biases too
        assert abs(parameter.mean().item()) < 0.01, name
        if parameter.dim() > 1:
            assert parameter.std().item() == pytest.approx(0.04 / 3**0.5, rel=0.05), name


def test_embedding_size_of_its_own() -> None:
    model = LanguageModel(ModelConfig(hidden_size=6, embedding_size=4), 11)
    assert model.encoder.weight.shape == (11, 4)
    assert model.rnn.weight_ih_l0.shape == (24, 4)
    assert model.decoder.weight.shape == (11, 6)


def test_a_rate_is_the_papers_dropout_and_a_table_says_it_in_full() -> None:
    rate = fill(ModelConfig, {"hidden_size": 8, "dropout": 0.3}, "[model]")
    table = fill(ModelConfig, {"hidden_size": 8, "dropout": {"input": 0.3, "between": 0.3, "output": 0.3}}, "[model]")
    assert table.dropout == regrnn.Regularization.paper(0.3)
    models = []
    for config in (rate, table):
        torch.manual_seed(1)
        models.append(LanguageModel(config, 11).train())
    x_TB = tokens(11, 5, 2)
    logits = []
    for model in models:
        torch.manual_seed(2)
        logits.append(model(x_TB)[0])
    assert torch.equal(*logits)
    assert not torch.equal(logits[0], models[0].eval()(x_TB)[0])


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_dropout_strikes_layers_plus_one_times(cell: str, layers: int) -> None:
    settings: dict[str, Any] = {"cell": cell, "num_layers": layers, "hidden_size": 4}
    inputs = tokens(7, 6, 2)
    paper = LanguageModel(ModelConfig(**settings, dropout=0.5), 7)
    for distance in (0, 4):
        assert regrnn.corruption_count(paper, back=distance, ahead=0, inputs=inputs) == (layers + 1, layers + 1)
    none = LanguageModel(ModelConfig(**settings), 7)
    assert regrnn.corruption_count(none, back=4, ahead=0, inputs=inputs) == (0, 0)
    standard = LanguageModel(ModelConfig(**settings, dropout=regrnn.Regularization.standard(0.5)), 7)
    most = regrnn.corruption_count(standard, back=4, ahead=0, inputs=inputs).most
    assert most == layers + 1 + 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 0}, "hidden_size = 0 must be from 1 to 1,000,000"),
        ({"num_layers": 0}, "num_layers = 0 must be from 1 to"),
        ({"embedding_size": 10**20}, "embedding_size = 100000000000000000000 must be from 1 to"),
        ({"init": 0.0}, "init = 0.0 must be above 0"),
        ({"dropout": 1.0}, r"dropout must be a rate in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"dropout must be a rate in \[0, 1\), got -0.1"),
        ({"dropout": {"between": 1.5}}, r"dropout: between must be a rate in \[0, 1\), got 1.5"),
        ({"dropout": {"beween": 0.5}}, "dropout: unknown key 'beween'; did you mean 'between'"),
        ({"tied": True, "embedding_size": 3}, "tied = true needs embedding_size = hidden_size, and they are 3 and 200"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RegrnnError, match=message):
        fill(ModelConfig, settings, "my.toml [model]")


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_loss_and_gradient_are_the_papers(tiny_text: Path, cell: str) -> None:
    """Summed over time, averaged over the batch: the gradient is that of total / normaliser."""
    data = DataConfig(path=str(tiny_text), batch_size=4, steps=9)
    config = ModelConfig(cell=cell, hidden_size=10, num_layers=2, init=0.3)  # type: ignore[arg-type]
    task = LanguageTask(read_corpus(data), data, config)
    torch.manual_seed(1)
    model = task.build_model()
    oracle = Oracle(model, cell)
    state: dict[str, Tensor] = {}
    oracle_state = None
    for position in range(2):
        x_TB, y_TB = task.batch(1, position, CPU)
        loss = task.loss(model, (x_TB, y_TB), state)
        logits, oracle_state = oracle(x_TB, oracle_state)
        by_time = F.cross_entropy(logits.flatten(0, 1), y_TB.flatten(), reduction="none").view(y_TB.shape)
        expected = by_time.sum(0).mean()
        torch.testing.assert_close(loss.total / loss.normaliser, expected, rtol=1e-6, atol=0)
        assert loss.predictions == 36
        torch.autograd.backward(loss.total / loss.normaliser)
        torch.autograd.backward(expected)
        state = {name: tensor.detach() for name, tensor in loss.state.items()}
        oracle_state = tuple(s.detach() for s in oracle_state) if cell == "lstm" else oracle_state.detach()
    expected_gradients = {name: parameter.grad for name, parameter in oracle.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected_gradients[name], rtol=1e-4, atol=1e-6)


@dataclass
class Recorder:
    """A run's progress: the mean loss of the epoch so far behind every batch."""

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def resumed(self, checkpoint: Path, values: dict[str, Any]) -> None:
        raise AssertionError("nothing was saved")

    def step(self, epoch: int, position: int, batches: int, loss: float, rate: float) -> None:
        self.losses.append(loss)

    def evaluating(self, split: str) -> None:
        pass

    def epoch(self, record: dict[str, Any]) -> None:
        self.rates.append(record["learning_rate"])


@pytest.fixture
def float64() -> Iterator[None]:
    """50 updates make a difference in the last digit of float32 grow beyond the tolerance."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("timing", "rates"), [("text", [1.0, 0.5, 0.25]), ("code", [1.0, 1.0, 0.5])])
def test_training_is_the_papers(tiny_text: Path, tmp_path: Path, timing: str, rates: list[float]) -> None:
    """51 updates: SGD, the norm of all gradients clipped, the state carried within an epoch, the decaying rate."""
    recipe = recipe_from_dict(
        {
            "task": "language",
            "data": {"path": str(tiny_text), "batch_size": 6, "steps": 20},
            "model": {"hidden_size": 16, "num_layers": 2, "init": 0.3},
            "training": {"epochs": 3, "hold_epochs": 1, "decay": 2.0, "timing": timing, "clip": 4.0},
        },
        "test",
    )
    task = LanguageTask.prepare(recipe.sections)
    assert task.batches == 17 and task.windows.row_length % 20 != 0  # the last window of an epoch is a short one
    recorder = Recorder()
    Trainer(task, recipe, Run.open(tmp_path / "run", recipe, 7, task.fingerprint), 7, CPU, recorder).train()

    torch.manual_seed(7)
    oracle = Oracle(task.build_model(), "lstm")
    ids = torch.tensor(task.corpus.streams["train"].ids.tolist())
    row = (len(ids) - 1) // 6
    inputs_BN, targets_BN = ids[: 6 * row].view(6, row), ids[1 : 6 * row + 1].view(6, row)
    losses, clipped = [], 0
    for rate in rates:
        state = None
        total, predictions = 0.0, 0
        for start in range(0, row, 20):
            logits, state = oracle(inputs_BN[:, start : start + 20].T, state)
            state = tuple(s.detach() for s in state)
            y_TB = targets_BN[:, start : start + 20].T
            loss = F.cross_entropy(logits.flatten(0, 1), y_TB.flatten(), reduction="sum")
            oracle.zero_grad()
            torch.autograd.backward(loss / 6)
            gradients = [parameter.grad for parameter in oracle.parameters() if parameter.grad is not None]
            norm = torch.sqrt(sum(((g**2).sum() for g in gradients), torch.zeros(())))
            clipped += int(norm > 4.0)
            with torch.no_grad():
                for parameter, gradient in zip(oracle.parameters(), gradients, strict=True):
                    parameter -= rate * gradient * min(1.0, 4.0 / (norm.item() + 1e-6))  # torch adds as much
            total += loss.item()
            predictions += y_TB.numel()
            losses.append(total / predictions)
    assert recorder.rates == rates
    assert 0 < clipped < 51
    assert len(losses) == 51 and losses[-1] < 0.8 * losses[0]
    assert recorder.losses == pytest.approx(losses, rel=1e-6)


class PaperModel(nn.Module):
    """The regularised LSTM as the paper's section 3 writes it, a step and a layer at a time, of torch.nn's parts.

    D is a product with masks that are given, those of `h^0` to `h^L`, (T, B, n) each.
    """

    def __init__(self, model: LanguageModel, layers: int) -> None:
        super().__init__()
        types, size = model.encoder.weight.shape
        self.words = nn.Embedding(types, size)
        self.from_below = nn.ModuleList(nn.Linear(size, 4 * size) for _ in range(layers))
        self.from_before = nn.ModuleList(nn.Linear(size, 4 * size) for _ in range(layers))
        self.softmax = nn.Linear(size, types)
        own = model.state_dict()
        self.words.weight.data.copy_(own["encoder.weight"])
        for layer in range(layers):
            for part, name in ((self.from_below, "ih"), (self.from_before, "hh")):
                part[layer].weight.data.copy_(own[f"rnn.weight_{name}_l{layer}"])
                part[layer].bias.data.copy_(own[f"rnn.bias_{name}_l{layer}"])
        self.softmax.weight.data.copy_(own["decoder.weight"])
        self.softmax.bias.data.copy_(own["decoder.bias"])

    def forward(
        self, x_TB: Tensor, state: list[tuple[Tensor, Tensor]], masks: list[Tensor]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        logits = []
        for t, x_B in enumerate(x_TB):
            h = self.words(x_B)
            for layer, (h_before, c_before) in enumerate(state):
                gates = self.from_below[layer](masks[layer][t] * h) + self.from_before[layer](h_before)
                i, f, g, o = gates.chunk(4, dim=1)  # in torch's order
                c = torch.sigmoid(f) * c_before + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                state = [*state[:layer], (h, c), *state[layer + 1 :]]
            logits.append(self.softmax(masks[-1][t] * h))
        return torch.stack(logits), state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_training_with_dropout_is_the_papers(
    tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """The same weights and the same masks give the same loss at each of 51 updates, to 1e-5."""
    masks: list[Tensor] = []
    draw = regrnn.nn.layers.draw_mask

    def record(*arguments: Any) -> Tensor:
        masks.append(draw(*arguments))
        return masks[-1]

    recipe = recipe_from_dict(
        {
            "task": "language",
            "data": {"path": str(tiny_text), "batch_size": 6, "steps": 20},
            "model": {"hidden_size": 16, "num_layers": 2, "init": 0.2, "dropout": 0.5},
            "training": {"epochs": 3, "hold_epochs": 1, "decay": 2.0, "clip": 4.0},
        },
        "test",
    )
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        task = LanguageTask.prepare(recipe.sections)
        recorder = Recorder()
        with monkeypatch.context() as patch:
            patch.setattr(regrnn.nn.layers, "draw_mask", record)
            Trainer(task, recipe, Run.open(tmp_path / "run", recipe, 7, task.fingerprint), 7, CPU, recorder).train()
        torch.manual_seed(7)
        oracle = PaperModel(task.build_model(), 2)
        optimizer = torch.optim.SGD(oracle.parameters(), lr=1.0)
        assert len(masks) == 3 * 51 and {float(value) for value in masks[0].unique()} == {0.0, 2.0}
        losses = []
        for rate in (1.0, 0.5, 0.25):
            state = [(torch.zeros(6, 16), torch.zeros(6, 16)) for _ in range(2)]
            total, predictions = 0.0, 0
            for position in range(17):
                x_TB, y_TB = task.batch(1, position, CPU)
                logits, state = oracle(x_TB, state, [masks.pop(0) for _ in range(3)])
                loss = F.cross_entropy(logits.flatten(0, 1), y_TB.flatten(), reduction="sum")
                optimizer.zero_grad()
                torch.autograd.backward(loss / 6)
                nn.utils.clip_grad_norm_(oracle.parameters(), 4.0)
                optimizer.param_groups[0]["lr"] = rate
                optimizer.step()
                state = [(h.detach(), c.detach()) for h, c in state]
                total += loss.item()
                predictions += y_TB.numel()
                losses.append(total / predictions)
    finally:
        torch.set_default_dtype(default)
    assert losses[-1] < 0.9 * losses[0]
    assert recorder.losses == pytest.approx(losses, rel=1e-5)
