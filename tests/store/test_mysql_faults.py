"""What MariaDB and MySQL do when their server stops, hangs or says no."""

import asyncio
import contextlib
import itertools
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from asyncmy.errors import OperationalError

from pyncette.core.record import Change
from pyncette.errors import ConfigurationError, StoreError, StoreRefusedError, StoreUnavailableError
from pyncette.store.mysql.address import Address, read_address
from pyncette.store.mysql.connection import MysqlConnections, translate_error
from pyncette.store.mysql.statements import LOCK_SECONDS
from pyncette.store.mysql.store import MysqlStore
from pyncette.store.sql.connections import RetryableError
from pyncette.testing.conformance import a_record, changed, create, load, load_all
from pyncette.testing.faults import (
    SECRET,
    Limiting,
    SqlFaults,
    StoreFaults,
    WrongClock,
    assert_is_one_sentence,
)
from tests.processes.proxy import Proxy
from tests.servers import MARIADB, MYSQL, OwnMysql, open_mysql
from tests.servers.mysql import connect

pytestmark = pytest.mark.xdist_group("mysql-faults")

REFERENCE = Path(__file__).resolve().parents[2] / "docs/reference/stores-mysql.md"

numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server():
    """A server of our own for this module, which each test leaves running."""
    server = open_mysql(MARIADB, own=True)
    assert isinstance(server, OwnMysql)
    with server:
        yield server


@pytest.fixture
def url(server):
    with server.fresh_database() as url:
        yield url


@pytest.fixture
def mysql_url(mysql):
    with mysql.fresh_database() as url:
        yield url


class OnMysql(StoreFaults, WrongClock, Limiting, SqlFaults):
    lock_timeout = "too busy: Lock wait timeout"
    retries_lock_timeouts = True
    lock_seconds = LOCK_SECONDS + 1

    server: OwnMysql

    def open_impatient(self, url, seconds):
        store = MysqlStore(read_address(url))
        store._connections._connect_seconds = store._connections._answer_seconds = seconds
        return store

    def open_hasty(self, url):
        store = MysqlStore(read_address(url))
        store._retry_seconds = LOCK_SECONDS + 1
        return store

    def network(self):
        return Proxy(self.server.port)

    def urls_at(self, host, port):
        return [f"mysql://user:{SECRET}@{host}:{port}/database"]

    def place_at(self, host, port):
        return f"MySQL at {host}:{port}/database"

    def kill_connections(self, url):
        return self.server.kill_connections(url)

    def count_connections(self, url):
        return len(self.server.connections_to(url))

    async def is_at_rest(self, url):
        return all(connection[4] == "Sleep" for connection in self.server.connections_to(url))

    @contextlib.asynccontextmanager
    async def stalled(self, url, record):
        """Hold the lock of the record, as a transaction that somebody in another database left open."""
        connection = await connect(self.server.url)
        cursor = connection.cursor()
        await cursor.execute("START TRANSACTION")
        table = f"{database_of(url)}.pyncette_tasks"
        await cursor.execute(f"SELECT id FROM {table} WHERE id = {record.locator} FOR UPDATE")
        try:
            yield
        finally:
            connection.close()

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
        self.server.execute(f"CREATE USER {user} IDENTIFIED BY '{SECRET}'")
        for grant in grants:
            self.server.execute(f"GRANT {grant} TO {user}")
        yield urlsplit(url)._replace(netloc=f"{user}:{SECRET}@127.0.0.1:{self.server.port}").geturl()
        self.server.execute(f"DROP USER {user}")

    def reader(self, url):
        return self.user(url, f"SELECT ON {database_of(url)}.*")

    def rights(self):
        """The documented grants, one for each right on each table."""
        found = re.findall(r"^GRANT (.+) ON (.+) TO worker;", REFERENCE.read_text(), re.MULTILINE)
        return [f"{right} ON {table}" for rights, table in found for right in rights.split(", ")]

    @contextlib.contextmanager
    def worker(self, url):
        with self.user(url, *(self.there(url, right) for right in self.rights())) as worker:
            self.name = urlsplit(worker).username
            yield worker

    @contextlib.contextmanager
    def revoked(self, url, right):
        self.server.execute(f"REVOKE {self.there(url, right)} FROM {self.name}")
        try:
            yield
        finally:
            self.server.execute(f"GRANT {self.there(url, right)} TO {self.name}")

    def there(self, url, right):
        """A right in the database of *url*."""
        return right.replace(" ON ", f" ON {database_of(url)}.")

    def denial_of(self, right):
        return right.rpartition(" ")[2]

    @contextlib.contextmanager
    def read_only(self, url):
        """As a replica is, until it is promoted."""
        self.server.execute("SET GLOBAL read_only = 1")
        try:
            yield
        finally:
            self.server.execute("SET GLOBAL read_only = 0")

    @contextlib.contextmanager
    def one_connection(self, url):
        with self.user(url, f"ALL ON {database_of(url)}.*") as limited:
            self.server.execute(f"ALTER USER {urlsplit(limited).username} WITH MAX_USER_CONNECTIONS 1")
            yield limited

    def administrator(self, url):
        return self.server.url

    @contextlib.contextmanager
    def elsewhere(self, url):
        self.server.execute("SET GLOBAL time_zone = '+09:00'")
        try:
            yield
        finally:
            self.server.execute("SET GLOBAL time_zone = 'SYSTEM'")


