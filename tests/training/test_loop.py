"""The loop itself: the paper's gradient, the learning rate's rule, what decides, and how it ends."""

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from noisy import NoisyTask, Silent, Tiny, contents, noisy_recipe, train
from torch import Tensor, nn

from regrnn.errors import RegrnnError
from regrnn.tasks.language.task import LanguageTask
from regrnn.tasks.protocol import Figure, Loss, State
from regrnn.training import loop
from regrnn.training.checkpoint import load_weights, verify_checkpoint
from regrnn.training.config import TrainingConfig
from regrnn.training.descent import SGD
from regrnn.training.loop import build_optimizer
from regrnn.training.recipe import Recipe, read_recipe, recipe_from_dict
from regrnn.training.run import Run


def metrics(folder: Path, event: str = "epoch") -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["event"] == event]


# The gradient (PAPER.md, trap 1).

BATCH, STEPS = 4, 5


class ConstantSoftmax(LanguageTask):
    """A language model whose softmax sees its bias alone, so that p is the same at every step, known beforehand."""

    def build_model(self) -> Any:
        model = super().build_model()
        nn.init.zeros_(model.decoder.weight)
        with torch.no_grad():
            model.decoder.bias.copy_(torch.linspace(-1.0, 1.0, len(model.decoder.bias)))
        return model


def one_window(tiny: Tiny, folder: Path, *flags: tuple[str, str]) -> Recipe:
    """A recipe whose epoch is a single window of 4 rows and 5 steps: 20 predictions."""
    text = folder / "text"
    text.mkdir()
    (text / "train.txt").write_text("a b c d\na a a b\nc d a b\nb b a c a\n")  # 21 tokens with the four line ends
    for split in ("valid", "test"):
        (text / f"{split}.txt").write_text("a b\n")
    settings = {"data.path": str(text), "training.epochs": "1", "model.dropout": "0", "training.clip": "none"}
    pairs = [(f"--{key}", value) for key, value in settings.items()]
    return recipe_from_dict(read_recipe(str(tiny.recipe)), "tiny", [*pairs, *flags])


def trained_bias(recipe: Recipe, out: Path) -> np.ndarray[Any, Any]:
    task = ConstantSoftmax.prepare(recipe.sections)
    assert task.batches == 1
    train(task, recipe, out)
    last = Run(out).last()
    assert last is not None
    model = task.build_model()
    load_weights(model, last)
    bias: np.ndarray[Any, Any] = model.decoder.bias.detach().double().numpy()
    return bias


def test_gradient_is_summed_over_time_and_averaged_over_the_batch(tiny: Tiny, tmp_path: Path) -> None:
    recipe = one_window(tiny, tmp_path)
    ids = np.array(ConstantSoftmax.prepare(recipe.sections).corpus.streams["train"].ids, dtype=np.int64)
    assert len(ids) == BATCH * STEPS + 1
    after = trained_bias(recipe, tmp_path / "run")
    before = np.linspace(-1.0, 1.0, len(after))
    p = np.exp(before) / np.exp(before).sum()
    counts = np.bincount(ids[1:], minlength=len(p))
    gradient = (BATCH * STEPS * p - counts) / BATCH  # the sum over t and b of p - onehot, over B
    np.testing.assert_allclose(before - after, gradient, atol=1e-6)  # learning rate 1


def test_clipping_bounds_the_norm_of_that_gradient(tiny: Tiny, tmp_path: Path) -> None:
    """The decoder's gradient is the only one that is not 0: its weights' and its bias's."""
    recipe = one_window(tiny, tmp_path)
    free = trained_bias(recipe, tmp_path / "free")
    clipped = trained_bias(one_window_again(recipe, clip=0.25), tmp_path / "clipped")
    before = np.linspace(-1.0, 1.0, len(free))
    models = []
    for out in ("free", "clipped"):
        model = ConstantSoftmax.prepare(recipe.sections).build_model()
        last = Run(tmp_path / out).last()
        assert last is not None
        load_weights(model, last)
        models.append(model)
    weights = [model.decoder.weight.detach().double().numpy() for model in models]
    norm = math.sqrt((weights[1] ** 2).sum() + ((clipped - before) ** 2).sum())
    assert norm == pytest.approx(0.25, rel=1e-4)
    whole = math.sqrt((weights[0] ** 2).sum() + ((free - before) ** 2).sum())
    assert whole > 1
    np.testing.assert_allclose(clipped - before, (free - before) * 0.25 / whole, atol=1e-6)


