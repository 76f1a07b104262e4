"""Tells the time in microseconds since the epoch, and lets a worker wait for an instant."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol, TypeAlias

Instant: TypeAlias = int
"""Microseconds since 1970-01-01T00:00:00Z."""

Duration: TypeAlias = int
"""Microseconds."""

MICROSECOND: Duration = 1
MILLISECOND: Duration = 1_000
SECOND: Duration = 1_000_000


UNAWARE_MAX: Duration = 10 * SECOND
"""For so long another worker may not hear of a step of the backend's clock, and stamp leases by the time before: it is
the longest time between two looks, and between two renewals."""


class Timer(Protocol):
    """Something that was put off until an instant."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """What the time is, and how to wait for it. A worker has exactly one."""

    def now(self) -> Instant:
        """The time by which things are due and leases end. It never goes back."""
        ...

    def expired_at(self) -> Instant:
        """
        Leases that ended at or before this instant may be taken over: `now`, or earlier for a while after a step.

        A step of the backend's clock makes leases look expired that are not: their holders are alive, and stamped them
        by the clock of before.
        """
        ...

    def monotonic(self) -> Duration:
        """Time since an arbitrary origin, which no step of a clock moves: for the length of leases and of runs."""
        ...

    def call_at(self, at: Instant, callback: Callable[[], object]) -> Timer:
        """Call *callback* in the running loop, as soon as it is *at*."""
        ...

    def call_later(self, delay: Duration, callback: Callable[[], object]) -> Timer:
        """Call *callback* in the running loop after *delay* by `monotonic`, which no step of a clock makes longer."""
        ...

    async def wait(self, event: asyncio.Event, until: Instant | None) -> bool:
        """Return True as soon as *event* is set, or False once it is *until* (never, if None)."""
        ...

    async def wait_for(self, event: asyncio.Event, delay: Duration | None) -> bool:
        """Return True as soon as *event* is set, or False once *delay* has passed by `monotonic` (never, if None)."""
        ...

    def observe(self, backend_now: Instant, asked_at: Duration, answered_at: Duration) -> None:
        """Take note of the backend's time, read between two readings of `monotonic`."""
        ...


class SystemClock:
    """
    The time of the backend: this process's monotonic clock, on an origin that each answer of the backend corrects.

    An answer pins the origin to within half its round trip; inside of that the origin is left alone. Until the first
    answer it is the system's own. The clock never goes back: after a step backwards it stands still until it is reached.
    Leases are stamped by others, whose clocks may not stand still, so they are judged by the time that the backend has.
    """

    def __init__(
        self,
        shortest_lease: Duration = 60 * SECOND,
        longest_lease: Duration = 60 * SECOND,
        *,
        time_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._origin = time_ns() // 1000 - self.monotonic()
        self._latest: Instant = 0
        self._observed = False
        self._step_above = shortest_lease // 4
        self._quarantine = longest_lease
        self._lowest_origin = self._origin
        """Of those by which a lease may have been stamped that still lives; of interest until `_quarantined_until`."""
        self._quarantined_until: Duration = 0

    def expect_leases(self, shortest: Duration, longest: Duration) -> None:
        """Set what counts as a step (a quarter of the shortest lease), and how long one is felt (the longest)."""
        self._step_above, self._quarantine = shortest // 4, longest

    def now(self) -> Instant:
        reading = self._origin + self._monotonic_ns() // 1000
        if reading > self._latest:
            self._latest = reading
        return self._latest

    def expired_at(self) -> Instant:
        monotonic = self.monotonic()
        if monotonic < self._quarantined_until:
            return self._lowest_origin + monotonic
        return self._origin + monotonic

    def monotonic(self) -> Duration:
        return self._monotonic_ns() // 1000

    def call_at(self, at: Instant, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(self._seconds_until(at), callback)

    def call_later(self, delay: Duration, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(delay / SECOND, callback)

    async def wait(self, event: asyncio.Event, until: Instant | None) -> bool:
        if until is None:
            return await event.wait()
        while not await _is_set_within(event, self._seconds_until(until)):
            if self.now() >= until:
                return False
        return True

    async def wait_for(self, event: asyncio.Event, delay: Duration | None) -> bool:
        if delay is None:
            return await event.wait()
        end = self.monotonic() + delay
        while not await _is_set_within(event, (end - self.monotonic()) / SECOND):
            if self.monotonic() >= end:
                return False
        return True

    def observe(self, backend_now: Instant, asked_at: Duration, answered_at: Duration) -> None:
        correction = backend_now - (asked_at + answered_at) // 2 - self._origin
        uncertainty = (answered_at - asked_at) // 2
        known, self._observed = self._observed, True
        if abs(correction) <= uncertainty:
            return
        before = self._origin
        self._origin += correction
        if known and abs(correction) > self._step_above:
            if answered_at >= self._quarantined_until:
                self._lowest_origin = before
            self._lowest_origin = min(self._lowest_origin, before, self._origin)
            self._quarantined_until = answered_at + UNAWARE_MAX + self._quarantine

    def _seconds_until(self, at: Instant) -> float:
        """How long it takes until `now` is *at*: longer than it says, while it stands still."""
        return max(0, at - self._origin - self.monotonic()) / SECOND


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Say whether *event* is set; wait for it for *seconds*, or a little less: uvloop's timers are exact to a millisecond."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
