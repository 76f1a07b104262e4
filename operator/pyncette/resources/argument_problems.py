"""
Compares the arguments of a manifest with the JSON schema of the handler's arguments.

A schema that was read from a database is untrusted input, since its tenant can write anything there. So only keywords
whose work is bounded by that of a step have an effect, and the steps of one check are counted.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgspec

from pyncette.core.suggestions import did_you_mean

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

PROBLEMS_MAX: Final = 10
"""Problems of one manifest that are reported."""

TEXT_CHARACTERS_MAX: Final = 200
"""Of a message: it may quote values, and rules of a schema."""

STEPS_MAX: Final = 2_000
"""Keywords that one check applies: enough for hundreds of arguments. A hostile schema would take any number."""

VALIDATORS_MAX: Final = 256
"""Schemas that stay compiled: to compile one takes longer than to apply it."""

KEYWORDS: Final = frozenset(
    {"$ref", "type", "enum", "const", "format", "properties", "required", "additionalProperties", "items", "prefixItems"}
    | {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties", "anyOf", "allOf", "oneOf"}
    | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
)  # fmt: skip
"""Keywords that are applied. Not among them: `pattern`, since a regular expression may take for ever."""

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


class _TooManyStepsError(Exception):
    """A check took more than `STEPS_MAX` steps."""


def argument_problems(
    schema: Mapping[str, Any], args: Mapping[str, Any], *, complete: bool = True
) -> list[ArgumentProblem]:
    """
    Return what is wrong with *args* by the JSON *schema* of a handler's arguments, in the order of their places.

    Unless they are *complete*, arguments may be missing: a template gets them from its instances. A schema that is itself
    invalid, or that takes too long to apply, has no problems: it says nothing about the arguments.
    """
    return published_argument_problems(msgspec.json.encode(schema), args, complete=complete)


def published_argument_problems(
    schema: bytes, args: Mapping[str, Any], *, complete: bool = True
) -> list[ArgumentProblem]:
    """Return what `argument_problems` does, for a *schema* as it is stored."""
    checked = _compiled(schema, complete)
    if checked is None:
        return []
    rules, validator = checked
    try:
        errors = list(validator(STEPS_MAX).iter_errors(dict(args)))
    except Exception:  # noqa: BLE001 - a schema that is valid by its form may still raise anything, or take too many steps
        return []
    problems = [problem for error in errors for problem in _problems(error, rules)]
    problems.sort(key=lambda problem: [str(part) for part in problem.path])
    return problems[:PROBLEMS_MAX]


@lru_cache(maxsize=VALIDATORS_MAX)
def _compiled(schema: bytes, complete: bool) -> tuple[dict[str, Any], Callable[[int], Validator]] | None:
    """Return the rules of *schema*, and a function that returns a validator with so many steps; None if it is invalid."""
    from jsonschema import Draft202012Validator, FormatChecker  # noqa: PLC0415 - it takes a tenth of a second to load
    from jsonschema.validators import extend  # noqa: PLC0415
    from referencing import Registry  # noqa: PLC0415

    try:
        rules: dict[str, Any] = msgspec.json.decode(schema, type=dict[str, Any])
        if not complete:
            rules["required"] = []
        Draft202012Validator.check_schema(rules)
    except Exception:  # noqa: BLE001 - the text may be anything, and deeper than the stack
        return None
    checker = FormatChecker(formats=())
    for name, parse in FORMATS.items():
        checker.checks(name, raises=ValueError)(_format(parse))

    def validator(steps: int) -> Validator:
        left = [steps]
        keywords = {name: _counted(Draft202012Validator.VALIDATORS[name], left) for name in KEYWORDS}
        others = dict.fromkeys(Draft202012Validator.VALIDATORS.keys() - KEYWORDS, _ignored)
        kind = cast("Any", extend)(Draft202012Validator, {**keywords, **others})
        # With a registry of its own, it resolves references within the schema, and fetches none.
        return cast("Validator", kind(rules, registry=Registry(), format_checker=checker))

    return rules, validator


def _counted(keyword: Any, left: list[int]) -> Any:
    def apply(*args: Any) -> Iterator[ValidationError]:
        left[0] -= 1
        if left[0] < 0:
            raise _TooManyStepsError
        yield from keyword(*args) or ()

    return apply


def _ignored(*_: Any) -> tuple[()]:
    return ()


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