def one_window_again(recipe: Recipe, *, clip: float) -> Recipe:
    values = recipe.to_dict()
    values["training"]["clip"] = clip
    return recipe_from_dict(values, "tiny")


def test_a_gradient_below_the_clip_is_left_alone(tmp_path: Path) -> None:
    for clip in (1e9, None):
        train(NoisyTask(), noisy_recipe(clip=clip), tmp_path / str(clip))
    assert contents(tmp_path / "None") == contents(tmp_path / "1000000000.0")


# The learning rate (PAPER.md, trap 2).


def released_code(epochs: int, max_epoch: int, decay: float) -> list[float]:
    """What the authors' Lua code does behind each epoch: `if epoch > max_epoch then lr = lr / decay`."""
    rate, rates = 1.0, []
    for epoch in range(1, epochs + 1):
        rates.append(rate)
        if epoch > max_epoch:
            rate = rate / decay
    return rates


@pytest.mark.parametrize(
    ("epochs", "hold", "decay"), [(13, 4, 2.0), (39, 6, 1.2), (55, 14, 1.15)], ids=["small", "medium", "large"]
)
def test_learning_rate_of_the_papers_models(epochs: int, hold: int, decay: float) -> None:
    code = TrainingConfig(epochs=epochs, hold_epochs=hold, decay=decay, timing="code")
    rates = [code.rate(epoch) for epoch in range(1, epochs + 1)]
    assert rates == pytest.approx(released_code(epochs, hold, decay), rel=1e-13)
    assert rates[: hold + 1] == [1.0] * (hold + 1)
    assert rates[hold + 1] == pytest.approx(1 / decay)
    text = TrainingConfig(epochs=epochs, hold_epochs=hold, decay=decay, timing="text")
    rates = [text.rate(epoch) for epoch in range(1, epochs + 1)]
    assert rates[:hold] == [1.0] * hold
    assert rates[hold:] == pytest.approx([decay**-k for k in range(1, epochs - hold + 1)], rel=1e-13)


def test_learning_rate_of_the_last_epochs() -> None:
    """In fractions: 1/2^9 and 1/2^8 for small, 1/1.2^33 and 1/1.2^32 for medium, 1/1.15^41 and 1/1.15^40 for large."""
    found = [
        TrainingConfig(epochs=epochs, hold_epochs=hold, decay=decay, timing=timing).rate(epochs)  # type: ignore[arg-type]
        for epochs, hold, decay in [(13, 4, 2.0), (39, 6, 1.2), (55, 14, 1.15)]
        for timing in ("text", "code")
    ]
    half, medium, large = Fraction(1, 2), Fraction(5, 6), Fraction(20, 23)
    exact = [half**9, half**8, medium**33, medium**32, large**41, large**40]
    assert found == pytest.approx([float(rate) for rate in exact], rel=1e-13)


def test_learning_rate_does_not_overflow() -> None:
    config = TrainingConfig(epochs=5000, hold_epochs=1, decay=2.0)
    assert config.rate(5000) == 0.0


