"""Keeps records in PostgreSQL: each verb is one statement for its whole batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import msgspec

from pyncette.clock import Duration, Instant
from pyncette.core.log_messages import naming_logger
from pyncette.core.record import Partition
from pyncette.store.base import Capabilities, Claimed, Notification, Renewal
from pyncette.store.codec import UNREADABLE
from pyncette.store.postgres.connection import PAYLOAD_BYTES_MAX, PostgresConnections, Query
from pyncette.store.postgres.dialect import PostgresDialect
from pyncette.store.postgres.rows import completion_values, names_of, swap_values
from pyncette.store.postgres.schema import creation, tables_named
from pyncette.store.postgres.statements import CLAIM, RENEW, session_of, statements_for
from pyncette.store.schema import TABLE
from pyncette.store.sql.changes import HistoryWrite, Located, has_groups
from pyncette.store.sql.rows import claimed_records
from pyncette.store.sql.scan_start import ScanStarts
from pyncette.store.sql.store import SqlStore

logger = naming_logger(__name__)


class PostgresStore(SqlStore[Query]):
    """
    A store in the tables whose names begin with *table*, in the database at *url*.

    With *create* missing tables are created; without it nothing but rows is ever written. *current_url* is called for each
    connection, and returns the URL with the credentials that are valid now. Raises ValueError for an invalid name.
    """

    _connections: PostgresConnections

    def __init__(
        self,
        url: str,
        table: str = TABLE,
        *,
        create: bool = True,
        current_url: Callable[[], str] | None = None,
    ) -> None:
        tables = tables_named(table)
        super().__init__(
            PostgresConnections(url, session_of(tables), self._forget, current_url=current_url),
            tables.name,
            creation(tables),
            create=create,
            scan_starts=ScanStarts(),
        )
        self._channel = tables.channel
        self._statements = statements_for(tables)
        self._sql = PostgresDialect(self._statements)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("postgresql", notifies=True, shared=True, durable=True)

    # --- Verbs ---

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
        values = CLAIM.values(
            wanted={
                "partition_id": list(partition_of),
                "most": list(limits.values()),
                "begin": [self._scan_starts.begin(partition, now) for partition in limits],
            },
            scalars=(now, now + ahead, expired_at, lease_id, holder),
        )
        rows: Any = await self._rows((self._statements.claim, *values))
        # The server's time, when the next record is claimable, and the duration of the claim.
        footer = rows.pop()
        taken = Counter(map(itemgetter(1), rows))
        more = any(count >= limits[partition_of[id_]] for id_, count in taken.items())
        records = claimed_records(rows, partition_of, lease_id, holder, now)
        self._scan_starts.learn(limits, records, now, footer[9])
        times = (now if more else None, footer[8] and footer[8] - ahead, self._scan_starts.until(limits))
        return Claimed(records, footer[7], min((at for at in times if at is not None), default=None))

    async def other_tables(self) -> list[str]:
        """Return the tables of other installations that this user can read. Raises StoreError."""
        return [name for (name,) in await self._rows((self._statements.others,))]

    async def notify(self, notifications: Sequence[Notification]) -> None:
        if notifications:
            await self._rows((self._statements.notify, self._channel, list(_payloads(notifications))))

    async def notified(self) -> AsyncIterator[Notification]:
        async for payload in self._connections.listen(self._channel):
            try:
                notifications = msgspec.json.decode(payload, type=list[Notification])
            except UNREADABLE:
                logger.warning("ignored a notification of another program", extra={"channel": self._channel})
                continue
            for notification in notifications:
                yield notification

    # --- What `SqlStore` asks for ---

    async def _renew(
        self, renewals: Sequence[Renewal], ids: Mapping[Partition, int], now: Instant
    ) -> tuple[Collection[int], Instant]:
        values = RENEW.values(
            renewals={
                **names_of([renewal.key for renewal in renewals], ids),
                "lease_id": [renewal.lease_id for renewal in renewals],
                "length": [renewal.length for renewal in renewals],
            },
            scalars=(now,),
        )
        ((backend_now, positions),) = await self._rows((self._statements.renew, *values))
        return positions or (), backend_now

    async def _count(
        self, partition: int, task: str | None, now: Instant, last_end: Instant, limit: int
    ) -> Sequence[int]:
        query = (self._statements.count_due, partition, task, now, last_end, limit)
        numbers: Sequence[int]
        (numbers,) = await self._rows(query)
        return numbers

    async def _write_completions(self, changes: Sequence[Located]) -> Collection[int]:
        return await self._changed_ids((self._statements.complete, *completion_values(changes)))

    async def _write(
        self, changes: Sequence[Located], history: Sequence[HistoryWrite], ids: Mapping[Partition, int]
    ) -> Collection[int]:
        together = has_groups(change for _, change in changes)
        statement = self._statements.swap_together if together else self._statements.swap
        return await self._changed_ids((statement, *swap_values(changes, history, ids)))

    async def _changed_ids(self, query: Query) -> Collection[int]:
        ids: Collection[int] | None
        ((ids,),) = await self._rows(query)
        return ids or ()

    async def _reserve_ids(self) -> int:
        ((first,),) = await self._rows((self._statements.next_ids,))
        return int(first)


def _payloads(notifications: Sequence[Notification]) -> Iterator[str]:
    """Yield one payload, or several if one would be too long. A name that fits in none is left out."""
    text = msgspec.json.encode(notifications)
    if len(text) <= PAYLOAD_BYTES_MAX:
        yield text.decode()
    elif len(notifications) > 1:
        half = len(notifications) // 2
        yield from _payloads(notifications[:half])
        yield from _payloads(notifications[half:])
