"""Calls the handlers of claimed occurrences, and turns their endings into values that the rules understand."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from pyncette.clock import MICROSECOND, Clock, Duration, Instant, Timer
from pyncette.coordination.permits import Permit
from pyncette.core import rules
from pyncette.core.log_messages import naming_logger
from pyncette.core.printable import printable
from pyncette.core.runs import (
    DRAINED,
    RETURNED,
    UNSTARTED,
    Ended,
    Ending,
    HeldRun,
    replaced_at,
    replacement_check_at,
)
from pyncette.core.spec import Overlap
from pyncette.errors import DoNotRetry, RetryAfter
from pyncette.worker.completions import Completions
from pyncette.worker.endings import log_ending
from pyncette.worker.occurrence import Occurrence, Registration, current
from pyncette.worker.signals import Signals
from pyncette.worker.threads import ThreadCall, Threads

logger = naming_logger(__name__)

LEASE_UNKNOWN: Final[Duration] = 2**62
"""Longer than any run."""

ABANDONED_SECONDS: Final = 1.0
"""How long the runs may take to end whose functions are abandoned: some turns of the event loop, on a busy machine."""


class Runs:
    """The runs of this process, and its slots."""

    def __init__(
        self,
        clock: Clock,
        completions: Completions,
        signals: Signals,
        slots: int,
        renew: Callable[[Occurrence], Awaitable[bool]],
        reload: Callable[[Occurrence], Awaitable[None]],
    ) -> None:
        self.running: dict[asyncio.Task[None], Occurrence] = {}
        self.reserved = 0
        """Slots of claimed records that have not started yet."""
        self.shortest_lease: Duration = LEASE_UNKNOWN
        self.renewer_idle = True
        """True while no run holds a lease, so the renewer sleeps."""
        self._watched_until: Duration = LEASE_UNKNOWN
        """No lease that the worker renews ends sooner, by the monotonic clock."""
        self._watch: Timer | None = None
        self._clock = clock
        self._completions = completions
        self._signals = signals
        self._freed = signals.slot_freed
        self._slots = slots
        self._renew = renew
        self._reload = reload
        self._threads = Threads()
        self.abandoned: list[asyncio.Task[None]] = []
        """The runs that have ended although their functions had not returned."""
        self.replacing: set[asyncio.Task[None]] = set()
        """Tasks that check whether the next occurrence replaces a run."""
        self._by_handler: Counter[str] = Counter()
        self._all_end: Ending | None = None
        """Why no run may start or go on any more; None as long as runs may."""
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def free(self) -> int:
        """How many more runs may start."""
        return self._slots - len(self.running) - self.reserved

    @property
    def half(self) -> int:
        """Half of all slots: while the records of one claim start and run, the backend works on the next claim."""
        return (self._slots + 1) // 2

    def due(self) -> set[asyncio.Task[None]]:
        """Return the runs that are due, without those that were claimed ahead and still wait."""
        now = self._clock.now()
        return {task for task, occurrence in self.running.items() if occurrence.starts_at <= now}

    def free_for(self, registration: Registration) -> int:
        """Return how many more runs of this handler may start."""
        limit = registration.concurrency_limit
        return self.free if limit is None else min(self.free, limit - self._by_handler[registration.handler])

    def start(
        self,
        held: HeldRun,
        registration: Registration,
        lease_until: Duration,
        at: Instant,
        permit: Permit | None = None,
    ) -> None:
        """Call the handler for *held* as soon as it is *at*; its *permit* is released when it has ended."""
        occurrence = Occurrence(held, registration, self, self._clock, lease_until, at, permit)
        loop = self._loop
        if loop is None:  # perf: each lookup costs a system call
            loop = self._loop = asyncio.get_running_loop()
        task = loop.create_task(self._run(occurrence))
        occurrence.task = task
        self.running[task] = occurrence
        if self._all_end is not None:
            occurrence.cancel(self._all_end)
        if registration.concurrency_limit is not None:
            self._by_handler[registration.handler] += 1
        if lease_until < self._watched_until and occurrence.renews_itself:
            self._watch_leases(lease_until)
        lease = held.policies.lease if permit is None else min(held.policies.lease, permit.length)
        if lease < self.shortest_lease or self.renewer_idle:
            self.shortest_lease = min(lease, self.shortest_lease)
            self.renewer_idle = False
            self._signals.renew_sooner()

    def release_early(self) -> None:
        """Release the runs that are not due yet, as if they had not been claimed."""
        now = self._clock.now()
        for occurrence in self.running.values():
            if occurrence.starts_at > now:
                occurrence.cancel(Ending.DRAINED)

    def reserve(self, registration: Registration) -> None:
        """Reserve a slot for a claimed record that has not started yet."""
        self.reserved += 1
        if registration.concurrency_limit is not None:
            self._by_handler[registration.handler] += 1

    def unreserve(self, registration: Registration) -> None:
        """Free a reserved slot: the record starts now, or never."""
        self.reserved -= 1
        self._freed.set()
        if registration.concurrency_limit is not None:
            self._by_handler[registration.handler] -= 1

    def cancel_all(self, ending: Ending) -> None:
        """Cancel all runs, and those that start from now on before their handlers are called."""
        self._all_end = ending
        for occurrence in list(self.running.values()):
            occurrence.cancel(ending)

    def close(self) -> None:
        """Stop watching leases and end the threads, since nothing will run any more."""
        self._stop_watching()
        self._threads.close()

    async def ended(self) -> None:
        """Return once no handler runs."""
        while self.running:
            await asyncio.wait(list(self.running))

    async def abandon(self) -> None:
        """
        End the runs whose functions do not return. Nothing is written about them.

        They keep their leases, so that nothing else starts before these expire: the functions run on, until the process ends.
        """
        self._threads.close()  # for a run that has no function yet
        for task, occurrence in list(self.running.items()):
            if occurrence.thread_call is not None:
                self.abandoned.append(task)
                occurrence.thread_call.abandon()
        if self.abandoned:
            await asyncio.wait(self.abandoned, timeout=ABANDONED_SECONDS)

    async def renew(self, occurrence: Occurrence) -> bool:
        """Renew a lease, and say whether it is still held. Raises StoreError."""
        return await self._renew(occurrence)

    async def call_in_thread(self, occurrence: Occurrence, function: Callable[[ThreadCall], Any]) -> Any:
        """Call *function* in a thread, with the call, and return its result once it has returned."""
        while (earlier := occurrence.thread_call) is not None and not earlier.is_over:
            await earlier.over()  # a middleware has not waited for it, and a slot is for one thread
        if occurrence.task is None or self._threads.is_closed:
            # The run has ended meanwhile, or its worker has: nobody would abandon a function that begins now.
            raise asyncio.CancelledError
        call = occurrence.thread_call = ThreadCall(self._threads, occurrence)
        if occurrence.lease_until < self._watched_until:
            self._watch_leases(occurrence.lease_until)
        try:
            return await call.run(partial(function, call))
        finally:
            if occurrence.thread_call is call and not call.abandoned:
                occurrence.thread_call = None

    async def _run(self, occurrence: Occurrence) -> None:
        current.set(occurrence)
        if occurrence.starts_at > self._clock.now():
            await occurrence.wait_for_its_time()
        if occurrence.is_lease_short:
            # The claim was slow, or this process was stopped since. The lease may end before the renewer's next turn.
            await occurrence.renew_or_release()
        if occurrence.permit is not None and occurrence.permit.remaining() == 0:
            occurrence.revoke()
        if occurrence.lease_lost or occurrence.ending is not None:
            ended = _cancelled(occurrence)
        else:
            occurrence.begun = True
            policies = occurrence.held.policies
            if policies.active_deadline is not None or policies.overlap is Overlap.REPLACE:
                self._arm(occurrence)
            try:
                await occurrence.registration.run(occurrence)
            except KeyboardInterrupt as error:
                self._over(occurrence, _raised(occurrence, error))
                raise  # it is meant for the process, not for this run alone
            except BaseException as error:  # noqa: BLE001 - whatever a handler raises ends its run, sys.exit() too
                ended = _raised(occurrence, error)
            else:
                ended = _returned(occurrence)
            if occurrence.thread_call is not None:
                await _until_returned(occurrence)
        self._over(occurrence, ended)

    def _over(self, occurrence: Occurrence, ended: Ended) -> None:
        assert occurrence.task is not None
        del self.running[occurrence.task]
        if not self._freed.is_set():
            self._freed.set()
        if occurrence.timers is not None:
            for timer in occurrence.timers:
                timer.cancel()
        occurrence.break_reference_cycles()
        if occurrence.thread_call is not None and occurrence.thread_call.abandoned:
            logger.warning(
                "the handler still runs in its thread; its lease will expire", extra=occurrence.log_fields()
            )
            return
        self._free_limits(occurrence)
        if occurrence.lease_lost:
            what = "the run ended after" if occurrence.begun else "the run was not started:"
            logger.warning("%s its lease was lost", what, extra=occurrence.log_fields())
            return
        now = self._clock.now()
        try:
            completion = rules.settle(occurrence.held, ended, now)
        except Exception:
            # A record that cannot be completed affects only itself: its lease expires, and it is claimed again.
            logger.exception(
                "could not decide how to complete a run; its lease will expire", extra=occurrence.log_fields()
            )
            return
        if ended.ending is not Ending.RETURNED:
            log_ending(occurrence, completion, now)
        if completion.change is not None:
            self._completions.put(completion)

    def _free_limits(self, occurrence: Occurrence) -> None:
        """Give back the places of a run under the limits of its task, across workers and in this process."""
        if occurrence.permit is not None:
            occurrence.permit.shared_limit.put(occurrence.permit)
        registration = occurrence.registration
        if registration.concurrency_limit is not None:
            self._by_handler[registration.handler] -= 1
            self._signals.poll_now()  # a free slot alone does not tell that this handler has room again

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()

    def _watch_leases(self, until: Duration) -> None:
        """
        Set the timer that ends runs whose leases have expired; the first may do so at *until*.

        The timer is in the handlers' loop: a process that was frozen ends such runs before its handlers continue. One
        timer serves all runs. If leases were renewed in the meantime, it is set again.
        """
        self._stop_watching()
        self._watched_until = until
        delay = max(0, until - self._clock.monotonic())
        self._watch = self._clock.call_later(delay, self._end_with_leases)

    def _end_with_leases(self) -> None:
        self._watched_until = LEASE_UNKNOWN
        for occurrence in self.running.values():
            if occurrence.lease_lost or not occurrence.renews_itself:
                continue
            if occurrence.lease_remaining() == 0:
                occurrence.end_with_lease()
            else:
                self._watched_until = min(self._watched_until, occurrence.lease_until)
        if self._watched_until != LEASE_UNKNOWN:
            self._watch_leases(self._watched_until)

    def _arm(self, occurrence: Occurrence) -> None:
        """Set the timers that cancel a run: its active deadline, and the next occurrence that replaces it."""
        policies = occurrence.held.policies
        occurrence.timers = []
        if policies.active_deadline is not None:
            deadline = policies.active_deadline
            occurrence.timers.append(
                self._clock.call_later(deadline, lambda: occurrence.cancel(Ending.RAISED))
            )
        if policies.overlap is Overlap.REPLACE:
            self._arm_replacement(occurrence, after=occurrence.held.scheduled_at)

    def _arm_replacement(self, occurrence: Occurrence, after: Instant) -> None:
        """Reload the record when the next occurrence is due, and several times before: an edit may bring it forward."""
        if occurrence.timers is None:
            return
        at = replacement_check_at(occurrence.held, after)
        often = self._clock.now() + occurrence.held.record.lease_length // 3
        occurrence.timers.append(
            self._clock.call_at(min(at, often), lambda: self._ask_for_replacement(occurrence))
        )

    def _ask_for_replacement(self, occurrence: Occurrence) -> None:
        # It is in `replacing` from this very moment, so that simulated time waits for it.
        assert self._loop is not None
        task = self._loop.create_task(self._replace(occurrence))
        self.replacing.add(task)
        task.add_done_callback(self.replacing.discard)

    async def _replace(self, occurrence: Occurrence) -> None:
        """Cancel a run if its successor is due by the record as it is now: an edit in mid-run may have deferred it."""
        await self._reload(occurrence)
        if occurrence.task not in self.running:
            return
        now = self._clock.now()
        if replaced_at(occurrence.held) <= now:
            occurrence.cancel(Ending.REPLACED)
        elif occurrence.timers:
            occurrence.timers.pop()  # the one that has just fired: a run may last for days
            self._arm_replacement(occurrence, after=now)


async def _until_returned(occurrence: Occurrence) -> None:
    """Wait until the function of a run has returned, even if its middlewares did not. A cancellation does not end the wait."""
    while (call := occurrence.thread_call) is not None and not call.is_over:
        call.stop()
        with suppress(asyncio.CancelledError):
            await call.over()


def _cancelled(occurrence: Occurrence) -> Ended:
    """Return how a cancelled run ended, by who cancelled it: its worker, or its own handler."""
    ending = occurrence.ending
    if ending is Ending.RAISED:
        seconds = (occurrence.held.policies.active_deadline or 0) * MICROSECOND / 1e6
        message = f"the run took longer than its active deadline of {seconds:g} s"
        return Ended(_failure(occurrence, TimeoutError()), message)
    if ending is Ending.DRAINED:
        return DRAINED if occurrence.begun else UNSTARTED
    if ending is Ending.REPLACED:
        return Ended(Ending.REPLACED, "the next occurrence was due")
    message = "CancelledError: the handler was cancelled, but not by its worker"
    if not occurrence.lease_lost:  # whose end is logged by itself
        logger.error("the handler failed: %s", message, extra=occurrence.log_fields())
    return Ended(_failure(occurrence, asyncio.CancelledError()), message)


def _failure(occurrence: Occurrence, error: BaseException) -> Ending:
    """Return the ending of a run that failed by *error*: its handler says whether that is retried."""
    return Ending.RAISED if occurrence.registration.retries(error) else Ending.REFUSED


def _returned(occurrence: Occurrence) -> Ended:
    """Return how a run ended that returned: a success even if a drain cancelled it, but not past its deadline."""
    if occurrence.ending is None or occurrence.ending is Ending.DRAINED:
        return RETURNED
    return _cancelled(occurrence)


def _raised(occurrence: Occurrence, error: BaseException) -> Ended:
    """Return how a run ended that raised *error*: an error that a handler raises when the worker cancels it does not count."""
    if isinstance(error, asyncio.CancelledError):
        return _cancelled(occurrence)
    if occurrence.ending is not None:
        logger.warning(
            "the handler raised an error while it was cancelled",
            exc_info=error,
            extra=occurrence.log_fields(),
        )
        return _cancelled(occurrence)
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    extra, shown = occurrence.log_fields(), printable(message)  # on one line, so that the names follow on it
    if _failure(occurrence, error) is Ending.REFUSED:
        cause = None if isinstance(error, DoNotRetry) else error
        logger.error("the handler failed and must not be retried: %s", shown, exc_info=cause, extra=extra)
        return Ended(Ending.REFUSED, message)
    if isinstance(error, RetryAfter):
        logger.warning("the handler asked for a retry in %s: %s", error.delay, shown, extra=extra)
        return Ended(Ending.RAISED, message, int(error.delay.total_seconds() * 1_000_000))
    logger.error("the handler failed: %s", shown, exc_info=error, extra=extra)
    return Ended(Ending.RAISED, message)
