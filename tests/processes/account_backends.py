"""The backends of fault-injection accounts, with the faults that are specific to each."""

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
class AccountBackend:
    """An empty backend and its faults."""

    name: str
    url: str
    server: str
    """The product and its version."""
    address: tuple[str, int] | None = None
    """The address of its only server, if a proxy can be put in front of it."""
    end_sessions: Callable[[], object] | None = None
    """Ends all connections, as an administrator can; None: not possible."""
    lock: Callable[[float], object] | None = None
    """Blocks all writes for some seconds; None: not possible."""
    fail_over: Callable[[float], float] | None = None
    """Fails over to a server that lags by some seconds, and returns the time of the failover; None: no other server."""
    one_machine: bool = False
    """Its time is that of the machine, so its processes cannot have different clocks."""
    time_error: float = 0.05
    """The maximum error of a process about its time, in seconds."""
    instances: int = 3
    """Instances of each kind."""
    loses_writes: bool = False
    """A failover may lose writes that were acknowledged."""
    steps: tuple[int, ...] = field(default=(1, 1, 2, 2, 3, 5, 10))


@contextmanager
def account_backend(name: str, folder: Path) -> Iterator[AccountBackend]:
    """Start the backend *name* for the block."""
    with _BACKENDS[name](folder) as backend:
        yield backend


@contextmanager
def _sqlite(folder: Path) -> Iterator[AccountBackend]:
    url = f"sqlite:///{folder}/records.db"

    def lock(seconds: float) -> None:
        with suppress(sqlite3.OperationalError), write_lock(url, LOCK_SECONDS):
            time.sleep(seconds)

    yield AccountBackend("sqlite", url, f"SQLite {sqlite3.sqlite_version}", lock=lock, one_machine=True)


@contextmanager
def _postgresql(_: Path) -> Iterator[AccountBackend]:
    server = open_postgres()
    try:
        (row,) = server.execute("SHOW server_version")
        with server.fresh_database() as url:
            yield AccountBackend(
                "postgresql", url, f"PostgreSQL {row[0].split()[0]}", _address(url),
                end_sessions=lambda: server.kill_connections(url),
            )  # fmt: skip
    finally:
        server.close()


def _mysql_like(name: str, product: Product) -> Callable[[Path], AbstractContextManager[AccountBackend]]:
    @contextmanager
    def bring_up(_: Path) -> Iterator[AccountBackend]:
        server = open_mysql(product)
        try:
            ((version, *_rest),) = server.execute("SELECT VERSION()")
            with server.fresh_database() as url:
                yield AccountBackend(
                    name, url, f"{product.name} {version.split('-')[0]}", _address(url),
                    end_sessions=lambda: server.kill_connections(url),
                )  # fmt: skip
        finally:
            server.close()

    return bring_up


@contextmanager
def _redis(_: Path) -> Iterator[AccountBackend]:
    server = open_redis(own=True)
    assert isinstance(server, OwnRedis)
    with server, server.fresh_namespace() as url:
        yield AccountBackend(
            "redis", url, _redis_version(server.execute("INFO", "server")), _address(url),
            end_sessions=server.kill_connections,
        )  # fmt: skip


@contextmanager
def _sentinel(_: Path) -> Iterator[AccountBackend]:
    with open_sentinel() as servers:
        yield AccountBackend(
            "redis+sentinel", servers.url, _redis_version(servers.execute("INFO", "server")) + " behind Sentinel",
            end_sessions=servers.kill_connections, fail_over=servers.lose_primary, loses_writes=True,
        )  # fmt: skip


@contextmanager
def _cluster(_: Path) -> Iterator[AccountBackend]:
    with open_cluster(replicated=True) as cluster, cluster.fresh_namespace() as url:
        turns = itertools.cycle(range(CLUSTER_NODES))
        yield AccountBackend(
            "redis+cluster", url, _redis_version(cluster.nodes[0].execute("INFO", "server")) + ", cluster",
            end_sessions=cluster.kill_connections, fail_over=lambda behind: cluster.lose_primary(next(turns), behind),
            loses_writes=True,
        )  # fmt: skip


@contextmanager
def _dynamodb(_: Path) -> Iterator[AccountBackend]:
    with credentials(), open_dynamodb() as server, server.fresh_table() as table:
        url = server.url_of(table)
        (endpoint,) = parse_qs(urlsplit(url).query)["endpoint"]
        yield AccountBackend(
            "dynamodb", url, "DynamoDB Local", _address(endpoint),
            time_error=1.0, instances=2, steps=(2, 3, 5, 10),
        )  # fmt: skip


def _redis_version(info: object) -> str:
    if isinstance(info, dict):
        return f"Redis {info['redis_version']}"
    assert isinstance(info, bytes)
    lines = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return f"Redis {lines['redis_version']}"


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


_BACKENDS = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "mysql": _mysql_like("mysql", MYSQL),
    "mariadb": _mysql_like("mariadb", MARIADB),
    "redis": _redis,
    "redis+sentinel": _sentinel,
    "redis+cluster": _cluster,
    "dynamodb": _dynamodb,
}
NAMES = tuple(_BACKENDS)
