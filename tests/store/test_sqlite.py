"""The SQLite store keeps what every store promises, and survives what only SQLite does to it."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pyncette.core.record import Change, HistoryRow, Key
from pyncette.errors import SchemaError, StoreRefusedError, StoreUnavailableError
from pyncette.store.base import SCHEMA_VERSION, Renewal, Store
from pyncette.store.sqlite.database import Database
from pyncette.store.sqlite.statements import Batch, Statements
from pyncette.store.sqlite.store import SqliteStore, migrate
from pyncette.testing.conformance import (
    HERE,
    LEASE,
    T0,
    StoreConformance,
    a_record,
    a_run,
    claim,
    completed,
    create,
    instances,
    load,
    seen,
)

OVERWRITE = "UPDATE pyncette_tasks SET spec = ? WHERE task = ? AND instance = ? AND occurrence = ?"

SPOILING = [
    "spec = '{'",
    "spec = x'00ff'",
    "state = CAST(x'22ff22' AS TEXT)",
    "state = '[]'",
    "version = 'one'",
    "due_at = 1.5",
]


class TestFile(StoreConformance):
    @pytest.fixture
    def backend(self, tmp_path):
        return tmp_path / "records.db"

    def open_store(self, backend) -> Store:
        return SqliteStore(backend)

    async def poison(self, backend, key: Key) -> None:
        await self.overwrite(backend, key, "{")

    async def overwrite(self, backend, key: Key, spec: str) -> None:
        with opened(backend) as connection:
            connection.execute(OVERWRITE, (spec, *key[1:]))


class TestMemory(StoreConformance):
    @pytest.fixture
    def backend(self):
        return Database(":memory:")

    def open_store(self, backend) -> Store:
        return SqliteStore(backend)

    async def poison(self, backend, key: Key) -> None:
        await self.overwrite(backend, key, "{")

    async def overwrite(self, backend, key: Key, spec: str) -> None:
        await backend.write(lambda session: session.write(OVERWRITE, (spec, *key[1:])))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.db"


@contextlib.contextmanager
def opened(path):
    """Give a connection as a foreign program has it."""
    with contextlib.closing(sqlite3.connect(path, timeout=5)) as connection, connection:
        yield connection


def process(verb, *arguments):
    program = Path(__file__).with_name("sqlite_process.py")
    command = [sys.executable, str(program), verb, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


# What cannot be read


@pytest.mark.parametrize("spoiling", SPOILING)
async def test_whatever_is_wrong_with_a_row_hurts_only_that_row(path, spoiling):
    async with SqliteStore(path) as store:
        await create(store, *(a_record(name) for name in "abc"))
        with opened(path) as connection:
            connection.execute(f"UPDATE pyncette_tasks SET {spoiling} WHERE instance = 'b'")

        found = await store.load([a_record(name).key for name in "abc"])
        assert [seen(record) for record in found] == [a_record("a"), None, a_record("c")]
        assert instances(await store.scan(HERE, "task", None, 10)) == ["a", "c"]
        held = await claim(store)
        assert sorted(instances(held)) == ["a", "c"]
        assert await store.swap([Change(record, completed(record, None)) for record in held]) == [True, True]


async def test_a_row_of_history_that_cannot_be_read_hurts_only_itself(path):
    async with SqliteStore(path) as store:
        await store.swap(
            [Change(None, a_record(), tuple(HistoryRow(slot, a_run(slot)) for slot in range(4)))]
        )
        with opened(path) as connection:
            connection.execute("UPDATE pyncette_tasks_history SET run = '{' WHERE slot = 1")
            connection.execute("UPDATE pyncette_tasks_history SET run = x'ff' WHERE slot = 2")

        assert await store.history(a_record().key) == [a_run(3), a_run(0)]


# Statements


def plans(connection, batch: Batch):
    for text, parameters in batch.calls([[None] * batch.width]):
        yield from (row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", parameters))


async def test_no_statement_goes_through_the_records(path):
    async with SqliteStore(path):
        pass
    with opened(path) as connection:
        batches = {
            name: batch
            for name, batch in vars(Statements("pyncette_tasks")).items()
            if isinstance(batch, Batch)
        }
        scans = [
            (name, line)
            for name, batch in batches.items()
            for line in plans(connection, batch)
            if line in {"SCAN r", "SCAN l"} or line.startswith("SCAN pyncette")
        ]

    assert len(batches) > 15
    assert scans == []


async def test_a_count_reads_no_more_of_an_index_than_its_limit(path):
    async with SqliteStore(path):
        pass
    with opened(path) as connection:
        text = Statements("pyncette_tasks").count
        lines = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", (1, "task", T0, 10))]

    # Of leases there are no more than what runs.
    assert {line for line in lines if line.startswith("SCAN") and "(" not in line} == {
        "SCAN CONSTANT ROW",
        "SCAN l",
    }
    (due,) = [line for line in lines if "pyncette_tasks_claimable" in line]
    assert "(partition_id=? AND claimable_at<?)" in due
    assert sum("COVERING INDEX pyncette_tasks_key" in line for line in lines) == 1
    assert not [line for line in lines if "ORDER BY" in line]


async def test_a_claim_reads_due_records_in_index_order(path):
    async with SqliteStore(path):
        pass
    with opened(path) as connection:
        sql = Statements("pyncette_tasks")
        for batch in (sql.look, sql.take):
            lines = list(plans(connection, batch))
            (due,) = [line for line in lines if "pyncette_tasks_claimable" in line]
            assert "(partition_id=? AND claimable_at<?)" in due
            assert not [line for line in lines if "ORDER BY" in line]


async def test_a_call_that_fails_takes_no_other_with_it(path):
    database = Database(path)

    def fail(session):
        session.write("UPDATE pyncette_tasks SET attempt = 99")
        raise ZeroDivisionError

    async with SqliteStore(database) as store:
        answers = await asyncio.gather(
            create(store, a_record("a")),
            database.write(fail),
            create(store, a_record("b")),
            return_exceptions=True,
        )

        assert [type(answer) for answer in answers] == [type(None), ZeroDivisionError, type(None)]
        assert [record.attempt for record in await store.scan(HERE, "task", None, 10)] == [0, 0]


async def test_waiting_jobs_are_written_in_one_transaction(path):
    database = Database(path)
    release = threading.Event()
    async with SqliteStore(database) as store:
        first = asyncio.create_task(database.write(lambda _: release.wait(10)))
        await asyncio.sleep(0.05)
        rest = [asyncio.create_task(create(store, a_record(str(number)))) for number in range(20)]
        await asyncio.sleep(0.05)

        before = path.with_name("records.db-wal").stat().st_size
        release.set()
        await asyncio.gather(first, *rest)

        # One transaction writes a page once, however many of its rows were in it; twenty would write it twenty times.
        assert path.with_name("records.db-wal").stat().st_size - before < 20 * 4096


# Several processes on one file


async def test_two_processes_on_one_file_run_each_occurrence_once(path):
    names = [f"{number:04}" for number in range(1500)]
    async with SqliteStore(path) as store:
        for at in range(0, len(names), 500):
            await create(store, *(a_record(name) for name in names[at : at + 500]))

    both = [process("drain", path, name) for name in "xy"]
    ran = [worker.communicate(timeout=60)[0].split() for worker in both]

    assert [worker.returncode for worker in both] == [0, 0]
    assert sorted(ran[0] + ran[1]) == names


async def test_a_process_that_is_frozen_in_a_write_makes_the_others_unavailable_until_it_goes_on(path):
    async with SqliteStore(Database(path, busy_seconds=0.2)) as store:
        await create(store, a_record())
        frozen = process("freeze", path)
        try:
            await until_stopped(frozen)

            with pytest.raises(StoreUnavailableError, match="another process"):
                await claim(store)
            with pytest.raises(StoreUnavailableError):
                await store.swap([Change(None, a_record("b"))])
            assert seen(await load(store, a_record())) == a_record()

            frozen.send_signal(signal.SIGCONT)
            assert frozen.communicate(timeout=30)[0] == "woken\n"
        finally:
            frozen.kill()
        assert instances(await claim(store)) == ["a"]


async def test_a_process_that_dies_in_a_write_leaves_nothing_of_it(path):
    async with SqliteStore(path) as store:
        await create(store, a_record())
        frozen = process("freeze", path)
        await until_stopped(frozen)

        frozen.kill()
        frozen.communicate(timeout=30)

        assert (await load(store, a_record())).attempt == 0
        assert instances(await claim(store)) == ["a"]


async def test_acknowledged_writes_survive_the_process(path):
    process("die", path).communicate(timeout=30)

    async with SqliteStore(path) as store:
        assert seen(await load(store, a_record("written"))) == a_record("written")


async def until_stopped(worker):
    for _ in range(1000):
        if is_stopped(worker.pid):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the process did not stop")


def is_stopped(pid):
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


# One connection for several stores


async def test_a_store_of_another_thread_shares_the_connection():
    database = Database(":memory:")
    async with SqliteStore(database) as store:
        await create(store, a_record())
        (held,) = await claim(store)

        async def renew():
            async with SqliteStore(database) as other:
                return await other.renew([Renewal(held.key, "lease", LEASE)], T0 + 5)

        renewed = await asyncio.to_thread(lambda: asyncio.run(renew()))

        assert list(renewed.held) == [True]
        assert (await load(store, held)).lease.expires_at == T0 + 5 + LEASE


async def test_a_store_that_is_not_open_raises_an_error():
    with pytest.raises(RuntimeError, match="not open"):
        await SqliteStore(":memory:").load([a_record().key])


async def test_a_store_leaves_the_settings_of_the_interpreter_alone():
    usual = sys.getswitchinterval()

    async with SqliteStore(":memory:") as store:
        await store.load([a_record().key])

        assert sys.getswitchinterval() == usual


# What goes wrong below


async def test_a_full_disk_is_unavailable_until_there_is_room(path):
    database = Database(path)
    async with SqliteStore(database) as store:
        await database.read(lambda session: session.read("PRAGMA max_page_count = 12"))
        large = [a_record(f"{number:03}") for number in range(400)]

        with pytest.raises(StoreUnavailableError, match="full"):
            await create(store, *large)

        # A new connection has room again.
        await create(store, *large)


async def test_tables_that_vanish_are_a_matter_of_the_schema(path):
    async with SqliteStore(path) as store:
        await create(store, a_record())
        with opened(path) as connection:
            connection.execute("DROP TABLE pyncette_tasks_leases")

        with pytest.raises(SchemaError, match="are missing"):
            await store.load([a_record().key])


# Opening


@pytest.mark.parametrize("table", ["", "Tasks", "a-b", 'a"b', "a;b", "ä", "x" * 49])
def test_a_bad_name_of_a_table_is_refused_before_any_statement_runs(path, table):
    with pytest.raises(ValueError, match="sqlite_table_name"):
        SqliteStore(path, table)

    assert not path.exists()


async def test_tables_of_two_names_in_one_file_are_apart(path):
    async with SqliteStore(path, "one") as one, SqliteStore(path, "2_two") as two:
        await create(one, a_record("a"))
        await create(two, a_record("b"))

        assert instances(await claim(one)) == ["a"]
        assert instances(await claim(two)) == ["b"]


async def test_tables_of_a_newer_schema_are_left_alone(path):
    await migrate(path)
    with opened(path) as connection:
        connection.execute("UPDATE pyncette_tasks_meta SET schema_version = 9, min_reader = 8")

    with pytest.raises(SchemaError) as caught:
        async with SqliteStore(path):
            pass
    with pytest.raises(SchemaError):
        await migrate(path)

    assert str(caught.value) == (
        f"The tables pyncette_tasks in the SQLite database {path} have schema 9, and this release knows"
        f" {SCHEMA_VERSION}: use a release that is as new as the one that changed them"
    )


async def test_tables_of_a_newer_schema_that_this_release_may_still_use_are_used(path):
    await migrate(path)
    with opened(path) as connection:
        connection.execute("UPDATE pyncette_tasks_meta SET schema_version = 9")

    async with SqliteStore(path) as store:
        await create(store, a_record())


async def test_a_foreign_table_of_that_name_is_left_alone(path):
    with opened(path) as connection:
        connection.execute("CREATE TABLE pyncette_tasks (name TEXT)")

    with pytest.raises(SchemaError, match="was not created by Pyncette: choose another table name"):
        async with SqliteStore(path):
            pass


async def test_a_store_that_is_not_to_create_tables_asks_for_a_migration(path):
    with pytest.raises(SchemaError, match="run `pyncette migrate`"):
        async with SqliteStore(path, create=False):
            pass

    assert await migrate(path) == (0, SCHEMA_VERSION)
    assert await migrate(path) == (SCHEMA_VERSION, SCHEMA_VERSION)
    async with SqliteStore(path, create=False) as store:
        await create(store, a_record())


@pytest.mark.parametrize("what", ["no folder", "a folder", "another kind of file"])
async def test_a_path_that_cannot_be_opened_is_one_clear_sentence(tmp_path, what):
    (tmp_path / "text").write_text("This is no database, but it is long enough to be taken for one." * 100)
    path, says = {
        "no folder": (tmp_path / "missing" / "a.db", f"does not exist: create {tmp_path / 'missing'}"),
        "a folder": (tmp_path, "is a folder: name a file in it"),
        "another kind of file": (tmp_path / "text", "is not an SQLite database: name another file"),
    }[what]

    with pytest.raises(StoreRefusedError) as caught:
        async with SqliteStore(path):
            pass

    assert str(path) in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_folder_that_cannot_be_written_is_one_clear_sentence(tmp_path_factory):
    folder = tmp_path_factory.mktemp("read-only")
    for parent in folder.parents:
        if parent.stat().st_mode & 0o777 == 0o700:  # pytest's own
            parent.chmod(0o755)
    folder.chmod(0o555)

    told, _ = process("open_unprivileged", folder / "a.db").communicate(timeout=30)

    assert told == (
        f"StoreRefusedError: the SQLite database {folder / 'a.db'}: permission denied:"
        " grant the right to write the file and its folder\n"
    )


async def test_a_file_is_written_ahead_and_to_the_disk(path):
    database = Database(path)
    async with SqliteStore(database):
        assert await database.read(lambda session: session.read("PRAGMA journal_mode")) == b"wal"
        assert await database.read(lambda session: session.read("PRAGMA synchronous")) == 2
