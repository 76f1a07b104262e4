"""Redis and Valkey keep what every store promises, by themselves and as clusters, and what only keys, scores and scripts can break."""

import asyncio
import logging
import struct
from collections.abc import Iterator

import pytest

from pyncette.clock import SECOND
from pyncette.core.record import Change, HistoryRow, Key, Lease, Partition
from pyncette.errors import ConfigurationError, SchemaError
from pyncette.redis import redis_repository
from pyncette.store.backend import read_backend
from pyncette.store.base import SCHEMA_VERSION, Renewal, Store
from pyncette.store.redis.index_rebuild import PAUSE_SECONDS
from pyncette.store.redis.keys import Keyspace, key_named, name_of, partition_named
from pyncette.store.redis.store import RedisStore
from pyncette.store.redis.url import read_url
from pyncette.testing.conformance import (
    ELSEWHERE,
    HERE,
    LEASE,
    T0,
    StoreConformance,
    a_record,
    a_run,
    changed,
    claim,
    completed,
    create,
    instances,
    load,
    load_all,
    seen,
)
from tests.servers import OwnCluster, Redis

CALLS_MAX = 50
"""Claims within which the indexes of a small partition are rebuilt."""


class RedisConformance(StoreConformance):
    server: Redis

    def open_store(self, backend: str) -> Store:
        return RedisStore(backend)

    async def poison(self, backend: str, key: Key) -> None:
        value = self.server.execute("HGET", keys_in(backend).records, name_of(key))
        self.server.execute(
            "HSET", keys_in(backend).records, name_of(key), value.replace(b'{"schedule"', b'["schedule"')
        )

    async def overwrite(self, backend: str, key: Key, spec: str) -> None:
        value = self.server.execute("HGET", keys_in(backend).records, name_of(key))
        id_length, holder_length = struct.unpack_from(">HH", value, 69)
        begin = 73 + id_length + holder_length
        (length,) = struct.unpack_from(">I", value, begin)
        size = struct.pack(">I", len(spec))
        value = value[:begin] + size + spec.encode() + value[begin + 4 + length :]
        self.server.execute("HSET", keys_in(backend).records, name_of(key), value)


class TestServer(RedisConformance):
    @pytest.fixture
    def backend(self, server: Redis, url: str) -> str:
        self.server = server
        return url


class TestCluster(RedisConformance):
    @pytest.fixture
    def backend(self, cluster: OwnCluster) -> Iterator[str]:
        self.server = cluster
        with cluster.fresh_namespace() as url:
            yield url


@pytest.fixture(params=["redis_server", "valkey_server"])
def server(request: pytest.FixtureRequest) -> Redis:
    server: Redis = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def url(server: Redis) -> Iterator[str]:
    with server.fresh_namespace() as url:
        yield url


@pytest.fixture(params=["redis_cluster", "valkey_cluster"])
def cluster(request: pytest.FixtureRequest) -> OwnCluster:
    cluster: OwnCluster = request.getfixturevalue(request.param)
    return cluster


def keys_in(url, partition=HERE):
    return Keyspace(read_url(url).namespace).of(partition)


def counts(server, url, partition=HERE):
    """How many there are, and how many are filed by each index."""
    keys = keys_in(url, partition)
    return (
        server.execute("HLEN", keys.records),
        server.execute("ZCARD", keys.names),
        server.execute("ZCARD", keys.due) + server.execute("ZCARD", keys.leased),
    )


@pytest.fixture
async def store(url):
    async with RedisStore(url) as store:
        yield store


# Keys


async def test_all_keys_are_in_the_namespace(server, url, store):
    before = set(server.keys(""))
    home = Key(Partition("realm", "a{b}*:c", 3), "task")

    await store.swap([Change(None, a_record(key=home), (HistoryRow(0, a_run()),))])
    await claim(store, partition=home.partition)
    await store.partitions("realm")

    namespace = read_url(url).namespace.encode()
    written = set(server.keys("")) - before
    assert written
    assert all(key.startswith(namespace) for key in written)


def test_a_store_without_a_namespace_shares_its_database_with_other_programs():
    keys = Keyspace("")

    assert {keys.meta, keys.partitions("r"), *keys.of(HERE)} == {
        "pyncette-operator:meta",
        "pyncette-operator:partitions:r",
        *(f"pyncette-operator:{{realm/handler/0}}:{name}" for name in ("records", "due", "leased", "names")),
    }


