"""What PostgreSQL does when its server stops, hangs or says no, and how each is told: one sentence, no password."""

import asyncio
import contextlib
import re
import socket
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from pyncette.core.record import Change, Partition
from pyncette.errors import (
    ConfigurationError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
)
from pyncette.store.backend import read_backend
from pyncette.store.base import Notification, Renewal
from pyncette.store.postgres.connection import PostgresConnections, place_of
from pyncette.store.postgres.statements import SESSION
from pyncette.store.postgres.store import PostgresStore
from pyncette.testing.conformance import (
    HERE,
    LEASE,
    T0,
    a_record,
    changed,
    claim,
    completed,
    create,
    instances,
    load,
    load_all,
)
from tests.servers import machine, open_postgres

SECOND = 1_000_000

REFERENCE = Path(__file__).resolve().parents[2] / "docs/reference/stores-postgresql.md"


@pytest.fixture(scope="module")
def server():
    """A server of our own for this module, which each test leaves running."""
    server = open_postgres(own=True)
    with server:
        yield server


@contextlib.asynccontextmanager
async def locked(url, instance="a"):
    """Hold the lock of a record, as a transaction that somebody left open."""
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("SELECT FROM pyncette_tasks WHERE instance = $1 FOR UPDATE", instance)
    try:
        yield
    finally:
        # Where it was killed just now, asyncpg may not have noticed all of it yet.
        with contextlib.suppress(asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresError):
            await transaction.rollback()
        connection.terminate()


