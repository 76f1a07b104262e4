"""Says how many records may be claimed of each partition, and whether a claimed one may run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from pyncette.clock import Clock, Instant
from pyncette.coordination.permits import Permit, Permits, Pool
from pyncette.core.record import Key, Partition
from pyncette.core.runs import NEVER
from pyncette.core.spec import Policies
from pyncette.errors import StoreError
from pyncette.store.base import Store
from pyncette.worker.occurrence import Registration
from pyncette.worker.partitions import Partitions
from pyncette.worker.run import Runs
from pyncette.worker.signals import Signals

logger = logging.getLogger(__name__)


class Allotment(NamedTuple):
    """How many records one claim may get of each partition."""

    limits: dict[Partition, int]
    """A limit of 0 only asks whether something is due."""
    postponed: list[Partition]
    """Partitions without a limit for now: another partition of the same handler got what is left, and may not need it."""
    permits_at: Instant
    """When permits may be free for partitions that are not polled for want of them; `NEVER` if none is."""


class Limits:
    """
    The limits on runs: the slots of this process, its limits per handler, and the limits that all workers share.

    A run under a shared limit needs a permit. Permits are taken before a claim, for handlers that had more due than
    permits; they are released as soon as nothing that is due needs them.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        holder: str,
        runs: Runs,
        partitions: Partitions,
        signals: Signals,
        batch_size: int,
    ) -> None:
        self._clock = clock
        self._runs = runs
        self._partitions = partitions
        self._batch_size = batch_size
        self._permits = Permits(store, clock, holder, signals.permit_free)
        self._postponed: set[Pool | None] = set()
        """The permits of partitions that the last allotment postponed."""

    @property
    def claim_max(self) -> int:
        """How many records the next claim may get."""
        return min(self._runs.free, self._batch_size, self._runs.half)

    @property
    def is_idle(self) -> bool:
        """True unless permits are being released."""
        return self._permits.is_idle

    # --- Before a claim ----------------------------------------------------------------------------------------------

    async def take_permits(self, now: Instant) -> None:
        """Take permits for what seems to be due, as many as can be used at once. Raises StoreError."""
        wanted: dict[Pool, int] = {}
        for registration in self._partitions.registrations:
            pool = self._pool_of(registration)
            if pool is not None and pool.is_wanted and now >= pool.retry_at and not pool.holds_all:
                wanted[pool] = min(self._runs.free_for(registration), self._batch_size, self._runs.half)
        if wanted:
            await self._permits.take(wanted)

    def want_only(self, handlers: AbstractSet[str]) -> None:
        """Want no permits but for *handlers*: others may have been disabled, or other workers poll them."""
        for registration in self._partitions.registrations:
            pool = None if registration.handler in handlers else self._pool_of(registration)
            if pool is not None:
                pool.is_busy = pool.is_wanted = False

    def allot(
        self,
        partitions: Sequence[Partition],
        registrations: Mapping[Partition, Registration],
        claim_max: int,
        now: Instant,
    ) -> Allotment:
        """Divide *claim_max* equally among those of *partitions* that are registered, as far as their limits allow."""
        share = max(1, claim_max // max(1, len(partitions)))
        allotment = Allotment({}, [], NEVER)
        room = _Room(self._runs)
        pools = {
            partition: self._pool_of(registrations[partition])
            for partition in partitions
            if partition in registrations
        }
        polled_for = Counter(pools.values())
        permits: dict[Pool, int] = {}
        for partition, pool in pools.items():
            registration = registrations[partition]
            limit = min(share, room.of(registration))
            if pool is not None and limit > 0:
                if not pool.free:
                    allotment = _without_permits(allotment, partition, pool, now)
                    continue
                left = permits.setdefault(pool, len(pool.free))
                limit = min(limit, left, max(1, len(pool.free) // polled_for[pool]))
                permits[pool] = left - limit
            if limit > 0:
                allotment.limits[partition] = limit
                room.take(registration, limit)
            elif self._runs.free_for(registration) > 0:
                allotment.postponed.append(partition)
        self._postponed = {pools[partition] for partition in allotment.postponed}
        return allotment

    def allot_without_permits(
        self, partitions: Sequence[Partition], registrations: Mapping[Partition, Registration], claim_max: int
    ) -> dict[Partition, int]:
        """Divide *claim_max* equally, by the limits of this process alone; what then has no permit is deferred."""
        limits: dict[Partition, int] = {}
        room = _Room(self._runs)
        for partition in partitions:
            registration = registrations[partition]
            limit = min(max(1, claim_max // len(partitions)), room.of(registration))
            if limit > 0:
                limits[partition] = limit
            room.take(registration, limit)
        return limits

    # --- After a claim -----------------------------------------------------------------------------------------------

    def claimed(
        self,
        limits: Mapping[Partition, int],
        taken: Mapping[Partition, int],
        next_at: Instant | None,
        registrations: Mapping[Partition, Registration],
        now: Instant,
    ) -> Sequence[Partition]:
        """
        Note which handlers have more due than permits, and release the permits that are not needed.

        Returns partitions that were polled without permits and have something due: they are to be polled once more.
        """
        pools = {
            partition: pool
            for partition in limits
            if (pool := self._pool_of(registrations[partition])) is not None
        }
        if not pools:
            return ()
        full = {partition for partition, number in taken.items() if number >= limits[partition]}
        busy = {pools.get(partition) for partition in full} | self._postponed
        for pool in {pool for partition, pool in pools.items() if limits[partition]}:
            pool.is_busy = pool.is_wanted = pool.is_short = pool in busy
            if not pool.is_busy:
                pool.release_free()
        unpermitted = [partition for partition in pools if not limits[partition]]
        if not unpermitted or next_at is None or next_at > now:
            return ()
        # If a partition is full, it may be the one with more due. Then the others are polled again, by themselves.
        if not full:
            for partition in unpermitted:
                pools[partition].is_busy = pools[partition].is_wanted = True
        return unpermitted

    # --- Runs --------------------------------------------------------------------------------------------------------

    def pool_for(self, key: Key, registration: Registration, own: Policies) -> Pool:
        """Return the permits that a run of *key* needs one of: by the limit of its handler, or else by its *own* policies."""
        common = registration.policies
        if common.max_concurrent:
            return self._permits.pool(key.partition, registration.handler, common)
        return self._permits.pool(key.partition, key.task, own)

    async def permit(self, pool: Pool) -> Permit | None:
        """Return a permit for a run, taken from the backend if none is free here; None if there is none for now."""
        permit = pool.pop()
        if permit is None and self._clock.now() >= pool.retry_at and not pool.holds_all:
            try:
                await self._permits.take({pool: 1})
            except StoreError as error:
                logger.debug("could not take a permit", extra={"error": str(error)})
            permit = pool.pop()
        return permit

    # --- Releases ----------------------------------------------------------------------------------------------------

    def release_free(self) -> None:
        """Release the permits that no run has, since this worker can start nothing now."""
        self._permits.release_free()

    async def released(self) -> None:
        """Return once all permits that are being released are free for other workers."""
        await self._permits.released()

    def stop(self) -> None:
        """Keep no permit for a next run."""
        self._permits.stopping = True

    def _pool_of(self, registration: Registration) -> Pool | None:
        """Return the permits of a handler whose runs have a limit across workers."""
        policies = registration.policies
        partitions = registration.partitions
        if not policies.max_concurrent or not partitions:
            return None
        pool = self._permits.pool(partitions[0], registration.handler, policies)
        pool.limited = partitions
        return pool


class _Room:
    """How many more runs of each handler this process may have, while limits of one claim are handed out."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._left: dict[str, int] = {}

    def of(self, registration: Registration) -> int:
        left = self._left.get(registration.handler)
        return self._runs.free_for(registration) if left is None else left

    def take(self, registration: Registration, number: int) -> None:
        if registration.concurrency_limit is not None:
            self._left[registration.handler] = self.of(registration) - number


def _without_permits(allotment: Allotment, partition: Partition, pool: Pool, now: Instant) -> Allotment:
    """Only ask whether something is due in *partition*; if that is known already, wait for a permit."""
    if not pool.is_wanted:
        allotment.limits[partition] = 0
    elif now < pool.retry_at:
        return allotment._replace(permits_at=min(allotment.permits_at, pool.retry_at))
    # Else this worker has all permits, and the end of a run frees one.
    return allotment
