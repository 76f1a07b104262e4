"""Keeps records in SQLite: in a file that several processes may share, or in memory."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from operator import itemgetter
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import msgspec

from pyncette.clock import Duration, Instant
from pyncette.core.record import Change, Key, Lease, Partition, Record, Run
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
)
from pyncette.store.codec import (
    PoisonedRecordError,
    decode_record,
    decode_runs,
    encode_run,
    encode_spec,
    encode_state,
    log_poisoned,
)
from pyncette.store.sql import TABLE, Migrated, check_schema, check_table_name
from pyncette.store.sqlite_database import Database, Session
from pyncette.store.sqlite_statements import Batch, Statements

_Row = tuple[
    int,  # id
    int,  # partition
    str,  # task
    str,  # instance
    str,  # occurrence
    int,  # version
    int,  # fence
    Instant | None,  # due_at
    Instant,  # schedule_since
    Instant | None,  # claimable_at
    Duration,  # lease_length
    int,  # attempt
    Instant | None,  # began_at
    str,  # spec
    str,  # state
    str | None,  # the lease's id
    str | None,  # its holder
    Instant | None,  # its end
]
_decode_rows = msgspec.json.Decoder(list[_Row]).decode
_decode_numbered = msgspec.json.Decoder(list[tuple[int, _Row]]).decode
_decode = msgspec.json.Decoder().decode

_Place = tuple[int, str, str, str]
"""A key as the tables have it."""

_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError)

_CLAIMABLE_AT: Final = itemgetter(9)
_NAMES: Final = itemgetter(2, 3, 4)


class SqliteStore:
    """
    Records in the tables whose names begin with *table*, in the SQLite *database*: a path, `:memory:`, or a `Database`.

    Stores that are given one `Database` share its connection, which is how several share one `:memory:`. With *create*
    the tables are created if they are missing. Raises ValueError for a name of a table that is not allowed.
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
            if await self._database.read(self._is_there):
                pass
            elif self._create:
                await self._database.write(self._bring_up)
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

    def _is_there(self, session: Session) -> bool:
        return _schema(session, self._sql, self._table, self._database.where) != 0

    def _bring_up(self, session: Session) -> None:
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
        texts = await self._database.read(lambda session: _read(session, self._sql.load, rows))
        found: list[Record | None] = [None] * len(keys)
        for text in texts:
            for number, row in _numbered_rows(text):
                found[number] = _record(keys[number], row)
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
            rows = [row for row in rows if after is None or _NAMES(row) != after[1:]][:limit]
            records = _readable((Key(partition, *_NAMES(row)), row) for row in rows)
            if records or not rows:
                return records
            # Nothing of this page could be read, but an empty one would be the end.
            begin = after = Key(partition, *_NAMES(rows[-1]))

    async def _page(self, partition: int, task: str | None, begin: Key, limit: int) -> list[_Row]:
        """Return the rows of *task* from *begin* on, itself included."""
        text = self._sql.scan_all if task is None else self._sql.scan_task
        parameters = (partition, begin.task, begin.instance, begin.occurrence, limit)
        rows = _rows(await self._database.read(lambda session: session.read(text, parameters)))
        return sorted(rows, key=_NAMES)

    async def count(
        self,
        partition: Partition,
        task: str | None,
        now: Instant,
        longest_lease: Duration,  # noqa: ARG002 - all leases are seen here, however long they are
        limit: int,
    ) -> Counted:
        check_partition(partition)
        ids = await self._known_ids({partition})
        parameters = (ids.get(partition), task, now, limit)
        text = await self._database.read(lambda session: session.read(self._sql.count, parameters))
        (due, due_seen), (leased, leased_seen), (total, named) = _decode(text)
        exact = max(due_seen, leased_seen) < limit
        return Counted(due, leased, exact, None if task is None or named > limit else total)

    async def partitions(self, realm: str) -> list[Partition]:
        check_partition(Partition(realm, ""))
        text = await self._database.read(lambda session: session.read(self._sql.partitions, (realm,)))
        return [Partition(realm, handler, number) for handler, number in _decode(text)]

    async def history(self, key: Key) -> list[Run]:
        check_key(key)
        ids = await self._known_ids({key.partition})
        if key.partition not in ids:
            return []
        parameters = (ids[key.partition], key.task, key.instance, key.occurrence)
        text = await self._database.read(lambda session: session.read(self._sql.history, parameters))
        return decode_runs(key, _tolerant(text))

    async def now(self) -> Instant:
        return _now()

    # Writing

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        check_changes(changes)
        if not changes:
            return []
        ids = await self._ids_of(_partitions(changes))
        swap = _Swap(self._sql, changes, ids)
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
        rows = sorted((row for text in answer.texts for row in _rows(text)), key=_CLAIMABLE_AT)
        records = _readable(
            (Key(known[row[1]], row[2], row[3], row[4]), _as_claimed(row, lease_id, holder, now))
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
            found = [pair for text in _read(session, self._sql.leased, rows) for pair in _decode(text)]
            _write(session, self._sql.renew, [(id_, now + renewals[number].length) for number, id_ in found])
            return found

        for number, _ in await self._database.write(prolong):
            held[number] = True
        return Renewed(held, _now())

    # Versions

    async def min_reader(self) -> int:
        _, version = _decode(await self._database.read(lambda session: session.read(self._sql.versions)))
        return int(version)

    async def raise_min_reader(self, version: int) -> None:
        await self._database.write(lambda session: session.write(self._sql.raise_min_reader, (version,)))

    # Notifying: no process hears of what another one writes to a file

    async def notify(self, notifications: Sequence[Notification]) -> None:
        pass

    async def notified(self) -> AsyncIterator[Notification]:
        await asyncio.Event().wait()
        yield Notification(Partition("", ""), 0)

    # Partitions have short numbers in the tables, which never change

    async def _known_ids(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Return the numbers of those partitions that have one."""
        unknown = [partition for partition in partitions if partition not in self._ids]
        if unknown:
            for partition in unknown:
                check_partition(partition)
            rows = [(number, *partition) for number, partition in enumerate(unknown)]
            for text in await self._database.read(
                lambda session: _read(session, self._sql.partition_ids, rows)
            ):
                self._ids |= {unknown[number]: id_ for number, id_ in _decode(text)}
        return self._ids

    async def _ids_of(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Return the numbers of *partitions*; those that have none get one."""
        unknown = [partition for partition in partitions if partition not in self._ids]
        if unknown:
            await self._database.write(lambda session: _write(session, self._sql.create_partitions, unknown))
            return await self._known_ids(unknown)
        return self._ids


async def migrate(database: str | os.PathLike[str] | Database, table: str = TABLE) -> Migrated:
    """Bring the tables to the schema of this release, those of an empty database too; raises SchemaError if they are newer."""
    check_table_name(table, "sqlite_table_name")
    database = database if isinstance(database, Database) else Database(database)
    sql = Statements(table)
    database.open()
    try:
        return await database.write(lambda session: _migrate(session, sql, table, database.where))
    finally:
        await database.close()


def _schema(session: Session, sql: Statements, table: str, where: str) -> int:
    """Return the version of the tables, 0 if there are none; raises SchemaError if they are not for this release."""
    there = _decode(session.read(sql.tables))
    if not there:
        return 0
    if f"{table}_meta" not in there:
        raise SchemaError(f"The table {table} in {where} is not of this program: choose another table name")
    version, min_reader = _decode(session.read(sql.versions))
    check_schema(version, min_reader, f"The tables {table} in {where}")
    return int(version)


def _migrate(session: Session, sql: Statements, table: str, where: str) -> Migrated:
    before = _schema(session, sql, table, where)
    if not before:
        for statement in sql.creation:
            session.write(statement)
    return Migrated(before, max(before, SCHEMA_VERSION))


class _Swap:
    """
    A batch of changes, made in two steps: on the loop what is to be written is laid out, on the database's thread it is
    found out which changes win, and what those write is written, statement by statement.
    """

    def __init__(self, sql: Statements, changes: Sequence[Change], ids: Mapping[Partition, int]) -> None:
        self._sql = sql
        self._changes = changes
        self._keys = [_place(_key_of(change), ids) for change in changes]
        self._homes = [
            None if change.history_of is None else _place(change.history_of, ids) for change in changes
        ]
        self._states = [
            None if change.after is None else encode_state(change.after.state) for change in changes
        ]
        self._specs = [
            encode_spec(after.spec)
            if after is not None and (before is None or before.spec is not after.spec)
            else None
            for before, after, *_ in changes
        ]
        self._runs = {
            number: [(row.slot, encode_run(row.run)) for row in change.history]
            for number, change in enumerate(changes)
            if change.history
        }

    def make(self, session: Session) -> list[bool]:
        sql, changes = self._sql, self._changes
        ids = self._winners(session)
        won = [number in ids for number in range(len(changes))]
        creations: list[tuple[Any, ...]] = []
        updates: list[tuple[Any, ...]] = []
        specs: list[tuple[Any, ...]] = []
        deletions: list[tuple[int]] = []
        freed: list[tuple[int]] = []
        kept: list[tuple[Any, ...]] = []
        put: list[int] = []
        for number, id_ in ids.items():
            before, after, *_ = changes[number]
            if after is None:
                deletions.append((id_,))
            elif before is None:
                creations.append(self._creation(number, after))
            else:
                updates.append(self._update(number, id_, after))
                if self._specs[number] is not None:
                    specs.append((id_, self._specs[number]))
            lease = None if after is None else after.lease
            old = None if before is None else before.lease
            if after is None or lease is None:
                if old is not None:
                    freed.append((id_,))
            elif old is not None and old.id == lease.id:
                kept.append((id_, after.version, after.fence, after.attempt, after.began_at))
            else:
                put.append(number)
        _write(session, sql.create, creations)
        _write(session, sql.update, updates)
        _write(session, sql.update_spec, specs)
        _write(session, sql.free, freed)
        _write(session, sql.keep_lease, kept)
        _write(session, sql.put_lease, self._leases(session, ids, put))
        _write(session, sql.delete, deletions)
        _write(session, sql.remember, self._rows(won))
        _write(session, sql.forget, self._forgotten(ids))
        return won

    def _winners(self, session: Session) -> dict[int, int]:
        """Return the ids of those whose *before* is what is stored, by their numbers in the batch; 0 for creations."""
        placed: list[tuple[int, int, int]] = []
        named: list[tuple[Any, ...]] = []
        for number, (before, *_) in enumerate(self._changes):
            if before is not None and before.locator is not None:
                placed.append((number, before.locator, before.version))
            else:
                named.append((*self._keys[number], number))
        ids = {number: id_ for number, id_, _ in placed}
        won: dict[int, int] = {}
        for text in _read(session, self._sql.unchanged, placed):
            for number in _decode(text):
                won[number] = ids[number]
        found = self._found(session, named)
        for *_, number in named:
            before = self._changes[number].before
            if before is None and number not in found:
                won[number] = 0
            elif before is not None and number in found and found[number][1] == before.version:
                won[number] = found[number][0]
        return self._whole_groups(won)

    def _whole_groups(self, won: dict[int, int]) -> dict[int, int]:
        """Return *won* without those that another of their group holds back."""
        broken = {
            change.group for number, change in enumerate(self._changes) if change.group and number not in won
        }
        if not broken:
            return won
        return {number: id_ for number, id_ in won.items() if self._changes[number].group not in broken}

    def _found(self, session: Session, named: list[Any]) -> dict[int, tuple[int, int]]:
        return {
            number: (id_, version)
            for text in _read(session, self._sql.found, named)
            for number, id_, version in _decode(text)
        }

    def _creation(self, number: int, after: Record) -> tuple[Any, ...]:
        return (
            *self._keys[number],
            after.version,
            after.fence,
            after.due_at,
            after.schedule_since,
            after.claimable_at,
            after.lease_length,
            after.attempt,
            after.began_at,
            self._states[number],
            self._specs[number],
        )

    def _update(self, number: int, id_: int, after: Record) -> tuple[Any, ...]:
        return (
            id_,
            after.version,
            after.fence,
            after.due_at,
            after.schedule_since,
            after.claimable_at,
            after.lease_length,
            after.attempt,
            after.began_at,
            self._states[number],
        )

    def _leases(self, session: Session, ids: Mapping[int, int], put: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return the rows of leases that are given; what was just created has its id from the table only."""
        created = self._found(session, [(*self._keys[number], number) for number in put if not ids[number]])
        rows = []
        for number in put:
            after = self._changes[number].after
            assert after is not None
            assert after.lease is not None
            rows.append(
                (
                    ids[number] or created[number][0],
                    self._keys[number][0],
                    *after.lease,
                    after.version,
                    after.fence,
                    after.attempt,
                    after.began_at,
                )
            )
        return rows

    def _rows(self, won: Sequence[bool]) -> list[tuple[Any, ...]]:
        return [
            (*(self._homes[number] or self._keys[number]), slot, text)
            for number, runs in self._runs.items()
            if won[number]
            for slot, text in runs
        ]

    def _forgotten(self, ids: Mapping[int, int]) -> list[tuple[Any, ...]]:
        """Return the keys whose history goes with their record."""
        return [
            self._keys[number]
            for number in ids
            if self._changes[number].after is None and not self._keys[number][3]
        ]


class _Answer(NamedTuple):
    """What a claim got, as the database told it."""

    texts: list[bytes]
    """Rows, as they were before the claim."""
    backend_now: Instant
    more: list[Instant]
    """When there will be more, without a lease; the claim's own time if the limits were used up."""
    lease_ends: list[tuple[int, Instant]]


class _Claim(NamedTuple):
    """A claim, as it is done on the database's thread."""

    sql: Statements
    partitions: list[int]
    wanted: list[tuple[int, int]]
    """Partitions with a limit, and that limit."""
    lease_id: str
    holder: str
    now: Instant
    expired_at: Instant
    ahead: Duration

    def make(self, session: Session) -> _Answer:
        sql, now, expired_at = self.sql, self.now, self.expired_at
        picks = [(id_, now + self.ahead, expired_at, limit) for id_, limit in self.wanted]
        texts = [text for text in _read(session, sql.look, picks) if text != b"[]"]
        if texts:
            stamp = (self.lease_id, self.holder, now, now)
            taken = _write(session, sql.take, [(*stamp, *pick) for pick in picks])
            if taken == sum(limit for _, limit in self.wanted):
                return _Answer(texts, _now(), [now], [])
        due = [
            at - self.ahead
            for text in _read(session, sql.next_due, [(id_, expired_at) for id_ in self.partitions])
            for at in _decode(text)
            if at is not None
        ]
        return _Answer(texts, _now(), due, _decode(session.read(sql.lease_ends, (expired_at,))))


def _read(session: Session, batch: Batch, rows: Sequence[Sequence[Any]]) -> list[bytes]:
    return [session.read(text, parameters) for text, parameters in batch.calls(rows)]


def _write(session: Session, batch: Batch, rows: Sequence[Sequence[Any]]) -> int:
    """Return how many rows of the table were written."""
    return sum(session.write(text, parameters) for text, parameters in batch.calls(rows))


def _key_of(change: Change) -> Key:
    known = change.before or change.after
    assert known is not None
    return known.key


def _partitions(changes: Sequence[Change]) -> set[Partition]:
    homes = {change.history_of.partition for change in changes if change.history_of is not None}
    return homes | {_key_of(change).partition for change in changes}


def _place(key: Key, ids: Mapping[Partition, int]) -> _Place:
    return ids[key.partition], key.task, key.instance, key.occurrence


def _rows(text: bytes) -> list[_Row]:
    """Return the rows of *text*, without those whose very columns cannot be read."""
    try:
        return _decode_rows(text)
    except _UNREADABLE:
        return [row for row in map(_row_or_none, _tolerant(text)) if row is not None]


def _numbered_rows(text: bytes) -> list[tuple[int, _Row]]:
    try:
        return _decode_numbered(text)
    except _UNREADABLE:
        numbered = [(number, _row_or_none(row)) for number, row in _tolerant(text)]
        return [(number, row) for number, row in numbered if row is not None]


def _tolerant(text: bytes) -> list[Any]:
    """
    Return what *text* holds, although some of it is no UTF-8.

    Such bytes become characters that no later decoding takes, so they spoil the text that they are in and no other.
    """
    return json.loads(text.decode("utf-8", "surrogateescape"))  # type: ignore[no-any-return]


def _row_or_none(values: list[Any]) -> _Row | None:
    try:
        row: _Row = msgspec.convert(values, _Row)
    except msgspec.ValidationError as error:
        names = [str(value) for value in values[2:5]]
        log_poisoned(PoisonedRecordError(Key(Partition("", ""), *names), error))
        return None
    return row


def _as_claimed(row: _Row, lease_id: str, holder: str, now: Instant) -> _Row:
    (
        id_,
        partition,
        task,
        instance,
        occurrence,
        version,
        fence,
        due_at,
        since,
        at,
        length,
        attempt,
        began_at,
    ) = row[:13]
    assert at is not None
    began_at = max(now, at) if began_at is None else began_at
    mine = (lease_id, holder, now + length)
    return (
        *(id_, partition, task, instance, occurrence, version + 1, fence + 1, due_at, since, at, length),
        *(attempt + 1, began_at, row[13], row[14], *mine),
    )


def _readable(rows: Iterable[tuple[Key, _Row]]) -> list[Record]:
    found = (_record(key, row) for key, row in rows)
    return [record for record in found if record is not None]


def _record(key: Key, row: _Row) -> Record | None:
    """Return the record of *row*; None if it cannot be read, which is logged."""
    (
        id_,
        _,
        _,
        _,
        _,
        version,
        fence,
        due_at,
        since,
        at,
        length,
        attempt,
        began_at,
        spec,
        state,
        lease_id,
        holder,
        end,
    ) = row
    lease = None if lease_id is None or holder is None or end is None else Lease(lease_id, holder, end)
    try:
        return decode_record(
            key, spec, state, version, fence, due_at, since, at, length, attempt, began_at, lease, id_
        )
    except PoisonedRecordError as error:
        log_poisoned(error)
        return None


def _now() -> Instant:
    return time.time_ns() // 1000
