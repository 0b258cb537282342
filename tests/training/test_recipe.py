"""Recipes: those that come with the package, and a user's own."""

import copy
import math
from pathlib import Path

import pytest

from regrnn.errors import RegrnnError
from regrnn.nn import Regularization
from regrnn.training.config import TrainingConfig
from regrnn.training.recipe import read_recipe, recipe_from_dict, recipe_names

PAPER = {  # PAPER.md: layers x units, init, dropout, batch, steps, hold, decay, epochs, clip
    "ptb-small": (200, 0.1, 0.0, 20, 20, 4, 2.0, 13, 5.0),
    "ptb-medium": (650, 0.05, 0.5, 20, 35, 6, 1.2, 39, 5.0),
    "ptb-large": (1500, 0.04, 0.65, 20, 35, 14, 1.15, 55, 10.0),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_recipes_are_the_papers(name: str) -> None:
    recipe = recipe_from_dict(read_recipe(name), name)
    data, model, training = recipe.sections["data"], recipe.sections["model"], recipe.training
    assert PAPER[name] == (
        model.hidden_size,
        model.init,
        model.dropout,
        data.batch_size,
        data.steps,
        training.hold_epochs,
        training.decay,
        training.epochs,
        training.clip,
    )
    assert (model.cell, model.num_layers, model.tied, model.embedding_size) == ("lstm", 2, False, None)
    assert (training.optimizer, training.learning_rate, training.weight_decay) == ("sgd", 1.0, 0.0)
    assert (data.path, data.vocabulary, data.min_frequency, data.max_size) == ("ptb", "word", 1, None)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_whole_and_says_what_to_expect(name: str) -> None:
    recipe = recipe_from_dict(read_recipe(name), name)
    assert recipe.name == name
    assert recipe.summary
    assert recipe.expected.here and recipe.expected.machine and recipe.expected.time
    again = recipe_from_dict(recipe.to_dict(), "recipe.json")
    assert again == recipe


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("hold_epochs", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("clip", -1.0),
        ("decay", 0.5),
        ("decay", math.nan),
        ("weight_decay", -1.0),
        ("patience", 0),
        ("checkpoint_minutes", 0.0),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} = {value} must"):
        TrainingConfig(**{"epochs": 1} | {name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'the key "task" is missing'),
        ('task = "langauge"', "there is no task 'langauge'; did you mean 'language'?"),
        ('task = "language"\nmodle = {}', "unknown key 'modle'; did you mean 'model'?"),
        ('task = "language"\nmodel = 3', "'model' is a plain value"),
        ('task = "language"\nsummary = {}', "'summary' is a table"),
        ('task = "language"\nsummary = 3', "summary: expected a string, found 3"),
        ('task = "language"\n[training]\nepochs = "3"', "[training] epochs: expected a whole number, found '3'"),
        ('task = "language"\n[training]\nepochs = 3\n[expected]\npapre = ""', "unknown key 'papre'"),
        ("task = language", "not valid TOML"),
    ],
)
def test_a_users_recipe_is_refused_by_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RegrnnError) as error:
        recipe_from_dict(read_recipe(str(path)), str(path))
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))


def test_unknown_names_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RegrnnError, match=r"there is no recipe 'ptb-smal'; did you mean 'ptb-small'\?"):
        read_recipe("ptb-smal")
    with pytest.raises(RegrnnError, match="cannot be read"):
        read_recipe(str(tmp_path / "nowhere.toml"))
    (tmp_path / "latin.toml").write_bytes(b'task = "caf\xe9"')
    with pytest.raises(RegrnnError, match=r"latin\.toml: not UTF-8 at byte 11"):
        read_recipe(str(tmp_path / "latin.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(RegrnnError, match=r"folder\.toml: cannot be read \(Is a directory\)"):
        read_recipe(str(tmp_path / "folder.toml"))


def test_a_users_file_is_named_after_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('task = "language"\n[training]\nepochs = 2\n', encoding="utf-8")
    assert recipe_from_dict(read_recipe(str(path)), "mine").name == "mine"


def test_flags_override_and_leave_the_recipe_as_read(tmp_path: Path) -> None:
    values = {"task": "language", "training": {"epochs": 2}, "model": {"dropout": {"input": 0.5}}}
    before = copy.deepcopy(values)
    flags = [("--model.dropout.output", "0.25"), ("--training.clip", "none"), ("--data.batch-size", "7")]
    recipe = recipe_from_dict(values, "x", flags)
    assert values == before
    assert recipe.sections["model"].dropout == Regularization(input=0.5, output=0.25)
    assert recipe.training.clip is None
    assert recipe.sections["data"].batch_size == 7
    assert recipe_from_dict(recipe.to_dict(), "recipe.json") == recipe, "no clip is not the default clip"


def test_a_recipe_says_none_where_toml_has_no_word(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('task = "language"\n[training]\nepochs = 2\nclip = "none"\n', encoding="utf-8")
    assert recipe_from_dict(read_recipe(str(path)), "mine").training.clip is None
