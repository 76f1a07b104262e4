"""Reads a custom resource from JSON, and says of what it refuses where it is, what is wrong, and how to hint it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pyncette.core.suggestions import did_you_mean
from pyncette.resources.modelling import INVALID, PATTERNS, Model, listed
from pyncette.resources.resource import Resource

Path: TypeAlias = tuple[str | int, ...]
"""Where something is in a document: names of fields, and numbers of items."""

R = TypeVar("R", bound=Resource)
M = TypeVar("M", bound=Model)

UNKNOWN_FIELD: Final = "UnknownField"

SHOWN_CHARACTERS_MAX: Final = 60
"""Of a value that is quoted in a message."""


class Problem(NamedTuple):
    """One thing that keeps a resource from being used."""

    path: Path
    message: str
    reason: str = INVALID
    """PascalCase, as a condition gives it."""

    def __str__(self) -> str:
        return f"{dotted(self.path)}: {self.message}" if self.path else self.message


class Refusal(NamedTuple):
    """The answer to a resource that cannot be used: all that is wrong with it."""

    problems: tuple[Problem, ...]


def read(model: type[R], manifest: Mapping[str, Any]) -> R | Refusal:
    """Read what a user wrote: an unknown field is a problem, and a status is not the user's to write, so it is not read."""
    return _read(model, {name: value for name, value in manifest.items() if name != "status"}, "forbid")


def read_stored(model: type[R], stored: Mapping[str, Any]) -> R | Refusal:
    """
    Read what the API server holds, which may be written for another release: what is unknown is passed over.

    A status that this release cannot read counts as none: it is going to be written anew.
    """
    resource = _read(model, stored, "ignore")
    if isinstance(resource, Refusal) and any(
        problem.path[:1] == ("status",) for problem in resource.problems
    ):
        return _read(model, {name: value for name, value in stored.items() if name != "status"}, "ignore")
    return resource


def read_settings(model: type[M], given: Mapping[str, Any]) -> M | Refusal:
    """Read settings that a user wrote, which are no resource: an unknown field is a problem."""
    return _read(model, given, "forbid")


def written(resource: Resource) -> dict[str, Any]:
    """Return *resource* as JSON that `read_stored` reads back to an equal one; defaults are written out."""
    return resource.model_dump(mode="json", by_alias=True, exclude_none=True)


def dotted(path: Path) -> str:
    """Return *path* as Kubernetes writes it: `spec.args[some key].items[0]`."""
    text = ""
    for part in path:
        if isinstance(part, str) and part.isidentifier():
            text += f".{part}" if text else part
        else:
            text += f"[{part}]"
    return text


def unknown_handler(name: str, registered: Iterable[str]) -> str:
    """Return what to say of a handler that no worker has registered."""
    known = sorted(registered)
    hint = did_you_mean(name, known, f"there {'is' if len(known) == 1 else 'are'} {listed(known)}")
    return f'no handler "{name}" is registered; {hint}'


def _read(model: type[M], given: Mapping[str, Any], extra: Any) -> M | Refusal:
    try:
        return model.model_validate(dict(given), extra=extra, by_alias=True, by_name=False)
    except ValidationError as error:
        return Refusal(tuple(_problem(model, details) for details in error.errors(include_url=False)))


def _problem(root: type[Model], details: ErrorDetails) -> Problem:
    kind, path = details["type"], details["loc"]
    if kind == "extra_forbidden":
        return Problem(path, _unknown_field(root, path), UNKNOWN_FIELD)
    if kind in _SAYINGS:
        return Problem(path, _SAYINGS[kind](_Said(root, path, details["input"], details.get("ctx", {}))))
    return Problem(path, details["msg"], kind if kind[0].isupper() else INVALID)


# --- What is said of each kind of error ------------------------------------------------------------------------------


class _Said(NamedTuple):
    root: type[Model]
    path: Path
    given: Any
    context: Mapping[str, Any]


def _missing(said: _Said) -> str:
    owner = _model_at(said.root, said.path[:-1])
    name = str(said.path[-1])
    examples = [
        field.examples for field in owner.model_fields.values() if field.alias == name and field.examples
    ]
    return f"is required, for example {name}: {examples[0][0]}" if examples else "is required"


def _not_text(said: _Said) -> str:
    hint = f"; put it in quotes: {json.dumps(_plain(said.given))}" if _is_scalar(said.given) else ""
    return f"must be text, not {_shown(said.given)}{hint}"


