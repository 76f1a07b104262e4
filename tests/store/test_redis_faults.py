"""What Redis and Valkey do when a server stops, hangs, fails over or says no, and how each is told: one sentence, no password."""

import asyncio
import contextlib
import logging
import re
import socket
import time
from bisect import bisect_right
from collections import Counter
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
import redis.asyncio

from pyncette.core.record import Change, Key, Partition
from pyncette.errors import SchemaError, StoreRefusedError, StoreUnavailableError
from pyncette.store.backend import read_backend
from pyncette.store.base import Notification, Renewal
from pyncette.store.redis.connection import CONNECTIONS_MAX, Connections
from pyncette.store.redis.keys import Keyspace
from pyncette.store.redis.store import RedisStore
from pyncette.store.redis.url import read_url
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
from tests.processes.proxy import Proxy
from tests.servers import (
    REDIS,
    VALKEY,
    OwnRedis,
    machine,
    open_cluster,
    open_redis,
    open_redis_with_tls,
    open_sentinel,
)
from tests.servers.redis import RIGHTS, RIGHTS_IN_A_CLUSTER, SLOTS

SECOND = 1_000_000

REFERENCE = Path(__file__).resolve().parents[2] / "docs/reference/stores-redis.md"


@pytest.fixture(scope="module", params=[REDIS, VALKEY], ids=lambda product: product.name)
def product(request):
    return request.param


@pytest.fixture(scope="module")
def server(product):
    """A server of our own for this module, which each test leaves running, and as it was."""
    server = open_redis(product, own=True)
    assert isinstance(server, OwnRedis)
    with server:
        yield server


@pytest.fixture
def own_server(product):
    """A server for this test alone, to stop, start and crash."""
    with open_redis(product, own=True) as server:
        yield server


@pytest.fixture
def url(server):
    with server.fresh_namespace() as url:
        yield url


@contextlib.contextmanager
def configured(server, **settings):
    """Let the server have other settings for a while."""
    names = {name: name.replace("_", "-") for name in settings}
    before = {name: server.execute("CONFIG", "GET", names[name]) for name in settings}
    for name, value in settings.items():
        server.execute("CONFIG", "SET", names[name], value)
    try:
        yield
    finally:
        for name, told in before.items():
            server.execute("CONFIG", "SET", names[name], value_in(told))


def value_in(told):
    return next(iter(told.values())) if isinstance(told, dict) else told[1]


