"""What MariaDB and MySQL do when their server stops, hangs or says no, and how each is told: one sentence, no password."""

import asyncio
import contextlib
import re
import socket
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from asyncmy.errors import OperationalError

from pyncette.core.record import Change, HistoryRow, Key
from pyncette.errors import (
    ConfigurationError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
)
from pyncette.store.backend import read_backend
from pyncette.store.base import Renewal
from pyncette.store.mysql.address import Address, read_address
from pyncette.store.mysql.backend import MysqlBackend
from pyncette.store.mysql.connection import MysqlConnections, translate_error
from pyncette.store.mysql.store import MysqlStore
from pyncette.store.sql.connections import RetryableError
from pyncette.testing.conformance import (
    HERE,
    LEASE,
    T0,
    a_record,
    a_run,
    changed,
    claim,
    completed,
    create,
    instances,
    load,
    load_all,
)
from tests.processes.proxy import Proxy
from tests.servers import MARIADB, OwnMysql, machine, open_mysql
from tests.servers.mysql import connect

pytestmark = pytest.mark.xdist_group("mysql-faults")

SECOND = 1_000_000

REFERENCE = Path(__file__).resolve().parents[2] / "docs/reference/stores-mysql.md"


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


def opened(url, **options):
    return MysqlStore(read_address(url), **options)


@contextlib.asynccontextmanager
async def locked(server, url, record):
    """Hold the lock of a record, as a transaction that somebody in another database left open."""
    connection = await connect(server.url)
    cursor = connection.cursor()
    await cursor.execute("START TRANSACTION")
    table = f"{urlsplit(url).path[1:]}.pyncette_tasks"
    await cursor.execute(f"SELECT id FROM {table} WHERE id = {record.locator} FOR UPDATE")
    try:
        yield
    finally:
        connection.close()


async def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not (found := await condition()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return found


# Servers that go away


async def test_a_connection_that_is_killed_in_mid_call_is_unavailable_and_the_next_call_connects(server, url):
    async with opened(url) as store:
        await create(store, a_record())
        before = await load(store, a_record())
        async with locked(server, url, before):
            swap = asyncio.create_task(store.swap([Change(before, changed(before))]))
            await asyncio.sleep(0.2)
            assert not swap.done()

            server.kill_connections(url)

            with pytest.raises(StoreUnavailableError):
                await swap
        assert await store.swap([Change(before, changed(before))]) == [True]


async def test_idle_connections_that_are_killed_are_replaced_unnoticed(server, url):
    async with opened(url) as store:
        await create(store, a_record())
        await asyncio.gather(*(store.now() for _ in range(10)))

        server.kill_connections(url)
        await asyncio.sleep(0.1)

        assert await asyncio.gather(*(store.load([a_record().key]) for _ in range(10)))


async def test_a_connection_that_was_idle_for_long_is_replaced(server, url):
    """Servers end those that idle for long, and what stands in between may forget them without a word."""
    connections = MysqlConnections(read_address(url), idle_seconds=0)
    first = await connections.rows("SELECT CONNECTION_ID()")

    assert await connections.rows("SELECT CONNECTION_ID()") != first
    await connections.close()


async def test_a_store_that_is_closed_leaves_no_connection_behind(server, url):
    async with opened(url) as store:
        await asyncio.gather(*(store.now() for _ in range(10)))

    async def none_is_left():
        return not server.connections_to(url)

    await until(none_is_left)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_under_load_loses_nothing_and_runs_nothing_twice(server, url, mode):
    """Each record is completed exactly as often as its version says, whatever was on its way when the server went."""
    names = [f"{number:02}" for number in range(30)]
    sure, unsure, untold = Counter(), Counter(), Counter()
    down = asyncio.Event()
    answered_again = 0

    async def work(store, seed):
        nonlocal answered_again
        number = 0
        while answered_again < 60:
            number += 1
            now = T0 + 10 * number
            try:
                held = await claim(store, limit=7, now=now, lease_id=f"{seed}-{number}")
            except StoreUnavailableError:
                untold["claims"] += 1
                await asyncio.sleep(0.02)
                continue
            try:
                made = await store.swap([Change(record, completed(record, now)) for record in held])
            except StoreUnavailableError:
                unsure.update(record.key.instance for record in held)
                continue
            sure.update(record.key.instance for record, ok in zip(held, made, strict=True) if ok)
            answered_again += bool(held) and down.is_set()

    async with opened(url) as store:
        await create(store, *(a_record(name, lease_length=1, fence=T0) for name in names))
        async with asyncio.TaskGroup() as group:
            for seed in range(3):
                group.create_task(work(store, seed))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.stop, mode)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(server.start)
            down.set()
        records = await load_all(store, [a_record(name) for name in names])

    assert sum(sure.values()) > 60
    assert untold["claims"] > 0
    for record in records:
        # Each claim is one version and one fence, each completion a version.
        completions = record.version - record.fence
        assert (
            sure[record.key.instance]
            <= completions
            <= sure[record.key.instance] + unsure[record.key.instance]
        )


