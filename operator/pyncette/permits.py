"""Keeps the limit of a task on all workers together: each of its runs has a permit, which is a record that is leased."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from itertools import count
from typing import Final

import msgspec

from pyncette.clock import MILLISECOND, SECOND, Clock, Duration, Instant
from pyncette.core.record import RESERVED_REALMS, Change, Key, Partition, Record, replace
from pyncette.core.spec import Policies, Spec
from pyncette.errors import StoreError
from pyncette.store.base import Renewal, Store

logger = logging.getLogger(__name__)

PERMITS_REALM: Final = f"{RESERVED_REALMS}permits"
"""
The permits of a task are a partition here, and a free one is a record that is due: so to claim is to take some, and
what a worker that died has held is free again when its leases end. No leader hands them out.
"""

RETRY_PAUSE: Final[Duration] = 250 * MILLISECOND
"""About so long who found no permit waits before it looks again: it is what a run that had to wait loses."""

TURN: Final[Duration] = 2 * SECOND
"""So long a permit goes from run to run of one worker. Then it is anybody's, since others may have waited for it."""

CREATED_MAX: Final = 500
"""Permits that are created in one write."""


class Permit:
    """The right to one run of a task. A worker holds it from before the run until its handler has ended."""

    __slots__ = ("_clock", "lease_until", "length", "pool", "record", "since")

    def __init__(self, pool: Pool, record: Record, asked_at: Duration, clock: Clock) -> None:
        self.pool = pool
        self.record = record
        self.since = asked_at
        """When it was taken, by the monotonic clock."""
        self.length = pool.length
        self.lease_until = asked_at + record.lease_length
        """Until when it is surely ours, by the monotonic clock."""
        self._clock = clock

    @property
    def is_surplus(self) -> bool:
        """Whether the limit was lowered below it."""
        return int(self.record.key.instance) >= self.pool.limit

    @property
    def renewal(self) -> Renewal:
        assert self.record.lease is not None
        return Renewal(self.record.key, self.record.lease.id, self.length)

    def remaining(self) -> Duration:
        """How long it is surely ours, if nobody renews it; not negative."""
        return max(0, self.lease_until - self._clock.monotonic())

    def lose(self) -> None:
        """Take note that it is somebody else's."""
        self.lease_until = 0

    def given_back(self) -> Change:
        """Return what frees it, or removes it if there are too many; it lasts as long as the leases of runs do now."""
        record = self.record
        if self.is_surplus:
            return Change(record, None)
        after = replace(
            record,
            version=record.version + 1,
            lease_length=self.pool.length,
            attempt=0,
            began_at=None,
            lease=None,
        )
        return Change(record, after)


