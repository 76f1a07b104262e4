"""Delays further passes over a key until a burst of changes is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from itertools import islice
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

QUIET_PERIODS_MAX: Final = 4
"""A key that never stops changing is released after this many quiet periods."""


class Debounce(Generic[K, T]):
    """
    The quiet period of each key after a pass. A key that changes meanwhile is held until it has not changed for *seconds*.

    *release* is called with a held key and what it was held with.
    """

    def __init__(self, seconds: float, release: Callable[[K, T], None]) -> None:
        self._seconds = seconds
        self._release = release
        self._periods: dict[K, _QuietPeriod] = {}
        """By key, in the order of the passes."""
        self._held: dict[K, T] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop of the passes. Keys may change while it is not running."""

    def __len__(self) -> int:
        """Return how many keys are held."""
        return len(self._held)

    @property
    def quiet_periods(self) -> int:
        """The number of quiet periods that are kept. Those that ended are dropped as others begin."""
        return len(self._periods)

    def start(self, key: K) -> None:
        """Start the quiet period of *key*, whose pass has just ended, and drop periods that have ended."""
        if not self._seconds:
            return
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._periods.pop(key, None)
        self._periods[key] = _QuietPeriod(now + self._seconds, now + self._seconds * QUIET_PERIODS_MAX)
        for other, period in list(islice(self._periods.items(), 2)):
            if period.ends_at <= now:
                del self._periods[other]

    def hold(self, key: K, what: T, merge: Callable[[T, T], T]) -> bool:
        """Hold *key* with *what*, *merged* with what it is held with, and extend its quiet period; False if it has none."""
        period = self._periods.get(key)
        if period is None or self._loop is None or period.ends_at <= self._loop.time():
            return False
        if key not in self._held:
            self._schedule(key, period.ends_at)
            self._held[key] = what
        else:
            self._held[key] = merge(self._held[key], what)
        period.ends_at = max(period.ends_at, min(self._loop.time() + self._seconds, period.latest_end))
        return True

    def drop(self, key: K) -> None:
        """Forget that *key* is held: the pass that begins covers its changes."""
        self._held.pop(key, None)

    def _schedule(self, key: K, at: float) -> None:
        assert self._loop is not None
        self._loop.call_at(at, self._expire, key, at)

    def _expire(self, key: K, at: float) -> None:
        """End the quiet period of *key* that was to end *at*, unless it was extended or started again."""
        period = self._periods.get(key)
        # Not by the clock: a timer may fire a little early, and would be set again and again.
        if period is not None and period.ends_at > at:
            if key in self._held:
                self._schedule(key, period.ends_at)
            return
        self._periods.pop(key, None)
        if key in self._held:
            self._release(key, self._held.pop(key))


class _QuietPeriod:
    """When the quiet period of a key ends, in times of the loop."""

    __slots__ = ("ends_at", "latest_end")

    def __init__(self, ends_at: float, latest_end: float) -> None:
        self.ends_at = ends_at
        """Extended by each change..."""
        self.latest_end = latest_end
        """... but not beyond this."""