async def test_every_reply_tells_the_time_of_a_server_whose_clock_differs(own_mariadb):
    url = own_mariadb.create_database()
    await asyncio.to_thread(own_mariadb.restart, clock_ahead=timedelta(minutes=1))

    async with opened(url) as store:
        await create(store, a_record())
        told = [
            await store.now(),
            (await store.claim({HERE: 1}, "lease", "worker", T0, T0)).backend_now,
            (await store.claim({HERE: 1}, "look", "worker", T0, T0)).backend_now,
            (await store.renew([Renewal(a_record().key, "lease", LEASE)], T0)).backend_now,
        ]

        for instant in told:
            assert instant / SECOND - time.time() == pytest.approx(60, abs=20)
        assert (await load(store, a_record())).lease.expires_at == T0 + LEASE


async def test_the_zone_of_a_server_makes_no_difference(server, url):
    server.execute("SET GLOBAL time_zone = '+09:00'")
    try:
        async with opened(url) as store:
            assert abs(await store.now() / SECOND - time.time()) < 20
    finally:
        server.execute("SET GLOBAL time_zone = 'SYSTEM'")


# Networks


async def test_replies_that_are_torn_anywhere_are_unavailable_and_nothing_is_half_done(server, url):
    """A batch is made whole or not at all, with its history, wherever the answer to it breaks off."""
    home = Key(HERE, "home")

    async def all_is_done():
        """The server goes on with what was asked for, whoever is there to hear what came of it."""
        return all(connection[4] == "Sleep" for connection in server.connections_to(url))

    with Proxy(server.port) as proxy:
        async with opened(proxy.url_of(url)) as store, opened(url) as witness:
            await create(witness, *(a_record(f"{number:02}") for number in range(10)))
            for length in [*range(0, 60, 4), *range(60, 400, 40)]:
                befores = await load_all(witness, [a_record(f"{number:02}") for number in range(10)])
                told = len(await witness.history(home))
                changes = [
                    Change(before, changed(before), (HistoryRow(before.version - T0, a_run()),), home)
                    for before in befores
                ]
                await store.load([befores[0].key])
                proxy.tear(iter([length]))
                try:
                    made = await store.swap(changes)
                except StoreUnavailableError:
                    made = None
                proxy.tear(iter(()))
                await until(all_is_done)

                afters = await load_all(witness, befores)
                moved = {
                    after.version - before.version for before, after in zip(befores, afters, strict=True)
                }
                assert moved in ({0}, {1})
                assert made is None or (made == [True] * 10 and moved == {1})
                # All of them write the same slot.
                assert len(await witness.history(home)) == told + moved.pop()
            assert proxy.torn > 10


# Servers that do not answer


async def test_a_statement_that_times_out_closes_its_connection(url):
    lost = []
    connections = MysqlConnections(read_address(url), lambda: lost.append(True), answer_seconds=0.3)
    begin = time.monotonic()

    with pytest.raises(StoreUnavailableError, match=r"timed out after 0\.3 seconds"):
        await connections.fetch(["SELECT sleep(60)"])

    assert time.monotonic() - begin < 5
    assert lost == [True]
    (result,) = await connections.fetch(["SELECT 1"])
    assert result.rows == ((1,),)
    await connections.close()


