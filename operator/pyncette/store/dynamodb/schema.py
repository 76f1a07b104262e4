"""The table that records are kept in on DynamoDB: its keys, its one index, and what is said about it."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from pyncette.errors import SchemaError
from pyncette.store.base import MIN_READER, SCHEMA_VERSION
from pyncette.store.schema import check_schema

TABLE: Final = "pyncette"
"""The table, unless another is named."""

INDEX: Final = "due"
"""A local secondary index: it can be read strongly, which no global one can."""

HASH_KEY: Final = "pk"
SORT_KEY: Final = "sk"
NEXT: Final = "next"
"""When a record is next to be looked at, at the earliest; absent if it is not to run. The sort key of the index."""

SHARDS: Final = 4
"""Item collections that the records of a partition are spread over, unless the table says otherwise."""

SHARDS_MAX: Final = 256

PREFIX_BYTES_MAX: Final = 255
"""Leaves room for the longest realm and handler in the 2,048 bytes of a hash key."""

_NAME: Final = re.compile(r"[a-z0-9_]{3,255}")


class Place(NamedTuple):
    """Where records are kept, and what programs find there is kept apart by *prefix*."""

    table: str
    prefix: str = ""
    shards: int = SHARDS
    """For a table that is still to be created; one that is there says for itself."""


class Format(NamedTuple):
    """What a table says of itself."""

    shards: int


def check_place(place: Place) -> None:
    """Raise ValueError unless DynamoDB, and what old modules may rely on, allow it."""
    if not _NAME.fullmatch(place.table):
        raise ValueError(
            "dynamodb_table_name must be 3 to 255 lower-case letters, digits or underscores,"
            f" not {place.table!r}"
        )
    try:
        size = len(place.prefix.encode())
    except UnicodeEncodeError:
        size = PREFIX_BYTES_MAX + 1
    if size > PREFIX_BYTES_MAX or "\0" in place.prefix:
        raise ValueError(
            f"dynamodb_partition_prefix must be text without NUL of up to {PREFIX_BYTES_MAX} bytes"
        )
    if not 1 <= place.shards <= SHARDS_MAX:
        raise ValueError(f"shards must be a number from 1 to {SHARDS_MAX}, not {place.shards}")


def definition(table: str) -> dict[str, Any]:
    """Return what creates the table; each request is paid for, since nobody knows how many there will be."""
    keys = {HASH_KEY: "B", SORT_KEY: "B", NEXT: "N"}
    return {
        "TableName": table,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [
            {"AttributeName": name, "AttributeType": type_} for name, type_ in keys.items()
        ],
        "KeySchema": _keys(SORT_KEY),
        "LocalSecondaryIndexes": [
            {"IndexName": INDEX, "KeySchema": _keys(NEXT), "Projection": {"ProjectionType": "ALL"}}
        ],
    }


def is_ours(description: dict[str, Any]) -> bool:
    """Say whether a table, as DynamoDB describes it, has our keys and our index."""
    indexes = {
        index["IndexName"]: index["KeySchema"] for index in description.get("LocalSecondaryIndexes", ())
    }
    return description["KeySchema"] == _keys(SORT_KEY) and indexes.get(INDEX) == _keys(NEXT)


def meta_key(prefix: str) -> dict[str, Any]:
    """Return the key of the item that says what is written in the table."""
    return {HASH_KEY: {"B": b"m" + prefix.encode()}, SORT_KEY: {"B": b"schema"}}


def meta_item(place: Place) -> dict[str, Any]:
    return {
        **meta_key(place.prefix),
        "schema_version": {"N": str(SCHEMA_VERSION)},
        "min_reader": {"N": str(MIN_READER)},
        "shards": {"N": str(place.shards)},
    }


def format_of(item: dict[str, Any], where: str) -> Format:
    """Return what the item at `meta_key` says. Raises SchemaError if this release cannot work with it."""
    try:
        numbers = {name: int(item[name]["N"]) for name in ("schema_version", "min_reader", "shards")}
    except (KeyError, ValueError):
        raise SchemaError(f"{where} has no schema version: it was not created by Pyncette") from None
    check_schema(numbers["schema_version"], numbers["min_reader"], f"The records of {where}")
    return Format(numbers["shards"])


def _keys(sort_key: str) -> list[dict[str, str]]:
    return [
        {"AttributeName": HASH_KEY, "KeyType": "HASH"},
        {"AttributeName": sort_key, "KeyType": "RANGE"},
    ]
