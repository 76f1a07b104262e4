"""Keeps records in PostgreSQL: each verb is one statement for its whole batch."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from pyncette.clock import Duration, Instant
from pyncette.core.record import Change, Key, Partition, Record, Run
from pyncette.errors import SchemaError, StoreUnavailableError
from pyncette.store.base import (
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
from pyncette.store.codec import decode_runs
from pyncette.store.postgres.connection import Connections, TryAgainError
from pyncette.store.postgres.rows import (
    completion_columns,
    names_of,
    swap_columns,
)
from pyncette.store.postgres.schema import Tables, creation, tables_named
from pyncette.store.postgres.statements import SESSION, Statements, statements_for
from pyncette.store.schema import TABLE, Migrated, check_schema
from pyncette.store.sql.changes import (
    first_after,
    has_groups,
    is_completion,
    partitions_told_of,
    parts_of,
    told_rows,
)
from pyncette.store.sql.heads import Heads
from pyncette.store.sql.numbered import NumberedStore
from pyncette.store.sql.rows import PLACE, claimed_records, counted, record_of

logger = logging.getLogger(__name__)

ATTEMPTS_MAX: Final = 6
"""All take their locks in one order, so even one deadlock is rare; six in a row are no accident."""

CREATION_SECONDS: Final = 60.0
"""Creating tables takes milliseconds, and waits for others that do the same."""

DEADLOCK_PAUSE_SECONDS: Final = 0.02
"""Those that stood in each other's way try again at different times."""

PAYLOAD_BYTES_MAX: Final = 7_999
"""PostgreSQL takes no longer payload of a notification."""


