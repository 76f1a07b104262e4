"""Computes when a schedule is due: the next time, the latest one, and how many there were."""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec
from croniter import CroniterBadCronError

from pyncette.clock import SECOND, Duration, Instant
from pyncette.core import timetable
from pyncette.core.cron import pattern_of, uses_hash
from pyncette.core.reading import seconds_moved_last
from pyncette.core.zone import DAY, FIRST_SECOND, LAST_SECOND, resolve_zone, zone_named

__all__ = [
    "EARLIEST",
    "LATEST",
    "Cron",
    "CroniterBadCronError",
    "Duration",
    "Instant",
    "Interval",
    "Once",
    "Schedule",
    "check",
    "check_ahead",
    "count",
    "first_after",
    "latest",
    "nth_latest",
    "resolve_zone",
    "seeded",
    "seeded_cron",
    "upcoming",
]

EARLIEST: Final[Instant] = FIRST_SECOND * SECOND
"""Nothing is due before this. It is in the year 1, with days to spare so that every zone has a datetime for it."""

LATEST: Final[Instant] = LAST_SECOND * SECOND
"""Nothing is due after this, likewise in the year 9999."""


BEFORE_1970: Final[Instant] = -2 * DAY * SECOND
"""When the first year that an expression can name has begun in no zone yet."""


class Cron(msgspec.Struct, frozen=True, gc=False, tag="cron", omit_defaults=True):
    """Wall times, of 5 fields, or 6 with seconds last, or 7 with the year; docs/reference/schedules.md has all of it."""

    expression: str
    zone: str = "UTC"
    seed: str = ""
    """The key of the instance, from which `H` is hashed; see `seeded`."""


class Interval(msgspec.Struct, frozen=True, gc=False, tag="interval", omit_defaults=True):
    """Multiples of *length*, counted from when the schedule began to count, which is not itself due."""

    length: Duration


class Once(msgspec.Struct, frozen=True, gc=False, tag="once", omit_defaults=True):
    """A single instant, whenever the schedule began to count."""

    at: Instant
    zone: str = "UTC"
    """The zone that shows its time: for a side run, the zone of its schedule."""


Schedule: TypeAlias = Cron | Interval | Once


def seeded(schedule: Schedule, key: str) -> Schedule:
    """Return the schedule with *key* as its seed if it uses `H`, else unchanged, so that equal ones stay equal."""
    return seeded_cron(schedule, key) if isinstance(schedule, Cron) else schedule


def seeded_cron(schedule: Cron, key: str) -> Cron:
    """Return *schedule* with *key* as its seed if it uses `H`, else unchanged."""
    return msgspec.structs.replace(schedule, seed=key) if uses_hash(schedule.expression) else schedule


def check(schedule: Schedule) -> None:
    """
    Refuse a schedule that is invalid or can never be due, with the reason.

    Raises CroniterBadCronError, a ValueError, for an expression; a plain ValueError for the rest.
    """
    if isinstance(schedule, Cron):
        _check_cron(schedule)
    elif isinstance(schedule, Interval):
        if _length(schedule) > LATEST:
            raise ValueError(f"An interval of {schedule.length / SECOND:g} seconds ends after the year 9999.")
    elif not EARLIEST <= schedule.at <= LATEST:
        raise ValueError("An instant must be within the years 1 to 9999.")


def check_ahead(schedule: Schedule | None, after: Instant) -> None:
    """
    Refuse an expression whose years are over *after* then, with a CroniterBadCronError.

    It is for new schedules: one that has run its course has no years left either. A one-off in the past may still be due.
    """
    if isinstance(schedule, Cron) and first_after(schedule, after, after) is None:
        raise _never(schedule, "after the time from which it counts")


