"""The backend of an app that names no other: an embedded SQLite."""

from __future__ import annotations

from pyncette.app.configuration import takes_all_settings
from pyncette.store.base import Store
from pyncette.store.sqlite.store import SqliteStore


@takes_all_settings("sqlite_")
def sqlite_repository(
    *, sqlite_database: str = ":memory:", sqlite_table_name: str = "pyncette_tasks"
) -> Store:
    """
    Return a store in the tables that belong to *sqlite_table_name*, of the file *sqlite_database*, made where missing.

    Several processes may open one file. Raises ValueError for a name that holds more than lower-case letters, digits
    and underscores.
    """
    return SqliteStore(sqlite_database, sqlite_table_name)
