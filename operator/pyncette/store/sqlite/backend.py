"""Reads URLs of SQLite: sqlite:///file.db, or sqlite:// for memory."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self
from urllib.parse import quote, unquote

from pyncette.errors import ConfigurationError
from pyncette.store.backend import Backend, without_table_name
from pyncette.store.base import Store
from pyncette.store.schema import Migrated
from pyncette.store.tls import Tls

MEMORY: Final = ":memory:"


class SqliteBackend(Backend):
    """A file, or the memory of this process."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        database, self.table = without_table_name(url)
        self.path: Final = _path(database.partition("://")[2])
        """The path of the file, or `:memory:`."""

    def with_tls(self, tls: Tls, ca_file: str = "") -> Self:  # noqa: ARG002 - it has no connections
        return self

    @property
    def in_memory(self) -> bool:
        return self.path == MEMORY

    @property
    def absence(self) -> str:
        return "" if self.in_memory or Path(self.path).exists() else f"there is no file {self.path}"

    def new_store(self, *, create: bool = True) -> Store:
        from pyncette.store.sqlite.store import SqliteStore  # noqa: PLC0415 - a driver is loaded only where it is used

        return SqliteStore(self.path, self.table, create=create)

    async def migrate(self) -> Migrated:
        from pyncette.store.sqlite.store import migrate  # noqa: PLC0415

        return await migrate(self.path, self.table)

    def __str__(self) -> str:
        return f"{'memory' if self.in_memory else f'the SQLite file {self.path}'}{self.tables_suffix}"


def backend_in(file: Path) -> SqliteBackend:
    """Return the backend in *file*."""
    return SqliteBackend(f"sqlite:///{quote(str(file))}")


def _path(rest: str) -> str:
    """Return the path, by the convention: three slashes for a relative path, four for an absolute one, two for memory."""
    if rest in {"", f"/{MEMORY}", MEMORY}:
        return MEMORY
    if not rest.startswith("/"):
        raise ConfigurationError(
            "write three slashes before a relative path, as in sqlite:///file.db, and four before an absolute one"
        )
    if "?" in rest:
        raise ConfigurationError("the only parameter is table_name; write ? in a path as %3F")
    path = unquote(rest[1:])
    if not path or "\0" in path:
        raise ConfigurationError("the path is missing: write sqlite:///path/to/file.db")
    return path
