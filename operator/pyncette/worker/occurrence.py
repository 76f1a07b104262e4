"""One claimed occurrence while it runs in this process: what is held, and how its lease stands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from typing import Any, Final, Protocol

from pyncette.clock import Clock, Duration, Instant, Timer
from pyncette.coordination.permits import Permit
from pyncette.core.accounting import run_id
from pyncette.core.record import Partition
from pyncette.core.rules import Ending, HeldRun
from pyncette.core.spec import Heartbeat, Mode, Policies

logger = logging.getLogger(__name__)

START_SHARE: Final = 3
"""
No handler starts with less than a third of its lease left. That is enough for the renewer's next turn, which comes
within a sixth, and for an answer.
"""

current: ContextVar[Occurrence | None] = ContextVar("current", default=None)
"""The run that this code is part of, with all that it awaits and starts; so that what it logs can say so."""


class Registration(Protocol):
    """A handler that this process can run, and the partitions that it may claim it from."""

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
        """How many may run at once in this process; None: as many as there are slots."""
        ...

    @property
    def shared_among(self) -> int:
        """How many partitions its task has, if workers share them out among themselves; 0: each polls all of them."""
        ...

    def run(self, occurrence: Occurrence) -> Coroutine[Any, Any, None]:
        """Call the handler, middlewares around it. What it raises is what the handler raised."""
        ...


class Occurrence:
    """A run in this process. It lives from its claim until its handler returns."""

    __slots__ = (
        "_clock",
        "_interrupted",
        "_renew",
        "begun",
        "ending",
        "held",
        "lease_lost",
        "lease_until",
        "permit",
        "registration",
        "starts_at",
        "task",
        "timers",
    )

    def __init__(
        self,
        held: HeldRun,
        registration: Registration,
        renew: Callable[[Occurrence], Any],
        clock: Clock,
        lease_until: Duration,
        starts_at: Instant,
        permit: Permit | None = None,
    ) -> None:
        self.held = held
        self.registration = registration
        self._renew = renew
        self._clock = clock
        self.lease_until = lease_until
        """Until when the lease is surely ours, by this process's monotonic clock."""
        self.starts_at = starts_at
        """When its handler is to be called: what is claimed ahead waits for its time."""
        self.permit = permit
        """What lets it run, if its task has a limit on all workers together."""
        self.lease_lost = False
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        """Whether its handler was called. Until then there is nothing to cancel, and only the reason is kept."""
        self.ending: Ending | None = None
        """Why it was cancelled, if we did it."""
        self.timers: list[Timer] | None = None
        self._interrupted: asyncio.Event | None = None
        """Set to end its wait for its time or for a renewal; None before its first wait."""

    @property
    def renews_itself(self) -> bool:
        """Whether the worker renews the lease, and not the handler."""
        return self.held.policies.heartbeat is Heartbeat.AUTOMATIC

    @property
    def is_at_most_once(self) -> bool:
        return self.held.policies.mode is Mode.AT_MOST_ONCE

    def lease_remaining(self) -> Duration:
        """How long the lease is surely ours, if nobody renews it; not negative."""
        return max(0, self.lease_until - self._clock.monotonic())

    @property
    def is_lease_short(self) -> bool:
        """Whether too little of the lease is left for a handler to start."""
        # A renewal grants the length in the policies, which may be less than the claim granted.
        length = min(self.held.record.lease_length, self.held.policies.lease)
        return self.lease_until - self._clock.monotonic() < length // START_SHARE

    async def heartbeat(self) -> bool:
        """Renew the lease, and say whether it is still ours."""
        held: bool = await self._renew(self)
        return held

    async def wait_for_its_time(self) -> None:
        """Return once it is due, or once there is a reason not to start it."""
        self._interrupted = asyncio.Event()
        await self._clock.wait(self._interrupted, self.starts_at)

    async def renew_or_release(self) -> None:
        """Renew a short lease before the start; if that fails, or takes half of what is left, release it unstarted."""
        remaining = self.lease_remaining()
        if remaining > 0 and self.ending is None and not self.lease_lost:
            await self._renew_within(remaining // 2)  # the other half is for the release
        if self.is_lease_short and self.ending is None and not self.lease_lost:
            logger.warning(
                "run not started: its lease was too short and was not renewed in time", extra=self.facts()
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
            logger.warning("could not renew a lease before the start: %s", error, extra=self.facts())

    def end_with_lease(self) -> None:
        """End the run, since its lease expired. One that has not started is released; another holder's write wins."""
        if self.begun:
            self.lose()
        else:
            self.cancel(Ending.DRAINED)

    def cancel(self, ending: Ending) -> None:
        """End the run from outside, and remember why."""
        if self.ending is None and self.task is not None:
            self.ending = ending
            self._interrupt()

    def lose(self) -> None:
        """Take note that the lease is gone: what the run does from now on is not written."""
        if not self.lease_lost:
            self.lease_lost = True
            if self.renews_itself or not self.begun:
                self._interrupt()

    def revoke(self) -> None:
        """Take note that its permit is gone: others may run in its place, so it is given back."""
        if self.permit is not None:
            self.permit.lose()
        self.cancel(Ending.DRAINED)

    def let_go(self) -> None:
        """
        Drop what leads back here once the run has ended, so that nothing of it waits for the garbage collector.

        The collector would find it some thousand runs later, all at once, and whatever is due meanwhile would wait.
        """
        self.task = None
        self.timers = None

    def _interrupt(self) -> None:
        if self.begun and self.task is not None:
            self.task.cancel()
        elif self._interrupted is not None:
            self._interrupted.set()

    def facts(self) -> dict[str, Any]:
        """What a log line about this run says beside its sentence."""
        record = self.held.record
        return {
            "task": record.key.task,
            "instance": record.key.instance,
            "run_id": run_id(record.key, record.fence),
            "attempt": self.held.attempt,
            "scheduled_at": self.held.scheduled_at,
        }
