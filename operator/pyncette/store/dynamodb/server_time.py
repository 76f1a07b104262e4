"""Tells the time of a server that says it in whole seconds only, as closely as its answers allow."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Final

from pyncette.clock import SECOND, Duration, Instant, monotonic_ns

DRIFT_PARTS: Final = 10_000
"""Two clocks run apart by at most one part in this many, so what was known loses as much of its sharpness."""


class DateClock:
    """
    The server's time, from the `Date` of its answers, which is cut to the second.

    Each answer puts the time between two bounds: it was said after the request left and before the answer came, and
    what was cut off is less than a second. Over many answers the bounds close in on each other, to within a few
    milliseconds. Between them the system's own clock is believed: no answer has contradicted it. So on machines whose
    clocks agree with the server's, as most do, its time is the system's own, and elsewhere it is off by less
    than a second at first, and soon by much less. Bounds that contradict each other mean that a clock has stepped:
    then the latest answer alone counts.
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
        """Of what the server's clock is ahead of the monotonic one."""
        self._most: Instant = 0
        self._since: Duration = 0

    def monotonic(self) -> Duration:
        return self._monotonic_ns() // 1000

    def observe(self, date: str | None, asked_at: Duration, answered_at: Duration) -> None:
        """Take note of a *date* that came between two readings of `monotonic`; one that is none is passed over."""
        said = _instant(date)
        if said is None:
            return
        least, most = said - answered_at, said + SECOND - asked_at
        if self._least is not None:
            blur = (answered_at - self._since) // DRIFT_PARTS
            known_least, known_most = self._least - blur, self._most + blur
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
