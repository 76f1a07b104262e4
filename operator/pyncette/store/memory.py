"""Keeps records in the memory of this process, for tests and simulation: exact, deterministic and without a thread."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left, insort
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from itertools import chain, takewhile
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from pyncette.clock import Duration, Instant
from pyncette.core.record import Change, Key, Lease, Partition, Record, Run, replace
from pyncette.store.base import (
    HISTORY_ROWS_MAX,
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
from pyncette.store.codec import PoisonedRecordError, is_readable, log_poisoned

CAPABILITIES: Final = Capabilities(name="memory", notifies=True, shared=False, durable=False)

CHUNK_MAX: Final = 1000
"""A longer list is split in two. An insertion into a list of this length takes a microsecond."""

NOTIFICATIONS_MAX: Final = 10_000
"""Notifications that one listener may leave unread. It loses the rest, as the port allows."""

_T = TypeVar("_T", bound=tuple[Any, ...])


class MemoryBackend:
    """Memory that several stores of one event loop share. *now* is its clock, that of the system by default."""

    def __init__(self, now: Callable[[], Instant] | None = None) -> None:
        self.now = now or _system_time
        self.shelves: dict[Partition, _Indexed] = {}
        self.histories: dict[Key, dict[int, Run]] = {}
        self.listeners: set[asyncio.Queue[Notification]] = set()

    def shelf(self, partition: Partition) -> _Indexed:
        found = self.shelves.get(partition)
        if found is None:
            check_partition(partition)
            found = self.shelves[partition] = _Indexed()
        return found

    def poison(self, key: Key) -> None:
        """Make a record unreadable until it is written again."""
        self.shelf(key.partition).poisoned.add(key)


class MemoryStore:
    """A store on *backend*, which other stores may share; by default on a backend of its own."""

    def __init__(self, backend: MemoryBackend | None = None) -> None:
        self.backend = backend or MemoryBackend()

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def load(self, keys: Sequence[Key]) -> list[Record | None]:
        for key in keys:
            check_key(key)
        return [self.backend.shelf(key.partition).readable(key) for key in keys]

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        check_changes(changes)
        wins = [self._wins(change) for change in changes]
        broken = {change.group for change, ok in zip(changes, wins, strict=True) if change.group and not ok}
        made = [ok and change.group not in broken for change, ok in zip(changes, wins, strict=True)]
        for change, ok in zip(changes, made, strict=True):
            if ok:
                self._make(change)
        return made

    def _wins(self, change: Change) -> bool:
        key, before = _key_of(change), change.before
        stored = self.backend.shelf(key.partition).records.get(key)
        return (stored and stored.version) == (before and before.version)

    def _make(self, change: Change) -> None:
        before, after, rows, home, _ = change
        key = _key_of(change)
        shelf = self.backend.shelf(key.partition)
        stored = shelf.records.get(key)
        if rows:
            slots = self.backend.histories.setdefault(home or key, {})
            slots.update((row.slot, row.run) for row in rows)
        if after is not None:
            shelf.put(_with_kept_lease(after, before, stored))
            shelf.poisoned.discard(key)
        else:
            shelf.remove(key)
            if not key.occurrence:
                self.backend.histories.pop(key, None)

    async def claim(
        self,
        limits: Mapping[Partition, int],
        lease_id: str,
        holder: str,
        now: Instant,
        expired_at: Instant,
        ahead: Duration = 0,
    ) -> Claimed:
        until = now + ahead
        records: list[Record] = []
        soonest: list[Instant] = []
        for partition, limit in limits.items():
            shelf = self.backend.shelf(partition)
            for record in shelf.claimable(limit, until, expired_at):
                shelf.put(_leased(record, Lease(lease_id, holder, now + record.lease_length), now))
                readable = shelf.readable(record.key)
                if readable is not None:
                    records.append(readable)
            soonest += (at - ahead for at in shelf.next_claimable(until, expired_at))
        return Claimed(records, self.backend.now(), min(soonest, default=None))

    async def renew(self, renewals: Sequence[Renewal], now: Instant) -> Renewed:
        return Renewed([self._renew(renewal, now) for renewal in renewals], self.backend.now())

    def _renew(self, renewal: Renewal, now: Instant) -> bool:
        shelf = self.backend.shelf(renewal.key.partition)
        record = shelf.records.get(renewal.key)
        if record is None or record.lease is None or record.lease.id != renewal.lease_id:
            return False
        end = max(record.lease.expires_at, now + renewal.length)
        shelf.put(replace(record, lease=record.lease._replace(expires_at=end)))
        return True

    async def scan(
        self, partition: Partition, task: str | None, after: Key | None, limit: int
    ) -> list[Record]:
        shelf = self.backend.shelf(partition)
        page: list[Record] = []
        for key in shelf.keys.beginning_with(after or Key(partition, task or "")):
            if key == after:
                continue
            if task not in {None, key.task} or len(page) >= limit:
                break
            record = shelf.readable(key)
            if record is not None:
                page.append(record)
        return page

    async def count(
        self,
        partition: Partition,
        task: str | None,
        now: Instant,
        longest_lease: Duration,  # noqa: ARG002 - the index has all leases, however long
        limit: int,
    ) -> Counted:
        return self.backend.shelf(partition).counted(partition, task, now, limit)

    async def partitions(self, realm: str) -> list[Partition]:
        found = sorted(
            partition
            for partition, shelf in self.backend.shelves.items()
            if partition.realm == realm and shelf.records
        )
        check_partitions(len(found), realm)
        return found

    async def history(self, key: Key) -> list[Run]:
        rows = self.backend.histories.get(key, {})
        return sorted(rows.values(), key=lambda run: run.ended_at, reverse=True)[:HISTORY_ROWS_MAX]

    async def now(self) -> Instant:
        return self.backend.now()

    async def notify(self, notifications: Sequence[Notification]) -> None:
        for listener in self.backend.listeners:
            for notification in notifications:
                if not listener.full():
                    listener.put_nowait(notification)

    async def notified(self) -> AsyncIterator[Notification]:
        listener: asyncio.Queue[Notification] = asyncio.Queue(NOTIFICATIONS_MAX)
        self.backend.listeners.add(listener)
        try:
            while True:
                yield await listener.get()
        finally:
            self.backend.listeners.discard(listener)


class _Indexed:
    """
    The records of one partition, with indexes of due and of leased records.

    A record without a lease is in the index of due records at its `claimable_at`. A record with a lease is in the index of
    leased records, until the first claim after the lease has ended moves it. So claims do not read leased records.
    """

    def __init__(self) -> None:
        self.records: dict[Key, Record] = {}
        self.poisoned: set[Key] = set()
        self.keys: _Ordered[Key] = _Ordered()
        self._due: _Ordered[tuple[Instant, Key]] = _Ordered()
        self._leased: _Ordered[tuple[Instant, Key]] = _Ordered()
        self._filed: dict[Key, tuple[_Ordered[tuple[Instant, Key]], tuple[Instant, Key]]] = {}

    def readable(self, key: Key) -> Record | None:
        if key in self.poisoned:
            log_poisoned(PoisonedRecordError(key, "it was poisoned"))
            return None
        record = self.records.get(key)
        if record is not None and not is_readable(record.spec):
            log_poisoned(PoisonedRecordError(key, "it is too large"))
            return None
        return record

    def put(self, record: Record) -> None:
        key = record.key
        if key not in self.records:
            self.keys.add(key)
        self.records[key] = record
        self._unfile(key)
        if record.claimable_at is None:
            return
        if record.lease is None:
            self._file(self._due, (record.claimable_at, key))
        else:
            self._file(self._leased, (max(record.claimable_at, record.lease.expires_at), key))

    def remove(self, key: Key) -> None:
        del self.records[key]
        self.keys.remove(key)
        self.poisoned.discard(key)
        self._unfile(key)

    def claimable(self, limit: int, until: Instant, expired_at: Instant) -> list[Record]:
        self._file_the_expired(max(until, expired_at))
        found: list[Record] = []
        for at, key in self._due:
            if at > until or len(found) >= limit:
                break
            record = self.records[key]
            if record.lease is None or record.lease.expires_at <= expired_at:
                found.append(record)
        return found

    def next_claimable(self, until: Instant, expired_at: Instant) -> list[Instant]:
        """Return when the first due record and the first leased record are claimable, for a caller that waits."""
        found = [at for at, _ in self._leased.first()]
        for at, key in self._due:
            lease = self.records[key].lease
            if lease is None or lease.expires_at <= expired_at:
                found.append(at)
                break
            # A lease may look expired, but must not be taken over yet, if the clock of the claimer has stepped.
            found.append(max(at, lease.expires_at + until - expired_at))
        return found

    def counted(self, partition: Partition, task: str | None, now: Instant, limit: int) -> Counted:
        found = [
            self.records[key]
            for _, key in chain(takewhile(lambda entry: entry[0] <= now, self._due), self._leased)
            if task in {None, key.task}
        ]
        leased = sum(record.lease is not None and record.lease.expires_at > now for record in found)
        due = len(found) - leased
        total = None if task is None else sum(1 for _ in self._instances(partition, task))
        return Counted(min(due, limit), min(leased, limit), max(due, leased) < limit, total)

    def _instances(self, partition: Partition, task: str) -> Iterator[Key]:
        keys = takewhile(lambda key: key.task == task, self.keys.beginning_with(Key(partition, task)))
        return (key for key in keys if key.instance and not key.occurrence)

    def _file_the_expired(self, until: Instant) -> None:
        while (first := self._leased.first()) and first[0][0] <= until:
            _, key = first[0]
            self._unfile(key)
            record = self.records[key]
            assert record.claimable_at is not None
            self._file(self._due, (record.claimable_at, key))

    def _file(self, where: _Ordered[tuple[Instant, Key]], entry: tuple[Instant, Key]) -> None:
        where.add(entry)
        self._filed[entry[1]] = (where, entry)

    def _unfile(self, key: Key) -> None:
        filed = self._filed.pop(key, None)
        if filed is not None:
            where, entry = filed
            where.remove(entry)


class _Ordered(Generic[_T]):
    """A sorted set, as a list of short sorted lists, in which all operations are fast at any size."""

    def __init__(self) -> None:
        self._chunks: list[list[_T]] = []
        self._lasts: list[_T] = []

    def add(self, item: _T) -> None:
        if not self._chunks:
            self._chunks, self._lasts = [[item]], [item]
            return
        at = min(bisect_left(self._lasts, item), len(self._chunks) - 1)
        chunk = self._chunks[at]
        insort(chunk, item)
        if len(chunk) > CHUNK_MAX:
            half = len(chunk) // 2
            self._chunks[at : at + 1] = [chunk[:half], chunk[half:]]
            self._lasts.insert(at, chunk[half - 1])
            at += 1
        self._lasts[at] = self._chunks[at][-1]

    def remove(self, item: _T) -> None:
        at = bisect_left(self._lasts, item)
        chunk = self._chunks[at]
        del chunk[bisect_left(chunk, item)]
        if chunk:
            self._lasts[at] = chunk[-1]
        else:
            del self._chunks[at], self._lasts[at]

    def first(self) -> list[_T]:
        """Return the first item; None if the set is empty."""
        return self._chunks[0][:1] if self._chunks else []

    def beginning_with(self, item: _T) -> Iterator[_T]:
        """Iterate over the items from *item* on."""
        at = bisect_left(self._lasts, item)
        for index in range(at, len(self._chunks)):
            chunk = self._chunks[index]
            for position in range(bisect_left(chunk, item) if index == at else 0, len(chunk)):
                yield chunk[position]

    def __iter__(self) -> Iterator[_T]:
        for chunk in self._chunks:
            yield from chunk


def _key_of(change: Change) -> Key:
    known = change.before or change.after
    assert known is not None
    return known.key


def _with_kept_lease(after: Record, before: Record | None, stored: Record | None) -> Record:
    """Return the stored lease instead of one with the same id, since it may have been renewed."""
    if after.lease is None or stored is None or stored.lease is None or before is None:
        return after
    if before.lease is None or before.lease.id != after.lease.id:
        return after
    return replace(after, lease=stored.lease)


def _leased(record: Record, lease: Lease, now: Instant) -> Record:
    assert record.claimable_at is not None
    return replace(
        record,
        lease=lease,
        attempt=record.attempt + 1,
        version=record.version + 1,
        fence=record.fence + 1,
        began_at=max(now, record.claimable_at) if record.began_at is None else record.began_at,
    )


def _system_time() -> Instant:
    return time.time_ns() // 1000