def _not_whole(said: _Said) -> str:
    text = said.given if isinstance(said.given, str) else ""
    hint = f"; write it without quotes: {text}" if text.removeprefix("-").isdecimal() else ""
    return f"must be a whole number, not {_shown(said.given)}{hint}"


def _not_boolean(said: _Said) -> str:
    hint = f"; write it without quotes: {said.given}" if said.given in ("true", "false") else ""
    return f"must be true or false, not {_shown(said.given)}{hint}"


def _not_listed(said: _Said) -> str:
    allowed = _allowed(said.context["expected"])
    close = did_you_mean(said.given, allowed) if isinstance(said.given, str) else ""
    hint = f"; {close}" if close else ""
    return f"must be {listed(allowed, 'or')}, not {_shown(said.given)}{hint}"


def _too_long(said: _Said) -> str:
    # The actual length of pydantic is absent where it stopped counting.
    return f"may have {said.context['max_length']:,} entries at most, and has {len(said.given):,}"


def _text_too_long(said: _Said) -> str:
    return f"may have {said.context['max_length']:,} characters at most, and has {len(said.given):,}"


def _unlike(said: _Said) -> str:
    pattern = said.context["pattern"]
    return f"{_shown(said.given)} is not {PATTERNS.get(pattern, 'like ' + pattern)}"


_SAYINGS: Final[dict[str, Callable[[_Said], str]]] = {
    "bool_type": _not_boolean,
    "dict_type": lambda said: f"must be a mapping of names to values, not {_shown(said.given)}",
    "greater_than_equal": lambda said: f"must be at least {said.context['ge']}, not {said.given}",
    "int_type": _not_whole,
    "less_than_equal": lambda said: f"must be at most {said.context['le']}, not {said.given}",
    "list_type": lambda said: f"must be a list, not {_shown(said.given)}",
    "literal_error": _not_listed,
    "missing": _missing,
    "model_type": lambda said: f"must be a mapping of fields to values, not {_shown(said.given)}",
    "string_pattern_mismatch": _unlike,
    "string_too_long": _text_too_long,
    "string_too_short": lambda _: "must not be empty",
    "string_type": _not_text,
    "too_long": _too_long,
    "tuple_type": lambda said: f"must be a list, not {_shown(said.given)}",
}


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    kind = "" if isinstance(value, str | bool) else "the number "
    text = json.dumps(value, ensure_ascii=False)
    return kind + (text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}…")


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float)


def _plain(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _allowed(expected: str) -> list[str]:
    # pydantic says it as a sentence: 'a', 'b' or 'c'.
    return expected.split("'")[1::2]


# --- Unknown fields --------------------------------------------------------------------------------------------------


def _unknown_field(root: type[Model], path: Path) -> str:
    name, owner = str(path[-1]), _model_at(root, path[:-1])
    known = _fields(owner)
    if name in owner.instead:
        return f"unknown field; {owner.instead[name]}"
    if name in _homes(root):
        return f"unknown field here; it belongs at {dotted(_homes(root)[name])}"
    return f"unknown field; {did_you_mean(name, known, f'there are {listed(sorted(known))}')}"


def _fields(model: type[Model]) -> dict[str, Any]:
    return {
        field.alias or name: field.annotation
        for name, field in model.model_fields.items()
        if name != "status"
    }


def _model_at(root: type[Model], path: Path) -> type[Model]:
    model = root
    for part in path:
        if isinstance(part, str):
            model = next(_models_in(_fields(model).get(part)), model)
    return model


def _models_in(annotation: Any) -> Iterator[type[Model]]:
    """Yield the models that a type is made of: of `Model | None`, `tuple[Model, ...]` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


@cache
def _homes(root: type[Model]) -> dict[str, Path]:
    """Return where in *root* a field of each name belongs, the outermost place if there are several."""
    homes: dict[str, Path] = {}
    level: list[tuple[Path, type[Model]]] = [((), root)]
    while level:
        inner: list[tuple[Path, type[Model]]] = []
        for path, model in level:
            for name, annotation in _fields(model).items():
                homes.setdefault(name, (*path, name))
                inner.extend(((*path, name), submodel) for submodel in _models_in(annotation))
        level = inner
    return homes


def other_partitions(wanted: int, counts: Iterable[int]) -> str:
    """Return what is wrong with a dynamic task of *wanted* partitions, whose handler has one of *counts*."""
    known = " or ".join(str(count) for count in sorted({*counts}))
    return f"must be {known}, as in the task module, not {wanted}"


def not_dynamic(handler: str) -> str:
    """Return what is wrong with a dynamic task whose handler has no instances."""
    return f'"{handler}" cannot have instances: declare it with @app.dynamic_task()'
