"""Recipes: TOML files that fill the config dataclasses of a task and of the loop."""

import copy
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regrnn.config import apply_flag, did_you_mean, differences, fill, to_dict
from regrnn.errors import RegrnnError
from regrnn.nn.regularization import Regularization, as_regularization
from regrnn.tasks.protocol import get_task
from regrnn.training.config import TrainingConfig

RECIPES = Path(__file__).parent.parent / "recipes"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a recipe is held to: plain sentences and figures, printed by `regrnn recipes`."""

    paper: str = ""
    """The published figure."""
    here: str = ""
    """The figure to expect."""
    machine: str = ""
    time: str = ""


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe: every setting of one run but the seed."""

    name: str
    task: str
    summary: str
    expected: Expected
    sections: dict[str, Any]
    """The task's config dataclasses and `training`, by section."""

    @property
    def training(self) -> TrainingConfig:
        """The `[training]` section."""
        config: TrainingConfig = self.sections["training"]
        return config

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in `recipe.json`; `recipe_from_dict` takes them back."""
        head = {
            "name": self.name,
            "task": self.task,
            "summary": self.summary,
            "expected": to_dict(self.expected),
        }
        return head | {name: to_dict(config) for name, config in self.sections.items()}


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def read_recipe(name_or_path: str) -> dict[str, Any]:
    """The plain values of a recipe that comes with the package, or of a user's own TOML file."""
    path = Path(name_or_path)
    if name_or_path in recipe_names():
        path = RECIPES / f"{name_or_path}.toml"
    elif path.suffix != ".toml":
        raise RegrnnError(f"there is no recipe {name_or_path!r}{did_you_mean(name_or_path, recipe_names())}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RegrnnError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise RegrnnError(f"{path}: not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise RegrnnError(f"{path}: not valid TOML: {error}") from None
    return {"name": path.stem} | values


def recipe_from_dict(values: Mapping[str, Any], where: str, flags: Iterable[tuple[str, str]] = ()) -> Recipe:
    """The recipe that `values` and the overriding `flags` (`--section.key`, text) make.

    `where` names it in messages. Raises RegrnnError that says what is wrong.
    """
    resolved: dict[str, Any] = copy.deepcopy(dict(values))  # flags go into its tables
    if not isinstance(resolved.get("task"), str):
        raise RegrnnError(f'{where}: the key "task" is missing (task = "language")')
    try:
        kinds = {**get_task(resolved["task"]).sections, "training": TrainingConfig}
    except RegrnnError as error:
        raise RegrnnError(f"{where}: {error}") from None
    known = {"name", "task", "summary", "expected", *kinds}
    for key, value in resolved.items():
        if key not in known:
            raise RegrnnError(f"{where}: unknown key {key!r}{did_you_mean(key, known)}")
        if (key in kinds or key == "expected") != isinstance(value, Mapping):
            found = "a plain value" if key in kinds or key == "expected" else "a table"
            raise RegrnnError(f"{where}: {key!r} is {found}, which does not belong there")
        if key in ("name", "summary") and not isinstance(value, str):
            raise RegrnnError(f"{where}: {key}: expected a string, found {value!r}")
    for flag, text in flags:
        apply_flag(resolved, kinds, flag, text)
    return Recipe(
        name=resolved.get("name", "recipe"),
        task=resolved["task"],
        summary=resolved.get("summary", ""),
        expected=fill(Expected, resolved.get("expected", {}), f"{where} [expected]"),
        sections={name: fill(kind, resolved.get(name, {}), f"{where} [{name}]") for name, kind in kinds.items()},
    )


def changes(name: str, settings: Mapping[str, Any]) -> list[str]:
    """What a run's settings (`Recipe.to_dict`) differ in from the recipe of that name that comes with the package.

    Dropout of another kind is a row of its own in the tables, and the precision of products is said below them: neither
    counts. A recipe of one's own has nothing to differ from.
    """
    if name not in recipe_names():
        return []
    try:
        own = recipe_from_dict(read_recipe(name), name).to_dict()
    except RegrnnError:
        return []
    found = {key: value for key, value in settings.items() if isinstance(value, Mapping) and key != "expected"}
    wanted = {key: value for key, value in own.items() if isinstance(value, Mapping) and key != "expected"}
    ignored = {("data", "path"), ("training", "checkpoint_minutes"), ("training", "matmul_precision")}
    if regularization_name(found) != regularization_name(wanted):
        ignored.add(("model", "dropout"))
    before, after = (
        {section: {k: v for k, v in keys.items() if (section, k) not in ignored} for section, keys in part.items()}
        for part in (wanted, found)
    )
    return differences(before, after)


def regularization_name(settings: Mapping[str, Any]) -> str:
    """What the result files call the dropout of a recipe's settings."""
    dropout = settings.get("model", {}).get("dropout", 0.0)
    if isinstance(dropout, Mapping):
        dropout = fill(Regularization, dropout, "[model] dropout")
    try:
        return as_regularization(dropout).name
    except ValueError as error:
        raise RegrnnError(f"[model] {error}") from None
