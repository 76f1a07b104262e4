"""Compares the arguments of a manifest with the JSON schema of the handler's arguments."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from pyncette.core.suggestions import did_you_mean

if TYPE_CHECKING:
    from jsonschema import ValidationError

PROBLEMS_MAX: Final = 10
"""Problems of one manifest that are reported."""

TEXT_CHARACTERS_MAX: Final = 200
"""Of a message: it may quote values, and rules of a schema."""

FORMATS: Final[Mapping[str, Callable[[str], object]]] = {
    "date": datetime.date.fromisoformat,
    "date-time": datetime.datetime.fromisoformat,
    "uuid": uuid.UUID,
}
"""The formats that are checked, by functions that raise ValueError for other texts."""


class ArgumentProblem(NamedTuple):
    """An invalid argument."""

    path: tuple[str | int, ...]
    """Where it is in the arguments; empty for a missing one."""
    message: str
    """What is wrong with it, to be written after its place."""

    def __str__(self) -> str:
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)
        return f"spec.args{place}: {self.message}"


def argument_problems(
    schema: Mapping[str, Any], args: Mapping[str, Any], *, complete: bool = True
) -> list[ArgumentProblem]:
    """
    Return what is wrong with *args* by the JSON *schema* of a handler's arguments, in the order of their places.

    Unless they are *complete*, arguments may be missing: a template gets them from its instances. A schema that is itself
    invalid has no problems: it says nothing about the arguments.
    """
    from jsonschema import Draft202012Validator, FormatChecker  # noqa: PLC0415 - it takes a tenth of a second to load
    from jsonschema.exceptions import SchemaError  # noqa: PLC0415

    rules = dict(schema) if complete else {**schema, "required": []}
    try:
        Draft202012Validator.check_schema(rules)
    except SchemaError:
        return []
    checker = FormatChecker(formats=())
    for name, parse in FORMATS.items():
        checker.checks(name, raises=ValueError)(_format(parse))
    validator = Draft202012Validator(rules, format_checker=checker)
    problems = sorted(
        (problem for error in validator.iter_errors(dict(args)) for problem in _problems(error, rules)),
        key=lambda problem: [str(part) for part in problem.path],
    )
    return problems[:PROBLEMS_MAX]


def _format(parse: Callable[[str], object]) -> Callable[[object], bool]:
    def check(value: object) -> bool:
        if isinstance(value, str):
            parse(value)
        return True

    return check


def _problems(error: ValidationError, schema: Mapping[str, Any]) -> list[ArgumentProblem]:
    path, given = tuple(error.absolute_path), cast("Any", error.instance)
    if not path and error.validator == "required":
        missing = [
            name
            for name in schema.get("required", ())
            if name not in given and error.message.startswith(repr(name))  # each has an error of its own
        ]
        return [ArgumentProblem((), f"the argument {name} is missing") for name in missing]
    if not path and error.validator == "additionalProperties":
        known = list(schema.get("properties", ()))
        taken = f"the handler takes {', '.join(sorted(known)) or 'no arguments'}"
        return [
            ArgumentProblem((name,), f"unknown argument; {did_you_mean(name, known, taken)}")
            for name in given
            if name not in known
        ]
    text = error.message
    if len(text) > TEXT_CHARACTERS_MAX:
        text = f"{text[:TEXT_CHARACTERS_MAX]}…"
    return [ArgumentProblem(path, text)]
