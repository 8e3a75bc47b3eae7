"""Define a setting by default, type and range, and refuse wrong values with a clear message."""

import contextlib
import dataclasses
import math
import operator
import reprlib
import typing
from dataclasses import field
from typing import Any

from deepspeech2.errors import InputError
from deepspeech2.files import is_path

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 100


class ConfigError(InputError):
    """A setting that is unknown, of the wrong type or out of range; the message names the field."""


def setting(
    default, *, minimum=None, maximum=None, above=None, below=None, choices=None, rule=None
):
    """A dataclass field for a setting.

    Args:
        default: the default value.
        minimum: smallest value allowed; for a tuple, of each number in it.
        maximum: largest value allowed.
        above: exclusive lower limit.
        below: exclusive upper limit.
        choices: the values allowed.
        rule: a predicate, and what a value must do to satisfy it, for the error message.
    """
    limits = {
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "below": below,
        "choices": choices,
        "rule": rule,
    }
    return field(default=default, metadata=limits)


def convert(key: str, value: Any, kind: Any) -> Any:
    """Convert a value from YAML to the type of its field.

    Args:
        key: GROUP.FIELD, for the error message.
        value: what YAML gave.
        kind: type of the field: bool, int, float, str, or a tuple of these.

    Raises:
        ConfigError: naming the key, for a value of another type.
    """
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise ConfigError(f"`{key}` (={_show(value)}) must be a list of {len(kinds)} numbers")
        return tuple(convert(key, v, k) for v, k in zip(value, kinds, strict=True))
    if kind is float and type(value) in (int, str):  # YAML reads 3e-4, without a dot, as text
        with contextlib.suppress(ValueError, OverflowError):
            value = float(value)
    if (
        type(value) is not kind
        or (kind is float and not math.isfinite(value))
        or (kind is str and not is_path(value))  # most texts are paths
    ):
        raise ConfigError(f"`{key}` (={_show(value)}) must be {_describe(kind)}")
    return value


def _show(value: Any) -> str:
    """A value for a message, cut where it is long or deep."""
    return _SHORT.repr(value)


def _describe(kind: type) -> str:
    return {
        bool: "True or False",
        int: "a whole number",
        float: "a finite number",
        str: "text that can be a path",
    }[kind]


def check(key: str, value: Any, field_: dataclasses.Field) -> None:
    """Raise ConfigError, naming the key, for a value out of the range of its field."""
    limits = field_.metadata
    if limits["choices"] and value not in limits["choices"]:
        raise ConfigError(
            f"`{key}` (={_show(value)}) must be one of {', '.join(map(str, limits['choices']))}"
        )
    rules = {
        "minimum": (operator.ge, "at least"),
        "maximum": (operator.le, "at most"),
        "above": (operator.gt, "above"),
        "below": (operator.lt, "below"),
    }
    for name, (holds, words) in rules.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if limits[name] is not None and not all(holds(number, limits[name]) for number in numbers):
            raise ConfigError(f"`{key}` (={_show(value)}) must be {words} {limits[name]}")
    if limits["rule"] and not limits["rule"][0](value):
        raise ConfigError(f"`{key}` (={_show(value)}) must {limits['rule'][1]}")


def make_group(kind: type, prefix: str, values: dict[str, Any]) -> Any:
    """Make a group of settings.

    Args:
        kind: dataclass of the group.
        prefix: key of the group.
        values: {PREFIX.FIELD: value}; values of other groups are ignored.

    Raises:
        ConfigError: naming the key, for an unknown field and for a wrong value.
    """
    known = {f.name: f for f in dataclasses.fields(kind)}
    fields = {}
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        if group != prefix:
            continue
        if name not in known:
            raise ConfigError(f"unknown setting `{key}`: `{name}` is none of {', '.join(known)}")
        fields[name] = convert(key, value, known[name].type)
        check(key, fields[name], known[name])
    return kind(**fields)
