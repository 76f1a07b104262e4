"""Reads the URL that names a backend: its scheme says who takes it from there, one of ours or somebody else's."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Final, Self
from urllib.parse import unquote

from pyncette.core.suggestions import did_you_mean, nearest
from pyncette.errors import ConfigurationError, SchemaError
from pyncette.store.base import SCHEMA_VERSION, Store
from pyncette.store.schema import TABLE, Migrated, check_table_name

EXAMPLES: Final = "sqlite:///path/to/file.db or postgresql://user:password@host/database"

GROUP: Final = "pyncette.backends"
"""Where distributions register backends: the name of an entry point is a scheme, what it loads makes a `Backend` of a URL."""

BUILT_IN: Final = {
    scheme: EntryPoint(scheme, value, GROUP)
    for scheme, value in {
        "sqlite": "pyncette.store.sqlite.backend:SqliteBackend",
        "mysql": "pyncette.store.mysql.backend:MysqlBackend",
        "mariadb": "pyncette.store.mysql.backend:MysqlBackend",
        "postgresql": "pyncette.store.postgres.backend:PostgresBackend",
        "postgres": "pyncette.store.postgres.backend:PostgresBackend",
        "redis": "pyncette.store.redis.backend:RedisBackend",
        "rediss": "pyncette.store.redis.backend:RedisBackend",
        "redis+sentinel": "pyncette.store.redis.backend:RedisBackend",
        "rediss+sentinel": "pyncette.store.redis.backend:RedisBackend",
        "redis+cluster": "pyncette.store.redis.backend:RedisBackend",
        "rediss+cluster": "pyncette.store.redis.backend:RedisBackend",
        "valkey": "pyncette.store.redis.backend:RedisBackend",
        "valkeys": "pyncette.store.redis.backend:RedisBackend",
        "valkey+sentinel": "pyncette.store.redis.backend:RedisBackend",
        "valkeys+sentinel": "pyncette.store.redis.backend:RedisBackend",
        "valkey+cluster": "pyncette.store.redis.backend:RedisBackend",
        "valkeys+cluster": "pyncette.store.redis.backend:RedisBackend",
        "dynamodb": "pyncette.store.dynamodb.backend:DynamoBackend",
    }.items()
}
"""Ours come by the same door. They are written down here, since looking for entry points takes longer than all else."""

TABLE_NAME: Final = "table_name"
"""The parameter of a URL that says what the names of tables begin with."""


class Backend(ABC):
    """
    Where records are to be kept, as a URL names it. Printed, it shows no password.

    Making one raises ConfigurationError if *url* cannot be meant; the message repeats nothing that may be a password.
    """

    def __init__(self, url: str) -> None:
        self.url: Final = url
        """As it was given, password included."""
        self.table: str = TABLE
        """What the names of its tables begin with, where it has tables."""
        self.again: Callable[[], Backend] | None = None
        """Tells it anew, where its URL stands in a file; see `backend_file`."""

    def renewed(self) -> Self:
        """
        Return this backend with the credentials that count now: a store asks for them at each connect.

        It is the same place, seen by whoever may see it now. Can be called from any thread.
        """
        if self.again is None:
            return self
        renewed = self.again()
        assert isinstance(renewed, type(self))
        return renewed

    @property
    def in_memory(self) -> bool:
        """Whether nothing survives the process, and no other process can take part."""
        return False

    @property
    def absence(self) -> str:
        """What there is not, if nobody can have written there yet; empty if somebody may have."""
        return ""

    @abstractmethod
    def new_store(self, *, create: bool = True) -> Store:
        """
        Make a store for it, not opened yet; with *create* it makes tables where there are none.

        Raises ConfigurationError if its driver is not installed.
        """

    @property
    def tables_told(self) -> str:
        """What people are told of its tables, behind all else: nothing, if they have the usual name."""
        return "" if self.table == TABLE else f" (tables {self.table})"

    async def migrate(self) -> Migrated:
        """Bring what it keeps to the schema of this release, and create it where there is none. Raises StoreError."""
        try:
            async with self.new_store(create=False):
                return Migrated(SCHEMA_VERSION, SCHEMA_VERSION)
        except SchemaError:
            async with self.new_store():  # creates what is missing, and refuses what is newer
                return Migrated(0, SCHEMA_VERSION)

    async def concerns(self) -> Sequence[str]:
        """Return a sentence on each setting of the backend that may cost records, as far as it tells. Raises StoreError."""
        return ()

    async def servers(self) -> Sequence[str]:
        """Return what its servers say they are, such as `Valkey 9.1.2`, as far as they tell. Raises StoreError."""
        return ()

    @abstractmethod
    def __str__(self) -> str:
        """Return what people are told, such as `PostgreSQL at db.example:5432/shop`."""

    def __repr__(self) -> str:
        return f"<Backend {self}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Backend) and type(other) is type(self) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)


def read_backend(url: str) -> Backend:
    """Return what *url* names. Raises ConfigurationError, whose message repeats nothing that may be a password."""
    url = url.strip()
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise ConfigurationError(f"it is no URL; write {EXAMPLES}")
    backend = _registered(scheme.lower()).load()(url)
    assert isinstance(backend, Backend)
    return backend


def is_scheme(text: str) -> bool:
    """Say whether URLs that begin with *text* name a backend."""
    return text.lower() in BUILT_IN or text.lower() in entry_points(group=GROUP).names


def without_table_name(url: str, others: Sequence[str] = ()) -> tuple[str, str]:
    """
    Return *url* without its parameter `table_name`, and the name that it gives, or else the usual one.

    Raises ConfigurationError if that cannot be the name of tables, or if another parameter is spelt much like it, or
    like one of *others*, but is none.
    """
    rest, mark, query = url.partition("?")
    given = dict(part.partition("=")[::2] for part in query.split("&")) if mark else {}
    known = (TABLE_NAME, *others)
    for name in given:
        close = nearest(name, known, similarity=0.8)
        if name not in known and close:
            raise ConfigurationError(f"there is no parameter {name}; did you mean {close}?")
    if TABLE_NAME not in given:
        return url, TABLE
    table = unquote(given[TABLE_NAME])
    check_table_name(table, TABLE_NAME)
    left = "&".join(part for part in query.split("&") if part.partition("=")[0] != TABLE_NAME)
    return f"{rest}?{left}" if left else rest, table


@contextlib.contextmanager
def needing(driver: str, product: str, extra: str) -> Iterator[None]:
    """Turn a missing *driver* into a ConfigurationError that says which *extra* brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != driver:
            raise
        raise ConfigurationError(
            f"{product} needs a driver that is not installed: pip install 'pyncette-operator[{extra}]'"
        ) from None


def _registered(scheme: str) -> EntryPoint:
    """Return who reads URLs of *scheme*. Raises ConfigurationError if nobody does."""
    if scheme in BUILT_IN:
        return BUILT_IN[scheme]
    others = {other.name: other for other in entry_points(group=GROUP)}
    if scheme in others:
        return others[scheme]
    mend = did_you_mean(scheme, [*BUILT_IN, *others], f"write {EXAMPLES}")
    raise ConfigurationError(f"there is no backend {scheme}; {mend}")
