"""MySQL and MariaDB keep what every store promises, and what only their locks, their modes and their tables can break."""

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from pyncette.core.record import Change, HistoryRow, Key, Lease, Partition, State, replace
from pyncette.errors import SchemaError, StoreRefusedError
from pyncette.mysql import mysql_repository
from pyncette.store.backend import read_backend
from pyncette.store.base import SCHEMA_VERSION, Renewal, Store
from pyncette.store.mysql.address import Address, read_address
from pyncette.store.mysql.connection import MysqlConnections
from pyncette.store.mysql.rows import completion_rows, swap_script
from pyncette.store.mysql.schema import tables_named
from pyncette.store.mysql.statements import HEAD_MAX, Statements
from pyncette.store.mysql.store import MysqlStore
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
from tests.servers import Mysql
from tests.servers.mysql import connect, execute

pytestmark = pytest.mark.xdist_group("mysql")

TABLES = ("", "_history", "_partitions")
"""What is emptied for each test: that takes a tenth of the time that it takes to create them."""


@pytest.fixture(scope="module")
def shared_mariadb_url(mariadb: Mysql) -> Iterator[str]:
    with mariadb.fresh_database() as url:
        yield url


@pytest.fixture(scope="module")
def shared_mysql_url(mysql: Mysql) -> Iterator[str]:
    with mysql.fresh_database() as url:
        yield url


class OnServer(StoreConformance):
    """
    On tables that are there; how they are created is tested below. Run by one process for each server, since it takes longer
    to bring one up than all of this.
    """

    @pytest.fixture
    async def backend(self, shared_url: str) -> str:
        await read_backend(shared_url).migrate()
        for suffix in TABLES:
            await execute(shared_url, f"DELETE FROM pyncette_tasks{suffix}")
        return shared_url

    def open_store(self, backend: str) -> Store:
        return MysqlStore(read_address(backend))

    async def poison(self, backend: str, key: Key) -> None:
        await self.overwrite(backend, key, "{")

    async def overwrite(self, backend: str, key: Key, spec: str) -> None:
        await execute(
            backend,
            "UPDATE pyncette_tasks SET spec = %s WHERE task = %s AND instance = %s AND occurrence = %s",
            spec,
            *key[1:],
        )


class TestMariadb(OnServer):
    @pytest.fixture
    def shared_url(self, shared_mariadb_url: str) -> str:
        return shared_mariadb_url


class TestMysql(OnServer):
    @pytest.fixture
    def shared_url(self, shared_mysql_url: str) -> str:
        return shared_mysql_url


def opened(url, **options):
    return MysqlStore(read_address(url), **options)