async def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not (found := await condition()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return found


async def answers(store):
    try:
        await store.now()
    except StoreUnavailableError:
        return False
    return True


def assert_is_one_sentence(error, *parts):
    text = str(error)
    assert "\n" not in text
    assert "hunter2" not in text
    for part in parts:
        assert part in text


# Servers that go away


async def test_idle_connections_that_are_killed_are_replaced_unnoticed(server, url):
    async with RedisStore(url) as store:
        await create(store, a_record())
        await asyncio.gather(*(store.now() for _ in range(10)))

        assert server.kill_connections() > 0
        await asyncio.sleep(0.1)

        assert await asyncio.gather(*(store.load([a_record().key]) for _ in range(10)))


async def test_a_connection_that_is_killed_in_mid_call_is_unavailable_and_the_next_call_connects(server, url):
    async with RedisStore(url) as store:
        await create(store, a_record())
        before = await load(store, a_record())
        server.execute("CLIENT", "PAUSE", 60_000, "WRITE")
        try:
            swap = asyncio.create_task(store.swap([Change(before, changed(before))]))
            await asyncio.sleep(0.2)
            assert not swap.done()

            server.kill_connections()

            with pytest.raises(StoreUnavailableError):
                await swap
        finally:
            server.execute("CLIENT", "UNPAUSE")
        assert await store.swap([Change(before, changed(before))]) == [True]


async def test_a_sent_command_is_never_repeated(server, url):
    """The server did it, and its answer was lost: whoever asked again would be told that it was lost to another."""
    with Proxy(server.port) as proxy:
        async with RedisStore(proxy.url_of(url)) as store, RedisStore(url) as other:
            await create(store, a_record())
            for number in range(20):
                before = await load(other, a_record())
                proxy.tear(iter([1]))
                try:
                    made = await store.swap([Change(before, changed(before, attempt=number))])
                except StoreUnavailableError:
                    pass
                else:
                    assert made == [True]
                proxy.tear(iter(()))
                await until(lambda: answers(store))

            after = await load(other, a_record())
            assert after.version - T0 <= 20
            assert proxy.torn > 0


async def test_a_listener_whose_connection_is_killed_raises_an_error(server, url):
    async with RedisStore(url) as store:
        listening = asyncio.create_task(anext(aiter(store.notified())))
        await asyncio.sleep(0.3)

        server.kill_connections()

        with pytest.raises(StoreUnavailableError, match="does not answer"):
            await asyncio.wait_for(listening, 10)


def connections_of(server, kind="NORMAL"):
    """What the server says of each connection of the product."""
    told = server.execute("CLIENT", "LIST", "TYPE", kind).decode()
    return [line for line in told.splitlines() if f"user={server.user}" in line]


async def test_a_listener_that_is_closed_leaves_no_connection_behind(server, url):
    async with RedisStore(url) as store:
        notified = store.notified()
        listening = asyncio.create_task(anext(notified))

        async def listens():
            return len(connections_of(server, "PUBSUB")) == 1

        async def is_gone():
            return not connections_of(server, "PUBSUB")

        await until(listens)
        listening.cancel()
        await asyncio.wait([listening])
        await notified.aclose()

        assert await until(is_gone)


async def test_a_store_that_is_closed_leaves_no_connection_behind(server, url):
    async with RedisStore(url) as store:
        await asyncio.gather(*(store.now() for _ in range(20)))
        assert 1 <= len(connections_of(server)) <= CONNECTIONS_MAX

    async def are_gone():
        return not connections_of(server)

    assert await until(are_gone)


@pytest.fixture(scope="module")
def cluster(request, product):
    """The session's cluster, which each test leaves as it was."""
    return request.getfixturevalue(f"{product.name.lower()}_cluster")


@pytest.mark.parametrize("kind", ["server", "cluster"])
async def test_a_listener_waits_for_longer_than_an_answer_may_take(server, cluster, kind):
    url = {"server": server, "cluster": cluster}[kind].url
    notification = Notification(HERE, T0)
    async with RedisStore(url, timeout=0.5) as store:
        notified = store.notified()
        listening = asyncio.create_task(anext(notified))
        await asyncio.sleep(1.5)

        assert not listening.done()
        await store.notify([notification])
        assert await asyncio.wait_for(listening, 10) == notification
        await notified.aclose()


async def test_many_notifications_arrive_complete(url):
    wanted = [
        Notification(Partition("realm" * 50, f"handler {number}" * 20, number), T0) for number in range(60)
    ]
    async with RedisStore(url) as store, RedisStore(url) as other:
        notified = other.notified()

        async def hear():
            return [await anext(notified) for _ in wanted]

        listening = asyncio.create_task(hear())
        await asyncio.sleep(0.3)

        await store.notify(wanted)

        assert await asyncio.wait_for(listening, 10) == wanted
        await notified.aclose()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_under_load_loses_nothing_and_runs_nothing_twice(own_server, mode):
    """Each record is completed exactly as often as its version says, whatever was on its way when the server went."""
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

    async with RedisStore(own_server.url) as store:
        await create(store, *(a_record(name, lease_length=1, fence=T0) for name in names))
        async with asyncio.TaskGroup() as group:
            for seed in range(3):
                group.create_task(work(store, seed))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(own_server.stop, mode)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(own_server.start)
            down.set()
        records = await load_all(store, [a_record(name) for name in names])

    assert sum(sure.values()) > 60
    for record in records:
        # Each claim is one version and one fence, each completion a version.
        completions = record.version - record.fence
        name = record.key.instance
        assert sure[name] <= completions <= sure[name] + unsure[name]


async def test_every_reply_tells_the_time_of_a_server_whose_clock_differs(own_redis):
    await asyncio.to_thread(own_redis.restart, clock_ahead=timedelta(minutes=1))

    async with RedisStore(own_redis.url) as store:
        await create(store, a_record())
        told = [
            await store.now(),
            (await store.claim({HERE: 1}, "lease", "worker", T0, T0)).backend_now,
            (await store.renew([Renewal(a_record().key, "lease", LEASE)], T0)).backend_now,
        ]

        for instant in told:
            assert instant / SECOND - time.time() == pytest.approx(60, abs=20)
        assert (await load(store, a_record())).lease.expires_at == T0 + LEASE


async def test_a_server_that_comes_back_without_its_records_is_reported(own_server):
    async with RedisStore(own_server.url) as store:
        await create(store, a_record())
        own_server.execute("FLUSHALL")
        await asyncio.to_thread(own_server.restart)

        async def is_told():
            await until(lambda: answers(store))
            await store.now()

        with pytest.raises(SchemaError, match="are missing: run `pyncette migrate`"):
            await is_told()


# Servers that do not answer


async def test_a_server_that_accepts_and_never_answers_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://user:hunter2@127.0.0.1:{silent.getsockname()[1]}?timeout=0.3"
        began_at = time.monotonic()

        with pytest.raises(StoreUnavailableError) as told:
            async with RedisStore(url):
                pass

    assert time.monotonic() - began_at < 5
    assert_is_one_sentence(told.value, "does not answer")


async def test_a_call_that_is_not_answered_is_given_up(server, url):
    async with RedisStore(url, timeout=0.3) as store:
        await create(store, a_record())
        server.execute("CLIENT", "PAUSE", 60_000, "WRITE")
        try:
            began_at = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                await claim(store)
            assert time.monotonic() - began_at < 5
        finally:
            server.execute("CLIENT", "UNPAUSE")

        await until(lambda: answers(store))


async def test_a_cancelled_call_leaves_no_connection_in_an_unknown_state(server, url):
    async with RedisStore(url) as store:
        await create(store, a_record())
        before = await load(store, a_record())
        server.execute("CLIENT", "PAUSE", 60_000, "WRITE")
        try:
            for number in range(10):
                swap = asyncio.create_task(store.swap([Change(before, changed(before, attempt=number))]))
                await asyncio.sleep(0.02)
                swap.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await swap
        finally:
            server.execute("CLIENT", "UNPAUSE")

        assert [
            record.key for (record,) in await asyncio.gather(*(store.load([before.key]) for _ in range(8)))
        ] == [before.key] * 8


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host.invalid"])
async def test_an_unreachable_server_is_reported(host):
    port = machine.free_port()
    for scheme, rest in (("redis", ""), ("redis+cluster", ""), ("redis+sentinel", "/records")):
        with pytest.raises(StoreUnavailableError) as told:
            async with RedisStore(f"{scheme}://user:hunter2@{host}:{port}{rest}"):
                pass

        assert_is_one_sentence(told.value, f"at {host}:{port}", "does not answer")


# Servers that say no


@pytest.mark.parametrize("user", ["pyncette:hunter2", "nobody:hunter2", ":hunter2", ""])
async def test_a_wrong_user_or_password_is_reported_without_it(server, cluster, user):
    for url in (server.url, cluster.url):
        scheme, _, rest = url.partition("://")
        with pytest.raises(StoreRefusedError) as told:
            async with RedisStore(f"{scheme}://{user}@{rest.partition('@')[2]}"):
                pass

        assert_is_one_sentence(told.value, "authentication failed")


@contextlib.contextmanager
def user_with(server, *rules):
    """The URL of a user who may do what *rules* say."""
    server.execute("ACL", "SETUSER", "worker", "on", ">secret", *rules)
    try:
        yield f"redis://worker:secret@127.0.0.1:{server.port}?namespace=shop%3A"
    finally:
        server.execute("ACL", "DELUSER", "worker")
        server.clear("shop:")


def documented_rights():
    (rule,) = re.findall(r"ACL SETUSER worker on >PASSWORD (~shop.*?)```", REFERENCE.read_text(), re.DOTALL)
    return rule.split()


async def test_a_user_with_the_documented_rights_needs_no_more(server):
    assert {right for right in documented_rights() if right.startswith("+")} == {
        *RIGHTS,
        *RIGHTS_IN_A_CLUSTER,
    }
    with user_with(server, *documented_rights()) as url:
        async with RedisStore(url) as store:
            record = a_record(key=Key(Partition("", "h"), "task"))
            await create(store, record)
            (held,) = await claim(store, partition=record.key.partition)
            await store.renew([Renewal(held.key, "lease", LEASE)], T0)
            assert await store.swap([Change(held, completed(held, T0))]) == [True]
            assert len(await store.scan(record.key.partition, None, None, 5)) == 1
            await store.notify([Notification(record.key.partition, T0)])


@pytest.mark.parametrize("right", [right for right in RIGHTS if right != "+info"])
async def test_each_of_the_documented_rights_is_needed(server, right):
    rights = [*documented_rights(), right.replace("+", "-")]
    partition = Partition("", "h")
    record = a_record(key=Key(partition, "task"))

    async def all_that_a_worker_does(store):
        await create(store, record)
        (held,) = await claim(store, partition=partition)
        await store.swap([Change(held, None)])
        await store.now()
        await store.history(record.key)
        await store.partitions("")
        await store.load([record.key])
        await store.scan(partition, None, None, 5)
        await store.count(partition, "task", T0, 1, 5)
        await store.notify([Notification(partition, T0)])
        await create(store, record)
        server.execute("ZADD", "shop:pyncette-operator:{/h/0}:names", 0, "ghost")
        for _ in range(9):
            await store.claim({partition: 0}, "lease", "worker", T0, T0)
        listening = asyncio.create_task(anext(aiter(store.notified())))
        await asyncio.wait([listening], timeout=0.2)
        if listening.done():
            await listening
        listening.cancel()

    with user_with(server, *rights) as url, pytest.raises(StoreRefusedError) as told:
        async with RedisStore(url) as store:
            await all_that_a_worker_does(store)

    assert_is_one_sentence(told.value, "permission denied", "Grant the right")


@pytest.mark.parametrize(
    ("right", "there"), [("-zadd", ["a", "b", "new"]), ("-zrem", ["a"])], ids=["create", "delete"]
)
async def test_a_write_that_a_missing_right_cut_short_is_repaired_by_a_user_who_has_it(
    server, url, right, there
):
    namespace = url.partition("namespace=")[2].replace("%3A", ":")
    async with RedisStore(url) as store:
        await create(store, a_record("a"), a_record("b"), a_record("later", at=T0 + 10**9))
        before = await load(store, a_record("b"))
        change = Change(None, a_record("new")) if right == "-zadd" else Change(before, None)
        with user_with(server, *documented_rights(), "~*", right) as theirs:
            async with RedisStore(theirs, namespace) as half:
                with pytest.raises(StoreRefusedError):
                    await half.swap([change])
        found = []
        for number in range(20):
            found += instances(await claim(store, now=T0, lease_id=str(number)))

        assert sorted(found) == there
        assert instances(await store.scan(HERE, "task", None, 10)) == sorted([*there, "later"])


async def test_a_user_without_the_right_to_read_settings_can_work(server, caplog):
    with user_with(server, *documented_rights(), "-info") as url, caplog.at_level(logging.WARNING):
        async with RedisStore(url) as store:
            await create(store, a_record())

    assert caplog.records == []


async def test_keys_outside_of_the_users_namespace_are_reported(server):
    with user_with(server, *documented_rights()) as url, pytest.raises(StoreRefusedError) as told:
        async with RedisStore(url, "elsewhere:"):
            pass

    assert_is_one_sentence(told.value, "Grant the right")


async def test_a_read_only_user_can_read(server, url):
    reading = ["+evalsha", "+eval", "+hmget", "+zrange", "+hvals", "+smembers", "+exists", "+time"]
    async with RedisStore(url) as store:
        await create(store, a_record())
        with user_with(server, "~*", "&*", "-@all", *reading) as theirs:
            namespace = url.partition("namespace=")[2].replace("%3A", ":")
            async with RedisStore(theirs, namespace, create=False) as reader:
                assert instances(await reader.scan(HERE, "task", None, 5)) == ["a"]
                assert await reader.partitions("realm") == [HERE]
                with pytest.raises(StoreRefusedError):
                    await create(reader, a_record("b"))


async def test_a_server_that_only_reads_is_unavailable_until_it_writes(own_server):
    async with RedisStore(own_server.url) as store:
        await create(store, a_record())
        own_server.execute("REPLICAOF", "127.0.0.1", machine.free_port())

        for call in (claim(store), create(store, a_record("b"))):
            with pytest.raises(StoreUnavailableError):
                await call

        own_server.execute("REPLICAOF", "NO", "ONE")
        assert instances(await claim(store)) == ["a"]


async def test_a_server_whose_memory_is_full_is_unavailable_until_there_is_room(server, url):
    async with RedisStore(url) as store:
        await create(store, a_record())
        (held,) = await claim(store)
        await create(store, a_record("due"))
        with configured(server, maxmemory="1mb", maxmemory_policy="noeviction"):
            # What could not be completed is not begun.
            for call in (create(store, a_record("b")), claim(store)):
                with pytest.raises(StoreUnavailableError, match="maxmemory"):
                    await call
            assert await load(store, a_record())
            with contextlib.suppress(StoreUnavailableError):
                await store.swap([Change(held, completed(held, T0 + 5))])

        assert (await load(store, a_record())).version in {held.version, held.version + 1}
        assert await create(store, a_record("c")) is None


async def test_a_key_of_another_kind_is_refused(server, url):
    async with RedisStore(url) as store:
        await create(store, a_record())
        namespace = url.partition("namespace=")[2].replace("%3A", ":")
        key = f"{namespace}pyncette-operator:{{realm/handler/0}}:due"
        server.execute("SET", key, "theirs")

        with pytest.raises(StoreRefusedError, match="WRONGTYPE"):
            await claim(store)


# What a server says of itself


async def test_a_server_is_shown_by_its_own_name_whatever_the_url_says(product, server, cluster):
    told = server.execute("INFO", "server")
    version = told.get("valkey_version") or told["redis_version"]

    for url in (server.url, cluster.url, server.url.replace("redis://", "valkey://")):
        assert await read_backend(url).servers() == [f"{product.name} {version}"]


async def test_a_user_without_the_right_to_read_the_version_gets_none(server):
    with user_with(server, *documented_rights(), "-info") as url:
        assert await read_backend(url).servers() == []


# Settings that may cost records


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"maxmemory": "100mb", "maxmemory_policy": "allkeys-lru"}, ["allkeys-lru"]),
        ({"maxmemory": "100mb", "maxmemory_policy": "volatile-lru"}, []),
        ({"maxmemory": "0", "maxmemory_policy": "allkeys-lru"}, []),
        ({"maxmemory": "100mb", "maxmemory_policy": "noeviction"}, []),
        ({"appendonly": "no"}, ["appendonly is off"]),
    ],
)
async def test_settings_that_may_lose_records_are_reported_on_opening_and_by_checks(
    server, url, caplog, settings, said
):
    with configured(server, **settings):
        with caplog.at_level(logging.WARNING):
            async with RedisStore(url):
                pass
        concerns = await read_backend(url).concerns()

    assert len(concerns) == len(said)
    assert [entry.why for entry in caplog.records] == list(concerns)
    assert all(part in concern for part, concern in zip(said, concerns, strict=True))


