"""Keeps records in MySQL or MariaDB: each verb is one script for its whole batch, sent at once."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from operator import itemgetter
from types import TracebackType
from typing import Any, Final, Self

from pyncette.clock import MILLISECOND, SECOND, Duration, Instant
from pyncette.core.record import Change, Key, Partition, Record, Run
from pyncette.errors import SchemaError, StoreRefusedError, StoreUnavailableError
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
from pyncette.store.mysql.address import Address
from pyncette.store.mysql.connection import Connections, Result, TryAgainError
from pyncette.store.mysql.rows import completion_rows, names_of, swap_script
from pyncette.store.mysql.schema import Tables, creation, tables_named
from pyncette.store.mysql.statements import HEAD_MAX, Statements
from pyncette.store.schema import TABLE, Migrated, check_schema
from pyncette.store.sql.changes import (
    first_after,
    halves_of,
    is_completion,
    partitions_told_of,
    parts_of,
    told_rows,
)
from pyncette.store.sql.heads import Heads
from pyncette.store.sql.numbered import NumberedStore
from pyncette.store.sql.rows import PLACE, claimed_records, counted, record_of

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 10.0
"""For how long a script is tried again that others are in the way of; each waits for some seconds by itself."""

RETRY_PAUSE_SECONDS: Final = 0.02
"""Those that stood in each other's way try again at different times."""

CREATION_SECONDS: Final = 60.0
"""Creating tables takes milliseconds, and waits for others that do the same."""

LOOK_PAUSE: Final = SECOND
"""If more is leased at the head of a partition than is looked at, the next look is to come after this time at the latest."""

USUAL_LOOK: Final = 20 * MILLISECOND
"""
A look is slow if it takes longer, see `Heads`. The time is that of a statement of a script, with all that a busy machine adds
between two of them; in this time a look passes over some ten thousand records that are dead.
"""

FREE: Final = 3
"""The column of a row of `Statements.look` that says how many records can be claimed."""

COUNT: Final = 4
"""Where it says how many were looked at: with as many as that at most, there may be more behind them."""

COMPLETED: Final = 1
"""Where in what `Statements.complete` comes to the completions are counted."""


