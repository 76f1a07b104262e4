"""Tells the time in microseconds since the epoch, and lets a worker wait for an instant."""

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
"""Longer than anybody means to wait for anything: added to now it stays far from the year 9999, and within 64 bits."""

UNAWARE_MAX: Duration = 10 * SECOND
"""For so long another worker may not hear of a step of the backend's clock, and stamp leases by the time before: it is
the longest time between two looks, and between two renewals."""

SHORT_LEASE: Duration = 1 * SECOND
"""The shortest that a resource can ask for. Whoever has a shorter one says so."""

LONG_LEASE: Duration = 600 * SECOND
"""Longer than nearly all. Of longer ones that others hold a process may not have heard; it hears of all that it claims."""

STALE_AFTER: Duration = 5 * SECOND
"""A process that has not read the backend's time for this long reads it before it decides anything."""

RECHECK_SECONDS: Final = 1.0
"""The longest that a wait relies on a timer of the loop, which does not count time in suspension."""

SUSPENDED_MIN: Final[Duration] = 10 * MILLISECOND
"""Suspensions, and steps of the backend's clock, that are shorter than this do not move timers."""


def _monotonic_clock() -> Callable[[], int]:
    try:
        clock = time.CLOCK_BOOTTIME
        time.clock_gettime_ns(clock)
    except (AttributeError, OSError):  # not Linux, or an incomplete emulation of it
        return time.monotonic_ns
    return partial(time.clock_gettime_ns, clock)


monotonic_ns: Final = _monotonic_clock()
"""
Nanoseconds since an arbitrary origin, including the time that the machine was suspended: leases do not stop for it.

Only Linux counts that time; elsewhere this is `time.monotonic_ns`. Neither counts a pause that a hypervisor hides from
its guest.
"""


class Timer(Protocol):
    """Something that was put off until an instant."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """What the time is, and how to wait for it. A worker has exactly one."""

    def now(self) -> Instant:
        """The time by which things are due and leases end. It never goes back once the backend has answered."""
        ...

    def is_stale(self, after: Duration = STALE_AFTER) -> bool:
        """Say whether the backend's time was last read longer than *after* ago, or never."""
        ...

    def expired_at(self) -> Instant:
        """
        Leases that ended at or before this instant may be taken over: `now`, or earlier for a while after a step.

        A step of the backend's clock makes leases look expired that are not: their holders are alive, and stamped them
        by the clock of before.
        """
        ...

    def monotonic(self) -> Duration:
        """
        Time since an arbitrary origin, which no step of a clock moves: for the length of leases and of runs.

        It includes the time that the machine was suspended, where the system counts that: see `monotonic_ns`.
        """
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

    def lag(self, now: Instant, backend_now: Instant, asked_at: Duration, answered_at: Duration) -> Duration:
        """
        Return by how much *now*, the time sent with a request, was behind the backend's time; 0 unless that was a step.

        A lease that such a request has stamped ends that much sooner than its length says.
        """
        ...

    def expect_lease(self, length: Duration) -> None:
        """Take note that there are leases of this *length*."""
        ...

    def latest_after(self, delay: Duration) -> Instant:
        """Return the latest time that `now` may show after *delay* of real time: pretended time may be anywhere."""
        ...


async def synchronize(clock: Clock, backend_now: Callable[[], Awaitable[Instant]]) -> None:
    """Read the backend's time with *backend_now*, and correct *clock* by it. Raises what *backend_now* raises."""
    asked_at = clock.monotonic()
    answer = await backend_now()
    clock.observe(answer, asked_at, clock.monotonic())


class SystemClock:
    """
    The time of the backend: this process's monotonic clock, on an origin that each answer of the backend corrects.

    An answer pins the origin to within half its round trip. Inside that range the origin is left alone; from outside it
    moves only to the nearest end. So an answer that was delayed because this process stood still moves it by what is
    certain, and not by half of the delay. Until the first answer the origin is the system's own, which may be wrong, so the
    clock may still go back at that answer. From then on it never goes back: after a step backwards it stands still until
    the backend's time reaches it.
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
        monotonic_ns: Callable[[], int] = monotonic_ns,
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._origin = time_ns() // 1000 - self.monotonic()
        self._latest: Instant = 0
        self._asked_at: Duration | None = None
        """When the latest of all answered requests for the backend's time was sent."""
        self._shortest = shortest
        self._longest = longest
        self._lowest_origin = self._origin
        """Of those by which a lease may have been stamped that still lives; of interest until `_quarantined_until`."""
        self._quarantined_until: Duration = 0
        self._observing = threading.Lock()
        """Renewals are answered on a thread of their own."""
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
            # Last, since from here on `now` must not go back, on other threads either.
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
        """How long it takes until `now` is *at*: longer than it says, while it stands still."""
        return max(0, at - self._origin - self.monotonic()) / SECOND

    def _timers_of(self, loop: asyncio.AbstractEventLoop) -> _Timers:
        timers = self._timers.get(loop)
        if timers is None:
            timers = self._timers[loop] = _Timers(self.monotonic, lambda: self._origin)
        return timers


class _Timers:
    """
    The timers of one event loop, which go by *monotonic*; *origin* is where the time of the backend begins by it.

    The loop's own timers stand still while the machine is suspended, and know nothing of a step of the backend's clock.
    So while any timer is set, a periodic check detects both and then sets all timers anew.
    """

    def __init__(self, monotonic: Callable[[], Duration], origin: Callable[[], Instant]) -> None:
        self.monotonic = monotonic
        self.pending: dict[_Timer, None] = {}
        """In the order in which they were set."""
        self._origin = origin
        self._last_check: tuple[Duration, Instant] = (0, 0)
        """How far `monotonic` was ahead of the loop's clock, and the origin."""
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
    """Say whether *event* is set; wait for it for *seconds*, or a little less: uvloop's timers are exact to a millisecond."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
