"""One claimed occurrence while it runs in this process, with its lease and its permit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from typing import Any, Final, Protocol

from pyncette.clock import Clock, Duration, Instant, Timer
from pyncette.coordination.permits import Permit
from pyncette.core.log_messages import fields_of_run, named, naming_logger
from pyncette.core.record import Partition
from pyncette.core.runs import Ending, HeldRun
from pyncette.core.spec import Heartbeat, Mode, Policies
from pyncette.worker.threads import ThreadCall

logger = naming_logger(__name__)

START_SHARE: Final = 3
"""
No handler starts with less than a third of its lease left. That is enough for the renewer's next turn, which comes
within a sixth, and for an answer.
"""

STOP_REASONS: Final = {
    Ending.RAISED: "the run took longer than its active deadline",
    Ending.REPLACED: "the next occurrence is due",
    Ending.DRAINED: "the worker is stopping, or has lost the permit of the run",
}
"""By the ending of a run that its worker cancelled."""

current: ContextVar[Occurrence | None] = ContextVar("current", default=None)
"""The run that the current code belongs to, so that log lines can name it."""


class Registration(Protocol):
    """A handler that this process can run, and the partitions to claim it from."""

    @property
    def handler(self) -> str: ...

    @property
    def partitions(self) -> Sequence[Partition]:
        """The partitions to claim from now; empty while the task is disabled."""
        ...

    @property
    def policies(self) -> Policies:
        """For records that have no policies of their own."""
        ...

    @property
    def concurrency_limit(self) -> int | None:
        """The most concurrent runs in this process; None: as many as there are slots."""
        ...

    @property
    def shared_among(self) -> int:
        """The partition count of its task, if workers share the partitions out; 0: each worker polls all of them."""
        ...

    def run(self, occurrence: Occurrence) -> Coroutine[Any, Any, None]:
        """Call the handler inside its middlewares. Raises whatever the handler raises."""
        ...

    def retries(self, error: BaseException) -> bool:
        """Return False if an attempt that ended with *error* must not be followed by another."""
        ...


class Host(Protocol):
    """The worker of a run, as the run sees it."""

    async def renew(self, occurrence: Occurrence) -> bool:
        """Renew the lease, and say whether it is still held. Raises StoreError."""
        ...

    async def call_in_thread(self, occurrence: Occurrence, function: Callable[[ThreadCall], Any]) -> Any:
        """Call *function* in a thread, with the call, and return its result once it has returned."""
        ...


class Occurrence:
    """A run in this process, from its claim until its handler has ended."""

    __slots__ = (
        "_clock",
        "_host",
        "_interrupted",
        "begun",
        "ending",
        "held",
        "lease_lost",
        "lease_until",
        "permit",
        "registration",
        "starts_at",
        "task",
        "thread_call",
        "timers",
    )

    def __init__(
        self,
        held: HeldRun,
        registration: Registration,
        host: Host,
        clock: Clock,
        lease_until: Duration,
        starts_at: Instant,
        permit: Permit | None = None,
    ) -> None:
        self.held = held
        self.registration = registration
        self._host = host
        self._clock = clock
        self.lease_until = lease_until
        """Until when the lease is certainly held, by the monotonic clock."""
        self.starts_at = starts_at
        """When to call its handler: an occurrence that was claimed ahead waits for its time."""
        self.permit = permit
        """Its permit, if its task has a limit across workers."""
        self.lease_lost = False
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        """True once its handler was called. Until then there is nothing to cancel, and only the reason is kept."""
        self.ending: Ending | None = None
        """Why the worker cancelled it; None if it did not."""
        self.timers: list[Timer] | None = None
        self.thread_call: ThreadCall | None = None
        """The call of its plain function, from its start until the function has returned."""
        self._interrupted: asyncio.Event | None = None
        """Ends its wait for its time or for a renewal; None before its first wait."""

    @property
    def renews_itself(self) -> bool:
        """
        True if the worker renews the lease; False if the handler does, by its heartbeats.

        While a function runs in a thread, the worker renews: another run must not start beside what cannot be cancelled.
        """
        return self.held.policies.heartbeat is Heartbeat.AUTOMATIC or self.thread_call is not None

    @property
    def is_at_most_once(self) -> bool:
        return self.held.policies.mode is Mode.AT_MOST_ONCE

    def lease_remaining(self) -> Duration:
        """Return how long the lease is certainly held without a renewal; not negative."""
        return max(0, self.lease_until - self._clock.monotonic())

    @property
    def is_lease_short(self) -> bool:
        """True if too little of the lease is left for a handler to start."""
        # A renewal grants the length in the policies, which may be less than the claim granted.
        length = min(self.held.record.lease_length, self.held.policies.lease)
        return self.lease_until - self._clock.monotonic() < length // START_SHARE

    async def heartbeat(self) -> bool:
        """Renew the lease, and say whether it is still held."""
        return await self._host.renew(self)

    async def call_in_thread(self, function: Callable[[ThreadCall], Any]) -> Any:
        """Call *function* in a thread of the worker, with the call, and return its result once it has returned."""
        return await self._host.call_in_thread(self, function)

    @property
    def stop_reason(self) -> str:
        """Why the run should end; empty while it may go on."""
        if self.lease_lost:
            return "its lease was lost"
        return "" if self.ending is None else STOP_REASONS.get(self.ending, "the run was cancelled")

    async def wait_for_its_time(self) -> None:
        """Wait until it is due, or until there is a reason not to start it."""
        self._interrupted = asyncio.Event()
        await self._clock.wait(self._interrupted, self.starts_at)

    async def renew_or_release(self) -> None:
        """Renew a short lease before the start; if that fails, or takes half of what is left, release it unstarted."""
        remaining = self.lease_remaining()
        if remaining > 0 and self.ending is None and not self.lease_lost:
            await self._renew_within(remaining // 2)  # the other half is for the release
        if self.is_lease_short and self.ending is None and not self.lease_lost:
            logger.warning(
                "run not started: its lease was too short and was not renewed in time",
                extra=self.log_fields(),
            )
            self.cancel(Ending.DRAINED)

    async def _renew_within(self, delay: Duration) -> None:
        self._interrupted = answered = asyncio.Event()
        renewal = asyncio.ensure_future(self.heartbeat())
        renewal.add_done_callback(lambda _: answered.set())
        await self._clock.wait_for(answered, delay)
        if not renewal.done():
            renewal.cancel()
        elif not renewal.cancelled() and (error := renewal.exception()):
            logger.warning("could not renew a lease before the start: %s", error, extra=self.log_fields())

    def end_with_lease(self) -> None:
        """End the run, since its lease expired. One that has not started is released; another holder's write wins."""
        if self.begun:
            self.lose()
        else:
            self.cancel(Ending.DRAINED)

    def cancel(self, ending: Ending) -> None:
        """Cancel the run, and remember why."""
        if self.ending is None and self.task is not None:
            self.ending = ending
            self._interrupt()

    def lose(self) -> None:
        """Note that the lease is lost: the end of the run will not be written."""
        if not self.lease_lost:
            self.lease_lost = True
            if self.renews_itself or not self.begun:
                self._interrupt()

    def revoke(self) -> None:
        """Note that its permit is lost: another run may have taken its place, so this one is released."""
        if self.permit is not None:
            self.permit.lose()
        self.cancel(Ending.DRAINED)

    def break_reference_cycles(self) -> None:
        """
        Drop the references that lead back here, once the run has ended.

        Otherwise the garbage collector would find thousands of runs at once, and due occurrences would wait for it.
        """
        self.task = None
        self.timers = None

    def _interrupt(self) -> None:
        if self.begun and self.task is not None:
            self.task.cancel()
        elif self._interrupted is not None:
            self._interrupted.set()

    def __str__(self) -> str:
        return named(self.log_fields())

    def log_fields(self) -> dict[str, Any]:
        """Return the structured fields of a log line about this run."""
        return fields_of_run(self.held)
