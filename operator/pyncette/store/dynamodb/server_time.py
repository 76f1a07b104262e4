"""Estimates the time of a server that reports it in whole seconds only."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Final

from pyncette.clock import SECOND, Duration, Instant, monotonic_ns

DRIFT_PARTS: Final = 10_000
"""Two clocks drift apart by at most one part in this many, by which known bounds widen."""


class DateClock:
    """
    The server's time, from the `Date` header of its answers, which is truncated to the second.

    Each answer bounds the time: the server set it after the request left and before the answer came, and truncation
    removes less than a second. Over many answers the bounds narrow to a few milliseconds. Between the bounds the system's
    clock is used, since no answer contradicts it. So where the clocks agree, as on most machines, the result is the
    system's time. Elsewhere it is off by less than a second at first, and soon by much less. If the bounds contradict each
    other, a clock has stepped, and only the latest answer counts.
    """

    def __init__(
        self,
        *,
        time_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = monotonic_ns,
    ) -> None:
        self._time_ns = time_ns
        self._monotonic_ns = monotonic_ns
        self._least: Instant | None = None
        """The least difference of the server's clock to the monotonic one; None before the first answer."""
        self._most: Instant = 0
        self._since: Duration = 0

    def monotonic(self) -> Duration:
        return self._monotonic_ns() // 1000

    def observe(self, date: str | None, asked_at: Duration, answered_at: Duration) -> None:
        """Narrow the bounds by a *date* that came between two readings of `monotonic`. An invalid date is ignored."""
        server_time = _instant(date)
        if server_time is None:
            return
        least, most = server_time - answered_at, server_time + SECOND - asked_at
        if self._least is not None:
            drift = (answered_at - self._since) // DRIFT_PARTS
            known_least, known_most = self._least - drift, self._most + drift
            if max(least, known_least) <= min(most, known_most):
                least, most = max(least, known_least), min(most, known_most)
        self._least, self._most, self._since = least, most, answered_at

    def now(self) -> Instant:
        monotonic = self.monotonic()
        own = self._time_ns() // 1000
        if self._least is None:
            return own
        return min(max(own, self._least + monotonic), self._most + monotonic)


def _instant(date: str | None) -> Instant | None:
    if date is None:
        return None
    try:
        return int(parsedate_to_datetime(date).timestamp()) * SECOND
    except (TypeError, ValueError, OverflowError):
        return None
