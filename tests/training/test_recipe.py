"""Recipes: those that come with the package, a user's own, and the paper's learning-rate rule."""

from pathlib import Path

import pytest

from regrnn.errors import RegrnnError
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
    ("timing", "rates"),
    [
        (
            "text",
            [1, 1, 1, 1, 1 / 2, 1 / 4, 1 / 8],
        ),  # "after 4 epochs we decrease it by a factor of 2 after each epoch"
        ("code", [1, 1, 1, 1, 1, 1 / 2, 1 / 4]),  # the released code: one epoch later
    ],
)
def test_learning_rate_in_both_timings(timing: str, rates: list[float]) -> None:
    config = recipe_from_dict(read_recipe("ptb-small"), "x", [("--training.timing", timing)]).training
    assert [config.rate(epoch) for epoch in range(1, 8)] == pytest.approx(rates, rel=1e-15)


def test_the_large_models_last_rate() -> None:
    config = recipe_from_dict(read_recipe("ptb-large"), "x", [("--training.timing", "text")]).training
    assert config.rate(14) == 1.0
    assert config.rate(55) == pytest.approx(1.15**-41)


@pytest.mark.parametrize(
    "setting",
    [{"epochs": 0}, {"hold_epochs": 0}, {"learning_rate": 0.0}, {"clip": -1.0}, {"decay": 0.5}, {"weight_decay": -1.0},
     {"patience": 0}, {"checkpoint_minutes": 0.0}],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        TrainingConfig(**{"epochs": 1} | setting)  # type: ignore[arg-type]


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
    assert str(path) in str(error.value) or "task" in message


def test_unknown_names_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RegrnnError, match="there is no recipe 'ptb-smal'; did you mean 'ptb-small'?"):
        read_recipe("ptb-smal")
    with pytest.raises(RegrnnError, match="cannot be read"):
        read_recipe(str(tmp_path / "nowhere.toml"))
    (tmp_path / "latin.toml").write_bytes(b'task = "caf\xe9"')
    with pytest.raises(RegrnnError, match="latin.toml: not UTF-8 at byte 11"):
        read_recipe(str(tmp_path / "latin.toml"))
