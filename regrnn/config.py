"""Frozen dataclasses filled from TOML, JSON and flags: unknown keys and wrong types are refused by name."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from regrnn.errors import RegrnnError

ConfigT = TypeVar("ConfigT")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`'; did you mean 'x'?'` for the nearest known word, else the list of what is known."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(sorted(known))}" if known else ""


def fill(config: type[ConfigT], values: Mapping[str, Any], where: str) -> ConfigT:
    """An instance of the dataclass `config` from plain `values`, checked key by key.

    `where` names the place in messages (`recipe.toml [model]`). Raises RegrnnError for an unknown or missing key,
    a value of the wrong type, and whatever ValueError the dataclass's own `__post_init__` raises.
    """
    if not isinstance(values, Mapping):
        raise RegrnnError(f"{where}: expected a table, found {values!r}")
    hints = typing.get_type_hints(config)
    fields = {field.name: field for field in dataclasses.fields(config) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise RegrnnError(f"{where}: unknown key {key!r}{did_you_mean(key, fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise RegrnnError(f"{where}: the key {name!r} is missing")
    checked = {key: _check(hints[key], value, f"{where} {key}") for key, value in values.items()}
    try:
        return config(**checked)
    except ValueError as error:
        raise RegrnnError(f"{where}: {error}") from None


def _check(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `kind`, or RegrnnError."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(kind) if option is not type(None)]
        if type(None) in typing.get_args(kind) and (value is None or value == "none"):  # TOML has no null
            return None
        # A table goes to the option that is a table, anything else to the one that is not.
        fitting = [option for option in options if dataclasses.is_dataclass(option) == isinstance(value, Mapping)]
        return _check((fitting or options)[0], value, where)
    if origin is Literal:
        if value not in typing.get_args(kind):
            choices = [str(choice) for choice in typing.get_args(kind)]
            raise RegrnnError(f"{where}: {value!r} is not one of {', '.join(choices)}")
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return fill(kind, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise RegrnnError(f"{where}: {value} is too large a number") from None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise RegrnnError(f"{where}: expected {_name(kind)}, found {value!r} ({type(value).__name__})")
    if kind is float and not math.isfinite(value):
        raise RegrnnError(f"{where}: {value} is not a finite number")
    return value


def _name(kind: Any) -> str:
    return {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}.get(kind, str(kind))


def to_dict(config: Any) -> dict[str, Any]:
    """The plain values of a config dataclass, as they stand in JSON; `fill` takes them back."""
    return dataclasses.asdict(config)


def parse_flag(kind: Any, text: str, flag: str) -> Any:
    """The text of a command-line flag as the annotated type `kind` (checked later by `fill`)."""
    options = [kind]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        options = list(typing.get_args(kind))
    if type(None) in options and text.lower() == "none":
        return None
    for option in options:
        if option is bool:
            if text.lower() in ("true", "false"):
                return text.lower() == "true"
            raise RegrnnError(f"{flag}: expected true or false, found {text!r}")
        if option in (int, float):
            try:
                return option(text)
            except ValueError:
                raise RegrnnError(f"{flag}: expected {_name(option)}, found {text!r}") from None
    return text


def apply_flag(sections: dict[str, Any], kinds: Mapping[str, type], flag: str, text: str) -> None:
    """Set `--section.key text` (or `--section.key.subkey`) in the nested dict `sections`.

    `kinds` maps each section to its dataclass. A flag for a table that held a plain value replaces that value.
    """
    section, *path = flag.removeprefix("--").replace("-", "_").split(".")
    if not path:
        raise RegrnnError(f"{flag}: unknown flag; settings of the recipe are given as --section.key VALUE")
    if section not in kinds:
        raise RegrnnError(f"{flag}: no section {section!r}{did_you_mean(section, kinds)}")
    kind: Any = kinds[section]
    target = sections.setdefault(section, {})
    for depth, key in enumerate(path):
        hints = typing.get_type_hints(kind)
        if key not in hints:
            raise RegrnnError(f"{flag}: no setting {key!r}{did_you_mean(key, hints)}")
        kind = hints[key]
        if depth == len(path) - 1:
            break
        tables = [option for option in (typing.get_args(kind) or (kind,)) if dataclasses.is_dataclass(option)]
        if not tables:
            raise RegrnnError(f"{flag}: {'.'.join([section, *path[: depth + 1]])} is a plain value")
        kind = tables[0]
        if not isinstance(target.get(key), dict):
            target[key] = {}
        target = target[key]
    target[path[-1]] = parse_flag(kind, text, flag)


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two nested dicts, one `key: old -> new` a line."""
    lines = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {old!r} -> {new!r}")
    return lines