async def test_a_process_is_warned_once_of_a_setting_and_again_after_it_was_fixed(server, url, caplog):
    async def opened():
        caplog.clear()
        async with RedisStore(url), RedisStore(url):
            return len(caplog.records)

    assert await opened() == 0
    with caplog.at_level(logging.WARNING), configured(server, appendonly="no"):
        assert [await opened(), await opened()] == [1, 0]
    await opened()
    with caplog.at_level(logging.WARNING), configured(server, appendonly="no"):
        assert await opened() == 1


# TLS


@pytest.fixture(scope="module")
def tls_server(product):
    with open_redis_with_tls(product) as server:
        yield server


async def test_a_server_is_spoken_to_by_tls(tls_server):
    async with RedisStore(f"{tls_server.url}?ssl_ca_certs={quote(str(tls_server.authority))}") as store:
        await create(store, a_record())
        assert instances(await claim(store)) == ["a"]


async def test_an_untrusted_certificate_is_refused_unless_verification_is_off(tls_server):
    with pytest.raises(StoreRefusedError) as told:
        async with RedisStore(tls_server.url):
            pass
    assert_is_one_sentence(told.value, "is not trusted", "certificate")

    async with RedisStore(f"{tls_server.url}?ssl_cert_reqs=none&ssl_check_hostname=false") as store:
        await store.now()