async def test_a_call_that_waits_for_a_lock_is_retried_for_a_limited_time(server, url, caplog):
    async with opened(url) as store:
        await create(store, a_record(), a_record("b"))
        before = await load(store, a_record())
        async with locked(server, url, before):
            assert instances(await claim(store)) == ["b"]

            with (
                caplog.at_level("INFO"),
                pytest.raises(StoreUnavailableError, match="too busy: Lock wait timeout"),
            ):
                await store.swap([Change(before, changed(before))])

        assert any("rolled back a statement" in entry.getMessage() for entry in caplog.records)
        assert await store.swap([Change(before, changed(before))]) == [True]


async def test_a_change_that_waited_for_a_lock_is_made_once_it_is_free(server, url):
    async with opened(url) as store:
        await create(store, a_record())
        before = await load(store, a_record())
        async with locked(server, url, before):
            swap = asyncio.create_task(store.swap([Change(before, changed(before))]))
            await asyncio.sleep(4)
            assert not swap.done()

        assert await swap == [True]


async def test_a_deadlock_is_rolled_back_as_a_whole_and_retried(url):
    """Two transactions in opposite orders: ours is the lighter one, so the server undoes it."""
    async with opened(url) as store:
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
    async with opened(url) as store:
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


async def test_a_server_that_accepts_and_never_answers_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("127.0.0.1", "user", "secret", "database", server.getsockname()[1])

        with pytest.raises(StoreUnavailableError) as told:
            await MysqlConnections(address, connect_seconds=0.3).fetch(["SELECT 1"])

    assert_is_one_sentence(told.value, "timed out after 0.3 seconds")


async def test_a_cancelled_call_leaves_no_connection_in_an_unknown_state(server, url):
    async with opened(url) as store:
        await create(store, a_record())
        before = await load(store, a_record())
        async with locked(server, url, before):
            for _ in range(10):
                swap = asyncio.create_task(store.swap([Change(before, changed(before))]))
                await asyncio.sleep(0.02)
                swap.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await swap

            assert len(await asyncio.gather(*(store.load([before.key]) for _ in range(8)))) == 8


# Servers that say no


def assert_is_one_sentence(error, *words):
    text = str(error)
    assert isinstance(error, StoreError | ConfigurationError)
    assert "\n" not in text
    assert "secret" not in text
    for word in words:
        assert word in text


async def test_a_wrong_password_is_reported_without_it(url):
    with pytest.raises(StoreRefusedError) as told:
        async with MysqlStore(read_address(url)._replace(password="secret")):
            pass

    assert_is_one_sentence(told.value, "Access denied for user", "Check the user and the password")


async def test_a_missing_database_is_reported(server, url):
    address = read_address(server.url)._replace(database="nowhere")

    with pytest.raises(StoreRefusedError) as told:
        async with MysqlStore(address):
            pass

    assert_is_one_sentence(told.value, "Unknown database 'nowhere'", "Create it")
    assert server.password not in str(told.value)


async def test_an_unreachable_server_is_reported():
    address = Address("127.0.0.1", "user", "secret", "database", machine.free_port())

    with pytest.raises(StoreUnavailableError) as told:
        async with MysqlStore(address):
            pass

    assert_is_one_sentence(told.value, "does not answer", "127.0.0.1", "/database")


async def test_an_unknown_host_is_reported():
    with pytest.raises(StoreUnavailableError) as told:
        async with MysqlStore(Address("no-such-host.invalid", "user", "secret", "database")):
            pass

    assert_is_one_sentence(told.value, "no-such-host.invalid")


async def test_a_missing_right_is_reported(server, url):
    await read_backend(url).migrate()
    reader = with_user(server, url, "GRANT SELECT ON {database}.* TO {user}")

    async with MysqlStore(reader) as store:
        assert await store.load([a_record().key]) == [None]
        with pytest.raises(StoreRefusedError) as told:
            await create(store, a_record())

    assert_is_one_sentence(told.value, "command denied to user", "pyncette_tasks", "Grant the right")


async def test_a_missing_right_to_create_tables_is_reported(server, url):
    guest = with_user(server, url, "GRANT SELECT ON {database}.* TO {user}")

    with pytest.raises(StoreRefusedError) as told:
        async with MysqlStore(guest):
            pass

    assert_is_one_sentence(told.value, "CREATE command denied", "Grant the right")