@pytest.mark.parametrize("handler", ["h", "a/b", "a{b}c", "}", "{}", "%7D", "é 🕰", "a%2Fb"])
def test_the_keys_of_a_partition_share_a_slot_and_belong_to_no_other(handler):
    partition = Partition("", handler, 7)
    keys = Keyspace("ns:")
    tags = {key[key.index("{") + 1 : key.index("}")] for key in keys.of(partition)}
    history = keys.history(Key(partition, "task")).decode()

    assert tags == {history[history.index("{") + 1 : history.index("}")]}
    assert tags != {""}
    others = [
        Partition("", "h/", 7),
        Partition(handler, "", 7),
        Partition("", handler, 8),
        Partition("", "a%b"),
    ]
    assert set(keys.of(partition)).isdisjoint(key for other in others for key in keys.of(other))


async def test_two_namespaces_of_a_database_know_nothing_of_each_other(server):
    with server.fresh_namespace() as one, server.fresh_namespace() as other:
        async with RedisStore(one) as store, RedisStore(other) as empty:
            await create(store, a_record())

            assert await claim(empty) == []
            assert await empty.partitions("realm") == []
            assert await empty.load([a_record().key]) == [None]


async def test_a_name_that_another_program_wrote_is_skipped_and_logged(server, url, store, caplog):
    await create(store, a_record())
    keys = keys_in(url)
    server.execute("HSET", keys.records, "theirs", "nonsense")
    server.execute("ZADD", keys.names, 0, "theirs")
    server.execute("ZADD", keys.due, 0, "theirs")

    with caplog.at_level(logging.ERROR):
        assert instances(await store.scan(HERE, None, None, 10)) == ["a"]
        assert instances(await claim(store)) == ["a"]

    assert [entry.task for entry in caplog.records] == ["theirs", "theirs"]
    assert await claim(store, lease_id="2") == []
    assert key_named(HERE, b"\xff") == Key(HERE, "\\xff")
    assert [partition_named("r", member) for member in (b"x", b"x/y", b"1/a/b")] == [
        None,
        None,
        Partition("r", "a/b", 1),
    ]


@pytest.mark.parametrize("member", [b"4294967295/handler", b"0/a\0b", b"0/" + b"\xff" * 900])
def test_a_member_that_is_no_partition_of_any_store_is_none(member):
    assert partition_named("r", member) is None


# Instants


@pytest.mark.parametrize(
    "at", [0, -1, T0, 2**53 - 1, -(2**53) + 1, 2**53 + 1, 2**62 + 12_345, -(2**62) - 12_345]
)
async def test_nothing_is_claimable_a_microsecond_too_soon_or_too_late(store, at):
    await create(store, a_record(at=at))

    assert await claim(store, now=at - 1) == []
    (held,) = await claim(store, now=at)

    assert held.claimable_at == at
    assert held.lease == Lease("lease", "worker", at + LEASE)
    assert await claim(store, now=at + LEASE - 1, lease_id="2") == []
    assert instances(await claim(store, now=at + LEASE, lease_id="3")) == ["a"]


@pytest.mark.parametrize("first", [T0, 2**53 - 20, 2**60 + 1])
async def test_records_a_microsecond_apart_are_in_order(store, first):
    order = [7, 2, 9, 0, 4, 1, 8, 3, 6, 5]
    await create(store, *(a_record(str(number), at=first + number) for number in order))

    found = await claim(store, now=first + 20)

    assert instances(found) == [str(number) for number in range(10)]


@pytest.mark.parametrize("at", [T0, 2**53 + 3, 2**60 + 1])
async def test_the_next_time_is_never_too_late_and_never_calls_for_nothing(store, at):
    await create(store, a_record(at=at))

    early = await store.claim({HERE: 1}, "1", "worker", at - 5_000, at - 5_000)
    just_before = await store.claim({HERE: 1}, "2", "worker", at - 1, at - 1)

    assert early.next_claimable_at is not None
    assert at - 5_000 < early.next_claimable_at <= at
    assert just_before.next_claimable_at == at


