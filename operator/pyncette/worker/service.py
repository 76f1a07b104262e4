"""The worker: runs due occurrences in one process until it is stopped, and then releases everything that it holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, contextmanager
from typing import Any, Final, NamedTuple, Protocol

from pyncette.clock import MILLISECOND, SECOND, Clock, Duration, Instant
from pyncette.coordination.assignment import PartitionAssignment
from pyncette.coordination.members import Membership
from pyncette.core.log_messages import fields_of_records, naming_logger
from pyncette.core.record import Outcome
from pyncette.core.runs import Ending
from pyncette.core.times import datetime_of
from pyncette.errors import StoreError
from pyncette.ledger.ledger import Ledger
from pyncette.store.base import Store
from pyncette.worker.backend_health import BackendHealth
from pyncette.worker.claims import Claims
from pyncette.worker.completions import Completions
from pyncette.worker.dispatch import Dispatch
from pyncette.worker.limits import Limits
from pyncette.worker.loop_watch import LoopWatch
from pyncette.worker.occurrence import Occurrence, Registration
from pyncette.worker.partitions import Partitions
from pyncette.worker.poller import SAFETY_POLL, Poller
from pyncette.worker.renewal import Heartbeats, RenewalThread, Renewer
from pyncette.worker.run import Runs
from pyncette.worker.signals import Signals
from pyncette.worker.turns import Turns

logger = naming_logger(__name__)

AHEAD: Final[Duration] = 40 * MILLISECOND
"""How long before they are due occurrences are claimed, at most: a few times the duration of a claim."""

SETTLE_SECONDS: Final = 10.0
"""How long a stopping worker tries to write its last completions and to release its permits."""

CANCELLED_SECONDS: Final = 5.0
"""How long a cancelled handler may take to clean up."""


class WorkerSettings(NamedTuple):
    """The settings of a worker; durations are in microseconds."""

    holder: str
    """The name of the worker in leases, logs and histories."""
    slots: int = 100
    """Handlers that run at once."""
    batch_size: int = 100
    """Records of one claim, at most."""
    poll_interval: Duration = 1 * SECOND
    """The longest time between two polls, where the backend cannot notify."""
    ahead: Duration = 0
    """Occurrences are claimed up to this long before they are due, to start on time; 0: once they are due."""


class Figures(NamedTuple):
    """The load of a worker at one moment."""

    slots: int
    slots_used: int
    """By runs, and by claimed records that are about to run."""
    claimed: int
    """Occurrences, since it started."""
    backlogged: int
    """Partitions in which more was due than their last poll could take."""
    unwritten: int
    """Completions that the backend has not accepted yet."""


class Listener(Protocol):
    """A listener to the polls of a worker; must not block."""

    def polling(self) -> AbstractContextManager[None]:
        """Return a context manager that is entered when a poll begins, and left when it ends, with its error if it failed."""
        ...


class OutcomeListener(Protocol):
    """A listener to the outcomes that this process writes; must not block."""

    def registered(self, realm: str, task: str) -> None:
        """Note that this process may write outcomes of *task*. Called repeatedly."""
        ...

    def lost(self, realm: str, task: str) -> None:
        """Note that *task* is gone, so that nothing is kept for it; if it returns, it is registered again."""
        ...

    def ended(self, realm: str, task: str, outcome: Outcome, number: int) -> None:
        """Note that *number* occurrences of *task* have ended with *outcome*, and that this is written."""
        ...


class Worker:
    """
    A worker, which claims due occurrences through the store of its *ledger* and runs them.

    With *renewal_store*, leases are renewed on a thread with a connection of its own; without, in the same loop, as for
    simulated time and for records in memory. The renewals also keep up the *membership*, until nothing more is claimed.
    The *assignment* says which partitions it polls, of those that workers share out among themselves. If *watches_loop*,
    a thread names handlers that block the event loop.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        clock: Clock,
        registrations: Sequence[Registration],
        settings: WorkerSettings,
        renewal_store: Callable[[], Store] | None = None,
        membership: Membership | None = None,
        assignment: PartitionAssignment | None = None,
        listeners: Sequence[Listener] = (),
        watches_loop: bool = False,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._renewal_store = renewal_store
        self._membership = membership
        self._listeners = listeners
        self._watches_loop = watches_loop
        store, holder, ahead = ledger.store, settings.holder, settings.ahead
        interval = SAFETY_POLL if store.capabilities.notifies else settings.poll_interval
        partitions = Partitions(registrations, assignment)
        self._turns = Turns(interval, ahead)
        self._signals = Signals(clock, self._turns, partitions)
        ledger.on_claimable(self._signals.claimable)
        self._health = BackendHealth()
        self._completions = Completions(ledger, self._signals, self._health)
        self._heartbeats = Heartbeats(store, clock)
        self._runs = Runs(
            clock, self._completions, self._signals, settings.slots, self._heartbeat, self._reload
        )
        self._limits = Limits(
            store, clock, holder, self._runs, partitions, self._signals, settings.batch_size
        )
        self._claims = Claims(store, clock, holder, ahead, self._polling)
        self._dispatch = Dispatch(
            ledger, clock, self._runs, self._completions, self._limits, self._signals, ahead
        )
        self._poller = Poller(
            store,
            clock,
            interval,
            turns=self._turns,
            signals=self._signals,
            partitions=partitions,
            limits=self._limits,
            claims=self._claims,
            dispatch=self._dispatch,
            runs=self._runs,
            completions=self._completions,
            health=self._health,
        )
        self._slots = settings.slots
        self._renewer: Renewer | None = None
        self._thread: RenewalThread | None = None
        self._grace_seconds: float | None = None
        self._grace: asyncio.Timeout | None = None
        """Ends the wait for runs; it has an end from `drain` on."""

    @property
    def ready(self) -> bool:
        """True if the backend answered its last request."""
        return self._health.ready

    @property
    def last_polled_at(self) -> Instant | None:
        """When the last poll ended; None before the first. The wait for the next poll counts as one."""
        return self._poller.polled_at

    @property
    def figures(self) -> Figures:
        """The current load. Can be read from any thread."""
        return Figures(
            self._slots,
            self._slots - self._runs.free,
            self._claims.claimed,
            len(self._turns.backlogged),
            len(self._completions),
        )

    @property
    def stalled_seconds(self) -> float:
        """How long a loop of this worker has not turned: at most some seconds in good health. Can be read from any thread."""
        return 0.0 if self._thread is None else self._thread.stalled_seconds

    @property
    def abandoned(self) -> int:
        """How many handlers still run in threads although their worker has ended. Their leases expire."""
        return len(self._runs.abandoned)

    @property
    def running(self) -> Sequence[Occurrence]:
        """The current runs."""
        return list(self._runs.running.values())

    def is_settled(self, asleep: AbstractSet[asyncio.Task[Any]] = frozenset()) -> bool:
        """
        Say whether nothing is being claimed, running or unwritten, and nothing is claimable, as far as is known.

        Handlers whose tasks are *asleep* (in simulated time) count as having nothing to do.
        """
        renewed = self._renewer is None or self._renewer.is_idle
        written = not len(self._completions)
        if self._runs.replacing:
            return False
        return self._poller.is_idle and renewed and written and self._runs.due() <= asleep

    def unsettled(self, asleep: AbstractSet[asyncio.Task[Any]] = frozenset()) -> list[str]:
        """Return a line for each run that is due and has not ended, without those whose tasks are *asleep*."""
        runs = [self._runs.running[task] for task in self._runs.due() - asleep]
        return [f"{run} runs since {datetime_of(run.starts_at).isoformat()}" for run in runs]

    def poll_soon(self) -> None:
        """Poll everything as soon as a slot is free; the partitions of a registration may have changed."""
        self._signals.poll_now()

    def drain(self, grace: Duration | None = None) -> None:
        """Claim nothing more, and end `run` once all handlers have ended; cancel those that still run after *grace*."""
        self._grace_seconds = None if grace is None else grace / SECOND
        self._poller.stop()
        if self._membership is not None:
            self._membership.leave()
        self._runs.release_early()
        if self._grace is not None and not self._grace.expired():
            ends_at = None if grace is None else asyncio.get_running_loop().time() + grace / SECOND
            self._grace.reschedule(ends_at)

    async def run(self) -> None:
        """
        Run due occurrences until `drain`; if cancelled, cancel all runs and release what is held.

        Raises what makes it impossible to go on: a schema that this program cannot work with, a backend that refuses the
        first poll, or a bug.
        """
        async with AsyncExitStack() as stack:
            if self._watches_loop:
                stack.enter_context(LoopWatch(self._runs))
            if self._renewal_store is not None:
                self._thread = RenewalThread(
                    self._runs,
                    self._renewal_store,
                    self._clock,
                    self._signals,
                    self._health,
                    self._membership,
                )
                stack.callback(self._stop_stall_watchdog)
                await stack.enter_async_context(self._thread)
            background = [asyncio.create_task(self._completions.run()), asyncio.create_task(self._listen())]
            if self._renewal_store is None:
                self._renewer = Renewer(
                    self._runs, self._ledger.store, self._clock, self._signals, self._health
                )
                background.append(asyncio.create_task(self._renewer.run(Occurrence.lose)))
                if self._membership is not None:
                    background.append(asyncio.create_task(self._membership.run(self._ledger.store)))
            poller = asyncio.create_task(self._poller.run())
            try:
                await self._until_ended(poller, background)
            finally:
                # It must claim nothing more once the completions have ended, even if its store loses the cancellation.
                self._poller.stop()
                poller.cancel()
                if self._membership is not None:
                    self._membership.leave()
                await _shielded(self._end_runs(poller))
                left = [
                    *background,
                    *self._dispatch.starting,
                    *self._runs.replacing,
                    *self._heartbeats.renewing,
                ]
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, poller, return_exceptions=True)
                self._runs.close()

    async def _until_ended(
        self, poller: asyncio.Task[None], background: Sequence[asyncio.Task[None]]
    ) -> None:
        """Return once nothing is claimed any more and all runs have ended, or once the grace is over."""
        try:
            async with asyncio.timeout(self._grace_seconds) as self._grace:
                await _first_of(asyncio.create_task(self._ended(poller)), background)
        except TimeoutError:
            assert self._grace is not None
            if not self._grace.expired():
                raise
            if self._runs.running:
                logger.warning(
                    "the grace period is over; cancelling the remaining runs",
                    extra={"runs": len(self._runs.running)},
                )
            self._runs.cancel_all(Ending.DRAINED)
            # Runs of its last claim are released.
            await asyncio.wait([poller], timeout=CANCELLED_SECONDS)
        finally:
            self._grace = None

    async def _ended(self, poller: asyncio.Task[None]) -> None:
        await asyncio.shield(poller)
        await self._runs.ended()

    async def _end_runs(self, poller: asyncio.Task[None]) -> None:
        """Cancel the remaining runs and write their completions: the one step that is shielded, and bounded."""
        await asyncio.wait([poller], timeout=CANCELLED_SECONDS)
        self._runs.cancel_all(Ending.DRAINED)
        try:
            async with asyncio.timeout(CANCELLED_SECONDS):
                await self._dispatch.finish()
                await self._runs.ended()
        except TimeoutError:
            stubborn = [occurrence.held.record.key for occurrence in self.running]
            logger.warning(
                "handlers did not end after their cancellation",
                extra=fields_of_records(stubborn, len(stubborn)),
            )
            await self._runs.abandon()
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await self._completions.emptied()
                await self._limits.released()
                await self._poller.hand_over()
        except TimeoutError:
            logger.warning(
                "could not write all completions in time; their leases will expire",
                extra={"runs": len(self._completions)},
            )

    def _stop_stall_watchdog(self) -> None:
        """Stop the stall watchdog: teardown may block the loop."""
        self._thread = None

    async def _listen(self) -> None:
        """Poll sooner when other processes notify of claimable records."""
        if not self._ledger.store.capabilities.notifies:
            return
        delays = self._health.delays()
        while True:
            try:
                async for notification in self._ledger.store.notified():
                    self._signals.claimable(notification.partition, notification.at)
            except StoreError as error:
                logger.debug("notifications were interrupted; reconnecting", extra={"error": str(error)})
            await asyncio.sleep(next(delays))

    async def _heartbeat(self, occurrence: Occurrence) -> bool:
        if not occurrence.lease_lost:
            await self._heartbeats.renew(occurrence)
        return not occurrence.lease_lost

    async def _reload(self, occurrence: Occurrence) -> None:
        """Reload the record of a run; keep the cached copy if the backend does not answer."""
        try:
            held = await self._ledger.reloaded(occurrence.held)
        except StoreError as error:
            logger.debug(
                "could not reload the record; using the cached copy",
                extra={**occurrence.log_fields(), "error": str(error)},
            )
            return
        if held is None:
            occurrence.lose()
        else:
            occurrence.held = held

    @contextmanager
    def _polling(self) -> Iterator[None]:
        with ExitStack() as stack:
            for listener in self._listeners:
                stack.enter_context(listener.polling())
            yield


async def _first_of(task: asyncio.Task[None], background: Sequence[asyncio.Task[None]]) -> None:
    """Wait for *task*; a background task that fails ends the wait, and its error is raised."""
    pending = {task, *(other for other in background if not other.done())}
    try:
        while not task.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for other in done:
                other.result()
    finally:
        if not task.done():
            task.cancel()
    task.result()


async def _shielded(work: Coroutine[Any, Any, None]) -> None:
    """Finish *work* although this task is cancelled, even more than once."""
    task = asyncio.create_task(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                raise
    task.result()
