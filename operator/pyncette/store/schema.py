"""What the SQL stores have in common: names of tables, and what becomes of a schema of another release."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from pyncette.errors import ConfigurationError, SchemaError
from pyncette.store.base import SCHEMA_VERSION

TABLE: Final = "pyncette_tasks"
"""The table of records, unless another is named."""

_NAME: Final = re.compile(r"[a-z0-9_]{1,48}")
"""48 leaves room for the longest suffix in the 63 bytes that a name has on every SQL backend."""


ID_BLOCK: Final = 10_000
"""Ids of records that a process takes at once, so that it knows the id of a record before it creates it."""


class Migrated(NamedTuple):
    """The versions of the schema before a migration and after it; 0 is that of an empty database."""

    before: int
    after: int


def check_table_name(name: str, option: str) -> None:
    """Raise ConfigurationError, a ValueError, unless *name*, given as *option*, is one that goes into a statement as it is."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{option} must be 1 to 48 lower-case letters, digits or underscores, not {name!r}"
        )


def check_schema(version: int, min_reader: int, where: str) -> None:
    """Raise SchemaError unless this release can work on the tables *where*, which say that they have *version*."""
    if min_reader > SCHEMA_VERSION:
        raise SchemaError(
            f"{where} have schema {version}, and this release knows {SCHEMA_VERSION}:"
            " use a release that is as new as the one that changed them"
        )
    if version < SCHEMA_VERSION:
        raise SchemaError(
            f"{where} have schema {version}, and this release needs {SCHEMA_VERSION}: run `pyncette migrate`,"
            " or upgrade the operator, which does"
        )
