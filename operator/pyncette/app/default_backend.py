"""The default backend of an app: an embedded SQLite database."""

from __future__ import annotations

from pyncette.app.configuration import takes_all_settings
from pyncette.store.base import Store
from pyncette.store.sqlite.store import SqliteStore


@takes_all_settings("sqlite_")
def sqlite_repository(
    *, sqlite_database: str = ":memory:", sqlite_table_name: str = "pyncette_tasks"
) -> Store:
    """
    Return a store in the tables of *sqlite_table_name*, in the file *sqlite_database*. Missing ones are created.

    Several processes may open the same file. Raises ValueError if the table name has other characters than lower-case
    letters, digits and underscores.
    """
    return SqliteStore(sqlite_database, sqlite_table_name)
