"""Reads the URL of a backend. Its scheme selects a built-in backend, or one that another distribution registers."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Final, NamedTuple, Protocol, Self
from urllib.parse import unquote

from pyncette.core.suggestions import did_you_mean, nearest
from pyncette.errors import ConfigurationError, SchemaError
from pyncette.store.base import SCHEMA_VERSION, Store
from pyncette.store.schema import TABLE, Migrated, check_table_name
from pyncette.store.tls import Tls, tls_refusal

EXAMPLES: Final = "sqlite:///path/to/file.db or postgresql://user:password@host/database"

GROUP: Final = "pyncette.backends"
"""The group of entry points for backends. The name of one is a scheme; it loads a callable from URL to `Backend`."""

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
"""The built-in backends, as entry points too. They are listed here since a search of entry points is slow."""

TABLE_NAME: Final = "table_name"
"""The parameter of a URL for the prefix of all table names."""


class Administrator(NamedTuple):
    """A user of a database server who may create others."""

    user: str
    password: str


class Roles(Protocol):
    """The users of the operator and of the workers of a backend, to be created."""

    async def create(self) -> None:
        """Create the users, or give them the passwords of their URLs, and the operator's the tables. Raises StoreError."""

    async def grant(self) -> None:
        """Give the user of the workers its rights, if the tables exist. Raises StoreError."""


class Backend(ABC):
    """
    The place of records that a URL names. Its text shows no password.

    The constructor raises ConfigurationError for an invalid *url*, with a message that repeats nothing of a password.
    """

    def __init__(self, url: str) -> None:
        self.url: Final = url
        """The URL as given, password included."""
        self.table: str = TABLE
        """The prefix of the names of its tables, if it has tables."""
        self.reread: Callable[[], Backend] | None = None
        """Reads the URL again, if it is in a file; see `backend_file`."""

    def with_current_credentials(self) -> Self:
        """
        Return this backend with the credentials that are valid now, for a new connection to the same place.

        It may be called from any thread.
        """
        if self.reread is None:
            return self
        current = self.reread()
        assert isinstance(current, type(self))
        return current

    def with_tls(self, tls: Tls, ca_file: str = "") -> Self:  # noqa: ARG002 - for backends that encrypt
        """
        Return this backend with the encryption that *tls* demands, which trusts the authorities in *ca_file*.

        Without a *ca_file*, and where the URL names no other one, those of the system are trusted. Raises
        ConfigurationError if the URL asks for less than is required. A backend that knows nothing of TLS can keep no such
        demand.
        """
        if tls is Tls.REQUIRED:
            raise tls_refusal(f"{self} does not say whether it is encrypted", "use another backend")
        return self

    @property
    def in_memory(self) -> bool:
        """True if records end with the process, and no other process can use them."""
        return False

    @property
    def absence(self) -> str:
        """What is missing, such as a file, if nothing can have been written yet; else empty."""
        return ""

    @abstractmethod
    def new_store(self, *, create: bool = True) -> Store:
        """
        Return a store that is not opened yet. With *create* it creates missing tables.

        Raises ConfigurationError if its driver is not installed.
        """

    @property
    def tables_suffix(self) -> str:
        """The name of its tables, as the last part of its text; empty for the default name."""
        return "" if self.table == TABLE else f" (tables {self.table})"

    async def migrate(self) -> Migrated:
        """Migrate the schema to that of this release, or create it. Raises StoreError."""
        try:
            async with self.new_store(create=False):
                return Migrated(SCHEMA_VERSION, SCHEMA_VERSION)
        except SchemaError:
            async with self.new_store():  # creates what is missing, and refuses what is newer
                return Migrated(0, SCHEMA_VERSION)

    def roles(self, worker: Backend, administrator: Administrator) -> Roles:  # noqa: ARG002 - for those that have them
        """
        Return the users that this URL and that of *worker* name, to be created by *administrator*.

        Raises ConfigurationError if there are none in this kind of backend, or the two are not as they should be.
        """
        raise ConfigurationError(f"no users can be created at {self}")

    async def concerns(self) -> Sequence[str]:
        """Return a sentence on each known setting of the backend that may lose records. Raises StoreError."""
        return ()

    async def servers(self) -> Sequence[str]:
        """Return the products and versions of its servers, such as `Valkey 9.1.2`, as far as known. Raises StoreError."""
        return ()

    async def beyond(self) -> Sequence[str]:
        """
        Return descriptions of readable data outside of this backend's records, such as the tables of another team.

        Return an empty sequence if the backend cannot detect that. Raises StoreError.
        """
        return ()

    @abstractmethod
    def __str__(self) -> str:
        """Return the text for people, such as `PostgreSQL at db.example:5432/shop`."""

    def __repr__(self) -> str:
        return f"<Backend {self}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Backend) and type(other) is type(self) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)


def read_backend(url: str) -> Backend:
    """Return the backend of *url*. Raises ConfigurationError, whose message repeats nothing of a password."""
    url = url.strip()
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise ConfigurationError(f"not a valid URL; write {EXAMPLES}")
    backend = _registered(scheme.lower()).load()(url)
    assert isinstance(backend, Backend)
    return backend


def is_scheme(text: str) -> bool:
    """Return whether *text* is the scheme of a backend."""
    return text.lower() in BUILT_IN or text.lower() in entry_points(group=GROUP).names


def without_table_name(url: str, others: Sequence[str] = ()) -> tuple[str, str]:
    """
    Return *url* without its parameter `table_name`, and the value of that, or the default.

    Raises ConfigurationError for an invalid name of tables, and for a parameter that looks like a misspelled `table_name`
    or one of *others*.
    """
    rest, mark, query = url.partition("?")
    given = dict(part.partition("=")[::2] for part in query.split("&")) if mark else {}
    known = (TABLE_NAME, *others)
    for name in given:
        close = nearest(name, known, similarity=0.8)
        if name not in known and close:
            raise ConfigurationError(f"unknown parameter {name}; did you mean {close}?")
    if TABLE_NAME not in given:
        return url, TABLE
    table = unquote(given[TABLE_NAME])
    check_table_name(table, TABLE_NAME)
    left = "&".join(part for part in query.split("&") if part.partition("=")[0] != TABLE_NAME)
    return f"{rest}?{left}" if left else rest, table


def check_fragment(url: str) -> None:
    """Raise ConfigurationError if *url* has a fragment. A driver would ignore it, with all parameters in it."""
    if "#" in url:
        raise ConfigurationError(
            "the URL has a #, and a driver ignores the rest of it; percent-encode # in a user, a password or a parameter as %23"
        )


@contextlib.contextmanager
def needing(driver: str, product: str, extra: str) -> Iterator[None]:
    """Turn a missing *driver* into a ConfigurationError that names the *extra* to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != driver:
            raise
        raise ConfigurationError(
            f"{product} needs a driver that is not installed: pip install 'pyncette-operator[{extra}]'"
        ) from None


def _registered(scheme: str) -> EntryPoint:
    """Return the entry point of *scheme*. Raises ConfigurationError if there is none."""
    if scheme in BUILT_IN:
        return BUILT_IN[scheme]
    others = {other.name: other for other in entry_points(group=GROUP)}
    if scheme in others:
        return others[scheme]
    fix = did_you_mean(scheme, [*BUILT_IN, *others], f"write {EXAMPLES}")
    raise ConfigurationError(f"unknown backend {scheme}; {fix}")
