"""Enforces the limit of a task across all workers: each of its runs needs a permit, which is a leased record."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Final

from pyncette.clock import MILLISECOND, SECOND, Clock, Duration, Instant
from pyncette.coordination.permit_records import (
    missing_permits,
    new_permit,
    number_of,
    permit_partition,
    remove_permits,
)
from pyncette.core.log_messages import naming_logger
from pyncette.core.record import Change, Partition, Record, replace
from pyncette.core.spec import Policies
from pyncette.errors import StoreError
from pyncette.store.base import Renewal, Store

logger = naming_logger(__name__)

RETRY_PAUSE: Final[Duration] = 250 * MILLISECOND
"""About how long a worker without a permit waits before its next search; a waiting run loses that time."""

TURN: Final[Duration] = 2 * SECOND
"""How long one worker passes a permit from run to run. Then it is released, since others may wait for it."""

FIRST: Final = 8
"""Permits that are created at once, unless more are known to be needed: a task that rarely runs needs no more."""

FULL_PAUSE: Final[Duration] = 10 * SECOND
"""How long a worker that found no permit missing does not search again: all are assumed to be held."""


CLAIMED_AHEAD_MAX: Final[Duration] = 5 * SECOND
"""Records that are due within this time count as due: workers claim a few milliseconds ahead."""


class Permit:
    """The right to one run of a task. A worker holds it from before the run until its handler has ended."""

    __slots__ = ("_clock", "lease_until", "length", "record", "shared_limit", "since")

    def __init__(self, shared_limit: SharedLimit, record: Record, asked_at: Duration, clock: Clock) -> None:
        self.shared_limit = shared_limit
        self.record = record
        self.since = asked_at
        """When it was taken, by the monotonic clock."""
        self.length = shared_limit.length
        self.lease_until = asked_at + record.lease_length
        """Until when this worker certainly holds it, by the monotonic clock."""
        self._clock = clock

    @property
    def is_surplus(self) -> bool:
        """True if the limit was lowered below its number."""
        return number_of(self.record) >= self.shared_limit.limit

    @property
    def renewal(self) -> Renewal:
        assert self.record.lease is not None
        return Renewal(self.record.key, self.record.lease.id, self.length)

    def remaining(self) -> Duration:
        """Return how long this worker certainly holds it without a renewal; not negative."""
        return max(0, self.lease_until - self._clock.monotonic())

    def lose(self) -> None:
        """Record that another worker holds it."""
        self.lease_until = 0

    def released(self) -> Change:
        """Return the change that frees it, or removes it if it is surplus. Its next lease is as long as those of runs are now."""
        record = self.record
        if self.is_surplus:
            return Change(record, None)
        after = replace(
            record,
            version=record.version + 1,
            lease_length=self.shared_limit.length,
            attempt=0,
            began_at=None,
            lease=None,
        )
        return Change(record, after)


class Permits:
    """The permits that this worker holds, task by task. *freed* is called with the time from which there may be room for a run again."""

    def __init__(self, store: Store, clock: Clock, holder: str, freed: Callable[[Instant], None]) -> None:
        self.store = store
        self.clock = clock
        self.holder = holder
        self.freed = freed
        self.stopping = False
        self._lease_ids = (f"{secrets.token_hex(8)}-p{number:x}" for number in count())
        self._shared_limits: dict[tuple[str, str, str], SharedLimit] = {}
        self._to_return: list[Permit] = []
        self._returning: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """True if none is being released."""
        return self._returning is None

    def shared_limit(self, partition: Partition, task: str, policies: Policies) -> SharedLimit:
        """Return the permits of *task*, whose records are in *partition*, and perhaps in other partitions of its handler."""
        place = (partition.realm, partition.handler, task)
        shared_limit = self._shared_limits.get(place)
        if shared_limit is None:
            shared_limit = self._shared_limits[place] = SharedLimit(self, place)
        shared_limit.limit = policies.max_concurrent
        shared_limit.length = policies.lease
        shared_limit.limited = (partition,)
        return shared_limit

    async def take(self, numbers: Mapping[SharedLimit, int]) -> None:
        """Claim permits until each limit has its number of free ones here, as far as other workers leave any. Raises StoreError."""
        missing = {
            shared_limit: short
            for shared_limit, number in numbers.items()
            if (short := shared_limit.missing(number))
        }
        await self._claim(missing)
        for shared_limit in missing:
            await shared_limit.trim()
        grown = [
            shared_limit
            for shared_limit in missing
            if not shared_limit.free and await shared_limit.grow(shared_limit.missing(numbers[shared_limit]))
        ]
        await self._claim(
            {
                shared_limit: short
                for shared_limit in grown
                if (short := shared_limit.missing(numbers[shared_limit]))
            }
        )
        for shared_limit in missing:
            if not shared_limit.free:
                shared_limit.wait()

    async def _claim(self, wanted: Mapping[SharedLimit, int]) -> None:
        if not wanted:
            return
        clock = self.clock
        shared_limits = {shared_limit.partition: shared_limit for shared_limit in wanted}
        limits = {shared_limit.partition: number for shared_limit, number in wanted.items()}
        asked_at, now = clock.monotonic(), clock.now()
        claimed = await self.store.claim(limits, next(self._lease_ids), self.holder, now, clock.expired_at())
        answered_at = clock.monotonic()
        clock.observe(claimed.backend_now, asked_at, answered_at)
        held_since = asked_at - clock.lag(now, claimed.backend_now, asked_at, answered_at)
        for record in claimed.records:
            shared_limit = shared_limits[record.key.partition]
            permit = Permit(shared_limit, record, held_since, clock)
            if permit.is_surplus:
                self.release([permit])
            else:
                shared_limit.free.append(permit)

    def release_free(self) -> None:
        """Release the free permits: this worker cannot start runs now."""
        for shared_limit in self._shared_limits.values():
            shared_limit.release_free()

    def release(self, permits: Sequence[Permit]) -> None:
        """Queue *permits* to be released in a batch."""
        self._to_return += permits
        if self._to_return and self._returning is None:
            self._returning = asyncio.get_running_loop().create_task(self._return())

    async def released(self) -> None:
        """Return once all queued permits are released."""
        while self._returning is not None:
            await asyncio.wait([self._returning])

    async def _return(self) -> None:
        try:
            while self._to_return:
                # It may have expired on its way, and been taken once more: then the latter is the one that counts.
                size = self.store.capabilities.swap_batch_max
                batch = {permit.record.key: permit for permit in self._to_return[:size]}
                self._to_return = self._to_return[size:]
                try:
                    await self.store.swap([permit.released() for permit in batch.values()])
                except StoreError as error:  # their leases end
                    logger.debug("could not release permits; they will expire", extra={"error": str(error)})
        finally:
            self._returning = None


class SharedLimit:
    """A limit that all workers share, and the permits under it that this worker holds."""

    def __init__(self, permits: Permits, place: tuple[str, str, str]) -> None:
        self.limit = 0
        self.length: Duration = 0
        self.is_wanted = False
        """True if a record seems to be due that this worker has no permit for."""
        self.is_busy = False
        """True if the last poll found more records than permits."""
        self.is_short = False
        """True if the last claim used all permits."""
        self.free: list[Permit] = []
        self.retry_at: Instant = 0
        """A search for more is useless before this time."""
        self.limited: Sequence[Partition] = ()
        """Partitions of the limited records: without a record there, no permit is created."""
        self._permits = permits
        self._handler, self._task = place[1:]
        self.partition = permit_partition(*place)
        self._used = 0
        self._trimmed_to = 0
        """The limit above which permits were removed last."""
        self._made = 0
        """All permits with lower numbers exist, as far as is known."""
        self._full_until: Duration = 0

    @property
    def holds_all(self) -> bool:
        """True if this worker holds every permit."""
        return self._used + len(self.free) >= self.limit

    def missing(self, number: int) -> int:
        """Return how many permits to claim, to have *number* free ones."""
        return max(0, min(number, self.limit - self._used) - len(self.free))

    def wait(self) -> None:
        """Pause for a while, in which other workers can take free permits."""
        self.retry_at = self._permits.clock.now() + int(RETRY_PAUSE * random.uniform(1, 2))

    def pop(self) -> Permit | None:
        """Return a permit for a run that this worker certainly holds for a while; None if there is none."""
        while self.free:
            permit = self.free.pop()
            if self._is_good(permit):
                self._used += 1
                return permit
            self._permits.release([permit])
        return None

    def put(self, permit: Permit) -> None:
        """Take *permit* back from a run that has ended, for the next run or for other workers."""
        self._used -= 1
        clock = self._permits.clock
        over = clock.monotonic() - permit.since > TURN
        if self.is_busy and not over and not self._permits.stopping and self._is_good(permit):
            self.free.append(permit)
            self._permits.freed(clock.now())
            return
        self._permits.release([permit])
        if self.is_busy:
            self.wait()
            self._permits.freed(self.retry_at)

    def release_free(self) -> None:
        """Release the free permits."""
        if self.free:
            self._permits.release(self.free)
            self.free = []

    def _is_good(self, permit: Permit) -> bool:
        """Return whether a run may start with it: this worker certainly holds it until the first renewal."""
        return permit.remaining() > permit.length // 2 and not permit.is_surplus

    async def trim(self) -> None:
        """Remove free permits above the limit; each worker does so once for each limit. Raises StoreError."""
        if self._trimmed_to == self.limit:
            return
        limit = self.limit
        permits = self._permits
        await remove_permits(permits.store, self.partition, self._task, permits.clock.now(), limit=limit)
        self._made = self._full_until = 0
        self._trimmed_to = limit

    async def grow(self, short: int) -> bool:
        """
        Create missing permits for *short* runs, up to the limit, and return whether there may be more now.

        None are created in advance: a limit of thousands costs nothing while few runs are due. Raises StoreError.
        """
        clock, store = self._permits.clock, self._permits.store
        if clock.monotonic() < self._full_until or not await self._has_records():
            return False
        at_most = max(short, FIRST) if self.is_short else FIRST
        missing = await self._missing(self._made, at_most)
        if not missing and self._made:  # those of a task that was removed and created again may be
            missing = await self._missing(0, at_most)
        if not missing:
            self._full_until = clock.monotonic() + FULL_PAUSE
            return False
        now = clock.now()
        new = [new_permit(self.partition, self._task, number, self.length, now) for number in missing]
        size = store.capabilities.swap_batch_max
        for first in range(0, len(new), size):
            # One that exists by now was created by another worker: it has the same number, so the limit holds.
            await store.swap([Change(None, record) for record in new[first : first + size]])
        self._made = missing[-1] + 1
        return True

    async def _missing(self, first: int, at_most: int) -> list[int]:
        store = self._permits.store
        return await missing_permits(store, self.partition, self._task, first, self.limit, at_most)

    async def _has_records(self) -> bool:
        """Return whether there is a record to run: the permits of a removed task are not created again."""
        store = self._permits.store
        if self._task != self._handler:
            return bool(await store.scan(self.limited[0], self._task, None, 1))
        # Records of any task count towards the limit of a handler. The counters of a template remain, and are never due.
        soon = self._permits.clock.now() + CLAIMED_AHEAD_MAX
        for partition in self.limited:
            found = await store.count(partition, None, soon, self.length, 1)
            if found.due or found.leased:
                return True
        return False