class PostgresStore(NumberedStore):
    """
    Records in the tables whose names begin with *table*, in the database at *url*.

    With *create* the tables are created if they are missing; without it nothing but rows is ever written. *renewed*
    is asked at each connect for the URL with the credentials that count by then. Raises ValueError for a name that is
    not allowed.
    """

    def __init__(
        self,
        url: str,
        table: str = TABLE,
        *,
        create: bool = True,
        renewed: Callable[[], str] | None = None,
    ) -> None:
        super().__init__()
        self._tables = tables_named(table)
        self._sql = statements_for(self._tables)
        self._create = create
        self._connections = Connections(url, SESSION, self._forget, renewed=renewed)
        self._heads = Heads()
        self._is_known = True
        """Whether the tables behind the connections are those that were looked at."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("postgresql", notifies=True, shared=True, durable=True)

    async def __aenter__(self) -> Self:
        try:
            if self._create:
                await _migrate(self._connections, self._sql, self._tables)
            elif not await _schema(self._connections, self._sql, self._tables):
                raise _no_tables(self._connections, self._tables)
        except BaseException:
            await self._connections.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connections.close()

    # --- Verbs ---

    async def load(self, keys: Sequence[Key]) -> list[Record | None]:
        for key in keys:
            check_key(key)
        found: list[Record | None] = [None] * len(keys)
        ids = await self._ids_of({key.partition for key in keys}, add=False)
        asked = [place for place, key in enumerate(keys) if key.partition in ids]
        if not asked:
            return found
        rows = await self._fetch(self._sql.load, *names_of([keys[place] for place in asked], ids))
        for row in rows:
            place = asked[row[PLACE] - 1]
            found[place] = record_of(row, keys[place].partition)
        return found

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        check_changes(changes)
        self._heads.file(change.after for change in changes if change.after)
        made: list[bool] = []
        for part in parts_of(changes):
            made += await self._swap(part)
        return made

    async def claim(
        self,
        limits: Mapping[Partition, int],
        lease_id: str,
        holder: str,
        now: Instant,
        expired_at: Instant,
        ahead: Duration = 0,
    ) -> Claimed:
        ids = await self._ids_of(limits, add=True)
        partition_of = {ids[partition]: partition for partition in limits}
        begins = [self._heads.begin(partition, now) for partition in limits]
        rows = await self._fetch(
            self._sql.claim,
            list(partition_of),
            list(limits.values()),
            now,
            expired_at,
            lease_id,
            holder,
            begins,
            now + ahead,
        )
        told = rows.pop()  # the row of no record: the time, when there is more, and how long it took
        taken = Counter(map(itemgetter(1), rows))
        more = any(count >= limits[partition_of[id_]] for id_, count in taken.items())
        records = claimed_records(rows, partition_of, lease_id, holder, now)
        self._heads.learn(limits, records, now, told[9])
        times = (now if more else None, told[8] and told[8] - ahead, self._heads.until(limits))
        return Claimed(records, told[7], min((at for at in times if at is not None), default=None))

    async def renew(self, renewals: Sequence[Renewal], now: Instant) -> Renewed:
        for renewal in renewals:
            check_key(renewal.key)
        held = [False] * len(renewals)
        ids = await self._ids_of({renewal.key.partition for renewal in renewals}, add=False)
        asked = [place for place, renewal in enumerate(renewals) if renewal.key.partition in ids]
        wanted = [renewals[place] for place in asked]
        ((backend_now, places),) = await self._fetch(
            self._sql.renew,
            *names_of([renewal.key for renewal in wanted], ids),
            [renewal.lease_id for renewal in wanted],
            [renewal.length for renewal in wanted],
            now,
        )
        for place in places or ():
            held[asked[place - 1]] = True
        return Renewed(held, backend_now)

    async def scan(
        self, partition: Partition, task: str | None, after: Key | None, limit: int
    ) -> list[Record]:
        check_partition(partition)
        begin = first_after(after, task)
        id_ = (await self._ids_of([partition], add=False)).get(partition)
        statement = self._sql.scan_all if task is None else self._sql.scan_task
        while id_ is not None and begin is not None:
            rows = await self._fetch(statement, id_, limit, *begin)
            records = [record for row in rows if (record := record_of(row, partition)) is not None]
            if records or len(rows) < limit:
                return records
            # An empty page would be the end, so one of nothing but what cannot be read is left out.
            begin = first_after(Key(partition, *rows[-1][2:5]), task)
        return []

    async def count(
        self, partition: Partition, task: str | None, now: Instant, longest_lease: Duration, limit: int
    ) -> Counted:
        check_partition(partition)
        id_ = (await self._ids_of([partition], add=False)).get(partition)
        # What was renewed is filed at the end of its lease.
        (row,) = await self._fetch(self._sql.number, id_, task, now, now + longest_lease, limit)
        return counted(row, task, limit)

    async def partitions(self, realm: str) -> list[Partition]:
        check_partition(Partition(realm, ""))
        rows = await self._fetch(self._sql.partitions, realm)
        found = {Partition(realm_, handler, number): id_ for id_, realm_, handler, number in rows}
        self._partition_ids.update(found)
        return list(found)

    async def history(self, key: Key) -> list[Run]:
        check_key(key)
        ids = await self._ids_of([key.partition], add=False)
        if not ids:
            return []
        rows = await self._fetch(
            self._sql.history, ids[key.partition], key.task, key.instance, key.occurrence
        )
        return decode_runs(key, (text for (text,) in rows))

    async def now(self) -> Instant:
        ((now,),) = await self._fetch(self._sql.now)
        told: Instant = now
        return told

    async def notify(self, notifications: Sequence[Notification]) -> None:
        if notifications:
            await self._fetch(self._sql.notify, self._tables.channel, list(_payloads(notifications)))

    async def notified(self) -> AsyncIterator[Notification]:
        async for payload in self._connections.listen(self._tables.channel):
            try:
                heard = msgspec.json.decode(payload, type=list[Notification])
            except msgspec.MsgspecError:
                logger.warning("a notification of somebody else's", extra={"channel": self._tables.channel})
                continue
            for notification in heard:
                yield notification

    async def min_reader(self) -> int:
        ((_, version),) = await self._fetch(self._sql.versions)
        return int(version)

    async def raise_min_reader(self, version: int) -> None:
        await self._fetch(self._sql.raise_min_reader, version)

    # --- Swaps ---

    async def _swap(self, changes: Sequence[Change]) -> list[bool]:
        located = await self._locate(changes)
        found = [(id_, change) for id_, change in zip(located, changes, strict=True) if id_ is not None]
        found.sort(key=itemgetter(0))
        if not found:
            return [False] * len(changes)
        if all(is_completion(change) for _, change in found):
            ((winners,),) = await self._fetch(self._sql.complete, *completion_columns(found))
        else:
            ids = await self._ids_of(partitions_told_of(changes), add=True)
            statement = self._sql.swap_together if has_groups(changes) else self._sql.swap
            ((winners,),) = await self._fetch(
                statement, *swap_columns(found, told_rows(located, changes), ids)
            )
        if winners is None:
            return [False] * len(changes)
        if len(winners) == len(changes):
            return [True] * len(changes)
        won = set(winners)
        return [id_ in won for id_ in located]

    # --- Partitions and ids ---

    async def _find_partitions(self, partitions: Sequence[Partition]) -> list[Any]:
        return await self._fetch(self._sql.partition_ids, *_columns(partitions))

    async def _add_partitions(self, partitions: Sequence[Partition]) -> None:
        await self._fetch(self._sql.add_partitions, *_columns(partitions))

    async def _find_records(self, keys: Sequence[Key], ids: Mapping[Partition, int]) -> list[Any]:
        return await self._fetch(self._sql.find, *names_of(keys, ids))

    async def _take_ids(self) -> int:
        ((first,),) = await self._fetch(self._sql.next_ids)
        taken: int = first
        return taken

    def _forget(self) -> None:
        super()._forget()
        self._is_known = False
        self._heads.forget()

    # --- Statements ---

    async def _fetch(self, statement: str, *arguments: Any) -> list[Any]:
        if not self._is_known:
            if not await _schema(self._connections, self._sql, self._tables):
                raise _no_tables(self._connections, self._tables)
            self._is_known = True
        for attempt in range(ATTEMPTS_MAX):
            try:
                return await self._connections.fetch(statement, *arguments)
            except TryAgainError as error:
                logger.info("a deadlock was undone", extra={"error": str(error), "attempt": attempt + 1})
                await asyncio.sleep(random.uniform(0, DEADLOCK_PAUSE_SECONDS))
        raise StoreUnavailableError(f"{self._connections.place} undid a statement {ATTEMPTS_MAX} times")


async def migrate(url: str, table: str = TABLE) -> Migrated:
    """Bring the tables to the schema of this release, those of an empty database too; raises SchemaError if they are newer."""
    tables = tables_named(table)
    sql = statements_for(tables)
    connections = Connections(url, SESSION)
    try:
        return await _migrate(connections, sql, tables)
    finally:
        await connections.close()


async def _schema(connections: Connections, sql: Statements, tables: Tables) -> int:
    """Return the version of the tables, 0 if there are none; raises SchemaError if they are not for this release."""
    ((ours, some),) = await connections.fetch(sql.exist)
    if not ours and not some:
        return 0
    if not ours:
        raise SchemaError(
            f"The table {tables.name} in {connections.place} is not of this program: choose another table name"
        )
    ((version, min_reader),) = await connections.fetch(sql.versions)
    check_schema(version, min_reader, f"The tables {tables.name} in {connections.place}")
    return int(version)


def _no_tables(connections: Connections, tables: Tables) -> SchemaError:
    return SchemaError(f"There are no tables {tables.name} in {connections.place}: run `pyncette migrate`")


async def _migrate(connections: Connections, sql: Statements, tables: Tables) -> Migrated:
    before = await _schema(connections, sql, tables)
    if not before:
        await connections.run_script(creation(tables), CREATION_SECONDS)
    # Another program, of another release, may have been faster.
    return Migrated(before, await _schema(connections, sql, tables))


def _columns(partitions: Sequence[Partition]) -> list[list[Any]]:
    return [list(column) for column in zip(*partitions, strict=True)]


def _payloads(notifications: Sequence[Notification]) -> Iterator[str]:
    """Yield one payload, or several if it becomes too long; a name that fits in none wakes nobody."""
    text = msgspec.json.encode(notifications)
    if len(text) <= PAYLOAD_BYTES_MAX:
        yield text.decode()
    elif len(notifications) > 1:
        half = len(notifications) // 2
        yield from _payloads(notifications[:half])
        yield from _payloads(notifications[half:])
