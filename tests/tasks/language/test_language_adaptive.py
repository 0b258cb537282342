"""`regrnn.tasks.language.adaptive`, against definitions that go token by token in float64."""

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from regrnn.tasks.language import adaptive
from regrnn.tasks.language.adaptive import ADAPTIVE, Adaptive, Cache, Dynamic, Temperature, _Student
from regrnn.tasks.language.evaluate import log_probabilities
from regrnn.tasks.language.model import LanguageModel
from regrnn.tasks.language.trained import TrainedLanguageModel

Drawn = Callable[..., TrainedLanguageModel]

IDS = np.random.default_rng(1).integers(0, 9, 60).astype(np.uint16)


@pytest.fixture
def models(drawn: Drawn) -> list[LanguageModel]:
    """Two of one vocabulary and different sizes, in float64."""
    return [drawn("word", seed=seed, hidden_size=size).model.double().eval() for seed, size in ((1, 12), (2, 7))]


def found(how: Adaptive, models: list[LanguageModel]) -> list[float]:
    return torch.cat(list(type(how).log_probabilities([how], models, IDS)), 1)[0].tolist()


def one_at_a_time(model: LanguageModel) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """h and logits of each step."""
    state: dict[str, Any] = {}
    hs, logits = [], []
    with torch.no_grad():
        for token in IDS[:-1].tolist():
            h, state = model.features(torch.tensor([[token]]), state)
            hs.append(h[0, 0])
            logits.append(model.decoder.weight @ h[0, 0] + model.decoder.bias)
    return hs, logits


def mean(rows: list[list[float]]) -> list[float]:
    return [math.log(sum(map(math.exp, column)) / len(rows)) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_temperature(models: list[LanguageModel], temperature: float) -> None:
    rows = []
    for model in models:
        _, logits = one_at_a_time(model)
        rows.append([(z / temperature).log_softmax(0)[y].item() for z, y in zip(logits, IDS[1:], strict=True)])
    assert found(Temperature(temperature=temperature), models[:1]) == pytest.approx(rows[0])
    assert found(Temperature(temperature=temperature), models) == pytest.approx(mean(rows))


@pytest.mark.parametrize("window", [1, 7, 250])
@pytest.mark.parametrize(("size", "flatness", "weight"), [(5, 0.7, 0.2), (1, 0.3, 0.5), (1000, 0.0, 0.9)])
def test_cache(
    models: list[LanguageModel],
    monkeypatch: pytest.MonkeyPatch,
    window: int,
    size: int,
    flatness: float,
    weight: float,
) -> None:
    monkeypatch.setattr(adaptive, "WINDOW", window)
    rows = []
    for model in models:
        hs, logits = one_at_a_time(model)
        row = []
        for t, (h, z) in enumerate(zip(hs, logits, strict=True)):
            y = IDS[t + 1]
            p = z.softmax(0)[y].item()
            past = range(max(0, t - size), t)
            masses = {i: math.exp(flatness * (h @ hs[i]).item()) for i in past}
            if past:
                hits = sum(mass for i, mass in masses.items() if IDS[i + 1] == y)
                p = (1 - weight) * p + weight * hits / sum(masses.values())
            row.append(math.log(p))
        rows.append(row)
    how = Cache(size=size, flatness=flatness, weight=weight)
    assert found(how, models[:1]) == pytest.approx(rows[0])
    assert found(how, models) == pytest.approx(mean(rows))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("rate", "decay", "steps"), [(0.1, 0.0, 5), (0.05, 0.2, 1), (0.02, 0.01, 7)])
def test_dynamic(drawn: Drawn, rate: float, decay: float, steps: int, tied: bool) -> None:
    """Every weight at every update, as the definition says, for two models together."""
    kinds = ((1, 12), (2, 7))
    models = [drawn("word", seed=seed, hidden_size=size, tied=tied).model.double().eval() for seed, size in kinds]
    rows = []
    for trained in models:
        model = copy.deepcopy(trained)
        row: list[float] = []
        state: dict[str, Any] = {}
        for start in range(0, len(IDS) - 1, steps):
            model.zero_grad()
            loss = torch.zeros((), dtype=torch.float64)
            for x, y in itertools.pairwise(IDS[start : start + steps + 1].tolist()):
                h, state = model.features(torch.tensor([[x]]), state)
                log_p = (model.decoder.weight @ h[0, 0] + model.decoder.bias).log_softmax(0)[y]
                row.append(log_p.item())
                loss = loss - log_p
            loss.backward()
            state = {name: tensor.detach() for name, tensor in state.items()}
            with torch.no_grad():
                for w, w_0 in zip(model.parameters(), trained.parameters(), strict=True):
                    w += decay * (w_0 - w) - rate * w.grad
        rows.append(row)
    before = [copy.deepcopy(model.state_dict()) for model in models]
    how = Dynamic(learning_rate=rate, decay=decay, steps=steps)
    assert found(how, models[:1]) == pytest.approx(rows[0])
    assert found(how, models) == pytest.approx(mean(rows))
    for model, weights in zip(models, before, strict=True):
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_the_first_segment_is_scored_before_anything_is_learned(models: list[LanguageModel]) -> None:
    static = torch.cat(list(log_probabilities(models, IDS))).tolist()
    learned = found(Dynamic(learning_rate=0.5, steps=10), models)
    assert learned[:10] == pytest.approx(static[:10])
    assert learned[10:] != pytest.approx(static[10:], rel=1e-3)


def test_nothing_is_kept_from_update_to_update(drawn: Drawn) -> None:
    """No graph of autograd grows through the weights, whose model may ask for gradients."""
    model = drawn("word").model.eval()
    assert model.encoder.weight.requires_grad
    student = _Student(model, 0.1, 0.01)
    for start in (0, 5):
        student.learn(torch.from_numpy(IDS[start : start + 5].astype(np.int64)), torch.arange(5))
    assert all(w.grad_fn is None for w in student.model.parameters())
    assert not student.model.encoder.weight.requires_grad


def test_dynamic_evaluation_on_the_core(drawn: Drawn) -> None:
    """In float32, where the compiled core computes the gradients, if it is there."""
    model = drawn("word").model.eval()
    expected = found(Dynamic(), [copy.deepcopy(model).double()])
    assert found(Dynamic(), [model]) == pytest.approx(expected, rel=1e-4)


def test_defaults_are_within_the_grids() -> None:
    for kind in ADAPTIVE.values():
        grid = kind.grid()
        assert kind() in grid and len(grid) == len(set(grid)) <= 13


@pytest.mark.parametrize("kind", [kind for kind in ADAPTIVE.values() if kind.one_pass])
def test_a_grid_in_one_pass_is_each_of_its_settings(models: list[LanguageModel], kind: type[Adaptive]) -> None:
    grid = [*kind.grid(), *([Cache(size=4, flatness=0.3)] if kind is Cache else [])]
    together = torch.cat(list(kind.log_probabilities(grid, models, IDS)), 1)
    for how, row in zip(grid, together.tolist(), strict=True):
        assert row == pytest.approx(found(how, models))
