"""Tells the time in microseconds since the epoch, and lets a worker wait for an instant."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol, TypeAlias

Instant: TypeAlias = int
"""Microseconds since 1970-01-01T00:00:00Z."""

Duration: TypeAlias = int
"""Microseconds."""

MICROSECOND: Duration = 1
MILLISECOND: Duration = 1_000
SECOND: Duration = 1_000_000


class Clock(Protocol):
    """What the time is, and how to wait for it. A worker has exactly one."""

    def now(self) -> Instant:
        """The time by which things are due and leases end. It never goes back."""

    def monotonic(self) -> Duration:
        """Time since an arbitrary origin, which no step of a clock moves: for the length of leases and of runs."""

    async def wait(self, event: asyncio.Event, until: Instant | None) -> bool:
        """Return True as soon as *event* is set, or False once it is *until* (never, if None)."""

    def observe(self, backend_now: Instant, asked_at: Duration, answered_at: Duration) -> None:
        """Take note of the backend's time, read between two readings of `monotonic`."""


class SystemClock:
    """The time of this process, advanced by its monotonic clock and kept on the time of its backend."""

    SLEW_STEP: Duration = 50 * MILLISECOND
    """An observation that is off by less than this, or than its own uncertainty, moves the clock only forward."""

    def __init__(self) -> None:
        self._origin = time.time_ns() // 1000 - self.monotonic()
        self._latest: Instant = 0

    def now(self) -> Instant:
        reading = self._origin + time.monotonic_ns() // 1000
        if reading > self._latest:
            self._latest = reading
        return self._latest

    def monotonic(self) -> Duration:
        return time.monotonic_ns() // 1000

    async def wait(self, event: asyncio.Event, until: Instant | None) -> bool:
        delay = None if until is None else max(0, until - self.now()) / SECOND
        try:
            async with asyncio.timeout(delay):
                return await event.wait()
        except TimeoutError:
            return False

    def observe(self, backend_now: Instant, asked_at: Duration, answered_at: Duration) -> None:
        origin = backend_now - (asked_at + answered_at) // 2
        uncertainty = (answered_at - asked_at) // 2
        if abs(origin - self._origin) > uncertainty:
            self._origin = origin