async def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not (found := await condition()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return found


# Servers that go away


async def test_a_connection_that_is_killed_in_mid_call_is_unavailable_and_the_next_call_connects(
    postgres, postgres_url
):
    async with PostgresStore(postgres_url) as store:
        await create(store, a_record())
        before = await load(store, a_record())
        async with locked(postgres_url):
            swap = asyncio.create_task(store.swap([Change(before, changed(before))]))
            await asyncio.sleep(0.2)
            assert not swap.done()

            postgres.kill_connections(postgres_url)

            with pytest.raises(StoreUnavailableError):
                await swap
        assert await store.swap([Change(before, changed(before))]) == [True]


async def test_idle_connections_that_are_killed_are_replaced_unnoticed(postgres, postgres_url):
    async with PostgresStore(postgres_url) as store:
        await create(store, a_record())
        await asyncio.gather(*(store.now() for _ in range(10)))

        postgres.kill_connections(postgres_url)
        await asyncio.sleep(0.1)

        assert await asyncio.gather(*(store.load([a_record().key]) for _ in range(10)))


async def test_a_listener_whose_connection_is_killed_raises_an_error(postgres, postgres_url):
    async with PostgresStore(postgres_url) as store:
        listening = asyncio.create_task(anext(aiter(store.notified())))
        await asyncio.sleep(0.3)

        postgres.kill_connections(postgres_url)

        with pytest.raises(StoreUnavailableError, match="listened"):
            await asyncio.wait_for(listening, 10)


async def test_a_listener_that_is_closed_leaves_no_connection_behind(postgres, postgres_url):
    async with PostgresStore(postgres_url) as store:
        notified = store.notified()
        heard = asyncio.create_task(anext(notified))
        notification = Notification(HERE, T0)
        while not heard.done():
            await store.notify([notification])
            await asyncio.wait([heard], timeout=0.05)
        assert heard.result() == notification
        assert len(connections_to(postgres, postgres_url)) >= 2

        await notified.aclose()

        async def one_is_left():
            return len(connections_to(postgres, postgres_url)) == 1

        await until(one_is_left)


async def test_a_store_that_is_closed_leaves_no_connection_behind(postgres, postgres_url):
    async with PostgresStore(postgres_url) as store:
        await asyncio.gather(*(store.now() for _ in range(10)))

    async def none_is_left():
        return not connections_to(postgres, postgres_url)

    await until(none_is_left)


def connections_to(postgres, url):
    database = urlsplit(url).path[1:]
    return postgres.execute(f"SELECT pid FROM pg_stat_activity WHERE datname = '{database}'")


async def test_many_notifications_go_in_payloads_that_are_not_too_long(postgres_url):
    wanted = [
        Notification(Partition("realm" * 50, f"handler {number}" * 20, number), T0) for number in range(60)
    ]
    async with PostgresStore(postgres_url) as store, PostgresStore(postgres_url) as other:
        heard = []

        async def hear():
            heard.extend([await anext(notified) for _ in wanted])

        notified = other.notified()
        listening = asyncio.create_task(hear())
        await asyncio.sleep(0.3)

        await store.notify(wanted)

        await asyncio.wait_for(listening, 10)
        await notified.aclose()
    assert heard == wanted


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_under_load_loses_nothing_and_runs_nothing_twice(own_postgres, mode):
    """Each record is completed exactly as often as its version says, whatever was on its way when the server went."""
    url = own_postgres.create_database()
    names = [f"{number:02}" for number in range(30)]
    sure, unsure = Counter(), Counter()
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
                await asyncio.sleep(0.02)
                continue
            try:
                made = await store.swap([Change(record, completed(record, now)) for record in held])
            except StoreUnavailableError:
                unsure.update(record.key.instance for record in held)
                continue
            sure.update(record.key.instance for record, ok in zip(held, made, strict=True) if ok)
            answered_again += bool(held) and down.is_set()

    async with PostgresStore(url) as store:
        await create(store, *(a_record(name, lease_length=1, fence=T0) for name in names))
        async with asyncio.TaskGroup() as group:
            for seed in range(3):
                group.create_task(work(store, seed))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(own_postgres.stop, mode)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(own_postgres.start)
            down.set()
        records = await load_all(store, [a_record(name) for name in names])

    assert sum(sure.values()) > 60
    for record in records:
        # Each claim is one version and one fence, each completion a version.
        completions = record.version - record.fence
        assert (
            sure[record.key.instance]
            <= completions
            <= sure[record.key.instance] + unsure[record.key.instance]
        )


async def test_every_reply_tells_the_time_of_a_server_whose_clock_differs(own_postgres):
    url = own_postgres.create_database()
    await asyncio.to_thread(own_postgres.restart, clock_ahead=timedelta(minutes=1))

    async with PostgresStore(url) as store:
        await create(store, a_record())
        told = [
            await store.now(),
            (await store.claim({HERE: 1}, "lease", "worker", T0, T0)).backend_now,
            (await store.renew([Renewal(a_record().key, "lease", LEASE)], T0)).backend_now,
        ]

        for instant in told:
            assert instant / SECOND - time.time() == pytest.approx(60, abs=20)
        assert (await load(store, a_record())).lease.expires_at == T0 + LEASE


# Servers that do not answer


async def test_a_statement_that_times_out_closes_its_connection(postgres, postgres_url):
    lost = []
    connections = PostgresConnections(postgres_url, SESSION, lambda: lost.append(True), answer_seconds=0.3)
    begin = time.monotonic()

    with pytest.raises(StoreUnavailableError, match=r"timed out after 0\.3 seconds"):
        await connections.rows(("SELECT pg_sleep(60)",))

    assert time.monotonic() - begin < 5
    assert lost == [True]
    assert [tuple(row) for row in await connections.rows(("SELECT 1",))] == [(1,)]
    await connections.close()


async def test_a_call_that_waits_for_a_lock_does_not_wait_for_ever(postgres_url):
    async with PostgresStore(postgres_url) as store:
        await create(store, a_record(), a_record("b"))
        before = await load(store, a_record())
        async with locked(postgres_url):
            assert instances(await claim(store)) == ["b"]

            with pytest.raises(StoreUnavailableError, match="statement timeout"):
                await store.swap([Change(before, changed(before))])

        assert await store.swap([Change(before, changed(before))]) == [True]


async def test_a_server_that_accepts_and_never_answers_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"postgresql://user:secret@127.0.0.1:{server.getsockname()[1]}/database"

        with pytest.raises(StoreUnavailableError) as told:
            await PostgresConnections(url, SESSION, connect_seconds=0.3).rows(("SELECT 1",))

    assert_is_one_sentence(told.value, "timed out after 0.3 seconds")


async def test_a_cancelled_call_leaves_no_connection_in_an_unknown_state(postgres, postgres_url):
    async with PostgresStore(postgres_url) as store:
        await create(store, a_record())
        before = await load(store, a_record())
        async with locked(postgres_url):
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


async def test_a_wrong_password_is_reported_without_it(postgres_url):
    parts = urlsplit(postgres_url)
    if not parts.password:
        pytest.fail("the user of the tests needs a password")
    wrong = postgres_url.replace(f":{parts.password}@", ":secret@")

    with pytest.raises(StoreRefusedError) as told:
        async with PostgresStore(wrong):
            pass

    assert_is_one_sentence(
        told.value, "password authentication failed", "Check the user and the password", parts.path
    )


async def test_an_unknown_user_is_reported(server):
    with pytest.raises(StoreRefusedError) as told:
        async with PostgresStore(f"postgresql://nobody:secret@127.0.0.1:{server.port}/postgres"):
            pass

    assert_is_one_sentence(told.value, "nobody")


async def test_a_missing_database_is_reported(postgres_url):
    parts = urlsplit(postgres_url)

    with pytest.raises(StoreRefusedError) as told:
        async with PostgresStore(parts._replace(path="/nowhere").geturl()):
            pass

    assert_is_one_sentence(told.value, 'database "nowhere" does not exist', "Create it")
    assert parts.password not in str(told.value)


async def test_an_unreachable_server_is_reported():
    url = f"postgresql://user:secret@127.0.0.1:{machine.free_port()}/database"

    with pytest.raises(StoreUnavailableError) as told:
        async with PostgresStore(url):
            pass

    assert_is_one_sentence(told.value, "does not answer", "127.0.0.1", "/database")


async def test_an_unknown_host_is_reported():
    with pytest.raises(StoreUnavailableError) as told:
        async with PostgresStore("postgresql://user:secret@no-such-host.invalid/database"):
            pass

    assert_is_one_sentence(told.value, "no-such-host.invalid")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mysql://user:secret@host/database",
        "postgresql://user:secret@host:port/database",
        "user:secret@host",
        "postgresql://user:pass/secret@host:1/database",
        "postgresql://user:pass#secret@host/database",
    ],
)
async def test_an_invalid_url_is_reported_without_repeating_it(url):
    with pytest.raises((ConfigurationError, StoreError)) as told:
        async with PostgresStore(url):
            pass

    assert_is_one_sentence(told.value)


