"""The training loop: exact to resume, safe to kill at any instant."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from regrnn.errors import Interrupted, RegrnnError
from regrnn.kernels.core import choose, choose_bfloat16
from regrnn.kernels.memory import in_large_pages
from regrnn.tasks.protocol import Evaluation, State, Task
from regrnn.training.checkpoint import (
    Snapshot,
    load_snapshot,
    load_weights,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
    verify_checkpoint,
)
from regrnn.training.config import TrainingConfig
from regrnn.training.descent import SGD, clip_factor, gradient_norm, make_embeddings_sparse, scale_gradients
from regrnn.training.recipe import Recipe
from regrnn.training.run import Run

LOG_EVERY = 100
"""Batches between two progress lines of `metrics.jsonl`."""


class Progress(Protocol):
    """What is told of a run while it goes on."""

    def resumed(self, checkpoint: Path, values: dict[str, Any]) -> None:
        """The run goes on from `checkpoint`, whose `state.json` is `values`."""

    def step(self, epoch: int, position: int, batches: int, loss: float, rate: float) -> None:
        """A batch is done: the epoch's mean loss in nats (masks on) and predictions a second so far."""

    def evaluating(self, split: str) -> None:
        """A split is about to be evaluated."""

    def epoch(self, record: dict[str, Any]) -> None:
        """An epoch is done: its line of `metrics.jsonl`."""


@dataclass
class Position:
    """Where a run stands, and what it has gathered: everything in `state.json`."""

    epoch: int = 1
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    """Over the epoch so far, nats, with masks on."""
    predictions: int = 0
    best: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0
    """Wall time spent on the run, saved pieces only."""
    metrics_bytes: int = 0
    threads: int = 0


