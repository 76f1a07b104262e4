"""Names of tables and versions of schemas, for all backends."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from pyncette.errors import ConfigurationError, SchemaError
from pyncette.store.base import SCHEMA_VERSION

TABLE: Final = "pyncette_tasks"
"""The default name of the table of records."""

_NAME: Final = re.compile(r"[a-z0-9_]{1,48}")
"""48 leaves room for the longest suffix within the 63 bytes that every SQL backend allows for a name."""


ID_BLOCK: Final = 10_000
"""Ids of records that a process reserves at once, so that it knows the id of a record before it creates it."""


class Migrated(NamedTuple):
    """The versions of the schema before and after a migration; 0 stands for an empty database."""

    before: int
    after: int


def check_table_name(name: str, option: str) -> None:
    """Raise ConfigurationError, a ValueError, unless the table *name*, given as *option*, is valid in a statement."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{option} must be 1 to 48 lower-case letters, digits or underscores, not {name!r}"
        )


def check_schema(version: int, min_reader: int, where: str) -> None:
    """Raise SchemaError unless this release can use the tables *where*, which have *version* and *min_reader*."""
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