async def test_a_certificate_for_another_host_is_refused_unless_it_may_be(tls_server):
    elsewhere = tls_server.url.replace("@localhost", "@127.0.0.1")
    authority = f"ssl_ca_certs={quote(str(tls_server.authority))}"
    with pytest.raises(StoreRefusedError, match="is not trusted"):
        async with RedisStore(f"{elsewhere}?{authority}"):
            pass

    async with RedisStore(f"{elsewhere}?{authority}&ssl_check_hostname=false") as store:
        await store.now()


# Failovers


@pytest.fixture
def own_sentinel(product):
    with open_sentinel(product) as servers:
        yield servers


async def test_after_a_failover_the_new_primary_is_found_by_sentinel(own_sentinel):
    async with RedisStore(own_sentinel.url) as store:
        await create(store, a_record())
        (held,) = await claim(store)
        old = own_sentinel.primary
        await asyncio.to_thread(own_sentinel.catch_up)

        await asyncio.to_thread(old.kill)
        with pytest.raises(StoreUnavailableError):
            await store.now()
        await until(lambda: answers(store))

        assert own_sentinel.primary is not old
        assert await store.swap([Change(held, completed(held, T0 + 5))]) == [True]


async def test_a_failover_loses_what_was_acknowledged_and_had_not_reached_the_replica(own_sentinel):
    async with RedisStore(own_sentinel.url) as store:
        await create(store, a_record("kept"))
        await asyncio.to_thread(own_sentinel.catch_up)
        await asyncio.to_thread(own_sentinel.cut_off_the_replica)

        await create(store, a_record("lost"))
        await asyncio.to_thread(own_sentinel.primary.kill)
        with pytest.raises(StoreUnavailableError):
            await store.now()
        await until(lambda: answers(store))
        kept, lost = await store.load([a_record("kept").key, a_record("lost").key])

    assert kept is not None
    assert lost is None