async def test_a_missing_right_is_reported(server):
    url = server.create_database()
    await read_backend(url).migrate()
    database = urlsplit(url).path[1:]
    reader = f"postgresql://reader:secret@127.0.0.1:{server.port}/{database}"
    server.execute("CREATE ROLE reader LOGIN PASSWORD 'secret'")
    server.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", url)

    async with PostgresStore(reader) as store:
        assert await store.load([a_record().key]) == [None]
        with pytest.raises(StoreRefusedError) as told:
            await create(store, a_record())

    assert_is_one_sentence(told.value, "permission denied for", "pyncette_tasks", "Grant the right")


async def test_a_missing_right_to_create_tables_is_reported(server):
    url = server.create_database()
    database = urlsplit(url).path[1:]
    server.execute("CREATE ROLE guest LOGIN PASSWORD 'secret'")

    with pytest.raises(StoreRefusedError) as told:
        async with PostgresStore(f"postgresql://guest:secret@127.0.0.1:{server.port}/{database}"):
            pass

    assert_is_one_sentence(told.value, "permission denied for schema public")


async def test_a_user_with_the_documented_rights_needs_no_more(server):
    url = server.create_database()
    await read_backend(url).migrate()
    database = urlsplit(url).path[1:]
    server.execute("CREATE ROLE worker LOGIN PASSWORD 'secret'")
    for grant in re.findall(r"^GRANT .*", REFERENCE.read_text(), re.MULTILINE):
        server.execute(grant, url)

    async with PostgresStore(f"postgresql://worker:secret@127.0.0.1:{server.port}/{database}") as store:
        await create(store, a_record())
        (held,) = await claim(store)
        await store.renew([Renewal(held.key, "lease", LEASE)], T0)
        assert await store.swap([Change(held, completed(held, T0))]) == [True]
        assert await store.swap([Change(await load(store, held), None)]) == [True]
        await store.notify([Notification(HERE, T0)])
        assert await store.partitions("realm") == []


async def test_a_server_that_only_reads_is_unavailable_until_it_writes(server):
    """As a standby does, until it is promoted."""
    url = server.create_database()
    user = urlsplit(url).username
    async with PostgresStore(url) as store:
        await create(store, a_record())

    server.execute(f"ALTER ROLE {user} SET default_transaction_read_only = on")
    async with PostgresStore(url) as store:
        with pytest.raises(StoreUnavailableError, match="read-only"):
            await claim(store)

        server.execute(f"ALTER ROLE {user} RESET default_transaction_read_only")

        assert instances(await claim(store)) == ["a"]


async def test_a_server_with_too_many_connections_is_unavailable(server):
    url = server.create_database()
    await read_backend(url).migrate()
    server.execute(f"ALTER DATABASE {urlsplit(url).path[1:]} CONNECTION LIMIT 1")

    async with PostgresStore(url):
        with pytest.raises(StoreUnavailableError, match="too many connections"):
            async with PostgresStore(url):
                pass


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://user:secret@host:5432/database", "PostgreSQL at host:5432/database"),
        ("postgres://user@host/database", "PostgreSQL at host/database"),
        ("postgresql://host", "PostgreSQL at host"),
        (
            "postgresql://user:secret@one:1,two:2/database?target_session_attrs=any",
            "PostgreSQL at one:1,two:2/database",
        ),
        (f"postgresql://user:{quote('p@/?#:secret', safe='')}@host/database", "PostgreSQL at host/database"),
        ("postgresql://user:p@ss:secret@host/database", "PostgreSQL"),
        ("postgresql://user:p/secret@host/database", "PostgreSQL"),
        ("postgresql://user:p?secret@host/database", "PostgreSQL"),
        ("postgresql:///database?host=/run&password=secret", "PostgreSQL at /database"),
        ("postgresql://host/database?password=secret", "PostgreSQL at host/database"),
        ("postgresql://host/database?password=p@secret", "PostgreSQL"),
        ("secret", "PostgreSQL"),
    ],
)
def test_the_text_of_a_server_never_contains_its_password(url, place):
    assert place_of(url) == place