class MysqlStore(NumberedStore):
    """
    Records in the tables whose names begin with *table*, in the database at *address*.

    With *create* the tables are created if they are missing; without it nothing but rows is ever written. *renewed*
    is asked at each connect for the address with the credentials that count by then. Raises ValueError for a name that
    is not allowed.
    """

    def __init__(
        self,
        address: Address,
        table: str = TABLE,
        *,
        create: bool = True,
        renewed: Callable[[], Address] | None = None,
    ) -> None:
        super().__init__()
        self._tables = tables_named(table)
        self._sql = Statements(self._tables)
        self._create = create
        self._connections = Connections(address, self._forget, renewed=renewed)
        self._heads = Heads(USUAL_LOOK)
        self._is_quiet = False
        """Whether the last claim found nothing: then the next one looks before it asks, which is one statement."""
        self._is_known = True
        """Whether the tables behind the connections are those that were looked at."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("mysql", notifies=False, shared=True, durable=True)

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
        (rows,) = await self._rows(self._sql.load(names_of([keys[place] for place in asked], ids)))
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
        if not limits:
            return Claimed([], await self.now(), None)
        ids = await self._ids_of(limits, add=True)
        begins = {partition: self._heads.begin(partition, now) for partition in limits}
        look = self._sql.look(
            [(ids[partition], begins[partition]) for partition in limits], now + ahead, expired_at
        )
        seen: Sequence[Any] = ()
        records: list[Record] = []
        taken: Counter[int] = Counter()
        if self._is_quiet or not any(limits.values()):
            (seen,) = await self._rows(look)
        wanted = [(ids[partition], most, begins[partition]) for partition, most in limits.items() if most > 0]
        if wanted and (not seen or any(row[FREE] or row[COUNT] == HEAD_MAX for row in seen)):
            script = self._sql.claim(wanted, lease_id, holder, now, now + ahead, expired_at)
            _, _, leased, ((backend_now, took),) = await self._rows(*script)
            partition_of = {ids[partition]: partition for partition in limits}
            records = claimed_records(list(leased), partition_of, lease_id, holder, now)
            self._heads.learn(limits, records, now, took)
            self._is_quiet = not leased
            taken = Counter(map(itemgetter(1), leased))
            if any(taken[id_] >= most for id_, most, _ in wanted):
                return Claimed(records, backend_now, now)
        if not seen:
            # Records that are free after this claim were locked during it, or have appeared since.
            taken.clear()
            (seen,) = await self._rows(look)
        is_free = any(
            row[FREE] and min(row[FREE], most or 1) > taken[ids[partition]]
            for row, (partition, most) in zip(seen, limits.items(), strict=True)
        )
        times = [
            now if is_free else None,
            *_times(seen, now, expired_at, ahead),
            *(record.lease.expires_at + now - expired_at for record in records if record.lease),
            self._heads.until(limits),
        ]
        return Claimed(records, seen[0][0], min((at for at in times if at is not None), default=None))

    async def renew(self, renewals: Sequence[Renewal], now: Instant) -> Renewed:
        for renewal in renewals:
            check_key(renewal.key)
        held = [False] * len(renewals)
        ids = await self._ids_of({renewal.key.partition for renewal in renewals}, add=False)
        asked = [place for place, renewal in enumerate(renewals) if renewal.key.partition in ids]
        if not asked:
            return Renewed(held, await self.now())
        wanted = [renewals[place] for place in asked]
        rows = [
            [*names, renewal.lease_id, renewal.length]
            for names, renewal in zip(names_of([each.key for each in wanted], ids), wanted, strict=True)
        ]
        _, places, ((backend_now,),) = await self._rows(*self._sql.renew(rows, now))
        for (place,) in places:
            held[asked[place - 1]] = True
        return Renewed(held, backend_now)

    async def scan(
        self, partition: Partition, task: str | None, after: Key | None, limit: int
    ) -> list[Record]:
        check_partition(partition)
        begin = first_after(after, task)
        id_ = (await self._ids_of([partition], add=False)).get(partition)
        while id_ is not None and begin is not None:
            (rows,) = await self._rows(self._sql.scan(id_, task, begin, limit))
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
        id_ = (await self._ids_of([partition], add=False)).get(partition, 0)
        # What was renewed is filed at the end of its lease.
        (seen,), (named,) = await self._rows(*self._sql.count(id_, task, now, now + longest_lease, limit))
        return counted([int(number or 0) for number in (*seen, *named)], task, limit)

    async def partitions(self, realm: str) -> list[Partition]:
        check_partition(Partition(realm, ""))
        (rows,) = await self._rows(self._sql.partitions(realm))
        found = {Partition(realm, handler, number): id_ for id_, handler, number in rows}
        self._partition_ids.update(found)
        return list(found)

    async def history(self, key: Key) -> list[Run]:
        check_key(key)
        ids = await self._ids_of([key.partition], add=False)
        if not ids:
            return []
        (rows,) = await self._rows(self._sql.history(ids[key.partition], *key[1:]))
        return decode_runs(key, (text for (text,) in rows))

    async def now(self) -> Instant:
        (((now,),),) = await self._rows(self._sql.now)
        told: Instant = now
        return told

    async def min_reader(self) -> int:
        (((_, version),),) = await self._rows(self._sql.versions)
        return int(version)

    async def raise_min_reader(self, version: int) -> None:
        await self._fetch(self._sql.raise_min_reader(version))

    async def notify(self, notifications: Sequence[Notification]) -> None:
        """Tell nobody: these servers have nothing by which one client could wake another."""

    async def notified(self) -> AsyncIterator[Notification]:
        await asyncio.Event().wait()
        yield Notification(Partition("", ""), 0)

    # --- Swaps ---

    async def _swap(self, changes: Sequence[Change]) -> list[bool]:
        located = await self._locate(changes)
        found = [(id_, change) for id_, change in zip(located, changes, strict=True) if id_ is not None]
        if not found:
            return [False] * len(changes)
        found.sort(key=itemgetter(0))
        ending = all(is_completion(change) for _, change in found)
        stamp = secrets.randbelow(2**63 - 1) + 1
        if ending:
            script = self._sql.complete(completion_rows(found), stamp)
        else:
            ids = await self._ids_of(partitions_told_of(changes), add=True)
            script = swap_script(self._sql, found, told_rows(located, changes), ids, stamp)
        if self._connections.is_too_long(script):
            return await self._swap_in_halves(changes)
        results = await self._fetch(*script)
        if ending and results[COMPLETED].found == len(found):
            return [id_ is not None for id_ in located]
        won = {id_ for result in results for (id_,) in result.rows}
        return [id_ in won for id_ in located]

    async def _swap_in_halves(self, changes: Sequence[Change]) -> list[bool]:
        """Make *changes* one half after the other, since the server does not take all at once."""
        halves = halves_of(changes)
        if not halves:
            raise StoreRefusedError(
                f"{self._connections.place} takes {self._connections.packet_bytes_max} bytes at once, and a record has"
                " more: raise max_allowed_packet"
            )
        made = [False] * len(changes)
        for places in halves:
            for place, ok in zip(places, await self._swap([changes[each] for each in places]), strict=True):
                made[place] = ok
        return made

    # --- Partitions and ids ---

    async def _find_partitions(self, partitions: Sequence[Partition]) -> Sequence[Any]:
        (rows,) = await self._rows(self._sql.partition_ids(partitions))
        return rows

    async def _add_partitions(self, partitions: Sequence[Partition]) -> None:
        await self._fetch(self._sql.add_partitions(partitions))

    async def _find_records(self, keys: Sequence[Key], ids: Mapping[Partition, int]) -> Sequence[Any]:
        (rows,) = await self._rows(self._sql.find(names_of(keys, ids)))
        return rows

    async def _take_ids(self) -> int:
        moved, told = await self._fetch(*self._sql.next_ids)
        if not moved.found:
            raise SchemaError(
                f"The tables in {self._connections.place} are not as this release knows them: no ids"
            )
        ((first,),) = told.rows
        taken: int = first
        return taken

    def _forget(self) -> None:
        super()._forget()
        self._is_known = False
        self._heads.forget()

    # --- Statements ---

    async def _rows(self, *script: str) -> list[Sequence[Any]]:
        """Return what each statement of *script* returned."""
        return [result.rows for result in await self._fetch(*script)]

    async def _fetch(self, *script: str) -> list[Result]:
        if not self._is_known:
            if not await _schema(self._connections, self._sql, self._tables):
                raise _no_tables(self._connections, self._tables)
            self._is_known = True
        deadline = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                return await self._connections.fetch(script)
            except TryAgainError as error:
                logger.info("what others were in the way of was undone", extra={"error": str(error)})
                if time.monotonic() >= deadline:
                    raise StoreUnavailableError(
                        f"{self._connections.place} is too busy: {error}, for {RETRY_SECONDS:g} seconds"
                    ) from error
                await asyncio.sleep(random.uniform(0, RETRY_PAUSE_SECONDS))


async def migrate(address: Address, table: str = TABLE) -> Migrated:
    """Bring the tables to the schema of this release, those of an empty database too; raises SchemaError if they are newer."""
    tables = tables_named(table)
    connections = Connections(address)
    try:
        return await _migrate(connections, Statements(tables), tables)
    finally:
        await connections.close()


async def _schema(connections: Connections, sql: Statements, tables: Tables) -> int:
    """Return the version of the tables, 0 if there are none; raises SchemaError if they are not for this release."""
    (there,) = await connections.fetch([sql.exist])
    names = {name for (name,) in there.rows}
    if not names:
        return 0
    if f"{tables.name}_meta" not in names:
        raise SchemaError(
            f"The table {tables.name} in {connections.place} is not of this program: choose another mysql_table_name"
        )
    (told,) = await connections.fetch([sql.versions])
    if not told.rows:
        return 0  # somebody is creating them, or was interrupted
    ((version, min_reader),) = told.rows
    check_schema(version, min_reader, f"The tables {tables.name} in {connections.place}")
    return int(version)


def _no_tables(connections: Connections, tables: Tables) -> SchemaError:
    return SchemaError(f"There are no tables {tables.name} in {connections.place}: run `pyncette migrate`")


async def _migrate(connections: Connections, sql: Statements, tables: Tables) -> Migrated:
    before = await _schema(connections, sql, tables)
    if not before:
        await connections.fetch(creation(tables), CREATION_SECONDS)
    # Another program, of another release, may have been faster.
    return Migrated(before, await _schema(connections, sql, tables))


def _times(
    rows: Sequence[Sequence[int | None]], now: Instant, expired_at: Instant, ahead: Duration
) -> list[Instant | None]:
    """Return when more records will be claimable, from the rows of `Statements.look`, one for each partition."""
    times: list[Instant | None] = []
    for _, due_at, ends_at, _, count in rows:
        times.append(None if due_at is None else due_at - ahead)
        # It looks expired, perhaps, but is not to be taken over yet: the claimer's clock has stepped.
        times.append(None if ends_at is None else ends_at + now - expired_at)
        if count == HEAD_MAX:
            times.append(now + LOOK_PAUSE)
    return times
