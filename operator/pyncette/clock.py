"""Clocks in microseconds since the epoch, and waiting for an instant."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol, TypeAlias
from weakref import WeakKeyDictionary

Instant: TypeAlias = int
"""Microseconds since 1970-01-01T00:00:00Z."""

Duration: TypeAlias = int
"""Microseconds."""

MICROSECOND: Duration = 1
MILLISECOND: Duration = 1_000
SECOND: Duration = 1_000_000

LONGEST: Duration = 100 * 365 * 86_400 * SECOND
"""The longest duration of a setting. Added to now, it stays before the year 9999 and within 64 bits."""

UNAWARE_MAX: Duration = 10 * SECOND
"""The longest time in which another worker may not notice a step of the backend's clock, and stamp leases by the previous
time: the longest time between two polls, and between two renewals."""

SHORT_LEASE: Duration = 1 * SECOND
"""The shortest lease of a resource. A shorter one is registered by `expect_lease`."""

LONG_LEASE: Duration = 600 * SECOND
"""Longer than nearly all leases. Longer ones are registered by `expect_lease`, at the latest when they are claimed."""

STALE_AFTER: Duration = 5 * SECOND
"""After this time without an answer, the backend's time is read again before any decision."""

RECHECK_SECONDS: Final = 1.0
"""The longest timer of the event loop in a wait: such timers do not count suspension of the machine."""

SUSPENDED_MIN: Final[Duration] = 10 * MILLISECOND
"""Shorter suspensions, and smaller steps of the backend's clock, do not move timers."""


def _monotonic_clock() -> Callable[[], int]:
    try:
        clock = time.CLOCK_BOOTTIME
        time.clock_gettime_ns(clock)
    except (AttributeError, OSError):  # not Linux, or an incomplete emulation of it
        return time.monotonic_ns
    return partial(time.clock_gettime_ns, clock)


monotonic_ns: Final = _monotonic_clock()
"""
Nanoseconds since an arbitrary origin, including suspension of the machine, during which leases go on.

Only Linux counts that time; elsewhere this is `time.monotonic_ns`. Neither counts a pause that a hypervisor hides from
its guest.
"""


class Timer(Protocol):
    """A callback at a later instant."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """The time, and waiting for an instant. A worker has exactly one clock."""

    def now(self) -> Instant:
        """Return the time for due times and leases. It never goes back after the first answer of the backend."""
        ...

    def is_stale(self, after: Duration = STALE_AFTER) -> bool:
        """Return True if the backend's time was last read more than *after* ago, or never."""
        ...

    def expired_at(self) -> Instant:
        """
        Return the instant up to which expired leases may be taken over: `now`, or earlier for a while after a step.

        A step of the backend's clock makes leases appear expired whose holders are alive, and stamped them by the
        previous time.
        """
        ...

    def monotonic(self) -> Duration:
        """
        Return the time since an arbitrary origin, for the length of leases and of runs. No step of a clock changes it.

        It includes suspension of the machine if the system counts that: see `monotonic_ns`.
        """
        ...

    def call_at(self, at: Instant, callback: Callable[[], object]) -> Timer:
        """Call *callback* in the running loop at the time *at*."""
        ...

    def call_later(self, delay: Duration, callback: Callable[[], object]) -> Timer:
        """Call *callback* in the running loop after *delay* by `monotonic`, regardless of steps of a clock."""
        ...

    async def wait(self, event: asyncio.Event, until: Instant | None) -> bool:
        """Return True when *event* is set, or False at the time *until* (None: never)."""
        ...

    async def wait_for(self, event: asyncio.Event, delay: Duration | None) -> bool:
        """Return True when *event* is set, or False after *delay* by `monotonic` (None: never)."""
        ...

    def observe(self, backend_now: Instant, asked_at: Duration, answered_at: Duration) -> None:
        """Process the backend's time, read between two readings of `monotonic`. Can be called from any thread."""
        ...

    def lag(self, now: Instant, backend_now: Instant, asked_at: Duration, answered_at: Duration) -> Duration:
        """
        Return how far *now*, the time in a request, was behind the backend's time; 0 unless that was a step.

        A lease that such a request has stamped ends earlier by that much.
        """
        ...

    def expect_lease(self, length: Duration) -> None:
        """Register that leases of this *length* exist."""
        ...

    def latest_after(self, delay: Duration) -> Instant:
        """Return the latest possible `now` after *delay* of real time: simulated time may be anywhere."""
        ...


