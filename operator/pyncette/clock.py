"""Tells the time in microseconds since the epoch, and lets a worker wait for an instant."""

from __future__ import annotations

import asyncio
import threading
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

LONGEST: Duration = 100 * 365 * 86_400 * SECOND
"""Longer than anybody means to wait for anything: added to now it stays far from the year 9999, and within 64 bits."""

UNAWARE_MAX: Duration = 10 * SECOND
"""For so long another worker may not hear of a step of the backend's clock, and stamp leases by the time before: it is
the longest time between two looks, and between two renewals."""

SHORT_LEASE: Duration = 1 * SECOND
"""The shortest that a resource can ask for. Whoever has a shorter one says so."""

LONG_LEASE: Duration = 600 * SECOND
"""Longer than nearly all. Of longer ones that others hold a process may not have heard; it hears of all that it claims."""


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
        """Take note of the backend's time, read between two readings of `monotonic`. Can be called from any thread."""
        ...

    def expect_lease(self, length: Duration) -> None:
        """Take note that there are leases of this *length*."""
        ...

    def reach(self, delay: Duration) -> Instant:
        """Return the latest that `now` may be once *delay* of real time has passed: pretended time may be anywhere."""
        ...


class SystemClock:
    """
    The time of the backend: this process's monotonic clock, on an origin that each answer of the backend corrects.

    An answer pins the origin to within half its round trip; inside of that the origin is left alone. Until the first
    answer it is the system's own. The clock never goes back: after a step backwards it stands still until it is reached.
    Leases are stamped by others, whose clocks may not stand still, so they are judged by the time that the backend has.

    A correction by more than a quarter of the *shortest* lease is a step. It is felt as long as there may be leases of
    the time before it, which is as long as the *longest*: until then, what looks expired by one time but not by the other
    is left alone. So to expect a lease that nobody has does no harm, but that a worker which died during a step is
    missed later, by as much as the clock stepped.
    """

    def __init__(
        self,
        shortest: Duration = SHORT_LEASE,
        longest: Duration = LONG_LEASE,
        *,
        time_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._origin = time_ns() // 1000 - self.monotonic()
        self._latest: Instant = 0
        self._observed = False
        self._shortest = shortest
        self._longest = longest
        self._lowest_origin = self._origin
        """Of those by which a lease may have been stamped that still lives; of interest until `_quarantined_until`."""
        self._quarantined_until: Duration = 0
        self._observing = threading.Lock()
        """Renewals are answered on a thread of their own."""

    def expect_lease(self, length: Duration) -> None:
        self._shortest = min(self._shortest, length)
        self._longest = max(self._longest, length)

    def reach(self, delay: Duration) -> Instant:
        return self.now() + delay

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
        with self._observing:
            correction = backend_now - (asked_at + answered_at) // 2 - self._origin
            uncertainty = (answered_at - asked_at) // 2
            known, self._observed = self._observed, True
            if abs(correction) > uncertainty:
                self._correct(correction, answered_at, known=known)

    def _correct(self, correction: Duration, at: Duration, *, known: bool) -> None:
        before = self._origin
        self._origin += correction
        if known and abs(correction) > self._shortest // 4:
            if at >= self._quarantined_until:
                self._lowest_origin = before
            self._lowest_origin = min(self._lowest_origin, before, self._origin)
            self._quarantined_until = at + UNAWARE_MAX + self._longest

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
