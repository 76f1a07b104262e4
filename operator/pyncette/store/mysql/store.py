"""Keeps records in MySQL or MariaDB: each verb is one script for its whole batch, sent at once."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from pyncette.clock import MILLISECOND, SECOND, Duration, Instant
from pyncette.core.record import Change, Partition, Record
from pyncette.errors import SchemaError, StoreRefusedError
from pyncette.store.base import Capabilities, Claimed, Notification, Renewal
from pyncette.store.mysql.address import Address
from pyncette.store.mysql.connection import MysqlConnections, Result
from pyncette.store.mysql.rows import completion_rows, swap_script
from pyncette.store.mysql.schema import creation, tables_named
from pyncette.store.mysql.statements import HEAD_MAX, Statements, name_of
from pyncette.store.schema import TABLE
from pyncette.store.sql.changes import HistoryWrite, Located, halves_of
from pyncette.store.sql.rows import claimed_records
from pyncette.store.sql.scan_start import ScanStarts
from pyncette.store.sql.store import SqlStore

HEAD_PAUSE: Final = SECOND
"""If a partition starts with more leased records than `peek` reads, the next claim comes after this time at the latest."""

USUAL_SCAN: Final = 20 * MILLISECOND
"""
A scan is slow if it takes longer; see `ScanStarts`. The time is that of one statement of a script, and a busy machine adds
to it. In this time a scan skips some ten thousand dead records.
"""

FREE: Final = 3
"""The column of `Statements.peek` that says how many records are claimable."""

COUNT: Final = 4
"""The column that says how many were read for that. If it is `HEAD_MAX`, there may be more."""

COMPLETED: Final = 1
"""The result of `Statements.complete` that counts the completions."""


class PacketTooLongError(Exception):
    """A script is longer than the server takes."""


class MysqlStore(SqlStore[str]):
    """
    A store in the tables whose names begin with *table*, in the database at *address*.

    With *create* missing tables are created; without it nothing but rows is ever written. *current_address* is called for
    each connection, and returns the address with the credentials that are valid now. Raises ValueError for an invalid
    name.
    """

    _connections: MysqlConnections
    _sql: Statements

    def __init__(
        self,
        address: Address,
        table: str = TABLE,
        *,
        create: bool = True,
        current_address: Callable[[], Address] | None = None,
    ) -> None:
        tables = tables_named(table)
        super().__init__(
            MysqlConnections(address, self._forget, current_address=current_address),
            tables.name,
            creation(tables),
            create=create,
            scan_starts=ScanStarts(USUAL_SCAN),
        )
        self._sql = Statements(tables)
        self._is_quiet = False
        """The last claim found nothing. The next one peeks first, which is one statement."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("mysql", notifies=False, shared=True, durable=True)

    async def other_tables(self) -> list[str]:
        """Return the tables of other installations that this user can read. Raises StoreError."""
        return [name for (name,) in await self._rows(self._sql.others)]

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
        if not limits:
            return Claimed([], await self.now(), None)
        ids = await self._ids_of(limits, add=True)
        begins = {partition: self._scan_starts.begin(partition, now) for partition in limits}
        peek = self._sql.peek(
            [(ids[partition], begins[partition]) for partition in limits], now + ahead, expired_at
        )
        seen: Sequence[Any] = ()
        records: list[Record] = []
        taken: Counter[int] = Counter()
        if self._is_quiet or not any(limits.values()):
            seen = await self._rows(peek)
        wanted = [(ids[partition], most, begins[partition]) for partition, most in limits.items() if most > 0]
        if wanted and (not seen or any(row[FREE] or row[COUNT] == HEAD_MAX for row in seen)):
            script = self._sql.claim(wanted, lease_id, holder, now, now + ahead, expired_at)
            _, _, (_, leased), (_, ((backend_now, took),)) = await self._results(script)
            partition_of = {ids[partition]: partition for partition in limits}
            records = claimed_records(list(leased), partition_of, lease_id, holder, now)
            self._scan_starts.learn(limits, records, now, took)
            self._is_quiet = not leased
            taken = Counter(map(itemgetter(1), leased))
            if any(taken[id_] >= most for id_, most, _ in wanted):
                return Claimed(records, backend_now, now)
        if not seen:
            # Records that are still claimable after this claim were locked during it, or have appeared since.
            taken.clear()
            seen = await self._rows(peek)
        is_free = any(
            row[FREE] and min(row[FREE], most or 1) > taken[ids[partition]]
            for row, (partition, most) in zip(seen, limits.items(), strict=True)
        )
        times = [
            now if is_free else None,
            *_times(seen, now, expired_at, ahead),
            *(record.lease.expires_at + now - expired_at for record in records if record.lease),
            self._scan_starts.until(limits),
        ]
        return Claimed(records, seen[0][0], min((at for at in times if at is not None), default=None))

    async def notify(self, notifications: Sequence[Notification]) -> None:
        """Do nothing: these servers have no way for one client to wake another."""

    async def notified(self) -> AsyncIterator[Notification]:
        await asyncio.Event().wait()
        yield Notification(Partition("", ""), 0)

    # --- What `SqlStore` asks for ---

    async def _renew(
        self, renewals: Sequence[Renewal], ids: Mapping[Partition, int], now: Instant
    ) -> tuple[Collection[int], Instant]:
        rows = [[*name_of(renewal.key, ids), renewal.lease_id, renewal.length] for renewal in renewals]
        _, positions, (_, ((backend_now,),)) = await self._results(self._sql.renew(rows, now))
        return [position for (position,) in positions.rows], backend_now

    async def _count(
        self, partition: int, task: str | None, now: Instant, last_end: Instant, limit: int
    ) -> Sequence[int]:
        script = self._sql.count(partition, task, now, last_end, limit)
        (_, (records,)), (_, (names,)) = await self._results(script)
        return [int(number or 0) for number in (*records, *names)]

    async def _write_completions(self, changes: Sequence[Located]) -> Collection[int]:
        results = await self._write_script(self._sql.complete(completion_rows(changes), _new_stamp()))
        if results[COMPLETED].found == len(changes):
            return [id_ for id_, _ in changes]
        return _ids_in(results)

    async def _write(
        self, changes: Sequence[Located], history: Sequence[HistoryWrite], ids: Mapping[Partition, int]
    ) -> Collection[int]:
        script = swap_script(self._sql, changes, history, ids, _new_stamp())
        return _ids_in(await self._write_script(script))

    async def _write_script(self, script: Sequence[str]) -> list[Result]:
        if self._connections.is_too_long(script):
            raise PacketTooLongError
        return await self._results(script)

    async def _swap(self, changes: Sequence[Change]) -> list[bool]:
        try:
            return await super()._swap(changes)
        except PacketTooLongError:
            return await self._swap_in_halves(changes)

    async def _swap_in_halves(self, changes: Sequence[Change]) -> list[bool]:
        """Make *changes* in two halves, since the server refuses all of them in one packet."""
        halves = halves_of(changes)
        if not halves:
            raise StoreRefusedError(
                f"{self._connections.place} refuses packets of more than {self._connections.packet_bytes_max} bytes,"
                " and a record is larger: raise max_allowed_packet"
            )
        made = [False] * len(changes)
        for places in halves:
            for place, ok in zip(places, await self._swap([changes[each] for each in places]), strict=True):
                made[place] = ok
        return made

    async def _reserve_ids(self) -> int:
        moved, ids = await self._results(self._sql.next_ids)
        if not moved.found:
            raise SchemaError(
                f"The tables in {self._connections.place} do not match this release: the row of ids is missing"
            )
        ((first,),) = ids.rows
        return int(first)

    async def _results(self, script: Sequence[str]) -> list[Result]:
        """Run *script*, and return the result of each statement. Raises StoreError."""
        return await self._retried(self._connections.fetch, script)


def _new_stamp() -> int:
    return secrets.randbelow(2**63 - 1) + 1


def _ids_in(results: Sequence[Result]) -> Collection[int]:
    return {id_ for result in results for (id_,) in result.rows}


def _times(
    rows: Sequence[Sequence[int | None]], now: Instant, expired_at: Instant, ahead: Duration
) -> list[Instant | None]:
    """Return when more records will be claimable, from the rows of `Statements.peek`."""
    times: list[Instant | None] = []
    for _, due_at, ends_at, _, count in rows:
        times.append(None if due_at is None else due_at - ahead)
        # A lease may look expired, but must not be taken over yet, if the clock of the claimer has stepped.
        times.append(None if ends_at is None else ends_at + now - expired_at)
        if count == HEAD_MAX:
            times.append(now + HEAD_PAUSE)
    return times
