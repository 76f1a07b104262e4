"""The backends that are measured, each with a place that is new for each measurement, and a count of statements."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.servers import (
    MARIADB,
    MYSQL,
    OwnDynamoDb,
    OwnMysql,
    OwnPostgres,
    OwnRedis,
    Product,
    open_dynamodb,
    open_mysql,
    open_postgres,
    open_redis,
)
from tests.servers.counting import commands_of
from tests.servers.dynamodb import credentials

Server = OwnPostgres | OwnMysql | OwnRedis | OwnDynamoDb


class Place(NamedTuple):
    """Where one measurement keeps its records."""

    store: str
    address: str
    server: Server | None

    def arguments(self) -> list[object]:
        """What the driver is told about it."""
        pid = [] if self.server is None else ["--server-pid", server_pid(self.server)]
        return ["--store", self.store, "--place", self.address, *pid]

    def statements(self) -> int | None:
        """How many statements the server has run so far; None where it cannot tell."""
        if self.server is None or isinstance(self.server, OwnDynamoDb):
            return None
        if isinstance(self.server, OwnRedis):
            return commands_of([self.server]).round_trips
        if isinstance(self.server, OwnMysql):
            ((_, questions),) = self.server.execute("SHOW GLOBAL STATUS LIKE 'Questions'")
            return int(questions)
        (row,) = self.server.execute(
            "SELECT coalesce(sum(calls), 0)::bigint AS calls FROM pg_stat_statements"
            " WHERE query NOT LIKE '%pg_stat_statements%'"
        )
        calls: int = row["calls"]
        return calls


@contextmanager
def postgres() -> Iterator[OwnPostgres]:
    """A PostgreSQL of default durability, that counts its statements."""
    server = open_postgres(own=True, durable=True)
    assert isinstance(server, OwnPostgres)
    with server:
        server.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
        server.restart()
        server.execute("CREATE EXTENSION pg_stat_statements")
        yield server


@contextmanager
def redis() -> Iterator[OwnRedis]:
    """A Redis that writes to its disk each second."""
    server = open_redis(own=True, durable=True)
    assert isinstance(server, OwnRedis)
    with server:
        yield server


@contextmanager
def mysql(product: Product) -> Iterator[OwnMysql]:
    """A MariaDB or MySQL of default durability."""
    server = open_mysql(product, own=True, durable=True)
    assert isinstance(server, OwnMysql)
    with server:
        yield server


@contextmanager
def dynamodb() -> Iterator[OwnDynamoDb]:
    """A DynamoDB Local that keeps what it is told in memory: how it writes to disk says nothing of the service."""
    with credentials(), open_dynamodb(own=True, fast=True) as server:
        assert isinstance(server, OwnDynamoDb)
        yield server


SERVERS: dict[str, Callable[[], AbstractContextManager[Server]]] = {
    "postgres": postgres,
    "redis": redis,
    "mariadb": partial(mysql, MARIADB),
    "mysql": partial(mysql, MYSQL),
    "dynamodb": dynamodb,
}
"""The backends that are servers, and how each is brought up."""


@contextmanager
def fresh(store: str, server: Server | None) -> Iterator[Place]:
    """A new, empty place on *store*."""
    if isinstance(server, OwnPostgres | OwnMysql):
        with server.fresh_database() as url:
            yield Place(store, url, server)
        return
    if isinstance(server, OwnRedis):
        server.execute("FLUSHALL")
        yield Place(store, server.url_of_the_administrator, server)
        return
    if isinstance(server, OwnDynamoDb):
        with server.fresh_table() as table:
            yield Place(store, f"{server.endpoint}/{table}", server)
        return
    with tempfile.TemporaryDirectory(prefix="pyncette-bench-") as folder:
        yield Place(store, str(Path(folder) / "bench.sqlite"), None)


def server_pid(server: Server) -> int:
    """The first process of the server, which does the work, or whose children do."""
    if isinstance(server, OwnRedis):
        return int(server.execute("INFO", "server")["process_id"])
    if isinstance(server, OwnMysql | OwnDynamoDb):
        return server.pid
    (row,) = server.execute("SELECT split_part(pg_read_file('postmaster.pid'), chr(10), 1)::int AS pid")
    pid: int = row["pid"]
    return pid