def process(verb, *arguments):
    program = Path(__file__).with_name("mysql_process.py")
    command = [sys.executable, str(program), verb, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


@pytest.fixture(params=["mariadb", "mysql"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database that is new and empty, on either server."""
    server: Mysql = request.getfixturevalue(request.param)
    with server.fresh_database() as url:
        yield url


# Tables


@pytest.mark.parametrize(
    "name", ["", "Tasks", "tasks; DROP TABLE tasks", "a`b", "schema.tasks", "täsks", "x" * 49]
)
def test_a_name_that_is_not_allowed_is_refused_before_anything_is_connected_to(name):
    with pytest.raises(ValueError, match="mysql_table_name"):
        MysqlStore(Address("127.0.0.1", "nobody", "", "nothing", 1), name)


@pytest.mark.parametrize("name", ["select", "1", "_", "x" * 48])
async def test_an_allowed_name_is_one_even_if_sql_has_a_use_for_it(mariadb_url, name):
    async with MysqlStore(read_address(mariadb_url), name) as store:
        await create(store, a_record())

        assert instances(await claim(store)) == ["a"]


async def test_tables_of_several_names_in_one_database_know_nothing_of_each_other(mariadb_url):
    address = read_address(mariadb_url)
    async with MysqlStore(address, "one") as one, MysqlStore(address, "other") as other:
        await create(one, a_record())

        assert await claim(other) == []


async def test_the_factory_opens_the_database_of_its_arguments(mariadb_url):
    host, user, password, database, port, *_ = read_address(mariadb_url)
    named = {
        "mysql_host": host, "mysql_user": user, "mysql_password": password,
        "mysql_database": database, "mysql_port": port, "mysql_table_name": "mine",
    }  # fmt: skip
    with pytest.raises(SchemaError, match="There are no tables mine"):
        async with mysql_repository(**named, mysql_skip_table_create=True):
            pass

    async with mysql_repository(**named) as store:
        await create(store, a_record())

    assert await execute(mariadb_url, "SELECT count(*) FROM mine") == ((1,),)


async def test_many_processes_create_the_tables_at_once(url):
    processes = [process("open_and_close", url) for _ in range(6)]
    for each in processes:
        assert each.stdout.readline() == "ready\n"

    for each in processes:
        each.stdin.write("go\n")
        each.stdin.flush()

    assert [each.wait(60) for each in processes] == [0] * 6
    for each in processes:
        each.communicate()
    assert await execute(url, "SELECT schema_version FROM pyncette_tasks_meta") == ((SCHEMA_VERSION,),)


async def test_an_interrupted_creation_is_continued(mariadb_url):
    await read_backend(mariadb_url).migrate()
    await execute(mariadb_url, "DELETE FROM pyncette_tasks_meta")
    await execute(mariadb_url, "DROP TABLE pyncette_tasks_history")

    with pytest.raises(SchemaError, match="There are no tables"):
        async with opened(mariadb_url, create=False):
            pass
    assert await read_backend(mariadb_url).migrate() == (0, SCHEMA_VERSION)

    async with opened(mariadb_url, create=False) as store:
        await store.swap([Change(None, a_record(), (HistoryRow(0, a_run()),))])


async def test_without_leave_to_create_nothing_is_created_and_the_error_names_the_command(mariadb_url):
    with pytest.raises(SchemaError, match=r"There are no tables pyncette_tasks .* run `pyncette migrate`"):
        async with opened(mariadb_url, create=False):
            pass

    assert await execute(mariadb_url, "SHOW TABLES") == ()


async def test_a_migration_creates_the_tables_of_a_store_that_may_not(url):
    assert await read_backend(url).migrate() == (0, SCHEMA_VERSION)
    assert await read_backend(url).migrate() == (SCHEMA_VERSION, SCHEMA_VERSION)

    async with opened(url, create=False) as store:
        await create(store, a_record())


async def test_tables_of_a_newer_release_are_left_alone(mariadb_url):
    await read_backend(mariadb_url).migrate()
    newer = SCHEMA_VERSION + 1
    await execute(
        mariadb_url, f"UPDATE pyncette_tasks_meta SET schema_version = {newer}, min_reader = {newer}"
    )

    with pytest.raises(SchemaError, match=f"have schema {newer}, and this release knows {SCHEMA_VERSION}"):
        async with opened(mariadb_url):
            pass

    versions = "SELECT schema_version, min_reader FROM pyncette_tasks_meta"
    assert [*await execute(mariadb_url, versions)] == [(newer, newer)]


async def test_tables_of_a_newer_release_that_this_one_may_still_use_are_used(mariadb_url):
    await read_backend(mariadb_url).migrate()
    await execute(mariadb_url, f"UPDATE pyncette_tasks_meta SET schema_version = {SCHEMA_VERSION + 1}")

    async with opened(mariadb_url) as store:
        await create(store, a_record())


async def test_a_table_of_the_same_name_of_another_program_is_left_alone(mariadb_url):
    await execute(mariadb_url, "CREATE TABLE pyncette_tasks (name varchar(64) PRIMARY KEY)")

    with pytest.raises(SchemaError, match="was not created by Pyncette: choose another table name"):
        async with opened(mariadb_url):
            pass

    columns = "SELECT column_name FROM information_schema.columns WHERE table_name = 'pyncette_tasks'"
    assert [*await execute(mariadb_url, f"{columns} AND table_schema = DATABASE()")] == [("name",)]


# Plans


async def accesses(url, statements):
    """How each table is read: its alias, how, and by which index; in the session of a store."""
    connections = MysqlConnections(read_address(url))
    found = []
    for statement in statements:
        if statement.strip().split()[0] not in {"SELECT", "UPDATE", "DELETE", "INSERT", "(SELECT"}:
            continue
        prefix = "EXPLAIN" if "mariadb" in url else "EXPLAIN FORMAT=TRADITIONAL"
        (told,) = await connections.fetch([f"{prefix} {statement}"])
        width = 0 if "mariadb" in url else 1  # one column more, of partitions
        found += [(row[2], row[3 + width], row[5 + width]) for row in told.rows if row[2]]
    await connections.close()
    return found


async def populate(url, number):
    """Add copies of the only record, each due a microsecond after the one before."""
    digits = " CROSS JOIN ".join(
        f"(SELECT 0 AS d UNION ALL {' UNION ALL '.join(f'SELECT {d}' for d in range(1, 10))}) AS d{place}"
        for place in range(len(str(number)) - 1)
    )
    value = " + ".join(f"d{place}.d * {10**place}" for place in range(len(str(number)) - 1))
    await execute(
        url,
        f"""
        INSERT INTO pyncette_tasks
        SELECT r.id + 1000000 + n.i, version, fence, due_at + n.i, schedule_since, claimable_at + n.i, began_at, lease_length,
            lease_until, stamp, partition_id, attempt, lease_id, holder, task, LPAD(n.i, 6, '0'), occurrence, state, spec
        FROM pyncette_tasks AS r, (SELECT {value} + 1 AS i FROM {digits}) AS n
        """,
    )


@pytest.mark.parametrize("size", [1, 10_000])
async def test_every_statement_uses_an_index_and_reads_no_more_than_it_needs(url, size):
    async with opened(url) as store:
        await create(store, a_record())
        if size > 1:
            await populate(url, size)
        (held,) = await claim(store, limit=1)
    sql = Statements(tables_named("pyncette_tasks"))
    ids = {HERE: 1}
    names = sql.names([held.key] * 50, ids)
    renewed = [[*each, "lease", 1] for each in names]
    ends = [(number, Change(held, completed(held, T0))) for number in range(50)]
    edits = [(number, Change(held, changed(held, attempt=7), group=1)) for number in range(50)]
    gone = [(number, Change(held, None)) for number in range(50)]
    told = [(number, held.key, HistoryRow(0, a_run())) for number in range(50)]

    found = await accesses(
        url,
        [
            sql.load(names), sql.find(names), *sql.claim([(1, 5, T0)], "id", "holder", T0 + 50, T0 + 50, T0),
            sql.peek([(1, T0)], T0 + 50, T0), *sql.renew(renewed, T0),
            *sql.complete(completion_rows(ends), 5),
            *swap_script(sql, edits, told, ids, 5), *swap_script(sql, gone, told, ids, 5),
            sql.scan(1, None, ("task", "b", ""), 10), sql.scan(1, "task", ("task", "b", ""), 10),
            sql.history(1, "task", "a", ""), *sql.count(1, "task", T0 + 50, T0 + 90, 10),
        ],
    )  # fmt: skip

    by_index = [(table, how, index) for table, how, index in found if table in {"r", "c", "n", "h", "p"}]
    assert len(by_index) > 20
    # Of one row, all that there is in an index is what is asked for.
    good = {"eq_ref", "range", "ref", "const"} | ({"index"} if size == 1 else set())
    assert {how for _, how, _ in by_index} <= good
    assert {index for table, how, index in by_index if table == "c"} == {"claimable"}
    assert {how for table, how, _ in by_index if table == "c"} == {"range"}


# Locks and races


LEASED = Lease("lease", "worker", T0)


async def in_store(store, work, *arguments):
    async with store:
        return await work(store, *arguments)


async def test_concurrent_writers_never_block_each_other_for_good(url):
    """Several stores change, create and delete the same records, each in an order of its own, with history."""
    names = [f"{number:02}" for number in range(40)]
    home = Key(HERE, "home")

    async def hammer(store, seed):
        chance = random.Random(seed)
        made = 0
        for _ in range(25):
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

    async with opened(url) as first:
        await create(first, *(a_record(name, lease=LEASED) for name in names))
        stores = [opened(url) for _ in range(4)]
        async with asyncio.TaskGroup() as group:
            hammers = [group.create_task(in_store(store, hammer, seed)) for seed, store in enumerate(stores)]

    assert all(each.result() > 25 for each in hammers)


async def test_every_claim_and_every_change_counts_exactly_once_however_they_meet(url):
    """Claims, renewals, edits and completions race for the same rows; then versions and fences are added up."""
    names = [f"{number:02}" for number in range(30)]
    writes, claims = Counter(), Counter()
    held_by = {}

    async def work(store, seed):
        chance = random.Random(seed)
        for number in range(40):
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

    async with opened(url) as store:
        await create(store, *(a_record(name, lease_length=3) for name in names))
        async with asyncio.TaskGroup() as group:
            for seed in range(4):
                group.create_task(in_store(opened(url), work, seed))
        records = await load_all(store, [a_record(name) for name in names])

    assert sum(claims.values()) > 100
    for record in records:
        name = record.key.instance
        # A claim that another takes over before it is read is one that was made, and told to nobody.
        untold = record.fence - T0 - claims[name]
        assert untold >= 0
        assert record.version == T0 + claims[name] + untold + writes[name]


async def test_each_completion_of_a_batch_reports_whether_it_won(url):
    async with opened(url) as store:
        await create(store, *(a_record(f"{number:02}") for number in range(20)))
        held = await claim(store, limit=20)
        lost = held[3:20:5]
        await store.swap([Change(record, changed(record)) for record in lost])

        made = await store.swap([Change(record, completed(record, T0 + 7)) for record in held])

        assert made == [record not in lost for record in held]
        for record in await load_all(store, held):
            assert (record.due_at == T0 + 7) == (record.key not in [each.key for each in lost])


async def test_a_claim_skips_locked_records_without_waiting(url):
    async with opened(url) as store:
        await create(store, *(a_record(name) for name in "abc"))
        held = await load(store, a_record("b"))
        connection = await connect(url)
        cursor = connection.cursor()
        await cursor.execute("START TRANSACTION")
        await cursor.execute(f"SELECT id FROM pyncette_tasks WHERE id = {held.locator} FOR UPDATE")

        async with asyncio.timeout(2):
            found = instances(await claim(store))

        assert sorted(found) == ["a", "c"]
        connection.close()


async def test_modes_of_the_server_make_no_difference(url):
    """Escapes, quotes, isolation, and what an operator forbids the careless: a session says itself what it needs."""
    async with opened(url):
        pass
    spoilt = (
        "SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES,PIPES_AS_CONCAT', sql_safe_updates = 1,"
        " sql_select_limit = 1"
    )
    store = opened(url)
    store._connections = Spoilt(read_address(url), spoilt)
    record = a_record('it\'s a \\ back\\\\slash "quoted"', state=State(created_version=1))
    async with store:
        await create(store, record, a_record("b"))

        assert [seen(each) for each in await load_all(store, [record, a_record("b")])] == [
            record,
            a_record("b"),
        ]
        assert len(await claim(store)) == 2


class Spoilt(MysqlConnections):
    """Connections whose server has other defaults than most."""

    def __init__(self, address, spoilt):
        super().__init__(address)
        self._spoilt = spoilt

    async def _set_up(self, connection):
        await connection.cursor().execute(self._spoilt)
        await super()._set_up(connection)


async def test_a_process_that_freezes_in_mid_claim_does_not_keep_the_records_from_others(mariadb_url):
    """The reply is too large for the buffers in between, so the server waits; what it leased, others can wait for."""
    large = msgspec.Raw(b'"' + b"x" * 40_000 + b'"')
    async with opened(mariadb_url) as store:
        await create(
            store,
            *(a_record(str(number), spec=replace(a_record().spec, args=large)) for number in range(500)),
        )
        frozen = process("freeze_in_mid_claim", mariadb_url, 500)
        try:
            assert frozen.stdout.readline() == "asked\n"
            await asyncio.sleep(0.5)
            assert await claim(store, limit=1, lease_id="too soon") == []

            (held,) = await claim(store, limit=1, now=T0 + LEASE, lease_id="next")

            assert await store.swap([Change(held, completed(held, None))]) == [True]
        finally:
            frozen.kill()
            frozen.communicate()


# What was claimed, and when to look again


@asynccontextmanager
async def locked(url, *names):
    """Lock the records of these instances, as a swap does that has not committed yet."""
    connection = await connect(url)
    try:
        cursor = connection.cursor()
        await cursor.execute("BEGIN")
        for name in names:
            # By its id, since a statement also locks the rows that it only scans.
            await cursor.execute("SELECT id FROM pyncette_tasks WHERE instance = %s", (name,))
            ((id_,),) = await cursor.fetchall()
            await cursor.execute("SELECT id FROM pyncette_tasks WHERE id = %s FOR UPDATE", (id_,))
            assert await cursor.fetchall()
        yield
        await cursor.execute("ROLLBACK")
    finally:
        connection.close()


@pytest.mark.parametrize("quiet", [False, True], ids=["busy", "quiet"])
@pytest.mark.parametrize(("limit", "got"), [(1, []), (4, ["b", "c"]), (2, ["b", "c"])])
async def test_a_locked_due_record_is_a_reason_to_poll_again_soon(url, quiet, limit, got):
    async with opened(url) as store:
        await create(store, a_record("a"), a_record("later", at=T0 + 9))
        if got:
            await create(store, a_record("b", at=T0 + 1), a_record("c", at=T0 + 2))
        if quiet:  # then the store looks before it claims
            assert await claim(store, now=T0 - 9) == []

        async with locked(url, "a"):
            passed = await store.claim({HERE: limit}, "lease", "worker", T0 + 2, T0 + 2)
        claimed = await store.claim({HERE: 4}, "next", "worker", T0 + 2, T0 + 2)

    assert instances(passed.records) == got
    assert passed.next_claimable_at == T0 + 2
    assert instances(claimed.records) == ["a"]
    assert claimed.next_claimable_at == T0 + 9


@pytest.mark.parametrize("quiet", [False, True], ids=["busy", "quiet"])
async def test_a_locked_record_of_one_partition_is_not_hidden_by_claims_of_another(url, quiet):
    async with opened(url) as store:
        elsewhere = [a_record(key=Key(ELSEWHERE, "task", name)) for name in "xyz"]
        await create(store, a_record("a"), *elsewhere)
        if quiet:
            assert await claim(store, now=T0 - 9) == []

        async with locked(url, "a"):
            passed = await store.claim({HERE: 4, ELSEWHERE: 4}, "lease", "worker", T0, T0)

    assert len(passed.records) == 3
    assert passed.next_claimable_at == T0


async def test_leases_beyond_those_that_a_claim_reads_are_not_forgotten(mariadb_url):
    async with opened(mariadb_url) as store:
        await create(store, a_record("last", at=T0 + 1, lease_length=LEASE // 2))
        await populate(mariadb_url, 1_000)
        await execute(mariadb_url, f"UPDATE pyncette_tasks SET claimable_at = {T0} WHERE instance <> 'last'")
        await claim(store, limit=1_001, now=T0 + 1)

        claimed = await store.claim({HERE: 1}, "look", "worker", T0 + 2, T0 + 2)

        assert HEAD_MAX < 1_000
        assert claimed.next_claimable_at is not None
        assert T0 + 2 < claimed.next_claimable_at <= T0 + 1 + LEASE // 2


async def test_records_behind_more_leases_than_a_claim_reads_are_found_by_an_idle_store(
    mariadb_url,
):
    async with opened(mariadb_url) as store:
        await create(store, a_record())
        await populate(mariadb_url, 1_000)
        await claim(store, limit=1_001, now=T0 + 2_000)
        assert await claim(store, now=T0 + 2_000, lease_id="nothing") == []

        await create(store, a_record("late", at=T0 + 1_900))

        assert instances(await claim(store, now=T0 + 2_000, lease_id="next")) == ["late"]


async def test_a_renewed_record_is_not_read_until_its_lease_ends(mariadb_url):
    async with opened(mariadb_url) as store:
        await create(store, a_record())
        (held,) = await claim(store)

        await store.renew([Renewal(held.key, "lease", LEASE)], T0 + 5)

        claimed = await store.claim({HERE: 1}, "look", "worker", T0 + 6, T0 + 6)
        assert claimed.next_claimable_at == T0 + 5 + LEASE
        assert (await load(store, held)).claimable_at == T0 + 5 + LEASE


async def test_an_idle_store_polls_with_one_statement(mariadb, mariadb_url):
    async def asked():
        (((_, questions),),) = [mariadb.execute("SHOW GLOBAL STATUS LIKE 'Questions'")]
        return int(questions)

    async with opened(mariadb_url) as store:
        await create(store, a_record(at=T0 + 100), a_record("b", at=T0 + 100))
        await claim(store)
        own = -await asked() + await asked()
        before = await asked()

        for number in range(10):
            assert await claim(store, now=T0 + number, lease_id=str(number)) == []

        assert await asked() - before - own == 10
        claimed = await store.claim({HERE: 5}, "found", "worker", T0 + 100, T0 + 100)
        assert len(claimed.records) == 2
        assert claimed.next_claimable_at == T0 + 100 + LEASE


# Texts and sizes


async def test_arguments_are_kept_to_the_letter(url):
    texts = [
        b'{\r\n\t"n" : 1.10\n}', b'{"n":1e400}', b'{"a":1,"a":2}', b'{"z":1,"a":2}',
        '"it\'s \\\\ \\u0000 🕰"'.encode(),
    ]  # fmt: skip
    async with opened(url) as store:
        records = [
            a_record(str(number), spec=replace(a_record().spec, args=msgspec.Raw(text)))
            for number, text in enumerate(texts)
        ]

        await create(store, *records)

        assert [seen(record) for record in await load_all(store, records)] == records


async def test_a_batch_that_exceeds_a_packet_is_made_in_parts(mariadb, mariadb_url):
    large = msgspec.Raw(b'"' + b"x" * 40_000 + b'"')
    ((most,),) = mariadb.execute("SELECT @@max_allowed_packet")
    many = most // 40_000 + 4
    async with opened(mariadb_url) as store:
        records = [
            a_record(f"{number:03}", spec=replace(a_record().spec, args=large)) for number in range(many)
        ]

        made = await store.swap([Change(None, record) for record in records])

        assert made == [True] * many
        assert len(await claim(store, limit=many)) == many


async def test_a_record_that_the_server_does_not_take_is_refused_and_hurts_no_other(mariadb, mariadb_url):
    ((most,),) = mariadb.execute("SELECT @@max_allowed_packet")
    huge = a_record("huge", spec=replace(a_record().spec, args=msgspec.Raw(b'"' + b"x" * 40_000 + b'"')))
    mariadb.execute("SET GLOBAL max_allowed_packet = 32768")
    try:
        async with opened(mariadb_url) as store:
            with pytest.raises(StoreRefusedError, match="raise max_allowed_packet"):
                await create(store, huge)

            await create(store, a_record())
    finally:
        mariadb.execute(f"SET GLOBAL max_allowed_packet = {most}")


# History


@pytest.mark.parametrize(("home_first", "kept"), [(True, [a_run(2)]), (False, [])])
async def test_history_written_after_its_record_is_deleted_in_the_same_batch_stays(
    mariadb_url, home_first, kept
):
    home, beside = a_record(key=Key(HERE, "task")), a_record(key=Key(HERE, "task", "", "1"))
    async with opened(mariadb_url) as store:
        await store.swap([Change(None, home, (HistoryRow(0, a_run()),)), Change(None, beside)])
        home, beside = await load_all(store, [home, beside])
        batch = [Change(home, None), Change(beside, None, (HistoryRow(0, a_run(2)),), home.key)]

        made = await store.swap(batch if home_first else batch[::-1])

        assert made == [True, True]
        assert await store.history(home.key) == kept


async def test_a_slot_holds_one_row_however_often_it_is_written(mariadb_url):
    async with opened(mariadb_url) as store:
        await create(store, a_record())
        for number in range(12):
            before = await load(store, a_record())
            await store.swap([Change(before, changed(before), (HistoryRow(number % 3, a_run(number)),))])

        assert await execute(mariadb_url, "SELECT count(*) FROM pyncette_tasks_history") == ((3,),)


async def test_only_partitions_that_have_records_are_returned(mariadb_url):
    async with opened(mariadb_url) as store:
        await create(store, a_record())
        await claim(store, partition=Partition("realm", "empty"))

        assert await store.partitions("realm") == [HERE]
