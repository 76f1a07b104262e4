"""What PostgreSQL does when its server stops, hangs or says no."""

import contextlib
import itertools
import re
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from pyncette.store.postgres.statements import SESSION
from pyncette.store.postgres.store import PostgresStore
from pyncette.testing.faults import SECRET, Limiting, Listening, SqlFaults, StoreFaults, WrongClock
from tests.processes.proxy import Proxy
from tests.servers import OwnPostgres, open_postgres

REFERENCE = Path(__file__).resolve().parents[2] / "docs/reference/stores-postgresql.md"

numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server():
    """A server of our own for this module, which each test leaves running."""
    server = open_postgres(own=True)
    assert isinstance(server, OwnPostgres)
    with server:
        yield server


class TestPostgres(StoreFaults, WrongClock, Limiting, Listening, SqlFaults):
    lock_timeout = "statement timeout"

    @pytest.fixture
    def url(self, server):
        self.server = server
        with server.fresh_database() as url:
            yield url

    def open_impatient(self, url, seconds):
        store = PostgresStore(url)
        store._connections._connect_seconds = store._connections._answer_seconds = seconds
        return store

    def open_hasty(self, url):
        store = PostgresStore(url)
        assert "'statement_timeout', '10s'" in SESSION
        store._connections._session = SESSION.replace(
            "'statement_timeout', '10s'", "'statement_timeout', '2s'"
        )
        return store

    def network(self):
        return Proxy(self.server.port)

    def urls_at(self, host, port):
        return [f"postgresql://user:{SECRET}@{host}:{port}/database"]

    def place_at(self, host, port):
        return f"PostgreSQL at {host}:{port}/database"

    def kill_connections(self, url):
        return self.server.kill_connections(url)

    def count_connections(self, url):
        return len(self.activity(url))

    def count_listeners(self, url):
        return len([query for _, query in self.activity(url) if query.startswith("LISTEN")])

    def activity(self, url):
        """The state and the latest query of each connection to the database of *url*."""
        database = urlsplit(url).path[1:]
        return self.server.execute(f"SELECT state, query FROM pg_stat_activity WHERE datname = '{database}'")

    async def is_at_rest(self, url):
        return all(state == "idle" for state, _ in self.activity(url))

    @contextlib.asynccontextmanager
    async def stalled(self, url, record):
        """Hold the lock of the record, as a transaction that somebody left open."""
        connection = await asyncpg.connect(url)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM pyncette_tasks WHERE id = $1 FOR UPDATE", record.locator)
        try:
            yield
        finally:
            # Where it was killed just now, asyncpg may not have noticed all of it yet.
            with contextlib.suppress(
                asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresError
            ):
                await transaction.rollback()
            connection.terminate()

    def stop(self, *, crash):
        self.server.stop("immediate" if crash else "fast")

    def start(self):
        self.server.start()

    def lose_records(self, url):
        self.server.execute("DROP TABLE pyncette_tasks", url)

    @contextlib.contextmanager
    def clock_ahead(self, ahead):
        self.server.restart(clock_ahead=ahead)
        try:
            yield
        finally:
            self.server.restart()

    @contextlib.contextmanager
    def wrong_logins(self, url):
        password = urlsplit(url).password
        assert password
        yield [
            url.replace(f":{password}@", f":{SECRET}@"),
            url.replace(f"{self.server.user}:{password}@", f"nobody:{SECRET}@"),
        ]

    @contextlib.contextmanager
    def user(self, url, *grants):
        """A user who may do what *grants* say, and no more."""
        user = f"user_{next(numbers)}"
        self.server.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{SECRET}'")
        for grant in grants:
            self.server.execute(f"GRANT {grant} TO {user}", url)
        yield urlsplit(url)._replace(netloc=f"{user}:{SECRET}@127.0.0.1:{self.server.port}").geturl()

    def reader(self, url):
        return self.user(url, "SELECT ON ALL TABLES IN SCHEMA public")

    def rights(self):
        """The documented grants, one for each right on each table."""
        return [
            f"{right} ON {kind}{name}"
            for rights, kind, names in re.findall(
                r"^GRANT (.+) ON (SEQUENCE )?(.+) TO worker;", REFERENCE.read_text(), re.MULTILINE
            )
            for right in rights.split(", ")
            for name in names.split(", ")
        ]

    @contextlib.contextmanager
    def worker(self, url):
        with self.user(url, *self.rights()) as worker:
            self.role = urlsplit(worker).username
            yield worker

    @contextlib.contextmanager
    def revoked(self, url, right):
        self.server.execute(f"REVOKE {right} FROM {self.role}", url)
        try:
            yield
        finally:
            self.server.execute(f"GRANT {right} TO {self.role}", url)

    def denial_of(self, right):
        return right.rpartition(" ")[2]

    @contextlib.contextmanager
    def read_only(self, url):
        """As a standby is, until it is promoted: sessions that begin now only read."""
        database = database_of(url)
        self.server.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        try:
            yield
        finally:
            self.server.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")

    @contextlib.contextmanager
    def one_connection(self, url):
        self.server.kill_connections(url)
        self.server.execute(f"ALTER DATABASE {database_of(url)} CONNECTION LIMIT 1")
        yield url

    def administrator(self, url):
        return self.server.url

    @contextlib.contextmanager
    def elsewhere(self, url):
        self.server.execute(f"ALTER DATABASE {database_of(url)} SET timezone = 'Asia/Tokyo'")
        yield


def database_of(url):
    return urlsplit(url).path[1:]
