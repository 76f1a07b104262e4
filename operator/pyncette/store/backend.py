"""Reads the URL that names a backend, and opens it: the one place that knows which store a URL means."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from pyncette.errors import ConfigurationError, SchemaError
from pyncette.store.base import SCHEMA_VERSION, Store
from pyncette.store.sql import Migrated

EXAMPLES: Final = "sqlite:///path/to/file.db or postgresql://user:password@host/database"

SCHEMES: Final = {"sqlite": "sqlite", "postgresql": "postgresql", "postgres": "postgresql"}

LATER: Final = {
    "redis": "Redis",
    "rediss": "Redis",
    "mysql": "MySQL",
    "mariadb": "MariaDB",
    "dynamodb": "DynamoDB",
}
"""Backends that will come, by the scheme that people try."""

MEMORY: Final = ":memory:"


@dataclass(frozen=True, slots=True, repr=False)
class Backend:
    """Where records are to be kept. Printed, it shows no password."""

    kind: str
    """`sqlite` or `postgresql`."""
    url: str
    """As it was given, password included."""
    path: str = ""
    """Of SQLite: the file, or `:memory:`."""

    @property
    def in_memory(self) -> bool:
        """Whether nothing survives the process, and no other process can take part."""
        return self.path == MEMORY

    def new_store(self, *, create: bool = True) -> Store:
        """
        Make a store for it, not opened yet; with *create* it makes tables where there are none.

        Raises ConfigurationError if its driver is not installed.
        """
        return _sqlite(self, create=create) if self.kind == "sqlite" else _postgresql(self, create=create)

    async def migrate(self) -> Migrated:
        """Bring its tables to the schema of this release, and create them where there are none. Raises StoreError."""
        if self.kind == "sqlite":
            from pyncette.store.sqlite import migrate  # noqa: PLC0415

            return await migrate(self.path)
        try:
            async with self.new_store(create=False):
                return Migrated(SCHEMA_VERSION, SCHEMA_VERSION)
        except SchemaError:
            async with self.new_store():  # creates what is missing, and refuses what is newer
                return Migrated(0, SCHEMA_VERSION)

    def __str__(self) -> str:
        if self.kind == "sqlite":
            return "memory" if self.in_memory else f"the SQLite file {self.path}"
        parts = urlsplit(self.url)
        return f"PostgreSQL at {parts.hostname or 'the local socket'}{f':{parts.port}' if parts.port else ''}{parts.path}"

    def __repr__(self) -> str:
        return f"<Backend {self}>"


def read_backend(url: str) -> Backend:
    """Return what *url* names. Raises ConfigurationError, whose message repeats nothing that may be a password."""
    scheme, separator, rest = url.strip().partition("://")
    if not separator:
        raise ConfigurationError(f"it is no URL; write {EXAMPLES}")
    scheme = scheme.lower()
    if scheme in LATER:
        raise ConfigurationError(
            f"{LATER[scheme]} comes with a later release; this one runs on SQLite and PostgreSQL: {EXAMPLES}"
        )
    if scheme not in SCHEMES:
        close = difflib.get_close_matches(scheme, SCHEMES, n=1)
        mend = f"did you mean {close[0]}?" if close else f"write {EXAMPLES}"
        raise ConfigurationError(f"there is no backend {scheme}; {mend}")
    if SCHEMES[scheme] == "sqlite":
        return Backend("sqlite", url, _path(rest))
    try:
        _ = urlsplit(url.strip()).port
    except ValueError:
        raise ConfigurationError(
            "its host or port cannot be read; what is special in a user or password has to be percent-encoded"
        ) from None
    return Backend("postgresql", url.strip())


def _path(rest: str) -> str:
    """As others read such URLs: three slashes and a relative path, four for an absolute one, two for memory."""
    if rest in {"", f"/{MEMORY}", MEMORY}:
        return MEMORY
    if not rest.startswith("/"):
        raise ConfigurationError(
            "sqlite:// needs a third slash before its path, sqlite:///file.db, and a fourth if the path is absolute"
        )
    path = unquote(rest[1:])
    if not path or "\0" in path:
        raise ConfigurationError("sqlite:/// needs a path: sqlite:///path/to/file.db")
    return path


def _sqlite(backend: Backend, *, create: bool) -> Store:
    from pyncette.store.sqlite import SqliteStore  # noqa: PLC0415 - a driver is loaded only where it is used

    return SqliteStore(backend.path, create=create)


def _postgresql(backend: Backend, *, create: bool) -> Store:
    try:
        from pyncette.store.postgres import PostgresStore  # noqa: PLC0415 - the driver is an extra
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise ConfigurationError(
            "PostgreSQL needs a driver that is not installed: pip install 'pyncette-operator[postgres]'"
        ) from None
    return PostgresStore(backend.url, create=create)
