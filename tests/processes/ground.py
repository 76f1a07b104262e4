"""The backends of a fault-injection account, each with the faults that only it can have."""

import itertools
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.processes.backends import write_lock
from tests.servers import (
    MARIADB,
    MYSQL,
    OwnRedis,
    Product,
    open_cluster,
    open_dynamodb,
    open_mysql,
    open_postgres,
    open_redis,
    open_sentinel,
)
from tests.servers.dynamodb import credentials
from tests.servers.redis import CLUSTER_NODES

LOCK_SECONDS = 5


@dataclass
class Ground:
    """One backend, empty."""

    name: str
    url: str
    server: str
    """What it is, with its version."""
    address: tuple[str, int] | None = None
    """Of its one server, where a proxy can stand between it and the workers."""
    end_sessions: Callable[[], object] | None = None
    """Ends all connections, as an administrator does; None: it cannot."""
    lock: Callable[[float], object] | None = None
    """Keeps everybody from writing for some seconds; None: nobody can."""
    fail_over: Callable[[float], float] | None = None
    """Lets another server take over that is some seconds behind, and returns when it has, by `time.time`; None: there is no other."""
    one_machine: bool = False
    """Its time is that of the machine that all its processes run on, so they cannot have different clocks."""
    time_error: float = 0.05
    """By how many seconds a process may be wrong about its time."""
    instances: int = 3
    """Of each kind."""
    loses_writes: bool = False
    """A failover may lose writes that were acknowledged."""
    steps: tuple[int, ...] = field(default=(1, 1, 2, 2, 3, 5, 10))


@contextmanager
def ground_on(name: str, folder: Path) -> Iterator[Ground]:
    """Bring up the backend called *name*; it is gone with the context."""
    with _GROUNDS[name](folder) as ground:
        yield ground


@contextmanager
def _sqlite(folder: Path) -> Iterator[Ground]:
    url = f"sqlite:///{folder}/records.db"

    def lock(seconds: float) -> None:
        with suppress(sqlite3.OperationalError), write_lock(url, LOCK_SECONDS):
            time.sleep(seconds)

    yield Ground("sqlite", url, f"SQLite {sqlite3.sqlite_version}", lock=lock, one_machine=True)


@contextmanager
def _postgresql(_: Path) -> Iterator[Ground]:
    server = open_postgres()
    try:
        (row,) = server.execute("SHOW server_version")
        with server.fresh_database() as url:
            yield Ground(
                "postgresql", url, f"PostgreSQL {row[0].split()[0]}", _address(url),
                end_sessions=lambda: server.kill_connections(url),
            )  # fmt: skip
    finally:
        server.close()


def _mysql_like(name: str, product: Product) -> Callable[[Path], AbstractContextManager[Ground]]:
    @contextmanager
    def bring_up(_: Path) -> Iterator[Ground]:
        server = open_mysql(product)
        try:
            ((version, *_rest),) = server.execute("SELECT VERSION()")
            with server.fresh_database() as url:
                yield Ground(
                    name, url, f"{product.name} {version.split('-')[0]}", _address(url),
                    end_sessions=lambda: server.kill_connections(url),
                )  # fmt: skip
        finally:
            server.close()

    return bring_up


@contextmanager
def _redis(_: Path) -> Iterator[Ground]:
    server = open_redis(own=True)
    assert isinstance(server, OwnRedis)
    with server, server.fresh_namespace() as url:
        yield Ground(
            "redis", url, _redis_version(server.execute("INFO", "server")), _address(url),
            end_sessions=server.kill_connections,
        )  # fmt: skip


@contextmanager
def _sentinel(_: Path) -> Iterator[Ground]:
    with open_sentinel() as servers:
        yield Ground(
            "redis+sentinel", servers.url, _redis_version(servers.execute("INFO", "server")) + " behind Sentinel",
            end_sessions=servers.kill_connections, fail_over=servers.lose_primary, loses_writes=True,
        )  # fmt: skip


@contextmanager
def _cluster(_: Path) -> Iterator[Ground]:
    with open_cluster(replicated=True) as cluster, cluster.fresh_namespace() as url:
        turns = itertools.cycle(range(CLUSTER_NODES))
        yield Ground(
            "redis+cluster", url, _redis_version(cluster.nodes[0].execute("INFO", "server")) + ", cluster",
            end_sessions=cluster.kill_connections, fail_over=lambda behind: cluster.lose_primary(next(turns), behind),
            loses_writes=True,
        )  # fmt: skip


@contextmanager
def _dynamodb(_: Path) -> Iterator[Ground]:
    with credentials(), open_dynamodb() as server, server.fresh_table() as table:
        url = server.url_of(table)
        (endpoint,) = parse_qs(urlsplit(url).query)["endpoint"]
        yield Ground(
            "dynamodb", url, "DynamoDB Local", _address(endpoint),
            time_error=1.0, instances=2, steps=(2, 3, 5, 10),
        )  # fmt: skip


def _redis_version(told: object) -> str:
    if isinstance(told, dict):
        return f"Redis {told['redis_version']}"
    assert isinstance(told, bytes)
    lines = dict(line.split(":", 1) for line in told.decode().splitlines() if ":" in line)
    return f"Redis {lines['redis_version']}"


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


_GROUNDS = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "mysql": _mysql_like("mysql", MYSQL),
    "mariadb": _mysql_like("mariadb", MARIADB),
    "redis": _redis,
    "redis+sentinel": _sentinel,
    "redis+cluster": _cluster,
    "dynamodb": _dynamodb,
}
NAMES = tuple(_GROUNDS)