async def test_lengths_and_versions_carry_over_their_halves(store):
    record = a_record(version=2**32 - 1, fence=2**33 - 1, at=2**32 - 5, lease_length=2**32 + 7)
    await create(store, record)

    (held,) = await claim(store, now=2**32 - 3)

    assert (held.version, held.fence) == (2**32, 2**33)
    assert held.lease == Lease("lease", "worker", 2**33 + 4)
    renewed = await store.renew([Renewal(held.key, "lease", -(2**20))], 2**40)
    assert list(renewed.held) == [True]
    found = await load(store, held)
    assert found.lease == Lease("lease", "worker", 2**40 - 2**20)


async def test_a_number_of_more_than_64_bits_is_refused_before_anything_is_written(store):
    with pytest.raises(ValueError, match="64 bits"):
        await store.swap([Change(None, a_record("good")), Change(None, a_record(fence=2**63))])

    assert await store.load([a_record("good").key]) == [None]


# What is filed


async def test_each_record_is_in_one_index_whatever_happens_to_it(server, url, store):
    records = [a_record(f"{number:02}", at=None if number % 7 == 0 else T0 + number) for number in range(40)]
    await create(store, *records)

    held = await claim(store, limit=20, now=T0 + 50)
    await store.renew([Renewal(record.key, "lease", 2 * LEASE) for record in held[:9]], T0 + 60)
    await store.swap(
        [
            *(Change(record, completed(record, T0 + 100)) for record in held[3:6]),
            *(Change(record, None) for record in held[6:8]),
            *(Change(record, changed(record, claimable_at=None)) for record in held[8:10]),
        ]
    )
    again = await claim(store, limit=40, now=T0 + LEASE + 50, lease_id="2")
    await store.renew([Renewal(record.key, "2", LEASE) for record in again], T0 + 4 * LEASE)

    assert counts(server, url) == (38, 38, 38)


async def test_thousands_of_leases_that_end_at_once_are_taken_over_in_order(store):
    for begin in range(0, 2_400, 400):
        await create(store, *(a_record(f"{n:04}", at=T0 + n) for n in range(begin, begin + 400)))
    for number in range(6):
        assert len(await claim(store, limit=400, now=T0 + 5_000, lease_id=f"lease-{number}")) == 400

    again = await claim(store, limit=2_400, now=T0 + 5_000 + LEASE, lease_id="takeover")

    assert instances(again) == [f"{n:04}" for n in range(2_400)]


async def test_a_worker_whose_clock_has_stepped_does_not_stop_the_others(store):
    await create(store, *(a_record(f"{n:03}", at=T0 + n) for n in range(30)))
    await claim(store, limit=30, now=T0 + 30)
    later = T0 + 2 * LEASE

    assert await claim(store, limit=0, now=later) == []
    assert await claim(store, limit=30, now=later, expired_at=T0 + 40, lease_id="waiting") == []

    assert len(await claim(store, limit=30, now=later, lease_id="sure")) == 30


# Keys that another program deleted


async def claim_until_rebuilt(store, server, url, now=T0):
    """Claim as a worker does until the indexes are rebuilt, and return the names of the claimed instances."""
    got = []
    for number in range(CALLS_MAX):
        claimed = await store.claim({HERE: 100}, f"rebuild-{number}", "worker", now, now)
        got += instances(list(claimed.records))
        if claimed.next_claimable_at is None or claimed.next_claimable_at > now:
            return got
    raise AssertionError(f"not rebuilt in {CALLS_MAX} calls: {counts(server, url)}")


@pytest.mark.parametrize("lost", ["due", "leased", "names"])
async def test_an_index_that_was_evicted_is_made_anew(server, url, store, caplog, lost):
    await create(store, *(a_record(f"{n:02}", at=T0 + n) for n in range(20)))
    await claim(store, limit=5, now=T0 + 20)
    server.execute("DEL", getattr(keys_in(url), lost))

    with caplog.at_level(logging.WARNING):
        got = await claim_until_rebuilt(store, server, url, now=T0 + 30)

    assert got == [f"{n:02}" for n in range(5, 20)]
    assert counts(server, url) == (20, 20, 20)
    assert len(await store.scan(HERE, "task", None, 100)) == 20
    assert "does not match its records" in caplog.text
    assert len(await claim(store, limit=20, now=T0 + 30 + LEASE, lease_id="later")) == 20