async def synchronize(clock: Clock, backend_now: Callable[[], Awaitable[Instant]]) -> None:
    """Read the backend's time with *backend_now*, and correct *clock* by it. Raises what *backend_now* raises."""
    asked_at = clock.monotonic()
    answer = await backend_now()
    clock.observe(answer, asked_at, clock.monotonic())


class SystemClock:
    """
    The time of the backend: this process's monotonic clock, on an origin that each answer of the backend corrects.

    An answer determines the origin to within half of its round trip. An origin inside of that range is kept; another one
    moves to the nearest end of the range. So an answer that was delayed by a pause of this process moves the origin only
    by the certain part, and not by half of the delay.

    Until the first answer, the origin is that of the system, which may be wrong, so the clock may go back at that answer.
    From then on it never goes back: after a step backwards it stands still until the backend's time reaches it. Leases
    are stamped by other processes, whose clocks may not stand still, so they are compared to the backend's time.

    A correction by more than a quarter of the *shortest* lease is a step. Leases of the previous time may exist for as long
    as the *longest* lease. Until then, a lease that is expired by one time but not by the other is not taken over. So
    expecting a lease that does not exist is harmless, except that after a step a worker's death is noticed later, by the
    size of the step.
    """

    def __init__(
        self,
        shortest: Duration = SHORT_LEASE,
        longest: Duration = LONG_LEASE,
        *,
        time_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = monotonic_ns,
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._origin = time_ns() // 1000 - self.monotonic()
        self._latest: Instant = 0
        self._asked_at: Duration | None = None
        """The time at which the latest answered request for the backend's time was sent."""
        self._shortest = shortest
        self._longest = longest
        self._lowest_origin = self._origin
        """The lowest origin that may have stamped a live lease; it is used until `_quarantined_until`."""
        self._quarantined_until: Duration = 0
        self._observing = threading.Lock()
        """Renewals are answered on another thread."""
        self._timers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Timers] = WeakKeyDictionary()

    def expect_lease(self, length: Duration) -> None:
        self._shortest = min(self._shortest, length)
        self._longest = max(self._longest, length)

    def latest_after(self, delay: Duration) -> Instant:
        return self.now() + delay

    def now(self) -> Instant:
        reading = self._origin + self._monotonic_ns() // 1000
        if self._asked_at is None:
            return reading
        if reading > self._latest:
            self._latest = reading
        return self._latest

    def is_stale(self, after: Duration = STALE_AFTER) -> bool:
        asked_at = self._asked_at
        return asked_at is None or self.monotonic() - asked_at > after

    def expired_at(self) -> Instant:
        monotonic = self.monotonic()
        if monotonic < self._quarantined_until:
            return self._lowest_origin + monotonic
        return self._origin + monotonic

    def monotonic(self) -> Duration:
        return self._monotonic_ns() // 1000

    def call_at(self, at: Instant, callback: Callable[[], object]) -> Timer:
        return self._timers_of(asyncio.get_running_loop()).set(lambda: at - self._origin, callback)

    def call_later(self, delay: Duration, callback: Callable[[], object]) -> Timer:
        end = self.monotonic() + delay
        return self._timers_of(asyncio.get_running_loop()).set(lambda: end, callback)

    async def wait(self, event: asyncio.Event, until: Instant | None) -> bool:
        if until is None:
            return await event.wait()
        while not await _is_set_within(event, min(RECHECK_SECONDS, self._seconds_until(until))):
            if self.now() >= until:
                return False
        return True

    async def wait_for(self, event: asyncio.Event, delay: Duration | None) -> bool:
        if delay is None:
            return await event.wait()
        end = self.monotonic() + delay
        while not await _is_set_within(event, min(RECHECK_SECONDS, (end - self.monotonic()) / SECOND)):
            if self.monotonic() >= end:
                return False
        return True

    def observe(self, backend_now: Instant, asked_at: Duration, answered_at: Duration) -> None:
        with self._observing:
            correction = backend_now - (asked_at + answered_at) // 2 - self._origin
            uncertainty = (answered_at - asked_at) // 2
            known = self._asked_at is not None
            excess = abs(correction) - uncertainty
            if excess > 0:
                certain = excess if correction > 0 else -excess
                self._correct(certain if known else correction, answered_at, known=known)
            # Last, since from now on `now` must not go back, on other threads either.
            self._asked_at = asked_at if self._asked_at is None else max(asked_at, self._asked_at)

    def lag(self, now: Instant, backend_now: Instant, asked_at: Duration, answered_at: Duration) -> Duration:
        behind = backend_now - now
        return behind if behind - (answered_at - asked_at) > self._shortest // 4 else 0

    def _correct(self, correction: Duration, at: Duration, *, known: bool) -> None:
        before = self._origin
        self._origin += correction
        if known and abs(correction) > self._shortest // 4:
            if at >= self._quarantined_until:
                self._lowest_origin = before
            self._lowest_origin = min(self._lowest_origin, before, self._origin)
            self._quarantined_until = at + UNAWARE_MAX + self._longest

    def _seconds_until(self, at: Instant) -> float:
        """Return the seconds until `now` is *at*, including the time in which the clock stands still."""
        return max(0, at - self._origin - self.monotonic()) / SECOND

    def _timers_of(self, loop: asyncio.AbstractEventLoop) -> _Timers:
        timers = self._timers.get(loop)
        if timers is None:
            timers = self._timers[loop] = _Timers(self.monotonic, lambda: self._origin)
        return timers


