"""Reads URLs of PostgreSQL: postgresql://user:password@host:port/database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from pyncette.errors import ConfigurationError
from pyncette.store.backend import Backend, needing, without_table_name
from pyncette.store.base import Store

CHOICES: Final = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
"""Parameters of a URL with a fixed set of values."""

OTHERS: Final = (
    *(
        "host",
        "port",
        "dbname",
        "database",
        "user",
        "password",
        "passfile",
        "service",
        "krbsrvname",
        "gsslib",
    ),
    *("sslcert", "sslkey", "sslrootcert", "sslnegotiation", "sslcrl", "sslpassword"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version", "application_name", "search_path", "options"),
)
"""Further known parameters. The server treats all others as settings, or refuses them."""


class PostgresBackend(Backend):
    """A database of a server."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.database, self.table = without_table_name(url, (*CHOICES, *OTHERS))
        """The URL without our own parameters, as the driver takes it."""
        check_url(self.database)

    def new_store(self, *, create: bool = True) -> Store:
        with needing("asyncpg", "PostgreSQL", "postgres"):
            from pyncette.store.postgres.store import PostgresStore  # noqa: PLC0415 - the driver is an extra

        return PostgresStore(
            self.database,
            self.table,
            create=create,
            current_url=lambda: self.with_current_credentials().database,
        )

    async def beyond(self) -> Sequence[str]:
        from pyncette.store.postgres.store import PostgresStore  # noqa: PLC0415 - as above

        async with PostgresStore(self.with_current_credentials().database, self.table, create=False) as store:
            return [f"the table {name}" for name in await store.other_tables()]

    def __str__(self) -> str:
        parts = urlsplit(self.database)
        hosts = parts.netloc.rpartition("@")[2] or "the local socket"
        return f"PostgreSQL at {hosts}{parts.path}{self.tables_suffix}"


def check_url(url: str) -> None:
    """Raise ConfigurationError, whose message repeats nothing of a password, if *url* is invalid."""
    try:
        parts = urlsplit(url)
        hosts = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
        ports = [host.port for host in hosts]
    except ValueError:
        raise ConfigurationError(
            "invalid host or port; percent-encode special characters in the user and the password"
        ) from None
    if parts.netloc.count("@") > 1:
        raise ConfigurationError("more than one @ before the host; write @ in a user or password as %40")
    if any(port is not None and not host.hostname for host, port in zip(hosts, ports, strict=True)):
        raise ConfigurationError("the host before the port is missing")
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in CHOICES and value not in CHOICES[name]:
            raise ConfigurationError(f"{name} must be one of {', '.join(CHOICES[name])}")
