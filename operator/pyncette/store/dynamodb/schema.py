"""The table of records on DynamoDB: its keys, its one index, and its version."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from pyncette.errors import SchemaError
from pyncette.store.base import MIN_READER, SCHEMA_VERSION
from pyncette.store.schema import check_schema

TABLE: Final = "pyncette"
"""The default name of the table."""

INDEX: Final = "due"
"""A local secondary index. Unlike a global one, it supports strongly consistent reads."""

HASH_KEY: Final = "pk"
SORT_KEY: Final = "sk"
NEXT: Final = "next"
"""The instant before which a record is not claimable; absent if it never is. The sort key of the index."""

SHARDS: Final = 4
"""The default number of item collections that the records of a partition are spread over."""

SHARDS_MAX: Final = 256

PREFIX_BYTES_MAX: Final = 255
"""Leaves room for the longest realm and handler in the 2,048 bytes of a hash key."""

_NAME: Final = re.compile(r"[a-z0-9_]{3,255}")


class Table(NamedTuple):
    """A table, and the part of it that a *prefix* separates from the records of other programs."""

    name: str
    prefix: str = ""
    shards: int = SHARDS
    """The number for a table that is created. An existing table has its own."""


class Format(NamedTuple):
    """The format of the records below a prefix, as the table stores it."""

    shards: int


def check_table(table: Table) -> None:
    """Raise ValueError unless DynamoDB and Pyncette 1.x allow the names."""
    if not _NAME.fullmatch(table.name):
        raise ValueError(
            "dynamodb_table_name must be 3 to 255 lower-case letters, digits or underscores,"
            f" not {table.name!r}"
        )
    try:
        size = len(table.prefix.encode())
    except UnicodeEncodeError:
        size = PREFIX_BYTES_MAX + 1
    if size > PREFIX_BYTES_MAX or "\0" in table.prefix:
        raise ValueError(
            f"dynamodb_partition_prefix must be text without NUL of up to {PREFIX_BYTES_MAX} bytes"
        )
    if not 1 <= table.shards <= SHARDS_MAX:
        raise ValueError(f"shards must be a number from 1 to {SHARDS_MAX}, not {table.shards}")


def definition(table: str) -> dict[str, Any]:
    """Return the parameters of the request that creates the table. It is billed by request, since the load is unknown."""
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
    """Return whether the table of *description* has the keys and the index of Pyncette."""
    indexes = {
        index["IndexName"]: index["KeySchema"] for index in description.get("LocalSecondaryIndexes", ())
    }
    return description["KeySchema"] == _keys(SORT_KEY) and indexes.get(INDEX) == _keys(NEXT)


def meta_key(prefix: str) -> dict[str, Any]:
    """Return the key of the item with the version and the format."""
    return {HASH_KEY: {"B": b"m" + prefix.encode()}, SORT_KEY: {"B": b"schema"}}


def meta_item(table: Table) -> dict[str, Any]:
    return {
        **meta_key(table.prefix),
        "schema_version": {"N": str(SCHEMA_VERSION)},
        "min_reader": {"N": str(MIN_READER)},
        "shards": {"N": str(table.shards)},
    }


def format_of(item: dict[str, Any], where: str) -> Format:
    """Return the format in the item at `meta_key`. Raises SchemaError if it does not fit this release."""
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
