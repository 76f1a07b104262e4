"""What DynamoDB does when it throttles, denies, hangs or is gone, and how each is told."""

import asyncio
import contextlib
import json
import re
import signal
import time
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from pyncette.cli.check_backend import try_out
from pyncette.clock import SECOND
from pyncette.core.record import Change, HistoryRow, Key, Partition, replace
from pyncette.errors import SchemaError, StoreRefusedError, StoreUnavailableError
from pyncette.store.backend import read_backend
from pyncette.store.base import Renewal
from pyncette.store.dynamodb.connection import CONNECTIONS_MAX
from pyncette.store.dynamodb.limits import Limits
from pyncette.store.dynamodb.store import DynamoStore
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
from pyncette.testing.faults import StoreFaults, WrongClock
from tests.processes.proxy import Proxy
from tests.servers import DynamoDb, OwnDynamoDb, open_dynamodb
from tests.servers.dynamodb_gate import Gate

pytestmark = pytest.mark.xdist_group("dynamodb")

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "stores-dynamodb.md"


@pytest.fixture
def gate(dynamodb: DynamoDb):
    with Gate(dynamodb.endpoint) as gate:
        yield gate


@pytest.fixture
def guarded_url(dynamodb: DynamoDb, dynamodb_url: str, gate: Gate):
    return dynamodb_url.replace(dynamodb.endpoint, gate.endpoint)


def opened(url: str, **options) -> DynamoStore:
    store = read_backend(url).new_store(**options)
    assert isinstance(store, DynamoStore)
    return store


@pytest.fixture(scope="module")
def own_server(dynamodb):
    """A server of our own for this module, whose tables outlive a restart; it takes the credentials of the session's."""
    with open_dynamodb(own=True, durable=True) as server:
        assert isinstance(server, OwnDynamoDb)
        yield server


class TestDynamoDb(StoreFaults, WrongClock):
    connections_max = CONNECTIONS_MAX
    batches_are_whole = False
    claims_afterwards = 3

    @pytest.fixture(autouse=True)
    def credentials(self, own_server):
        """Those of the server stand in the environment, also for tests that ask for no URL of it."""

    @pytest.fixture
    def url(self, own_server):
        self.server = own_server
        with Gate(own_server.endpoint) as self.gate, own_server.fresh_table() as table:
            yield own_server.url_of(table).replace(own_server.endpoint, self.gate.endpoint)

    def open_impatient(self, url, seconds):
        return opened(url, limits=Limits(connect=seconds, answer=seconds))

    def network(self):
        return Proxy(self.gate.port)

    def urls_at(self, host, port):
        return [f"dynamodb://eu-west-1/pyncette?endpoint=http://{host}:{port}"]

    def kill_connections(self, url):
        return self.gate.kill_connections()

    def count_connections(self, url):
        return self.gate.connections

    @contextlib.asynccontextmanager
    async def stalled(self, url, record):
        with self.gate.stalled():
            yield

    async def is_at_rest(self, url):
        return self.gate.is_at_rest

    def stop(self, *, crash):
        self.server.stop(signal.SIGKILL if crash else signal.SIGTERM)

    def start(self):
        self.server.start()

    def lose_records(self, url):
        self.server.drop(urlsplit(url).path[1:])

    @contextlib.contextmanager
    def clock_ahead(self, ahead):
        self.gate.ahead = ahead
        yield

    @contextlib.contextmanager
    def wrong_logins(self, url):
        self.gate.is_stranger = True
        yield [url]

    def reader(self, url):
        return self.allowed(url, "reader.json")

    def rights(self):
        return sorted(policy("worker.json"))

    def worker(self, url):
        return self.allowed(url, "worker.json")

    @contextlib.contextmanager
    def allowed(self, url, name):
        self.gate.allowed = policy(name)
        yield url
        self.gate.allowed = None

    @contextlib.contextmanager
    def revoked(self, url, right):
        self.gate.denied = {right}
        yield
        self.gate.denied = ()

    def denial_of(self, right):
        return f"User: worker is not authorized to perform: dynamodb:{right}"


# Throttling


