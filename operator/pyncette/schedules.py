"""Validates and explains schedules before they are stored: pure functions, without a clock and without a backend."""

from __future__ import annotations

import datetime
from typing import NamedTuple

from pyncette.app.modes import datetime_of
from pyncette.clock import Instant
from pyncette.core.cron import refuse_length
from pyncette.core.description import description_of
from pyncette.core.misreadings import ScheduleWarning
from pyncette.core.reading import reading_of
from pyncette.core.schedule import Cron, seeded_cron, upcoming
from pyncette.core.schedule_hints import check_cron
from pyncette.core.schedule_warnings import NEXT_TIMES, warnings_of
from pyncette.core.times import instant_of

__all__ = ["Explanation", "ScheduleWarning", "describe", "explain", "next_times", "validate"]


class Explanation(NamedTuple):
    """The meaning of a schedule: in words, and as the next times at which it is due."""

    expression: str
    timezone: str
    description: str
    """An English sentence without a full stop, such as "At 09:00, Monday through Friday"."""
    next_times: tuple[datetime.datetime, ...]
    """In the time zone of the schedule. There are fewer than asked for if the years of the expression end."""
    warnings: tuple[ScheduleWarning, ...]
    """Parts of the expression that are easily misread, and changes of the clocks that affect the next times."""


def validate(expression: str, timezone: str = "UTC", *, key: str = "") -> None:
    """
    Raise ValueError if a task with this schedule would be refused, with the reason.

    It is croniter's CroniterBadCronError if the expression is invalid or can never be due. An expression with `H` needs
    *key*, the key of the task or instance, from which `H` is hashed.
    """
    _checked(expression, timezone, key)


def next_times(
    expression: str, timezone: str = "UTC", *, after: datetime.datetime, n: int = NEXT_TIMES, key: str = ""
) -> list[datetime.datetime]:
    """
    Return the first *n* times after *after* at which a task with this schedule is due, in its time zone.

    There are fewer if the years of the expression end. Raises ValueError as `validate` does, and if *after* has no time
    zone or *n* is negative.
    """
    return _times(_checked(expression, timezone, key), _instant(after), n)


def describe(expression: str, *, key: str = "") -> str:
    """Return the meaning of *expression* in words, as in `Explanation.description`. Raises ValueError as `validate` does."""
    return _described(_checked(expression, "UTC", key))


def explain(
    expression: str, timezone: str = "UTC", *, after: datetime.datetime, n: int = NEXT_TIMES, key: str = ""
) -> Explanation:
    """Return the meaning of a schedule, with its first *n* times after *after*. Raises ValueError as `next_times` does."""
    schedule, since = _checked(expression, timezone, key), _instant(after)
    times = tuple(_times(schedule, since, n))
    return Explanation(expression, timezone, _described(schedule), times, warnings_of(schedule, since, n))


def _checked(expression: str, timezone: str, key: str) -> Cron:
    for name, value in (("expression", expression), ("timezone", timezone), ("key", key)):
        if not isinstance(value, str):
            raise ValueError(f"{name} must be a str, not {value!r}")  # noqa: TRY004 - as for the options of a task
    refuse_length(expression)
    schedule = seeded_cron(Cron(expression, timezone), key)
    check_cron(schedule)
    return schedule


def _instant(after: datetime.datetime) -> Instant:
    if after.tzinfo is None:
        raise ValueError(f"after must have a time zone, as in datetime.now(UTC), not {after.isoformat()}")
    return instant_of(after)


def _times(schedule: Cron, after: Instant, n: int) -> list[datetime.datetime]:
    if n < 0:
        raise ValueError(f"n must be at least 0, not {n}")
    return [datetime_of(due, schedule) for due in upcoming(schedule, after, n, after)]


def _described(schedule: Cron) -> str:
    return description_of(reading_of(schedule.expression, schedule.seed))