async def test_a_user_with_the_documented_rights_needs_no_more(server, url):
    await read_backend(url).migrate()
    grants = re.findall(r"^GRANT .*", REFERENCE.read_text(), re.MULTILINE)
    worker = with_user(
        server, url, *(
            grant.replace(" ON ", " ON {database}.").replace("TO worker;", "TO {user}") for grant in grants
        )
    )  # fmt: skip
    assert len(grants) == 5

    async with MysqlStore(worker) as store:
        await create(store, a_record())
        (held,) = await claim(store)
        await store.renew([Renewal(held.key, "lease", LEASE)], T0)
        rows = (HistoryRow(0, a_run()),)
        assert await store.swap([Change(held, completed(held, T0), rows)]) == [True]
        (again,) = await claim(store, lease_id="next")
        assert await store.swap([Change(again, completed(again, T0))]) == [True]
        grouped = await load(store, held)
        assert await store.swap(
            [Change(grouped, changed(grouped), rows, group=1), Change(None, a_record("b"), group=1)]
        ) == [True, True]
        assert await store.swap([Change(await load(store, held), None)]) == [True]
        assert len(await store.scan(HERE, None, None, 10)) == 1
        assert await store.history(held.key) == []
        assert await store.partitions("realm") == [HERE]


def with_user(server, url, *grants):
    """The address of a user who may do what *grants* say, and no more."""
    database = urlsplit(url).path[1:]
    user = f"u{database.rpartition('_')[2]}"
    server.execute(f"CREATE OR REPLACE USER {user} IDENTIFIED BY 'secret'")
    for grant in grants:
        server.execute(grant.format(database=f"`{database}`", user=user))
    return read_address(url)._replace(user=user, password="secret")


async def test_a_server_that_only_reads_is_unavailable_until_it_writes(server, url):
    """As a replica does, until it is promoted."""
    async with opened(url) as store:
        await create(store, a_record())
        server.execute("SET GLOBAL read_only = 1")
        try:
            with pytest.raises(StoreUnavailableError, match="read-only"):
                await claim(store)
        finally:
            server.execute("SET GLOBAL read_only = 0")

        assert instances(await claim(store)) == ["a"]


async def test_a_server_with_too_many_connections_is_unavailable(server, url):
    await read_backend(url).migrate()
    user = with_user(server, url, "GRANT ALL ON {database}.* TO {user}")
    server.execute(f"ALTER USER {user.user} WITH MAX_USER_CONNECTIONS 1")

    async with MysqlStore(user):
        with pytest.raises(StoreUnavailableError, match="max_user_connections"):
            async with MysqlStore(user):
                pass


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


# URLs


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("mysql://user:secret@host:3307/database", "MySQL at host:3307/database"),
        ("mariadb://user@host/database", "MySQL at host:3306/database"),
        ("mysql://user:secret@[::1]/database", "MySQL at ::1:3306/database"),
        (f"mysql://user:{quote('p@/?#:secret', safe='')}@host/database", "MySQL at host:3306/database"),
        ("mysql://user:secret@/database?socket=/run/mysqld.sock", "MySQL at /run/mysqld.sock/database"),
        (
            "mysql://user:secret@host/database?ssl-mode=VERIFY_CA&ssl-ca=/ca.pem",
            "MySQL at host:3306/database",
        ),
    ],
)
def test_the_text_of_a_server_never_contains_its_password(url, place):
    backend = MysqlBackend(url)

    assert str(backend) == place
    assert "secret" not in repr(backend)
    assert "secret" not in repr(backend.address)


def test_the_parts_of_a_url_are_decoded():
    password = "p@/?#:'\\ é"

    address = read_address(f"mysql://ad%40a:{quote(password, safe='')}@host/d%20b?ssl-mode=required")

    assert address[:6] == ("host", "ad@a", password, "d b", 3306, "")
    assert address.ssl_mode == "required"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:secret@host",
        "mysql://user:secret@host/",
        "mysql://user:secret@host:port/database",
        "mysql://user:pass/secret@host:1/database",
        "mysql://user:pass#secret@host/database",
        "mysql://user:p@ss:secret@host/database",
        "mysql://user:secret@host/database?secret=1",
        "mysql://user:secret@host/database?ssl-mode=secret",
    ],
)
def test_an_invalid_url_is_reported_without_repeating_it(url):
    with pytest.raises(ConfigurationError) as told:
        MysqlBackend(url)

    assert_is_one_sentence(told.value)


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