class _Timers:
    """
    The timers of one event loop, by *monotonic*; *origin* is the origin of the backend's time.

    The timers of the event loop do not count suspension of the machine, or steps of the backend's clock. So while any timer
    is set, a periodic check detects both and then restarts all timers.
    """

    def __init__(self, monotonic: Callable[[], Duration], origin: Callable[[], Instant]) -> None:
        self.monotonic = monotonic
        self.pending: dict[_Timer, None] = {}
        """In the order in which they were set."""
        self._origin = origin
        self._last_check: tuple[Duration, Instant] = (0, 0)
        """The lead of `monotonic` over the loop's clock, and the origin."""
        self._is_watched = False

    def set(self, at: Callable[[], Duration], callback: Callable[[], object]) -> _Timer:
        """Call *callback* once `monotonic` is what *at* returns, which a step of the backend's clock may change."""
        timer = _Timer(self, at, callback)
        if not self._is_watched:
            self._watch(asyncio.get_running_loop())
        return timer

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_watched = True
        self._last_check = (self._ahead_of(loop), self._origin())
        loop.call_later(RECHECK_SECONDS, self._check)

    def _check(self) -> None:
        self._is_watched = False
        if not self.pending:
            return
        loop = asyncio.get_running_loop()
        ahead, origin = self._last_check
        if self._ahead_of(loop) - ahead > SUSPENDED_MIN or abs(self._origin() - origin) > SUSPENDED_MIN:
            for timer in self.pending:
                timer.start(loop)
        self._watch(loop)

    def _ahead_of(self, loop: asyncio.AbstractEventLoop) -> Duration:
        return self.monotonic() - int(loop.time() * SECOND)


class _Timer:
    """A scheduled callback."""

    __slots__ = ("_at", "_callback", "_handle", "_timers")

    def __init__(self, timers: _Timers, at: Callable[[], Duration], callback: Callable[[], object]) -> None:
        self._timers = timers
        self._at = at
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        timers.pending[self] = None
        self.start(asyncio.get_running_loop())

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = loop.call_later(max(0, self._at() - self._timers.monotonic()) / SECOND, self._fire)

    def cancel(self) -> None:
        self._timers.pending.pop(self, None)
        if self._handle is not None:
            self._handle.cancel()

    def _fire(self) -> None:
        self._timers.pending.pop(self, None)
        self._callback()


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for *event* for *seconds*, or slightly less (uvloop has timers of milliseconds). Return True if it is set."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
