"""Config dataclasses from plain values and flags: what is accepted, and how the rest is refused."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from regrnn.config import apply_flag, differences, fill, to_dict
from regrnn.errors import RegrnnError
from regrnn.nn import Regularization
from regrnn.tasks.language.model import ModelConfig
from regrnn.training.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Example:
    size: int
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"
    limit: int | None = None
    tied: bool = False
    name: str = ""
    dropout: float | Regularization = 0.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size = {self.size} must be at least 1")


KNOWN = "dropout, kind, limit, name, rate, size, tied"


def test_fill_takes_every_kind_of_value() -> None:
    config = fill(
        Example,
        {"size": 3, "rate": 1, "kind": "b", "limit": 7, "tied": True, "name": "x", "dropout": {"input": 0.25}},
        "here",
    )
    assert config == Example(
        size=3, rate=1.0, kind="b", limit=7, tied=True, name="x", dropout=Regularization(input=0.25)
    )
    assert type(config.rate) is float


def test_none_can_be_said_in_toml() -> None:
    """TOML has no null; a setting that may be none takes the word, one that is text keeps it."""
    assert fill(Example, {"size": 1, "limit": "none", "name": "none"}, "here") == Example(size=1, name="none")
    config = fill(Example, {"size": 1, "dropout": {"recurrent_masks": "none"}}, "here")
    assert config.dropout == Regularization(recurrent_masks=None)


def test_to_dict_comes_back_through_fill() -> None:
    config = Example(size=2, dropout=Regularization(between=0.3, masks="sequence"))
    assert fill(Example, to_dict(config), "here") == config
    without = TrainingConfig(epochs=1, clip=None)  # the default is not none, and must not come back in its place
    assert fill(TrainingConfig, to_dict(without), "here") == without


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "here: the key 'size' is missing"),
        ({"size": 1, "siz": 2}, "here: unknown key 'siz'; did you mean 'size'?"),
        ({"size": "1"}, "here size: expected a whole number, found '1' (str)"),
        ({"size": 1.0}, "here size: expected a whole number, found 1.0 (float)"),
        ({"size": True}, "here size: expected a whole number, found True (bool)"),
        ({"size": 1, "rate": "1e-3"}, "here rate: expected a number, found '1e-3' (str)"),
        ({"size": 1, "rate": float("nan")}, "here rate: nan is not a finite number"),
        ({"size": 1, "rate": float("inf")}, "here rate: inf is not a finite number"),
        ({"size": 1, "tied": 1}, "here tied: expected true or false, found 1 (int)"),
        ({"size": 1, "kind": "c"}, "here kind: 'c' is not one of a, b"),
        ({"size": 1, "name": ["x"]}, "here name: expected a string, found ['x'] (list)"),
        ({"size": 0}, "here: size = 0 must be at least 1"),
        ({"size": [1]}, "here size: expected a whole number, found [1] (list)"),
        ({"size": None}, "here size: expected a whole number, found None (NoneType)"),
        ({"size": 1, "limit": {}}, "here limit: expected a whole number, found {} (dict)"),
        ({"size": 1, "limit": "None"}, "here limit: expected a whole number, found 'None' (str)"),
        ({"size": 1, "rate": None}, "here rate: expected a number, found None (NoneType)"),
        ({"size": 1, "rate": "none"}, "here rate: expected a number, found 'none' (str)"),
        ({"size": 1, "rate": False}, "here rate: expected a number, found False (bool)"),
        ({"size": 1, "rate": 10**400}, f"here rate: {10**400} is too large a number"),
        ({"size": 1, "kind": ["a"]}, "here kind: ['a'] is not one of a, b"),
        ({"size": 1, "dropout": "0.5"}, "here dropout: expected a number, found '0.5' (str)"),
        ({"size": 1, "dropout": [0.5]}, "here dropout: expected a number, found [0.5] (list)"),
        ({"size": 1, "dropout": True}, "here dropout: expected a number, found True (bool)"),
        ({"size": 1, "dropout": {"masks": "stpe"}}, "here dropout masks: 'stpe' is not one of step, sequence, batch"),
        (
            {"size": 1, "dropout": {"recurrent_masks": {}}},
            "here dropout recurrent_masks: {} is not one of step, sequence, batch",
        ),
        ({"size": 1, "zzz": 1}, f"here: unknown key 'zzz'; known: {KNOWN}"),
        (["size"], "here: expected a table, found ['size']"),
        ({"size": 1, "dropout": {"inptu": 0.1}}, "here dropout: unknown key 'inptu'; did you mean 'input'?"),
    ],
)
def test_fill_refuses_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RegrnnError) as error:
        fill(Example, values, "here")
    assert str(error.value) == message


@pytest.mark.parametrize("rate", [1.0, -0.1, 2])
@pytest.mark.parametrize("key", ["input", "recurrent", None])
def test_rates_outside_the_unit_interval_are_refused(rate: float, key: str | None) -> None:
    with pytest.raises(RegrnnError, match=r"rate in \[0, 1\)"):
        fill(ModelConfig, {"dropout": rate if key is None else {key: rate}}, "[model]")


def flagged(sections: dict[str, Any], *flags: tuple[str, str]) -> dict[str, Any]:
    for flag, text in flags:
        apply_flag(sections, {"model": Example}, flag, text)
    return sections


def test_flags_override_and_are_typed() -> None:
    sections = flagged(
        {"model": {"size": 1, "limit": 4}},
        ("--model.size", "5"),
        ("--model.rate", "1e-3"),
        ("--model.limit", "none"),
        ("--model.tied", "true"),
        ("--model.kind", "b"),
    )
    assert sections == {"model": {"size": 5, "rate": 1e-3, "limit": None, "tied": True, "kind": "b"}}
    assert fill(Example, sections["model"], "here").limit is None


def test_a_flag_for_a_field_of_a_table_replaces_a_plain_number() -> None:
    sections = flagged({"model": {"size": 1, "dropout": 0.5}}, ("--model.dropout.recurrent", "0.2"))
    assert fill(Example, sections["model"], "here").dropout == Regularization(recurrent=0.2)
    sections = flagged(sections, ("--model.dropout.input", "0.1"))
    assert fill(Example, sections["model"], "here").dropout == Regularization(recurrent=0.2, input=0.1)
    sections = flagged(sections, ("--model.dropout", "0.3"))
    assert fill(Example, sections["model"], "here").dropout == 0.3


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("--modle.size", "1", "--modle.size: no section 'modle'; did you mean 'model'?"),
        ("--model.sise", "1", "--model.sise: no setting 'sise'; did you mean 'size'?"),
        ("--model.size", "many", "--model.size: expected a whole number, found 'many'"),
        ("--model.size", "1.5", "--model.size: expected a whole number, found '1.5'"),
        ("--model.rate", "fast", "--model.rate: expected a number, found 'fast'"),
        ("--model.rate", "none", "--model.rate: expected a number, found 'none'"),
        ("--size", "1", "--size: unknown flag; settings of the recipe are given as --section.key VALUE"),
        ("--model.", "1", f"--model.: no setting ''; known: {KNOWN}"),
        ("--model.tied", "yes", "--model.tied: expected true or false, found 'yes'"),
        ("--model.size.deep", "1", "--model.size.deep: model.size is a plain value"),
        ("--model.dropout.inptu", "1", "--model.dropout.inptu: no setting 'inptu'; did you mean 'input'?"),
    ],
)
def test_flags_are_refused_by_name(flag: str, text: str, message: str) -> None:
    with pytest.raises(RegrnnError) as error:
        flagged({"model": {"size": 1}}, (flag, text))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("--model.rate", "nan", "here rate: nan is not a finite number"),
        ("--model.rate", "-inf", "here rate: -inf is not a finite number"),
        ("--model.kind", "z", "here kind: 'z' is not one of a, b"),
        ("--model.size", "0", "here: size = 0 must be at least 1"),
        (
            "--model.dropout.recurrent-masks",
            "once",
            "here dropout recurrent_masks: 'once' is not one of step, sequence, batch",
        ),
    ],
)
def test_what_flags_say_is_checked_like_the_rest(flag: str, text: str, message: str) -> None:
    sections = flagged({"model": {"size": 1}}, (flag, text))
    with pytest.raises(RegrnnError) as error:
        fill(Example, sections["model"], "here")
    assert str(error.value) == message


def test_a_flag_begins_a_section_that_the_recipe_leaves_out() -> None:
    assert flagged({}, ("--model.size", "2"), ("--model.dropout.recurrent-masks", "none")) == {
        "model": {"size": 2, "dropout": {"recurrent_masks": None}}
    }


def test_differences_name_the_path_of_each_change() -> None:
    before = {"seed": 1, "recipe": {"model": {"size": 1, "rate": 0.5}, "task": "language"}}
    after = {"seed": 2, "recipe": {"model": {"size": 1, "rate": 0.25}, "task": "language"}, "new": 3}
    assert differences(before, after) == ["new: None -> 3", "recipe.model.rate: 0.5 -> 0.25", "seed: 1 -> 2"]
    assert differences(before, before) == []
