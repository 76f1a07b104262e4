"""Keeps leases alive while their handlers run, and stops a handler once its lease is lost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final, Self

from pyncette.clock import MILLISECOND, SECOND, Clock, Duration, synchronize
from pyncette.coordination.members import Membership
from pyncette.core.log_messages import naming_logger
from pyncette.core.record import Lease
from pyncette.core.runs import NEVER
from pyncette.errors import StoreError
from pyncette.store.base import Renewal, Renewed, Store
from pyncette.worker.backend_health import BackendHealth
from pyncette.worker.occurrence import Occurrence
from pyncette.worker.run import LEASE_UNKNOWN, Runs
from pyncette.worker.signals import Signals

logger = naming_logger(__name__)

RENEWALS_A_LEASE: Final = 3
"""A lease is renewed when a third of it has gone by, so two renewals may fail before it is lost."""

LONGEST_PAUSE: Final[Duration] = 10 * SECOND
SHORTEST_PAUSE: Final[Duration] = 20 * MILLISECOND

BEAT_SECONDS: Final = 1.0
"""How often each of the two loops records that it turns: cheap, and precise enough for stalls of minutes."""


class Heartbeats:
    """Renewals that cannot wait for the renewer's next turn; those requested in one iteration of the loop are one write."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._requested: list[Occurrence] = []
        self._next: asyncio.Task[None] | None = None
        """Renews all leases that are requested before it begins."""
        self.renewing: set[asyncio.Task[None]] = set()
        """The renewals that await an answer of the backend."""

    async def renew(self, occurrence: Occurrence) -> None:
        """Renew a lease; mark it as lost if it is no longer held. Raises StoreError."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._renew())
            self.renewing.add(self._next)
            self._next.add_done_callback(self._over)
        self._requested.append(occurrence)
        await asyncio.shield(self._next)

    async def _renew(self) -> None:
        requested, self._requested, self._next = self._requested, [], None
        await renew(self._store, self._clock, requested, Occurrence.lose)

    def _over(self, task: asyncio.Task[None]) -> None:
        self.renewing.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as retrieved, since the callers may have been cancelled


class Renewer:
    """Renews the leases of all runs of a process in one write."""

    def __init__(
        self, runs: Runs, store: Store, clock: Clock, signals: Signals, health: BackendHealth
    ) -> None:
        self._runs = runs
        self._store = store
        self._clock = clock
        self._signals = signals
        self._health = health
        self._sooner = asyncio.Event()
        """Set when a lease begins that the plan does not include."""
        self._next_at: Duration = NEVER
        """When to check leases next, by the monotonic clock: no step of another clock may delay it."""
        self._in_flight: set[Occurrence] = set()
        """Runs whose renewal is in flight."""

    @property
    def is_idle(self) -> bool:
        """True if no renewal is due, and none is in flight."""
        due = self._next_at <= self._clock.monotonic()
        return not due and not self._in_flight and not self._sooner.is_set()

    async def run(
        self, lose: Callable[[Occurrence], None], revoke: Callable[[Occurrence], None] = Occurrence.revoke
    ) -> None:
        """Renew until cancelled; call *lose* for runs whose lease is lost, and *revoke* for those whose permit is."""
        self._sooner = self._signals.renewals()
        async with asyncio.TaskGroup() as renewals:
            while True:
                pause = self._planned()
                self._next_at = NEVER if pause is None else self._clock.monotonic() + pause
                if await self._clock.wait_for(self._sooner, pause):
                    # A new lease is not due for renewal yet, but the plan was made without it.
                    self._sooner.clear()
                else:
                    self._check(lose, revoke, renewals)

    def _planned(self) -> Duration | None:
        """Return the wait before the next check; None while nothing runs, since the first run has it planned again."""
        # Set before `running` is read: otherwise a run that starts in between is missed.
        self._runs.renewer_idle = True
        if not self._runs.running:
            return None
        self._runs.renewer_idle = False
        return self._pause()

    def _check(
        self,
        lose: Callable[[Occurrence], None],
        revoke: Callable[[Occurrence], None],
        renewals: asyncio.TaskGroup,
    ) -> None:
        """Renew leases past a third of their length; mark as lost those that expired while a renewal was in flight."""
        due: list[Occurrence] = []
        permitted: list[Occurrence] = []
        for occurrence in list(self._runs.running.values()):
            in_flight = occurrence in self._in_flight
            permit = occurrence.permit
            if permit is not None:
                # Also if the lease is lost and the handler runs on: the run counts until it has ended.
                # Not at the last moment: the handler must have ended before another runs in its place.
                if permit.remaining() <= permit.length // (2 * RENEWALS_A_LEASE):
                    revoke(occurrence)
                elif not in_flight and _has_used_its_third(permit.remaining(), permit.length):
                    permitted.append(occurrence)
            if occurrence.lease_lost or not occurrence.renews_itself:
                continue
            remaining = occurrence.lease_remaining()
            if remaining == 0 and occurrence.begun:
                # The handlers' loop may be blocked, and an expired lease must not be renewed.
                lose(occurrence)
            elif not in_flight and _has_used_its_third(remaining, occurrence.held.policies.lease):
                due.append(occurrence)
        if due or permitted:
            self._in_flight.update(due, permitted)
            renewals.create_task(self._renew(due, permitted, lose, revoke))

    async def _renew(
        self,
        due: Sequence[Occurrence],
        permitted: Sequence[Occurrence],
        lose: Callable[[Occurrence], None],
        revoke: Callable[[Occurrence], None],
    ) -> None:
        try:
            await renew(self._store, self._clock, due, lose, permitted, revoke)
            self._health.answered()
        except StoreError as error:
            logger.warning("could not renew leases", extra={"error": str(error), "runs": len(due)})
        finally:
            self._in_flight.difference_update(due, permitted)

    def _pause(self) -> Duration:
        """Return how long no renewal will be due, and no permit will expire whose renewal awaits an answer."""
        shortest = self._runs.shortest_lease
        pause = LONGEST_PAUSE if shortest == LEASE_UNKNOWN else shortest // (2 * RENEWALS_A_LEASE)
        ends = [
            permit.remaining() for occurrence in self._in_flight if (permit := occurrence.permit) is not None
        ]
        return min(LONGEST_PAUSE, max(SHORTEST_PAUSE, min([pause, *ends])))


async def renew(
    store: Store,
    clock: Clock,
    occurrences: Sequence[Occurrence],
    lose: Callable[[Occurrence], None],
    permitted: Sequence[Occurrence] = (),
    revoke: Callable[[Occurrence], None] = Occurrence.revoke,
) -> None:
    """
    Renew the leases of *occurrences*, and call *lose* for those that are no longer held.

    In the same write, renew the permits of *permitted*, and call *revoke* for those that are lost.
    """
    renewals = []
    for occurrence in occurrences:
        lease: Lease | None = occurrence.held.record.lease
        assert lease is not None
        renewals.append(Renewal(occurrence.held.record.key, lease.id, occurrence.held.policies.lease))
    renewals += [occurrence.permit.renewal for occurrence in permitted if occurrence.permit is not None]
    renewed, since = await renew_leases(store, clock, renewals)
    for occurrence, held in zip(occurrences, renewed.held, strict=False):
        if held:
            # A lease that an edit has shortened ends no sooner than it would have without the edit.
            occurrence.lease_until = max(occurrence.lease_until, since + occurrence.held.policies.lease)
        else:
            lose(occurrence)
    for occurrence, held in zip(permitted, renewed.held[len(occurrences) :], strict=True):
        assert occurrence.permit is not None
        if held:
            occurrence.permit.lease_until = since + occurrence.permit.length
        else:
            revoke(occurrence)


async def renew_leases(
    store: Store, clock: Clock, renewals: Sequence[Renewal], *, once_more: bool = True
) -> tuple[Renewed, Duration]:
    """
    Renew, and return the answer and the monotonic time from which the new leases count.

    If the answer shows that our time was behind, the leases end too soon, so they are renewed again.
    """
    asked_at, now = clock.monotonic(), clock.now()
    renewed = await store.renew(renewals, now)
    answered_at = clock.monotonic()
    clock.observe(renewed.backend_now, asked_at, answered_at)
    lag = clock.lag(now, renewed.backend_now, asked_at, answered_at)
    if lag and once_more:
        return await renew_leases(store, clock, renewals, once_more=False)
    return renewed, asked_at - lag


def _has_used_its_third(remaining: Duration, length: Duration) -> bool:
    return remaining < length * (RENEWALS_A_LEASE - 1) // RENEWALS_A_LEASE


class RenewalThread:
    """
    A thread that renews leases with a loop and a connection of its own, so that a blocked event loop costs no lease.

    It is an async context manager. It also keeps up the *membership* of this worker, which is a lease like the others.
    """

    def __init__(
        self,
        runs: Runs,
        open_store: Callable[[], Store],
        clock: Clock,
        signals: Signals,
        health: BackendHealth,
        membership: Membership | None = None,
    ) -> None:
        self._runs = runs
        self._open_store = open_store
        self._clock = clock
        self._signals = signals
        self._health = health
        self._membership = membership
        self._turned_at = {"handlers": time.monotonic(), "renewals": time.monotonic()}
        """When each loop last turned."""
        self._thread: threading.Thread | None = None
        self._beating: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._started = threading.Event()

    @property
    def stalled_seconds(self) -> float:
        """How long the handlers' loop or this thread has not turned, whichever is longer. Can be read from any thread."""
        return time.monotonic() - min(self._turned_at.values())

    async def __aenter__(self) -> Self:
        self._beating = asyncio.create_task(self._beat("handlers"))
        self._handlers_loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._main, name="pyncette-renewals", daemon=True)
        self._thread.start()
        await asyncio.to_thread(self._started.wait)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._loop is not None and self._task is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        if self._beating is not None:
            self._beating.cancel()

    def _main(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._started.set()
        delays = self._health.delays()
        beating = asyncio.create_task(self._beat("renewals"))
        try:
            while True:
                try:
                    await self._renew()
                except StoreError as error:
                    logger.warning("could not connect to renew leases; retrying", extra={"error": str(error)})
                    await asyncio.sleep(next(delays))
        except asyncio.CancelledError:
            return
        finally:
            beating.cancel()

    async def _beat(self, loop: str) -> None:
        while True:
            self._turned_at[loop] = time.monotonic()
            await asyncio.sleep(BEAT_SECONDS)

    async def _renew(self) -> None:
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(self._open_store())
            renewer = Renewer(self._runs, store, self._clock, self._signals, self._health)
            async with asyncio.TaskGroup() as group:
                group.create_task(renewer.run(self._lose, self._revoke))
                group.create_task(self._keep_time(store))
                if self._membership is not None:
                    group.create_task(self._membership.run(store))

    def _lose(self, occurrence: Occurrence) -> None:
        self._handlers_loop.call_soon_threadsafe(occurrence.lose)

    def _revoke(self, occurrence: Occurrence) -> None:
        self._handlers_loop.call_soon_threadsafe(occurrence.revoke)

    async def _keep_time(self, store: Store) -> None:
        """
        Read the backend's time while anything runs, unless answers to claims and renewals include it anyway.

        Decisions about runs need it, and a worker without a free slot does not poll.
        """
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            if self._runs.running and self._clock.is_stale():
                with suppress(StoreError):  # tried again after the next beat
                    await synchronize(self._clock, store.now)
