"""Reads URLs of PostgreSQL: postgresql://user:password@host:port/database."""

from __future__ import annotations

from urllib.parse import urlsplit

from pyncette.errors import ConfigurationError
from pyncette.store.backend import Backend, needing
from pyncette.store.base import Store


class PostgresBackend(Backend):
    """A database of a server."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        try:
            _ = urlsplit(url).port
        except ValueError:
            raise ConfigurationError(
                "its host or port cannot be read; what is special in a user or password has to be percent-encoded"
            ) from None

    def new_store(self, *, create: bool = True) -> Store:
        with needing("asyncpg", "PostgreSQL", "postgres"):
            from pyncette.store.postgres import PostgresStore  # noqa: PLC0415 - the driver is an extra

        return PostgresStore(self.url, create=create)

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        return f"PostgreSQL at {parts.hostname or 'the local socket'}{f':{parts.port}' if parts.port else ''}{parts.path}"
