"""What Redis and Valkey do when a server stops, hangs, fails over or says no."""

import asyncio
import contextlib
import logging
import re
from bisect import bisect_right
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
import redis
import redis.asyncio

from pyncette.core.record import Change, Key, Partition
from pyncette.errors import StoreRefusedError, StoreUnavailableError
from pyncette.store.backend import read_backend
from pyncette.store.base import Notification
from pyncette.store.redis.connection import Connections
from pyncette.store.redis.keys import Keyspace
from pyncette.store.redis.store import RedisStore
from pyncette.store.redis.url import read_url
from pyncette.testing.conformance import (
    HERE,
    LEASE,
    T0,
    a_record,
    claim,
    completed,
    create,
    instances,
    load,
)
from pyncette.testing.faults import (
    SECRET,
    Limiting,
    Listening,
    StoreFaults,
    WrongClock,
    answers,
    assert_is_one_sentence,
    until,
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
def url(server):
    with server.fresh_namespace() as url:
        yield url


class TestRedis(StoreFaults, Limiting, Listening):
    reads_while_stalled = False
    """A server that is paused for writes runs no scripts, and records are read by one."""

    @pytest.fixture
    def url(self, server, url):
        self.server = server
        return url

    def open_impatient(self, url, seconds):
        return RedisStore(url, timeout=seconds)

    def network(self):
        return Proxy(self.server.port)

    def urls_at(self, host, port):
        return [
            f"{scheme}://user:{SECRET}@{host}:{port}{path}"
            for scheme, path in (("redis", ""), ("redis+cluster", ""), ("redis+sentinel", "/records"))
        ]

    def place_at(self, host, port):
        return f"at {host}:{port}"

    def kill_connections(self, url):
        return self.server.kill_connections()

    def count_connections(self, url):
        return self.count_clients("NORMAL") + self.count_clients("PUBSUB")

    def count_listeners(self, url):
        return self.count_clients("PUBSUB")

    def count_clients(self, kind):
        clients = self.server.execute("CLIENT", "LIST", "TYPE", kind).decode()
        return len([line for line in clients.splitlines() if f"user={self.server.user}" in line])

    async def is_at_rest(self, url):
        """A request whose reply was torn has ended, since a server does one after the other."""
        return True

    @contextlib.asynccontextmanager
    async def stalled(self, url, record):
        self.server.execute("CLIENT", "PAUSE", 60_000, "WRITE")
        try:
            yield
        finally:
            self.server.execute("CLIENT", "UNPAUSE")

    def stop(self, *, crash):
        self.server.stop("immediate" if crash else "fast")

    def start(self):
        self.server.start()

    def lose_records(self, url):
        """As a server does that was told to keep nothing on its disk."""
        self.server.execute("FLUSHALL")
        self.server.restart()

    @contextlib.contextmanager
    def wrong_logins(self, url):
        scheme, _, rest = url.partition("://")
        users = (f"pyncette:{SECRET}", f"nobody:{SECRET}", f":{SECRET}", "")
        yield [f"{scheme}://{user}@{rest.partition('@')[2]}" for user in users]

    def reader(self, url):
        reading = ["+evalsha", "+eval", "+hmget", "+zrange", "+hvals", "+smembers", "+exists", "+time"]
        return user_with(self.server, "~*", "&*", "-@all", *reading, url=url)

    def rights(self):
        return [right for right in RIGHTS if right != "+info"]

    def worker(self, url):
        shop = namespace_of(url)
        rules = [rule.replace("shop:", shop) for rule in documented_rights()]
        return user_with(self.server, *rules, url=url)

    @contextlib.contextmanager
    def revoked(self, url, right):
        self.server.execute("ACL", "SETUSER", "worker", right.replace("+", "-"))
        if right == "+eval":
            # It is needed by the first who runs a script.
            self.server.execute("SCRIPT", "FLUSH")
        try:
            yield
        finally:
            self.server.execute("ACL", "SETUSER", "worker", right)

    async def work(self, store, handler):
        """Also rebuild the indexes of a partition, one of which has an entry too many."""
        await super().work(store, handler)
        partition = Partition("realm", handler)
        self.server.execute("ZADD", store._keyspace.of(partition).names, 0, "ghost")
        for _ in range(9):
            await store.claim({partition: 0}, "lease", "worker", T0, T0)

    @contextlib.contextmanager
    def read_only(self, url):
        """As a replica is that has lost its primary."""
        self.server.execute("REPLICAOF", "127.0.0.1", machine.free_port())
        try:
            yield
        finally:
            self.server.execute("REPLICAOF", "NO", "ONE")

    @contextlib.contextmanager
    def one_connection(self, url):
        client = redis.Redis(port=self.server.port, password=self.server.password)
        with client, client.client() as administrator:
            most = administrator.config_get("maxclients")["maxclients"]
            connected = administrator.info("clients")["connected_clients"]
            administrator.config_set("maxclients", connected + 1)
            try:
                yield url
            finally:
                administrator.config_set("maxclients", most)


class TestWrongClock(WrongClock):
    """The library that gives a program a wrong clock works on an installed server, which that of Valkey may not be."""

    @pytest.fixture
    def url(self, own_redis):
        self.server = own_redis
        return own_redis.url

    @contextlib.contextmanager
    def clock_ahead(self, ahead):
        self.server.restart(clock_ahead=ahead)
        yield


@contextlib.contextmanager
def user_with(server, *rules, url=None):
    """The URL of a user who may do what *rules* say, in the place of *url*, or in a namespace of a shop."""
    url = url or server.url_of("shop:")
    server.execute("ACL", "SETUSER", "worker", "on", f">{SECRET}", *rules)
    try:
        yield url.replace(f"{server.user}:{quote(server.password)}@", f"worker:{SECRET}@")
    finally:
        server.execute("ACL", "DELUSER", "worker")
        server.clear(namespace_of(url))


def documented_rights():
    (rule,) = re.findall(r"ACL SETUSER worker on >PASSWORD (~shop.*?)```", REFERENCE.read_text(), re.DOTALL)
    return rule.split()


def namespace_of(url):
    return unquote(url.partition("namespace=")[2])


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


@pytest.fixture(scope="module")
def cluster(request, product):
    """The session's cluster, which each test leaves as it was."""
    return request.getfixturevalue(f"{product.name.lower()}_cluster")


# Rights


def test_the_tests_run_with_the_documented_rights():
    assert {right for right in documented_rights() if right.startswith("+")} == {
        *RIGHTS,
        *RIGHTS_IN_A_CLUSTER,
    }


@pytest.mark.parametrize(
    ("right", "there"), [("-zadd", ["a", "b", "new"]), ("-zrem", ["a"])], ids=["create", "delete"]
)
async def test_a_write_that_a_missing_right_cut_short_is_repaired_by_a_user_who_has_it(
    server, url, right, there
):
    namespace = namespace_of(url)
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


# States of a server


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
        namespace = namespace_of(url)
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


@pytest.mark.parametrize("user", [f"pyncette:{SECRET}", f"nobody:{SECRET}", f":{SECRET}", ""])
async def test_a_wrong_login_to_a_cluster_is_reported_without_its_password(cluster, user):
    scheme, _, rest = cluster.url.partition("://")

    with pytest.raises(StoreRefusedError) as told:
        async with RedisStore(f"{scheme}://{user}@{rest.partition('@')[2]}"):
            pass

    assert_is_one_sentence(told.value, "authentication failed")


async def test_a_listener_in_a_cluster_waits_for_longer_than_an_answer_may_take(cluster):
    notification = Notification(HERE, T0)
    async with RedisStore(cluster.url, timeout=0.5) as store:
        notified = store.notified()
        listening = asyncio.create_task(anext(notified))
        await asyncio.sleep(1.5)

        assert not listening.done()
        await store.notify([notification])
        assert await asyncio.wait_for(listening, 10) == notification
        await notified.aclose()


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
