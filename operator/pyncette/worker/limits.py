"""Says how many records may be claimed of each partition, and whether a claimed one may run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from pyncette.clock import Clock, Instant
from pyncette.coordination.permits import Permit, Permits, SharedLimit
from pyncette.core.log_messages import naming_logger
from pyncette.core.record import Key, Partition
from pyncette.core.runs import NEVER
from pyncette.core.spec import Policies
from pyncette.errors import StoreError
from pyncette.store.base import Store
from pyncette.worker.occurrence import Registration
from pyncette.worker.partitions import Partitions
from pyncette.worker.run import Runs
from pyncette.worker.signals import Signals

logger = naming_logger(__name__)


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
        self._postponed: set[SharedLimit | None] = set()
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
        wanted: dict[SharedLimit, int] = {}
        for registration in self._partitions.registrations:
            shared_limit = self._shared_limit_of(registration)
            if (
                shared_limit is not None
                and shared_limit.is_wanted
                and now >= shared_limit.retry_at
                and not shared_limit.holds_all
            ):
                wanted[shared_limit] = min(
                    self._runs.free_for(registration), self._batch_size, self._runs.half
                )
        if wanted:
            await self._permits.take(wanted)

    def want_only(self, handlers: AbstractSet[str]) -> None:
        """Want no permits but for *handlers*: others may have been disabled, or other workers poll them."""
        for registration in self._partitions.registrations:
            shared_limit = None if registration.handler in handlers else self._shared_limit_of(registration)
            if shared_limit is not None:
                shared_limit.is_busy = shared_limit.is_wanted = False

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
        shared_limits = {
            partition: self._shared_limit_of(registrations[partition])
            for partition in partitions
            if partition in registrations
        }
        polled_for = Counter(shared_limits.values())
        permits: dict[SharedLimit, int] = {}
        for partition, shared_limit in shared_limits.items():
            registration = registrations[partition]
            limit = min(share, room.of(registration))
            if shared_limit is not None and limit > 0:
                if not shared_limit.free:
                    allotment = _without_permits(allotment, partition, shared_limit, now)
                    continue
                left = permits.setdefault(shared_limit, len(shared_limit.free))
                limit = min(limit, left, max(1, len(shared_limit.free) // polled_for[shared_limit]))
                permits[shared_limit] = left - limit
            if limit > 0:
                allotment.limits[partition] = limit
                room.take(registration, limit)
            elif self._runs.free_for(registration) > 0:
                allotment.postponed.append(partition)
        self._postponed = {shared_limits[partition] for partition in allotment.postponed}
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
        shared_limits = {
            partition: shared_limit
            for partition in limits
            if (shared_limit := self._shared_limit_of(registrations[partition])) is not None
        }
        if not shared_limits:
            return ()
        full = {partition for partition, number in taken.items() if number >= limits[partition]}
        busy = {shared_limits.get(partition) for partition in full} | self._postponed
        for shared_limit in {
            shared_limit for partition, shared_limit in shared_limits.items() if limits[partition]
        }:
            shared_limit.is_busy = shared_limit.is_wanted = shared_limit.is_short = shared_limit in busy
            if not shared_limit.is_busy:
                shared_limit.release_free()
        unpermitted = [partition for partition in shared_limits if not limits[partition]]
        if not unpermitted or next_at is None or next_at > now:
            return ()
        # If a partition is full, it may be the one with more due. Then the others are polled again, by themselves.
        if not full:
            for partition in unpermitted:
                shared_limits[partition].is_busy = shared_limits[partition].is_wanted = True
        return unpermitted

    # --- Runs --------------------------------------------------------------------------------------------------------

    def shared_limit_for(self, key: Key, registration: Registration, own: Policies) -> SharedLimit:
        """Return the permits that a run of *key* needs one of: by the limit of its handler, or else by its *own* policies."""
        common = registration.policies
        if common.max_concurrent:
            return self._permits.shared_limit(key.partition, registration.handler, common)
        return self._permits.shared_limit(key.partition, key.task, own)

    async def permit(self, shared_limit: SharedLimit) -> Permit | None:
        """Return a permit for a run, taken from the backend if none is free here; None if there is none for now."""
        permit = shared_limit.pop()
        if permit is None and self._clock.now() >= shared_limit.retry_at and not shared_limit.holds_all:
            try:
                await self._permits.take({shared_limit: 1})
            except StoreError as error:
                logger.debug("could not take a permit", extra={"error": str(error)})
            permit = shared_limit.pop()
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

    def _shared_limit_of(self, registration: Registration) -> SharedLimit | None:
        """Return the permits of a handler whose runs have a limit across workers."""
        policies = registration.policies
        partitions = registration.partitions
        if not policies.max_concurrent or not partitions:
            return None
        shared_limit = self._permits.shared_limit(partitions[0], registration.handler, policies)
        shared_limit.limited = partitions
        return shared_limit


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


def _without_permits(
    allotment: Allotment, partition: Partition, shared_limit: SharedLimit, now: Instant
) -> Allotment:
    """Only ask whether something is due in *partition*; if that is known already, wait for a permit."""
    if not shared_limit.is_wanted:
        allotment.limits[partition] = 0
    elif now < shared_limit.retry_at:
        return allotment._replace(permits_at=min(allotment.permits_at, shared_limit.retry_at))
    # Else this worker has all permits, and the end of a run frees one.
    return allotment
