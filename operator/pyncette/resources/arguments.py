"""The arguments of a task: any JSON, within limits that the API server and the operator share."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, WithJsonSchema

from pyncette.resources.modelling import refusal

ARGS_BYTES_MAX: Final = 16 * 1024
"""Maximum size of all arguments together, as JSON: they are stored with each record, and read with each claim."""

ARGS_KEYS_MAX: Final = 64

ARGS_NESTING_MAX: Final = 6
"""Maximum nested levels of arguments, including the first. The schema has two branches at each level: for lists and for mappings."""


def canonical(args: dict[str, Any]) -> bytes:
    """Return *args* as JSON, the same for equal arguments in any order. Raises ValueError if they are not JSON."""
    try:
        return json.dumps(
            args, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
        ).encode()
    except TypeError as error:
        raise ValueError(error) from None
    except RecursionError:
        raise ValueError("they are nested too deeply") from None


def is_nested_deeper(value: Any, levels: int) -> bool:
    """Return whether *value* has more than so many nested *levels*. Not recursive, since values may exceed the recursion limit."""
    level = [value]
    for _ in range(levels + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _check_size(args: dict[str, Any]) -> dict[str, Any]:
    if is_nested_deeper(args, ARGS_NESTING_MAX):
        raise refusal(f"are nested in more than {ARGS_NESTING_MAX} levels: keep such values in a database")
    try:
        size = len(canonical(args))
    except ValueError as error:
        raise refusal(f"cannot be written as JSON: {error}") from None
    if size > ARGS_BYTES_MAX:
        raise refusal(arguments_too_large(size), "ArgumentsTooLarge")
    return args


def arguments_too_large(size: int) -> str:
    """Return the message for arguments that are too large, with *size* bytes."""
    return (
        f"take {size:,} bytes as JSON, {ARGS_BYTES_MAX:,} are allowed: "
        "keep large values in a database, and pass their key"
    )


def _any_json(levels: int) -> dict[str, Any]:
    """
    Return the schema of any JSON value with at most *levels* nested levels; with 0, nested lists and mappings are empty.

    The API server bounds each value, and the operator bounds the whole. Deeper values would overflow the stack of readers.
    """
    schema: dict[str, Any] = {
        "x-kubernetes-preserve-unknown-fields": True,
        "nullable": True,
        "maxLength": ARGS_BYTES_MAX,
        "maxItems": ARGS_BYTES_MAX // 2 if levels else 0,
        "maxProperties": ARGS_BYTES_MAX // 4 if levels else 0,
    }
    if levels:
        schema["items"] = schema["additionalProperties"] = _any_json(levels - 1)
    return schema


Arguments = Annotated[
    dict[str, Any],
    Field(max_length=ARGS_KEYS_MAX),
    AfterValidator(_check_size),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": ARGS_KEYS_MAX,
            "additionalProperties": _any_json(ARGS_NESTING_MAX - 1),
        }
    ),
]