async def test_throttled_requests_are_repeated_and_each_occurrence_runs_once(gate, guarded_url):
    runs = []
    home = Key(HERE, "home")

    async def work(store, name):
        for number in range(100):
            if len(runs) >= 120:
                return
            held = await claim(store, limit=20, now=T0 + 300, lease_id=f"{name}-{number}")
            changes = [
                Change(
                    before,
                    completed(before, before.due_at + 100 if before.due_at < T0 + 100 else None),
                    (HistoryRow(index, a_run(index)),) if index < 3 else (),
                    home if index < 3 else None,
                )
                for index, before in enumerate(held)
            ]
            assert all(await store.swap(changes))
            await store.renew([Renewal(before.key, "none", LEASE) for before in held], T0)
            runs.extend((before.key.instance, before.due_at) for before in held)

    async with opened(guarded_url) as one, opened(guarded_url) as other:
        gate.throttling = 0.3
        names = [f"{number:02}" for number in range(60)]
        await create(one, *(a_record(name, at=T0 + number) for number, name in enumerate(names)))

        await asyncio.gather(work(one, "one"), work(other, "other"))
        records = await load_all(one, [a_record(name) for name in names])
        pages = await one.scan(HERE, "task", None, 100)

    assert sorted(runs) == sorted((name, T0 + int(name) + more) for name in names for more in (0, 100))
    assert all(record.claimable_at is None for record in records)
    assert instances(pages) == names
    assert gate.defer > 20


