"""One setting: its default, type and range, and the words that refuse a wrong value."""

import contextlib
import dataclasses
import math
import operator
import typing
from dataclasses import field
from typing import Any

from src.errors import InputError


class ConfigError(InputError):
    """A setting that is unknown, of the wrong type or out of range; the message names the field."""


RANGE = (lambda ends: ends[0] <= ends[1], "hold the smaller number first")    # rule of a setting that is a range


def setting(default, *, minimum=None, maximum=None, above=None, below=None, choices=None, rule=None, not_yet=False):
    """A dataclass field with its range; a rule is (predicate, words); `not_yet` refuses all but the default."""
    limits = {"minimum": minimum, "maximum": maximum, "above": above, "below": below, "choices": choices, "rule": rule,
              "not_yet": not_yet}
    return field(default=default, metadata=limits)


def convert(address: str, value: Any, kind: Any) -> Any:
    """A value from YAML as the type of its field. Raises ConfigError naming the address."""
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise ConfigError(f"`{address}` (={value!r}) must be a list of {len(kinds)} numbers")
        return tuple(convert(address, v, k) for v, k in zip(value, kinds, strict=True))
    if kind is float and type(value) in (int, str):    # YAML reads 3e-4, without a dot, as text
        with contextlib.suppress(ValueError, OverflowError):
            value = float(value)
    if type(value) is not kind or kind is float and not math.isfinite(value):
        raise ConfigError(f"`{address}` (={value!r}) must be {_describe(kind)}")
    return value


def _describe(kind: type) -> str:
    return {bool: "True or False", int: "a whole number", float: "a finite number", str: "text"}[kind]


def check(address: str, value: Any, field_: dataclasses.Field) -> None:
    """Refuse a value that is out of the range of its field. Raises ConfigError naming the address."""
    limits = field_.metadata
    if limits["not_yet"] and value != field_.default:
        raise ConfigError(f"`{address}` (={value!r}) cannot be changed yet: what it controls is not built; "
                          f"leave it at {field_.default!r}")
    if limits["choices"] and value not in limits["choices"]:
        raise ConfigError(f"`{address}` (={value!r}) must be one of {', '.join(limits['choices'])}")
    rules = {"minimum": (operator.ge, "at least"), "maximum": (operator.le, "at most"),
             "above": (operator.gt, "above"), "below": (operator.lt, "below")}
    for name, (holds, words) in rules.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if limits[name] is not None and not all(holds(number, limits[name]) for number in numbers):
            raise ConfigError(f"`{address}` (={value!r}) must be {words} {limits[name]}")
    if limits["rule"] and not limits["rule"][0](value):
        raise ConfigError(f"`{address}` (={value!r}) must {limits['rule'][1]}")
