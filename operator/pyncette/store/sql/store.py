"""Keeps records on a SQL server: what PostgreSQL and MySQL do in the same way, and what happens when they refuse."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from operator import itemgetter
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from pyncette.clock import Duration, Instant
from pyncette.core.log_messages import naming_logger
from pyncette.core.record import Change, Key, Partition, Record, Run
from pyncette.errors import SchemaError, StoreUnavailableError
from pyncette.store.base import (
    Counted,
    Renewal,
    Renewed,
    check_changes,
    check_key,
    check_partition,
    check_partitions,
)
from pyncette.store.codec import decode_runs
from pyncette.store.schema import check_schema
from pyncette.store.sql.changes import (
    HistoryWrite,
    Located,
    first_after,
    history_writes,
    is_completion,
    partitions_of,
    parts_of,
)
from pyncette.store.sql.connections import Connections, RetryableError
from pyncette.store.sql.dialect import Dialect
from pyncette.store.sql.ids import Ids
from pyncette.store.sql.rows import POSITION, counted, record_of
from pyncette.store.sql.scan_start import ScanStarts

logger = naming_logger(__name__)

RETRY_SECONDS: Final = 10.0
"""For how long a statement is tried again that the server rolled back. Deadlocks are rare: all take locks in one order."""

RETRY_PAUSE_SECONDS: Final = 0.02
"""The longest pause before such a retry. It is random, so that two that met do not meet again."""

CREATION_SECONDS: Final = 60.0
"""Creating tables takes milliseconds, and waits for other processes that create them."""

Query = TypeVar("Query")
Request = TypeVar("Request")
Reply = TypeVar("Reply")


class SqlStore(Ids, Generic[Query]):
    """
    A store in the tables *tables*, which the server creates by the script *creation*.

    With *create* missing tables are created; without it nothing but rows is ever written. A backend adds its `Dialect`,
    its connections, and the statements that depend on the server: claim, renew, count and swap.
    """

    _sql: Dialect[Query]

    def __init__(
        self,
        connections: Connections[Any, Query],
        tables: str,
        creation: str,
        *,
        create: bool,
        scan_starts: ScanStarts,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        super().__init__()
        self._connections = connections
        self._table_name = tables
        self._creation = creation
        self._create = create
        self._scan_starts = scan_starts
        self._retry_seconds = retry_seconds
        self._is_checked = True
        """The tables behind the connections are known to fit this release."""

    async def __aenter__(self) -> Self:
        try:
            await self._retried(self._open, self._creation)
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
        places = [place for place, key in enumerate(keys) if key.partition in ids]
        if not places:
            return found
        names = self._sql.names([keys[place] for place in places], ids)
        for row in await self._rows(self._sql.load(names)):
            place = places[row[POSITION] - 1]
            found[place] = record_of(row, keys[place].partition)
        return found

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        check_changes(changes)
        self._scan_starts.include(change.after for change in changes if change.after)
        made: list[bool] = []
        for part in parts_of(changes):
            made += await self._swap(part)
        return made

    async def renew(self, renewals: Sequence[Renewal], now: Instant) -> Renewed:
        for renewal in renewals:
            check_key(renewal.key)
        held = [False] * len(renewals)
        ids = await self._ids_of({renewal.key.partition for renewal in renewals}, add=False)
        places = [place for place, renewal in enumerate(renewals) if renewal.key.partition in ids]
        if not places:
            return Renewed(held, await self.now())
        positions, backend_now = await self._renew([renewals[place] for place in places], ids, now)
        for position in positions:
            held[places[position - 1]] = True
        return Renewed(held, backend_now)

    async def scan(
        self, partition: Partition, task: str | None, after: Key | None, limit: int
    ) -> list[Record]:
        check_partition(partition)
        begin = first_after(after, task)
        id_ = (await self._ids_of([partition], add=False)).get(partition)
        while id_ is not None and begin is not None:
            rows = await self._rows(self._sql.scan(id_, task, begin, limit))
            records = [record for row in rows if (record := record_of(row, partition)) is not None]
            if records or len(rows) < limit:
                return records
            # An empty page would mean the end, so a page of unreadable records only is skipped.
            begin = first_after(Key(partition, *rows[-1][2:5]), task)
        return []

    async def count(
        self, partition: Partition, task: str | None, now: Instant, longest_lease: Duration, limit: int
    ) -> Counted:
        check_partition(partition)
        id_ = (await self._ids_of([partition], add=False)).get(partition, 0)
        # The index has a renewed record at the end of its lease.
        numbers = await self._count(id_, task, now, now + longest_lease, limit)
        return counted(numbers, task, limit)

    async def partitions(self, realm: str) -> list[Partition]:
        check_partition(Partition(realm, ""))
        rows = await self._rows(self._sql.partitions(realm))
        check_partitions(len(rows), realm)
        found = {Partition(realm, handler, number): id_ for id_, handler, number in rows}
        self._partition_ids.update(found)
        return list(found)

    async def history(self, key: Key) -> list[Run]:
        check_key(key)
        ids = await self._ids_of([key.partition], add=False)
        if not ids:
            return []
        rows = await self._rows(self._sql.history(ids[key.partition], key.task, key.instance, key.occurrence))
        return decode_runs(key, (text for (text,) in rows))

    async def now(self) -> Instant:
        ((now,),) = await self._rows(self._sql.now)
        return int(now)

    async def min_reader(self) -> int:
        ((_, version),) = await self._rows(self._sql.versions)
        return int(version)

    async def raise_min_reader(self, version: int) -> None:
        await self._rows(self._sql.raise_min_reader(version))

    # --- Provided by the backend ---

    @abstractmethod
    async def _renew(
        self, renewals: Sequence[Renewal], ids: Mapping[Partition, int], now: Instant
    ) -> tuple[Collection[int], Instant]:
        """Renew leases. Return the positions of those that are still held, counted from 1, and the server's time."""

    @abstractmethod
    async def _count(
        self, partition: int, task: str | None, now: Instant, last_end: Instant, limit: int
    ) -> Sequence[int]:
        """Count what is due and what is leased until *last_end*; see `rows.counted` for the numbers."""

    @abstractmethod
    async def _write_completions(self, changes: Sequence[Located]) -> Collection[int]:
        """Make *changes*, all of which are completions, and return the ids of the records that were changed."""

    @abstractmethod
    async def _write(
        self, changes: Sequence[Located], history: Sequence[HistoryWrite], ids: Mapping[Partition, int]
    ) -> Collection[int]:
        """Make *changes* of any kind, write *history*, and return the ids of the records that were changed."""

    # --- Swaps ---

    async def _swap(self, changes: Sequence[Change]) -> list[bool]:
        located = await self._locate(changes)
        found = [(id_, change) for id_, change in zip(located, changes, strict=True) if id_ is not None]
        if not found:
            return [False] * len(changes)
        found.sort(key=itemgetter(0))
        if all(is_completion(change) for _, change in found):
            made = await self._write_completions(found)
        else:
            ids = await self._ids_of(partitions_of(changes), add=True)
            made = await self._write(found, history_writes(located, changes), ids)
        if len(made) == len(changes):
            return [True] * len(changes)
        made = set(made)
        return [id_ in made for id_ in located]

    # --- Ids ---

    async def _find_partitions(self, partitions: Sequence[Partition]) -> Sequence[Any]:
        return await self._rows(self._sql.partition_ids(partitions))

    async def _add_partitions(self, partitions: Sequence[Partition]) -> None:
        await self._rows(self._sql.add_partitions(partitions))

    async def _find_records(self, keys: Sequence[Key], ids: Mapping[Partition, int]) -> Sequence[Any]:
        return await self._rows(self._sql.find(self._sql.names(keys, ids)))

    def _forget(self) -> None:
        super()._forget()
        self._is_checked = False
        self._scan_starts.forget()

    # --- Queries ---

    async def _rows(self, query: Query) -> Sequence[Any]:
        """Run one statement and return its rows. Raises StoreError."""
        return await self._retried(self._connections.rows, query)

    async def _retried(self, send: Callable[[Request], Awaitable[Reply]], request: Request) -> Reply:
        """Return the reply of *send*, which is called again if the server rolled *request* back. Raises StoreError."""
        deadline = time.monotonic() + self._retry_seconds
        is_logged = False
        while True:
            try:
                if not self._is_checked:
                    await self._check_tables()
                    self._is_checked = True
                return await send(request)
            except RetryableError as error:
                if not is_logged:
                    logger.info(
                        "the server rolled back a statement, because of a deadlock or a lock timeout; retrying",
                        extra={"error": str(error)},
                    )
                    is_logged = True
                if time.monotonic() >= deadline:
                    raise StoreUnavailableError(
                        f"{self._connections.place} is too busy: {error}, for {self._retry_seconds:g} seconds"
                    ) from error
                await asyncio.sleep(random.uniform(0, RETRY_PAUSE_SECONDS))

    # --- The schema ---

    async def _open(self, creation: str) -> None:
        """Create missing tables, if this store may, and check them."""
        if self._create and not await self._schema_version():
            await self._connections.run_script(creation, CREATION_SECONDS)
        # Also after a creation: a process of another release may have been faster.
        await self._check_tables()

    async def _check_tables(self) -> None:
        """Raise SchemaError unless the tables exist and fit this release."""
        if not await self._schema_version():
            raise SchemaError(
                f"There are no tables {self._table_name} in {self._connections.place}: run `pyncette migrate`"
            )

    async def _schema_version(self) -> int:
        """Return the version of the tables, 0 if there are none. Raises SchemaError if they do not fit this release."""
        ((is_ours, is_taken),) = await self._connections.rows(self._sql.exist)
        if is_taken and not is_ours:
            # MySQL hides tables on which this user has no right. A query tells those from missing ones: it is refused.
            with contextlib.suppress(SchemaError):
                await self._connections.rows(self._sql.versions)
            raise SchemaError(
                f"The table {self._table_name} in {self._connections.place} was not created by Pyncette:"
                " choose another table name"
            )
        versions = await self._connections.rows(self._sql.versions) if is_ours else ()
        if not versions:
            return 0  # also while another process creates the tables, or after it was interrupted
        ((version, min_reader),) = versions
        check_schema(version, min_reader, f"The tables {self._table_name} in {self._connections.place}")
        return int(version)