async def test_deferred_groups_are_made_as_a_whole_in_the_end(gate, guarded_url):
    async with opened(guarded_url) as store:
        await create(store, *(a_record(f"{number:02}") for number in range(20)))
        befores = await load_all(store, [a_record(f"{number:02}") for number in range(20)])
        gate.throttling = 0.5

        made = await store.swap(
            [Change(before, changed(before), group=number // 4 + 1) for number, before in enumerate(befores)]
        )

    assert made == [True] * 20


async def test_a_load_may_see_one_half_of_a_group_before_and_the_other_after_it_was_written(
    gate, guarded_url, dynamodb_url
):
    a, b = a_record("a"), a_record("b")

    async def write(store):
        while True:
            pair = await load_all(store, [a, b])
            await store.swap([Change(before, changed(before), group=1) for before in pair])

    async with opened(guarded_url) as reader, opened(dynamodb_url) as writer:
        await create(writer, a, b)
        writing = asyncio.create_task(write(writer))
        gate.throttling = 0.5  # what is put off is read once the rest has been
        try:
            async with asyncio.timeout(60):
                while True:
                    of_a, of_b = await reader.load([a.key, b.key])
                    if of_a.version != of_b.version:
                        break
        finally:
            writing.cancel()


async def test_a_request_that_is_deferred_for_too_long_is_unavailable(gate, guarded_url):
    async with opened(guarded_url, limits=Limits(pause_max=0.001)) as store:
        await create(store, a_record(), a_record("b"))
        before = await load(store, a_record())
        gate.throttling = 1.0

        calls = [
            lambda: store.load([a_record().key]),
            lambda: store.swap([Change(before, changed(before))]),
            lambda: store.swap(
                [Change(before, changed(before), group=1), Change(None, a_record("c"), group=1)]
            ),
            lambda: claim(store),
            lambda: store.scan(HERE, None, None, 1),
            lambda: store.history(before.key),
        ]
        for call in calls:
            with pytest.raises(StoreUnavailableError, match="cannot keep up"):
                await call()

        gate.throttling = 0
        assert instances(await claim(store)) == ["a", "b"]


# Rights


def policy(name: str):
    """The actions of a policy in the reference."""
    found = re.search(rf'```json title="{name}"\n(.*?)```', REFERENCE.read_text(), re.DOTALL)
    assert found
    (statement,) = json.loads(found[1])["Statement"]
    assert {resource.rpartition(":")[2] for resource in statement["Resource"]} == {
        "table/pyncette",
        "table/pyncette/index/due",
    }
    return {action.removeprefix("dynamodb:") for action in statement["Action"]}


async def refusals(url: str) -> list[str]:
    """What does not work of all that a worker does."""
    return [step.note for step in await try_out(read_backend(url), "") if not step.works]


async def test_the_documented_rights_are_enough_for_a_check(gate, guarded_url):
    await read_backend(guarded_url).migrate()
    gate.allowed = policy("worker.json")

    assert await refusals(guarded_url) == []


async def test_a_table_is_made_with_the_rights_that_are_said_to_be_needed(gate, guarded_url):
    gate.allowed = policy("worker.json") | policy("migrate.json")

    async with opened(guarded_url) as store:
        await create(store, a_record())


async def test_missing_credentials_are_said_to_be_missing(dynamodb_url, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    with pytest.raises(StoreRefusedError, match="no credentials found"):
        async with opened(dynamodb_url):
            pass


# Time


async def test_a_server_whose_clock_differs_is_believed_to_the_second(gate, guarded_url):
    gate.ahead = timedelta(hours=-3)

    async with opened(guarded_url) as store:
        await create(store, a_record())
        claimed = await store.claim({HERE: 1}, "lease", "worker", T0, T0)

    assert abs(time.time_ns() // 1000 - claimed.backend_now - 3 * 3600 * SECOND) <= 2 * SECOND


# Costs


async def test_a_batch_takes_few_requests_however_many_records_are_in_it(gate, guarded_url):
    async with opened(guarded_url) as store:
        await create(store, *(a_record(f"{number:03}") for number in range(100)))
        gate.requests.clear()

        held = await claim(store, limit=100)
        held += await claim(store, limit=100, lease_id="rest")
        assert (
            await store.swap([Change(before, completed(before, T0 + 9)) for before in held]) == [True] * 100
        )

    assert len(held) == 100
    assert gate.requests["BatchExecuteStatement"] <= 10
    assert gate.requests["Query"] <= 24
    assert set(gate.requests) == {"BatchExecuteStatement", "Query"}


async def test_a_scan_that_finds_nothing_due_reads_each_shard_once(gate, guarded_url):
    async with opened(guarded_url) as store:
        await create(store, *(a_record(f"{number:03}", at=T0 + 50 + number) for number in range(100)))
        await claim(store, limit=100)
        gate.requests.clear()

        claimed = await store.claim({HERE: 100}, "lease", "worker", T0, T0)

    assert claimed.next_claimable_at == T0 + 50
    assert gate.requests == {"Query": 4}


async def test_claimers_that_meet_give_way_to_each_other(gate, guarded_url):
    """Those who lose many writes, each of which is paid for, take from farther behind."""
    stores = [opened(guarded_url) for _ in range(4)]
    async with stores[0], stores[1], stores[2], stores[3]:
        await create(stores[0], *(a_record(f"{number:03}", at=T0 + number) for number in range(400)))
        got = []

        async def work(store, name):
            for number in range(100):
                if len(got) >= 400:
                    return
                got.extend(instances(await claim(store, limit=10, now=T0 + 500, lease_id=f"{name}-{number}")))

        await asyncio.gather(*(work(store, str(number)) for number, store in enumerate(stores)))

    assert sorted(got) == [f"{number:03}" for number in range(400)]


# Limits


async def test_a_long_history_goes_with_its_record(dynamodb_url):
    """A transaction holds a hundred items."""
    async with opened(dynamodb_url) as store:
        await create(store, a_record())
        before = await load(store, a_record())
        for begin in range(0, 240, 80):
            after = changed(before)
            rows = tuple(HistoryRow(slot, a_run(slot)) for slot in range(begin, begin + 80))
            assert await store.swap([Change(before, after, rows)]) == [True]
            before = after
        assert len(await store.history(before.key)) == 240

        stale = a_record()
        assert await store.swap([Change(stale, None)]) == [False]
        assert len(await store.history(before.key)) == 240
        assert await store.swap([Change(before, None)]) == [True]

        assert await store.history(before.key) == []


async def test_a_record_that_is_too_large_is_refused_and_stops_no_other(dynamodb_url):
    large = msgspec.Raw(b'"' + b"x" * 500_000 + b'"')
    async with opened(dynamodb_url) as store:
        with pytest.raises(ValueError, match="at most"):
            await store.swap([Change(None, a_record("large", spec=replace(a_record().spec, args=large)))])

        await create(store, a_record())


async def test_a_record_whose_fields_cannot_be_read_does_not_affect_others(dynamodb_url):
    async with opened(dynamodb_url) as store:
        await create(store, a_record("a"), a_record("b", at=T0 + 1))
        await store._requests.call(
            "update_item",
            Key=store._layout.record(a_record("a").key).key,
            UpdateExpression="SET #fields = :fields",
            ExpressionAttributeNames={"#fields": "fields"},
            ExpressionAttributeValues={":fields": {"S": "[1]"}},
        )

        assert await claim(store, limit=1, now=T0 + 1) == []
        assert instances(await claim(store, limit=1, now=T0 + 1)) == ["b"]

        assert await store.load([a_record("a").key]) == [None]
        renewed = await store.renew([Renewal(a_record(name).key, "lease", LEASE) for name in "ab"], T0 + 2)
        assert renewed.held == [False, True]


async def test_the_largest_names_fit_beside_the_longest_prefix(dynamodb_url):
    partition = Partition("r" * 500, "h" * 500, 2**31 - 1)
    key = Key(partition, "t" * 500, "i" * 500)
    async with opened(f"{dynamodb_url}&prefix={'p' * 255}") as store:
        before = a_record(key=key)
        await store.swap([Change(None, before, (HistoryRow(0, a_run()),))])

        assert [record.key for record in await store.scan(partition, None, None, 2)] == [key]
        assert await store.history(key) == [a_run()]
        assert await store.partitions(partition.realm) == [partition]


# The table


async def test_without_leave_to_create_nothing_is_created_and_the_error_names_the_command(
    dynamodb, dynamodb_url
):
    with pytest.raises(SchemaError, match="run `pyncette migrate`"):
        async with opened(dynamodb_url, create=False):
            pass

    assert dynamodb_url.partition("?")[0].rpartition("/")[2] not in dynamodb.call("list_tables")["TableNames"]


async def test_a_migration_creates_the_tables_of_a_store_that_may_not(dynamodb_url):
    backend = read_backend(dynamodb_url)

    assert await backend.migrate() == (0, 1)
    assert await backend.migrate() == (1, 1)

    async with backend.new_store(create=False) as store:
        await create(store, a_record())


async def test_a_table_of_a_newer_release_is_refused_unless_it_allows_this_one(dynamodb, dynamodb_url):
    await read_backend(dynamodb_url).migrate()

    async def say(**numbers):
        async with opened(dynamodb_url) as store:
            item = {**await store._requests.get({"pk": {"B": b"m"}, "sk": {"B": b"schema"}})}
            item |= {name: {"N": str(value)} for name, value in numbers.items()}
            await store._requests.call("put_item", Item=item)

    await say(schema_version=2)
    async with opened(dynamodb_url) as store:
        await create(store, a_record())

    await say(schema_version=2, min_reader=2)
    with pytest.raises(SchemaError, match="have schema 2, and this release knows 1"):
        async with opened(dynamodb_url):
            pass


async def test_a_table_of_another_program_is_left_alone(dynamodb, dynamodb_url):
    dynamodb.call(
        "create_table",
        TableName=dynamodb_url.partition("?")[0].rpartition("/")[2],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )

    with pytest.raises(SchemaError, match="was not created by Pyncette: choose another dynamodb_table_name"):
        async with opened(dynamodb_url):
            pass


async def test_a_table_stores_its_number_of_shards(dynamodb_url):
    async with opened(f"{dynamodb_url}&shards=7") as store:
        await create(store, *(a_record(f"{number:02}") for number in range(30)))

    async with opened(dynamodb_url) as store:
        assert len(await claim(store, limit=30)) == 30
        assert len(await store.scan(HERE, None, None, 30)) == 30


async def test_programs_with_different_prefixes_know_nothing_of_each_other(dynamodb_url):
    async with opened(f"{dynamodb_url}&prefix=one") as one, opened(f"{dynamodb_url}&prefix=other") as other:
        await create(one, a_record())

        assert await claim(other) == []
        assert await other.partitions("realm") == []
