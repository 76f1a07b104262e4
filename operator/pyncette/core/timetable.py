"""
Converts the wall times of a cron expression to instants, across the changes of a zone's clocks.

If the expression wants elapsed time (`Pattern.elapsed`), each second of UTC is an occurrence at which the clocks show
a time that is named: none for times that were skipped, two for times that were shown twice. Else each wall time that
is named is one occurrence: at the first instant at which the clocks show it, or something later.

Instants are whole seconds here, since the epoch.
"""

from __future__ import annotations

from typing import Final

from pyncette.core.cron import Pattern
from pyncette.core.zone import DAY, JUMP_MAX, LAST_SECOND, Zone

HORIZON: Final = 146_097 * DAY
"""How far ahead an occurrence is searched for: in 400 years the calendar and the rules of all zones have repeated, so an
expression that only named skipped times for so long never fires."""


def first(pattern: Pattern, zone: Zone, second: int) -> int | None:
    """Return the first occurrence that is not before *second*."""
    second = max(second, pattern.begin - JUMP_MAX)
    horizon = min(second + HORIZON, LAST_SECOND + 1)
    while second < horizon:
        start, end, offset, unseen, skipped = zone.stretch_at(second)
        wall = second + offset
        if not pattern.elapsed:
            if second == start and skipped < wall and pattern.any_in(skipped, wall):
                return second
            wall = max(wall, unseen)
        match = pattern.at_or_after(wall)
        if match is not None and match - offset < end:
            return match - offset
        if end - second < JUMP_MAX:
            second = end
        elif match is None:
            return None
        else:
            # Nothing between wall and match is named, and clocks that go back at end do not come below wall.
            _, until, then, unseen, _ = zone.stretch_at(match - offset)
            if unseen <= match < until + then:
                return match - then
            second = max(end, match - DAY)
    return None


def last(pattern: Pattern, zone: Zone, second: int, floor: int) -> int | None:
    """Return the last occurrence that is not after *second*, and is after *floor*."""
    second = min(second, pattern.end + JUMP_MAX)
    floor = max(floor, second - HORIZON)
    while second > floor:
        start, _, offset, unseen, skipped = zone.stretch_at(second)
        match = pattern.at_or_before(second + offset)
        found: int | None = None
        if match is not None and match >= (start + offset if pattern.elapsed else unseen):
            found = match - offset
        elif not pattern.elapsed and skipped < start + offset and pattern.any_in(skipped, start + offset):
            found = start
        if found is not None:
            return found if found > floor else None
        if second - start < JUMP_MAX:
            second = start - 1
        elif match is None:
            return None
        else:
            # The mirror image of what first does.
            second = min(start - 1, match + DAY)
    return None


def count(pattern: Pattern, zone: Zone, begin: int, end: int, limit: int) -> int:
    """Count the occurrences from *begin* to before *end*, at least up to *limit*."""
    begin, end = max(begin, pattern.begin - JUMP_MAX), min(end, pattern.end + JUMP_MAX)
    total = 0
    while begin < end and total <= limit:
        stop = min(end, zone.stretch_at(begin).end)
        caught_up, shown, until = _within(pattern, zone, begin, stop)
        total += caught_up + pattern.count(shown, until)
        begin = stop
    return total


def nth_last(pattern: Pattern, zone: Zone, second: int, n: int, floor: int) -> int | None:
    """Return the *n*-th occurrence that is after *floor*, going back from *second*."""
    second, floor = min(second, pattern.end + JUMP_MAX), max(floor, pattern.begin - JUMP_MAX)
    while second > floor:
        stretch = zone.stretch_at(second)
        begin = max(stretch.start, floor + 1)
        caught_up, shown, until = _within(pattern, zone, begin, second + 1)
        here = pattern.count(shown, until)
        if here >= n:
            match = pattern.nth_at_or_before(until - 1, n)
            return None if match is None else match - stretch.offset
        if here + caught_up >= n:
            return begin
        n -= here + caught_up
        second = begin - 1
    return None


def _within(pattern: Pattern, zone: Zone, begin: int, end: int) -> tuple[bool, int, int]:
    """
    Return the occurrences from *begin* to before *end*, within one stretch: whether there is one at *begin* for times
    skipped just before it, and from which to before which wall time each that is named is one.
    """
    start, _, offset, unseen, skipped = zone.stretch_at(begin)
    wall, until = begin + offset, end + offset
    if pattern.elapsed:
        return False, wall, until
    caught_up = begin == start and skipped < wall and pattern.any_in(skipped, wall)
    # What is due at this very instant is one occurrence with those that were skipped.
    return caught_up and not pattern.any_in(wall, wall + 1), min(max(wall, unseen), until), until
