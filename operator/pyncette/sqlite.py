"""Opens the embedded backend: a file, or the memory of this process."""

from __future__ import annotations

from importlib import import_module

from pyncette.store.base import Store


def sqlite_repository(
    *, sqlite_database: str = ":memory:", sqlite_table_name: str = "pyncette_tasks"
) -> Store:
    """
    Return a store in the tables that belong to *sqlite_table_name*, of the file *sqlite_database*, made where missing.

    Several processes may open one file. Raises ValueError for a name that holds more than lower-case letters, digits
    and underscores.
    """
    # Not there yet; named only where it is opened, so that apps on other backends can be written in the meantime.
    store: Store = import_module("pyncette.store.sqlite").SqliteStore(sqlite_database, sqlite_table_name)
    return store
