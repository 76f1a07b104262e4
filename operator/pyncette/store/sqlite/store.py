"""Keeps records in SQLite: in a file that several processes may share, or in memory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from pyncette.clock import Duration, Instant
from pyncette.core.record import Change, Key, Partition, Record, Run
from pyncette.errors import SchemaError
from pyncette.store.base import (
    SCHEMA_VERSION,
    Capabilities,
    Claimed,
    Counted,
    Notification,
    Renewal,
    Renewed,
    check_changes,
    check_key,
    check_partition,
    check_partitions,
)
from pyncette.store.codec import decode_runs
from pyncette.store.schema import TABLE, Migrated, check_schema, check_table_name
from pyncette.store.sqlite.database import Database, Session
from pyncette.store.sqlite.records import (
    Row,
    as_claimed,
    claimable_at_of,
    decode,
    names_of,
    numbered_rows_in,
    record_of,
    records_of,
    rows_in,
    tolerant,
)
from pyncette.store.sqlite.statements import Statements
from pyncette.store.sqlite.swaps import Swap, partitions_of


class SqliteStore:
    """
    A store in the tables whose names begin with *table*, in the SQLite *database*: a path, `:memory:`, or a `Database`.

    Stores with the same `Database` share its connection, so several can share one `:memory:`. With *create* missing tables
    are created. Raises ValueError for an invalid name of a table.
    """

    def __init__(
        self, database: str | os.PathLike[str] | Database, table: str = TABLE, *, create: bool = True
    ) -> None:
        check_table_name(table, "sqlite_table_name")
        self._database = database if isinstance(database, Database) else Database(database)
        self._table = table
        self._sql = Statements(table)
        self._create = create
        self._ids: dict[Partition, int] = {}
        is_file = self._database.is_file
        self._capabilities = Capabilities("sqlite", notifies=False, shared=is_file, durable=is_file)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def __aenter__(self) -> Self:
        self._database.open()
        try:
            if await self._database.read(self._has_tables):
                pass
            elif self._create:
                await self._database.write(self._create_tables)
            else:
                raise SchemaError(
                    f"There are no tables {self._table} in {self._database.where}: run `pyncette migrate`"
                )
        except BaseException:
            await self._database.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._database.close()

    def _has_tables(self, session: Session) -> bool:
        return _schema(session, self._sql, self._table, self._database.where) != 0

    def _create_tables(self, session: Session) -> None:
        _migrate(session, self._sql, self._table, self._database.where)

    # Reading

    async def load(self, keys: Sequence[Key]) -> list[Record | None]:
        for key in keys:
            check_key(key)
        ids = await self._known_ids({key.partition for key in keys})
        rows = [
            (ids[key.partition], key.task, key.instance, key.occurrence, number)
            for number, key in enumerate(keys)
            if key.partition in ids
        ]
        if not rows:
            return [None] * len(keys)
        texts = await self._database.read(lambda session: self._sql.load.read(session, rows))
        found: list[Record | None] = [None] * len(keys)
        for text in texts:
            for number, row in numbered_rows_in(text):
                found[number] = record_of(keys[number], row)
        return found

    async def scan(
        self, partition: Partition, task: str | None, after: Key | None, limit: int
    ) -> list[Record]:
        check_partition(partition)
        ids = await self._known_ids({partition})
        if partition not in ids:
            return []
        begin = after or Key(partition, task or "")
        check_key(begin)
        while True:
            rows = await self._page(ids[partition], task, begin, limit + 1)
            rows = [row for row in rows if after is None or names_of(row) != after[1:]][:limit]
            records = records_of((Key(partition, *names_of(row)), row) for row in rows)
            if records or not rows:
                return records
            # An empty page would mean the end, so a page of unreadable records only is skipped.
            begin = after = Key(partition, *names_of(rows[-1]))

    async def _page(self, partition: int, task: str | None, begin: Key, limit: int) -> list[Row]:
        """Return the rows of *task* from *begin* on."""
        text = self._sql.scan_all if task is None else self._sql.scan_task
        parameters = (partition, begin.task, begin.instance, begin.occurrence, limit)
        rows = rows_in(await self._database.read(lambda session: session.read(text, parameters)))
        return sorted(rows, key=names_of)

    async def count(
        self,
        partition: Partition,
        task: str | None,
        now: Instant,
        longest_lease: Duration,  # noqa: ARG002 - the index has all leases, however long
        limit: int,
    ) -> Counted:
        check_partition(partition)
        ids = await self._known_ids({partition})
        parameters = (ids.get(partition), task, now, limit)
        text = await self._database.read(lambda session: session.read(self._sql.count, parameters))
        (due, due_seen), (leased, leased_seen), (total, named) = decode(text)
        exact = max(due_seen, leased_seen) < limit
        return Counted(due, leased, exact, None if task is None or named > limit else total)

    async def partitions(self, realm: str) -> list[Partition]:
        check_partition(Partition(realm, ""))
        text = await self._database.read(lambda session: session.read(self._sql.partitions, (realm,)))
        rows = decode(text)
        check_partitions(len(rows), realm)
        return [Partition(realm, handler, number) for handler, number in rows]

    async def history(self, key: Key) -> list[Run]:
        check_key(key)
        ids = await self._known_ids({key.partition})
        if key.partition not in ids:
            return []
        parameters = (ids[key.partition], key.task, key.instance, key.occurrence)
        text = await self._database.read(lambda session: session.read(self._sql.history, parameters))
        return decode_runs(key, tolerant(text))

    async def now(self) -> Instant:
        return _now()

    # Writing

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        check_changes(changes)
        if not changes:
            return []
        ids = await self._ids_of(partitions_of(changes))
        swap = Swap(self._sql, changes, ids)
        return await self._database.write(swap.make)

    async def claim(
        self,
        limits: Mapping[Partition, int],
        lease_id: str,
        holder: str,
        now: Instant,
        expired_at: Instant,
        ahead: Duration = 0,
    ) -> Claimed:
        ids = await self._known_ids(limits)
        known = {ids[partition]: partition for partition in limits if partition in ids}
        if not known:
            return Claimed([], _now(), None)
        wanted = [
            (ids[partition], limits[partition]) for partition in known.values() if limits[partition] > 0
        ]
        claim = _Claim(self._sql, list(known), wanted, lease_id, holder, now, expired_at, ahead)
        answer = await self._database.write(claim.make)
        rows = sorted((row for text in answer.texts for row in rows_in(text)), key=claimable_at_of)
        records = records_of(
            (Key(known[row[1]], row[2], row[3], row[4]), as_claimed(row, lease_id, holder, now))
            for row in rows
        )
        ends = [end + now - expired_at for partition, end in answer.lease_ends if partition in known]
        return Claimed(records, answer.backend_now, min(answer.more + ends, default=None))

    async def renew(self, renewals: Sequence[Renewal], now: Instant) -> Renewed:
        for renewal in renewals:
            check_key(renewal.key)
        ids = await self._known_ids({renewal.key.partition for renewal in renewals})
        rows = [
            (ids[key.partition], key.task, key.instance, key.occurrence, lease_id, number)
            for number, (key, lease_id, _) in enumerate(renewals)
            if key.partition in ids
        ]
        held = [False] * len(renewals)
        if not rows:
            return Renewed(held, _now())

        def prolong(session: Session) -> list[tuple[int, int]]:
            found = [pair for text in self._sql.leased.read(session, rows) for pair in decode(text)]
            self._sql.renew.write(session, [(id_, now + renewals[number].length) for number, id_ in found])
            return found

        for number, _ in await self._database.write(prolong):
            held[number] = True
        return Renewed(held, _now())

    # Versions

    async def min_reader(self) -> int:
        _, version = decode(await self._database.read(lambda session: session.read(self._sql.versions)))
        return int(version)

    async def raise_min_reader(self, version: int) -> None:
        await self._database.write(lambda session: session.write(self._sql.raise_min_reader, (version,)))

    # Notifications: SQLite has none between processes

    async def notify(self, notifications: Sequence[Notification]) -> None:
        pass

    async def notified(self) -> AsyncIterator[Notification]:
        await asyncio.Event().wait()
        yield Notification(Partition("", ""), 0)

    # Partitions have numbers in the tables, which never change

    async def _known_ids(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Return the numbers of the partitions that have one."""
        unknown = [partition for partition in partitions if partition not in self._ids]
        if unknown:
            for partition in unknown:
                check_partition(partition)
            rows = [(number, *partition) for number, partition in enumerate(unknown)]
            for text in await self._database.read(
                lambda session: self._sql.partition_ids.read(session, rows)
            ):
                self._ids |= {unknown[number]: id_ for number, id_ in decode(text)}
        return self._ids

    async def _ids_of(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Return the numbers of *partitions*, which get one if they have none."""
        unknown = [partition for partition in partitions if partition not in self._ids]
        if unknown:
            await self._database.write(lambda session: self._sql.create_partitions.write(session, unknown))
            return await self._known_ids(unknown)
        return self._ids


async def migrate(database: str | os.PathLike[str] | Database, table: str = TABLE) -> Migrated:
    """Create or migrate the tables. Raises SchemaError if a newer release wrote them."""
    check_table_name(table, "sqlite_table_name")
    database = database if isinstance(database, Database) else Database(database)
    sql = Statements(table)
    database.open()
    try:
        return await database.write(lambda session: _migrate(session, sql, table, database.where))
    finally:
        await database.close()


def _schema(session: Session, sql: Statements, table: str, where: str) -> int:
    """Return the version of the tables, 0 if there are none. Raises SchemaError if they do not fit this release."""
    there = decode(session.read(sql.tables))
    if not there:
        return 0
    if f"{table}_meta" not in there:
        raise SchemaError(
            f"The table {table} in {where} was not created by Pyncette: choose another table name"
        )
    version, min_reader = decode(session.read(sql.versions))
    check_schema(version, min_reader, f"The tables {table} in {where}")
    return int(version)


def _migrate(session: Session, sql: Statements, table: str, where: str) -> Migrated:
    before = _schema(session, sql, table, where)
    if not before:
        for statement in sql.creation:
            session.write(statement)
    return Migrated(before, max(before, SCHEMA_VERSION))


class _Answer(NamedTuple):
    """The result of a claim in the database."""

    texts: list[bytes]
    """The rows as they were before the claim."""
    backend_now: Instant
    more: list[Instant]
    """When more unleased records are claimable; the claim's own time if the limits were reached."""
    lease_ends: list[tuple[int, Instant]]


class _Claim(NamedTuple):
    """A claim on the thread of the database."""

    sql: Statements
    partitions: list[int]
    wanted: list[tuple[int, int]]
    """The numbers of partitions, each with its limit."""
    lease_id: str
    holder: str
    now: Instant
    expired_at: Instant
    ahead: Duration

    def make(self, session: Session) -> _Answer:
        sql, now, expired_at = self.sql, self.now, self.expired_at
        picks = [(id_, now + self.ahead, expired_at, limit) for id_, limit in self.wanted]
        texts = [text for text in sql.look.read(session, picks) if text != b"[]"]
        if texts:
            stamp = (self.lease_id, self.holder, now, now)
            taken = sql.take.write(session, [(*stamp, *pick) for pick in picks])
            if taken == sum(limit for _, limit in self.wanted):
                return _Answer(texts, _now(), [now], [])
        due = [
            at - self.ahead
            for text in sql.next_due.read(session, [(id_, expired_at) for id_ in self.partitions])
            for at in decode(text)
            if at is not None
        ]
        return _Answer(texts, _now(), due, decode(session.read(sql.lease_ends, (expired_at,))))


def _now() -> Instant:
    return time.time_ns() // 1000