async def test_a_primary_that_was_demoted_in_good_order_is_not_written_to_any_more(own_sentinel):
    async with RedisStore(own_sentinel.url) as store:
        await create(store, a_record())
        old = own_sentinel.primary
        await asyncio.to_thread(own_sentinel.catch_up)
        await asyncio.to_thread(own_sentinel.fail_over)

        async def is_demoted():
            return own_sentinel.primary is not old and b"slave" in old.execute("ROLE")

        async def claimed():
            try:
                return await claim(store)
            except StoreUnavailableError:
                return []

        await until(is_demoted)
        assert instances(await until(claimed)) == ["a"]

        async with RedisStore(own_sentinel.url) as another:
            assert (await load(another, a_record())).lease is not None


# Clusters


async def test_a_connection_that_another_call_closes_before_it_is_written_to_is_unavailable():
    """The driver closes all connections to a cluster when one breaks, and then stumbles over those in use."""
    connections = Connections(read_url("redis+cluster://127.0.0.1:1"))
    closed = redis.asyncio.Connection()

    with pytest.raises(StoreUnavailableError, match="the connection was closed"):
        await connections._answered(closed._send_packed_command([b"PING"]))


async def test_a_mistake_of_our_own_is_not_taken_for_a_server_that_does_not_answer():
    connections = Connections(read_url("redis+cluster://127.0.0.1:1"))

    async def mistaken():
        return connections.misspelt

    with pytest.raises(AttributeError):
        await connections._answered(mistaken())


