"""Finds the occurrences of a cron expression that a change of the clocks moves, drops or doubles."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from pyncette.clock import SECOND, Instant
from pyncette.core.cron import Pattern, pattern_of
from pyncette.core.misreadings import ScheduleWarning
from pyncette.core.reading import reading_of
from pyncette.core.schedule import Cron
from pyncette.core.times import EPOCH
from pyncette.core.zone import DAY, FIRST_SECOND, JUMP_MAX, LAST_SECOND, Stretch, Zone, zone_named

HOUR: Final = 3600


def clock_changes(schedule: Cron, after: Instant, until: Instant) -> Iterator[ScheduleWarning]:
    """
    Yield a warning for each change of the clocks that concerns occurrences after *after*, up to and including *until*.

    A schedule of elapsed time that has no restricted hours needs none: a change of whole hours takes nothing from it.
    """
    begin, end = max(after // SECOND, FIRST_SECOND), min(until // SECOND, LAST_SECOND)
    pattern, zone = pattern_of(schedule.expression, schedule.seed), zone_named(schedule.zone)
    all_day = pattern.elapsed and len(reading_of(schedule.expression, schedule.seed).hours) == 24
    for stretch in _stretches(zone, begin - JUMP_MAX, end + JUMP_MAX):
        before = zone.stretch_at(stretch.start - 1).offset
        if all_day and (stretch.offset - before) % HOUR == 0:
            continue
        shown = stretch.start + stretch.offset
        skipped = _named(pattern, stretch.skipped, shown)
        # A wall time w is shown at w - before, and again at w - stretch.offset, which counts for elapsed time alone.
        passes = (before, stretch.offset) if pattern.elapsed else (before,)
        found = (
            _named(pattern, max(shown, begin + offset + 1), min(stretch.unseen, end + offset + 1))
            for offset in passes
        )
        repeated = next((wall for wall in found if wall is not None), None)
        if skipped is not None and begin < stretch.start <= end:
            then = "nothing is due" if pattern.elapsed else f"it is due at {_beside(skipped, shown)}"
            message = f"the clocks of {schedule.zone} skip {_clock(skipped)}, where {then}"
            yield ScheduleWarning("SkippedTime", f"{message}: {_outside(stretch.skipped, shown)}")
        elif repeated is not None:
            then = "is due both times" if pattern.elapsed else "is due the first time only"
            message = f"the clocks of {schedule.zone} show {_clock(repeated)} twice, and it {then}"
            yield ScheduleWarning("RepeatedTime", f"{message}: {_outside(shown, stretch.unseen)}")


def _stretches(zone: Zone, begin: int, end: int) -> Iterator[Stretch]:
    """Yield the stretches that begin after *begin*, up to *end*."""
    stretch = zone.stretch_at(begin)
    while stretch.end <= end:
        stretch = zone.stretch_at(stretch.end)
        yield stretch


def _named(pattern: Pattern, begin: int, end: int) -> int | None:
    """Return the first wall time that is named from *begin* to before *end*."""
    named = pattern.at_or_after(begin)
    return None if named is None or named >= end else named


def _outside(begin: int, end: int) -> str:
    lost = f"{_time(begin)} to {_time(end)}" if end - begin < DAY else f"{_clock(begin)} to {_clock(end)}"
    return f"write a time outside of {lost} to avoid that"


def _beside(other: int, wall: int) -> str:
    """Return *wall* without its date if that is the date of *other*."""
    return _time(wall) if wall // DAY == other // DAY else _clock(wall)


def _clock(wall: int) -> str:
    return f"{_moment(wall):%Y-%m-%d} {_time(wall)}"


def _time(wall: int) -> str:
    return f"{_moment(wall):%H:%M:%S}".removesuffix(":00")


def _moment(wall: int) -> datetime:
    return EPOCH + timedelta(seconds=wall)
