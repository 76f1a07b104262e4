"""Formats times, durations and schedules for people."""

from __future__ import annotations

import datetime
from typing import Final

from pyncette.clock import MILLISECOND, SECOND, Duration, Instant
from pyncette.core.schedule import Cron, Interval, Schedule
from pyncette.core.times import datetime_of

MINUTE: Final[Duration] = 60 * SECOND
HOUR: Final[Duration] = 60 * MINUTE
DAY: Final[Duration] = 24 * HOUR


def rfc3339(at: Instant | None) -> str | None:
    """Return *at* in UTC as RFC 3339, for programs."""
    if at is None:
        return None
    return datetime_of(at).isoformat().replace("+00:00", "Z")


def moment(at: Instant, now: Instant) -> str:
    """Return *at* in local time with the abbreviation of its zone, and with the date unless it is today."""
    there, today = _local(at), _local(now).date()
    date = "" if there.date() == today else f"{there:%Y-%m-%d} "
    return f"{date}{there:%H:%M:%S} {there:%Z}"


def _local(at: Instant) -> datetime.datetime:
    """Return *at* in local time, or in UTC if it is outside of the years that local times have."""
    moment = datetime_of(at)
    try:
        return moment.astimezone()
    except OverflowError:
        return moment


def duration(length: Duration) -> str:
    """Return *length* in one or two units: 3 ms, 1.2 s, 40 s, 5 min, 2 h 10 min, 3 d."""
    if length < SECOND:
        return f"{max(0, length) // MILLISECOND} ms"
    if length < 10 * SECOND:
        return f"{length // (SECOND // 10) / 10:g} s"
    if length < MINUTE:
        return f"{length // SECOND} s"
    for unit, name, below, lower in (
        (MINUTE, "min", SECOND, "s"),
        (HOUR, "h", MINUTE, "min"),
        (DAY, "d", HOUR, "h"),
    ):
        count, rest = divmod(length, unit)
        if (unit == MINUTE and count < 60) or (unit == HOUR and count < 24) or unit == DAY:
            further = rest // below
            # From ten on, the smaller unit is noise.
            return f"{count} {name} {further} {lower}" if further and count < 10 else f"{count} {name}"
    raise AssertionError(length)


def relative(at: Instant, now: Instant) -> str:
    """Return how far *at* is from *now*: in 5 s, 3 min ago, now."""
    if abs(at - now) < SECOND:
        return "now"
    # Rounded down, so that a countdown does not lag: 4.9 s is "in 4 s".
    whole = abs(at - now) // SECOND * SECOND
    return f"in {duration(whole)}" if at > now else f"{duration(whole)} ago"


def schedule(wanted: Schedule | None) -> str:
    """Return *wanted* in short, for people."""
    if wanted is None:
        return ""
    if isinstance(wanted, Cron):
        return wanted.expression if wanted.zone == "UTC" else f"{wanted.expression} {wanted.zone}"
    if isinstance(wanted, Interval):
        return f"every {duration(wanted.length)}"
    return f"once {_local(wanted.at):%Y-%m-%d %H:%M:%S %Z}"
