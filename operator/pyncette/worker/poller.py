"""Polls for what is due: sleeps until something may be claimable, claims as much as there are slots, and has it started."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from pyncette.clock import SECOND, Clock, Duration, Instant, synchronize
from pyncette.coordination.assignment import ORPHAN_AGE
from pyncette.core.log_messages import naming_logger
from pyncette.core.record import Partition
from pyncette.core.runs import NEVER
from pyncette.errors import SchemaError, StoreError, StoreRefusedError
from pyncette.ledger.announcements import ANNOUNCED_AHEAD
from pyncette.store.base import Notification, Store
from pyncette.worker.backend_health import BackendHealth
from pyncette.worker.claims import Claim, Claims
from pyncette.worker.completions import Completions
from pyncette.worker.dispatch import Dispatch
from pyncette.worker.limits import Limits
from pyncette.worker.occurrence import Registration
from pyncette.worker.partitions import Partitions
from pyncette.worker.run import Runs
from pyncette.worker.signals import FOR_ALL, Signals
from pyncette.worker.turns import Turns

logger = naming_logger(__name__)

SAFETY_POLL: Final[Duration] = 10 * SECOND
"""Where the backend notifies, a worker polls at least this often: a notification may get lost."""

STANDSTILL: Final[Duration] = 1 * SECOND
"""A poll that comes this much later than planned shows that the process has stood still."""

HINT_PAUSE_SECONDS: Final = 0.1
"""A worker without a free slot for what is due notifies those that have one at most this often."""


class Poller:
    """The loop that claims, and hands claimed records over to be started."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        interval: Duration,
        *,
        turns: Turns,
        signals: Signals,
        partitions: Partitions,
        limits: Limits,
        claims: Claims,
        dispatch: Dispatch,
        runs: Runs,
        completions: Completions,
        health: BackendHealth,
    ) -> None:
        self._store = store
        self._clock = clock
        self._interval = interval
        self._turns = turns
        self._signals = signals
        self._partitions = partitions
        self._limits = limits
        self._claims = claims
        self._dispatch = dispatch
        self._runs = runs
        self._completions = completions
        self._health = health
        self._stopping = False
        self._ended = False
        self._parked = False
        """True while it waits for the next poll to be worth it."""
        self._full = False
        """True while it waits for a slot."""
        self._polled_at: Instant | None = None

    @property
    def polled_at(self) -> Instant | None:
        """When the last poll ended; now, while it waits for the next one to be worth it."""
        return self._clock.now() if self._parked and self._polled_at is not None else self._polled_at

    @property
    def is_idle(self) -> bool:
        """True if nothing is known to be claimable, or there is no slot to claim it for, and nothing is being started."""
        if self._dispatch.starting or not self._limits.is_idle:
            return False
        if self._ended:
            return True
        if self._full:
            return not self._signals.slot_freed.is_set()
        if self._turns.is_contended or self._is_assignment_due():
            return False
        is_waiting = self._parked and not self._signals.poll_sooner.is_set()
        return is_waiting and self._turns.next_at > self._clock.now()

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopping = True
        self._limits.stop()
        self._signals.poll_sooner.set()
        self._signals.slot_freed.set()

    async def hand_over(self) -> None:
        """Notify the other workers of when something is next claimable: only this one has seen its last writes."""
        partitions = list(self._partitions.all())
        now = self._clock.now()
        next_at = now if self._turns.is_contended else max(self._turns.next_at, now)
        if not partitions or next_at == NEVER:
            return
        if next_at > self._clock.latest_after(ANNOUNCED_AHEAD):
            return  # other workers find it by polling
        await self._notify(partitions[:1], next_at, "could not notify other workers on shutdown")

    async def run(self) -> None:
        """Poll whenever it may be worth it, until stopped."""
        delays = self._health.delays()
        while not self._stopping:
            if self._runs.free <= 0 or self._completions.is_full:
                await self._wait_for_a_slot()
            elif self._turns.next_at > self._clock.now() and not self._is_assignment_due():
                await self._park()
            else:
                try:
                    await self._read_time()
                    if self._is_assignment_due():
                        await self._follow_assignment()
                    else:
                        await self._poll()
                except SchemaError:
                    raise
                except StoreError as error:
                    if isinstance(error, StoreRefusedError) and self._polled_at is None:
                        raise  # a right that was missing from the start is no accident that passes
                    self._turns.start_over()
                    await self._health.wait("claims are paused", error, delays)
                else:
                    self._health.answered()
                    delays = self._health.delays()
        self._ended = True
        await self._dispatch.finish()
        self._limits.release_free()

    async def _read_time(self) -> None:
        """
        Read the backend's time if this process has stood still: the clock may have stepped in the meantime.

        Every poll brings the time, so a process that polls on schedule never reads it here.
        """
        if self._clock.is_stale(self._interval + STANDSTILL):
            await synchronize(self._clock, self._store.now)

    async def _park(self) -> None:
        self._limits.release_free()
        # What others may have changed unnoticed is polled for in real time, also where time is simulated.
        poll = asyncio.get_running_loop().call_at(self._turns.stale_at, self._signals.poll_now)
        until = self._turns.next_at
        assignment = self._partitions.assignment
        if assignment is not None:
            until = min(until, self._clock.now() + assignment.next_refresh_in())
        self._parked = True
        try:
            await self._clock.wait(self._signals.poll_sooner, None if until == NEVER else until)
        finally:
            poll.cancel()
            self._parked = False
            self._polled_at = self._clock.now()  # the wait counted as a poll up to here
            self._signals.poll_sooner.clear()

    async def _wait_for_a_slot(self) -> None:
        """Wait, and if something falls due in the meantime notify other workers: they may have slots, and not know of it."""
        self._limits.release_free()
        freed = self._signals.slot_freed
        freed.clear()
        if self._runs.free > 0 and not self._completions.is_full:
            return
        self._full = True
        try:
            async with asyncio.timeout(HINT_PAUSE_SECONDS):
                await freed.wait()
                return
        except TimeoutError:
            pass
        finally:
            self._full = False
        now = self._clock.now()
        if not self._completions.is_full:
            self._polled_at = now  # a worker whose slots are all taken does what it can, and is healthy
        if now >= self._turns.next_at:
            await self._notify(self._partitions.all(), now, "could not notify workers with free slots")

    async def _notify(self, partitions: Iterable[Partition], at: Instant, failure: str) -> None:
        """Notify other workers of records that are claimable *at*; those of shared partitions poll all of them."""
        if not self._store.capabilities.notifies:
            return
        if self._partitions.assignment is not None:
            at = FOR_ALL
        try:
            await self._store.notify([Notification(partition, at) for partition in partitions])
        except StoreError as error:
            logger.debug(failure, extra={"error": str(error)})

    # --- One poll ----------------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        clock, turns = self._clock, self._turns
        now = clock.now()
        turns.begin_poll()
        registrations = self._partitions.all()
        await self._limits.take_permits(now)
        now = clock.now()  # taking permits may have been slow
        limits = self._next_limits(registrations, now)
        if not limits:
            self._limits.release_free()
            turns.plan(now)
            self._polled_at = now
            return
        claim = await self._claims.claim(limits)
        self._dispatch.start(claim, registrations)
        self._plan_after(claim, limits, registrations)
        self._polled_at = clock.now()

    def _next_limits(
        self, registrations: Mapping[Partition, Registration], now: Instant
    ) -> dict[Partition, int]:
        """Return how many records to claim of the partitions whose turn it is."""
        turns = self._turns
        real_time = asyncio.get_running_loop().time()
        if turns.needs_round(now, real_time):
            ours = [partition for partition in registrations if self._partitions.is_ours(partition)]
            turns.begin_round(ours, real_time)
            self._limits.want_only({partition.handler for partition in turns.backlogged.union(ours)})
        claim_max = self._limits.claim_max
        allotment = self._limits.allot(turns.take(claim_max), registrations, claim_max, now)
        turns.put_first(allotment.postponed)
        turns.poll_at(allotment.permits_at)
        return allotment.limits

    def _plan_after(
        self, claim: Claim, limits: Mapping[Partition, int], registrations: Mapping[Partition, Registration]
    ) -> None:
        taken = Counter(record.key.partition for record in claim.records)
        next_at = claim.next_claimable_at
        real_time = asyncio.get_running_loop().time()
        self._turns.polled(limits, taken, next_at, claim.now, real_time)
        unpermitted = self._limits.claimed(limits, taken, next_at, registrations, claim.now)
        if unpermitted:
            self._turns.repeat(unpermitted, claim.now)

    # --- Partitions of other workers ---------------------------------------------------------------------------------

    def _is_assignment_due(self) -> bool:
        assignment = self._partitions.assignment
        return assignment is not None and assignment.next_refresh_in() <= 0

    async def _follow_assignment(self) -> None:
        """Refresh the assignment. In this worker's turn, poll the overdue partitions of other workers, too."""
        assignment = self._partitions.assignment
        assert assignment is not None
        is_our_turn = await assignment.refresh()
        if assignment.is_new:
            assignment.is_new = False
            self._signals.poll_now()
        if is_our_turn:
            await self._poll_orphans()

    async def _poll_orphans(self) -> None:
        """Claim overdue records in partitions of other workers, which may be gone, or have no free slot."""
        theirs = {
            partition: registration
            for partition, registration in self._partitions.all().items()
            if not self._partitions.is_ours(partition)
        }
        left = list(theirs)
        while left and (claim_max := self._limits.claim_max) > 0:
            polled, left = left[:claim_max], left[claim_max:]
            # What exceeds the limit of a handler here is found at a later turn.
            limits = self._limits.allot_without_permits(polled, theirs, claim_max)
            if limits:
                await self._claim_orphans(limits, theirs)

    async def _claim_orphans(
        self, limits: Mapping[Partition, int], registrations: Mapping[Partition, Registration]
    ) -> None:
        assignment = self._partitions.assignment
        assert assignment is not None
        # What has been due for less is still left to its own worker.
        claim = await self._claims.claim_overdue(limits, ORPHAN_AGE)
        self._dispatch.start(claim, registrations)
        for partition in {record.key.partition for record in claim.records}:
            assignment.adopt(partition)
            self._signals.poll_now()