@pytest.fixture
def own_cluster(product):
    with open_cluster(product) as cluster:
        yield cluster


def slot_of(cluster, partition):
    return cluster.nodes[0].execute("CLUSTER", "KEYSLOT", Keyspace("").of(partition).records)


def owner_of(cluster, slot):
    firsts = [SLOTS * number // len(cluster.nodes) for number in range(len(cluster.nodes))]
    return cluster.nodes[bisect_right(firsts, slot) - 1]


async def test_a_node_that_was_killed_makes_its_partitions_unavailable_until_it_is_back(own_cluster):
    partitions = [Partition("realm", "handler", number) for number in range(9)]
    owners = {partition: owner_of(own_cluster, slot_of(own_cluster, partition)) for partition in partitions}
    killed = owners[partitions[0]]
    async with RedisStore(own_cluster.url, timeout=2) as store:
        await create(store, *(a_record(key=Key(partition, "task")) for partition in partitions))
        await asyncio.to_thread(killed.kill)

        with pytest.raises(StoreUnavailableError):
            await store.claim(dict.fromkeys(partitions, 1), "lost", "worker", T0, T0)
        await asyncio.to_thread(killed.start)

        async def taken_over():
            try:
                return (
                    await store.claim(dict.fromkeys(partitions, 1), "2", "worker", T0 + LEASE, T0 + LEASE)
                ).records
            except StoreUnavailableError:
                return []

        found = {record.key.partition for record in await until(taken_over)}
        assert found == set(partitions)


async def test_a_slot_that_moves_to_another_node_takes_its_partition_along(own_cluster):
    slot = slot_of(own_cluster, HERE)
    source = owner_of(own_cluster, slot)
    target = next(node for node in own_cluster.nodes if node is not source)
    ids = {node: node.execute("CLUSTER", "MYID").decode() for node in own_cluster.nodes}
    async with RedisStore(own_cluster.url, timeout=2) as store:
        await create(store, *(a_record(f"{n:02}", at=T0 + n) for n in range(20)))
        await claim(store, limit=5, now=T0 + 30)

        target.execute("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        source.execute("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        keys = source.execute("CLUSTER", "GETKEYSINSLOT", slot, 10)
        move = ["MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "AUTH", own_cluster.password, "KEYS"]
        source.execute(*move, *keys[:2])
        with contextlib.suppress(StoreUnavailableError):  # some of its keys are here, and some there
            await claim(store, limit=5, now=T0 + 30, lease_id="in between")
        source.execute(*move, *keys[2:])
        for node in (target, source, *own_cluster.nodes):
            node.execute("CLUSTER", "SETSLOT", slot, "NODE", ids[target])

        async def claimed():
            try:
                return await claim(store, limit=20, now=T0 + 30 + LEASE, lease_id="after")
            except StoreUnavailableError:
                return []

        assert instances(await until(claimed)) == [f"{n:02}" for n in range(20)]
        assert source.execute("CLUSTER", "COUNTKEYSINSLOT", slot) == 0
        assert target.execute("CLUSTER", "COUNTKEYSINSLOT", slot) > 0


async def test_a_cluster_tells_the_settings_of_each_node(cluster):
    backend = read_backend(cluster.url)
    odd = cluster.nodes[1]
    assert await backend.concerns() == []
    odd.execute("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
    try:
        (concern,) = await backend.concerns()
    finally:
        odd.execute("CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction")

    assert "allkeys-lru" in concern