async def test_index_entries_without_a_record_are_removed(server, url, store):
    await create(store, *(a_record(f"{n:02}", at=T0 + n) for n in range(20)), a_record("later", at=T0 + 900))
    await claim(store, limit=5, now=T0 + 20)
    gone = [name_of(a_record(f"{n:02}").key) for n in (0, 1, 7, 8, 9)] + [name_of(a_record("later").key)]
    server.execute("HDEL", keys_in(url).records, *gone)

    got = await claim_until_rebuilt(store, server, url, now=T0 + 30)

    assert got == [f"{n:02}" for n in (5, 6, *range(10, 20))]
    assert counts(server, url) == (15, 15, 15)


async def test_an_evicted_partition_does_not_stop_polling(server, url, store):
    await create(store, *(a_record(f"{n:02}") for n in range(20)))
    server.execute("DEL", keys_in(url).records)

    assert await claim_until_rebuilt(store, server, url) == []

    assert counts(server, url) == (0, 0, 0)
    await create(store, a_record("new"))
    assert instances(await claim(store)) == ["new"]


async def test_large_partitions_are_rebuilt_page_by_page(server, url, store):
    for begin in range(0, 3_000, 500):
        await create(store, *(a_record(f"{n:04}", at=T0 + 10**9) for n in range(begin, begin + 500)))
    server.execute("DEL", keys_in(url).due)
    server.execute("ZREM", keys_in(url).names, name_of(a_record("0007").key))

    await claim_until_rebuilt(store, server, url)

    assert counts(server, url) == (3_000, 3_000, 3_000)


async def test_repeated_deletions_of_index_entries_do_not_keep_workers_busy(server, url, store):
    await create(store, a_record(at=T0 + 10**9))
    for _ in range(2):
        server.execute("ZREM", keys_in(url).due, name_of(a_record().key))
        for number in range(CALLS_MAX):
            claimed = await store.claim({HERE: 1}, f"lease-{number}", "worker", T0, T0)
            if claimed.next_claimable_at != T0:
                break

    assert claimed.next_claimable_at == T0 + int(PAUSE_SECONDS * SECOND)


async def test_a_partition_whose_name_was_evicted_is_named_again_by_who_works_on_it(server, url, store):
    await create(store, a_record())
    server.execute("DEL", Keyspace(read_url(url).namespace).partitions("realm"))

    async with RedisStore(url) as another:
        assert await another.partitions("realm") == []
        await claim(another, limit=0)
        assert await another.partitions("realm") == [HERE]


async def test_a_record_that_is_cut_off_hurts_itself_only(server, url, store, caplog):
    await create(store, *(a_record(f"{n}", at=T0 + n) for n in range(6)))
    keys = keys_in(url)
    for number, length in enumerate((0, 1, 40, 76, 100)):
        name = name_of(a_record(f"{number}").key)
        value = server.execute("HGET", keys.records, name)
        server.execute("HSET", keys.records, name, value[:length])

    with caplog.at_level(logging.ERROR):
        first = await claim(store, limit=10, now=T0 + 10)

    assert instances(first) == ["5"]
    assert "cannot be read" in caplog.text
    assert await claim(store, limit=10, now=T0 + 10, lease_id="2") == []
    assert instances(await store.scan(HERE, "task", None, 10)) == ["5"]
    assert counts(server, url) == (6, 6, 6)


# Scripts


async def test_scripts_that_the_server_lost_are_sent_again(server, store):
    await create(store, a_record("a"), a_record("b"))
    server.execute("SCRIPT", "FLUSH")

    held, renewed, page = await asyncio.gather(
        claim(store),
        store.renew([Renewal(a_record().key, "none", LEASE)], T0),
        store.scan(HERE, "task", None, 5),
    )

    assert instances(held) == ["a", "b"]
    assert list(renewed.held) == [False]
    assert len(page) == 2
    server.execute("SCRIPT", "FLUSH")
    assert await store.swap([Change(record, completed(record, T0 + 5)) for record in held]) == [True, True]


