"""Reads URLs of PostgreSQL: postgresql://user:password@host:port/database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self
from urllib.parse import urlsplit

from pyncette.errors import ConfigurationError
from pyncette.store.backend import Administrator, Backend, Roles, needing, without_table_name
from pyncette.store.base import Store
from pyncette.store.postgres.url import CHOICES, OTHERS, SYSTEM, VERIFIED, check_url, is_by_network
from pyncette.store.tls import Tls, parameters_of, tls_refusal, with_parameters


class PostgresBackend(Backend):
    """A database of a server."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.database, self.table = without_table_name(url, (*CHOICES, *OTHERS))
        """The URL without our own parameters, as the driver takes it."""
        check_url(self.database)

    def with_tls(self, tls: Tls, ca_file: str = "") -> Self:
        given = parameters_of(self.url)
        if tls is not Tls.REQUIRED:
            mode = {Tls.PREFERRED: "prefer", Tls.DISABLED: "disable"}[tls]
            return self if "sslmode" in given else type(self)(with_parameters(self.url, {"sslmode": mode}))
        if given.get("sslmode", VERIFIED) != VERIFIED:
            raise tls_refusal(
                f"the URL has sslmode={given['sslmode']}", f"leave sslmode out, or write {VERIFIED}"
            )
        if not is_by_network(self.url):
            raise tls_refusal("the URL leads to a local socket, which has none", "name a host")
        roots = given.get("sslrootcert") or ca_file or SYSTEM
        return type(self)(with_parameters(self.url, {"sslmode": VERIFIED, "sslrootcert": roots}))

    def new_store(self, *, create: bool = True) -> Store:
        with needing("asyncpg", "PostgreSQL", "postgres"):
            from pyncette.store.postgres.store import PostgresStore  # noqa: PLC0415 - the driver is an extra

        return PostgresStore(
            self.database,
            self.table,
            create=create,
            current_url=lambda: self.with_current_credentials().database,
        )

    def roles(self, worker: Backend, administrator: Administrator) -> Roles:
        from pyncette.store.postgres.roles import PostgresRoles  # noqa: PLC0415 - the driver is an extra
        from pyncette.store.postgres.schema import tables_named  # noqa: PLC0415

        if str(worker) != str(self):
            raise ConfigurationError(f"the URL of the workers leads to another place than {self}")
        assert isinstance(worker, PostgresBackend)
        return PostgresRoles(self.database, worker.database, administrator, tables_named(self.table))

    async def beyond(self) -> Sequence[str]:
        from pyncette.store.postgres.store import PostgresStore  # noqa: PLC0415 - as above

        async with PostgresStore(self.with_current_credentials().database, self.table, create=False) as store:
            return [f"the table {name}" for name in await store.other_tables()]

    def __str__(self) -> str:
        parts = urlsplit(self.database)
        hosts = parts.netloc.rpartition("@")[2] or "the local socket"
        return f"PostgreSQL at {hosts}{parts.path}{self.tables_suffix}"
