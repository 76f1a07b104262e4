"""The arrays by which columns of values are passed to PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from pyncette.store.sql.parameters import Array

DOCUMENT_SEPARATOR: Final = "\x1e"
"""Stands between JSON texts, as in RFC 7464: none of them can contain it."""


def _native(values: Sequence[Any]) -> Sequence[Any]:
    return values


def _integers(values: Sequence[int | None]) -> str:
    # perf: as text, since the driver takes twice as long for a native array. tests/store/test_sql.py checks the values.
    text = "{" + repr(values)[1:-1] + "}"
    return text.replace("None", "NULL") if "N" in text else text


def _texts(values: Iterable[str | None]) -> str:
    # perf: as text, since the driver checks each string of a native array for being a list. The quotes are those of
    # the manual of PostgreSQL, "Array Value Input"; tests/store/test_sql.py checks the values.
    return "{" + ",".join(map(_quoted, values)) + "}"


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


def _documents(texts: Sequence[str]) -> str:
    # perf: one text instead of an array of many.
    text = DOCUMENT_SEPARATOR.join(texts)
    if text.count(DOCUMENT_SEPARATOR) >= len(texts) > 0:
        raise ValueError("The arguments of an instance must be JSON, which has no control characters.")
    return text


INT: Final = Array("{}::text::int[]", _integers)
BIGINT: Final = Array("{}::text::bigint[]", _integers)
TEXT: Final = Array("{}::text::text[]", _texts)
DOCUMENT: Final = Array(f"string_to_array({{}}::text, chr({ord(DOCUMENT_SEPARATOR)}))", _documents)
"""JSON texts."""

NATIVE_INT: Final = Array("{}::int[]", _native)
NATIVE_BIGINT: Final = Array("{}::bigint[]", _native)
NATIVE_TEXT: Final = Array("{}::text[]", _native)
NATIVE_BOOL: Final = Array("{}::bool[]", _native)
