"""A simulated clock, which moves only when a test moves it, and lets all due tasks run on the way."""

from __future__ import annotations

import asyncio
import datetime
import heapq
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from itertools import count
from typing import Any, Final, Protocol

from pyncette.clock import LONGEST, STALE_AFTER, Duration, Instant
from pyncette.core.times import datetime_of, instant_of

SETTLE_SECONDS: Final = 30.0
"""Real time that one step may take. A handler that takes longer is considered stuck."""

QUIET_TURNS: Final = 10
"""Turns of the event loop in which all participants must be settled: a task that a timer woke needs some turns to start."""

SPINS_MAX: Final = 50
"""Turns of the event loop before waiting for the backend in real time."""

REAL_PAUSE_SECONDS: Final = 0.0005

UNSETTLED_MAX: Final = 20
"""The most runs that an error names."""


class Participant(Protocol):
    """An object that works in simulated time and knows when it is settled."""

    def is_settled(self, asleep: AbstractSet[asyncio.Task[Any]]) -> bool:
        """Return True if nothing is to be done before the clock moves. The tasks *asleep* wait for that."""
        ...

    def unsettled(self, asleep: AbstractSet[asyncio.Task[Any]]) -> Sequence[str]:
        """Return what it waits for, for people: one line each."""
        ...


class UnsettledError(AssertionError):
    """A move did not end: handlers still run in real time. The message names them."""


class VirtualTimer:
    """A callback that is called when the clock reaches its time."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """
    A `Clock` of simulated time, with real input and output.

    It moves only by `advance` and `advance_to`, from due time to due time. Before each step it waits until nothing is
    claimed, running or unwritten. So a week of a schedule takes milliseconds, and runs are in order.
    """

    def __init__(
        self, start: datetime.datetime | None = None, settle_seconds: float = SETTLE_SECONDS
    ) -> None:
        start = start or datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
        if start.tzinfo is None:
            raise ValueError(
                "the start of a virtual clock needs a time zone, such as datetime(…, tzinfo=datetime.UTC)"
            )
        self._settle_seconds = settle_seconds
        self._now: Instant = instant_of(start)
        self._timers: list[tuple[Instant, int, VirtualTimer]] = []
        self._order = count()
        self._participants: list[Participant] = []
        self._asleep: set[asyncio.Task[Any]] = set()

    # --- For workers ---------------------------------------------------------------------------------------------

    def now(self) -> Instant:
        return self._now

    def is_stale(self, after: Duration = STALE_AFTER) -> bool:  # noqa: ARG002
        """Return False: simulated time does not depend on the backend."""
        return False

    def expired_at(self) -> Instant:
        return self._now

    def monotonic(self) -> Duration:
        return self._now

    def call_at(self, at: Instant, callback: Callable[[], object]) -> VirtualTimer:
        timer = VirtualTimer(callback)
        heapq.heappush(self._timers, (at, next(self._order), timer))
        return timer

    def call_later(self, delay: Duration, callback: Callable[[], object]) -> VirtualTimer:
        return self.call_at(self._now + delay, callback)

    async def wait_for(self, event: asyncio.Event, delay: Duration | None) -> bool:
        return await self.wait(event, None if delay is None else self._now + delay)

    async def wait(self, event: asyncio.Event, until: Instant | None) -> bool:
        if until is None:
            return await event.wait()
        if until <= self._now:
            await asyncio.sleep(0)
            return event.is_set()
        over = asyncio.Event()
        timer = self.call_at(until, over.set)
        waiting = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(over.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            for future in waiting:
                future.cancel()
        return event.is_set()

    def observe(self, backend_now: Instant, asked_at: Duration, answered_at: Duration) -> None:
        """Ignore the time of the backend."""

    def lag(self, now: Instant, backend_now: Instant, asked_at: Duration, answered_at: Duration) -> Duration:
        """Return 0: simulated time is never behind."""
        del now, backend_now, asked_at, answered_at
        return 0

    def expect_lease(self, length: Duration) -> None:
        """Ignore the length of leases: simulated time has no steps."""

    def latest_after(self, delay: Duration) -> Instant:  # noqa: ARG002 - tests move the clock at will
        return self._now + LONGEST

    # --- For tests -----------------------------------------------------------------------------------------------

    @property
    def utc(self) -> datetime.datetime:
        """The simulated time, in UTC."""
        return datetime_of(self._now)

    def join(self, participant: Participant) -> None:
        """Wait for *participant* at each step from now on."""
        self._participants.append(participant)

    def leave(self, participant: Participant) -> None:
        """No longer wait for *participant*."""
        self._participants.remove(participant)

    async def sleep(self, delay: datetime.timedelta) -> None:
        """Wait in simulated time. Handlers under test use it to take time."""
        over = asyncio.Event()
        timer = self.call_at(self._now + duration_of(delay), over.set)
        task = asyncio.current_task()
        assert task is not None
        self._asleep.add(task)
        try:
            await over.wait()
        finally:
            self._asleep.discard(task)
            timer.cancel()

    async def advance(self, delay: datetime.timedelta) -> None:
        """Move by *delay*, and return when all that became due on the way has run and is written."""
        if delay < datetime.timedelta(0):
            raise ValueError("a virtual clock cannot go back")
        await self._move_to(self._now + duration_of(delay))

    async def advance_to(self, at: datetime.datetime) -> None:
        """Move to *at*."""
        if instant_of(at) < self._now:
            raise ValueError(f"a virtual clock cannot go back: it is {self.utc} already")
        await self._move_to(instant_of(at))

    async def settle(self) -> None:
        """Return when all that is due now has run and is written."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settle_seconds
        spins = 0
        quiet = 0
        while quiet < QUIET_TURNS:
            spins += 1
            await asyncio.sleep(0 if spins < SPINS_MAX else REAL_PAUSE_SECONDS)
            quiet = (
                quiet + 1
                if all(participant.is_settled(self._asleep) for participant in self._participants)
                else 0
            )
            if loop.time() > deadline:
                raise UnsettledError(self._why_unsettled())

    def _why_unsettled(self) -> str:
        left = [line for participant in self._participants for line in participant.unsettled(self._asleep)]
        shown = "".join(f"\n    {line}" for line in left[:UNSETTLED_MAX])
        if len(left) > UNSETTLED_MAX:
            shown += f"\n    and {len(left) - UNSETTLED_MAX} more"
        return (
            f"not settled after {self._settle_seconds:g} s of real time, at {self.utc.isoformat()}:{shown}\n"
            "In simulated time, a handler must not wait for real time: await world.sleep() instead, and in a plain "
            "function pass it to context.wait_for(). "
            "If the work really takes that long, raise settle_seconds"
        )

    async def _move_to(self, target: Instant) -> None:
        await self.settle()
        while True:
            at = self._next_timer()
            if at is None or at > target:
                break
            self._now = max(self._now, at)
            self._ring()
            await self.settle()
        self._now = target

    def _next_timer(self) -> Instant | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def _ring(self) -> None:
        while self._timers and self._timers[0][0] <= self._now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                callback()


def duration_of(delay: datetime.timedelta) -> Duration:
    """Return microseconds."""
    return delay // datetime.timedelta(microseconds=1)