@pytest.mark.parametrize("timing", ["text", "code"])
def test_the_loop_uses_the_rule(timing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The update itself: with SGD it is proportional to the rate, batch by batch."""
    used: list[float] = []
    step = SGD.step_scaled

    def watch(self: SGD, factor: float) -> None:
        used.append(self.param_groups[0]["lr"])
        step(self, factor)

    monkeypatch.setattr(SGD, "step_scaled", watch)
    recipe = noisy_recipe(epochs=4, learning_rate=0.5, hold_epochs=2, decay=5.0, timing=timing)
    train(NoisyTask(), recipe, tmp_path / "run")
    expected = [0.5, 0.5, 0.1, 0.02] if timing == "text" else [0.5, 0.5, 0.5, 0.1]
    assert used == pytest.approx([rate for rate in expected for _ in range(NoisyTask.batches)])
    assert [record["learning_rate"] for record in metrics(tmp_path / "run")] == pytest.approx(expected)


def test_optimizers_are_what_the_recipe_says() -> None:
    model = nn.Linear(2, 2)
    sgd = build_optimizer(model, TrainingConfig(epochs=1, learning_rate=0.5, weight_decay=0.1))
    adamw = build_optimizer(model, TrainingConfig(epochs=1, optimizer="adamw", weight_decay=0.1))
    assert type(sgd) is SGD and sgd.defaults["lr"] == 0.5
    assert type(adamw) is torch.optim.AdamW
    assert sgd.defaults["weight_decay"] == adamw.defaults["weight_decay"] == 0.1


# What decides, and when it ends.


def test_best_is_the_checkpoint_of_the_best_epoch(tmp_path: Path) -> None:
    outcome = train(NoisyTask([5.0, 3.0, 4.0, 3.0]), noisy_recipe(epochs=4), tmp_path / "run")
    run = Run(tmp_path / "run")
    best, last = run.best(), run.last()
    assert best is not None and best.name == f"{2 * NoisyTask.batches:06d}"  # of two equals the first
    assert last is not None and last.name == f"{4 * NoisyTask.batches:06d}"
    assert [record["best"] for record in metrics(run.folder)] == [True, True, False, False]
    assert (outcome.position.best, outcome.position.best_epoch, outcome.stopped_early) == (3.0, 2, False)
    assert outcome.evaluations["valid"].figures == {"error": 3.0}, "the last figures are those of the best weights"


def test_a_figure_may_be_better_when_it_is_higher(tmp_path: Path) -> None:
    task = NoisyTask([5.0, 7.0, 6.0])
    task.figure = Figure("error", lower_is_better=False)  # type: ignore[misc]
    assert train(task, noisy_recipe(epochs=3), tmp_path / "run").position.best_epoch == 2


def test_early_stopping(tmp_path: Path) -> None:
    task = NoisyTask([5.0, 4.0, 4.5, 4.0, 1.0])
    outcome = train(task, noisy_recipe(epochs=5, patience=2), tmp_path / "run")
    assert outcome.stopped_early
    assert outcome.position.epoch == 4
    assert outcome.position.best_epoch == 2
    assert task.evaluated == ["train", "valid"] * 4 + ["train", "valid", "test"], "test is looked at once"


def test_patience_begins_anew_with_each_best(tmp_path: Path) -> None:
    outcome = train(NoisyTask([5.0, 6.0, 4.0, 6.0, 3.0]), noisy_recipe(epochs=5, patience=2), tmp_path / "run")
    assert not outcome.stopped_early
    assert outcome.position.best_epoch == 5


def test_a_validation_figure_that_is_not_a_number_is_no_best(tmp_path: Path) -> None:
    outcome = train(NoisyTask([math.nan, 4.0, math.nan]), noisy_recipe(epochs=3), tmp_path / "run")
    assert outcome.position.best_epoch == 2
    with pytest.raises(RegrnnError, match="no validation figure was a number"):
        train(NoisyTask([math.nan, math.inf]), noisy_recipe(), tmp_path / "none")


def test_state_is_carried_within_an_epoch_and_empty_at_its_start(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Watching(NoisyTask):
        def loss(self, model: Any, batch: Tensor, state: State) -> Loss:
            seen.append(bool(state))
            assert all(not tensor.requires_grad for tensor in state.values()), "truncated back-propagation"
            return super().loss(model, batch, state)

    train(Watching(), noisy_recipe(), tmp_path / "run")
    assert seen == [False, True, True] * 2


def test_masks_are_on_in_training_and_off_in_evaluation(tmp_path: Path) -> None:
    modes: list[tuple[str, bool]] = []

    class Watching(NoisyTask):
        def loss(self, model: Any, batch: Tensor, state: State) -> Loss:
            modes.append(("loss", model.training))
            return super().loss(model, batch, state)

        def evaluate(self, model: Any, split: str) -> Any:
            modes.append(("evaluate", model.training))
            return super().evaluate(model, split)

    train(Watching(), noisy_recipe(), tmp_path / "run")
    assert set(modes) == {("loss", True), ("evaluate", False)}


def test_figures_of_a_finished_run_are_not_at_the_reduced_precision(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    class Watching(NoisyTask):
        def loss(self, model: Any, batch: Tensor, state: State) -> Loss:
            seen.append(("loss", torch.get_float32_matmul_precision()))
            return super().loss(model, batch, state)

        def evaluate(self, model: Any, split: str) -> Any:
            seen.append((split, torch.get_float32_matmul_precision()))
            return super().evaluate(model, split)

    before = torch.get_float32_matmul_precision()
    assert before != "medium"
    train(Watching(), noisy_recipe(matmul_precision="medium"), tmp_path / "run")
    assert seen[-3:] == [(split, before) for split in ("train", "valid", "test")]
    assert {precision for _, precision in seen[:-3]} == {"medium"}
    assert torch.get_float32_matmul_precision() == before


def test_seeds_differ_and_repeat(tmp_path: Path) -> None:
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        train(NoisyTask(), noisy_recipe(), tmp_path / name, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a")["best/model.safetensors"] != contents(tmp_path / "c")["best/model.safetensors"]


def test_a_run_without_checkpoints_between_epochs_is_the_same_run(tmp_path: Path) -> None:
    saved: list[int] = []
    for name, minutes in {"often": 1e-9, "never": 1e9}.items():
        with pytest.MonkeyPatch.context() as patch:
            save = loop.save_checkpoint
            patch.setattr(loop, "save_checkpoint", lambda *a, save=save: (saved.append(1), save(*a)))
            train(NoisyTask(), noisy_recipe(checkpoint_minutes=minutes), tmp_path / name)
        saved.append(0)
    assert "".join(map(str, saved)) == "1111110110"
    assert contents(tmp_path / "often") == contents(tmp_path / "never")


def test_progress_is_told_and_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, int, int, float]] = []

    class Watch(Silent):
        def step(self, epoch: int, position: int, batches: int, loss: float, rate: float) -> None:
            assert rate > 0
            steps.append((epoch, position, batches, loss))

    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    train(NoisyTask(), noisy_recipe(), tmp_path / "run", Watch())
    assert [step[:3] for step in steps] == [(epoch, position, 3) for epoch in (1, 2) for position in (1, 2, 3)]
    logged = metrics(tmp_path / "run", "progress")
    assert [(record["epoch"], record["step"]) for record in logged] == [(1, 2), (2, 4), (2, 6)]
    assert [record["loss"] for record in logged] == [steps[1][3], steps[3][3], steps[5][3]]
    assert [record["loss"] for record in metrics(tmp_path / "run")] == [steps[2][3], steps[5][3]]
    assert metrics(tmp_path / "run")[0]["train_predictions"] == 7


# Numbers that are none.


class Sick(NoisyTask):
    """Ill from batch number `at` on: a loss that is NaN or infinite, or a finite one with an infinite gradient."""

    def __init__(self, illness: str, at: int) -> None:
        super().__init__()
        self.illness = illness
        self.at = at

    def loss(self, model: Any, batch: Tensor, state: State) -> Loss:
        loss = super().loss(model, batch, state)
        if int(model.trained) < self.at:
            return loss
        w = model.mix.weight.sum()
        total = {
            "nan": loss.total * math.nan,
            "infinite": loss.total * math.inf,
            "gradient": loss.total + (w - w.detach()).abs().sqrt(),  # 0, with a slope of 1 / (2 sqrt(0))
        }[self.illness]
        return Loss(total, loss.normaliser, loss.predictions, loss.state)


@pytest.mark.parametrize("clip", [5.0, None])
@pytest.mark.parametrize("illness", ["nan", "infinite", "gradient"])
def test_a_loss_that_is_no_number_stops_the_run(illness: str, clip: float | None, tmp_path: Path) -> None:
    recipe = noisy_recipe(clip=clip)
    out = tmp_path / "run"
    for _ in range(2):  # resuming meets it again, and leaves as much
        with pytest.raises(RegrnnError) as raised:
            train(Sick(illness, 5), recipe, out)
        message = str(raised.value)
        assert "the loss or its gradient is not a finite number in epoch 2 at step 5" in message
        last = Run(out).last()
        assert last is not None and last.name == "000004"
        assert f"the last good state is {last}" in message
        assert "learning-rate" in message
        assert "\n" not in message
        verify_checkpoint(last)
        model = NoisyTask().build_model()
        load_weights(model, last)
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert len(metrics(out)) == 1
    train(NoisyTask(), recipe, out)  # the state was good indeed
    train(NoisyTask(), recipe, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_a_loss_that_is_no_number_at_once(tmp_path: Path) -> None:
    with pytest.raises(RegrnnError, match=r"in epoch 1 at step 1 .*no state had been saved yet"):
        train(Sick("nan", 1), noisy_recipe(), tmp_path / "run")
    assert Run(tmp_path / "run").last() is None