class TestMariadb(OnMysql):
    @pytest.fixture
    def url(self, server, url):
        self.server = server
        return url


@pytest.fixture(scope="module")
def mysql_server():
    with open_mysql(MYSQL, own=True) as server:
        yield server


@pytest.mark.long
class TestMysql(OnMysql):
    @pytest.fixture
    def url(self, mysql_server):
        self.server = mysql_server
        with mysql_server.fresh_database() as url:
            yield url


def database_of(url):
    return urlsplit(url).path[1:]


async def test_a_connection_that_was_idle_for_long_is_replaced(server, url):
    """Servers end those that idle for long, and what stands in between may forget them without a word."""
    connections = MysqlConnections(read_address(url), idle_seconds=0)
    first = await connections.rows("SELECT CONNECTION_ID()")

    assert await connections.rows("SELECT CONNECTION_ID()") != first
    await connections.close()


async def test_a_deadlock_is_rolled_back_as_a_whole_and_retried(url):
    """Two transactions in opposite orders: ours is the lighter one, so the server undoes it."""
    async with MysqlStore(read_address(url)) as store:
        await create(store, *(a_record(f"{number:02}") for number in range(2)))
        first, second = await load_all(store, [a_record("00"), a_record("01")])
        connection = await connect(url)
        cursor = connection.cursor()
        await cursor.execute("START TRANSACTION")
        for _ in range(50):
            await cursor.execute(
                "INSERT INTO pyncette_tasks_partitions (realm, handler, number) SELECT UUID(), '', 0"
            )
        await cursor.execute(f"UPDATE pyncette_tasks SET attempt = 5 WHERE id = {second.locator}")
        swap = asyncio.create_task(
            store.swap([Change(first, changed(first)), Change(second, changed(second))])
        )
        await asyncio.sleep(0.3)

        await cursor.execute(f"UPDATE pyncette_tasks SET attempt = 5 WHERE id = {first.locator}")
        await cursor.execute("ROLLBACK")

        assert await swap == [True, True]
        connection.close()


async def test_an_error_in_mid_script_leaves_no_transaction_open(url):
    async with MysqlStore(read_address(url)) as store:
        await create(store, a_record())
        record = await load(store, a_record())
        connections = MysqlConnections(read_address(url))
        for _ in range(3):
            with pytest.raises(StoreRefusedError, match="Subquery returns more than 1 row"):
                await connections.fetch(
                    [
                        "START TRANSACTION",
                        "UPDATE pyncette_tasks SET attempt = 9",
                        "SELECT (SELECT 1 UNION ALL SELECT 2)",
                    ]
                )

        assert await store.swap([Change(record, changed(record))]) == [True]
        await connections.close()


async def test_requested_encryption_is_never_given_up(mysql, mysql_url):
    """MySQL makes itself a certificate that nobody vouches for, but its own file."""
    address = read_address(mysql_url)
    own_ca = str(mysql._data / "ca.pem")
    statement = ["SHOW SESSION STATUS LIKE 'Ssl_cipher'"]

    for good in (
        address._replace(ssl_mode="required"),
        address._replace(ssl_mode="verify-ca", ssl_ca=own_ca),
    ):
        connections = MysqlConnections(good)
        (result,) = await connections.fetch(statement)
        assert result.rows[0][1]
        await connections.close()
    for bad in (
        address._replace(ssl_mode="verify-ca"),
        address._replace(ssl_mode="verify-identity", ssl_ca=own_ca),
    ):
        with pytest.raises(StoreRefusedError, match="is not trusted"):
            await MysqlConnections(bad).fetch(statement)


async def test_a_server_that_cannot_encrypt_is_not_spoken_to_if_it_should(url):
    with pytest.raises(StoreError) as told:
        await MysqlConnections(read_address(f"{url}?ssl-mode=required")).fetch(["SELECT 1"])

    assert_is_one_sentence(told.value)


async def test_an_unreadable_certificate_is_reported(url, tmp_path):
    with pytest.raises(ConfigurationError, match="ssl-ca cannot be read"):
        await MysqlConnections(read_address(f"{url}?ssl-mode=required&ssl-ca={tmp_path}/none")).fetch(
            ["SELECT 1"]
        )


@pytest.mark.parametrize("number", [1205, 1213])
def test_a_rollback_by_the_server_is_retryable(number):
    assert isinstance(translate_error(OperationalError(number, "rolled back"), "MySQL"), RetryableError)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Transport does not expose socket instance", StoreUnavailableError),
        ("'pynacl' package is required for ed25519_password auth method", ConfigurationError),
    ],
)
async def test_an_error_of_the_driver_on_a_new_connection_does_not_end_a_worker(said, told):
    """It finds no socket any more where a connection breaks in between; the moment is too short to be met on purpose."""

    async def stumble(**options):
        raise RuntimeError(said)

    address = Address("127.0.0.1", "user", "secret", "database", 1)

    with pytest.raises(told, match=said):
        await MysqlConnections(address, connect=stumble).rows("SELECT 1")