def _check_cron(schedule: Cron) -> None:
    resolve_zone(schedule.zone)
    try:
        pattern_of(schedule.expression, schedule.seed)
    except CroniterBadCronError as error:
        moved = seconds_moved_last(schedule.expression, schedule.seed)
        if moved is None:
            raise
        raise CroniterBadCronError(f'{error}; seconds come last here: write "{moved}"') from error
    if first_after(schedule, BEFORE_1970, BEFORE_1970) is None:
        raise _never(schedule, f"in {schedule.zone}: the clocks there skip every time that it names")


def _never(schedule: Cron, why: str) -> CroniterBadCronError:
    return CroniterBadCronError(f"[{schedule.expression}] never fires {why}")


def _length(schedule: Interval) -> Duration:
    if schedule.length <= 0:
        raise ValueError(f"An interval must be longer than zero, not {schedule.length / SECOND:g} seconds.")
    return schedule.length


def first_after(schedule: Schedule, after: Instant, since: Instant) -> Instant | None:
    """Return the first occurrence after *after* and after *since*, never at them; None if there is none."""
    if isinstance(schedule, Cron):
        second = max(after, since, EARLIEST) // SECOND + 1
        found = timetable.first(
            pattern_of(schedule.expression, schedule.seed), zone_named(schedule.zone), second
        )
        return found * SECOND if found is not None and found <= LAST_SECOND else None
    if isinstance(schedule, Interval):
        length = _length(schedule)
        due = since + max(1, (after - since) // length + 1) * length
        return due if due <= LATEST else None
    return schedule.at if schedule.at > after else None


def latest(schedule: Schedule, at: Instant, since: Instant) -> Instant | None:
    """Return the last occurrence at or before *at* that is after *since*; None if there is none."""
    return nth_latest(schedule, at, 1, since)


def nth_latest(schedule: Schedule, at: Instant, n: int, since: Instant) -> Instant | None:
    """Return the *n*-th newest occurrence at or before *at* and after *since*, 1 being the latest; None if there is none."""
    if n < 1:
        raise ValueError(f"The newest occurrence has the number 1, not {n}.")
    if isinstance(schedule, Cron):
        pattern, zone = pattern_of(schedule.expression, schedule.seed), zone_named(schedule.zone)
        second, floor = min(at, LATEST) // SECOND, max(since, EARLIEST) // SECOND
        if n == 1:
            found = timetable.last(pattern, zone, second, floor)
        else:
            found = timetable.nth_last(pattern, zone, second, n, floor)
        return None if found is None else found * SECOND
    if isinstance(schedule, Interval):
        number = (min(at, LATEST) - since) // _length(schedule) - n + 1
        return since + number * schedule.length if number >= 1 else None
    return schedule.at if n == 1 and schedule.at <= at else None


def count(
    schedule: Schedule, after: Instant, until: Instant, since: Instant, limit: int = 10_000
) -> tuple[int, bool]:
    """
    Count the occurrences after *after* and *since*, up to and including *until*, and say whether that is exact.

    Beyond *limit* the number is a lower bound, not below *limit*. The time it takes grows with the changes of clocks
    in between, not with the occurrences.
    """
    if isinstance(schedule, Cron):
        begin, end = max(after, since, EARLIEST) // SECOND + 1, min(until, LATEST) // SECOND + 1
        pattern, zone = pattern_of(schedule.expression, schedule.seed), zone_named(schedule.zone)
        found = timetable.count(pattern, zone, begin, end, limit)
    elif isinstance(schedule, Interval):
        done = max(0, (after - since) // _length(schedule))
        found = max(0, (min(until, LATEST) - since) // schedule.length - done)
    else:
        found = int(after < schedule.at <= until)
    return found, found <= limit


def upcoming(schedule: Schedule, after: Instant, n: int, since: Instant) -> list[Instant]:
    """Return the first *n* occurrences after *after* and *since*, or fewer if there are no more."""
    found: list[Instant] = []
    while len(found) < n:
        due = first_after(schedule, found[-1] if found else after, since)
        if due is None:
            break
        found.append(due)
    return found