class Permits:
    """The permits that this worker holds, task by task. *freed* is told when there may be room for a run again."""

    def __init__(self, store: Store, clock: Clock, holder: str, freed: Callable[[Instant], None]) -> None:
        self.store = store
        self.clock = clock
        self.holder = holder
        self.freed = freed
        self.stopping = False
        self._lease_ids = (f"{secrets.token_hex(8)}-p{number:x}" for number in count())
        self._pools: dict[tuple[str, str, str], Pool] = {}
        self._to_return: list[Permit] = []
        self._returning: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether none is on its way back."""
        return self._returning is None

    def pool(self, partition: Partition, task: str, policies: Policies) -> Pool:
        """Return the permits of *task*, whose records are in *partition* and others of its handler."""
        place = (partition.realm, partition.handler, task)
        pool = self._pools.get(place)
        if pool is None:
            pool = self._pools[place] = Pool(self, place)
        pool.limit = policies.max_concurrent
        pool.length = policies.lease
        return pool

    async def take(self, numbers: Mapping[Pool, int]) -> None:
        """Take permits until so many of each pool are free here, as far as others leave some. Raises StoreError."""
        missing = {pool: short for pool, number in numbers.items() if (short := pool.missing(number))}
        await self._claim(missing)
        unmade = [pool for pool in missing if not pool.is_made]
        for pool in unmade:
            await pool.make()
        await self._claim({pool: short for pool in unmade if (short := pool.missing(numbers[pool]))})
        for pool in missing:
            if not pool.free:
                pool.wait()

    async def _claim(self, wanted: Mapping[Pool, int]) -> None:
        if not wanted:
            return
        clock = self.clock
        pools = {pool.partition: pool for pool in wanted}
        limits = {pool.partition: number for pool, number in wanted.items()}
        asked_at, now = clock.monotonic(), clock.now()
        claimed = await self.store.claim(limits, next(self._lease_ids), self.holder, now, clock.expired_at())
        answered_at = clock.monotonic()
        clock.observe(claimed.backend_now, asked_at, answered_at)
        held_since = asked_at - clock.lag(now, claimed.backend_now, asked_at, answered_at)
        for record in claimed.records:
            pool = pools[record.key.partition]
            permit = Permit(pool, record, held_since, clock)
            if permit.is_surplus:
                self.give_back([permit])
            else:
                pool.free.append(permit)

    def give_back_free(self) -> None:
        """Give back what no run has: this worker can start nothing now."""
        for pool in self._pools.values():
            pool.give_back_free()

    def give_back(self, permits: Sequence[Permit]) -> None:
        """Have *permits* given back soon, together with others."""
        self._to_return += permits
        if self._to_return and self._returning is None:
            self._returning = asyncio.get_running_loop().create_task(self._return())

    async def given_back(self) -> None:
        """Return once all that was to be given back is."""
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
                    await self.store.swap([permit.given_back() for permit in batch.values()])
                except StoreError as error:  # their leases end
                    logger.debug("permits were not given back", extra={"error": str(error)})
        finally:
            self._returning = None


class Pool:
    """The permits of one task: those that this worker holds, and how it comes by more."""

    def __init__(self, permits: Permits, place: tuple[str, str, str]) -> None:
        self.limit = 0
        self.length: Duration = 0
        self.is_wanted = False
        """Whether something seems to be due for which there is no permit here."""
        self.is_busy = False
        """Whether there was more to run than there were permits for."""
        self.free: list[Permit] = []
        self.retry_at: Instant = 0
        """Before then it is of no use to look for more."""
        self._permits = permits
        self._task = place[2]
        self.partition = Partition(
            PERMITS_REALM, blake2b("\0".join(place).encode(), digest_size=16).hexdigest()
        )
        self._used = 0
        self._made_for = 0

    @property
    def is_made(self) -> bool:
        """Whether there are as many permits as the limit says, and no more, whoever has them."""
        return self._made_for == self.limit

    @property
    def holds_all(self) -> bool:
        """Whether there is none that others have, or nobody."""
        return self._used + len(self.free) >= self.limit

    def missing(self, number: int) -> int:
        """Return how many permits there are to be taken, to have *number* that are free."""
        return max(0, min(number, self.limit - self._used) - len(self.free))

    def wait(self) -> None:
        """Leave the others a while, in which they take what is free."""
        self.retry_at = self._permits.clock.now() + int(RETRY_PAUSE * random.uniform(1, 2))

    def pop(self) -> Permit | None:
        """Return a permit for a run, or None if none is left that is surely ours for a while."""
        while self.free:
            permit = self.free.pop()
            if self._is_good(permit):
                self._used += 1
                return permit
            self._permits.give_back([permit])
        return None

    def put(self, permit: Permit) -> None:
        """Take *permit* back from a run that has ended: for the next one, or for others."""
        self._used -= 1
        clock = self._permits.clock
        over = clock.monotonic() - permit.since > TURN
        if self.is_busy and not over and not self._permits.stopping and self._is_good(permit):
            self.free.append(permit)
            self._permits.freed(clock.now())
            return
        self._permits.give_back([permit])
        if self.is_busy:
            self.wait()
            self._permits.freed(self.retry_at)

    def give_back_free(self) -> None:
        """Give back what no run has."""
        if self.free:
            self._permits.give_back(self.free)
            self.free = []

    def _is_good(self, permit: Permit) -> bool:
        """Say whether a run may begin with it: it is surely ours for a while, and renewed from then on."""
        return permit.remaining() > permit.length // 2 and not permit.is_surplus

    async def make(self) -> None:
        """Create those that are not there yet, and remove those that are too many; each worker does once for a limit."""
        now = self._permits.clock.now()
        size = min(CREATED_MAX, self._permits.store.capabilities.swap_batch_max)
        for first in range(0, self.limit, size):
            numbers = range(first, min(first + size, self.limit))
            await self._permits.store.swap(
                [Change(None, self._new_record(number, now)) for number in numbers]
            )
        await self._remove_surplus(now)
        self._made_for = self.limit

    async def _remove_surplus(self, now: Instant) -> None:
        """Remove what a higher limit has left and nobody holds: it would be taken last, and so never be seen."""
        last = Key(self.partition, self._task, f"{self.limit - 1:05}")
        store = self._permits.store
        while left := await store.scan(self.partition, self._task, last, CREATED_MAX):
            free = [record for record in left if record.lease is None or record.lease.expires_at <= now]
            await store.swap([Change(record, None) for record in free])
            last = left[-1].key

    def _new_record(self, number: int, now: Instant) -> Record:
        return Record(
            key=Key(self.partition, self._task, f"{number:05}"),
            spec=Spec(args=msgspec.Raw(b"{}")),
            version=now,
            fence=now,
            due_at=None,
            schedule_since=now,
            claimable_at=number,  # long ago: the first are taken first, so what a lower limit leaves over is not
            lease_length=self.length,
        )
