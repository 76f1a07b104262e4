"""Looks for what is due: sleeps until something may be claimable, claims as much as there are slots, and has it started."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from itertools import count
from typing import Final

from pyncette.clock import MILLISECOND, SECOND, Clock, Duration, Instant, synchronize
from pyncette.coordination.assignment import ORPHAN_AGE, PartitionAssignment
from pyncette.coordination.permits import Permits, Pool
from pyncette.core.record import Partition
from pyncette.core.rules import NEVER
from pyncette.errors import SchemaError, StoreError, StoreRefusedError
from pyncette.ledger.ledger import ANNOUNCED_AHEAD, Ledger
from pyncette.store.base import Claimed, Notification
from pyncette.worker.backoff import Patience
from pyncette.worker.completions import Outbox
from pyncette.worker.dispatch import Starts
from pyncette.worker.occurrence import Registration
from pyncette.worker.run import Runs

logger = logging.getLogger(__name__)

SAFETY_LOOK: Final[Duration] = 10 * SECOND
"""Where the backend notifies, a look comes at least this often: a notification may get lost."""

STANDSTILL: Final[Duration] = 1 * SECOND
"""A poll that comes so much later than planned tells that the process has stood still."""

BEATEN_PAUSE: Final[Duration] = 10 * MILLISECOND
"""
The pause after a poll that got less than was claimable: a record was locked or cannot be read, or others were faster.
It doubles from poll to poll, until a poll gets something or nothing more is claimable.
"""

LOCKED_PAUSE_MAX: Final[Duration] = 80 * MILLISECOND
"""The longest of these pauses while the lock may be our own: a run starts at most 100 ms after the lock ends."""

LOCK_MAX: Final[Duration] = 10 * SECOND
"""Backends end our own statements after this time, so a lock that lasts longer belongs to another program."""

BEATEN_PAUSE_MAX: Final[Duration] = 1 * SECOND
"""The longest of these pauses, since each worker may repeat such a poll for hours."""

FOR_ALL: Final[Instant] = 0
"""In a notification: somebody cannot do what is its own, and whoever has a slot is to look."""

HINT_PAUSE_SECONDS: Final = 0.1
"""A worker that has no slot for what is due says so at most this often, for those that have."""


class Pauses:
    """The pauses between polls that got less than was claimable."""

    def __init__(self) -> None:
        self._last: Duration = 0
        self._total: Duration = 0

    def next(self) -> Duration:
        """Return how long to pause now."""
        longest = LOCKED_PAUSE_MAX if self._total < LOCK_MAX else BEATEN_PAUSE_MAX
        self._last = min(max(2 * self._last, BEATEN_PAUSE), longest)
        self._total += self._last
        return self._last

    def reset(self) -> None:
        """Begin with the shortest pause again."""
        self._last = self._total = 0


class Poller:
    """Claims, and hands over to the runs."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        runs: Runs,
        outbox: Outbox,
        patience: Patience,
        registrations: Sequence[Registration],
        holder: str,
        batch_size: int,
        interval: Duration,
        ahead: Duration,
        polling: Callable[[], AbstractContextManager[None]],
        assignment: PartitionAssignment | None = None,
    ) -> None:
        self._store = ledger.store
        self._clock = clock
        self._runs = runs
        self._outbox = outbox
        self._patience = patience
        self._registrations = registrations
        self._holder = holder
        self._batch_size = batch_size
        self._interval = SAFETY_LOOK if self._store.capabilities.notifies else interval
        self._ahead = ahead
        self._lead = ahead // 2
        """
        How long before something is due the look comes that claims it: longer than a claim takes. What is due soon
        after it is claimed along, so that what is due one by one does not cost a claim each.
        """
        self._polling = polling
        self._assignment = (
            assignment if any(registration.shared_among for registration in registrations) else None
        )
        """What falls to this worker of partitions that are shared out; None: all of them, or nothing is."""
        self._woken = asyncio.Event()
        self._next_at: Instant = 0
        self._stopping = False
        self._parked = False
        self._full = False
        self._ended = False
        self._polled_at: Instant | None = None
        self._round: list[Partition] = []
        """Partitions that are still to be looked at before the worker may sleep."""
        self._round_next_at: Instant = NEVER
        self._round_stale_at = 0.0
        """When to look at everything again by the loop's time: others may have changed something unnoticed."""
        self._beaten = False
        """Whether a poll of this round got less than was claimable, so that the next round comes after a pause."""
        self._pauses = Pauses()
        self._hungry: list[Partition] = []
        """Partitions that may hold more than their share let through: they are asked beside the rounds."""
        self._hungry_waited = False
        """Whether a round has begun since the hungry ones were last asked."""
        self._shared_among = {
            registration.handler: registration.shared_among
            for registration in registrations
            if registration.shared_among
        }
        self._turn = 0
        self.claimed = 0
        """Occurrences, so far."""
        self._unasked: set[Pool | None] = set()
        """Permits for which the last look did not ask all partitions that it was to ask: there were too few."""
        self._permits = Permits(self._store, clock, holder, self._permit_freed)
        self._starts = Starts(ledger, clock, runs, outbox, self._permits, ahead, self.wake, self.poll_soon)
        self._lease_ids = (f"{secrets.token_hex(8)}-{number:x}" for number in count())

    @property
    def polled_at(self) -> Instant | None:
        """When the last look ended; now, while it waits for the next one to be worth it."""
        return self._clock.now() if self._parked and self._polled_at is not None else self._polled_at

    @property
    def starting(self) -> AbstractSet[asyncio.Task[None]]:
        """Each writes what has to stand before a run, and then starts it."""
        return self._starts.starting

    @property
    def backlogged(self) -> int:
        """How many partitions had more that was due than the last look could take."""
        return len(set(self._hungry))

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to claim, as far as is known, or no slot to claim it for; and nothing is being started."""
        if self._starts.starting or not self._permits.is_idle:
            return False
        if self._ended:
            return True
        if self._full:
            return not self._runs.freed.is_set()
        if self._beaten or self._is_look_at_others_due():
            return False
        return self._parked and not self._woken.is_set() and self._next_at > self._clock.now()

    def wake(self, partition: Partition, at: Instant) -> None:
        """Take note that something is claimable at *at*; that it is for whoever can, if that is `FOR_ALL`."""
        if self._assignment is not None:
            if at == FOR_ALL:
                self._assignment.hurry()
                self._woken.set()
            if not self._is_ours(partition, self._shared_among.get(partition.handler, 0)):
                return
        at -= self._lead
        # A round of several looks sets the time of the next one anew with each; this one must not be forgotten in between.
        self._round_next_at = min(self._round_next_at, at)
        if at < self._next_at:
            self._next_at = at
            self._woken.set()

    def poll_soon(self) -> None:
        """Look at everything again, as soon as there is a slot; also at what this round has looked at already."""
        self._round_next_at = 0
        self._next_at = 0
        self._woken.set()

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopping = True
        self._permits.stopping = True
        self._woken.set()
        self._runs.freed.set()

    async def hand_over(self) -> None:
        """Tell those that stay when something is next claimable: what this worker has written last, only it has seen."""
        partitions = [
            partition for registration in self._registrations for partition in registration.partitions
        ]
        now = self._clock.now()
        next_at = now if self._beaten else max(self._next_at, now)
        if not partitions or next_at == NEVER or not self._store.capabilities.notifies:
            return
        if next_at > self._clock.latest_after(ANNOUNCED_AHEAD):
            return  # other workers find it by polling
        at = FOR_ALL if self._assignment is not None else next_at
        try:
            await self._store.notify([Notification(partitions[0], at)])
        except StoreError as error:
            logger.debug("nothing handed over", extra={"error": str(error)})

    async def run(self) -> None:
        """Look whenever it may be worth it, until stopped."""
        waits = self._patience.waits()
        while not self._stopping:
            if self._runs.free <= 0 or self._outbox.is_full:
                await self._wait_for_a_slot()
            elif self._next_at > self._clock.now() and not self._is_look_at_others_due():
                await self._park()
            else:
                try:
                    await self._read_time()
                    if self._is_look_at_others_due():
                        await self._look_at_others()
                    else:
                        await self._look()
                except SchemaError:
                    raise
                except StoreError as error:
                    if isinstance(error, StoreRefusedError) and self._polled_at is None:
                        raise  # a right that was missing from the start is no accident that passes
                    self._round, self._hungry = [], []
                    self._next_at = 0
                    await self._patience.wait("nothing is claimed in the meantime", error, waits)
                else:
                    self._patience.answered()
                    waits = self._patience.waits()
        self._ended = True
        await self.finish()
        self._permits.release_free()

    async def _read_time(self) -> None:
        """
        Read the backend's time if this process has stood still: the clock may have stepped in the meantime.

        Every poll brings the time, so a process that polls on schedule never reads it here.
        """
        if self._clock.is_stale(self._interval + STANDSTILL):
            await synchronize(self._clock, self._store.now)

    async def finish(self) -> None:
        """Return once all that was claimed is started, or never will be: what takes too long is given up."""
        await self._starts.finish()

    async def release_permits(self) -> None:
        """Return once nobody has to wait for a permit that this worker held."""
        await self._permits.released()

    async def _park(self) -> None:
        self._permits.release_free()
        # What others may have changed unnoticed is looked for in real time, also where time is pretended.
        look = asyncio.get_running_loop().call_at(self._round_stale_at, self.poll_soon)
        until = self._next_at
        if self._assignment is not None:
            until = min(until, self._clock.now() + self._assignment.next_look_in())
        self._parked = True
        try:
            await self._clock.wait(self._woken, None if until == NEVER else until)
        finally:
            look.cancel()
            self._parked = False
            self._polled_at = self._clock.now()  # the wait counted as a look up to here
            self._woken.clear()

    async def _wait_for_a_slot(self) -> None:
        """Wait, and if something falls due in the meantime tell the others: they may have slots, and not know of it."""
        self._permits.release_free()
        self._runs.freed.clear()
        if self._runs.free > 0 and not self._outbox.is_full:
            return
        self._full = True
        try:
            async with asyncio.timeout(HINT_PAUSE_SECONDS):
                await self._runs.freed.wait()
                return
        except TimeoutError:
            pass
        finally:
            self._full = False
        now = self._clock.now()
        if not self._outbox.is_full:
            self._polled_at = now  # a worker whose slots are all taken does what it can, and is healthy
        if self._store.capabilities.notifies and now >= self._next_at:
            partitions = [
                partition for registration in self._registrations for partition in registration.partitions
            ]
            try:
                at = FOR_ALL if self._assignment is not None else now
                await self._store.notify([Notification(partition, at) for partition in partitions])
            except StoreError as error:
                logger.debug("no hint given", extra={"error": str(error)})

    async def _look(self) -> None:
        clock = self._clock
        now = clock.now()
        self._next_at = NEVER  # whoever wakes us from here on has news
        by_partition = {
            partition: registration
            for registration in self._registrations
            for partition in registration.partitions
        }
        await self._take_permits(now)
        # Taking permits may have been slow, and a lease must not count from later than its stamp.
        asked_at, now = clock.monotonic(), clock.now()
        limits = self._limits(by_partition, now)
        if not limits:
            self._permits.release_free()
            self._plan(None, limits, now)
            self._polled_at = now
            return
        with self._polling():
            claimed = await self._store.claim(
                limits, next(self._lease_ids), self._holder, now, clock.expired_at(), self._ahead
            )
        answered_at = clock.monotonic()
        self.claimed += len(claimed.records)
        for length in {record.lease_length for record in claimed.records}:
            clock.expect_lease(length)
        clock.observe(claimed.backend_now, asked_at, answered_at)
        held_since = asked_at - clock.lag(now, claimed.backend_now, asked_at, answered_at)
        self._starts.start(claimed.records, by_partition, now, held_since)
        self._plan(claimed, limits, now)
        self._judge_permits(claimed, limits, by_partition, now)
        self._polled_at = clock.now()

    def _limits(self, by_partition: dict[Partition, Registration], now: Instant) -> dict[Partition, int]:
        """Share the free slots among the partitions whose turn it is, equally."""
        free = min(self._runs.free, self._batch_size, self._runs.half)
        asked = self._asked(by_partition, free, now)
        share = max(1, free // max(1, len(asked)))
        limits: dict[Partition, int] = {}
        room: dict[str, int] = {}
        pools = {
            partition: self._pool(by_partition[partition]) for partition in asked if partition in by_partition
        }
        asked_of = Counter(pools.values())
        permitted: dict[Pool, int] = {}
        later = []
        for partition in asked:
            registration = by_partition.get(partition)
            if registration is None:
                continue
            free_for = self._runs.free_for(registration)
            limit = min(share, room.get(registration.handler, free_for))
            pool = pools[partition]
            if pool is not None and limit > 0:
                if not pool.free:
                    self._look_without_permits(partition, pool, limits, now)
                    continue
                left = permitted.setdefault(pool, len(pool.free))
                limit = min(limit, left, max(1, len(pool.free) // asked_of[pool]))
                permitted[pool] = left - limit
            if limit > 0:
                limits[partition] = limit
                if registration.concurrency_limit is not None:
                    room[registration.handler] = room.get(registration.handler, free_for) - limit
            elif free_for > 0:
                # Another partition of its handler was given what its limit leaves, and may not need it.
                later.append(partition)
        self._round = later + self._round
        self._unasked = {pools[partition] for partition in later}
        return limits

    # --- What is shared out ---

    def _is_ours(self, partition: Partition, shared_among: int) -> bool:
        return (
            not shared_among or self._assignment is None or self._assignment.is_ours(partition, shared_among)
        )

    def _is_look_at_others_due(self) -> bool:
        return self._assignment is not None and self._assignment.next_look_in() <= 0

    async def _look_at_others(self) -> None:
        """Take what others have left alone of what is theirs: they may be gone, or have no slot."""
        assert self._assignment is not None
        is_our_turn = await self._assignment.look()
        if self._assignment.is_new:
            self._assignment.is_new = False
            self.poll_soon()
        if not is_our_turn:
            return
        theirs = {
            partition: registration
            for registration in self._registrations
            for partition in registration.partitions
            if not self._is_ours(partition, registration.shared_among)
        }
        left = list(theirs)
        while left and (free := min(self._runs.free, self._batch_size, self._runs.half)) > 0:
            asked, left = left[:free], left[free:]
            # Of a handler that has a limit of its own, no more than that leaves: the rest is found in time.
            limits: dict[Partition, int] = {}
            room: dict[str, int] = {}
            for partition in asked:
                registration = theirs[partition]
                free_for = room.get(registration.handler, self._runs.free_for(registration))
                limit = min(max(1, free // len(asked)), free_for)
                if limit > 0:
                    limits[partition] = limit
                if registration.concurrency_limit is not None:
                    room[registration.handler] = free_for - limit
            if limits:
                await self._take_what_is_left(limits, theirs)

    async def _take_what_is_left(
        self, limits: dict[Partition, int], theirs: dict[Partition, Registration]
    ) -> None:
        assert self._assignment is not None
        clock = self._clock
        # As it would have been a while ago: what is due since then is still for its own worker.
        now = clock.now()
        then = now - ORPHAN_AGE
        asked_at = clock.monotonic()
        with self._polling():
            claimed = await self._store.claim(
                limits, next(self._lease_ids), self._holder, then, clock.expired_at() - ORPHAN_AGE
            )
        answered_at = clock.monotonic()
        clock.observe(claimed.backend_now, asked_at, answered_at)
        self.claimed += len(claimed.records)
        held_since = asked_at - clock.lag(now, claimed.backend_now, asked_at, answered_at) - ORPHAN_AGE
        self._starts.start(claimed.records, theirs, then, held_since)
        for partition in {record.key.partition for record in claimed.records}:
            self._assignment.adopt(partition)
            self.poll_soon()

    # --- Permits ---

    def _pool(self, registration: Registration) -> Pool | None:
        """Return the permits of a handler whose runs have a limit on all workers together."""
        policies = registration.policies
        partitions = registration.partitions
        if not policies.max_concurrent or not partitions:
            return None
        pool = self._permits.pool(partitions[0], registration.handler, policies)
        pool.limited = partitions
        return pool

    async def _take_permits(self, now: Instant) -> None:
        """Take permits for what seems to be due, as many as can be used at once."""
        wanted: dict[Pool, int] = {}
        for registration in self._registrations:
            pool = self._pool(registration)
            if pool is not None and pool.is_wanted and now >= pool.retry_at and not pool.holds_all:
                wanted[pool] = min(self._runs.free_for(registration), self._batch_size, self._runs.half)
        if wanted:
            await self._permits.take(wanted)

    def _forget_wants(self, handlers: AbstractSet[str]) -> None:
        """Want no permits but for *handlers*: others may have been disabled, or fall to other workers."""
        for registration in self._registrations:
            pool = None if registration.handler in handlers else self._pool(registration)
            if pool is not None:
                pool.is_busy = pool.is_wanted = False

    def _look_without_permits(
        self, partition: Partition, pool: Pool, limits: dict[Partition, int], now: Instant
    ) -> None:
        """Ask only whether something is due; or nothing, if that is known, and others have all permits."""
        if not pool.is_wanted:
            limits[partition] = 0
        elif now < pool.retry_at:
            self._round_next_at = min(self._round_next_at, pool.retry_at)
        # Else this worker has all there are, and the end of a run tells.

    def _judge_permits(
        self,
        claimed: Claimed,
        limits: dict[Partition, int],
        by_partition: dict[Partition, Registration],
        now: Instant,
    ) -> None:
        """Find out for which handlers there is more to do than they have permits for, and give back what is not needed."""
        pools = {
            partition: pool
            for partition in limits
            if (pool := self._pool(by_partition[partition])) is not None
        }
        if not pools:
            return
        taken = Counter(record.key.partition for record in claimed.records)
        full = {partition for partition, number in taken.items() if number >= limits[partition]}
        busy = {pools.get(partition) for partition in full} | self._unasked
        for pool in {pool for partition, pool in pools.items() if limits[partition]}:
            pool.is_busy = pool.is_wanted = pool.is_short = pool in busy
            if not pool.is_busy:
                pool.release_free()
        looked_at = [partition for partition in pools if not limits[partition]]
        at = claimed.next_claimable_at
        if not looked_at or at is None or at > now:
            return
        if (
            not full
        ):  # else it may be these of which there is more, so the others are asked once again, by themselves
            for partition in looked_at:
                pools[partition].is_busy = pools[partition].is_wanted = True
        self._round = looked_at + self._round
        self._next_at = min(self._next_at, now)

    def _permit_freed(self, at: Instant) -> None:
        """Look again for what had to wait, at *at*."""
        if at <= self._clock.now():
            self.poll_soon()
            return
        self._round_next_at = min(self._round_next_at, at)
        if at < self._next_at:
            self._next_at = at
            self._woken.set()

    # --- Whose turn it is ---

    def _asked(
        self, by_partition: dict[Partition, Registration], at_most: int, now: Instant
    ) -> list[Partition]:
        """
        Return whose turn it is.

        In a round, each that is not hungry is asked once; the answer tells when a further round is worth it. Until then
        those that are hungry have all slots, and after each round they have one look at least. So a backlog in one
        delays no other, and is itself not held up by their emptiness.
        """
        if not self._round and not (self._hungry and (self._hungry_waited or not self._is_round_due(now))):
            self._begin_round(by_partition)
        if self._round:
            asked, self._round = self._round[:at_most], self._round[at_most:]
        else:
            asked, self._hungry = self._hungry[:at_most], self._hungry[at_most:]
            self._hungry_waited = False
        return asked

    def _begin_round(self, by_partition: dict[Partition, Registration]) -> None:
        partitions = list(by_partition)
        self._turn = (self._turn + 1) % max(1, len(partitions))
        hungry = set(self._hungry)
        self._round = [
            partition
            for partition in partitions[self._turn :] + partitions[: self._turn]
            if partition not in hungry and self._is_ours(partition, by_partition[partition].shared_among)
        ]
        self._forget_wants({partition.handler for partition in (*self._round, *hungry)})
        self._round_next_at = NEVER
        if not self._beaten:
            self._pauses.reset()
        self._beaten = False
        self._hungry_waited = True
        self._round_stale_at = asyncio.get_running_loop().time() + self._interval / SECOND

    def _is_round_due(self, now: Instant) -> bool:
        return now >= self._round_next_at or asyncio.get_running_loop().time() >= self._round_stale_at

    def _plan(self, claimed: Claimed | None, limits: dict[Partition, int], now: Instant) -> None:
        """Decide when the next look is worth it."""
        if claimed is not None:
            taken = Counter(record.key.partition for record in claimed.records)
            hungry = [partition for partition, number in taken.items() if number >= limits[partition]]
            self._hungry += hungry
            at = claimed.next_claimable_at
            if claimed.records:
                self._pauses.reset()
            if at is not None and at > now:
                at += self._ahead - self._lead
            elif at is not None and not any(limits.values()):
                # Every limit was 0, for want of permits. By then some are free, or none can be had.
                at = now + BEATEN_PAUSE
            elif at is not None and not hungry:
                self._pause()
                at = None
            # Those that are hungry will be asked again. If all are, this tells of nobody else; if only some are, their
            # backlog may hide when the others are next due, and these have to be asked once more, by themselves.
            if at is not None and len(hungry) < len(limits):
                self._round_next_at = min(self._round_next_at, at)
        next_at = now if self._hungry or self._round else self._round_next_at
        self._next_at = min(self._next_at, next_at)

    def _pause(self) -> None:
        """Begin the next round after a pause, in real time even where time is pretended, since locks are real."""
        if not self._beaten:
            self._beaten = True
            again_at = asyncio.get_running_loop().time() + self._pauses.next() / SECOND
            self._round_stale_at = min(self._round_stale_at, again_at)
