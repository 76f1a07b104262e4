"""PostgreSQL keeps what every store promises, and what only its planner, its locks and its tables can break."""

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

import asyncpg
import msgspec
import pytest

from pyncette.core.record import Change, HistoryRow, Key, Lease, Partition, State, replace
from pyncette.errors import SchemaError
from pyncette.store.backend import read_backend
from pyncette.store.base import SCHEMA_VERSION, Renewal, Store
from pyncette.store.postgres.schema import tables_named
from pyncette.store.postgres.statements import HEAD_MAX, SESSION, statements_for
from pyncette.store.postgres.store import PostgresStore
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
from tests.servers import Postgres


class Backend(NamedTuple):
    """Tables of their own: they are made in a tenth of the time that a database of its own takes."""

    url: str
    table: str


numbers = count(1)


@pytest.fixture(scope="module")
def shared_url(postgres: Postgres) -> Iterator[str]:
    with postgres.fresh_database() as url:
        yield url


class TestPostgres(StoreConformance):
    @pytest.fixture
    def backend(self, shared_url: str) -> Backend:
        return Backend(shared_url, f"tasks_{next(numbers)}")

    def open_store(self, backend: Backend) -> Store:
        return PostgresStore(backend.url, backend.table)

    async def poison(self, backend: Backend, key: Key) -> None:
        await self.overwrite(backend, key, "{")

    async def overwrite(self, backend: Backend, key: Key, spec: str) -> None:
        await execute(
            backend.url,
            f"UPDATE {backend.table} SET spec = $4 WHERE task = $1 AND instance = $2 AND occurrence = $3",
            *key[1:],
            spec,
        )


async def execute(url, statement, *arguments):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(statement, *arguments)
    finally:
        await connection.close()