async def test_a_claim_of_many_partitions_is_a_few_round_trips(server, store):
    partitions = [Partition("realm", "handler", number) for number in range(120)]
    await create(store, *(a_record(key=Key(partition, "task")) for partition in partitions))
    await store.claim(dict.fromkeys(partitions, 0), "look", "worker", T0, T0)
    calls = "cmdstat_evalsha"
    before = server.execute("INFO", "commandstats")[calls]["calls"]

    claimed = await store.claim(dict.fromkeys(partitions, 1), "lease", "worker", T0, T0)

    assert len(claimed.records) == 120
    assert server.execute("INFO", "commandstats")[calls]["calls"] - before == 3


async def test_a_group_may_span_partitions_where_there_is_one_server(store):
    here, there = a_record(), a_record(key=Key(ELSEWHERE, "task"))
    await create(store, here, there)
    here, there = await load_all(store, [here, there])
    await store.swap([Change(there, changed(there))])

    made = await store.swap([Change(here, changed(here, attempt=3), group=1), Change(there, None, group=1)])

    assert made == [False, False]
    assert seen(await load(store, here)) == seen(here)


async def test_a_group_that_spans_partitions_is_refused_by_a_cluster_before_anything_is_written(
    cluster,
):
    there = a_record(key=Key(ELSEWHERE, "task"))
    with cluster.fresh_namespace() as url:
        async with RedisStore(url) as store:
            with pytest.raises(ValueError, match="in one partition"):
                await store.swap([Change(None, a_record(), group=1), Change(there, None, group=1)])
            with pytest.raises(ValueError, match="in the partition of the record"):
                await store.swap([Change(None, a_record(), (HistoryRow(0, a_run()),), there.key)])

            assert await store.load([a_record().key]) == [None]


async def test_partitions_are_spread_over_the_nodes_of_a_cluster(cluster):
    partitions = [Partition("spread", "handler", number) for number in range(32)]
    with cluster.fresh_namespace() as url:
        async with RedisStore(url) as store:
            await create(store, *(a_record(key=Key(partition, "task")) for partition in partitions))

        found = [
            [key for key in node.execute("KEYS", f"*{read_url(url).namespace}*") if key.endswith(b":records")]
            for node in cluster.nodes
        ]

    assert sum(map(len, found)) == 32
    assert all(found)


# Versions of the schema


async def test_nothing_is_created_where_it_is_not_to_be(server, url):
    with pytest.raises(SchemaError, match="run `pyncette migrate`"):
        async with RedisStore(url, create=False):
            pass

    assert server.keys(read_url(url).namespace) == []


async def test_migrating_creates_what_is_missing_and_then_changes_nothing(url):
    backend = read_backend(url)

    assert await backend.migrate() == (0, SCHEMA_VERSION)
    assert await backend.migrate() == (SCHEMA_VERSION, SCHEMA_VERSION)
    async with backend.new_store(create=False) as store:
        assert await store.partitions("") == []


@pytest.mark.parametrize(
    ("version", "reader", "said"),
    [
        (SCHEMA_VERSION + 1, SCHEMA_VERSION + 1, "as new as the one that changed them"),
        (0, 0, "run `pyncette migrate`"),
        ("theirs", 1, "choose another redis_namespace"),
    ],
)
async def test_records_of_another_release_are_refused(server, url, version, reader, said):
    meta = Keyspace(read_url(url).namespace).meta
    server.execute("HSET", meta, "schema_version", version, "min_reader", reader)

    with pytest.raises(SchemaError, match=said):
        async with RedisStore(url):
            pass


async def test_a_newer_schema_that_allows_this_release_is_used(server, url):
    meta = Keyspace(read_url(url).namespace).meta
    server.execute("HSET", meta, "schema_version", SCHEMA_VERSION + 1, "min_reader", SCHEMA_VERSION)

    async with RedisStore(url) as store:
        await create(store, a_record())


# The factory


async def test_the_factory_takes_the_keywords_of_upstream(server):
    with server.fresh_namespace() as url:
        namespace = read_url(url).namespace
        bare = url.partition("?")[0]
        async with redis_repository(redis_url=bare, redis_namespace=namespace, redis_timeout=5) as store:
            await create(store, a_record())
        async with redis_repository(redis_url=url) as store:
            assert await load(store, a_record())


def test_an_invalid_timeout_is_refused():
    for timeout in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigurationError, match="above 0"):
            redis_repository(redis_url="redis://host", redis_timeout=timeout)
