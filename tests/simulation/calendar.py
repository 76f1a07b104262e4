"""Says when schedules are due by listing all times one by one, which the real ones never do."""

from __future__ import annotations

from typing import Final

from pyncette.clock import SECOND, Instant
from pyncette.core.schedule import Cron, Interval, Once, Schedule
from pyncette.core.spec import Missed, Policies

CRONS: Final = {
    "* * * * * */5": 5,
    "* * * * * */10": 10,
    "* * * * * */15": 15,
    "* * * * * */30": 30,
    "* * * * *": 60,
}
"""Expressions, and the period of their times in seconds, counted from the epoch."""

SKIP_TOLERANCE: Final = 10 * SECOND

FOREVER: Final = 2**62


def times(
    schedule: Schedule | None, policies: Policies, since: Instant, begin: Instant, end: Instant
) -> list[Instant]:
    """All occurrences from *begin* to before *end*."""
    if schedule is None:
        return []
    if policies.not_before is not None:
        begin = max(begin, policies.not_before)
    if policies.not_after is not None:
        end = min(end, policies.not_after + 1)
    if isinstance(schedule, Once):
        return [schedule.at] if begin <= schedule.at < end else []
    if isinstance(schedule, Interval):
        step, origin = schedule.length, since
    else:
        assert isinstance(schedule, Cron)
        step, origin = CRONS[schedule.expression] * SECOND, 0
    begin = max(begin, since + 1)
    first = origin + -(-(begin - origin) // step) * step
    return list(range(first, end, step))


def first_time(
    schedule: Schedule | None, policies: Policies, since: Instant, after: Instant
) -> Instant | None:
    """The first occurrence after *after*."""
    if schedule is None:
        return None
    if isinstance(schedule, Once):
        found = times(schedule, policies, since, after + 1, FOREVER)
    else:
        begin = after + 1 if policies.not_before is None else max(after + 1, policies.not_before)
        begin = max(begin, since + 1)
        step = schedule.length if isinstance(schedule, Interval) else CRONS[schedule.expression] * SECOND
        found = times(schedule, policies, since, begin, begin + step)
    return found[0] if found else None


def choice(
    schedule: Schedule, policies: Policies, since: Instant, due: Instant, at: Instant
) -> tuple[Instant | None, list[Instant]]:
    """Which occurrence runs at a first claim *at* (less the jitter), and which before it are dropped."""
    at = max(at, due)
    # What is due now is an occurrence although its schedule may have been edited since.
    passed = [due, *times(schedule, policies, since, due + 1, at + 1)]
    kept = passed
    if policies.missed is Missed.LATEST:
        kept = passed[-1:]
    elif policies.missed is Missed.ALL and policies.max_catch_up:
        kept = passed[-policies.max_catch_up :]
    tolerance = policies.starting_deadline
    if tolerance is None and policies.missed is Missed.SKIP:
        tolerance = SKIP_TOLERANCE
    if tolerance is not None:
        kept = [time for time in kept if time >= at - tolerance]
    run = kept[0] if kept else None
    return run, [time for time in passed if run is None or time < run]