def process(verb, *arguments):
    program = Path(__file__).with_name("postgres_process.py")
    command = [sys.executable, str(program), verb, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


# Tables


@pytest.mark.parametrize(
    "name", ["", "Tasks", "tasks; DROP TABLE tasks", 'a"b', "schema.tasks", "täsks", "x" * 49]
)
def test_a_name_that_is_not_allowed_is_refused_before_anything_is_connected_to(name):
    with pytest.raises(ValueError, match="postgres_table_name"):
        PostgresStore("postgresql://nobody@127.0.0.1:1/nothing", name)


@pytest.mark.parametrize("name", ["select", "1", "_", "x" * 48])
async def test_an_allowed_name_is_one_even_if_sql_has_a_use_for_it(postgres_url, name):
    async with PostgresStore(postgres_url, name) as store:
        await create(store, a_record())

        assert instances(await claim(store)) == ["a"]


async def test_tables_of_several_names_in_one_database_know_nothing_of_each_other(postgres_url):
    async with PostgresStore(postgres_url, "one") as one, PostgresStore(postgres_url, "other") as other:
        await create(one, a_record())

        assert await claim(other) == []


async def test_many_processes_create_the_tables_at_once(postgres_url):
    processes = [process("open_and_close", postgres_url) for _ in range(6)]
    for each in processes:
        assert each.stdout.readline() == "ready\n"

    for each in processes:
        each.stdin.write("go\n")
        each.stdin.flush()

    assert [each.wait(60) for each in processes] == [0] * 6
    for each in processes:
        each.communicate()
    assert [
        tuple(row) for row in await execute(postgres_url, "SELECT schema_version FROM pyncette_tasks_meta")
    ] == [(SCHEMA_VERSION,)]


async def test_without_leave_to_create_nothing_is_created_and_the_error_names_the_command(postgres_url):
    with pytest.raises(SchemaError, match=r"There are no tables pyncette_tasks .* run `pyncette migrate`"):
        async with PostgresStore(postgres_url, create=False):
            pass

    assert await execute(postgres_url, "SELECT FROM pg_tables WHERE tablename LIKE 'pyncette%'") == []


async def test_a_migration_creates_the_tables_of_a_store_that_may_not(postgres_url):
    assert await read_backend(postgres_url).migrate() == (0, SCHEMA_VERSION)
    assert await read_backend(postgres_url).migrate() == (SCHEMA_VERSION, SCHEMA_VERSION)

    async with PostgresStore(postgres_url, create=False) as store:
        await create(store, a_record())


async def test_tables_of_a_newer_release_are_left_alone(postgres_url):
    await read_backend(postgres_url).migrate()
    newer = SCHEMA_VERSION + 1
    await execute(
        postgres_url, f"UPDATE pyncette_tasks_meta SET schema_version = {newer}, min_reader = {newer}"
    )

    with pytest.raises(SchemaError, match=f"have schema {newer}, and this release knows {SCHEMA_VERSION}"):
        async with PostgresStore(postgres_url):
            pass


async def test_tables_of_a_newer_release_that_this_one_may_still_use_are_used(postgres_url):
    await read_backend(postgres_url).migrate()
    await execute(postgres_url, f"UPDATE pyncette_tasks_meta SET schema_version = {SCHEMA_VERSION + 1}")

    async with PostgresStore(postgres_url) as store:
        await create(store, a_record())


async def test_a_table_of_the_same_name_of_another_program_is_left_alone(postgres_url):
    await execute(postgres_url, "CREATE TABLE pyncette_tasks (name text PRIMARY KEY)")

    with pytest.raises(SchemaError, match="was not created by Pyncette: choose another table name"):
        async with PostgresStore(postgres_url):
            pass


# Plans


RESTS_ON_NO_INDEX = ("Seq Scan on", "Hash Join", "Merge Join", "Bitmap", "Gather")


async def plans(url):
    """The plan of each statement, as a session of a store has it."""
    connection = await asyncpg.connect(url)
    await connection.execute(SESSION)
    found = {}
    for name, statement in statements_for(tables_named("pyncette_tasks"))._asdict().items():
        prepared = await connection.prepare(statement)
        parameters = ", ".join(["NULL"] * len(prepared.get_parameters()))
        await connection.execute(f"PREPARE {name} AS {statement}")
        rows = await connection.fetch(
            f"EXPLAIN (COSTS OFF) EXECUTE {name}" + (f"({parameters})" if parameters else "")
        )
        found[name] = [row[0].strip(" ->") for row in rows]
    await connection.close()
    return found


def without_an_index(found):
    return {
        name: bad
        for name, plan in found.items()
        # Of the few rows of these, all are read.
        if name not in {"versions", "raise_min_reader", "add_partitions", "partition_ids"}
        if (bad := [line for line in plan if any(word in line for word in RESTS_ON_NO_INDEX)])
    }


async def test_every_statement_uses_an_index_on_a_table_without_statistics(postgres_url):
    await read_backend(postgres_url).migrate()

    found = await plans(postgres_url)

    assert without_an_index(found) == {}
    assert "Tid Scan on pyncette_tasks r" in found["claim"]
    # A look passes over what is dead at the head of the index, instead of reading and refusing it.
    assert sum("Index Cond" in line and "claimable_at >= wanted" in line for line in found["claim"]) == 2
    # A count reads what is due and what is renewed, each up to its limit; and names alone, without their records.
    assert sum("Index Cond" in line and "claimable_at" in line for line in found["count_due"]) == 2
    assert sum("Limit" in line for line in found["count_due"]) == 3
    assert "Index Only Scan using" in " ".join(found["count_due"])
    assert "Index Scan using pyncette_tasks_pkey on pyncette_tasks r" in found["complete"]
    # Whoever asks for membership must look it up in a hash, not in a list.
    assert sum("hashed SubPlan" in line for line in found["swap"]) == 2


async def test_every_statement_uses_an_index_on_a_table_of_a_hundred_thousand(postgres_url):
    async with PostgresStore(postgres_url) as store:
        await create(store, a_record())
    await populate(postgres_url, 100_000)
    await execute(postgres_url, "ANALYZE pyncette_tasks, pyncette_tasks_names")

    assert without_an_index(await plans(postgres_url)) == {}


async def populate(url, number):
    """Add copies of the only record, each due a microsecond after the one before."""
    await execute(
        url,
        f"""
        WITH named AS (
            INSERT INTO pyncette_tasks_names SELECT n.id + i, partition_id, task, to_char(i, 'FM000000'), ''
            FROM pyncette_tasks_names n, generate_series(1, {number}) AS i
        )
        INSERT INTO pyncette_tasks (id, version, fence, due_at, schedule_since, claimable_at, lease_length, lease_until,
            partition_id, attempt, task, instance, occurrence, state, spec)
        SELECT r.id + i, version, fence, due_at + i, schedule_since, claimable_at + i, lease_length, lease_until,
            partition_id, attempt, task, to_char(i, 'FM000000'), '', state, spec
        FROM pyncette_tasks r, generate_series(1, {number}) AS i
        """,
    )


# Locks and races


async def test_concurrent_writers_never_block_each_other_for_good(postgres, postgres_url):
    """Several stores change, create and delete the same records, each in an order of its own, with history."""
    names = [f"{number:02}" for number in range(40)]
    home = Key(HERE, "home")

    async def hammer(store, seed):
        chance = random.Random(seed)
        made = 0
        for _ in range(40):
            chosen = chance.sample(names, 15)
            found = await store.load([a_record(name).key for name in chosen])
            changes = []
            for name, before in zip(chosen, found, strict=True):
                after = a_record(name) if before is None else chance.choice([None, changed(before)])
                rows = (HistoryRow(chance.randrange(5), a_run()),) if chance.random() < 0.5 else ()
                changes.append(Change(before, after, rows, home if rows else None))
            chance.shuffle(changes)
            made += sum(await store.swap(changes))
            await store.renew([Renewal(a_record(name).key, "lease", LEASE) for name in names], T0)
        return made

    async with PostgresStore(postgres_url) as first:
        await create(first, *(a_record(name, lease=LEASED) for name in names))
        stores = [PostgresStore(postgres_url) for _ in range(4)]
        async with asyncio.TaskGroup() as group:
            hammers = [group.create_task(in_store(store, hammer, seed)) for seed, store in enumerate(stores)]

    assert all(each.result() > 40 for each in hammers)
    database = postgres_url.rpartition("/")[2]
    (row,) = postgres.execute(f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{database}'")
    assert row["deadlocks"] == 0


LEASED = Lease("lease", "worker", T0)


async def in_store(store, work, *arguments):
    async with store:
        return await work(store, *arguments)


async def test_every_claim_and_every_change_counts_exactly_once_however_they_meet(postgres_url):
    """Claims, renewals, edits and completions race for the same rows; then versions and fences are added up."""
    names = [f"{number:02}" for number in range(30)]
    writes, claims = Counter(), Counter()
    held_by = {}

    async def work(store, seed):
        chance = random.Random(seed)
        for number in range(60):
            now = T0 + 20 * number + chance.randrange(10)
            held = await claim(store, limit=7, now=now, lease_id=f"{seed}-{number}")
            for record in held:
                claims[record.key.instance] += 1
                assert held_by.setdefault((record.key, record.fence), (seed, number)) == (seed, number)
            kept = [record for record in held if chance.random() < 0.5]
            await store.renew(
                [Renewal(record.key, f"{seed}-{number}", chance.randrange(5)) for record in held], now
            )
            await swap(
                store, [Change(record, completed(record, now)) for record in held if record not in kept]
            )
            loaded = await store.load([a_record(name).key for name in chance.sample(names, 5)])
            await swap(
                store,
                [Change(record, changed(record, state=State(created_version=number))) for record in loaded],
            )

    async def swap(store, changes):
        for change, made in zip(changes, await store.swap(changes), strict=True):
            writes[change.before.key.instance] += made

    async with PostgresStore(postgres_url) as store:
        await create(store, *(a_record(name, lease_length=3) for name in names))
        async with asyncio.TaskGroup() as group:
            for seed in range(4):
                group.create_task(in_store(PostgresStore(postgres_url), work, seed))
        records = await load_all(store, [a_record(name) for name in names])

    assert sum(claims.values()) > 200
    for record in records:
        name = record.key.instance
        assert record.fence == T0 + claims[name]
        assert record.version == T0 + claims[name] + writes[name]


async def test_a_database_with_another_isolation_by_default_makes_no_difference(postgres, postgres_url):
    database = postgres_url.rpartition("/")[2]
    postgres.execute(f"ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'")
    async with PostgresStore(postgres_url) as store, PostgresStore(postgres_url) as other:
        await create(store, *(a_record(f"{number:02}") for number in range(50)))

        for number in range(5):
            befores = await load_all(store, [a_record(f"{number:02}") for number in range(50)])
            batch = [Change(before, changed(before, attempt=number)) for before in befores]
            made = await asyncio.gather(store.swap(batch), other.swap(batch[::-1]))
            assert [a + b for a, b in zip(made[0], made[1][::-1], strict=True)] == [1] * 50


async def test_a_process_that_freezes_in_mid_claim_does_not_keep_the_records_from_others(postgres_url):
    """The reply is too large for the buffers in between, so the server waits, with the records locked."""
    large = msgspec.Raw(b'"' + b"x" * 40_000 + b'"')
    async with PostgresStore(postgres_url) as store:
        await create(
            store,
            *(a_record(str(number), spec=replace(a_record().spec, args=large)) for number in range(500)),
        )
        frozen = process("freeze_in_mid_claim", postgres_url, 500)
        try:
            assert frozen.stdout.readline() == "asked\n"
            await asyncio.sleep(0.5)
            assert await claim(store, limit=1) == []

            begin = asyncio.get_running_loop().time()
            while not (held := await claim(store, limit=1, lease_id="next")):
                await asyncio.sleep(0.2)
                assert asyncio.get_running_loop().time() - begin < 30

            assert await store.swap([Change(held[0], completed(held[0], None))]) == [True]
        finally:
            frozen.kill()
            frozen.communicate()


# What was claimed, and when to look again


@asynccontextmanager
async def locked(url, *names):
    """Lock the records of these instances, as a swap does that has not committed yet; yield the session."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.fetch(
                "SELECT FROM pyncette_tasks WHERE instance = ANY ($1::text[]) FOR UPDATE", names
            )
            yield connection
    finally:
        await connection.close()


CLAIMS_WAIT = (
    """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END'
    """,
    """
    CREATE TRIGGER wait BEFORE UPDATE ON pyncette_tasks
    FOR EACH ROW WHEN (NEW.fence > OLD.fence) EXECUTE FUNCTION wait()
    """,
)
"""With these a claim waits, after it has begun, for as long as somebody holds the lock."""


@asynccontextmanager
async def holding_up_claims(url):
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.fetch("SELECT pg_advisory_xact_lock(1)")
            yield
    finally:
        await connection.close()


async def until_held_up(url):
    waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    async with asyncio.timeout(30):
        while not await execute(url, waiting):  # noqa: ASYNC110 - a server sets no event
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(("limit", "got"), [(1, []), (4, ["b", "c"]), (2, ["b", "c"])])
async def test_a_locked_due_record_is_a_reason_to_poll_again_soon(postgres_url, limit, got):
    async with PostgresStore(postgres_url) as store:
        await create(store, a_record("a"), a_record("later", at=T0 + 9))
        if got:
            await create(store, a_record("b", at=T0 + 1), a_record("c", at=T0 + 2))

        async with locked(postgres_url, "a"):
            passed = await store.claim({HERE: limit}, "lease", "worker", T0 + 2, T0 + 2)
        claimed = await store.claim({HERE: 4}, "next", "worker", T0 + 2, T0 + 2)

    assert instances(passed.records) == got
    assert passed.next_claimable_at == T0 + 2
    assert instances(claimed.records) == ["a"]
    assert claimed.next_claimable_at == T0 + 9


async def test_a_locked_record_of_one_partition_is_not_hidden_by_claims_of_another(postgres_url):
    async with PostgresStore(postgres_url) as store:
        elsewhere = [a_record(key=Key(ELSEWHERE, "task", name)) for name in "xyz"]
        await create(store, a_record("a"), *elsewhere)

        async with locked(postgres_url, "a"):
            passed = await store.claim({HERE: 4, ELSEWHERE: 4}, "lease", "worker", T0, T0)

    assert len(passed.records) == 3
    assert passed.next_claimable_at == T0


async def test_a_locked_record_that_falls_due_within_the_time_ahead_is_a_reason_too(postgres_url):
    async with PostgresStore(postgres_url) as store:
        await create(store, a_record(at=T0 + 9))

        async with locked(postgres_url, "a"):
            passed = await store.claim({HERE: 4}, "lease", "worker", T0, T0, 9)
            none_yet = await store.claim({HERE: 4}, "other", "worker", T0, T0, 8)

    assert passed.next_claimable_at == T0
    assert none_yet.next_claimable_at == T0 + 1


async def test_a_leased_and_locked_record_is_no_reason_to_poll_again_before_its_lease_ends(postgres_url):
    async with PostgresStore(postgres_url) as store:
        await create(store, a_record())
        await claim(store)

        async with locked(postgres_url, "a"):
            passed = await store.claim({HERE: 4}, "other", "worker", T0 + 1, T0 + 1)

    assert passed.next_claimable_at == T0 + LEASE


async def test_a_claim_reads_the_next_time_from_its_own_snapshot(postgres_url):
    async with PostgresStore(postgres_url) as store:
        await create(store, a_record(), a_record("later", at=T0 + 9))
        later = await load(store, a_record("later"))
        for statement in CLAIMS_WAIT:
            await execute(postgres_url, statement)

        async with holding_up_claims(postgres_url):
            claiming = asyncio.create_task(store.claim({HERE: 4}, "lease", "worker", T0, T0))
            await until_held_up(postgres_url)
            sooner = await store.swap([Change(later, changed(later, claimable_at=T0 + 1))])
        claimed = await claiming

    assert sooner == [True]
    assert instances(claimed.records) == ["a"]
    assert claimed.next_claimable_at == T0 + 9  # whoever has made it sooner tells the workers


async def test_leases_beyond_those_that_a_claim_reads_are_not_forgotten(postgres_url):
    async with PostgresStore(postgres_url) as store:
        await create(store, a_record("last", at=T0 + 1, lease_length=LEASE // 2))
        await populate(postgres_url, HEAD_MAX)
        await execute(postgres_url, f"UPDATE pyncette_tasks SET claimable_at = {T0} WHERE instance <> 'last'")
        await claim(store, limit=HEAD_MAX + 1, now=T0 + 1)

        claimed = await store.claim({HERE: 1}, "look", "worker", T0 + 2, T0 + 2)

        assert claimed.next_claimable_at is not None
        assert T0 + 2 < claimed.next_claimable_at <= T0 + 1 + LEASE // 2


async def test_a_renewed_record_is_not_read_until_its_lease_ends(postgres_url):
    async with PostgresStore(postgres_url) as store:
        await create(store, a_record())
        (held,) = await claim(store)

        await store.renew([Renewal(held.key, "lease", LEASE)], T0 + 5)

        claimed = await store.claim({HERE: 1}, "look", "worker", T0 + 6, T0 + 6)
        assert claimed.next_claimable_at == T0 + 5 + LEASE
        assert (await load(store, held)).claimable_at == T0 + 5 + LEASE


# Texts


async def test_arguments_may_be_written_over_several_lines(postgres_url):
    async with PostgresStore(postgres_url) as store:
        records = [
            a_record(name, spec=replace(a_record().spec, args=msgspec.Raw(b'{\r\n\t"n" : 1\n}')))
            for name in "ab"
        ]

        await create(store, *records)

        assert [seen(record) for record in await load_all(store, records)] == records


async def test_arguments_that_are_no_json_do_not_get_into_another_record(postgres_url):
    bad = a_record("bad", spec=replace(a_record().spec, args=msgspec.Raw(b'"\x1e"')))
    async with PostgresStore(postgres_url) as store:
        with pytest.raises(ValueError, match="must be JSON"):
            await store.swap([Change(None, a_record()), Change(None, bad)])

        assert await store.load([a_record().key, bad.key]) == [None, None]


# History


@pytest.mark.parametrize(("home_first", "kept"), [(True, [a_run(2)]), (False, [])])
async def test_history_written_after_its_record_is_deleted_in_the_same_batch_stays(
    postgres_url, home_first, kept
):
    home, beside = a_record(key=Key(HERE, "task")), a_record(key=Key(HERE, "task", "", "1"))
    async with PostgresStore(postgres_url) as store:
        await store.swap([Change(None, home, (HistoryRow(0, a_run()),)), Change(None, beside)])
        home, beside = await load_all(store, [home, beside])
        batch = [Change(home, None), Change(beside, None, (HistoryRow(0, a_run(2)),), home.key)]

        made = await store.swap(batch if home_first else batch[::-1])

        assert made == [True, True]
        assert await store.history(home.key) == kept


async def test_only_partitions_that_have_records_are_returned(postgres_url):
    async with PostgresStore(postgres_url) as store:
        await create(store, a_record())
        await claim(store, partition=Partition("realm", "empty"))

        assert await store.partitions("realm") == [HERE]