@dataclass(frozen=True)
class Outcome:
    """A finished run: the figures of its best checkpoint."""

    evaluations: dict[str, Evaluation]
    position: Position
    stopped_early: bool


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """torch.set_float32_matmul_precision within."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def precision_on(device: torch.device, precision: str) -> str:
    """What `precision` comes to on a device: the highest where the core computes on a processor without bfloat16."""
    on_core = device.type == "cpu" and choose().core is not None
    return "highest" if on_core and choose_bfloat16().core is None else precision


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over all parameters."""
    parameters = list(model.parameters())
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    if not config.weight_decay:
        make_embeddings_sparse(model)
    return SGD(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


class Trainer:
    """One run of one task. `train` starts or resumes it and returns when it is finished."""

    def __init__(
        self, task: Task, recipe: Recipe, run: Run, seed: int, device: torch.device, progress: Progress
    ) -> None:
        self.task = task
        self.recipe = recipe
        self.config = recipe.training
        self.run = run
        self.device = device
        self.progress = progress
        torch.manual_seed(seed)
        self.model = task.build_model().to(device)
        if device.type == "cpu":
            for parameter in self.model.parameters():
                parameter.data = in_large_pages(parameter.data)
        self.optimizer = build_optimizer(self.model, self.config)
        self.at = Position(threads=torch.get_num_threads())
        self.state: State = {}
        self._signal: int | None = None
        self._interrupt_at_once = False

    def train(self) -> Outcome:
        """Train to the end.

        Raises Interrupted after a signal, RegrnnError for a loss that is not a number or a full disk; the last good
        state is then on the disk.
        """
        with self._signals():
            self._resume()
            stopped_early = False
            while self.at.epoch <= self.config.epochs:
                with matmul_precision(self.config.matmul_precision):
                    self._epoch()
                    stopped_early = self._evaluate_epoch()
                if stopped_early:
                    break
            with matmul_precision("highest"):
                return Outcome(self._final(), self.at, stopped_early)

    def _epoch(self) -> None:
        """The rest of the current epoch's batches, and a checkpoint behind the last."""
        at, batches = self.at, self.task.batches
        rate = self.config.rate(at.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        saved_at = began = time.monotonic()
        spent = at.seconds
        seen = 0
        while at.batch < batches:
            total, predictions = self._step(self.task.batch(at.epoch, at.batch, self.device))
            at.batch += 1
            at.step += 1
            at.loss_sum += total
            at.predictions += predictions
            seen += predictions
            now = time.monotonic()
            at.seconds = spent + now - began
            loss = at.loss_sum / at.predictions
            self.progress.step(at.epoch, at.batch, batches, loss, seen / (now - began))
            if at.step % LOG_EVERY == 0:
                self._log(self.run.metrics, {"event": "progress", "epoch": at.epoch, "step": at.step, "loss": loss})
            if self._signal is not None or (
                at.batch < batches and now - saved_at > self.config.checkpoint_minutes * 60
            ):
                self._save()
                saved_at = time.monotonic()
                self._stop_if_asked()
        if seen:
            timing = {
                "epoch": at.epoch,
                "predictions": seen,
                "seconds": round(now - began, 3),
                "predictions_per_second": round(seen / (now - began), 1),
                "threads": at.threads,
            }
            self._log(self.run.timings, timing)
            self._save()

    def _step(self, batch: Any) -> tuple[float, int]:
        """One update; the batch's summed loss and its number of predictions."""
        loss = self.task.loss(self.model, batch, self.state)
        total = loss.total.item()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss.total, loss.total.new_tensor(1 / loss.normaliser))
        norm = gradient_norm(self.model.parameters())
        if not (math.isfinite(norm) and math.isfinite(total)):
            raise RegrnnError(
                f"the loss or its gradient is not a finite number in epoch {self.at.epoch} at step {self.at.step + 1} "
                f"(loss {total / loss.predictions:.6g}, gradient norm {norm:.6g}); {self._last_good()}; "
                "train again under another --out with a lower --training.learning-rate or --training.clip"
            )
        factor = clip_factor(norm, self.config.clip)
        if isinstance(self.optimizer, SGD):
            self.optimizer.step_scaled(factor)
        else:
            scale_gradients(self.model.parameters(), factor)
            self.optimizer.step()
        # Laid out as they come back from a checkpoint, since sums may depend on the layout in the last bit.
        self.state = {name: tensor.detach().contiguous() for name, tensor in loss.state.items()}
        return total, loss.predictions

    def _evaluate_epoch(self) -> bool:
        """Evaluate at an epoch's end, move `best`, go to the next epoch; whether to stop early.

        The checkpoint behind the epoch's last batch is already saved, so that a kill here loses nothing: resuming
        evaluates again and finds the same figures.
        """
        at = self.at
        record: dict[str, Any] = {
            "event": "epoch",
            "epoch": at.epoch,
            "step": at.step,
            "learning_rate": self.config.rate(at.epoch),
            "loss": at.loss_sum / at.predictions,
        }
        for split in ("train", "valid"):
            evaluation = self._evaluate(split)
            record |= {f"{split}_{name}": value for name, value in evaluation.figures.items()}
            record[f"{split}_predictions"] = evaluation.predictions
        figure = self.task.figure
        value = record[f"valid_{figure.name}"]
        record["best"] = figure.better(value, at.best)
        if record["best"]:
            at.best, at.best_epoch = value, at.epoch
            checkpoint = self.run.last()
            if checkpoint is not None:
                with self._writing():
                    self.run.set_best(checkpoint)
        self._log(self.run.metrics, record)
        self.progress.epoch(record)
        patience = self.config.patience
        stop = patience is not None and at.epoch - at.best_epoch >= patience
        if not stop:
            at.epoch += 1
            at.batch = 0
            at.loss_sum, at.predictions = 0.0, 0
            self.state = {}
        return stop

    def _final(self) -> dict[str, Evaluation]:
        """Figures of the best checkpoint: the test set is looked at here, once."""
        best = self.run.best()
        if best is None:
            raise RegrnnError(f"{self.run.folder}: no validation figure was a number; nothing to evaluate")
        verify_checkpoint(best)
        load_weights(self.model, best)
        return {split: self._evaluate(split) for split in ("train", "valid", "test")}

    def _evaluate(self, split: str) -> Evaluation:
        began = time.monotonic()
        # Nothing changes during an evaluation and the epoch is saved, so a signal need not wait for its end.
        self._interrupt_at_once = True
        try:
            self._stop_if_asked()
            self.progress.evaluating(split)
            self.model.eval()
            evaluation = self.task.evaluate(self.model, split)
        finally:
            self._interrupt_at_once = False
        self.at.seconds += time.monotonic() - began
        return evaluation

    def _resume(self) -> None:
        """Take up the last checkpoint, if there is one; forget what was logged or begun after it."""
        checkpoint = self.run.last()
        self.run.prune()
        if checkpoint is None:
            self.run.cut_metrics(0)
            self.run.timings.unlink(missing_ok=True)
            return
        verify_checkpoint(checkpoint)
        best = self.run.best()
        if best is not None and best != checkpoint:
            verify_checkpoint(best)  # not needed before the end, but better known to be damaged now
        load_weights(self.model, checkpoint)
        snapshot = load_snapshot(checkpoint)
        try:
            at = Position(**snapshot.values)
            restore_optimizer(self.optimizer, snapshot.optimizer)
            torch.set_rng_state(snapshot.tensors["generator.cpu"])
            if self.device.type == "cuda" and "generator.cuda" in snapshot.tensors:
                torch.cuda.set_rng_state(snapshot.tensors["generator.cuda"], self.device)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RegrnnError(f"{checkpoint}: does not fit this version of regrnn ({error})") from None
        self.state = {
            key.removeprefix("state."): value.to(self.device)
            for key, value in snapshot.tensors.items()
            if key.startswith("state.")
        }
        self.run.cut_metrics(at.metrics_bytes)
        self.run.mend_timings()
        self.progress.resumed(checkpoint, snapshot.values)
        self.at = at
        at.threads = torch.get_num_threads()

    def _save(self) -> None:
        """Write a checkpoint and let `last` lead to it."""
        folder = self.run.checkpoints / f"{self.at.step:06d}"
        generators: dict[str, Tensor] = {"generator.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["generator.cuda"] = torch.cuda.get_rng_state(self.device)
        settings = self.recipe.to_dict()
        with self._writing():
            self.at.metrics_bytes = self.run.metrics_size()
            save_checkpoint(
                folder,
                self.model,
                {"task": self.task.name, **{name: settings[name] for name in self.task.sections}},
                self.task.checkpoint_files(),
                Snapshot(
                    optimizer=optimizer_tensors(self.optimizer),
                    tensors=generators | {f"state.{name}": tensor.clone() for name, tensor in self.state.items()},
                    values=vars(self.at).copy(),
                ),
            )
            self.run.set_last(folder)

    def _log(self, path: Path, record: dict[str, Any]) -> None:
        with self._writing():
            self.run.append(path, record)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn the disk's refusal into an error that says what is safe."""
        try:
            yield
        except OSError as error:
            raise RegrnnError(
                f"{self.run.folder}: cannot be written at step {self.at.step} ({error.strerror or error}); "
                f"{self._last_good()}; make room and run the same command again to go on from there"
            ) from None

    def _last_good(self) -> str:
        last = self.run.last()
        return f"the last good state is {last}" if last else "no state had been saved yet"

    def _stop_if_asked(self) -> None:
        if self._signal is not None:
            epoch = min(self.at.epoch, self.config.epochs)  # the last evaluation comes behind the last epoch
            raise Interrupted(
                self._signal,
                f"stopped in epoch {epoch} at step {self.at.step}, saved in {self.run.folder}; "
                "the same command goes on from there",
            )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM stop the run between two batches, or at once in an evaluation."""

        def handle(signum: int, frame: FrameType | None) -> None:
            self._signal = signum
            if self._interrupt_at_once:
                self._stop_if_asked()

        if threading.current_thread() is not threading.main_thread():
            yield  # signals belong to the main thread's owner
            return
        before = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
