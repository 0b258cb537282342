"""`regrnn.load`: a trained model from its run directory alone."""

from pathlib import Path
from typing import Any

import torch

from regrnn.config import fill
from regrnn.errors import RegrnnError
from regrnn.tasks.protocol import Task, Trained, get_task
from regrnn.training.checkpoint import load_weights, verify_checkpoint
from regrnn.training.files import read_json, read_text
from regrnn.training.run import Run


def find_checkpoint(path: Path) -> Path:
    """The best checkpoint of the run directory `path`, or `path` itself where it is a checkpoint."""
    if (path / "manifest.json").is_file():
        return path
    run = Run(path)
    if not path.is_dir() or not run.has_recipe():
        raise RegrnnError(f"{path}: not a run directory of regrnn (it has no recipe.json)")
    checkpoint = run.best() or run.last()
    if checkpoint is None:
        raise RegrnnError(f"{path}: no checkpoint was saved yet; train it first")
    return checkpoint


def run_task(path: Path) -> str:
    """The name of the task of the run directory or checkpoint `path`."""
    return str(read_json(find_checkpoint(path) / "config.json").get("task"))


def load(path: str | Path, *, device: str | torch.device = "cpu") -> Any:
    """The trained model in a run directory (its best checkpoint) or in a checkpoint's folder.

    Needs nothing but the folder, and executes nothing from it. The object has the verbs of its task: a language model
    has `score` and `generate` (`regrnn.tasks.language.trained.TrainedLanguageModel`), an acoustic model `transcribe`
    (`regrnn.tasks.speech.trained.TrainedAcousticModel`).

    Raises RegrnnError for a folder that is no run, a damaged file, or another version's format.
    """
    checkpoint = find_checkpoint(Path(path))
    config = verify_checkpoint(checkpoint)
    where = f"{checkpoint}/config.json"
    try:
        task: type[Task] = get_task(str(config.get("task")))
    except RegrnnError as error:
        raise RegrnnError(f"{where}: {error}") from None
    sections: dict[str, Any] = {
        name: fill(kind, config.get(name, {}), f"{where} [{name}]") for name, kind in task.sections.items()
    }
    names = read_json(checkpoint / "manifest.json")["sha256"]
    texts = {name: read_text(checkpoint / name) for name in names if not name.endswith(".safetensors")}
    try:
        trained: Trained = task.restore(sections, texts)
    except RegrnnError as error:
        raise RegrnnError(f"{checkpoint}: {error}") from None
    load_weights(trained.model, checkpoint)
    trained.model.to(device).eval()
    return trained
